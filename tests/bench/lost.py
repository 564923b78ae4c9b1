"""Proves that no request is lost: `python -m tests.bench.lost [--short] [SCENARIO...]` from the repository's root.

Each scenario starts a llamad of its own over fake servers, on a free port of 127.0.0.1. Prints what was seen; the exit
code is 1 where a promise was broken.
"""

import argparse
import asyncio
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from llamad.errors import LlamadError
from tests.bench.many_streams import streams
from tests.bench.on_demand import reload_amid_start, starts, swaps
from tests.bench.report import Report
from tests.bench.under_load import kills, reloads, replaces, stops
from tests.bench.waiting import end_under_load, order, queue, the_end

Scenario = Callable[..., Awaitable[Report]]


def scenarios(*, short: bool) -> dict[str, Scenario]:
    """By name; the full size is what llamad promises, the short one a look in passing."""

    def size(full: int, little: int) -> int:
        return little if short else full

    return {
        "reloads": partial(reloads, times=size(100, 10)),
        "replaces": partial(replaces, times=size(20, 3), hows=("stop-first", "start-first")),
        "kills": partial(kills, times=size(30, 3)),
        "streams": partial(streams, many=size(500, 100), seconds=size(20, 3)),
        "on-demand": partial(starts, many=64, rounds=size(3, 1)),
        "swaps": partial(swaps, rounds=size(20, 4)),
        "queue": partial(queue, beyond=size(50, 5)),
        "order": partial(order, each=size(50, 5)),
        "reload-amid-start": partial(reload_amid_start, many=size(64, 16)),
        "stop-start": partial(stops, times=size(10, 2)),
        "end": the_end,
        "end-under-load": end_under_load,
    }


def main() -> int:
    """Run what the arguments name."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = scenarios(short=False)
    arguments.add_argument("scenario", nargs="*", help=f"of {', '.join(known)}; default: all")
    arguments.add_argument("--short", action="store_true", help="seconds instead of minutes")
    given = arguments.parse_args()
    chosen = scenarios(short=given.short)
    if unknown := [name for name in given.scenario if name not in chosen]:
        arguments.error(f"no such scenario: {', '.join(unknown)}")
    broken = [name for name in given.scenario or chosen if not _kept(name, chosen[name])]
    print(f"\n{'broken: ' + ', '.join(broken) if broken else 'every promise was kept'}")
    return 1 if broken else 0


def _kept(name: str, scenario: Scenario) -> bool:
    folder = Path(tempfile.mkdtemp(prefix="lost-", dir="/tmp"))  # short: sockets lie in it
    began = time.monotonic()
    try:
        report = asyncio.run(_run(scenario, folder))
    except (AssertionError, LlamadError) as error:
        report = Report(broken=[f"{error}", *(folder / "log").read_text(errors="replace").splitlines()[-40:]])
    finally:
        shutil.rmtree(folder)
    print(f"\n{name} ({time.monotonic() - began:.1f} s): {'BROKEN' if report.broken else 'kept'}")
    for what, figure in report.figures:
        print(f"  {what}: {figure}")
    for line in report.broken:
        print(f"  BROKEN: {line}", flush=True)
    return not report.broken


async def _run(scenario: Scenario, folder: Path) -> Report:
    return await scenario(folder, port=_free_port())


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
