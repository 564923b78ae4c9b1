"""Whatever a client, a model file or a foreign server says: it is shown, and steers nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamad.host.visible import visible, visible_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("a\tb", "a\tb"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[38;2;1;2;3mred\x1b[m", "red"),
        ("\x1b]0;a title\x07rest", "\\x1b]0;a title\\x07rest"),
        ("\x1b[2J\x9b2J\x1bc", "\\x1b[2J\\x9b2J\\x1bc"),
        ("\x1b\x1b[0m[31mx", "\\x1b[31mx"),
        ("one\ntwo\rthree", "one\\ntwo\\rthree"),
        ("bell\x07 back\x08 nul\0", "bell\\x07 back\\x08 nul\\x00"),
        ("\u202eright to left", "\\u202eright to left"),
        ("a\u2028b\x85c", "a\\u2028b\\x85c"),
        ("\udcff", "\\udcff"),
        ("zażółć 語\u3000\u00a0👩\u200d💻", "zażółć 語\u3000\u00a0👩\u200d💻"),
    ],
)
def test_it_is_shown_and_steers_nothing(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_it_is_cut_with_an_ellipsis() -> None:
    assert visible("x" * 10_000, most=20) == "x" * 19 + "…"
    assert visible("\x07" * 10_000, most=9) == "\\x07\\x07…"
    assert visible("x" * 20, most=20) == "x" * 20


def test_lines_stay_lines() -> None:
    assert visible_lines("a\n\x1b[1mb\x07\n") == "a\nb\\x07\n"
    assert visible_lines("a") == "a"


@given(st.text())
def test_nothing_is_left_that_controls(text: str) -> None:
    shown = visible(text)
    assert not any((ord(one) < 32 and one != "\t") or 0x7F <= ord(one) < 0xA0 for one in shown)
    assert len(shown.splitlines()) <= 1
    assert visible(shown) == shown
    shown.encode()
