"""Keeps secrets out of the log: registered values become `***` in messages, fields and tracebacks."""

import logging
import re
from collections.abc import Collection, Iterable

from llamad.host.logrecord import fields_of, message_of, traceback_of

MASK = "***"
MIN_LENGTH = 6
"""Shorter values are not replaced: they would tear holes into harmless text."""
MAX_SECRETS = 4096


def redact(text: str, secrets: Collection[str]) -> str:
    """`text` with each of `secrets` (those of MIN_LENGTH or more) replaced by `***`, the longest first."""
    pattern = _pattern(secrets)
    return text if pattern is None else pattern.sub(MASK, text)


class Redaction(logging.Filter):
    """A filter for handlers that rewrites every record; it lets all of them pass. Secrets are registered by source
    (`api-keys`, a server's name), so that a reload replaces its own and the set stays as large as the configuration.
    """

    def __init__(self) -> None:
        super().__init__()
        self._by_source: dict[str, frozenset[str]] = {}
        self._pattern: re.Pattern[str] | None = None

    def replace(self, source: str, secrets: Iterable[str]) -> None:
        """Register exactly `secrets` for `source`; none forgets the source. ValueError beyond MAX_SECRETS in all."""
        registered = self._by_source | {source: frozenset(secrets)}
        union = frozenset().union(*registered.values())
        if len(union) > MAX_SECRETS:
            raise ValueError(f"{len(union)} secrets are too many to keep out of the log, the limit is {MAX_SECRETS}")
        self._by_source = {name: values for name, values in registered.items() if values}
        self._pattern = _pattern(union)

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


def _pattern(secrets: Collection[str]) -> re.Pattern[str] | None:
    values = sorted({secret for secret in secrets if len(secret) >= MIN_LENGTH}, key=lambda one: (-len(one), one))
    return re.compile("|".join(map(re.escape, values))) if values else None
