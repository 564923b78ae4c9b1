"""Request bodies, collected whole: of a known length, or chunked (RFC 9112 section 7.1). Pure."""

import re
from enum import Enum, auto

from llamad.config.units import format_size
from llamad.gateway.fields import MalformedError, read_field

_MAX_LINE = 256
_MAX_EXTRA = 64 << 10
_MANY_CHUNKS = 16384
_SMALL_CHUNK = 64
"""Bytes that each of very many chunks has to hold, all together: reading one costs time."""
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_SIZE_START = re.compile(rb"(?:[0-9A-Fa-f]{1,15}(?:[ \t]+|[ \t]*;[\t\x20-\x7e\x80-\xff]*)?\r?)?")


class _Next(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILER = auto()
    NOTHING = auto()


class SizedBody:
    """A client's body of a length that its head told."""

    __slots__ = ("_length", "body")

    def __init__(self, length: int) -> None:
        self._length = length
        self.body = bytearray()

    @property
    def done(self) -> bool:
        """Whether the body is complete."""
        return len(self.body) == self._length

    def feed(self, data: bytes) -> bytes:
        """Take `data`; returns what follows the end of the body."""
        left = self._length - len(self.body)
        self.body += data if len(data) <= left else data[:left]
        return data[left:]


class ChunkedBody:
    """A body of at most `limit` bytes, piece by piece. Extensions and trailers are checked and dropped. Where there are
    very many chunks, they have to hold `smallest` bytes each.
    """

    __slots__ = ("_buffer", "_chunks", "_extra", "_left", "_limit", "_next", "_smallest", "body")

    def __init__(self, limit: int, smallest: int = _SMALL_CHUNK) -> None:
        self._limit = limit
        self._smallest = smallest
        self._buffer = bytearray()
        self._next = _Next.SIZE
        self._left = 0
        self._extra = 0
        self._chunks = 0
        self.body = bytearray()

    @property
    def done(self) -> bool:
        """Whether the body is complete."""
        return self._next is _Next.NOTHING

    def feed(self, data: bytes) -> bytes:
        """Take `data`; returns what follows the end of the body (nothing until `done`). MalformedError 400 or 413."""
        self._buffer += data
        while self._step():
            pass
        return bytes(self._buffer) if self.done else b""

    def _step(self) -> bool:
        """Take one piece off the buffer; False where none is whole."""
        match self._next:
            case _Next.SIZE | _Next.TRAILER:
                return self._take_line()
            case _Next.DATA:
                return self._take_data()
            case _Next.DATA_END:
                return self._take_data_end()
        return False

    def _take_line(self) -> bool:
        end = self._buffer.find(b"\r\n")
        line = bytes(self._buffer if end < 0 else self._buffer[:end])
        if self._extra + len(line) > _MAX_EXTRA:
            raise MalformedError(400, "the chunks' extensions or the trailer are too long")
        if self._next is _Next.SIZE:
            self._size_line(line, whole=end >= 0)
        elif b"\n" in line or b"\r" in line[:-1]:
            raise MalformedError(400, "the trailer has a bare CR or LF in it")
        elif end > 0:
            read_field(line)
        elif end == 0:
            self._next = _Next.NOTHING
        if end < 0:
            return False
        self._extra += len(line)
        del self._buffer[: end + 2]
        return True

    def _size_line(self, line: bytes, *, whole: bool) -> None:
        match = (_SIZE_LINE if whole else _SIZE_START).fullmatch(line)
        if match is None or len(line) > _MAX_LINE:
            raise MalformedError(400, "a chunk's size is not a hexadecimal number on a line of its own")
        if not whole:
            return
        self._extra -= len(match[1])
        self._left = int(match[1], 16)
        self._chunks += 1
        if self._chunks > _MANY_CHUNKS and len(self.body) < (self._chunks - 1) * self._smallest:
            raise MalformedError(400, f"the body comes in chunks of less than {self._smallest} bytes: send larger ones")
        if len(self.body) + self._left > self._limit:
            raise too_large(self._limit)
        self._next = _Next.DATA if self._left else _Next.TRAILER

    def _take_data(self) -> bool:
        piece = self._buffer[: self._left]
        self.body += piece
        self._left -= len(piece)
        del self._buffer[: len(piece)]
        if self._left:
            return False
        self._next = _Next.DATA_END
        return True

    def _take_data_end(self) -> bool:
        if not b"\r\n".startswith(self._buffer[:2]):
            raise MalformedError(400, "a chunk is longer than its size says")
        if len(self._buffer) < 2:
            return False
        del self._buffer[:2]
        self._next = _Next.SIZE
        return True


def too_large(limit: int) -> MalformedError:
    """The refusal of a body of more than `limit` bytes."""
    size = format_size(limit) if limit >= 1 << 10 else f"{limit} bytes"
    return MalformedError(413, f"the body is larger than {size}, the limit here (gateway.max_body)")
