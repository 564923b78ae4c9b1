"""What holds for every test: nothing is left behind, and memory is watched."""

import asyncio
import contextlib
import gc
import os
import resource
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import llamad.host.pipes  # noqa: F401 - it makes a pipe, once: not inside a test, which may leave none open

settings.register_profile("llamad", deadline=None)  # on a busy machine a slow example says nothing
settings.load_profile("llamad")

MAX_WORKER_MB = 512
MAX_TEST_GROWTH_MB = 50


def _rss_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def _children() -> set[int]:
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended meanwhile
            found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


def _fds() -> dict[int, str]:
    out = {}
    for fd in Path("/proc/self/fd").iterdir():
        try:
            out[int(fd.name)] = str(fd.readlink())
        except FileNotFoundError:
            continue  # the one that lists the folder
    return out


def pytest_configure() -> None:
    """A shell's background job ignores SIGINT, and its children would too: what is interrupted here must notice."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A folder of a tier that is left out need not be read: the clients that it imports alone take a second."""
    tier = collection_path.name
    return True if tier in ("engine", "lab") and f"not {tier}" in config.getoption("markexpr") else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every coroutine test also checks its own loop for tasks left over."""
    for item in items:
        if isinstance(item, pytest.Function) and asyncio.iscoroutinefunction(item.function):
            item.fixturenames.append("_no_task_left")


@pytest.fixture
async def _no_task_left() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    left = {task for task in asyncio.all_tasks() - before if task is not asyncio.current_task() and not task.done()}
    assert not left, f"tasks left running: {left}"


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """No child process and no file descriptor outlives a test, and none keeps more than 50 MB."""
    children, fds, rss = _children(), _fds(), _rss_mb()
    yield
    left = _children() - children
    assert not left, f"child processes left: {sorted(left)}"
    opened = {fd: what for fd, what in _fds().items() if fds.get(fd) != what}
    if opened:  # a cycle may still hold some: that is no leak, and this collection is rare
        gc.collect()
        opened = {fd: what for fd, what in _fds().items() if fds.get(fd) != what}
    assert not opened, f"file descriptors left open: {opened}"
    if _rss_mb() - rss > MAX_TEST_GROWTH_MB:
        gc.collect()
    assert _rss_mb() - rss <= MAX_TEST_GROWTH_MB, f"this test kept {_rss_mb() - rss:.0f} MB"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Each worker reports its peak; too large a one fails the run."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["peak_mb"] = peak
    else:
        _peaks[f"main {os.getpid()}"] = peak
    if max(_peaks.values(), default=peak) > MAX_WORKER_MB or peak > MAX_WORKER_MB:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


_peaks: dict[str, float] = {}


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    """xdist: a worker is done."""
    output = getattr(node, "workeroutput", {})
    if "peak_mb" in output:
        _peaks[str(getattr(node, "gateway", node))] = output["peak_mb"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the peaks, so that a creeping growth is seen."""
    if _peaks:
        worst = max(_peaks.values())
        terminalreporter.write_line(f"peak memory of a test worker: {worst:.0f} MB (limit {MAX_WORKER_MB} MB)")
