"""Control groups on a fake tree: what is written where, and that nothing fails where nothing can be done."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llamad.host import cgroup
from llamad.host.cgroup import Group, Groups, Limits, Warnings, own_group

FILES = {
    "cgroup.procs": "",
    "cgroup.kill": "",
    "cgroup.events": "populated 1\nfrozen 0\n",
    "memory.current": "123456\n",
    "memory.max": "max\n",
    "memory.high": "max\n",
    "memory.oom.group": "0\n",
    "memory.events": "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\n",
    "cpu.weight": "100\n",
    "cpu.stat": "usage_usec 2500000\nuser_usec 2000000\n",
}


def write_files(path: Path, files: dict[str, str]) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (path / name).write_text(text)
    return path


@pytest.fixture
def unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A unit that systemd 254 or later has delegated, in a tree where a new folder has a group's files at once."""
    path = write_files(tmp_path / "llamad.service", {"cgroup.procs": "", "cgroup.subtree_control": ""})
    (path / "cgroup.controllers").write_text("cpu memory pids\n")
    write_files(path / "supervisor", {"cgroup.procs": f"{os.getpid()}\n"})
    make = Path.mkdir

    def mkdir(self: Path, mode: int = 0o777, *, parents: bool = False, exist_ok: bool = False) -> None:
        known = self.exists()
        make(self, mode, parents=parents, exist_ok=exist_ok)
        if not known:
            write_files(self, FILES)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    return path


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Every write to a file of the tree, in order: the kernel takes each one by itself, a file keeps only the last."""
    seen: dict[str, list[str]] = {}
    write: Callable[[Warnings, Path, str, str], bool] = Warnings.write

    def spy(self: Warnings, path: Path, text: str, what: str) -> bool:
        taken = write(self, path, text, what)
        if taken:
            seen.setdefault(path.name, []).append(text)
        return taken

    monkeypatch.setattr(Warnings, "write", spy)
    return seen


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def refuse(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """Have the kernel refuse to open the file `name` for writing."""
    real = os.open

    def fake(path: os.PathLike[str] | str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_WRONLY and Path(path).name == name:
            raise OSError(number, os.strerror(number))
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", fake)


class TestOwnGroup:
    PURE = "25 30 0:22 / /sys rw - sysfs sysfs rw\n31 25 0:29 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
    HYBRID = (
        "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
        "36 31 0:33 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    )

    @pytest.mark.parametrize(
        ("membership", "mounts", "expected"),
        [
            (
                "0::/system.slice/llamad.service/supervisor\n",
                PURE,
                Path("/sys/fs/cgroup/system.slice/llamad.service/supervisor"),
            ),
            ("4:memory:/x\n0::/a/b:c\n", HYBRID, Path("/sys/fs/cgroup/unified/a/b:c")),
            ("0::/\n", PURE, Path("/sys/fs/cgroup")),
            ("4:memory:/x\n", HYBRID, None),
            ("0::/a\n", "36 31 0:33 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n", None),
            ("0::/box/a\n", "41 31 0:38 /box /cg rw - cgroup2 cgroup2 rw\n", Path("/cg/a")),
            ("0::/other\n", "41 31 0:38 /box /cg rw - cgroup2 cgroup2 rw\n", None),
        ],
    )
    def test_is_found_in_the_version_2_hierarchy(
        self, tmp_path: Path, membership: str, mounts: str, expected: Path | None
    ) -> None:
        (tmp_path / "cgroup").write_text(membership)
        (tmp_path / "mountinfo").write_text(mounts)
        assert own_group(proc=tmp_path) == expected

    def test_without_proc_there_is_none(self, tmp_path: Path) -> None:
        assert own_group(proc=tmp_path) is None

    def test_of_this_process_is_a_group_or_none(self) -> None:
        found = own_group()
        assert found is None or (found / "cgroup.procs").exists()


class TestCreate:
    def test_makes_a_sibling_of_llamads_own_group(self, unit: Path, writes: dict[str, list[str]]) -> None:
        groups = Groups(unit / "supervisor")
        assert groups.usable
        group = groups.create("qwen", Limits(memory_max=6 << 30, memory_high=5 << 30, cpu_weight=50))
        assert group is not None
        assert group.path == unit / "srv-qwen"
        assert writes == {
            "cgroup.subtree_control": ["+memory", "+pids", "+cpu"],
            "memory.max": ["6442450944"],
            "memory.high": ["5368709120"],
            "memory.oom.group": ["1"],
            "cpu.weight": ["50"],
        }

    def test_controllers_are_enabled_once(self, unit: Path, writes: dict[str, list[str]]) -> None:
        groups = Groups(unit / "supervisor")
        groups.create("a")
        groups.create("b")
        assert writes["cgroup.subtree_control"] == ["+memory", "+pids", "+cpu"]

    def test_a_limit_that_was_lifted_is_taken_back(self, unit: Path, writes: dict[str, list[str]]) -> None:
        groups = Groups(unit / "supervisor")
        groups.create("qwen", Limits(memory_max=1000, cpu_weight=50))
        assert groups.create("qwen") is not None
        assert writes["memory.max"] == ["1000", "max"]
        assert writes["cpu.weight"] == ["50", "100"]

    def test_only_controllers_that_are_there_are_used(
        self, unit: Path, writes: dict[str, list[str]], caplog: pytest.LogCaptureFixture
    ) -> None:
        (unit / "cgroup.controllers").write_text("memory\n")
        assert Groups(unit / "supervisor").create("qwen", Limits(cpu_weight=50)) is not None
        assert writes["cgroup.subtree_control"] == ["+memory"]
        assert "cpu.weight" not in writes
        assert lines(caplog) == []

    def test_an_old_systemd_gets_groups_without_controllers_and_one_warning(
        self, unit: Path, writes: dict[str, list[str]], caplog: pytest.LogCaptureFixture
    ) -> None:
        os.setxattr(unit, "user.delegate", b"1")
        groups = Groups(unit)  # 252 has no DelegateSubgroup: llamad is in the unit's own group
        for name in ("a", "b"):
            group = groups.create(name, Limits(memory_max=1000))
            assert group is not None
            assert group.path == unit / f"srv-{name}"
        assert writes == {}
        assert lines(caplog) == [
            "`limits:` have no effect: no controller could be enabled (needs DelegateSubgroup= of systemd 254)"
        ]

    def test_no_limits_asked_is_no_warning(self, unit: Path, caplog: pytest.LogCaptureFixture) -> None:
        os.setxattr(unit, "user.delegate", b"1")
        assert Groups(unit).create("qwen") is not None
        assert lines(caplog) == []

    def test_without_delegation_there_is_none_and_one_warning(
        self, unit: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        os.setxattr(unit, "user.delegate", b"0")
        groups = Groups(unit)
        assert not groups.usable
        assert groups.create("a") is None
        assert groups.create("b") is None
        assert not (unit / "srv-a").exists()
        assert lines(caplog) == ["servers get no control group of their own: systemd has not delegated one (Delegate=)"]

    def test_without_version_2_there_is_none(self) -> None:
        groups = Groups(None)
        assert not groups.usable
        assert groups.create("a") is None
        assert groups.find("a") is None
        assert groups.existing() == {}

    def test_a_group_that_belongs_to_another_user_is_not_usable(
        self, unit: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = os.access
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "cgroup.procs" and real(path, mode))
        assert not Groups(unit / "supervisor").usable

    @pytest.mark.parametrize("number", [errno.EBUSY, errno.EPERM, errno.ENOENT])
    def test_a_controller_that_is_refused_is_one_warning_and_no_limit(
        self,
        unit: Path,
        writes: dict[str, list[str]],
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
        number: int,
    ) -> None:
        (unit / "cgroup.controllers").write_text("memory\n")
        refuse(monkeypatch, "cgroup.subtree_control", number)
        groups = Groups(unit / "supervisor")
        assert groups.create("a", Limits(memory_max=1000)) is not None
        assert groups.create("b", Limits(memory_max=1000)) is not None
        assert writes == {}
        assert lines(caplog) == [
            f"cannot use the memory controller: [Errno {number}] {os.strerror(number)}",
            "`limits:` have no effect: no controller could be enabled (needs DelegateSubgroup= of systemd 254)",
        ]

    def test_a_folder_that_cannot_be_made_is_one_warning(self, unit: Path, caplog: pytest.LogCaptureFixture) -> None:
        (unit / "srv-a").write_text("a file is in the way")
        groups = Groups(unit / "supervisor")
        assert groups.create("a") is None
        assert groups.create("a") is None
        assert lines(caplog) == [f"cannot make a control group: [Errno 17] File exists: '{unit}/srv-a'"]


class TestExisting:
    def test_what_an_earlier_llamad_left_is_found(self, unit: Path) -> None:
        Groups(unit / "supervisor").create("b")
        Groups(unit / "supervisor").create("a.7B")
        (unit / "srv-file").write_text("")
        for own in (unit / "supervisor", unit / ".control"):  # .control: ExecStopPost, `llamad reap`
            groups = Groups(own)
            assert list(groups.existing()) == ["a.7B", "b"]
            found = groups.find("b")
            assert found is not None
            assert found.path == unit / "srv-b"
            assert groups.find("none") is None

    def test_nothing_is_touched_where_the_unit_is_not_ours(self, unit: Path) -> None:
        Groups(unit / "supervisor").create("a")
        assert Groups(unit).existing() == {}

    def test_reap_enables_no_controllers(self, unit: Path, writes: dict[str, list[str]]) -> None:
        assert Groups(unit / ".control").create("a") is not None
        assert writes == {}


@pytest.fixture
def group(tmp_path: Path) -> Group:
    return Group(write_files(tmp_path / "srv-qwen", FILES), Warnings())


class TestGroup:
    def test_figures_are_read(self, group: Group) -> None:
        assert group.memory() == 123456
        assert group.cpu_seconds() == 2.5
        assert group.oom_kills() == 2
        assert group.populated() is True
        (group.path / "cgroup.events").write_text("populated 0\n")
        assert group.populated() is False

    def test_figures_that_are_not_there_are_none(self, tmp_path: Path) -> None:
        group = Group(tmp_path / "gone", Warnings())
        assert (group.memory(), group.cpu_seconds(), group.oom_kills(), group.populated()) == (None,) * 4
        assert group.pids() == []

    def test_its_processes_are_those_that_joined(self, group: Group) -> None:
        assert group.procs == group.path / "cgroup.procs"
        group.procs.write_text("1\n22\n")
        assert group.pids() == [1, 22]

    def test_kill_is_the_kernels(self, group: Group) -> None:
        group.kill()
        assert (group.path / "cgroup.kill").read_text() == "1"

    def test_remove_waits_for_nobody(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        path = tmp_path / "srv-a"
        (path / "child").mkdir(parents=True)
        group = Group(path, Warnings())
        assert not group.remove()
        (path / "child").rmdir()
        assert group.remove()
        assert not path.exists()
        assert group.remove()
        assert lines(caplog) == []

    def test_a_group_that_may_not_be_removed_is_one_warning(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "srv-a"
        path.write_text("")
        group = Group(path, Warnings())
        assert not group.remove()
        assert not group.remove()
        assert lines(caplog) == [f"cannot remove a control group: [Errno 20] Not a directory: '{path}'"]


class TestKillWithoutCgroupKill:
    @pytest.fixture
    def old_group(self, group: Group) -> Group:
        (group.path / "cgroup.kill").unlink()
        return group

    @pytest.fixture
    def child(self) -> Iterator[subprocess.Popen[bytes]]:
        with subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE) as process:
            yield process
            process.kill()

    def test_every_process_is_killed_until_none_is_left(
        self, old_group: Group, child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old_group.procs.write_text(f"0\n{child.pid}\n")
        real = os.kill

        def kill(pid: int, number: int) -> None:
            real(pid, number)
            child.wait(5)
            old_group.procs.write_text("0\n")

        monkeypatch.setattr(os, "kill", kill)
        old_group.kill()
        assert child.returncode == -9

    def test_a_process_that_will_not_go_does_not_hold_llamad_up(
        self, old_group: Group, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cgroup, "_KILL_PASSES", 3)
        old_group.procs.write_text("999999999\n")
        old_group.kill()
        assert lines(caplog) == ["cannot kill a process of a control group: [Errno 3] No such process"]


def test_a_real_group_where_this_machine_lends_one() -> None:
    """The kernel's own files, where this test may make a group."""
    own = own_group()
    if own is None or not os.access(own, os.W_OK) or not os.access(own / "cgroup.procs", os.W_OK):
        pytest.skip("needs a cgroup v2 tree that may be written")
    path = own / f"srv-llamad-test-{os.getpid()}"
    path.mkdir()
    group = Group(path, Warnings())
    try:
        with subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE) as process:
            assert group.populated() is False
            group.procs.write_text(str(process.pid))
            assert group.pids() == [process.pid]
            assert group.populated() is True
            assert not group.remove()
            group.kill()
            assert process.wait(5) == -9
        assert group.cpu_seconds() is not None
    finally:
        assert group.remove()
