"""The folders a daemon begins with (what it begins to run: test_first_config)."""

import os
from pathlib import Path

import pytest

from llamad import beginning
from llamad.beginning import make
from llamad.errors import LlamadError
from llamad.host.dirs import Directories
from tests.control.fakes import a_listener
from tests.folders import short_folder


def directories(top: Path) -> Directories:
    return Directories(top / "run", top / "state", top / "cache")


def test_they_are_made_and_private(tmp_path: Path) -> None:
    make(directories(tmp_path))
    assert (tmp_path / "state" / "models").is_dir()
    assert (tmp_path / "run" / "servers").stat().st_mode & 0o777 == 0o700


def test_what_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(LlamadError, match=r"cannot make .*run"):
        make(directories(tmp_path))


def test_a_runtime_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(directories(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(
        LlamadError, match=r"run belongs to .*, and this llamad runs as the user with id 4711 \(set RUN"
    ):
        make(directories(tmp_path))


def test_beside_the_service_root_is_told_how_to_use_it_and_never_to_remove_its_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with short_folder() as top:
        make(directories(top))
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
        with a_listener(top / "run" / "control.sock"), pytest.raises(LlamadError) as refused:
            make(directories(top))
    assert refused.value.message.startswith("llamad runs already, as ")
    assert "llamad status" in str(refused.value.hint)
    assert "remove" not in str(refused.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder away needs root")
@pytest.mark.parametrize("folder", ["run", "state", "cache"])
def test_root_leaves_the_services_folders_alone(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / folder).mkdir()
    os.chown(tmp_path / folder, 4711, 4711)
    monkeypatch.setattr(beginning, "service_uid", lambda: 4711)
    with pytest.raises(LlamadError, match=rf"{folder} belongs to .*4711.*\(start the service"):
        make(directories(tmp_path))
    monkeypatch.setattr(beginning, "service_uid", lambda: None)
    if folder == "run":
        with pytest.raises(LlamadError, match=r"\(set RUNTIME_DIRECTORY"):
            make(directories(tmp_path))
    else:
        make(directories(tmp_path))  # a volume of a container, say
