"""The policy: everything the gateway decides, behind the one object that its data path asks."""

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from llamad.config.model import GatewayConfig, ServerConfig
from llamad.errors import LlamadError
from llamad.gateway.access import AccessLog
from llamad.gateway.admission import Queues
from llamad.gateway.asking import Asker
from llamad.gateway.cors import Cors
from llamad.gateway.enginepaths import Kind
from llamad.gateway.figures import count_lives, read_figures
from llamad.gateway.hosts import Visitors
from llamad.gateway.keys import Keys
from llamad.gateway.local import LocalAnswers
from llamad.gateway.passive import Passive, Send
from llamad.gateway.replies import anthropic_error, error_answer
from llamad.gateway.routes import Here, Names, Place, choose, is_public, reader, speaks_anthropic
from llamad.gateway.types import Answer, Backends, Exchange, Headers, Reader, RequestHead, Route, ToServer
from llamad.metrics import Metrics
from llamad.servers.probe import Prober, probe, send

log = logging.getLogger(__name__)


class Policy:
    """Implements types.Policy. Use it as `async with`: inside, it follows the board and may ask the fleet.

    `external_key` reads the key that an external server asks (LlamadError where it cannot be read), and is called once
    for each accepted configuration.
    """

    def __init__(
        self,
        backends: Backends,
        settings: GatewayConfig,
        keys: Keys,
        metrics: Metrics,
        *,
        external_key: Callable[[ServerConfig], str | None],
        prober: Prober = probe,
        send: Send = send,
    ) -> None:
        self._backends = backends
        self._metrics = metrics
        self._clock = asyncio.get_running_loop().time
        self._configs: Mapping[str, ServerConfig] | None = None
        self._external_key = external_key
        self._local = LocalAnswers(backends, metrics, Asker(prober), key_of=self._server_key)
        self._passive = Passive(backends, send)
        self._stack = AsyncExitStack()
        self.admission = Queues(backends, settings.queue, rejected=self._rejected)
        metrics.read_servers(lambda: read_figures(backends))
        self._take(settings, keys)

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.admission)
        self._stack.enter_context(self._backends.board.observe(count_lives(self._metrics)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    def apply(self, settings: GatewayConfig, keys: Keys) -> None:
        """Take over what a reload changed; requests that wait keep their place and their time."""
        self._take(settings, keys)
        self.admission.apply(settings.queue)

    def _take(self, settings: GatewayConfig, keys: Keys) -> None:
        self._access = AccessLog(settings.access_log)
        self._cors = Cors(settings.cors_origins)
        self._visitors = Visitors(settings, socket.gethostname())
        self._keys = keys
        self._follow()

    def leave(self) -> None:
        """llamad is about to stop: `/ready` says no from now on."""
        self._local.leave()

    def authorize(self, head: RequestHead, *, unix: bool = False) -> str | Answer | None:
        """See types.Policy. What is public, and OPTIONS, which a browser asks without the key, need none."""
        public = is_public(self._names, head)
        if not self._keys.by_digest:
            return self._visitors.refusal(head, unix=unix, public=public)
        who = self._keys.who(head)
        return who if who is not None or public or head.method == "OPTIONS" else _UNAUTHORIZED

    def reader(self, head: RequestHead) -> Reader | None:
        """See types.Policy."""
        return reader(head)

    def route(self, head: RequestHead, reader: Reader | None, body: bytes) -> Route:
        """See types.Policy."""
        if self._backends.configs is not self._configs:
            self._follow()
        if head.method == "OPTIONS":
            return self._cors.preflight(head)
        found = choose(self._names, head, reader, body)
        if type(found) is ToServer:
            if (
                self._server_keys and found.kind is not _PAGE
            ):  # pages are public there, too, and were asked without a key
                key = self._server_keys.get(found.server)
                found.authorization = None if key is None else b"Bearer " + key.encode()
            return found if found.kind is _USE else self._route_passive(found, head, body)
        return self._local.answer(found, head.query) if isinstance(found, Here) else found

    def _route_passive(self, found: ToServer, head: RequestHead, body: bytes) -> Route:
        route = self._passive.route(found, head, body)
        if route is not None:
            return route
        if found.target.partition("?")[0] in ("/v1/models", "/models"):
            return self._local.answer(Here(Place.MODELS, found.server), head.query)
        return self._passive.not_ready(found, head)

    def error(
        self, status: int, message: str, *, kind: str = "invalid_request_error", headers: Headers | None = None
    ) -> Answer:
        """See types.Policy."""
        return error_answer(status, message, kind=kind, headers=headers)

    def in_dialect(self, head: RequestHead, answer: Answer, request_id: str) -> Answer:
        """See types.Policy."""
        return anthropic_error(answer, request_id) if speaks_anthropic(head) else answer

    def begin(self, head: RequestHead, request_id: str, peer: str) -> Exchange:
        """See types.Policy."""
        return Exchange(head, request_id, began=self._clock(), peer=peer)

    def finished(self, exchange: Exchange) -> None:
        """See types.Policy."""
        now, server = self._clock(), exchange.server
        self._metrics.request(server if server in self._backends.configs else None, exchange, now)
        self._access.write(exchange, now)

    def cors(self, head: RequestHead) -> Headers:
        """See types.Policy."""
        return self._cors.headers(head)

    def _rejected(self, server: str, reason: str) -> None:
        if server in self._backends.configs:  # a server that was taken away has no series any more
            self._metrics.rejected(server, reason)

    def _server_key(self, server: str) -> str | None:
        return self._server_keys.get(server)

    def _follow(self) -> None:
        """Take over the configuration's servers."""
        before, configs = self._configs or {}, self._backends.configs
        self._configs = configs
        self._names = Names(configs)
        self._server_keys = self._read_server_keys(configs)
        self._metrics.forget(name for name in before if name not in configs)

    def _read_server_keys(self, configs: Mapping[str, ServerConfig]) -> dict[str, str]:
        out = {}
        for name, config in configs.items():
            try:
                key = self._external_key(config) if config.external else None
            except LlamadError as error:
                log.error("%s is asked without its key: %s", name, error, extra={"server": name, "event": "no-key"})
                continue
            if key is not None:
                out[name] = key
        return out


_USE, _PAGE = Kind.USE, Kind.PAGE  # an enum's attributes are slow to get
_UNAUTHORIZED = error_answer(
    401,
    "no API key that llamad knows: send one as 'Authorization: Bearer KEY' or 'x-api-key: KEY'",
    kind="invalid_api_key",
    headers=[(b"www-authenticate", b'Bearer realm="llamad"')],
)
