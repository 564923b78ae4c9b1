"""Slow looks go to a thread, where the machine has one to give."""

import asyncio
import threading

import pytest

from llamad.host.threads import aside


async def test_a_look_is_taken_in_another_thread() -> None:
    assert await aside(threading.get_ident) != threading.get_ident()


async def test_without_a_thread_to_be_had_it_is_taken_here(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_thread(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(asyncio, "to_thread", no_thread)
    assert await aside(int, "11", base=2) == 3
    assert await aside(threading.get_ident) == threading.get_ident()


async def test_what_a_look_raises_is_its_callers() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        await aside(int, "x")
