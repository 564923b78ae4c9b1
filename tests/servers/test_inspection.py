"""A last look before a start."""

from pathlib import Path

import pytest

from llamad.servers import inspection
from llamad.servers.board import Failure
from llamad.servers.command import Launch
from llamad.servers.inspection import inspect
from tests.builders import a_launch, gguf


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    """Of a program and a model that are fine."""
    program, model = tmp_path / "llama-server", tmp_path / "model.gguf"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    model.write_bytes(gguf({"general.architecture": "llama"}, tensors=1))
    return a_launch(binary=program, model=model)


def failure(launch: Launch) -> Failure:
    found = inspect(launch)
    assert found is not None
    return found


def test_what_is_fine_may_start(launch: Launch) -> None:
    assert inspect(launch) is None


def test_one_that_fetches_its_model_itself_may_start(launch: Launch) -> None:
    assert inspect(a_launch(binary=launch.binary, model=None)) is None


def test_a_missing_program(launch: Launch) -> None:
    launch.binary.unlink()
    found = failure(launch)
    assert (found.cause, found.permanent) == ("binary-missing", True)
    assert found.message == f"{launch.binary} is not there"


def test_a_program_that_is_not_executable(launch: Launch) -> None:
    launch.binary.chmod(0o644)
    assert failure(launch).message == f"{launch.binary} is not executable"


def test_a_missing_model(launch: Launch) -> None:
    assert launch.model is not None
    launch.model.unlink()
    found = failure(launch)
    assert (found.cause, found.permanent) == ("model-missing", True)
    assert found.message == f"the model {launch.model} is not there"


def test_a_model_that_is_a_folder(launch: Launch) -> None:
    found = failure(a_launch(binary=launch.binary, model=launch.binary.parent))
    assert found.cause == "model-missing"
    assert found.message.endswith("is a folder")


def test_a_model_that_is_none(launch: Launch) -> None:
    assert launch.model is not None
    launch.model.write_bytes(b"<html>" * 100)
    found = failure(launch)
    assert (found.cause, found.permanent) == ("model-corrupt", True)
    assert "is not usable" in found.message


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/home/me/x.gguf", "sandbox hides that folder (ProtectHome=yes)"),
        ("/srv/x.gguf", "needs to read it and to enter its folders"),
    ],
)
def test_a_model_that_may_not_be_read(launch: Launch, path: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(inspection, "read_header", refuse)
    monkeypatch.setenv("INVOCATION_ID", "x")
    found = failure(a_launch(binary=launch.binary, model=Path(path)))
    assert (found.cause, found.permanent) == ("model-unreadable", True)
    assert hint in (found.hint or "")


def test_a_disk_that_fails_is_tried_again(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(inspection, "read_header", fail)
    found = failure(launch)
    assert (found.cause, found.permanent) == ("model-unreadable", False)
    assert "Input/output error" in found.message
