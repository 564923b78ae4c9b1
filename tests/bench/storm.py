"""Orders from fifty clients at once: `python -m tests.bench.storm [SECONDS] [SEED]` from the repository's root.

A llamad over fake servers (start-first ones among others, groups, on demand, an external one), whose file is rewritten,
whose children are killed, and that is told to start, stop, restart and reload, all at the same time. Afterwards llamad
lives, what is wanted is what runs, and no descriptor, task, thread or child process is there that was not before.
"""

import asyncio
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from llamad.errors import LlamadError
from llamad.servers.guard import VARIABLE
from tests.bench.daemon import Daemon, Document, until
from tests.bench.report import Report

CLIENTS = 50
SECONDS = 60.0
WARM_UP = 5.0
"""Seconds of storm before what is there is counted: pools and caches have filled by then."""
SETTLE = 60.0
SLACK = {"threads": 8}
"""What may be more of: pools still fill."""
_RESTART = {"initial_delay": "20ms", "max_delay": "200ms", "max_retries": None}
_TASKS = """
import asyncio, signal
from llamad.daemon import Daemon
usual = Daemon.serve
async def serve(daemon, watchdog):
    def tell():
        with open({path!r}, "w") as file:
            file.write("\\n".join(sorted(task.get_name() for task in asyncio.all_tasks())) + "\\nend")
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, tell)
    return await usual(daemon, watchdog)
Daemon.serve = serve
"""
"""Runs in the daemon: it writes down its tasks when it is asked to."""


@dataclass(frozen=True)
class There:
    """What a llamad has while it rests."""

    descriptors: int
    threads: int
    tasks: int
    children: int

    def more_than(self, other: "There") -> dict[str, str]:
        """What there is more of."""
        mine, its = vars(self), vars(other)
        return {name: f"{its[name]} -> {mine[name]}" for name in mine if mine[name] > its[name] + SLACK.get(name, 0)}


@dataclass
class Storm:
    """One llamad, and those who act on it."""

    daemon: Daemon
    chance: random.Random
    url: str
    acts: Counter[str] = field(default_factory=Counter)
    tasks: list[str] = field(default_factory=list)

    def forms(self, *, rests: bool = False) -> Document:
        """The servers, each in one of its forms; the one in which llamad rests is always the same."""

        def one(**more: object) -> Document:
            version = "rest" if rests else str(self.chance.randrange(3))
            load = "0" if rests else self.chance.choice(("0", "0", "0.05", "0.4"))
            return {"env": {"FAKE_VERSION": version, "FAKE_LOAD_S": load}, **more}

        def replicas(at_rest: int) -> int:
            return at_rest if rests else self.chance.choice((1, 2, 3))

        idle = None if rests else "1s"
        every: Document = {
            "first": one(replace="start-first", replicas=replicas(2)),
            "first-demand": one(replace="start-first", start="on-demand", idle_timeout=idle),
            "stop": one(replicas=replicas(2)),
            "demand": one(start="on-demand", idle_timeout=idle),
            "manual": one(start="manual", replace="start-first"),
            "g1": one(start="on-demand", group="g", replace="start-first"),
            "g2": one(start="on-demand", group="g"),
            "outside": {"url": self.url},
        }
        return every if rests else {name: form for name, form in every.items() if self.chance.random() < 0.9}

    async def client(self, until_time: float) -> None:
        """One of those who act."""
        loop = asyncio.get_running_loop()
        while loop.time() < until_time:
            await self._act()
            await asyncio.sleep(self.chance.choice((0, 0, 0.01, 0.1, 0.5)))

    async def _act(self) -> None:
        name = self.chance.choice(sorted(self.forms(rests=True)))
        what = self.chance.choice(("restart", "restart", "start", "stop", "reload", "write", "kill", "ask", "status"))
        self.acts[what] += 1
        if what == "write":
            self.daemon.config["servers"] = self.forms()
            self.daemon.write()
        elif what == "kill":
            if children := self.children():
                with suppress(ProcessLookupError):
                    os.kill(self.chance.choice(children), signal.SIGKILL)
        elif what == "ask":
            body = json.dumps({"model": name, "prompt": "x", "max_tokens": 3})
            await self.post(str(self.daemon.address), "/v1/completions", body, patience=3)
        elif what == "reload":
            await self.post(self.control, f"/v1/reload?wait={self.chance.choice(('0', '1'))}", patience=3)
        elif what == "status":
            await self.post(self.control, "/v1/status", method="GET")
        else:
            await self.post(
                self.control, f"/v1/servers/{name}/{what}?wait={self.chance.choice(('0', '1'))}", patience=3
            )

    @property
    def control(self) -> str:
        """Where the control socket is."""
        return str(self.daemon.folder / "run" / "control.sock")

    async def post(
        self, path: str, target: str, body: str = "", *, method: str = "POST", patience: float = 30.0
    ) -> int | None:
        """The status of an answer; None where there is none in time. Who has waited for long enough leaves."""
        try:
            async with asyncio.timeout(patience):
                reader, writer = await asyncio.open_unix_connection(path)
                try:
                    head = (
                        f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
                    )
                    writer.write(f"{head}\r\n{body}".encode())
                    answer = await reader.read(-1)
                    status = int(answer[9:12]) if answer else None
                    self.acts[f"answered {status}"] += 1
                    return status
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return None

    def children(self) -> list[int]:
        """The processes whose parent is llamad."""
        out = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                state, parent = path.read_text().rpartition(")")[2].split()[:2]
                if int(parent) == self.daemon.pid and state != "Z":
                    out.append(int(path.parent.name))
        return out

    async def rest(self, report: Report) -> There:
        """Have llamad come to rest with everything that can run together, and count what there is."""
        self.daemon.config["servers"] = self.forms(rests=True)
        await self.daemon.reload()
        for name in self.daemon.config["servers"]:
            if name not in ("outside", "g2"):
                await self.daemon.order("start", name)
        await self.daemon.order("stop", "g2")
        for one in (await self.daemon.status())["servers"]:
            if (one["state"] != "ready" and one["wanted"] == "running") or "not replaced" in (one["reason"] or ""):
                await self.daemon.order("restart", one["name"])
        wrong = await self._settled()
        report.promise("what is wanted is what runs", kept=not wrong, seen=wrong)
        return await self._count()

    async def _settled(self) -> list[str]:
        """What differs from what is wanted, once nothing does or the time is over."""
        began = time.monotonic()
        while (wrong := await self._wrong()) and time.monotonic() - began < SETTLE:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.1)
        return wrong

    async def _wrong(self) -> list[str]:
        servers = (await self.daemon.status())["servers"]
        wrong, pids = [], set()
        for one in servers:
            form = self.daemon.config["servers"][one["name"]]
            if one["wanted"] == "stopped":
                if one["replicas"]:
                    wrong.append(f"{one['name']} is {one['state']} and wanted stopped")
                continue
            ready = [each for each in one["replicas"] if each["state"] == "ready"]
            if len(ready) != form.get("replicas", 1) or len(ready) != len(one["replicas"]):
                wrong.append(f"{one['name']} is {[each['state'] for each in one['replicas']]}: {one['reason']}")
            for each in ready if "url" not in form else ():
                pids.add(each["pid"])
                if f"FAKE_VERSION={form['env']['FAKE_VERSION']}" not in _environment(each["pid"]):
                    wrong.append(f"{one['name']} runs another form")
        if {one["name"] for one in servers} != set(self.daemon.config["servers"]):
            wrong.append("other servers than configured")
        servers_of_ours = {pid for pid in self.children() if VARIABLE not in _command(pid)}  # but for the guard
        if servers_of_ours != pids:
            odd = {pid: _command(pid) for pid in servers_of_ours ^ pids}
            wrong.append(f"children are not those of the status: {odd}")
        return wrong

    async def _count(self) -> There:
        """The least that is seen in a few looks: a connection may just be closing."""
        looks = []
        for _ in range(10):
            proc = Path(f"/proc/{self.daemon.pid}")
            threads = int(proc.joinpath("status").read_text().split("Threads:")[1].split()[0])
            tasks = await self._tasks()
            looks.append((len(list(proc.joinpath("fd").iterdir())), threads, len(tasks), len(self.children())))
            self.tasks = tasks
            await asyncio.sleep(0.3)
        return There(*(min(figures) for figures in zip(*looks, strict=True)))

    async def _tasks(self) -> list[str]:
        path = self.daemon.folder / "tasks"
        path.unlink(missing_ok=True)
        self.daemon.signal(signal.SIGUSR1)
        await until(lambda: path.exists() and path.read_text().endswith("\nend"), seconds=10)
        return path.read_text().splitlines()[:-1]


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return "(gone)"


def _environment(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/environ").read_text().split("\0")
    except OSError:
        return []


async def _outside(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A llama-server that somebody else runs."""
    with suppress(OSError, asyncio.IncompleteReadError):
        request = await reader.readuntil(b"\r\n\r\n")
        body = b"[]" if b"/slots" in request else b"{}"
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body))
        await writer.drain()
    writer.close()


async def storm(folder: Path, *, seconds: float, seed: int) -> Report:
    """Let it blow for so long, and see what is left."""
    report = Report()
    (folder / "sitecustomize.py").write_text(_TASKS.format(path=str(folder / "tasks")))
    environment = {"PYTHONPATH": f"{folder}:{Path(__file__).parents[2]}"}
    async with await asyncio.start_server(_outside, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        config = {
            "defaults": {"restart": _RESTART, "stop": {"drain_timeout": "1s"}},
            "servers": {"outside": {"url": url}},
        }
        async with Daemon(folder, config, environment=environment) as daemon:
            one = Storm(daemon, random.Random(seed), url)
            await _blow(one, WARM_UP)
            before = await one.rest(report)
            started = len(daemon.events("started,"))
            await _blow(one, seconds)
            report.promise("llamad lives", kept=daemon.lives, seen=daemon.log.read_text(errors="replace")[-3000:])
            after = await one.rest(report)
            report.show(f"{seconds:g} s, {CLIENTS} clients", dict(sorted(one.acts.items())))
            report.show("processes started", len(daemon.events("started,")) - started)
            report.show("at rest", f"{before} -> {after}")
            report.promise("nothing is left over", kept=not after.more_than(before), seen=after.more_than(before))
            bugs = daemon.events("a bug in llamad") + daemon.events("Traceback")
            first = daemon.log.read_text(errors="replace").partition("Traceback")[2][:2500]
            report.promise("no bug was met", kept=not bugs, seen=(len(bugs), first))
        report.promise("it ends with 0", kept=daemon.code == 0, seen=daemon.code)
        report.promise("no server outlives it", kept=not one.children(), seen=one.children())
    return report


async def _blow(one: Storm, seconds: float) -> None:
    until_time = asyncio.get_running_loop().time() + seconds
    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(one.client(until_time))


def main() -> int:
    """Run, print, and tell whether a promise was broken."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    folder = Path(tempfile.mkdtemp(prefix="storm-", dir="/tmp"))  # short: sockets lie in it
    try:
        report = asyncio.run(storm(folder, seconds=seconds, seed=seed))
    except (AssertionError, LlamadError) as error:
        report = Report(broken=[f"{error}", *(folder / "log").read_text(errors="replace").splitlines()[-40:]])
    finally:
        shutil.rmtree(folder)
    for what, figure in report.figures:
        print(f"{what}: {figure}")
    for line in report.broken:
        print(f"BROKEN: {line}")
    print("every promise was kept" if not report.broken else f"{len(report.broken)} promises were broken")
    return int(bool(report.broken))


if __name__ == "__main__":
    sys.exit(main())
