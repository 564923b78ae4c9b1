"""What the demo says while a person waits: a moving line on a terminal, plain lines everywhere else."""

import os
import time
from typing import TextIO

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_CLEAR = "\r\x1b[2K"


class Screen:
    """Writes to one stream. A step is a line that stays; waiting is a line that moves until the next step."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._moves = out.isatty() and os.environ.get("TERM", "dumb") != "dumb" and _draws_frames(out)
        self._waiting: str | None = None
        self._since = 0.0

    def step(self, text: str) -> None:
        """Say something that stays."""
        self._write(f"{self._wipe()}{text}\n")

    def wait(self, text: str) -> None:
        """Say what is being waited for; to be called again and again (some ten times a second) while that lasts."""
        now = time.monotonic()
        if self._waiting != text:
            self._since = now if self._waiting is None else self._since
            self._waiting = text
            if not self._moves:
                self._write(f"{text} ...\n")
        if self._moves:
            frame = _FRAMES[int(now * 10) % len(_FRAMES)]
            self._write(f"{_CLEAR}{frame} {text} ... {now - self._since:.1f} s")

    def clear(self) -> None:
        """Leave no moving line behind."""
        self._write(self._wipe())

    def _wipe(self) -> str:
        wipe = _CLEAR if self._moves and self._waiting is not None else ""
        self._waiting = None
        return wipe

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def _draws_frames(out: TextIO) -> bool:
    try:
        _FRAMES.encode(out.encoding or "ascii")
    except UnicodeError:
        return False
    return True
