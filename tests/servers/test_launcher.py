"""A start leaves its traces where the next llamad looks for them, and an end takes them away."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from llamad.config.model import LimitsConfig
from llamad.host.address import UnixAddress
from llamad.host.cgroup import Group, Groups, Limits, Warnings
from llamad.host.notify import Notifier, SystemdEnvironment
from llamad.host.pidfd import boot_id, open_pidfd, start_time
from llamad.servers import launcher as module
from llamad.servers.board import ReplicaKey
from llamad.servers.command import Launch
from llamad.servers.launcher import ProcessLauncher
from llamad.servers.ledger import Ledger, read_ledger
from llamad.servers.process import Process, spawn
from tests.builders import a_launch
from tests.service_manager import ServiceManager, service_manager

KEY = ReplicaKey("a", 0, 3)
ADDRESS = UnixAddress(Path("/tmp/nowhere.sock"))


@pytest.fixture
def manager() -> Iterator[ServiceManager]:
    with service_manager() as one:
        yield one


@pytest.fixture
def notifier(manager: ServiceManager) -> Iterator[Notifier]:
    with Notifier(SystemdEnvironment(notify_socket=str(manager.path))) as one:
        yield one


def sleeper(folder: Path, **changes: Any) -> Launch:
    program = folder / "sleeper"
    program.write_text('#!/bin/sh\necho "$@"\nexec sleep 60\n')
    program.chmod(0o755)
    return a_launch(binary=program, **changes)


@asynccontextmanager
async def launched(launcher: ProcessLauncher, launch: Launch, key: ReplicaKey = KEY) -> AsyncIterator[Process]:
    process = launcher(key, launch, ADDRESS, {"PATH": os.environ["PATH"]})
    process.attach(lambda _: None)
    try:
        yield process
    finally:
        await end(process)


async def end(process: Process) -> None:
    process.kill()
    await asyncio.wait_for(process.ended, 10)
    process.close()


async def test_a_child_is_in_the_ledger_for_as_long_as_it_runs(tmp_path: Path) -> None:
    path = tmp_path / "children.json"
    launch = sleeper(tmp_path)
    async with launched(ProcessLauncher(Ledger(path), Groups(None), None), launch) as process:
        (record,) = read_ledger(path).records
        assert record.key == KEY
        assert record.pid == process.pid
        assert record.start_ticks == start_time(process.pid)
        assert record.boot_id == boot_id()
        assert record.fingerprint == launch.fingerprint
        assert record.address == "unix:/tmp/nowhere.sock"
    assert read_ledger(path).records == ()


async def test_its_descriptors_are_stored_and_removed(
    tmp_path: Path, manager: ServiceManager, notifier: Notifier
) -> None:
    launcher = ProcessLauncher(Ledger(tmp_path / "l"), Groups(None), notifier)
    async with launched(launcher, sleeper(tmp_path)) as process:
        manager.pump()
        assert manager.messages == [
            "FDSTORE=1\nFDNAME=log-a-0-3\nFDPOLL=0",
            "FDSTORE=1\nFDNAME=pid-a-0-3\nFDPOLL=0",
            "FDSTORE=1\nFDNAME=stat-a-0-3\nFDPOLL=0",
        ]
        (pid_fd,) = manager.stored["pid-a-0-3"]
        signal.pidfd_send_signal(pid_fd, signal.SIGTERM)
        await asyncio.wait_for(process.ended, 10)
    manager.pump()
    assert manager.stored == {}


def fill(notifier: Notifier) -> int:
    """Fill the queue as a PID 1 that does not read would have it; returns how many messages that took."""
    sent = 0
    while notifier.remove("filler"):
        sent += 1
    return sent


async def test_what_the_queue_had_no_room_for_is_stored_later(
    tmp_path: Path, manager: ServiceManager, notifier: Notifier
) -> None:
    launcher = ProcessLauncher(Ledger(tmp_path / "l"), Groups(None), notifier)
    assert fill(notifier)
    async with launched(launcher, sleeper(tmp_path)):
        launcher.store_again()
        manager.pump()
        assert manager.stored == {}
        launcher.store_again()
        manager.pump()
        assert set(manager.stored) == {"log-a-0-3", "pid-a-0-3", "stat-a-0-3"}
        launcher.store_again()
        assert len(manager.pump()) == len(manager.messages)  # and only once


async def test_what_could_not_be_removed_is_removed_before_anything_takes_its_name(
    tmp_path: Path, manager: ServiceManager, notifier: Notifier
) -> None:
    """Two descriptors of one name would make the next llamad end the server instead of taking it over."""
    launcher = ProcessLauncher(Ledger(tmp_path / "l"), Groups(None), notifier)
    first = launcher(KEY, sleeper(tmp_path), ADDRESS, {})
    first.attach(lambda _: None)
    manager.pump()
    fill(notifier)
    await end(first)
    async with launched(launcher, sleeper(tmp_path)) as second:
        manager.pump()
        assert manager.stored["pid-a-0-3"]  # still of the first
        launcher.store_again()
        manager.pump()
        (pid_fd,) = manager.stored["pid-a-0-3"]
        signal.pidfd_send_signal(pid_fd, signal.SIGKILL)
        await asyncio.wait_for(second.ended, 10)
        assert len(manager.stored["log-a-0-3"]) == 1


async def test_a_child_that_ended_before_it_was_stored_never_is(
    tmp_path: Path, manager: ServiceManager, notifier: Notifier
) -> None:
    launcher = ProcessLauncher(Ledger(tmp_path / "l"), Groups(None), notifier)
    fill(notifier)
    await end_of_one(launcher, tmp_path)
    manager.pump()
    before = len(manager.messages)
    launcher.store_again()
    assert manager.pump()[before:] == []


async def test_output_that_was_closed_before_it_was_stored_is_not_stored(
    tmp_path: Path, manager: ServiceManager, notifier: Notifier
) -> None:
    launcher = ProcessLauncher(Ledger(tmp_path / "l"), Groups(None), notifier)
    fill(notifier)
    async with launched(launcher, sleeper(tmp_path)) as process:
        process._log.close()
        manager.pump()
        launcher.store_again()
        manager.pump()
        assert set(manager.stored) == {"pid-a-0-3", "stat-a-0-3"}


async def end_of_one(launcher: ProcessLauncher, folder: Path) -> None:
    async with launched(launcher, sleeper(folder)):
        pass


@pytest.mark.parametrize("socket_there", [True, False])
async def test_children_die_with_llamad_unless_somebody_keeps_them(
    tmp_path: Path, manager: ServiceManager, monkeypatch: pytest.MonkeyPatch, *, socket_there: bool
) -> None:
    outlives: list[bool] = []

    def spy(*args: Any, outlives_llamad: bool, **kwargs: Any) -> Process:
        outlives.append(outlives_llamad)
        return spawn(*args, outlives_llamad=outlives_llamad, **kwargs)

    monkeypatch.setattr(module, "spawn", spy)
    path = manager.path if socket_there else tmp_path / "nobody"
    with Notifier(SystemdEnvironment(notify_socket=str(path))) as notifier:
        await end_of_one(ProcessLauncher(Ledger(tmp_path / "l"), Groups(None), notifier), tmp_path)
    await end_of_one(ProcessLauncher(Ledger(tmp_path / "l"), Groups(None), None), tmp_path)
    assert outlives == [socket_there, False]


class FolderGroup(Group):
    """A control group that is a folder; who joins is noted beside it."""

    @property
    def procs(self) -> Path:
        return self.path.with_suffix(".procs")


class FakeGroups(Groups):
    """Groups that are folders."""

    def __init__(self, base: Path, *, usable: bool = True) -> None:
        super().__init__(None)
        self._folder = base
        self._usable = usable
        self.asked: list[tuple[str, Limits | None]] = []

    @property
    def usable(self) -> bool:
        return self._usable

    def create(self, name: str, limits: Limits | None = None) -> Group | None:
        self.asked.append((name, limits))
        if not self._usable:
            return None
        (self._folder / name).mkdir()
        return FolderGroup(self._folder / name, Warnings())

    def find(self, name: str) -> Group | None:
        return FolderGroup(self._folder / name, Warnings())


async def test_a_child_gets_a_control_group_with_its_limits(tmp_path: Path) -> None:
    groups = FakeGroups(tmp_path)
    launcher = ProcessLauncher(Ledger(tmp_path / "l"), groups, None)
    limits = LimitsConfig(memory_max=1 << 30, memory_high=1 << 29, cpu_weight=50)
    async with launched(launcher, sleeper(tmp_path, limits=limits)):
        assert groups.asked == [("a-0-3", Limits(memory_max=1 << 30, memory_high=1 << 29, cpu_weight=50))]
        assert (tmp_path / "a-0-3").is_dir()
    assert not (tmp_path / "a-0-3").exists()


async def test_a_control_group_that_is_not_empty_yet_is_removed_later(tmp_path: Path) -> None:
    launcher = ProcessLauncher(Ledger(tmp_path / "l"), FakeGroups(tmp_path), None)
    async with launched(launcher, sleeper(tmp_path)):
        lives_on = tmp_path / "a-0-3" / "process"
        lives_on.touch()
    launcher.store_again()
    assert (tmp_path / "a-0-3").exists()
    lives_on.unlink()
    launcher.store_again()
    assert not (tmp_path / "a-0-3").exists()
    launcher.store_again()


@pytest.mark.parametrize(("limits", "asked"), [(LimitsConfig(), 0), (LimitsConfig(cpu_weight=50), 1)])
async def test_without_delegation_only_who_wants_limits_hears_of_it(
    tmp_path: Path, limits: LimitsConfig, asked: int
) -> None:
    groups = FakeGroups(tmp_path, usable=False)
    launcher = ProcessLauncher(Ledger(tmp_path / "l"), groups, None)
    async with launched(launcher, sleeper(tmp_path, limits=limits)):
        assert len(groups.asked) == asked


@pytest.mark.parametrize("usable", [True, False])
async def test_a_start_that_the_kernel_refuses_leaves_no_group_and_no_record(tmp_path: Path, *, usable: bool) -> None:
    launcher = ProcessLauncher(Ledger(tmp_path / "l"), FakeGroups(tmp_path, usable=usable), None)
    launch = a_launch(binary=Path("/bin/true"), arguments=("x" * (1 << 21),), limits=LimitsConfig(cpu_weight=5))
    with pytest.raises(OSError, match="Argument list too long"):
        launcher(KEY, launch, ADDRESS, {})
    assert not (tmp_path / "a-0-3").exists()
    assert read_ledger(tmp_path / "l").records == ()


async def test_an_adopted_child_is_in_the_ledger_and_in_its_group_again(
    tmp_path: Path, manager: ServiceManager, notifier: Notifier
) -> None:
    groups = FakeGroups(tmp_path)
    async with launched(ProcessLauncher(Ledger(tmp_path / "old"), groups, None), sleeper(tmp_path)) as child:
        (record,) = read_ledger(tmp_path / "old").records
        ours, theirs = os.pipe()
        os.close(theirs)
        pid_fd = open_pidfd(child.pid)
        assert pid_fd is not None
        launcher = ProcessLauncher(Ledger(tmp_path / "new"), groups, notifier)
        adopted = launcher.adopt(record, pid_fd, ours, -1)
        assert read_ledger(tmp_path / "new").records == (record,)
        assert adopted.pid == child.pid
        assert adopted._group is not None
        assert adopted._group.path == tmp_path / "a-0-3"
        adopted.close()
        assert read_ledger(tmp_path / "new").records == ()
        names = ("log-a-0-3", "pid-a-0-3", "stat-a-0-3")
        assert manager.pump() == [f"FDSTOREREMOVE=1\nFDNAME={name}" for name in names]


async def test_all_children_share_the_loops_time_for_their_output(tmp_path: Path) -> None:
    launcher = ProcessLauncher(Ledger(tmp_path / "l"), Groups(None), None)
    async with launched(launcher, sleeper(tmp_path)) as child:
        assert child._log._share is launcher._share


async def test_a_disk_that_takes_no_ledger_does_not_end_a_child(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    launcher = ProcessLauncher(Ledger(tmp_path / "gone" / "l"), Groups(None), None)
    async with launched(launcher, sleeper(tmp_path)) as process:
        assert not process.ended.done()
    assert [record.getMessage() for record in caplog.records] == [
        f"cannot write {tmp_path}/gone/l: No such file or directory"
    ]


def test_the_ledger_is_plain_json(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    ledger.set_stopped(["b", "a"])
    assert json.loads((tmp_path / "l").read_text()) == {"version": 1, "children": [], "stopped": ["a", "b"]}
