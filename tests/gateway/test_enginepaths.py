"""What llama-server's paths do."""

import pytest

from llamad.gateway.enginepaths import Kind, allowed, kind_of, nearest, plain

BUILD = {
    "GET": (
        "/ /index.html /sw.js /favicon.ico /health /v1/health /metrics /props /models /v1/models /slots /lora-adapters"
        " /v1/stream /tools /cors-proxy"
    ),
    "POST": (
        "/props /completion /completions /v1/completions /chat/completions /v1/chat/completions /responses"
        " /v1/responses /v1/chat/completions/control /audio/transcriptions /v1/audio/transcriptions /v1/messages"
        " /infill /embedding /embeddings /v1/embeddings /rerank /reranking /v1/rerank /v1/reranking /tokenize"
        " /detokenize /apply-template /chat/completions/input_tokens /v1/chat/completions/input_tokens"
        " /responses/input_tokens /v1/responses/input_tokens /v1/messages/count_tokens /lora-adapters /slots/0"
        " /slots/17 /v1/systemone /v1/streams/lookup /tools /cors-proxy"
    ),
    "DELETE": "/v1/stream",
}
"""What the embedded engine (October 2026) answers with anything but 404."""


@pytest.mark.parametrize(
    ("method", "path"), [(method, path) for method, text in BUILD.items() for path in text.split()]
)
def test_every_path_of_the_engine_is_known(method: str, path: str) -> None:
    assert kind_of(method, path) is not None
    assert method in allowed(path).split(", ")


def test_only_a_post_uses_the_model() -> None:
    for method, text in BUILD.items():
        for path in text.split():
            assert method == "POST" or kind_of(method, path) is not Kind.USE
    assert kind_of("HEAD", "/props") is Kind.PASSIVE


@pytest.mark.parametrize("path", ["/v1/x", "/slots/x", "/slots/0/x", "/x", "/.js", "/a/../b.js", "/a b.js", "/v1/x.js"])
def test_what_no_engine_has(path: str) -> None:
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
        assert kind_of(method, path) is None
    assert allowed(path) == ""


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/", "/"),
        ("//", "/"),
        ("/a/", "/a"),
        ("//a//b", "/a/b"),
        ("/%61", "/a"),
        ("/a%2Fb", "/a/b"),
        ("/%ff", "/\ufffd"),
    ],
)
def test_what_a_path_means(path: str, meant: str) -> None:
    assert plain(path) == meant


def test_what_a_path_was_meant_to_be() -> None:
    assert nearest("/v1/v1/models") == "/v1/models"
    assert nearest("/api/v2/completions") == "/completions"
    assert nearest("/x") is None
