"""Listening sockets: bound, or inherited; what cannot be bound is tried again."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path

from llamad.gateway.bind import Leaving, Place, bind, file_of, resolve, why
from llamad.gateway.upstream import Spawn
from llamad.host.accept import Acceptor
from llamad.host.address import Address, TcpAddress, UnixAddress
from llamad.host.threads import aside

FIRST_RETRY = 0.5
LAST_RETRY = 10.0
SOCKET_UNIT_NAME = "gateway"
"""FileDescriptorName= of llamad.socket."""

logger = logging.getLogger(__name__)


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
        self, address: Address, take: Callable[[socket.socket], Acceptor], *, spawn: Spawn, changed: Callable[[], None]
    ) -> None:
        self._address = address
        self._take = take
        self._spawn = spawn
        self._changed = changed
        self._acceptors: list[Acceptor] = []
        self._file: tuple[int, int] | None = None
        """The unix socket that this listens on."""
        self._retrying: asyncio.Task[None] | None = None
        self.problem: str | None = None

    @property
    def sockets(self) -> list[socket.socket]:
        """What is listened on; they stay the listener's."""
        return [one.sock for one in self._acceptors]

    async def open(self, inherited: list[socket.socket], leaving: Leaving) -> None:
        """Listen on `inherited`, or bind; where that fails, go on trying."""
        if inherited:
            self._file = file_of(self._address)
            self._serve(inherited)
        elif not await self._try(leaving):
            self._retrying = self._spawn(self._retry())

    async def withdraw(self) -> None:
        """This address is not wanted any more: close it, and leave no socket's file behind."""
        await self._close(for_all=True)
        if isinstance(self._address, UnixAddress) and self._file is not None and self._file == file_of(self._address):
            with contextlib.suppress(OSError):  # llamad may not write there any more: a successor replaces the file
                self._address.path.unlink()

    async def close(self) -> None:
        """Take no more connections here; those that are there, or wait to be taken, stay. A unix socket's file stays
        too: a successor may have inherited the socket, and one that has not replaces the file.
        """
        await self._close(for_all=False)

    async def _close(self, *, for_all: bool) -> None:
        if self._retrying is not None:
            self._retrying.cancel()
        for acceptor in self._acceptors:
            await acceptor.close(for_all=for_all)

    async def _retry(self) -> None:
        delay = FIRST_RETRY
        while True:
            await asyncio.sleep(delay)
            if await self._try({}):
                return
            delay = min(delay * 2, LAST_RETRY)

    async def _try(self, leaving: Leaving) -> bool:
        try:
            self._serve(bind(self._address, await self._resolve(), leaving))
        except OSError as error:
            problem = f"cannot listen on {self._address}: {why(error)}"
            if problem != self.problem:
                logger.error("%s; trying again", problem, extra={"event": "listen-failed"})
                self._say(problem)
            return False
        self._file = file_of(self._address)
        logger.info("listening on %s", self._address, extra={"event": "listening"})
        self._say(None)
        return True

    async def _resolve(self) -> list[Place]:
        return await aside(resolve, self._address) if isinstance(self._address, TcpAddress) else []

    def _serve(self, sockets: Iterable[socket.socket]) -> None:
        self._acceptors += [self._take(sock) for sock in sockets]

    def _say(self, problem: str | None) -> None:
        self.problem = problem
        self._changed()
