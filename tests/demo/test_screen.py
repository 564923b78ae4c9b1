"""What a person sees while waiting, on a terminal and elsewhere."""

import io

import pytest

from llamad.demo.screen import Screen


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class OldTerminal(Terminal):
    """One that cannot draw the moving sign."""

    encoding = "ascii"


@pytest.fixture(autouse=True)
def _term(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")


def test_elsewhere_each_wait_is_one_plain_line() -> None:
    out = io.StringIO()
    screen = Screen(out)
    screen.wait("Loading")
    screen.wait("Loading")
    screen.wait("Starting")
    screen.step("Ready")
    screen.clear()
    assert out.getvalue() == "Loading ...\nStarting ...\nReady\n"


def test_a_terminal_has_one_moving_line_that_a_step_replaces() -> None:
    out = Terminal()
    screen = Screen(out)
    screen.wait("Loading")
    screen.wait("Starting")
    screen.step("Ready")
    *moves, last = out.getvalue().split("\r\x1b[2K")[1:]
    assert [move.split(" ... ")[0][2:] for move in moves] == ["Loading", "Starting"]
    assert last == "Ready\n"


def test_nothing_moving_is_left_behind() -> None:
    out = Terminal()
    screen = Screen(out)
    screen.wait("Loading")
    screen.clear()
    assert out.getvalue().endswith("\r\x1b[2K")
    before = out.getvalue()
    screen.clear()
    assert out.getvalue() == before


@pytest.mark.parametrize("kind", ["dumb", "ascii"])
def test_a_terminal_that_cannot_move_a_line_gets_plain_ones(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = OldTerminal() if kind == "ascii" else Terminal()
    if kind == "dumb":
        monkeypatch.setenv("TERM", "dumb")
    Screen(out).wait("Loading")
    assert out.getvalue() == "Loading ...\n"
