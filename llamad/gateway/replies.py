"""What the gateway says itself: JSON, and errors in the shape that OpenAI's clients read. Pure."""

import json
from typing import Any

from llamad.gateway.types import Answer, Headers

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_KNOWN_TYPES = frozenset({"invalid_request_error", "server_error", *_TYPES.values()})
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_MOST_NAMES = 20


def json_answer(value: Any, *, status: int = 200, headers: Headers | None = None) -> Answer:
    """`value` as JSON."""
    return Answer(status, json.dumps(value, separators=(",", ":")).encode() + b"\n", headers=headers or [])


def error_answer(
    status: int,
    message: str,
    *,
    kind: str = "invalid_request_error",
    param: str | None = None,
    headers: Headers | None = None,
) -> Answer:
    """`{"error": {"message", "type", "param", "code"}}`, as in OpenAI's API reference ("Error codes").

    `kind` is the machine's word for it: one of OpenAI's broad types becomes `type`; any other (`model_not_found`)
    becomes `code`, with the type that belongs to `status`.
    """
    broad = "server_error" if status >= 500 else _TYPES.get(status, "invalid_request_error")
    known = kind in _KNOWN_TYPES
    error = {"message": message, "type": kind if known else broad, "param": param, "code": None if known else kind}
    answer = json_answer({"error": error}, status=status, headers=headers)
    answer.message = message
    return answer


def anthropic_error(answer: Answer, request_id: str) -> Answer:
    """An error in the shape that Anthropic's clients read (docs.anthropic.com, "Errors"); anything else as it is."""
    if answer.message is None:
        return answer
    kind = _ANTHROPIC_TYPES.get(answer.status, "api_error" if answer.status >= 500 else "invalid_request_error")
    error = {"type": kind, "message": answer.message}
    document = {"type": "error", "error": error, "request_id": request_id}
    return json_answer(document, status=answer.status, headers=[*answer.headers, (b"request-id", request_id.encode())])


def not_allowed(method: str, allowed: str) -> Answer:
    """405 with Allow (RFC 9110, 15.5.6)."""
    message = f"{method} does not work here: use {allowed}"
    return error_answer(405, message, kind="method_not_allowed", headers=[(b"allow", allowed.encode())])


def unknown_model(name: str, known: tuple[str, ...]) -> Answer:
    """404 that names what there is; the code is the one OpenAI uses."""
    shown = name if len(name) <= 100 else name[:100] + "..."
    return error_answer(404, f"no model is called {shown!r}: {there_is(known)}", kind="model_not_found", param="model")


def there_is(known: tuple[str, ...]) -> str:
    """The names for a message, at most twenty of them."""
    if not known:
        return "no server is configured; add one under servers: in llamad.yaml"
    more = f" and {len(known) - _MOST_NAMES} more (GET /v1/models)" if len(known) > _MOST_NAMES else ""
    return "there is " + ", ".join(known[:_MOST_NAMES]) + more
