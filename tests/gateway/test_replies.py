"""The shape of what the gateway says itself."""

import json

import pytest

from llamad.gateway.replies import error_answer, json_answer


@pytest.mark.parametrize(
    ("status", "kind", "expected_type", "code"),
    [
        (400, "invalid_request_error", "invalid_request_error", None),
        (404, "model_not_found", "invalid_request_error", "model_not_found"),
        (401, "invalid_api_key", "authentication_error", "invalid_api_key"),
        (429, "queue_share", "rate_limit_error", "queue_share"),
        (502, "upstream_error", "server_error", "upstream_error"),
        (503, "server_error", "server_error", None),
    ],
)
def test_an_error_has_openais_shape(status: int, kind: str, expected_type: str, code: str | None) -> None:
    answer = error_answer(status, "what to do", kind=kind, headers=[(b"retry-after", b"5")])
    assert answer.status == status
    assert answer.content_type == b"application/json"
    assert answer.headers == [(b"retry-after", b"5")]
    assert json.loads(answer.body) == {
        "error": {"message": "what to do", "type": expected_type, "param": None, "code": code}
    }


def test_json_is_ascii_whatever_is_in_it() -> None:
    answer = json_answer({"a": "\ud800ü"})
    assert answer.body.isascii()
    assert (answer.status, answer.headers) == (200, [])
