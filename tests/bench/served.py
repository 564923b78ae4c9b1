"""The gateway as a process of its own, over one server that is there already: what the benchmark measures.

python -m tests.bench.served PORT SOCKET KEY
"""

import asyncio
import contextlib
import signal
import sys
from hashlib import sha256
from pathlib import Path

import uvloop

from llamad.config.model import GatewayConfig, ServerConfig
from llamad.gateway.gateway import Gateway
from llamad.gateway.keys import Keys
from llamad.host.address import TcpAddress, UnixAddress
from llamad.metrics import Metrics
from llamad.servers.board import Board, Replica, ReplicaKey
from llamad.servers.explain import Condition, explain
from llamad.servers.state import State
from llamad.servers.traffic import Traffic

SLOTS = 1024


class OneServer:
    """Backends with one replica that is always ready."""

    def __init__(self, socket: Path) -> None:
        self.board = Board()
        self.configs = {"fake": ServerConfig(name="fake")}
        self._traffic = Traffic(asyncio.get_running_loop().time)
        key = ReplicaKey("fake", 0)
        self.board.add(Replica(key, address=UnixAddress(socket), slots=SLOTS))
        self.board.move(key, State.READY, now=0.0)

    def traffic(self, server: str) -> Traffic:
        return self._traffic

    def condition(self, server: str) -> Condition:
        return explain(self.configs[server], self.board.of(server), running=True)

    async def ensure_ready(self, server: str) -> None:
        return


async def serve(port: int, socket: Path, key: str) -> None:
    """Serve until SIGTERM, with routing, keys and metrics as an operator has them."""
    settings = GatewayConfig(listen=(TcpAddress("127.0.0.1", port),))
    keys = Keys({sha256(key.encode()).digest(): "bench"})
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    gateway = Gateway(
        OneServer(socket),
        settings,
        keys,
        Metrics("bench", list(State)),
        external_key=lambda _: None,
        report=lambda problem: print(problem or "listening", flush=True),
    )
    async with gateway:
        await gateway.apply(settings, keys)
        await stop.wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
