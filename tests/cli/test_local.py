"""The commands that need no daemon."""

import asyncio
import json
import os
import socket
from pathlib import Path

import pytest

from llamad.cli import local
from llamad.cli.main import main
from llamad.config.problems import Position, Problem, ProblemKind
from llamad.config.verdict import Verdict
from llamad.control.client import Client
from llamad.errors import NotAllowedError
from llamad.servers.plan import Action, Step
from tests.builders import fake_binary, gguf
from tests.control.fakes import FakeOperations, daemon

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a binary and a model."""
    for name in ("STATE_DIRECTORY", "RUNTIME_DIRECTORY", "CACHE_DIRECTORY"):
        monkeypatch.setenv(name, str(tmp_path))
    fake_binary(tmp_path)
    (tmp_path / "m.gguf").write_bytes(gguf())
    return tmp_path


def a_file(folder: Path, servers: str, listen: str = "null") -> Path:
    file = folder / "llamad.yaml"
    file.write_text(f"llama_server: {folder}/llama-server\nservers:\n{servers}gateway: {{listen: {listen}}}\n")
    return file


ALONE = "(as you see it; no llamad answers)"


def test_a_good_file_is_one_line(folder: Path, capsys: Captured) -> None:
    file = a_file(folder, f"  a: {{model: {folder}/m.gguf}}\n")
    assert main(["check", str(file)]) == 0
    assert capsys.readouterr() == (f"{file}: OK, 1 server {ALONE}\n", "")
    file = a_file(folder, f"  a: {{model: {folder}/m.gguf}}\n  b: {{model: {folder}/m.gguf}}\n")
    assert main(["check", "--config", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}: OK, 2 servers {ALONE}\n"


def test_a_drop_in_is_checked_together_with_the_rest(folder: Path, capsys: Captured) -> None:
    """Its models and defaults are those of the whole configuration."""
    drop_in = folder / "conf.d" / "b.yaml"
    drop_in.parent.mkdir()
    drop_in.write_text("servers: {b: {model: m.gguf}}")
    main(["check", str(drop_in)])
    assert f"{drop_in}:1:22: servers.b.model: " in capsys.readouterr().err, "there is nothing that it belongs to"
    file = a_file(folder, "  {}\n")
    file.write_text(f"models_dir: {folder}\n" + file.read_text())
    assert main(["check", str(drop_in)]) == 0
    assert capsys.readouterr() == (f"{file}: OK, 1 server {ALONE}\n", "")


def test_every_problem_is_a_line_and_78(folder: Path, capsys: Captured) -> None:
    file = a_file(folder, f"  a: {{model: {folder}/m.gguf, prot: 1}}\n  b: {{model: {folder}/gone.gguf}}\n")
    assert main(["check", "--config", str(file)]) == 78
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    where = ":".join(lines[0].split(":")[:3])
    assert lines[-1] == f"2 problems: the configuration is refused because of {where} {ALONE}"
    assert where.startswith(f"{file}:3:")
    assert "prot" in lines[0]


def test_a_model_that_is_not_there_is_accepted_and_1(folder: Path, capsys: Captured) -> None:
    file = a_file(folder, f"  b: {{model: {folder}/gone.gguf}}\n")
    assert main(["check", str(file)]) == 1
    err = capsys.readouterr().err
    assert "gone.gguf" in err
    assert err.splitlines()[-1].startswith("1 problem: the configuration is accepted all the same, ")


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("TAKEN", "something else listens there"),
        ("192.0.2.1:8080", "this machine does not have that IP address"),
        ("unix:/run/somewhere/that/the/service/makes.sock", None),
    ],
)
def test_what_cannot_be_listened_on_is_accepted_and_1(
    folder: Path, capsys: Captured, address: str, why: str | None
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = address.replace("TAKEN", f"127.0.0.1:{other.getsockname()[1]}")
        file = a_file(folder, f"  a: {{model: {folder}/m.gguf}}\n", f"'{address}', insecure: true")
        assert main(["check", str(file)]) == (0 if why is None else 1)
        err = capsys.readouterr().err
        assert why is None or f"{file}:4:19: gateway.listen: cannot listen on {address}: {why}" in err


def test_the_file_at_fault_is_the_one_that_is_named(folder: Path, capsys: Captured) -> None:
    drop_in = folder / "conf.d" / "a.yaml"
    drop_in.parent.mkdir()
    drop_in.write_text("prot: 1")
    file = a_file(folder, f"  b: {{model: {folder}/m.gguf}}\n")
    assert main(["check", str(file)]) == 78
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"{drop_in}:1:1: prot: unknown key")
    assert lines[1:] == [f"1 problem: the configuration is refused because of {drop_in}:1:1 {ALONE}"]


def test_check_for_scripts(folder: Path, capsys: Captured) -> None:
    file = a_file(folder, f"  b: {{model: {folder}/gone.gguf}}\n")
    assert main(["check", "--json", str(file)]) == 1
    report = json.loads(capsys.readouterr().out)
    (problem,) = report["problems"]
    assert (report["ok"], report["servers"], report["files"]) == (False, ["b"], [str(file)])
    assert (report["view"], report["exit_code"]) == ("self", 1)
    assert (problem["file"], problem["line"], problem["kind"], problem["server"]) == (str(file), 3, "world", "b")
    assert set(problem) == {"file", "line", "column", "path", "message", "kind", "server", "hint"}
    assert main(["check", "--json", str(a_file(folder, "  {}\n"))]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True


async def test_the_running_llamad_is_asked_of_its_own_file_or_of_another(folder: Path, capsys: Captured) -> None:
    operations = FakeOperations()
    async with daemon(operations) as path:

        async def check(*more: str) -> int:
            return await asyncio.to_thread(main, ["check", "--socket", str(path), *more])

        assert await check() == 0
        seen = "(as the running llamad sees it)"
        assert capsys.readouterr().out == f"/etc/llamad/llamad.yaml: OK, 2 servers {seen}\n"
        assert [operations.sent] == [None]
        file = a_file(folder, "  {}\n")
        problem = Problem(Position(file, 1, 2), "servers.a.model", "there is no x", ProblemKind.WORLD, "a")
        for refused, code in ((problem,), 78), ((), 1):
            operations.verdict = Verdict((problem,), refused)
            assert await check(str(file)) == code
            first, last = capsys.readouterr().err.splitlines()
            assert first == f"{file}:1:2: servers.a.model: there is no x"
            assert last == f"{operations.verdict.summary} {seen}"
        assert operations.sent is not None
        assert operations.sent.contents == {file: file.read_bytes()}
        assert await check("--json", str(file)) == 1
        assert json.loads(capsys.readouterr().out)["view"] == "llamad"


async def test_who_may_not_ask_or_asks_an_older_llamad_looks_himself(folder: Path, capsys: Captured) -> None:
    def nobody(_: int) -> None:
        raise NotAllowedError("uid 5 may not control llamad")

    file = a_file(folder, "  {}\n")
    async with daemon(admit=nobody) as path:
        assert await asyncio.to_thread(main, ["check", "--socket", str(path), str(file)]) == 0
    assert capsys.readouterr().out == f"{file}: OK, 0 servers (as you see it; you may not ask llamad)\n"
    operations = FakeOperations(bug=None)
    operations.check = None  # type: ignore[assignment, method-assign]
    async with daemon(operations) as path:
        assert await asyncio.to_thread(main, ["check", "--socket", str(path), str(file)]) == 0
    assert "llamad was not asked: " in capsys.readouterr().out


async def test_a_plan_of_a_file_sends_it_with_the_drop_ins_beside_it(folder: Path, capsys: Captured) -> None:
    operations = FakeOperations(steps=(Step(Action.STOP, "qwen", ("no longer configured",)),))
    file = a_file(folder, "  {}\n")
    (folder / "conf.d").mkdir()
    (folder / "conf.d" / "a.yaml").write_text("servers: {}")
    async with daemon(operations) as path:
        assert await asyncio.to_thread(main, ["plan", "--socket", str(path), str(file)]) == 0
        assert capsys.readouterr().out == "stop qwen: no longer configured\n"
        assert operations.sent is not None
        assert [one.name for one in operations.sent.contents] == ["llamad.yaml", "a.yaml"]
        assert await asyncio.to_thread(main, ["plan", "--socket", str(path), str(folder / "none.yaml")]) == 78
    assert f"{folder}/none.yaml:1:1: cannot be read: No such file or directory" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_78(tmp_path: Path, capsys: Captured) -> None:
    assert main(["check", "--config", str(tmp_path / "none.yaml")]) == 78
    assert str(tmp_path / "none.yaml") in capsys.readouterr().err


def test_a_file_of_the_system_is_checked_with_the_services_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", "/home/u/data")
    assert local.directories_for(Path("/etc/llamad/llamad.yaml")).state == Path("/var/lib/llamad")
    assert local.directories_for(Path("/home/u/llamad.yaml")).state == Path("/home/u/data/llamad")


def test_who_checks_a_file_of_the_system_is_told_how_the_service_sees_it(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """`the user bob needs to read it` is no advice where the service has to."""
    hint = "; sudo llamad check tells how its service would see it)"
    for uid, told in ((1000, True), (0, False)):
        monkeypatch.setattr("os.geteuid", lambda uid=uid: uid)
        main(["check", "/etc/no-such-llamad/llamad.yaml"])
        assert (hint in capsys.readouterr().err) is told


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


def test_without_a_daemon_models_are_those_of_the_configured_folder(
    folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "there.gguf").write_bytes(gguf())
    file = a_file(folder, "  {}\n")
    monkeypatch.setattr("llamad.cli.main._SYSTEM_CONFIG", str(file))
    for text, name in (("models_dir: elsewhere\nfrobnicate: 1\n", "there.gguf"), ("log: {}\n", None)):
        file.write_text(text)
        assert main(["models"]) == 0
        out, err = capsys.readouterr()
        shown = folder / ("elsewhere" if name else "models")
        assert err.endswith(f": showing {shown}\n")
        assert (name or "no GGUF file is in") in out


async def test_root_looks_as_the_services_user_where_no_llamad_answers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would run a program that this user may have put there, as root."""
    became: list[Path] = []
    monkeypatch.setattr(local, "service_user", lambda *_, **__: "llamad")
    monkeypatch.setattr(local, "become_owner_of", became.append)
    assert local.check(a_file(folder, "  {}\n"), Path("/none"), Client(folder / "none"), as_json=True) == 0
    assert became == [folder]


def test_the_schema_is_one(capsys: Captured) -> None:
    assert main(["schema"]) == 0
    assert "servers" in json.loads(capsys.readouterr().out)["properties"]


def test_checking_leaves_the_environment_alone(folder: Path) -> None:
    before = dict(os.environ)
    main(["check", "--config", str(a_file(folder, "  {}\n"))])
    assert dict(os.environ) == before
