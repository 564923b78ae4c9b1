"""Characters that a text from a web page or a word processor brings along, and that nobody sees: no-break spaces, zero
widths, a byte order mark, typographic quotes. Pure.
"""

import re
import unicodedata
from codecs import BOM_UTF16_BE, BOM_UTF16_LE

UTF_16 = (BOM_UTF16_LE, BOM_UTF16_BE)
"""How a file begins that an editor of Windows saved as "Unicode"."""
UTF_16_WORDS = "this is UTF-16 text: save it as UTF-8"
_UNSEEN = re.compile(
    "[\u00a0\u00ad\u1680\u180e\u2000-\u200b\u200e\u200f\u202a-\u202f\u205f\u2060-\u2064\u2066-\u2069\u3000\ufeff]"
    "|^[\u200c\u200d]|[\u200c\u200d]$"
)
"""Spaces that are no space, and what has no width; joiners (emoji, Persian) only where they join nothing."""
_QUOTES = re.compile("[\u2018-\u201f\u00ab\u2039]")
"""Typographic quotes, where a text begins with one."""


def unseen_at(text: str) -> int | None:
    """Where the first character is that nobody sees."""
    match = _UNSEEN.search(text)
    return None if match is None else match.start()


def unseen_words(char: str) -> str:
    """What is said of such a character."""
    name = unicodedata.name(char, "without a name").lower()
    what = "write a plain space" if unicodedata.category(char) == "Zs" else "remove it"
    return f"U+{ord(char):04X} ({name}) stands here, which looks like nothing or like a space: {what}"


def quote_words(text: str) -> str | None:
    """What is said of a text that begins with a typographic quote; None for any other."""
    if not _QUOTES.match(text):
        return None
    return f"{text[0]} is a typographic quote, and so a part of the text: write \" or '"


def without_unseen(text: str) -> str:
    """The text as it looks."""
    return _UNSEEN.sub("", text)
