"""What a child writes."""

import logging

import pytest

from llamad.servers.board import ReplicaKey
from llamad.servers.diagnosis import LastLines
from llamad.servers.listener import FLOOD_LINES, LAST_LINES, LINES_A_BURST, Listener
from llamad.servers.output import Output

FLOOD = LINES_A_BURST * 2
"""More than the log takes at once, and than it takes again while they are read."""
NO_GPU = "warning: no usable GPU found, --gpu-layers option will be ignored"


class Heard:
    """A listener with its output; `news` counts its calls."""

    def __init__(self, *, private: bool = True, adopted: bool = False) -> None:
        self.news = 0
        self.output = Output()
        self.listener = Listener(ReplicaKey("a", 1), self.output, private=private, adopted=adopted, on_news=self._note)

    def says(self, *lines: str) -> None:
        """These lines are written."""
        for line in lines:
            self.listener.feed(line.encode() + b"\n")

    def reads(self, data: bytes) -> None:
        """These bytes come, some at a time."""
        for start in range(0, len(data), 1024):
            self.listener.feed(data[start : start + 1024])

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
    assert not heard.listener.last_lines.own
    heard.listener.finish()
    assert heard.listener.last_lines == LastLines(own=("error: no",))


def test_only_the_last_lines_are_kept_for_the_diagnosis() -> None:
    heard = Heard()
    heard.listener.feed(b"".join(b"%d\n" % i for i in range(500)))
    assert len(heard.listener.last_lines.own) == LAST_LINES
    assert heard.listener.last_lines.own[-1] == "499"


def test_a_line_that_says_ready_is_news() -> None:
    heard = Heard()
    heard.listener.feed(b"loading\n")
    assert heard.news == 0
    heard.listener.feed(b"main: server is listening on http://127.0.0.1:80\n")
    assert heard.news == 1


def test_a_missing_gpu_is_news() -> None:
    heard = Heard()
    heard.says(NO_GPU, "and more", NO_GPU)
    assert heard.listener.devices.no_gpu
    assert heard.news == 2


def test_a_storm_of_lines_that_say_ready_is_one_piece_of_news() -> None:
    heard = Heard()
    heard.says(*["main: server is listening on http://127.0.0.1:80"] * 100)
    assert heard.news == 1
    heard.listener.note_ready()
    heard.says(*["srv  x: model loaded"] * 100)
    assert heard.news == 1


@pytest.mark.parametrize("line", ["srv  x: model loaded", "srv  log_server_r: done request: GET /health"])
def test_what_comes_after_the_first_request_may_be_a_clients(line: str) -> None:
    heard = Heard()
    heard.says("loading", line, NO_GPU)
    assert heard.listener.last_lines == LastLines(own=("loading", line), since=(NO_GPU,))
    assert not heard.listener.devices.no_gpu


def test_once_it_is_ready_nothing_that_it_says_decides() -> None:
    heard = Heard()
    heard.says("loading")
    heard.listener.note_ready()
    heard.says(NO_GPU, "srv  x: model loaded")
    assert heard.listener.last_lines == LastLines(since=(NO_GPU, "srv  x: model loaded"), served=True)
    assert not heard.listener.devices.no_gpu
    assert heard.news == 0
    heard.listener.note_loading()
    assert heard.listener.last_lines.served, "it cannot load again"


def test_one_that_was_taken_over_may_have_been_ready() -> None:
    heard = Heard(adopted=True)
    heard.says(NO_GPU)
    assert heard.listener.last_lines == LastLines(since=(NO_GPU,), served=True)
    assert not heard.listener.devices.no_gpu


def test_one_that_was_taken_over_while_it_loads_is_believed() -> None:
    heard = Heard(adopted=True)
    heard.says(NO_GPU)
    heard.listener.note_loading()
    heard.says("more")
    assert heard.listener.last_lines == LastLines(own=(NO_GPU, "more"))
    assert heard.listener.devices.no_gpu


FORGED = [
    "0.00.006.794 E srv    load_model: it all went wrong",
    "E it all went wrong",
    "error: it all went wrong",
    '{"level":"error","msg":"it all went wrong"}',
    "/b/x.cpp:3: GGML_ASSERT(it all went wrong)",
]


@pytest.mark.usefixtures("_all_levels")
@pytest.mark.parametrize("line", FORGED)
def test_no_client_can_raise_an_alarm(line: str, caplog: pytest.LogCaptureFixture) -> None:
    heard = Heard()
    heard.says(line)
    heard.listener.note_ready()
    heard.says(line, "and it goes on")
    assert [one.levelno for one in caplog.records] == [logging.ERROR, logging.INFO, logging.INFO]
    assert [one.level for one in heard.output.lines()] == [logging.ERROR, logging.INFO, logging.INFO]


@pytest.mark.usefixtures("_all_levels")
@pytest.mark.parametrize(("private", "level"), [(True, logging.INFO), (False, logging.WARNING)])
def test_remarks_about_keys_are_for_those_whose_port_others_reach(
    level: int, caplog: pytest.LogCaptureFixture, *, private: bool
) -> None:
    Heard(private=private).says("0.00.002.286 W srv  init: security: no API key is set and CORS allows all origins")
    assert [one.levelno for one in caplog.records] == [level]


@pytest.mark.usefixtures("_all_levels")
def test_a_flood_is_cut_in_the_log_and_told_and_kept_for_llamad_logs(caplog: pytest.LogCaptureFixture) -> None:
    heard = Heard()
    heard.reads(b"x\n" * (LINES_A_BURST * 2))
    heard.listener.report()
    heard.listener.finish()
    assert heard.listener.lines == LINES_A_BURST * 2
    passed = sum(one.getMessage() == "x" for one in caplog.records)
    assert LINES_A_BURST - 512 <= passed < LINES_A_BURST * 1.9
    last = caplog.records[-1]
    assert f"{LINES_A_BURST * 2 - passed} lines suppressed" in last.getMessage()
    assert "`llamad logs a` has the newest" in last.getMessage()
    assert last.__dict__["event"] == "log-flood"


@pytest.mark.usefixtures("_all_levels")
def test_of_a_flood_only_the_newest_lines_are_looked_at_and_all_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    """A megabyte of empty lines is a million of them: their reader would learn of the child's end seconds late."""
    heard = Heard()
    heard.reads(b"\n" * FLOOD)
    heard.listener.feed(b"a line that was beg")
    heard.listener.feed(b"un\n" + b"x\n" * 1000 + b"newest\nand the nex")
    heard.listener.feed(b"t\n")
    heard.listener.finish()
    assert heard.listener.lines == FLOOD + 1003
    texts = [line.text for line in heard.output.lines()]
    assert texts[-3:] == ["x", "newest", "and the next"]
    assert texts.count("x") == FLOOD_LINES - 2
    cut = sum(int(one.getMessage().split()[1]) for one in caplog.records if "suppressed" in one.getMessage())
    assert cut == heard.listener.lines - sum("suppressed" not in one.getMessage() for one in caplog.records)


def test_a_line_about_a_request_counts_in_a_flood_that_is_skipped_too() -> None:
    heard = Heard()
    heard.reads(b"\n" * FLOOD)
    heard.listener.feed(b"main: server is listening on x\n" + b"\n" * 1000)
    heard.says(NO_GPU)
    assert NO_GPU in heard.listener.last_lines.since


@pytest.mark.usefixtures("_all_levels")
def test_many_lines_at_once_are_no_flood_yet(caplog: pytest.LogCaptureFixture) -> None:
    heard = Heard()
    heard.listener.feed(b"x\n" * (LINES_A_BURST - 1))
    assert len(caplog.records) == LINES_A_BURST - 1
