"""Load that goes on while things change: reloads, replaces, killed replicas, stops and starts."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.bench.client import End
from tests.bench.daemon import Daemon, Document, until
from tests.bench.load import Tally, load
from tests.bench.report import Report

_RESTART = {"initial_delay": "100ms", "max_delay": "200ms", "max_retries": None}
_ENOUGH = 200
"""Requests that a load gets answered at least, even on a machine that has much else to do."""


async def reloads(folder: Path, *, times: int, port: int | None = None, clients: int = 16) -> Report:
    """Add and remove another server again and again: nobody notices."""
    report = Report()
    config: Document = {"servers": {"a": {"env": {"FAKE_CHUNK_DELAY": "0.002"}}}}
    async with Daemon(folder, config, port=port) as daemon:
        before = await daemon.pids("a")
        async with load(daemon.address, "a", clients=clients) as tally:
            for i in range(times):
                if i % 2 == 0:
                    config["servers"]["b"] = {}
                else:
                    del config["servers"]["b"]
                await daemon.reload()
            await _enough(tally, times * 2)
        report.none_lost(f"{times} reloads", tally, at_least=times * 2)
        report.promise("one process answers all", kept=tally.pids == set(before), seen=(before, tally.pids))
        report.promise("it is still there", kept=await daemon.pids("a") == before, seen=await daemon.pids("a"))
    ended_well(report, daemon)
    return report


async def replaces(
    folder: Path, *, times: int, hows: Sequence[str], port: int | None = None, clients: int = 16
) -> Report:
    """Replace the very server that answers, in each of the ways of `hows`: stop-first, start-first."""
    report = Report()
    server: Document = {"env": {"FAKE_CHUNK_DELAY": "0.005"}}
    async with Daemon(folder, {"servers": {"a": server}}, port=port) as daemon:
        for how in hows:
            server["replace"] = how
            async with load(daemon.address, "a", clients=clients) as tally:
                for i in range(times):
                    server["env"]["FAKE_VERSION"] = f"{how} {i}"
                    await daemon.reload()
                    await _enough(tally, tally.answered + clients)
            report.none_lost(f"{times} replaces, {how}", tally, at_least=times * clients)
            report.promise("each is another process", kept=len(tally.pids) >= times, seen=len(tally.pids))
    ended_well(report, daemon)
    return report


async def kills(
    folder: Path, *, times: int, port: int | None = None, every: float = 1.0, enough: int = _ENOUGH
) -> Report:
    """SIGKILL one of two replicas again and again: only streams that it was answering end, and say so."""
    report = Report()
    server = {"replicas": 2, "restart": _RESTART, "env": {"FAKE_CHUNK_DELAY": "0.01"}}
    killed: list[int] = []
    async with Daemon(folder, {"servers": {"a": server}}, port=port) as daemon:
        async with load(daemon.address, "a", words=20) as tally:
            for i in range(times):
                await asyncio.sleep(every)
                if pids := await daemon.pids("a"):
                    killed.append(pids[i % len(pids)])
                    os.kill(killed[-1], signal.SIGKILL)
            await _enough(tally, enough)
        await daemon.until_state("a", "ready")
        report.show(f"{len(killed)} kills, one each {every:g} s", tally)
        told = [one for one in tally.others if one.end is End.TOLD]
        report.show(
            "streams that ended with an error event, by kill", sorted(Counter(one.pid for one in told).values())
        )
        others = [one for one in tally.others if one.end is not End.TOLD]
        report.promise("all but streams is answered", kept=not others, seen=(len(others), others[:5]))
        strange = [one for one in told if one.pid not in killed]
        report.promise("only streams of a killed one end", kept=not strange, seen=strange[:5])
        report.promise(f"{times} kills", kept=len(killed) == times, seen=killed)
        report.promise("there was load", kept=tally.answered >= enough, seen=tally.answered)
    ended_well(report, daemon)
    return report


async def stops(folder: Path, *, times: int, port: int | None = None) -> Report:
    """`llamad stop` and `start` of the server under load: what it has it finishes, what comes later is told why not."""
    report = Report()
    server = {"env": {"FAKE_CHUNK_DELAY": "0.01"}}
    async with Daemon(folder, {"servers": {"a": server}}, port=port) as daemon:
        async with load(daemon.address, "a") as tally:
            for _ in range(times):
                await daemon.order("stop", "a")
                await _refused(tally)
                await daemon.order("start", "a")
                await _enough(tally, tally.answered + 32)
        report.show(f"{times} stops and starts", tally)
        told = {(one.status, one.error.get("code")) for one in tally.others if one.end is End.REFUSED}
        report.promise("while stopped, 503 says so", kept=told == {(503, "stopped")}, seen=told)
        others = [one for one in tally.others if one.end is not End.REFUSED]
        report.promise("nothing is cut", kept=not others, seen=(len(others), others[:5]))
        seen = tally.ends.total()
        async with load(daemon.address, "a") as tally:
            for _ in range(times):
                await daemon.order("restart", "a")
                await _enough(tally, tally.answered + 32)
        report.none_lost(f"{times} restarts", tally, at_least=times * 32)
        report.promise("there was load", kept=seen >= times * 32, seen=seen)
    ended_well(report, daemon)
    return report


async def _enough(tally: Tally, answered: int) -> None:
    """Let the load go on until so many were answered."""
    await until(lambda: tally.answered >= answered)


async def _refused(tally: Tally) -> None:
    """Let the load go on until the stop was felt."""
    before = tally.ends[End.REFUSED]
    await until(lambda: tally.ends[End.REFUSED] >= before + 16)


def ended_well(report: Report, daemon: Daemon) -> None:
    report.promise("llamad ends well", kept=daemon.code == 0, seen=daemon.code)
    text = daemon.log.read_text(errors="replace")
    at = text.find("Traceback")
    report.promise("no traceback in the log", kept=at < 0, seen=text[max(at - 300, 0) :][:900])
