"""The access log: one structured record a request (journal fields LLAMAD_METHOD, LLAMAD_STATUS and so on)."""

import logging
import re
from typing import Literal

from llamad.gateway.types import Exchange

log = logging.getLogger("llamad.access")
Mode = Literal["all", "errors", "off"]
_MAX_PATH = 256
_FIGURE = r'"(?:{})"\s*:\s*(\d{{1,12}})\b'


def _named(*names: str) -> re.Pattern[bytes]:
    return re.compile(_FIGURE.format("|".join(names)).encode())


_PROMPT = _named("prompt_tokens", "input_tokens", "tokens_evaluated")
_BESIDE = _named("cache_read_input_tokens")
"""Anthropic's `input_tokens` are those that were not in the cache; OpenAI's `prompt_tokens` are all."""
_PROMPT_READ, _PROMPT_CACHED = _named("prompt_n"), _named("cache_n")
_COMPLETION, _PREDICTED = _named("completion_tokens", "output_tokens", "tokens_predicted"), _named("predicted_n")


def tokens(tail: bytes) -> tuple[int | None, int | None]:
    """Tokens of the prompt, cached ones included, and of the completion, where an answer's end names them: `usage` of
    OpenAI's and of Anthropic's shape, or else llama-server's `timings`; the last that is named counts. Text that a
    model wrote cannot pass for one: its quotes are escaped.
    """
    prompt, beside = _last(_PROMPT, tail), _last(_BESIDE, tail)
    if prompt is None:
        prompt, beside = _last(_PROMPT_READ, tail), _last(_PROMPT_CACHED, tail)
    completion = _last(_COMPLETION, tail)
    total = None if prompt is None else prompt + (beside or 0)
    return total, completion if completion is not None else _last(_PREDICTED, tail)


def _last(pattern: re.Pattern[bytes], tail: bytes) -> int | None:
    found = pattern.findall(tail)
    return int(found[-1]) if found else None


class AccessLog:
    """Writes what `mode` asks for; an error is a status from 400 on, or an answer that broke off."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode

    def write(self, exchange: Exchange, now: float) -> None:
        """`exchange` is over at `now`, by the loop's clock."""
        if self.mode != "all" and (self.mode == "off" or (0 < exchange.status < 400 and exchange.error is None)):
            return
        ours = exchange.status >= 500 or exchange.error not in (None, "client-left")
        level = logging.WARNING if ours else logging.INFO
        if not log.isEnabledFor(level):
            return
        head = exchange.head
        path = head.path if len(head.path) <= _MAX_PATH else head.path[:_MAX_PATH] + "..."
        prompt, completion = tokens(exchange.tail)
        duration = _ms(now - exchange.began)
        fields = {
            "event": "request",
            "server": exchange.server,
            "replica": exchange.replica,
            "key": exchange.key,
            "peer": exchange.peer,
            "method": head.method,
            "path": path,
            "status": exchange.status,
            "duration_ms": duration,
            "ttfb_ms": None if exchange.first_byte is None else _ms(exchange.first_byte - exchange.began),
            "queued_ms": _ms(exchange.queued_s),
            "bytes_in": exchange.bytes_in,
            "bytes_out": exchange.bytes_out,
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "request_id": exchange.request_id,
            "retries": exchange.retries,
            "error": exchange.error,
        }
        why = f" ({exchange.error})" if exchange.error else ""
        log.log(
            level, "%s %s %s %s %.1fms %s %s%s", head.method, path, exchange.status or "-", exchange.server or "-",
            duration, exchange.peer, exchange.key or "-", why, extra=fields,
        )  # fmt: skip


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
