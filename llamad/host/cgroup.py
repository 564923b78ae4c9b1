"""Control groups (version 2): a group per server below llamad's unit, its limits and its figures.

Everything here is a help and none of it a need: without delegation or controllers there are no groups or no limits,
one warning says so, and nothing fails. Facts: systemd's CGROUP_DELEGATION, the kernel's cgroup-v2 document.
"""

import errno
import logging
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from llamad.host.files import read_kernel

SUBGROUP = "supervisor"
"""llamad's own group below its unit (the unit's DelegateSubgroup=)."""

_SIBLINGS = (SUBGROUP, ".control")  # .control is where systemd puts ExecStopPost of a delegated unit
_PREFIX = "srv-"
_CONTROLLERS = ("memory", "pids", "cpu")
_KILL_PASSES = 100

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a group may use: bytes, and a weight from 1 to 10000. None is no limit."""

    memory_max: int | None = None
    memory_high: int | None = None
    cpu_weight: int | None = None

    @property
    def files(self) -> dict[str, str]:
        """The files of the group and what to write into them; a limit that is lifted is written too."""

        def word(limit: int | None) -> str:
            return "max" if limit is None else str(limit)

        return {
            "memory.max": word(self.memory_max),
            "memory.high": word(self.memory_high),
            "memory.oom.group": "1",  # a server without one of its processes is no use
            "cpu.weight": str(self.cpu_weight or 100),
        }


def own_group(*, proc: Path = Path("/proc/self")) -> Path | None:
    """The directory of this process's group in the version 2 hierarchy (on a hybrid host `.../unified/...`); None
    where there is none.
    """
    try:
        membership, mounts = read_kernel(proc / "cgroup"), read_kernel(proc / "mountinfo")
    except OSError:
        return None
    path = next((line[3:] for line in membership.splitlines() if line.startswith("0::/")), None)
    if path is None:
        return None
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.startswith("cgroup2 "):
            root, mount = fields.split()[3:5]
            if Path(path).is_relative_to(root):
                return Path(mount) / Path(path).relative_to(root)
    return None


class Group:
    """One server's group. Reads answer None for what cannot be known; nothing raises."""

    def __init__(self, path: Path, warnings: "Warnings") -> None:
        self.path = path
        self._warnings = warnings

    @property
    def procs(self) -> Path:
        """The file to join by: a process that writes "0" (or is written by its pid) moves into the group."""
        return self.path / "cgroup.procs"

    def pids(self) -> list[int]:
        """The processes of the group that can be seen from here."""
        return [int(word) for word in (_read(self.procs) or "").split()]

    def populated(self) -> bool | None:
        """Whether any process lives in it."""
        value = _keyed(self.path / "cgroup.events", "populated")
        return None if value is None else value > 0

    def kill(self) -> None:
        """SIGKILL everything in it. On a kernel before 5.14, which has no cgroup.kill, one by one, until none is
        left that forks.
        """
        if (self.path / "cgroup.kill").exists():
            self._warnings.write(self.path / "cgroup.kill", "1", "kill a control group")
            return
        for _ in range(_KILL_PASSES):
            pids = [pid for pid in self.pids() if pid > 0]  # 0: of another pid namespace
            if not pids:
                return
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except OSError as error:
                    self._warnings.about("kill a process of a control group", error)

    def memory(self) -> int | None:
        """Bytes it uses now, the page cache of its files included."""
        text = _read(self.path / "memory.current")
        return None if text is None else int(text)

    def cpu_seconds(self) -> float | None:
        """Processor time it has used so far."""
        usec = _keyed(self.path / "cpu.stat", "usage_usec")
        return None if usec is None else usec / 1e6

    def oom_kills(self) -> int | None:
        """Processes of it that the kernel has killed for want of memory, so far: tells an OOM kill from a crash."""
        return _keyed(self.path / "memory.events", "oom_kill")

    def remove(self) -> bool:
        """Remove the group; False while something lives in it."""
        try:
            self.path.rmdir()
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                self._warnings.about("remove a control group", error)
            return False
        return True


class Warnings:
    """Says once, and only once, that a thing cannot be done."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def about(self, what: str, error: OSError) -> None:
        """Warn that `what` cannot be done."""
        if what not in self._said:
            self._said.add(what)
            log.warning("cannot %s: %s", what, error, extra={"event": "cgroup"})

    def say(self, text: str) -> None:
        """Warn with `text`."""
        if text not in self._said:
            self._said.add(text)
            log.warning(text, extra={"event": "cgroup"})

    def write(self, path: Path, text: str, what: str) -> bool:
        """Write a file of the hierarchy, without creating it; returns whether the kernel took it."""
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)
        except OSError as error:
            self.about(what, error)
            return False
        return True


class Groups:
    """The groups below llamad's unit. `own` is this process's group (`own_group()`)."""

    def __init__(self, own: Path | None) -> None:
        self._warnings = Warnings()
        self._by_systemd = own is not None and own.name in _SIBLINGS  # only delegation makes such groups
        self._in_subgroup = own is not None and own.name == SUBGROUP
        self._base = own.parent if own is not None and self._by_systemd else own
        self._controllers: frozenset[str] | None = None

    @property
    def usable(self) -> bool:
        """Whether systemd has delegated the unit's group to llamad, so that groups can be made in it."""
        base = self._base
        if base is None or not (self._by_systemd or _is_delegated(base)):
            return False
        return os.access(base, os.W_OK) and os.access(base / "cgroup.procs", os.W_OK)

    def create(self, name: str, limits: Limits | None = None) -> Group | None:
        """Make (or find) the group of server `name` and set its limits, where they can be set. None where there can
        be no group.
        """
        if self._base is None or not self.usable:
            self._warnings.say("servers get no control group of their own: systemd has not delegated one (Delegate=)")
            return None
        path = self._base / (_PREFIX + name)
        try:
            path.mkdir(mode=0o755, exist_ok=True)
        except OSError as error:
            self._warnings.about("make a control group", error)
            return None
        group = Group(path, self._warnings)
        self._limit(group, limits or Limits())
        return group

    def find(self, name: str) -> Group | None:
        """The group of server `name`, where there is one: to watch an adopted server, to look for leftovers."""
        return self.existing().get(name)

    def existing(self) -> dict[str, Group]:
        """Every server's group that is there, by name: what an earlier llamad left, for `llamad reap` and a start."""
        if self._base is None or not self.usable:
            return {}
        paths = sorted(path for path in self._base.glob(_PREFIX + "*") if path.is_dir())
        return {path.name.removeprefix(_PREFIX): Group(path, self._warnings) for path in paths}

    def _limit(self, group: Group, limits: Limits) -> None:
        controllers = self._enable_controllers()
        if not controllers and limits != Limits():
            self._warnings.say(
                "`limits:` have no effect: no controller could be enabled (needs DelegateSubgroup= of systemd 254)"
            )
        for name, text in limits.files.items():
            if name.split(".")[0] in controllers:
                self._warnings.write(group.path / name, text, f"set {name}")

    def _enable_controllers(self) -> frozenset[str]:
        """Enable what there is, once. Only where systemd itself put llamad into its subgroup: with controllers in
        the unit's group, an older systemd could not start the unit again while a server lives on (219/CGROUP).
        """
        if self._controllers is None:
            self._controllers = frozenset()
            if self._base is not None and self._in_subgroup:
                there = (_read(self._base / "cgroup.controllers") or "").split()
                control = self._base / "cgroup.subtree_control"
                self._controllers = frozenset(
                    name
                    for name in _CONTROLLERS
                    if name in there and self._warnings.write(control, f"+{name}", f"use the {name} controller")
                )
        return self._controllers


def _is_delegated(path: Path) -> bool:
    """Whether systemd has marked the group as delegated (CGROUP_DELEGATION; from 251 for everyone to read)."""
    for name in ("user.delegate", "trusted.delegate"):
        try:
            if os.getxattr(path, name) == b"1":
                return True
        except OSError:  # no such mark, or none for everyone to read: then it is not delegated
            continue
    return False


def _read(path: Path) -> str | None:
    try:
        return read_kernel(path)
    except OSError:  # no such controller, or the group is gone: there is no such figure
        return None


def _keyed(path: Path, key: str) -> int | None:
    """A value of a flat-keyed file."""
    for line in (_read(path) or "").splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return None
