"""Who may run beside whom: groups, and memory budgets for on-demand servers. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from llamad.config.model import ServerConfig
from llamad.config.units import format_size

Device = int | Literal["host"]
"""A GPU's index, or the host."""


def device_name(device: Device) -> str:
    """For people: `GPU 0`, `the host`."""
    return "the host" if device == "host" else f"GPU {device}"


@dataclass(frozen=True, slots=True)
class Resident:
    """A server that has processes now, or is about to."""

    config: ServerConfig
    idle: bool
    last_used: float
    leaving: bool = False
    """It was told to stop already: it only has to be waited for."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a server needs before it may start. Nothing in any field: it may start now.

    `evict` are to be stopped, `wait` end or become idle by themselves, `never` says why it cannot be at all as things
    are configured, naming who is in the way.
    """

    evict: tuple[str, ...] = ()
    wait: tuple[str, ...] = ()
    never: str | None = None


def room_for(wanted: ServerConfig, residents: Iterable[Resident], budget: Mapping[Device, int]) -> Verdict:
    """Decide who makes way for `wanted`: every idle member of its group, and then the least recently used idle
    servers until its memory fits each budget. A busy one is waited for, never cut."""
    others = [one for one in residents if one.config.name != wanted.name]
    in_group = [one for one in others if wanted.group is not None and one.config.group == wanted.group]
    return _merge(_clear_group(in_group), _fit(wanted, [one for one in others if one not in in_group], budget))


def _clear_group(rivals: list[Resident]) -> Verdict:
    stuck = [one for one in rivals if not one.leaving and not one.config.may_make_way]
    if stuck:
        name = stuck[0].config.name
        return Verdict(never=f"{name} is of the same group, runs, and is not evictable")
    return Verdict(
        evict=tuple(one.config.name for one in rivals if one.idle and not one.leaving),
        wait=tuple(one.config.name for one in rivals if one.leaving or not one.idle),
    )


def _fit(wanted: ServerConfig, others: list[Resident], budget: Mapping[Device, int]) -> Verdict:
    need = {device: size for device, size in wanted.memory_needs.items() if device in budget}
    for device, size in need.items():
        if size > budget[device]:
            words = f"it needs {format_size(size)} of {device_name(device)}"
            return Verdict(never=f"{words}, and gateway.memory_budget has {format_size(budget[device])} for it")
    taken = {one.config.name: one.config.memory_needs for one in others}
    over = {
        device: size + sum(use.get(device, 0) for use in taken.values()) - budget[device]
        for device, size in need.items()
    }
    evict: list[str] = []
    wait: list[str] = []
    # first those that leave anyway, then the idle ones that were not used for longest, then the busy ones
    for one in sorted(others, key=lambda one: (not one.leaving, not one.idle, one.last_used)):
        name = one.config.name
        relief = {device for device, excess in over.items() if excess > 0 and taken[name].get(device)}
        if not relief or not (one.leaving or one.config.may_make_way):
            continue
        (evict if one.idle and not one.leaving else wait).append(name)
        over = {device: excess - taken[name].get(device, 0) for device, excess in over.items()}
    if any(excess > 0 for excess in over.values()):
        holders = ", ".join(name for name in taken if name not in (*evict, *wait) and set(taken[name]) & set(need))
        return Verdict(never=f"its memory does not fit beside {holders}, which may not make way")
    return Verdict(tuple(evict), tuple(wait))


def _merge(first: Verdict, second: Verdict) -> Verdict:
    if first.never or second.never:
        return Verdict(never=first.never or second.never)
    return Verdict(first.evict + second.evict, first.wait + second.wait)
