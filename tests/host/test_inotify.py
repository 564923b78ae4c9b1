"""Who is writing: real files, real inotify."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamad.host.inotify import _EVENT, _OVERFLOW, Writers


@pytest.fixture
def writers(tmp_path: Path) -> Iterator[Writers]:
    with Writers() as one:
        one.follow(tmp_path)
        yield one


def test_a_file_is_written_from_its_first_change_until_it_is_closed(writers: Writers, tmp_path: Path) -> None:
    path = tmp_path / "a b.yaml"
    assert writers.writing() == set()
    with path.open("w") as file:
        assert writers.writing() == set()  # open, and nothing written
        file.write("half")
        file.flush()
        assert writers.writing() == {path}
        assert writers.writing() == {path}
    assert writers.writing() == set()


def test_truncating_is_writing(writers: Writers, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("text")
    with path.open("w"):
        assert writers.writing() == {path}
    assert writers.writing() == set()


def test_reading_is_not_writing(writers: Writers, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("text")
    with (tmp_path / "a").open() as file:
        file.read()
        assert writers.writing() == set()


@pytest.mark.parametrize("how", ["removed", "moved away", "replaced"])
def test_what_is_gone_is_not_written_any_more(how: str, writers: Writers, tmp_path: Path) -> None:
    path = tmp_path / "a"
    with path.open("w") as file:
        file.write("half")
        file.flush()
        assert writers.writing() == {path}
        if how == "removed":
            path.unlink()
        elif how == "moved away":
            path.rename(tmp_path / "b")
        else:
            (tmp_path / "new").touch()
            (tmp_path / "new").replace(path)
        assert path not in writers.writing()


def test_many_changes_are_followed(writers: Writers, tmp_path: Path) -> None:
    paths = [tmp_path / f"a file with a long name, number {number}" for number in range(2000)]
    for path in paths:
        path.write_text("x")
    with paths[7].open("a") as file:
        file.write("y")
        file.flush()
        assert writers.writing() == {paths[7]}


def test_nothing_is_claimed_after_an_overflow(
    writers: Writers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "a").open("w") as file:
        file.write("half")
        file.flush()
        assert writers.writing()
        parts = [_EVENT.pack(-1, _OVERFLOW, 0, 0), _EVENT.pack(99, 2, 0, 0), b""]
        monkeypatch.setattr(writers, "_read", lambda: parts.pop(0))
        assert writers.writing() == set()


def test_what_the_kernel_refuses_is_an_oserror(writers: Writers, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        writers.follow(tmp_path / "gone")


def test_no_child_inherits_it(writers: Writers) -> None:
    assert not os.get_inheritable(writers._fd)
