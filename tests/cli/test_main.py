"""What may be typed, and how it ends."""

import asyncio
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import llamad
from llamad.cli.main import main, parser
from llamad.errors import LlamadError, UnavailableError
from tests.control.fakes import daemon

ROOT = Path(__file__).parents[2]
Captured = pytest.CaptureFixture[str]
COMMANDS = {
    *("run", "check", "plan", "reload", "status", "start", "stop", "restart", "logs", "models", "devices", "schema"),
    *("upgrade", "reap", "demo"),
}
CLIENTS = COMMANDS - {"run", "schema", "reap", "demo"}


def usage(argv: list[str]) -> int:
    """The exit code of a command line that argparse ends."""
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_the_version(capsys: Captured) -> None:
    assert usage(["--version"]) == 0
    assert capsys.readouterr().out == f"llamad {llamad.__version__}\n"


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help_that_names_the_exit_codes(command: str, capsys: Captured) -> None:
    assert usage([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert "exit status" in out
    assert ("--socket" in out) is (command in CLIENTS)


def test_help_lists_every_command(capsys: Captured) -> None:
    assert usage(["--help"]) == 0
    out = capsys.readouterr().out
    assert {line.split()[0] for line in out.splitlines() if line.startswith("    ") and line[4] != " "} == COMMANDS


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "COMMAND"),
        (["explode"], "no command is called 'explode'"),
        (["stop"], "NAME"),
        (["start", "a", ""], "a server's name is not empty"),
        (["logs", ""], "a server's name is not empty"),
        (["status", ""], "a server's name is not empty"),
        (["status", "a", "b"], "unexpected argument 'b'\nhint: llamad status --help"),
        (["status", "--jso"], "unknown option --jso: did you mean --json?"),
        (["logs", "a", "--flow=1"], "unknown option --flow: did you mean --follow?"),
        (["check", "a", "b"], "unexpected argument 'b'\nhint: llamad check --help"),
        (["run", "l.yaml"], "unexpected argument 'l.yaml': did you mean --config l.yaml?"),
        (["--socket", "/x", "status"], "options stand after the command: llamad COMMAND --socket"),
        (["logs", "a", "-n", "-1"], "-n/--lines"),
        (["logs", "a", "-n", "x"], "'x' is no number from 0 to 100000"),
        (["logs", "a", "-n", "100001"], "is no number from 0 to 100000"),
        (["reload", "--wait=5"], "--wait"),
        (["run", "--socket", "/x"], "unknown option --socket\n"),
        (["check", "--config"], "--config"),
    ],
)
def test_what_cannot_be_understood_is_64(argv: list[str], said: str, capsys: Captured) -> None:
    assert usage(argv) == 64
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert "usage: llamad" in err
    assert "--help" in err


def test_a_slip_of_the_pen_in_a_command_is_recognised(capsys: Captured) -> None:
    assert usage(["chekc"]) == 64
    err = capsys.readouterr().err
    assert err.endswith("llamad: no command is called 'chekc'\nhint: did you mean llamad check?\n")


def test_the_configuration_is_the_systems_unless_another_is_named() -> None:
    assert parser().parse_args(["run"]).config == Path("/etc/llamad/llamad.yaml")
    for command in ("run", "check"):
        assert parser().parse_args([command, "--config", "x"]).config == Path("x")
    for command in ("check", "plan"):
        assert parser().parse_args([command, "x"]).file == Path("x")


@pytest.mark.parametrize(
    ("argv", "target", "given"),
    [
        (["run", "--config", "/x.yaml"], "llamad.daemon.run", ((Path("/x.yaml"),), {})),
        (["reap"], "llamad.reap.reap", ((), {})),
        (["demo", "--once"], "llamad.demo.demo.demo", ((), {"once": True})),
    ],
)
def test_the_large_commands_are_handed_on(
    argv: list[str], target: str, given: tuple[object, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def record(*args: object, **named: object) -> int:
        calls.append((args, named))
        return 3

    monkeypatch.setattr(target, record)
    assert main(argv) == 3
    assert calls == [given]


def failing_with(error: BaseException) -> Callable[[], int]:
    def fail() -> int:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (LlamadError("it failed", hint="do this"), 1, "llamad: it failed\nhint: do this\n"),
        (UnavailableError("one\ntwo\x1b[2J"), 69, "llamad: one\ntwo\\x1b[2J\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_every_end_has_its_code_and_words(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr("llamad.reap.reap", failing_with(error))
    assert main(["reap"]) == code
    assert capsys.readouterr() == ("", said)


@pytest.mark.parametrize("argv", ["status", "status --json", "models", "reload", "logs qwen", "schema"])
@pytest.mark.parametrize(("to", "why"), [(">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")])
async def test_an_answer_that_cannot_be_written_is_one_line_and_74(argv: str, to: str, why: str) -> None:
    async with daemon() as path:
        process = await asyncio.create_subprocess_shell(
            f"exec {sys.executable} -m llamad {argv} {to}",
            env={**os.environ, "PYTHONPATH": str(ROOT), "LLAMAD_SOCKET": str(path)},
            stderr=subprocess.PIPE,
        )
        _, err = await process.communicate()
    assert (process.returncode, err.decode()) == (74, f"llamad: cannot write to standard output: {why}\n")


async def test_errors_do_not_become_the_answer_where_their_stream_is_closed() -> None:
    process = await asyncio.create_subprocess_shell(
        f"exec {sys.executable} -m llamad status --socket /nowhere 2>&-", stdout=subprocess.PIPE, cwd=ROOT
    )
    out, _ = await process.communicate()
    assert (process.returncode, out) == (69, b"")


HEAVY = "aiohttp pydantic yaml rich asyncio httptools prometheus_client llamad.config.model"
IMPORTS = f"""
import sys
from llamad.cli.main import main
code = main(sys.argv[1:])
print(*[name for name in {HEAVY!r}.split() if name in sys.modules])
sys.exit(code)
"""


@pytest.mark.parametrize("command", [["status"], ["reload"], ["stop", "x"], ["logs", "x"]])
def test_the_client_commands_import_nothing_heavy(command: list[str]) -> None:
    argv = [sys.executable, "-c", IMPORTS, *command, "--socket", "/nowhere"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT, timeout=20)
    assert (done.returncode, done.stdout) == (69, "\n")


def test_a_client_command_starts_in_a_moment() -> None:
    argv = [sys.executable, "-m", "llamad", "status", "--socket", "/nowhere"]

    def once() -> float:
        """Processor seconds: beside other work the clock tells of that."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(argv, capture_output=True, check=False, cwd=ROOT, timeout=20)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    assert min(once() for _ in range(5)) < 0.15
