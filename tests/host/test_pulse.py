"""Who is overdue, on a clock that is set by hand."""

import pytest

from llamad.host.pulse import Pulse


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pulse(clock: Clock) -> Pulse:
    return Pulse(clock)


def test_nobody_registered_is_nobody_stalled(pulse: Pulse) -> None:
    assert pulse.stalled(1e9) == []


def test_a_part_may_be_silent_for_its_time_and_not_longer(pulse: Pulse, clock: Clock) -> None:
    with pulse.part("gateway", within=5) as beat:
        assert pulse.stalled(105) == []
        assert pulse.stalled(105.1) == ["gateway"]
        clock.now = 104
        beat()
        assert pulse.stalled(109) == []
        assert pulse.stalled(109.1) == ["gateway"]


def test_a_longer_wait_is_announced_and_ends_with_the_next_beat(pulse: Pulse, clock: Clock) -> None:
    with pulse.part("qwen/0", within=5) as beat:
        beat.expect(60)
        assert pulse.stalled(160) == []
        assert pulse.stalled(160.1) == ["qwen/0"]
        clock.now = 150
        beat()
        assert pulse.stalled(155.1) == ["qwen/0"]


def test_a_wait_without_end_lasts_until_told(pulse: Pulse, clock: Clock) -> None:
    with pulse.part("reload", within=1) as beat:
        beat.expect(None)
        assert pulse.stalled(1e12) == []
        beat()
        assert pulse.stalled(101.1) == ["reload"]


def test_a_part_that_left_is_not_missed(pulse: Pulse) -> None:
    with pytest.raises(RuntimeError), pulse.part("qwen/0", within=1):
        raise RuntimeError
    assert pulse.stalled(1e9) == []


def test_every_stalled_part_is_named_once_and_no_other(pulse: Pulse) -> None:
    with (
        pulse.part("b", within=1),
        pulse.part("a", within=1),
        pulse.part("b", within=2),
        pulse.part("calm", within=100),
    ):
        assert pulse.stalled(110) == ["b", "a"]


def test_one_of_two_with_the_same_name_is_enough(pulse: Pulse, clock: Clock) -> None:
    with pulse.part("qwen/0", within=5), pulse.part("qwen/0", within=5) as newer:
        clock.now = 104
        newer()
        assert pulse.stalled(106) == ["qwen/0"]
