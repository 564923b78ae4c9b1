"""Whether a ready server gets on, over all witnesses: a slow one is never ended, a true hang always is."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from llamad.config.model import HealthPolicy
from llamad.host.gpu_use import GpuUse
from llamad.servers.health import Slot
from llamad.servers.liveness import (
    COMPUTING,
    ERRORS,
    UNSEEN,
    Doubt,
    Evidence,
    Judgement,
    Liveness,
    Look,
    Verdict,
    judge,
)

POLICY = HealthPolicy()
NO_GPU = GpuUse(held=False)
MB = 1 << 20


def a_slot(*, processing: bool = True, progress: int = 0, id: int = 0, task: int = 1) -> Slot:
    return Slot(id, processing, (task, 0, progress), progress)


STUCK = (a_slot(progress=5),)
IDLE = (a_slot(processing=False, progress=5),)


def watch(
    looks: Iterable[tuple[float, Look]], policy: HealthPolicy = POLICY, *, remote: bool = False
) -> list[tuple[float, Judgement]]:
    """The judgements of these looks, each with its time."""
    liveness = Liveness(policy, began=0, remote=remote)
    return [(at, liveness.look(at, look)) for at, look in looks]


def every(seconds: int, until: int, look: Callable[[int], Look]) -> list[tuple[float, Look]]:
    return [(at, look(at)) for at in range(0, until, seconds)]


def first(found: list[tuple[float, Judgement]], verdict: Verdict) -> float | None:
    return next((at for at, one in found if one.verdict is verdict), None)


def stuck(**witnesses: Any) -> Callable[[int], Look]:
    """A busy slot whose counters stand still; a witness may be a function of the time."""
    return lambda at: Look(slots=STUCK, **{name: one(at) if callable(one) else one for name, one in witnesses.items()})


# --- a busy slot that stands still


def test_one_that_does_nothing_is_suspect_halfway_and_then_hung_with_its_reasons() -> None:
    found = watch(every(5, 100, stuck(cpu=1.0, gpu=NO_GPU)))
    assert first(found, Verdict.SUSPECT) == 30
    assert first(found, Verdict.HUNG) == 60
    (reason,) = {one.reason for at, one in found if at == 60}
    assert reason == ("a slot made no progress for 1m; it used no processor time and read, computed and sent nothing")


@pytest.mark.parametrize(
    "witness",
    [
        {"cpu": lambda at: at * 0.95, "gpu": NO_GPU},
        {"cpu": lambda at: at * 8.0, "gpu": GpuUse(held=True)},
        {"cpu": lambda at: at * 0.05, "gpu": NO_GPU},
        {"cpu": 1.0, "gpu": NO_GPU, "reads": lambda at: at * MB},
        {"cpu": 1.0, "gpu": GpuUse(held=True, percent=40)},
        {"cpu": 1.0, "gpu": lambda at: GpuUse(held=True, seconds=at * 0.3)},
        {"cpu": 1.0, "gpu": NO_GPU, "relayed": lambda at: at * 100, "in_flight": 1},
    ],
    ids=["one core", "cores beside a GPU", "a small share", "reads", "NVIDIA's driver", "the kernel's count", "bytes"],
)
def test_one_that_is_seen_to_work_is_well_for_an_hour(witness: dict[str, Any]) -> None:
    """A batch of 2,048 tokens at half a token a second moves the counters once an hour."""
    assert {one.verdict for _, one in watch(every(5, 3700, stuck(**witness)))} == {Verdict.WELL}


def test_a_spin_is_ended_in_the_end() -> None:
    found = watch(every(5, 8000, stuck(cpu=float, gpu=NO_GPU)))
    assert first(found, Verdict.HUNG) == COMPUTING * 60
    assert found[-1][1].reason.endswith("though it computes")


@pytest.mark.parametrize(
    ("witness", "remote"),
    [
        ({"cpu": float, "gpu": GpuUse(held=True)}, False),
        ({"cpu": 1.0, "gpu": GpuUse(held=True)}, False),
        ({"cpu": float, "gpu": GpuUse(held=True, percent=0)}, False),
        ({"cpu": None, "gpu": NO_GPU}, False),
        ({"cpu": None}, False),
        ({"cpu": 1.0, "gpu": NO_GPU}, True),
    ],
    ids=["a thread that waits", "nobody tells", "idle GPU, one thread", "no CPU time", "hidden", "another machine"],
)
def test_where_nobody_can_see_whether_it_works_it_gets_much_longer(
    witness: dict[str, Any],
    remote: bool,  # noqa: FBT001 - pytest hands it over by name
) -> None:
    found = watch(every(5, 2000, stuck(**witness)), remote=remote)
    assert first(found, Verdict.HUNG) == UNSEEN * 60
    assert first(found, Verdict.SUSPECT) == 60
    assert found[-1][1].reason.endswith("nobody can see whether it works")


@pytest.mark.parametrize("idle", [GpuUse(held=True, percent=0), GpuUse(held=True, seconds=3.0)])
def test_a_gpu_that_is_told_to_be_idle_is_a_hang(idle: GpuUse) -> None:
    found = watch(every(5, 200, stuck(cpu=1.0, gpu=idle)))
    assert first(found, Verdict.HUNG) in (60, 65, 70)


def test_pings_of_a_stream_are_no_progress() -> None:
    found = watch(every(5, 100, stuck(cpu=1.0, gpu=NO_GPU, relayed=lambda at: at * 10, in_flight=2)))
    assert first(found, Verdict.HUNG) == 60


def test_one_whose_batches_were_slow_may_take_a_multiple_of_that() -> None:
    """Where no witness but the counters speaks for it."""
    moving = [(at, Look(slots=(a_slot(progress=at // 40),), cpu=1.0, gpu=NO_GPU)) for at in range(0, 81, 5)]
    still = [(at, Look(slots=(a_slot(progress=2),), cpu=1.0, gpu=NO_GPU)) for at in range(85, 300, 5)]
    found = watch(moving + still)
    assert first(found, Verdict.HUNG) == 80 + 3 * 40


def test_another_task_in_the_slot_says_nothing_of_the_pace() -> None:
    liveness = Liveness(POLICY, began=0)
    liveness.look(0, Look(slots=(a_slot(task=1),)))
    liveness.look(15, Look(slots=(a_slot(task=2),)))
    assert liveness.evidence.slowest == 0


def test_one_stuck_slot_among_working_ones_counts() -> None:
    def look(at: int) -> Look:
        return Look(slots=(a_slot(progress=at), a_slot(progress=5, id=1)), cpu=1.0, gpu=NO_GPU)

    assert first(watch(every(1, 70, look)), Verdict.HUNG) == 60


def test_progress_or_rest_begins_the_time_anew() -> None:
    liveness = Liveness(POLICY, began=0)

    def look(at: float, slot: Slot) -> Verdict:
        return liveness.look(at, Look(slots=(slot,), cpu=1.0, gpu=NO_GPU)).verdict

    for at in range(0, 30, 5):
        look(at, a_slot(progress=5))
    assert look(30, a_slot(progress=6)) is Verdict.WELL
    assert look(40, a_slot(processing=False, progress=6)) is Verdict.WELL
    assert [look(at, a_slot(progress=6)) for at in (50, 60, 65)] == [Verdict.WELL] * 3


# --- silence


def silence(**witnesses: Any) -> Callable[[int], Look]:
    return lambda at: Look(silent=True, **{name: one(at) if callable(one) else one for name, one in witnesses.items()})


def test_silence_is_unsure_then_suspect_then_hung() -> None:
    found = watch(every(5, 100, silence(reachable=False, cpu=1.0, gpu=NO_GPU)))
    assert [one.verdict for _, one in found[:3]] == [Verdict.UNSURE, Verdict.UNSURE, Verdict.SUSPECT]
    assert first(found, Verdict.HUNG) == 60
    assert dict(found)[60].reason.startswith("did not answer for 1m; it used no processor time")


def test_slots_that_are_silent_while_health_answers_are_a_hang_too() -> None:
    found = watch(every(5, 100, silence(cpu=1.0, gpu=NO_GPU)))
    assert first(found, Verdict.HUNG) == 60
    assert "though it answers /health" in dict(found)[60].reason


def test_a_server_that_computes_may_be_silent_about_its_slots() -> None:
    """Some builds answer `/slots` only between two batches."""
    found = watch(every(5, 3700, silence(cpu=float, gpu=NO_GPU)))
    assert {one.verdict for at, one in found if at > 10} == {Verdict.UNSURE}


def test_one_that_computes_and_answers_nothing_gets_no_requests_but_lives() -> None:
    found = watch(every(5, 3700, silence(reachable=False, cpu=float, gpu=NO_GPU)))
    assert found[-1][1].verdict is Verdict.SUSPECT
    assert first(found, Verdict.HUNG) is None


def test_streams_that_go_on_speak_for_a_server_without_a_thread_for_probes() -> None:
    found = watch(every(5, 600, silence(reachable=False, cpu=1.0, gpu=NO_GPU, relayed=lambda at: at * 200)))
    assert first(found, Verdict.HUNG) is None


def test_one_silent_look_alone_never_proves_a_hang() -> None:
    policy = HealthPolicy(failures=5, interval=600)
    assert (
        watch([(1e6, Look(silent=True, reachable=False, cpu=1.0, gpu=NO_GPU))], policy)[0][1].verdict is Verdict.UNSURE
    )
    policy = HealthPolicy(failures=1, interval=600)
    assert watch([(1e6, Look(silent=True))], policy)[0][1].verdict is Verdict.SUSPECT


def test_an_answer_ends_the_silence() -> None:
    liveness = Liveness(HealthPolicy(failures=2), began=0)
    assert [liveness.look(at, Look(silent=True)).verdict for at in (1, 2)] == [Verdict.UNSURE, Verdict.SUSPECT]
    assert liveness.look(5, Look()).verdict is Verdict.WELL
    assert liveness.look(6, Look(silent=True)).verdict is Verdict.UNSURE


# --- time


def test_time_in_which_llamad_did_not_look_does_not_count() -> None:
    """llamad was stopped or the machine suspended, perhaps the server with it."""
    liveness = Liveness(POLICY, began=0)
    look = Look(slots=STUCK, cpu=1.0, gpu=NO_GPU)
    for at in (0, 5, 10, 4000):
        assert liveness.look(at, look).verdict is Verdict.WELL
    liveness = Liveness(POLICY, began=0)
    silent = Look(silent=True, reachable=False, cpu=1.0, gpu=NO_GPU)
    verdicts = [liveness.look(at, silent).verdict for at in (5, 4000, 4001)]
    assert Verdict.HUNG not in verdicts


def test_looks_that_could_not_be_made_count_for_nothing() -> None:
    liveness = Liveness(POLICY, began=0)
    liveness.look(0, Look(slots=STUCK, cpu=1.0, gpu=NO_GPU))
    for at in range(5, 500, 5):
        liveness.unable(at)
    assert liveness.look(500, Look(slots=STUCK, cpu=1.0, gpu=NO_GPU)).verdict is Verdict.WELL
    assert liveness.silent == 0


# --- what only a request of llamad's own can tell


def test_a_request_without_a_byte_while_no_slot_works_is_a_doubt() -> None:
    found = watch(every(5, 100, lambda at: Look(slots=IDLE, cpu=1.0, gpu=NO_GPU, in_flight=1, waiting=float(at))))
    assert next(at for at, one in found if one.doubt is Doubt.LOST) == 30
    assert {one.verdict for _, one in found} == {Verdict.WELL}
    assert "a request got no byte for 30s, and no slot works on it" in dict(found)[30].reason


@pytest.mark.parametrize(
    "look",
    [
        Look(slots=IDLE, cpu=1.0, waiting=10.0),
        Look(slots=STUCK, cpu=1.0, waiting=900.0, gpu=GpuUse(held=True)),
        Look(slots=None, cpu=None, waiting=900.0),
    ],
    ids=["not for long", "a slot works", "slots are not shown"],
)
def test_a_request_that_waits_for_good_reason_is_none(look: Look) -> None:
    assert not any(one.doubt for _, one in watch(every(5, 55, lambda _: look)))


def test_a_request_that_is_prepared_by_the_processor_is_not_lost() -> None:
    """Images are decoded and grammars compiled before a slot is taken."""
    found = watch(every(5, 600, lambda at: Look(slots=IDLE, cpu=at * 1.0, gpu=NO_GPU, waiting=float(at))))
    assert not any(one.doubt for _, one in found)


def test_without_slots_a_processor_that_rests_is_a_doubt() -> None:
    found = watch(every(5, 100, lambda at: Look(slots=None, cpu=1.0, gpu=NO_GPU, waiting=float(at))))
    assert found[-1][1].doubt is Doubt.LOST


def test_errors_are_a_doubt_once_there_are_several() -> None:
    assert judge(POLICY, Evidence(errors=ERRORS - 1)).doubt is None
    found = judge(POLICY, Evidence(errors=ERRORS))
    assert (found.verdict, found.doubt) == (Verdict.WELL, Doubt.ERRORS)


def test_a_hang_goes_before_a_doubt() -> None:
    seen = Evidence(stuck=90, quiet=90, unseen=90, errors=9, lost=90)
    assert judge(POLICY, seen).verdict is Verdict.HUNG
    assert judge(POLICY, replace(seen, stuck=40, quiet=40)).doubt is None


# --- figures


def test_speed_is_measured_by_slot_and_task_between_two_looks() -> None:
    liveness = Liveness(POLICY, began=0)
    looks: list[tuple[float, Look, tuple[int | None, float | None, bool]]] = [
        (0, Look(slots=(a_slot(progress=100),)), (1, None, True)),
        (2, Look(slots=(a_slot(progress=140),)), (1, 20, False)),
        (2, Look(slots=(a_slot(progress=150),)), (1, 20, False)),
        (4, Look(slots=(a_slot(progress=170), a_slot(id=1, progress=900))), (2, 10, False)),
        (6, Look(slots=(a_slot(progress=3, task=2),)), (1, None, True)),
        (8, Look(slots=(a_slot(progress=2, task=2),)), (1, 0, False)),
        (9, Look(slots=(a_slot(processing=False, progress=2),)), (0, 0, False)),
        (10, Look(idle=True), (0, 0, False)),
        (11, Look(), (None, None, False)),
    ]
    for at, look, expected in looks:
        liveness.look(at, look)
        assert (liveness.busy, liveness.tokens_per_s, liveness.wants_speed) == expected


def test_what_was_worked_on_between_two_looks_is_seen() -> None:
    liveness = Liveness(POLICY, began=0)
    seen: list[bool] = []
    for slot in (a_slot(processing=False), a_slot(processing=False), a_slot(processing=False, task=7), a_slot(task=7)):
        liveness.look(len(seen), Look(slots=(slot,)))
        seen.append(liveness.active)
    assert seen == [False, False, True, True]
