"""What llamad relies on of llama-server, checked on the fake and on the real engine: this keeps the fake honest."""

import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from llamad.config.options import parse_help
from llamad.host.address import TcpAddress
from llamad.servers.diagnosis import Exit, LastLines, diagnose, is_unexplained
from llamad.servers.inspection import examine
from llamad.servers.loglines import line_level, ready_hint
from llamad.servers.models import served
from tests import client_words
from tests.builders import a_launch, gguf
from tests.contract.server import Engine, Server, free_port
from tests.waiting import wait_until

CHAT = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4, "temperature": 0}


def has(found: Any, **shape: type | tuple[type, ...]) -> bool:
    """Whether `found` has these keys, each with a value of that type."""
    return all(key in found and isinstance(found[key], kind) for key, kind in shape.items())


# --- while it loads


def test_health_says_loading_and_then_ok(engine: Engine) -> None:
    with Server(engine, env=engine.slow, wait=False) as one:
        answers = one.statuses_until_ready()
    loading, ready = answers[0], answers[-1]
    assert loading.status == 503
    assert loading.json == {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
    assert ready.body == b'{"status":"ok"}'
    assert ready.headers["Content-Type"] == "application/json; charset=utf-8"
    assert {one.status for one in answers} == {503, 200}


def test_sigterm_while_loading_ends_it_by_that_signal(engine: Engine) -> None:
    with Server(engine, env=engine.slow, wait=False) as one:
        while not one.socket.exists():
            assert one.process.poll() is None
        assert one.end() == -signal.SIGTERM


# --- once it is ready


def test_health_is_public_and_short(server: Server) -> None:
    assert server.get("/health").json == server.get("/v1/health").json == {"status": "ok"}
    assert server.ask("HEAD", "/health").body == b""


def test_slots_idle_and_busy(server: Server) -> None:
    idle = server.wait_until("idle", "/slots", lambda slots: not any(slot["is_processing"] for slot in slots))
    assert [slot["id"] for slot in idle] == [0, 1]
    assert all(has(slot, n_ctx=int, is_processing=bool, speculative=bool) for slot in idle)
    events = server.events("/v1/chat/completions", {**CHAT, "stream": True, "max_tokens": 400})
    next(events)
    slots = server.wait_until("busy", "/slots", lambda slots: any(slot["is_processing"] for slot in slots))
    (busy,) = [slot for slot in slots if slot["is_processing"]]
    assert has(busy, id_task=int, n_prompt_tokens=int, n_prompt_tokens_processed=int, next_token=list)
    assert has(busy["next_token"][0], n_decoded=int, n_remain=int, has_next_token=bool)
    began = busy["next_token"][0]["n_decoded"]
    server.wait_until("progress", "/slots", lambda slots: slots[busy["id"]]["next_token"][0]["n_decoded"] > began)
    events.close()  # type: ignore[attr-defined]
    server.wait_until("freed", "/slots", lambda slots: not any(slot["is_processing"] for slot in slots))


def test_two_at_once(server: Server) -> None:
    streams = [server.events("/v1/chat/completions", {**CHAT, "stream": True, "max_tokens": 400}) for _ in range(2)]
    for stream in streams:
        next(stream)
    server.wait_until("both busy", "/slots", lambda slots: all(slot["is_processing"] for slot in slots))
    for stream in streams:
        stream.close()  # type: ignore[attr-defined]


def test_props(server: Server, engine: Engine) -> None:
    props = server.get("/props").json
    assert has(props, total_slots=int, model_alias=str, model_path=str, model_ftype=str, modalities=dict)
    assert has(props, default_generation_settings=dict, chat_template=str, build_info=str, is_sleeping=bool)
    assert has(props, endpoint_slots=bool, endpoint_props=bool, endpoint_metrics=bool)
    assert props["model_path"] == str(engine.model)
    assert props["default_generation_settings"]["n_ctx"] == 512
    assert props["total_slots"] == 2


def test_models(server: Server) -> None:
    models = server.get("/v1/models").json
    assert models == server.get("/models").json
    (one,) = models["data"]
    assert has(one, id=str, aliases=list, object=str, created=int, owned_by=str, meta=dict)
    assert has(one["meta"], n_ctx=int, n_ctx_train=int, n_params=int, size=int, n_vocab=int)
    assert models["object"] == "list"


def test_what_it_serves_is_understood(server: Server, engine: Engine) -> None:
    found = served(server.get("/v1/models").json, server.get("/props").json)
    assert found is not None
    assert (found.context, found.slots, found.path) == (512, 2, str(engine.model))
    assert found.names


def test_an_alias_is_its_name(engine: Engine) -> None:
    with Server(engine, "--alias", "qwen") as one:
        assert one.get("/v1/models").json["data"][0]["id"] == "qwen"
        assert one.ask("POST", "/v1/chat/completions", CHAT).json["model"] == "qwen"


def test_chat(server: Server) -> None:
    answer = server.ask("POST", "/v1/chat/completions", CHAT)
    assert answer.status == 200
    found = answer.json
    assert has(found, id=str, object=str, created=int, model=str, system_fingerprint=str, usage=dict, timings=dict)
    assert found["object"] == "chat.completion"
    (choice,) = found["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["role"] == "assistant"
    assert isinstance(choice["message"]["content"], str)
    assert found["usage"]["completion_tokens"] == 4
    assert found["usage"]["total_tokens"] == 4 + found["usage"]["prompt_tokens"]
    assert has(found["timings"], prompt_n=int, predicted_n=int, predicted_per_second=(int, float))


def test_a_chat_stream(server: Server) -> None:
    events = list(server.events("/v1/chat/completions", {**CHAT, "stream": True}))
    assert events[-1] == "[DONE]"
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": None}
    assert all(event["object"] == "chat.completion.chunk" for event in events[:-1])
    assert len({event["id"] for event in events[:-1]}) == 1
    assert events[-2]["choices"][0]["finish_reason"] == "length"
    assert events[-2]["timings"]["predicted_n"] == 4
    assert not any("usage" in event for event in events[:-1])


def test_a_chat_stream_with_usage(server: Server) -> None:
    body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    *_, last, done = server.events("/v1/chat/completions", body)
    assert done == "[DONE]"
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 4
    assert has(last, timings=dict)


def test_other_completions(server: Server) -> None:
    found = server.ask("POST", "/v1/completions", {"prompt": "Once", "max_tokens": 3}).json
    assert found["object"] == "text_completion"
    assert isinstance(found["choices"][0]["text"], str)
    found = server.ask("POST", "/completion", {"prompt": "Once", "n_predict": 3}).json
    assert has(found, content=str, stop=bool, tokens_predicted=int, tokens_evaluated=int, timings=dict)
    assert found["tokens_predicted"] == 3
    events = list(server.events("/completion", {"prompt": "Once", "n_predict": 3, "stream": True}))
    assert [event["stop"] for event in events] == [False] * (len(events) - 1) + [True]


def test_tokenize(server: Server) -> None:
    tokens = server.ask("POST", "/tokenize", {"content": "hello world"}).json["tokens"]
    assert [type(one) for one in tokens] == [int, int]


@pytest.mark.parametrize(("path", "option"), [("/metrics", "--metrics"), ("/v1/embeddings", "--embeddings")])
def test_what_has_to_be_switched_on(server: Server, path: str, option: str) -> None:
    answer = server.get(path) if path == "/metrics" else server.ask("POST", path, {"input": "x"})
    assert answer.status == 501
    error = answer.json["error"]
    assert (error["code"], error["type"]) == (501, "not_supported_error")
    assert f"Start it with `{option}`" in error["message"]


def test_metrics_when_switched_on(engine: Engine) -> None:
    with Server(engine, "--metrics") as one:
        answer = one.get("/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4"
    assert b"# TYPE llamacpp:prompt_tokens_total counter\nllamacpp:prompt_tokens_total " in answer.body
    assert b"llamacpp:requests_processing 0" in answer.body


def test_slots_when_switched_off(engine: Engine) -> None:
    with Server(engine, "--no-slots") as one:
        answer = one.get("/slots")
    assert answer.status == 501
    assert answer.json["error"]["message"] == "This server does not support slots endpoint. Start it with `--slots`"


def test_errors(server: Server) -> None:
    missing = server.get("/nothing")
    assert missing.status == 404
    assert missing.json == {"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}}
    for body in (b"{not json", b'{"messages": 3}'):
        broken = server.ask("POST", "/v1/chat/completions", body)
        assert broken.status == 400
        assert broken.json["error"]["type"] == "invalid_request_error"
        assert isinstance(broken.json["error"]["message"], str)


def test_an_api_key_is_asked_for_everywhere_but_health(engine: Engine) -> None:
    with Server(engine, env={"LLAMA_API_KEY": "secret"}) as one:
        assert one.get("/health").status == 200
        for path in ("/slots", "/props", "/v1/models", "/metrics"):
            refused = one.get(path)
            assert refused.status == 401
            assert refused.json == {
                "error": {"code": 401, "message": "Invalid API Key", "type": "authentication_error"}
            }
        assert one.ask("GET", "/slots", headers={"Authorization": "Bearer secret"}).status == 200
        assert one.ask("GET", "/slots", headers={"X-Api-Key": "secret"}).status == 200
        assert "secret" not in one.log.read_text()


# --- HTTP


def test_a_connection_serves_a_hundred_requests(server: Server) -> None:
    with server.connection() as connection:
        for number in range(1, 101):
            connection.request("GET", "/health")
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
            if number < 100:
                assert answer.getheader("Keep-Alive") is not None
                assert answer.getheader("Connection") in (None, "keep-alive", "Keep-Alive")
        assert answer.getheader("Connection") == "close"


def test_a_client_may_ask_to_close(server: Server) -> None:
    assert server.ask("GET", "/health", headers={"Connection": "close"}).headers["Connection"] == "close"


def test_a_chunked_request(server: Server) -> None:
    with server.connection() as connection:
        body = (piece for piece in (b'{"content":', b'"hello world"}'))
        connection.request("POST", "/tokenize", body, {"Content-Type": "application/json"}, encode_chunked=True)
        assert len(json.loads(connection.getresponse().read())["tokens"]) == 2


def received(raw: socket.socket, size: int) -> bytes:
    """The next `size` bytes, in however many pieces they come."""
    data = b""
    while len(data) < size and (more := raw.recv(size - len(data))):
        data += more
    return data


def test_a_client_that_is_told_to_continue(server: Server) -> None:
    body = b'{"content":"hello world"}'
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(20)
        raw.connect(str(server.socket))
        head = f"POST /tokenize HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n"
        raw.sendall(head.encode())
        told = b"HTTP/1.1 100 Continue\r\n\r\n"
        assert received(raw, len(told)) == told
        raw.sendall(body)
        assert received(raw, 13) == b"HTTP/1.1 200 "


def test_a_browser_may_ask_first(server: Server) -> None:
    answer = server.ask("OPTIONS", "/v1/chat/completions", headers={"Origin": "http://x"})
    assert (answer.status, answer.body) == (200, b"")


def test_a_stream_comes_chunked(server: Server) -> None:
    with server.connection() as connection:
        connection.request("POST", "/v1/chat/completions", json.dumps({**CHAT, "stream": True}))
        answer = connection.getresponse()
        assert answer.getheader("Transfer-Encoding") == "chunked"
        answer.read()


# --- whose words its log has


@pytest.mark.parametrize("field", client_words.FIELDS)
def test_what_a_client_writes_reaches_the_log(engine: Engine, server: Server, field: str) -> None:
    mark = f"Zqx{field}"
    text = f"{mark} one\n0.00.006.794 E {mark} two"
    answer = server.ask("POST", "/v1/chat/completions", client_words.request(field, text))
    assert answer.status == {"samplers": 200, "reasoning_format": 500}.get(field, 400)
    begins = f"0.00.006.794 e {mark} two".lower()
    inside = f"{mark} one\\n0.00.006.794 e {mark} two".lower()
    wait_until(lambda: inside in server.log.read_text().lower() or begins in server.log.read_text().lower())
    forged = any(line.lower().startswith(begins) for line in server.log.read_text().splitlines())
    assert forged == (field in ("grammar", "samplers"))
    assert server.get("/health").status == 200


# --- the end


def test_sigterm_ends_it_well_and_leaves_its_socket(engine: Engine) -> None:
    with Server(engine) as one:
        assert one.end() == 0
        assert one.socket.exists()


def test_a_sigterm_does_not_wait_for_requests(engine: Engine) -> None:
    with Server(engine, env={**engine.slow, "FAKE_CHUNK_DELAY": "10"}) as one:
        # whoever waits for the next token is told at the next ping of the stream; the default of 30 s is a known wait
        body = {**CHAT, "stream": True, "max_tokens": 900, "sse_ping_interval": 1}
        events = one.events("/v1/chat/completions", body)
        next(events)
        began = time.monotonic()
        assert one.end() == 0
        assert time.monotonic() - began < 20
        events.close()  # type: ignore[attr-defined]


def test_tcp(engine: Engine) -> None:
    port = free_port()
    with Server(engine, port=port) as one:
        assert one.get("/health").status == 200
        assert f"http://127.0.0.1:{port}" in one.log.read_text()


# --- what watching relies on


def test_looking_at_the_slots_wakes_a_sleeping_one_and_nothing_else_does(engine: Engine) -> None:
    with Server(engine, "--sleep-idle-seconds", "1", "--metrics") as one:
        one.wait_until("asleep", "/props", lambda props: props["is_sleeping"])
        for path in ("/health", "/props", "/v1/models", "/metrics"):
            assert one.get(path).status == 200
            assert one.get("/props").json["is_sleeping"], path
        assert one.get("/slots").status == 200
        assert not one.get("/props").json["is_sleeping"]
        one.wait_until("asleep again", "/props", lambda props: props["is_sleeping"])
        assert one.ask("POST", "/v1/chat/completions", CHAT).status == 200
        assert not one.get("/props").json["is_sleeping"]


def test_a_prompt_moves_its_counters_batch_by_batch_and_uses_the_processor_all_along(engine: Engine) -> None:
    words = " ".join(f"word{number}" for number in range(250))
    slow = {"FAKE_BATCHES": "3", "FAKE_BATCH_S": "0.2"}
    options = ("--parallel", "1", "--threads", "1", "--batch-size", "256", "--ctx-size", "2048")
    with Server(engine, *options, env=slow) as one:
        before = cpu_seconds(one.process.pid)
        with one.connection() as connection:
            body = {"messages": [{"role": "user", "content": words}], "max_tokens": 1}
            connection.request("POST", "/v1/chat/completions", json.dumps(body))
            seen: set[int] = set()

            def is_over(slots: Any) -> bool:
                (slot,) = slots
                seen.add(slot.get("n_prompt_tokens_processed", 0) if slot["is_processing"] else 0)
                return len(seen) > 2 and not slot["is_processing"]

            one.wait_until("over", "/slots", is_over)
            assert connection.getresponse().status == 200
        assert len(seen) <= 8, "one step a batch, not one a token"
        assert cpu_seconds(one.process.pid) - before > 0.1


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def test_a_conversation_goes_on_after_its_client_left(engine: Engine) -> None:
    with Server(engine, "--parallel", "1", env={**engine.slow, "FAKE_CHUNK_DELAY": "0.05"}) as one:
        body = json.dumps({**CHAT, "stream": True, "max_tokens": 400, "ignore_eos": True})
        with one.connection() as connection:
            headers = {"Content-Type": "application/json", "X-Conversation-Id": "c1"}
            connection.request("POST", "/v1/chat/completions", body, headers)
            connection.getresponse().read(1)
            connection.sock.close()
        time.sleep(2)  # one that is no conversation has ended by then
        (slot,) = one.get("/slots").json
        assert slot["is_processing"]


def test_one_token_for_llamad_itself(server: Server) -> None:
    """What llamad asks to know whether a doubtful server still works."""
    answer = server.ask("POST", "/completion", {"prompt": "a", "n_predict": 1, "cache_prompt": False})
    assert answer.status == 200
    assert answer.json["tokens_predicted"] == 1


def test_what_it_logs(engine: Engine) -> None:
    with Server(engine) as one:
        lines = one.log.read_text().splitlines()
    assert any(ready_hint(line) for line in lines)
    assert all(line_level(line) is not None for line in lines)
    assert any(f"loading model '{engine.model}'" in line for line in lines)


# --- what goes wrong at the start


TRIES = 10
"""Of an end whose last lines are missing: llama.cpp's logger is a thread, and is not always waited for."""


def cause_of(
    engine: Engine, *args: str, model: Path | None = None, port: int | None = None, says: str = ""
) -> tuple[int, str, list[str]]:
    """Exit code, cause and last lines of a start that fails. The cause has to be found whatever is missing; the start
    is tried again until the lines hold `says`.
    """
    address = TcpAddress("127.0.0.1", port or free_port())
    given = () if model is None else ("--model", str(model))
    for _ in range(TRIES):
        done = engine.run(*given, "--host", address.host, "--port", str(address.port), *args)
        lines = (done.stdout + done.stderr).splitlines()
        failure = diagnose(Exit(done.returncode), LastLines(lines))
        if is_unexplained(failure):
            launch = a_launch(binary=engine.binary, model=model)
            failure = examine(launch, address, os.environ) or failure
        if any(line.endswith(says) for line in lines):
            return done.returncode, failure.cause, lines
        assert failure.cause in ("model-missing", "model-corrupt", "port-taken"), lines
    raise AssertionError(f"it never says {says!r}: {lines}")


def test_an_unknown_option(engine: Engine) -> None:
    code, cause, lines = cause_of(engine, "--foo-bar", "3")
    assert (code, cause) == (1, "unknown-option")
    assert "error: invalid argument: --foo-bar" in lines


@pytest.mark.parametrize(
    "args",
    [("--ctx-size", "many"), ("--flash-attn", "maybe"), ("--port",)],
)
def test_a_bad_value(engine: Engine, args: tuple[str, ...]) -> None:
    code, cause, lines = cause_of(engine, *args)
    assert code == 1
    if args == ("--port",):  # said without the option's name, by both
        assert any("expected value for argument" in line for line in lines)
    else:
        assert cause == "bad-option-value"
        assert any(line.startswith(f'error while handling argument "{args[0]}": ') for line in lines)
        assert "to show complete usage, run with -h" in lines


def test_options_with_underscores(engine: Engine) -> None:
    with Server(engine, "--batch_size", "64") as one:
        assert one.get("/health").status == 200


def test_a_missing_model(engine: Engine, tmp_path: Path) -> None:
    message = f"gguf_init_from_file: failed to open GGUF file '{tmp_path}/not there.gguf' (No such file or directory)"
    code, cause, _ = cause_of(engine, model=tmp_path / "not there.gguf", says=message)
    assert (code, cause) == (1, "model-missing")
    cause_of(engine, model=tmp_path / "not there.gguf", says="exiting due to model loading error")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"not a model at all, but long enough", "invalid magic characters: 'not ', expected 'GGUF'"),
        (b"", "failed to read magic"),
        (gguf()[:16], "failed to read header"),
    ],
)
def test_a_corrupt_model(engine: Engine, tmp_path: Path, content: bytes, says: str) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(content)
    code, cause, _ = cause_of(engine, model=model, says=says)
    assert (code, cause) == (1, "model-corrupt")


def test_a_port_that_is_taken(engine: Engine) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        says = f"couldn't bind HTTP server socket, hostname: 127.0.0.1, port: {port}"
        code, cause, _ = cause_of(engine, model=engine.model, port=port, says=says)
    assert (code, cause) == (1, "port-taken")


def test_its_list_of_devices(engine: Engine) -> None:
    done = engine.run("--list-devices")
    title, *devices = done.stdout.splitlines()
    assert (done.returncode, title) == (0, "Available devices:")
    assert [line.strip() for line in devices] == ["(none)"] or all(": " in line for line in devices)
    assert devices


def test_its_help(engine: Engine) -> None:
    done = engine.run("--help")
    assert done.returncode == 0
    table = parse_help(done.stdout)
    for name in ("ctx-size", "n_gpu_layers", "flash-attn", "host", "metrics", "jinja", "api-key"):
        assert table.find(name) is not None, name
    flash = table.find("flash-attn")
    assert flash is not None
    assert flash.choices == ("on", "off", "auto")
