"""A reload among a thousand servers keeps the loop from nothing: how long one turn of it takes, at most."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.llamads import Llamad, a_llamad
from tests.waiting import wait_until

pytestmark = pytest.mark.daemon

SERVERS = 1000
ROUNDS = 5
AT_MOST = 0.05
"""Seconds of the loop's own processor time in one turn: what others take of the machine does not count."""
_MEASURE = """
import asyncio, signal, time
from llamad.daemon import Daemon
usual = Daemon.serve
async def serve(daemon, watchdog):
    loop, worst, last = asyncio.get_running_loop(), 0.0, time.thread_time()
    def turn():
        nonlocal worst, last
        now = time.thread_time()
        worst, last = max(worst, now - last), now
        loop.call_later(0.001, turn)
    def tell():
        nonlocal worst
        with open({path!r}, "w") as file:
            file.write(f"{{worst}} s")
        worst = 0.0
    loop.add_signal_handler(signal.SIGUSR1, tell)
    turn()
    return await usual(daemon, watchdog)
Daemon.serve = serve
"""
"""Runs in the daemon: the longest turn of its loop since it was asked before."""


@pytest.fixture
def llamad() -> Iterator[Llamad]:
    with a_llamad() as one:
        (one.folder / "sitecustomize.py").write_text(_MEASURE.format(path=str(one.folder / "turn")))
        yield one


def longest_turn(one: Llamad) -> float:
    """Seconds, since it was asked before."""
    path = one.folder / "turn"
    path.unlink(missing_ok=True)
    one.send(signal.SIGUSR1)
    wait_until(lambda: path.exists() and path.read_text().endswith(" s"))
    return float(path.read_text().removesuffix(" s"))


def test_a_reload_among_a_thousand_servers_holds_the_loop_for_50_ms_at_most(llamad: Llamad) -> None:
    """Half of them servers of others, half with a launch of their own; one changes. Whatever is done for each of them
    is done in a thread, or is next to nothing."""

    def configure(change: int) -> None:
        servers = {
            f"s{number}": {"url": f"http://127.0.0.1:{1000 + number}", "model": None}
            if number % 2
            else {"start": "manual", "args": {"ctx_size": 512, "n_gpu_layers": 9}}
            for number in range(SERVERS)
        }
        servers["s0"] = {"start": "manual", "args": {"ctx_size": 1024 + change}}
        llamad.configure(servers, defaults={"health": {"interval": "1h"}})

    configure(0)
    llamad.start(PYTHONPATH=f"{llamad.folder}:{Path(__file__).parents[1]}")
    llamad.wait_for("s0", "stopped", seconds=60)
    wait_until(lambda: llamad.events("ready: "), seconds=60)
    turns = []
    for change in range(1, ROUNDS + 1):
        longest_turn(llamad)
        configure(change)
        answer = llamad.client.post("reload", wait=True)
        assert len(answer["steps"]) == SERVERS
        turns.append(longest_turn(llamad))
    assert llamad.end() == 0
    assert min(turns) < AT_MOST, [f"{1000 * turn:.1f} ms" for turn in turns]
