"""Why a llama-server ended: from its exit status and last log lines to a cause, words and a hint. Pure.

What weighs is how it ended. Its lines are evidence as far as no client can have written them; those that a client may
have written only choose among what fits that end, are never the reason to give up, and are not shown to other clients.
"""

import logging
import re
import signal as signals
from collections.abc import Sequence
from dataclasses import dataclass, replace

from llamad.host.pidfd import Exit
from llamad.servers.board import Failure
from llamad.servers.causes import Kind, find_cause, quoted
from llamad.servers.loglines import line_level, without_prefix

__all__ = ["Exit", "LastLines", "diagnose", "is_unexplained"]


@dataclass(frozen=True, slots=True)
class LastLines:
    """The last lines of a process, oldest first: those that no client can have written, and those since. `served`: it
    had been READY, and the first ones explain nothing any more.
    """

    own: Sequence[str] = ()
    since: Sequence[str] = ()
    served: bool = False


_ANY: frozenset[Kind] = frozenset({"memory", "abort", "exit"})
_ABORT: frozenset[Kind] = frozenset({"memory", "abort"})
_MEMORY: frozenset[Kind] = frozenset({"memory"})
_LAST_SIGNAL = 64
_ASSERT = re.compile(r"^.*?(?P<what>[^/\s]+:\d+: GGML_ASSERT\(.*|[^/\s]+\.(?:c|cpp|cu|cuh|m|h|hpp):\d+: .+)")
_WHAT = re.compile(r"^\s*what\(\):\s+(?P<what>.+)")


def diagnose(
    ended: Exit,
    lines: LastLines,
    *,
    lack: Failure | None = None,
    rpc: bool = False,
    oom_kills: int = 0,
    server: str = "NAME",
) -> Failure:
    """Name the cause of an end that nobody at llamad asked for.

    `lack`: what it said it has not, of what it was told to use; `rpc`: it was told to use other hosts;
    `oom_kills`: the count of `oom_kill` in its control group's memory.events since it started; `server`: what commands
    in hints name. Never raises.
    """
    ended = _through_a_shell(ended)
    failure = _named(ended, lines, rpc=rpc)
    if failure is None and ended.signal is None and ended.code != 0:
        failure = lack
    if failure is None:
        failure = _by_signal(ended, lines, oom_kills, server) if ended.signal else _by_code(ended, lines, server)
    return replace(failure, permanent=False) if lines.served else failure


def is_unexplained(failure: Failure) -> bool:
    """Whether `diagnose` only knows that it ended: then `inspection.examine` may see more."""
    return failure.cause in _UNEXPLAINED


_UNEXPLAINED = frozenset({"exit-code", "ended", "binary-missing", "not-executable", "aborted", "segfault", "bus-error"})


def _named(ended: Exit, lines: LastLines, *, rpc: bool) -> Failure | None:
    """The cause that its lines name, of those that fit such an end."""
    kinds = _kinds(ended)
    own = None if lines.served else find_cause(lines.own, kinds, rpc=rpc)
    if own is not None:
        return own
    found = find_cause(lines.since, kinds, later=True, rpc=rpc)
    return None if found is None else replace(found, public=_plain(ended))


def _kinds(ended: Exit) -> frozenset[Kind]:
    match ended.signal:
        case None:
            return frozenset() if ended.code == 0 else _ANY
        case signals.SIGABRT | signals.SIGSEGV:
            return _ABORT
        case signals.SIGBUS:
            return _MEMORY
        case _:
            return frozenset()


def _plain(ended: Exit) -> str:
    return f"it ended ({ended})"


def _through_a_shell(ended: Exit) -> Exit:
    """A wrapper script that does not `exec` reports signal N of its child as exit code 128 + N (sh(1))."""
    if ended.code is not None and 128 < ended.code <= 128 + _LAST_SIGNAL:
        return Exit(signal=ended.code - 128)
    return ended


def _by_code(ended: Exit, lines: LastLines, server: str) -> Failure:
    words = _last_words(lines)
    public = _plain(ended) if lines.since else None
    log = f"see its log: `llamad logs {server}`"
    if ended.code is None:
        return Failure(
            "ended", f"it ended unseen; {words}" if words else "it ended unseen, without a word", log, public=public
        )
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
    return Failure("exit-code", message, log, public=public)


def _by_signal(ended: Exit, lines: LastLines, oom_kills: int, server: str) -> Failure:
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
            return _aborted(ended, lines)
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
            return Failure("bus-error", "its model file went away under it", hint)
        case signals.SIGSEGV:
            return Failure(
                "segfault",
                "llama-server crashed (segmentation fault)",
                "a bug of this build or its GPU driver: try another build; LimitCORE=infinity in a drop-in keeps cores",
            )
        case number:
            assert number is not None
            return Failure("killed", f"it was {ended}", f"see its log: `llamad logs {server}`, and `journalctl -k`")


def _aborted(ended: Exit, lines: LastLines) -> Failure:
    hint = "a bug of this build or a limit of this model: try another build, or fewer options"
    for line in reversed(_newest(lines)):
        if match := _ASSERT.match(line) or _WHAT.match(line):
            public = _plain(ended) if lines.since else None
            what = quoted(match["what"]) if public is None else f'"{quoted(match["what"])}"'
            return Failure("aborted", f"llama-server gave up: {what}", hint, public=public)
    return Failure("aborted", "llama-server gave up (abort)", hint)


def _newest(lines: LastLines) -> Sequence[str]:
    """The lines that tell of the end."""
    return lines.since if lines.since or lines.served else lines.own


def _last_words(lines: LastLines) -> str:
    """The newest line that is an error, else the newest that is not empty; quoted, without time stamp."""
    told = [line for line in _newest(lines) if line.strip()]
    if not told:
        return ""
    chosen = next((line for line in reversed(told) if line_level(line) == logging.ERROR), told[-1])
    words = quoted(without_prefix(chosen))
    return f'its last words: "{words}"' if lines.since else f"its last words: {words}"
