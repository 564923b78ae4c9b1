"""Header lines: read strictly, once, and remembered while they repeat, secrets excepted."""

import re
from enum import Enum, auto
from typing import Generic, NamedTuple, TypeVar

MAX_FIELDS = 128
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_LENGTH_LINE = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ([0-9]{1,18})(?=\r\n|\Z)")


class MalformedError(Exception):
    """What a peer sent is not taken here: `status` is the answer a client gets, `message` says what is wrong."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Role(Enum):
    """What the relay does with a header."""

    PASS = auto()
    NOTE = auto()
    """Passed on, and looked at."""
    READ = auto()
    """Looked at, and written anew where it is needed."""
    DROP = auto()
    """Ends here: it speaks about this connection only (RFC 9110 section 7.6.1), or is a secret for the gateway."""


SECRETS = frozenset({b"authorization", b"proxy-authorization", b"x-api-key", b"api-key", b"cookie"})
"""What these headers say is for the gateway or for somebody else, and is not kept beyond the request."""
_ROLES: dict[bytes, Role] = {
    **dict.fromkeys((b"content-type", b"content-encoding"), Role.NOTE),
    **dict.fromkeys(
        (b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"x-request-id"), Role.READ
    ),
    **dict.fromkeys((b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"), Role.READ),
    **dict.fromkeys((b"keep-alive", b"te", b"trailer", b"upgrade", b"http2-settings", b"proxy-connection"), Role.DROP),
    **dict.fromkeys((b"proxy-authenticate", *SECRETS), Role.DROP),
    **dict.fromkeys((b"access-control-max-age", b"access-control-expose-headers"), Role.DROP),
}
_ONCE = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect", b"content-type"})


class Field(NamedTuple):
    """One header line: its name in lower case and its value, how it is written again, what the relay does with it."""

    pair: tuple[bytes, bytes]
    line: bytes
    role: Role


T = TypeVar("T")
Key = bytes | tuple[int, int]
"""Bytes, or what stands for them."""


class Memory(Generic[T]):
    """What was read of some bytes, for the case that they come again. What has not come again for long is forgotten:
    of two generations the older one goes when the younger one is full.
    """

    def __init__(self, entries: int, largest: int) -> None:
        self.young: dict[Key, T] = {}
        """What came again lately. Who asks here before `get` saves a call for most requests."""
        self._old: dict[Key, T] = {}
        self._entries = max(entries // 2, 1)
        self._largest = largest

    def get(self, key: Key) -> T | None:
        """What was remembered for `key`."""
        value = self.young.get(key)
        if value is None and (value := self._old.get(key)) is not None:
            self.put(key, value)
        return value

    def put(self, key: Key, value: T) -> None:
        """Remember `value` for `key`, unless the key is too large."""
        if len(key) <= self._largest:
            if len(self.young) >= self._entries:
                self._old, self.young = self.young, {}
            self.young[key] = value

    def clear(self) -> None:
        """Forget everything."""
        self.young, self._old = {}, {}


class FieldLines:
    """Reads header lines; of those that repeat what was read is remembered, but no secret."""

    def __init__(self) -> None:
        self._known: Memory[Field] = Memory(entries=1024, largest=200)

    def read(self, lines: list[bytes]) -> list[Field]:
        """The fields of `lines` (without their line ends). MalformedError where one is none, or there are too many."""
        if len(lines) > MAX_FIELDS:
            raise MalformedError(431, f"there are more than {MAX_FIELDS} headers")
        known = self._known.get
        return [known(line) or self._read_new(line) for line in lines]

    def _read_new(self, line: bytes) -> Field:
        field = read_field(line)
        if field.pair[0] not in SECRETS:
            self._known.put(line, field)
        return field


def read_field(line: bytes) -> Field:
    """Read one header line (RFC 9112 section 5), as strictly as a reader may: MalformedError on a folded line, a space
    before the colon, a control character, a name that is no token.
    """
    name, colon, value = line.partition(b":")
    if line[:1] in (b" ", b"\t"):
        raise MalformedError(400, "a header is folded over two lines: write it on one")
    if not colon or not _TOKEN.fullmatch(name):
        raise MalformedError(400, "a header line is not NAME: VALUE")
    value = value.strip(b" \t")
    if _CONTROL.search(value):
        raise MalformedError(400, "a header's value has a control character in it")
    name = name.lower()
    role = Role.DROP if name.startswith(b"access-control-allow-") else _ROLES.get(name, Role.PASS)
    return Field((name, value), name + b": " + value, role)


def sort_fields(fields: list[Field]) -> tuple[list[bytes], dict[bytes, bytes]]:
    """The lines that are passed on, and the values that are looked at, by name. MalformedError where a header that
    rules the framing stands twice; others that are looked at are joined as a list.
    """
    lines: list[bytes] = []
    noted: dict[bytes, bytes] = {}
    for (name, value), line, role in fields:
        if role is _PASS:
            lines.append(line)
        elif role is not _DROP:
            if name in noted:
                if name == b"content-type" and noted[name] == value:
                    continue
                if name in _ONCE:
                    raise MalformedError(400, f"the header {name.decode()} stands there twice")
                noted[name] += b", " + value
            else:
                noted[name] = value
            if role is _NOTE:
                lines.append(line)
    return lines, noted


def split_length(block: bytes) -> tuple[bytes, bytes | None]:
    """A head without its (first, plainly written) Content-Length line, and that line's digits: what is left is the same
    for most messages of one sender, and need not be read again.
    """
    found = _LENGTH_LINE.search(block)
    if found is None:
        return block, None
    start, end = found.span()
    return block[:start] + block[end:], found[1]


def read_length(value: bytes) -> int:
    """The value of Content-Length: decimal digits and nothing else."""
    if not (value.isdigit() and len(value) <= 18):
        raise MalformedError(400, "Content-Length is not a number of bytes")
    return int(value)


def connection_options(value: bytes) -> frozenset[bytes]:
    """The options of a Connection header, in lower case: `close`, `keep-alive`, and names of headers that end here."""
    return frozenset(option.strip(b" \t").lower() for option in value.split(b","))


def without(lines: list[bytes], names: frozenset[bytes]) -> list[bytes]:
    """The lines whose header is not among `names`."""
    return [line for line in lines if line.partition(b":")[0] not in names]


_PASS, _NOTE, _DROP = Role.PASS, Role.NOTE, Role.DROP
