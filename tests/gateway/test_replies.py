"""The shape of what the gateway says itself."""

import json

import pytest

from llamad.gateway.replies import anthropic_error, error_answer, json_answer


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


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)
def test_an_error_has_anthropics_shape_for_its_clients(status: int, kind: str) -> None:
    answer = anthropic_error(error_answer(status, "what to do", kind="x", headers=[(b"retry-after", b"5")]), "r-1")
    assert answer.status == status
    assert answer.headers == [(b"retry-after", b"5"), (b"request-id", b"r-1")]
    assert json.loads(answer.body) == {
        "type": "error",
        "error": {"type": kind, "message": "what to do"},
        "request_id": "r-1",
    }


def test_what_is_no_error_of_ours_stays_as_it_is() -> None:
    answer = json_answer({"a": 1}, status=400)
    assert anthropic_error(answer, "r-1") is answer
