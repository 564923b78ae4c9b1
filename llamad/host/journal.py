"""Where llamad's own log goes: the journal with fields, or JSON or text on standard error."""

import logging
import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TextIO

from llamad.host.journald import JOURNAL_SOCKET, JournalHandler
from llamad.host.redact import Redaction
from llamad.host.stderr import DescriptorHandler, JsonLines, TextLines

_HANDLER = "llamad"
_OURS = "llamad"
_NO_LEVELS: Mapping[str, str] = {}

log = logging.getLogger(__name__)


class LogFormat(StrEnum):
    """`log.format` of the configuration."""

    AUTO = "auto"
    JOURNAL = "journal"
    JSON = "json"
    TEXT = "text"


def is_journal(fd: int, environ: Mapping[str, str]) -> bool:
    """Whether `fd` is connected to the journal: exactly if $JOURNAL_STREAM is its `device:inode` (systemd.exec(5))."""
    try:
        there = os.fstat(fd)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{there.st_dev}:{there.st_ino}"


def setup(
    form: LogFormat | str,
    level: str,
    *,
    environ: Mapping[str, str],
    stream: TextIO,
    apart: Mapping[str, str] = _NO_LEVELS,
    redaction: Redaction | None = None,
    socket: Path = JOURNAL_SOCKET,
) -> LogFormat:
    """Send every log record of the process to one place, at `level` (`debug` to `error`; others' code only from
    `warning`), or at a level of its own for the loggers in `apart`. Call it again to change it: the place before is
    replaced. `auto` takes the journal where `stream` is connected to it, else text. Without a journal to reach it is
    text. Returns what was chosen, never `AUTO`.
    """
    chosen = LogFormat(form)
    if chosen is LogFormat.AUTO:
        fd = _descriptor(stream)
        chosen = LogFormat.JOURNAL if fd is not None and is_journal(fd, environ) else LogFormat.TEXT
    unreachable: OSError | None = None
    handler: logging.Handler | None = None
    if chosen is LogFormat.JOURNAL:
        try:
            handler = JournalHandler(socket)
        except OSError as error:
            unreachable, chosen = error, LogFormat.TEXT
    if handler is None:
        handler = _stream_handler(chosen, stream, environ)
    if redaction is not None:
        handler.addFilter(redaction)
    _install(handler, level)
    for name, own in apart.items():
        logging.getLogger(name).setLevel(_number(own))
    if unreachable is not None:
        log.warning("cannot reach the journal at %s (%s); logging text instead", socket, unreachable.strerror)
    return chosen


def teardown() -> None:
    """Take back what `setup` did, and let go of its descriptors."""
    root = logging.getLogger()
    for handler in [one for one in root.handlers if one.name == _HANDLER]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(logging.WARNING)
    for name in (_OURS, *(one for one in root.manager.loggerDict if one.startswith(f"{_OURS}."))):
        logging.getLogger(name).setLevel(logging.NOTSET)


def _number(level: str) -> int:
    return logging.getLevelNamesMapping()[level.upper()]


def _install(handler: logging.Handler, level: str) -> None:
    handler.name = _HANDLER
    number = _number(level)
    root = logging.getLogger()
    before = [one for one in root.handlers if one.name == _HANDLER]
    root.addHandler(handler)
    for one in before:
        root.removeHandler(one)
        one.close()
    root.setLevel(max(number, logging.WARNING))
    logging.getLogger(_OURS).setLevel(number)


def _stream_handler(form: LogFormat, stream: TextIO, environ: Mapping[str, str]) -> logging.Handler:
    colour = stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    formatter = JsonLines() if form is LogFormat.JSON else TextLines(colour=colour)
    fd = _descriptor(stream)
    if fd is not None:
        return DescriptorHandler(fd, formatter)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    return handler


def _descriptor(stream: TextIO) -> int | None:
    """The stream's file descriptor; None for one in memory."""
    try:
        return stream.fileno()
    except OSError:  # io.UnsupportedOperation
        return None
