"""The status as a stream: after changes on the board, coalesced, and now and then for what the board does not tell."""

import asyncio
from collections.abc import AsyncGenerator, Callable

from llamad.control.documents import StatusDocument
from llamad.servers.board import Board, Change


async def watch(
    board: Board, document: Callable[[], StatusDocument], *, pause: float = 0.1, refresh: float = 2.0
) -> AsyncGenerator[StatusDocument, None]:
    """Yield `document()` now, then after changes of the board, at most once in `pause` seconds, and at least once in
    `refresh` seconds (requests in flight and uptimes change without the board). Ends when the reader stops asking.
    """
    changed = asyncio.Event()

    def note(_change: Change) -> None:
        changed.set()

    with board.observe(note):
        while True:
            changed.clear()
            yield document()
            await asyncio.sleep(pause)
            try:
                async with asyncio.timeout(refresh - pause):
                    await changed.wait()
            except TimeoutError:
                continue
