"""The options a llama-server knows, as its own `--help` tells them. Pure; `options` runs the binary.

Options vanish and are renamed between builds of llama.cpp, and an unknown one ends the process at once: the only list
worth checking against is the one of the very binary that will run.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

DESCRIPTION_COLUMN = 40
"""Where descriptions begin (llama.cpp, common/arg.cpp, common_arg::to_string)."""
_LOOSE_COLUMN = 34
"""The same in ik_llama.cpp, and in llama.cpp before September 2024 (common/common.cpp, gpt_params_print_usage)."""

_ENTRY = re.compile(r" {0,12}-{1,2}[A-Za-z]")
_SPELLINGS = re.compile(r"-[^\s,]+(?:,\s+-[^\s,]+)*")
_CHOICES = re.compile(r"[\[<(]([\w+-]+(?:\|[\w+-]+)+)[\]>)]|\{([\w+-]+(?:,[\w+-]+)+)\}")
_ALLOWED = re.compile(r"allowed values: ((?:[\w.+-]+, )*[\w.+-]+)")
_LISTED = re.compile(r"(?:^|\n)\s*- ([\w.+-]+)(?: \(default\))?: ")
_QUOTED = re.compile(r"'([\w.+-]+)'")
_ENV = re.compile(r"\(env: (\w+)\)")
_REPEATS = re.compile(
    r"(can be|may be|can be specified|may be specified) (repeated|multiple times|more than once)"
    r"|repeat (to specify|for)|specify multiple times",
    re.IGNORECASE,
)
_GATHERED = frozenset(("--logit-bias", "--reverse-prompt", "--dry-sequence-breaker"))
"""What llama.cpp gathers when it is repeated, though the help does not say so (common/arg.cpp)."""
_JSON = re.compile(r"valid json object|JSON schema to|JSON that|inline JSON|json template parser", re.IGNORECASE)
_NUMBERS = ("N", "SEED", "INDEX", "SECONDS", "P", "L", "SIMILARITY", "<0...100>")
"""Argument words that stand for a number."""
_WHOLE = re.compile(r"\(default: -?\d+(?![\d.])")
_KINDS = re.compile(r"[a-z][\w-]*(,[a-z][\w-]*){3,}")
"""The argument of --spec-type lists all it takes."""
_FILE_WORDS = ("FILE", "FNAME", "PATH")
_REMOVED = "the argument has been removed. "
_DEPRECATED = "DEPRECATED in favor of "
_EXPECTED = ("--model", "--host", "--port", "--ctx-size")
"""What every llama-server has, and no other program of llama.cpp, nor another server (koboldcpp, vLLM), has all of."""


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
    deprecated: str | None = None
    """For an option that will go: what the help advises instead."""
    separator: str | None = None
    """What stands between several values in its one word, where the help says that there may be several."""
    repeats: bool = False
    """Whether llama.cpp gathers the values of an option that is repeated; of any other it keeps the last one."""
    json: bool = False
    """Whether its value is JSON text."""

    @property
    def name(self) -> str:
        """The spelling to use: the longest, which is the most telling and the longest-lived."""
        return max(self.spellings, key=len)

    @property
    def negation(self) -> str | None:
        """The spelling that turns a flag off, where there is one."""
        return max(self.negations, key=len, default=None)

    whole: bool = False
    """Whether the number that it takes is a whole one of 32 bits."""

    @property
    def numeric(self) -> bool:
        """Whether it takes a number (or one of `words`)."""
        return self.argument in _NUMBERS

    @property
    def arity(self) -> int:
        """How many words follow it on a command line."""
        if self.argument is None:
            return 0
        return 2 if re.fullmatch(r"[A-Z0-9_]+ [A-Z0-9_]+", self.argument) else 1


class OptionTable:
    """All options of one binary, by any spelling. `program` is what messages call that binary. With `loose`, its help
    is of the kind that leaves options out, and the values of some (ik_llama.cpp's, and llama.cpp's before September
    2024): what it does not list may be there all the same.
    """

    def __init__(self, options: tuple[Option, ...], *, program: str = "llama-server", loose: bool = False) -> None:
        self.options = options
        self.program = program
        self.loose = loose
        self.by_env = {option.env: option for option in options if option.env is not None}
        self._negations = {bare(spelling) for option in options for spelling in option.negations}
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
        return bare(key) in self._negations

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every spelling, with its dashes."""
        return tuple(self._by_word)


@lru_cache(maxsize=4096)
def bare(spelling: str) -> str:
    """A spelling without its leading dashes and with `-` for `_`: the same for every way to write one option."""
    return spelling.lstrip("-").replace("_", "-")


def parse_help(text: str, program: str = "llama-server") -> OptionTable:
    """Read what `llama-server --help` prints; `program` is what messages call it. ValueError where it is not
    llama-server's.
    """
    lines = text.expandtabs().splitlines()
    first = next((line for line in lines if _ENTRY.match(line)), "")
    loose = first.startswith(" ")
    entries = _entries(lines, _LOOSE_COLUMN if loose else DESCRIPTION_COLUMN)
    options = [_option(head, description) for head, description in entries]
    table = OptionTable(tuple(options), program=program, loose=loose)
    missing = [name for name in _EXPECTED if table.find(name) is None]
    if missing:
        raise ValueError(f"its --help tells of no {missing[0]}")
    return table


def _entries(lines: list[str], column: int) -> Iterator[tuple[str, str]]:
    """The head (spellings and argument) and the description of each entry."""
    head, description = "", [""]
    for line in lines:
        if _ENTRY.match(line):
            if head:
                yield head, "\n".join(description)
            head, first = _split(line.strip())
            description = [first]
        elif head and line.startswith(" " * column):
            description.append(line[column:])
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
    spellings = tuple(word.strip() for word in head[:end].split(",") if word.strip())
    if spellings[-1].endswith("(s)"):  # --embedding(s)
        spellings = (*spellings[:-1], spellings[-1][:-3], spellings[-1][:-3] + "s")
    argument = head[end:].strip(" ,") or None
    positive = len(spellings)
    if argument is None:
        longs = [i for i, word in enumerate(spellings) if word.startswith("--") and not word.startswith("--no-")]
        positive = longs[-1] + 1 if longs else positive  # --no-host alone is a flag of its own
    flat = " ".join(description.split())
    env = _ENV.search(flat)
    words = tuple(dict.fromkeys(_LISTED.findall(description) + _QUOTED.findall(description)))
    return Option(
        spellings=spellings[:positive],
        negations=spellings[positive:],
        argument=argument,
        choices=_choices(argument or "", flat),
        words=words if argument else (),
        env=env[1] if env else None,
        removed=_advice(flat, _REMOVED),
        deprecated=(_advice(flat, _DEPRECATED) or "").partition(":")[0].strip("` ") or None,
        separator=_separator(argument, flat),
        repeats=argument is not None and (not _GATHERED.isdisjoint(spellings) or bool(_REPEATS.search(flat))),
        json=argument is not None and _is_json(argument, flat),
        whole=argument == "N" and _WHOLE.search(flat) is not None,
    )


def _separator(argument: str | None, description: str) -> str | None:
    if argument is None:
        return None
    if "separated by ';'" in description:
        return ";"
    several = re.search(r",\.\.|comma[- ]separate", f"{argument} {description}", re.IGNORECASE)
    return "," if several else None


def _is_json(argument: str, description: str) -> bool:
    return argument == "JSON" or (argument not in _FILE_WORDS and _JSON.search(description) is not None)


def _advice(description: str, begin: str) -> str | None:
    """What the help says to use instead of an option that is gone, or will go."""
    if not description.startswith(begin):
        return None
    return description.removeprefix(begin).partition("(env:")[0].strip()


def _choices(argument: str, description: str) -> tuple[str, ...] | None:
    if _KINDS.fullmatch(argument):
        return tuple(argument.split(","))
    bracket = _CHOICES.fullmatch(argument)
    if bracket:
        return tuple(re.split(r"[|,]", bracket[1] or bracket[2]))
    allowed = _ALLOWED.search(description) if argument else None
    return tuple(allowed[1].split(", ")) if allowed else None
