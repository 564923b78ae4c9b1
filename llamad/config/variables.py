"""The environment of a llama-server: what it inherits, where it keeps what it fetches, and the options that it reads
from it (LLAMA_ARG_...). Pure.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from llamad.config.helptext import Option, OptionTable
from llamad.config.optionfiles import NamedFile, named_files, resolved, use_of
from llamad.config.optionvalues import FALSE, TRUE, value_fault
from llamad.config.owned import OWNED_ENV
from llamad.config.problems import Finding, ProblemKind
from llamad.config.renames import advice, nearest_of

_NOT_INHERITED = ("LLAMA_ARG_", "LLAMA_API_KEY", "CREDENTIALS_DIRECTORY", "JOURNAL_STREAM", "LLAMAD_", "INVOCATION_ID")
"""llamad's own environment reaches a child but for these: they would change the command line behind the file's back."""
_CACHES = ("LLAMA_CACHE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")
"""What says where models that are fetched are kept; llama.cpp takes the first of these that it finds."""
_PREFIX = "LLAMA_ARG_"
_NO = "LLAMA_ARG_NO_"


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """What a llama-server takes over of llamad's own environment."""
    return {name: value for name, value in environ.items() if not name.startswith(_NOT_INHERITED)}


def with_cache(environment: Mapping[str, str], cache: Path) -> dict[str, str]:
    """This environment, with llamad's own cache directory where nothing in it says where models are kept."""
    own = {} if any(environment.get(name) for name in _CACHES) else {"LLAMA_CACHE": str(cache)}
    return {**environment, **own}


def without_options(env: Mapping[str, str]) -> dict[str, str]:
    """`env` for a question (`--help`), which an option with a wrong value would spoil."""
    return {name: value for name, value in env.items() if not name.startswith((_PREFIX, "LLAMA_API_KEY"))}


def variable_problems(
    options: OptionTable, env: Mapping[str, str], given: Mapping[str, str], own: frozenset[str]
) -> Iterator[Finding]:
    """What is wrong with the variables of `env` that the binary reads options from. `given` has the options of `args`
    and `extra_args` by name, `own` the variables that are not from `defaults`: what a server says in `args` goes before
    a default.
    """
    for name, value in env.items():
        if name in OWNED_ENV:
            continue
        option = option_of(options, name)
        if option is None:
            if name.upper().startswith(_PREFIX) and options.by_env:
                yield _unknown(options, name)
            continue
        where = given.get(option.name)
        if option.removed:
            yield Finding(("env", name), f"{options.program} no longer has this option", option.removed)
        elif where is not None and name in own:
            hint = "llama-server would take the one on its command line: write it once"
            yield Finding(("env", name), f"is the same option as {where}", hint)
        elif (fault := _fault(option, name, value)) is not None:
            yield Finding(("env", name), fault, at_key=False)
        elif option.deprecated:
            hint = f"{option.deprecated} takes its place"
            yield Finding(("env", name), "llama.cpp will drop this option", hint, kind=ProblemKind.REMARK)


def option_of(options: OptionTable, name: str) -> Option | None:
    """The option that the binary reads from this variable."""
    option = options.by_env.get(name)
    if option is None and name.startswith(_NO):  # any value turns it off
        positive = options.by_env.get(_PREFIX + name.removeprefix(_NO))
        return positive if positive is not None and positive.negations else None
    return option


def variable_files(
    options: OptionTable, env: Mapping[str, str], folder: Path
) -> Iterator[tuple[tuple[str, ...], NamedFile]]:
    """The files and folders that variables name, each with its key path."""
    for name, value in env.items():
        option = options.by_env.get(name)
        if option is not None and name not in OWNED_ENV:
            yield from ((("env", name), named) for named in named_files(option, value, folder))


def with_paths(options: OptionTable, env: Mapping[str, str], folder: Path) -> dict[str, str]:
    """`env`, with the relative paths of options begun at `folder`."""
    found = {name: (options.by_env.get(name), value) for name, value in env.items()}
    return {
        name: resolved(option, value, folder) if option is not None and use_of(option) is not None else value
        for name, (option, value) in found.items()
    }


def _fault(option: Option, name: str, value: str) -> str | None:
    if option.argument is not None:
        return value_fault(option, value)
    if name.startswith(_NO) or value in TRUE + FALSE:
        return None
    return f"is a flag: {', '.join(TRUE)} or {', '.join(FALSE)}, not {value!r}"


def _unknown(options: OptionTable, name: str) -> Finding:
    key = name.upper().removeprefix(_PREFIX).lower()
    option = options.find(key)
    near = nearest_of(key, {one.removeprefix(_PREFIX).lower(): one for one in options.by_env})
    hint: str | None
    if option is not None:
        hint = f"write {option.env}" if option.env else f"it has no variable: write {key} in args"
    elif (said := advice(options, key)) is not None:
        hint = f"in args: {said}"
    else:
        hint = f"did you mean {near}?" if near else None
    return Finding(("env", name), f"{options.program} reads no such variable", hint)
