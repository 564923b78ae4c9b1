"""The argument builder: from `args` and `extra_args` as typed to words of a command line. Pure.

Everything is judged by the options of the binary that will run. What is wrong comes back as findings, all at once;
`arguments` is for what has none. `args` is a mapping, whose order means nothing: its words come in an order of their
own (flags first, so that a preset comes before what is to differ from it), and two ways of writing one value are one.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llamad.config.helptext import Option, OptionTable
from llamad.config.optionfiles import NamedFile, named_files, resolved, use_of
from llamad.config.optionvalues import shown, value_fault, value_words
from llamad.config.owned import OWNED, is_owned, spelled
from llamad.config.problems import Finding, ProblemKind
from llamad.config.renames import advice, nearest
from llamad.config.values import ArgValue

_ANYWHERE = Path("/")
"""Where relative paths start while it does not matter."""


def argument_problems(options: OptionTable, args: Mapping[str, ArgValue], extra_args: Sequence[str]) -> list[Finding]:
    """What is wrong with each argument in the eyes of the binary; owned options are left to `owned_findings`."""
    found = []
    seen: dict[int, str] = {}
    for key, value in args.items():
        if is_owned(key):
            continue
        target = _target(options, key)
        if isinstance(target, Finding):
            found.append(target)
            continue
        first = seen.setdefault(id(target.option), key)
        if first != key:
            found.append(Finding(("args", key), f"is the same option as {first}"))
            continue
        try:
            _words(target, value, _ANYWHERE)
        except ValueError as error:
            hint = "write it as a YAML mapping, without quotes" if target.option.json else None
            found.append(Finding(("args", key), str(error), hint, at_key=False))
        else:
            found += _deprecated(target.option, "args", key)
    return found + list(_extra_problems(options, extra_args, seen))


def given_options(options: OptionTable, args: Mapping[str, ArgValue], extra_args: Sequence[str]) -> dict[str, str]:
    """The options that are given, by their name -> where (`args.ctx_size`)."""
    found = {}
    for index, word in enumerate(extra_args):
        option = options.find_word(word) if word.startswith("-") else None
        if option is not None:
            found[option.name] = f"extra_args.{index}"
    for key in args:
        target = _target(options, key)
        if isinstance(target, _Target):
            found[target.option.name] = f"args.{key}"
    return found


def arguments(
    options: OptionTable, args: Mapping[str, ArgValue], extra_args: Sequence[str], folder: Path
) -> tuple[str, ...]:
    """The words of the command line: those of `args` in an order of their own, then `extra_args`. Relative paths start
    at `folder`. ValueError names the first argument that is wrong.
    """
    pieces: list[tuple[bool, str, list[str]]] = []
    for key, value in args.items():
        target = _target(options, key)
        if isinstance(target, Finding):
            raise ValueError(f"{key}: {target.message}")  # noqa: TRY004 - the value is wrong, not a caller's type
        pieces.append((target.option.argument is not None, target.option.name, _words(target, value, folder)))
    words = [word for *_, some in sorted(pieces) for word in some]
    return (*words, *(word for word, _ in _extra_words(options, extra_args, folder)))


def argument_files(
    options: OptionTable, args: Mapping[str, ArgValue], extra_args: Sequence[str], folder: Path
) -> Iterator[tuple[tuple[str | int, ...], NamedFile]]:
    """The files and folders that arguments without a problem name, each with the key path of its value."""
    for key, value in args.items():
        target = _target(options, key)
        if isinstance(target, _Target) and use_of(target.option) is not None and not is_owned(key):
            if value is None:
                continue
            for index, one in enumerate(value if isinstance(value, tuple) else (value,)):
                if target.option.arity == 2 and index:
                    continue
                path = ("args", key, index) if isinstance(value, tuple) else ("args", key)
                text = str(one).split()[0] if target.option.arity == 2 else str(one)
                yield from ((path, named) for named in named_files(target.option, text, folder))
    for index, (_, found) in enumerate(_extra_words(options, extra_args, folder)):
        yield from ((("extra_args", index), named) for named in found)


_DASHES = ("\u2010", "\u2011", "\u2012", "\u2013", "\u2014", "\u2212")
"""What word processors make of hyphens."""


@dataclass(frozen=True, slots=True)
class _Target:
    """The option a key means; for a flag the words that stand for true and for false."""

    option: Option
    on: str | None
    off: str | None
    loose: bool


def _target(options: OptionTable, key: str) -> _Target | Finding:
    option = options.find(key)
    if option is None:
        opposite = options.find("no-" + key.lstrip("-"))
        if opposite is not None and opposite.argument is None:  # older builds: --no-mmap alone, on without it
            return _Target(opposite, None, opposite.name, options.loose)
        return Finding(("args", key), f"{options.program} has no such option", _hint(options, key))
    if option.removed:
        return Finding(("args", key), f"{options.program} no longer has this option", option.removed)
    if options.negates(key):
        return _Target(option, option.negation, option.name, options.loose)
    return _Target(option, option.name, option.negation, options.loose)


def _hint(options: OptionTable, key: str, *, word: bool = False) -> str | None:
    """What to write for an option that the binary does not know."""
    name, _, value = key.replace("=", " ", 1).partition(" ")
    if value and options.find(name) is not None and not word:
        return f"write {name}: {value}"
    if (options.find_word(key.lower()) if word else options.find(key.lower())) is not None:
        return f"did you mean {key.lower()}?"
    said = advice(options, key)
    if said is not None:
        return said
    near = nearest(options, key)
    if near is not None:
        return f"did you mean {near if word else near.lstrip('-')}?"
    if options.loose and not word:
        return "its --help does not list all it has: write what is not listed in extra_args"
    return None


def _deprecated(option: Option, *path: str | int) -> Iterator[Finding]:
    if option.deprecated:
        message = "llama.cpp will drop this option"
        yield Finding(path, message, f"{option.deprecated} takes its place", kind=ProblemKind.REMARK)


def _words(target: _Target, value: ArgValue, folder: Path) -> list[str]:
    """One key's words; ValueError says what is wrong with the value."""
    option = target.option
    if value is None:  # told of by `owned_findings`
        return []
    if option.argument is None and isinstance(value, bool):
        word = target.on if value else target.off
        return [word] if word else []
    if option.argument is None and not target.loose:
        raise ValueError(f"is a flag: true or false, not {shown(value)}")
    return value_words(option, value, folder, loose=target.loose)


@dataclass(frozen=True, slots=True)
class _Extra:
    """A word of `extra_args` that is no value, and the values that follow it as far as they are there."""

    index: int
    word: str
    option: Option | None
    values: tuple[str, ...] = ()

    @property
    def names_file(self) -> bool:
        """Whether its first value is a path that llamad has to know."""
        return self.option is not None and use_of(self.option) is not None and spelled(self.word) not in OWNED


def _extras(options: OptionTable, extra_args: Sequence[str]) -> Iterator[_Extra]:
    """Each word that begins with `-` is an option of the binary, unless it is an option's value."""
    index = 0
    while index < len(extra_args):
        word = extra_args[index]
        option = options.find_word(word) if word.startswith("-") else None
        end = index + 1 + (option.arity if option else 0)
        yield _Extra(index, word, option, tuple(extra_args[index + 1 : end]))
        index = end


def _extra_words(
    options: OptionTable, extra_args: Sequence[str], folder: Path
) -> Iterator[tuple[str, tuple[NamedFile, ...]]]:
    """Each word of `extra_args`, with the files it names: a relative one gets the folder where it starts."""
    for extra in _extras(options, extra_args):
        yield extra.word, ()
        for at, value in enumerate(extra.values):
            if at == 0 and extra.names_file and extra.option is not None:
                yield resolved(extra.option, value, folder), tuple(named_files(extra.option, value, folder))
            else:
                yield value, ()


def _extra_problems(options: OptionTable, extra_args: Sequence[str], seen: Mapping[int, str]) -> Iterator[Finding]:
    """What is wrong with each word; `seen` has the keys of `args` by the option they mean."""
    strict = True
    before: set[int] = set()
    for extra in _extras(options, extra_args):
        path = ("extra_args", extra.index)
        if extra.option is not None:
            strict = not (options.loose and extra.option.argument is None)
            yield from _extra_option_problems(options, extra, extra.option, seen.get(id(extra.option)), before)
            before.add(id(extra.option))
        elif extra.word.startswith("-"):
            strict = False
            if spelled(extra.word) not in OWNED:
                yield from _unknown_word(options, extra.index, extra.word)
        elif strict:  # else it may be the value of what nobody knows
            message, hint = _no_option(options, extra.word)
            strict = hint is None  # else what follows may be its value
            yield Finding(path, message, hint)


def _extra_option_problems(
    options: OptionTable, extra: _Extra, option: Option, key: str | None, before: set[int]
) -> Iterator[Finding]:
    """What is wrong with one option, which `args` may have as `key`, and which may be among those `before`."""
    path, word = ("extra_args", extra.index), extra.word
    if option.removed:
        yield Finding(path, f"{options.program} no longer has {word}", option.removed)
    elif key is not None:
        yield Finding(path, f"{word} is the same option as {key} in args", "write it once, in args")
    elif id(option) in before and option.argument is not None and not option.repeats and not options.loose:
        hint = "write it once" + (f", its values joined by {option.separator!r}" if option.separator else "")
        yield Finding(path, f"{word} is given twice: llama-server would keep the last one only", hint)
    elif len(extra.values) < option.arity:
        last = extra.values[-1] if extra.values else word
        yield Finding(("extra_args", extra.index + len(extra.values)), f"{last} is followed by no value")
    elif option.arity == 1 and (fault := value_fault(option, extra.values[0])) is not None:
        yield Finding(("extra_args", extra.index + 1), f"{word} {fault}")
    else:
        yield from _deprecated(option, *path)


def _no_option(options: OptionTable, word: str) -> tuple[str, str | None]:
    """What is said of a word that is neither an option nor a value, and what to write."""
    plain = next(
        (one for one in ("--" + word.lstrip("-" + "".join(_DASHES)), "-" + word[1:]) if options.find_word(one)), None
    )
    if word.startswith(_DASHES) and plain is not None:
        return f"{word!r} begins with a dash of typography, not with a hyphen", f"write {json.dumps(plain)}"
    if options.find_word(word.strip()):
        return f"{word!r} has a space too many", f"write {json.dumps(word.strip())}"
    return f"{word!r} follows no option that takes a value", None


def _unknown_word(options: OptionTable, index: int, word: str) -> Iterator[Finding]:
    path = ("extra_args", index)
    name, equals, _ = word.partition("=")
    first, *others = word.split(maxsplit=1)
    if equals and options.find_word(name):
        yield Finding(path, f"llama-server takes no {name}=VALUE", f'write two words: "{name}", "VALUE"')
    elif not others and options.find_word(first):
        yield Finding(path, *_no_option(options, word))
    elif others and options.find_word(first):
        yield Finding(path, f"{word!r} is two words in one", f"write two: {json.dumps(first)}, {json.dumps(others[0])}")
    elif not options.loose:
        yield Finding(path, f"{options.program} has no option {word}", _hint(options, word, word=True))
