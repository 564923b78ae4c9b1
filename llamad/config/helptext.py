"""The options a llama-server knows, as its own `--help` tells them. Pure; `options` runs the binary.

Options vanish and are renamed between builds of llama.cpp, and an unknown one ends the process at once: the only list
worth checking against is the one of the very binary that will run.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches

DESCRIPTION_COLUMN = 40
"""Where descriptions begin (llama.cpp, common/arg.cpp, common_arg::to_string)."""

_SPELLINGS = re.compile(r"-[^\s,]+(?:,\s+-[^\s,]+)*")
_CHOICES = re.compile(r"[\[<]([\w+-]+(?:\|[\w+-]+)+)[\]>]|\{([\w+-]+(?:,[\w+-]+)+)\}")
_ALLOWED = re.compile(r"allowed values: ((?:[\w.+-]+, )*[\w.+-]+)")
_LISTED = re.compile(r"(?:^|\n)\s*- ([\w.+-]+)(?: \(default\))?: ")
_QUOTED = re.compile(r"'([\w.+-]+)'")
_ENV = re.compile(r"\(env: (\w+)\)")
_REMOVED = "the argument has been removed. "
_EXPECTED = ("--model", "--host", "--port")
"""What every llama-server has, and no other program of llama.cpp has all of."""


@dataclass(frozen=True, slots=True)
class Option:
    """One entry of the help. `spellings` and `negations` are as written there (`-ngl`, `--no-jinja`)."""

    spellings: tuple[str, ...]
    negations: tuple[str, ...] = ()
    argument: str | None = None
    """`N`, `FNAME`, `[on|off|auto]`, `START END`; None for a flag."""
    choices: tuple[str, ...] | None = None
    """All it takes, where the help tells: `[on|off|auto]`, `{none,linear}`, `<0|1>`, `allowed values: f32, f16`."""
    words: tuple[str, ...] = ()
    """Words it takes beside others (`auto` and `all` of --n-gpu-layers)."""
    env: str | None = None
    removed: str | None = None
    """For an option that is only listed to say that it is gone: what the help advises instead."""

    @property
    def name(self) -> str:
        """The spelling to use: the longest, which is the most telling and the longest-lived."""
        return max(self.spellings, key=len)

    @property
    def negation(self) -> str | None:
        """The spelling that turns a flag off, where there is one."""
        return max(self.negations, key=len, default=None)

    @property
    def numeric(self) -> bool:
        """Whether it takes a number (or one of `words`)."""
        return self.argument == "N"

    @property
    def arity(self) -> int:
        """How many words follow it on a command line."""
        if self.argument is None:
            return 0
        return 2 if re.fullmatch(r"[A-Z0-9_]+ [A-Z0-9_]+", self.argument) else 1


class OptionTable:
    """All options of one binary, by any spelling."""

    def __init__(self, options: tuple[Option, ...]) -> None:
        self.options = options
        self._by_spelling: dict[str, Option] = {}
        self._by_word: dict[str, Option] = {}
        for option in options:
            for spelling in (*option.spellings, *option.negations):
                self._by_spelling.setdefault(bare(spelling), option)
                self._by_word.setdefault(spelling, option)

    def find(self, key: str) -> Option | None:
        """The option with this spelling, negations included; leading dashes may be left out, `_` is `-`."""
        return self._by_spelling.get(bare(key))

    def find_word(self, word: str) -> Option | None:
        """The option that the binary itself takes this word of a command line for: dashes count, and `_` is `-` only
        after two of them (common/arg.cpp).
        """
        return self._by_word.get(word.replace("_", "-") if word.startswith("--") else word)

    def negates(self, key: str) -> bool:
        """Whether `key` is the spelling that turns its option off."""
        option = self.find(key)
        return option is not None and any(bare(spelling) == bare(key) for spelling in option.negations)

    def nearest(self, key: str) -> str | None:
        """The spelling most like `key`, without its dashes."""
        close = get_close_matches(bare(key), self._by_spelling, n=1, cutoff=0.7)
        return close[0] if close else None

    def nearest_word(self, word: str) -> str | None:
        """The spelling most like `word`, with its dashes."""
        close = get_close_matches(word, self._by_word, n=1, cutoff=0.7)
        return close[0] if close else None


def bare(spelling: str) -> str:
    """A spelling without its leading dashes and with `-` for `_`: the same for every way to write one option."""
    return spelling.lstrip("-").replace("_", "-")


def parse_help(text: str) -> OptionTable:
    """Read what `llama-server --help` prints. ValueError where it is not llama-server's."""
    table = OptionTable(tuple(_option(head, description) for head, description in _entries(text)))
    missing = [name for name in _EXPECTED if table.find(name) is None]
    if missing:
        raise ValueError(f"its --help tells of no {missing[0]}")
    return table


def _entries(text: str) -> Iterator[tuple[str, str]]:
    """The head (spellings and argument) and the description of each entry."""
    head, description = "", [""]
    for line in text.splitlines():
        if line.startswith("-") and not line.startswith("---"):
            if head:
                yield head, "\n".join(description)
            head, first = _split(line)
            description = [first]
        elif head and line.startswith(" " * DESCRIPTION_COLUMN):
            description.append(line[DESCRIPTION_COLUMN:])
    if head:
        yield head, "\n".join(description)


def _split(line: str) -> tuple[str, str]:
    """An entry's first line: spellings and argument, then, after more than one space, the description."""
    spellings = _SPELLINGS.match(line)
    begin = spellings.end() if spellings else 0
    gap = line.find("  ", begin)
    return (line, "") if gap < 0 else (line[:gap], line[gap:].strip())


def _option(head: str, description: str) -> Option:
    match = _SPELLINGS.match(head)
    end = match.end() if match else 0
    spellings = tuple(word.strip() for word in head[:end].split(","))
    argument = head[end:].strip() or None
    positive = len(spellings)
    if argument is None:
        longs = [i for i, word in enumerate(spellings) if word.startswith("--") and not word.startswith("--no-")]
        positive = longs[-1] + 1 if longs else positive  # --no-host alone is a flag of its own
    env = _ENV.search(description)
    words = tuple(dict.fromkeys(_LISTED.findall(description) + _QUOTED.findall(description)))
    return Option(
        spellings=spellings[:positive],
        negations=spellings[positive:],
        argument=argument,
        choices=_choices(argument or "", description),
        words=words if argument else (),
        env=env[1] if env else None,
        removed=_advice(description),
    )


def _advice(description: str) -> str | None:
    """What the help says to use instead of an option that is gone."""
    if not description.startswith(_REMOVED):
        return None
    return " ".join(description.removeprefix(_REMOVED).partition("(env:")[0].split())


def _choices(argument: str, description: str) -> tuple[str, ...] | None:
    bracket = _CHOICES.fullmatch(argument)
    if bracket:
        return tuple(re.split(r"[|,]", bracket[1] or bracket[2]))
    allowed = _ALLOWED.search(" ".join(description.split())) if argument else None
    return tuple(allowed[1].split(", ")) if allowed else None
