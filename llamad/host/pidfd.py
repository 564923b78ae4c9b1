"""Processes by pidfd (pidfd_open(2)): a handle that never comes to mean another process, child of ours or not."""

import contextlib
import fcntl
import os
import signal
import struct
from dataclasses import dataclass
from pathlib import Path

from llamad.host.files import read_kernel

_INFO = struct.Struct("=QQ11Ii")  # struct pidfd_info of linux/pidfd.h, as first published: mask first, exit_code last
_INFO_EXIT = 1 << 3
_GET_INFO = (3 << 30) | (_INFO.size << 16) | (0xFF << 8) | 11  # _IOWR(PIDFS_IOCTL_MAGIC, 11, struct pidfd_info)
_START_TIME = 22 - 3  # its field in proc_pid_stat(5), counted from the one after the name


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: with an exit code, or by a signal; the other is None. Both are where nobody could see it."""

    code: int | None = None
    signal: int | None = None
    core_dumped: bool = False

    def __str__(self) -> str:
        if self.signal is None:
            return "exit status unknown" if self.code is None else f"exit code {self.code}"
        try:
            name = signal.Signals(self.signal).name
        except ValueError:  # a real-time signal has no name
            name = f"signal {self.signal}"
        return f"killed by {name}" + (" (core dumped)" if self.core_dumped else "")


def open_pidfd(pid: int) -> int | None:
    """A pidfd of a process, close-on-exec, the caller's to close; None where there is no such process."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def send_signal(pidfd: int, number: int) -> bool:
    """Send a signal; False where the process has ended. PermissionError is the caller's."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


def child_exit(pidfd: int) -> Exit | None:
    """Reap a child of ours that has ended; None while it runs. ChildProcessError: not a child of ours, or already
    reaped.
    """
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    if result is None:
        return None
    if result.si_code == os.CLD_EXITED:
        return Exit(code=result.si_status)
    return Exit(signal=result.si_status, core_dumped=result.si_code == os.CLD_DUMPED)


def adopted_exit(pidfd: int) -> Exit | None:
    """How a process that is not our child ended. None while it runs, for the moment until its parent has reaped it,
    and for ever on a kernel before 6.15, which does not tell.
    """
    info = bytearray(_INFO.size)
    struct.pack_into("=Q", info, 0, _INFO_EXIT)
    try:
        fcntl.ioctl(pidfd, _GET_INFO, info)
    except OSError:
        return None
    fields = _INFO.unpack(info)
    if not fields[0] & _INFO_EXIT:
        return None
    status = fields[-1]
    if os.WIFSIGNALED(status):
        return Exit(signal=os.WTERMSIG(status), core_dumped=os.WCOREDUMP(status))
    return Exit(code=os.WEXITSTATUS(status))


def pid_of(pidfd: int) -> int | None:
    """The process behind a pidfd; None once it is reaped, where it is out of sight (another pid namespace), and for
    a descriptor that is no pidfd.
    """
    with contextlib.suppress(OSError):  # a descriptor that was closed
        for line in read_kernel(Path(f"/proc/self/fdinfo/{pidfd}")).splitlines():
            name, _, value = line.partition(":")
            if name == "Pid":
                return int(value) if int(value) > 0 else None
    return None


def start_time(pid: int, *, proc: Path = Path("/proc")) -> int | None:
    """When a process started, in clock ticks since boot: with its pid and the boot id it names one process for ever.
    None where it is gone or hidden (ProtectProc).
    """
    try:
        stat = read_kernel(proc / str(pid) / "stat")
    except OSError:
        return None
    after_name = stat.rpartition(")")[2].split()  # the name may hold blanks and parentheses itself
    return int(after_name[_START_TIME]) if len(after_name) > _START_TIME else None


def boot_id(*, proc: Path = Path("/proc")) -> str | None:
    """The id of this boot of the kernel (random(4)); None where it cannot be read."""
    try:
        return read_kernel(proc / "sys/kernel/random/boot_id").strip()
    except OSError:
        return None
