"""The header of a GGUF file: what it holds, read strictly and within bounds, without loading anything.

Format: ggml/docs/gguf.md of llama.cpp. Little-endian: magic `GGUF`, version (u32), tensor count and metadata count
(u64), the key/value pairs, then one record for each tensor, then the data. A hostile file costs at most MAX_HEADER
bytes of reading, and only the few values below are kept.
"""

import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from llamad.host.files import open_regular, status, within

MAX_HEADER = 128 << 20
MAX_KEYS = 1 << 14
MAX_TENSORS = 1 << 18
MAX_KEY = 1 << 12
MAX_STRING = 1 << 24
MAX_ITEMS = 4_000_000
"""Strings in all arrays together: a vocabulary of 262,144 tokens and as many merges is 0.5 million."""
MAX_KEPT = 512
"""Characters of a text that is kept."""
_CHUNK = 1 << 18
_PATIENCE = 30.0
"""Seconds for one header: 20 MB of vocabulary over a slow network."""
_MAX_DIMENSIONS = 4
_MOST_KNOWN = 512

# llama_ftype of llama.h, in the names of its model files
QUANTIZATIONS = {
    **dict(enumerate(("F32", "F16", "Q4_0", "Q4_1"))),
    **dict(enumerate(("Q8_0", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M"), 7)),
    **dict(enumerate(("Q5_K_S", "Q5_K_M", "Q6_K", "IQ2_XXS", "IQ2_XS", "Q2_K_S", "IQ3_XS", "IQ3_XXS", "IQ1_S"), 16)),
    **dict(enumerate(("IQ4_NL", "IQ3_S", "IQ3_M", "IQ2_S", "IQ2_M", "IQ4_XS", "IQ1_M", "BF16"), 25)),
    **dict(enumerate(("TQ1_0", "TQ2_0", "MXFP4_MOE", "NVFP4", "Q1_0", "Q2_0"), 36)),
}
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_SIZES = {kind: struct.calcsize("<" + code) for kind, code in _SCALARS.items()}

Value = str | int | float | bool | None
_PART = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf")


class GgufError(Exception):
    """The file is no GGUF, or a broken one; the message says in what."""


@dataclass(frozen=True, slots=True)
class Header:
    """What is kept of a header; None where the file does not say."""

    version: int
    tensors: int
    architecture: str | None = None
    name: str | None = None
    kind: str | None = None
    """`general.type`: model, mmproj, adapter ..."""
    quantization: str | None = None
    context_length: int | None = None
    chat_template: bool = False
    split_count: int | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a split model, as its name tells: `number` is 1 for the first of `count`."""

    stem: str
    number: int
    count: int

    @property
    def file_name(self) -> str:
        """The name of the file, as llama.cpp makes it (llama_split_path): exactly so, in lower case."""
        return f"{self.stem}-{self.number:05}-of-{self.count:05}.gguf"


def split_part(file_name: str) -> Part | None:
    """Which part of a split model a file of this name is; None where it is a model of its own. Pure."""
    match = _PART.fullmatch(file_name)
    return None if match is None else Part(match[1], int(match[2]), int(match[3]))


def read_header(path: Path) -> Header:
    """Read the header of `path`. Raises OSError where the file cannot be read, GgufError where it is no whole GGUF.

    Blocks on the disk: call it in a thread. The answer is remembered while size and time of the file stay.
    """
    status(path)  # a disk that is dead is known sooner than that a file is only long
    return within(path, lambda: _read(path), patience=_PATIENCE)


def _read(path: Path) -> Header:
    fd = open_regular(path)
    try:
        found = os.fstat(fd)
        mark = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
        if (known := _known.get(mark)) is None:
            known = _Reader(fd, found.st_size).header()
            while len(_known) >= _MOST_KNOWN:
                _known.pop(next(iter(_known)), None)  # another thread may do the same
            _known[mark] = known
        return known
    finally:
        os.close(fd)


_known: dict[tuple[int, int, int, int], Header] = {}


class _Reader:
    """Goes through one file, forwards."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._size = size
        self._at = 0  # where in the file `_buffer` begins
        self._buffer = b""
        self._pos = 0
        self._items = 0

    def header(self) -> Header:
        if self._size < 4 or self._bytes(4) != b"GGUF":
            raise GgufError(self._not_gguf())
        version = self._number("I")
        if version & 0xFFFF == 0:
            other = int.from_bytes(version.to_bytes(4, "little"), "big")
            raise GgufError(f"it is big-endian (GGUF version {other}), made for another kind of machine")
        if version not in (2, 3):
            raise GgufError(f"it is GGUF version {version}, versions 2 and 3 are known")
        tensors = self._count("tensors", MAX_TENSORS)
        metadata = self._metadata(self._count("metadata keys", MAX_KEYS))
        self._tensors(tensors, metadata.get("general.alignment"))
        return _header(version, tensors, metadata)

    def _not_gguf(self) -> str:
        if self._size == 0:
            return "it is empty"
        begin = os.pread(self._fd, 64, 0)
        if begin.startswith(b"version https://git-lfs"):
            return "it is a git-lfs pointer, not the model itself: run git lfs pull"
        if begin.lstrip()[:1] == b"<":
            return "it is a web page, not a model: the download saved an error or login page"
        return f"it is no GGUF file: it begins with {begin[:4].decode(errors='replace')!r}"

    # --- metadata

    def _metadata(self, count: int) -> dict[str, Value]:
        kept: dict[str, Value] = {}
        seen: set[bytes] = set()
        for _ in range(count):
            raw = self._bytes(self._length("a key", MAX_KEY))
            if raw in seen:
                raise GgufError(f"it has the key {raw[:80]!r} twice")
            seen.add(raw)
            try:
                key = raw.decode()
            except UnicodeDecodeError:
                raise GgufError(f"it has a key that is no text: {raw[:40]!r}") from None
            value = self._value(key, self._number("I"))
            if key.startswith(("general.", "split.", "tokenizer.chat_template")) or key.endswith(".context_length"):
                kept[key] = value
        return kept

    def _value(self, key: str, kind: int) -> Value:
        if kind in _SCALARS:
            return self._scalar(kind)
        if kind == _STRING:
            length = self._length(f"the value of {key}", MAX_STRING)
            text = self._bytes(min(length, MAX_KEPT * 4))
            self._skip(length - len(text))
            return text.decode(errors="replace")[:MAX_KEPT]
        if kind == _ARRAY:
            self._skip_array(key)
            return None
        raise GgufError(f"the key {key!r} has the unknown type {kind}")

    def _scalar(self, kind: int) -> int | float | bool:
        value: int | float | bool
        (value,) = struct.unpack("<" + _SCALARS[kind], self._bytes(_SIZES[kind]))
        return value

    def _skip_array(self, key: str) -> None:
        kind, count = self._number("I"), self._number("Q")
        if kind in _SIZES:
            self._skip(count * _SIZES[kind])
        elif kind == _STRING:
            self._items += count
            if self._items > MAX_ITEMS:
                raise GgufError(f"the array {key!r} makes more than {MAX_ITEMS} strings")
            self._skip_strings(count)
        else:
            raise GgufError(f"the array {key!r} has the unknown type {kind}")

    def _skip_strings(self, count: int) -> None:
        unpack = struct.Struct("<Q").unpack_from
        for _ in range(count):
            if self._pos + 8 > len(self._buffer):
                self._need(8)
            (length,) = unpack(self._buffer, self._pos)
            if length > MAX_STRING:
                raise GgufError(f"it has a text of {length} bytes")
            self._pos += 8 + length
            if self._pos > len(self._buffer):
                self._check_place()

    # --- tensors

    def _tensors(self, count: int, alignment: Value) -> None:
        align = alignment if isinstance(alignment, int) else 32
        if align < 1 or align > 1 << 20 or align & (align - 1):
            raise GgufError(f"its alignment of {align} is no power of two")
        last = 0
        for i in range(count):
            self._skip(self._length("a tensor's name", MAX_KEY))
            dimensions = self._number("I")
            if dimensions > _MAX_DIMENSIONS:
                raise GgufError(f"tensor {i} has {dimensions} dimensions")
            self._skip(dimensions * 8 + 4)
            last = max(last, self._number("Q"))
        data = -(-self._place // align) * align
        if count and data + last >= self._size:
            raise GgufError(f"it is cut short: it has {self._size} bytes, its last tensor begins at {data + last}")

    # --- bytes

    @property
    def _place(self) -> int:
        return self._at + self._pos

    def _count(self, what: str, most: int) -> int:
        count = self._number("Q")
        if count > most:
            raise GgufError(f"it claims to have {count} {what}; at most {most} are read")
        return count

    def _length(self, what: str, most: int) -> int:
        length = self._number("Q")
        if length > most:
            raise GgufError(f"{what} is {length} bytes long, at byte {self._place}")
        return length

    def _number(self, code: str) -> int:
        number: int
        (number,) = struct.unpack("<" + code, self._bytes(8 if code == "Q" else 4))
        return number

    def _bytes(self, count: int) -> bytes:
        self._need(count)
        found = self._buffer[self._pos : self._pos + count]
        self._pos += count
        return found

    def _skip(self, count: int) -> None:
        self._pos += count
        self._check_place()

    def _check_place(self) -> None:
        if self._place > self._size:
            raise GgufError(f"it is cut short: it ends inside its header, after {self._size} bytes")
        if self._place > MAX_HEADER:
            raise GgufError(f"its header is longer than {MAX_HEADER >> 20} MiB")

    def _need(self, count: int) -> None:
        """Have `count` bytes in the buffer."""
        if self._pos + count <= len(self._buffer):
            return
        self._at += self._pos
        self._pos = count
        self._check_place()
        self._pos = 0
        self._buffer = os.pread(self._fd, max(_CHUNK, count), self._at)
        if len(self._buffer) < count:
            raise GgufError("it became shorter while it was read")


def _header(version: int, tensors: int, metadata: dict[str, Value]) -> Header:
    def text(key: str) -> str | None:
        value = metadata.get(key)
        return value if isinstance(value, str) and value else None

    def number(key: str) -> int | None:
        value = metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    architecture = text("general.architecture")
    file_type = number("general.file_type")
    return Header(
        version=version,
        tensors=tensors,
        architecture=architecture,
        name=text("general.name"),
        kind=text("general.type"),
        quantization=None if file_type is None else QUANTIZATIONS.get(file_type & 1023, f"type {file_type}"),
        context_length=number(f"{architecture}.context_length"),
        chat_template=text("tokenizer.chat_template") is not None,
        split_count=number("split.count"),
    )
