"""The file of API keys is read where the credential was made from it: a key that was taken out is out at a reload."""

import os
from pathlib import Path

import pytest

from llamad.config.keyfiles import read_key_file, where_keys_are
from llamad.config.model import GatewayConfig
from llamad.config.problems import ProblemKind
from llamad.gateway.keys import load_keys


class Service:
    """A service with a credential, and a file beside its configuration."""

    def __init__(self, folder: Path, *, file: str | None, credential: str | None) -> None:
        self.config = folder / "etc" / "llamad.yaml"
        self.file = folder / "etc" / "api-keys"
        self.credential = folder / "run" / "api-keys"
        for path, text in ((self.file, file), (self.credential, credential)):
            path.parent.mkdir()
            if text is not None:
                path.write_text(text)
        self.key_files = where_keys_are(self.config, {"CREDENTIALS_DIRECTORY": str(self.credential.parent)})

    def names(self) -> tuple[str, ...]:
        keys, problems = load_keys(GatewayConfig(), self.key_files)
        assert all(one.kind is ProblemKind.REMARK for one in problems)
        return keys.names


def test_a_key_that_was_taken_out_of_the_file_is_out(tmp_path: Path) -> None:
    one = Service(tmp_path, file="a:1\nb:2\n", credential="a:1\nb:2\n")
    assert one.names() == ("a", "b")
    one.file.write_text("b:2\n")
    assert one.names() == ("b",)
    one.file.write_text("")
    assert one.names() == ()


@pytest.mark.parametrize("file", [None, ""])
def test_keys_may_be_added_where_there_were_none_at_the_start(tmp_path: Path, file: str | None) -> None:
    one = Service(tmp_path, file=file, credential="\n")
    assert one.names() == ()
    one.file.write_text("a:1")
    assert one.names() == ("a",)


@pytest.mark.parametrize("file", [None, "", "b:2\n"])
def test_a_credential_from_elsewhere_counts(tmp_path: Path, file: str | None) -> None:
    one = Service(tmp_path, file=file, credential="a:1\n")
    assert one.names() == ("a",)


def test_a_file_that_cannot_be_read_any_more_leaves_the_keys_of_the_start_and_a_word(tmp_path: Path) -> None:
    one = Service(tmp_path, file="a:1\n", credential="a:1\n")
    one.file.unlink()
    os.mkfifo(one.file)
    keys, (remark,) = load_keys(GatewayConfig(), one.key_files)
    assert keys.names == ("a",)
    assert remark.kind is ProblemKind.REMARK
    assert str(remark).startswith(f"{one.file}:1:1: gateway.api_keys_file: cannot be read (it is a named pipe, ")
    assert "restart the service" in str(remark)


def test_an_unreadable_credential_is_no_open_door(tmp_path: Path) -> None:
    one = Service(tmp_path, file=None, credential=None)
    assert one.names() == ()
    one.credential.mkdir()
    keys, (problem,) = load_keys(GatewayConfig(), one.key_files)
    assert problem.kind is ProblemKind.TEXT
    assert problem.message == "cannot be read: it is a folder, not a file"
    assert keys.names == ()


def test_outside_a_service_there_are_none_but_for_root_who_checks_for_it(tmp_path: Path) -> None:
    file = tmp_path / "llamad.yaml"
    assert where_keys_are(file, {}) == ()
    assert where_keys_are(file, {}, "llamad") == (tmp_path / "api-keys",)
    assert read_key_file(()) is None


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    one = Service(tmp_path, file="\ufeffa:1\n", credential="\ufeffa:1\n")
    assert one.names() == ("a",)
