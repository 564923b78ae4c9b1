"""A child process held by pid and pidfd, with a log pipe of llamad's own.

Not asyncio's Process: its `wait()` hangs while a grandchild holds a pipe, and it cannot be built around a process that
already runs, which live restore needs.
"""

import asyncio
import fcntl
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from llamad.host.cgroup import Group
from llamad.host.files import read_kernel
from llamad.host.pidfd import Exit, adopted_exit, child_exit, open_pidfd, send_signal
from llamad.host.share import Share
from llamad.servers.guard import VARIABLE, kill_marked
from llamad.servers.logpipe import PIPE_BYTES, LogPipe

_MAX_STAT = 4096

_SECOND_LOOK = 0.05
"""Seconds after an end until what it left is looked for again."""

_PRELUDE = """
if [ -n "$1" ]; then [ "$PPID" = "$1" ] || exit 125; fi
if [ -n "$2" ]; then echo 0 2>/dev/null >"$2"; fi
if [ -n "$3" ]; then echo "$3" >/proc/self/oom_score_adj; fi
if [ -n "$4" ]; then ulimit -S -n "$4"; fi
shift 4
read -r go || exit 125
exec "$@" </dev/null
"""
"""Runs between fork and exec: the parent is still there (its death signal comes only from then on), the control group
is joined before the first thread exists, the kernel's OOM killer is not told to spare a child as it spares llamad, and
the limit of descriptors is not the one that llamad raised for itself.
A shell and not `preexec_fn`, which is not safe beside threads.
"""


class Process:
    """One child and everything that belongs to it. `ended` gets its Exit. `is_child` is false for one that an earlier
    llamad started; of one that `outlives_llamad`, no output leaves the pipe before it was dealt with, so that a killed
    llamad loses none. `stat_fd` is its /proc/PID/stat, opened by the llamad that started it (-1: none): a later
    llamad can read its memory nowhere else, for /proc hides it (ProtectProc=, PrivateUsers=). `share` bounds the time
    that the output of all children takes. `mark` is what it and all that it starts have in their environment (`guard`).
    `on_close` is called once, when it is let go.
    """

    def __init__(
        self,
        pid: int,
        pid_fd: int,
        log_fd: int,
        stat_fd: int = -1,
        *,
        is_child: bool,
        outlives_llamad: bool = False,
        group: Group | None = None,
        share: Share | None = None,
        mark: str | None = None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self.pid = pid
        self.pid_fd = pid_fd
        self._log = LogPipe(log_fd, keep=outlives_llamad, share=share or Share())
        self.stat_fd = stat_fd
        self._is_child = is_child
        self._group = group
        self._mark = mark
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[Exit] = self._loop.create_future()
        self._status_tries = 20

    @property
    def log_fd(self) -> int:
        """The reading end of its log pipe; -1: closed."""
        return self._log.fd

    def attach(self, on_output: Callable[[bytes], None]) -> None:
        """Start to read its output and to watch for its end."""
        self._log.attach(on_output)
        self._loop.add_reader(self.pid_fd, self._on_end)

    def terminate(self) -> None:
        """SIGTERM to the process alone; one that has ended is no error."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to it and to all it started in its process group and control group."""
        if not self.ended.done():
            self._kill_group()

    def oom_kills(self) -> int:
        """How often the kernel killed for lack of memory in its control group; 0 where that is not known."""
        return (self._group.oom_kills() or 0) if self._group is not None else 0

    def memory_and_reads(self) -> tuple[int, int] | None:
        """Resident bytes, and bytes read or written (a download) so far; 0 of these where they are hidden. None where
        nobody shows any.
        """
        if (seen := self._stat()) is not None:
            memory = int(seen[21]) * os.sysconf("SC_PAGE_SIZE")  # rss of proc_pid_stat(5), which counts from 1
        elif self._group is None or (memory := self._group.memory() or 0) == 0:
            return None
        try:
            io = read_kernel(Path(f"/proc/{self.pid}/io"))
        except OSError:  # of a process in another user namespace: what an earlier llamad started
            return memory, 0
        counted = (line for line in io.splitlines() if line.startswith(("rchar", "wchar", "read_bytes")))
        return memory, sum(int(line.split()[1]) for line in counted)

    def cpu_seconds(self) -> float | None:
        """Processor time used so far: of its control group, else of the process with its threads."""
        if self._group is not None and (used := self._group.cpu_seconds()) is not None:
            return used
        if (seen := self._stat()) is None:
            return None
        return (int(seen[11]) + int(seen[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime

    def _stat(self) -> list[str] | None:
        """The fields of its /proc/PID/stat after the name, from the state on."""
        try:
            text = os.pread(self.stat_fd, _MAX_STAT, 0).decode(errors="replace")
        except OSError:  # no such descriptor, or the process is gone
            return None
        return text.rpartition(")")[2].split()

    def close(self) -> None:
        """Let go of the descriptors; the process is not touched."""
        self._log.close()
        if self.pid_fd >= 0:
            self._loop.remove_reader(self.pid_fd)
            os.close(self.pid_fd)
            self.pid_fd = -1
            if self.stat_fd >= 0:
                os.close(self.stat_fd)
                self.stat_fd = -1
            self._on_close()

    def _kill_group(self) -> None:
        if self._group is not None:
            self._group.kill()
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (
            PermissionError,
            ProcessLookupError,
        ):  # a member changed its user, or it leads no group: it itself is left
            self._signal(signal.SIGKILL)
        if self._mark is not None:
            kill_marked(self._mark)

    def _kill_rest(self) -> None:
        """What it leaves behind goes with it. A process group's number is safe only while our zombie holds it."""
        if self._is_child:
            self._kill_group()
            if self._mark is not None:  # what is in the middle of an exec shows no environment
                self._loop.call_later(_SECOND_LOOK, kill_marked, self._mark)
        elif self._group is not None:
            self._group.kill()

    def _signal(self, number: signal.Signals) -> None:
        if not self.ended.done():
            send_signal(self.pid_fd, number)

    def _on_end(self) -> None:
        if self.pid_fd < 0:
            return  # let go of meanwhile
        self._loop.remove_reader(self.pid_fd)
        self._kill_rest()
        if not self._is_child and self._status_tries and adopted_exit(self.pid_fd) is None:
            self._status_tries -= 1  # who reaps it is not us: the kernel tells its status once that is done
            self._loop.call_later(0.01, self._on_end)
            return
        ended = _reap(self.pid_fd, is_child=self._is_child)
        self._log.finish(lambda: self._tell_end(ended))

    def _tell_end(self, ended: Exit) -> None:
        if not self.ended.done():
            self.ended.set_result(ended)


def _reap(pid_fd: int, *, is_child: bool) -> Exit:
    """How it ended; an empty Exit where nobody can tell."""
    try:
        return (child_exit(pid_fd) if is_child else adopted_exit(pid_fd)) or Exit()
    except ChildProcessError:
        return Exit()


def spawn(
    argv: Sequence[str],
    environment: Mapping[str, str],
    *,
    outlives_llamad: bool,
    group: Group | None = None,
    descriptors: int | None = None,
    share: Share | None = None,
    mark: str | None = None,
    write_down: Callable[[int], None] = lambda _: None,
    on_close: Callable[[], None] = lambda: None,
) -> Process:
    """Start a program in a process group of its own, its stdout and stderr in one pipe, stdin empty. OSError where the
    kernel refuses (EMFILE, EAGAIN, ENOMEM). Unless it `outlives_llamad`, the kernel ends it when llamad dies
    (PR_SET_PDEATHSIG by setpriv(1), bound to the thread that forks: call this in the main thread). `descriptors` is its
    soft limit of these, None the same as here. `mark` is put into its environment; `write_down` is
    given its pid before the program begins.
    """
    guard = [] if outlives_llamad else _death_guard()
    oom_score = "0" if _own_oom_score() < 0 else ""
    cgroup = str(group.procs) if group is not None else ""
    parent = str(os.getpid()) if guard else ""
    limit = "" if descriptors is None else str(descriptors)
    words = [*guard, "/bin/sh", "-c", _PRELUDE, "llamad-start", parent, cgroup, oom_score, limit, *argv]
    with ExitStack() as passed_on, ExitStack() as undone:
        read_end, write_end = os.pipe()
        passed_on.callback(os.close, write_end)
        undone.callback(os.close, read_end)
        waits_on, go = os.pipe()
        passed_on.callback(os.close, waits_on)
        passed_on.callback(os.close, go)
        with suppress(OSError):  # more than the user's limit, or not enough memory: 64 KiB do
            fcntl.fcntl(read_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        child = subprocess.Popen(
            words,
            stdin=waits_on,
            stdout=write_end,
            stderr=write_end,
            env={**environment, **({} if mark is None else {VARIABLE: mark})},
            cwd="/",
            process_group=0,
        )
        child.returncode = 0  # reaped here through the pidfd: subprocess must not wait for the number a second time
        pid_fd = _hold(child.pid)
        undone.callback(os.close, pid_fd)
        write_down(child.pid)
        os.write(go, b"\n")
        undone.pop_all()
    return Process(
        child.pid,
        pid_fd,
        read_end,
        _open_stat(child.pid),
        is_child=True,
        outlives_llamad=outlives_llamad,
        group=group,
        share=share,
        mark=mark,
        on_close=on_close,
    )


def _open_stat(pid: int) -> int:
    """Its /proc/PID/stat, to be read again and again; -1 where there is no descriptor left for a mere figure."""
    try:
        return os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def _hold(pid: int) -> int:
    """A pidfd of a child that is not reaped; without one (EMFILE) there can be no child."""
    try:
        pid_fd = open_pidfd(pid)
        assert pid_fd is not None, "a child that nobody has reaped is there"
    except OSError:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    return pid_fd


def _death_guard() -> list[str]:
    setpriv = shutil.which("setpriv", path="/usr/bin:/bin:/usr/sbin:/sbin")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def _own_oom_score() -> int:
    try:
        return int(read_kernel(Path("/proc/self/oom_score_adj")))
    except (OSError, ValueError):  # no /proc: then there is no score to raise either
        return 0
