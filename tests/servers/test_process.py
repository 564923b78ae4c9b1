"""Real children: how they start, how they end, what they leave, and what they can do to us (nothing)."""

# ruff: noqa: ASYNC220, ASYNC221, ASYNC222 - what blocks here takes milliseconds, and nothing else runs on the loop

import asyncio
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from llamad.host.cgroup import Group, Warnings
from llamad.host.pidfd import Exit, open_pidfd, start_time
from llamad.host.pipes import peek
from llamad.servers import process as module
from llamad.servers.board import ReplicaKey
from llamad.servers.listener import Listener
from llamad.servers.logpipe import PIPE_BYTES
from llamad.servers.output import Line, Output
from llamad.servers.process import Process, spawn
from tests.waiting import until, wait_until

KEY = ReplicaKey("a", 0)
ENVIRONMENT = {"PATH": os.environ["PATH"]}


def shell(script: str, *, outlives_llamad: bool = True, group: Group | None = None) -> Process:
    return spawn(["/bin/sh", "-c", script], ENVIRONMENT, outlives_llamad=outlives_llamad, group=group)


@asynccontextmanager
async def running(process: Process) -> AsyncIterator[bytearray]:
    """The child attached; it is killed and let go of at the end."""
    output = bytearray()
    process.attach(output.extend)
    try:
        yield output
    finally:
        process.kill()
        await asyncio.wait_for(process.ended, 10)
        process.close()


def is_alive(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("exit 0", Exit(code=0)),
        ("exit 7", Exit(code=7)),
        ("kill -SEGV $$", Exit(signal=signal.SIGSEGV)),
        ("kill -KILL $$", Exit(signal=signal.SIGKILL)),
    ],
)
@pytest.mark.parametrize("outlives_llamad", [True, False])
async def test_an_end_is_told_as_it_was(script: str, expected: Exit, outlives_llamad: bool) -> None:  # noqa: FBT001
    process = shell(f"ulimit -c 0; {script}", outlives_llamad=outlives_llamad)
    async with running(process):
        ended = await asyncio.wait_for(process.ended, 10)
    assert (ended.code, ended.signal) == (expected.code, expected.signal)


async def test_an_end_is_noticed_within_milliseconds() -> None:
    process = shell("exec sleep 60")
    async with running(process):
        await until(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n")
        killed = time.monotonic()
        os.kill(process.pid, signal.SIGKILL)
        await asyncio.wait_for(process.ended, 10)
        assert time.monotonic() - killed < 0.25  # milliseconds; the rest is for a busy machine


async def test_a_child_leads_its_own_group_and_reads_nothing() -> None:
    process = shell("cat; echo $$; ps -o pgid= -p $$ 2>/dev/null || cut -d' ' -f5 /proc/$$/stat; pwd")
    async with running(process) as output:
        await asyncio.wait_for(process.ended, 10)
    assert output.decode().split() == [str(process.pid), str(process.pid), "/"]


async def test_a_child_inherits_two_descriptors_and_no_more() -> None:
    """stdin is empty; stdout and stderr are the same pipe; a descriptor of llamad's in a child would keep it open."""
    ours, theirs = os.pipe()
    os.set_inheritable(ours, True)
    process = shell("exec /bin/ls -l /proc/self/fd")
    try:
        async with running(process) as output:
            await asyncio.wait_for(process.ended, 10)
    finally:
        os.close(ours)
        os.close(theirs)
    opened = {line.split()[-3]: line.split()[-1] for line in output.decode().splitlines() if " -> " in line}
    assert opened["0"] == "/dev/null"
    assert opened["1"] == opened["2"]
    assert set(opened) == {"0", "1", "2", "3"}  # 3: the folder that ls reads


async def test_the_last_lines_are_read_before_the_end_is_told() -> None:
    process = shell("head -c 300000 /dev/zero | tr '\\0' x; echo; echo the last line >&2; exit 1")
    got = bytearray()
    seen_at_end: list[bytes] = []
    process.ended.add_done_callback(lambda _: seen_at_end.append(bytes(got[-14:])))
    process.attach(got.extend)
    await asyncio.wait_for(process.ended, 10)
    process.close()
    await asyncio.sleep(0)
    assert seen_at_end == [b"the last line\n"]
    assert len(got) == 300_000 + 1 + 14


async def test_sigterm_goes_to_the_child_alone_and_sigkill_to_all_it_started() -> None:
    script = "trap 'echo term; exit 3' TERM; sh -c 'trap \"\" TERM; echo $$; while :; do sleep 60; done' & wait"
    process = shell(script)
    async with running(process) as output:
        await until(lambda: output.endswith(b"\n"))
        grandchild = int(output)
        process.terminate()
        assert await asyncio.wait_for(process.ended, 10) == Exit(code=3)
        assert output.endswith(b"term\n")
        await until(lambda: not is_alive(grandchild))  # what it left behind went with it


async def test_a_child_that_ignores_sigterm_dies_of_kill_with_its_grandchild_that_holds_the_pipes() -> None:
    process = shell("trap '' TERM; sleep 60 & echo $!; while :; do sleep 60; done")
    async with running(process) as output:
        await until(lambda: output.endswith(b"\n"))
        process.terminate()
        process.terminate()
        os.kill(process.pid, signal.SIGCONT)
        assert not process.ended.done()
        process.kill()
        assert await asyncio.wait_for(process.ended, 2) == Exit(signal=signal.SIGKILL)
        await until(lambda: not is_alive(int(output)))


async def test_a_grandchild_in_a_session_of_its_own_does_not_delay_the_end() -> None:
    process = shell("setsid sh -c 'echo $$; exec sleep 60' & sleep 0.02; while [ ! -e /proc/$! ]; do :; done; exit 4")
    async with running(process) as output:
        assert await asyncio.wait_for(process.ended, 30) == Exit(code=4)
        escaped = output.split()
    for pid in escaped:
        os.kill(int(pid), signal.SIGKILL)


async def test_a_child_that_closes_its_output_lives_on() -> None:
    process = shell("echo bye; exec >/dev/null 2>&1; exec sleep 60")
    async with running(process) as output:
        await until(lambda: process.log_fd < 0)
        assert output == b"bye\n"
        assert not process.ended.done()
        assert is_alive(process.pid)


async def test_a_flood_does_not_starve_the_loop() -> None:
    process = shell("exec cat /dev/zero")
    count = 0

    def count_bytes(data: bytes) -> None:
        nonlocal count
        count += len(data)

    process.attach(count_bytes)
    try:
        a_turn = []
        while count < 4 * PIPE_BYTES:
            before = count
            await asyncio.sleep(0)
            a_turn.append(count - before)
        assert 0 in a_turn, "the others have turns too"
        process.kill()
        assert await asyncio.wait_for(process.ended, 30) == Exit(signal=signal.SIGKILL)
    finally:
        process.kill()
        await process.ended
        process.close()


class Counted(Output):
    """Counts what it is given."""

    added = 0

    def add(self, line: Line) -> None:
        self.added += 1
        super().add(line)


@pytest.mark.parametrize("outlives_llamad", [False, True])
async def test_a_flood_of_empty_lines_gets_a_share_of_the_loop_and_no_more(outlives_llamad: bool) -> None:  # noqa: FBT001
    """A turn is bounded by time: a thousand lines may be in a kilobyte, and each costs what a long one does."""
    process = shell("exec yes ''", outlives_llamad=outlives_llamad)
    lines = 0
    output = Counted()
    listener = Listener(KEY, output, private=True, adopted=False, on_news=lambda: None)

    def feed(data: bytes) -> None:
        nonlocal lines
        lines += data.count(b"\n")
        listener.feed(data)

    process.attach(feed)
    try:
        began, used, worst = time.monotonic(), time.thread_time(), 0.0
        while time.monotonic() - began < 1:
            before = time.thread_time()
            await asyncio.sleep(0.005)
            worst = max(worst, time.thread_time() - before)
        assert lines > 1000
        assert worst < 0.05, "a turn took too long"
        assert time.thread_time() - used < 0.4 * (time.monotonic() - began)
        process.kill()
        await process.ended
        assert listener.lines > 500_000
        assert output.added < listener.lines / 10, "each takes time, after which the end is told"
    finally:
        process.kill()
        await process.ended
        process.close()


async def test_the_last_words_of_a_flood_are_read_before_its_end_is_told() -> None:
    process = shell("i=0; while [ $i -lt 2000 ]; do echo; i=$((i+1)); done; echo last words; exit 3")
    async with running(process) as output:
        assert await asyncio.wait_for(process.ended, 20) == Exit(code=3)
        assert output.endswith(b"last words\n")


async def test_without_a_descriptor_output_is_read_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking into a pipe without emptying it takes two; a child whose pipe is full would stand still."""

    def lacking(_pipe: int, _size: int) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("llamad.servers.logpipe.peek", lacking)
    process = shell("echo kept; sleep 60")
    async with running(process) as output:
        await until(lambda: b"kept" in output)


async def test_what_a_loading_child_uses_is_seen() -> None:
    process = shell("read line < /proc/self/stat; exec sleep 60")
    async with running(process):
        await until(lambda: min(process.memory_and_reads() or (0, 0)) > 0)  # right after an exec it has no memory yet
        usage = process.memory_and_reads()
        assert usage is not None
        memory, reads = usage
        assert 0 < memory < 1 << 30
        assert reads > 0
        assert process.oom_kills() == 0


def a_group(folder: Path) -> Group:
    """A control group as far as files go."""
    folder.mkdir()
    for name, text in {
        "cgroup.procs": "",
        "cgroup.kill": "",
        "memory.current": "4096\n",
        "memory.events": "oom 3\noom_kill 2\n",
    }.items():
        (folder / name).write_text(text)
    return Group(folder, Warnings())


async def test_a_child_joins_its_control_group_and_the_group_is_killed_with_it(tmp_path: Path) -> None:
    group = a_group(tmp_path / "srv-a")
    process = shell("exec sleep 60", group=group)
    async with running(process):
        await until(lambda: group.procs.read_text() == "0\n")
        assert process.oom_kills() == 2
    assert (group.path / "cgroup.kill").read_text() == "1"


async def test_a_group_that_cannot_be_joined_does_not_keep_a_child_from_its_start(tmp_path: Path) -> None:
    process = shell("echo here", group=Group(tmp_path / "gone", Warnings()))
    async with running(process) as output:
        assert await asyncio.wait_for(process.ended, 10) == Exit(code=0)
    assert output == b"here\n"


async def test_a_program_that_is_not_there_ends_with_a_word_about_it() -> None:
    process = spawn(["/nowhere/llama-server", "--port", "1"], ENVIRONMENT, outlives_llamad=False)
    async with running(process) as output:
        assert await asyncio.wait_for(process.ended, 10) == Exit(code=127)
    assert b"/nowhere/llama-server" in output


async def test_words_reach_the_program_as_they_are() -> None:
    words = ["a b", "", "$HOME", "*", "'", '"', "-c", "\\n", "é"]
    code = "import json, sys; print(json.dumps(sys.argv[1:]))"
    process = spawn([sys.executable, "-IS", "-c", code, *words], ENVIRONMENT, outlives_llamad=False)
    async with running(process) as output:
        await asyncio.wait_for(process.ended, 10)
    assert json.loads(output) == words


async def test_the_environment_is_the_one_given() -> None:
    process = spawn(["/usr/bin/env"], {"A": "1", "B": "two words"}, outlives_llamad=False)
    async with running(process) as output:
        await asyncio.wait_for(process.ended, 10)
    lines = {line for line in output.decode().splitlines() if not line.startswith(("PWD=", "OLDPWD=", "SHLVL=", "_="))}
    assert lines == {"A=1", "B=two words"}


async def test_closing_lets_go_once_and_leaves_the_process_alone() -> None:
    closed: list[bool] = []
    process = spawn(["/bin/sleep", "60"], ENVIRONMENT, outlives_llamad=True, on_close=lambda: closed.append(True))
    process.attach(lambda _: None)
    process.close()
    process.close()
    assert closed == [True]
    assert is_alive(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    os.waitpid(process.pid, 0)


async def test_signals_after_the_end_reach_nobody() -> None:
    process = shell("exit 0")
    async with running(process):
        await process.ended
        process.terminate()
        process.kill()


PARENT = """
import asyncio, os, sys, time
from llamad.servers.process import spawn
async def main():
    child = spawn(["/bin/sleep", "60"], {}, outlives_llamad=sys.argv[1] != "guarded")
    print(child.pid, flush=True)
    time.sleep(60)
asyncio.run(main())
"""


@pytest.mark.parametrize("guard", ["guarded", "stored"])
def test_only_outside_systemd_a_child_dies_with_llamad(guard: str) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, guard], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        pid_fd = open_pidfd(pid)
        assert pid_fd is not None
        wait_until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n")
        parent.kill()
        parent.wait()
    try:
        if guard == "guarded":
            wait_until(lambda: not is_alive(pid), seconds=2)
        else:
            assert is_alive(pid)
    finally:
        with_pidfd_kill(pid_fd)


def with_pidfd_kill(pid_fd: int) -> None:
    try:
        signal.pidfd_send_signal(pid_fd, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        os.close(pid_fd)


async def test_a_child_whose_parent_is_gone_before_the_guard_holds_does_not_start() -> None:
    """The shell between fork and exec looks whether its parent still is who started it."""
    words = ["/bin/sh", "-c", module._PRELUDE, "llamad-start", "1", "", "", "/bin/echo", "started"]
    result = subprocess.run(words, capture_output=True, check=False)
    assert (result.returncode, result.stdout) == (125, b"")


async def test_a_child_is_not_spared_by_the_oom_killer_as_llamad_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_own_oom_score", lambda: -500)
    process = shell("cat /proc/self/oom_score_adj")
    async with running(process) as output:
        await process.ended
    assert output == b"0\n"


# --- what the kernel refuses

KILLED_BEFORE_IT_WROTE = """
import asyncio, os, signal, sys
from llamad.servers.process import spawn
def die(pid):
    print(pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
async def main():
    spawn(["/bin/sh", "-c", "touch " + sys.argv[1] + "; exec sleep 60"], {}, outlives_llamad=True, write_down=die)
asyncio.run(main())
"""


def test_a_child_that_was_not_written_down_never_begins(tmp_path: Path) -> None:
    """A llamad killed between fork and ledger: where no control group catches it, nobody would know of its child."""
    command = [sys.executable, "-c", KILLED_BEFORE_IT_WROTE, str(tmp_path / "began")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=20)
    assert done.returncode == -signal.SIGKILL
    wait_until(lambda: not is_alive(int(done.stdout)))
    assert not (tmp_path / "began").exists()


async def test_a_child_begins_once_it_is_written_down_with_nothing_to_read() -> None:
    written: list[int] = []
    command = ["/bin/sh", "-c", "cat; readlink /proc/self/fd/0; ls /proc/self/fd | wc -l"]
    process = spawn(command, ENVIRONMENT, outlives_llamad=True, write_down=written.append)
    async with running(process) as output:
        assert written == [process.pid]
        await process.ended
    assert output.split() == [b"/dev/null", b"4"]


async def test_what_cannot_be_written_down_because_of_a_bug_never_begins(tmp_path: Path) -> None:
    def bug(_pid: int) -> None:
        raise ZeroDivisionError

    command = ["/bin/sh", "-c", f"touch {tmp_path}/began; exec sleep 60"]
    with pytest.raises(ZeroDivisionError):
        spawn(command, ENVIRONMENT, outlives_llamad=True, write_down=bug)
    assert os.wait()[1] == 125 << 8
    assert not (tmp_path / "began").exists()


REFUSED = """
import asyncio, json, os, resource, sys
from llamad.servers.process import spawn
async def main():
    loop = asyncio.get_running_loop()
    spawn(["/bin/true"], {}, outlives_llamad=False).close()  # what is imported late is imported now
    os.wait()
    before = set(os.listdir("/proc/self/fd"))
    top = max(int(fd) for fd in before)
    found = []
    for spare in range(12):  # one descriptor more each time: every step of a start meets the limit once
        resource.setrlimit(resource.RLIMIT_NOFILE, (top + spare, 4096))
        try:
            process = spawn(["/bin/sleep", "60"], {}, outlives_llamad=True)
        except OSError as error:
            found.append(error.errno)
        else:
            found.append(0)
            process.attach(lambda data: None)
            process.kill()
            await process.ended
            process.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 4096))
        assert set(os.listdir("/proc/self/fd")) == before, (spare, os.listdir("/proc/self/fd"), before)
        try:
            os.waitpid(-1, os.WNOHANG)
            raise AssertionError("a child was left")
        except ChildProcessError:
            pass
    print(json.dumps(found))
asyncio.run(main())
"""


def test_without_descriptors_a_start_fails_cleanly_at_every_step() -> None:
    result = subprocess.run([sys.executable, "-c", REFUSED], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert set(found) == {0, errno.EMFILE}
    assert found[0] == errno.EMFILE
    assert found[-1] == 0


async def test_a_command_line_that_is_too_long_is_refused_by_the_kernel() -> None:
    with pytest.raises(OSError, match="Argument list too long") as caught:
        spawn(["/bin/true", "x" * (1 << 21)], ENVIRONMENT, outlives_llamad=False)
    assert caught.value.errno == errno.E2BIG


async def test_a_process_that_ends_at_once_is_held_all_the_same() -> None:
    for _ in range(20):
        process = shell("exit 5")
        async with running(process):
            assert await asyncio.wait_for(process.ended, 10) == Exit(code=5)


# --- children of an earlier llamad

EARLIER_LLAMAD = """
import os, sys
pid = os.fork()
if pid == 0:
    os.setpgid(0, 0)
    os.dup2(2, 1)
    os.execv("/bin/sh", ["sh", "-c", sys.argv[1]])
print(pid, flush=True)
os.waitpid(pid, 0)
"""


@asynccontextmanager
async def adopted(script: str, *, group: Group | None = None) -> AsyncIterator[tuple[Process, bytearray]]:
    """A process that is not our child, as live restore finds it: by pidfd and log pipe. Somebody else reaps it."""
    ours, theirs = os.pipe()
    words = [sys.executable, "-IS", "-c", EARLIER_LLAMAD, script]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=theirs) as parent:
        os.close(theirs)
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        pid_fd = open_pidfd(pid)
        assert pid_fd is not None
        process = Process(pid, pid_fd, ours, is_child=False, group=group)
        output = bytearray()
        process.attach(output.extend)
        try:
            yield process, output
        finally:
            process.kill()
            await asyncio.wait_for(process.ended, 10)
            process.close()
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # what it left, for there is no control group here


def kernel_tells() -> bool:
    return tuple(int(word) for word in os.uname().release.split(".")[:2]) >= (6, 15)


@pytest.mark.parametrize(
    ("signal_number", "expected"),
    [(signal.SIGTERM, Exit(code=3)), (signal.SIGKILL, Exit(signal=signal.SIGKILL))],
)
async def test_the_end_of_an_adopted_process_is_noticed_with_its_status(
    signal_number: signal.Signals, expected: Exit
) -> None:
    script = "trap 'echo last words; exit 3' TERM; sleep 60 & echo up; wait"
    async with adopted(script) as (process, output):
        await until(lambda: output == b"up\n")
        began = time.monotonic()
        os.kill(process.pid, signal_number)
        ended = await asyncio.wait_for(process.ended, 10)
        assert time.monotonic() - began < 1
        assert ended == (expected if kernel_tells() else Exit())
        assert bytes(output) == (b"up\nlast words\n" if signal_number is signal.SIGTERM else b"up\n")


@pytest.mark.parametrize("outlives_llamad", [True, False])
async def test_output_stays_in_the_pipe_until_it_was_dealt_with(outlives_llamad: bool) -> None:  # noqa: FBT001
    process = shell("echo a line; exec sleep 60", outlives_llamad=outlives_llamad)
    left: list[bytes] = []

    def note(data: bytes) -> None:
        left.append(peek(process.log_fd, 100) if outlives_llamad else data)

    process.attach(note)
    await until(lambda: bool(left))
    with pytest.raises(BlockingIOError):  # dealt with: it is gone
        peek(process.log_fd, 100)
    process.kill()
    await asyncio.wait_for(process.ended, 10)
    process.close()
    assert left == [b"a line\n"]


async def test_an_adopted_process_is_terminated_and_killed_like_a_child() -> None:
    async with adopted("trap '' TERM; sleep 60 & echo $!; while :; do sleep 60; done") as (process, output):
        await until(lambda: output.endswith(b"\n"))
        process.terminate()
        assert not process.ended.done()
        process.kill()
        await asyncio.wait_for(process.ended, 30)
        await until(lambda: not is_alive(int(output)))


async def test_what_an_adopted_process_leaves_in_its_control_group_goes_with_it(tmp_path: Path) -> None:
    group = a_group(tmp_path / "srv-a")
    async with adopted("exec sleep 60", group=group) as (process, _):
        process.terminate()
        await asyncio.wait_for(process.ended, 10)
        assert (group.path / "cgroup.kill").read_text() == "1"


async def test_an_adopted_process_that_is_hidden_has_the_memory_of_its_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with adopted("sleep 60", group=a_group(tmp_path / "srv-a")) as (process, _):
        real_pid, process.pid = process.pid, 1 << 30  # not to be found in /proc
        assert process.memory_and_reads() == (4096, 0)
        process._group = None
        assert process.memory_and_reads() is None
        assert process.cpu_seconds() is None
        process.pid = real_pid
        assert start_time(real_pid) is not None


async def test_an_adopted_process_that_is_hidden_shows_its_figures_by_the_descriptor_of_who_started_it() -> None:
    """As after an upgrade or a crash: /proc/PID is not there for llamad (ProtectProc=, another user namespace), and
    without controllers the group tells nothing."""
    async with adopted("sleep 60") as (process, _):
        process.stat_fd = os.open(f"/proc/{process.pid}/stat", os.O_RDONLY)
        process.pid, real_pid = 1 << 30, process.pid
        usage = process.memory_and_reads()
        assert usage is not None
        assert 100_000 < usage[0] < 1 << 30
        assert usage[1] == 0, "what is hidden is not guessed"
        assert process.cpu_seconds() is not None
        process.pid = real_pid
        process.terminate()
        await asyncio.wait_for(process.ended, 10)
        assert process.memory_and_reads() is None
        process.close()
        assert process.stat_fd == -1


async def test_where_the_kernel_does_not_tell_how_it_ended_the_end_is_told_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "adopted_exit", lambda _: None)  # before Linux 6.15
    async with adopted("exec sleep 60") as (process, _):
        process.terminate()
        assert await asyncio.wait_for(process.ended, 10) == Exit()


async def test_an_adopted_process_may_be_let_go_of_while_its_status_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asyncio.Event()

    def unknown(_: int) -> None:
        asked.set()

    monkeypatch.setattr(module, "adopted_exit", unknown)
    async with adopted("exec sleep 60") as (process, _):
        process.terminate()
        await asked.wait()
        process.close()
        await asyncio.sleep(0.02)
        process.ended.set_result(Exit())  # nobody else does


# --- what is not as it should be


async def test_a_child_that_somebody_else_reaped_ended_in_an_unknown_way() -> None:
    process = shell("exit 3")
    os.waitpid(process.pid, 0)
    async with running(process):
        assert await asyncio.wait_for(process.ended, 10) == Exit()


async def test_a_child_that_cannot_be_held_is_not_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(module, "open_pidfd", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        shell("exec sleep 60")  # the fixtures see to it that nothing is left


async def test_a_group_with_a_member_of_another_user_loses_at_least_its_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_pid: int, _number: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    process = shell("exec sleep 60")
    async with running(process):
        monkeypatch.setattr(os, "killpg", refuse)
        process.kill()
        assert await asyncio.wait_for(process.ended, 10) == Exit(signal=signal.SIGKILL)


async def test_a_machine_without_setpriv_and_proc_starts_children_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(_: Path, **__: str) -> str:
        raise OSError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("shutil.which", lambda _name, **_: None)
        patch.setattr(Path, "read_text", unreadable)
        process = shell("exit 3", outlives_llamad=False)
    async with running(process):
        assert await asyncio.wait_for(process.ended, 10) == Exit(code=3)


async def test_a_pipe_is_used_as_large_as_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr("fcntl.fcntl", refuse)
        process = shell("echo here")
    async with running(process) as output:
        await asyncio.wait_for(process.ended, 10)
    assert output == b"here\n"
