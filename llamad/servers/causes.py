"""What llama-server's last words mean: a table from the lines it prints to causes with hints. Pure.

Each row was read in llama.cpp's sources (build b11434), seen with the real engine, or reported in its issues;
tests/servers/test_diagnosis.py holds a real message for each. The order matters: what says more comes first.

Clients reach the log: lines from before the first READY are evidence of everything, later ones only of the rows that
are `later`, never of a permanent cause, and only together with how the process ended.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llamad.host.visible import visible
from llamad.servers.board import Failure

MAX_QUOTED = 200
"""Characters of a line that a message quotes."""
Kind = Literal["memory", "abort", "exit"]
"""When a row counts: `memory` after any end but an outside kill, `abort` after an abort or an exit code, `exit` after
an exit code or an unknown end only.
"""


@dataclass(frozen=True, slots=True)
class Cause:
    """One row. `message` may name groups of `pattern`; the newest line that matches counts. `later`: a process that was
    READY can end of it too.
    """

    name: str
    kind: Kind
    pattern: re.Pattern[str]
    message: str
    hint: str
    permanent: bool = False
    later: bool = False
    passing: bool = False


def _row(
    name: str,
    kind: Kind,
    pattern: str,
    message: str,
    hint: str,
    *,
    permanent: bool = False,
    later: bool = False,
    passing: bool = False,
) -> Cause:
    return Cause(name, kind, re.compile(pattern), message, hint, permanent, later, passing)


_SMALLER = "lower n_gpu_layers or ctx_size, use a smaller quantisation, or give it more GPUs"
_FREE = f"{_SMALLER}; `llamad status` and nvidia-smi show who else fills the GPU"
_DOWNLOAD_AGAIN = "the file is broken or its download was cut: get it again and compare size and checksum"
_UPDATE = "the model needs another build of llama.cpp: update llama_server"
_RPC = "look at rpc-server there, and that both are of one build of llama.cpp; this server comes back once it answers"
_TOKEN = "check the name of hf_repo; a private or gated model needs env_credentials: {HF_TOKEN: ...}"

_UNREACHABLE = _row(
    "rpc-server-gone",
    "abort",
    r"Failed to connect to (?P<endpoint>(?:\[[0-9a-fA-F:.]+\]|[\w.-]+):\d+)\s*$",
    "cannot connect to the rpc-server {endpoint}",
    _RPC,
    later=True,
    passing=True,
)

CAUSES: tuple[Cause, ...] = (
    # other hosts
    _UNREACHABLE,
    _row(
        "rpc-server-gone",
        "abort",
        r"Remote RPC server crashed or returned malformed response",
        "an rpc-server of its args has gone or does not fit this llama-server",
        _RPC,
        later=True,
        passing=True,
    ),
    # the command line
    _row(
        "unknown-option",
        "exit",
        r"error: (?:invalid|unknown) argument: (?P<option>\S+)",
        "llama-server does not know the option {option}",
        "this build has dropped or renamed it, see `llama-server --help`; take it out of args or extra_args",
        permanent=True,
    ),
    _row(
        "unknown-device",
        "exit",
        r"invalid device: (?P<device>\S+)",
        "llama-server sees no device {device}",
        "`llama-server --list-devices` names those there are; a GPU may also have lost its driver",
    ),
    _row(
        "bad-option-value",
        "exit",
        r'error while handling argument "(?P<option>[^"]+)": (?P<what>.+)',
        "llama-server refuses the value of {option}: {what}",
        "correct it in args or extra_args; `llama-server --help` names the values",
        permanent=True,
    ),
    _row(
        "bad-option-value",
        "exit",
        r'error while handling environment variable "(?P<option>[^"]+)": (?P<what>.+)',
        "llama-server refuses the environment variable {option}: {what}",
        "correct it in env",
        permanent=True,
    ),
    # memory
    _row(
        "out-of-gpu-memory",
        "memory",
        r"allocating (?P<size>[\d.]+) MiB on device (?P<device>\d+): (?:cuda|hip|musa)Malloc failed: out of memory",
        "GPU {device} has not {size} MiB of memory free",
        _FREE,
        later=True,
    ),
    _row(
        "out-of-gpu-memory",
        "memory",
        r"(?P<backend>CUDA|ROCm|HIP|MUSA) error: out of memory"
        r"|ggml_vulkan: .*allocation of size \d+ failed|ErrorOutOfDeviceMemory|ErrorOutOfPoolMemory"
        r"|can't allocate \d+ Bytes of memory on device|UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY"
        r"|(?:cuda|hip|musa)Malloc failed: out of memory|CUBLAS_STATUS_ALLOC_FAILED",
        "the GPU has not enough memory",
        _FREE,
        later=True,
    ),
    _row(
        "out-of-gpu-memory",
        "memory",
        r"(?:failed|unable) to allocate (?P<device>(?:CUDA|ROCm|HIP|MUSA|Vulkan|SYCL|OpenCL|Metal|CANN)\d*) buffer",
        "the GPU has not enough memory ({device})",
        _FREE,
        later=True,
    ),
    _row(
        "out-of-memory",
        "memory",
        r"std::bad_alloc|^(?!.*mlock).*Cannot allocate memory$"
        r"|alloc\w*: failed to allocate (?:CPU\w* )?buffer of size|insufficient memory \(attempted to allocate"
        r"|(?:failed|unable) to allocate CPU\w* buffer|failed to allocate +[\d.]+ MB(?! of pinned)"
        r"|posix_memalign failed"
        r"|failed to allocate buffer for (?:kv|rs) cache|failed to allocate compute \w* ?buffers",
        "the host has not enough memory",
        "lower ctx_size, use a smaller quantisation, or raise limits.memory_max and the host's memory",
        later=True,
    ),
    # the GPU itself
    _row(
        "gpu-too-old",
        "abort",
        r"no kernel image is available for execution on the device",
        "this llama-server was not built for this GPU",
        "install a build that names the GPU's architecture (CMAKE_CUDA_ARCHITECTURES, AMDGPU_TARGETS)",
        permanent=True,
    ),
    _row(
        "gpu-driver",
        "abort",
        r"(?P<what>CUDA driver version is insufficient for CUDA runtime version"
        r"|unsupported display driver / cuda driver combination)",
        "the GPU's driver does not fit this llama-server: {what}",
        "update the driver, or install a build for the driver's CUDA version",
    ),
    _row(
        "gpu-error",
        "abort",
        r"(?P<what>(?:CUDA|ROCm|HIP|MUSA) error: .+|ErrorDeviceLost|vk::DeviceLostError)",
        "the GPU failed: {what}",
        "`journalctl -k` may show an Xid or a reset of the GPU; `llamad devices` shows what is left",
        later=True,
    ),
    # the model
    _row(
        "too-many-files",
        "exit",
        r"Too many open files",
        "it has too many open files",
        "raise LimitNOFILE= of the unit",
    ),
    _row(
        "model-missing",
        "exit",
        r"failed to open GGUF file '(?P<file>.*)' \(No such file or directory\)"
        r"|failed to open (?P<file2>/.*?): No such file or directory"
        r"|failed to load CLIP model from (?P<file3>.+)\. Does this file exist",
        "the model file {file} is not there",
        "put it there, correct model, or mount its disk; llamad starts the server once it appears",
        permanent=True,
    ),
    _row(
        "model-unreadable",
        "exit",
        r"failed to open GGUF file '(?P<file>.*)' \((?P<what>[^()]+)\)|failed to open (?P<file2>/.*?): (?P<what2>.+)",
        "the model file {file} cannot be read: {what}",
        "make it and its folders readable for llamad's user; /home is hidden from the service by ProtectHome=",
        permanent=True,
    ),
    _row(
        "model-unreadable",
        "exit",
        r"failed to open GGUF file '(?P<file>[^']*)'$",
        "the model file {file} cannot be opened",
        "check that it is there and readable for llamad's user; /home is hidden from the service by ProtectHome=",
        permanent=True,
    ),
    _row(
        "model-corrupt",
        "exit",
        r"invalid magic characters: '(?P<what>.*)', expected 'GGUF'",
        "the model is no GGUF file: it begins with '{what}'",
        "point model at a .gguf file; an HTML page or a git-lfs pointer may have been saved in its place",
        permanent=True,
    ),
    _row(
        "model-corrupt",
        "exit",
        r"mismatch between the host and model endianness",
        "the model is a GGUF file of the other byte order",
        "get the file for this kind of machine, or convert it with gguf_convert_endian.py",
        permanent=True,
    ),
    _row(
        "model-unsupported",
        "exit",
        r"(?P<what>this GGUF file is version \d+ but this software only supports up to version \d+"
        r"|GGUFv1 is no longer supported)",
        "llama-server cannot read this kind of GGUF: {what}",
        "convert the model anew, or update llama_server",
        permanent=True,
    ),
    _row(
        "model-corrupt",
        "exit",
        r"(?P<what>tensor '.*' data is not within the file bounds|failed to read (?:magic|header|tensor info"
        r"|tensor data|key-value pairs)|unexpectedly reached end of file|tensor '.*' has invalid data"
        r"|found tensors with invalid data|bad GGUF version: \d+|corrupted model: .+)",
        "the model file is corrupt or incomplete: {what}",
        _DOWNLOAD_AGAIN,
        permanent=True,
    ),
    _row(
        "model-corrupt",
        "exit",
        r"gguf_init_from_\w+: (?P<what>(?!failed to open).+)",
        "the model file is corrupt: {what}",
        _DOWNLOAD_AGAIN,
        permanent=True,
    ),
    _row(
        "model-unsupported",
        "exit",
        r"un(?:known|supported) model architecture: '(?P<arch>[^']*)'",
        "this llama-server does not know the model's architecture '{arch}'",
        f"{_UPDATE}, or the file holds no language model",
        permanent=True,
    ),
    _row(
        "model-unsupported",
        "exit",
        r"CLIP cannot be used as main model",
        "the file is a projector (mmproj), not a model",
        "name the language model as model, and this file as args: {mmproj: ...}",
        permanent=True,
    ),
    _row(
        "disk-error",
        "exit",
        r"(?P<what>read error: .+|Input/output error)",
        "the model could not be read from its disk: {what}",
        "see `journalctl -k` for disk or network file system errors",
    ),
    # downloads
    _row(
        "download-failed",
        "exit",
        r"(?P<what>GET failed \((?:401|403|404)\).*|no GGUF files found in repository .+"
        r"|file '.+' not found in repository)",
        "the model cannot be downloaded: {what}",
        _TOKEN,
        permanent=True,
    ),
    _row(
        "disk-full",
        "abort",
        r"No space left on device|error writing to file",
        "the disk is full",
        "make room in the cache and models directories (`df -h`)",
    ),
    _row(
        "download-failed",
        "exit",
        r"(?P<what>download failed after \d+ attempts|failed to download model: .+|failed to fetch model metadata: .+"
        r"|download failed: .+|HTTPLIB failed: .+|required file is not available in cache \(offline mode\).*)",
        "the model could not be downloaded: {what}",
        "check the network and proxy of the service, and the name of hf_repo",
    ),
    # the rest of a model's load, once nothing above said more
    _row(
        "model-rejected",
        "exit",
        r"error loading model(?: hyperparameters| vocabulary)?: (?P<what>(?!llama_model_loader: failed to load).+)",
        "llama-server cannot use the model: {what}",
        f"{_UPDATE}, or {_DOWNLOAD_AGAIN}",
        permanent=True,
    ),
    _row(
        "model-rejected",
        "exit",
        r"failed to (?:load|apply) (?P<what>multimodal model, '.+'|lora adapter.*)",
        "llama-server cannot use what belongs to the model: {what}",
        "check that the file is there, whole, and made for this very model",
        permanent=True,
    ),
    # the listener
    _row(
        "socket-failed",
        "exit",
        r"couldn't bind HTTP server socket, hostname: (?P<path>/.*), port: \d+",
        "it cannot make its socket {path}",
        "the runtime directory is full or not writable: `df -h`, `df -i` and `ls -ld` of its folder tell",
    ),
    _row(
        "port-taken",
        "exit",
        r"couldn't bind HTTP server socket, hostname: (?P<host>.*), port: (?P<port>\d+)",
        "it cannot listen on {host}, port {port}",
        "another program has the port: `ss -ltnp` names it; without port: llamad uses a private socket",
    ),
    # programs and libraries
    _row(
        "library-missing",
        "exit",
        r"error while loading shared libraries: (?P<library>[^:]+): (?P<what>.+)",
        "llama-server needs the library {library}: {what}",
        "install the package that brings it, or set LD_LIBRARY_PATH in env",
        permanent=True,
    ),
    _row(
        "library-missing",
        "exit",
        r"(?P<library>[^ :]+): version `(?P<what>[^']+)' not found",
        "llama-server needs a newer library: {what} in {library}",
        "this build is for a newer system: install one made for this one",
        permanent=True,
    ),
    _row(
        "binary-missing",
        "exit",
        r"exec: (?P<file>.+): not found",
        "the program {file} is not there",
        "install llama-server or correct llama_server",
        permanent=True,
    ),
    _row(
        "not-executable",
        "exit",
        r"exec: (?P<file>.+): (?P<what>Permission denied|Exec format error)|cannot execute binary file: (?P<what2>.+)",
        "llama_server cannot be executed: {what}",
        "chmod +x it, check the noexec of its file system, and that it is built for this machine",
        permanent=True,
    ),
    # least certain: only a warning in itself
    _row(
        "memory-lock",
        "exit",
        r"failed to mlock (?P<size>\d+)-byte buffer",
        "it ended after it could not lock the model in memory",
        "raise LimitMEMLOCK= of the unit (infinity), or take mlock out of args",
    ),
)

_NO_GPU = re.compile(r"no usable GPU found|compiled without support for GPU offload")
_GPU_DRIVER = re.compile(
    r"(?:failed to initialize (?:CUDA|ROCm|HIP|MUSA|Vulkan|SYCL)\b.*|Unable to open /dev/kfd.*|/dev/kfd: .+"
    r"|ggml_(?:cuda|hip|vulkan|sycl)\w*: no devices found.*|no CUDA-capable device is detected)",
    re.IGNORECASE,
)
_MODEL = re.compile(r"\bloading model\b|\bllama_model_load|\bgguf_init_from")


class DeviceSigns:
    """What the first lines of a process say of its devices: those from before it opened its model, whose strings are
    printed from then on and are not to be believed. `no_gpu`: it has none and goes on, on the CPU. `doubt`: one of its
    backends has none, and says this; another one may have. `unreachable`: it goes on without an rpc-server of its args.
    """

    def __init__(self) -> None:
        self.no_gpu = False
        self.doubt: str | None = None
        self.unreachable: Failure | None = None
        self._over = False

    def read(self, line: str) -> bool:
        """The next line; whether it says something of devices."""
        if self._over:
            return False
        self._over = _MODEL.search(line) is not None
        if match := _UNREACHABLE.pattern.search(line):
            self.unreachable = _failure(_UNREACHABLE, match, later=False)
        elif _NO_GPU.search(line):
            self.no_gpu = True
        elif match := _GPU_DRIVER.search(line):
            self.doubt = quoted(match[0])
        else:
            return False
        return True

    def lack(self, *, gpus: bool, rpc: bool) -> Failure | None:
        """What it goes on without, of the GPUs and rpc-servers that it was told to use."""
        if gpus and self.no_gpu:
            return gpu_missing()
        return self.unreachable if rpc else None


def gpu_missing(why: str | None = None) -> Failure:
    """GPUs were asked for and there is none; `why` in the words of the driver."""
    message = "GPUs were asked for, but llama-server finds none it can use"
    return Failure(
        "gpu-missing",
        message if why is None else f"{message}: {why}",
        "this llama-server may be built without CUDA, ROCm or Vulkan, or the driver is not loaded: `llamad devices`,"
        " `llama-server --list-devices`; say gpus: none to run on the CPU",
    )


def find_cause(
    lines: Sequence[str], kinds: frozenset[Kind], *, later: bool = False, rpc: bool = False
) -> Failure | None:
    """The first row of `kinds` that one of `lines` matches (the newest such line). `later`: the lines may hold text of
    clients; `rpc`: it was told to use other hosts.
    """
    for cause in CAUSES:
        if cause.kind not in kinds or (later and not cause.later) or (cause.passing and not rpc):
            continue
        for line in reversed(lines):
            if match := cause.pattern.search(line):
                return _failure(cause, match, later=later)
    return None


def _failure(cause: Cause, match: re.Match[str], *, later: bool) -> Failure:
    found: dict[str, str] = {}
    for name, value in match.groupdict().items():  # `what2` is `what` of another alternative
        if value is not None:
            text = quoted(value)
            found[name.rstrip("23")] = f'"{text}"' if later and name.startswith("what") else text
    permanent = cause.permanent and not later
    return Failure(cause.name, cause.message.format_map(found), cause.hint, permanent, cause.passing)


def quoted(text: str) -> str:
    """A piece of a line as a message may show it: one line, no control characters, of bounded length."""
    return visible(text.strip(), most=MAX_QUOTED)
