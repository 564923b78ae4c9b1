"""Where the log goes, and that it can be changed while running."""

import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from llamad.host.journal import LogFormat, is_journal, setup, teardown
from llamad.host.redact import Redaction
from tests.host.conftest import Listener

pytestmark = pytest.mark.usefixtures("clean_logging")

log = logging.getLogger("llamad.test")


@pytest.fixture
def stream(tmp_path: Path) -> Iterator[TextIO]:
    with (tmp_path / "stderr").open("w+") as file:
        yield file


def written(stream: TextIO) -> list[str]:
    stream.seek(0)
    return stream.read().splitlines()


def journal_of(stream: TextIO) -> dict[str, str]:
    there = os.fstat(stream.fileno())
    return {"JOURNAL_STREAM": f"{there.st_dev}:{there.st_ino}"}


def test_stderr_is_the_journals_exactly_if_device_and_inode_are_the_same(stream: TextIO) -> None:
    there = os.fstat(stream.fileno())
    fd = stream.fileno()
    assert is_journal(fd, {"JOURNAL_STREAM": f"{there.st_dev}:{there.st_ino}"})
    assert not is_journal(fd, {"JOURNAL_STREAM": f"{there.st_dev}:{there.st_ino + 1}"})
    assert not is_journal(fd, {"JOURNAL_STREAM": f"{there.st_dev + 1}:{there.st_ino}"})
    assert not is_journal(fd, {"JOURNAL_STREAM": "nonsense"})
    assert not is_journal(fd, {})
    assert not is_journal(987, {"JOURNAL_STREAM": "1:1"})


def test_auto_takes_the_journal_where_stderr_is_connected_to_it(stream: TextIO, listener: Listener) -> None:
    assert setup("auto", "info", environ=journal_of(stream), stream=stream, socket=listener.path) is LogFormat.JOURNAL
    log.info("hello", extra={"server": "qwen"})
    assert "LLAMAD_SERVER=qwen\n" in listener.receive().decode()
    assert written(stream) == []


def test_auto_takes_text_elsewhere(stream: TextIO, listener: Listener) -> None:
    assert setup("auto", "info", environ={}, stream=stream, socket=listener.path) is LogFormat.TEXT
    log.info("hello", extra={"server": "qwen"})
    assert [line[13:] for line in written(stream)] == ["info    qwen: hello"]
    assert listener.texts() == []


def test_json_is_json(stream: TextIO) -> None:
    assert setup("json", "info", environ={}, stream=stream) is LogFormat.JSON
    log.info("hello", extra={"server": "qwen", "replica": 1, "event": "ready"})
    (line,) = map(json.loads, written(stream))
    assert (line["message"], line["server"], line["replica"], line["event"]) == ("hello", "qwen", 1, "ready")


def test_a_journal_that_cannot_be_reached_is_said_and_text_goes_on(stream: TextIO, short_dir: Path) -> None:
    assert setup("journal", "info", environ={}, stream=stream, socket=short_dir / "none") is LogFormat.TEXT
    (line,) = written(stream)
    reason = "No such file or directory"
    assert line[13:] == f"warning llamad: cannot reach the journal at {short_dir}/none ({reason}); logging text instead"


def test_an_unknown_format_is_a_bug(stream: TextIO) -> None:
    with pytest.raises(ValueError, match="xml"):
        setup("xml", "info", environ={}, stream=stream)


def test_levels_are_ours_and_others_speak_from_warning(stream: TextIO) -> None:
    setup("json", "debug", environ={}, stream=stream)
    log.debug("ours")
    logging.getLogger("watchfiles.main").info("1 change detected")
    logging.getLogger("asyncio").warning("slow")
    setup("json", "error", environ={}, stream=stream)
    log.warning("quiet")
    logging.getLogger("asyncio").warning("quiet too")
    log.error("loud")
    assert [json.loads(line)["message"] for line in written(stream)] == ["ours", "slow", "loud"]


def test_a_logger_may_have_a_level_apart(stream: TextIO) -> None:
    requests, engines = logging.getLogger("llamad.requests"), logging.getLogger("llamad.engines")
    setup("json", "warning", environ={}, stream=stream, apart={"llamad.requests": "info", "llamad.engines": "error"})
    log.info("quiet")
    log.warning("ours")
    requests.info("a request")
    engines.warning("quiet too")
    engines.error("an engine")
    setup("json", "error", environ={}, stream=stream, apart={"llamad.requests": "info", "llamad.engines": "info"})
    engines.info("another engine")
    messages = [json.loads(line)["message"] for line in written(stream)]
    assert messages == ["ours", "a request", "an engine", "another engine"]
    teardown()
    assert requests.level == engines.level == logging.NOTSET


def test_a_reload_replaces_the_place_and_lets_go_of_the_old(stream: TextIO, listener: Listener) -> None:
    setup("journal", "info", environ={}, stream=stream, socket=listener.path)
    before = len(os.listdir("/proc/self/fd"))
    setup("journal", "info", environ={}, stream=stream, socket=listener.path)
    assert len(os.listdir("/proc/self/fd")) == before
    log.info("once")
    assert len(listener.texts()) == 1
    setup("text", "info", environ={}, stream=stream)
    log.info("there")
    assert listener.texts() == []
    assert len(written(stream)) == 1
    teardown()
    log.warning("nowhere")
    assert len(written(stream)) == 1


def test_secrets_never_appear(stream: TextIO) -> None:
    redaction = Redaction()
    redaction.replace("api-keys", "hunter2hunter2")
    setup("text", "info", environ={}, stream=stream, redaction=redaction)
    log.info("key %s", "hunter2hunter2")
    assert written(stream)[0].endswith("key ***")


def test_a_stream_in_memory_is_written_too() -> None:
    stream = io.StringIO()
    assert setup("auto", "info", environ={"JOURNAL_STREAM": "1:1"}, stream=stream) is LogFormat.TEXT
    log.info("hello")
    assert stream.getvalue().endswith("llamad: hello\n")


@pytest.mark.parametrize(
    ("environ", "coloured"),
    [({}, True), ({"TERM": "xterm"}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
)
def test_colour_is_for_terminals_whose_user_wants_it(environ: dict[str, str], coloured: object) -> None:
    ours, theirs = os.openpty()
    try:
        with os.fdopen(theirs, "w") as terminal:
            setup("text", "info", environ=environ, stream=terminal)
            log.info("hello")
            assert ("\x1b[32m" in os.read(ours, 1000).decode()) is coloured
    finally:
        os.close(ours)


def test_a_file_gets_no_colour(stream: TextIO) -> None:
    setup("text", "info", environ={"TERM": "xterm"}, stream=stream)
    log.info("hello")
    assert "\x1b" not in written(stream)[0]
