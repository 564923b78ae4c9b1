"""The form of llama-server's log lines."""

import logging

import pytest

from llamad.servers.loglines import client_hint, line_level, needs_nobody, ready_hint


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("0.00.006.794 I srv    load_model: loading model", logging.INFO),
        ("12.59.006.794 W srv          init: security", logging.WARNING),
        ("0.00.006.794 E error", logging.ERROR),
        ("0.00.006.794 D que    start_loop: waiting", logging.DEBUG),
        ("W srv  x: no time stamp", logging.WARNING),
        ("E ROCm error: out of memory", logging.ERROR),
        ("I srv    load_model: loading model", logging.INFO),
        ("I llama_model_loader: - kv   0", logging.INFO),
        ("I   - CUDA0", logging.INFO),
        ("I ", logging.INFO),
        ("0.00.006.794 I will say so", logging.INFO),
        ("I will crash now", None),
        ("E", None),
        ('{"type":"log","time":3,"level":"warn","msg":"x"}', logging.WARNING),
        ("error: invalid argument: --foo", logging.ERROR),
        ("warning: no usable GPU found", logging.WARNING),
        ("warn: LLAMA_ARG_HOST environment variable is set", logging.WARNING),
        ("DEPRECATED: argument '-x' specified multiple times", logging.WARNING),
        ("terminate called after throwing an instance of 'x'", logging.ERROR),
        ("  what():  x", logging.ERROR),
        ("/b/ggml.c:3: GGML_ASSERT(x) failed", logging.ERROR),
        ("....................", None),
        ("usage:", None),
        ("Istanbul", None),
        ("", None),
    ],
)
def test_the_level_of_a_line(line: str, level: int | None) -> None:
    assert line_level(line) == level


@pytest.mark.parametrize(
    ("line", "ready"),
    [
        ("0.00.441.479 I srv  llama_server: model loaded", True),
        ("0.00.441.481 I srv  llama_server: listening on unix:///run/a.sock", True),
        ("main: server is listening on http://127.0.0.1:9000 - starting the main loop", True),
        ("0.00.002.568 I srv    load_model: loading model '/m/a.gguf'", False),
    ],
)
def test_a_line_that_says_ready(line: str, *, ready: bool) -> None:
    assert ready_hint(line) == ready


@pytest.mark.parametrize(
    ("line", "client"),
    [
        ("0.00.441.479 I srv  llama_server: model loaded", True),
        ("0.00.441.481 I srv  llama_server: listening on http://0.0.0.0:80", True),
        ("0.00.1 D srv  log_server_r: done request: GET /health 10.0.0.1 503", True),
        ("0.00.002.568 I srv    load_model: loading model '/m/a.gguf'", False),
        ('INFO [      log_server_request] request | tid="139" timestamp=17 status=503 method="GET" path="/x"', True),
        ('{"level":"INFO","function":"log_server_request","line":2,"msg":"request","path":"/x"}', True),
    ],
)
def test_from_which_line_on_clients_may_write(line: str, *, client: bool) -> None:
    assert client_hint(line) == client


KEYS = "0.00.002.286 W srv  init: security: no API key is set and CORS allows all origins (see https://github.com/x/1)"


@pytest.mark.parametrize(
    ("line", "private", "nobody"),
    [
        (KEYS, True, True),
        (KEYS, False, False),
        ("W srv    load_model: prompt cache is enabled, size limit: 8192 MiB", False, True),
        ("W srv    load_model: use `--cache-ram 0` to disable the prompt cache", False, True),
        ("W srv    load_model: for more info see https://github.com/ggml-org/llama.cpp/pull/16391", False, True),
        ("W llama_context: n_ctx_seq (512) < n_ctx_train (2048) -- the full capacity of the model will not be utilized",
         False, True),
        ("W load: special_eos_id is not in special_eog_ids - the tokenizer config may be incorrect", False, True),
        ("warning: failed to mlock 81920-byte buffer", True, False),
        ("W llama_context: n_ctx_seq (9) > n_ctx_train (8) -- possible training context overflow", True, False),
    ],
)  # fmt: skip
def test_which_warnings_of_a_start_need_nobody(line: str, *, private: bool, nobody: bool) -> None:
    assert needs_nobody(line, private=private) == nobody
