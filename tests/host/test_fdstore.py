"""What systemd handed over: taken by name, and refused with one line where it is not for us."""

import os
from collections.abc import Iterator

import pytest

from llamad.host.fdstore import LIMIT, close_all, received
from llamad.host.notify import SystemdEnvironment

PID = 4711
BASE = 700  # high enough to be free


@pytest.fixture
def handed() -> Iterator[list[int]]:
    """Four inheritable descriptors in a row, as an exec would leave them."""
    ours, theirs = os.pipe()
    fds = [BASE + offset for offset in range(4)]
    for fd in fds:
        os.dup2(ours, fd, inheritable=True)
    os.close(ours)
    os.close(theirs)
    yield fds
    for fd in fds:
        try:
            os.close(fd)
        except OSError:
            continue


def environment(fds: str | None, names: str | None = None, pid: str | None = str(PID)) -> SystemdEnvironment:
    return SystemdEnvironment(listen_pid=pid, listen_fds=fds, listen_fdnames=names)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_descriptors_are_taken_by_name_in_order(handed: list[int], caplog: pytest.LogCaptureFixture) -> None:
    env = environment("4", "log-qwen:pid-qwen:log-qwen:llamad.socket")
    assert received(env, pid=PID, first=BASE) == {
        "log-qwen": [BASE, BASE + 2],
        "pid-qwen": [BASE + 1],
        "llamad.socket": [BASE + 3],
    }
    assert lines(caplog) == []


def test_no_child_inherits_them(handed: list[int]) -> None:
    assert all(os.get_inheritable(fd) for fd in handed)
    received(environment("4"), pid=PID, first=BASE)
    assert not any(os.get_inheritable(fd) for fd in handed)


@pytest.mark.parametrize("names", [None, ""])
def test_without_names_all_are_unknown(handed: list[int], names: str | None) -> None:
    assert received(environment("2", names), pid=PID, first=BASE) == {"unknown": [BASE, BASE + 1]}


def test_outside_systemd_there_are_none(caplog: pytest.LogCaptureFixture) -> None:
    assert received(SystemdEnvironment(), pid=PID) == {}
    assert received(environment("0", ""), pid=PID) == {}
    assert lines(caplog) == []


@pytest.mark.parametrize(
    ("env", "line"),
    [
        (environment("1", "a", "1"), "file descriptors are not taken: LISTEN_PID is 1 and not 4711"),
        (environment("1", "a", None), "file descriptors are not taken: LISTEN_PID is unset and not 4711"),
        (environment("-1"), "file descriptors are not taken: LISTEN_FDS is '-1'"),
        (environment("many"), "file descriptors are not taken: LISTEN_FDS is 'many'"),
        (environment(str(LIMIT + 1)), "file descriptors are not taken: LISTEN_FDS is '4097'"),
    ],
)
def test_what_is_not_for_us_is_refused_with_one_line(
    env: SystemdEnvironment, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert received(env, pid=PID, first=BASE) == {}
    assert lines(caplog) == [line]


def test_names_that_do_not_fit_are_ignored_and_nothing_is_lost(
    handed: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    assert received(environment("2", "a:b:c"), pid=PID, first=BASE) == {"unknown": [BASE, BASE + 1]}
    assert lines(caplog) == ["the names of the file descriptors are ignored: LISTEN_FDNAMES has 3 for 2"]


def test_a_descriptor_that_is_not_open_is_passed_over(handed: list[int], caplog: pytest.LogCaptureFixture) -> None:
    os.close(BASE + 1)
    assert received(environment("3", "a:b:c"), pid=PID, first=BASE) == {"a": [BASE], "c": [BASE + 2]}
    assert lines(caplog) == ["file descriptor 701 (b) is not taken: Bad file descriptor"]


def test_what_nobody_claims_is_closed_once(handed: list[int]) -> None:
    close_all([*handed, BASE])
    for fd in handed:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
