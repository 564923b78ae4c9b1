"""What the gateway answers itself: what it is, whether it is well, which models there are, and its metrics."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from llamad import __version__
from llamad.config.model import ServerConfig
from llamad.gateway.asking import NO_REPORT, Asker, Report, Target
from llamad.gateway.prospects import ready
from llamad.gateway.replies import error_answer, json_answer, unknown_model
from llamad.gateway.routes import Here, Place
from llamad.gateway.types import Answer, Backends, Local
from llamad.metrics import CONTENT_TYPE, Metrics
from llamad.servers.explain import Condition
from llamad.servers.state import State

_OWNER = "llamad"
_CONTEXT_ARGS = frozenset({"ctx_size", "c"})


class LocalAnswers:
    """`key_of` says which key an external server asks."""

    def __init__(
        self,
        backends: Backends,
        metrics: Metrics,
        asker: Asker,
        *,
        key_of: Callable[[str], str | None],
    ) -> None:
        self._backends = backends
        self._metrics = metrics
        self._asker = asker
        self._key_of = key_of
        self._leaving = False
        self._since = int(time.time())  # of the models' `created`, which clients expect to be there

    def answer(self, here: Here, query: str) -> Answer | Local:
        """The answer of a place; Local where servers are asked for it first."""
        match here.place:
            case Place.INDEX:
                return _INDEX
            case Place.HEALTH:
                return json_answer({"status": "ok"})
            case Place.READY:
                return self._ready(here.server)
            case Place.METRICS:
                return Local(self._all_metrics) if _asks_servers(query) else self._own_metrics()
            case Place.MODELS:
                return Local(lambda: self._models(here.server))
        return Local(lambda: self._model(here.server))

    def leave(self) -> None:
        """llamad is about to stop: a balancer should send no more requests."""
        self._leaving = True

    def _ready(self, server: str) -> Answer:
        """Whether llamad takes requests; of `server`, whether it would answer one: it is ready, or starts with it.
        One of many servers that failed is no reason to take llamad out of a balancer.
        """
        if self._leaving:
            return error_answer(503, "llamad is stopping", kind="stopping")
        if not server:
            return json_answer({"status": "ok"})
        condition = self._backends.condition(server)
        if condition.serves or condition.awaits_request:
            return json_answer({"status": "ok", "state": condition.state})
        answer = error_answer(503, condition.sentence(asyncio.get_running_loop().time()), kind="not_ready")
        document = {**json.loads(answer.body), "servers": {server: _told(condition)}}
        return json_answer(document, status=503)

    def _own_metrics(self) -> Answer:
        return Answer(200, self._metrics.exposition(), CONTENT_TYPE)

    async def _all_metrics(self) -> Answer:
        servers = await self._asker.metrics(self._ready_replicas())
        return Answer(200, self._metrics.exposition() + servers, CONTENT_TYPE)

    async def _models(self, server: str) -> Answer:
        """Every server's model, or `server`'s."""
        reports = await self._asker.reports(self._ready_replicas(one_each=True))
        configs = self._backends.configs  # after the wait: they may be others now
        data = [
            {**self._entry(config, reports.get(name, NO_REPORT)), "id": id_}
            for name, config in configs.items()
            if name == (server or name)
            for id_ in (name, *config.aliases)  # clients choose from this list
        ]
        return json_answer({"object": "list", "data": data})

    async def _model(self, server: str) -> Answer:
        targets = [one for one in self._ready_replicas(one_each=True) if one.replica.key.server == server]
        reports = await self._asker.reports(targets)
        config = self._backends.configs.get(server)
        if config is None:  # a reload took it away during the wait
            return unknown_model(server, tuple(self._backends.configs))
        return json_answer(self._entry(config, reports.get(server, NO_REPORT)))

    def _entry(self, config: ServerConfig, report: Report) -> Mapping[str, Any]:
        replicas = self._backends.board.of(config.name)
        context = report.context if report.context is not None else _written_context(config)
        return {
            "id": config.name,
            "object": "model",
            "created": self._since,
            "owned_by": _OWNER,
            "aliases": list(config.aliases),
            "state": self._backends.condition(config.name).state,
            "start": config.start,
            "replicas": {"ready": sum(one.state is State.READY for one in replicas), "configured": config.replicas},
            "context": context,
            "context_length": context,
            "max_model_len": context,
            "meta": report.meta,
        }

    def _ready_replicas(self, *, one_each: bool = False) -> list[Target]:
        most = 1 if one_each else None
        return [
            Target(one, self._key_of(name))
            for name in self._backends.configs
            for one in ready(self._backends.board.of(name))[:most]
        ]


def _asks_servers(query: str) -> bool:
    """`?servers=1` (or `true`): a scrape resets averages of a llama-server, so it is done only when asked for."""
    return any(field in ("servers=1", "servers=true") for field in query.split("&"))


def _told(condition: Condition) -> dict[str, str | None]:
    why = condition.why
    return {
        "state": condition.state,
        "cause": None if why is None else why.cause,
        "message": None if why is None else why.public or why.message,
        "hint": None if why is None else why.hint,
    }


def _written_context(config: ServerConfig) -> int | None:
    """The context that the configuration names, for a server that is not up."""
    for name, value in config.args.items():
        if name.lstrip("-").replace("-", "_") in _CONTEXT_ARGS and isinstance(value, int):
            return value or None
    return None


_INDEX = json_answer(
    {
        "name": "llamad",
        "version": __version__,
        "what": "an OpenAI-compatible gateway to llama.cpp servers",
        "models": "/v1/models",
        "chat": "/v1/chat/completions",
        "one_server": "/servers/NAME/",
        "health": "/health",
        "ready": "/ready",
        "metrics": "/metrics",
    }
)
