"""Requests that do not use a model: they never start, wait for, or keep a server. A replica that is ready answers them,
or all that are, or llamad says why none does.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import parse_qsl

from llamad.gateway.enginepaths import WAKING, Kind
from llamad.gateway.page import waiting_page, wants_page
from llamad.gateway.prospects import RETRY_AFTER, ready
from llamad.gateway.replies import error_answer, json_answer
from llamad.gateway.types import Answer, Backends, Headers, Local, RequestHead, Route, ToServer
from llamad.host.address import Address
from llamad.servers.board import Replica
from llamad.servers.probe import ProbeAnswer, ProbeError

ASK_TIMEOUT = 30.0
"""Seconds in which every replica has to take what concerns each: it may be busy with a batch."""
LOOKUP = "/v1/streams/lookup"
CONTROL = "/v1/chat/completions/control"
Send = Callable[..., Awaitable[ProbeAnswer]]


class Passive:
    """`send` asks one replica one thing (probe.send)."""

    def __init__(self, backends: Backends, send: Send) -> None:
        self._backends = backends
        self._send = send

    def route(self, found: ToServer, head: RequestHead, body: bytes) -> Route | None:
        """Where a request goes that does not use the model of `found.server`; None: no replica of it is ready."""
        server = found.server
        there = ready(self._backends.board.of(server))
        if not there:
            return None
        wanted = _replica_in(head.query)
        if wanted is not None:
            there = [one for one in there if str(one.key.index) == wanted]
            if not there:
                return _no_such_replica(server, wanted)
        if len(there) > 1:
            if found.kind is Kind.SLOT:
                return _which_replica(server, there)
            if found.kind is Kind.STREAM:
                return Local(lambda: self._find_stream(found, head, there))
            if found.kind is Kind.EVERY:
                return Local(lambda: self._ask_every(found, head, body, there))
        one = there[0]
        if one.asleep and found.kind is Kind.PASSIVE and found.target.partition("?")[0] in WAKING:
            return _asleep(server)
        found.replica = one
        return found

    def not_ready(self, found: ToServer, head: RequestHead) -> Answer:
        """503: it would have to be started, or waited for."""
        condition = self._backends.condition(found.server)
        sentence = condition.sentence(asyncio.get_running_loop().time())
        headers: Headers = [(b"retry-after", b"%d" % RETRY_AFTER)]
        if found.kind is Kind.PAGE and wants_page(head):
            return waiting_page(found.server, sentence, headers, startable=condition.awaits_request)
        how = " that uses its model: this one does not" if condition.awaits_request else ""
        return error_answer(503, f"{sentence}{how}", kind="not_ready", headers=headers)

    async def _find_stream(self, found: ToServer, head: RequestHead, there: Sequence[Replica]) -> Answer | ToServer:
        """The replica that has the conversation; of several the one where it began last."""
        conversation = dict(parse_qsl(head.query)).get("conv_id", "")
        question = json.dumps({"conversation_ids": [conversation]}).encode()
        answers = await self._send_all("POST", LOOKUP, question, found, there)
        best, best_began = None, -1.0
        for one, answer in zip(there, answers, strict=True):
            for session in _sessions(answer):
                began = session.get("started_at")
                if isinstance(began, int | float) and began > best_began:
                    best, best_began = one, began
        if best is None:
            return error_answer(404, f"no replica of {found.server} has this conversation", kind="not_found")
        found.replica = best
        return found

    async def _ask_every(self, found: ToServer, head: RequestHead, body: bytes, there: Sequence[Replica]) -> Answer:
        answers = await self._send_all(head.method, found.target, body, found, there)
        path = found.target.partition("?")[0]
        if path == LOOKUP:
            return json_answer([session for answer in answers for session in _sessions(answer)])
        good = [answer for answer in answers if isinstance(answer, ProbeAnswer) and answer.status < 400]
        if good and (len(good) == len(answers) or path == CONTROL):
            best = max(good, key=_controlled) if path == CONTROL else good[0]
            return Answer(best.status, best.body)
        for one, answer in zip(there, answers, strict=True):
            if isinstance(answer, ProbeError):
                return error_answer(502, f"replica {one.key.index} of {found.server}: {answer}", kind="upstream_error")
        bad = next(answer for answer in answers if isinstance(answer, ProbeAnswer) and answer.status >= 400)
        if not good:
            return Answer(bad.status, bad.body)
        failed = ", ".join(str(one.key.index) for one, answer in zip(there, answers, strict=True) if answer not in good)
        said = bad.body.decode(errors="replace")[:500]
        message = f"not every replica of {found.server} took it; replica {failed} did not, with {bad.status}: {said}"
        return error_answer(502, message, kind="upstream_error")

    async def _send_all(
        self, method: str, target: str, body: bytes, found: ToServer, there: Sequence[Replica]
    ) -> list[ProbeAnswer | ProbeError]:
        async def ask(address: Address) -> ProbeAnswer | ProbeError:
            try:
                return await self._send(
                    address, target, timeout=ASK_TIMEOUT, method=method, body=body, authorization=found.authorization
                )
            except ProbeError as error:
                return error

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(one.address)) for one in there if one.address is not None]
        return [task.result() for task in tasks]


def _sessions(answer: ProbeAnswer | ProbeError) -> list[dict[str, Any]]:
    """The conversations that a replica has, of those it was asked for."""
    listed = answer.json() if isinstance(answer, ProbeAnswer) and answer.status == 200 else None
    return [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []


def _controlled(answer: ProbeAnswer) -> int:
    """How far a replica got with a control: only one has the answer that it is for, the others say 200, too."""
    said = answer.json()
    if not isinstance(said, dict):
        return 0
    return 2 if said.get("success") is True else int("no active completion" not in str(said.get("message")))


def _replica_in(query: str) -> str | None:
    """N of `?replica=N`."""
    return dict(parse_qsl(query)).get("replica") if "replica" in query else None


def _asleep(server: str) -> Answer:
    message = f"{server} is asleep, and this would wake it: a request that uses its model does, /props says how it is"
    return error_answer(503, message, kind="asleep", headers=[(b"retry-after", b"%d" % RETRY_AFTER)])


def _no_such_replica(server: str, wanted: str) -> Answer:
    message = f"no replica {wanted[:20]!r} of {server} is ready: ?replica= takes its number, from 0 on"
    return error_answer(404, message, kind="not_found", param="replica")


def _which_replica(server: str, there: Sequence[Replica]) -> Answer:
    numbers = ", ".join(str(one.key.index) for one in there)
    message = f"{server} has several replicas, and each has slots of its own: add ?replica=N (ready: {numbers})"
    return error_answer(400, message, kind="replica_required", param="replica")
