"""What a scenario found: figures for a person, and the promises that were broken."""

from dataclasses import dataclass, field

from tests.bench.client import End
from tests.bench.load import Tally

_SHOWN = 5


@dataclass
class Report:
    """Filled in along the way."""

    figures: list[tuple[str, str]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def show(self, what: str, figure: object) -> None:
        """A figure for the table."""
        self.figures.append((what, str(figure)))

    def promise(self, what: str, *, kept: bool, seen: object = "") -> None:
        """A promise, and whether it was kept; `seen` tells what was there instead."""
        if not kept:
            self.broken.append(f"{what}: {seen}"[:3000])

    def none_lost(self, what: str, tally: Tally, *, at_least: int) -> None:
        """Everything was answered, and that was not nothing."""
        self.show(what, tally)
        others = [f"{one.kind.name} {one.end.name}: {one.status} {one.detail}" for one in tally.others]
        self.promise(f"{what}: every request is answered", kept=not others, seen=(len(others), others[:_SHOWN]))
        self.promise(
            f"{what}: at least {at_least} requests",
            kept=tally.ends[End.ANSWERED] >= at_least,
            seen=tally.ends[End.ANSWERED],
        )
