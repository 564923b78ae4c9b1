"""Native journal entries, against a datagram socket that plays journald."""

import fcntl
import logging
import os
import select
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamad.errors import ConfigError
from llamad.host.journald import PATIENCE, JournalHandler, encode, entry_of, field_name, priority
from tests.host.conftest import Listener, listen
from tests.host.records import a_record


def decode(data: bytes) -> dict[str, str]:
    """What journald reads from a datagram."""
    found = {}
    while data:
        line, _, data = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack("<Q", data[:8])
            value, data = data[8 : 8 + size], data[8 + size :]
            assert data[:1] == b"\n"
            data = data[1:]
        found[name.decode()] = value.decode()
    return found


@pytest.fixture
def handler(listener: Listener) -> Iterator[JournalHandler]:
    one = JournalHandler(listener.path)
    yield one
    one.close()


@pytest.mark.parametrize(
    ("level", "number"),
    [(logging.DEBUG, 7), (1, 7), (logging.INFO, 6), (25, 6), (logging.WARNING, 4), (logging.ERROR, 3), (60, 2)],
)
def test_levels_become_syslog_priorities(level: int, number: int) -> None:
    assert priority(level) == number


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("server", "LLAMAD_SERVER"),
        ("exit-code", "LLAMAD_EXIT_CODE"),
        ("höhe", "LLAMAD_H_HE"),
        ("x" * 99, "LLAMAD_" + "X" * 57),
    ],
)
def test_field_names_are_such_as_journald_takes(name: str, expected: str) -> None:
    assert field_name(name) == expected


def test_an_entry_reads_well_and_carries_the_fields() -> None:
    record = a_record("cannot load: %s", "bad magic", level=logging.ERROR, server="qwen", replica=1, event="failed")
    assert entry_of(record) == {
        "MESSAGE": "qwen: cannot load: bad magic",
        "PRIORITY": "3",
        "SYSLOG_IDENTIFIER": "llamad",
        "LLAMAD_SERVER": "qwen",
        "LLAMAD_REPLICA": "1",
        "LLAMAD_EVENT": "failed",
    }


def test_an_entry_of_llamad_itself_has_no_prefix_and_no_server() -> None:
    assert entry_of(a_record("reloaded")) == {"MESSAGE": "reloaded", "PRIORITY": "6", "SYSLOG_IDENTIFIER": "llamad"}


def test_only_our_own_bugs_show_a_traceback() -> None:
    lines = entry_of(a_record("died", error=KeyError("x")))["MESSAGE"].split("\n")
    assert (lines[0], lines[1], lines[-1]) == ("died", "Traceback (most recent call last):", "KeyError: 'x'")
    assert entry_of(a_record("refused", error=ConfigError("bad")))["MESSAGE"] == "refused"


def test_the_bytes_are_the_protocols() -> None:
    assert encode({"A": "one", "B": "two\nlines"}) == b"A=one\nB\n\x09\0\0\0\0\0\0\0two\nlines\n"


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,10}", fullmatch=True), st.text()))
def test_any_value_survives_the_protocol(entry: dict[str, str]) -> None:
    assert decode(encode(entry)) == entry


def test_a_record_arrives(handler: JournalHandler, listener: Listener) -> None:
    handler.handle(a_record("two\nlines", server="qwen"))
    assert decode(listener.receive())["MESSAGE"] == "qwen: two\nlines"


def test_a_huge_record_comes_in_a_sealed_memory_file(handler: JournalHandler, listener: Listener) -> None:
    text = "x" * 1_000_000
    handler.handle(a_record(text))
    assert listener.receive() == b""
    (fd,) = listener.fds
    assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == 0xF
    size = os.fstat(fd).st_size
    assert decode(os.pread(fd, size, 0))["MESSAGE"] == text


def test_a_busy_journal_costs_one_wait_and_the_loss_is_told(handler: JournalHandler, listener: Listener) -> None:
    listener.fill()
    began = time.monotonic()
    for _ in range(50):
        handler.handle(a_record("lost"))
    assert time.monotonic() - began < PATIENCE * 5
    listener.texts()
    handler.handle(a_record("back"))
    messages = [decode(text.encode())["MESSAGE"] for text in listener.texts()]
    assert messages == ["50 log lines were lost: the log took no more in time", "back"]


def test_a_journal_that_is_busy_for_a_moment_loses_nothing(handler: JournalHandler, listener: Listener) -> None:
    filler = listener.fill()
    reader = threading.Thread(target=lambda: [listener.receive() for _ in range(filler)])
    waits = select.poll

    def poll() -> select.poll:  # the handler found the queue full: now the journal begins to read
        reader.start()
        return waits()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select, "poll", poll)
        handler.handle(a_record("late"))
    reader.join()
    assert [decode(text.encode())["MESSAGE"] for text in listener.texts()] == ["late"]


def test_a_journal_that_is_gone_never_raises_and_is_found_again(handler: JournalHandler, listener: Listener) -> None:
    listener.close()
    handler.handle(a_record("one"))
    handler.handle(a_record("two"))
    again = listen(listener.path)
    try:
        handler.handle(a_record("three"))
        messages = [decode(text.encode())["MESSAGE"] for text in again.texts()]
    finally:
        again.close()
    assert messages == ["2 log lines were lost: the log took no more in time", "three"]


def test_a_journal_that_was_started_anew_loses_nothing(handler: JournalHandler, listener: Listener) -> None:
    listener.close()
    again = listen(listener.path)
    try:
        handler.handle(a_record("one"))
        assert [decode(text.encode())["MESSAGE"] for text in again.texts()] == ["one"]
    finally:
        again.close()


def test_without_a_journal_there_is_no_handler(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        JournalHandler(tmp_path / "none")


def test_closing_twice_is_fine(handler: JournalHandler) -> None:
    handler.close()
    handler.close()
