"""What is wrong with a file or a folder that a server's configuration names."""

import errno
import os
import pwd
from pathlib import Path

import pytest

from llamad.config import filefaults
from llamad.config.filefaults import FileFault, file_fault, first_part, parts_of
from llamad.config.optionfiles import NamedFile, Use
from tests.builders import gguf


def fault(path: Path, use: Use, **environ: str) -> FileFault | None:
    return file_fault(NamedFile(path, use), environ)


def said(path: Path, use: Use, **environ: str) -> tuple[str, str, str | None]:
    """Kind, words and hint."""
    found = fault(path, use, **environ)
    assert found is not None
    assert found.message == f"{found.path} {found.words}"
    return found.kind, found.words, found.hint


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "m.gguf").write_bytes(gguf(tensors=1))
    (tmp_path / "page.gguf").write_text("<!doctype html>")
    (tmp_path / "template.jinja").write_text("{{ messages }}")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("m.gguf", Use.MODEL), ("m.gguf", Use.READ), ("template.jinja", Use.READ), ("folder", Use.FOLDER),
        ("new.log", Use.WRITTEN), ("template.jinja", Use.WRITTEN), ("folder", Use.FILLED), ("folder", Use.MADE),
        ("new-folder", Use.MADE),
    ],
)  # fmt: skip
def test_what_is_fine(place: Path, name: str, use: Use) -> None:
    assert fault(place / name, use) is None


AGAIN = "llama.cpp loads whole GGUF files only: fetch it again"


@pytest.mark.parametrize(
    ("name", "use", "kind", "words", "hint"),
    [
        ("x.gguf", Use.MODEL, "missing", "is not there", None),
        ("x.jinja", Use.READ, "missing", "is not there", None),
        ("~/x", Use.READ, "missing", "is not there", "~ is not expanded: write the whole path"),
        ("$HOME/x", Use.READ, "missing", "is not there", "variables are not expanded: write the whole path"),
        ("https:/x/m.gguf", Use.MODEL, "missing", "is not there", "a URL is no file: fetch it, and write where it is"),
        ("folder", Use.MODEL, "missing", "is a folder, not a model", "name the .gguf file in it"),
        ("folder", Use.READ, "missing", "is a folder, not a file", None),
        ("pipe", Use.READ, "unreadable", "cannot be read: it is a named pipe, not a file", None),
        ("m.gguf/x", Use.READ, "unreadable", "cannot be read: Not a directory", None),
        ("x" * 300, Use.READ, "unreadable", "cannot be read: File name too long", None),
        ("page.gguf", Use.READ, "corrupt", "is not usable: it is no GGUF file", AGAIN),
        ("template.jinja", Use.MODEL, "corrupt", "is not usable: it is no GGUF file", AGAIN),
        ("template.jinja", Use.FOLDER, "missing", "is not a folder", None),
        ("nowhere", Use.FOLDER, "missing", "is not there", None),
        ("nowhere", Use.FILLED, "missing", "is not there", None),
        ("nowhere/x.log", Use.WRITTEN, "missing", "is not there", None),
        ("folder", Use.WRITTEN, "unwritable", "is a folder, not a file", None),
    ],
)
def test_what_is_not(place: Path, name: str, use: Use, kind: str, words: str, hint: str | None) -> None:
    found = said(place / name, use)
    assert (found[0], found[2]) == (kind, hint)
    assert found[1].startswith(words.removesuffix("it is no GGUF file"))


@pytest.mark.parametrize(
    ("name", "use"), [("new", Use.WRITTEN), ("m.gguf", Use.WRITTEN), ("folder", Use.FILLED), ("new", Use.MADE)]
)
def test_what_may_not_be_written(place: Path, name: str, use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    hint = "as a service, llamad writes below /var/lib/llamad and where ReadWritePaths= of the unit allows"
    assert said(place / name, use) == ("unwritable", "cannot be written by llamad", hint)
    assert said(place / "folder", Use.FOLDER)[0] == "unreadable"


def test_a_file_in_the_place_of_a_folder_that_is_made(place: Path) -> None:
    assert said(place / "m.gguf", Use.MADE)[0] == "unwritable"


def test_a_disk_that_fails_may_do_so_for_a_while(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(filefaults, "read_header", fail)
    found = fault(place / "m.gguf", Use.MODEL)
    assert found == FileFault(
        "unreadable", place / "m.gguf", "cannot be read: Input/output error", "look at the disk", passing=True
    )


def test_a_file_without_permission(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(filefaults, "read_header", refuse)
    me = pwd.getpwuid(os.geteuid()).pw_name
    words = "cannot be read: permission denied"
    hint = f"the user {me} needs to read it and to enter its folders"
    assert said(place / "m.gguf", Use.READ) == ("unreadable", words, hint)
    for path, setting in (("/home/ann/m.gguf", "ProtectHome=yes"), ("/run/user/1/m", "ProtectHome=yes")):
        hint = f"the service's sandbox hides that folder ({setting}): put the model into models_dir"
        assert said(Path(path), Use.MODEL, INVOCATION_ID="x") == ("unreadable", words, hint)


def test_the_parts_of_a_split_model(place: Path) -> None:
    names = [f"x-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    for name in names:
        (place / name).write_bytes(gguf(tensors=1))
    assert [part.name for part in parts_of(place / names[0])] == names
    assert fault(place / names[0], Use.READ) is None
    (place / names[2]).unlink()
    found = fault(place / names[0], Use.MODEL)
    assert found is not None
    assert found.path == place / names[2]
    assert (first_part(place / names[0]), first_part(place / names[1])) == (None, place / names[0])
    for name in ("m.gguf", "x-00002-of-99999.gguf"):
        assert (first_part(place / name), parts_of(place / name)) == (None, [place / name])


def test_a_disk_that_does_not_answer(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object) -> None:
        raise TimeoutError(errno.ETIMEDOUT, "its disk has not answered for 10 s")

    monkeypatch.setattr(filefaults, "within", silent)
    for name, use in (("template.jinja", Use.READ), ("folder", Use.FILLED)):
        found = fault(place / name, use)
        assert found is not None
        assert (found.words, found.passing) == ("cannot be read: its disk has not answered for 10 s", True)
