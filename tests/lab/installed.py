"""llamad on a machine of the lab: configure it, ask it, look at what systemd and the journal say about it."""

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import yaml

from tests.lab.machine import GuestError, until
from tests.lab.roots import REPOSITORY

SERVICE = "llamad.service"
FAKE = "/usr/local/bin/fake-llama-server"
FAKE_HOME = "/usr/local/lib/lab/tests"
FAKE_MODEL = "/srv/models/tiny.gguf"
CLIENT = "/usr/local/lib/lab/client.py"
CONF = "/etc/llamad/conf.d/50-lab.yaml"
DROP_IN = "/etc/systemd/system/llamad.service.d/lab.conf"
KEYS = "/etc/llamad/api-keys"
SHIPPED_CONFIG = "/etc/llamad/llamad.yaml"
USERS = ("alice", "bob", "carol")
"""People with a login, in no group but their own."""

Document = dict[str, Any]


class Box(Protocol):
    """A machine, whatever runs it."""

    def run(
        self, *command: str, check: bool = True, timeout: float = 60, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root inside. Raises GuestError when it fails, unless `check` is false."""
        ...

    def write(self, path: str, text: str | bytes, mode: int = 0o644) -> None:
        """Put a file inside, in one step as a careful editor does. Folders are made."""
        ...


class Installed:
    """A machine with llamad on it."""

    def __init__(self, machine: Box) -> None:
        self.machine: Box = machine

    def run(self, *command: str, check: bool = True, timeout: float = 60) -> str:
        """What a command inside prints. Raises GuestError when it fails, unless `check` is false."""
        return self.machine.run(*command, check=check, timeout=timeout).stdout

    def code(self, *command: str) -> int:
        """How a command inside ends."""
        return self.machine.run(*command, check=False).returncode

    # --- other people

    def login(
        self, user: str, *command: str, groups: str | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """A command of one of USERS, in the groups of the user database; or in `groups` (none: ""), as in a login that
        is older than a change of it.
        """
        become = [f"--reuid={user}", f"--regid={user}", "--init-groups"]
        if groups is not None:
            become[2:] = [f"--groups={groups}"] if groups else ["--clear-groups"]
        own = ("env", f"HOME=/home/{user}", f"USER={user}")
        return self.machine.run("setpriv", *become, "--", *own, *command, check=False, timeout=timeout)

    # --- the service

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
        """The service's journal, oldest first, as `journalctl -o json` has it."""
        self.run("journalctl", "--sync", check=False)
        shown = self.run("journalctl", "--no-pager", "-o", "json", "--all", "-u", SERVICE, *matches)
        return [json.loads(line) for line in shown.splitlines()]

    def messages(self, *matches: str) -> str:
        """The journal's messages, a line each."""
        return "\n".join(str(entry["MESSAGE"]) for entry in self.journal(*matches))

    def story(self) -> str:
        """The last of the journal, for a failed test."""
        return "\n".join(self.messages().splitlines()[-40:])


def lab_files() -> dict[str, tuple[bytes, int]]:
    """What the lab puts on a machine, by path, with its mode: the fake server, a model for it, the lab's client."""
    fakes = (REPOSITORY / "tests/fake_llama.py", *(REPOSITORY / "tests/fakes").glob("*.*"))
    found = {f"{FAKE_HOME}/{file.relative_to(REPOSITORY / 'tests')}": (file.read_bytes(), 0o644) for file in fakes}
    found[FAKE] = f'#!/bin/sh\nexec python3 -I -S {FAKE_HOME}/fake_llama.py "$@"\n'.encode(), 0o755
    found[FAKE_MODEL] = b"GGUF\x03\0\0\0" + bytes(16), 0o644
    found[CLIENT] = Path(__file__).with_name("client.py").read_bytes(), 0o644
    return found
