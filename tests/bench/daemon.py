"""A real llamad, in a process of its own, over fake servers: what the proofs that no request is lost are made with."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from llamad.control.client import Client
from tests.builders import fake_binary, gguf

_ROOT = Path(__file__).parents[2]
_START = 30.0
_END = 30.0
_TALKS = {"FAKE_CHUNKS": "1000"}
"""The fake says as many words as it is asked for."""
Document = dict[str, Any]


async def until(condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
    """Wait until `condition` holds, or so many seconds: the caller then sees what is missing."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if condition():
            return
        await asyncio.sleep(0.01)


def is_there(pid: int) -> bool:
    """Whether a process with this id exists."""
    return Path(f"/proc/{pid}").exists()


class Daemon:
    """`llamad run` in `folder` (a short path: sockets lie in it), for an `async with` block. `config` is what the
    configuration says; a server without a model gets one. At the end of the block it is ended, and its exit code is in
    `code`.
    """

    def __init__(
        self, folder: Path, config: Document, *, port: int | None = None, environment: Document | None = None
    ) -> None:
        self.folder = folder
        self._environment = environment or {}
        self.address: str | tuple[str, int] = str(folder / "gate") if port is None else ("127.0.0.1", port)
        """Where the gateway listens: a unix socket, or a port of this machine."""
        self.file = folder / "llamad.yaml"
        self.log = folder / "log"
        self.code: int | None = None
        self._told = False
        self._model = folder / "m.gguf"
        self._model.write_bytes(gguf())
        self._binary = fake_binary(folder)
        self._control = Client(folder / "run" / "control.sock")
        listen = f"unix:{folder / 'gate'}" if port is None else f"127.0.0.1:{port}"
        gateway = {"listen": listen, **config.get("gateway", {})}
        self.config = {"llama_server": str(self._binary), **config, "gateway": gateway}
        self.write()

    def write(self) -> None:
        """Put `config` where the daemon reads it, in one step; it follows by itself, or at once when asked to."""
        servers = {
            name: server
            if "url" in server
            else {"model": str(self._model), **server, "env": {**_TALKS, **server.get("env", {})}}
            for name, server in self.config["servers"].items()
        }
        new = self.folder / "new"
        new.write_text(json.dumps({**self.config, "servers": servers}))  # JSON is YAML
        new.replace(self.file)

    async def __aenter__(self) -> Self:
        self._process = self._spawn()
        deadline = time.monotonic() + _START
        while b"ready: " not in self.log.read_bytes():
            if self._process.poll() is not None or time.monotonic() > deadline:
                await self.end()
                raise AssertionError(f"llamad did not start:\n{self.log.read_text()[-4000:]}")
            await asyncio.sleep(0.02)
        return self

    def _spawn(self) -> "subprocess.Popen[bytes]":
        names = {"RUNTIME_DIRECTORY": "run", "STATE_DIRECTORY": "state", "CACHE_DIRECTORY": "cache"}
        folders = {variable: str(self.folder / name) for variable, name in names.items()}
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("FAKE_", "LLAMAD_", "COV_"))}
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "llamad", "run", "--config", str(self.file)],
                cwd=_ROOT,
                env={**kept, **folders, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.end()

    async def end(self) -> None:
        """Have it end, unless it was told to, and wait for it."""
        if self._process.poll() is None and not self._told:
            self.signal(signal.SIGTERM)
        try:
            self.code = await asyncio.to_thread(self._process.wait, _END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self.code = self._process.wait()

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def lives(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def events(self, word: str) -> list[str]:
        """The lines of its log that hold `word`."""
        return [line for line in self.log.read_text(errors="replace").splitlines() if word in line]

    async def status(self) -> Document:
        """What `llamad status --json` says."""
        return await asyncio.to_thread(self._control.get, "status")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._told |= number == signal.SIGTERM
        self._process.send_signal(number)

    def processor_seconds(self) -> float:
        """Processor time that it used so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def reload(self, *, wait: bool = True) -> None:
        """`llamad reload --wait`, with what `config` says now."""
        self.write()
        await asyncio.to_thread(self._control.post, "reload", wait=wait)

    async def order(self, verb: str, server: str) -> None:
        """`llamad start|stop|restart --wait SERVER`."""
        await asyncio.to_thread(self._control.post, "servers", server, verb, wait=True)

    async def server(self, name: str) -> Document:
        """What `llamad status --json` says of a server."""
        return next(one for one in (await self.status())["servers"] if one["name"] == name)

    async def pids(self, name: str) -> list[int]:
        """The processes of a server's replicas that are ready."""
        replicas = (await self.server(name))["replicas"]
        return [one["pid"] for one in replicas if one["state"] == "ready"]

    async def until_queued(self, name: str, many: int, *, seconds: float = 10.0) -> None:
        """Wait until so many requests wait for a server."""
        began = time.monotonic()
        while (found := (await self.server(name))["queued"]) < many:
            assert time.monotonic() - began < seconds, f"{found} and not {many} wait for {name} after {seconds:g} s"
            await asyncio.sleep(0.002)

    async def until_state(self, name: str, state: str, *, seconds: float = 10.0) -> float:
        """Wait until a server is in `state`; how long that took."""
        began = time.monotonic()
        while (await self.server(name))["state"] != state:
            assert time.monotonic() - began < seconds, f"{name} is not {state} after {seconds:g} s"
            await asyncio.sleep(0.05)
        return time.monotonic() - began
