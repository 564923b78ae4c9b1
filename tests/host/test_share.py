"""A share of the loop's time."""

from llamad.host.share import TURN, Share


def test_a_turn_now_and_then_waits_for_nothing() -> None:
    share = Share()
    assert max(share.spend(TURN, now=float(at)) for at in range(5)) < 1e-9


def test_work_that_never_ends_gets_its_share_and_no_more() -> None:
    share, now, worked = Share(0.2), 100.0, 0.0
    while now < 110:
        now += TURN
        worked += TURN
        now += share.spend(TURN, now)
    assert 1.8 < worked < 2.1


def test_several_sources_have_one_share_together() -> None:
    share = Share(0.2)
    waits = [share.spend(TURN, now=5.0) for _ in range(10)]
    assert waits == sorted(waits)
    assert 0.08 < waits[-1] < 0.1
