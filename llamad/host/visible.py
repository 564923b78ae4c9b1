"""Text of somebody else (a server's log, a model file, a client) made safe to show to people. Pure."""

import re

_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
_HIDDEN = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
"""Control characters but for the tab, line separators, what changes the direction of writing or is not seen at all,
and bytes that were no UTF-8.
"""


def visible(text: str, *, most: int | None = None) -> str:
    """`text` in one line that cannot steer a terminal or pass for more lines: colours are taken out, control characters
    spelled (`\\x07`). Of more than `most` characters the end is cut, with an ellipsis.
    """
    if most is not None and len(text) > 8 * most:
        text = text[: 8 * most]  # no work for what is cut anyway
    if not text.isprintable():
        text = _HIDDEN.sub(_spelled, _COLOUR.sub("", text))
    return text if most is None or len(text) <= most else text[: most - 1] + "…"


def visible_lines(text: str) -> str:
    """The same for a text of several lines, such as a traceback, which stay lines."""
    return text if text.isprintable() else "\n".join(visible(line) for line in text.split("\n"))


def _spelled(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()
