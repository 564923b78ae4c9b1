"""What llamad tells systemd (sd_notify(3)), and what systemd told llamad at its start (sd_listen_fds(3)).

The datagrams go through sdnotify, whose traps are hidden here: it encodes as Latin-1, blocks, reads os.environ and
passes no file descriptors. Nothing in here raises because of systemd: without a socket every message is a no-op.
"""

import asyncio
import errno
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from sdnotify import SystemdNotifier

STATUS_LIMIT = 1024
"""Bytes of a STATUS; the whole message may have 4096, one more and systemd drops it."""

_FD_NAME = re.compile(r"[!-9;-~]{1,255}")  # printable ASCII without blanks and without the ":" of LISTEN_FDNAMES
_TAKEN = ("LISTEN_PIDFDID",)  # newer than 252, and not needed: no child may see it either

_RETRY = 0.01
"""Seconds between two tries while a full queue is waited for."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SystemdEnvironment:
    """systemd's variables as they were, None where unset. They are not checked here."""

    notify_socket: str | None = None
    watchdog_usec: str | None = None
    watchdog_pid: str | None = None
    listen_pid: str | None = None
    listen_fds: str | None = None
    listen_fdnames: str | None = None
    fdstore: str | None = None

    @property
    def can_store(self) -> bool:
        """Whether file descriptors given to systemd may come back. systemd before 254 does not say ($FDSTORE), so
        a notify socket without a word about it counts as a store.
        """
        return self.notify_socket is not None and self.fdstore != "0"


def take_systemd_environment(environ: MutableMapping[str, str]) -> SystemdEnvironment:
    """Remove systemd's variables from `environ` and return them. Call it before any child is started: a child that
    inherits them would speak for llamad.
    """
    for name in _TAKEN:
        environ.pop(name, None)
    return SystemdEnvironment(
        notify_socket=environ.pop("NOTIFY_SOCKET", None) or None,
        watchdog_usec=environ.pop("WATCHDOG_USEC", None),
        watchdog_pid=environ.pop("WATCHDOG_PID", None),
        listen_pid=environ.pop("LISTEN_PID", None),
        listen_fds=environ.pop("LISTEN_FDS", None),
        listen_fdnames=environ.pop("LISTEN_FDNAMES", None),
        fdstore=environ.pop("FDSTORE", None),
    )


def watchdog_interval(env: SystemdEnvironment, *, pid: int) -> float | None:
    """Seconds between two WATCHDOG=1, half of what systemd waits; None where the watchdog is off or another
    process's (sd_watchdog_enabled(3)).
    """
    if env.watchdog_usec is None or env.watchdog_pid not in (None, "", str(pid)):
        return None
    usec = env.watchdog_usec
    return int(usec) / 2e6 if usec.isascii() and usec.isdigit() and int(usec) > 0 else None


def status_line(text: str) -> str:
    """`text` as a STATUS may be: one line, no control characters, valid UTF-8, 1 KiB at most, cut between characters
    with an ellipsis.
    """
    printable = "".join(c if c.isprintable() else " " for c in text)  # lone surrogates are not printable either
    line = " ".join(printable.split())
    encoded = line.encode()
    if len(encoded) <= STATUS_LIMIT:
        return line
    return encoded[: STATUS_LIMIT - len("…".encode())].decode(errors="ignore") + "…"


class _Sender(SystemdNotifier):  # type: ignore[misc]  # sdnotify has no types
    """sdnotify's sender on a non-blocking socket. Its own constructor reads os.environ, where the address is gone."""

    def __init__(self, address: str) -> None:
        self.debug = True  # else every failure is swallowed
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self.socket.connect("\0" + address[1:] if address.startswith("@") else address)
        except OSError:
            self.socket.close()
            raise

    def send(self, message: str, fds: tuple[int, ...]) -> None:
        """Send one datagram. Raises OSError."""
        if fds:
            socket.send_fds(self.socket, [message.encode()], list(fds))
        else:
            self.notify(message.encode().decode("latin-1"))  # which sdnotify turns back into the same bytes


class Notifier:
    """The one voice of this process towards systemd. Built from the environment that `take_systemd_environment` took.

    READY, RELOADING and STOPPING are kept when systemd's queue is full, and go out before the next message; every other
    message is dropped then. Each method that sends returns at once. Use as a context manager or call `close`.
    """

    def __init__(self, env: SystemdEnvironment) -> None:
        self.can_store = env.can_store
        self._sender = _connect(env.notify_socket)
        self._pending: dict[str, str] = {}  # by kind, in the order to send: at most one of each of three kinds
        self._status: str | None = None
        self._is_ready = False
        self._is_stopping = False
        self._has_failed = False  # and a line has said so

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def active(self) -> bool:
        """Whether somebody listens."""
        return self._sender is not None

    def close(self) -> None:
        """Let go of the socket; every later message is a no-op."""
        if self._sender is not None:
            self._sender.socket.close()
            self._sender = None
            self._pending.clear()

    def ready(self) -> None:
        """The start is done. Send it after the SIGHUP handler is installed (262 fails a notify-reload start else)."""
        if not self._is_stopping:
            self._is_ready = True
            self._send_surely("READY", "READY=1")

    def stopping(self) -> None:
        """The end has begun; final: no READY or RELOADING follows it."""
        self._is_stopping = True
        self._send_surely("STOPPING", "STOPPING=1")

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Inside the block a reload runs; however it ends, READY=1 follows (without it the unit stays "reloading" for
        ever). Before the first READY and after STOPPING nothing is said: it would end the start too early.
        """
        if not self._is_ready or self._is_stopping:
            yield
            return
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send_surely("RELOADING", f"RELOADING=1\nMONOTONIC_USEC={now}")
        try:
            yield
        finally:
            self.ready()

    def status(self, text: str) -> None:
        """Show `text` in `systemctl status`; see `status_line`. The same text again is not sent again."""
        line = status_line(text)
        if line != self._status and self._send(f"STATUS={line}"):
            self._status = line

    def watchdog(self) -> None:
        """Every part makes progress. Call it every `watchdog_interval()`."""
        self._send("WATCHDOG=1")

    def extend_timeout(self, seconds: float) -> None:
        """Give the running start, reload or stop `seconds` from now; repeat it inside that window."""
        self._send(f"EXTEND_TIMEOUT_USEC={max(1, round(seconds * 1e6))}")

    def restart_reset(self) -> None:
        """llamad is healthy again: the next restart waits as briefly as the first (RestartSteps, systemd 258)."""
        self._send("RESTART_RESET=1")

    def store(self, name: str, *fds: int, poll: bool = True) -> bool:
        """Have systemd keep duplicates of `fds` under `name` (printable ASCII but `:`, 255 at most: ValueError) for
        the next start; `poll=False` keeps those that hang up, as a pidfd does. Returns whether it was sent.
        """
        if not fds:
            return True
        return self._send(f"FDSTORE=1\nFDNAME={_fd_name(name)}" + ("" if poll else "\nFDPOLL=0"), fds)

    def remove(self, name: str) -> bool:
        """Have systemd close everything stored under `name`. Returns whether it was sent."""
        return self._send(f"FDSTOREREMOVE=1\nFDNAME={_fd_name(name)}")

    async def barrier(self, timeout: float) -> bool:
        """Wait, `timeout` seconds at most, until systemd has worked on everything sent before; returns whether it
        has. Once, before exit (sd_notify_barrier(3)).
        """
        if self._sender is None:
            return True
        ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            async with asyncio.timeout(timeout):
                await _until(lambda: self._send("BARRIER=1", (theirs,)))
                os.close(theirs)
                theirs = -1
                await _hung_up(ours)
        except TimeoutError:
            return False
        finally:
            os.close(ours)
            if theirs >= 0:
                os.close(theirs)
        return True

    def _send_surely(self, kind: str, message: str) -> None:
        if self._sender is None:
            return
        self._pending.pop(kind, None)  # a later one of its kind replaces it, in the later place
        self._pending[kind] = message
        self._send_pending()

    def _send_pending(self) -> bool:
        while self._pending:
            kind = next(iter(self._pending))
            if not self._try(self._pending[kind], ()):
                return False
            del self._pending[kind]
        return True

    def _send(self, message: str, fds: tuple[int, ...] = ()) -> bool:
        return self._send_pending() and self._try(message, fds)

    def _try(self, message: str, fds: tuple[int, ...]) -> bool:
        if self._sender is None:
            return False
        try:
            self._sender.send(message, fds)
        except OSError as error:
            if error.errno != errno.EAGAIN and not self._has_failed:
                self._has_failed = True
                log.warning("cannot tell systemd %s: %s", message.partition("\n")[0], error.strerror)
            return False
        return True


def _connect(address: str | None) -> _Sender | None:
    if address is None:
        return None
    if not address.startswith(("/", "@")):
        log.warning("NOTIFY_SOCKET %r is neither a path nor an abstract name; systemd is told nothing", address)
        return None
    try:
        return _Sender(address)
    except OSError as error:
        log.warning("cannot reach NOTIFY_SOCKET %s (%s); systemd is told nothing", address, error.strerror or error)
        return None


def _fd_name(name: str) -> str:
    if not _FD_NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot name a stored file descriptor")
    return name


async def _until(sent: Callable[[], bool]) -> None:
    while not sent():  # noqa: ASYNC110 - a socket that fails otherwise than by being full polls as writable for ever
        await asyncio.sleep(_RETRY)


async def _hung_up(fd: int) -> None:
    """Return once the other end of pipe `fd` is closed."""
    loop = asyncio.get_running_loop()
    closed = loop.create_future()

    def hung_up() -> None:
        loop.remove_reader(fd)  # at once: it stays readable
        closed.set_result(None)

    loop.add_reader(fd, hung_up)
    try:
        await closed
    finally:
        loop.remove_reader(fd)
