"""Stories: supervisor and fleet over a fake machine, on a loop whose clock jumps. Hours pass in milliseconds."""

import asyncio
import heapq
import math
import selectors
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from llamad.config.model import ServerConfig
from llamad.errors import LlamadError
from llamad.host.address import Address
from llamad.host.dirs import Directories
from llamad.host.gpu_use import GpuUse
from llamad.host.pidfd import Exit
from llamad.host.pulse import Pulse
from llamad.servers.around import Around
from llamad.servers.board import Board, Change, Failure, Replica, ReplicaKey
from llamad.servers.command import Launch
from llamad.servers.fleet import Fleet
from llamad.servers.output import Output
from llamad.servers.plan import Intent
from llamad.servers.probe import ProbeAnswer, ProbeError
from llamad.servers.residency import Device
from llamad.servers.starting import Running
from llamad.servers.state import State
from llamad.servers.supervisor import Supervisor
from llamad.servers.traffic import Traffic
from tests.builders import a_launch

T = TypeVar("T")


class JumpingLoop(asyncio.SelectorEventLoop):
    """When nothing is ready, time jumps to the next timer."""

    def __init__(self) -> None:
        super().__init__(selectors.SelectSelector())
        self._jumped = 0.0
        self.thread_time = 0.0
        """Seconds that what a thread does takes; 0: done at once."""

    def time(self) -> float:
        return self._jumped

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        """Run it here, after `thread_time`: a story has no threads."""
        future = self.create_future()

        def done() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(func(*args))
            except Exception as error:  # noqa: BLE001 - the future carries it
                future.set_exception(error)

        if self.thread_time:
            self.call_later(self.thread_time, done)
        else:
            done()
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
    """Run one story, bounded by ten hours of its own time; no task may be left."""

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
    ignores_kill: bool = False
    oom_kills: int = 0
    has_slots: bool = True
    dies_in: float = 0.0
    grows: bool = True
    silent_from: float | None = None
    silent_until: float = math.inf
    stuck_from: float | None = None
    stuck_until: float = math.inf
    busy_until: float = 0.0
    cores: float = 0.0
    """How many processors it keeps busy, until `works_until`."""
    works_until: float = math.inf
    hides_cpu: bool = False
    status_from: float | None = None
    """From then on a request of llamad's own is answered with status 500; `deaf_from`: not at all."""
    deaf_from: float | None = None
    sleeps_after: float = math.inf
    """Seconds without a look at `/slots`, which wakes it."""


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
        self.woken_at = self.started
        self.got_term = False
        self.got_kill = False
        self.closed = False
        self._timer = self._loop.call_later(behaviour.ends[0], self._end, behaviour.ends[1]) if behaviour.ends else None

    @property
    def age(self) -> float:
        return self._loop.time() - self.started

    def attach(self, on_output: Callable[[bytes], None]) -> None:
        self._on_output = on_output
        for line in self.behaviour.says:
            self.say(line)

    def say(self, line: str) -> None:
        """Write a line."""
        self._on_output(line.encode() + b"\n")

    def terminate(self) -> None:
        self.got_term = True
        if not self.behaviour.ignores_term:
            self._loop.call_later(self.behaviour.dies_in, self._end, Exit(signal=15))

    def kill(self) -> None:
        self.got_kill = True
        if not self.behaviour.ignores_kill:
            self._end(Exit(signal=9))

    def crash(self, how: Exit) -> None:
        """End of its own accord."""
        self._end(how)

    def memory_and_reads(self) -> tuple[int, int] | None:
        loaded = min(self.age, self.behaviour.loads_for)
        size = int(loaded * (10 << 20)) if self.behaviour.grows else 1 << 20
        return size, size

    def cpu_seconds(self) -> float | None:
        if self.behaviour.hides_cpu:
            return None
        return min(self.age, self.behaviour.works_until) * self.behaviour.cores

    def oom_kills(self) -> int:
        return self.behaviour.oom_kills

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
    scripts: dict[Address, Callable[[str], ProbeAnswer]] = field(default_factory=dict)
    """What answers at addresses that are none of a child's; it may raise ProbeError."""
    asked: list[tuple[float, str]] = field(default_factory=list)
    environments: list[Mapping[str, str]] = field(default_factory=list)

    def launch(self, key: ReplicaKey, launch: Launch, address: Address, environment: Mapping[str, str]) -> FakeChild:
        if self.refuses:
            raise self.refuses.pop(0)
        behaviour = self.behaviours.pop(0) if self.behaviours else self.usual
        child = FakeChild(self, 1000 + len(self.children), address, behaviour)
        self.children.append(child)
        self.environments.append(environment)
        return child

    async def probe(
        self, address: Address, path: str, *, timeout: float, key: str | None = None, body: bytes | None = None
    ) -> ProbeAnswer:
        self.asked.append((asyncio.get_running_loop().time(), path))
        await asyncio.sleep(0)
        if address in self.scripts:
            return self.scripts[address](path)
        child = next((one for one in self.children if one.address == address and not one.ended.done()), None)
        if child is None or child.age < child.behaviour.answers_from:
            raise ProbeError("Connection refused")
        behaviour = child.behaviour
        if behaviour.silent_from is not None and behaviour.silent_from <= child.age < behaviour.silent_until:
            await asyncio.wait((child.ended,), timeout=timeout)
            raise ProbeError(f"did not answer in {timeout:g} s")
        if child.age < behaviour.loads_for:
            return ProbeAnswer(503, b'{"error":{"code":503}}')
        if path == "/slots" and not behaviour.has_slots:
            return ProbeAnswer(501, b'{"error":{"code":501}}')
        if path == "/props":
            asleep = child.age + child.started - child.woken_at >= behaviour.sleeps_after
            return ProbeAnswer(200, b'{"is_sleeping":%s}' % (b"true" if asleep else b"false"))
        if path == "/slots":
            child.woken_at = child.started + child.age
        if body is not None:
            return await self._own_request(child, path, timeout)
        return ProbeAnswer(200, self._slots(child) if path == "/slots" else b'{"status":"ok"}')

    async def _own_request(self, child: FakeChild, path: str, timeout: float) -> ProbeAnswer:
        behaviour = child.behaviour
        if behaviour.deaf_from is not None and child.age >= behaviour.deaf_from:
            await asyncio.wait((child.ended,), timeout=timeout)
            raise ProbeError(f"did not answer in {timeout:g} s")
        if behaviour.status_from is not None and child.age >= behaviour.status_from:
            return ProbeAnswer(500, b'{"error":{"code":500,"message":"Compute error.","type":"server_error"}}')
        return ProbeAnswer(200, b'{"content":"a"}')

    def _slots(self, child: FakeChild) -> bytes:
        behaviour = child.behaviour
        stuck = behaviour.stuck_from is not None and behaviour.stuck_from <= child.age < behaviour.stuck_until
        busy = stuck or child.age < behaviour.busy_until
        decoded = 7 if stuck else int(min(child.age, behaviour.busy_until) * 10)
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
    examinations: list[Failure | None]
    """What looks after unexplained ends find."""
    gpus: list[str] | None
    """The GPUs that programs list when a driver fails."""
    gpus_at_first: list[str] | None
    """The GPUs that they list before a start."""
    rereads: list[float]
    free: dict[Device, int]
    """Free bytes by device; one that is not there does not tell."""
    chances: list[float]
    """What is thrown next; then 0.5."""
    no_secrets: list[str]
    """Credentials that are not there."""
    uses: dict[int, GpuUse]
    """What processes do with GPUs, by pid; one that is not there holds none."""

    @property
    def board(self) -> Board:
        return self.around.board

    def story_of(self, server: str) -> list[str]:
        """The states of one server, as words."""
        return [str(state) for key, state in self.states if key.server == server]

    def assert_clean(self) -> None:
        """Everything is over: no child lives, every one was let go of, nothing is on the board or watched."""
        assert not self.machine.alive
        assert all(child.closed for child in self.machine.children)
        assert not self.board.replicas
        assert not self.around.pulse.stalled(math.inf)


@contextmanager
def a_world(*behaviours: Behaviour, usual: Behaviour | None = None) -> Iterator[World]:
    """A world whose children behave as listed, then as `usual`. Leaving it checks that all is over."""
    machine = Machine(list(behaviours), usual or Behaviour())
    states: list[tuple[ReplicaKey, State]] = []
    inspections: list[Failure | None] = []
    examinations: list[Failure | None] = []
    rereads: list[float] = []
    free: dict[Device, int] = {}
    chances: list[float] = []
    no_secrets: list[str] = []
    uses: dict[int, GpuUse] = {}
    board = Board()
    loop = asyncio.get_running_loop()
    nowhere = Path("/nonexistent-llamad")

    def secret(name: str) -> str:
        if name in no_secrets:
            raise LlamadError(f"there is no credential {name}", hint="LoadCredential=")
        return f"secret of {name}"

    async def list_gpus(launch: Launch, *, again: bool = False) -> list[str] | None:
        return world.gpus if again else world.gpus_at_first

    around = Around(
        board=board,
        directories=Directories(nowhere, nowhere, nowhere),
        launcher=machine.launch,
        prober=machine.probe,
        pulse=Pulse(loop.time),
        environ={},
        secret=secret,
        external_key=lambda config: None,
        inspect=lambda launch: inspections.pop(0) if inspections else None,
        examine=lambda launch, address: examinations.pop(0) if examinations else None,
        list_gpus=list_gpus,
        memory_free=free.get,
        gpu_use=lambda pid, gpus: uses.get(pid, GpuUse(held=False)),
        reread=lambda: rereads.append(loop.time()),
        make_folder=lambda path: None,
        chance=lambda: chances.pop(0) if chances else 0.5,
    )

    def note(change: Change) -> None:
        if change.moved and change.new is not None:
            states.append((change.key, change.new.state))

    with board.observe(note):
        world = World(
            machine, around, states, inspections, examinations, None, None, rereads, free, chances, no_secrets, uses
        )
        yield world
        world.assert_clean()


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


KEY = ReplicaKey("a", 0)
"""The replica of `supervised`."""


class Supervised:
    """A supervisor that runs beside the test, with what it works with."""

    def __init__(
        self, world: World, launch: Launch | Failure | None = None, adopted: Running | None = None, **config: Any
    ) -> None:
        self.world = world
        self.traffic = Traffic(asyncio.get_running_loop().time)
        self.output = Output()
        self.supervisor = Supervisor(
            KEY,
            a_server(**config),
            launch or a_launch(),
            around=world.around,
            output=self.output,
            traffic=self.traffic,
            adopted=adopted,
        )
        self.task = asyncio.ensure_future(self.supervisor.run())

    @property
    def view(self) -> Replica:
        """Its replica on the board."""
        return self.world.board.replicas[KEY]

    @property
    def cause(self) -> str:
        """Of its last failure."""
        assert self.view.last_error is not None
        return self.view.last_error.cause

    async def until(self, *states: State) -> None:
        """Wait until it is in one of the states."""
        await self.world.board.wait_for(lambda: KEY in self.world.board.replicas and self.view.state in states)


@asynccontextmanager
async def supervised(
    world: World, launch: Launch | Failure | None = None, adopted: Running | None = None, **config: Any
) -> AsyncIterator[Supervised]:
    """One supervisor of a server with that configuration; leaving the block stops it, as its owner does."""
    one = Supervised(world, launch, adopted, **config)
    try:
        yield one
    finally:
        one.task.cancel()
        await asyncio.wait((one.task,))
    assert one.task.cancelled()


@asynccontextmanager
async def a_fleet(world: World, *intents: Intent, budget: Mapping[Device, int] | None = None) -> AsyncIterator[Fleet]:
    """A fleet that has taken over `intents`; leaving the block ends it."""
    async with Fleet(world.around) as fleet:
        fleet.apply(by_name(*intents), budget)
        yield fleet


def by_name(*intents: Intent) -> dict[str, Intent]:
    """What `Fleet.apply` takes."""
    return {intent.config.name: intent for intent in intents}
