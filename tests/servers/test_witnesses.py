"""One look at one server, by what its address answers, on a clock that jumps."""

import asyncio
import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest

from llamad.host.address import TcpAddress
from llamad.host.gpu_use import GpuUse
from llamad.servers.probe import CannotProbeError, ProbeAnswer, ProbeError
from llamad.servers.traffic import Traffic
from llamad.servers.witnesses import LONGEST_REST, Trial, Witnesses
from tests.stories import KEY, World, a_world, tell

THERE = TcpAddress("10.0.0.1", 8080)
IDLE = [{"id": 0, "is_processing": False}]
BUSY = [{"id": 0, "is_processing": True, "id_task": 3}]
Answer = Callable[[], ProbeAnswer] | tuple[int, object]


class Remote:
    """What answers there, by path: a status and a document, or a function; None: nothing does."""

    def __init__(self, **answers: Answer | None) -> None:
        self.answers: dict[str, Answer | None] = {"health": (200, {}), "slots": (200, IDLE), **answers}
        self.asked: list[str] = []

    def __call__(self, path: str) -> ProbeAnswer:
        self.asked.append(path)
        answer = self.answers.get(path.strip("/").replace("/", "_"))
        if answer is None:
            raise ProbeError("did not answer in 2 s")
        return ProbeAnswer(answer[0], json.dumps(answer[1]).encode()) if isinstance(answer, tuple) else answer()


def watched(world: World, remote: Remote, **more: Any) -> tuple[Witnesses, Traffic]:
    world.machine.scripts[THERE] = remote
    traffic = Traffic(asyncio.get_running_loop().time)
    return Witnesses(KEY, THERE, world.around.prober, traffic, **{"may_sleep": False, **more}), traffic


def lacks() -> ProbeAnswer:
    raise CannotProbeError("Too many open files")


def test_silent_slots_have_health_asked() -> None:
    async def story() -> None:
        with a_world() as world:
            for health, reachable in (((200, {}), True), ((500, {}), False), (None, False)):
                witnesses, traffic = watched(world, Remote(slots=None, health=health))
                with traffic.watch(KEY, lambda: None):
                    seen = await witnesses.look(2)
                assert (seen.silent, seen.reachable, seen.slots) == (True, reachable, None)

    tell(story)


@pytest.mark.parametrize("answers", [{"slots": lacks}, {"slots": None, "health": lacks}])
def test_what_could_not_be_asked_is_neither_answer_nor_silence(answers: dict[str, Any]) -> None:
    async def story() -> None:
        with a_world() as world:
            witnesses, traffic = watched(world, Remote(**answers))
            with traffic.watch(KEY, lambda: None), pytest.raises(CannotProbeError):
                await witnesses.look(2)

    tell(story)


def test_the_gpus_are_asked_only_while_work_is_expected() -> None:
    async def story() -> None:
        with a_world() as world:
            remote = Remote()
            witnesses, traffic = watched(world, remote, gpu_use=lambda: GpuUse(held=True, percent=7))
            with traffic.watch(KEY, lambda: None):
                assert (await witnesses.look(2)).gpu is None
                remote.answers["slots"] = (200, BUSY)
                assert (await witnesses.look(2)).gpu == GpuUse(held=True, percent=7)
                remote.answers["slots"] = None
                assert (await witnesses.look(2)).gpu is not None

    tell(story)


def test_a_foreign_server_that_does_nothing_is_let_alone_for_longer_and_longer() -> None:
    """To ask for its slots would keep it awake, whatever it was told; whether it was cannot be asked."""

    async def story() -> None:
        with a_world() as world:
            remote = Remote(props=(200, {"is_sleeping": False}))
            witnesses, traffic = watched(world, remote, may_sleep=None)
            at: list[float] = []
            with traffic.watch(KEY, lambda: None):
                for _ in range(2000):
                    before = len(remote.asked)
                    seen = await witnesses.look(2)
                    if "/slots" in remote.asked[before:]:
                        at.append(asyncio.get_running_loop().time())
                    else:
                        assert seen.idle
                    await asyncio.sleep(5)
                gaps = [later - earlier for earlier, later in itertools.pairwise(at)]
                assert gaps[0] == 10
                assert gaps == sorted(gaps)
                assert gaps[-1] > LONGEST_REST / 2
                flight = traffic.begin(KEY)
                before = len(remote.asked)
                await witnesses.look(2)
                assert "/slots" in remote.asked[before:]
                traffic.end(flight)

    tell(story)


def test_a_foreign_server_that_sleeps_is_not_woken() -> None:
    async def story() -> None:
        with a_world() as world:
            remote = Remote(props=(200, {"is_sleeping": True}))
            witnesses, traffic = watched(world, remote, may_sleep=None)
            with traffic.watch(KEY, lambda: None):
                for _ in range(10):
                    assert (await witnesses.look(2)).idle
                    await asyncio.sleep(600)
            assert witnesses.asleep
            assert set(remote.asked) == {"/props"}

    tell(story)


@pytest.mark.parametrize("props", [(200, {"total_slots": 1}), (200, []), (404, {})])
def test_a_build_that_knows_no_sleep_is_asked_for_its_slots_each_time(props: Answer) -> None:
    async def story() -> None:
        with a_world() as world:
            remote = Remote(props=props)
            witnesses, traffic = watched(world, remote, may_sleep=None)
            with traffic.watch(KEY, lambda: None):
                for _ in range(3):
                    assert (await witnesses.look(2)).slots is not None
            assert remote.asked == ["/props", "/slots", "/slots", "/slots"]

    tell(story)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"completion": (200, {})}, (Trial.ANSWERED, "")),
        ({"completion": (500, {"error": {"message": "Compute\nerror."}})}, (Trial.ERROR, "Compute\\nerror.")),
        ({"completion": (500, "x")}, (Trial.ERROR, "status 500")),
        ({"completion": None}, (Trial.SILENT, "did not answer in 2 s")),
        ({"completion": lacks}, (Trial.UNCLEAR, "Too many open files")),
        ({"completion": (501, {}), "v1_embeddings": (200, {})}, (Trial.ANSWERED, "")),
        ({"completion": (501, {}), "v1_embeddings": (500, {})}, (Trial.ERROR, "status 500")),
        ({"completion": (501, {}), "v1_embeddings": (400, {})}, (Trial.UNCLEAR, "")),
    ],
)
def test_a_request_of_llamads_own_is_answered_or_not(answers: dict[str, Any], expected: tuple[Trial, str]) -> None:
    async def story() -> None:
        with a_world() as world:
            witnesses, _ = watched(world, Remote(**answers))
            assert await witnesses.attempt(2) == expected

    tell(story)
