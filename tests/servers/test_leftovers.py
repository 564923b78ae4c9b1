"""What an earlier llamad left running: real processes, and ledgers of every sort."""

import asyncio
import errno
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llamad.config.model import ServerConfig
from llamad.host.address import UnixAddress
from llamad.host.cgroup import Group, Groups, Warnings
from llamad.host.pidfd import boot_id, open_pidfd, start_time
from llamad.servers import leftovers
from llamad.servers.board import Failure
from llamad.servers.command import Launch
from llamad.servers.launcher import LOG_FD, PID_FD, STAT_FD, ProcessLauncher
from llamad.servers.ledger import Ledger, Record, read_ledger
from llamad.servers.leftovers import assign, claim, end_groups, end_processes, end_recorded
from llamad.servers.plan import Intent
from llamad.servers.process import Process
from tests.builders import a_launch
from tests.folders import short_folder

NOWHERE = Path("/nowhere")


@contextmanager
def a_leftover(
    script: str = "exec sleep 60", *, first: str = ":", **changes: Any
) -> Iterator[tuple[subprocess.Popen[bytes], Record]]:
    """A process that a dead llamad has recorded; it says when it is up, and does `first` before that."""
    words = ["/bin/sh", "-c", f"{first}; echo up; {script}"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, process_group=0) as process:
        assert process.stdout is not None
        assert process.stdout.read(3) == b"up\n"
        try:
            yield process, replace(a_record(process.pid), **changes)
        finally:
            process.kill()


def a_record(pid: int = 4711, **changes: Any) -> Record:
    record = Record(
        "a", 0, 0, pid, start_time(pid) or 0, boot_id() or "", a_launch().fingerprint, "unix:/x", time.monotonic()
    )
    return replace(record, **changes)


class AGroup(Group):
    """A control group whose processes are gone `looks` looks after they were killed."""

    def __init__(self, path: Path, *, alive: bool, looks: int = 2) -> None:
        super().__init__(path, Warnings())
        self.alive, self.was_killed, self.is_removed = alive, False, False
        self._looks = looks

    def populated(self) -> bool:
        return self.alive

    def kill(self) -> None:
        self.was_killed = True

    def remove(self) -> bool:
        if self.alive and self.was_killed:
            self._looks -= 1
            self.alive = self._looks > 0
        self.is_removed = not self.alive
        return self.is_removed


async def test_a_control_group_that_nobody_knows_is_ended_and_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    groups = {name: AGroup(tmp_path / name, alive=name != "empty") for name in ("kept", "stranger", "empty")}
    assert await end_groups(groups, ["kept"])
    assert {name: (group.was_killed, group.is_removed) for name, group in groups.items()} == {
        "kept": (False, False),
        "stranger": (True, True),
        "empty": (True, True),
    }
    assert [record.getMessage() for record in caplog.records] == [
        "stranger of an earlier llamad is known to nobody: ending it"
    ]


async def test_a_control_group_that_does_not_empty_does_not_stop_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(leftovers, "KILL_TIMEOUT", 0.05)
    stuck = AGroup(tmp_path, alive=True, looks=1000)
    assert await end_groups({"stuck": stuck}, []) is False
    assert (stuck.was_killed, stuck.is_removed) == (True, False)
    assert caplog.records[-1].getMessage() == "stuck of an earlier llamad cannot be ended"
    stays = AGroup(tmp_path, alive=True, looks=1000)
    stays.populated = lambda: False  # type: ignore[method-assign]
    assert await end_groups({"stays": stays}, []), "a folder that cannot be removed runs nothing"


# --- ended where nobody kept them


async def test_a_leftover_is_ended_and_its_socket_goes(caplog: pytest.LogCaptureFixture) -> None:
    with short_folder() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))
        with a_leftover(address=f"unix:{folder}/s") as (process, record):
            assert await asyncio.wait_for(end_recorded([record], folder), 30)
            assert process.wait(5) == -signal.SIGTERM
        assert not (folder / "s").exists()
    assert [one.getMessage() for one in caplog.records] == [
        f"a-0-0 of an earlier llamad still runs as pid {process.pid}: ending it"
    ]


async def test_one_that_ignores_sigterm_is_killed_with_all_it_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "TERM_TIMEOUT", 0.05)
    script = "trap '' TERM; sleep 60 & echo $!; while :; do sleep 60; done"
    with a_leftover(script) as (process, record):
        assert process.stdout is not None
        grandchild = open_pidfd(int(process.stdout.readline()))
        assert grandchild is not None
        try:
            await asyncio.wait_for(end_recorded([record], NOWHERE), 30)
            assert process.wait(5) == -signal.SIGKILL
            assert await leftovers._ended_within(grandchild, 5)
        finally:
            os.close(grandchild)


async def test_what_an_obedient_one_leaves_goes_too() -> None:
    with a_leftover("trap 'exit 0' TERM; sh -c 'trap \"\" TERM; echo $$; sleep 60' & wait") as (process, record):
        assert process.stdout is not None
        grandchild = open_pidfd(int(process.stdout.readline()))
        assert grandchild is not None
        try:
            await asyncio.wait_for(end_recorded([record], NOWHERE), 30)
            assert await leftovers._ended_within(grandchild, 5)
        finally:
            os.close(grandchild)


async def test_many_leftovers_end_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "TERM_TIMEOUT", 0.3)
    with ExitStack() as stack:
        records = [stack.enter_context(a_leftover("sleep 60; :", first="trap '' TERM"))[1] for _ in range(5)]
        began = time.monotonic()
        await end_recorded(records, NOWHERE)
        assert 0.3 <= time.monotonic() - began < 1.2


async def test_one_that_cannot_be_killed_is_told_and_does_not_stop_the_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> bool:
        raise PermissionError(1, "Operation not permitted")

    for name, to in {"TERM_TIMEOUT": 0.01, "KILL_TIMEOUT": 0.01, "send_signal": refuse}.items():
        monkeypatch.setattr(leftovers, name, to)
    monkeypatch.setattr(os, "killpg", refuse)
    with a_leftover() as (process, record):
        assert await end_recorded([record], NOWHERE) is False
        assert process.poll() is None
        assert caplog.records[-1].getMessage() == f"a-0-0 of an earlier llamad cannot be ended: pid {process.pid}"


@pytest.mark.parametrize("changes", [{"start_ticks": 1}, {"boot_id": "of another boot"}])
async def test_a_pid_that_means_another_process_now_is_not_touched(
    changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with a_leftover(**changes) as (process, record):
        await end_recorded([record], NOWHERE)
        assert process.poll() is None
    assert caplog.records == []


async def test_one_that_is_gone_is_no_matter() -> None:
    with a_leftover("exit 0") as (process, record):
        process.wait(5)
        await end_recorded([record, a_record(address="127.0.0.1:8080")], NOWHERE)


async def test_only_a_socket_is_removed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.touch()
    await end_recorded([a_record(boot_id="old", address=f"unix:{precious}")], tmp_path)
    assert precious.exists()


@pytest.mark.parametrize("where", ["{folder}/s", "{folder}/servers/../s", "{folder}/servers/link/s"])
async def test_no_socket_outside_of_llamads_own_folder_is_removed(where: str) -> None:
    with short_folder() as folder, socket.socket(socket.AF_UNIX) as listener:
        (folder / "servers").mkdir()
        (folder / "servers/link").symlink_to(folder)
        listener.bind(str(folder / "s"))
        record = a_record(boot_id="old", address="unix:" + where.format(folder=folder))
        await end_recorded([record], folder / "servers")
        assert (folder / "s").exists()


async def test_a_socket_that_cannot_be_removed_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with short_folder() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", refuse)
            await end_recorded([a_record(boot_id="old", address=f"unix:{folder}/s")], folder)
        assert f"cannot remove {folder}/s: Read-only file system" in caplog.text


async def test_what_it_started_as_another_user_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    with a_leftover() as (process, record), monkeypatch.context() as patch:
        patch.setattr(os, "killpg", refuse)
        assert await end_recorded([record], NOWHERE)
        assert process.wait(5) == -signal.SIGTERM
    assert f"what pid {process.pid} has started cannot be ended: Operation not permitted" in caplog.text


async def test_one_that_leads_no_group_is_killed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise ProcessLookupError

    monkeypatch.setattr(leftovers, "TERM_TIMEOUT", 0.02)
    with a_leftover("sleep 60; :", first="trap '' TERM") as (process, record):
        with monkeypatch.context() as patch:
            patch.setattr(os, "killpg", none)
            waiting = asyncio.ensure_future(asyncio.to_thread(process.wait, 5))
            assert await end_recorded([record], NOWHERE)
        assert await waiting == -signal.SIGKILL


# --- ledgers of every sort


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"version": 2, "children": [], "stopped": []}',
        '{"version": 1}',
        '{"version": 1, "children": 5, "stopped": []}',
        "\x00\x01",
        "[" * 100_000,
    ],
)
def test_a_garbage_ledger_is_ignored_with_one_line(text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "children.json"
    path.write_text(text)
    found = read_ledger(path)
    assert (found.records, found.stopped) == ((), frozenset())
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage().startswith(f"{path} is not usable and is ignored: ")


@pytest.mark.parametrize(
    "change", [{"pid": 1}, {"pid": 0}, {"pid": -1}, {"pid": "4"}, {"pid": True}, {"index": -1}, {"address": "nowhere"}]
)
def test_a_record_that_would_reach_somebody_else_is_not_believed(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "children.json"
    Ledger(path).put(a_record())
    document = json.loads(path.read_text())
    document["children"][0] |= change
    path.write_text(json.dumps(document))
    assert read_ledger(path).records == ()


def test_no_ledger_is_nothing_to_tell(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_ledger(tmp_path / "none").records == ()
    assert caplog.records == []


def test_a_ledger_that_is_not_text_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "l").write_bytes(b"\xff\xfe")
    assert read_ledger(tmp_path / "l").records == ()


# --- taken over where systemd kept their descriptors


@pytest.fixture
def launcher(tmp_path: Path) -> ProcessLauncher:
    return ProcessLauncher(Ledger(tmp_path / "children.json"), Groups(None), None)


class Handed:
    """Descriptors as systemd hands them over; what nobody takes is closed at the end."""

    def __init__(self) -> None:
        self.fds: dict[str, list[int]] = {}

    def pidfd(self, record: Record, pid: int | None = None) -> None:
        fd = open_pidfd(pid or record.pid)
        assert fd is not None
        self.fds.setdefault(PID_FD + record.name, []).append(fd)

    def log(self, record: Record) -> None:
        ours, theirs = os.pipe()
        os.close(theirs)
        self.fds.setdefault(LOG_FD + record.name, []).append(ours)


@pytest.fixture
def handed() -> Iterator[Handed]:
    one = Handed()
    yield one
    for fds in one.fds.values():
        for fd in fds:
            os.close(fd)


async def test_a_child_with_both_descriptors_is_claimed(launcher: ProcessLauncher, handed: Handed) -> None:
    with a_leftover() as (process, record):
        handed.pidfd(record)
        handed.log(record)
        claimed, unclaimed = claim((record,), handed.fds, launcher)
        assert (list(claimed), unclaimed, handed.fds) == ([record], [], {})
        assert claimed[record].pid == process.pid
        assert process.poll() is None
        claimed[record].attach(lambda _: None)
        claimed[record].close()


async def test_one_that_ended_meanwhile_is_claimed_too_for_its_last_words(
    launcher: ProcessLauncher, handed: Handed
) -> None:
    with a_leftover("read line; exit 3") as (process, record):
        handed.pidfd(record)
        handed.log(record)
        process.wait(5)
        claimed, _ = claim((record,), handed.fds, launcher)
        claimed[record].attach(lambda _: None)
        await asyncio.wait_for(claimed[record].ended, 30)
        claimed[record].close()


@pytest.mark.parametrize("missing", ["log", "pid", "both", "twice"])
async def test_a_child_that_lacks_a_descriptor_is_not_claimed(
    missing: str, launcher: ProcessLauncher, handed: Handed
) -> None:
    with a_leftover() as (_, record):
        if missing in ("log", "twice"):
            handed.pidfd(record)
        if missing in ("pid", "twice"):
            handed.log(record)
        if missing == "twice":
            handed.log(record)
        assert claim((record,), handed.fds, launcher) == ({}, [record])


@pytest.mark.parametrize("kept", ["its own", "another's", "none", "closed"])
async def test_the_file_of_its_figures_is_taken_over_where_it_is_its_own(
    kept: str, launcher: ProcessLauncher, handed: Handed
) -> None:
    with a_leftover() as (_, record):
        handed.pidfd(record)
        handed.log(record)
        of = {"its own": record.pid, "another's": os.getpid()}.get(kept)
        if of is not None:
            handed.fds[STAT_FD + record.name] = [os.open(f"/proc/{of}/stat", os.O_RDONLY)]
        elif kept == "closed":
            handed.fds[STAT_FD + record.name] = [10_000]
        claimed, unclaimed = claim((record,), handed.fds, launcher)
        assert unclaimed == []
        assert not handed.fds
        process = claimed[record]
        assert (process.stat_fd >= 0) is (kept == "its own")
        process.close()


@pytest.mark.parametrize("foreign", ["another process", "no pidfd", "no pipe", "closed"])
async def test_foreign_descriptors_are_refused_with_one_line_and_the_child_is_known_as_left(
    foreign: str, launcher: ProcessLauncher, handed: Handed, caplog: pytest.LogCaptureFixture
) -> None:
    with a_leftover() as (_, record):
        if foreign == "no pidfd":
            handed.fds[PID_FD + record.name] = [os.open("/dev/null", os.O_RDONLY)]
        else:
            handed.pidfd(record, os.getpid() if foreign == "another process" else None)
        if foreign == "no pipe":
            handed.fds[LOG_FD + record.name] = [os.open("/dev/null", os.O_RDONLY)]
        else:
            handed.log(record)
        kept = dict(handed.fds)
        if foreign == "closed":
            handed.fds = {PID_FD + record.name: [10_000], LOG_FD + record.name: [10_001]}
        assert claim((record,), handed.fds, launcher) == ({}, [record])
        handed.fds = kept
    assert [one.getMessage() for one in caplog.records] == [
        "the stored descriptors of a-0-0 are of something else: refused"
    ]


class Dummy:
    """Stands for a process in what only sorts."""


def a_process() -> Process:
    return Dummy()  # type: ignore[return-value]


def an_intent(*launches: Launch | Failure) -> Intent:
    return Intent(ServerConfig(name="a", model=Path("/models/a.gguf"), replicas=len(launches)), launches)


def test_a_child_goes_to_its_replica_with_its_age() -> None:
    process, record = a_process(), a_record(started_at=440.0, index=1, generation=7)
    adopted, unwanted = assign({record: process}, {"a": an_intent(a_launch(), a_launch())}, now=500.0)
    assert unwanted == {}
    one = adopted["a"][1]
    assert one.running.child is process
    assert one.running.started_at == 440.0
    assert one.running.address == UnixAddress(Path("/x"))
    assert one.current
    assert one.generation == 7


def test_a_start_that_is_yet_to_come_is_now() -> None:
    adopted, _ = assign({a_record(started_at=9e9): a_process()}, {"a": an_intent(a_launch())}, now=500.0)
    assert adopted["a"][0].running.started_at == 500.0


def test_a_child_of_another_launch_is_taken_over_to_be_replaced() -> None:
    adopted, unwanted = assign({a_record(): a_process()}, {"a": an_intent(a_launch("b"))}, now=1.0)
    assert not adopted["a"][0].current
    assert unwanted == {}


@pytest.mark.parametrize(
    "wanted",
    [{}, {"b": an_intent(a_launch())}],
    ids=["nothing", "another"],
)
def test_a_child_that_nobody_wants_is_to_be_ended(wanted: dict[str, Intent]) -> None:
    process, record = a_process(), a_record()
    assert assign({record: process}, wanted, now=1.0) == ({}, {record: process})


def test_a_child_goes_on_where_nothing_could_be_started_in_its_place() -> None:
    process, record = a_process(), a_record()
    failure = Failure("binary-missing", "it is not there")
    adopted, unwanted = assign({record: process}, {"a": an_intent(failure)}, now=1.0)
    assert unwanted == {}
    one = adopted["a"][0]
    assert (one.current, one.fingerprint) == (True, record.fingerprint)
    assert (one.running.launch, one.running.model, one.running.gpus_asked) == (failure, None, False)


def test_a_replica_that_is_no_more_is_to_be_ended() -> None:
    process, record = a_process(), a_record(index=1)
    assert assign({record: process}, {"a": an_intent(a_launch())}, now=1.0) == ({}, {record: process})


def test_of_two_sides_of_a_replace_the_newer_goes_on() -> None:
    old, new = a_process(), a_process()
    before, after = a_record(generation=1), a_record(generation=2)
    adopted, unwanted = assign({after: new, before: old}, {"a": an_intent(a_launch())}, now=1.0)
    assert adopted["a"][0].running.child is new
    assert unwanted == {before: old}


async def test_unwanted_ones_are_ended_and_let_go_of(launcher: ProcessLauncher, handed: Handed) -> None:
    with a_leftover() as (process, record):
        handed.pidfd(record)
        handed.log(record)
        claimed, _ = claim((record,), handed.fds, launcher)
        waiting = asyncio.ensure_future(asyncio.to_thread(process.wait, 5))
        await asyncio.wait_for(end_processes(claimed, NOWHERE), 30)
        assert await waiting == -signal.SIGTERM
    await end_processes({}, NOWHERE)


async def test_unwanted_ones_that_do_not_obey_are_killed(
    launcher: ProcessLauncher, handed: Handed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "TERM_TIMEOUT", 0.02)
    with a_leftover("sleep 60; :", first="trap '' TERM") as (process, record):
        handed.pidfd(record)
        handed.log(record)
        claimed, _ = claim((record,), handed.fds, launcher)
        waiting = asyncio.ensure_future(asyncio.to_thread(process.wait, 5))
        await asyncio.wait_for(end_processes(claimed, NOWHERE), 30)
        assert await waiting == -signal.SIGKILL
