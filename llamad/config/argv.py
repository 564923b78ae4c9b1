"""The argument builder: from `args` and `extra_args` as typed to words of a command line. Pure.

Everything is judged by the options of the binary that will run. What is wrong comes back as findings, all at once;
`arguments` is for what has none.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from llamad.config.helptext import Option, OptionTable, bare
from llamad.config.values import ArgScalar, ArgValue

_ADDRESS = "llamad decides where a server listens: use `port:` and `host:` beside `args:`"
_SOURCE = "the model is named by `model:` or `hf_repo:` beside `args:`"
_KEY = "llamad's own servers are asked without a key: clients are asked for theirs by gateway.api_keys_file"
_SECRET = "a secret on a command line is seen by every process: use `env_credentials:`"
_ROUTER = "llamad runs one model per server, not llama-server's router"
_PROBES = "llamad asks the server for its health over plain HTTP at the usual paths"
_EXITS = "it makes llama-server print something and end"

OWNED: Mapping[str, str] = {
    **dict.fromkeys(("--host", "--port"), _ADDRESS),
    **dict.fromkeys(
        ("-m", "--model", "-mu", "--model-url", "-dr", "--docker-repo", "-hf", "-hfr", "--hf-repo"), _SOURCE
    ),
    **dict.fromkeys(("--api-key", "--api-key-file"), _KEY),
    **dict.fromkeys(("-hft", "--hf-token"), _SECRET),
    **dict.fromkeys(("--models-dir", "--models-preset", "--models-max", "--models-autoload"), _ROUTER),
    **dict.fromkeys(("--no-models-autoload",), _ROUTER),
    **dict.fromkeys(("--api-prefix", "--ssl-key-file", "--ssl-cert-file"), _PROBES),
    **dict.fromkeys(("-h", "--help", "--usage", "--version", "-cl", "--cache-list"), _EXITS),
    **dict.fromkeys(("--list-devices", "--completion-bash"), _EXITS),
}
"""Options that are llamad's own, by every spelling -> why they cannot be given."""

OWNED_ENV: Mapping[str, str] = {
    **dict.fromkeys(("LLAMA_ARG_HOST", "LLAMA_ARG_PORT"), _ADDRESS.replace("args:", "env:")),
    **dict.fromkeys(
        ("LLAMA_ARG_MODEL", "LLAMA_ARG_MODEL_URL", "LLAMA_ARG_DOCKER_REPO", "LLAMA_ARG_HF_REPO"),
        _SOURCE.replace("args:", "env:"),
    ),
    **dict.fromkeys(("LLAMA_API_KEY", "LLAMA_ARG_API_KEY_FILE"), _KEY),
    **dict.fromkeys(("LLAMA_ARG_MODELS_DIR", "LLAMA_ARG_MODELS_PRESET"), _ROUTER),
    **dict.fromkeys(("LLAMA_ARG_API_PREFIX", "LLAMA_ARG_SSL_KEY_FILE", "LLAMA_ARG_SSL_CERT_FILE"), _PROBES),
}
"""The same by environment variable."""

_OWNED_BARE = {bare(spelling): reason for spelling, reason in OWNED.items()}


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with one argument: a key of `args`, or an index of `extra_args`. `at_key`: it is the key, not its
    value, that is wrong.
    """

    where: str | int
    message: str
    hint: str | None = None
    at_key: bool = True

    @property
    def path(self) -> tuple[str | int, str | int]:
        """The key path within the server."""
        return ("args" if isinstance(self.where, str) else "extra_args"), self.where


def owned_findings(args: Mapping[str, ArgValue], extra_args: Sequence[str]) -> list[Finding]:
    """The options that are llamad's own; needs no binary."""
    found = [Finding(key, "is llamad's own option", _OWNED_BARE[bare(key)]) for key in args if bare(key) in _OWNED_BARE]
    for index, word in enumerate(extra_args):
        option = word.partition("=")[0]
        spelling = option.replace("_", "-") if option.startswith("--") else option
        if spelling in OWNED:
            found.append(Finding(index, f"{option} is llamad's own option", OWNED[spelling]))
    return found


def argument_problems(options: OptionTable, args: Mapping[str, ArgValue], extra_args: Sequence[str]) -> list[Finding]:
    """What is wrong with each argument in the eyes of the binary; owned options are left to `owned_findings`."""
    found = []
    seen: dict[int, str] = {}
    for key, value in args.items():
        if bare(key) in _OWNED_BARE:
            continue
        target = _target(options, key)
        if isinstance(target, Finding):
            found.append(target)
            continue
        first = seen.setdefault(id(target.option), key)
        if first != key:
            found.append(Finding(key, f"is the same option as {first}"))
            continue
        try:
            _words(target, value)
        except ValueError as error:
            found.append(Finding(key, str(error), at_key=False))
    return found + list(_extra_problems(options, extra_args, seen))


def arguments(options: OptionTable, args: Mapping[str, ArgValue], extra_args: Sequence[str]) -> tuple[str, ...]:
    """The words of the command line, in the order written. ValueError names the first argument that is wrong."""
    words: list[str] = []
    for key, value in args.items():
        target = _target(options, key)
        if isinstance(target, Finding):
            raise ValueError(f"{key}: {target.message}")  # noqa: TRY004 - the value is wrong, not a caller's type
        words += _words(target, value)
    return (*words, *extra_args)


@dataclass(frozen=True, slots=True)
class _Target:
    """The option a key means; for a flag the words that stand for true and for false."""

    option: Option
    on: str | None
    off: str | None


def _target(options: OptionTable, key: str) -> _Target | Finding:
    option = options.find(key)
    if option is None:
        opposite = options.find("no-" + bare(key))
        if opposite is not None and opposite.argument is None:  # older builds: --no-mmap alone, on without it
            return _Target(opposite, None, opposite.name)
        near = options.nearest(key)
        return Finding(key, "the binary knows no such option", f"did you mean {near}?" if near else None)
    if option.removed:
        return Finding(key, "this build of llama-server has removed the option", option.removed)
    if options.negates(key):
        return _Target(option, option.negation, option.name)
    return _Target(option, option.name, option.negation)


def _words(target: _Target, value: ArgValue) -> list[str]:
    """One option's words; ValueError says what is wrong with the value."""
    option = target.option
    if value is None:
        return []
    if option.argument is None:
        return _flag(target, value)
    if option.arity == 2:
        return _pair(option, value)
    values = value if isinstance(value, tuple | list) else (value,)
    if not values:
        raise ValueError("an empty list says nothing: leave the key out")
    return [word for one in values for word in (option.name, _word(option, one))]


def _flag(target: _Target, value: ArgValue) -> list[str]:
    if not isinstance(value, bool):
        raise ValueError(f"is a flag: true or false, not {_shown(value)}")  # noqa: TRY004 - what an operator wrote
    word = target.on if value else target.off
    return [word] if word else []


def _pair(option: Option, value: ArgValue) -> list[str]:
    values = value if isinstance(value, tuple | list) else str(value).split()
    if len(values) != 2:
        raise ValueError(f"takes two values ({option.argument}), not {_shown(value)}")
    return [option.name, *(_word(option, one) for one in values)]


def _word(option: Option, value: ArgScalar) -> str:
    """One value of an option as the word that follows it."""
    text = _text(option, value)
    if option.choices is not None and text not in option.choices:
        *others, last = option.choices
        raise ValueError(f"takes {', '.join(others)} or {last}, not {_shown(value)}")
    if option.numeric and text not in option.words and not _is_number(text):
        also = f" or one of {', '.join(option.words)}" if option.words else ""
        raise ValueError(f"takes a number{also}, not {_shown(value)}")
    return text


def _text(option: Option, value: ArgScalar) -> str:
    if not isinstance(value, bool):
        return str(value)
    pairs = (("on", "off"), ("1", "0"), ("true", "false"))
    known = (option.choices or ()) + option.words
    for yes, no in pairs:
        if yes in known and no in known:
            return yes if value else no
    if option.choices or option.numeric:
        return _shown(value)  # refused as what it is
    raise ValueError(
        f"takes a value ({option.argument}), not {_shown(value)}: write it in quotes if it is meant as text"
    )


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text)) and "_" not in text
    except ValueError:
        return False


def _shown(value: ArgValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return "a list"
    return repr(value)


def _extra_problems(options: OptionTable, extra_args: Sequence[str], seen: Mapping[int, str]) -> Iterator[Finding]:
    """Each word that begins with `-` is an option of the binary, unless it is a number or an option's value. `seen` has
    the keys of `args` by the option they mean.
    """
    values_due = 0
    known = True
    for index, word in enumerate(extra_args):
        if values_due:
            values_due -= 1
            continue
        if not word.startswith("-"):
            if known:  # else it may be the value of what nobody knows
                yield Finding(index, f"{word!r} follows no option that takes a value")
            continue
        option = options.find_word(word)
        known = option is not None
        if option is None:
            if word not in OWNED:
                yield _unknown_word(options, index, word)
            continue
        values_due = option.arity
        if option.removed:
            yield Finding(index, f"this build of llama-server has removed {word}", option.removed)
        elif (key := seen.get(id(option))) is not None:
            yield Finding(index, f"{word} is the same option as {key} in args", "write it once, in args")
    if values_due:
        yield Finding(len(extra_args) - 1, f"{extra_args[-1]} is followed by no value")


def _unknown_word(options: OptionTable, index: int, word: str) -> Finding:
    name, equals, _ = word.partition("=")
    if equals and options.find_word(name):
        return Finding(index, f"llama-server takes no {name}=VALUE", f'write two words: "{name}", "VALUE"')
    near = options.nearest_word(word)
    return Finding(index, f"the binary knows no option {word}", f"did you mean {near}?" if near else None)
