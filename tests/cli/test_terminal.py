"""Tables on a terminal: a real one, of a pseudo-terminal's kind."""

import asyncio
import io
import json
import os
import pty
import signal
import sys
from pathlib import Path

import pytest

from llamad.cli.layout import Table
from llamad.cli.main import main
from llamad.cli.terminal import is_rich, screen, show_tables
from llamad.servers.state import State
from tests.control.fakes import FakeOperations, daemon
from tests.waiting import until

ROOT = Path(__file__).parents[2]


class Terminal:
    """`llamad ARGV` on a pseudo-terminal."""

    def __init__(self, process: asyncio.subprocess.Process, fd: int) -> None:
        self.process = process
        self._fd = fd
        self.seen = ""

    async def until(self, text: str) -> None:
        """Read until `text` was seen."""
        async with asyncio.timeout(10):
            while text not in self.seen:
                self.seen += await asyncio.to_thread(self._read)

    async def end(self) -> int:
        """Read to the end; its exit code."""
        async with asyncio.timeout(10):
            while part := await asyncio.to_thread(self._read):
                self.seen += part
            return await self.process.wait()

    def _read(self) -> str:
        try:
            return os.read(self._fd, 65536).decode()
        except OSError:  # EIO: the other side was closed
            return ""


async def start(path: Path, *argv: str, **environ: str) -> Terminal:
    """The command on a terminal of 200 columns."""
    ours, theirs = pty.openpty()
    given = {**os.environ, "LLAMAD_SOCKET": str(path), "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "200"}
    given.pop("NO_COLOR", None)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "llamad", *argv), stdout=theirs, stderr=theirs, env={**given, **environ}
    )
    os.close(theirs)
    return Terminal(process, ours)


async def show(path: Path, *argv: str, **environ: str) -> str:
    """All that a command shows."""
    terminal = await start(path, *argv, **environ)
    assert await terminal.end() == 0
    os.close(terminal._fd)
    return terminal.seen


async def test_a_terminal_gets_colour() -> None:
    async with daemon() as path:
        seen = await show(path, "status")
    assert "\x1b[32mready" in seen
    assert "\x1b[1mNAME" in seen


@pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
async def test_unless_it_asks_for_none(environ: dict[str, str]) -> None:
    async with daemon() as path:
        seen = await show(path, "status", **environ)
    assert "qwen/0" in seen
    assert "\x1b[3" not in seen


async def test_watching_draws_anew() -> None:
    operations = FakeOperations()
    async with daemon(operations) as path:
        terminal = await start(path, "status", "--watch")
        await terminal.until("stopped")
        key = next(key for key in operations.board.replicas if key.server == "embed")
        operations.board.move(key, State.BACKOFF, now=1.0)
        await terminal.until("backoff")
        terminal.process.send_signal(signal.SIGINT)
        assert await terminal.end() == 130
    os.close(terminal._fd)
    assert terminal.seen.count("NAME") >= 2
    assert "Traceback" not in terminal.seen


async def test_json_has_no_colour_on_a_terminal_either() -> None:
    async with daemon() as path:
        assert json.loads(await show(path, "status", "--json"))["ready"] is True


class Tty(io.StringIO):
    """A terminal that remembers."""

    def isatty(self) -> bool:
        return True


def a_tty(monkeypatch: pytest.MonkeyPatch) -> Tty:
    """Standard output for the rest of a test (pytest puts its own there between fixtures and test)."""
    out = Tty()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return out


TABLE = Table(
    ("STATE", "SIZE", "NOTE"), (("failed", "1G", "[bold]x[/] :smile:"), ("odd", "10G", "-")), frozenset({"SIZE"})
)


def test_a_table_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    tty = a_tty(monkeypatch)
    show_tables([TABLE], ["[red]after"])
    titles, failed, odd, after = tty.getvalue().splitlines()
    assert "\x1b[1mSTATE" in titles
    assert failed == "\x1b[1;31mfailed\x1b[0m    1G  [bold]x[/] :smile:"
    assert odd.rstrip() == "odd      10G  -"
    assert after == "[red]after"


def test_on_a_narrow_terminal_no_cell_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    tty = a_tty(monkeypatch)
    monkeypatch.setenv("COLUMNS", "24")
    name = "Qwen3-Coder-30B-A3B-Instruct-UD-Q4_K_XL.gguf"
    wide = Table(("FILE", "STATE", "NOTE"), ((name, "failed", "no GGUF at all: fetch it again"),), least=("STATE",))
    show_tables([wide], ["no servers are configured here"])
    assert tty.getvalue().splitlines() == [
        "\x1b[1mFILE\x1b[0m",
        name,
        f"{name}:",
        "  no GGUF at all: fetch",
        "  it again",
        "no servers are",
        "  configured here",
    ]
    with screen() as terminal:
        terminal.draw(wide, ())
    assert f"{name[:23]}…" in tty.getvalue(), "what is drawn anew must not fill more lines than it has"


def test_a_screen_is_drawn_over(monkeypatch: pytest.MonkeyPatch) -> None:
    tty = a_tty(monkeypatch)
    with screen() as terminal:
        terminal.draw(TABLE, ())
        once = tty.getvalue()
        terminal.draw(TABLE, ("more",))
    assert "failed" in once
    assert tty.getvalue().count("failed") >= 2
    assert "\x1b[2K" in tty.getvalue(), "what was there is erased"


async def test_watching_on_a_terminal_draws_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    tty = a_tty(monkeypatch)
    async with daemon() as path:
        watching = asyncio.create_task(asyncio.to_thread(main, ["status", "--watch", "--socket", str(path)]))
        await until(lambda: "embed" in tty.getvalue())
    assert await watching == 69


def test_only_a_terminal_that_can_is_drawn_on() -> None:
    assert is_rich(Tty(), {"TERM": "xterm"})
    assert not is_rich(Tty(), {"TERM": "dumb"})
    assert not is_rich(Tty(), {})
    assert not is_rich(io.StringIO(), {"TERM": "xterm"})
