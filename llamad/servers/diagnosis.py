"""Why a llama-server ended: from its exit status and last log lines to a cause, words and a hint. Pure.

Also what single lines of its output say: their level, and that it is (about to be) ready.
"""

import logging
import re
import signal as signals
from collections.abc import Sequence

from llamad.host.pidfd import Exit
from llamad.servers.board import Failure
from llamad.servers.causes import GPU_MISSING, Kind, find_cause, gpu_missing, quoted

__all__ = ["Exit", "diagnose", "gpu_missing", "line_level", "ready_hint"]


_ANY: frozenset[Kind] = frozenset({"memory", "abort", "exit"})
_ABORT: frozenset[Kind] = frozenset({"memory", "abort"})
_MEMORY: frozenset[Kind] = frozenset({"memory"})
_LAST_SIGNAL = 64
_ASSERT = re.compile(r"^.*?(?P<what>[^/\s]+:\d+: GGML_ASSERT\(.*|[^/\s]+\.(?:c|cpp|cu|cuh|m|h|hpp):\d+: .+)")
_WHAT = re.compile(r"^\s*what\(\):\s+(?P<what>.+)")


def diagnose(
    ended: Exit, last_lines: Sequence[str], *, gpus_asked: bool, oom_kills: int = 0, server: str = "NAME"
) -> Failure:
    """Name the cause of an end that nobody at llamad asked for.

    `last_lines` are the last lines of the process, oldest first; `gpus_asked` whether the config gives it GPUs;
    `oom_kills` the count of `oom_kill` in its control group's memory.events since it started, `server` what commands
    in hints name. Never raises.
    """
    ended = _through_a_shell(ended)
    if ended.signal is not None:
        return _by_signal(ended, last_lines, oom_kills, server)
    found = find_cause(last_lines, _ANY) if ended.code != 0 else None
    if found is not None:
        return found
    if gpus_asked and any(gpu_missing(line) for line in last_lines):
        return GPU_MISSING
    return _by_code(ended, last_lines, server)


def _through_a_shell(ended: Exit) -> Exit:
    """A wrapper script that does not `exec` reports signal N of its child as exit code 128 + N (sh(1))."""
    if ended.code is not None and 128 < ended.code <= 128 + _LAST_SIGNAL:
        return Exit(signal=ended.code - 128)
    return ended


def _by_code(ended: Exit, lines: Sequence[str], server: str) -> Failure:
    words = _last_words(lines)
    if ended.code is None:
        message = f"it ended unseen; {words}" if words else "it ended unseen, without a word"
        return Failure("ended", message, f"see its log: `llamad logs {server}`")
    if ended.code == 0:
        return Failure(
            "ended",
            "it ended by itself with exit code 0, though nobody asked it to",
            "check extra_args for an option that prints something and exits, and whether somebody else sent SIGTERM",
        )
    if ended.code == 127:
        what = "the program or a library of it was not found (exit code 127)"
        return Failure("binary-missing", what, "check llama_server and what it needs with ldd", permanent=True)
    if ended.code == 126:
        what = "llama_server cannot be executed (exit code 126)"
        return Failure("not-executable", what, "chmod +x it, and check the noexec of its file system", permanent=True)
    message = f"it ended with exit code {ended.code}" + (f"; {words}" if words else ", without a word")
    return Failure("exit-code", message, f"see its log: `llamad logs {server}`")


def _by_signal(ended: Exit, lines: Sequence[str], oom_kills: int, server: str) -> Failure:
    match ended.signal:
        case signals.SIGKILL if oom_kills:
            return Failure(
                "oom-killed",
                "the kernel killed it because memory ran out",
                "raise limits.memory_max, lower ctx_size, or use a smaller quantisation",
            )
        case signals.SIGKILL:
            return Failure(
                "killed",
                "it was killed by SIGKILL, and not by llamad",
                "somebody used kill -9, or the host ran out of memory: `journalctl -k` names an OOM kill",
            )
        case signals.SIGILL:
            return Failure(
                "illegal-instruction",
                "this llama-server is built for another CPU (illegal instruction)",
                "install a build for this CPU: one without AVX-512 or AMX, or one that chooses at run time"
                " (GGML_CPU_ALL_VARIANTS)",
                permanent=True,
            )
        case signals.SIGABRT:
            return find_cause(lines, _ABORT) or _aborted(lines)
        case signals.SIGTERM | signals.SIGINT | signals.SIGHUP:
            hint = "somebody else ends llama-servers: use `llamad stop` to stop one for good"
            return Failure("terminated", f"somebody else ended it ({signals.Signals(ended.signal).name})", hint)
        case signals.SIGSYS:
            hint = "the unit's SystemCallFilter= is too strict for this build: see `journalctl -k`, add a drop-in"
            return Failure("forbidden-call", "the sandbox forbade a system call it made", hint)
        case signals.SIGBUS:
            hint = (
                "the model file may have been cut or replaced while it was mapped, or its disk fails: `journalctl -k`"
            )
            return find_cause(lines, _MEMORY) or Failure("bus-error", "its model file went away under it", hint)
        case signals.SIGSEGV:
            return find_cause(lines, _ABORT) or Failure(
                "segfault",
                "llama-server crashed (segmentation fault)",
                "a bug of this build or its GPU driver: try another build; LimitCORE=infinity in a drop-in keeps cores",
            )
        case number:
            assert number is not None
            return Failure("killed", f"it was {ended}", f"see its log: `llamad logs {server}`, and `journalctl -k`")


def _aborted(lines: Sequence[str]) -> Failure:
    hint = "a bug of this build or a limit of this model: try another build, or fewer options"
    for line in reversed(lines):
        if match := _ASSERT.match(line) or _WHAT.match(line):
            return Failure("aborted", f"llama-server gave up: {quoted(match['what'])}", hint)
    return Failure("aborted", "llama-server gave up (abort)", hint)


def _last_words(lines: Sequence[str]) -> str:
    """The newest line that is an error, else the newest that is not empty; quoted, without time stamp and colours."""
    told = [line for line in lines if line.strip()]
    if not told:
        return ""
    chosen = next((line for line in reversed(told) if line_level(line) == logging.ERROR), told[-1])
    plain = _COLOUR.sub("", chosen)
    prefix = _PREFIX.match(plain)
    return "its last words: " + quoted(plain if prefix is None else plain[prefix.end() :].lstrip())


_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PREFIX = re.compile(
    r"(?:\d+\.\d\d\.\d{3}\.\d{3} [DIWE]|[DWE]|I(?= (?:[^A-Za-z]|$|(?:srv|slot|que) |\w+: ))) ", re.ASCII
)
"""The time and the letter that llama.cpp puts in front (common/log.cpp). Without the time (`--no-log-timestamps`), an I
may also begin a sentence: it counts where what follows is not one.
"""
_JSON = re.compile(r'\{.*"level":\s*"(debug|info|warn|error)"')
_WORDED = re.compile(r"\s*(?:(error|terminate called|\S*GGML_ASSERT|fatal)|(warn|deprecated))(?:ing)?\b", re.IGNORECASE)
_LETTERS = {"D": logging.DEBUG, "I": logging.INFO, "W": logging.WARNING, "E": logging.ERROR}
_NAMES = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
_READY = re.compile(r"\bmodel loaded\b|\blistening on \S")


def line_level(text: str) -> int | None:
    """The logging level of one line: its letter, the `level` of a line in JSON, or words such as `error:` in front.
    None: the line does not say (it goes on where the one before ended).
    """
    text = _COLOUR.sub("", text[:300])
    if match := _PREFIX.match(text):
        return _LETTERS[match[0][-2]]
    if match := _JSON.match(text):
        return _NAMES[match[1]]
    if match := _WORDED.match(text):
        return logging.ERROR if match[1] else logging.WARNING
    if "GGML_ASSERT(" in text or text.lstrip().startswith("what():"):
        return logging.ERROR
    return None


def ready_hint(text: str) -> bool:
    """Whether a line says that the server is, or is about to be, ready: now is the moment to ask it."""
    return _READY.search(text) is not None
