"""What a server's processes write: bytes to lines, and the newest lines for whoever asks.

Everything is bounded: the pieces of an over-long line, the ring, and what a slow reader may be behind.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from llamad.host.visible import visible
from llamad.servers.loglines import has_prefix

MAX_LINE = 8192
"""Bytes of a line; the rest becomes further lines."""
_PREFIX_BYTES = 100
"""What holds the time and the level of a line, with colours."""
MAX_LINES = 2000
MAX_KEPT_BYTES = 1 << 20
"""What a ring holds at most, whichever bound comes first."""
MAX_BEHIND = 1000
"""Lines that a follower may be behind before it loses the oldest."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a server's output. `at` is unix time, `level` a logging level."""

    at: float
    level: int
    text: str
    replica: int


class LineSplitter:
    """Bytes as they come to lines of text that is safe to show (`visible`). What is not UTF-8 is replaced,
    NUL shown as U+FFFD too; `\\r\\n` and
    `\\n` end a line, and of a progress bar redrawn with `\\r` only the last state stays, unless it began as a line of
    llama.cpp's own does: then somebody wants to hide that.
    """

    def __init__(self, max_line: int = MAX_LINE) -> None:
        self._max = max_line
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """The lines that `data` completes."""
        *whole, rest = data.split(b"\n")
        if not whole and len(self._rest) + len(rest) <= self._max:
            self._rest += rest
            return []
        lines: list[str] = []
        for part in whole:
            lines += self._cut(self._rest + part)
            self._rest = b""
        *pieces, self._rest = self._pieces(self._rest + rest)
        return [*lines, *map(_text, pieces)]

    def flush(self) -> list[str]:
        """What was begun and not ended, as the writer is gone."""
        rest, self._rest = self._rest, b""
        return self._cut(rest) if rest else []

    def _cut(self, line: bytes) -> list[str]:
        line = line.removesuffix(b"\r")
        if b"\r" in line and not has_prefix(visible(line[:_PREFIX_BYTES].decode(errors="replace"))):
            line = line[line.rfind(b"\r") + 1 :]
        return [_text(piece) for piece in self._pieces(line)]

    def _pieces(self, line: bytes) -> list[bytes]:
        """`line` in pieces of at most the bound, cut between characters of UTF-8 where there are such."""
        pieces = []
        while len(line) > self._max:
            at = self._max
            while at > self._max - 4 and line[at] & 0xC0 == 0x80:
                at -= 1
            pieces.append(line[:at])
            line = line[at:]
        return [*pieces, line]


def _text(raw: bytes) -> str:
    return visible(raw.decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}"))


class Follower:
    """One reader of new lines; `async for` gives them. `lost` counts lines it was too slow for, since last taken."""

    def __init__(self, max_behind: int = MAX_BEHIND) -> None:
        self._waiting: deque[Line] = deque(maxlen=max_behind)
        self._more = asyncio.Event()
        self._lost = 0

    def push(self, line: Line) -> None:
        """A new line."""
        if len(self._waiting) == self._waiting.maxlen:
            self._lost += 1
        self._waiting.append(line)
        self._more.set()

    def take_lost(self) -> int:
        """How many lines were lost since this was last asked."""
        lost, self._lost = self._lost, 0
        return lost

    def __aiter__(self) -> AsyncIterator[Line]:
        return self

    async def __anext__(self) -> Line:
        while not self._waiting:
            self._more.clear()
            await self._more.wait()
        return self._waiting.popleft()


class Output:
    """The newest lines of one server, of all its replicas; it outlives their processes."""

    def __init__(self, max_lines: int = MAX_LINES, max_bytes: int = MAX_KEPT_BYTES) -> None:
        self._lines: deque[Line] = deque()
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._bytes = 0
        self._followers: list[Follower] = []

    def add(self, line: Line) -> None:
        """A new line; the oldest go where it does not fit."""
        self._lines.append(line)
        self._bytes += len(line.text)
        while len(self._lines) > self._max_lines or (self._bytes > self._max_bytes and len(self._lines) > 1):
            self._bytes -= len(self._lines.popleft().text)
        for follower in self._followers:
            follower.push(line)

    def lines(self, n: int | None = None) -> list[Line]:
        """The newest `n` lines (None: all that are kept), oldest first."""
        if n is None:
            return list(self._lines)
        return list(self._lines)[-n:] if n > 0 else []

    @asynccontextmanager
    async def follow(self, *, max_behind: int = MAX_BEHIND) -> AsyncIterator[Follower]:
        """Every line that is added inside the block: `async with output.follow() as lines: async for line in lines`.

        A reader that is more than `max_behind` lines late loses the oldest; `lines.take_lost()` tells how many.
        """
        follower = Follower(max_behind)
        self._followers.append(follower)
        try:
            yield follower
        finally:
            self._followers.remove(follower)
