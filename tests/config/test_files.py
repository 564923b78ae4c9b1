import os
from pathlib import Path

import pytest

from llamad.config.files import Source, parse, read_disk
from llamad.config.problems import Problem
from llamad.host.files import MOST_BYTES


def read_files(file: Path) -> tuple[list[Source], list[Problem]]:
    return parse(read_disk(file))


def said(file: Path) -> list[str]:
    return [str(one).removeprefix(str(file)) for one in read_files(file)[1]]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert said(tmp_path / "x.yaml") == [":1:1: cannot be read: No such file or directory"]


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    assert said(tmp_path) == [":1:1: cannot be read: it is a folder, not a file"]


def test_a_pipe_in_its_place_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.yaml")
    assert said(tmp_path / "x.yaml") == [":1:1: cannot be read: it is a named pipe, not a file"]


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"#" * (MOST_BYTES + 1))
    assert said(tmp_path / "x.yaml") == [":1:1: cannot be read: it is larger than 4 MiB"]


@pytest.mark.parametrize(("data", "place"), [(b"\xff", "1:1"), (b"a: 1\nb: \xe9\n", "2:4")])
def test_text_that_is_not_utf8(tmp_path: Path, data: bytes, place: str) -> None:
    (tmp_path / "x.yaml").write_bytes(data)
    assert said(tmp_path / "x.yaml") == [f":{place}: this is not UTF-8 text"]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    [source], problems = read_files(tmp_path / "x.yaml")
    assert problems == []
    assert source.top is not None
    assert source.top.plain() == {"a": 1}


def test_drop_ins_that_cannot_be_listed(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").touch()
    (tmp_path / "conf.d").touch()
    assert [str(one) for one in read_files(tmp_path / "x.yaml")[1]] == [
        f"{tmp_path}/conf.d:1:1: cannot be read: Not a directory"
    ]


def test_a_bad_file_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a.yaml").symlink_to("/nowhere")
    (tmp_path / "conf.d" / "b.yaml").write_text("a: [")
    (tmp_path / "conf.d" / "c.yaml").write_text("a: 1")
    (tmp_path / "x.yaml").write_text("- a")
    sources, problems = read_files(tmp_path / "x.yaml")
    assert [(source.file.name, source.top is not None) for source in sources] == [
        ("x.yaml", False),
        ("b.yaml", False),
        ("c.yaml", True),
    ]
    assert [one.position.file.name for one in problems] == ["a.yaml", "x.yaml", "b.yaml"]
