"""The bodies of an upstream's answers: passed on as they come, and followed to their end. Pure."""

import re
from typing import Protocol

from llamad.gateway.answers import AnswerShape
from llamad.gateway.bodies import ChunkedBody
from llamad.gateway.fields import MalformedError
from llamad.gateway.types import RequestHead

_UNLIMITED = 1 << 62
_MAX_TRAILER = 8 << 10
_MAX_REPAIR = 64 << 10
_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")
_HELD = re.compile(rb"[0-9A-Fa-f]{1,15}\r?")


class AnswerBody(Protocol):
    """Follows an answer's body to its end."""

    done: bool
    surplus: bool
    """Whether bytes came after the end: the connection cannot be used again."""

    def feed(self, data: bytes) -> bytes:
        """Take what came; returns what the client gets. MalformedError where the framing is wrong."""
        ...

    def repair(self) -> bytes | None:
        """What has to be written before one more event can be, where the answer breaks off here; None: it cannot."""
        ...


class LengthBody:
    """A body of a known length, none included."""

    __slots__ = ("_left", "done", "surplus")

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = not length
        self.surplus = False

    def feed(self, data: bytes) -> bytes:
        left = self._left - len(data)
        if left < 0:
            self.surplus = True
            data, left = data[: self._left], 0
        self._left = left
        self.done = not left
        return data

    def repair(self) -> bytes | None:
        return None


WHOLE: AnswerBody = LengthBody(0)
"""For an answer that came in one piece, which is what most do: there is nothing to follow."""


class UntilClose:
    """A body that ends with the connection."""

    __slots__ = ("done", "surplus")

    def __init__(self) -> None:
        self.done = False
        self.surplus = False

    def feed(self, data: bytes) -> bytes:
        return data

    def repair(self) -> bytes | None:
        return b""


class Unchunked:
    """A chunked body, for a client that knows no chunks (HTTP/1.0)."""

    __slots__ = ("_decoder", "done", "surplus")

    def __init__(self) -> None:
        self._decoder = ChunkedBody(_UNLIMITED, smallest=0)
        self.done = False
        self.surplus = False

    def feed(self, data: bytes) -> bytes:
        try:
            self.surplus = bool(self._decoder.feed(data))
        except MalformedError as error:
            raise MalformedError(502, f"the server's answer: {error.message}") from error
        self.done = self._decoder.done
        body = bytes(self._decoder.body)
        self._decoder.body.clear()
        return body

    def repair(self) -> bytes | None:
        return b""


class ChunkFollower:
    """An upstream's chunked answer: says what of it may be passed on as it is, and where it ends.

    The bytes passed on always end inside a chunk's data or between chunks, never inside a size line, so that an answer
    that breaks off can still be continued by hand (`repair`). MalformedError where the upstream's framing is wrong.
    """

    __slots__ = ("_held", "_left", "done", "surplus")

    def __init__(self) -> None:
        self._left = 0
        """Bytes of the current chunk that are still to come, with its CR LF."""
        self._held = b""
        """The beginning of a size line, or of the end."""
        self.done = False
        self.surplus = False
        """Whether bytes came after the end: the connection cannot be used again."""

    def feed(self, data: bytes) -> bytes:
        """Take `data`; returns what to pass on, chunk framing included and trailers left out."""
        if self._held:
            data, self._held = self._held + data, b""
        total, pos = len(data), self._left
        if 0 < pos <= total + 1:
            there = data[max(pos - 2, 0) : pos]
            if there != b"\r\n"[-pos:][: len(there)]:
                raise _bad_chunk()
        find, starts = data.find, data.startswith
        while pos < total:
            end = find(b"\r\n", pos, pos + 18)
            digits = data[pos:end] if end >= 0 else b""
            if not _SIZE.fullmatch(digits):
                return self._hold(data, pos)
            step = int(digits, 16) + 2
            if step == 2:
                return self._end(data, pos, end + 2)
            pos = end + 2 + step
            # A run of chunks of one size is passed over by one comparison each: a busy stream is many small chunks.
            same = b"\r\n" + digits + b"\r\n"
            step += len(same) - 2
            while starts(same, pos - 2):
                pos += step
            if pos <= total + 1 and not b"\r\n".startswith(data[pos - 2 : pos]):
                raise _bad_chunk()
        self._left = pos - total
        return data

    def repair(self) -> bytes | None:
        """What brings an answer that breaks off here to the end of its chunk; None where that would be too much."""
        if self._left > _MAX_REPAIR:
            return None
        return (b"\n" * (self._left - 2) + b"\r\n")[-self._left :] if self._left else b""

    def _hold(self, data: bytes, pos: int) -> bytes:
        """Keep the beginning of a size line back until the rest of it comes."""
        if not _HELD.fullmatch(data, pos):
            raise _bad_chunk()
        return self._keep(data, pos)

    def _end(self, data: bytes, pos: int, trailer: int) -> bytes:
        """The last chunk's size line is at `pos`; pass it and the empty line on, and no trailer."""
        if data.startswith(b"\r\n", trailer):
            end = trailer + 2
        else:
            end = data.find(b"\r\n\r\n", trailer) + 4
            if end < 4:
                if len(data) - pos > _MAX_TRAILER:
                    raise MalformedError(502, "the server's answer has a trailer that is too long")
                return self._keep(data, pos)
        self.done, self.surplus = True, end < len(data)
        return data[:trailer] + b"\r\n"

    def _keep(self, data: bytes, pos: int) -> bytes:
        self._left, self._held = 0, data[pos:]
        return data[:pos]


def _bad_chunk() -> MalformedError:
    return MalformedError(502, "the server's answer is not chunked as it says")


def body_of(shape: AnswerShape, length: int | None, request: RequestHead, there: int) -> AnswerBody:
    """How to find the end of the answer's body (RFC 9112 section 6.3), `there` bytes of which came with the head."""
    if shape.bodyless or request.method == "HEAD":
        return LengthBody(0)
    if length is not None:
        return WHOLE if there == length else LengthBody(length)
    if not shape.chunked:
        return UntilClose()
    return ChunkFollower() if request.version >= (1, 1) else Unchunked()
