"""The bound on a flood: what passes, what is counted, when it is told."""

from hypothesis import given
from hypothesis import strategies as st

from llamad.host.ratelimit import RateLimit, Suppressed


def test_a_burst_passes_and_then_the_rate() -> None:
    limit = RateLimit(rate=10, burst=3)
    assert [limit.admit(0) for _ in range(5)] == [True, True, True, False, False]
    assert [limit.admit(0.1), limit.admit(0.15), limit.admit(0.2)] == [True, False, True]


def test_silence_earns_a_burst_and_no_more() -> None:
    limit = RateLimit(rate=10, burst=3)
    for _ in range(4):
        limit.admit(0)
    assert [limit.admit(1000) for _ in range(4)] == [True, True, True, False]


def test_the_count_is_told_after_its_time_and_starts_anew() -> None:
    limit = RateLimit(rate=1, burst=1, report_every=5)
    assert limit.report(0) is None
    for _ in range(12346):
        limit.admit(10)
    assert limit.report_due == 15
    assert limit.report(14.9) is None
    told = limit.report(15)
    assert told == Suppressed(12345, 5)
    assert str(told) == "... 12345 lines suppressed in 5 s"
    assert limit.report(100) is None
    assert limit.report_due is None


def test_the_end_of_a_source_tells_at_once() -> None:
    limit = RateLimit(rate=1, burst=1)
    assert limit.finish(0) is None
    limit.admit(0)
    limit.admit(1.5e-9)
    assert limit.finish(2) == Suppressed(1, 2 - 1.5e-9)
    assert limit.finish(3) is None


def test_a_clock_that_steps_back_neither_fills_nor_empties() -> None:
    limit = RateLimit(rate=10, burst=1)
    assert limit.admit(100)
    assert not limit.admit(50)
    assert limit.finish(40) == Suppressed(1, 0)
    assert limit.admit(50.1)


@given(st.lists(st.floats(0, 0.5), max_size=200))
def test_never_more_than_the_burst_and_the_rate_and_nothing_uncounted(pauses: list[float]) -> None:
    limit = RateLimit(rate=20, burst=10)
    now, passed, cut = 0.0, 0, 0
    for pause in pauses:
        now += pause
        passed += limit.admit(now)
        told = limit.report(now)
        cut += told.lines if told else 0
    last = limit.finish(now)
    assert passed + cut + (last.lines if last else 0) == len(pauses)
    assert passed <= 10 + now * 20 + 1e-6


def test_a_long_line_counts_as_several() -> None:
    """Eight kilobytes a line would fill a journal that 200 short lines a second do not."""
    limit = RateLimit(rate=10, burst=20)
    assert [limit.admit(0, 8192) for _ in range(3)] == [True, True, False]
    assert [limit.admit(at, 100) for at in (1, 2, 3)] == [False, True, True]
