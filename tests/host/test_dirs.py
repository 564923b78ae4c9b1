"""Where llamad works: systemd's word first, then the user's."""

import os
from pathlib import Path

import pytest

from llamad.host.dirs import Directories, directories, own_directories

ROOTS = Directories(Path("/run/llamad"), Path("/var/lib/llamad"), Path("/var/cache/llamad"))


def test_systemds_directories_come_first_and_the_first_of_a_list() -> None:
    environ = {"RUNTIME_DIRECTORY": "/run/a:/run/b", "STATE_DIRECTORY": "/s", "CACHE_DIRECTORY": "/c", "HOME": "/h"}
    assert directories(environ, uid=1000) == Directories(Path("/run/a"), Path("/s"), Path("/c"))


@pytest.mark.parametrize("runtime", ["", "relative/path"])
def test_a_directory_that_makes_no_sense_is_not_taken(runtime: str) -> None:
    assert directories({"RUNTIME_DIRECTORY": runtime}, uid=0) == ROOTS


def test_root_has_the_systems() -> None:
    assert directories({"XDG_RUNTIME_DIR": "/run/user/0", "HOME": "/root"}, uid=0) == ROOTS


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (
            {"XDG_RUNTIME_DIR": "/run/user/7", "XDG_DATA_HOME": "/d", "XDG_CACHE_HOME": "/c", "HOME": "/h"},
            Directories(Path("/run/user/7/llamad"), Path("/d/llamad"), Path("/c/llamad")),
        ),
        (
            {"HOME": "/h"},
            Directories(Path("/tmp/llamad-7"), Path("/h/.local/share/llamad"), Path("/h/.cache/llamad")),
        ),
        ({}, Directories(Path("/tmp/llamad-7"), Path("/.local/share/llamad"), Path("/.cache/llamad"))),
    ],
)
def test_a_user_has_their_own(environ: dict[str, str], expected: Directories) -> None:
    assert directories(environ, uid=7) == expected


def test_places_inside() -> None:
    assert Path("/var/lib/llamad/models") == ROOTS.models
    assert ROOTS.control_socket == Path("/run/llamad/control.sock")
    assert ROOTS.servers == Path("/run/llamad/servers")


def test_this_process_has_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/mine")
    assert own_directories() == directories(os.environ, uid=os.geteuid())
    assert own_directories().runtime == Path("/run/mine")
