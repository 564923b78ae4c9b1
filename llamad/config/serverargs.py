"""One server's arguments and variables in the eyes of its binary: what is wrong with them, and the files and folders
that they name. Pure.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from llamad.config.argv import argument_files, argument_problems, given_options
from llamad.config.helptext import OptionTable
from llamad.config.model import ServerConfig
from llamad.config.optionfiles import NamedFile, Use
from llamad.config.problems import Finding
from llamad.config.variables import variable_files, variable_problems


def model_file(server: ServerConfig) -> Iterator[tuple[tuple[str | int, ...], NamedFile]]:
    """The model, where it is a file, with its key path."""
    if server.model is not None:
        yield ("model",), NamedFile(server.model, Use.MODEL)


def server_files(
    server: ServerConfig, options: OptionTable, folder: Path
) -> Iterator[tuple[tuple[str | int, ...], NamedFile]]:
    """The model, then what the arguments and variables name, each with its key path; relative paths start at `folder`.
    A value that is wrong in itself names nothing of use.
    """
    yield from model_file(server)
    yield from argument_files(options, server.args, server.extra_args, folder)
    yield from variable_files(options, server.env, folder)


def server_findings(server: ServerConfig, own: frozenset[str], options: OptionTable) -> list[Finding]:
    """What is wrong with `args`, `extra_args`, `env` and `env_credentials`; `own` are the variables of `env` that are
    not from `defaults`.
    """
    given = given_options(options, server.args, server.extra_args)
    found = argument_problems(options, server.args, server.extra_args)
    found += variable_problems(options, server.env, given, own)
    secret = dict.fromkeys(server.env_credentials, "")  # whose values nobody has to know here
    names = variable_problems(options, secret, given, frozenset(secret))
    return found + [replace(one, path=("env_credentials", *one.path[1:])) for one in names if one.at_key]
