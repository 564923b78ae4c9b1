"""What an earlier llamad left running: taken over where systemd kept its descriptors, ended where not."""

import asyncio
import logging
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from llamad.host.address import UnixAddress, parse_address
from llamad.host.pidfd import boot_id, has_ended, open_pidfd, pid_of, send_signal, start_time
from llamad.servers.command import Launch
from llamad.servers.launcher import LOG_FD, PID_FD, ProcessLauncher
from llamad.servers.ledger import Record
from llamad.servers.plan import Intent
from llamad.servers.process import Process
from llamad.servers.starting import Running

log = logging.getLogger(__name__)
TERM_TIMEOUT = 5.0
KILL_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Adopted:
    """A running child of an earlier llamad. One that is not `current` runs something else than is wanted now."""

    running: Running
    current: bool


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
        elif pid_of(pid_fds[0]) not in (record.pid, None):
            log.warning("the stored descriptor of %s is of another process: refused", record.name)
        else:
            del handed[PID_FD + record.name], handed[LOG_FD + record.name]
            claimed[record] = launcher.adopt(record, pid_fds[0], log_fds[0])
    return claimed, unclaimed


def assign(
    claimed: Mapping[Record, Process], wanted: Mapping[str, Intent], *, wall: float, now: float
) -> tuple[dict[str, dict[int, Adopted]], list[Process]]:
    """Give each child to the replica it is of; those that nobody wants are returned to be ended. `wall` and `now` are
    the same moment on the clock and in the loop's time.
    """
    adopted: dict[str, dict[int, Adopted]] = {}
    processes: dict[tuple[str, int], Process] = {}
    unwanted = []
    for record, process in sorted(claimed.items(), key=lambda item: item[0].generation):
        intent = wanted.get(record.server)
        if intent is None or record.index >= len(intent.launches):
            unwanted.append(process)
            continue
        launch = intent.launches[record.index]
        if not isinstance(launch, Launch):
            unwanted.append(process)
            continue
        running = Running(process, launch, parse_address(record.address), now - max(wall - record.started_at, 0), 0)
        before = processes.get((record.server, record.index))
        if before is not None:  # both sides of a start-first replace were alive: the newer one goes on
            unwanted.append(before)
        processes[record.server, record.index] = process
        adopted.setdefault(record.server, {})[record.index] = Adopted(running, record.fingerprint == launch.fingerprint)
    return adopted, unwanted


async def end_processes(processes: list[Process]) -> None:
    """End children that were taken over and are not wanted."""
    for process in processes:
        process.attach(lambda _: None)
        process.terminate()
    if processes:
        await asyncio.wait([process.ended for process in processes], timeout=TERM_TIMEOUT)
    for process in processes:
        process.kill()
    if processes:
        await asyncio.wait([process.ended for process in processes], timeout=KILL_TIMEOUT)
    for process in processes:
        process.close()


async def end_recorded(records: list[Record]) -> None:
    """End what runs under the recorded pids, if it is still the very process that was recorded."""
    pid_fds = {}
    for record in records:
        fd = _open_same(record)
        if fd is not None:
            log.warning(
                "%s of an earlier llamad still runs as pid %d: ended", record.name, record.pid,
                extra={"server": record.server, "event": "leftover"},
            )  # fmt: skip
            pid_fds[fd] = record
    try:
        for number, timeout in ((signal.SIGTERM, TERM_TIMEOUT), (signal.SIGKILL, KILL_TIMEOUT)):
            left = [fd for fd in pid_fds if not has_ended(fd)]
            for fd in left:
                _signal(fd, pid_fds[fd].pid, number)
            await _all_ended(left, timeout)
        for record in records:
            _unlink_socket(record)
    finally:
        for fd in pid_fds:
            os.close(fd)


def _open_same(record: Record) -> int | None:
    if record.boot_id != boot_id():
        return None
    fd = open_pidfd(record.pid)
    if fd is not None and start_time(record.pid) != record.start_ticks:  # asked after the pidfd: no race
        os.close(fd)
        return None
    return fd


def _signal(fd: int, pid: int, number: signal.Signals) -> None:
    with suppress(PermissionError, ProcessLookupError):
        send_signal(fd, number)
        if number is signal.SIGKILL:
            os.killpg(pid, number)


async def _all_ended(pid_fds: list[int], timeout: float) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while not all(map(has_ended, pid_fds)) and loop.time() < deadline:
        await asyncio.sleep(0.02)  # noqa: ASYNC110 - seconds at most, once a start, for what is seldom there


def _unlink_socket(record: Record) -> None:
    address = parse_address(record.address)
    if isinstance(address, UnixAddress):
        with suppress(OSError):
            address.path.unlink(missing_ok=True)
