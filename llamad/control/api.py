"""The verbs as HTTP on the control socket: who may, what was asked, and the answer as JSON."""

import asyncio
import json
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from llamad.config.files import Files
from llamad.control.documents import (
    EarlierDocument,
    LogDocument,
    PlanDocument,
    ReloadDocument,
    SettledDocument,
    StatusDocument,
    VerbDocument,
)
from llamad.control.listening import control_socket, serving
from llamad.control.operations import Operations, ReloadOutcome, Settled
from llamad.control.peers import GROUP, group_id, may_control, peer_of
from llamad.control.wire import check_document, error_document, settled_document, step_document, timestamp
from llamad.errors import (
    ConfigError,
    LlamadError,
    NotAllowedError,
    UnavailableError,
    UnknownServerError,
    UsageError,
)

log = logging.getLogger(__name__)
MAX_BODY = 64 << 10
MAX_FILES = 8 << 20
"""Of a configuration that is to be judged, as JSON."""
OVERFLOW_UID = 65534
"""What the kernel says of users that the unit's PrivateUsers= hides."""
BODY_TIME = 10.0
"""Seconds for a body."""
MAX_LINES = 100_000
_TAKE_FILES = ("/v1/plan", "/v1/check")
Admit = Callable[[int], None]
"""Given a connection's file descriptor, raises NotAllowedError where its peer may not control llamad."""

_STATUS: tuple[tuple[type[LlamadError], int], ...] = (
    (UsageError, 400),
    (NotAllowedError, 403),
    (UnknownServerError, 404),
    (ConfigError, 422),
    (UnavailableError, 503),
)
_UNASKED = {
    404: "no such thing is here; /v1 has status, check, plan, reload, models, devices, upgrade and servers/NAME/...",
    405: "not with this method",
    413: f"the body is too large: a configuration may have {MAX_FILES >> 20} MiB; no other verb takes a body",
}


@asynccontextmanager
async def control(operations: Operations, path: Path, *, uid: int) -> AsyncIterator[None]:
    """Have `operations` asked on the control socket at `path`, by root, `uid` (llamad's own user) and the members of
    llamad's group, for the time of the block. LlamadError where the socket cannot be made.
    """
    with control_socket(path, group=group_id()) as (sock, group):
        async with serving(application(operations, admission(uid=uid, group=group)), sock):
            yield


def admission(*, uid: int, group: int | None) -> Admit:
    """The check of who is at the other end (peers.may_control)."""

    def admit(connection: int) -> None:
        peer = peer_of(connection)
        if may_control(peer, uid=uid, group=group):
            return
        join = f"sudo usermod -aG {GROUP} $USER and log in again, or " if group is not None else ""
        raise NotAllowedError(f"{peer} may not control llamad", hint=f"to be allowed: {join}use sudo")

    return admit


def application(operations: Operations, admit: Admit) -> web.Application:
    """The routes over `operations`."""
    api = _Api(operations)
    app = web.Application(middlewares=[_errors_as_json, _door(admit)], client_max_size=MAX_BODY)
    app.router.add_get("/v1/status", api.status, allow_head=False)
    app.router.add_get("/v1/plan", api.plan, allow_head=False)
    app.router.add_post("/v1/plan", api.plan)
    app.router.add_post("/v1/check", api.check)
    app.router.add_get("/v1/models", api.models, allow_head=False)
    app.router.add_get("/v1/devices", api.devices, allow_head=False)
    app.router.add_get("/v1/servers/{name}/logs", api.logs, allow_head=False)
    app.router.add_post("/v1/reload", api.reload)
    app.router.add_post("/v1/upgrade", api.upgrade)
    app.router.add_post("/v1/servers/{names}/{verb:start|stop|restart}", api.change)
    app.on_shutdown.append(api.end_streams)
    return app


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except LlamadError as error:
        status = next((status for kind, status in _STATUS if isinstance(error, kind)), 409)
        return web.json_response(error_document(error), status=status)
    except web.HTTPException as error:
        refused = UsageError(f"{request.method} {request.path}: {_UNASKED.get(error.status, error.reason)}")
        answer = web.json_response(error_document(refused), status=error.status)
        if "Allow" in error.headers:
            answer.headers["Allow"] = error.headers["Allow"]
        if error.status == 413:
            answer.force_close()
        return answer


def _door(admit: Admit) -> Middleware:
    @web.middleware
    async def door(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.transport is None:
            raise ConnectionResetError("the client has left")
        admit(request.transport.get_extra_info("socket").fileno())
        takes_files = request.method == "POST" and request.path in _TAKE_FILES
        if not takes_files and request.can_read_body and await _body(request):
            raise UsageError("the verbs take no body", hint="what they take is in the path and the query")
        return await handler(request)

    return door


async def _body(request: web.Request) -> bytes:
    """Read up to the bound, so that the connection can go on."""
    try:
        async with asyncio.timeout(BODY_TIME):
            return await request.read()
    except (TimeoutError, web.RequestPayloadError):
        raise UsageError(f"{request.method} {request.path}: its body is broken, or does not end") from None


class _Api:
    """Handlers: read the question, ask the operations, shape the answer."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._streams: set[asyncio.Task[object]] = set()

    async def status(self, request: web.Request) -> web.StreamResponse:
        query = _query(request, "server", "watch")
        server = query.get("server")
        now = self._operations.status(server)  # asked before a stream begins too: an unknown server is a 404
        if _flag(query, "watch"):
            return await self._stream(request, self._operations.watch(server))
        return web.json_response(now)

    async def plan(self, request: web.Request) -> web.StreamResponse:
        _query(request)
        outcome = await self._operations.plan(await _files(request))
        answer: PlanDocument = {
            "steps": [step_document(step) for step in outcome.steps],
            "settings": list(outcome.settings),
            "problems": list(outcome.problems),
            "earlier": _earlier_documents(outcome),
        }
        return web.json_response(answer)

    async def check(self, request: web.Request) -> web.StreamResponse:
        _query(request)
        found = await self._operations.check(await _files(request))
        return web.json_response(check_document("llamad", found.file, found.files, found.servers, found.verdict))

    async def reload(self, request: web.Request) -> web.StreamResponse:
        wait = _flag(_query(request, "wait"), "wait")
        _tell_order(request, "reload")
        outcome = await self._operations.reload(wait=wait)
        return web.json_response(_reload_document(outcome))

    async def change(self, request: web.Request) -> web.StreamResponse:
        wait = _flag(_query(request, "wait"), "wait")
        asked = request.match_info["names"].split(",")
        names = tuple(dict.fromkeys(self._name_of(name) for name in asked))  # one that is unknown changes nothing
        verbs = {"start": self._operations.start, "stop": self._operations.stop, "restart": self._operations.restart}
        verb = request.match_info["verb"]
        for name in names:
            _tell_order(request, verb, server=name)
        settled = await verbs[verb](names, wait=wait)
        answer: VerbDocument = {"servers": _settled_documents(settled)}
        return web.json_response(answer)

    async def logs(self, request: web.Request) -> web.StreamResponse:
        query = _query(request, "n", "follow")
        name = self._name_of(request.match_info["name"])  # an unknown server is a 404, not a stream that fails
        lines = self._operations.logs(name, last=_count(query, "n"), follow=_flag(query, "follow"))
        return await self._stream(request, lines)

    async def models(self, request: web.Request) -> web.StreamResponse:
        _query(request)
        return web.json_response(await self._operations.models())

    async def devices(self, request: web.Request) -> web.StreamResponse:
        _query(request)
        return web.json_response(await self._operations.devices())

    async def upgrade(self, request: web.Request) -> web.StreamResponse:
        _query(request)
        _tell_order(request, "upgrade")
        await self._operations.upgrade()
        return web.json_response({}, status=202)

    async def end_streams(self, _app: web.Application) -> None:
        """llamad ends: whoever follows is let go at once, since a stream has no end of its own."""
        for task in self._streams:
            task.cancel()

    def _name_of(self, asked: str) -> str:
        """The server's own name, where an alias may have been asked; UnknownServerError."""
        (server,) = self._operations.status(asked)["servers"]
        return server["name"]

    async def _stream(
        self, request: web.Request, documents: AsyncGenerator[StatusDocument, None] | AsyncGenerator[LogDocument, None]
    ) -> web.StreamResponse:
        """One JSON document a line, until they end, the client leaves or llamad does. A failure on the way is the
        last line, in the shape of an error.
        """
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            answer = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
            async with aclosing(documents) as lines:
                await answer.prepare(request)
                try:
                    async for line in lines:
                        await answer.write(_line(line))
                except LlamadError as error:
                    await answer.write(_line(error_document(error)))
            await answer.write_eof()
            return answer
        finally:
            self._streams.discard(task)


async def _files(request: web.Request) -> Files | None:
    """The files of a configuration that is to be judged in the place of the one on disk: `{"file": PATH, "files":
    {PATH: TEXT}}`, the first one first; bytes that are no UTF-8 are surrogates. None where no body was sent.
    """
    body = await _body(request.clone(client_max_size=MAX_FILES)) if request.can_read_body else b""
    if not body:
        return None
    try:
        document = json.loads(body)
        main, texts = Path(document["file"]), document["files"]
        contents = {Path(path): text.encode(errors="surrogateescape") for path, text in texts.items()}
        names = [os.fsencode(path) for path in contents]  # half a character names no file
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UsageError('the body is not {"file": PATH, "files": {PATH: TEXT}}') from None
    if main not in contents or not all(name.startswith(b"/") and b"\0" not in name for name in names):
        raise UsageError("every path is absolute, and file: is one of files:")
    return Files(main, {main: contents[main], **contents})


def _line(document: object) -> bytes:
    return json.dumps(document).encode() + b"\n"


def _tell_order(request: web.Request, verb: str, **fields: str) -> None:
    """What somebody orders is in the journal, with who it was: its effects alone would not tell."""
    assert request.transport is not None
    peer = peer_of(request.transport.get_extra_info("socket").fileno())
    # no name: a user database in the network would hold up everything; no number that stands for any user
    who = f"another user, pid {peer.pid}" if peer.uid == OVERFLOW_UID else f"uid {peer.uid}, pid {peer.pid}"
    log.info("%s: asked over the control socket by %s", verb, who, extra={"event": "order", **fields})


def _query(request: web.Request, *known: str) -> Mapping[str, str]:
    """The query's parameters, each known and there once."""
    for key in request.query:
        if key not in known:
            there = ", ".join(known) if known else "none is taken"
            raise UsageError(f"unknown parameter {key!r}", hint=f"there is: {there}" if known else there)
        if len(request.query.getall(key)) > 1:
            raise UsageError(f"{key} is given twice")
    return request.query


def _flag(query: Mapping[str, str], name: str) -> bool:
    value = query.get(name, "0")
    if value not in ("0", "1"):
        raise UsageError(f"{name}={value!r} is neither 0 nor 1")
    return value == "1"


def _count(query: Mapping[str, str], name: str) -> int | None:
    value = query.get(name)
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) <= 6 and int(value) <= MAX_LINES):
        raise UsageError(f"{name}={value!r} is no number from 0 to {MAX_LINES}")
    return int(value)


def _reload_document(outcome: ReloadOutcome) -> ReloadDocument:
    return {
        "steps": [step_document(step) for step in outcome.steps],
        "settings": list(outcome.settings),
        "problems": list(outcome.problems),
        "earlier": _earlier_documents(outcome),
        "servers": _settled_documents(outcome.settled),
    }


def _earlier_documents(outcome: ReloadOutcome) -> list[EarlierDocument]:
    return [
        {
            "at": timestamp(one.at),
            "cause": one.cause,
            "changes": list(one.changes),
            "servers": _settled_documents(one.servers),
        }
        for one in outcome.earlier
    ]


def _settled_documents(settled: Sequence[Settled]) -> list[SettledDocument]:
    return [settled_document(one.server, one.state, one.failure) for one in settled]
