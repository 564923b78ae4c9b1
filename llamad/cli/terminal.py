"""Where text goes: plain lines for scripts, tables with colour on a terminal. rich is loaded only for those."""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

from llamad.cli.tables import Table, printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_COLOURS = {
    "ready": "green",
    "starting": "yellow",
    "loading": "yellow",
    "draining": "yellow",
    "stopping": "yellow",
    "backoff": "red",
    "unresponsive": "red",
    "failed": "bold red",
    "stopped": "dim",
}


class Failing(Protocol):
    """What the lines of an error are made of."""

    message: str
    hint: str | None


def is_rich(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether tables and redrawing make sense there: a terminal that can do more than print."""
    return stream.isatty() and environ.get("TERM", "dumb") != "dumb"


def say(line: str) -> None:
    """One line of an answer, at once."""
    print(line, flush=True)


def complain(error: Failing) -> None:
    """An error an operator can mend: what is wrong, and below it what to do."""
    print(f"llamad: {printable_lines(error.message)}", file=sys.stderr)
    if error.hint is not None:
        print(f"hint: {printable_lines(error.hint)}", file=sys.stderr)


def warn(lines: Iterable[str]) -> None:
    """Lines that are no answer, such as the problems of a configuration."""
    for line in lines:
        print(printable_lines(line), file=sys.stderr)


def printable_lines(text: str) -> str:
    """`text` with its lines kept, and without what could steer a terminal."""
    return "\n".join(printable(line) for line in text.splitlines())


def show_tables(tables: Iterable[Table], after: Iterable[str] = ()) -> None:
    """Print tables, then lines."""
    if is_rich(sys.stdout, os.environ):
        _console().print(_drawn(tables, after))
        return
    for position, table in enumerate(tables):
        if position:
            print()
        print("\n".join(table.plain()))
    for line in after:
        print(line)
    sys.stdout.flush()


class Screen:
    """A part of the terminal that is drawn anew."""

    def __init__(self, update: "_Update") -> None:
        self._update = update

    def draw(self, table: Table, after: Iterable[str]) -> None:
        """Replace what is shown."""
        self._update(_drawn([table], after), refresh=True)


class _Update(Protocol):
    def __call__(self, renderable: "RenderableType", *, refresh: bool) -> None: ...


@contextmanager
def screen() -> Iterator[Screen]:
    """A screen for the time of the block; what it showed last stays."""
    from rich.live import Live

    with Live(console=_console(), auto_refresh=False, vertical_overflow="visible") as live:
        yield Screen(live.update)


def _console() -> "Console":
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False)  # heeds NO_COLOR itself


def _drawn(tables: Iterable[Table], after: Iterable[str]) -> "RenderableType":
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    parts: list[RenderableType] = []
    for table in tables:
        drawn = RichTable(box=None, pad_edge=False, header_style="bold")
        for title in table.titles:
            drawn.add_column(title, justify="right" if title in table.right else "left", overflow="fold")
        for row in table.rows:
            cells = zip(table.titles, row, strict=True)
            drawn.add_row(
                *(Text(cell, style=_COLOURS.get(cell, "") if title == "STATE" else "") for title, cell in cells)
            )
        parts.append(drawn)
    parts.extend(Text(line) for line in after)
    return Group(*parts)
