"""Which llama-servers run, on disk: what the next llamad finds when this one is gone.

One small JSON file in the runtime directory, replaced in one step at every start and end of a child.
"""

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llamad.host.address import parse_address
from llamad.host.files import read_text, replace_file
from llamad.servers.board import ReplicaKey

log = logging.getLogger(__name__)
_VERSION = 1


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
    """What an earlier llamad wrote; one warning and nothing where the file is not what it should be."""
    try:
        document = json.loads(read_text(path))
        if document["version"] != _VERSION:
            raise ValueError(f"version {document['version']}")
        records = tuple(_record(entry) for entry in document["children"])
        return Found(records, frozenset(str(name) for name in document["stopped"]))
    except FileNotFoundError:
        return Found()
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        log.warning("%s is not usable and is ignored: %s", path, error, extra={"event": "ledger"})
        return Found()


def _record(entry: dict[str, Any]) -> Record:
    record = Record(**entry)
    for name, kind in Record.__annotations__.items():
        value = getattr(record, name)
        if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool):
            raise TypeError(f"{name} is {value!r}")
    parse_address(record.address)
    if record.pid <= 1 or record.index < 0:  # 0 and below mean groups to kill(2), 1 is nobody's child
        raise ValueError(f"pid {record.pid}, index {record.index}")
    return record
