"""What a server's answers mean."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from llamad.config.model import HealthPolicy
from llamad.servers.health import (
    FASTEST_POLL,
    MAX_SLOTS,
    SLOWEST_POLL,
    SOONEST_LOOK,
    LoadDeadline,
    Slot,
    load_progress,
    next_look,
    poll_delay,
    read_slots,
)

MB = 1 << 20
POLICY = HealthPolicy()


@pytest.mark.parametrize(
    ("loading_for", "delay"), [(0, FASTEST_POLL), (0.2, 0.01), (1, 0.05), (4, 0.2), (5, SLOWEST_POLL), (9e9, 0.25)]
)
def test_readiness_is_asked_less_often_the_longer_it_takes(loading_for: float, delay: float) -> None:
    assert poll_delay(loading_for) == pytest.approx(delay)


def a_load(stall_timeout: float = 10) -> LoadDeadline:
    return LoadDeadline(stall_timeout, looked_at=0)


@pytest.mark.parametrize(
    ("lines", "usage"), [(1, (0, 0)), (0, (2 * MB, 0)), (0, (0, 2 * MB))], ids=["a line", "memory", "reads"]
)
def test_any_progress_moves_the_deadline(lines: int, usage: tuple[int, int]) -> None:
    load = a_load()
    load.observe(9, lines=lines, usage=usage)
    load.observe(19, lines=lines, usage=usage)
    assert load.stalled is None
    load.observe(19.1, lines=lines, usage=usage)
    assert load.stalled == "no log line, no memory, no reads, no processor time"


def test_noise_is_no_progress_but_adds_up() -> None:
    load = a_load()
    load.observe(9, lines=0, usage=(MB, MB))
    load.observe(11, lines=0, usage=(MB, MB))
    assert load.stalled
    load.observe(12, lines=0, usage=(MB + 1, 0))
    assert not load.stalled


def test_memory_that_shrinks_and_comes_back_is_no_progress() -> None:
    load = a_load()
    load.observe(1, lines=0, usage=(50 * MB, 0))
    load.observe(2, lines=1, usage=(10 * MB, 0))
    load.observe(9, lines=1, usage=(50 * MB, 0))
    assert load.still == 7


def test_a_load_that_only_computes_goes_on_for_long_but_not_for_ever() -> None:
    """Shaders are compiled for minutes without a line, a read or more memory; a spin looks the same."""
    load = a_load()
    for at in range(1, 12 * 10 + 1):
        load.observe(at, lines=0, usage=(0, 0), cpu=at * 0.9)
        assert load.stalled is None
    load.observe(121, lines=0, usage=(0, 0), cpu=121 * 0.9)
    assert load.stalled == "it computes, but there is no log line, no memory, no reads"


def test_what_a_load_uses_to_answer_probes_is_no_progress() -> None:
    load = a_load()
    for at in range(1, 12):
        load.observe(at, lines=0, usage=None, cpu=at * 0.001)
    assert load.stalled


def test_time_in_which_llamad_did_not_look_does_not_count() -> None:
    load = a_load(60)
    load.observe(1, lines=0, usage=(0, 0))
    load.observe(5000, lines=0, usage=(0, 0))
    assert load.stalled is None


def test_a_load_that_nobody_can_see_is_not_taken_for_stalled() -> None:
    load = a_load()
    for at in range(1, 100):
        load.observe(at, lines=0, usage=None)
    assert load.stalled is None


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


@pytest.mark.parametrize("document", [None, {"error": 1}, "text", 5, [], [5], [[]], [{}, "x"]])
def test_what_are_no_slots_is_told_as_none(document: Any) -> None:
    assert read_slots(document) is None


def test_more_slots_than_any_server_has_are_none() -> None:
    assert read_slots([{}] * MAX_SLOTS) is not None
    assert read_slots([{}] * (MAX_SLOTS + 1)) is None


def test_missing_and_strange_figures_count_as_nothing() -> None:
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
def test_whatever_a_server_answers_is_read_without_an_error(document: Any) -> None:
    assert read_slots(document) is None or all(isinstance(one, Slot) for one in read_slots(document) or ())


def test_the_next_look_is_soon_where_the_last_left_a_question_and_never_within_a_second() -> None:
    assert next_look(POLICY, soon=False) == 5
    assert next_look(POLICY, soon=True) == SOONEST_LOOK == 1
    assert next_look(HealthPolicy(interval=1), soon=True) == 1
