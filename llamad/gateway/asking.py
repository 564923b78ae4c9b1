"""What the gateway asks the servers themselves: what they say of their model, and their own metrics."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from llamad.gateway.merge import merge
from llamad.host.threads import aside
from llamad.servers.board import Replica, ReplicaKey
from llamad.servers.probe import ProbeAnswer, ProbeError, Prober

ASK_TIMEOUT = 2.0
"""Seconds that a model list or a scrape waits for the servers, all together."""
MAX_REPORTS = 1024
AT_ONCE = 16
"""Servers asked at the same time."""
MOST_META, LONGEST_META = 64, 200
"""Figures that a model is shown with, and characters that each may have."""
_LARGEST = 1 << 63


@dataclass(frozen=True, slots=True)
class Report:
    """What a server says of itself; `meta` is llama-server's own (n_params, size, n_ctx_train ...)."""

    context: int | None = None
    """Tokens of one slot's context."""
    meta: Mapping[str, Any] | None = None


NO_REPORT = Report()


@dataclass(frozen=True, slots=True)
class Target:
    """A ready replica, and the key it asks of whoever comes (an external one may)."""

    replica: Replica
    key: str | None = None


class Asker:
    """Asks ready replicas, many at once, in bounded time. What a process says of its model is asked once."""

    def __init__(self, prober: Prober) -> None:
        self._prober = prober
        self._reports: dict[ReplicaKey, tuple[float | None, Report]] = {}

    async def reports(self, targets: Sequence[Target]) -> dict[str, Report]:
        """By server; one that does not answer in time is left out."""
        if len(self._reports) > MAX_REPORTS:  # replicas that are long gone; who is here is asked again
            self._reports.clear()
        new = [one for one in targets if self._known(one.replica) is None]
        answers = await self._ask_all([(one, path) for one in new for path in ("/v1/models", "/props")])
        for position, one in enumerate(new):
            models, props = answers[2 * position : 2 * position + 2]
            if models is not None and props is not None:
                self._reports[one.replica.key] = (one.replica.ready_since, _report(models.json(), props.json()))
        found = ((one.replica.key.server, self._known(one.replica)) for one in targets)
        return {server: report for server, report in found if report is not None}

    def _known(self, replica: Replica) -> Report | None:
        since, report = self._reports.get(replica.key, (None, None))
        return report if since == replica.ready_since else None

    async def metrics(self, targets: Sequence[Target]) -> bytes:
        """Every target's own metrics with `server` and `replica` labels, and whether it gave any."""
        answers = await self._ask_all([(one, "/metrics") for one in targets])
        parts: list[tuple[Mapping[str, str], str]] = []
        up = ["# HELP llamad_scrape_up Whether the server gave its own metrics.", "# TYPE llamad_scrape_up gauge"]
        for one, answer in zip(targets, answers, strict=True):
            key, good = one.replica.key, answer is not None and answer.status == 200
            labels = {"server": key.server, "replica": str(key.index)}
            up.append(f'llamad_scrape_up{{server="{key.server}",replica="{key.index}"}} {int(good)}')
            if answer is not None and good:
                parts.append((labels, answer.body.decode("utf-8", "replace")))
        return "".join(f"{line}\n" for line in (up if targets else ())).encode() + await aside(merge, parts)

    async def _ask_all(self, questions: Iterable[tuple[Target, str]]) -> list[ProbeAnswer | None]:
        """Answers in the order of the questions; None where none came in time."""
        room = asyncio.Semaphore(AT_ONCE)
        deadline = asyncio.get_running_loop().time() + ASK_TIMEOUT

        async def ask(target: Target, path: str) -> ProbeAnswer | None:
            address = target.replica.address
            assert address is not None
            try:
                async with asyncio.timeout_at(deadline), room:
                    return await self._prober(address, path, timeout=ASK_TIMEOUT, key=target.key)
            except (ProbeError, TimeoutError):
                return None

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(target, path)) for target, path in questions]
        return [task.result() for task in tasks]


def _report(models: Any, props: Any) -> Report:
    """`/v1/models` and `/props` of llama-server, each as untrusted JSON."""
    listed = _get(models, "data")
    meta = _get(listed[0], "meta") if isinstance(listed, list) and listed else None
    context = _get(_get(props, "default_generation_settings"), "n_ctx")
    usable = type(context) is int and 0 < context < _LARGEST
    return Report(context if usable else None, _figures(meta) if isinstance(meta, dict) else None)


def _figures(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    """What of `meta` can stand in a list that others' models are in, too."""
    good = ((name, value) for name, value in meta.items() if len(name) <= LONGEST_META and _is_figure(value))
    return dict(islice(good, MOST_META))


def _is_figure(value: Any) -> bool:
    match value:
        case str():
            return len(value) <= LONGEST_META
        case int() | float():
            return abs(value) < _LARGEST
    return value is None


def _get(document: Any, name: str) -> Any:
    return document.get(name) if isinstance(document, dict) else None
