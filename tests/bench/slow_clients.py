"""Two thousand clients that never finish their request, and one that is honest: it is answered as if it were alone.

python -m tests.bench.slow_clients
"""

import asyncio
import resource
import statistics
import sys
import time
from pathlib import Path

import uvloop

from tests.bench.served import serve
from tests.folders import short_folder
from tests.gateway.gate import Wire, post
from tests.gateway.origin import Origin

SLOW = 2000
HONEST = 200
PORT = 18089
KEY = "sk-bench"
START = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX: "


async def _honest(wire: Wire) -> float:
    """Median of so many answers, in milliseconds; every one is there, or this raises."""
    request = post(b'{"model": "fake"}', f"Authorization: Bearer {KEY}")
    took = []
    for _ in range(HONEST):
        began = time.perf_counter()
        wire.send(request)
        if (await wire.reply()).status != 200:
            raise SystemExit("the honest client was refused")
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1000


async def _scenario(folder: Path) -> None:
    async with Origin(folder / "server.sock") as origin:
        serving = asyncio.ensure_future(serve(PORT, origin.path, KEY))
        await asyncio.sleep(0.5)
        honest = Wire(*await asyncio.open_connection("127.0.0.1", PORT))
        print(f"alone: {await _honest(honest):.2f} ms")
        slow = [Wire(*await asyncio.open_connection("127.0.0.1", PORT)) for _ in range(SLOW)]
        for wire in slow:
            wire.send(START)
        print(f"beside {SLOW} slow clients: {await _honest(honest):.2f} ms")
        statuses = [(await asyncio.wait_for(wire.reader.readline(), 30)).split()[1] for wire in slow]
        if set(statuses) != {b"408"}:
            raise SystemExit(f"slow clients were answered with {set(statuses)}")
        print(f"all {SLOW} were told 408")
        for wire in (*slow, honest):
            await wire.close()
        serving.cancel()
        await asyncio.wait([serving])


if __name__ == "__main__":
    wanted = 2 * SLOW + 200
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < wanted:
        sys.exit(f"this needs {wanted} open files: ulimit -n is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    with short_folder() as own:
        uvloop.run(_scenario(own))
