"""What a new configuration means for what runs: keep, retune, replace, start, add or stop. Pure."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel

from llamad.config.model import Config, ServerConfig
from llamad.config.units import format_duration
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


def _compare(name: str, old: Intent, new: Intent) -> Step:
    reasons = tuple(changes(old.config, new.config))
    if old == new:
        return Step(Action.KEEP, name)
    common = min(len(old.launches), len(new.launches))
    same = old.launches[:common] == new.launches[:common] and old.config.url == new.config.url
    same = same and old.config.external == new.config.external
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
        for key in sorted({*old, *new}, key=str):
            yield from _changes(f"{path}.{key}", old.get(key), new.get(key))
    elif path.startswith("env."):
        yield f"{path} changed"
    else:
        show = _show_duration if _is_duration(path) else _show
        yield f"{path} {show(old)} -> {show(new)}"


def _is_duration(path: str) -> bool:
    """By the names that durations have in every section."""
    return re.fullmatch(r"(?!args\.|env)(.*[._])?(timeout|interval|delay|after|every)", path) is not None


def _show_duration(value: Any) -> str:
    return format_duration(value) if isinstance(value, float) else _show(value)


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_show(item) for item in value) + "]"
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)
