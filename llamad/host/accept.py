"""Taking connections off a listening socket.

The event loops' own servers listen anew with a backlog of their own, cannot be paused, and meet a lack of descriptors
with a traceback for each connection that waits (asyncio) or by closing them (libuv).
"""

import asyncio
import ctypes
import logging
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from math import inf

from llamad.host.connecting import given_away
from llamad.host.descriptors import is_lack, own_limit

BACKLOG = 4096
"""Connections that may wait to be taken; the kernel's own bound is net.core.somaxconn."""
_AT_ONCE = 16
"""Connections that are taken before others have their turn."""
_PAUSE = 0.1
"""Seconds until it is tried again where no connection can be taken."""
_SAY_EVERY = 60.0
_SO_ATTACH_FILTER = 26
_BPF_RETURN = 0x06
"""BPF_RET | BPF_K of <linux/filter.h>."""

log = logging.getLogger(__name__)


class Acceptor:
    """Listens on `sock`, which is its own from here on, and gives each connection to a protocol made by `serve`.

    While `admits` says no (it is told how many are on their way to a protocol), connections wait in the backlog.
    `relieve` is asked for a descriptor where there is none.
    """

    def __init__(
        self,
        sock: socket.socket,
        serve: Callable[[], asyncio.Protocol],
        *,
        admits: Callable[[int], bool] = lambda _: True,
        relieve: Callable[[], object] = lambda: None,
    ) -> None:
        self.sock = sock
        self._serve = serve
        self._admits = admits
        self._relieve = relieve
        self._loop = asyncio.get_running_loop()
        self._arriving: set[asyncio.Task[None]] = set()
        self._paused: asyncio.TimerHandle | None = None
        self._said_at = -inf
        sock.settimeout(0)
        sock.listen(BACKLOG)
        self._loop.add_reader(sock, self._take)

    async def close(self, *, for_all: bool = False, leave_waiting: bool = False) -> None:
        """Take what waits already (unless it is left to others who have the socket), and nothing from now on;
        connections that were taken stay. `for_all`: nobody else who has the socket (systemd keeps it for a successor)
        listens on it any more either, and its port is free.
        """
        if self.sock.fileno() < 0:
            return
        if self._paused is not None:
            self._paused.cancel()
        if for_all:
            _turn_deaf(self.sock)
        if not leave_waiting:
            self._take(BACKLOG)
        self._loop.remove_reader(self.sock)
        if self._paused is not None:
            self._paused.cancel()
        if for_all:
            with suppress(OSError):  # nobody listened on it any more
                self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        if self._arriving:
            await asyncio.wait(self._arriving)  # it cancels none of them, as gather would

    def _take(self, most: int = 0) -> None:
        # Looking whether another one waits takes long beside the rest: that is done where they come in numbers.
        for _ in range(most or (_AT_ONCE if self._arriving else 1)):
            if not self._admits(len(self._arriving)):
                self._pause()
                return
            try:
                connection, _ = self.sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if is_lack(error):
                    self._relieve()
                    self._say(error)
                    self._pause()
                    return
                continue  # it ended before it was taken (accept(2)): nobody waits for an answer
            task = self._loop.create_task(self._hand_on(connection))
            self._arriving.add(task)
            task.add_done_callback(self._arriving.discard)

    async def _hand_on(self, connection: socket.socket) -> None:
        try:
            await given_away(self._loop.connect_accepted_socket(self._serve, connection), connection)
        except OSError:  # it is over before it began, and its client sees that
            connection.close()

    def _pause(self) -> None:
        self._loop.remove_reader(self.sock)
        self._paused = self._loop.call_later(_PAUSE, self._resume)

    def _resume(self) -> None:
        self._paused = None
        self._loop.add_reader(self.sock, self._take)

    def _say(self, error: OSError) -> None:
        now = self._loop.time()
        if now - self._said_at >= _SAY_EVERY:
            self._said_at = now
            words = "a connection cannot be taken: %s; it is tried again (the limit of file descriptors is %d)"
            log.warning(words, error.strerror, own_limit(), extra={"event": "cannot-accept"})


def _turn_deaf(sock: socket.socket) -> None:
    """Have the kernel drop what comes for a TCP socket that will be closed: whoever connects in the moment between the
    last that is taken and the close would be reset. So they try again, one second later, and find who listens then.
    """
    if sock.family == socket.AF_UNIX:
        return
    drop_all = ctypes.create_string_buffer(struct.pack("HBBI", _BPF_RETURN, 0, 0, 0))
    program = struct.pack("HP", 1, ctypes.addressof(drop_all))
    with suppress(OSError):  # then that moment is what it is
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
