"""A small fleet with behaviour, and builders of what the gateway's policy takes."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from llamad.config.model import ServerConfig
from llamad.errors import ServerDownError, UnknownServerError
from llamad.gateway.http1 import Request, Shape
from llamad.gateway.types import Headers, Lease, Refusal, RequestHead
from llamad.host.address import TcpAddress
from llamad.servers.board import Board, Failure, Replica, ReplicaKey
from llamad.servers.explain import Condition, explain
from llamad.servers.state import State
from llamad.servers.traffic import Traffic


def a_head(method: str = "POST", path: str = "/v1/chat/completions", query: str = "", **headers: str) -> RequestHead:
    """A request's head; `x_api_key="..."` is the header x-api-key."""
    fields: Headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return RequestHead(
        method,
        path,
        query,
        fields,
        chunked=False,
        keep_alive=True,
        version=(1, 1),
    )


def a_request(method: str = "POST", path: str = "/v1/chat/completions") -> Request:
    """A request with the id `r-1`."""
    head = a_head(method, path)
    shape = Shape(head, expects_continue=False, request_id="r-1", forwarded_for=b"", passed=b"")
    return Request(head, shape, None, "r-1")


def servers(*names: str, **fields: Any) -> dict[str, ServerConfig]:
    """Configurations of servers that differ by name only."""
    return {name: ServerConfig(name=name, **fields) for name in names}


class SmallFleet:
    """Backends: replicas are moved by the test, servers that are not up are started by `ensure_ready`, which waits for
    `may_start` and then has replica 0 ready, or fails with what stands in `broken`.
    """

    def __init__(self, configs: Mapping[str, ServerConfig]) -> None:
        self.board = Board()
        self.configs = configs
        self.may_start = asyncio.Event()
        self.broken: dict[str, ServerDownError] = {}
        self.stopped: set[str] = set()
        self.asked: list[str] = []
        self._traffic: dict[str, Traffic] = {}

    def traffic(self, server: str) -> Traffic:
        return self._traffic.setdefault(server, Traffic(asyncio.get_running_loop().time))

    def condition(self, server: str) -> Condition:
        config, replicas = self.configs[server], self.board.of(server)
        running = server not in self.stopped and (config.start == "always" or bool(replicas))
        return explain(config, replicas, running=running)

    async def ensure_ready(self, server: str) -> None:
        if server not in self.configs:
            raise UnknownServerError(server, tuple(self.configs))
        self.asked.append(server)
        await self.may_start.wait()
        if server in self.broken:
            raise self.broken[server]
        if not any(one.state is State.READY for one in self.board.of(server)):
            self.up(server)

    def up(self, server: str, index: int = 0, *, generation: int = 0, slots: int | None = 1) -> ReplicaKey:
        """A new replica, ready at once."""
        key = self.add(server, index, generation=generation)
        self.ready(key, slots=slots)
        return key

    def add(self, server: str, index: int = 0, *, generation: int = 0) -> ReplicaKey:
        """A new replica, stopped."""
        key = ReplicaKey(server, index, generation)
        self.board.add(Replica(key))
        return key

    def ready(self, key: ReplicaKey, *, slots: int | None = 1) -> None:
        """A replica that is down gets ready."""
        now = asyncio.get_running_loop().time()
        self.board.move(key, State.STARTING, now=now)
        self.board.update(key, address=TcpAddress("127.0.0.1", 9000 + key.index), slots=slots)
        self.board.move(key, State.READY, now=now, ready_since=now)

    def move(self, key: ReplicaKey, state: State, **figures: Any) -> None:
        """Move a replica."""
        self.board.move(key, state, now=asyncio.get_running_loop().time(), **figures)

    def fail(self, key: ReplicaKey, failure: Failure, *, retry_in: float | None = None) -> None:
        """A replica fails."""
        now = asyncio.get_running_loop().time()
        self.move(key, State.FAILED, last_error=failure, retry_at=None if retry_in is None else now + retry_in)


class Client:
    """One who asks for a replica, and keeps what was decided, in the order it was, in a list shared by several."""

    def __init__(self, name: str, told: "list[tuple[str, Lease | Refusal]]") -> None:
        self.name = name
        self.told = told

    def decided(self, outcome: Lease | Refusal) -> None:
        self.told.append((self.name, outcome))


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until `condition()` holds; fails after two seconds."""
    async with asyncio.timeout(2):
        while not condition():  # noqa: ASYNC110 - the condition has no event
            await asyncio.sleep(0)
