"""A socket that is handed over to the loop is closed once, at whatever instant somebody loses interest."""

import ast
import asyncio
import gc
import os
import socket
from pathlib import Path

import pytest
import uvloop

from llamad.host.connecting import handed_over

uvloop.new_event_loop().close()  # the first one of a process opens a pipe that stays


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("turns", [1, 2, 3, 4])
@pytest.mark.parametrize("accepted", [False, True])
def test_a_descriptor_is_closed_once_whoever_cancels(loop: object, turns: int, accepted: bool) -> None:  # noqa: FBT001
    async def story() -> None:
        running = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        number = ours.fileno()

        async def make(sock: socket.socket) -> None:
            if accepted:
                making = running.connect_accepted_socket(asyncio.Protocol, sock)
            else:
                making = running.create_unix_connection(asyncio.Protocol, sock=sock)
            transport, _ = await handed_over(making, sock)
            try:
                await asyncio.sleep(60)
            finally:
                transport.close()

        task = asyncio.ensure_future(make(ours))
        del ours
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,))
        del task
        for _ in range(3):
            await asyncio.sleep(0)
        gc.collect(1)
        fresh = os.open("/dev/null", os.O_RDONLY)
        try:
            assert fresh == number, "it was closed"
            for _ in range(5):
                await asyncio.sleep(0)
            gc.collect(1)
            os.fstat(fresh)
        finally:
            os.close(fresh)
            theirs.close()

    with asyncio.Runner(loop_factory=loop) as runner:  # type: ignore[arg-type]
        runner.run(story())


def test_every_socket_is_handed_over_so() -> None:
    """`sock=` of a connection, and an accepted one; a listening socket is closed by who made it."""
    root = Path(__file__).parents[2] / "llamad"
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Await) and isinstance(node.value, ast.Call):
                called, given = ast.unparse(node.value.func), {one.arg for one in node.value.keywords}
                takes_it = called.endswith(("create_unix_connection", "create_connection")) and "sock" in given
                assert not takes_it, f"{path}: use handed_over"
                assert not called.endswith("connect_accepted_socket"), f"{path}: use handed_over"
