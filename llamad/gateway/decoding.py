"""Compressed request bodies (RFC 9110 section 8.4.1), undone piece by piece and never beyond a limit. Pure."""

import zlib

from llamad.gateway.bodies import too_large
from llamad.gateway.fields import MalformedError

_GZIP, _ZLIB, _RAW = 31, 15, -15
"""zlib's `wbits`."""
_WINDOWS = {b"gzip": _GZIP, b"x-gzip": _GZIP, b"deflate": _ZLIB}
_PIECE = 1 << 20
_MAX_MEMBERS = 64
"""Of one gzip body: an empty one costs a step and 20 bytes."""


def coding_of(value: bytes | None) -> bytes | None:
    """The coding that a Content-Encoding header names; None: the body is as it is. MalformedError 415 for what is not
    undone here.
    """
    coding = (value or b"identity").lower()
    if coding in (b"identity", b""):
        return None
    if coding not in _WINDOWS:
        shown = coding.decode("latin-1")[:50]
        raise MalformedError(415, f"Content-Encoding {shown!r} is not taken: send gzip, deflate, or the body as it is")
    return coding


class Decoder:
    """One body: call `step` until `done`, then `body` is what was meant."""

    def __init__(self, coding: bytes, data: bytes, limit: int) -> None:
        self._coding = coding
        self._limit = limit
        self._left = data
        self._members = 0
        self._inflate = zlib.decompressobj(self._window(data))
        self.body = bytearray()
        self.done = False

    def _window(self, data: bytes) -> int:
        """Some send `deflate` without zlib's head, which is told by its first two bytes (RFC 1950 section 2.2)."""
        if self._coding == b"deflate" and (data[:1] != b"\x78" or int.from_bytes(data[:2]) % 31):
            return _RAW
        return _WINDOWS[self._coding]

    def step(self) -> None:
        """Undo about a megabyte more. MalformedError 400 where it is broken, 413 where it gets too large."""
        inflate = self._inflate
        try:
            piece = inflate.decompress(self._left, _PIECE)
        except zlib.error:
            raise self._broken("broken") from None
        self.body += piece
        if len(self.body) > self._limit:
            raise too_large(self._limit)
        self._left = inflate.unconsumed_tail
        if not inflate.eof:
            if not self._left and len(piece) < _PIECE:  # a full piece: zlib may hold the rest of what it took
                raise self._broken("not complete")
            return
        self._left = inflate.unused_data
        self.done = not self._left
        if self._left:  # gzip may have several members (RFC 1952 section 2.2)
            self._members += 1
            if self._coding == b"deflate" or self._members == _MAX_MEMBERS:
                raise self._broken("followed by something else")
            self._inflate = zlib.decompressobj(_GZIP)

    def _broken(self, how: str) -> MalformedError:
        return MalformedError(400, f"the body is {how}, read as Content-Encoding says: {self._coding.decode()}")
