"""A llama-server binary and the options it knows: finds it, asks it (`--help`), and remembers the answer."""

import contextlib
import errno
import hashlib
import json
import os
import selectors
import shutil
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from llamad.config.helptext import Option, OptionTable, parse_help
from llamad.config.variables import inherited, without_options
from llamad.errors import LlamadError
from llamad.host.files import open_regular, read_text, replace_file, status, within

__all__ = ["Binary", "BinaryError", "Option", "OptionTable", "parse_help", "probe_binary"]

HELP_TIMEOUT = 30.0
"""Seconds: a cold disk and the libraries of CUDA or ROCm (gigabytes) take their time."""
MAX_HELP_BYTES = 1 << 20
MAX_CACHED = 64
MAX_CACHE_BYTES = MAX_CACHED * 2 * MAX_HELP_BYTES
MANY = 8
"""Environments in which a program is asked before its answer is taken for independent of them."""
SCRIPT_AGE = 60.0
"""Seconds for which the answer of a script holds."""
_DECIDE = ("PATH", "LD_LIBRARY_PATH", "LD_PRELOAD")
"""Inherited variables that may decide which libraries answer."""
_WRONG_PROGRAM = "llama_server has to name llama.cpp's llama-server"
_NO_LIBRARY = "a library it needs is not found: install it, or name its folder in env: {LD_LIBRARY_PATH: ...}"
_STATUS = {
    126: "it is a script, and may not run what it calls: see that file's permissions, and those of its folders",
    127: "it is a script, and what it calls is not there",
}
"""What a shell means by its exit status (POSIX, 2.8.2)."""


@dataclass(frozen=True, slots=True)
class Binary:
    """One llama-server as it was when asked; a new file at `path` differs in size or time."""

    path: Path
    size: int
    mtime_ns: int
    options: OptionTable
    asked_at: float = 0.0
    """On the monotonic clock."""


class BinaryError(LlamadError):
    """There is no llama-server to be had from that name or path; with `passing` there may be one the next time."""

    passing = False


class BinarySilentError(BinaryError):
    """It did not answer in time."""

    passing = True


@dataclass(frozen=True, slots=True)
class _File:
    """What tells one build at a path from another, and one answer of a build from another."""

    path: Path
    size: int
    mtime_ns: int
    environment: str
    """A digest of the variables that were given to it, which may hold secrets."""


_NO_ENV: Mapping[str, str] = {}


def probe_binary(
    name_or_path: str, *, cache: Path | None, environ: Mapping[str, str], env: Mapping[str, str] = _NO_ENV
) -> Binary:
    """Find a llama-server (a name is looked up in PATH) and learn its options, in the environment that its process will
    have: `environ` is llamad's own, `env` the server's. Blocks for up to 30 s the first time; then the answer comes
    from memory, or from the file `cache` (JSON; a broken one is ignored), while path, size, mtime and `env` are the
    same. A script is asked again after a minute: what it calls may be another build by then. BinaryError says why
    there is none. May be called from several threads.
    """
    env = without_options(env)
    file = _locate(name_or_path, environ, env)
    script = _is_script(file.path)
    with _lock:
        known = _memory.get(file) or _known_anyway(file)
        if known is None or (script and time.monotonic() - known.asked_at > SCRIPT_AGE):
            cache = None if script else cache
            known = _probe(file, cache, {**inherited(environ), **env})
            while len(_memory) >= MAX_CACHED:
                del _memory[next(iter(_memory))]
            _memory[file] = known
        return known


def _is_script(path: Path) -> bool:
    def look() -> bool:
        fd = open_regular(path)
        try:
            return os.pread(fd, 2, 0) == b"#!"
        finally:
            os.close(fd)

    try:
        return within(path, look)
    except OSError:  # it is asked all the same, and says what is wrong
        return False


def _known_anyway(file: _File) -> Binary | None:
    """The answer of a program that gave the same one in `MANY` environments: it will do so in one more. Hundreds of
    servers, each with a variable of its own, would have to be asked one by one.
    """
    there = [
        known
        for other, known in _memory.items()
        if (other.path, other.size, other.mtime_ns) == (file.path, file.size, file.mtime_ns)
    ]
    alike = len(there) >= MANY and all(one.options.options == there[0].options.options for one in there)
    return there[0] if alike else None


_lock = threading.Lock()
_memory: dict[_File, Binary] = {}


def _probe(file: _File, cache: Path | None, environ: Mapping[str, str]) -> Binary:
    remembered = _read_cache(cache) if cache else {}
    text = remembered.get(file)
    table = None
    if text is not None:
        with contextlib.suppress(ValueError):
            table = parse_help(text, str(file.path))
    if table is None:
        text = _ask(file.path, environ)
        try:
            table = parse_help(text, str(file.path))
        except ValueError as error:
            message = f"{file.path} is another program, not llama-server: {error}"
            raise BinaryError(message, hint=_WRONG_PROGRAM) from None
        if cache:
            remembered[file] = text
            _write_cache(cache, remembered)
    return Binary(file.path, file.size, file.mtime_ns, table, time.monotonic())


def _locate(name: str, environ: Mapping[str, str], env: Mapping[str, str]) -> _File:
    if "/" in name:
        path = Path(name)
    else:
        found = shutil.which(name, path=environ.get("PATH", os.defpath))
        if found is None:
            hint = "install llama.cpp, or set llama_server to the program's absolute path"
            raise BinaryError(f"{name} is not in PATH", hint=hint)
        path = Path(found).absolute()
    try:
        found_file = status(path)
    except OSError as error:
        raise BinaryError(f"{path}: {error.strerror}", hint="llama_server names the program that will run") from None
    if stat.S_ISDIR(found_file.st_mode):
        raise BinaryError(f"{path} is a folder, not a program", hint="llama_server names the program that will run")
    if not os.access(path, os.X_OK):
        raise BinaryError(f"{path} is not executable", hint=f"chmod +x {path}, if it is llama-server")
    decides = sorted(env.items()), [environ.get(name) for name in _DECIDE]
    return _File(
        path, found_file.st_size, found_file.st_mtime_ns, hashlib.sha256(repr(decides).encode()).hexdigest()[:16]
    )


def _ask(path: Path, environ: Mapping[str, str]) -> str:
    """What `path --help` prints to stdout. No CUDA device is shown to it: a question should not wake a GPU."""
    env = {**environ, "LC_ALL": "C.UTF-8", "CUDA_VISIBLE_DEVICES": ""}
    try:
        child = subprocess.Popen(
            [path, "--help"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        hint = None
        if error.errno == errno.ENOEXEC:
            hint = "it is built for another machine, or is no program"
        elif isinstance(error, PermissionError):
            hint = "its file system may be mounted noexec, or a security module forbids it"
        elif isinstance(error, FileNotFoundError):
            hint = "the interpreter or loader that it names is not there"
        raise BinaryError(f"{path} cannot be run: {error.strerror}", hint=hint) from None
    with child:
        try:
            output = _read(path, child)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # not yet waited for, so the number is still its own
    return _judge(path, child.returncode, *output)


def _read(path: Path, child: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """Read until both pipes are closed or the child has ended. BinaryError after 30 s, or when it talks without end."""
    assert child.stdout is not None
    assert child.stderr is not None
    output = {child.stdout.fileno(): bytearray(), child.stderr.fileno(): bytearray()}
    deadline = time.monotonic() + HELP_TIMEOUT
    with selectors.DefaultSelector() as selector:
        for fd in output:
            selector.register(fd, selectors.EVENT_READ)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                raise _silent(path)
            ready = selector.select(min(left, 0.1))
            for key, _ in ready:
                data = os.read(key.fd, 65536)
                if not data:
                    selector.unregister(key.fd)
                output[key.fd] += data
                if len(output[key.fd]) > MAX_HELP_BYTES:
                    words = f"it prints more than {MAX_HELP_BYTES >> 20} MiB to --help"
                    raise BinaryError(f"{path} is another program, not llama-server: {words}", hint=_WRONG_PROGRAM)
            if not ready and _has_ended(child):
                break  # something it started keeps the pipes open
        while not _has_ended(child):  # it closed its output and goes on
            if time.monotonic() > deadline:
                raise _silent(path)
            time.sleep(0.005)
    out, err = output.values()
    return bytes(out), bytes(err)


def _has_ended(child: subprocess.Popen[bytes]) -> bool:
    return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _silent(path: Path) -> BinaryError:
    hint = "a cold disk, or a GPU driver that hangs: run it by hand to see; if it is llama-server, llamad tries again"
    return BinarySilentError(f"{path} has not ended {HELP_TIMEOUT:g} s after --help", hint=hint)


def _judge(path: Path, status: int, out: bytes, err: bytes) -> str:
    """The help, or BinaryError with what its end tells."""
    if status < 0:
        name = signal.Signals(-status).name
        hint = None
        if -status == signal.SIGILL:
            name = "an illegal instruction"
            hint = "this build is for another CPU: install one for this machine, or build llama.cpp on it"
        raise BinaryError(f"{path} --help was ended by {name}", hint=hint)
    if status != 0 and b"--model" not in out:
        last = err.decode(errors="replace").strip().rpartition("\n")[2][:300]
        said = f": {last}" if last else ""
        hint = _NO_LIBRARY if "shared librar" in last else _STATUS.get(status, _WRONG_PROGRAM)
        raise BinaryError(f"{path} --help ended with status {status}{said}", hint=hint)
    return out.decode(errors="replace")


def _read_cache(cache: Path) -> dict[_File, str]:
    """The help texts by file; nothing where the cache cannot be read or was not written by us."""
    try:
        entries = json.loads(read_text(cache, most=MAX_CACHE_BYTES))["help"]
        return {
            _File(Path(str(one["path"])), int(one["size"]), int(one["mtime_ns"]), str(one["environment"])): str(
                one["text"]
            )
            for one in entries
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write_cache(cache: Path, texts: Mapping[_File, str]) -> None:
    """Replace the cache in one step. It only saves time: where it cannot be written, the next start asks again."""
    newest = {(file.path, file.environment): (file, text) for file, text in texts.items()}  # one build a path
    entries = [{**asdict(file), "path": str(file.path), "text": text} for file, text in newest.values()]
    with contextlib.suppress(OSError):  # it costs the next start the time of asking
        cache.parent.mkdir(parents=True, exist_ok=True)
        replace_file(cache, json.dumps({"help": entries[-MAX_CACHED:]}).encode())
