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
        '{"version": 1, "children": []}',
        '{"version": 1, "children": 5, "stopped": []}',
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


WILD = [
    {"pid": "4711"},
    {"pid": True},
    {"pid": 0},
    {"pid": -1},
    {"pid": 1},
    {"pid": 2**22 + 1},
    {"pid": 2**31},
    {"pid": 2**63},
    {"pid": 10**400},
    {"pid": 4711.0},
    {"pid": None},
    {"index": -1},
    {"index": 2**64},
    {"generation": -1},
    {"generation": "0"},
    {"start_ticks": -5},
    {"start_ticks": 10**30},
    {"started_at": float("nan")},
    {"started_at": float("inf")},
    {"started_at": -1.0},
    {"started_at": 10**400},
    {"started_at": "now"},
    {"boot_id": 5},
    {"fingerprint": None},
    {"server": None},
    {"server": ""},
    {"server": "../../x"},
    {"server": "a" * 64},
    {"server": "x\n"},
    {"more": 1},
    {"address": "nowhere"},
    {"address": "unix:relative"},
    {"address": ["unix:/x"]},
]


@pytest.mark.parametrize("changes", WILD, ids=range(len(WILD)))
def test_a_wild_record_is_told_and_costs_no_other(
    changes: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A pid of 2^31 ended every start (OverflowError)."""
    path = tmp_path / "children.json"
    document = {"version": 1, "children": [{**asdict(RECORD), **changes}, asdict(OTHER)], "stopped": ["a"]}
    path.write_text(json.dumps(document))
    assert read_ledger(path) == Found((OTHER,), frozenset({"a"}))
    (told,) = caplog.messages
    assert told.startswith(f"{path}: a record is not usable and is ignored: ")
    assert len(told) < 400


@pytest.mark.parametrize("entry", [5, "a", [], {}, None])
def test_what_is_no_record_is_told_and_costs_no_other(
    entry: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "children.json"
    path.write_text(json.dumps({"version": 1, "children": [entry, asdict(OTHER)], "stopped": []}))
    assert read_ledger(path).records == (OTHER,)
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("changes", [{"index": 7}, {"pid": 4713}])
def test_a_process_or_a_replica_is_recorded_once(
    changes: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Else the one that was taken over would be ended as a leftover."""
    path = tmp_path / "children.json"
    document = {"version": 1, "children": [asdict(RECORD), {**asdict(RECORD), **changes}], "stopped": []}
    path.write_text(json.dumps(document))
    assert read_ledger(path).records == (RECORD,)
    assert "is there twice" in caplog.text
