"""The pipe that a child writes its output into: read in turns, so that a flood keeps the loop from nothing else."""

import asyncio
import os
import time
from collections.abc import Callable

from llamad.host.descriptors import is_lack
from llamad.host.pipes import drop, peek
from llamad.host.share import TURN, Share

PIPE_BYTES = 1 << 20
"""Size asked for a log pipe: what a child can write while llamad is busy, or being restarted."""
_PIECE = 1 << 10
"""Bytes read at a time: they may be as many lines, and each costs some microseconds."""


class LogPipe:
    """The reading end `fd`, closed once the writers are gone (-1 then). With `keep`, no output leaves it before it
    was dealt with, so that a killed llamad loses none. `share` bounds the time that the output of all children takes.
    """

    def __init__(self, fd: int, *, keep: bool, share: Share) -> None:
        self.fd = fd
        self._keep = keep
        self._share = share
        self._loop = asyncio.get_running_loop()
        self._on_output: Callable[[bytes], None] | None = None
        self._resuming: asyncio.TimerHandle | None = None
        """While it is not read, or no reader is needed any more."""
        self._left = 0
        """Bytes that are read after the end of the child."""

    def attach(self, on_output: Callable[[bytes], None]) -> None:
        """Start to read; `on_output` gets what comes."""
        self._on_output = on_output
        os.set_blocking(self.fd, False)
        self._loop.add_reader(self.fd, self._read_some)

    def finish(self, done: Callable[[], None]) -> None:
        """The child is gone: read what lies there, which names the cause, in turns as ever, and call `done`. Who else
        still writes is not waited for.
        """
        self._left = PIPE_BYTES
        self._stop_reading()
        self._read_the_rest(done)

    def close(self) -> None:
        """Read no more."""
        if self.fd >= 0:
            self._stop_reading()
            os.close(self.fd)
            self.fd = -1

    def _stop_reading(self) -> None:
        if self._resuming is not None:
            self._resuming.cancel()
            self._resuming = None
        elif self._on_output is not None and self.fd >= 0:
            self._loop.remove_reader(self.fd)

    def _read_some(self) -> None:
        """Read for a turn; one who writes more than that is read on once all had their share of the loop's time."""
        wait = self._share.spend(self._read_for_a_turn(), time.monotonic())
        if wait and self.fd >= 0:
            self._loop.remove_reader(self.fd)
            self._resuming = self._loop.call_later(wait, self._resume)

    def _resume(self) -> None:
        self._resuming = None
        self._loop.add_reader(self.fd, self._read_some)

    def _read_the_rest(self, done: Callable[[], None]) -> None:
        before = self._left
        self._read_for_a_turn()
        if self.fd >= 0 and 0 < self._left < before:
            self._resuming = self._loop.call_later(TURN, self._read_the_rest, done)
            return
        self._resuming = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        done()

    def _read_for_a_turn(self) -> float:
        """Processor time it took."""
        began, spent = time.thread_time(), 0.0
        while self._on_output is not None and self.fd >= 0 and spent < TURN and self._read_piece(self._on_output):
            spent = time.thread_time() - began
        return time.thread_time() - began

    def _read_piece(self, on_output: Callable[[bytes], None]) -> bool:
        """Whether something was there."""
        try:
            data, kept = self._look()
        except BlockingIOError:
            return False
        if not data:  # the child closed its end; it may live on
            self.close()
            return False
        on_output(data)
        self._left -= len(data)
        if kept:
            drop(self.fd, len(data))
        return True

    def _look(self) -> tuple[bytes, bool]:
        """What is there, and whether it still is."""
        if self._keep:
            try:
                return peek(self.fd, _PIECE), True
            except OSError as error:
                if not is_lack(
                    error
                ):  # without a descriptor it has to leave the pipe: better than to hold the child up
                    raise
        return os.read(self.fd, _PIECE), False
