"""Who answers which path of the fake."""

from __future__ import annotations

import os
import time

from tests.fakes import completions, options, slots
from tests.fakes.mood import die_if, hanging, setting
from tests.fakes.slots import context, model_name
from tests.fakes.wire import Request

_ECHOED: tuple[str, ...] = (
    "/echo",
    "/v1/messages",
    "/v1/responses",
    "/responses",
    "/rerank",
    "/v1/rerank",
    "/infill",
    "/detokenize",
)
_ECHOED += ("/apply-template", "/v1/audio/transcriptions", "/lora-adapters", "/v1/stream", "/slots/")


class State:
    """What the main thread tells those who answer."""

    ready = False
    keys: list[str] = []  # noqa: RUF012 - one of its kind


def route(request: Request) -> None:
    """Answer one request."""
    name = request.path.strip("/").removeprefix("v1/")
    if request.method == "OPTIONS":
        request.answer(200, "", "text/html", "Access-Control-Allow-Methods: GET, POST\r\n")
    elif not State.ready:
        request.error(503, "Loading model", "unavailable_error")
    elif name == "health":
        _health(request)
    elif request.path == "/":
        request.answer(200, "<!doctype html><title>fake llama.cpp</title>", "text/html")
    elif not _allowed(request):
        request.error(401, "Invalid API Key", "authentication_error")
    elif request.method in ("GET", "HEAD") and name in _GETS:
        _GETS[name](request)
    elif request.method == "POST" and name in _POSTS:
        _work(request, name)
    elif request.path.startswith(_ECHOED):
        _work(request, "echo")
    else:
        request.error(404, "File Not Found", "not_found_error")


def _allowed(request: Request) -> bool:
    given = (request.header("authorization") or request.header("x-api-key")).removeprefix("Bearer ")
    return not State.keys or given in State.keys


def _work(request: Request, name: str) -> None:
    """Answer a request that counts."""
    slots.wake()
    try:
        _POSTS[name](request)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        request.error(400, f"[json.exception.parse_error.101] {error}", "invalid_request_error")
    die_if("requests", slots.count_request())


def _health(request: Request) -> None:
    while hanging("health"):
        request.connection.rest(0.02)
    request.answer(200, '{"status":"ok"}')


def _echo(request: Request) -> None:
    shown = {"method": request.method, "target": request.target, "headers": request.headers}
    request.answer(200, {**shown, "body": request.body.decode("latin-1"), "pid": os.getpid()})


def _not_switched_on(request: Request, what: str, option: str) -> None:
    message = f"This server does not support {what}. Start it with `{option}`"
    request.error(501, message, "not_supported_error")


def _embeddings(request: Request) -> None:
    if not options.values.get("--embeddings"):
        _not_switched_on(request, "embeddings", "--embeddings")
        return
    given = request.json()["input"]
    many = len(given) if isinstance(given, list) else 1
    data = [{"embedding": [0.6, 0.8], "index": i, "object": "embedding"} for i in range(many)]
    usage = {"prompt_tokens": many, "total_tokens": many}
    request.answer(200, {"model": model_name(), "object": "list", "usage": usage, "data": data})


def _tokenize(request: Request) -> None:
    words = str(request.json()["content"]).split()
    request.answer(200, {"tokens": list(range(1, 1 + len(words)))})


def _slots(request: Request) -> None:
    while hanging("slots"):
        request.connection.rest(0.02)
    slots.wake()
    if options.values.get("--slots", "1") == "":
        _not_switched_on(request, "slots endpoint", "--slots")
    elif "fail_on_no_slot" in request.target and all(one.busy for one in slots.slots):
        request.error(503, "no slot available", "unavailable_error")
    else:
        request.answer(200, [] if setting("NO_SLOTS") else [one.shown() for one in slots.slots])


def _props(request: Request) -> None:
    request.answer(
        200,
        {
            "default_generation_settings": {"params": {"n_predict": -1}, "n_ctx": context()},
            "total_slots": len(slots.slots),
            "model_alias": model_name(),
            "model_ftype": "Q4_1",
            "model_path": options.values.get("--model", ""),
            "modalities": {"vision": False, "video": False, "audio": False},
            "endpoint_slots": options.values.get("--slots", "1") != "",
            "endpoint_props": bool(options.values.get("--props")),
            "endpoint_metrics": bool(options.values.get("--metrics")),
            "chat_template": "{{ messages }}",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "build_info": "b11434-fake",
            "is_sleeping": slots.is_asleep(),
        },
    )


def _models(request: Request) -> None:
    name = model_name()
    numbers = {"vocab_type": 2, "n_vocab": 49152, "n_ctx": context(), "n_ctx_train": 8192, "n_embd": 576}
    meta = {**numbers, "n_params": 134515008, "size": 98000000, "ftype": "Q4_1"}
    one = {"id": name, "aliases": [name], "tags": [], "object": "model", "created": int(_BEGAN)}
    old = {"name": name, "model": name, "type": "model", "capabilities": ["completion"], "details": {"format": "gguf"}}
    data = [{**one, "owned_by": "llamacpp", "meta": meta}]
    request.answer(200, {"models": [old], "object": "list", "data": data})


def _metrics(request: Request) -> None:
    if not options.values.get("--metrics"):
        _not_switched_on(request, "metrics endpoint", "--metrics")
        return
    text = ""
    for name, kind, value in (
        ("prompt_tokens_total", "counter", slots.Counts.tasks),
        ("tokens_predicted_total", "counter", slots.Counts.tasks * 4),
        ("requests_processing", "gauge", sum(one.busy for one in slots.slots)),
        ("requests_deferred", "gauge", slots.waiting()),
    ):
        text += f"# HELP llamacpp:{name} fake\n# TYPE llamacpp:{name} {kind}\nllamacpp:{name} {value}\n"
    request.answer(200, text, "text/plain; version=0.0.4")


_BEGAN = time.time()
_GETS = {"slots": _slots, "props": _props, "models": _models, "metrics": _metrics}
_POSTS = {
    "chat/completions": completions.chat,
    "completions": completions.text,
    "completion": completions.raw,
    "embeddings": _embeddings,
    "tokenize": _tokenize,
    "echo": _echo,
}
