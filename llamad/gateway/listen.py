"""Listening sockets: bound, or inherited; what cannot be bound is tried again."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterable
from hashlib import sha256

from llamad.gateway.bind import Leaving, Place, bind, file_of, resolve, why
from llamad.gateway.socketunit import UnitSockets, listens
from llamad.gateway.upstream import Spawn
from llamad.host.accept import Acceptor
from llamad.host.address import Address, TcpAddress, UnixAddress
from llamad.host.threads import aside

FIRST_RETRY = 0.5
LAST_RETRY = 10.0
STORED = "gateway-"
"""What the names of stored sockets begin with."""

logger = logging.getLogger(__name__)


def descriptor_name(address: Address) -> str:
    """The name under which systemd keeps what listens at `address`: stable, and without the characters that
    sd_pid_notify_with_fds(3) forbids in FDNAME.
    """
    return f"{STORED}{sha256(str(address).encode()).hexdigest()[:16]}"


def inherit(handed: dict[str, list[int]], addresses: Iterable[Address]) -> dict[Address, list[socket.socket]]:
    """Take the sockets that listen at `addresses`, and that an earlier llamad stored, out of `handed`, descriptors by
    name. What is no listening socket stays there.
    """
    out: dict[Address, list[socket.socket]] = {}
    for address in addresses:
        name = descriptor_name(address)
        if all(map(listens, handed.get(name, []))):
            out[address] = [socket.socket(fileno=descriptor) for descriptor in handed.pop(name, [])]
    return out


class Listener:
    """One address of the configuration: listened on, or tried again with backoff. `problem` says why it is not."""

    def __init__(
        self,
        address: Address,
        take: Callable[[socket.socket], Acceptor],
        *,
        unit: UnitSockets,
        spawn: Spawn,
        changed: Callable[[], None],
    ) -> None:
        self._address = address
        self._unit = unit
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
            self._serve(inherited)
        elif not await self._try(leaving):
            self._retrying = self._spawn(self._retry())

    async def withdraw(self) -> None:
        """This address is not wanted any more: close it, and leave no socket's file behind. What is systemd's stays."""
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
            await acceptor.close(for_all=for_all and not self._unit.owns(acceptor.sock))

    async def _retry(self) -> None:
        delay = FIRST_RETRY
        while True:
            await asyncio.sleep(delay)
            if await self._try({}):
                return
            delay = min(delay * 2, LAST_RETRY)

    async def _try(self, leaving: Leaving) -> bool:
        try:
            self._serve(bind(self._address, await self._resolve(), leaving, self._unit))
        except OSError as error:
            problem = f"cannot listen on {self._address}: {why(error, self._address, self._unit)}"
            if problem != self.problem:
                logger.error("%s; trying again", problem, extra={"event": "listen-failed"})
                self._say(problem)
            return False
        logger.info("listening on %s", self._address, extra={"event": "listening"})
        self._say(None)
        return True

    async def _resolve(self) -> list[Place]:
        return await aside(resolve, self._address) if isinstance(self._address, TcpAddress) else []

    def _serve(self, sockets: Iterable[socket.socket]) -> None:
        self._acceptors += [self._take(sock) for sock in sockets]
        if not any(map(self._unit.owns, self.sockets)):
            self._file = file_of(self._address)

    def _say(self, problem: str | None) -> None:
        self.problem = problem
        self._changed()
