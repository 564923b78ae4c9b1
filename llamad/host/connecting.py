"""Connecting to a unix socket whose server lets few wait, and handing a socket over to the loop."""

import asyncio
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

_T = TypeVar("_T", bound=asyncio.BaseTransport)
_P = TypeVar("_P", bound=asyncio.BaseProtocol)
_PAUSE = 0.005


async def handed_over(making: Coroutine[Any, Any, tuple[_T, _P]], sock: socket.socket) -> tuple[_T, _P]:
    """What makes a transport of `sock` (`create_unix_connection(sock=)`, `connect_accepted_socket`); nobody but that
    transport closes its descriptor. Where the hand-over is cancelled, or the transport is closed before it ends, uvloop
    closes the descriptor and leaves it to `sock` as well, which closes the number again, whosever it is by then. So it
    is not cancelled: whoever cancels this waits the one turn of the loop that it takes.
    """
    task = asyncio.ensure_future(given_away(making, sock))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_close)
        await asyncio.wait((task,))
        raise


async def given_away(making: Coroutine[Any, Any, tuple[_T, _P]], sock: socket.socket) -> tuple[_T, _P]:
    """The same in a task of its own, which nobody cancels."""
    made = await making
    if not isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop):  # uvloop, which has the number by now
        sock.detach()
    return made


def _close(task: asyncio.Task[tuple[_T, _P]]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result()[0].close()


async def connected(path: Path) -> socket.socket:
    """A socket connected to a unix socket. Where as many wait there as its server lets wait (cpp-httplib: 5),
    connect(2) says EAGAIN, which event loops take for a connection that is being made: so it is tried again here.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(0)
        while True:
            try:
                sock.connect(str(path))
            except BlockingIOError:
                await asyncio.sleep(_PAUSE)
            else:
                return sock
    except BaseException:
        sock.close()
        raise
