"""Rows and columns as lines of text. Pure.

The plain form is for scripts too: columns keep their order, every cell is filled (`-`: nothing), one row is one line.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from textwrap import wrap

_NOTE = "NOTE"
"""The column of remarks, which may be as long as they like."""
_GAP = "  "


@dataclass(frozen=True, slots=True)
class Table:
    """Titles and rows of equal length; the columns in `right` hold figures and are aligned to the right. Those in
    `least` go, the first of them first, where the width is too small for all.
    """

    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[str] = frozenset()
    least: tuple[str, ...] = ()

    def plain(self) -> Iterator[str]:
        """The table as lines of aligned columns."""
        for cells in self.aligned():
            yield _GAP.join(cells).rstrip()

    def aligned(self) -> Iterator[tuple[str, ...]]:
        """The titles, then the rows, every cell as wide as its column."""
        widths = self._widths()
        for line in (self.titles, *self.rows):
            yield tuple(
                cell.rjust(width) if title in self.right else cell.ljust(width)
                for cell, width, title in zip(line, widths, self.titles, strict=True)
            )

    @property
    def width(self) -> int:
        """The columns of a terminal that it takes."""
        return sum(self._widths()) + len(_GAP) * (len(self.titles) - 1)

    def _widths(self) -> list[int]:
        lines = (self.titles, *self.rows)
        return [max(len(line[column]) for line in lines) for column in range(len(self.titles))]

    def without(self, title: str) -> "Table":
        """The table less one column."""
        at = self.titles.index(title)
        rows = tuple(row[:at] + row[at + 1 :] for row in self.rows)
        return replace(self, titles=self.titles[:at] + self.titles[at + 1 :], rows=rows)


def fitted(table: Table, width: int) -> tuple[Table, list[str]]:
    """What of `table` fits into `width`, and the lines below it: where it is too wide its notes are told there, each
    with what its row is about, and then the least important columns go. No cell is ever cut or folded.
    """
    below: list[str] = []
    if table.width > width and _NOTE in table.titles:
        at = table.titles.index(_NOTE)
        below = [line for row in table.rows if row[at] != "-" for line in wrapped(f"{row[0]}: {row[at]}", width)]
        table = table.without(_NOTE)
    for title in table.least:
        if table.width > width:
            table = table.without(title)
    return table, below


def wrapped(line: str, width: int) -> Sequence[str]:
    """`line` in lines of at most `width`, those after the first indented by two more. It is broken between words only:
    a path that is longer stays whole.
    """
    indent = line[: len(line) - len(line.lstrip())]
    return wrap(
        *(line, width),
        subsequent_indent=f"{indent}  ",
        break_on_hyphens=False,
        break_long_words=False,
    ) or [line]


def all_wrapped(lines: Iterable[str], width: int) -> list[str]:
    """Each of `lines` wrapped."""
    return [part for line in lines for part in wrapped(line, width)]
