"""Log lines on standard error: JSON for collectors, text for a person."""

import logging
import os
import select
import time
from datetime import UTC, datetime
from typing import Any

from llamad.host.logrecord import fields_of, message_of, notice_of_loss, traceback_of

try:
    from pythonjsonlogger.json import JsonFormatter
except ImportError:  # before 3.1
    from pythonjsonlogger.jsonlogger import JsonFormatter  # type: ignore[attr-defined,no-redef,unused-ignore]

PATIENCE = 0.1
"""Seconds a log line may wait for a full pipe before it is dropped and counted."""
_CHUNK = select.PIPE_BUF  # a pipe that polls as writable takes this much without blocking (pipe(7))
_COLOURS = ((logging.ERROR, "31"), (logging.WARNING, "33"), (logging.INFO, "32"))


class JsonLines(JsonFormatter):
    """One JSON object a line: timestamp (RFC 3339, UTC), level, message, then the fields, then a traceback."""

    def __init__(self) -> None:
        super().__init__(json_ensure_ascii=False)

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        record.msg, record.args = message_of(record), None
        return super().format(record)

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """What python-json-logger asks for the content of a line."""
        time_of = datetime.fromtimestamp(record.created, UTC)
        log_data["timestamp"] = time_of.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        log_data["level"] = record.levelname.lower()
        log_data["message"] = record.msg
        for name, value in fields_of(record).items():
            log_data.setdefault(name, value)
        traceback = traceback_of(record)
        if traceback is not None:
            log_data["traceback"] = traceback


class TextLines(logging.Formatter):
    """`HH:MM:SS.mmm level server: message` in local time; further lines of a record are indented."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created)) + f".{int(record.created % 1 * 1000):03d}"
        who = fields_of(record).get("server", "llamad")
        text = message_of(record)
        traceback = traceback_of(record)
        if traceback is not None:
            text += "\n" + traceback
        return f"{clock} {self._level(record)} {who}: " + text.replace("\n", "\n    ")

    def _level(self, record: logging.LogRecord) -> str:
        word = f"{record.levelname.lower():<7}"
        code = next((code for least, code in _COLOURS if record.levelno >= least), "2")
        return f"\x1b[{code}m{word}\x1b[0m" if self._colour else word


class DescriptorHandler(logging.Handler):
    """Writes lines to a file descriptor that stays the caller's. Never raises and never blocks for longer than
    PATIENCE: what a full pipe does not take is dropped and counted, and the count is written before the next line
    that it takes.
    """

    def __init__(self, fd: int, formatter: logging.Formatter) -> None:
        super().__init__()
        self._fd = fd
        self._lost = 0
        self._torn = False
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        patience = 0.0 if self._lost else PATIENCE  # a reader that hangs costs one wait, not one a line
        if self._lost and self._write(notice_of_loss(self._lost), patience):
            self._lost = 0
        if self._lost or not self._write(record, patience):
            self._lost += 1

    def _write(self, record: logging.LogRecord, patience: float) -> bool:
        data = (b"\n" if self._torn else b"") + (self.format(record) + "\n").encode()
        written = _write_within(self._fd, data, patience)
        if written:
            self._torn = written < len(data)
        return written == len(data)


def _write_within(fd: int, data: bytes, patience: float) -> int:
    """Write `data` within `patience` seconds, without touching the descriptor's flags (others share them); returns
    the bytes that went out.
    """
    deadline = time.monotonic() + patience
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    done = 0
    while done < len(data):
        events = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        if not events or not events[0][1] & select.POLLOUT:
            break
        try:
            done += os.write(fd, data[done : done + _CHUNK])
        except OSError:  # nobody reads; or whoever shares it made it non-blocking, and was quicker
            break
    return done
