"""The fake llama-server's life: start, load, serve, end."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import _thread
import os
import sys
import time

from tests.fakes import options, slots
from tests.fakes.mood import (
    die,
    die_if,
    eat,
    escaped,
    flood,
    log,
    note_start,
    number,
    raw,
    seconds_to_live,
    setting,
    srv,
)
from tests.fakes.routes import State, route
from tests.fakes.wire import serve

_NO_GPU = (
    b"warning: no usable GPU found, --gpu-layers option will be ignored\n"
    b"warning: one possible reason is that llama.cpp was compiled without GPU support\n"
    b"warning: consult docs/build.md for compilation instructions\n"
)
_HEADER = 24


def main() -> None:
    """Live."""
    note_start(sys.argv[1:])
    options.parse(sys.argv[1:])
    _first_words()
    if setting("IGNORE_TERM"):
        _signal.signal(_signal.SIGTERM, _signal.SIG_IGN)
    if setting("EAT"):
        _signal.signal(_signal.SIGUSR1, eat)
    if setting("GRANDCHILD"):
        _grandchild()
    die_if("start")
    _read_keys()
    slots.prepare()
    server, address = _listen()
    _thread.start_new_thread(_accept, (server,))
    _load()
    die_if("load")
    State.ready = True
    slots.wake()
    srv("I", "llama_server", "model loaded")
    if not setting("IGNORE_TERM"):
        _signal.signal(_signal.SIGTERM, _terminated)
    _signal.signal(_signal.SIGINT, _terminated)
    srv("I", "llama_server", f"listening on {address}")
    _be_ready()


def _first_words() -> None:
    raw(escaped(setting("LOG")))
    if setting("LONG_LINE"):
        raw(b"x" * int(number("LONG_LINE")) + b"\n")
    if setting("NO_GPU"):
        raw(_NO_GPU)


def _grandchild() -> None:
    if os.fork() == 0:
        if setting("GRANDCHILD") == "setsid":
            os.setsid()
        _signal.alarm(60)
        srv("I", "grandchild", f"pid {os.getpid()}")
        while True:
            _signal.pause()


def _read_keys() -> None:
    State.keys.extend(one for one in options.values.get("--api-key", "").split(",") if one)
    if options.values.get("--api-key-file"):
        fd = os.open(options.values["--api-key-file"], os.O_RDONLY)
        State.keys.extend(os.read(fd, 65536).decode().split())
        os.close(fd)


def _listen() -> tuple[_socket.socket, str]:
    host, port = options.values.get("--host", "127.0.0.1"), int(options.values.get("--port", "8080"))
    unix = host.endswith(".sock")
    server = _socket.socket(_socket.AF_UNIX if unix else _socket.AF_INET6 if ":" in host else _socket.AF_INET)
    server.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    if options.values.get("--reuse-port"):
        server.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEPORT, 1)
    try:
        server.bind(host if unix else (host, port))
    except OSError:
        srv("E", "start", f"couldn't bind HTTP server socket, hostname: {host}, port: {port}")
        srv("I", "operator()", "operator(): cleaning up before exit...")
        srv("E", "llama_server", "exiting due to HTTP server error")
        os._exit(1)
    server.listen(512)
    return server, f"unix://{host}" if unix else f"http://{host}:{server.getsockname()[1]}"


def _accept(server: _socket.socket) -> None:
    while True:
        try:
            fd, _ = server._accept()  # type: ignore[attr-defined]
        except OSError:
            time.sleep(0.01)  # out of file descriptors, perhaps
            continue
        _thread.start_new_thread(serve, (fd, route))


def _load() -> None:
    """Wait as asked, and look at the model as the real one does first."""
    path = options.values.get("--model", "")
    if path:
        srv("I", "load_model", f"loading model '{path}'")
    began, next_line = time.monotonic(), 0.0
    while _still_loading(began):
        if setting("LOAD_LINES") and time.monotonic() >= next_line:
            log("I", "load_tensors: loading model tensors, this can take a while... (load_mode = mmap)")
            next_line = time.monotonic() + number("LOAD_LINES")
        time.sleep(0.002)
    wrong = _what_is_wrong(path) if path else ""
    if not wrong:
        return
    log("E", wrong)
    log("E", f"llama_model_load: error loading model: llama_model_loader: failed to load model from {path}")
    log("E", "llama_model_load_from_file_impl: failed to load model")
    log("E", f"cmn  common_init_: failed to load model '{path}'")
    srv("E", "load_model", f"failed to load model, '{path}'")
    srv("I", "operator()", "operator(): cleaning up before exit...")
    srv("E", "llama_server", "exiting due to model loading error")
    os._exit(1)


def _still_loading(began: float) -> bool:
    if time.monotonic() - began < number("LOAD_S"):
        return True
    return bool(setting("LOAD_FILE")) and not os.path.exists(setting("LOAD_FILE"))


def _what_is_wrong(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY)
        magic = os.read(fd, _HEADER)
        os.close(fd)
    except OSError as error:
        return f"gguf_init_from_file: failed to open GGUF file '{path}' ({os.strerror(error.errno or 0)})"
    if len(magic) < 4:
        return "gguf_init_from_reader: failed to read magic"
    if magic[:4] != b"GGUF":
        shown = "".join(chr(one) if 32 <= one < 127 else "?" for one in magic[:4])
        return f"gguf_init_from_reader: invalid magic characters: '{shown}', expected 'GGUF'"
    return "gguf_init_from_reader: failed to read header" if len(magic) < _HEADER else ""


def _terminated(_signum: int, _frame: object) -> None:
    time.sleep(number("TERM_S"))
    srv("I", "operator()", "operator(): cleaning up before exit...")
    os._exit(0)


def _be_ready() -> None:
    for i in range(int(number("FLOOD_ONCE"))):
        srv("I", "flood", f"line {i}")
    if setting("FLOOD"):
        _thread.start_new_thread(flood, ())
    if setting("CLOSE_OUTPUT"):
        os.close(1)
        os.close(2)
    seconds = seconds_to_live()
    if seconds is not None:
        time.sleep(seconds)
        die()
    while True:
        _signal.pause()
