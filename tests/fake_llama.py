#!/usr/bin/env -S python3 -IS
"""A small llama-server that misbehaves by environment. Standard library only, few imports: it starts in some 15 ms.

It takes the options its `--help` names, answers as the real one does (tests/contract holds it to that), and prints log
lines in the real form. `tests.builders.fake_binary` makes a program of it. What goes wrong is said by FAKE_* variables:

start and load
  FAKE_LOAD_S=0.5          loading takes this long; FAKE_LOAD_FILE=PATH: until that file exists
  FAKE_LOAD_LINES=0.1      a log line every so many seconds while it loads
  FAKE_LOG=TEXT            printed first, with escapes: `\\xff`, `\\n` (partial lines, invalid UTF-8, anything)
  FAKE_LONG_LINE=N         one line of N bytes
  FAKE_NO_GPU=1            the warning of a build or host without GPU
  FAKE_STARTS=PATH         a line is added to this file at every start: pid, then the arguments
  FAKE_HELP_FILE=PATH      the help (and so the options) of another build
ending
  FAKE_DIE=WHEN            start | load | ready:SECONDS | requests:N | chunks:N (in the middle of a stream)
  FAKE_BAD_STARTS=N        FAKE_DIE holds for the first N starts only (counted in FAKE_STARTS)
  FAKE_EXIT_CODE=N, FAKE_SIGNAL=N   how it ends; default: exit code 1
  FAKE_EXIT_LINES=TEXT     its last words; FAKE_FAIL=NAME: those of a real failure (see FAILURES; implies FAKE_DIE=load)
  FAKE_IGNORE_TERM=1       SIGTERM does nothing; FAKE_TERM_S=2: it takes this long to obey
  FAKE_GRANDCHILD=1        leaves a process that holds its pipes; =setsid: in a session of its own
while it runs
  FAKE_HANG=WHAT           comma-separated: all (no request is answered), health, slots, decode (a request never
                           ends, its slot's counts stand still); FAKE_HANG_FILE=PATH: only while that file exists
  FAKE_FLOOD=N             log lines a second; FAKE_FLOOD_ONCE=N: that many at once, when ready
  FAKE_CLOSE_OUTPUT=1      closes stdout and stderr when ready
  FAKE_CHUNKS=N, FAKE_CHUNK_DELAY=S   tokens of an answer (4), seconds between them (0)
  FAKE_DELAY=S             seconds before the first byte of an answer
  FAKE_STATUS=500          what every completion is answered with
  FAKE_KEEPALIVE=N, FAKE_KEEPALIVE_S=S   requests a connection serves (100), seconds it may idle (5)
"""

import _signal
import _socket
import _thread
import os
import sys
import time

HELP = """\
----- common params -----

-h,    --help, --usage                  print usage and exit
--version                               show version and build info
--license                               show source code license and dependencies
-cl,   --cache-list                     show list of models in cache
--completion-bash                       print source-able bash completion script for llama.cpp
-t,    --threads N                      number of CPU threads to use during generation (default: -1)
                                        (env: LLAMA_ARG_THREADS)
-c,    --ctx-size N                     size of the prompt context (default: 0, 0 = loaded from model)
                                        (env: LLAMA_ARG_CTX_SIZE)
-n,    --predict, --n-predict N         number of tokens to predict (default: -1, -1 = infinity)
                                        (env: LLAMA_ARG_N_PREDICT)
-b,    --batch-size N                   logical maximum batch size (default: 2048)
                                        (env: LLAMA_ARG_BATCH)
-ub,   --ubatch-size N                  physical maximum batch size (default: 512)
                                        (env: LLAMA_ARG_UBATCH)
-fa,   --flash-attn [on|off|auto]       set Flash Attention use ('on', 'off', or 'auto', default: 'auto')
                                        (env: LLAMA_ARG_FLASH_ATTN)
--rope-scaling {none,linear,yarn}       RoPE frequency scaling method, defaults to linear unless specified by
                                        the model
                                        (env: LLAMA_ARG_ROPE_SCALING_TYPE)
--rope-freq-base N                      RoPE base frequency, used by NTK-aware scaling (default: loaded from
                                        model)
                                        (env: LLAMA_ARG_ROPE_FREQ_BASE)
-ctk,  --cache-type-k TYPE              KV cache data type for K
                                        allowed values: f32, f16, bf16, q8_0, q4_0, q4_1, iq4_nl, q5_0, q5_1
                                        (default: f16)
                                        (env: LLAMA_ARG_CACHE_TYPE_K)
-np,   --parallel N                     number of server slots (default: -1, -1 = auto)
                                        (env: LLAMA_ARG_N_PARALLEL)
--mlock                                 DEPRECATED in favor of `--load-mode`: force system to keep model in
                                        RAM rather than swapping or compressing
                                        (env: LLAMA_ARG_MLOCK)
--mmap, --no-mmap                       DEPRECATED in favor of `--load-mode`: whether to memory-map model.
                                        (if mmap disabled, slower load but may reduce pageouts if not using
                                        mlock)
                                        (env: LLAMA_ARG_MMAP)
--numa TYPE                             attempt optimizations that help on some NUMA systems
                                        (env: LLAMA_ARG_NUMA)
-dev,  --device <dev1,dev2,..>          comma-separated list of devices to use for offloading (none = don't
                                        offload)
                                        use --list-devices to see a list of available devices
                                        (env: LLAMA_ARG_DEVICE)
--list-devices                          print list of available devices and exit
-ngl,  --gpu-layers, --n-gpu-layers N   max. number of layers to store in VRAM, either an exact number,
                                        'auto', or 'all' (default: auto)
                                        (env: LLAMA_ARG_N_GPU_LAYERS)
-sm,   --split-mode {none,layer,row,tensor}
                                        how to split the model across multiple GPUs
                                        (env: LLAMA_ARG_SPLIT_MODE)
-mg,   --main-gpu INDEX                 the GPU to use for the model (with split-mode = none), or for
                                        intermediate results and KV (with split-mode = row) (default: 0)
                                        (env: LLAMA_ARG_MAIN_GPU)
--lora FNAME                            path to LoRA adapter (use comma-separated values to load multiple
                                        adapters)
-m,    --model FNAME                    model path to load
                                        (env: LLAMA_ARG_MODEL)
-hf,   -hfr, --hf-repo <user>/<model>[:quant]
                                        Hugging Face model repository; quant is optional, case-insensitive,
                                        default to Q4_K_M, or falls back to the first file in the repo if
                                        Q4_K_M doesn't exist.
                                        example: ggml-org/GLM-4.7-Flash-GGUF:Q4_K_M
                                        (default: unused)
                                        (env: LLAMA_ARG_HF_REPO)
-hft,  --hf-token TOKEN                 Hugging Face access token (default: value from HF_TOKEN environment
                                        variable)
                                        (env: HF_TOKEN)
--log-file FNAME                        Log to file
                                        (env: LLAMA_ARG_LOG_FILE)
--log-colors [on|off|auto]              Set colored logging ('on', 'off', or 'auto', default: 'auto')
                                        'auto' enables colors when output is to a terminal
                                        (env: LLAMA_ARG_LOG_COLORS)
-v,    --verbose, --log-verbose         Set verbosity level to infinity (i.e. log all messages, useful for
                                        debugging)
--offline                               Offline mode: forces use of cache, prevents network access
                                        (env: LLAMA_ARG_OFFLINE)
-lv,   --verbosity, --log-verbosity N   Set the verbosity threshold. Messages with a higher verbosity will be
                                        ignored.
                                        (env: LLAMA_ARG_LOG_VERBOSITY)


----- sampling params -----

-s,    --seed SEED                      RNG seed (default: -1, use random seed for -1)
--temp, --temperature N                 temperature (default: 0.80)
                                        (env: LLAMA_ARG_TEMP)
--top-k N                               top-k sampling (default: 40, 0 = disabled)
                                        (env: LLAMA_ARG_TOP_K)
-l,    --logit-bias TOKEN_ID(+/-)BIAS   modifies the likelihood of token appearing in the completion,
                                        i.e. `--logit-bias 15043+1` to increase likelihood of token ' Hello',
                                        or `--logit-bias 15043-1` to decrease likelihood of token ' Hello'


----- speculative params -----

-md,   --spec-draft-model, --model-draft FNAME
                                        draft model for speculative decoding (default: unused)
                                        (env: LLAMA_ARG_SPEC_DRAFT_MODEL)


----- example-specific params -----

-cb,   --cont-batching, -nocb, --no-cont-batching
                                        whether to enable continuous batching (a.k.a dynamic batching)
                                        (default: enabled)
                                        (env: LLAMA_ARG_CONT_BATCHING)
-mm,   --mmproj FILE                    path to a multimodal projector file. see tools/mtmd/README.md
                                        note: if -hf is used, this argument can be omitted
                                        (env: LLAMA_ARG_MMPROJ)
-a,    --alias STRING                   set model name aliases, comma-separated (to be used by API)
                                        (env: LLAMA_ARG_ALIAS)
--host HOST                             IP addresses to listen on, comma-separated, or UNIX socket paths
                                        ending in .sock (default: 127.0.0.1)
                                        (env: LLAMA_ARG_HOST)
--port PORT                             port to listen (default: 8080)
                                        (env: LLAMA_ARG_PORT)
--reuse-port                            allow multiple sockets to bind to the same port (default: disabled)
                                        (env: LLAMA_ARG_REUSE_PORT)
--ui, --webui, --no-ui, --no-webui      whether to enable the Web UI (default: enabled)
                                        (env: LLAMA_ARG_UI)
--embedding, --embeddings               restrict to only support embedding use case; use only with dedicated
                                        embedding models (default: disabled)
                                        (env: LLAMA_ARG_EMBEDDINGS)
--rerank, --reranking                   enable reranking endpoint on server (default: disabled)
                                        (env: LLAMA_ARG_RERANKING)
--api-key KEY                           API key to use for authentication, multiple keys can be provided as a
                                        comma-separated list (default: none)
                                        (env: LLAMA_API_KEY)
--api-key-file FNAME                    path to file containing API keys (default: none)
                                        (env: LLAMA_ARG_API_KEY_FILE)
-to,   --timeout N                      server read/write timeout in seconds (default: 3600)
                                        (env: LLAMA_ARG_TIMEOUT)
--threads-http N                        number of threads used to process HTTP requests (default: -1)
                                        (env: LLAMA_ARG_THREADS_HTTP)
--metrics                               enable prometheus compatible metrics endpoint (default: disabled)
                                        (env: LLAMA_ARG_ENDPOINT_METRICS)
--props                                 enable changing global properties via POST /props (default: disabled)
                                        (env: LLAMA_ARG_ENDPOINT_PROPS)
--slots, --no-slots                     expose slots monitoring endpoint (default: enabled)
                                        (env: LLAMA_ARG_ENDPOINT_SLOTS)
--slot-save-path PATH                   path to save slot kv cache (default: disabled)
--jinja, --no-jinja                     whether to use jinja template engine for chat (default: enabled)
                                        (env: LLAMA_ARG_JINJA)
--chat-template JINJA_TEMPLATE          set custom jinja chat template (default: template taken from model's
                                        metadata)
                                        (env: LLAMA_ARG_CHAT_TEMPLATE)
--chat-template-file JINJA_TEMPLATE_FILE
                                        set custom jinja chat template file (default: template taken from
                                        model's metadata)
                                        (env: LLAMA_ARG_CHAT_TEMPLATE_FILE)
--sleep-idle-seconds SECONDS            number of seconds of idleness after which the server will sleep
                                        (default: -1; -1 = disabled)
                                        (env: LLAMA_ARG_SLEEP_IDLE_SECONDS)
"""

FAILURES = {
    "cuda-oom": (
        1,
        "0.01.200.000 E ggml_backend_cuda_buffer_type_alloc_buffer: allocating 6144.00 MiB on device 0: "
        "cudaMalloc failed: out of memory\n"
        "0.01.200.100 E alloc_tensor_range: failed to allocate CUDA0 buffer of size 6442450944\n"
        "0.01.200.200 E llama_model_load: error loading model: unable to allocate CUDA0 buffer\n"
        "0.01.200.300 E llama_model_load_from_file_impl: failed to load model\n"
        "0.01.200.400 E common_init_from_params: failed to load model '{model}'\n"
        "0.01.200.500 E srv    load_model: failed to load model, '{model}'\n",
    ),
    "architecture": (
        1,
        "0.00.020.000 E llama_model_load: error loading model: unknown model architecture: 'quux'\n"
        "0.00.020.100 E llama_model_load_from_file_impl: failed to load model\n"
        "0.00.020.200 E srv    load_model: failed to load model, '{model}'\n",
    ),
    "no-cuda-library": (
        127,
        "llama-server: error while loading shared libraries: libcudart.so.12: cannot open shared object file: "
        "No such file or directory\n",
    ),
}
EMPTY_GGUF = b"GGUF\x03\0\0\0" + bytes(16)
ECHOED = ("/v1/messages", "/v1/responses", "/responses", "/rerank", "/v1/rerank", "/infill", "/detokenize")
ECHOED += ("/apply-template", "/v1/audio/transcriptions", "/lora-adapters", "/v1/stream", "/slots/")
JSON = "application/json; charset=utf-8"
BEGAN = time.time()
env = os.environ.get
options = {}
keys = []
counts = {"requests": 0, "tasks": 0, "waiting": 0}
state = {"ready": False}
slots = []
turns = []
lock = _thread.allocate_lock()


def number(name, default=0.0):
    return float(env(name) or default)


def raw(data, fd=2):
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        pass  # nobody reads any more: the real one does not mind either


def log(level, text):
    us = int((time.time() - BEGAN) * 1e6)
    stamp = f"{us // 60000000}.{us // 1000000 % 60:02}.{us // 1000 % 1000:03}.{us % 1000:03}"
    raw(f"{stamp} {level} {text}\n".encode(errors="surrogateescape"))


def srv(level, function, text):
    log(level, f"srv  {function:>12.12}: {text}")


def escaped(text):
    return text.encode("latin-1", "backslashreplace").decode("unicode_escape").encode("latin-1", "replace")


def fail(text):
    raw(f"{text}\n".encode(errors="surrogateescape"))
    os._exit(1)


# --- ending


def die():
    """End as FAKE_EXIT_CODE, FAKE_SIGNAL, FAKE_EXIT_LINES and FAKE_FAIL say."""
    code, words = FAILURES.get(env("FAKE_FAIL"), (1, ""))
    raw(words.format(model=options.get("--model", "")).encode())
    raw(escaped(env("FAKE_EXIT_LINES", "")))
    if env("FAKE_SIGNAL"):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _signal.signal(int(env("FAKE_SIGNAL")), _signal.SIG_DFL) if env("FAKE_SIGNAL") not in ("9", "19") else None
        os.kill(os.getpid(), int(env("FAKE_SIGNAL")))
        time.sleep(5)
    os._exit(int(env("FAKE_EXIT_CODE", str(code))))


def when():
    """(moment, number) of FAKE_DIE, or nothing where it does not hold for this start."""
    given = env("FAKE_DIE") or ("load" if env("FAKE_FAIL") else "")
    if state.get("starts", 0) > number("FAKE_BAD_STARTS", 1e9):
        given = ""
    moment, _, many = given.partition(":")
    return moment, float(many or 0)


def due(moment, many=0):
    wanted, at = when()
    if moment == wanted and many >= at:
        die()


def terminated(_signum, _frame):
    time.sleep(number("FAKE_TERM_S"))
    srv("I", "operator()", "operator(): cleaning up before exit...")
    os._exit(0)


# --- start


def option_table(text):
    """spelling -> (canonical long spelling, argument word or "", positive), and env name -> canonical."""
    table, names, name = {}, {}, ""
    for line in text.splitlines():
        if line.startswith("-") and not line.startswith("-----"):
            head = line[:37] if line[37:40] == "   " else line
            words = head.replace(",  ", ", ").split()
            spelled = [word.rstrip(",") for word in words if word.startswith("-")]
            word = " ".join(word for word in words if not word.startswith("-"))
            long = [one for one in spelled if one.startswith("--") and not one.startswith("--no-")]
            name = max(long, key=len)
            for one in spelled:
                table[one] = (name, word, not one.startswith(("--no-", "-no")))
        elif "(env: " in line:
            names[line.split("(env: ")[1].rstrip(")")] = name
    return table, names


def bad_value(spelling, what, word):
    fail(
        f'error while handling argument "{spelling}": {what}\n\nusage:\n{spelling} {word}\n\n\n'
        "to show complete usage, run with -h"
    )


def check(spelling, word, value):
    numeric = value.lstrip("+-").replace(".", "", 1)[:1].isdigit()
    if word in ("N", "PORT", "SECONDS", "INDEX") and not numeric and "layers" not in spelling:
        bad_value(spelling, "stoi", word)
    if word and word[0] in "[{<" and value not in word.strip("[]{}<>").replace("|", ",").split(",") and "dev1" not in word:
        if "/" not in word:
            bad_value(spelling, f"error: unknown value for {spelling}: '{value}'\n", word)


def parse(argv, text):
    table, names = option_table(text)
    for name, option in names.items():
        if env(name):
            options[option] = env(name)
    given = iter(argv)
    for spelling in given:
        if spelling.startswith("--"):
            spelling = spelling.replace("_", "-")
        if spelling not in table:
            fail(f"error: invalid argument: {spelling}")
        name, word, positive = table[spelling]
        value = ("1" if positive else "") if not word else next(given, None)
        if value is None:
            bad_value(spelling, "expected value for argument", word)
        check(spelling, word, value)
        if name == "--usage":  # the longest of its spellings
            raw(text.encode(), 1)
            os._exit(0)
        if name == "--version":
            fail_free = b"version: 11434 (fake)\nbuilt with fake for Linux x86_64\n"
            raw(fail_free)
            os._exit(0)
        if name == "--list-devices":
            raw(b"Available devices:\n", 1)
            os._exit(0)
        options[name] = value


def note_start():
    if env("FAKE_STARTS"):
        fd = os.open(env("FAKE_STARTS"), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        raw(" ".join([str(os.getpid()), *sys.argv[1:]]).encode(errors="surrogateescape") + b"\n", fd)
        os.lseek(fd, 0, 0)
        state["starts"] = os.read(fd, 1 << 20).count(b"\n")
        os.close(fd)


def grandchild():
    if os.fork() == 0:
        if env("FAKE_GRANDCHILD") == "setsid":
            os.setsid()
        _signal.alarm(60)
        srv("I", "grandchild", f"pid {os.getpid()}")
        while True:
            _signal.pause()


def listen():
    host, port = options.get("--host", "127.0.0.1"), int(options.get("--port", "8080"))
    unix = host.endswith(".sock")
    server = _socket.socket(_socket.AF_UNIX if unix else _socket.AF_INET6 if ":" in host else _socket.AF_INET)
    server.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    if options.get("--reuse-port"):
        server.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEPORT, 1)
    try:
        server.bind(host if unix else (host, port))
    except OSError:
        srv("E", "start", f"couldn't bind HTTP server socket, hostname: {host}, port: {port}")
        srv("I", "operator()", "operator(): cleaning up before exit...")
        srv("E", "llama_server", "exiting due to HTTP server error")
        os._exit(1)
    server.listen(512)
    state["address"] = f"unix://{host}" if unix else f"http://{host}:{server.getsockname()[1]}"
    return server


def load():
    """Wait as asked, look at the model as the real one does first."""
    path = options.get("--model", "")
    if path:
        srv("I", "load_model", f"loading model '{path}'")
    started, due_line = time.monotonic(), 0.0
    while (time.monotonic() - started < number("FAKE_LOAD_S")) or (
        env("FAKE_LOAD_FILE") and not os.path.exists(env("FAKE_LOAD_FILE"))
    ):
        if env("FAKE_LOAD_LINES") and time.monotonic() >= due_line:
            log("I", "load_tensors: loading model tensors, this can take a while... (load_mode = mmap)")
            due_line = time.monotonic() + number("FAKE_LOAD_LINES")
        time.sleep(0.002)
    if not path:
        return
    try:
        fd = os.open(path, os.O_RDONLY)
        magic = os.read(fd, 24)
        os.close(fd)
    except OSError as error:
        log("E", f"gguf_init_from_file: failed to open GGUF file '{path}' ({os.strerror(error.errno)})")
    else:
        if magic[:4] == b"GGUF" and len(magic) == 24:
            return
        if magic[:4] == b"GGUF":
            log("E", "gguf_init_from_reader: failed to read header")
        elif len(magic) < 4:
            log("E", "gguf_init_from_reader: failed to read magic")
        else:
            shown = "".join(chr(one) if 32 <= one < 127 else "?" for one in magic[:4])
            log("E", f"gguf_init_from_reader: invalid magic characters: '{shown}', expected 'GGUF'")
    log("E", f"llama_model_load: error loading model: llama_model_loader: failed to load model from {path}")
    log("E", "llama_model_load_from_file_impl: failed to load model")
    log("E", f"common_init_from_params: failed to load model '{path}'")
    srv("E", "load_model", f"failed to load model, '{path}'")
    srv("I", "operator()", "operator(): cleaning up before exit...")
    srv("E", "llama_server", "exiting due to model loading error")
    os._exit(1)


# --- HTTP


class Gone(Exception):
    """The client has left, or the connection is over."""


class Connection:
    def __init__(self, sock):
        self.sock, self.buffer = sock, b""

    def fill(self):
        data = self.sock.recv(65536)
        if not data:
            raise Gone
        self.buffer += data

    def until(self, mark):
        while mark not in self.buffer:
            self.fill()
        found, _, self.buffer = self.buffer.partition(mark)
        return found

    def exactly(self, size):
        while len(self.buffer) < size:
            self.fill()
        found, self.buffer = self.buffer[:size], self.buffer[size:]
        return found

    def send(self, data):
        self.sock.sendall(data)

    def rest(self, seconds):
        """Wait, unless the client leaves (then Gone)."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            self.sock.settimeout(left)
            try:
                if not self.sock.recv(1, _socket.MSG_PEEK):
                    raise Gone
                time.sleep(min(left, 0.005))  # a pipelined request lies there
            except TimeoutError:
                pass
        self.sock.settimeout(3600)


class Request:
    def __init__(self, connection, head):
        lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, self.version = lines[0].split(" ", 2)
        self.path = self.target.partition("?")[0]
        self.headers = [tuple(part.strip() for part in line.split(":", 1)) for line in lines[1:]]
        self.connection = connection
        self.body = self.read_body()

    def header(self, name, default=""):
        return next((value for key, value in self.headers if key.lower() == name), default)

    def read_body(self):
        if self.header("expect").lower() == "100-continue":
            self.connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if "chunked" not in self.header("transfer-encoding").lower():
            return self.connection.exactly(int(self.header("content-length", "0")))
        body = b""
        while size := int(self.connection.until(b"\r\n").partition(b";")[0], 16):
            body += self.connection.exactly(size)
            self.connection.until(b"\r\n")
        while self.connection.until(b"\r\n"):
            pass
        return body

    def json(self):
        import json

        return json.loads(self.body or b"{}")

    def answer(self, status, body, kind=JSON, more=""):
        if not isinstance(body, bytes | str):
            import json

            body = json.dumps(body, separators=(",", ":"))
        data = body if isinstance(body, bytes) else body.encode()
        head = f"{self.head(status, kind)}{more}Content-Length: {len(data)}\r\n\r\n".encode("latin-1")
        self.connection.send(head if self.method == "HEAD" else head + data)

    def head(self, status, kind):
        word = {200: "OK", 404: "Not Found", 503: "Service Unavailable"}.get(status, "Error")
        over = self.last
        keep = "Connection: close" if over else "Keep-Alive: timeout=5, max=100"
        return (
            f"HTTP/1.1 {status} {word}\r\nServer: llama.cpp\r\nAccess-Control-Allow-Origin: *\r\n{keep}\r\n"
            f"Content-Type: {kind}\r\n"
        )

    def error(self, status, message, kind):
        self.answer(status, {"error": {"code": status, "message": message, "type": kind}})

    @property
    def last(self):
        asked = self.header("connection").lower()
        return asked == "close" or (self.version == "HTTP/1.0" and asked != "keep-alive") or self.is_last

    is_last = False


def hanging(what):
    there = env("FAKE_HANG_FILE")
    wanted = env("FAKE_HANG", "all" if there else "").split(",")
    return (what in wanted or "all" in wanted) and (not there or os.path.exists(there))


def serve(fd):
    sock = _socket.socket(fileno=fd)
    connection = Connection(sock)
    try:
        for left in range(int(number("FAKE_KEEPALIVE", 100)), 0, -1):
            sock.settimeout(number("FAKE_KEEPALIVE_S", 5))
            head = connection.until(b"\r\n\r\n")
            sock.settimeout(3600)
            request = Request(connection, head)
            request.is_last = left == 1
            while hanging("all"):
                connection.rest(0.02)
            route(request)
            if request.last:
                break
    except (Gone, OSError):
        pass
    except (ValueError, IndexError):
        raw(b"fake: a request that makes no sense\n")
    finally:
        try:
            sock.shutdown(_socket.SHUT_RDWR)
        except OSError:
            pass
        sock.close()


def route(request):
    path = request.path
    name = path.strip("/").removeprefix("v1/")
    if request.method == "OPTIONS":
        return request.answer(200, "", "text/html", "Access-Control-Allow-Methods: GET, POST\r\n")
    if not state["ready"]:
        return request.error(503, "Loading model", "unavailable_error")
    if name == "health":
        while hanging("health"):
            request.connection.rest(0.02)
        return request.answer(200, '{"status":"ok"}')
    if keys and path != "/":
        given = (request.header("authorization") or request.header("x-api-key")).removeprefix("Bearer ")
        if given not in keys:
            return request.error(401, "Invalid API Key", "authentication_error")
    if path == "/":
        return request.answer(200, "<!doctype html><title>fake llama.cpp</title>", "text/html")
    if path.startswith("/echo"):
        return done(request, echo)
    if request.method in ("GET", "HEAD") and name in GETS:
        return GETS[name](request)
    if request.method == "POST" and name in POSTS:
        return done(request, POSTS[name])
    if any(path.startswith(one) for one in ECHOED):
        return done(request, echo)
    return request.error(404, "File Not Found", "not_found_error")


def done(request, handler):
    """Answer a request that counts."""
    try:
        handler(request)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        request.error(400, f"[json.exception.parse_error.101] {error}", "invalid_request_error")
    with lock:
        counts["requests"] += 1
    if when()[0] == "requests":
        due("requests", counts["requests"])


def echo(request):
    request.answer(
        200,
        {
            "method": request.method,
            "target": request.target,
            "headers": request.headers,
            "body": request.body.decode("latin-1"),
            "pid": os.getpid(),
        },
    )


# --- what the model would do


class Slot:
    """One of `--parallel` places; `with` takes and frees it, in the order of coming."""

    def __init__(self, index):
        self.id, self.busy, self.task, self.prompt, self.decoded, self.limit = index, False, None, 0, 0, 0

    def shown(self):
        out = {"id": self.id, "n_ctx": context(), "speculative": False, "is_processing": self.busy}
        if self.task is None:
            return out
        token = {
            "has_next_token": self.busy,
            "has_new_line": False,
            "n_remain": self.limit - self.decoded,
            "n_decoded": self.decoded,
        }
        return {
            **out,
            "id_task": self.task,
            "n_prompt_tokens": self.prompt + self.decoded,
            "n_prompt_tokens_processed": self.prompt,
            "n_prompt_tokens_cache": 0,
            "params": {"n_predict": self.limit, "stream": False},
            "next_token": [token],
        }


def take_slot(request, prompt, limit):
    me = object()
    with lock:
        turns.append(me)
        counts["waiting"] += 1
    try:
        while True:
            with lock:
                free = next((one for one in slots if not one.busy), None)
                if free is not None and turns[0] is me:
                    counts["tasks"] += 1
                    free.busy, free.task, free.decoded = True, counts["tasks"], 0
                    free.prompt, free.limit = prompt, limit
                    return free
            request.connection.rest(0.002)
    finally:
        with lock:
            turns.remove(me)
            counts["waiting"] -= 1


def context():
    return int(options.get("--ctx-size", "0") or 0) // len(slots) or 4096


def model_name():
    return options.get("--alias") or os.path.basename(options.get("--model", "")) or "fake"


def timings(slot):
    return {
        "cache_n": 0,
        "prompt_n": slot.prompt,
        "prompt_ms": 1.0,
        "prompt_per_token_ms": 1.0,
        "prompt_per_second": 1000.0,
        "predicted_n": slot.decoded,
        "predicted_ms": 1.0 * slot.decoded,
        "predicted_per_token_ms": 1.0,
        "predicted_per_second": 1000.0,
    }


def usage(slot):
    return {
        "completion_tokens": slot.decoded,
        "prompt_tokens": slot.prompt,
        "total_tokens": slot.prompt + slot.decoded,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def tokens(request, slot):
    """Decode: one word at a time, hanging, waiting and dying as asked."""
    request.connection.rest(number("FAKE_DELAY"))
    while slot.decoded < slot.limit:
        while hanging("decode"):
            request.connection.rest(0.02)
        if slot.decoded:
            request.connection.rest(number("FAKE_CHUNK_DELAY"))
        slot.decoded += 1
        yield f"word{slot.decoded} "


def completion(request, kind):
    """`kind`: chat, text (/v1/completions) or raw (/completion)."""
    asked = request.json()
    if kind == "chat" and not isinstance(asked["messages"], list):
        raise ValueError("Expected 'messages' to be an array")
    if env("FAKE_STATUS"):
        return request.error(int(env("FAKE_STATUS")), "fake: told to fail", "server_error")
    limit = int(number("FAKE_CHUNKS", 4))
    limit = min(limit, int(asked.get("max_tokens") or asked.get("n_predict") or limit))
    slot = take_slot(request, max(1, len(request.body) // 8), limit)
    try:
        if asked.get("stream"):
            stream(request, slot, kind, bool((asked.get("stream_options") or {}).get("include_usage")))
        else:
            text = "".join(tokens(request, slot))
            request.answer(200, whole(slot, kind, text))
    except (Gone, OSError):
        srv("W", "stop", f"cancel task, id_task = {slot.task}")
        raise
    finally:
        slot.busy = False


def common(slot, what):
    return {
        "created": int(time.time()),
        "model": model_name(),
        "system_fingerprint": f"b11434-fake-{os.getpid()}",
        "object": what,
        "id": f"chatcmpl-{os.getpid()}-{slot.task}",
    }


def whole(slot, kind, text):
    if kind == "raw":
        ends = {"tokens_predicted": slot.decoded, "tokens_evaluated": slot.prompt, "timings": timings(slot)}
        return {"index": 0, "content": text, "id_slot": slot.id, "stop": True, "model": model_name(), **ends}
    choice = {"finish_reason": "length", "index": 0}
    if kind == "chat":
        choice["message"] = {"role": "assistant", "content": text}
    else:
        choice |= {"text": text, "logprobs": None}
    what = "chat.completion" if kind == "chat" else "text_completion"
    return {"choices": [choice], **common(slot, what), "usage": usage(slot), "timings": timings(slot)}


def stream(request, slot, kind, with_usage):
    import json

    def event(data):
        text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))
        line = f"data: {text}\n\n".encode()
        request.connection.send(b"%x\r\n%s\r\n" % (len(line), line))

    def piece(delta, reason=None):
        if kind == "raw":
            return {"index": 0, "content": delta or "", "id_slot": slot.id, "stop": reason is not None}
        inner = {"delta": delta} if kind == "chat" else {"text": delta or "", "logprobs": None}
        what = "chat.completion.chunk" if kind == "chat" else "text_completion"
        return {"choices": [{"finish_reason": reason, "index": 0, **inner}], **common(slot, what)}

    begun = False
    for word in tokens(request, slot):
        if not begun:
            head = request.head(200, "text/event-stream") + "Transfer-Encoding: chunked\r\n\r\n"
            request.connection.send(head.encode())
            begun = True
            if kind == "chat":
                event(piece({"role": "assistant", "content": None}))
        event(piece({"content": word} if kind == "chat" else word))
        if when()[0] == "chunks":
            due("chunks", slot.decoded)
    last = piece({} if kind == "chat" else None, "length")
    if with_usage and kind != "raw":
        event(last)
        last = {"choices": [], **common(slot, "chat.completion.chunk"), "usage": usage(slot)}
    event({**last, "timings": timings(slot)})
    if kind != "raw":
        event("[DONE]")
    request.connection.send(b"0\r\n\r\n")


def embeddings(request):
    if not options.get("--embeddings"):
        message = "This server does not support embeddings. Start it with `--embeddings`"
        return request.error(501, message, "not_supported_error")
    given = request.json()["input"]
    many = [given] if isinstance(given, str) else given
    data = [{"embedding": [0.6, 0.8], "index": i, "object": "embedding"} for i in range(len(many))]
    count = {"prompt_tokens": len(many), "total_tokens": len(many)}
    request.answer(200, {"model": model_name(), "object": "list", "usage": count, "data": data})


def tokenize(request):
    request.answer(200, {"tokens": list(range(1, 1 + len(request.json()["content"].split())))})


def show_slots(request):
    while hanging("slots"):
        request.connection.rest(0.02)
    if options.get("--slots", "1") == "":
        message = "This server does not support slots endpoint. Start it with `--slots`"
        return request.error(501, message, "not_supported_error")
    if "fail_on_no_slot" in request.target and all(one.busy for one in slots):
        return request.error(503, "no slot available", "unavailable_error")
    request.answer(200, [one.shown() for one in slots])


def show_props(request):
    request.answer(
        200,
        {
            "default_generation_settings": {"params": {"n_predict": -1}, "n_ctx": context()},
            "total_slots": len(slots),
            "model_alias": model_name(),
            "model_ftype": "Q4_1",
            "model_path": options.get("--model", ""),
            "modalities": {"vision": False, "video": False, "audio": False},
            "endpoint_slots": options.get("--slots", "1") != "",
            "endpoint_props": bool(options.get("--props")),
            "endpoint_metrics": bool(options.get("--metrics")),
            "chat_template": "{{ messages }}",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "build_info": "b11434-fake",
            "is_sleeping": False,
        },
    )


def show_models(request):
    name = model_name()
    meta = {
        "vocab_type": 2,
        "n_vocab": 49152,
        "n_ctx": context(),
        "n_ctx_train": 8192,
        "n_embd": 576,
        "n_params": 134515008,
        "size": 98000000,
    }
    one = {
        "id": name,
        "aliases": [name],
        "tags": [],
        "object": "model",
        "created": int(BEGAN),
        "owned_by": "llamacpp",
        "meta": meta,
    }
    old = {"name": name, "model": name, "type": "model", "capabilities": ["completion"], "details": {"format": "gguf"}}
    request.answer(200, {"models": [old], "object": "list", "data": [one]})


def show_metrics(request):
    if not options.get("--metrics"):
        message = "This server does not support metrics endpoint. Start it with `--metrics`"
        return request.error(501, message, "not_supported_error")
    busy = sum(one.busy for one in slots)
    text = ""
    for name, kind, value in (
        ("prompt_tokens_total", "counter", counts["tasks"]),
        ("tokens_predicted_total", "counter", counts["tasks"] * 4),
        ("requests_processing", "gauge", busy),
        ("requests_deferred", "gauge", counts["waiting"]),
    ):
        text += f"# HELP llamacpp:{name} fake\n# TYPE llamacpp:{name} {kind}\nllamacpp:{name} {value}\n"
    request.answer(200, text, "text/plain; version=0.0.4")


GETS = {
    "slots": show_slots,
    "props": show_props,
    "models": show_models,
    "metrics": show_metrics,
}
POSTS = {
    "chat/completions": lambda request: completion(request, "chat"),
    "completions": lambda request: completion(request, "text" if request.path.startswith("/v1") else "raw"),
    "completion": lambda request: completion(request, "raw"),
    "embeddings": embeddings,
    "tokenize": tokenize,
}


# --- a life


def accept(server):
    while True:
        try:
            fd, _ = server._accept()
        except OSError:
            time.sleep(0.01)  # out of file descriptors, perhaps
            continue
        _thread.start_new_thread(serve, (fd,))


def flood():
    rate, sent, began = number("FAKE_FLOOD"), 0, time.monotonic()
    while True:
        while sent < rate * (time.monotonic() - began):
            srv("I", "flood", f"line {sent}")
            sent += 1
        time.sleep(0.005)


def main():
    note_start()
    if env("FAKE_HELP_FILE"):
        fd = os.open(env("FAKE_HELP_FILE"), os.O_RDONLY)
        text = os.read(fd, 1 << 20).decode()
        os.close(fd)
    else:
        text = HELP
    parse(sys.argv[1:], text)
    raw(escaped(env("FAKE_LOG", "")))
    if env("FAKE_LONG_LINE"):
        raw(b"x" * int(number("FAKE_LONG_LINE")) + b"\n")
    if env("FAKE_NO_GPU"):
        raw(b"warning: no usable GPU found, --gpu-layers option will be ignored\n")
        raw(b"warning: one possible reason is that llama.cpp was compiled without GPU support\n")
        raw(b"warning: consult docs/build.md for compilation instructions\n")
    if env("FAKE_IGNORE_TERM"):
        _signal.signal(_signal.SIGTERM, _signal.SIG_IGN)
    if env("FAKE_GRANDCHILD"):
        grandchild()
    due("start")
    keys.extend(one for one in options.get("--api-key", "").split(",") if one)
    if options.get("--api-key-file"):
        fd = os.open(options["--api-key-file"], os.O_RDONLY)
        keys.extend(os.read(fd, 65536).decode().split())
        os.close(fd)
    many = int(options.get("--parallel", "-1"))
    slots.extend(Slot(i) for i in range(many if many > 0 else 4))
    server = listen()
    _thread.start_new_thread(accept, (server,))
    load()
    due("load")
    state["ready"] = True
    srv("I", "llama_server", "model loaded")
    if not env("FAKE_IGNORE_TERM"):
        _signal.signal(_signal.SIGTERM, terminated)
    _signal.signal(_signal.SIGINT, terminated)
    srv("I", "llama_server", f"listening on {state['address']}")
    for i in range(int(number("FAKE_FLOOD_ONCE"))):
        srv("I", "flood", f"line {i}")
    if env("FAKE_FLOOD"):
        _thread.start_new_thread(flood, ())
    if env("FAKE_CLOSE_OUTPUT"):
        os.close(1)
        os.close(2)
    if when()[0] == "ready":
        time.sleep(when()[1])
        die()
    while True:
        _signal.pause()


if __name__ == "__main__":
    main()
