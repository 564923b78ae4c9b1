"""The commands that ask the daemon, over a real socket: what they print, and what they end with."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llamad.cli.main import main
from llamad.control.operations import Settled
from llamad.servers.board import Failure
from llamad.servers.plan import Action, Step
from llamad.servers.state import State
from tests.control.fakes import FakeOperations, daemon
from tests.waiting import until

ROOT = Path(__file__).parents[2]
Captured = pytest.CaptureFixture[str]
REPLACE = Step(Action.REPLACE, "qwen", ("args.ctx_size 4096 -> 8192", "gpus unset -> [0]"))


async def run(path: Path, *argv: str) -> int:
    """`llamad ARGV --socket PATH`, in a thread."""
    return await asyncio.to_thread(main, [*argv, "--socket", str(path)])


async def test_status_is_a_table(capsys: Captured) -> None:
    async with daemon() as path:
        assert await run(path, "status") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["NAME", "STATE", "WANTED"]
    assert [line.split()[:2] for line in lines[1:4]] == [["qwen/0", "ready"], ["qwen/1", "ready"], ["embed", "stopped"]]


async def test_status_of_one_server_is_everything_about_it(capsys: Captured) -> None:
    async with daemon() as path:
        assert await run(path, "status", "qwen") == 0
    out = capsys.readouterr().out
    assert out.startswith("qwen: ready, wanted running\n  model:      /m/qwen.gguf\n")
    assert "embed" not in out


async def test_status_as_json_is_the_daemons_own(capsys: Captured) -> None:
    operations = FakeOperations()
    async with daemon(operations) as path:
        assert await run(path, "status", "--json") == 0
        assert json.loads(capsys.readouterr().out) == operations.status(None)


async def test_an_unknown_server_fails(capsys: Captured) -> None:
    async with daemon() as path:
        for argv in (("status", "x"), ("stop", "qwen", "x"), ("logs", "x"), ("status", "x", "--watch")):
            assert await run(path, *argv) == 1
            assert capsys.readouterr().err == "llamad: no server is called 'x'\nhint: there is: qwen, embed\n"


async def test_plan_prints_what_would_change(capsys: Captured) -> None:
    operations = FakeOperations(steps=(REPLACE, Step(Action.STOP, "old", ()), Step(Action.KEEP, "embed")))
    async with daemon(operations) as path:
        assert await run(path, "plan") == 0
        operations.steps = ()
        operations.notes = ("a.yaml:1:1: servers.x.model: is not there",)
        assert await run(path, "plan") == 0
        operations.notes, operations.settings = (), ("gateway: max_body 1 -> 2",)
        assert await run(path, "plan") == 0
        assert await run(path, "reload") == 0
    out, err = capsys.readouterr()
    assert out == "replace qwen: args.ctx_size 4096 -> 8192, gpus unset -> [0]\nstop old\nnothing would change\n" + (
        "gateway: max_body 1 -> 2\n" * 2
    )
    assert err == "a.yaml:1:1: servers.x.model: is not there\n"


@pytest.mark.parametrize("command", [("plan",), ("reload",), ("reload", "--wait"), ("upgrade",)])
async def test_a_broken_file_is_78_with_every_problem(command: tuple[str, ...], capsys: Captured) -> None:
    async with daemon(FakeOperations(problems=("a.yaml:1:1: x: bad", "a.yaml:2:1: y: bad"))) as path:
        assert await run(path, *command) == 78
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "a.yaml:1:1: x: bad\na.yaml:2:1: y: bad\n"
        "llamad: the configuration was not accepted\nhint: nothing was changed\n"
    )


async def test_reload_tells_what_it_did(capsys: Captured) -> None:
    operations = FakeOperations(steps=(REPLACE, Step(Action.KEEP, "embed")))
    async with daemon(operations) as path:
        assert await run(path, "reload") == 0
        assert await run(path, "reload", "--wait") == 0
        operations.steps = ()
        assert await run(path, "reload") == 0
    step = "replace qwen: args.ctx_size 4096 -> 8192, gpus unset -> [0]\n"
    assert capsys.readouterr().out == f"{step}{step}qwen: ready\naccepted, nothing changed\n"


async def test_reload_is_1_where_a_touched_server_failed(capsys: Captured) -> None:
    operations = FakeOperations(steps=(REPLACE, Step(Action.START, "embed")), broken=frozenset({"qwen"}))
    async with daemon(operations) as path:
        assert await run(path, "reload", "--wait") == 1
        assert await run(path, "reload") == 0, "who does not wait does not know"
    out, err = capsys.readouterr()
    assert "embed: ready\n" in out
    assert err == "llamad: qwen: failed: the model is missing\nhint: put it there\n"


@pytest.mark.parametrize(
    ("verb", "asked", "state"),
    [
        ("start", "will be started", "ready"),
        ("stop", "will be stopped", "stopped"),
        ("restart", "will be restarted", "ready"),
    ],
)
async def test_verbs_on_servers(verb: str, asked: str, state: str, capsys: Captured) -> None:
    operations = FakeOperations()
    async with daemon(operations) as path:
        assert await run(path, verb, "embed") == 0
        assert await run(path, verb, "qwen", "embed", "--wait") == 0
        operations.broken = frozenset({"embed"})
        assert await run(path, verb, "embed", "--wait") == 1
    assert capsys.readouterr().out == f"embed: {asked}\nqwen: {state}\nembed: {state}\n"
    assert operations.calls == [(verb, "embed", False), (verb, "qwen", "embed", True), (verb, "embed", True)]


async def test_logs_are_lines_that_can_be_grepped(capsys: Captured) -> None:
    operations = FakeOperations()
    operations.say("\x1b[31mwarn\x1b[0m")
    operations.say("late", lost=7)
    async with daemon(operations) as path:
        assert await run(path, "logs", "qwen", "-n", "3") == 0
    out, err = capsys.readouterr()
    at = "1970-01-01T00:00:01.500Z qwen/0"
    assert out == f"{at} ready\n{at} warn\n{at} late\n"
    assert err == "7 lines were lost: they came faster than they were read\n"


async def test_a_log_that_is_asked_by_alias_names_the_server(capsys: Captured) -> None:
    async with daemon() as path:
        assert await run(path, "logs", "q", "-n", "1") == 0
    assert capsys.readouterr().out == "1970-01-01T00:00:01.500Z qwen/0 ready\n"


async def test_a_server_that_llamad_does_not_run_has_no_log(capsys: Captured) -> None:
    async with daemon(FakeOperations(external=frozenset({"embed"}))) as path:
        assert await run(path, "logs", "embed") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert (
        err == "llamad: llamad does not run embed, and so has no log of it\nhint: look where http://embed:80 is run\n"
    )


async def test_models(capsys: Captured) -> None:
    async with daemon() as path:
        assert await run(path, "models") == 0
        out = capsys.readouterr().out
        assert await run(path, "models", "--json") == 0
        assert json.loads(capsys.readouterr().out)["files"][0]["quantization"] == "Q4_K_M"
    files, served = out.split("\n\n")
    assert files.splitlines()[1].split()[:3] == ["qwen.gguf", "qwen3", "3G"]
    assert served.splitlines()[1].split() == ["qwen", "qwen,", "q", "8192", "4", "-", "server"]


async def test_devices(capsys: Captured) -> None:
    async with daemon() as path:
        assert await run(path, "devices") == 0
        out, err = capsys.readouterr()
        assert await run(path, "devices", "--json") == 0
        assert json.loads(capsys.readouterr().out)["gpus"][0]["name"] == "L4"
    assert out.splitlines()[1].split()[:4] == ["0", "nvidia", "L4", "24G"]
    assert out.endswith("/usr/bin/llama-server sees:\n  CUDA0: L4\n")
    assert err == "no /dev/nvidia-uvm\n"


async def test_upgrade(capsys: Captured) -> None:
    operations = FakeOperations()
    async with daemon(operations) as path:
        assert await run(path, "upgrade") == 0
    assert operations.upgraded
    assert capsys.readouterr().out.startswith("llamad ends now and leaves its servers running")


def test_without_a_daemon_models_are_those_of_the_folder(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    nowhere = ["--socket", "/nowhere/c.sock"]
    assert main(["models", *nowhere]) == 0
    assert capsys.readouterr().out == f"no GGUF file is in {tmp_path}/models\n"
    (tmp_path / "models").mkdir()
    (tmp_path / "models/x.gguf").write_text("hello")
    assert main(["models", *nowhere]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[1].split()[0] == "x.gguf"
    assert "broken:" in out
    assert err.endswith(f"there is no such socket: showing {tmp_path}/models\n")
    assert main(["models", "--json", *nowhere]) == 0
    assert json.loads(capsys.readouterr().out)["served"] == []


def test_a_models_folder_that_is_none_is_named(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    (tmp_path / "models").write_text("a file")
    assert main(["models", "--socket", "/nowhere/c.sock"]) == 1
    assert f"cannot read {tmp_path}/models" in capsys.readouterr().err


def test_without_a_daemon_devices_are_the_kernels(capsys: Captured) -> None:
    assert main(["devices", "--json", "--socket", "/nowhere/c.sock"]) == 0
    out, err = capsys.readouterr()
    assert set(json.loads(out)) == {"gpus", "problems", "llama_server"}
    assert "showing what the kernel shows here" in err
    assert main(["devices", "--socket", "/nowhere/c.sock"]) == 0


@pytest.mark.parametrize("command", [("status",), ("plan",), ("reload",), ("stop", "x"), ("logs", "x"), ("upgrade",)])
def test_without_a_daemon_it_is_69(command: tuple[str, ...], capsys: Captured) -> None:
    assert main([*command, "--socket", "/nowhere/c.sock"]) == 69
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(
        "llamad: cannot reach llamad at /nowhere/c.sock: there is no such socket\nhint: is llamad running?"
    )


async def test_watching_ends_with_llamad(capsys: Captured) -> None:
    operations = FakeOperations()
    for argv in ((), ("--json",)):
        async with daemon(operations) as path:
            watching = asyncio.create_task(run(path, "status", "--watch", *argv))
            await until(lambda: operations.streams == 1)
            key = next(key for key in operations.board.replicas if key.server == "embed")
            operations.board.move(key, State.FAILED if not argv else State.STARTING, now=1.0)
            shown, word = "", "starting" if argv else "failed"

            def is_shown(word: str = word) -> bool:
                nonlocal shown
                shown += capsys.readouterr().out
                return word in shown

            await until(is_shown)
        assert await watching == 69
        assert "qwen" in shown


async def test_a_log_that_ends_while_it_is_followed_is_no_success(capsys: Captured) -> None:
    operations = FakeOperations()
    operations.say("REMOVED")
    async with daemon(operations) as path:
        assert await run(path, "logs", "qwen", "-f") == 69
    assert "llamad: the log of qwen has ended\n" in capsys.readouterr().err


# --- what goes on until somebody ends it: in processes of their own


async def spawn(path: Path, *argv: str) -> asyncio.subprocess.Process:
    """`llamad ARGV` with its output on a pipe."""
    pipe = asyncio.subprocess.PIPE
    environ = {**os.environ, "LLAMAD_SOCKET": str(path), "PYTHONPATH": str(ROOT)}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "llamad", *argv), stdout=pipe, stderr=pipe, env=environ
    )


async def next_line(process: asyncio.subprocess.Process) -> str:
    """The next line it prints."""
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), 10)).decode().rstrip("\n")


async def ended(process: asyncio.subprocess.Process) -> tuple[int, str, str]:
    """Its exit code and the rest of its output."""
    out, err = await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_following_a_log_until_interrupted() -> None:
    operations = FakeOperations()
    async with daemon(operations) as path:
        process = await spawn(path, "logs", "qwen", "-f", "-n", "1")
        assert (await next_line(process)).endswith("qwen/0 ready")
        operations.say("more")
        assert (await next_line(process)).endswith("qwen/0 more")
        process.send_signal(signal.SIGINT)
        assert await ended(process) == (130, "", "")
        await until(lambda: operations.streams == 0)


async def test_watching_prints_a_line_a_change_until_llamad_ends() -> None:
    operations = FakeOperations()
    async with daemon(operations) as path:
        process = await spawn(path, "status", "--watch")
        assert [await next_line(process) for _ in range(3)] == ["qwen/0 ready", "qwen/1 ready", "embed/0 stopped"]
        key = next(key for key in operations.board.replicas if key.server == "embed")
        operations.board.move(key, State.STARTING, now=1.0)
        assert await next_line(process) == "embed/0 stopped -> starting"
    code, out, err = await ended(process)
    assert (code, out) == (69, "")
    assert err.startswith("llamad: llamad ended the connection")


async def test_watching_for_scripts_prints_a_document_a_line() -> None:
    operations = FakeOperations()
    async with daemon(operations) as path:
        process = await spawn(path, "status", "--watch", "--json", "qwen")
        assert [one["name"] for one in json.loads(await next_line(process))["servers"]] == ["qwen"]
        process.send_signal(signal.SIGINT)
        assert (await ended(process))[0] == 130


async def test_a_reader_that_leaves_ends_it_quietly() -> None:
    operations = FakeOperations()
    operations.say(*("x" * 1000 for _ in range(500)))
    async with daemon(operations) as path:
        command = f"{sys.executable} -m llamad logs qwen | head -n 1; exit ${{PIPESTATUS[0]}}"
        environ = {**os.environ, "LLAMAD_SOCKET": str(path), "PYTHONPATH": str(ROOT)}
        done = await asyncio.to_thread(
            lambda: subprocess.run(
                ["bash", "-c", command], env=environ, capture_output=True, text=True, check=False, timeout=20
            )
        )
    assert (done.returncode, done.stderr) == (141, "")
    assert done.stdout.endswith("qwen/0 loading\n")


async def test_what_is_ready_but_not_as_it_is_wanted_fails_and_is_not_called_ready(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Settled("qwen", State.READY, Failure("model-missing", "not replaced: no model", "bring it back"))
    monkeypatch.setattr(FakeOperations, "_settle", lambda *_: (kept,))
    async with daemon() as path:
        assert await run(path, "restart", "qwen", "--wait") == 1
    assert capsys.readouterr().err == "llamad: qwen: not replaced: no model\nhint: bring it back\n"
