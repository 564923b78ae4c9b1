"""A daemon that is not there: servers that only change state, a configuration that is a few problem lines."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from llamad.config.files import Files
from llamad.config.model import ServerConfig
from llamad.config.verdict import Verdict
from llamad.control.api import Admit, application
from llamad.control.documents import DevicesDocument, LogDocument, ModelsDocument, StatusDocument
from llamad.control.listening import control_socket, serving
from llamad.control.operations import Before, CheckOutcome, ReloadOutcome, Settled
from llamad.control.watching import watch
from llamad.control.wire import (
    ConfigView,
    ServerView,
    devices_document,
    log_document,
    models_document,
    status_document,
)
from llamad.errors import ConfigError, LlamadError, UnknownServerError
from llamad.host.devices import Devices, Gpu, Vendor
from llamad.host.gguf import Header
from llamad.servers.board import Board, Failure, Replica, ReplicaKey
from llamad.servers.explain import explain
from llamad.servers.models import Kind, ModelFile, Served
from llamad.servers.plan import Action, Step
from llamad.servers.state import State, together
from llamad.servers.traffic import Traffic
from tests.folders import short_folder

T = TypeVar("T")
MISSING = Failure("model-missing", "the model is missing", "put it there")


@dataclass
class FakeOperations:
    """Servers `qwen` (ready, two replicas; alias `q`) and `embed` (stopped); a broken server is one in `broken`, one
    that runs elsewhere is in `external`.
    """

    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    steps: tuple[Step, ...] = (Step(Action.KEEP, "embed"),)
    broken: frozenset[str] = frozenset()
    external: frozenset[str] = frozenset()
    hang: asyncio.Event | None = None
    """Whoever waits, waits for it."""
    bug: Exception | None = None
    calls: list[tuple[object, ...]] = field(default_factory=list)
    upgraded: bool = False
    verdict: Verdict = field(default_factory=Verdict)
    earlier: tuple[Before, ...] = ()
    sent: Files | None = None
    streams: int = 0
    lines: list[LogDocument] = field(default_factory=list)
    board: Board = field(default_factory=Board)

    def __post_init__(self) -> None:
        self.traffic = Traffic(lambda: 0.0)
        self.written = asyncio.Event()
        for index in range(2):
            key = ReplicaKey("qwen", index)
            self.board.add(Replica(key, state=State.READY, pid=4711 + index, started_at=0.0))
        self.board.add(Replica(ReplicaKey("embed", 0)))
        self.say("loading", "ready")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(key.server for key in self.board.replicas))

    def say(self, *texts: str, lost: int = 0) -> None:
        """qwen writes lines."""
        for text in texts:
            self.lines.append(log_document(at=1.5, level=20, replica=0, text=text, lost=lost))
        self.written.set()

    def known(self, *names: str) -> None:
        for name in names:
            if name not in self.names:
                raise UnknownServerError(name, self.names)

    def status(self, server: str | None) -> StatusDocument:
        if self.bug is not None:
            raise self.bug
        if server is not None:
            server = "qwen" if server == "q" else server
            self.known(server)
        names = self.names if server is None else (server,)
        views = [self._view(self._config(name)) for name in names]
        return status_document(version="0", ready=True, config=ConfigView(), servers=views, now=12.5)

    def _view(self, config: ServerConfig) -> ServerView:
        replicas = self.board.of(config.name)
        return ServerView(config, explain(config, replicas, running=True), replicas, self.traffic)

    def _config(self, name: str) -> ServerConfig:
        if name in self.external:
            return ServerConfig(name=name, url=f"http://{name}:80")
        aliases = ("q",) if name == "qwen" else ()
        return ServerConfig(name=name, model=Path(f"/m/{name}.gguf"), aliases=aliases)

    def watch(self, server: str | None) -> AsyncGenerator[StatusDocument, None]:
        if server is not None:
            self.known(server)
        return self._counted(watch(self.board, lambda: self.status(server), pause=0.01))

    async def _counted(self, documents: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        self.streams += 1
        try:
            async with aclosing(documents) as each:
                async for document in each:
                    yield document
        finally:
            self.streams -= 1

    def logs(self, server: str, *, last: int | None, follow: bool) -> AsyncGenerator[LogDocument, None]:
        self.known(server)
        return self._counted(self._lines(last, follow=follow))

    async def _lines(self, last: int | None, *, follow: bool) -> AsyncGenerator[LogDocument, None]:
        at = 0 if last is None else max(0, len(self.lines) - last)
        while True:
            while at < len(self.lines):
                if self.lines[at]["text"] == "CRASH":
                    raise LlamadError("the log cannot be read", hint="try again")
                if self.lines[at]["text"] == "REMOVED":
                    return
                yield self.lines[at]
                at += 1
            if not follow:
                return
            self.written.clear()
            await self.written.wait()

    async def reload(self, *, wait: bool) -> ReloadOutcome:
        outcome = await self.plan()
        await self._waited("reload", wait=wait)
        touched = [step.server for step in outcome.steps if step.action is not Action.KEEP] if wait else []
        return ReloadOutcome(
            outcome.steps, outcome.problems, self._settle(touched, State.READY), self.settings, self.earlier
        )

    async def check(self, files: Files | None) -> CheckOutcome:
        self.sent = files
        file = Path("/etc/llamad/llamad.yaml") if files is None else files.main
        return CheckOutcome(file, (file,), ("qwen", "embed"), self.verdict)

    async def plan(self, files: Files | None = None) -> ReloadOutcome:
        self.sent = files
        if self.problems:
            raise ConfigError("the configuration was not accepted", hint="nothing was changed", problems=self.problems)
        return ReloadOutcome(self.steps, self.notes, settings=self.settings, earlier=self.earlier)

    async def start(self, servers: tuple[str, ...], *, wait: bool) -> tuple[Settled, ...]:
        return await self._change("start", servers, State.READY, wait=wait)

    async def stop(self, servers: tuple[str, ...], *, wait: bool) -> tuple[Settled, ...]:
        return await self._change("stop", servers, State.STOPPED, wait=wait)

    async def restart(self, servers: tuple[str, ...], *, wait: bool) -> tuple[Settled, ...]:
        return await self._change("restart", servers, State.READY, wait=wait)

    async def _change(self, verb: str, servers: tuple[str, ...], end: State, *, wait: bool) -> tuple[Settled, ...]:
        self.known(*servers)
        await self._waited(verb, *servers, wait=wait)
        if wait:
            return self._settle(servers, end)
        return tuple(Settled(name, together(one.state for one in self.board.of(name))) for name in servers)

    async def _waited(self, *call: object, wait: bool) -> None:
        self.calls.append((*call, wait))
        if wait and self.hang is not None:
            self.calls.append(("waiting",))
            try:
                await self.hang.wait()
            finally:
                self.calls.append(("left",))

    def _settle(self, servers: list[str] | tuple[str, ...], end: State) -> tuple[Settled, ...]:
        return tuple(
            Settled(name, State.FAILED, MISSING) if name in self.broken else Settled(name, end) for name in servers
        )

    async def models(self) -> ModelsDocument:
        header = Header(3, 1, "qwen3", "Qwen3", quantization="Q4_K_M", context_length=40960, chat_template=True)
        path = Path("/m/qwen.gguf")
        file = ModelFile(path, "qwen", Kind.MODEL, 3 << 30, (path,), header)
        served = {"qwen": Served(("qwen",), "server", 8192, 4, "/m/qwen.gguf")}
        return models_document(Path("/m"), [file], served, configs={"qwen": self._config("qwen")})

    async def devices(self) -> DevicesDocument:
        gpu = Gpu(Vendor.NVIDIA, index=0, name="L4", memory_total=24 << 30, nodes=(Path("/dev/nvidia0"),))
        return devices_document(Devices((gpu,), ("no /dev/nvidia-uvm",)), {"/usr/bin/llama-server": ["CUDA0: L4"]})

    async def upgrade(self) -> None:
        await self.plan()
        self.upgraded = True


def everybody(_connection: int) -> None:
    """A door that is open."""


@asynccontextmanager
async def daemon(
    operations: FakeOperations | None = None,
    *,
    admit: Admit = everybody,
    mode: int | None = None,
    group: int | None = None,
) -> AsyncIterator[Path]:
    """`operations` behind a real control socket; its path."""
    with short_folder() as folder:
        folder.chmod(0o755)
        path = folder / "c.sock"
        with control_socket(path, group=group) as (sock, _):
            if mode is not None:
                path.chmod(mode)
            async with serving(application(operations or FakeOperations(), admit), sock):
                yield path


@dataclass(frozen=True)
class Answer:
    """A raw answer."""

    status: int
    head: str
    body: bytes


async def send(path: Path, raw: bytes) -> Answer:
    """Send bytes, take what comes until the other side closes."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        with contextlib.suppress(ConnectionError):
            writer.write(raw)
            await writer.drain()
        received = b""
        with contextlib.suppress(ConnectionError):
            while part := await asyncio.wait_for(reader.read(65536), 30):
                received += part
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    head, _, body = received.partition(b"\r\n\r\n")
    return Answer(int(head.split()[1]) if head else 0, head.decode(), body)


async def ask(path: Path, request: str) -> Answer:
    """`GET /v1/status`, and the connection closed after it."""
    return await send(path, f"{request} HTTP/1.1\r\nHost: llamad\r\nConnection: close\r\n\r\n".encode())


def a_listener(path: Path) -> socket.socket:
    """Somebody else who listens on `path`."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen(1)
    return sock
