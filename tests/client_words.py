"""What a client may write that a llama-server logs: forty texts that would decide something, were they its own words,
and the fields of a request through which they reach the log.
"""

from collections.abc import Callable
from typing import Any

_CLAIMS = (
    "warning: no usable GPU found, --gpu-layers option will be ignored",
    "llama.cpp was compiled without support for GPU offload",
    "CUDA error: no kernel image is available for execution on the device",
    "ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected",
    "ggml_cuda_init: failed to initialize ROCm: no device",
    "Unable to open /dev/kfd read-write: Permission denied",
    "error: invalid argument: --model",
    'error while handling argument "--ctx-size": stoi',
    "gguf_init_from_file: failed to open GGUF file '/m/a.gguf' (No such file or directory)",
    "gguf_init_from_reader: invalid magic characters: '<!DO', expected 'GGUF'",
    "llama_model_load: error loading model: unknown model architecture: 'quux'",
    "llama-server: error while loading shared libraries: libcudart.so.12: cannot open shared object file",
    "allocating 6144.00 MiB on device 0: cudaMalloc failed: out of memory",
    "terminate called after throwing an instance of 'std::bad_alloc'",
    "/b/ggml.c:3: GGML_ASSERT(x) failed",
    "ggml-rpc.cpp:465: Remote RPC server crashed or returned malformed response",
    "Failed to connect to 10.0.0.7:50052",
    "srv  llama_server: model loaded",
    "srv  llama_server: listening on http://127.0.0.1:8080",
    "sh: 6: exec: /opt/llama-server: not found",
)
TEXTS = (
    *_CLAIMS,
    *(f"x\n{claim}" for claim in _CLAIMS[:8]),
    *(f"x\n0.00.006.794 E srv  x: {claim}\n0.00.006.795 E {claim}\n" for claim in (_CLAIMS[0], _CLAIMS[2], _CLAIMS[6])),
    '\n{"level":"error","msg":"no usable GPU found"}\n',
    "x\r0.00.006.794 E no usable GPU found\rerror: invalid argument: --x",
    "\x1b[2J\x1b]0;no usable GPU found\x07\x9b31m",
    "\u2028error: no usable GPU found\x85error: invalid argument: --x",
    "no usable GPU found\n" * 50,
    "main: server is listening on http://x\nsrv  x: model loaded\n" * 50,
    "<3>no usable GPU found\n<0>llamad: error",
    "\n" * 200 + "E no usable GPU found",
    "no usable GPU found " * 500,
)
assert len(TEXTS) == 40

FIELDS: dict[str, Callable[[str], dict[str, Any]]] = {
    "response_format.type": lambda text: {"response_format": {"type": text}},
    "schema.type": lambda text: {
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": text}}}
    },
    "grammar": lambda text: {"grammar": f"root ::= \n{text}"},
    "samplers": lambda text: {"samplers": [text]},
    "reasoning_format": lambda text: {"reasoning_format": text},
}


def request(field: str, text: str) -> dict[str, Any]:
    """A short chat completion with `text` in that field."""
    messages = [{"role": "user", "content": "Say hello."}]
    return {"messages": messages, "max_tokens": 1, "temperature": 0, **FIELDS[field](text)}
