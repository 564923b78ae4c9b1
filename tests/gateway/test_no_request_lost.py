"""A real llamad under load, in short: nothing that is changed, killed or ended loses a request. tests/bench/lost.py has
the same at full size.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import on_demand, under_load, waiting
from tests.bench.report import Report

pytestmark = pytest.mark.daemon


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short enough for the sockets in it."""
    with tempfile.TemporaryDirectory(prefix="lost-", dir="/tmp") as path:
        yield Path(path)


def kept(report: Report) -> bool:
    """Whether every promise was kept; fails with those that were not."""
    assert not report.broken, "\n".join([*report.broken, *(f"{what}: {seen}" for what, seen in report.figures)])
    return bool(report.figures)


async def test_reloads_that_add_and_remove_another_server(folder: Path) -> None:
    assert kept(await under_load.reloads(folder, times=4, clients=8))


async def test_replaces_of_the_server_that_answers(folder: Path) -> None:
    assert kept(await under_load.replaces(folder, times=2, hows=("stop-first", "start-first"), clients=8))


async def test_kill_of_a_replica(folder: Path) -> None:
    assert kept(await under_load.kills(folder, times=1, every=0.3, enough=60))


async def test_stop_start_and_restart(folder: Path) -> None:
    assert kept(await under_load.stops(folder, times=1))


async def test_many_requests_start_a_server_once(folder: Path) -> None:
    assert kept(await on_demand.starts(folder, many=64, rounds=1))


async def test_servers_that_cannot_run_together_take_turns(folder: Path) -> None:
    assert kept(await on_demand.swaps(folder, rounds=2))


async def test_reload_while_requests_wait_for_a_start(folder: Path) -> None:
    assert kept(await on_demand.reload_amid_start(folder, many=16))


async def test_queue_that_is_full(folder: Path) -> None:
    assert kept(await waiting.queue(folder, beyond=5))


async def test_order_within_a_key(folder: Path) -> None:
    assert kept(await waiting.order(folder, each=4))


async def test_end_with_requests_in_flight(folder: Path) -> None:
    assert kept(await waiting.the_end(folder))
