"""What every handler reads from a record."""

import math
from enum import IntEnum, StrEnum
from pathlib import Path

import pytest

from llamad.errors import ConfigError
from llamad.host.logrecord import fields_of, message_of, notice_of_loss, traceback_of
from tests.host.records import a_record


class Colour(StrEnum):
    RED = "red"


class Number(IntEnum):
    ONE = 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("plain",), "plain"),
        (("%s is %d", "x", 3), "x is 3"),
        (("%d", "x"), "%d ('x',)"),
        (("%s %s", "x"), "%s %s ('x',)"),
        (("bad %(name)s", {"other": 1}), "bad %(name)s {'other': 1}"),
        (("bytes \udcff end",), "bytes \\udcff end"),
    ],
)
def test_the_message_is_always_there_and_valid(args: tuple[str, ...], message: str) -> None:
    assert message_of(a_record(*args)) == message


def test_fields_are_what_extra_added_as_plain_values() -> None:
    record = a_record(
        server="qwen",
        replica=0,
        event="exit",
        ratio=0.5,
        endless=math.inf,
        nothing=math.nan,
        ready=True,
        absent=None,
        model=Path("/m.gguf"),
        colour=Colour.RED,
        number=Number.ONE,
        odd="\udc80",
    )
    assert fields_of(record) == {
        "server": "qwen",
        "replica": 0,
        "event": "exit",
        "ratio": 0.5,
        "endless": "inf",
        "nothing": "nan",
        "ready": True,
        "model": "/m.gguf",
        "colour": "red",
        "number": 1,
        "odd": "\\udc80",
    }


def test_a_record_that_was_formatted_has_no_more_fields() -> None:
    record = a_record()
    record.message, record.asctime, record.taskName = "hello", "now", "Task-1"
    assert fields_of(record) == {}


def test_a_bug_has_its_traceback() -> None:
    text = traceback_of(a_record(error=KeyError("x")))
    assert text is not None
    assert text.startswith("Traceback (most recent call last):\n")
    assert text.endswith("KeyError: 'x'")


def test_what_an_operator_can_mend_has_none() -> None:
    assert traceback_of(a_record(error=ConfigError("bad file"))) is None
    assert traceback_of(a_record()) is None
    record = a_record()
    record.exc_info = (None, None, None)  # logger.exception outside of an except block
    assert traceback_of(record) is None


def test_a_traceback_that_was_made_before_is_taken_as_it_is() -> None:
    record = a_record(error=KeyError("x"))
    record.exc_text = "cleaned"
    assert traceback_of(record) == "cleaned"


def test_the_notice_of_a_loss_counts() -> None:
    assert message_of(notice_of_loss(1)) == "1 log line was lost: the log took no more in time"
    assert message_of(notice_of_loss(7)) == "7 log lines were lost: the log took no more in time"
    assert fields_of(notice_of_loss(7)) == {"event": "log-lost"}
