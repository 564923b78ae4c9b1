"""Which llama-servers run, on disk."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from llamad.servers.board import ReplicaKey
from llamad.servers.ledger import Found, Ledger, Record, read_ledger

RECORD = Record("qwen", 1, 3, 4711, 99, "boot", "abc", "unix:/run/llamad/x.sock", 12.5)
OTHER = Record("qwen", 0, 2, 4712, 98, "boot", "abc", "127.0.0.1:81", 12.0)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "children.json")
    ledger.put(RECORD)
    ledger.put(OTHER)
    ledger.set_stopped(["b", "a"])
    assert read_ledger(tmp_path / "children.json") == Found((RECORD, OTHER), frozenset({"a", "b"}))
    ledger.drop(RECORD.key)
    ledger.drop(RECORD.key)
    ledger.set_stopped([])
    assert read_ledger(tmp_path / "children.json") == Found((OTHER,))
    assert [path.name for path in tmp_path.iterdir()] == ["children.json"]


def test_a_record_knows_its_replica_and_its_name() -> None:
    assert RECORD.key == ReplicaKey("qwen", 1, 3)
    assert RECORD.name == "qwen-1-3"


def test_no_change_writes_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "children.json")
    ledger.set_stopped([])
    ledger.drop(RECORD.key)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_refuses_is_told_once_a_spell_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "gone"
    ledger = Ledger(folder / "children.json")
    ledger.put(RECORD)
    ledger.put(OTHER)
    assert len(caplog.records) == 1
    assert "No such file or directory" in caplog.text
    folder.mkdir()
    ledger.set_stopped(["a"])
    assert read_ledger(folder / "children.json").records == (RECORD, OTHER)
    (folder / "children.json").unlink()
    folder.rmdir()
    ledger.drop(RECORD.key)
    assert len(caplog.records) == 2


def test_without_a_file_there_is_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_ledger(tmp_path / "children.json") == Found()
    assert not caplog.records


def _document(**changes: Any) -> str:
    return json.dumps({"version": 1, "children": [{**asdict(RECORD), **changes}], "stopped": []})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "5",
        "{}",
        '{"version": 2, "children": [], "stopped": []}',
        '{"version": 1, "children": [5], "stopped": []}',
        '{"version": 1, "children": [{}], "stopped": []}',
        '{"version": 1, "children": []}',
        _document(pid="4711"),
        _document(pid=True),
        _document(pid=0),
        _document(pid=-1),
        _document(server=None),
        _document(more=1),
        _document(address="nowhere"),
        "\udcff",
    ],
)
def test_a_file_that_is_something_else_is_told_and_ignored(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "children.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert read_ledger(path) == Found()
    assert "is not usable and is ignored" in caplog.text
