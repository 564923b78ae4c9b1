"""Connecting to a unix socket whose server lets few wait."""

import asyncio
import socket
from pathlib import Path

_PAUSE = 0.005


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
