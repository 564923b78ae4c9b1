"""How the fake llama-server misbehaves: the FAKE_* variables (tests/fake_llama.py names them), its log and its ends."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` imports enum: 5 ms
import os
import time

FAILURES = {
    "cuda-oom": (
        1,
        "0.01.200.000 E ggml_backend_cuda_buffer_type_alloc_buffer: allocating 6144.00 MiB on device 0: "
        "cudaMalloc failed: out of memory\n"
        "0.01.200.100 E alloc_tensor_range: failed to allocate CUDA0 buffer of size 6442450944\n"
        "0.01.200.200 E llama_model_load: error loading model: unable to allocate CUDA0 buffer\n"
        "0.01.200.300 E llama_model_load_from_file_impl: failed to load model\n"
        "0.01.200.400 E srv    load_model: failed to load model\n",
    ),
    "architecture": (
        1,
        "0.00.020.000 E llama_model_load: error loading model: unknown model architecture: 'quux'\n"
        "0.00.020.100 E llama_model_load_from_file_impl: failed to load model\n"
        "0.00.020.200 E srv    load_model: failed to load model\n",
    ),
    "no-cuda-library": (
        127,
        "llama-server: error while loading shared libraries: libcudart.so.12: cannot open shared object file: "
        "No such file or directory\n",
    ),
}
_BEGAN = time.time()
_UNLIMITED = 1e9


class _Starts:
    """Which start of this program it is, where FAKE_STARTS counts them."""

    number = 0


class _Eaten:
    """What FAKE_EAT took."""

    memory = b""


def setting(name: str) -> str:
    """A FAKE_ variable; empty: not set."""
    return os.environ.get(f"FAKE_{name}", "")


def number(name: str, default: float = 0.0) -> float:
    """A FAKE_ variable that is a number."""
    return float(setting(name) or default)


def raw(data: bytes, fd: int = 2) -> None:
    """Write all of it; that nobody reads any more is no matter, as to the real one."""
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        pass


def log(level: str, text: str) -> None:
    """A log line in the real form."""
    us = int((time.time() - _BEGAN) * 1e6)
    stamp = f"{us // 60000000}.{us // 1000000 % 60:02}.{us // 1000 % 1000:03}.{us % 1000:03}"
    raw(f"{stamp} {level} {text}\n".encode(errors="surrogateescape"))


def srv(level: str, function: str, text: str) -> None:
    """A log line of the server part."""
    log(level, f"srv  {function:>12.12}: {text}")


def escaped(text: str) -> bytes:
    """`\\xff`, `\\n` and the like to bytes."""
    return text.encode("latin-1", "backslashreplace").decode("unicode_escape").encode("latin-1", "replace")


def note_start(argv: list[str]) -> None:
    """Count this start in FAKE_STARTS."""
    if setting("STARTS"):
        fd = os.open(setting("STARTS"), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        raw(" ".join([str(os.getpid()), *argv]).encode(errors="surrogateescape") + b"\n", fd)
        os.lseek(fd, 0, 0)
        _Starts.number = os.read(fd, 1 << 20).count(b"\n")
        os.close(fd)


def _death() -> tuple[str, float]:
    """The moment of FAKE_DIE and its number; an empty moment where it does not hold for this start."""
    given = setting("DIE") or ("load" if setting("FAIL") else "")
    if _Starts.number > number("BAD_STARTS", _UNLIMITED):
        return "", 0.0
    moment, _, many = given.partition(":")
    return moment, float(many or 0)


def seconds_to_live() -> float | None:
    """How long it lives once ready, where FAKE_DIE says so."""
    moment, seconds = _death()
    return seconds if moment == "ready" else None


def die_if(moment: str, count: int = 0) -> None:
    """End here, where FAKE_DIE means this moment."""
    wanted, at = _death()
    if moment == wanted and count >= at:
        die()


def die() -> None:
    """End as FAKE_EXIT_CODE, FAKE_SIGNAL, FAKE_EXIT_LINES and FAKE_FAIL say."""
    code, words = FAILURES.get(setting("FAIL"), (1, ""))
    raw(words.encode())
    raw(escaped(setting("EXIT_LINES")))
    if setting("SIGNAL"):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        killer = int(setting("SIGNAL"))
        if killer not in (_signal.SIGKILL, _signal.SIGSTOP):
            _signal.signal(killer, _signal.SIG_DFL)
        os.kill(os.getpid(), killer)
        time.sleep(5)
    os._exit(int(setting("EXIT_CODE") or code))


def fail(text: str) -> None:
    """End as the real one does when it refuses its command line."""
    raw(f"{text}\n".encode(errors="surrogateescape"))
    os._exit(1)


def hanging(what: str) -> bool:
    """Whether `what` (or all) hangs at this moment."""
    switch = setting("HANG_FILE")
    wanted = (setting("HANG") or ("all" if switch else "")).split(",")
    return (what in wanted or "all" in wanted) and (not switch or os.path.exists(switch))


def eat(_signum: int, _frame: object) -> None:
    """Take FAKE_EAT bytes of memory, and keep them."""
    _Eaten.memory = b"x" * int(number("EAT"))


def flood() -> None:
    """FAKE_FLOOD lines a second, for ever; `empty`: as many empty ones as the pipe takes."""
    while setting("FLOOD") == "empty":
        raw(b"\n" * 65536)
    rate, sent, began = number("FLOOD"), 0, time.monotonic()
    text = escaped(setting("FLOOD_TEXT"))
    while True:
        while sent < rate * (time.monotonic() - began):
            raw(text) if text else srv("I", "flood", f"line {sent}")
            sent += 1
        time.sleep(0.005)
