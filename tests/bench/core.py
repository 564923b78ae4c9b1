"""The core's figures, on real processes: `python -m tests.bench.core`.

A table with the limits, which are those of a machine that does nothing else; exit 1 where one is missed.
"""

import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tests.llamads import Llamad, a_llamad
from tests.waiting import wait_until

SERVERS = 200
ROUNDS = 20
IDLE_FOR = 20.0
DELAY_MS = 100.0
_MB = 1 << 20


@dataclass(frozen=True)
class Figure:
    """One line of the table; `limit` None: only told."""

    what: str
    value: float
    limit: float | None
    unit: str

    @property
    def missed(self) -> bool:
        return self.limit is not None and self.value > self.limit

    def __str__(self) -> str:
        limit = "" if self.limit is None else f"{self.limit:10.1f} {self.unit}"
        return f"{self.what:<58} {self.value:10.1f} {self.unit:<4}{limit:>16}{'  MISSED' if self.missed else ''}"


def _stamp(line: str) -> float:
    """Seconds of the day of a line of the text log."""
    moment = datetime.strptime(line.split(maxsplit=1)[0], "%H:%M:%S.%f")  # noqa: DTZ007 - differences only
    return moment.hour * 3600 + moment.minute * 60 + moment.second + moment.microsecond / 1e6


def _wall() -> float:
    now = datetime.now().astimezone()
    return now.hour * 3600 + now.minute * 60 + now.second + now.microsecond / 1e6


def restarts(one: Llamad, gate: Path) -> list[Figure]:
    """From the end of a child to the next spawn, beyond the configured delay; and from the end of a load to the ready
    state.
    """
    beyond, readiness = [], []
    for number in range(ROUNDS):
        pid, seen = one.wait_for("a")["pid"], len(one.events("a: started, pid"))
        gate.unlink()
        killed = _wall()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda seen=seen: len(one.events("a: started, pid")) > seen)  # type: ignore[misc]
        beyond.append((_stamp(one.events("a: started, pid")[-1]) - killed) * 1000 - DELAY_MS)
        one.wait_for("a", "loading")
        time.sleep(0.1 * (number % 4))  # however long it has loaded
        loaded = _wall()
        gate.touch()
        one.wait_for("a")
        readiness.append((_stamp(one.events("a: ready after")[-1]) - loaded) * 1000)
    return [
        Figure("end of a child to the next start, beyond the delay, median", statistics.median(beyond), 50, "ms"),
        Figure("end of a child to the next start, beyond the delay, max", max(beyond), None, "ms"),
        Figure("readiness noticed, median", statistics.median(readiness), 100, "ms"),
        Figure("readiness noticed, max", max(readiness), 100, "ms"),
    ]


def saves(one: Llamad, configure: Callable[[int], None]) -> list[Figure]:
    """From a saved file to its being accepted."""
    took = []
    for number in range(ROUNDS):
        seen = len(one.events("configuration accepted"))
        saved = _wall()
        configure(number)
        wait_until(lambda seen=seen: len(one.events("configuration accepted")) > seen)  # type: ignore[misc]
        took.append((_stamp(one.events("configuration accepted")[-1]) - saved) * 1000)
    return [
        Figure("a saved file is applied, median", statistics.median(took), 500, "ms"),
        Figure("a saved file is applied, max", max(took), 500, "ms"),
    ]


def few() -> list[Figure]:
    """One server and its file."""
    with a_llamad() as one:
        delay = {"initial_delay": f"{DELAY_MS:.0f}ms", "factor": 1, "jitter": 0, "max_retries": None}
        gate = one.folder / "gate"
        gate.touch()

        def configure(number: int) -> None:
            health = {"interval": f"{5 + number % 2}s"}
            one.configure(
                {"a": {"env": {"FAKE_LOAD_FILE": str(gate)}, "restart": delay, "health": health}}, defaults={}
            )

        configure(0)
        one.start()
        figures = [*restarts(one, gate), *saves(one, lambda number: configure(number + 1))]
        one.end()
    return figures


def many() -> list[Figure]:
    """Two hundred servers on one llamad: ready, idle, and stopped."""
    with a_llamad() as one:
        one.configure({f"s{number:03}": {} for number in range(SERVERS)})
        began = time.monotonic()
        one.start()
        wait_until(lambda: one.events(f"ready: {SERVERS}/{SERVERS} ready"), seconds=120)
        ready = time.monotonic() - began
        time.sleep(2)
        assert one.process is not None
        before, at = _cpu(one.process.pid), time.monotonic()
        time.sleep(IDLE_FOR)
        idle = (_cpu(one.process.pid) - before) / (time.monotonic() - at) * 100
        memory = int(Path(f"/proc/{one.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / _MB
        began = time.monotonic()
        one.end()
        stop = time.monotonic() - began
    return [
        Figure(f"{SERVERS} servers: all ready after", ready, None, "s"),
        Figure(f"{SERVERS} servers: idle, of one core", idle, 3, "%"),
        Figure(f"{SERVERS} servers: memory of llamad", memory, 64 + 0.15 * SERVERS, "MB"),
        Figure(f"{SERVERS} servers: stop of all", stop, 3, "s"),
    ]


def _cpu(pid: int) -> float:
    """Seconds of processor time so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    """Measure, print, and tell whether every limit was held."""
    print(f"{'':<58} {'figure':>10}      {'limit':>13}")
    missed = False
    for part in (few, many):
        for figure in part():
            print(figure, flush=True)
            missed |= figure.missed
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
