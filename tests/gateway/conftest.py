"""The data path runs on two event loops, so its tests do."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from llamad.host.address import UnixAddress
from tests.folders import short_folder
from tests.gateway.gate import Gate, Rules, a_gate
from tests.gateway.origin import Origin

uvloop.new_event_loop().close()  # libuv opens a pipe once a process: not inside a test, which may leave none open
_BOTH = {
    "test_relay.py",
    "test_breaks.py",
    "test_leaving.py",
    "test_corpus.py",
    "test_server.py",
    "test_limits.py",
    "test_ahead.py",
}


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loops of a test; known to pytest-asyncio 1.4 and later, before which there is only asyncio's own."""
    plain: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    return {**plain, "uvloop": uvloop.new_event_loop} if item.path.name in _BOTH else plain


@pytest.fixture
async def origin(_no_task_left: None) -> AsyncIterator[Origin]:
    with short_folder() as folder:
        async with Origin(folder / "o") as one:
            yield one


@pytest.fixture
async def gate(origin: Origin) -> AsyncIterator[Gate]:
    async with a_gate(Rules([UnixAddress(origin.path)])) as one:
        yield one
