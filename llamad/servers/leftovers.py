"""What an earlier llamad left running: taken over where systemd kept its descriptors, ended where not."""

import asyncio
import logging
import os
import signal
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llamad.host.address import UnixAddress, parse_address
from llamad.host.cgroup import Group
from llamad.host.fdstore import close_all
from llamad.host.pidfd import boot_id, open_pidfd, pid_of, send_signal, start_time
from llamad.servers.board import Failure
from llamad.servers.command import Launch
from llamad.servers.launcher import LOG_FD, PID_FD, STAT_FD, ProcessLauncher
from llamad.servers.ledger import Record
from llamad.servers.plan import Intent
from llamad.servers.process import Process
from llamad.servers.starting import Running

log = logging.getLogger(__name__)
TERM_TIMEOUT = 5.0
KILL_TIMEOUT = 5.0
EMPTYING = 0.01
"""Seconds between two looks whether killed groups are empty: the kernel takes a few milliseconds."""


@dataclass(frozen=True, slots=True)
class Adopted:
    """A running child of an earlier llamad, and the `fingerprint` of the launch that it runs. `generation` is the one
    it was recorded with: what is started beside it must not be taken for it.
    """

    running: Running
    fingerprint: str
    generation: int

    @property
    def current(self) -> bool:
        """Whether it goes on: it runs what is wanted now, or nothing could be started in its place."""
        launch = self.running.launch
        return isinstance(launch, Failure) or launch.fingerprint == self.fingerprint


def claim(
    records: tuple[Record, ...], handed: dict[str, list[int]], launcher: ProcessLauncher
) -> tuple[dict[Record, Process], list[Record]]:
    """Build handles for the recorded children whose descriptors were `handed` over (claimed ones are taken out of it).
    Returns them, and the records for which there is nothing.
    """
    claimed: dict[Record, Process] = {}
    unclaimed = []
    for record in records:
        pid_fds, log_fds = handed.get(PID_FD + record.name, []), handed.get(LOG_FD + record.name, [])
        if len(pid_fds) != 1 or len(log_fds) != 1:
            unclaimed.append(record)
        elif not _belong(record, pid_fds[0], log_fds[0]):
            log.warning("the stored descriptors of %s are of something else: refused", record.name)
            unclaimed.append(record)
        else:
            del handed[PID_FD + record.name], handed[LOG_FD + record.name]
            stat_fds = handed.pop(STAT_FD + record.name, [])
            if len(stat_fds) != 1 or not _shows(record, stat_fds[0]):  # one of an older llamad has none
                close_all(stat_fds)
                stat_fds = [-1]
            claimed[record] = launcher.adopt(record, pid_fds[0], log_fds[0], stat_fds[0])
    return claimed, unclaimed


def _belong(record: Record, pid_fd: int, log_fd: int) -> bool:
    """Whether these are a pidfd of the recorded process (or of one that is reaped by now) and a pipe."""
    try:
        is_pidfd = "pidfd" in os.readlink(f"/proc/self/fd/{pid_fd}")
        is_pipe = stat.S_ISFIFO(os.fstat(log_fd).st_mode)
    except OSError:
        return False
    return is_pidfd and is_pipe and pid_of(pid_fd) in (record.pid, None)


def _shows(record: Record, stat_fd: int) -> bool:
    """Whether this is the recorded process's file of figures."""
    try:
        return os.pread(stat_fd, 32, 0).startswith(f"{record.pid} (".encode())
    except OSError:
        return False


def assign(
    claimed: Mapping[Record, Process], wanted: Mapping[str, Intent], *, now: float
) -> tuple[dict[str, dict[int, Adopted]], dict[Record, Process]]:
    """Give each child to the replica it is of; those that nobody wants are returned to be ended. `now` is the loop's
    time.
    """
    newest: dict[tuple[str, int], Record] = {}
    for record in sorted(claimed, key=lambda one: one.generation):
        newest[record.server, record.index] = record  # of both sides of a start-first replace the newer one goes on
    adopted: dict[str, dict[int, Adopted]] = {}
    unwanted = dict(claimed)
    for record in newest.values():
        launch = _wanted_launch(record, wanted)
        if launch is not None:
            child = unwanted.pop(record)
            address = parse_address(record.address)
            running = Running(child, launch, address, min(record.started_at, now), 0, adopted=True)
            one = Adopted(running, record.fingerprint, record.generation)
            adopted.setdefault(record.server, {})[record.index] = one
    return adopted, unwanted


def _wanted_launch(record: Record, wanted: Mapping[str, Intent]) -> Launch | Failure | None:
    intent = wanted.get(record.server)
    if intent is None or not 0 <= record.index < len(intent.launches):
        return None
    return intent.launches[record.index]


async def end_processes(unwanted: Mapping[Record, Process], sockets: Path) -> None:
    """End children that were taken over and are not wanted, and remove their sockets from the folder `sockets`."""
    processes = unwanted.values()
    for process in processes:
        process.attach(lambda _: None)
        process.terminate()
    if processes:
        await asyncio.wait([process.ended for process in processes], timeout=TERM_TIMEOUT)
    for process in processes:
        process.kill()
    if processes:
        await asyncio.wait([process.ended for process in processes], timeout=KILL_TIMEOUT)
    for record, process in unwanted.items():
        process.close()
        _unlink_socket(record, sockets)


async def end_recorded(records: Iterable[Record], sockets: Path) -> bool:
    """End what runs under the recorded pids, if it is still the very process that was recorded, and remove their
    sockets from the folder `sockets`, and nothing elsewhere. Returns whether none of them runs now.
    """
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_end_recorded(record)) for record in records]
    for record in records:
        _unlink_socket(record, sockets)
    return all(task.result() for task in tasks)


async def _end_recorded(record: Record) -> bool:
    pid_fd = _open_same(record)
    if pid_fd is None:
        return True
    try:
        _tell(record, "of an earlier llamad still runs as pid %d: ending it")
        ended = await _end(pid_fd, record.pid)
        if not ended:
            _tell(record, "of an earlier llamad cannot be ended: pid %d")
        return ended
    finally:
        os.close(pid_fd)


def _tell(record: Record, text: str) -> None:
    log.warning(f"%s {text}", record.name, record.pid, extra={"server": record.server, "event": "leftover"})  # noqa: G004


def _open_same(record: Record) -> int | None:
    if record.boot_id != boot_id():
        return None
    pid_fd = open_pidfd(record.pid)
    if pid_fd is not None and start_time(record.pid) != record.start_ticks:  # asked after the pidfd: no race
        os.close(pid_fd)
        return None
    return pid_fd


async def _end(pid_fd: int, pid: int) -> bool:
    """SIGTERM, grace, SIGKILL to the whole group; whether it has ended."""
    try:
        send_signal(pid_fd, signal.SIGTERM)
    except PermissionError:  # another user's: no signal would be taken
        return False
    ended = await _ended_within(pid_fd, TERM_TIMEOUT)
    try:
        os.killpg(pid, signal.SIGKILL)  # at once after the end: the number cannot come to mean another group so soon
    except ProcessLookupError:  # it was the last of its group, or led none
        send_signal(pid_fd, signal.SIGKILL)
    except PermissionError as error:
        log.warning("what pid %d has started cannot be ended: %s", pid, error.strerror, extra={"event": "leftover"})
    return ended or await _ended_within(pid_fd, KILL_TIMEOUT)


async def _ended_within(pid_fd: int, timeout: float) -> bool:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pid_fd, ended.set)
    try:
        async with asyncio.timeout(timeout):
            await ended.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(pid_fd)
    return True


async def end_groups(groups: Mapping[str, Group], kept: Iterable[str]) -> bool:
    """End whatever lives in the control groups of servers (by name), those of the `kept` ones apart: what no record
    and no stored descriptor tells of, nobody else would ever end. Returns whether nothing of it lives now.
    """
    strangers = {name: group for name, group in groups.items() if name not in set(kept)}
    for name, group in strangers.items():
        if group.populated():
            log.warning("%s of an earlier llamad is known to nobody: ending it", name, extra={"event": "leftover"})
        group.kill()
    for _ in range(int(KILL_TIMEOUT / EMPTYING)):
        removed = [group.remove() for group in strangers.values()]
        if all(removed):
            return True
        await asyncio.sleep(EMPTYING)
    left = [name for name, group in strangers.items() if group.populated()]
    if left:
        log.warning("%s of an earlier llamad cannot be ended", ", ".join(left), extra={"event": "leftover"})
    return not left


def _unlink_socket(record: Record, folder: Path) -> None:
    """Only what is in llamad's own folder: the record is what somebody wrote into a file."""
    address = parse_address(record.address)
    if not isinstance(address, UnixAddress) or address.path.parent != folder:
        return
    try:
        if address.path.is_socket():
            address.path.unlink()
    except OSError as error:  # it is in nobody's way: the next one has another name
        log.info("cannot remove %s: %s", address.path, error.strerror, extra={"event": "leftover"})
