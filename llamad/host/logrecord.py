"""What a log record says, read the same way by every handler: its message, its fields, its traceback. Pure.

All of it is made safe to show: no handler can steer a terminal with what a server, a client or a file said.
"""

import logging
import math

from llamad.errors import LlamadError
from llamad.host.visible import visible_lines

Field = str | int | float | bool | None

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_formatter = logging.Formatter()


def message_of(record: logging.LogRecord) -> str:
    """The message, of one line or several. A log call whose arguments do not fit (a bug) still shows all of them."""
    try:
        text = record.getMessage()
    except (TypeError, ValueError, KeyError):
        text = f"{record.msg} {record.args!r}"
    return visible_lines(text)


def fields_of(record: logging.LogRecord) -> dict[str, Field]:
    """The structured fields: everything that `extra=` added, as values that JSON has. None is left out."""
    return {name: _field(value) for name, value in vars(record).items() if name not in _STANDARD and value is not None}


def traceback_of(record: logging.LogRecord) -> str | None:
    """The traceback of a bug of ours; None without an exception, and for a LlamadError, which an operator can mend
    from its message alone.
    """
    if record.exc_text:
        return record.exc_text
    if record.exc_info and record.exc_info[0] is not None and not issubclass(record.exc_info[0], LlamadError):
        return visible_lines(_formatter.formatException(record.exc_info))
    return None


def _field(value: object) -> Field:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no word for it
    if isinstance(value, bool | int | float) or value is None:
        return value
    return visible_lines(str(value))


def notice_of_loss(lines: int) -> logging.LogRecord:
    """A record saying that `lines` lines could not be written, to be written before the next one that can."""
    message = f"{lines} log line{'s were' if lines > 1 else ' was'} lost: the log took no more in time"
    return logging.makeLogRecord(
        {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING", "msg": message, "event": "log-lost"}
    )
