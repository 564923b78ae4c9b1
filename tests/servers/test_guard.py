"""In the foreground nothing of a server survives it, nor llamad, wherever it went."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamad.servers import guard as module
from llamad.servers.guard import VARIABLE, Guard, kill_marked
from llamad.servers.process import spawn
from tests.waiting import until, wait_until

ENVIRONMENT = {"PATH": os.environ["PATH"]}
LEAVES = "setsid sh -c 'echo $$; exec sleep 60' & wait $!; exec sleep 60"
"""A server that runs its real program in a session of its own."""
DAEMON = """import os, sys
reads, writes = os.pipe()
if os.fork():
    os.read(reads, 1)
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
print(os.getpid(), flush=True)
os.write(writes, b"x")
os.execvp("sleep", ["sleep", "60"])
"""


def is_alive(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def guard() -> Iterator[Guard]:
    with Guard() as one:
        yield one


@pytest.mark.parametrize("how", ["killed", "by itself", "daemon"])
async def test_what_a_server_left_in_another_session_ends_with_it(how: str, guard: Guard) -> None:
    script = {"killed": LEAVES, "by itself": LEAVES.replace("wait $!; exec sleep 60", "sleep 0.1")}
    command = [sys.executable, "-c", DAEMON] if how == "daemon" else ["/bin/sh", "-c", script[how]]
    process = spawn(command, ENVIRONMENT, outlives_llamad=False, mark=guard.mark())
    output = bytearray()
    process.attach(output.extend)
    await until(lambda: output.endswith(b"\n"))
    if how == "killed":
        process.kill()
    await asyncio.wait_for(process.ended, 10)
    await until(lambda: not is_alive(int(output)))
    process.close()


async def test_one_servers_end_touches_no_other(guard: Guard) -> None:
    one, two = (spawn(["/bin/sleep", "60"], {}, outlives_llamad=False, mark=guard.mark()) for _ in range(2))
    for process in (one, two):
        process.attach(lambda _: None)
    one.kill()
    await asyncio.wait_for(one.ended, 10)
    assert not two.ended.done()
    two.kill()
    await asyncio.wait_for(two.ended, 10)
    one.close()
    two.close()


PARENT = """
import asyncio, os, signal, sys, time
from llamad.servers.guard import Guard
from llamad.servers.process import spawn
async def main():
    with Guard() as guard:
        read_end, write_end = os.pipe()
        command = ["/bin/sh", "-c", sys.argv[1]]
        child = spawn(command, {"PATH": os.environ["PATH"]}, outlives_llamad=False, mark=guard.mark())
        print(child.pid, os.read(child.log_fd, 100).decode().strip(), flush=True)
        if sys.argv[2] == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["killed", "ended"])
def test_what_a_server_left_ends_with_llamad_however_that_ends(how: str) -> None:
    """The death signal of a parent reaches its children and nobody else."""
    command = [sys.executable, "-c", PARENT, LEAVES, how]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=20)
    assert done.returncode == (-signal.SIGKILL if how == "killed" else 0)
    for pid in done.stdout.split():
        wait_until(lambda pid=pid: not is_alive(int(pid)))  # type: ignore[misc]


def test_only_marked_processes_are_killed() -> None:
    with (
        subprocess.Popen(["/bin/sleep", "60"], env={VARIABLE: "a-1"}) as marked,
        subprocess.Popen(["/bin/sleep", "60"], env={VARIABLE: "a-10", "X": f"{VARIABLE}=a-1"}) as other,
    ):
        wait_until(lambda: Path(f"/proc/{other.pid}/comm").read_text() == "sleep\n")
        kill_marked("a-1")
        assert marked.wait(5) == -signal.SIGKILL
        assert other.poll() is None
        other.kill()


def test_a_watcher_that_was_killed_is_replaced() -> None:
    with Guard() as guard:
        guard.mark()
        first = guard._watcher
        assert first is not None
        first.kill()
        first.wait()
        guard.mark()
        assert guard._watcher is not first
        assert first.stdin is not None
        first.stdin.close()


def test_a_machine_too_busy_for_a_shell_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_END_TIMEOUT", 0.05)
    with Guard() as guard:
        guard.mark()
        watcher = guard._watcher
        assert watcher is not None
        os.kill(watcher.pid, signal.SIGSTOP)
    os.kill(watcher.pid, signal.SIGKILL)
    os.waitpid(watcher.pid, 0)


def test_without_a_child_there_is_no_watcher() -> None:
    with Guard() as guard:
        assert guard._watcher is None
