"""Which server a request is for. Pure: names and requests in, a decision out."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from urllib.parse import unquote

from llamad.config.model import ServerConfig
from llamad.gateway import modelname
from llamad.gateway.modelname import UnreadableError
from llamad.gateway.replies import error_answer, not_allowed, there_is, unknown_model
from llamad.gateway.types import WITH_BODY, Answer, Reader, RequestHead, ToServer

_SERVERS = "/servers/"
_MODELS = ("/v1/models/", "/models/")
_ARRAY_BODY = "/lora-adapters"
"""Its POST takes a list, which has no place for a model: `?model=` names it."""
# fmt: off
_KNOWN = frozenset({
    "/completion", "/completions", "/v1/completions", "/chat/completions", "/v1/chat/completions", "/api/chat",
    "/responses", "/v1/responses", "/embedding", "/embeddings", "/v1/embeddings", "/rerank", "/reranking",
    "/v1/rerank", "/v1/reranking", "/infill", "/tokenize", "/detokenize", "/apply-template", "/v1/messages",
    "/v1/messages/count_tokens", "/audio/transcriptions", "/v1/audio/transcriptions", "/props", "/slots",
    "/lora-adapters", "/api/show",
})
# fmt: on
"""llama-server's own, to tell a forgotten model from a path that is not there."""


class Place(Enum):
    """What the gateway answers itself."""

    INDEX = "/"
    HEALTH = "/health"
    READY = "/ready"
    METRICS = "/metrics"
    MODELS = "/v1/models"
    MODEL = "/v1/models/NAME"


_PLACES = {
    "/": Place.INDEX,
    "/health": Place.HEALTH,
    "/v1/health": Place.HEALTH,
    "/ready": Place.READY,
    "/metrics": Place.METRICS,
    "/models": Place.MODELS,
    "/v1/models": Place.MODELS,
}


@dataclass(frozen=True, slots=True)
class Here:
    """The gateway answers itself; `server` is whose model is asked for at Place.MODEL."""

    place: Place
    server: str = ""


class Names:
    """Names and aliases of one accepted config."""

    def __init__(self, configs: Mapping[str, ServerConfig]) -> None:
        self._servers = {alias: name for name, config in configs.items() for alias in config.aliases}
        self._servers.update((name, name) for name in configs)
        self.known = tuple(configs)
        self.only = self.known[0] if len(self.known) == 1 else None

    def find(self, name: str) -> str | None:
        """The server that has this name or alias."""
        return self._servers.get(name)


def reader(head: RequestHead) -> Reader | None:
    """What reads the model off the body; None: it does not stand there."""
    path = head.path
    if head.method not in WITH_BODY or path in _PLACES or path == _ARRAY_BODY or path.startswith(_SERVERS):
        return None
    kind = head.header(b"content-type") or b""
    if kind[:19].lower() == b"multipart/form-data":
        return partial(modelname.in_form, content_type=kind.decode("latin-1"))
    may_be_empty = head.query or path not in _KNOWN
    return _in_any_json if may_be_empty else modelname.in_json


def _in_any_json(body: bytes) -> str | None:
    return modelname.in_json(body) if body else None


def choose(names: Names, head: RequestHead, read: Reader | None, body: bytes) -> ToServer | Here | Answer:
    """Where a request goes; `read` is `reader(head)`. OPTIONS is not asked here."""
    if read is None:
        found = _by_head(names, head)
        if found is not None:
            return found
    try:
        name = None if read is None else read(body)
        if name is None and head.query:
            name = modelname.in_query(head.query)
    except UnreadableError as error:
        return error_answer(400, str(error), kind="invalid_request_error")
    server = names.only if name is None else names.find(name)
    if server is not None:
        return ToServer(server, head.target)
    return _nameless(names, head) if name is None else unknown_model(name, names.known)


def _by_head(names: Names, head: RequestHead) -> ToServer | Here | Answer | None:
    """What path and method say alone; None: a server is asked, whichever it is."""
    path = head.path
    if path in _PLACES:
        return Here(_PLACES[path]) if head.method in ("GET", "HEAD") else not_allowed(head.method, "GET, HEAD")
    if path.startswith(_SERVERS):
        return _one_server(names, head)
    if head.method in ("GET", "HEAD") and path.startswith(_MODELS):
        return _one_model(names, path)
    return None


def _nameless(names: Names, head: RequestHead) -> Answer:
    """No model where there are several servers, or none."""
    path = head.path[:100]
    how = "add ?model=NAME" if reader(head) is None else 'add "model": "NAME" to the body'
    how = f"{how}, or ask for /servers/NAME{path}; {there_is(names.known)}"
    if head.path not in _KNOWN:
        return error_answer(404, f"nothing is at {path!r}: {how}", kind="not_found")
    return error_answer(400, f"no model is named: {how}", kind="model_required", param="model")


def _one_server(names: Names, head: RequestHead) -> ToServer | Answer:
    """`/servers/NAME/REST` asks the server for `/REST`."""
    written, slash, rest = head.path[len(_SERVERS) :].partition("/")
    server = names.find(unquote(written))
    query = f"?{head.query}" if head.query else ""
    if server is None:
        return unknown_model(unquote(written), names.known)
    if not slash:  # the web UI's relative links need the slash
        return Answer(308, headers=[(b"location", f"{_SERVERS}{written}/{query}".encode("latin-1", "replace"))])
    return ToServer(server, f"/{rest}{query}")


def _one_model(names: Names, path: str) -> Here | Answer:
    prefix = next(prefix for prefix in _MODELS if path.startswith(prefix))
    name = unquote(path[len(prefix) :])
    server = names.find(name)
    return unknown_model(name, names.known) if server is None else Here(Place.MODEL, server)
