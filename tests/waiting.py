"""Waiting for a condition, bounded: never a sleep of a guessed length."""

import asyncio
import time
from collections.abc import Callable


async def until(condition: Callable[[], object], *, seconds: float = 30.0) -> None:
    """Return once `condition` holds, in a coroutine test."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        await asyncio.sleep(0.002)


def wait_until(condition: Callable[[], object], *, seconds: float = 30.0) -> None:
    """Return once `condition` holds, in a test without a loop."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.002)
