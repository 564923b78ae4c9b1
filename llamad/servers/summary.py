"""All servers in one line, as `systemctl status` shows it. Pure."""

from collections.abc import Iterable, Mapping

from llamad.servers.board import Replica
from llamad.servers.state import State

_SHOWN = 8
"""Servers named at most; the rest is a count."""


def status_line(replicas: Mapping[str, Iterable[Replica]], wanted: Mapping[str, bool]) -> str:
    """`3/4 ready; llama-70b loading 62 %; embed failed: corrupt GGUF`. `replicas` by server; `wanted` says of each
    configured server whether it should run."""
    if not wanted:
        return "no servers configured"
    meant = [name for name, running in wanted.items() if running]
    views = {name: list(replicas.get(name, ())) for name in meant}
    ready = [name for name, its in views.items() if its and all(one.state is State.READY for one in its)]
    rest = [name for name in meant if name not in ready]
    parts = [f"{len(ready)}/{len(meant)} ready"]
    parts += [f"{name} {_describe(views[name])}" for name in rest[:_SHOWN]]
    if len(rest) > _SHOWN:
        parts.append(f"and {len(rest) - _SHOWN} more")
    if idle := len(wanted) - len(meant):
        parts.append(f"{idle} stopped")
    return "; ".join(parts)


def _describe(replicas: list[Replica]) -> str:
    """The replica that is worst off speaks for the server."""
    order = (State.FAILED, State.BACKOFF, State.UNRESPONSIVE, State.STARTING, State.LOADING, State.STOPPING)
    worst = min(replicas, key=lambda one: order.index(one.state) if one.state in order else len(order), default=None)
    if worst is None:
        return "starting"
    if worst.state is State.LOADING and worst.load_progress is not None:
        return f"loading {worst.load_progress:.0%}".replace("%", " %")
    if worst.state in (State.FAILED, State.BACKOFF) and worst.last_error is not None:
        return f"{worst.state}: {worst.last_error.message}"
    return str(worst.state)
