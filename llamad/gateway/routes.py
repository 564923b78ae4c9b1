"""Which server a request is for, and what it does there. Pure: names and requests in, a decision out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from urllib.parse import unquote

from llamad.config.model import ServerConfig
from llamad.gateway import modelname
from llamad.gateway.enginepaths import Kind, allowed, kind_of, nearest, plain
from llamad.gateway.largejson import MAX_DEPTH
from llamad.gateway.modelname import UnreadableError
from llamad.gateway.replies import error_answer, not_allowed, there_is, unknown_model
from llamad.gateway.types import WITH_BODY, Answer, Reader, RequestHead, ToServer

_SERVERS = "/servers/"
_MODELS = ("/v1/models/", "/models/")
_ARRAY_BODY = "/lora-adapters"
"""Its POST takes a list, which has no place for a model: `?model=` names it."""


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
_FREE = frozenset({Place.INDEX, Place.HEALTH})


@dataclass(frozen=True, slots=True)
class Here:
    """The gateway answers itself; `server` is whose model is asked for, where it is one's only."""

    place: Place
    server: str = ""


class Names:
    """Names and aliases of one accepted config."""

    def __init__(self, configs: Mapping[str, ServerConfig]) -> None:
        servers = {alias: name for name, config in configs.items() for alias in config.aliases}
        servers.update((name, name) for name in configs)
        self.find: Callable[[str], str | None] = servers.get
        """The server that has this name or alias."""
        self.known = tuple(configs)
        self.only = self.known[0] if len(self.known) == 1 else None

        self._private = frozenset(name for name, config in configs.items() if _serves_a_folder(config))

    def shows(self, server: str | None) -> bool:
        """Whether the pages of `server` are llama-server's own, which are for everybody."""
        return server is not None and server not in self._private


def _serves_a_folder(config: ServerConfig) -> bool:
    """Whether `--path` has llama-server show a folder of the operator's, which need not be for everybody."""
    named = any(name.lstrip("-") == "path" for name in config.args)
    return (
        named or "LLAMA_ARG_STATIC_PATH" in config.env or any(word.startswith("--path") for word in config.extra_args)
    )


def is_public(names: Names, head: RequestHead) -> bool:
    """Whether everybody may ask for this, keys or not: whether llamad is well, and the web UI with its files, to which
    a person gives the key.
    """
    if head.method not in ("GET", "HEAD"):
        return False
    written, path = _split(head.path)
    if written is None:
        free = _PLACES.get(plain(path)) in _FREE
        return free or (kind_of("GET", plain(path)) is Kind.PAGE and names.shows(names.only))
    return names.shows(names.find(unquote(written))) and kind_of("GET", plain(path)) is Kind.PAGE


def speaks_anthropic(head: RequestHead) -> bool:
    """Whether a client of Anthropic's API asks: its SDKs send `anthropic-version` with everything."""
    _, path = _split(head.path)
    return f"{plain(path)}/".startswith("/v1/messages/") or head.header(b"anthropic-version") is not None


def _split(path: str) -> tuple[str | None, str]:
    """The NAME (as written) and the /REST of `/servers/NAME/REST`; of another path None, and itself."""
    if not path.startswith(_SERVERS):
        return None, path
    written, _, rest = path[len(_SERVERS) :].partition("/")
    return written, f"/{rest}"


def reader(head: RequestHead) -> Reader | None:
    """What reads the model off the body; None: it does not stand there."""
    written, path = _split(head.path)
    path = plain(path)
    kind = kind_of(head.method, path)
    if head.method not in WITH_BODY or kind is None:
        return None
    target = _target(path, head)
    if written is not None:
        return _reader_of_one(unquote(written), target, kind)
    if path == _ARRAY_BODY:
        return Reader(_no_name, target, kind)
    content_type = head.header(b"content-type") or b""
    if content_type[:19].lower() == b"multipart/form-data":
        return Reader(partial(modelname.in_form, content_type=content_type.decode("latin-1")), target, kind)
    may_be_empty = head.query or kind is not Kind.USE
    return Reader(_in_any_json if may_be_empty else modelname.in_json, target, kind)


def _reader_of_one(name: str, target: str, kind: Kind) -> Reader:
    """The server is known; the body has to be looked at before any process gets it, or a model is started."""
    return Reader(partial(_with_a_body if kind is Kind.USE else _always, name), target, kind)


def _always(name: str, _: bytes) -> str:
    return name


def _with_a_body(name: str, body: bytes) -> str:
    """A request without a body is none that a model could answer."""
    if not body:
        raise UnreadableError("the body is empty; send an object such as {...}")
    return name


def _no_name(_: bytes) -> None:
    return None


def _in_any_json(body: bytes) -> str | None:
    return modelname.in_json(body) if body else None


def _target(path: str, head: RequestHead) -> str:
    return f"{path}?{head.query}" if head.query else path


def choose(names: Names, head: RequestHead, read: Reader | None, body: bytes) -> ToServer | Here | Answer:
    """Where a request goes; `read` is `reader(head)`. OPTIONS is not asked here."""
    if read is None:
        return _by_head(names, head)
    try:
        name = read.model(body)
        if len(body) > MAX_DEPTH:  # a shorter one cannot be deeper
            modelname.check_nesting(body)
        if name is None and head.query:
            name = modelname.in_query(head.query)
    except UnreadableError as error:
        return error_answer(400, str(error), kind="invalid_request_error")
    server = names.only if name is None else names.find(name)
    if server is not None:
        return ToServer(server, read.target, None, read.kind)
    if name is not None:
        return unknown_model(name, names.known)
    how = "add ?model=NAME" if read.model is _no_name else 'add "model": "NAME" to the body'
    return _nameless(names, head, how)


def _by_head(names: Names, head: RequestHead) -> ToServer | Here | Answer:
    """What path, method and query say alone."""
    if b"websocket" in (head.header(b"upgrade") or b"").lower():
        return _NO_WEBSOCKET
    written, rest = _split(head.path)
    path = plain(rest)
    if written is not None:
        return _one_server(names, head, written, path)
    place = _PLACES.get(path)
    if place is not None:
        return _here(names, head, place)
    if head.method in ("GET", "HEAD") and head.path.startswith(_MODELS):
        return _one_model(names, head.path)
    kind = kind_of(head.method, path)
    if kind is None or (kind is Kind.PAGE and names.only is None):
        return _nothing(head.method, path)
    name = _name_in_query(head)
    if isinstance(name, Answer):
        return name
    server = names.only if name is None else names.find(name)
    if server is not None:
        return ToServer(server, _target(path, head), kind=kind)
    return _nameless(names, head, "add ?model=NAME") if name is None else unknown_model(name, names.known)


def _here(names: Names, head: RequestHead, place: Place) -> Here | Answer:
    """A place of the gateway's own; `/ready?model=NAME` is about one server."""
    if head.method not in ("GET", "HEAD"):
        return not_allowed(head.method, "GET, HEAD")
    name = _name_in_query(head) if place is Place.READY else None
    if name is None or isinstance(name, Answer):
        return name or Here(place)
    server = names.find(name)
    return unknown_model(name, names.known) if server is None else Here(place, server)


def _name_in_query(head: RequestHead) -> str | Answer | None:
    try:
        return modelname.in_query(head.query) if head.query else None
    except UnreadableError as error:
        return error_answer(400, str(error), kind="invalid_request_error")


def _nameless(names: Names, head: RequestHead, how: str) -> Answer:
    """No model where there are several servers, or none."""
    how = f"{how}, or ask for /servers/NAME{head.path[:100]}; {there_is(names.known)}"
    return error_answer(400, f"no model is named: {how}", kind="model_required", param="model")


def _one_server(names: Names, head: RequestHead, written: str, path: str) -> ToServer | Here | Answer:
    """`/servers/NAME/REST` asks the server for `/REST`."""
    server = names.find(unquote(written))
    if server is None:
        return unknown_model(unquote(written), names.known)
    if head.path == _SERVERS + written:  # the web UI's relative links need the slash
        location = f"./{written}/?{head.query}" if head.query else f"./{written}/"
        return Answer(308, headers=[(b"location", location.encode("latin-1", "replace"))])
    kind = kind_of(head.method, path)
    return _nothing(head.method, path) if kind is None else ToServer(server, _target(path, head), kind=kind)


def _one_model(names: Names, path: str) -> Here | Answer:
    prefix = next(prefix for prefix in _MODELS if path.startswith(prefix))
    name = unquote(path[len(prefix) :])
    server = names.find(name) or names.find(name.removesuffix("/"))
    return unknown_model(name, names.known) if server is None else Here(Place.MODEL, server)


def _nothing(method: str, path: str) -> Answer:
    """llama-server has no such path, or not for this method."""
    methods = allowed(path)
    if methods and kind_of(method, path) is None:
        return not_allowed(method, methods)
    known = nearest(path)
    hint = "llama-server has no such path" if known is None else f"did you mean {known}?"
    base = "the base URL of an OpenAI client is http://HOST:PORT/v1 (or http://HOST:PORT/servers/NAME/v1)"
    message = f"nothing is at {path[:100]!r}: {hint} ({base}: look whether it is wrong, or has /v1 twice)"
    return error_answer(404, message, kind="not_found")


_NO_WEBSOCKET = error_answer(
    426,
    'there is no WebSocket here: POST with "stream": true is answered as server-sent events',
    headers=[(b"upgrade", b"HTTP/1.1"), (b"connection", b"upgrade")],
)
