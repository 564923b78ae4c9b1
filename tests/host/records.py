"""Log records for tests, as a logger makes them."""

import logging
import sys
from types import TracebackType

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def a_record(
    message: str = "hello",
    *args: object,
    level: int = logging.INFO,
    error: BaseException | None = None,
    created: float = 1767225600.25,
    **extra: object,
) -> logging.LogRecord:
    """A record with `extra` fields; `error` comes with the traceback of having been raised."""
    exc_info = None if error is None else _raised(error)
    record = logging.getLogger("llamad.test").makeRecord(
        "llamad.test", level, __file__, 1, message, args, exc_info, extra=extra
    )
    record.created = created
    return record


def _raised(error: BaseException) -> ExcInfo:
    try:
        raise error
    except type(error):
        kind, value, traceback = sys.exc_info()
        assert kind is not None
        assert value is not None
        return kind, value, traceback
