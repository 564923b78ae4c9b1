"""What the control socket's verbs do to a fleet of the fake machine, on a clock that jumps."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llamad import verbs as module
from llamad.candidate import Candidate
from llamad.config.files import Files
from llamad.config.loader import Loaded
from llamad.config.problems import Position, Problem
from llamad.config.verdict import Verdict
from llamad.errors import ConfigError, ExitCode, LlamadError, UnknownServerError
from llamad.host.devices import Devices, Gpu, Vendor
from llamad.host.pidfd import Exit
from llamad.reload import Applied, Earlier
from llamad.servers.board import Failure
from llamad.servers.fleet import Fleet
from llamad.servers.output import Line
from llamad.servers.plan import Action, Plan, Step
from llamad.servers.state import State
from llamad.verbs import Verbs
from tests.builders import gguf
from tests.stories import Behaviour, World, a_world, an_intent, tell


class FakeReloader:
    """Applies what the test says is on disk."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.wanted: dict[str, Any] = {}
        self.refused: ConfigError | None = None
        self.files: tuple[Path, ...] = (Path("/etc/llamad/llamad.yaml"),)
        self.loaded_at = 0.0
        self.error: str | None = None
        self.steps: Plan = ()
        self.settings: tuple[str, ...] = ()
        self.earlier: tuple[Earlier, ...] = ()
        self.planned: list[Files | None] = []

    @property
    def file(self) -> Path:
        return self.files[0]

    async def reload(self) -> Applied:
        if self.refused is not None:
            raise self.refused
        return Applied(self.fleet.apply(self.wanted), ("a remark",), earlier=self.earlier)

    async def judged(self, files: Files | None) -> Candidate:
        self.planned.append(files)
        problem = Problem(Position(self.file, 1, 1), "", "no")
        read = files or Files(self.file, {self.file: b""})
        return Candidate(Loaded(None, (problem,), read, {}), Verdict((problem,), (problem,)), {})

    async def plan(self, files: Files | None = None) -> Applied:
        self.planned.append(files)
        if self.refused is not None:
            raise self.refused
        return Applied(self.steps, ("a remark",), self.settings, self.earlier)


class Asked:
    """Verbs over a fleet."""

    def __init__(self, world: World, fleet: Fleet, models: Path) -> None:
        self.world = world
        self.fleet = fleet
        self.reloader = FakeReloader(fleet)
        self.orders = 0
        self.upgrades = 0
        self.gateway_problem: str | None = None
        self.gateway_follows = asyncio.Event()
        self.gateway_follows.set()
        self.verbs = Verbs(
            fleet,
            self.reloader,  # type: ignore[arg-type]
            is_ready=lambda: True,
            prober=world.machine.probe,
            key_of=lambda _: None,
            models_dir=lambda: models,
            on_orders=self._ordered,
            begin_upgrade=self._upgrade,
            gateway_problem=lambda: self.gateway_problem,
            gateway_follows=self.gateway_follows.wait,
        )

    def _ordered(self) -> None:
        self.orders += 1

    def _upgrade(self) -> None:
        self.upgrades += 1


@asynccontextmanager
async def asked(*behaviours: Behaviour, models: Path = Path("/nowhere"), **server: Any) -> AsyncIterator[Asked]:
    """Servers `a` (alias `first`) and `b` of the same configuration."""
    with a_world(*behaviours) as world:
        async with Fleet(world.around) as fleet:
            fleet.apply({"a": an_intent("a", aliases=("first",), **server), "b": an_intent("b", **server)})
            yield Asked(world, fleet, models)


def test_a_verb_that_waits_tells_how_each_came_to_rest_in_the_order_asked() -> None:
    async def story() -> None:
        async with asked(start="manual") as one:
            began = await one.verbs.start(("b", "first"), wait=False)
            assert [(each.server, each.state) for each in began] == [("b", State.STARTING), ("a", State.STARTING)]
            ended = await one.verbs.start(("b", "first"), wait=True)
            assert [(each.server, each.state) for each in ended] == [("b", State.READY), ("a", State.READY)]
            pids = {view.pid for view in one.fleet.board.replicas.values()}
            (again,) = await one.verbs.restart(("a",), wait=True)
            assert again.state is State.READY
            assert {view.pid for view in one.fleet.board.replicas.values()} != pids
            (stopped,) = await one.verbs.stop(("first",), wait=True)
            assert (stopped.server, stopped.state, stopped.failure) == ("a", State.STOPPED, None)
            assert one.fleet.stopped_by_order == {"a"}
            assert one.orders == 4

    tell(story)


def test_who_does_not_wait_hears_of_no_old_failure() -> None:
    async def story() -> None:
        dies = Behaviour(ends=(0.1, Exit(code=1)))
        async with asked(dies, start="manual", restart={"max_retries": 0}) as one:
            (failed,) = await one.verbs.start(("a",), wait=True)
            assert failed.failure is not None
            (again,) = await one.verbs.restart(("a",), wait=False)
            assert again.failure is None

    tell(story)


def test_a_server_that_fails_is_told_with_its_reason() -> None:
    async def story() -> None:
        dies = Behaviour(ends=(0.1, Exit(code=1)), says=("0.00 E srv  it broke",))
        async with asked(dies, start="manual", restart={"max_retries": 0}) as one:
            (failed,) = await one.verbs.start(("a",), wait=True)
            assert failed.state is State.FAILED
            assert failed.failure is not None

    tell(story)


@pytest.mark.parametrize("verb", ["start", "stop", "restart"])
def test_an_unknown_name_changes_nothing(verb: str) -> None:
    async def story() -> None:
        async with asked(start="manual") as one:
            with pytest.raises(UnknownServerError, match="no server is called 'c'"):
                await getattr(one.verbs, verb)(("a", "c"), wait=True)
            assert one.fleet.wanted("a") == "stopped"
            assert one.orders == 0
            with pytest.raises(UnknownServerError):
                one.verbs.status("c")

    tell(story)


def test_status_is_of_one_or_of_all() -> None:
    async def story() -> None:
        async with asked() as one:
            await one.fleet.settled(["a", "b"])
            one.reloader.error = "line 1\nline 2"
            document = one.verbs.status(None)
            assert [server["name"] for server in document["servers"]] == ["a", "b"]
            assert document["config"]["error"] == "line 1\nline 2"
            assert document["ready"] is True
            assert document["gateway_problem"] is None
            one.gateway_problem = "the port is taken"
            assert one.verbs.status("a")["gateway_problem"] == "the port is taken"
            assert [server["name"] for server in one.verbs.status("first")["servers"]] == ["a"]

    tell(story)


def test_watching_tells_what_changes() -> None:
    async def story() -> None:
        async with asked(start="manual") as one, aclosing(one.verbs.watch("a")) as documents:
            assert (await anext(documents))["servers"][0]["state"] == "stopped"
            one.fleet.start("a")
            async for document in documents:
                if document["servers"][0]["state"] == "ready":
                    break

    tell(story)


@pytest.mark.parametrize("wait", [True, False])
def test_a_reload_waits_for_what_it_touched_and_no_more(wait: bool) -> None:  # noqa: FBT001
    async def story() -> None:
        async with asked() as one:
            await one.fleet.settled(["a", "b"])
            one.reloader.wanted = {"a": an_intent("a", aliases=("first",)), "c": an_intent("c")}
            outcome = await one.verbs.reload(wait=wait)
            assert [str(step) for step in outcome.steps if "keep" not in str(step)]
            assert outcome.problems == ("a remark",)
            assert [each.server for each in outcome.settled] == (["c"] if wait else [])
            assert list(one.fleet.configs) == ["a", "c"]

    tell(story)


def test_a_reload_waits_for_what_an_earlier_one_began_and_names_what_failed() -> None:
    async def story() -> None:
        slow, dies = Behaviour(loads_for=30.0), Behaviour(ends=(0.1, Exit(code=1)))
        async with asked() as one:
            await one.fleet.settled(["a", "b"])
            one.world.machine.behaviours.extend([slow, dies])
            one.reloader.wanted = {
                "a": one.fleet.intents["a"],
                "slow": an_intent("slow"),
                "bad": an_intent("bad", restart={"max_retries": 0}),
                "elsewhere": an_intent("elsewhere", url="http://127.0.0.1:1"),
                "idle": an_intent("idle", start="on-demand"),
            }
            one.fleet.apply(one.reloader.wanted)  # as the saved file was applied
            outcome = await one.verbs.reload(wait=True)
            states = {each.server: (each.state, each.failure is None) for each in outcome.settled}
            assert states == {"slow": (State.READY, True), "bad": (State.FAILED, False)}
            outcome = await one.verbs.reload(wait=True)
            assert [each.server for each in outcome.settled] == ["bad"]

    tell(story)


def test_what_is_not_replaced_is_told_in_whole_words() -> None:
    async def story() -> None:
        async with asked() as one:
            await one.fleet.settled(["a", "b"])
            one.world.inspections.append(Failure("model-missing", "the model is not there", "bring it back"))
            (settled,) = await one.verbs.restart(("a",), wait=True)
            assert settled.state is State.READY
            assert settled.failure is not None
            assert settled.failure.message == "not replaced: the model is not there; the old one goes on"
            one.reloader.wanted = dict(one.fleet.intents)
            (again,) = (await one.verbs.reload(wait=True)).settled
            assert again == settled

    tell(story)


def test_of_several_replicas_the_one_that_is_down_is_named() -> None:
    async def story() -> None:
        dies = Behaviour(ends=(0.1, Exit(code=1)))
        async with asked(Behaviour(), dies, start="manual", replicas=2, restart={"max_retries": 0}) as one:
            (settled,) = await one.verbs.start(("a",), wait=True)
            assert settled.state is State.READY
            assert settled.failure is not None
            assert settled.failure.message.startswith("replica 1 is failed: ")

    tell(story)


@pytest.mark.parametrize("verb", ["start", "stop", "restart"])
def test_a_server_of_somebody_else_is_not_ordered_about(verb: str) -> None:
    async def story() -> None:
        async with asked() as one:
            url = "http://127.0.0.1:1"
            one.fleet.apply({**one.fleet.intents, "ext": an_intent("ext", url=url, aliases=("other",))})
            with pytest.raises(LlamadError, match=f"llamad does not run ext: it is the server at {url}") as refused:
                await getattr(one.verbs, verb)(("a", "other"), wait=False)
            assert refused.value.exit_code is ExitCode.FAILED
            assert one.orders == 0
            assert one.fleet.wanted("ext") == one.fleet.wanted("a") == "running"

    tell(story)


def test_a_plan_does_nothing_and_an_upgrade_asks_for_one_first() -> None:
    async def story() -> None:
        async with asked() as one:
            outcome = await one.verbs.plan(None)
            assert (outcome.steps, outcome.problems, outcome.settled) == ((), ("a remark",), ())
            await one.verbs.upgrade()
            assert one.upgrades == 1
            one.reloader.refused = ConfigError("no", problems=("f:1:1: no",))
            with pytest.raises(ConfigError):
                await one.verbs.upgrade()
            assert one.upgrades == 1

    tell(story)


def test_a_plan_tells_of_a_changed_program_where_its_server_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fleet, "notice", lambda _, name: f"notice of {name}")

    async def story() -> None:
        async with asked() as one:
            one.reloader.steps = (Step(Action.KEEP, "a"), Step(Action.REPLACE, "b"), Step(Action.START, "c"))
            assert (await one.verbs.plan(None)).problems == ("a remark", "a: notice of a")
            one.reloader.settings = ("startup settle -> strict",)
            assert (await one.verbs.plan(None)).settings == ("startup settle -> strict",)

    tell(story)


def test_a_server_that_was_stopped_by_hand_says_so() -> None:
    async def story() -> None:
        async with asked(start="on-demand") as one:
            assert one.verbs.status("a")["servers"][0]["reason"] == "starts with a request"
            await one.verbs.stop(("a",), wait=True)
            assert one.verbs.status("a")["servers"][0]["reason"] == "was stopped by hand (llamad start a)"

    tell(story)


def test_output_is_what_is_kept_and_then_what_comes() -> None:
    async def story() -> None:
        async with asked(start="manual") as one:
            output = one.fleet.output("a")
            for number in range(3):
                output.add(Line(0.0, logging.INFO, f"line {number}", 0))
            kept = [line["text"] async for line in one.verbs.logs("first", last=2, follow=False)]
            assert kept == ["line 1", "line 2"]
            async with aclosing(one.verbs.logs("a", last=1, follow=True)) as lines:
                assert (await anext(lines))["text"] == "line 2"
                for number in range(3, 2000):
                    output.add(Line(0.0, logging.INFO, f"line {number}", 0))
                first = await anext(lines)
                assert (first["text"], first["lost"]) == ("line 1000", 997)
                assert (await anext(lines))["lost"] == 0

    tell(story)


def test_models_are_those_of_the_folder_and_of_the_servers(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(gguf({"general.architecture": "llama"}))

    async def story() -> None:
        async with asked(models=tmp_path) as one:
            await one.fleet.settled(["a", "b"])
            document = await one.verbs.models()
            assert [file["name"] for file in document["files"]] == ["m"]
            assert document["error"] is None
            assert {served["server"] for served in document["served"]} == {"a", "b"}
        async with asked(models=tmp_path / "m.gguf") as one:
            document = await one.verbs.models()
            assert document["files"] == []
            assert document["error"] is not None

    tell(story)


@pytest.mark.parametrize("driver", [True, False])
def test_devices_have_the_drivers_figures_where_there_is_one(monkeypatch: pytest.MonkeyPatch, *, driver: bool) -> None:
    gpu = Gpu(Vendor.NVIDIA, index=0, pci="0000:01:00.0")
    figures = Gpu(Vendor.NVIDIA, index=0, pci="0000:01:00.0", memory_total=100, memory_used=1)
    monkeypatch.setattr(module, "read_devices", lambda: Devices((gpu,)))
    monkeypatch.setattr(module, "load_nvml", lambda: SimpleNamespace() if driver else None)
    monkeypatch.setattr(module, "nvml_gpus", lambda _: (figures,))

    async def no_binaries(_: object) -> dict[str, tuple[str, ...]]:
        await asyncio.sleep(0)
        return {}

    monkeypatch.setattr(module, "devices_seen", no_binaries)

    async def story() -> None:
        async with asked() as one:
            document = await one.verbs.devices()
            assert [one["memory_total_bytes"] for one in document["gpus"]] == [100 if driver else None]

    tell(story)


def test_a_drop_in_of_the_configuration_is_judged_together_with_the_rest(tmp_path: Path) -> None:
    """On its own it has neither the models' folder nor the defaults, and every other server would end."""

    async def story() -> None:
        async with asked() as one:
            one.reloader.files = (tmp_path / "llamad.yaml",)
            drop_in, other, editors = (tmp_path / name for name in ("conf.d/b.yaml", "b.yaml", "conf.d/.b.yaml"))
            drop_in.parent.mkdir()
            for path in (tmp_path / "llamad.yaml", drop_in, other, editors):
                path.write_text("servers: {}")
                await one.verbs.check(Files(path, {path: b"servers: {}"}))
            assert [None if sent is None else sent.main for sent in one.reloader.planned] == [
                None,
                None,
                other,
                editors,
            ]

    tell(story)
