"""What a child writes."""

import logging

import pytest

from llamad.servers.board import ReplicaKey
from llamad.servers.listener import LAST_LINES, LINES_A_BURST, Listener
from llamad.servers.output import Output


class Heard:
    """A listener with its output; `news` counts its calls."""

    def __init__(self, *, gpus_asked: bool = False) -> None:
        self.news = 0
        self.output = Output()
        self.listener = Listener(ReplicaKey("a", 1), self.output, gpus_asked=gpus_asked, on_news=self._note)

    def _note(self) -> None:
        self.news += 1


@pytest.fixture
def _all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


@pytest.mark.usefixtures("_all_levels")
def test_lines_are_kept_and_logged_with_their_own_level(caplog: pytest.LogCaptureFixture) -> None:
    heard = Heard()
    heard.listener.feed(b"0.00.006.794 W srv    load: slow disk\n   and it goes on\n0.00.007.000 I srv ")
    assert heard.listener.lines == 2
    heard.listener.feed(b"init: done\n")
    told = [(line.level, line.text, line.replica) for line in heard.output.lines()]
    assert told == [
        (logging.WARNING, "0.00.006.794 W srv    load: slow disk", 1),
        (logging.WARNING, "   and it goes on", 1),
        (logging.INFO, "0.00.007.000 I srv init: done", 1),
    ]
    assert [(one.levelno, one.getMessage()) for one in caplog.records] == [(one[0], one[1]) for one in told]
    assert caplog.records[0].__dict__["server"] == "a"
    assert caplog.records[0].__dict__["replica"] == 1


def test_the_last_words_count_even_without_an_end() -> None:
    heard = Heard()
    heard.listener.feed(b"error: no")
    assert not heard.listener.last_lines
    heard.listener.finish()
    assert list(heard.listener.last_lines) == ["error: no"]


def test_only_the_last_lines_are_kept_for_the_diagnosis() -> None:
    heard = Heard()
    heard.listener.feed(b"".join(b"%d\n" % i for i in range(500)))
    assert len(heard.listener.last_lines) == LAST_LINES
    assert heard.listener.last_lines[-1] == "499"


def test_a_line_that_says_ready_is_news() -> None:
    heard = Heard()
    heard.listener.feed(b"loading\n")
    assert heard.news == 0
    heard.listener.feed(b"main: server is listening on http://127.0.0.1:80\n")
    assert heard.news == 1


def test_a_missing_gpu_is_a_verdict_only_where_one_was_asked_for() -> None:
    line = b"warning: no usable GPU found, --gpu-layers option will be ignored\n"
    asked, not_asked = Heard(gpus_asked=True), Heard()
    for heard in (asked, not_asked):
        heard.listener.feed(line + b"and more\n")
    assert asked.listener.verdict is not None
    assert asked.listener.verdict.cause == "gpu-missing"
    assert asked.news > 0
    assert not_asked.listener.verdict is None


@pytest.mark.usefixtures("_all_levels")
def test_a_flood_is_cut_in_the_log_and_told_and_kept_for_llamad_logs(caplog: pytest.LogCaptureFixture) -> None:
    heard = Heard()
    heard.listener.feed(b"x\n" * (LINES_A_BURST * 2))
    heard.listener.report()
    heard.listener.finish()
    assert heard.listener.lines == LINES_A_BURST * 2
    passed = sum(one.getMessage() == "x" for one in caplog.records)
    assert LINES_A_BURST <= passed < LINES_A_BURST * 1.9
    last = caplog.records[-1]
    assert f"{LINES_A_BURST * 2 - passed} lines suppressed" in last.getMessage()
    assert "`llamad logs a` has the newest" in last.getMessage()
    assert last.__dict__["event"] == "log-flood"
