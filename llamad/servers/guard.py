"""In the foreground, without a control group: who ends what a server left outside of its process group.

A server that goes into a session of its own (setsid(2), a daemon, a wrapper script that starts another program) is out
of reach of signals to its group and of its parent's death signal. Whatever it starts inherits its environment, and so a
mark in there tells whose it is.
"""

import itertools
import os
import secrets
import signal
import subprocess
from pathlib import Path
from types import TracebackType

from llamad.host.files import read_kernel
from llamad.host.pidfd import open_pidfd, send_signal

VARIABLE = "LLAMAD_CHILD"
_PASSES = 20
_END_TIMEOUT = 5.0
_WATCH = f"""
trap '' HUP INT QUIT TERM
read -r _
for pass in 1 2 3; do
    for file in $(grep -lsz "^{VARIABLE}=$1-" /proc/[0-9]*/environ); do
        pid=${{file#/proc/}}
        kill -KILL "${{pid%/environ}}" 2>/dev/null
    done
done
"""
"""Waits for the end of a pipe that only llamad holds, so that it sees any end of llamad, SIGKILL too."""


class Guard:
    """A process that ends whatever has one of its marks once llamad has ended; it is started with the first mark, and
    ends with the block.
    """

    def __init__(self) -> None:
        self._run = secrets.token_hex(8)
        self._numbers = itertools.count()
        self._watcher: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Guard":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watcher is not None:
            try:
                self._watcher.communicate(timeout=_END_TIMEOUT)
            except subprocess.TimeoutExpired:  # a machine too busy for a shell: what it would do goes on without us
                self._watcher.returncode = 0

    def mark(self) -> str:
        """A new mark for a child. OSError where the kernel refuses to start the watcher."""
        if self._watcher is None or self._watcher.poll() is not None:
            self._watcher = subprocess.Popen(
                ["/bin/sh", "-c", _WATCH, "llamad-guard", self._run],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"PATH": "/usr/bin:/bin"},
                cwd="/",
                start_new_session=True,
            )
        return f"{self._run}-{next(self._numbers)}"


def kill_marked(mark: str) -> None:
    """SIGKILL to every process with this mark that can be seen, until no new one is found."""
    known: set[int] = set()
    for _ in range(_PASSES):
        found = {pid for pid in _pids() if pid not in known and _kill_if_marked(pid, mark)}
        if not found:
            return
        known |= found


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _kill_if_marked(pid: int, mark: str) -> bool:
    try:
        if not _has(pid, mark):  # most have not, and cost no more than this
            return False
        pid_fd = open_pidfd(pid)
        if pid_fd is None:
            return False
        try:
            return _has(pid, mark) and send_signal(pid_fd, signal.SIGKILL)  # asked after the pidfd: it is this very one
        finally:
            os.close(pid_fd)
    except OSError:  # another user's, or it has ended
        return False


def _has(pid: int, mark: str) -> bool:
    return f"\0{VARIABLE}={mark}\0" in f"\0{read_kernel(Path(f'/proc/{pid}/environ'))}"
