"""A process from its start to its end: how it loads, and how it is watched, on a clock that jumps."""

import asyncio
import itertools
import os
from pathlib import Path

import pytest

from llamad.config.model import HealthPolicy
from llamad.host.gpu_use import GpuUse
from llamad.host.pidfd import Exit
from llamad.servers.probe import CannotProbeError, ProbeAnswer
from llamad.servers.state import State
from tests.builders import a_launch
from tests.stories import KEY, Behaviour, a_server, a_world, supervised, tell

SEGFAULT = Exit(signal=11)

# --- loading


def test_readiness_is_asked_often_at_first_and_seldom_later() -> None:
    async def story() -> None:
        with a_world(Behaviour(loads_for=60, answers_from=0.05)) as world:
            async with supervised(world) as one:
                await one.until(State.READY)
                at = [when for when, path in world.machine.asked if path == "/health"]
                assert at[1] - at[0] == pytest.approx(0.01)
                assert sum(when < 0.2 for when in at) >= 10
                assert at[-1] - at[-2] == pytest.approx(0.25)

    tell(story)


def test_a_line_that_says_so_has_readiness_asked_at_once() -> None:
    async def story() -> None:
        with a_world(Behaviour(loads_for=20.01)) as world:
            async with supervised(world) as one:
                await one.until(State.LOADING)
                await asyncio.sleep(20.02 - asyncio.get_running_loop().time())
                world.machine.children[0].say("main: server is listening on http://x")
                await one.until(State.READY)
                assert asyncio.get_running_loop().time() < 20.05

    tell(story)


def test_a_load_may_take_as_long_as_it_gets_on() -> None:
    async def story() -> None:
        with a_world(Behaviour(loads_for=2000)) as world:
            async with supervised(world, health=HealthPolicy(load_stall_timeout=10)) as one:
                await one.until(State.READY)
                assert asyncio.get_running_loop().time() == pytest.approx(2000, abs=1)
            assert len(world.machine.children) == 1

    tell(story)


def test_a_load_that_stands_still_is_ended_and_named() -> None:
    async def story() -> None:
        with a_world(Behaviour(loads_for=9000, grows=False)) as world:
            async with supervised(world, health=HealthPolicy(load_stall_timeout=10)) as one:
                await one.until(State.BACKOFF)
                assert one.cause == "load-stalled"
                assert one.view.last_error is not None
                assert "`llamad logs a`" in (one.view.last_error.hint or "")
                assert asyncio.get_running_loop().time() == pytest.approx(10, abs=1)
                assert world.machine.children[0].got_kill

    tell(story)


def test_a_load_that_llamad_cannot_ask_for_is_not_ended() -> None:
    """Without a descriptor left llamad cannot see that the server is ready, which then stands still, and is well."""

    async def story() -> None:
        with a_world(Behaviour(loads_for=2, grows=False)) as world:
            async with supervised(world, health=HealthPolicy(load_stall_timeout=10)) as one:
                await one.until(State.LOADING)
                assert one.view.address is not None

                def lacking(path: str) -> ProbeAnswer:
                    raise CannotProbeError("Too many open files")

                world.machine.scripts[one.view.address] = lacking
                await asyncio.sleep(600)
                del world.machine.scripts[one.view.address]
                await one.until(State.READY)
            assert len(world.machine.children) == 1

    tell(story)


def test_log_lines_are_progress_too() -> None:
    async def story() -> None:
        with a_world(Behaviour(loads_for=60, grows=False)) as world:
            async with supervised(world, health=HealthPolicy(load_stall_timeout=10)) as one:
                await one.until(State.LOADING)
                for _ in range(8):
                    world.machine.children[0].say("fetched some more")
                    await asyncio.sleep(8)
                await one.until(State.READY)
            assert len(world.machine.children) == 1

    tell(story)


def test_a_longer_deadline_helps_a_load_that_runs() -> None:
    async def story() -> None:
        with a_world(Behaviour(loads_for=60, grows=False)) as world:
            async with supervised(world, health=HealthPolicy(load_stall_timeout=10)) as one:
                await one.until(State.LOADING)
                one.supervisor.retune(a_server(health=HealthPolicy(load_stall_timeout=100)))
                await one.until(State.READY)
            assert len(world.machine.children) == 1

    tell(story)


def test_the_share_of_the_model_that_is_there_is_shown(tmp_path: Path) -> None:
    async def story() -> None:
        model = tmp_path / "model.gguf"
        model.touch()
        os.truncate(model, 100 << 20)  # the fake child reads 10 MB a second
        with a_world(Behaviour(loads_for=30)) as world:
            async with supervised(world, a_launch(model=model), model=model) as one:
                await one.until(State.LOADING)
                await asyncio.sleep(5)
                assert one.view.load_progress == pytest.approx(0.5, abs=0.1)
                assert one.view.memory_bytes == pytest.approx(50 << 20, rel=0.2)
                await asyncio.sleep(20)
                assert one.view.load_progress == 0.99
                await one.until(State.READY)
                assert one.view.load_progress is None

    tell(story)


def test_an_answer_of_200_at_once_skips_loading() -> None:
    async def story() -> None:
        with a_world(Behaviour(loads_for=0, answers_from=0)) as world:
            async with supervised(world) as one:
                await one.until(State.READY)
            assert "loading" not in world.story_of("a")

    tell(story)


# --- watching


def test_a_silence_takes_requests_away_and_an_answer_gives_them_back() -> None:
    async def story() -> None:
        with a_world(Behaviour(silent_from=20, silent_until=40)) as world:
            async with supervised(world) as one:
                await one.until(State.READY)
                await one.until(State.UNRESPONSIVE)
                assert 20 < asyncio.get_running_loop().time() < 40
                assert one.cause == "unresponsive"
                why = one.view.last_error
                assert why is not None
                assert "did not answer for" in why.message
                assert why.message.endswith("is replaced once that has lasted 1m")
                await one.until(State.READY)
                assert one.view.last_error is None
                assert 40 < asyncio.get_running_loop().time() < 45
            assert len(world.machine.children) == 1

    tell(story)


def test_one_missed_look_takes_nothing_away() -> None:
    async def story() -> None:
        with a_world(Behaviour(silent_from=19.9, silent_until=21)) as world:
            async with supervised(world) as one:
                await one.until(State.READY)
                await asyncio.sleep(100)
                assert "unresponsive" not in world.story_of("a")
                assert one.view.state is State.READY

    tell(story)


@pytest.mark.parametrize("interval", [5.0, 60.0])
def test_one_that_stays_silent_is_killed_and_replaced(interval: float) -> None:
    async def story() -> None:
        with a_world(Behaviour(silent_from=20.5)) as world:
            async with supervised(world, health=HealthPolicy(interval=interval)) as one:
                await one.until(State.READY)
                await one.until(State.BACKOFF)
                assert one.cause == "hung"
                assert one.view.last_error is not None
                assert "did not answer" in one.view.last_error.message
                assert world.machine.children[0].got_kill
                assert one.view.last_exit is not None
                assert one.view.last_exit.startswith("killed by SIGKILL by llamad: hung: did not answer for 1m")
                assert one.view.last_exit.endswith("it used no processor time and read, computed and sent nothing")
                assert asyncio.get_running_loop().time() <= 20.5 + 60 + 10
                await one.until(State.READY)
                assert len(world.machine.children) == 2

    tell(story)


def test_a_single_missed_look_after_a_long_interval_kills_nothing() -> None:
    async def story() -> None:
        behaviour = Behaviour(silent_from=59, silent_until=63.5)
        with a_world(behaviour) as world:
            async with supervised(world, health=HealthPolicy(interval=60, hang_timeout=60)) as one:
                await one.until(State.READY)
                await asyncio.sleep(300)
                assert one.view.state is State.READY
            assert len(world.machine.children) == 1

    tell(story)


def test_a_slot_that_stands_still_is_suspect_and_then_hung() -> None:
    async def story() -> None:
        with a_world(Behaviour(stuck_from=20)) as world:
            async with supervised(world) as one:
                await one.until(State.READY)
                await one.until(State.UNRESPONSIVE)
                assert 50 <= asyncio.get_running_loop().time() <= 60
                assert one.view.last_error is not None
                assert "a slot made no progress for 30s" in one.view.last_error.message
                assert one.view.last_error.message.endswith("is replaced once that has lasted 1m")
                await one.until(State.BACKOFF)
                assert 80 <= asyncio.get_running_loop().time() <= 90
                assert one.view.last_error is not None
                assert "a slot made no progress" in one.view.last_error.message

    tell(story)


def test_a_slot_that_gets_on_again_is_well() -> None:
    async def story() -> None:
        with a_world(Behaviour(stuck_from=20, stuck_until=60, busy_until=100)) as world:
            async with supervised(world) as one:
                await one.until(State.READY)
                await one.until(State.UNRESPONSIVE)
                await one.until(State.READY)
                await asyncio.sleep(200)
                assert one.view.state is State.READY
            assert len(world.machine.children) == 1

    tell(story)


def test_a_missed_look_does_not_make_a_stuck_one_ready() -> None:
    async def story() -> None:
        with a_world(Behaviour(stuck_from=10, silent_from=51, silent_until=52)) as world:
            async with supervised(world) as one:
                await one.until(State.READY)
                await one.until(State.UNRESPONSIVE)
                await one.until(State.BACKOFF)
            story_of = world.story_of("a")
            assert story_of[story_of.index("unresponsive") + 1] != "ready"

    tell(story)


def test_one_without_slots_is_well_as_long_as_it_answers() -> None:
    async def story() -> None:
        with a_world(Behaviour(has_slots=False)) as world:
            async with supervised(world) as one:
                await one.until(State.READY)
                await asyncio.sleep(1000)
                assert one.view.state is State.READY
                assert one.view.slots is None

    tell(story)


def test_speed_and_work_are_measured() -> None:
    async def story() -> None:
        with a_world(Behaviour(busy_until=100)) as world:
            async with supervised(world) as one:
                await one.until(State.READY)
                await asyncio.sleep(20)
                assert one.view.busy_slots == 1
                assert one.view.tokens_per_s == pytest.approx(10, rel=0.1)
                await asyncio.sleep(200)
                assert one.view.busy_slots == 0
                assert one.view.tokens_per_s == 0

    tell(story)


def test_a_crash_is_noticed_at_once_however_long_the_interval() -> None:
    async def story() -> None:
        with a_world() as world:
            async with supervised(world, health=HealthPolicy(interval=1000)) as one:
                await one.until(State.READY)
                await asyncio.sleep(10)
                before = asyncio.get_running_loop().time()
                world.machine.children[0].crash(SEGFAULT)
                await one.until(State.BACKOFF)
                assert asyncio.get_running_loop().time() == before

    tell(story)


def test_a_new_health_policy_holds_for_a_running_one() -> None:
    async def story() -> None:
        with a_world(Behaviour(silent_from=20)) as world:
            async with supervised(world, health=HealthPolicy(hang_timeout=5000)) as one:
                await one.until(State.READY)
                one.supervisor.retune(a_server(health=HealthPolicy(hang_timeout=10)))
                await one.until(State.BACKOFF)
                assert asyncio.get_running_loop().time() < 40

    tell(story)


# --- the witnesses of a hang


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_batch_of_an_hour_is_survived() -> None:
    """Counters move once per batch, and a slow processor takes that long for one."""

    async def story() -> None:
        with a_world(Behaviour(stuck_from=20, stuck_until=3700, busy_until=3800, cores=1.0)) as world:
            async with supervised(world) as one:
                await one.until(State.READY)
                await asyncio.sleep(4000)
                assert one.view.state is State.READY
            assert "unresponsive" not in world.story_of("a")
            assert len(world.machine.children) == 1

    tell(story)


def test_a_spin_without_any_result_is_ended_in_the_end() -> None:
    async def story() -> None:
        with a_world(Behaviour(stuck_from=20, cores=1.0)) as world:
            async with supervised(world) as one:
                await one.until(State.READY)
                await one.until(State.BACKOFF)
                assert one.cause == "hung"
                assert now() == pytest.approx(20 + 120 * 60, abs=10)

    tell(story)


def test_a_gpu_that_works_out_of_sight_gets_time_and_an_idle_one_does_not() -> None:
    async def story() -> None:
        with a_world(Behaviour(stuck_from=20), Behaviour(stuck_from=20)) as world:
            world.uses.update({1000: GpuUse(held=True), 1001: GpuUse(held=True, percent=0)})
            async with supervised(world) as one:
                await one.until(State.READY)
                await one.until(State.BACKOFF)
                assert now() == pytest.approx(20 + 30 * 60, abs=10)
                began = now()
                await one.until(State.READY)
                await one.until(State.BACKOFF)
                assert now() - began < 20 + 60 + 15

    tell(story)


def test_a_request_that_was_swallowed_is_noticed_and_named() -> None:
    async def story() -> None:
        with a_world(Behaviour(deaf_from=20)) as world:
            async with supervised(world) as one:
                await one.until(State.READY)
                await asyncio.sleep(20)
                flight = one.traffic.begin(KEY)
                began = now()
                await one.until(State.BACKOFF)
                assert now() - began <= 60 + 6
                assert one.cause == "requests-lost"
                assert "nor did it answer one of llamad's own" in (flight.fate or "")
                one.traffic.end(flight)

    tell(story)


def test_a_client_whose_request_takes_its_time_elsewhere_ends_nothing() -> None:
    """Such as an image that llama-server fetches from a host that answers slowly: it works for others."""

    async def story() -> None:
        with a_world() as world:
            async with supervised(world) as one:
                await one.until(State.READY)
                flight = one.traffic.begin(KEY)
                await asyncio.sleep(600)
                assert one.view.state is State.READY
                own = [at for at, path in world.machine.asked if path == "/completion"]
                assert 2 < len(own) <= 600 / 30
                one.traffic.end(flight)
            assert len(world.machine.children) == 1

    tell(story)


def test_one_whose_every_answer_is_an_error_is_replaced_though_it_ignores_sigterm() -> None:
    async def story() -> None:
        with a_world(Behaviour(status_from=10, ignores_term=True)) as world:
            async with supervised(world) as one:
                await one.until(State.READY)
                await asyncio.sleep(10)
                for _ in range(3):
                    one.traffic.failed(KEY)
                await one.until(State.BACKOFF)
                assert one.cause == "every-answer-fails"
                assert one.view.last_error is not None
                assert "Compute error." in one.view.last_error.message
                assert now() < 10 + 20

    tell(story)


def test_clients_that_provoke_errors_end_nothing_and_cause_few_questions() -> None:
    async def story() -> None:
        with a_world() as world:
            async with supervised(world) as one:
                await one.until(State.READY)
                for _ in range(600):
                    one.traffic.failed(KEY)
                    await asyncio.sleep(1)
                assert one.view.state is State.READY
                own = [at for at, path in world.machine.asked if path == "/completion"]
                assert 2 < len(own) <= 600 / 30
            assert len(world.machine.children) == 1

    tell(story)


# --- looking without changing what is looked at


ASLEEP = ("--model", "/models/a.gguf", "--sleep-idle-seconds", "12")


def test_one_that_may_sleep_sleeps_and_is_shown_so() -> None:
    async def story() -> None:
        with a_world(Behaviour(sleeps_after=12)) as world:
            async with supervised(world, a_launch(arguments=ASLEEP)) as one:
                await one.until(State.READY)
                await asyncio.sleep(60)
                assert (one.view.state, one.view.asleep) == (State.READY, True)
                looks = [path for at, path in world.machine.asked if at > 20]
                assert set(looks) == {"/props"}
                flight = one.traffic.begin(KEY)
                world.machine.children[0].woken_at = now()
                await asyncio.sleep(5)
                assert not one.view.asleep
                assert world.machine.asked[-1][1] == "/slots"
                one.traffic.end(flight)
                await asyncio.sleep(60)
                assert one.view.asleep

    tell(story)


def test_one_that_may_sleep_is_not_asked_for_its_slots_as_it_ends() -> None:
    async def story() -> None:
        with a_world(Behaviour(sleeps_after=12)) as world:
            async with supervised(world, a_launch(arguments=ASLEEP)) as one:
                await one.until(State.READY)
                await asyncio.sleep(60)
            assert "/slots" not in [path for at, path in world.machine.asked if at > 50]

    tell(story)


def test_no_two_looks_at_the_slots_are_nearer_than_a_second() -> None:
    """llama.cpp would finish what nobody waits for any more."""

    async def story() -> None:
        with a_world(Behaviour(busy_until=300)) as world:
            async with supervised(world, health=HealthPolicy(interval=1)) as one:
                await one.until(State.READY)
                for second in range(200):
                    world.machine.children[0].say("I srv: model loaded, says a client")
                    flight = one.traffic.begin(KEY)
                    await asyncio.sleep(0.3)
                    if second % 2:
                        one.traffic.leave(flight)
                    else:
                        one.traffic.end(flight)
                    at = [when for when, path in world.machine.asked if path == "/slots"]
            assert min(later - earlier for earlier, later in itertools.pairwise(at)) > 0.999
            assert len(at) > 50

    tell(story)


def test_the_speed_of_a_request_is_known_after_two_seconds() -> None:
    async def story() -> None:
        with a_world(Behaviour(busy_until=900)) as world:
            async with supervised(world) as one:
                await one.until(State.READY)
                await asyncio.sleep(1.2)
                assert one.view.tokens_per_s == pytest.approx(10, rel=0.2)

    tell(story)


def test_work_that_begins_between_two_looks_is_looked_at_soon() -> None:
    async def story() -> None:
        with a_world(Behaviour()) as world:
            async with supervised(world, health=HealthPolicy(interval=30)) as one:
                await one.until(State.READY)
                await asyncio.sleep(1)
                world.machine.children[0].behaviour.busy_until = 900
                flight = one.traffic.begin(KEY)
                await asyncio.sleep(2.5)
                assert one.view.busy_slots == 1
                assert one.view.tokens_per_s
                one.traffic.end(flight)

    tell(story)


def test_a_look_that_llamad_was_too_late_for_counts_for_nothing() -> None:
    async def story() -> None:
        with a_world() as world:
            async with supervised(world) as one:
                await one.until(State.READY)
                assert one.view.address is not None

                def late(path: str) -> ProbeAnswer:
                    raise CannotProbeError("llamad itself was held up for 1.9 s")

                world.machine.scripts[one.view.address] = late
                await asyncio.sleep(600)
                assert one.view.state is State.READY
            assert "unresponsive" not in world.story_of("a")
            assert len(world.machine.children) == 1

    tell(story)


def test_a_cold_model_that_is_slow_for_llamad_too_ends_nothing() -> None:
    """A client's request waits elsewhere, and the one of llamad's own has to read the model from the disk first."""

    async def story() -> None:
        with a_world(Behaviour(deaf_from=20, cores=0.5, works_until=20)) as world:
            async with supervised(world) as one:
                await one.until(State.READY)
                await asyncio.sleep(20)
                child = world.machine.children[0]
                flight = one.traffic.begin(KEY)
                await asyncio.sleep(40)
                child.behaviour.busy_until = child.age + 40  # its slot works, and shows so
                await asyncio.sleep(30)
                child.behaviour.deaf_from = None
                await asyncio.sleep(200)
                assert one.view.state is State.READY
                one.traffic.end(flight)
            assert len(world.machine.children) == 1

    tell(story)
