"""Stories: supervisor and fleet over a fake machine, on a loop whose clock jumps. Hours pass in milliseconds."""

import asyncio
import heapq
import selectors
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from llamad.config.model import ServerConfig
from llamad.host.address import Address
from llamad.host.dirs import Directories
from llamad.host.pidfd import Exit
from llamad.host.pulse import Pulse
from llamad.servers.around import Around
from llamad.servers.board import Board, Change, Failure, ReplicaKey
from llamad.servers.command import Launch
from llamad.servers.plan import Intent
from llamad.servers.probe import ProbeAnswer, ProbeError
from llamad.servers.state import State
from tests.builders import a_launch

T = TypeVar("T")


class JumpingLoop(asyncio.SelectorEventLoop):
    """When nothing is ready, time jumps to the next timer. Threads that are awaited are waited for in real time."""

    def __init__(self) -> None:
        super().__init__(selectors.SelectSelector())
        self._jumped = 0.0
        self._in_threads = 0

    def time(self) -> float:
        return self._jumped

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        """Run it at once: a story has no threads to race with."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - the future carries it
            future.set_exception(error)
        return future

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            while self._scheduled and self._scheduled[0]._cancelled:  # type: ignore[attr-defined]
                handle = heapq.heappop(self._scheduled)  # type: ignore[attr-defined]
                handle._scheduled = False
            if self._scheduled:  # type: ignore[attr-defined]
                self._jumped = max(self._jumped, self._scheduled[0]._when)  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


def tell(story: Callable[[], Awaitable[T]]) -> T:
    """Run one story, bounded by an hour of its own time; no task may be left."""

    async def bounded() -> T:
        async with asyncio.timeout(36_000):
            result = await story()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left: {left}"
        return result

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(bounded())


@dataclass
class Behaviour:
    """How the next child behaves. Times are seconds after its start."""

    loads_for: float = 1.0
    answers_from: float = 0.05
    ends: tuple[float, Exit] | None = None
    says: tuple[str, ...] = ()
    ignores_term: bool = False
    dies_in: float = 0.0
    grows: bool = True
    silent_from: float | None = None
    stuck_from: float | None = None
    busy_until: float = 0.0


class FakeChild:
    """A child of the fake machine."""

    def __init__(self, machine: "Machine", pid: int, address: Address, behaviour: Behaviour) -> None:
        self._machine = machine
        self._loop = asyncio.get_running_loop()
        self.pid = pid
        self.address = address
        self.behaviour = behaviour
        self.started = self._loop.time()
        self.ended: asyncio.Future[Exit] = self._loop.create_future()
        self.got_term = False
        self.got_kill = False
        self.closed = False
        self._timer = self._loop.call_later(behaviour.ends[0], self._end, behaviour.ends[1]) if behaviour.ends else None

    @property
    def age(self) -> float:
        return self._loop.time() - self.started

    def attach(self, on_output: Callable[[bytes], None]) -> None:
        for line in self.behaviour.says:
            on_output(line.encode() + b"\n")

    def terminate(self) -> None:
        self.got_term = True
        if not self.behaviour.ignores_term:
            self._loop.call_later(self.behaviour.dies_in, self._end, Exit(signal=15))

    def kill(self) -> None:
        self.got_kill = True
        self._end(Exit(signal=9))

    def crash(self, how: Exit) -> None:
        """End of its own accord."""
        self._end(how)

    def memory_and_reads(self) -> tuple[int, int] | None:
        size = int(self.age * (10 << 20)) if self.behaviour.grows else 1 << 20
        return size, size

    def oom_kills(self) -> int:
        return 0

    def close(self) -> None:
        assert not self.closed, "closed twice"
        self.closed = True

    def _end(self, how: Exit) -> None:
        if not self.ended.done():
            if self._timer is not None:
                self._timer.cancel()
            self.ended.set_result(how)


@dataclass
class Machine:
    """Starts children that behave as told, and answers for them."""

    behaviours: list[Behaviour] = field(default_factory=list)
    usual: Behaviour = field(default_factory=Behaviour)
    children: list[FakeChild] = field(default_factory=list)
    refuses: list[OSError] = field(default_factory=list)

    def launch(self, key: ReplicaKey, launch: Launch, address: Address, environment: Mapping[str, str]) -> FakeChild:
        if self.refuses:
            raise self.refuses.pop(0)
        behaviour = self.behaviours.pop(0) if self.behaviours else self.usual
        child = FakeChild(self, 1000 + len(self.children), address, behaviour)
        self.children.append(child)
        return child

    async def probe(self, address: Address, path: str, *, timeout: float, key: str | None = None) -> ProbeAnswer:
        child = next((one for one in self.children if one.address == address and not one.ended.done()), None)
        await asyncio.sleep(0)
        if child is None or child.age < child.behaviour.answers_from:
            raise ProbeError("Connection refused")
        behaviour = child.behaviour
        if behaviour.silent_from is not None and child.age >= behaviour.silent_from:
            await asyncio.wait((child.ended,), timeout=timeout)
            raise ProbeError(f"did not answer in {timeout:g} s")
        if child.age < behaviour.loads_for:
            return ProbeAnswer(503, b'{"error":{"code":503}}')
        return ProbeAnswer(200, self._slots(child) if path == "/slots" else b'{"status":"ok"}')

    def _slots(self, child: FakeChild) -> bytes:
        behaviour = child.behaviour
        stuck = behaviour.stuck_from is not None and child.age >= behaviour.stuck_from
        busy = stuck or child.age < behaviour.busy_until
        decoded = 7 if stuck else int(child.age * 10)
        return (
            b'[{"id":0,"id_task":1,"is_processing":%s,"n_prompt_tokens_processed":3,"next_token":[{"n_decoded":%d}]}]'
            % (b"true" if busy else b"false", decoded)
        )

    @property
    def alive(self) -> list[FakeChild]:
        return [child for child in self.children if not child.ended.done()]


@dataclass
class World:
    """A machine and what the supervisors need around it; `states` is every state that was moved to, in order."""

    machine: Machine
    around: Around
    states: list[tuple[ReplicaKey, State]]
    inspections: list[Failure | None]
    rereads: list[float]

    @property
    def board(self) -> Board:
        return self.around.board

    def story_of(self, server: str) -> list[str]:
        """The states of one server, as words."""
        return [str(state) for key, state in self.states if key.server == server]


@contextmanager
def a_world(*behaviours: Behaviour, chance: float = 0.5, usual: Behaviour | None = None) -> Iterator[World]:
    """A world whose children behave as listed, then as `usual`."""
    machine = Machine(list(behaviours), usual or Behaviour())
    states: list[tuple[ReplicaKey, State]] = []
    inspections: list[Failure | None] = []
    rereads: list[float] = []
    board = Board()
    loop = asyncio.get_running_loop()
    nowhere = Path("/nonexistent-llamad")
    around = Around(
        board=board,
        directories=Directories(nowhere, nowhere, nowhere),
        launcher=machine.launch,
        prober=machine.probe,
        pulse=Pulse(loop.time),
        environ={},
        secret=lambda name: f"secret of {name}",
        external_key=lambda config: None,
        inspect=lambda launch: inspections.pop(0) if inspections else None,
        memory_free=lambda device: None,
        reread=lambda: rereads.append(loop.time()),
        make_folder=lambda path: None,
        chance=lambda: chance,
    )

    def note(change: Change) -> None:
        if change.moved and change.new is not None:
            states.append((change.key, change.new.state))

    with board.observe(note):
        yield World(machine, around, states, inspections, rereads)


def an_intent(name: str = "a", *, launch: Launch | Failure | None = None, **config: Any) -> Intent:
    """One server that is wanted, with as many launches as it has replicas."""
    server = a_server(name, **config)
    if server.external:
        return Intent(server)
    return Intent(server, tuple(launch or a_launch(name) for _ in range(server.replicas)))


def a_server(name: str = "a", **config: Any) -> ServerConfig:
    """A server of that name; `url` in the place of a model makes it an external one."""
    source = {} if "url" in config else {"model": Path(f"/models/{name}.gguf")}
    return ServerConfig(name=name, **{**source, **config})
