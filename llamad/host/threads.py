"""Work that may block, in a thread."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


async def aside(look: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Look at something slow in a thread; here and now where the limit of processes allows no further thread, so that
    it is the start of a process that fails by that limit, and not the look.
    """
    try:
        return await asyncio.to_thread(look, *args, **kwargs)
    except RuntimeError:  # can't start new thread
        return look(*args, **kwargs)
