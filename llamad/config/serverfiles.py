"""The files and folders that one server's configuration names. Pure."""

from collections.abc import Iterator
from pathlib import Path

from llamad.config.argv import argument_files
from llamad.config.helptext import OptionTable
from llamad.config.model import ServerConfig
from llamad.config.optionfiles import NamedFile, Use
from llamad.config.variables import variable_files


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
