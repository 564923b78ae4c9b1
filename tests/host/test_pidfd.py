"""Processes by pidfd: real children, and grandchildren that are not ours to wait for."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamad.host.pidfd import (
    Exit,
    adopted_exit,
    boot_id,
    child_exit,
    open_pidfd,
    pid_of,
    send_signal,
    start_time,
)


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits for a line on its standard input and exits with it."""
    code = "import sys; sys.exit(int(sys.stdin.readline()))"
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", code], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


@pytest.fixture
def pidfd(child: subprocess.Popen[bytes]) -> Iterator[int]:
    fd = open_pidfd(child.pid)
    assert fd is not None
    yield fd
    os.close(fd)


def wait_for_end(pidfd: int) -> None:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(5000), "the process did not end"


def tell(child: subprocess.Popen[bytes], line: bytes) -> None:
    assert child.stdin is not None
    child.stdin.write(line)
    child.stdin.flush()


def test_an_exit_code_is_reaped_once(child: subprocess.Popen[bytes], pidfd: int) -> None:
    assert child_exit(pidfd) is None
    assert pid_of(pidfd) == child.pid
    tell(child, b"7\n")
    wait_for_end(pidfd)
    assert child_exit(pidfd) == Exit(code=7)
    assert pid_of(pidfd) is None
    with pytest.raises(ChildProcessError):
        child_exit(pidfd)
    assert not send_signal(pidfd, signal.SIGTERM)
    assert open_pidfd(child.pid) is None


def test_a_signal_is_told(child: subprocess.Popen[bytes], pidfd: int) -> None:
    assert send_signal(pidfd, signal.SIGKILL)
    wait_for_end(pidfd)
    assert child_exit(pidfd) == Exit(signal=signal.SIGKILL)


def test_a_pidfd_reaches_no_child(pidfd: int) -> None:
    assert not os.get_inheritable(pidfd)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (Exit(code=0), "exit code 0"),
        (Exit(signal=9), "killed by SIGKILL"),
        (Exit(signal=11, core_dumped=True), "killed by SIGSEGV (core dumped)"),
        (Exit(signal=40), "killed by signal 40"),
    ],
)
def test_an_end_in_words(how: Exit, words: str) -> None:
    assert str(how) == words


GUARDIAN = """
import os, sys
pid = os.fork()
if pid == 0:
    os.close(1)
    line = sys.stdin.readline()
    if line == "kill\\n":
        os.kill(os.getpid(), 9)
    os._exit(int(line))
print(pid, flush=True)
os.waitpid(pid, 0)
print("reaped", flush=True)
"""


@pytest.mark.parametrize(("line", "expected"), [("3", Exit(code=3)), ("kill", Exit(signal=9))])
def test_the_end_of_a_process_that_is_not_our_child(line: str, expected: Exit) -> None:
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", GUARDIAN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        fd = open_pidfd(int(parent.stdout.readline()))
        assert fd is not None
        try:
            assert adopted_exit(fd) is None
            with pytest.raises(ChildProcessError):
                child_exit(fd)
            parent.stdin.write(line + "\n")
            parent.stdin.flush()
            assert parent.stdout.readline() == "reaped\n"
            wait_for_end(fd)
            release = tuple(int(word) for word in os.uname().release.split(".")[:2])
            assert adopted_exit(fd) == (expected if release >= (6, 15) else None)
        finally:
            os.close(fd)


def test_what_is_no_pidfd_tells_nothing() -> None:
    ours, theirs = os.pipe()
    try:
        assert adopted_exit(ours) is None
        assert pid_of(ours) is None
    finally:
        os.close(ours)
        os.close(theirs)
    assert pid_of(987) is None


def test_a_start_time_is_read_past_any_name(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    rest = " ".join(str(number) for number in range(4, 53))
    (tmp_path / "7/stat").write_text(f"7 (a) b (c)) S {rest}\n")
    assert start_time(7, proc=tmp_path) == 22
    (tmp_path / "7/stat").write_text("7 (short) S 1\n")
    assert start_time(7, proc=tmp_path) is None
    assert start_time(8, proc=tmp_path) is None


def test_a_start_time_of_a_real_process_lies_between_boot_and_now() -> None:
    mine = start_time(os.getpid())
    assert mine is not None
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    assert 0 < mine <= uptime * os.sysconf("SC_CLK_TCK") + 1


def test_the_boot_has_an_id(tmp_path: Path) -> None:
    found = boot_id()
    assert found is not None
    assert len(found) == 36
    assert boot_id(proc=tmp_path) is None
