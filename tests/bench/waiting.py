"""More requests than a server takes, and the end of llamad with requests in flight."""

import asyncio
import signal
import time
from collections import Counter
from pathlib import Path

from tests.bench.client import Connection, End, Kind, Result
from tests.bench.daemon import Daemon, is_there, until
from tests.bench.load import at_once, load
from tests.bench.report import Report
from tests.bench.under_load import ended_well

_SLOTS = 2
_QUEUE = 8
_ANN = "sk-0123456789abcdef-ann"
_BOB = "sk-0123456789abcdef-bob"


async def queue(folder: Path, *, beyond: int, port: int | None = None) -> Report:
    """Slots and queue full: the rest is told to come later, at once; who waits too long too; the others in order."""
    report = Report()
    env = {"FAKE_DELAY": "0.05"}
    servers = {
        "a": {"max_concurrent": _SLOTS, "env": env},
        "slow": {"max_concurrent": 1, "env": {"FAKE_DELAY": "1.1"}},
    }
    gateway = {"queue": {"size": _QUEUE, "timeout": "800ms"}, "api_keys_file": str(_keys(folder))}
    async with Daemon(folder, {"gateway": gateway, "servers": servers}, port=port) as daemon:
        many = _SLOTS + _QUEUE + beyond
        began = time.monotonic()
        results = await at_once(daemon.address, "a", many, key=_ANN)
        _full(report, results, beyond)
        report.show("answered within", f"{time.monotonic() - began:.2f} s")
        results = await at_once(daemon.address, "slow", 3, key=_ANN)
        _timed_out(report, results)
    ended_well(report, daemon)
    return report


def _full(report: Report, results: list[Result], beyond: int) -> None:
    seen = Counter(_shown(one) for one in results)
    report.show(f"{len(results)} at once for {_SLOTS} slots and a queue of {_QUEUE}", dict(seen))
    wanted = {"ANSWERED 200": _SLOTS + _QUEUE, "REFUSED 503 queue_full, Retry-After": beyond}
    report.promise("the rest gets 503 with Retry-After", kept=dict(seen) == wanted, seen=dict(seen))


def _timed_out(report: Report, results: list[Result]) -> None:
    seen = Counter(_shown(one) for one in results)
    report.show("3 at once, 1.1 s each, for one slot and a queue of 0.8 s", dict(seen))
    wanted = {"ANSWERED 200": 1, "REFUSED 503 queue_timeout, Retry-After": 2}
    report.promise("who waits too long gets 503 with Retry-After", kept=dict(seen) == wanted, seen=dict(seen))


async def order(folder: Path, *, each: int, port: int | None = None) -> Report:
    """Two keys ask in turns for a server that does not run yet; once it does, each key's go in the order they came."""
    report, may_load = Report(), folder / "go"
    servers = {"a": {"start": "on-demand", "max_concurrent": 1, "env": {"FAKE_LOAD_FILE": str(may_load)}}}
    keys = _keys(folder)
    async with Daemon(folder, {"gateway": {"api_keys_file": str(keys)}, "servers": servers}, port=port) as daemon:

        async def send(key: str, name: str) -> Result:
            async with Connection(daemon.address) as connection:
                return await connection.ask(Kind.JSON, "a", name, words=1, key=key)

        asked: dict[str, list[asyncio.Task[Result]]] = {_ANN: [], _BOB: []}
        async with asyncio.TaskGroup() as group:
            for i in range(each):
                for key, mine in asked.items():
                    mine.append(group.create_task(send(key, f"{key}-{i}")))
                    await daemon.until_queued("a", len(asked[_ANN]) + len(asked[_BOB]))
            may_load.touch()
        seen = {key[-3:]: [one.result().task for one in mine] for key, mine in asked.items()}
        report.show("in which order each key's requests were worked on", seen)
        kept = all(tasks == sorted(tasks) and all(tasks) for tasks in seen.values())
        report.promise("in order within a key", kept=kept, seen=seen)
        kept = all(abs(one - other) == 1 for one, other in zip(*seen.values(), strict=True))
        report.promise("keys take turns", kept=kept, seen=seen)
    ended_well(report, daemon)
    return report


def _keys(folder: Path) -> Path:
    path = folder / "keys"
    path.write_text(f"ann:{_ANN}\nbob:{_BOB}\n")
    path.chmod(0o600)
    return path


async def the_end(folder: Path, *, port: int | None = None) -> Report:
    """SIGTERM with streams and answers in flight, and some that wait: all end well; new ones do not hang."""
    report = Report()
    servers = {
        "a": {"max_concurrent": 8, "args": {"parallel": 8}, "env": {"FAKE_CHUNK_DELAY": "0.05"}},
    }
    config = {"gateway": {"queue": {"size": 64, "timeout": "20s"}}, "servers": servers}
    async with Daemon(folder, config, port=port) as daemon, Connection(daemon.address) as idle:
        await idle.ask(Kind.ECHO, "a", "first", words=1)
        kinds = (Kind.STREAM, Kind.JSON)
        asked = [asyncio.ensure_future(at_once(daemon.address, "a", 6, kind=kind, words=8)) for kind in kinds]
        try:
            await daemon.until_queued("a", 4)
            pids = await daemon.pids("a")
            daemon.signal(signal.SIGTERM)
            began = time.monotonic()
            late = [await idle.ask(Kind.ECHO, "a", "idle", words=1), *await _late(daemon)]
        finally:
            results = [result for many in await asyncio.gather(*asked) for result in many]
        await daemon.end()
        report.show("SIGTERM: 8 in flight and 4 that wait", dict(Counter(_shown(one) for one in results)))
        report.show("who comes later", dict(Counter(_shown(one) for one in late)))
        report.show("ended after", f"{time.monotonic() - began:.2f} s")
        kept = all(one.end is End.ANSWERED for one in results)
        report.promise("what is in flight or waits ends well", kept=kept, seen=[_shown(one) for one in results])
        kept = {one.end for one in late} <= {End.UNREACHABLE, End.ANSWERED, End.REFUSED}
        report.promise("new ones are refused or closed cleanly", kept=kept, seen=late[:3])
        left = [pid for pid in pids if is_there(pid)]
        report.promise("no server is left", kept=bool(pids) and not left, seen=(pids, left))
    ended_well(report, daemon)
    return report


async def end_under_load(folder: Path, *, port: int | None = None) -> Report:
    """SIGTERM while clients go on asking: each request is answered, or never was taken."""
    report = Report()
    async with Daemon(folder, {"servers": {"a": {"env": {"FAKE_CHUNK_DELAY": "0.005"}}}}, port=port) as daemon:
        async with load(daemon.address, "a") as tally:
            await until(lambda: tally.answered >= 64)
            await daemon.end()
        report.show("SIGTERM under load", tally)
        others = [one for one in tally.others if one.end is not End.UNREACHABLE]
        report.promise("what was taken is answered", kept=not others, seen=(len(others), others[:5]))
    ended_well(report, daemon)
    return report


async def _late(daemon: Daemon) -> list[Result]:
    """Requests that come while llamad ends."""
    out: list[Result] = []
    for i in range(20):
        async with Connection(daemon.address) as connection:
            out.append(await connection.ask(Kind.ECHO, "a", f"late-{i}", words=1))
        await asyncio.sleep(0.02)
    return out


def _shown(one: Result) -> str:
    told = f" {one.error['code']}" if one.error.get("code") else ""
    return f"{one.end.name} {one.status}{told}" + (", Retry-After" if "retry-after" in one.headers else "")
