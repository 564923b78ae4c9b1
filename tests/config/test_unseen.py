"""Characters that nobody sees, and typographic quotes."""

import pytest

from llamad.config.unseen import quote_words, unseen_at, unseen_words, without_unseen


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("model", None), ("a b", None), ("caf\u00e9", None), ("\u0645\u06cc\u200c\u062e", None),
        ("\U0001f469\u200d\U0001f4bb", None), ("\u00a0model", 0), ("m.gguf\u200b", 6), ("a\u200d", 1), ("\u2003a", 0),
        ("\ufeffx", 0), ("a\u00adb", 1), ("x\u202e", 1), ("\u3000", 0),
    ],
)  # fmt: skip
def test_where_it_is(text: str, at: int | None) -> None:
    assert unseen_at(text) == at
    assert (without_unseen(text) == text) is (at is None)


def test_what_is_said() -> None:
    assert unseen_words("\u00a0").startswith("U+00A0 (no-break space) stands here")
    assert unseen_words("\u00a0").endswith("write a plain space")
    assert unseen_words("\u200b").endswith("remove it")
    assert quote_words("\u201cx\u201d") == "\u201c is a typographic quote, and so a part of the text: write \" or '"
    assert quote_words("it\u2019s") is None
