"""Secrets: where they come from, that no log shows them, and what is said where one is missing."""

import logging
from pathlib import Path

import pytest

from llamad.config.model import ServerConfig
from llamad.credentials import Credentials
from llamad.errors import LlamadError
from llamad.host.redact import Redaction


@pytest.fixture
def redaction() -> Redaction:
    return Redaction()


@pytest.fixture
def credentials(tmp_path: Path, redaction: Redaction) -> Credentials:
    return Credentials({"CREDENTIALS_DIRECTORY": str(tmp_path)}, redaction)


def test_a_credential_is_read_without_its_last_newline_and_never_shown(
    credentials: Credentials, redaction: Redaction, tmp_path: Path
) -> None:
    (tmp_path / "hf").write_text("hf_secret_token\r\n")
    assert credentials.secret("hf") == "hf_secret_token"
    record = logging.LogRecord("x", logging.INFO, "x", 1, "it is %s!", ("hf_secret_token",), None)
    assert redaction.filter(record)
    assert record.getMessage() == "it is ***!"


def test_a_changed_credential_replaces_what_is_kept_out_of_the_log(
    credentials: Credentials, redaction: Redaction, tmp_path: Path
) -> None:
    (tmp_path / "hf").write_text("first_secret")
    credentials.secret("hf")
    (tmp_path / "hf").write_text("second_secret")
    credentials.secret("hf")
    assert redaction.clean("first_secret second_secret") == "first_secret ***"
    (tmp_path / "hf").write_text("")
    assert credentials.secret("hf") == ""
    assert redaction.clean("second_secret") == "second_secret"


def test_outside_systemd_there_are_no_credentials(redaction: Redaction) -> None:
    with pytest.raises(LlamadError) as caught:
        Credentials({}, redaction).secret("hf")
    assert str(caught.value) == "the credential 'hf' is not there (add LoadCredential=hf:PATH to the unit)"


@pytest.mark.parametrize("name", ["../hf", "/etc/shadow", "a/b"])
def test_a_name_that_leads_elsewhere_is_refused(credentials: Credentials, name: str) -> None:
    with pytest.raises(LlamadError, match="is not there"):
        credentials.secret(name)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gone", "No such file or directory"),
        ("..", "it is a folder, not a file"),
        ("", "it is a folder, not a file"),
        ("a\0b", "embedded null"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(credentials: Credentials, name: str, why: str) -> None:
    with pytest.raises(LlamadError, match=why) as caught:
        credentials.secret(name)
    assert caught.value.hint == f"LoadCredential={name}:PATH in the unit names the file"


def test_what_is_no_text_is_told(credentials: Credentials, tmp_path: Path) -> None:
    (tmp_path / "hf").write_bytes(b"\xff\xfe")
    with pytest.raises(LlamadError, match="cannot be read: 'utf-8' codec"):
        credentials.secret("hf")


def test_the_key_of_an_external_server(credentials: Credentials, tmp_path: Path) -> None:
    (tmp_path / "one").write_text("key-by-credential\n")
    (tmp_path / "two").write_text("key-by-file\n")

    def key_of(**where: object) -> str | None:
        return credentials.external_key(ServerConfig.model_validate({"name": "x", "url": "http://h:1", **where}))

    assert key_of() is None
    assert key_of(api_key_credential="one") == "key-by-credential"
    assert key_of(api_key_file=tmp_path / "two") == "key-by-file"
    with pytest.raises(LlamadError, match="three cannot be read"):
        key_of(api_key_file=tmp_path / "three")
