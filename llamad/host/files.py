"""The one door by which llamad reads files: only regular files, never more than a bound, and never waiting without end.

A pipe, a device or a socket in the place of a file is refused before it is opened. A disk that does not answer (a dead
network mount) costs its reader `PATIENCE` seconds once, then OSError at once while it stays dead: the kernel cannot be
made to give up a read, so every look happens in a thread that can be left behind. All of this blocks: from the loop,
call it by `threads.aside`. What the kernel itself makes up (/proc, /sys, control groups) is read by `read_kernel`.
"""

import errno
import os
import stat
import tempfile
import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
MOST_BYTES = 4 << 20
MOST_NAMES = 100_000
PATIENCE = 10.0
"""Seconds for one file."""
MOST_STUCK = 32
"""Threads that may wait in the kernel for disks that do not answer; then nothing more is tried."""
_IDLE = 8
_MOST_LINKS = 40
"""As many as the kernel follows (path_resolution(7))."""
_KINDS = (
    (stat.S_ISDIR, errno.EISDIR, "it is a folder, not a file"),
    (stat.S_ISFIFO, errno.EINVAL, "it is a named pipe, not a file"),
    (stat.S_ISSOCK, errno.EINVAL, "it is a socket, not a file"),
    (stat.S_ISREG, 0, ""),
)


def read_bytes(path: Path, *, most: int = MOST_BYTES) -> bytes:
    """What a regular file holds; OSError, with `strerror` for people, where that cannot be had or is more than `most`
    bytes.
    """
    return within(path, lambda: _read(path, most))


def read_text(path: Path, *, most: int = MOST_BYTES) -> str:
    """As `read_bytes`, of a file in UTF-8; else UnicodeDecodeError."""
    return read_bytes(path, most=most).decode()


def read_kernel(path: Path, *, most: int = MOST_BYTES) -> str:
    """A file of /proc, /sys or a control group, which no disk can hold up: at once, on the loop as well."""
    return _read(path, most).decode(errors="replace")


def read_end(path: Path, count: int) -> bytes:
    """The last `count` bytes of a regular file that grows; OSError."""
    return within(path, lambda: _read_end(path, count))


def status(path: Path) -> os.stat_result:
    """stat(2), in bounded time; OSError where there is nothing."""
    return within(path, path.stat)


def is_folder(path: Path) -> bool:
    """Whether a folder is there that can be looked at."""
    try:
        return stat.S_ISDIR(status(path).st_mode)
    except OSError:  # whoever uses it finds out what is wrong with it
        return False


def names_in(folder: Path, *, most: int = MOST_NAMES) -> list[str]:
    """The names in a folder, sorted, `most` of them at most; OSError."""
    return within(folder, lambda: _names(folder, most))


def open_regular(path: Path) -> int:
    """Open a regular file to read, for somebody who is within `within` and closes the descriptor."""
    _judge(path.stat())  # before it is opened: to open a device, or a pipe, can do something
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _judge(os.fstat(fd))
    except OSError:
        os.close(fd)
        raise
    return fd


def replace_file(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a file in one step, whatever stands in its place; who dies on the way leaves the old one. OSError."""
    fd, fresh = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        os.chmod(fresh, mode)
        os.replace(fresh, path)
    except BaseException:
        os.unlink(fresh)
        raise


def within(path: Path, look: Callable[[], T], *, patience: float = PATIENCE) -> T:
    """Do `look`, which looks at `path`, in a thread; TimeoutError (an OSError) where it takes longer than `patience`
    seconds, or at once where an earlier look at the same disk still waits.
    """
    return _threads.do(path, look, patience)


def _judge(found: os.stat_result) -> None:
    for is_so, number, words in _KINDS:
        if is_so(found.st_mode):
            if number:
                raise OSError(number, words)
            return
    raise OSError(errno.EINVAL, "it is a device, not a file")


def _read(path: Path, most: int) -> bytes:
    fd = open_regular(path)
    try:
        parts, left = [], most + 1
        while left > 0 and (part := os.read(fd, min(left, 1 << 20))):
            parts.append(part)
            left -= len(part)
    finally:
        os.close(fd)
    if left <= 0:
        raise OSError(errno.EFBIG, f"it is larger than {_size(most)}")
    return b"".join(parts)


def _names(folder: Path, most: int) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in islice(entries, most))


def _read_end(path: Path, count: int) -> bytes:
    fd = open_regular(path)
    try:
        return os.pread(fd, count, max(0, os.fstat(fd).st_size - count))
    finally:
        os.close(fd)


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"


class _Job:
    """One look, done by a thread that may be given up."""

    def __init__(self, path: Path, look: Callable[[], Any], dead: frozenset[Path]) -> None:
        self.at = path
        """What it looks at just now, free of links."""
        self._look = look
        self._dead = dead
        self.done = threading.Event()
        self.value: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._walk(self.at)
            self.value = self._look()
        except BaseException as error:  # noqa: BLE001 - who asked gets it
            self.error = error

    def _walk(self, path: Path) -> None:
        """Go to the file step by step, so that it is known at which it waits; OSError before a step onto a disk that
        is known not to answer.
        """
        mounts = _mounts() if self._dead else frozenset()
        at, rest, links = Path("/"), list(reversed(path.absolute().parts[1:])), 0
        while rest and links <= _MOST_LINKS:
            name = rest.pop()
            self.at = at.parent if name == ".." else at / name
            if self._dead and _disk(self.at, mounts) in self._dead:
                raise _no_answer("its disk does not answer")
            try:
                target = Path(os.readlink(self.at))
            except OSError:  # no link; what else is wrong with it, the look itself will find
                at = self.at
                continue
            links += 1
            at = Path("/") if target.is_absolute() else at
            rest += reversed(target.parts[1:] if target.is_absolute() else target.parts)


class _Threads:
    """The threads that look, and the disks on which looks that were given up still wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[SimpleQueue[_Job | None]] = []
        self._stuck: dict[_Job, Path] = {}

    def do(self, path: Path, look: Callable[[], T], patience: float) -> T:
        with self._lock:
            stuck = list(self._stuck.values())
        if len(stuck) >= MOST_STUCK:
            raise _no_answer(f"not read: {len(stuck)} reads already wait for disks that do not answer")
        job = _Job(path, look, frozenset(stuck))
        try:
            self._hand(job)
        except RuntimeError:  # can't start new thread: the limit of processes should fail a start, and not a look
            job.run()
            job.done.set()
        if not job.done.wait(patience):
            with self._lock:
                if not job.done.is_set():
                    self._stuck[job] = _disk(job.at, _mounts())
                    raise _no_answer(f"its disk has not answered for {patience:g} s")
        if job.error is not None:
            raise job.error
        value: T = job.value
        return value

    def _hand(self, job: _Job) -> None:
        with self._lock:
            jobs = self._idle.pop() if self._idle else None
        if jobs is None:
            jobs = SimpleQueue()
            threading.Thread(target=self._work, args=(jobs,), name="files", daemon=True).start()
        jobs.put(job)

    def _work(self, jobs: "SimpleQueue[_Job | None]") -> None:
        while (job := jobs.get()) is not None:
            job.run()
            with self._lock:
                was_given_up = self._stuck.pop(job, None) is not None
                stays = not was_given_up and len(self._idle) < _IDLE
                if stays:
                    self._idle.append(jobs)
                job.done.set()
            if not stays:
                return
            del job  # what it held need not wait for the next one

    def end(self) -> None:
        """End the idle ones (a test that counts threads)."""
        with self._lock:
            idle, self._idle = self._idle, []
        for jobs in idle:
            jobs.put(None)


def _no_answer(words: str) -> OSError:
    return TimeoutError(errno.ETIMEDOUT, words)


def _mounts() -> frozenset[Path]:
    """Where something is mounted, but for the root."""
    try:
        lines = read_kernel(Path("/proc/self/mountinfo")).splitlines()
    except OSError:  # then every file stands for itself
        return frozenset()
    return frozenset(Path(line.split(" ")[4].encode().decode("unicode_escape")) for line in lines) - {Path("/")}


def _disk(path: Path, mounts: frozenset[Path]) -> Path:
    """What is taken for the disk of a path without links: where it is mounted; for the root's own, the path itself."""
    return next((one for one in (path, *path.parents) if one in mounts), path)


_threads = _Threads()
