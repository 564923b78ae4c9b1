"""Closing what others still connect to. What else an Acceptor does is tested where it is used, in tests/gateway."""

import asyncio
import select
import socket

from llamad.host import accept
from llamad.host.accept import Acceptor


async def test_who_connects_between_the_last_that_is_taken_and_the_close_finds_who_listens_next() -> None:
    old, new, client = (socket.socket() for _ in range(3))
    with old, new, client:
        for sock in (old, new):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        old.bind(("127.0.0.1", 0))
        new.bind(("0.0.0.0", old.getsockname()[1]))
        new.listen()
        acceptor = Acceptor(old, asyncio.Protocol)
        accept._turn_deaf(old)
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", new.getsockname()[1]))
        assert select.select([], [client], [], 0.2)[1] == [], "it is neither connected nor reset"
        await acceptor.close(for_all=True)
        assert await asyncio.to_thread(select.select, [new], [], [], 10) == ([new], [], []), "it tries again"
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
