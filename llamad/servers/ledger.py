"""Which llama-servers run, on disk: what the next llamad finds when this one is gone.

One small JSON file in the runtime directory, replaced in one step at every start and end of a child.
"""

import json
import logging
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llamad.config.values import SERVER_NAME
from llamad.host.address import parse_address
from llamad.host.files import read_text, replace_file
from llamad.servers.board import ReplicaKey

log = logging.getLogger(__name__)
_VERSION = 1
_RANGES: dict[str, tuple[float, float]] = {
    "pid": (2, 1 << 22),  # 0 and below mean groups to kill(2), 1 is nobody's child; more than PID_MAX_LIMIT none can be
    "index": (0, 1 << 20),
    "generation": (0, 1 << 62),
    "start_ticks": (0, 1 << 62),
    "started_at": (0, 1e12),
}
"""Least and most of what a record says; NaN is in no range."""


@dataclass(frozen=True, slots=True)
class Record:
    """One child. `start_ticks` and `boot_id` tell it from another program with its pid. `started_at` is in seconds of
    CLOCK_MONOTONIC: the loop's time of every process of a boot, which goes on evenly when somebody sets the clock.
    """

    server: str
    index: int
    generation: int
    pid: int
    start_ticks: int
    boot_id: str
    fingerprint: str
    address: str
    started_at: float

    @property
    def key(self) -> ReplicaKey:
        """The replica it was."""
        return ReplicaKey(self.server, self.index, self.generation)

    @property
    def name(self) -> str:
        """Its name in systemd's fd store, and its control group's."""
        return self.key.store_name


class Ledger:
    """The children of this llamad and the servers an operator stopped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records: dict[ReplicaKey, Record] = {}
        self._stopped: frozenset[str] = frozenset()
        self._warned = False

    def put(self, record: Record) -> None:
        """A child was started, or taken over."""
        self._records[record.key] = record
        self._write()

    def drop(self, key: ReplicaKey) -> None:
        """A child is gone."""
        if self._records.pop(key, None) is not None:
            self._write()

    def set_stopped(self, servers: Iterable[str]) -> None:
        """The servers that `llamad stop` stopped."""
        stopped = frozenset(servers)
        if stopped != self._stopped:
            self._stopped = stopped
            self._write()

    def _write(self) -> None:
        document = {
            "version": _VERSION,
            "children": [asdict(record) for record in self._records.values()],
            "stopped": sorted(self._stopped),
        }
        try:
            replace_file(self._path, json.dumps(document).encode())
        except OSError as error:  # a full disk must not end a model; the next llamad just cannot find it by this file
            if not self._warned:
                log.warning("cannot write %s: %s", self._path, error.strerror, extra={"event": "ledger"})
            self._warned = True
        else:
            self._warned = False


@dataclass(frozen=True, slots=True)
class Found:
    """What an earlier llamad left."""

    records: tuple[Record, ...] = ()
    stopped: frozenset[str] = frozenset()


def read_ledger(path: Path) -> Found:
    """What an earlier llamad wrote. What is not as it should be is left out with a warning: the whole file, or single
    records of it. Nothing in the file can end a start.
    """
    try:
        document = json.loads(read_text(path))
        if document["version"] != _VERSION:
            raise ValueError(f"version {document['version']}")
        entries, stopped = list(document["children"]), frozenset(str(name) for name in document["stopped"])
    except FileNotFoundError:
        return Found()
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        log.warning("%s is not usable and is ignored: %s", path, error, extra={"event": "ledger"})
        return Found()
    records: dict[int, Record] = {}
    for entry in entries:
        try:
            record = _record(entry)
            if record.pid in records or record.key in (one.key for one in records.values()):
                raise ValueError(f"pid {record.pid} or {record.name} is there twice")
            records[record.pid] = record
        except (ValueError, TypeError) as error:
            log.warning("%s: a record is not usable and is ignored: %s", path, error, extra={"event": "ledger"})
    return Found(tuple(records.values()), stopped)


def _record(entry: dict[str, Any]) -> Record:
    record = Record(**entry)
    for name, kind in Record.__annotations__.items():
        value = getattr(record, name)
        if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool):
            raise TypeError(f"{name} is {value!r:.80}")
    for name, (least, most) in _RANGES.items():
        if not least <= getattr(record, name) <= most:
            raise ValueError(f"{name} is {getattr(record, name)!r:.80}")
    if not re.fullmatch(SERVER_NAME, record.server):
        raise ValueError(f"server is {record.server!r:.80}")
    parse_address(record.address)
    return record
