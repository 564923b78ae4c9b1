"""Keys: the file, who is let in, and that no key is ever shown."""

import errno
import os
import pwd
from pathlib import Path

import pytest

from llamad.config.model import GatewayConfig
from llamad.config.problems import ProblemKind
from llamad.gateway import keys as keys_module
from llamad.gateway.keys import NO_KEYS, NOBODYS_KEYS, load_keys, parse_keys
from tests.gateway.fleets import a_head

FILE = Path("/etc/llamad/keys")
GOOD = b"""\
# who may ask
alice:sk-alice:with:colons

  bob:sk-bob  \r
# \xc3\xbc is fine in a comment
"""


def problems_of(data: bytes) -> list[str]:
    keys, problems = parse_keys(data, FILE)
    assert keys is NO_KEYS
    return [str(problem) for problem in problems]


def test_names_and_keys_are_read() -> None:
    keys, problems = parse_keys(GOOD, FILE)
    assert problems == []
    assert keys.names == ("alice", "bob")
    assert keys.name_of(b"sk-alice:with:colons") == "alice"
    assert keys.name_of(b"sk-bob") == "bob"
    assert keys.name_of(b"") is None
    assert keys.name_of(b"sk-alice") is None


def test_the_keys_themselves_are_not_kept() -> None:
    assert "sk-" not in repr(parse_keys(GOOD, FILE)[0])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"secret", "keys:2:1: gateway.api_keys_file: has no colon: write NAME:KEY"),
        (b":secret", "keys:2:1: gateway.api_keys_file: a key's name is"),
        (b"a b:secret", "keys:2:1: gateway.api_keys_file: a key's name is"),
        (b"x" * 64 + b":secret", "keys:2:1: gateway.api_keys_file: a key's name is"),
        (b"a:", "keys:2:3: gateway.api_keys_file: the key of 'a' is empty"),
        (b"a: secret", "keys:2:3: gateway.api_keys_file: the key of 'a' has a character"),
        (b"a:secr\xc3\xa9t", "keys:2:3: gateway.api_keys_file: the key of 'a' has a character"),
        (b"a:secret\x00", "keys:2:3: gateway.api_keys_file: the key of 'a' has a character"),
        (b"a:" + b"secret" * 100, "keys:2:3: gateway.api_keys_file: the key of 'a' is longer than 512"),
    ],
)
def test_a_bad_line_is_named_and_its_key_is_not_shown(line: bytes, expected: str) -> None:
    (problem,) = problems_of(b"ok:fine\n" + line + b"\n")
    assert expected in problem
    assert "secret" not in problem
    assert len(problem) < 250


@pytest.mark.parametrize("quoted", [b'"sk-a"', b"'sk-a'"])
def test_quotes_are_a_part_of_a_key_and_that_is_said(quoted: bytes) -> None:
    """Who writes them as in YAML or a shell is answered 401 for ever; who means them is not refused."""
    keys, (problem,) = parse_keys(b"ann:" + quoted + b'\nbob:"sk\n', FILE)
    assert (keys.name_of(quoted), keys.names) == ("ann", ("ann", "bob"))
    assert problem.kind is ProblemKind.REMARK
    said = "keys:1:5: gateway.api_keys_file: the quotes around the key of 'ann' are a part of it"
    assert said in str(problem)
    assert "sk-a" not in str(problem)


def test_every_problem_is_told_at_once() -> None:
    assert len(problems_of(b"one\ntwo\nthree:\n")) == 3


def test_a_name_or_a_key_stands_there_once() -> None:
    by_name, by_key = problems_of(b"a:secret1\na:secret2\nb:secret1\n")
    assert "keys:2:1" in by_name
    assert "'a' stands in line 1 already" in by_name
    assert "keys:3:3" in by_key
    assert "this key stands in line 1 already" in by_key


def test_the_file_is_bounded() -> None:
    many = b"".join(b"k%d:secret%d\n" % (number, number) for number in range(1025))
    assert "at most 1024" in problems_of(many)[0]


# --- where they come from ---


def test_the_file_goes_before_the_credential(tmp_path: Path) -> None:
    (tmp_path / "api-keys").write_bytes(b"cred:sk-cred\n")
    (tmp_path / "file").write_bytes(b"file:sk-file\n")
    credential = (tmp_path / "api-keys",)
    assert load_keys(GatewayConfig(api_keys_file=tmp_path / "file"), credential)[0].names == ("file",)
    assert load_keys(GatewayConfig(), credential)[0].names == ("cred",)


@pytest.mark.parametrize("data", [b"", b"\n# none\n"])
def test_an_empty_credential_means_no_keys_and_an_empty_file_is_a_mistake(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "api-keys").write_bytes(data)
    assert load_keys(GatewayConfig(), (tmp_path / "api-keys",)) == (NO_KEYS, [])
    keys, (problem,) = load_keys(GatewayConfig(api_keys_file=tmp_path / "api-keys"), ())
    assert keys is NO_KEYS or not keys.by_digest
    assert "has no key" in problem.message


def test_without_a_file_and_a_credential_there_are_none(tmp_path: Path) -> None:
    assert load_keys(GatewayConfig(), ()) == (NO_KEYS, [])
    assert load_keys(GatewayConfig(), (tmp_path / "api-keys",)) == (NO_KEYS, [])


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        keys, (problem,) = load_keys(GatewayConfig(api_keys_file=path), ())
        assert keys is NO_KEYS
        assert problem.message.startswith("cannot be read: ")


def test_who_has_to_read_a_file_of_keys_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`sudo tee` under a careful umask: it is root's alone, and the service does not start."""

    def closed(paths: tuple[Path, ...]) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(paths[0]))

    monkeypatch.setattr(keys_module, "read_key_file", closed)
    _, (problem,) = load_keys(GatewayConfig(api_keys_file=tmp_path / "keys"), ())
    user = pwd.getpwuid(os.geteuid()).pw_name
    assert str(problem).endswith(f"cannot be read: Permission denied (the user {user} needs to read it)")


# --- who is let in ---


@pytest.mark.parametrize(
    ("headers", "who"),
    [
        ({}, None),
        ({"authorization": "Bearer sk-bob"}, "bob"),
        ({"authorization": "bearer  sk-bob "}, "bob"),
        ({"authorization": "sk-bob"}, "bob"),
        ({"api_key": "sk-bob"}, "bob"),
        ({"x_api_key": "Bearer sk-bob"}, "bob"),
        ({"api_key": "no", "authorization": "sk-bob"}, "bob"),
        ({"authorization": "Basic sk-bob"}, None),
        ({"authorization": "Bearer"}, None),
        ({"authorization": "Bearer sk-bo"}, None),
        ({"authorization": "Bearer sk-bobb"}, None),
        ({"x_api_key": "sk-bob"}, "bob"),
        ({"x_api_key": "no"}, None),
        ({"authorization": "Bearer none", "x_api_key": "sk-bob"}, "bob"),
        ({"accept": "*/*", "x_api_key": "sk-bob"}, "bob"),
        ({"x_api_key": "dummy", "authorization": "Bearer sk-bob", "accept": "*/*"}, "bob"),
    ],
)
def test_who_asks(headers: dict[str, str], who: str | None) -> None:
    keys, _ = parse_keys(GOOD, FILE)
    assert keys.who(a_head(**headers)) == who


def test_nobodys_keys_ask_for_a_key_and_take_none() -> None:
    assert NOBODYS_KEYS.by_digest
    for key in ("", "nobody"):
        assert NOBODYS_KEYS.who(a_head(authorization=f"Bearer {key}", x_api_key=key)) is None


def test_a_byte_order_mark_is_no_part_of_the_first_name() -> None:
    """Editors of Windows put one before all; nobody sees it."""
    keys, problems = parse_keys("\ufeffann:s3cret\n".encode(), Path("keys"))
    assert (keys.names, problems) == (("ann",), [])
    assert parse_keys(b"\xef\xbb\xbf# only a comment\n", Path("keys")) == (NO_KEYS, [])


def test_a_file_in_utf_16() -> None:
    keys, problems = parse_keys("ann:s3cret\n".encode("utf-16"), Path("keys"))
    assert (keys, [str(one) for one in problems]) == (
        NO_KEYS, ["keys:1:1: gateway.api_keys_file: this is UTF-16 text: save it as UTF-8"]
    )  # fmt: skip
