"""What ExecStopPost= does: it knows who comes back, and ends what nobody would take over."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from llamad import reap as module
from llamad.host.cgroup import Group, Groups, Warnings
from llamad.host.dirs import own_directories
from llamad.host.journal import teardown
from llamad.host.lock import only_one
from llamad.host.pidfd import boot_id, start_time
from llamad.reap import KEEP_MARK, STOPPING_MARK, comes_back, reap
from llamad.servers.ledger import Record
from tests.folders import short_folder

CRASHED = {"SERVICE_RESULT": "signal", "EXIT_CODE": "killed", "EXIT_STATUS": "KILL"}
STOPPED = {"SERVICE_RESULT": "success", "EXIT_CODE": "exited", "EXIT_STATUS": "0"}
REFUSED = {"SERVICE_RESULT": "exit-code", "EXIT_CODE": "exited", "EXIT_STATUS": "78"}
FAILED = {"SERVICE_RESULT": "exit-code", "EXIT_CODE": "exited", "EXIT_STATUS": "1"}


@pytest.mark.parametrize(
    ("environ", "keep", "stopping", "expected"),
    [
        (CRASHED, False, False, True),
        ({"SERVICE_RESULT": "watchdog", "EXIT_CODE": "dumped", "EXIT_STATUS": "ABRT"}, False, False, True),
        ({"SERVICE_RESULT": "oom-kill", "EXIT_CODE": "killed", "EXIT_STATUS": "KILL"}, False, False, True),
        (FAILED, False, False, True),
        (STOPPED, True, False, True),  # `llamad upgrade`
        (STOPPED, False, False, False),
        (REFUSED, False, False, False),  # RestartPreventExitStatus=CONFIG
        ({**REFUSED, "EXIT_STATUS": "69"}, False, False, False),  # ... UNAVAILABLE: a strict start that failed
        ({**REFUSED, "EXIT_STATUS": "70"}, False, False, True),  # a bug in llamad
        (CRASHED, False, True, False),  # killed while it was stopping: systemd does not restart it
        ({}, False, False, False),  # typed by a person
        ({"SERVICE_RESULT": "signal", "EXIT_CODE": "killed", "EXIT_STATUS": "78"}, False, False, True),
    ],
)
def test_who_comes_back(environ: dict[str, str], *, keep: bool, stopping: bool, expected: bool) -> None:
    assert comes_back(environ, keep=keep, stopping=stopping) is expected


class NoGroups(Groups):
    """A machine without delegated groups; the test's own is never touched."""

    def __init__(self, _: Path | None) -> None:
        super().__init__(None)


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(module, "Groups", NoGroups)
    for name in STOPPED:
        monkeypatch.delenv(name, raising=False)
    yield tmp_path
    teardown()


@pytest.fixture
def server(runtime: Path) -> Iterator[subprocess.Popen[bytes]]:
    """What an earlier llamad left, in its ledger."""
    with subprocess.Popen(["/bin/sleep", "60"], process_group=0) as process:
        ticks = start_time(process.pid)
        assert ticks is not None
        record = Record("a", 0, 0, process.pid, ticks, boot_id() or "", "f", f"unix:{runtime}/s", time.monotonic())
        document = {"version": 1, "children": [asdict(record)], "stopped": []}
        (runtime / "children.json").write_text(json.dumps(document))
        yield process
        process.kill()


def test_what_is_left_of_a_stopped_llamad_is_ended(
    server: subprocess.Popen[bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    assert reap() == 0
    assert server.wait(5) == -signal.SIGTERM
    assert f"a-0-0 of an earlier llamad still runs as pid {server.pid}: ending it" in capfd.readouterr().err


@pytest.mark.parametrize("why", ["crash", "upgrade"])
def test_servers_of_a_llamad_that_comes_back_go_on(
    why: str, server: subprocess.Popen[bytes], runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (CRASHED if why == "crash" else STOPPED).items():
        monkeypatch.setenv(name, value)
    if why == "upgrade":
        (runtime / KEEP_MARK).touch()
    assert reap() == 0
    assert server.poll() is None
    assert not (runtime / KEEP_MARK).exists()


def test_the_mark_of_an_upgrade_holds_once(server: subprocess.Popen[bytes], runtime: Path) -> None:
    (runtime / KEEP_MARK).touch()
    assert reap() == 0
    assert server.poll() is None
    assert reap() == 0
    assert server.wait(5) == -signal.SIGTERM


def test_a_crash_on_the_way_to_the_end_leaves_nothing(
    server: subprocess.Popen[bytes], runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CRASHED.items():
        monkeypatch.setenv(name, value)
    (runtime / STOPPING_MARK).touch()
    assert reap() == 0
    assert server.wait(5) == -signal.SIGTERM


def test_servers_of_a_llamad_that_runs_are_not_touched(
    server: subprocess.Popen[bytes], runtime: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (runtime / KEEP_MARK).touch()
    with only_one(own_directories()):
        assert reap() == 1
    assert server.poll() is None
    assert (runtime / KEEP_MARK).exists()
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith(f"nothing was ended: another llamad already uses {runtime}")
    (runtime / KEEP_MARK).unlink()
    assert reap() == 0, "its lock is left behind, and held by nobody"
    assert server.wait(5) == -signal.SIGTERM


@pytest.mark.parametrize("what", ["end_recorded", "end_groups"])
def test_what_cannot_be_ended_shows_in_the_exit_code(what: str, runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def in_vain(*_: object) -> bool:
        return False

    monkeypatch.setattr(module, what, in_vain)
    assert reap() == 1
    assert list(runtime.iterdir()) == [], "a file of root's would be in the way of the service's user"


def test_control_groups_are_emptied_and_removed(
    runtime: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Recorded(Group):
        killed = False
        removed = False

        def populated(self) -> bool:
            return self.path.name == "srv-full"

        def kill(self) -> None:
            self.killed = True

        def remove(self) -> bool:
            self.removed = True
            return True

    groups = {name: Recorded(runtime / f"srv-{name}", Warnings()) for name in ("full", "empty")}

    class TwoGroups(NoGroups):
        def existing(self) -> dict[str, Group]:
            return dict(groups)

    monkeypatch.setattr(module, "Groups", TwoGroups)
    assert reap() == 0
    assert all(group.killed and group.removed for group in groups.values())
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].endswith("full of an earlier llamad is known to nobody: ending it")
    assert os.environ["RUNTIME_DIRECTORY"] == str(runtime)


NOBODY = 65534
REAP = "import sys; from llamad.cli.main import main; import llamad.reap; sys.exit(main(['reap']))"


@pytest.mark.skipif(os.geteuid() != 0, reason="root is needed to give its power up")
def test_root_does_not_do_what_the_services_user_wrote() -> None:
    """A ledger of another user named a process and a socket of root's: `sudo llamad reap` ended both."""
    with short_folder() as folder, socket.socket(socket.AF_UNIX) as listener:
        folder.chmod(0o711)
        listener.bind(str(folder / "precious"))
        runtime = folder / "run"
        runtime.mkdir()
        with subprocess.Popen(["/bin/sleep", "60"], process_group=0) as process:
            ticks = start_time(process.pid)
            assert ticks is not None
            address = f"unix:{folder}/precious"
            record = Record("a", 0, 0, process.pid, ticks, boot_id() or "", "f", address, time.monotonic())
            document = {"version": 1, "children": [asdict(record)], "stopped": []}
            (runtime / "children.json").write_text(json.dumps(document))
            for path in (runtime, runtime / "children.json"):
                os.chown(path, NOBODY, NOBODY)
            done = subprocess.run(
                [sys.executable, "-c", REAP],
                env={**os.environ, "RUNTIME_DIRECTORY": str(runtime)},
                cwd=Path(__file__).parents[1],
                capture_output=True,
                text=True,
                check=False,
            )
            assert process.poll() is None
            process.kill()
        assert done.returncode == 1
        assert f"a-0-0 of an earlier llamad cannot be ended: pid {process.pid}" in done.stderr
        assert (folder / "precious").exists()


def test_root_that_cannot_become_the_owner_ends_nothing(
    server: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(_folder: Path) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(module, "become_owner_of", refuse)
    assert reap() == 1
    assert server.poll() is None
    assert "nothing was ended: [Errno 1] Operation not permitted" in capfd.readouterr().err


def test_a_mark_that_cannot_be_removed_is_told(
    runtime: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "unlink", refuse)
    assert reap() == 0
    assert f"cannot remove {runtime}/keep, it will hold again" in capfd.readouterr().err
