"""The status as a stream."""

import asyncio

from llamad.control.documents import StatusDocument
from llamad.control.watching import watch
from llamad.control.wire import ConfigView, status_document
from llamad.servers.board import Board, Replica, ReplicaKey
from llamad.servers.state import State

KEY = ReplicaKey("qwen", 0)


def a_board() -> Board:
    board = Board()
    board.add(Replica(KEY))
    return board


async def test_many_changes_at_once_are_one() -> None:
    board, shown = a_board(), 0

    def document() -> StatusDocument:
        nonlocal shown
        shown += 1
        return status_document(version="0", ready=True, config=ConfigView(), servers=(), now=0)

    stream = watch(board, document, pause=0.01, refresh=60)
    await anext(stream)
    for state in (State.STARTING, State.LOADING, State.READY):
        board.move(KEY, state, now=0)
    await asyncio.wait_for(anext(stream), 30)
    after = asyncio.ensure_future(anext(stream))
    done, _ = await asyncio.wait([after], timeout=0.05)
    assert not done, "nothing has changed since"
    assert shown == 2
    board.update(KEY, restarts=1)
    await asyncio.wait_for(after, 30)
    await stream.aclose()


async def test_a_change_during_the_pause_is_not_lost() -> None:
    board = a_board()
    stream = watch(board, _empty, pause=0.02, refresh=60)
    await anext(stream)
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    board.move(KEY, State.READY, now=0)
    await asyncio.wait_for(waiting, 30)
    await stream.aclose()


async def test_now_and_then_it_is_told_without_a_change() -> None:
    stream = watch(a_board(), _empty, pause=0.0, refresh=0.01)
    async with asyncio.timeout(30):
        for _ in range(3):
            await anext(stream)
    await stream.aclose()


async def test_who_stops_asking_does_not_observe_any_more() -> None:
    board = a_board()
    stream = watch(board, _empty)
    await anext(stream)
    assert board._observers
    await stream.aclose()
    assert not board._observers


def _empty() -> StatusDocument:
    return status_document(version="0", ready=True, config=ConfigView(), servers=(), now=0)
