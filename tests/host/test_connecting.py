"""Connecting to a unix socket whose backlog is full."""

import asyncio
import socket
from contextlib import ExitStack

import pytest

from llamad.host.connecting import connected
from tests.folders import short_folder


async def test_one_that_finds_a_full_backlog_waits_until_there_is_room() -> None:
    with short_folder() as folder, ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(str(folder / "s"))
        server.listen(1)
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(3)]
        for one in clients:
            one.settimeout(0)
        for one in clients[:2]:
            one.connect(str(folder / "s"))
        with pytest.raises(BlockingIOError):
            clients[2].connect(str(folder / "s"))
        waiting = asyncio.ensure_future(connected(folder / "s"))
        await asyncio.sleep(0)
        assert not waiting.done()
        stack.enter_context(server.accept()[0])
        stack.enter_context(await asyncio.wait_for(waiting, 30))


async def test_one_that_finds_nobody_leaves_nothing_open() -> None:
    with short_folder() as folder, pytest.raises(FileNotFoundError):
        await connected(folder / "s")
