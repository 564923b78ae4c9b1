"""The folders a daemon begins with (what it begins to run: test_first_config)."""

import os
from pathlib import Path

import pytest

from llamad.beginning import make
from llamad.errors import LlamadError
from llamad.host.dirs import Directories


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
    with pytest.raises(LlamadError, match="belongs to somebody else"):
        make(directories(tmp_path))
