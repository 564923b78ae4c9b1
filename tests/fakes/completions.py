"""What the fake generates: words, whole or as a stream of events."""

from __future__ import annotations

import os
import time

from tests.fakes import fields, slots
from tests.fakes.mood import die_if, hanging, number, setting, srv
from tests.fakes.slots import Slot, model_name
from tests.fakes.wire import LeftError, Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_DEFAULT_TOKENS = 4


def chat(request: Request) -> None:
    """/v1/chat/completions"""
    if not isinstance(request.json().get("messages"), list):
        raise TypeError("Expected 'messages' to be an array")
    _complete(request, "chat")


def text(request: Request) -> None:
    """/v1/completions; /completions is the raw one."""
    _complete(request, "text" if request.path.startswith("/v1") else "raw")


def raw(request: Request) -> None:
    """/completion"""
    _complete(request, "raw")


def _complete(request: Request, kind: str) -> None:
    asked = request.json()
    if setting("STATUS"):
        request.error(int(setting("STATUS")), "Compute error.", "server_error")
        return
    while hanging("swallow"):
        request.connection.rest(0.02)
    if (error := fields.refused(asked)) is not None:
        request.error(*error)
        return
    limit = int(number("CHUNKS", _DEFAULT_TOKENS))
    limit = min(limit, int(str(asked.get("max_tokens") or asked.get("n_predict") or limit)))
    slot = slots.take(request, max(1, len(request.body) // 8), limit)
    try:
        if asked.get("stream"):
            wanted = asked.get("stream_options")
            _stream(request, slot, kind, usage=isinstance(wanted, dict) and bool(wanted.get("include_usage")))
        else:
            request.answer(200, _whole(slot, kind, "".join(_words(request, slot))))
    except (LeftError, OSError):
        if request.header("x-conversation-id"):
            _go_on(slot)
        srv("W", "stop", f"cancel task, id_task = {slot.task}")
        raise
    finally:
        slot.busy = False


def _go_on(slot: Slot) -> None:
    """A conversation is generated to its end, though its client has left."""
    while slot.decoded < slot.limit:
        time.sleep(number("CHUNK_DELAY"))
        slot.decoded += 1


def _read_prompt(request: Request, slot: Slot) -> None:
    """Read the prompt in batches, as long as asked: the counters move at the end of one, the processor all along."""
    batches, seconds = int(number("BATCHES")), number("BATCH_S")
    slot.processed = 0 if batches else slot.prompt
    for batch in range(1, batches + 1):
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            began = time.thread_time()
            while time.thread_time() - began < 0.02:
                pass
            request.connection.rest(0.02)
        slot.processed = slot.prompt * batch // batches


def _words(request: Request, slot: Slot) -> Iterator[str]:
    """One word at a time, hanging and waiting as asked."""
    request.connection.rest(number("DELAY"))
    _read_prompt(request, slot)
    while slot.decoded < slot.limit:
        while hanging("decode"):
            request.connection.rest(0.02)
        if slot.decoded:
            request.connection.rest(number("CHUNK_DELAY"))
        slot.decoded += 1
        yield f"word{slot.decoded} "


def _common(slot: Slot, what: str) -> Mapping[str, object]:
    return {
        "created": int(time.time()),
        "model": model_name(),
        "system_fingerprint": f"b11434-fake-{os.getpid()}",
        "object": what,
        "id": f"chatcmpl-{os.getpid()}-{slot.task}",
    }


def _whole(slot: Slot, kind: str, content: str) -> Mapping[str, object]:
    if kind == "raw":
        counted = {"tokens_predicted": slot.decoded, "tokens_evaluated": slot.prompt, "timings": slot.timings()}
        return {"index": 0, "content": content, "id_slot": slot.id, "stop": True, "model": model_name(), **counted}
    said: Mapping[str, object] = {"text": content, "logprobs": None}
    if kind == "chat":
        said = {"message": {"role": "assistant", "content": content}}
    what = "chat.completion" if kind == "chat" else "text_completion"
    choices = [{"finish_reason": "length", "index": 0, **said}]
    return {"choices": choices, **_common(slot, what), "usage": slot.usage(), "timings": slot.timings()}


def _piece(slot: Slot, kind: str, word: str | None, reason: str | None = None) -> Mapping[str, object]:
    if kind == "raw":
        return {"index": 0, "content": word or "", "id_slot": slot.id, "stop": reason is not None}
    inner: Mapping[str, object] = {"text": word or "", "logprobs": None}
    if kind == "chat":
        inner = {"delta": {} if word is None else {"content": word}}
    what = "chat.completion.chunk" if kind == "chat" else "text_completion"
    return {"choices": [{"finish_reason": reason, "index": 0, **inner}], **_common(slot, what)}


def _stream(request: Request, slot: Slot, kind: str, *, usage: bool) -> None:
    import json

    def event(data: object) -> None:
        shown = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))
        line = f"data: {shown}\n\n".encode()
        request.connection.send(b"%x\r\n%s\r\n" % (len(line), line))

    for word in _words(request, slot):
        if slot.decoded == 1:
            head = request.head(200, "text/event-stream") + "Transfer-Encoding: chunked\r\n\r\n"
            request.connection.send(head.encode())
            if kind == "chat":
                role = {"finish_reason": None, "index": 0, "delta": {"role": "assistant", "content": None}}
                event({"choices": [role], **_common(slot, "chat.completion.chunk")})
        event(_piece(slot, kind, word))
        die_if("chunks", slot.decoded)
    last = _piece(slot, kind, None, "length")
    if usage and kind != "raw":
        event(last)
        last = {"choices": [], **_common(slot, "chat.completion.chunk"), "usage": slot.usage()}
    event({**last, "timings": slot.timings()})
    if kind != "raw":
        event("[DONE]")
    request.connection.send(b"0\r\n\r\n")
