"""The commands that need no daemon."""

import json
import os
from pathlib import Path

import pytest

from llamad.cli import local
from llamad.cli.main import main
from tests.builders import fake_binary, gguf

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a binary and a model."""
    for name in ("STATE_DIRECTORY", "RUNTIME_DIRECTORY", "CACHE_DIRECTORY"):
        monkeypatch.setenv(name, str(tmp_path))
    fake_binary(tmp_path)
    (tmp_path / "m.gguf").write_bytes(gguf())
    return tmp_path


def a_file(folder: Path, servers: str) -> Path:
    file = folder / "llamad.yaml"
    file.write_text(f"llama_server: {folder}/llama-server\nservers:\n{servers}")
    return file


def test_a_good_file_is_one_line(folder: Path, capsys: Captured) -> None:
    file = a_file(folder, f"  a: {{model: {folder}/m.gguf}}\n")
    assert main(["check", "--config", str(file)]) == 0
    assert capsys.readouterr() == (f"{file}: OK, 1 server\n", "")
    file = a_file(folder, f"  a: {{model: {folder}/m.gguf}}\n  b: {{model: {folder}/m.gguf}}\n")
    assert main(["check", "--config", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}: OK, 2 servers\n"


def test_every_problem_is_a_line_and_78(folder: Path, capsys: Captured) -> None:
    file = a_file(folder, f"  a: {{model: {folder}/m.gguf, prot: 1}}\n  b: {{model: {folder}/gone.gguf}}\n")
    assert main(["check", "--config", str(file)]) == 78
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    where = ":".join(lines[0].split(":")[:3])
    assert lines[-1] == f"2 problems: the configuration is refused because of {where}"
    assert where.startswith(f"{file}:3:")
    assert "prot" in lines[0]


def test_what_sums_up_is_short(folder: Path, capsys: Captured) -> None:
    wrong = ", ".join(f"x{number}: 1" for number in range(4))
    file = a_file(folder, f"  a: {{model: {folder}/m.gguf, {wrong}}}\n  b: {{model: {folder}/gone.gguf}}\n")
    assert main(["check", "--config", str(file)]) == 78
    assert capsys.readouterr().err.endswith("\n5 problems: the configuration is refused because of 4 of them\n")


def test_a_model_that_is_not_there_is_a_problem_too(folder: Path, capsys: Captured) -> None:
    file = a_file(folder, f"  b: {{model: {folder}/gone.gguf}}\n")
    assert main(["check", "--config", str(file)]) == 78
    err = capsys.readouterr().err
    assert "gone.gguf" in err
    assert err.splitlines()[-1].startswith("1 problem: the configuration is accepted all the same, ")
    drop_in = folder / "conf.d" / "a.yaml"
    drop_in.parent.mkdir()
    drop_in.write_text("prot: 1")
    a_file(folder, f"  b: {{model: {folder}/m.gguf}}\n")
    assert main(["check", "--config", str(file)]) == 78
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"{drop_in}:1:1: prot: unknown key")
    assert lines[1:] == ["1 problem: the configuration is refused"]


def test_check_for_scripts(folder: Path, capsys: Captured) -> None:
    file = a_file(folder, f"  b: {{model: {folder}/gone.gguf}}\n")
    assert main(["check", "--json", "--config", str(file)]) == 78
    report = json.loads(capsys.readouterr().out)
    (problem,) = report["problems"]
    assert (report["ok"], report["servers"], report["files"]) == (False, ["b"], [str(file)])
    assert (problem["file"], problem["line"], problem["kind"], problem["server"]) == (str(file), 3, "world", "b")
    assert set(problem) == {"file", "line", "column", "path", "message", "kind", "server", "hint"}
    assert main(["check", "--json", "--config", str(a_file(folder, "  {}\n"))]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True


def test_a_file_that_is_not_there_is_78(tmp_path: Path, capsys: Captured) -> None:
    assert main(["check", "--config", str(tmp_path / "none.yaml")]) == 78
    assert str(tmp_path / "none.yaml") in capsys.readouterr().err


def test_a_file_of_the_system_is_checked_with_the_services_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", "/home/u/data")
    assert local.directories_for(Path("/etc/llamad/llamad.yaml")).state == Path("/var/lib/llamad")
    assert local.directories_for(Path("/home/u/llamad.yaml")).state == Path("/home/u/data/llamad")


def test_root_checks_a_file_of_the_system_on_behalf_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        pw_name = "llamad"

    system = Path("/etc/llamad/llamad.yaml")
    monkeypatch.setattr("pwd.getpwnam", lambda _: Entry)
    assert local.service_user(system, uid=0) == "llamad"
    assert local.service_user(system, uid=1000) is None
    assert local.service_user(Path("/home/u/llamad.yaml"), uid=0) is None

    def unknown(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr("pwd.getpwnam", unknown)
    assert local.service_user(system, uid=0) is None


def test_the_schema_is_one(capsys: Captured) -> None:
    assert main(["schema"]) == 0
    assert "servers" in json.loads(capsys.readouterr().out)["properties"]


def test_checking_leaves_the_environment_alone(folder: Path) -> None:
    before = dict(os.environ)
    main(["check", "--config", str(a_file(folder, "  {}\n"))])
    assert dict(os.environ) == before
