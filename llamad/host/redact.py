"""Keeps secrets out of the log: registered values become `***` in messages, fields and tracebacks."""

import logging
import re
import threading
from collections.abc import Iterable

from llamad.host.logrecord import fields_of, message_of, traceback_of

MASK = "***"
MIN_LENGTH = 6
"""Shorter values are not replaced: they would tear holes into harmless text."""
MAX_SOURCES = 1024


class Redaction(logging.Filter):
    """A filter for handlers that rewrites every record; it lets all of them pass. A secret is registered by its source
    (the file it was read from), so that a new one replaces the old; of more than MAX_SOURCES sources, those that were
    not read for longest are forgotten.
    """

    def __init__(self) -> None:
        super().__init__()
        self._by_source: dict[str, str] = {}
        self._pattern: re.Pattern[str] | None = None
        self._registering = threading.Lock()

    def replace(self, source: str, secret: str) -> None:
        """Register `secret` for `source`, in the place of what it had; an empty one forgets the source. May be called
        from several threads.
        """
        with self._registering:
            before = self._by_source.pop(source, "")
            if secret:
                self._by_source[source] = secret  # at the end: the newest
            if len(self._by_source) > MAX_SOURCES:
                del self._by_source[next(iter(self._by_source))]
            if secret != before:
                self._pattern = _pattern(self._by_source.values())

    def clean(self, text: str) -> str:
        """`text` without any registered secret."""
        return text if self._pattern is None else self._pattern.sub(MASK, text)

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite `record` in place; always True."""
        if self._pattern is None:
            return True
        record.msg, record.args = self.clean(message_of(record)), None
        for name, value in fields_of(record).items():
            if isinstance(value, str):
                setattr(record, name, self.clean(value))
        traceback = traceback_of(record)
        if traceback is not None:
            record.exc_text = self.clean(traceback)
        return True


def _pattern(secrets: Iterable[str]) -> re.Pattern[str] | None:
    """Any of `secrets`, the longest first; None where none is long enough."""
    values = sorted({secret for secret in secrets if len(secret) >= MIN_LENGTH}, key=lambda one: (-len(one), one))
    return re.compile("|".join(map(re.escape, values))) if values else None
