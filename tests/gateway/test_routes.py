"""Which server a request is for."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamad.gateway.enginepaths import Kind
from llamad.gateway.modelname import UnreadableError, in_form, in_query
from llamad.gateway.routes import Here, Names, Place, choose, is_public, reader
from llamad.gateway.types import Answer, RequestHead, ToServer
from tests.gateway.fleets import a_head, servers

ONE = Names(servers("qwen", aliases=("default", "org/model")))
TWO = Names({**servers("qwen", aliases=("default", "org/model")), **servers("emb")})
NONE = Names({})

EVERY_PATH = [
    "/completion", "/completions", "/v1/completions", "/chat/completions", "/v1/chat/completions", "/api/chat",
    "/responses", "/v1/responses", "/embedding", "/embeddings", "/v1/embeddings", "/rerank", "/reranking",
    "/v1/rerank", "/v1/reranking", "/infill", "/tokenize", "/detokenize", "/apply-template", "/v1/messages",
    "/v1/messages/count_tokens", "/v1/chat/completions/input_tokens", "/audio/transcriptions",
]  # fmt: skip
PASSIVE, EVERY, SLOT, PAGE = Kind.PASSIVE, Kind.EVERY, Kind.SLOT, Kind.PAGE


def error_of(answer: object) -> dict[str, Any]:
    assert isinstance(answer, Answer), answer
    error = json.loads(answer.body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error, dict)
    return error


def route_of(names: Names, head: RequestHead, body: bytes | None) -> object:
    return choose(names, head, reader(head), body or b"")


def posted(names: Names, body: bytes | None, path: str = "/v1/chat/completions", **head: str) -> object:
    return route_of(names, a_head("POST", path, **head), body)


# --- by the body ---


@pytest.mark.parametrize("path", EVERY_PATH)
@pytest.mark.parametrize("name", ["qwen", "default", "org/model"])
def test_every_path_of_llama_server_is_routed_by_name_and_alias(path: str, name: str) -> None:
    body = json.dumps({"model": name, "x": 1}).encode()
    assert reader(a_head("POST", path))
    assert posted(TWO, body, path) == ToServer("qwen", path)


def test_the_target_keeps_the_query() -> None:
    slot = posted(TWO, b'{"model": "emb"}', "/slots/0", query="action=save")
    assert slot == ToServer("emb", "/slots/0?action=save", kind=SLOT)
    assert posted(TWO, b'{"model": "emb"}', query="a=b") == ToServer("emb", "/v1/chat/completions?a=b")


@pytest.mark.parametrize("padding", [b"", b" " * (1 << 17)])
def test_a_byte_order_mark_is_let_pass(padding: bytes) -> None:
    assert posted(TWO, b'\xef\xbb\xbf{"model": "emb"' + padding + b"}") == ToServer("emb", "/v1/chat/completions")


def test_of_two_models_the_last_counts() -> None:
    assert posted(TWO, b'{"model": "qwen", "model": "emb"}') == ToServer("emb", "/v1/chat/completions")


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "is empty"),
        (b"  ", "is empty"),
        (b"{", "is not JSON"),
        (b'{"model": "qwen"} x', "is not JSON"),
        (b'\xff{"model": "qwen"}', "not UTF-8"),
        (b'{"model": "\xff"}', "not UTF-8 (byte 11)"),
        (b"[]", "no object"),
        (b'"qwen"', "no object"),
        (b"null", "no object"),
        (b'{"model": 7}', "'model' is 7: it has to be a string"),
        (b'{"model": ["qwen"]}', "has to be a string"),
        (b"[" * 60_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "too many digits"),
    ],
)
@pytest.mark.parametrize("names", [ONE, TWO])
def test_what_makes_no_sense_is_refused_in_words(names: Names, body: bytes, what: str) -> None:
    answer = posted(names, body)
    assert isinstance(answer, Answer)
    assert answer.status == 400
    error = error_of(answer)
    assert what in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "path", [*EVERY_PATH, "/servers/qwen/completion", "/servers/qwen/props", "/servers/qwen/tools"]
)
@pytest.mark.parametrize("padding", [b"", b" " * (1 << 17)])
def test_a_body_that_would_end_the_server_reaches_none(path: str, padding: bytes) -> None:
    """llama-server walks through lists and objects by recursion, and a few hundred kilobytes of `[` overflow its stack:
    one request, and its repetition, would end two processes.
    """
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        body = b'{"model": "qwen", "tools": ' + opening * 500 + b"1" + closing * 500 + padding + b"}"
        answer = posted(TWO, body, path)
        assert isinstance(answer, Answer), answer
        assert answer.status == 400
        assert "nested too deeply" in error_of(answer)["message"]


def test_brackets_in_text_and_side_by_side_nest_nothing() -> None:
    document = {"model": "qwen", "prompt": '[[[{{{\\"' * 1000, "tokens": [[1], [2]] * 1000}
    for path in ("/completion", "/servers/qwen/completion"):
        assert isinstance(posted(TWO, json.dumps(document).encode(), path), ToServer)


def test_a_recording_with_brackets_in_it_is_a_form() -> None:
    body = (
        b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\nqwen\r\n--x\r\n\r\n' + b"[" * 9000 + b"\r\n--x--"
    )
    found = posted(TWO, body, "/v1/audio/transcriptions", content_type="multipart/form-data; boundary=x")
    assert isinstance(found, ToServer)


def test_a_model_that_is_not_there_is_404_and_names_what_is() -> None:
    for names in (ONE, TWO):
        answer = posted(names, b'{"model": "gpt-4"}')
        assert isinstance(answer, Answer)
        assert answer.status == 404
        error = error_of(answer)
        assert error["code"] == "model_not_found"
        assert "'gpt-4'" in error["message"]
        assert "qwen" in error["message"]


def test_a_long_name_and_many_servers_are_cut_in_the_message() -> None:
    names = Names(servers(*(f"s{number}" for number in range(30))))
    message = error_of(posted(names, json.dumps({"model": "x" * 5000}).encode()))["message"]
    assert len(message) < 500
    assert "and 10 more (GET /v1/models)" in message


@pytest.mark.parametrize("body", [b"{}", b'{"model": null}'])
def test_no_model_goes_to_the_only_server(body: bytes) -> None:
    assert posted(ONE, body) == ToServer("qwen", "/v1/chat/completions")


def test_no_model_with_several_servers_says_what_to_do() -> None:
    answer = posted(TWO, b"{}")
    assert isinstance(answer, Answer)
    assert answer.status == 400
    error = error_of(answer)
    assert (error["code"], error["param"]) == ("model_required", "model")
    assert 'add "model": "NAME" to the body' in error["message"]
    assert "there is qwen, emb" in error["message"]


def test_without_any_server_the_message_says_where_to_add_one() -> None:
    for body in (b"{}", b'{"model": "a"}'):
        assert "llamad.yaml" in error_of(posted(NONE, body))["message"]


def test_the_query_names_the_model_where_the_body_does_not() -> None:
    assert posted(TWO, b"{}", query="model=emb") == ToServer("emb", "/v1/chat/completions?model=emb")
    assert posted(TWO, b"", query="model=emb") == ToServer("emb", "/v1/chat/completions?model=emb")
    assert posted(TWO, b'{"model": "qwen"}', query="model=emb") == ToServer("qwen", "/v1/chat/completions?model=emb")


def test_lora_adapters_take_a_list_and_are_routed_by_the_query() -> None:
    head = a_head("POST", "/lora-adapters", "model=emb")
    assert route_of(TWO, head, b"[]") == ToServer("emb", "/lora-adapters?model=emb", kind=EVERY)
    assert route_of(ONE, a_head("POST", "/lora-adapters"), b"[]") == ToServer("qwen", "/lora-adapters", kind=EVERY)
    assert "?model=NAME" in error_of(route_of(TWO, a_head("POST", "/lora-adapters"), None))["message"]


def test_an_empty_post_where_no_body_is_owed_goes_to_the_only_server() -> None:
    assert posted(ONE, b"", "/slots/0", query="action=erase") == ToServer("qwen", "/slots/0?action=erase", kind=SLOT)
    assert posted(ONE, b"", "/v1/streams/lookup") == ToServer("qwen", "/v1/streams/lookup", kind=EVERY)


# --- by the query ---


@pytest.mark.parametrize(
    ("path", "query"), [("/props", "model=emb"), ("/slots", "a=b&model=emb"), ("/props", "model=em%62")]
)
def test_a_get_is_routed_by_its_query(path: str, query: str) -> None:
    assert not reader(a_head("GET", path, query))
    assert route_of(TWO, a_head("GET", path, query), None) == ToServer("emb", f"{path}?{query}", kind=PASSIVE)


@pytest.mark.parametrize("query", ["", "a=b", "models=emb"])
def test_a_get_without_a_model(query: str) -> None:
    suffix = f"?{query}" if query else ""
    assert route_of(ONE, a_head("GET", "/props", query), None) == ToServer("qwen", f"/props{suffix}", kind=PASSIVE)
    known, unknown = (
        route_of(TWO, a_head("GET", "/props", query), None),
        route_of(TWO, a_head("GET", "/x", query), None),
    )
    assert isinstance(known, Answer)
    assert isinstance(unknown, Answer)
    assert (known.status, unknown.status) == (400, 404)
    assert "?model=NAME" in error_of(known)["message"]


@pytest.mark.parametrize("query", ["model=a&model=b", "model=%ff", "&".join(f"model{i}=1" for i in range(200))])
def test_a_query_that_makes_no_sense_is_refused(query: str) -> None:
    answer = route_of(ONE, a_head("GET", "/props", query), None)
    assert isinstance(answer, Answer)
    assert answer.status == 400
    with pytest.raises(UnreadableError):
        in_query(query)


# --- forms ---


def form(*parts: tuple[str, bytes], boundary: str = "XyZ", end: str = "--\r\n") -> bytes:
    out = b""
    for disposition, value in parts:
        out += f"--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode() + value + b"\r\n"
    return out + f"--{boundary}{end}".encode()


FILE = ('name="file"; filename="a.wav"', bytes(range(256)) * 4)
AUDIO = "/v1/audio/transcriptions"
TYPE = "multipart/form-data; boundary=XyZ"


def test_a_form_is_routed_by_its_field() -> None:
    body = form(FILE, ('name="model"', b"emb"))
    assert posted(TWO, body, AUDIO, content_type=TYPE) == ToServer("emb", AUDIO)
    assert posted(TWO, body, AUDIO, content_type='Multipart/Form-Data; charset=x; Boundary="XyZ"') == ToServer(
        "emb", AUDIO
    )
    assert posted(ONE, form(FILE), AUDIO, content_type=TYPE) == ToServer("qwen", AUDIO)


def test_of_two_fields_the_last_counts_and_files_do_not() -> None:
    body = form(('name="model"', b"emb"), ('name="model"', b"qwen"), ('name="model"; filename="x"', b"emb"))
    assert in_form(body, TYPE) == "qwen"


@pytest.mark.parametrize(
    ("disposition", "expected"),
    [
        ("name=model", "v"),
        ('name="mo\\del"', "v"),
        ('filename="; name=model"', None),
        ('name="x"; filename="\\"; name=\\"model"', None),
        ('xname="model"', None),
        ("", None),
        ('name="model', None),
    ],
)
def test_only_a_field_called_model_is_one(disposition: str, expected: str | None) -> None:
    assert in_form(form((disposition, b"v")), TYPE) == expected


def test_other_heads_of_a_part_do_not_matter() -> None:
    part = b"--XyZ\r\nX: y\r\ncontent-disposition : form-data; name=model\r\n\r\nv\r\n"
    assert in_form(part + b"--XyZ\r\nX: y\r\n\r\nz\r\n--XyZ \t\r\n\r\nheadless\r\n--XyZ--", TYPE) == "v"


@pytest.mark.parametrize("before", [b"\r\n", b"\r\n\r\n", b"This is a form.\r\n"])
def test_what_stands_before_the_first_boundary_means_nothing(before: bytes) -> None:
    assert in_form(before + form(FILE, ('name="model"', b"emb")), TYPE) == "emb"


def test_an_empty_value_is_an_empty_name() -> None:
    assert in_form(form(('name="model"', b"")), TYPE) == ""


@pytest.mark.parametrize(
    ("body", "kind", "what"),
    [
        (b"", TYPE, "does not begin with its boundary"),
        (b"preamble--XyZ--", TYPE, "does not begin with its boundary"),
        (b"x" * 2000 + b"\r\n--XyZ--", TYPE, "does not begin with its boundary"),
        (form(FILE, end=""), TYPE, "not followed by a line end"),
        (form(FILE, end="x\r\n"), TYPE, "not followed by a line end"),
        (b"--XyZ\r\nA: b", TYPE, "in the middle of a part"),
        (b"--XyZ\r\nA: b\r\n\r\nvalue", TYPE, "in the middle of a part"),
        (b"--XyZ\r\n" + b"A" * 10_000 + b"\r\n\r\nvalue\r\n--XyZ--", TYPE, "too long"),
        (form(*[('name="x"', b"")] * 65), TYPE, "more than 64 parts"),
        (form(('name="model"', b"x" * 2000)), TYPE, "too long for a name"),
        (form(('name="model"', b"\xff")), TYPE, "not UTF-8"),
        (form(FILE), "multipart/form-data", "names its boundary"),
        (form(FILE), "multipart/form-data; boundary=", "names its boundary"),
        (form(FILE), "multipart/form-data; boundary=" + "x" * 71, "names its boundary"),
        (form(FILE), "multipart/form-data; boundary=a\xff", "names its boundary"),
    ],
)
def test_a_form_that_makes_no_sense_is_refused(body: bytes, kind: str, what: str) -> None:
    with pytest.raises(UnreadableError, match=what):
        in_form(body, kind)
    answer = posted(TWO, body, AUDIO, content_type=kind)
    assert isinstance(answer, Answer)
    assert answer.status == 400


@given(st.binary(max_size=300))
def test_no_bytes_break_the_readers(data: bytes) -> None:
    for body in (data, b"--XyZ\r\n" + data, form(('name="model"', data), end="") + data):
        for kind in ("application/json", TYPE):
            assert isinstance(posted(ONE, body, content_type=kind), Answer | ToServer)


@given(st.binary(max_size=50).filter(lambda data: b"--XyZ" not in data), st.sampled_from(["emb", "qwen"]))
def test_a_form_is_read_whatever_the_other_parts_hold(data: bytes, name: str) -> None:
    body = form(('name="file"; filename="a"', data), ('name="model"', name.encode()), ('name="z"', data))
    assert in_form(body, TYPE) == name


# --- the gateway's own ---


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/", Place.INDEX),
        ("/health", Place.HEALTH),
        ("/v1/health", Place.HEALTH),
        ("/ready", Place.READY),
        ("/metrics", Place.METRICS),
        ("/models", Place.MODELS),
        ("/v1/models", Place.MODELS),
    ],
)
@pytest.mark.parametrize("names", [NONE, ONE, TWO])
def test_what_the_gateway_answers_itself(path: str, place: Place, names: Names) -> None:
    for method in ("GET", "HEAD"):
        assert route_of(names, a_head(method, path, "models=whatever"), None) == Here(place)
    answer = route_of(names, a_head("POST", path), None)
    assert not reader(a_head("POST", path))
    assert isinstance(answer, Answer)
    assert answer.status == 405
    assert answer.headers == [(b"allow", b"GET, HEAD")]


@pytest.mark.parametrize(
    "path", ["/v1/models/qwen", "/models/default", "/v1/models/org/model", "/v1/models/org%2Fmodel"]
)
def test_one_model(path: str) -> None:
    assert route_of(TWO, a_head("GET", path), None) == Here(Place.MODEL, "qwen")


def test_an_unknown_model_by_path() -> None:
    assert error_of(route_of(TWO, a_head("GET", "/v1/models/nope"), None))["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("GET", "/props", PASSIVE),
        ("HEAD", "/", PAGE),
        ("POST", "/v1/completions", Kind.USE),
        ("DELETE", "/v1/stream", EVERY),
        ("GET", "/v1/stream", Kind.STREAM),
    ],
)
def test_one_server_with_everything_it_has(method: str, path: str, kind: Kind) -> None:
    for name in ("qwen", "default", "org%2Fmodel"):
        head = a_head(method, f"/servers/{name}{path}", "a=b&model=emb")
        assert route_of(TWO, head, b"{}") == ToServer("qwen", f"{path}?a=b&model=emb", kind=kind)


def test_a_request_without_a_body_uses_no_model() -> None:
    answer = route_of(TWO, a_head("POST", "/servers/qwen/v1/chat/completions"), b"")
    assert isinstance(answer, Answer)
    assert (answer.status, "the body is empty" in error_of(answer)["message"]) == (400, True)


def test_what_concerns_every_process_of_one_server_needs_its_body_first() -> None:
    head = a_head("POST", "/servers/org%2Fmodel/props")
    assert reader(head)
    assert route_of(TWO, head, b"{}") == ToServer("qwen", "/props", kind=EVERY)
    assert error_of(route_of(TWO, a_head("POST", "/servers/nope/props"), b"{}"))["code"] == "model_not_found"


@pytest.mark.parametrize("name", ["qwen", "org%2Fmodel", "a:b"])
def test_a_servers_page_needs_its_slash_and_is_found_behind_any_prefix(name: str) -> None:
    answer = route_of(
        Names(servers("qwen", aliases=("org/model", "a:b"))), a_head("GET", f"/servers/{name}", "a=b"), None
    )
    assert isinstance(answer, Answer)
    assert answer.status == 308
    assert answer.headers == [(b"location", f"./{name}/?a=b".encode())]


@pytest.mark.parametrize("path", ["/servers/nope/x", "/servers/", "/servers/nope"])
def test_a_server_that_is_not_there(path: str) -> None:
    answer = route_of(TWO, a_head("GET", path), None)
    assert isinstance(answer, Answer)
    assert answer.status == 404
    assert "there is qwen, emb" in error_of(answer)["message"]


# --- paths that are none, and those that are written otherwise ---


@pytest.mark.parametrize("prefix", ["", "/servers/qwen"])
@pytest.mark.parametrize(
    ("method", "path", "hint"),
    [
        ("POST", "/v1/v1/chat/completions", "did you mean /v1/chat/completions?"),
        ("POST", "/openai/v1/embeddings", "did you mean /v1/embeddings?"),
        ("POST", "/v1/chat/completion", "did you mean /v1/chat/completions?"),
        ("POST", "/v1/messages/chat/completions", "did you mean /chat/completions?"),
        ("POST", "/v1/images/generations", "no such path"),
        ("POST", "/v1/audio/speech", "no such path"),
        ("POST", "/some/new/path", "no such path"),
        ("GET", "/v1/nothing", "no such path"),
        ("GET", "/slots/0/x", "no such path"),
        ("PUT", "/x", "no such path"),
        ("DELETE", "/models/load", "no such path"),
        ("POST", "/models/load", "no such path"),
    ],
)
def test_a_path_no_engine_has_is_404_and_says_that_a_base_url_may_be_wrong(
    method: str, path: str, hint: str, prefix: str
) -> None:
    head = a_head(method, prefix + path, "model=qwen")
    assert not reader(head)
    answer = route_of(ONE, head, b'{"model": "qwen"}')
    assert isinstance(answer, Answer)
    assert answer.status == 404
    message = error_of(answer)["message"]
    assert hint in message
    assert "base URL" in message


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", b"POST"),
        ("DELETE", "/props", b"GET, HEAD, POST"),
        ("POST", "/servers/qwen/", b"GET, HEAD"),
        ("POST", "/servers/qwen/sw.js", b"GET, HEAD"),
        ("GET", "/slots/0", b"POST"),
        ("PATCH", "/v1/stream", b"GET, HEAD, DELETE"),
    ],
)
def test_a_method_that_a_path_does_not_have_is_405(method: str, path: str, allow: bytes) -> None:
    answer = route_of(ONE, a_head(method, path), None)
    assert isinstance(answer, Answer)
    assert (answer.status, answer.headers) == (405, [(b"allow", allow)])


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions/", "//v1/chat/completions", "/v1/%63hat/completions", "/v1//chat///completions//"]
)
def test_a_path_is_taken_as_what_it_means(path: str) -> None:
    assert posted(TWO, b'{"model": "emb"}', path) == ToServer("emb", "/v1/chat/completions")
    assert route_of(TWO, a_head("POST", f"/servers/emb{path}"), b"{}") == ToServer("emb", "/v1/chat/completions")


@pytest.mark.parametrize("path", ["/v1/models/", "/models//", "//v1/models", "/health/"])
def test_the_gateways_own_paths_are_taken_as_what_they_mean(path: str) -> None:
    assert isinstance(route_of(TWO, a_head("GET", path), None), Here)


def test_one_model_with_a_slash_behind_it() -> None:
    assert route_of(TWO, a_head("GET", "/v1/models/org/model/"), None) == Here(Place.MODEL, "qwen")


def test_a_file_of_the_web_ui_at_the_root_is_the_only_servers() -> None:
    head = a_head("GET", "/favicon.ico")
    assert route_of(ONE, head, None) == ToServer("qwen", "/favicon.ico", kind=PAGE)
    answer = route_of(TWO, head, None)
    assert isinstance(answer, Answer)
    assert answer.status == 404


@pytest.mark.parametrize("path", ["/v1/realtime", "/servers/qwen/", "/health"])
def test_a_websocket_is_told_to_upgrade_to_http(path: str) -> None:
    answer = route_of(ONE, a_head("GET", path, upgrade="WebSocket", connection="Upgrade"), None)
    assert isinstance(answer, Answer)
    assert answer.status == 426
    assert dict(answer.headers)[b"upgrade"] == b"HTTP/1.1"
    assert "server-sent events" in error_of(answer)["message"]


def test_an_upgrade_to_http_2_is_not_taken_up() -> None:
    assert route_of(ONE, a_head("GET", "/health", upgrade="h2c"), None) == Here(Place.HEALTH)


@pytest.mark.parametrize(
    ("method", "path", "public"),
    [
        ("GET", "/", True),
        ("HEAD", "/health", True),
        ("GET", "/v1/health", True),
        ("GET", "/favicon.ico", False),
        ("GET", "/servers/qwen", True),
        ("GET", "/servers/qwen/", True),
        ("GET", "/servers/org%2Fmodel/_app/immutable/bundle.CheKa0wg.js", True),
        ("GET", "/servers/qwen/manifest.webmanifest", True),
        ("POST", "/servers/qwen/", False),
        ("GET", "/servers/nope/", False),
        ("GET", "/servers/qwen/props", False),
        ("GET", "/servers/qwen/%70rops", False),
        ("GET", "/servers/qwen//props", False),
        ("GET", "/servers/qwen/v1/models", False),
        ("GET", "/servers/qwen/v1%2Fmodels", False),
        ("GET", "/servers/qwen/v1/stream.js", False),
        ("GET", "/servers/qwen/slots/0.js", False),
        ("GET", "/servers/qwen/../v1/x.js", False),
        ("GET", "/servers/qwen/x/%2e%2e/props.js", False),
        ("GET", "/servers/qwen/tools", False),
        ("GET", "/servers/qwen/metrics", False),
        ("GET", "/metrics", False),
        ("GET", "/ready", False),
        ("GET", "/v1/models", False),
    ],
)
def test_only_the_web_ui_and_health_are_public(method: str, path: str, public: bool) -> None:  # noqa: FBT001
    assert is_public(TWO, a_head(method, path)) is public


def test_the_only_servers_page_is_public_at_the_root_too() -> None:
    assert is_public(ONE, a_head("GET", "/favicon.ico"))


@pytest.mark.parametrize(
    "fields",
    [
        {"args": {"path": "/srv"}},
        {"args": {"--path": "/srv"}},
        {"extra_args": ("--path", "/srv")},
        {"extra_args": ("--path=/srv",)},
        {"env": {"LLAMA_ARG_STATIC_PATH": "/srv"}},
    ],
)
def test_a_folder_of_the_operators_is_not_public(fields: dict[str, Any]) -> None:
    names = Names(servers("one", **fields))
    for path in ("/servers/one/", "/servers/one/x.js", "/x.js"):
        assert not is_public(names, a_head("GET", path))
    assert is_public(names, a_head("GET", "/"))
