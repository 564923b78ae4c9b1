"""What a server's answers mean."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from llamad.config.model import HealthPolicy
from llamad.servers.health import (
    FASTEST_POLL,
    SLOWEST_POLL,
    Liveness,
    LoadDeadline,
    Slot,
    Verdict,
    load_progress,
    next_look,
    poll_delay,
    read_slots,
)

MB = 1 << 20
POLICY = HealthPolicy()


def a_slot(*, processing: bool = True, progress: int = 0, id: int = 0) -> Slot:
    return Slot(id, processing, (1, 0, progress), progress)


@pytest.mark.parametrize(
    ("loading_for", "delay"), [(0, FASTEST_POLL), (0.2, 0.01), (1, 0.05), (4, 0.2), (5, SLOWEST_POLL), (9e9, 0.25)]
)
def test_readiness_is_asked_less_often_the_longer_it_takes(loading_for: float, delay: float) -> None:
    assert poll_delay(loading_for) == pytest.approx(delay)


@pytest.mark.parametrize(
    ("lines", "usage"), [(1, None), (0, (2 * MB, 0)), (0, (0, 2 * MB))], ids=["a line", "memory", "reads"]
)
def test_any_progress_moves_the_deadline(lines: int, usage: tuple[int, int] | None) -> None:
    deadline = LoadDeadline(10, moved_at=0)
    deadline.observe(9, lines=lines, usage=usage)
    assert not deadline.stalled(19)
    assert deadline.stalled(19.1)


def test_noise_is_no_progress_but_adds_up() -> None:
    deadline = LoadDeadline(10, moved_at=0)
    deadline.observe(9, lines=0, usage=(MB, MB))
    assert deadline.stalled(11)
    deadline.observe(12, lines=0, usage=(MB + 1, 0))
    assert not deadline.stalled(22)


def test_memory_that_shrinks_and_comes_back_is_no_progress() -> None:
    deadline = LoadDeadline(10, moved_at=0)
    deadline.observe(1, lines=0, usage=(50 * MB, 0))
    deadline.observe(2, lines=1, usage=(10 * MB, 0))
    deadline.observe(9, lines=1, usage=(50 * MB, 0))
    assert deadline.moved_at == 2


def test_progress_is_a_share_of_the_model_and_never_all_of_it() -> None:
    assert load_progress((30, 50), 100) == 0.5
    assert load_progress((30, 500), 100) == 0.99
    assert load_progress(None, 100) is None
    assert load_progress((1, 1), None) is None
    assert load_progress((1, 1), 0) is None


def test_slots_are_read_in_both_shapes() -> None:
    entry = {"id": 3, "id_task": 8, "is_processing": True, "n_prompt_tokens_processed": 40}
    expected = (Slot(3, True, (8, 40, 7), 7),)
    assert read_slots([{**entry, "next_token": {"n_decoded": 7}}]) == expected
    assert read_slots([{**entry, "next_token": [{"n_decoded": 7}]}]) == expected


@pytest.mark.parametrize("document", [None, {"error": 1}, "text", 5, [5], [[]], [{}, "x"]])
def test_what_are_no_slots_is_told_as_none(document: Any) -> None:
    assert read_slots(document) is None


def test_missing_and_strange_figures_count_as_nothing() -> None:
    assert read_slots([]) == ()
    assert read_slots([{}, {}]) == (Slot(0, False, (0, 0, 0), 0), Slot(1, False, (0, 0, 0), 0))
    strange: list[Any] = [{"id": True, "id_task": "x", "is_processing": 1, "next_token": "abc"}]
    assert read_slots(strange) == (Slot(0, False, (0, 0, 0), 0),)
    assert read_slots([{"next_token": [], "id_task": 10**400}]) == (Slot(0, False, (0, 0, 0), 0),)
    assert read_slots([{"next_token": [5]}]) == (Slot(0, False, (0, 0, 0), 0),)


_JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=3),
    lambda inner: (
        some.lists(inner, max_size=3)
        | some.dictionaries(some.sampled_from(["id", "id_task", "is_processing", "next_token", "n_decoded"]), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None)
@given(some.lists(_JSON | some.dictionaries(some.sampled_from(["id", "next_token", "is_processing"]), _JSON)))
def test_whatever_a_server_answers_is_judged_without_an_error(document: Any) -> None:
    liveness = Liveness(POLICY, well_at=0)
    slots = read_slots(document)
    assert liveness.answer(1, slots) is Verdict.WELL
    assert liveness.answer(2, slots) is Verdict.WELL


def test_silence_is_unsure_then_suspect_then_hung() -> None:
    liveness = Liveness(HealthPolicy(failures=3, hang_timeout=60), well_at=0)
    assert [liveness.silence(at) for at in (10, 12, 14, 59)] == [
        Verdict.UNSURE,
        Verdict.UNSURE,
        Verdict.SUSPECT,
        Verdict.SUSPECT,
    ]
    assert liveness.silence(60) is Verdict.HUNG


def test_an_answer_ends_the_silence() -> None:
    liveness = Liveness(HealthPolicy(failures=2), well_at=0)
    assert [liveness.silence(at) for at in (1, 2)] == [Verdict.UNSURE, Verdict.SUSPECT]
    assert liveness.answer(50, None) is Verdict.WELL
    assert liveness.silence(109) is Verdict.UNSURE
    assert liveness.silence(110) is Verdict.HUNG


def test_one_silent_look_alone_never_proves_a_hang() -> None:
    assert Liveness(HealthPolicy(failures=5), well_at=0).silence(1e6) is Verdict.UNSURE
    assert Liveness(HealthPolicy(failures=1), well_at=0).silence(1e6) is Verdict.SUSPECT


def test_a_slot_that_stands_still_is_suspect_halfway_and_then_hung() -> None:
    liveness = Liveness(POLICY, well_at=0)
    seen = [liveness.answer(at, (a_slot(progress=5),)) for at in (0, 29, 30, 59, 60)]
    assert seen == [Verdict.WELL, Verdict.WELL, Verdict.SUSPECT, Verdict.SUSPECT, Verdict.HUNG]


def test_one_stuck_slot_among_working_ones_counts() -> None:
    liveness = Liveness(POLICY, well_at=0)
    for at in range(61):
        verdict = liveness.answer(at, (a_slot(progress=at), a_slot(progress=5, id=1)))
    assert verdict is Verdict.HUNG


def test_progress_or_rest_begins_the_time_anew() -> None:
    liveness = Liveness(POLICY, well_at=0)
    liveness.answer(0, (a_slot(progress=5),))
    liveness.answer(50, (a_slot(progress=6),))
    assert liveness.answer(79, (a_slot(progress=6),)) is Verdict.WELL
    liveness.answer(100, (a_slot(processing=False, progress=6),))
    assert liveness.answer(129, (a_slot(progress=6),)) is Verdict.WELL
    assert liveness.answer(158, (a_slot(progress=6),)) is Verdict.WELL


def test_speed_is_measured_between_two_looks_and_never_negative() -> None:
    liveness = Liveness(POLICY, well_at=0)
    liveness.answer(0, (a_slot(progress=100),))
    assert (liveness.busy, liveness.tokens_per_s) == (1, None)
    liveness.answer(2, (a_slot(progress=140),))
    assert liveness.tokens_per_s == 20
    liveness.answer(2, (a_slot(progress=150),))
    assert liveness.tokens_per_s == 20
    liveness.answer(4, (a_slot(progress=3),))
    assert liveness.tokens_per_s == 0
    liveness.answer(5, (a_slot(processing=False, progress=3),))
    assert (liveness.busy, liveness.tokens_per_s) == (0, 0)


def test_the_next_look_is_soon_after_a_silent_one() -> None:
    assert next_look(POLICY, 0) == 5
    assert next_look(POLICY, 1) == 1
    assert next_look(HealthPolicy(interval=0.2), 3) == 0.2
