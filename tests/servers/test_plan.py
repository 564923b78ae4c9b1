"""What a new configuration means for what runs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from llamad.config.model import (
    Config,
    ControlConfig,
    GatewayConfig,
    HealthPolicy,
    LimitsConfig,
    LogConfig,
    QueueConfig,
    RestartPolicy,
    StopPolicy,
)
from llamad.servers.board import Failure
from llamad.servers.plan import Action, Intent, changed_settings, changes, diff
from tests.builders import a_launch
from tests.stories import a_server, an_intent

MISSING = Failure("program-missing", "llama-server is not there", permanent=True)


def only(old: Intent, new: Intent) -> str:
    """The one step from `old` to `new`, as words."""
    (step,) = diff({"a": old}, {"a": new})
    return str(step)


@pytest.mark.parametrize(
    ("new", "lines"),
    [
        ({}, []),
        ({"servers": {"a": a_server("a")}}, []),
        ({"startup": "strict", "llama_server": "/x"}, ["llama_server llama-server -> /x", "startup settle -> strict"]),
        ({"log": LogConfig(level="debug")}, ["log: level info -> debug"]),
        ({"control": ControlConfig(socket=Path("/s"))}, ["control: socket unset -> /s"]),
        (
            {"gateway": GatewayConfig(listen=(), queue=QueueConfig(size=3), memory_budget={0: 22 << 30})},
            ["gateway: listen 127.0.0.1:8080 -> null, queue.size 512 -> 3, memory_budget.0 unset -> 22G"],
        ),
    ],
)
def test_what_changed_beside_servers_is_told_a_line_a_section(new: dict[str, Any], lines: list[str]) -> None:
    models = Path("/m")
    assert list(changed_settings(Config(models_dir=models), Config(models_dir=models, **new))) == lines


def test_new_and_gone() -> None:
    steps = diff({"a": an_intent("a")}, {"b": an_intent("b")})
    assert [str(step) for step in steps] == ["stop a: no longer configured", "start b: new"]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"start": "on-demand"}, "add b: starts on demand"),
        ({"start": "manual"}, "add b: starts by hand"),
        ({"url": "http://10.0.0.1:80"}, "add b: runs at http://10.0.0.1:80"),
    ],
)
def test_what_is_new_and_does_not_start_now_is_not_said_to_start(config: dict[str, Any], words: str) -> None:
    (step,) = diff({}, {"b": an_intent("b", **config)})
    assert str(step) == words


def test_equal_is_kept() -> None:
    assert only(an_intent("a"), an_intent("a")) == "keep a"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ({}, {"stop": StopPolicy(term_timeout=5)}, "stop.term_timeout 10s -> 5s"),
        ({}, {"health": HealthPolicy(failures=9)}, "health.failures 3 -> 9"),
        ({}, {"idle_timeout": 5.0}, "idle_timeout unset -> 5s"),
        ({"aliases": ("x", "y")}, {}, "aliases [x, y] -> []"),
        ({}, {"evictable": True}, "evictable unset -> true"),
        ({"evictable": False}, {"memory": {0: 6 << 30}}, "memory unset -> {0: 6G}, evictable false -> unset"),
        ({"memory": {0: 6 << 30}}, {"memory": 3 << 29}, "memory {0: 6G} -> 1.5G"),
        ({"gpus": ((0,),)}, {}, "gpus [0] -> unset"),
        ({}, {"restart": RestartPolicy(factor=3, jitter=0.25)}, "restart.factor 2 -> 3, restart.jitter 0.1 -> 0.25"),
        (
            {},
            {"env_credentials": {"A": "b"}, "limits": LimitsConfig(memory_max=20 << 30)},
            "limits.memory_max unset -> 20G, env_credentials.A unset -> b",
        ),
        ({"gpus": ((0,), (1,))}, {"gpus": "all"}, "gpus [[0], [1]] -> all"),
        ({}, {"replicas": 2}, "replicas 1 -> 2"),
        ({"replicas": 3}, {}, "replicas 3 -> 1"),
    ],
)
def test_a_policy_is_retuned(old: dict[str, Any], new: dict[str, Any], words: str) -> None:
    assert only(an_intent("a", **old), an_intent("a", **new)) == f"retune a: {words}"


def test_another_command_line_is_a_replacement_and_says_what_changed() -> None:
    old = an_intent("a", args={"ctx_size": 4096, "jinja": True})
    new = an_intent("a", args={"ctx_size": 8192, "mlock": True}, launch=a_launch("a", arguments=("--other",)))
    words = "replace a: args.ctx_size 4096 -> 8192, args.jinja on -> unset, args.mlock unset -> on"
    assert only(old, new) == words


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"args": {"ctx_size": 8192}}, {"args": {"ctx-size": "8192"}}),
        ({"args": {"jinja": True}}, {"args": {"no_jinja": False}}),
        ({"args": {"verbose": True}}, {"extra_args": ("--verbose",)}),
        ({"env": {"A": "b"}}, {"env": {"A": "b", "C": ""}}),
    ],
)
def test_what_is_only_written_otherwise_is_kept(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Its launch is equal: there is nothing to do, and nothing to tell."""
    assert only(an_intent("a", **old), an_intent("a", **new)) == "keep a"
    retuned = only(an_intent("a", **old), an_intent("a", **new, idle_timeout=5.0, start="on-demand"))
    assert retuned == "retune a: start always -> on-demand, idle_timeout unset -> 5s"


def test_one_option_is_one_however_it_is_spelled() -> None:
    old = an_intent("a", args={"ctx_size": 4096, "top-k": 5, "chat_template_kwargs": {"a": 1}})
    args = {"ctx-size": 8192, "top_k": "5", "chat_template_kwargs": {"a": False}}
    new = an_intent("a", args=args, launch=a_launch("a", arguments=("--other",)))
    assert only(old, new) == "replace a: args.chat_template_kwargs.a 1 -> off, args.ctx_size 4096 -> 8192"


def test_what_becomes_json_is_shown_as_the_mapping_it_is() -> None:
    new = an_intent("a", args={"chat_template_kwargs": {"a": 1}}, launch=a_launch("a", arguments=("--other",)))
    assert only(an_intent("a"), new) == "replace a: args.chat_template_kwargs unset -> {a: 1}"


def test_a_replica_that_joins_does_not_hide_that_the_others_change() -> None:
    new = an_intent("a", replicas=2, launch=a_launch("a", arguments=("--other",)))
    assert only(an_intent("a"), new).startswith("replace a")


def test_the_values_of_the_environment_are_not_shown() -> None:
    old, new = an_intent("a", env={"TOKEN": "secret-1"}), an_intent("a", env={"TOKEN": "secret-2", "B": "secret-3"})
    new = replace(new, launches=(a_launch("a", environment=(("TOKEN", "secret-2"),)),))
    assert only(old, new) == "replace a: env.B changed, env.TOKEN changed"


def test_what_changed_beside_the_configuration_is_named() -> None:
    old = an_intent("a")
    moved = an_intent("a", launch=a_launch("a", binary=Path("/opt/llama-server")))
    other = an_intent("a", launch=a_launch("a", arguments=("--other",)))
    assert only(old, moved) == "replace a: llama_server /usr/bin/llama-server -> /opt/llama-server"
    assert only(old, other) == "replace a: the command line changed"
    assert only(an_intent("a", launch=MISSING), old) == "replace a: was: llama-server is not there"
    assert only(old, an_intent("a", launch=MISSING)) == "replace a: the command line changed"


def test_an_external_server_is_replaced_when_its_address_changes() -> None:
    one, other = (an_intent("a", url=f"http://10.0.0.{n}") for n in (1, 2))
    retuned = an_intent("a", url="http://10.0.0.1", aliases=("x",))
    assert only(one, other) == "replace a: url http://10.0.0.1 -> http://10.0.0.2"
    assert only(one, retuned) == "retune a: aliases [] -> [x]"
    assert only(one, an_intent("a")).startswith("replace a")
    assert only(an_intent("a"), one).startswith("replace a")


def test_no_difference_gives_no_words() -> None:
    assert not list(changes(a_server(), a_server()))


_INTENTS = some.dictionaries(
    some.sampled_from("abcd"),
    some.builds(
        lambda replicas, arguments, drain: (replicas, arguments, drain),
        some.integers(1, 3),
        some.sampled_from(["--x", "--y"]),
        some.sampled_from([1.0, 2.0]),
    ),
)


def _as_intents(drawn: dict[str, tuple[int, str, float]]) -> dict[str, Intent]:
    return {
        name: an_intent(
            name,
            replicas=replicas,
            stop=StopPolicy(drain_timeout=drain),
            launch=a_launch(name, arguments=(word,)),
        )
        for name, (replicas, word, drain) in drawn.items()
    }


@settings(max_examples=30)
@given(_INTENTS, _INTENTS)
def test_every_server_gets_exactly_one_step_and_only_a_changed_launch_replaces(
    before: dict[str, tuple[int, str, float]], after: dict[str, tuple[int, str, float]]
) -> None:
    steps = {step.server: step.action for step in diff(_as_intents(before), _as_intents(after))}
    assert set(steps) == {*before, *after}
    for name, action in steps.items():
        if name not in after:
            assert action is Action.STOP
        elif name not in before:
            assert action is Action.START
        elif before[name] == after[name]:
            assert action is Action.KEEP
        else:
            changed = before[name][1] != after[name][1]
            assert action is (Action.REPLACE if changed else Action.RETUNE)
