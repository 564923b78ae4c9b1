"""What a new configuration means for what runs: keep, retune, replace, start, add or stop. Pure."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel

from llamad.config.helptext import bare
from llamad.config.model import Config, ServerConfig
from llamad.config.units import format_duration, format_size
from llamad.servers.board import Failure
from llamad.servers.command import Launch


@dataclass(frozen=True, slots=True)
class Intent:
    """One server as the operator wants it: its configuration, and for each replica what to run, or why it cannot.

    An external server has no launches.
    """

    config: ServerConfig
    launches: tuple[Launch | Failure, ...] = ()


class Action(StrEnum):
    """What happens to a server."""

    KEEP = "keep"
    RETUNE = "retune"
    REPLACE = "replace"
    START = "start"
    ADD = "add"
    """It is new, and nothing of it starts now."""
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Step:
    """One server's share of a plan; `reasons` say in words what changed (`args.ctx_size 4096 -> 8192`)."""

    action: Action
    server: str
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.action} {self.server}" + (": " + ", ".join(self.reasons) if self.reasons else "")


Plan = tuple[Step, ...]


def diff(running: Mapping[str, Intent], wanted: Mapping[str, Intent]) -> Plan:
    """Compare by name. A replica keeps its process exactly if its launch is equal; only a changed launch, or a
    changed address of an external server, is a replacement.
    """
    steps = [Step(Action.STOP, name, ("no longer configured",)) for name in running if name not in wanted]
    for name, new in wanted.items():
        old = running.get(name)
        steps.append(_join(name, new.config) if old is None else _compare(name, old, new))
    return tuple(steps)


def _join(name: str, config: ServerConfig) -> Step:
    if config.url is not None:
        return Step(Action.ADD, name, (f"runs at {config.url}",))
    if config.start == "always":
        return Step(Action.START, name, ("new",))
    return Step(Action.ADD, name, ("starts by hand" if config.start == "manual" else "starts on demand",))


_ONLY_LAUNCHED = ("args", "extra_args", "env")
"""Keys that are nothing but what a launch is made of: where the launch is equal, they were only written otherwise."""


def _compare(name: str, old: Intent, new: Intent) -> Step:
    if old == new:
        return Step(Action.KEEP, name)
    reasons = tuple(changes(old.config, new.config))
    common = min(len(old.launches), len(new.launches))
    same = old.launches[:common] == new.launches[:common] and old.config.url == new.config.url
    same = same and old.config.external == new.config.external
    if same and len(old.launches) == len(new.launches):
        new_words = {key: getattr(new.config, key) for key in _ONLY_LAUNCHED}
        reasons = tuple(changes(old.config.model_copy(update=new_words), new.config))
        if not reasons:
            return Step(Action.KEEP, name)
    if same:
        return Step(Action.RETUNE, name, reasons)
    return Step(Action.REPLACE, name, reasons or _launch_reasons(old, new))


def _launch_reasons(old: Intent, new: Intent) -> tuple[str, ...]:
    """The configuration of the server is equal, so what it stands on changed: the binary's path, or what failed."""
    for before, after in zip(old.launches, new.launches, strict=False):
        if isinstance(before, Launch) and isinstance(after, Launch) and before.binary != after.binary:
            return (f"llama_server {before.binary} -> {after.binary}",)
        if isinstance(before, Failure) and before != after:
            return (f"was: {before.message}",)
    return ("the command line changed",)


def changes(old: ServerConfig, new: ServerConfig) -> Iterator[str]:
    """Every key that differs, as `key.path old -> new`; the environment's values are not shown: they may be secrets."""
    yield from _changes("", old, new)


def changed_settings(old: Config, new: Config) -> Iterator[str]:
    """What differs beside servers, a line a section: `gateway: listen [127.0.0.1:80] -> []`, or `startup a -> b`."""
    for field in type(old).model_fields:
        before, after = getattr(old, field), getattr(new, field)
        if field == "servers" or before == after:
            continue
        if isinstance(before, BaseModel):
            yield f"{field}: " + ", ".join(_changes("", before, after))
        else:
            yield from _changes(field, before, after)


def _changes(path: str, old: Any, new: Any) -> Iterator[str]:
    if old == new:
        return
    if isinstance(old, BaseModel) and isinstance(new, BaseModel):
        for field in type(old).model_fields:
            yield from _changes(f"{path}.{field}" if path else field, getattr(old, field), getattr(new, field))
    elif isinstance(old, Mapping) and isinstance(new, Mapping):
        if path == "args":  # ctx-size is ctx_size
            old, new = ({bare(key).replace("-", "_"): one for key, one in side.items()} for side in (old, new))
        for key in sorted({*old, *new}, key=str):
            yield from _changes(f"{path}.{key}", old.get(key), new.get(key))
    elif path.startswith("env."):
        yield f"{path} changed"
    else:
        before, after = _written(path, old), _written(path, new)
        if before != after:
            yield f"{path} {before} -> {after}"


def _written(path: str, value: Any) -> str:
    """A value as an operator would write it there."""
    if path.startswith("args."):
        return _show(value, on="on", off="off")
    if path == "listen" and not value:
        return "null"
    if isinstance(value, tuple) and path in ("gpus", "listen") and len(value) == 1:
        return _show(value[0])
    if isinstance(value, float) and _is_duration(path):
        return format_duration(value)
    if _is_size(path):
        return _sizes(value)
    return _show(value)


def _sizes(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{pool}: {_sizes(one)}" for pool, one in value.items()) + "}"
    return format_size(value) if isinstance(value, int) else _show(value)


def _is_duration(path: str) -> bool:
    """By the names that durations have in every section."""
    return re.fullmatch(r"(?!extra_args|env)(.*[._])?(timeout|interval|delay|after|every)", path) is not None


def _is_size(path: str) -> bool:
    return re.fullmatch(r"max_body|memory(_budget)?(\..*)?|limits\.memory_(max|high)", path) is not None


def _show(value: Any, *, on: str = "true", off: str = "false") -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_show(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_show(one)}" for key, one in value.items()) + "}"
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return on if value else off
    return f"{value:.12g}" if isinstance(value, float) else str(value)
