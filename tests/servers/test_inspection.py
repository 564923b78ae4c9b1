"""A look before a start, and after an end without a word."""

import os
import shutil
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from llamad.config import filefaults
from llamad.config.optionfiles import NamedFile, Use
from llamad.host.address import TcpAddress, UnixAddress
from llamad.servers.board import Failure
from llamad.servers.command import Launch
from llamad.servers.inspection import examine, inspect
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
    assert failure(launch).hint == "chmod +x it, if it is llama-server"


def test_a_folder_is_no_program(launch: Launch) -> None:
    launch.binary.unlink()
    launch.binary.mkdir()
    assert failure(launch).message == f"{launch.binary} is a folder, not a program"


def test_a_missing_model(launch: Launch) -> None:
    assert launch.model is not None
    launch.model.unlink()
    found = failure(launch)
    assert (found.cause, found.permanent) == ("model-missing", True)
    assert found.message == f"the model {launch.model} is not there"


def test_a_model_that_is_a_folder(launch: Launch) -> None:
    found = failure(a_launch(binary=launch.binary, model=launch.binary.parent))
    assert found.cause == "model-missing"
    assert found.message.endswith("is a folder, not a model")


def test_a_model_that_is_none(launch: Launch) -> None:
    assert launch.model is not None
    launch.model.write_bytes(b"<html>" * 100)
    found = failure(launch)
    assert (found.cause, found.permanent) == ("model-corrupt", True)
    assert "is not usable" in found.message


def test_a_file_that_an_argument_names(launch: Launch) -> None:
    missing = launch.binary.parent / "mmproj.gguf"
    found = failure(replace(launch, files=(*launch.files, NamedFile(missing, Use.READ))))
    assert (found.cause, found.message, found.permanent) == ("file-missing", f"{missing} is not there", True)


def test_a_missing_part_of_a_split_model(launch: Launch) -> None:
    part = launch.binary.parent / "m-00001-of-00002.gguf"
    part.write_bytes(gguf(tensors=1))
    found = failure(a_launch(binary=launch.binary, model=part))
    assert found.message == f"the model {part.with_name('m-00002-of-00002.gguf')} is not there"


def test_a_disk_that_fails_is_tried_again(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(filefaults, "read_header", fail)
    found = failure(launch)
    assert (found.cause, found.permanent) == ("model-unreadable", False)
    assert "Input/output error" in found.message


# --- after an end

SOCKET = UnixAddress(Path("/run/x.sock"))


def test_nothing_is_seen_where_all_is_well(launch: Launch) -> None:
    assert examine(launch, SOCKET, os.environ) is None


def test_what_keeps_it_from_starting_is_seen_after_its_end_too(launch: Launch) -> None:
    assert launch.model is not None
    launch.model.unlink()
    found = examine(launch, SOCKET, os.environ)
    assert found is not None
    assert (found.cause, found.permanent) == ("model-missing", True)


def test_a_port_that_is_taken(launch: Launch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = TcpAddress("127.0.0.1", other.getsockname()[1])
        found = examine(launch, address, os.environ)
    assert found is not None
    assert (found.cause, found.permanent) == ("port-taken", False)
    assert found.message == f"it cannot listen on 127.0.0.1, port {address.port}: Address already in use"
    assert found.hint is not None
    assert "ss -ltnp" in found.hint
    assert examine(launch, address, os.environ) is None


def test_an_address_that_this_host_has_not(launch: Launch) -> None:
    found = examine(launch, TcpAddress("192.0.2.1", 9), os.environ)
    assert found is not None
    assert found.hint == "no interface of this host has that address: correct host"


def test_a_missing_library_is_named(launch: Launch, tmp_path: Path) -> None:
    program = tmp_path / "program"
    shutil.copy("/bin/sh", program)
    data = program.read_bytes()
    assert data.count(b"libc.so.6\0") == 1
    program.write_bytes(data.replace(b"libc.so.6\0", b"libq.so.6\0"))
    found = examine(a_launch(binary=program, model=launch.model), SOCKET, {})
    assert found is not None
    assert (found.cause, found.permanent) == ("library-missing", True)
    assert "libq.so.6" in found.message


def test_libraries_are_looked_for_in_the_environment_of_the_server(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, str]] = []

    def run(*_: object, env: dict[str, str], **__: object) -> None:
        asked.append(env)
        raise subprocess.TimeoutExpired("ldd", 1)

    monkeypatch.setattr(subprocess, "run", run)
    with_libraries = a_launch(binary=launch.binary, model=launch.model, environment=(("LD_LIBRARY_PATH", "/opt/l"),))
    assert examine(with_libraries, SOCKET, {"A": "b"}) is None
    assert asked == [{"A": "b", "LD_LIBRARY_PATH": "/opt/l"}]
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    assert examine(launch, SOCKET, {}) is None


def test_what_keeps_llamad_itself_from_looking_says_nothing(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(socket, "socket", refuse)
    assert examine(launch, TcpAddress("127.0.0.1", 1), os.environ) is None
