"""The demo's llamad: its environment, its end, its last words. A shell script stands in for llamad."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from llamad.demo import child
from llamad.demo.child import Daemon
from tests.waiting import wait_until


def a_program(folder: Path, script: str) -> tuple[str, ...]:
    """A program in llamad's place, that is up when `folder/up` is there."""
    file = folder / "program"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return (str(file),)


def test_it_gets_directories_of_its_own_and_nothing_of_systemds(tmp_path: Path) -> None:
    environ = {"PATH": os.environ["PATH"], "NOTIFY_SOCKET": "/x", "LISTEN_FDS": "1", "PYTHONPATH": "/mine"}
    script = f'env > {tmp_path}/env; echo "$@" > {tmp_path}/arguments'
    with Daemon(tmp_path, environ, program=a_program(tmp_path, script)) as daemon:
        assert daemon.wait() == 0
        assert daemon.ended() == 0
    got = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    assert not {"NOTIFY_SOCKET", "LISTEN_FDS"} & got.keys()
    assert got["PYTHONPATH"].split(":")[1] == "/mine"
    assert (Path(got["PYTHONPATH"].split(":")[0]) / "llamad" / "demo" / "child.py").exists()
    assert (tmp_path / "arguments").read_text() == f"run --config {tmp_path}/llamad.yaml\n"
    for name in ("RUNTIME_DIRECTORY", "STATE_DIRECTORY", "CACHE_DIRECTORY"):
        folder = Path(got[name])
        assert folder.parent == tmp_path
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert daemon.control_socket == Path(got["RUNTIME_DIRECTORY"]) / "control.sock"


def test_leaving_the_block_ends_it_in_order(tmp_path: Path) -> None:
    script = f'trap "echo ended > {tmp_path}/ended; exit 0" TERM; : > {tmp_path}/up; while :; do sleep 0.01; done'
    with Daemon(tmp_path, os.environ, program=a_program(tmp_path, script)) as daemon:
        wait_until((tmp_path / "up").exists)
        assert daemon.ended() is None
    assert daemon.ended() == 0
    assert (tmp_path / "ended").exists()


def test_one_that_does_not_want_to_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "END_TIMEOUT", 0.1)
    script = f'trap "" TERM; : > {tmp_path}/up; while :; do sleep 0.01; done'
    with Daemon(tmp_path, os.environ, program=a_program(tmp_path, script)) as daemon:
        wait_until((tmp_path / "up").exists)
    assert daemon.ended() == -signal.SIGKILL


def test_its_last_lines_are_kept_for_who_asks_why(tmp_path: Path) -> None:
    script = "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo line $i; done; printf 'b\\351d' >&2; exit 3"
    with Daemon(tmp_path, os.environ, program=a_program(tmp_path, script)) as daemon:
        assert daemon.wait() == 3
        assert daemon.last_lines(3) == "line 2999\nline 3000\nb\ufffdd"


def test_a_demo_that_is_killed_takes_it_along(tmp_path: Path) -> None:
    script = f'trap "echo > {tmp_path}/ended; exit" TERM; : > {tmp_path}/up; while :; do sleep 0.01; done'
    (program,) = a_program(tmp_path, script)
    code = (
        "import os, time; from pathlib import Path; from llamad.demo.child import Daemon\n"
        f"with Daemon(Path({str(tmp_path)!r}), os.environ, program=[{program!r}]): time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=Path(child.__file__).parents[2]) as demo:
        wait_until((tmp_path / "up").exists)
        demo.kill()
    wait_until((tmp_path / "ended").exists)
