"""Secrets stay out of messages, fields and tracebacks."""

import sys
import threading

import pytest

from llamad.host import redact
from llamad.host.logrecord import fields_of, message_of, traceback_of
from llamad.host.redact import Redaction
from tests.host.records import a_record


@pytest.mark.parametrize(
    ("text", "secrets", "clean"),
    [
        ("key sk-secret here", ["sk-secret"], "key *** here"),
        ("sk-secret,sk-secret", ["sk-secret"], "***,***"),
        ("nothing", [], "nothing"),
        ("short abc", ["abc"], "short abc"),
        ("abcdef-longer", ["abcdef", "abcdef-longer"], "***"),
        ("a.c+d*(", ["a.c+d*("], "***"),
        ("abcXdddd", ["abc.dddd"], "abcXdddd"),
        ("", ["secret"], ""),
    ],
)
def test_each_secret_is_masked_literally(text: str, secrets: list[str], clean: str) -> None:
    redaction = Redaction()
    for number, secret in enumerate(secrets):
        redaction.replace(f"file {number}", secret)
    assert redaction.clean(text) == clean


def test_a_record_is_rewritten_where_a_secret_may_stand() -> None:
    redaction = Redaction()
    redaction.replace("api-keys", "hunter2hunter2")
    record = a_record(
        "key %s of %s",
        "hunter2hunter2",
        "bob",
        server="qwen",
        url="http://hunter2hunter2@x",
        n=5,
        error=KeyError("hunter2hunter2"),
    )
    assert redaction.filter(record)
    assert message_of(record) == "key *** of bob"
    assert fields_of(record) == {"server": "qwen", "url": "http://***@x", "n": 5}
    traceback = traceback_of(record)
    assert traceback is not None
    assert traceback.endswith("KeyError: '***'")


def test_a_record_without_arguments_may_hold_percent_signs() -> None:
    redaction = Redaction()
    redaction.replace("api-keys", "hunter2hunter2")
    record = a_record("%s", "100 % of hunter2hunter2")
    redaction.filter(record)
    redaction.filter(record)
    assert message_of(record) == "100 % of ***"


def test_without_secrets_a_record_is_left_alone() -> None:
    record = a_record("%s", "x")
    assert Redaction().filter(record)
    assert record.args == ("x",)
    assert Redaction().clean("x") == "x"


def test_a_source_replaces_its_own_and_only_its_own() -> None:
    redaction = Redaction()
    redaction.replace("one", "old-secret")
    redaction.replace("two", "hf-token")
    redaction.replace("one", "new-secret")
    assert redaction.clean("old-secret new-secret hf-token") == "old-secret *** ***"
    redaction.replace("two", "")
    redaction.replace("one", "")
    redaction.replace("never", "")
    assert redaction.clean("new-secret hf-token") == "new-secret hf-token"


def test_of_too_many_sources_the_one_not_read_for_longest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redact, "MAX_SOURCES", 3)
    redaction = Redaction()
    for number in range(3):
        redaction.replace(f"file {number}", f"secret {number}")
    redaction.replace("file 0", "secret 0")
    redaction.replace("file 3", "secret 3")
    assert redaction.clean("secret 0, secret 1, secret 2, secret 3") == "***, secret 1, ***, ***"


def test_several_threads_may_register() -> None:
    """Servers that start at the same moment have their credentials read in threads."""
    redaction, wrong = Redaction(), list[BaseException]()

    def register(who: int) -> None:
        try:
            for number in range(200):
                redaction.replace(f"{who}/{number % 40}", f"secret-{who}-{number}")
        except RuntimeError as error:
            wrong.append(error)

    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=register, args=(who,)) for who in range(4)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    finally:
        sys.setswitchinterval(usual)
    assert wrong == []
    assert redaction.clean("secret-3-199 secret-0-160") == "*** ***"
