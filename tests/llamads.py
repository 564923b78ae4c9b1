"""`llamad run` as a process, with fake servers, in a folder of its own; alone, or under a service manager."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llamad.control.client import Client
from llamad.errors import LlamadError
from tests.builders import fake_binary, gguf
from tests.folders import short_folder
from tests.service_manager import ServiceManager
from tests.waiting import wait_until

_ENV = {"PATH", "HOME", "LANG", "COVERAGE_PROCESS_START", "PYTHONPATH", "VIRTUAL_ENV"}
_AS_SYSTEMD_DOES = """
import fcntl, os, sys
fds = [int(word) for word in sys.argv[1].split(",") if word]
high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 200) for fd in fds]
for position, fd in enumerate(high):
    os.dup2(fd, 3 + position, inheritable=True)
os.closerange(3 + len(high), 300)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


class Llamad:
    """One llamad at a time. `configure` writes its file, `start` runs it, `client` asks it; `log` is what it wrote."""

    def __init__(self, folder: Path, manager: ServiceManager | None = None) -> None:
        self.folder = folder
        self.file = folder / "llamad.yaml"
        self.runtime = folder / "run"
        self.log_file = folder / "log"
        self.manager = manager
        self.client = Client(self.runtime / "control.sock")
        self.process: subprocess.Popen[bytes] | None = None
        self.descriptors: str | None = None
        """Its soft and hard limit of file descriptors, as SOFT:HARD; None: those of this process."""
        self.binary = fake_binary(folder)
        self.model = folder / "m.gguf"
        self.model.write_bytes(gguf({"general.architecture": "llama"}))

    def configure(self, servers: Mapping[str, Mapping[str, Any]], **top: Any) -> None:
        """Write the file in one step, as an editor does; each server gets the model unless it says otherwise."""
        full = {
            "llama_server": str(self.binary),
            "gateway": {"listen": None},
            "defaults": {"restart": {"initial_delay": "10ms", "jitter": 0, "max_delay": "1s"}},
            **top,
            "servers": {name: {"model": str(self.model), **one} for name, one in servers.items()},
        }
        self.write(json.dumps(full, indent=1))

    def write(self, text: str) -> None:
        """Replace the file by this text in one step."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.file)

    def start(self, **environment: str) -> None:
        """Run it; under a manager with what it keeps, as systemd hands it over."""
        kept = {key: value for key, value in os.environ.items() if key in _ENV}
        env = {
            **kept,
            **{f"{name}_DIRECTORY": str(self.folder / name[:5].lower()) for name in ("STATE", "CACHE")},
            "RUNTIME_DIRECTORY": str(self.runtime),
            "PYTHONPATH": str(Path(__file__).parents[1]),
            **environment,
        }
        words = [sys.executable, "-m", "llamad", "run", "--config", str(self.file)]
        if self.descriptors is not None:
            words = ["prlimit", f"--nofile={self.descriptors}", *words]
        fds: list[int] = []
        if self.manager is not None:
            self.manager.pump()
            env["NOTIFY_SOCKET"] = str(self.manager.path)
            pairs = [(name, fd) for name, kept_fds in self.manager.stored.items() for fd in kept_fds]
            fds = [fd for _, fd in pairs]
            env["LISTEN_FDS"] = str(len(fds))
            env["LISTEN_FDNAMES"] = ":".join(name for name, _ in pairs)
            words = [sys.executable, "-IS", "-c", _AS_SYSTEMD_DOES, ",".join(map(str, fds)), *words]
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(words, env=env, stdout=log, stderr=log, pass_fds=fds, process_group=0)

    @property
    def log(self) -> str:
        """Everything it has written so far."""
        return self.log_file.read_text() if self.log_file.exists() else ""

    def events(self, word: str) -> list[str]:
        """The lines of the log that hold `word`."""
        return [line for line in self.log.splitlines() if word in line]

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM, *, seconds: float = 15.0) -> int:
        """Have it end; its exit code."""
        self.send(number)
        return self.wait(seconds=seconds)

    def wait(self, *, seconds: float = 15.0) -> int:
        """Its exit code, once it has ended by itself."""
        assert self.process is not None
        if self.manager is not None:
            wait_until(self._ended_while_read, seconds=seconds)  # a barrier wants an answer
        return self.process.wait(seconds)

    def _ended_while_read(self) -> bool:
        assert self.manager is not None
        assert self.process is not None
        self.manager.pump()
        return self.process.poll() is not None

    def status(self, server: str) -> dict[str, Any]:
        """The status document's entry of a server, with its first replica's figures added; empty where none answers."""
        try:
            (one,) = self.client.get("status", server=server)["servers"]
        except (LlamadError, ValueError):
            return {}
        first: dict[str, Any] = one["replicas"][0] if one["replicas"] else {}
        return {**first, **one}

    def wait_for(self, server: str, state: str = "ready", *, seconds: float = 15.0) -> dict[str, Any]:
        """The status of a server, once it is in this state."""
        seen: dict[str, Any] = {}

        def there() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log
            if self.manager is not None:
                self.manager.pump()
            seen.update(self.status(server))
            return seen.get("state") == state

        try:
            wait_until(there, seconds=seconds)
        except AssertionError:
            raise AssertionError(f"{server} is {seen}, not {state}:\n{self.log}") from None
        return seen

    def kill(self) -> None:
        """End whatever is left, ungently."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(5)
        if self.manager is not None:
            self.manager.pump()
            for name, fds in self.manager.stored.items():
                if name.startswith("pid-"):
                    for fd in fds:
                        _kill(fd)


def _kill(pid_fd: int) -> None:
    try:
        signal.pidfd_send_signal(pid_fd, signal.SIGKILL)
    except OSError:
        return


@contextmanager
def a_llamad(manager: ServiceManager | None = None) -> Iterator[Llamad]:
    """A llamad that is not started yet; it and its servers are gone at the end."""
    with short_folder() as folder:
        one = Llamad(folder, manager)
        try:
            yield one
        finally:
            one.kill()
