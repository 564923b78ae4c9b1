"""Requests for what does not run yet: one start for many, starts that fail, and servers that make way."""

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path

from tests.bench.client import Connection, End, Kind, Result
from tests.bench.daemon import Daemon, Document, is_there, until
from tests.bench.load import at_once
from tests.bench.report import Report
from tests.bench.under_load import ended_well

_ONE = "on-demand"


def _launches(starts: Path) -> list[str]:
    """Which processes were started to serve; one that is asked for its options (with the server's `env:`) is none."""
    return [line for line in starts.read_text().splitlines() if "--help" not in line]


async def starts(folder: Path, *, many: int, rounds: int, port: int | None = None) -> Report:
    """Many at once start it once; nobody any more stops it; what cannot start says why, to each of them."""
    report = Report()
    starts = folder / "starts"
    servers = {
        "a": {
            "start": _ONE,
            "idle_timeout": "300ms",
            "env": {"FAKE_STARTS": str(starts), "FAKE_LOAD_S": "0.2"},
        },
        "bad": {"start": _ONE, "env": {"FAKE_FAIL": "architecture", "FAKE_LOAD_S": "0.2"}},
    }
    async with Daemon(folder, {"servers": servers}, port=port) as daemon:
        for round_ in range(1, rounds + 1):
            results = await at_once(daemon.address, "a", many)
            _all_answered(report, f"{many} at once for a stopped server", results)
            lines = _launches(starts)
            report.promise("they start it once", kept=len(lines) == round_, seen=lines)
            took = await daemon.until_state("a", "stopped")
            report.show("idle_timeout 0.3 s: stopped after", f"{took:.1f} s")
            report.promise("its process is gone", kept=not is_there(int(lines[-1].split()[0])), seen=lines[-1])
        failed = await at_once(daemon.address, "bad", many)
        told = Counter((one.end.name, one.status, one.error.get("code")) for one in failed)
        report.show(f"{many} at once for one that cannot start", dict(told))
        causes = {(one.end, one.status) for one in failed}
        named = all("quux" in one.error.get("message", "") or "architecture" in str(one.error) for one in failed)
        report.promise("each is told the cause", kept=causes == {(End.REFUSED, 503)} and named, seen=failed[:2])
    ended_well(report, daemon)
    return report


async def swaps(folder: Path, *, rounds: int, clients: int = 4, port: int | None = None) -> Report:
    """Two servers that cannot run together, because of their group or of a memory budget, asked in turns: each request
    is answered, and never are both alive.
    """
    report = Report()
    reasons: Document = {"group": {"group": "g"}, "memory": {"memory": "6M"}}
    servers = {
        f"{reason}-{name}": {
            "start": _ONE,
            "llama_server": str(_one_at_a_time(folder, reason)),
            "env": {"FAKE_STARTS": str(folder / f"starts-{reason}")},
            **why,
        }
        for reason, why in reasons.items()
        for name in "ab"
    }
    config = {"gateway": {"memory_budget": {"host": "10M"}}, "servers": servers}
    async with Daemon(folder, config, port=port) as daemon:

        async def one(client: int, reason: str) -> list[Result]:
            out = []
            async with Connection(daemon.address) as connection:
                for i in range(rounds):
                    kind, name = (Kind.JSON, Kind.STREAM)[i % 2], f"{reason}-{'ab'[(client + i) % 2]}"
                    out.append(await connection.ask(kind, name, f"{client}-{i}", words=3))
            return out

        for reason in reasons:
            all_of_them = await asyncio.gather(*(one(client, reason) for client in range(clients)))
            results = [result for many in all_of_them for result in many]
            starts = len((folder / f"starts-{reason}").read_text().splitlines())
            what = f"{clients} clients, {rounds} turns between two servers, apart by {reason}"
            _all_answered(report, f"{what}, {starts} starts", results)
            report.promise("they made way for each other", kept=starts >= 2, seen=starts)
            overlaps = folder / f"overlaps-{reason}"
            report.promise("never both are alive", kept=not overlaps.exists(), seen=overlaps)
    ended_well(report, daemon)
    return report


async def reload_amid_start(folder: Path, *, many: int, port: int | None = None) -> Report:
    """SIGHUP and a reload while requests wait for a start: they go on waiting, and are answered."""
    report = Report()
    starts, may_load = folder / "starts", folder / "go"
    env = {"FAKE_STARTS": str(starts), "FAKE_LOAD_FILE": str(may_load)}
    config: Document = {"servers": {"a": {"start": _ONE, "env": env}}}
    async with Daemon(folder, config, port=port) as daemon:
        asked = asyncio.ensure_future(at_once(daemon.address, "a", many))
        try:
            await until(starts.exists)
            daemon.signal(signal.SIGHUP)
            config["servers"]["b"] = {}
            await daemon.reload(wait=False)
            config["servers"]["a"]["idle_timeout"] = "1m"  # a change that needs no new process
            await daemon.reload(wait=False)
            early = asked.done()
        finally:
            may_load.touch()
            results = await asked
        report.promise("nobody is refused because of a reload", kept=not early, seen=results[:2])
        _all_answered(report, f"{many} that wait for a start, SIGHUP and two reloads", results)
        lines = _launches(starts)
        report.promise("it is started once", kept=len(lines) == 1, seen=lines)
    ended_well(report, daemon)
    return report


def _one_at_a_time(folder: Path, reason: str) -> Path:
    """A llama-server that notes in `overlaps-REASON` when it starts while another one of its kind is alive."""
    path = folder / f"apart-by-{reason}"
    real, lock, overlaps = folder / "llama-server", folder / f"lock-{reason}", folder / f"overlaps-{reason}"
    path.write_text(
        f'#!/bin/sh\ncase "$1" in --help|--version) exec {real} "$@";; esac\n'
        f'exec 9>{lock}\nflock -n 9 || echo $$ >>{overlaps}\nexec {real} "$@"\n'
    )
    os.chmod(path, 0o755)
    return path


def _all_answered(report: Report, what: str, results: list[Result]) -> None:
    ends = Counter(one.end.name for one in results)
    report.show(what, dict(ends))
    others = [one for one in results if one.end is not End.ANSWERED]
    report.promise(f"{what}: all are answered", kept=not others, seen=(len(others), others[:3]))
