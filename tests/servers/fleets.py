"""What stories of the fleet have in common."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from llamad.errors import ServerDownError
from llamad.host.pidfd import Exit
from llamad.servers.board import Change, Failure
from llamad.servers.fleet import Fleet
from llamad.servers.plan import Intent
from llamad.servers.state import State
from tests.builders import a_launch
from tests.stories import Behaviour, an_intent

SEGFAULT = Exit(signal=11)
AT_ONCE = Behaviour(ends=(0.0, SEGFAULT))
NEW = a_launch("a", arguments=("--model", "/models/a.gguf", "--ctx-size", "8192"))
CANNOT = Failure("program-missing", "llama-server is not there", "install it", permanent=True)


def now() -> float:
    return asyncio.get_running_loop().time()


def states(fleet: Fleet, server: str) -> list[State]:
    return [view.state for view in fleet.board.of(server)]


def pids(fleet: Fleet, server: str) -> list[int | None]:
    return [view.pid for view in fleet.board.of(server)]


def failure(fleet: Fleet, server: str) -> Failure | None:
    """Why a server is not as it is wanted."""
    return fleet.condition(server).failure


def on_demand(name: str, **config: Any) -> Intent:
    return an_intent(name, start="on-demand", **config)


async def down(fleet: Fleet, server: str) -> ServerDownError:
    """The error of `ensure_ready`."""
    with pytest.raises(ServerDownError) as caught:
        await fleet.ensure_ready(server)
    return caught.value


async def fewest_ready(fleet: Fleet, *acts: Callable[[], object], apart: float = 0.0) -> int:
    """The smallest number of ready replicas of `a` from the first act until it has settled."""
    fewest = len(fleet.board.of("a"))

    def note(_: Change) -> None:
        nonlocal fewest
        fewest = min(fewest, states(fleet, "a").count(State.READY))

    with fleet.board.observe(note):
        for act in acts:
            act()
            await asyncio.sleep(apart)
        await fleet.settled(["a"])
    return fewest
