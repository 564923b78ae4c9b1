"""Listening sockets: bound, or inherited; what cannot be bound is tried again."""

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
import sys
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

from llamad.gateway.upstream import Spawn
from llamad.host.address import Address, TcpAddress, UnixAddress

FIRST_RETRY = 0.5
LAST_RETRY = 10.0
BACKLOG = 1024
UNIX_MODE = 0o660
_LEAVE_THE_FILE: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
"""Since Python 3.13 a server that is closed removes its socket's file, which a successor may have inherited."""
SOCKET_UNIT_NAME = "gateway"
"""FileDescriptorName= of llamad.socket."""

logger = logging.getLogger(__name__)


def bind(address: Address, resolved: Iterable[tuple[int, str]]) -> list[socket.socket]:
    """Sockets that listen at `address`, non-blocking. `resolved` is what a TCP address's host stands for: families and
    IP addresses. OSError where it cannot be; then nothing is left open.
    """
    if isinstance(address, UnixAddress):
        return [_bind_unix(str(address.path))]
    opened: list[socket.socket] = []
    try:
        for family, host in resolved:
            opened.append(_bind_tcp(family, host, address))
    except OSError:
        for sock in opened:
            sock.close()
        raise
    return opened


def _bind_tcp(family: int, host: str, address: TcpAddress) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.settimeout(0)
        sock.bind((host, address.port))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _bind_unix(path: str) -> socket.socket:
    """A socket file left behind by a process that ended is replaced, one that answers is not."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(0)
        try:
            sock.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _abandoned(path):
                raise
            os.unlink(path)
            sock.bind(path)
        os.chmod(path, UNIX_MODE)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _abandoned(path: str) -> bool:
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False  # connecting to it would be refused just the same
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def _file(address: Address) -> tuple[int, int] | None:
    """Which file a unix socket is now: a successor may have put its own there."""
    if isinstance(address, UnixAddress):
        with contextlib.suppress(OSError):
            found = os.stat(address.path)
            return found.st_dev, found.st_ino
    return None


def _why_not(error: OSError) -> str:
    """Why an address cannot be listened on, for a person."""
    match error.errno:
        case errno.EADDRINUSE:
            return "something else listens there"
        case errno.EACCES | errno.EPERM:
            return "not allowed: a port below 1024 needs CAP_NET_BIND_SERVICE, a socket a writable folder"
        case errno.EADDRNOTAVAIL:
            return "this machine does not have that IP address (yet)"
        case _:
            return error.strerror or str(error)


def descriptor_name(address: Address) -> str:
    """The name under which systemd keeps what listens at `address`: stable, and without the characters that
    sd_pid_notify_with_fds(3) forbids in FDNAME.
    """
    return f"gateway-{sha256(str(address).encode()).hexdigest()[:16]}"


def inherit(handed: dict[str, list[int]], addresses: Iterable[Address]) -> dict[Address, list[socket.socket]]:
    """Take the sockets that listen at `addresses` out of `handed`, descriptors by name: those that an earlier llamad
    stored, and those of `llamad.socket`, told by where they are bound. What is no listening socket stays there.
    """
    out: dict[Address, list[socket.socket]] = {}
    for address in addresses:
        name = descriptor_name(address)
        if all(map(_listens, handed.get(name, []))):
            out[address] = [socket.socket(fileno=descriptor) for descriptor in handed.pop(name, [])]
    for descriptor in list(handed.get(SOCKET_UNIT_NAME, [])):
        bound = _bound_to(descriptor) if _listens(descriptor) else None
        if bound is not None and bound in out:
            out[bound].append(socket.socket(fileno=descriptor))
            handed[SOCKET_UNIT_NAME].remove(descriptor)
    return out


def _bound_to(descriptor: int) -> Address:
    sock = socket.socket(fileno=descriptor)
    try:
        name = sock.getsockname()
    finally:
        sock.detach()
    return UnixAddress(Path(name)) if sock.family == socket.AF_UNIX else TcpAddress(str(name[0]), int(name[1]))


def _listens(descriptor: int) -> bool:
    sock = socket.socket(fileno=descriptor)
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    finally:
        sock.detach()


class Listener:
    """One address of the configuration: listened on, or tried again with backoff. `problem` says why it is not."""

    def __init__(
        self, address: Address, serve: Callable[[], asyncio.Protocol], *, spawn: Spawn, changed: Callable[[], None]
    ) -> None:
        self._address = address
        self._serve_one = serve
        self._spawn = spawn
        self._changed = changed
        self._servers: list[asyncio.Server] = []
        self._file: tuple[int, int] | None = None
        """The unix socket that this listens on."""
        self._retrying: asyncio.Task[None] | None = None
        self.problem: str | None = None

    @property
    def sockets(self) -> list[socket.socket]:
        """What is listened on; they stay the listener's."""
        return [sock for server in self._servers for sock in server.sockets]

    async def open(self, inherited: list[socket.socket]) -> None:
        """Listen on `inherited`, or bind; where that fails, go on trying."""
        if inherited:
            self._file = _file(self._address)
            await self._serve(inherited)
        elif not await self._try():
            self._retrying = self._spawn(self._retry())

    def withdraw(self) -> None:
        """This address is not wanted any more: close it, and leave no socket's file behind."""
        self.close()
        if isinstance(self._address, UnixAddress) and self._file is not None and self._file == _file(self._address):
            with contextlib.suppress(OSError):  # llamad may not write there any more: a successor replaces the file
                self._address.path.unlink()

    def close(self) -> None:
        """Take no more connections here; those that are there stay. A unix socket's file stays too: a successor may
        have inherited the socket, and one that has not replaces the file.
        """
        if self._retrying is not None:
            self._retrying.cancel()
        for server in self._servers:
            server.close()

    async def _retry(self) -> None:
        delay = FIRST_RETRY
        while True:
            await asyncio.sleep(delay)
            if await self._try():
                return
            delay = min(delay * 2, LAST_RETRY)

    async def _try(self) -> bool:
        try:
            await self._serve(bind(self._address, await self._resolve()))
        except OSError as error:
            problem = f"cannot listen on {self._address}: {_why_not(error)}"
            if problem != self.problem:
                logger.error("%s; trying again", problem, extra={"event": "listen-failed"})
                self._say(problem)
            return False
        self._file = _file(self._address)
        logger.info("listening on %s", self._address, extra={"event": "listening"})
        self._say(None)
        return True

    async def _resolve(self) -> list[tuple[int, str]]:
        if not isinstance(self._address, TcpAddress):
            return []
        found = await asyncio.get_running_loop().getaddrinfo(
            self._address.host, self._address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        return list(dict.fromkeys((family, str(where[0])) for family, _, _, _, where in found))

    async def _serve(self, sockets: Iterable[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        for sock in sockets:
            if sock.family == socket.AF_UNIX:
                server = await loop.create_unix_server(self._serve_one, sock=sock, **_LEAVE_THE_FILE)
            else:
                server = await loop.create_server(self._serve_one, sock=sock)
            self._servers.append(server)

    def _say(self, problem: str | None) -> None:
        self.problem = problem
        self._changed()
