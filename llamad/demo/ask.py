"""One question to an OpenAI-compatible port, its answer shown as it comes."""

import http.client
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from llamad.errors import LlamadError


@dataclass(frozen=True, slots=True)
class Answer:
    """The whole answer. The figures are llama-server's own, None where it named none."""

    text: str
    tokens: int | None
    tokens_per_s: float | None


def ask(port: int, question: str, show: Callable[[str], None], *, max_tokens: int, timeout: float) -> Answer:
    """Ask the gateway on this machine's `port`, calling `show` with each piece of the answer as it comes.

    `timeout` is for silence, in seconds. Raises LlamadError when there is no answer, or when it broke off.
    """
    body = {
        "messages": [{"role": "user", "content": question}],
        "stream": True,
        "max_tokens": max_tokens,
        "temperature": 0,
    }
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise LlamadError(f"the question was answered with {response.status}: {_error(response.read(65536))}")
        return _read(response, show)
    except (OSError, http.client.HTTPException) as error:
        raise LlamadError(f"the question got no answer: {error!r}") from error
    finally:
        connection.close()


def _read(response: http.client.HTTPResponse, show: Callable[[str], None]) -> Answer:
    pieces: list[str] = []
    timings: dict[str, Any] = {}
    done = False
    for event in _events(response):
        if event == "[DONE]":
            done = True
            break
        chunk = json.loads(event)
        if "error" in chunk:
            raise LlamadError(f"the answer broke off: {_error(event.encode())}")
        timings = chunk.get("timings") or timings
        for choice in chunk.get("choices", ()):
            if piece := choice["delta"].get("content"):
                pieces.append(piece)
                show(piece)
    if not done:
        raise LlamadError("the answer broke off before its end")
    return Answer("".join(pieces), timings.get("predicted_n"), timings.get("predicted_per_second"))


def _events(response: http.client.HTTPResponse) -> Iterator[str]:
    """The data of each server-sent event; llama-server writes one line for each."""
    for line in response:
        if line.startswith(b"data:"):
            yield line.removeprefix(b"data:").strip().decode()


def _error(body: bytes) -> str:
    """The message of an error in OpenAI's shape, else the text as it is."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return body.decode(errors="replace").strip()[:500]
