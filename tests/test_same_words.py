"""Whoever tells why a server is not up says the same: systemd, the status, /ready, a refused request, the metrics."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from llamad.config.model import RestartPolicy
from llamad.errors import ServerDownError
from llamad.gateway.asking import Asker
from llamad.gateway.figures import read_figures
from llamad.gateway.local import LocalAnswers
from llamad.gateway.routes import Here, Place
from llamad.gateway.types import Answer
from llamad.host.notify import Notifier, SystemdEnvironment
from llamad.metrics import Metrics
from llamad.reporter import Reporter
from llamad.servers.fleet import Fleet
from llamad.servers.plan import Intent
from llamad.servers.state import State
from tests.servers.fleets import CANNOT, SEGFAULT
from tests.stories import Behaviour, World, a_fleet, a_world, an_intent, tell
from tests.test_verbs import Asked

NEVER_AGAIN = RestartPolicy(max_retries=0)


def blocked(fleet: Fleet) -> None:
    fleet.start("b")


def stopped(fleet: Fleet) -> None:
    fleet.stop("b")


def nothing(_: Fleet) -> None:
    return


CASES: dict[str, tuple[dict[str, Any], Callable[[Fleet], None], list[Behaviour], str, str]] = {
    "blocked by its group": (
        {"group": "g", "start": "on-demand"}, blocked, [], "no-room", "has no room: a is of the same group, runs",
    ),
    "stopped by hand": ({}, stopped, [], "stopped", "was stopped by hand"),
    "failed": (
        {"restart": NEVER_AGAIN}, nothing, [Behaviour(), Behaviour(ends=(0.5, SEGFAULT))],
        "segfault", "failed: llama-server crashed (segmentation fault)",
    ),
    "cannot be started": ({"launch": CANNOT}, nothing, [], CANNOT.cause, f"failed: {CANNOT.message}"),
    "loads": ({}, nothing, [Behaviour(), Behaviour(loads_for=1000)], "", "loading"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_everybody_says_the_same(case: str, tmp_path: Any) -> None:
    config, act, behaviours, cause, words = CASES[case]

    async def story() -> None:
        with a_world(*behaviours) as world:
            intents: list[Intent] = [an_intent("a", group=config.get("group")), an_intent("b", **config)]
            async with a_fleet(world, *intents) as fleet:
                await fleet.settled(["a"])
                await asyncio.sleep(20)
                act(fleet)
                await asyncio.sleep(1)
                await said_by_all(world, fleet, cause, words, tmp_path)

    tell(story)


async def said_by_all(world: World, fleet: Fleet, cause: str, words: str, folder: Any) -> None:
    condition = fleet.condition("b")
    assert condition.short.startswith(words)
    with Notifier(SystemdEnvironment()) as notifier:
        line = Reporter(notifier, fleet, world.around.pulse, list).line()
    assert f"b {condition.short}" in line or (condition.wanted == "stopped" and "1 stopped" in line)

    (told,) = Asked(world, fleet, folder).verbs.status("b")["servers"]
    assert (told["wanted"], told["state"]) == (condition.wanted, condition.state)
    assert told["reason"] == condition.reason(asyncio.get_running_loop().time())

    local = LocalAnswers(fleet, Metrics("0", State), Asker(world.machine.probe), key_of=lambda _: None)
    answer = local.answer(Here(Place.READY, "b"), "")
    assert isinstance(answer, Answer)
    assert answer.status == 503
    document = json.loads(answer.body)
    sentence = condition.sentence(asyncio.get_running_loop().time())
    assert document["error"]["message"] == sentence
    assert document["servers"]["b"]["state"] == condition.state

    figures = next(one for one in read_figures(fleet) if one.name == "b")
    assert (figures.is_wanted, figures.state, figures.cause) == (condition.wanted == "running", condition.state, cause)
    if condition.why is not None:
        with pytest.raises(ServerDownError) as refused:
            await fleet.ensure_ready("b")
        assert (refused.value.cause, refused.value.message) == (cause, sentence)
        assert condition.why.message.split(";")[0] in sentence
