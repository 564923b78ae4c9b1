"""Sockets that play systemd and journald, and a log that is taken back after each test."""

import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from llamad.host.journal import teardown


@dataclass(slots=True)
class Listener:
    """A datagram socket at a path: what it got, in order, with the descriptors that came along (closed at the end)."""

    path: Path
    socket: socket.socket
    fds: list[int] = field(default_factory=list)

    def receive(self) -> bytes:
        """The next datagram; BlockingIOError where there is none."""
        data, fds, _, _ = socket.recv_fds(self.socket, 1 << 20, 8)
        self.fds.extend(fds)
        return data

    def texts(self) -> list[str]:
        """Every datagram that waits, as text."""
        found = []
        while True:
            try:
                found.append(self.receive().decode())
            except BlockingIOError:
                return found

    def fill(self) -> int:
        """Fill the queue as a PID 1 that does not read would have it; returns how many datagrams that took."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            sender.connect(str(self.path))
            sent = 0
            while True:
                try:
                    sender.send(b"X-FILLER=1")
                except BlockingIOError:
                    return sent
                sent += 1

    def close(self) -> None:
        """Stop listening, leaving nothing."""
        self.socket.close()
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()
        self.path.unlink(missing_ok=True)


def listen(path: Path) -> Listener:
    """A Listener at `path`."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.bind(str(path))
    return Listener(path, sock)


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A folder whose name leaves room for a socket's."""
    folder = Path(tempfile.mkdtemp(dir="/tmp", prefix="lh-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def listener(short_dir: Path) -> Iterator[Listener]:
    """Plays systemd, or journald."""
    one = listen(short_dir / "s")
    yield one
    one.close()


@pytest.fixture
def clean_logging() -> Iterator[None]:
    """Loggers as they were before."""
    root, ours = logging.getLogger(), logging.getLogger("llamad")
    before = root.level, ours.level
    yield
    teardown()
    root.setLevel(before[0])
    ours.setLevel(before[1])
