"""Starts the real children, writes down that they run, and hands what the next llamad needs to systemd's fd store."""

import time
from collections.abc import Mapping
from typing import Literal

from llamad.host.address import Address
from llamad.host.cgroup import Group, Groups, Limits
from llamad.host.notify import Notifier
from llamad.host.pidfd import boot_id, start_time
from llamad.host.share import Share
from llamad.servers.board import ReplicaKey
from llamad.servers.command import Launch
from llamad.servers.guard import Guard
from llamad.servers.ledger import Ledger, Record
from llamad.servers.process import Process, spawn

LOG_FD = "log-"
PID_FD = "pid-"
STAT_FD = "stat-"
STORED = (LOG_FD, PID_FD, STAT_FD)
"""Begin the names in the fd store of what a child has there: its output, itself, and its figures."""


class ProcessLauncher:
    """A `Launcher`. With `store`, children outlive llamad and their descriptors are kept by systemd; without it, the
    kernel ends them with llamad, and `guard` ends what they have started where no control group does. `descriptors` is
    the soft limit of file descriptors that children get.
    """

    def __init__(
        self,
        ledger: Ledger,
        groups: Groups,
        store: Notifier | None,
        *,
        guard: Guard | None = None,
        descriptors: int | None = None,
    ) -> None:
        self._ledger = ledger
        self._guard = guard
        self._groups = groups
        self._store = store if store is not None and store.active else None
        self._boot = boot_id() or ""
        self._descriptors = descriptors
        self._share = Share()
        """Of the loop's time, for the output of all children."""
        self._unremoved: list[str] = []
        self._emptying: list[Group] = []
        self._unstored: dict[str, tuple[Process, Literal["log_fd", "pid_fd", "stat_fd"]]] = {}

    def __call__(self, key: ReplicaKey, launch: Launch, address: Address, environment: Mapping[str, str]) -> Process:
        """Start a child; OSError where the kernel refuses."""
        name = key.store_name
        limits = launch.limits
        wanted = Limits(memory_max=limits.memory_max, memory_high=limits.memory_high, cpu_weight=limits.cpu_weight)
        asked = self._groups.usable or wanted != Limits()  # without delegation, who asks for no limits misses nothing
        group = self._groups.create(name, wanted) if asked else None

        def write_down(pid: int) -> None:
            started, ticks = time.monotonic(), start_time(pid) or 0
            about = (pid, ticks, self._boot, launch.fingerprint, str(address), started)
            self._ledger.put(Record(key.server, key.index, key.generation, *about))

        try:
            guard = self._guard if self._store is None and group is None else None
            process = spawn(
                launch.argv(address),
                environment,
                outlives_llamad=self._store is not None,
                group=group,
                descriptors=self._descriptors,
                share=self._share,
                mark=None if guard is None else guard.mark(),
                write_down=write_down,
                on_close=lambda: self._forget(key, group),
            )
        except OSError:
            if group is not None:
                group.remove()
            raise
        if self._store is not None:
            self._unstored |= {
                LOG_FD + name: (process, "log_fd"),
                PID_FD + name: (process, "pid_fd"),
                STAT_FD + name: (process, "stat_fd"),
            }
            self.store_again()
        return process

    def store_again(self) -> None:
        """Catch up, now and then: tell systemd what it could not be told, for its queue may have been full, and remove
        control groups that were not empty yet. What is to be removed from the store comes first: a new descriptor may
        have the name of an old one.
        """
        self._emptying = [group for group in self._emptying if not group.remove()]
        if self._store is None:
            return
        while self._unremoved:
            if not self._store.remove(self._unremoved[0]):
                return
            del self._unremoved[0]
        for name, (process, which) in list(self._unstored.items()):
            fd = getattr(process, which)
            if fd < 0 or self._store.store(name, fd, poll=False):
                del self._unstored[name]

    def adopt(self, record: Record, pid_fd: int, log_fd: int, stat_fd: int) -> Process:
        """Take over a child of an earlier llamad by what systemd kept of it; `stat_fd` may be -1."""
        self._ledger.put(record)
        group = self._groups.find(record.name)
        return Process(
            record.pid,
            pid_fd,
            log_fd,
            stat_fd,
            is_child=False,
            outlives_llamad=True,
            group=group,
            share=self._share,
            on_close=lambda: self._forget(record.key, group),
        )

    def _forget(self, key: ReplicaKey, group: Group | None) -> None:
        self._ledger.drop(key)
        if group is not None:
            self._emptying.append(group)
        for name in (begin + key.store_name for begin in STORED):
            if self._unstored.pop(name, None) is None and self._store is not None:
                self._unremoved.append(name)
        self.store_again()
