"""Where text goes: plain lines for scripts, tables with colour on a terminal. rich is loaded only for those."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

from llamad.cli.layout import Table, all_wrapped, fitted
from llamad.host.visible import visible_lines

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

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
    print(visible_lines(line), flush=True)


def complain(error: Failing) -> None:
    """An error an operator can mend: what is wrong, and below it what to do."""
    print(f"llamad: {visible_lines(error.message)}", file=sys.stderr)
    if error.hint is not None:
        print(f"hint: {visible_lines(error.hint)}", file=sys.stderr)


def warn(lines: Iterable[str]) -> None:
    """Lines that are no answer, such as the problems of a configuration."""
    for line in lines:
        print(visible_lines(line), file=sys.stderr)


def show_tables(tables: Iterable[Table], after: Iterable[str] = ()) -> None:
    """Print tables, then lines."""
    if is_rich(sys.stdout, os.environ):
        console = _console()
        for drawn in _drawn(tables, after, console.width):
            console.print(drawn, soft_wrap=True)  # a name that is wider than the terminal stays whole
        return
    for position, table in enumerate(tables):
        if position:
            print()
        print("\n".join(table.plain()))
    for line in after:
        print(visible_lines(line))
    sys.stdout.flush()


class Screen:
    """A part of the terminal, `width` columns wide, that is drawn anew."""

    def __init__(self, update: "_Update", width: Callable[[], int]) -> None:
        self._update = update
        self._width = width

    def draw(self, table: Table, after: Iterable[str]) -> None:
        """Replace what is shown."""
        from rich.console import Group

        self._update(Group(*_drawn([table], after, self._width())), refresh=True)


class _Update(Protocol):
    def __call__(self, renderable: "RenderableType", *, refresh: bool) -> None: ...


@contextmanager
def screen() -> Iterator[Screen]:
    """A screen for the time of the block; what it showed last stays."""
    from rich.live import Live

    console = _console()
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
        yield Screen(live.update, lambda: console.width)


def _console() -> "Console":
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False)  # heeds NO_COLOR itself


def _drawn(tables: Iterable[Table], after: Iterable[str], width: int) -> "Iterator[Text]":
    """Lines for a terminal of `width` columns."""
    from rich.text import Text

    def line(*parts: "str | Text | tuple[str, str]") -> Text:
        return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")

    for position, table in enumerate(tables):
        if position:
            yield line()
        shown, notes = fitted(table, width)
        titles, *rows = shown.aligned()
        yield line(("  ".join(titles).rstrip(), "bold"))
        for row in rows:
            cells = [_styled(title, cell) for title, cell in zip(shown.titles, row, strict=True)]
            text = line(*(part for cell in cells for part in (cell, "  ")))
            text.rstrip()
            yield text
        yield from map(line, notes)
    yield from map(line, all_wrapped(after, width))


def _styled(title: str, cell: str) -> tuple[str, str]:
    return cell, _COLOURS.get(cell.strip(), "") if title == "STATE" else ""
