"""All servers in one line, as `systemctl status` shows it. Pure."""

from collections.abc import Iterable

from llamad.servers.explain import Condition

_SHOWN = 8
"""Servers named at most; the rest is a count."""


def status_line(conditions: Iterable[Condition]) -> str:
    """`3/4 ready; llama-70b loading 62 %; embed failed: corrupt GGUF`."""
    every = list(conditions)
    if not every:
        return "no servers configured"
    meant = [one for one in every if one.wanted == "running"]
    rest = [one for one in meant if not one.as_wanted]
    parts = [f"{sum(one.serves for one in meant)}/{len(meant)} ready"]
    parts += [f"{one.server} {one.short}" for one in rest[:_SHOWN]]
    if len(rest) > _SHOWN:
        parts.append(f"and {len(rest) - _SHOWN} more")
    if idle := len(every) - len(meant):
        parts.append(f"{idle} stopped")
    return "; ".join(parts)
