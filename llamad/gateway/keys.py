"""Who may ask: API keys by name, from a file or a systemd credential. What is kept is digests, never the keys."""

import errno
import os
import re
from codecs import BOM_UTF8
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from llamad.config.keyfiles import KeyFile, read_key_file
from llamad.config.model import SERVER_NAME, GatewayConfig
from llamad.config.problems import Position, Problem, ProblemKind
from llamad.config.unseen import UTF_16, UTF_16_WORDS
from llamad.gateway.types import RequestHead
from llamad.host.sandbox import denied_hint

MAX_KEYS = 1024
"""Also bounds the `key` label of the metrics."""
MAX_KEY_CHARS = 512
_NAME = re.compile(SERVER_NAME)
_KEY = re.compile(r"[\x21-\x7e]+")
_KEY_HEADERS = frozenset({b"authorization", b"x-api-key", b"api-key"})
_PATH = "gateway.api_keys_file"


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys that are accepted. Without any, no key is asked.

    A presented key is looked up by its SHA-256. That takes the same time for every wrong key as far as an attacker
    can use it: how far the lookup compares depends on digests, whose bits nobody can steer towards a match byte by
    byte, as one can with the characters of the key itself.
    """

    by_digest: Mapping[bytes, str]

    @property
    def names(self) -> tuple[str, ...]:
        """The keys' names, in the order of the file."""
        return tuple(self.by_digest.values())

    def name_of(self, presented: bytes) -> str | None:
        """The name of a key, None when it is none of ours."""
        return self.by_digest.get(sha256(presented).digest())

    def who(self, head: RequestHead) -> str | None:
        """The name of the key in `Authorization` (OpenAI's clients), `x-api-key` (Anthropic's) or `api-key` (Azure's),
        each with or without `Bearer`, as llama-server takes it; None: no good key.
        """
        for header, value in head.headers:
            if header in _KEY_HEADERS:
                key = value[7:].strip(b" \t") if value[:7].lower() == b"bearer " else value
                name = self.name_of(key)
                if name is not None:
                    return name
        return None


NO_KEYS = Keys({})
NOBODYS_KEYS = Keys({b"": "nobody"})
"""A key is asked, and none is right: no digest is empty."""


def parse_keys(data: bytes, source: Path) -> tuple[Keys, list[Problem]]:
    """Read `name:key` lines; blank lines and lines that begin with `#` are skipped. Every problem at once, none of
    which shows a key. With problems other than remarks, the keys are not to be used.
    """
    problems: list[Problem] = []

    def wrong(line: int, column: int, message: str, kind: ProblemKind = ProblemKind.TEXT) -> None:
        problems.append(Problem(Position(source, line, column), _PATH, message, kind))

    if data.startswith(UTF_16):
        wrong(1, 1, UTF_16_WORDS)
        return NO_KEYS, problems
    names: dict[str, int] = {}
    lines: dict[bytes, int] = {}
    by_digest: dict[bytes, str] = {}
    for number, raw in enumerate(data.removeprefix(BOM_UTF8).splitlines(), 1):  # editors of Windows write it
        text = raw.decode("ascii", "replace").strip()
        if not text or text.startswith("#"):
            continue
        name, colon, key = text.partition(":")
        fault = _fault(name, colon, key)
        if fault is not None:
            wrong(number, *fault)
            continue
        if len(key) > 1 and key[0] == key[-1] and key[0] in "\"'":
            words = f"the quotes around the key of {name!r} are a part of it: clients have to send them too"
            wrong(number, len(name) + 2, words, ProblemKind.REMARK)
        digest = sha256(key.encode()).digest()
        if name in names:
            wrong(number, 1, f"the name {name!r} stands in line {names[name]} already")
        elif digest in lines:
            wrong(number, len(name) + 2, f"this key stands in line {lines[digest]} already, under another name")
        names.setdefault(name, number)
        lines.setdefault(digest, number)
        by_digest.setdefault(digest, name)
    if len(by_digest) > MAX_KEYS:
        wrong(1, 1, f"has {len(by_digest)} keys: at most {MAX_KEYS} are taken")
    is_wrong = any(one.kind is not ProblemKind.REMARK for one in problems)
    return (NO_KEYS if is_wrong else Keys(by_digest)), problems


def _fault(name: str, colon: str, key: str) -> tuple[int, str] | None:
    """What is wrong with a line: its column and the words for it."""
    if not colon:
        return 1, "has no colon: write NAME:KEY, one a line"
    if not _NAME.fullmatch(name):
        return 1, "a key's name is a letter or digit, then letters, digits, '.', '_' or '-', 63 characters at most"
    column = len(name) + 2
    if not key:
        return column, f"the key of {name!r} is empty"
    if not _KEY.fullmatch(key):
        return column, f"the key of {name!r} has a character that is no printable ASCII, or a space"
    if len(key) > MAX_KEY_CHARS:
        return column, f"the key of {name!r} is longer than {MAX_KEY_CHARS} characters"
    return None


def load_keys(config: GatewayConfig, key_files: tuple[Path, ...]) -> tuple[Keys, list[Problem]]:
    """The keys of `api_keys_file`, else of the first of `key_files` that can be read (`keyfiles.where_keys_are`), else
    none. Sync: callers run it in a thread. A file that is named and has no key is a problem (it would open the gateway
    to everyone); an empty one that nobody named means no keys. With problems other than remarks, the keys are not to
    be used.
    """
    named = config.api_keys_file
    try:
        found = read_key_file(key_files if named is None else (named,))
    except OSError as error:
        return NO_KEYS, [_unreadable(Path(error.filename), error)]
    if found is None:
        missing = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return NO_KEYS, [] if named is None else [_unreadable(named, missing)]
    keys, problems = parse_keys(found.data, found.path)
    if named is not None and not keys.by_digest and not problems:
        message = "has no key: add NAME:KEY, or leave api_keys_file out to ask for none"
        problems.append(Problem(Position(named, 1, 1), _PATH, message))
    return keys, problems + _old(found, keys)


def _old(found: KeyFile, keys: Keys) -> list[Problem]:
    """Says that keys hold which may not be the newest."""
    if found.instead_of is None or not keys.by_digest:
        return []
    file, error = found.instead_of
    message = f"cannot be read ({error.strerror}): the API keys go on that it had when the service was started"
    hint = "put it back, or restart the service (llamad upgrade keeps its servers)"
    return [Problem(Position(file, 1, 1), _PATH, message, ProblemKind.REMARK, hint=hint)]


def _unreadable(file: Path, error: OSError) -> Problem:
    return Problem(Position(file, 1, 1), _PATH, f"cannot be read: {error.strerror}", hint=denied_hint(error))
