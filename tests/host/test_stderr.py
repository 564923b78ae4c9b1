"""JSON and text lines, and a reader that does not read."""

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator

import pytest

from llamad.errors import ConfigError
from llamad.host.stderr import PATIENCE, DescriptorHandler, JsonLines, TextLines
from tests.host.records import a_record

CLOCK = time.strftime("%H:%M:%S", time.localtime(1767225600))


class TestJson:
    def test_a_line_has_its_keys_and_the_fields(self) -> None:
        line = JsonLines().format(a_record("größer: %d", 3, level=logging.WARNING, server="qwen", replica=0, event="x"))
        assert "größer" in line
        assert list(json.loads(line).items()) == [
            ("timestamp", "2026-01-01T00:00:00.250Z"),
            ("level", "warning"),
            ("message", "größer: 3"),
            ("server", "qwen"),
            ("replica", 0),
            ("event", "x"),
        ]

    def test_a_field_cannot_take_the_place_of_a_key(self) -> None:
        assert json.loads(JsonLines().format(a_record("m", level=20, timestamp="x")))["timestamp"].endswith("Z")

    def test_a_line_is_one_line_and_valid_whatever_it_says(self) -> None:
        line = JsonLines().format(a_record("a\nb \udcff %s", "c\x00", value=float("nan")))
        assert "\n" not in line
        parsed = json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
        assert parsed["message"] == "a\nb \\udcff c\\x00"
        line.encode()

    def test_a_log_call_that_does_not_fit_is_shown(self) -> None:
        assert json.loads(JsonLines().format(a_record("%d", "x")))["message"] == "%d ('x',)"

    def test_a_bug_has_a_traceback_and_a_mistake_has_none(self) -> None:
        parsed = json.loads(JsonLines().format(a_record("died", error=KeyError("x"))))
        assert parsed["traceback"].endswith("KeyError: 'x'")
        assert set(json.loads(JsonLines().format(a_record("bad", error=ConfigError("x"))))) == {
            "timestamp",
            "level",
            "message",
        }


class TestText:
    def test_a_line_for_a_person(self) -> None:
        lines = TextLines(colour=False)
        assert lines.format(a_record("ready", server="qwen")) == f"{CLOCK}.250 info    qwen: ready"
        assert lines.format(a_record("up", level=logging.ERROR)) == f"{CLOCK}.250 error   llamad: up"

    @pytest.mark.parametrize(("level", "code"), [(10, "2"), (20, "32"), (30, "33"), (40, "31"), (50, "31")])
    def test_colour_is_the_levels(self, level: int, code: str) -> None:
        line = TextLines(colour=True).format(a_record("x", level=level))
        assert f" \x1b[{code}m{logging.getLevelName(level).lower():<7}\x1b[0m llamad: x" in line

    def test_a_servers_output_cannot_drive_the_terminal(self) -> None:
        line = TextLines(colour=False).format(a_record("\x1b]0;owned\x07 é\tx\r\x9b31m", server="a\x1b"))
        assert line.endswith(" a\\x1b: \\x1b]0;owned\\x07 é\tx\\r\\x9b31m")

    def test_further_lines_are_indented(self) -> None:
        line = TextLines(colour=False).format(a_record("one\ntwo", error=KeyError("x")))
        first, *rest = line.split("\n")
        assert first.endswith("llamad: one")
        assert rest[:2] == ["    two", "    Traceback (most recent call last):"]
        assert all(one.startswith("    ") for one in rest)


class Pipe:
    """A pipe of 64 KiB that can be read when asked."""

    def __init__(self) -> None:
        self.out, self.into = os.pipe()
        os.set_blocking(self.out, False)

    def read(self) -> str:
        data = b""
        while True:
            try:
                chunk = os.read(self.out, 1 << 20)
            except BlockingIOError:
                return data.decode()
            if not chunk:
                return data.decode()
            data += chunk

    def close(self) -> None:
        for fd in (self.out, self.into):
            try:
                os.close(fd)
            except OSError:
                continue


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    one = Pipe()
    yield one
    one.close()


class Bare(logging.Formatter):
    """Nothing but the message."""


class TestDescriptor:
    def test_lines_are_written_whole(self, pipe: Pipe) -> None:
        handler = DescriptorHandler(pipe.into, Bare())
        handler.handle(a_record("one"))
        handler.handle(a_record("x" * 20000))
        assert pipe.read() == "one\n" + "x" * 20000 + "\n"

    def test_a_full_pipe_costs_one_wait_and_the_loss_is_told(self, pipe: Pipe) -> None:
        handler = DescriptorHandler(pipe.into, Bare())
        began = time.monotonic()
        for _ in range(100):
            handler.handle(a_record("y" * 5000))
        assert time.monotonic() - began < PATIENCE * 5
        assert not fcntl.fcntl(pipe.into, fcntl.F_GETFL) & os.O_NONBLOCK  # the descriptor is shared: hands off
        written = pipe.read().split("\n")
        lost = 100 - sum(line == "y" * 5000 for line in written)
        handler.handle(a_record("back"))
        *_, notice, last, end = pipe.read().split("\n")
        assert (notice, last, end) == (f"{lost} log lines were lost: the log took no more in time", "back", "")

    def test_a_torn_line_is_ended_before_the_next(self, pipe: Pipe) -> None:
        handler = DescriptorHandler(pipe.into, Bare())
        handler.handle(a_record("z" * 100_000))
        assert set(pipe.read()) == {"z"}
        handler.handle(a_record("back"))
        assert pipe.read() == "\n1 log line was lost: the log took no more in time\nback\n"

    def test_a_reader_that_left_never_raises(self, pipe: Pipe) -> None:
        handler = DescriptorHandler(pipe.into, Bare())
        os.close(pipe.out)
        handler.handle(a_record("nobody"))

    def test_a_closed_descriptor_never_raises(self, pipe: Pipe) -> None:
        handler = DescriptorHandler(pipe.into, Bare())
        pipe.close()
        handler.handle(a_record("nobody"))

    def test_a_descriptor_that_others_made_non_blocking_works_the_same(self, pipe: Pipe) -> None:
        os.set_blocking(pipe.into, False)
        handler = DescriptorHandler(pipe.into, Bare())
        for _ in range(100):
            handler.handle(a_record("y" * 5000))
        pipe.read()
        handler.handle(a_record("back"))
        assert pipe.read().endswith("\nback\n")

    def test_a_full_disk_never_raises(self) -> None:
        fd = os.open("/dev/full", os.O_WRONLY)
        try:
            DescriptorHandler(fd, Bare()).handle(a_record("nowhere"))
        finally:
            os.close(fd)
