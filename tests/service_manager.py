"""Plays systemd: a notify socket, and a store of file descriptors that outlives whoever filled it."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.folders import short_folder
from tests.waiting import wait_until


class ServiceManager:
    """Reads what a service tells, as systemd does. `messages` has every datagram in order; `stored` has descriptors by
    name, as systemd keeps them; a barrier is answered by closing it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self.socket.bind(str(self.path))
        self.messages: list[str] = []
        self.stored: dict[str, list[int]] = {}

    def pump(self) -> list[str]:
        """Take in what waits; returns all messages so far."""
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self.socket, 1 << 16, 8)
            except BlockingIOError:
                return self.messages
            text = data.decode()
            self.messages.append(text)
            self._keep(dict(line.split("=", 1) for line in text.splitlines()), fds)

    def _keep(self, fields: dict[str, str], fds: list[int]) -> None:
        name = fields.get("FDNAME", "stored")
        if fields.get("FDSTORE") == "1":
            self.stored.setdefault(name, []).extend(fds)
        else:
            _close(fds)  # a barrier is answered by this
        if fields.get("FDSTOREREMOVE") == "1":
            _close(self.stored.pop(name, []))

    def wait_for(self, message: str, *, seconds: float = 30.0) -> list[str]:
        """Return once a message begins like this; all messages so far."""
        wait_until(lambda: any(one.startswith(message) for one in self.pump()), seconds=seconds)
        return self.messages

    def status(self) -> str:
        """The STATUS that `systemctl status` would show."""
        lines = [line for one in self.pump() for line in one.splitlines() if line.startswith("STATUS=")]
        return lines[-1].removeprefix("STATUS=") if lines else ""

    def close(self) -> None:
        """Forget everything."""
        self.pump()
        self.socket.close()
        for fds in self.stored.values():
            _close(fds)
        self.stored.clear()


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


@contextmanager
def service_manager() -> Iterator[ServiceManager]:
    """One that plays systemd for as long as the block lasts."""
    with short_folder() as folder:
        manager = ServiceManager(folder)
        try:
            yield manager
        finally:
            manager.close()
