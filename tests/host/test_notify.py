"""The sender's side of the notify protocol, against a datagram socket that plays systemd."""

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamad.host.notify import (
    STATUS_LIMIT,
    Notifier,
    SystemdEnvironment,
    status_line,
    take_systemd_environment,
    watchdog_interval,
)
from tests.host.conftest import Listener

PID = 4711


@pytest.fixture
def notifier(listener: Listener) -> Iterator[Notifier]:
    with Notifier(SystemdEnvironment(notify_socket=str(listener.path))) as one:
        yield one


class TestEnvironment:
    def test_every_variable_of_systemd_is_taken_out_and_nothing_else(self) -> None:
        environ = {
            "NOTIFY_SOCKET": "/run/systemd/notify",
            "WATCHDOG_USEC": "30000000",
            "WATCHDOG_PID": "1",
            "LISTEN_PID": "2",
            "LISTEN_FDS": "3",
            "LISTEN_FDNAMES": "a:b:c",
            "LISTEN_PIDFDID": "99",
            "FDSTORE": "4096",
            "PATH": "/usr/bin",
        }
        assert take_systemd_environment(environ) == SystemdEnvironment(
            "/run/systemd/notify", "30000000", "1", "2", "3", "a:b:c", "4096"
        )
        assert environ == {"PATH": "/usr/bin"}

    def test_outside_systemd_there_is_nothing(self) -> None:
        assert take_systemd_environment({}) == SystemdEnvironment()
        assert take_systemd_environment({"NOTIFY_SOCKET": ""}).notify_socket is None

    def test_a_store_is_assumed_where_systemd_does_not_deny_it(self) -> None:
        assert SystemdEnvironment(notify_socket="/s").can_store  # 252 does not tell
        assert SystemdEnvironment(notify_socket="/s", fdstore="4096").can_store
        assert not SystemdEnvironment(notify_socket="/s", fdstore="0").can_store
        assert not SystemdEnvironment().can_store

    @pytest.mark.parametrize(
        ("usec", "pid", "expected"),
        [
            ("30000000", None, 15.0),
            ("30000000", "", 15.0),
            ("30000000", str(PID), 15.0),
            ("30000000", "1", None),
            (None, None, None),
            ("0", None, None),
            ("-5", None, None),
            ("soon", None, None),
            ("٣", None, None),
        ],
    )
    def test_the_watchdog_wants_half_its_time_and_only_from_us(
        self, usec: str | None, pid: str | None, expected: float | None
    ) -> None:
        env = SystemdEnvironment(watchdog_usec=usec, watchdog_pid=pid)
        assert watchdog_interval(env, pid=PID) == expected


class TestStatusLine:
    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("3/4 ready", "3/4 ready"),
            ("one\nREADY=1\r\n two\t three ", "one READY=1 two three"),
            ("\x1b[31mred\x00\x85\u2028end", "[31mred end"),
            ("größer ∞ 🦙", "größer ∞ 🦙"),
            ("lone \udcff surrogate", "lone surrogate"),
            ("x" * 1024, "x" * 1024),
            ("x" * 1025, "x" * 1021 + "…"),
            ("é" * 600, "é" * 510 + "…"),
        ],
    )
    def test_is_one_valid_bounded_line(self, text: str, line: str) -> None:
        assert status_line(text) == line

    @given(st.text(st.characters(exclude_categories=[]), max_size=1500))
    def test_any_text_makes_a_line_that_systemd_takes(self, text: str) -> None:
        line = status_line(text)
        encoded = line.encode()  # raises on what is not UTF-8
        assert len(encoded) <= STATUS_LIMIT
        assert b"\n" not in encoded
        assert b"\0" not in encoded
        assert status_line(line) == line


class TestMessages:
    def test_each_message_is_one_datagram_in_the_protocols_words(self, notifier: Notifier, listener: Listener) -> None:
        notifier.extend_timeout(90)
        notifier.ready()
        notifier.status("1/1 ready")
        notifier.watchdog()
        notifier.restart_reset()
        notifier.remove("log-qwen")
        notifier.stopping()
        assert listener.texts() == [
            "EXTEND_TIMEOUT_USEC=90000000",
            "READY=1",
            "STATUS=1/1 ready",
            "WATCHDOG=1",
            "RESTART_RESET=1",
            "FDSTOREREMOVE=1\nFDNAME=log-qwen",
            "STOPPING=1",
        ]

    def test_text_beyond_latin_1_arrives_as_utf_8(self, notifier: Notifier, listener: Listener) -> None:
        notifier.status("é ∞ 🦙")
        assert listener.receive() == "STATUS=é ∞ 🦙".encode()

    @given(st.text())
    def test_no_status_makes_a_message_over_the_limit(self, text: str) -> None:
        assert len(f"STATUS={status_line(text * 50)}".encode()) <= 4096

    def test_an_unchanged_status_is_not_sent_again(self, notifier: Notifier, listener: Listener) -> None:
        for text in ("a", "a", " a\n", "b", "a"):
            notifier.status(text)
        assert listener.texts() == ["STATUS=a", "STATUS=b", "STATUS=a"]

    def test_a_timeout_is_never_extended_by_nothing(self, notifier: Notifier, listener: Listener) -> None:
        notifier.extend_timeout(0)
        assert listener.texts() == ["EXTEND_TIMEOUT_USEC=1"]

    def test_an_abstract_socket_is_reached_too(self) -> None:
        name = f"llamad-test-{os.getpid()}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
            server.bind("\0" + name)
            with Notifier(SystemdEnvironment(notify_socket="@" + name)) as notifier:
                notifier.ready()
            assert server.recv(100) == b"READY=1"


class TestReloading:
    def test_the_time_comes_in_the_same_datagram_and_ready_follows(
        self, notifier: Notifier, listener: Listener
    ) -> None:
        notifier.ready()
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        with notifier.reloading():
            inside = listener.texts()[1:]
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        assert len(inside) == 1
        first, second = inside[0].split("\n")
        assert first == "RELOADING=1"
        assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= after
        assert listener.texts() == ["READY=1"]

    def test_ready_follows_a_reload_that_fails(self, notifier: Notifier, listener: Listener) -> None:
        notifier.ready()
        reloading = notifier.reloading()
        reloading.__enter__()
        listener.texts()
        assert not reloading.__exit__(RuntimeError, RuntimeError(), None)
        assert listener.texts() == ["READY=1"]

    def test_a_reload_during_the_start_does_not_end_the_start(self, notifier: Notifier, listener: Listener) -> None:
        with notifier.reloading():
            pass
        assert listener.texts() == []

    def test_stopping_is_final(self, notifier: Notifier, listener: Listener) -> None:
        notifier.ready()
        with notifier.reloading():
            notifier.stopping()
        with notifier.reloading():
            pass
        notifier.ready()
        assert [text.split("\n")[0] for text in listener.texts()] == ["READY=1", "RELOADING=1", "STOPPING=1"]


class TestFullQueue:
    async def test_nothing_blocks_and_only_what_matters_is_kept(self, notifier: Notifier, listener: Listener) -> None:
        filler = listener.fill()
        began = time.monotonic()
        notifier.ready()
        notifier.status("lost")
        notifier.watchdog()
        notifier.extend_timeout(1)
        assert time.monotonic() - began < 0.5
        assert listener.texts() == ["X-FILLER=1"] * filler
        notifier.watchdog()
        assert listener.texts() == ["READY=1", "WATCHDOG=1"]

    def test_a_status_that_was_dropped_is_sent_when_it_comes_again(
        self, notifier: Notifier, listener: Listener
    ) -> None:
        listener.fill()
        notifier.status("same")
        listener.texts()
        notifier.status("same")
        assert listener.texts() == ["STATUS=same"]

    async def test_what_is_kept_stays_in_order_and_bounded(self, notifier: Notifier, listener: Listener) -> None:
        listener.fill()
        notifier.ready()
        for _ in range(50):
            with notifier.reloading():
                pass
        notifier.stopping()
        listener.texts()
        notifier.watchdog()
        sent = [text.split("\n")[0] for text in listener.texts()]
        assert sent == ["RELOADING=1", "READY=1", "STOPPING=1", "WATCHDOG=1"]

    def test_a_descriptor_that_could_not_be_stored_is_told(self, notifier: Notifier, listener: Listener) -> None:
        listener.fill()
        assert not notifier.store("log-qwen", 0)
        assert not notifier.remove("log-qwen")


class TestStore:
    def test_descriptors_travel_with_their_name(self, notifier: Notifier, listener: Listener) -> None:
        ours, theirs = os.pipe()
        try:
            assert notifier.store("log-qwen", ours, theirs)
            assert notifier.store("pid-qwen", ours, poll=False)
            assert listener.texts() == ["FDSTORE=1\nFDNAME=log-qwen", "FDSTORE=1\nFDNAME=pid-qwen\nFDPOLL=0"]
            same = [os.fstat(fd).st_ino for fd in listener.fds]
            assert same == [os.fstat(ours).st_ino] * 3  # both ends of a pipe are one inode
        finally:
            os.close(ours)
            os.close(theirs)

    def test_nothing_to_store_is_nothing_to_say(self, notifier: Notifier, listener: Listener) -> None:
        assert notifier.store("empty")
        assert listener.texts() == []

    @pytest.mark.parametrize("name", ["", "a:b", "a\nREADY=1", "a b", "ä", "x" * 256])
    def test_a_name_that_systemd_would_refuse_is_refused(
        self, notifier: Notifier, listener: Listener, name: str
    ) -> None:
        with pytest.raises(ValueError, match="cannot name a stored file descriptor"):
            notifier.store(name, 0)
        with pytest.raises(ValueError, match="cannot name a stored file descriptor"):
            notifier.remove(name)
        assert listener.texts() == []

    @pytest.mark.parametrize("name", ["log-qwen.7B_x/0", "x" * 255])
    def test_names_made_of_server_names_are_fine(self, notifier: Notifier, listener: Listener, name: str) -> None:
        assert notifier.remove(name)
        assert len(listener.texts()) == 1


class TestBarrier:
    async def test_returns_when_systemd_closes_the_one_descriptor(self, notifier: Notifier, listener: Listener) -> None:
        notifier.stopping()
        async with asyncio.TaskGroup() as group:
            done = group.create_task(notifier.barrier(5))
            await asyncio.sleep(0)
            assert listener.texts() == ["STOPPING=1", "BARRIER=1"]
            assert len(listener.fds) == 1
            assert not done.done()
            os.close(listener.fds.pop())
        assert done.result()

    async def test_is_bounded_where_systemd_does_not_answer(self, notifier: Notifier, listener: Listener) -> None:
        assert not await notifier.barrier(0.02)
        assert listener.texts() == ["BARRIER=1"]

    async def test_is_bounded_where_the_queue_stays_full(self, notifier: Notifier, listener: Listener) -> None:
        listener.fill()
        assert not await notifier.barrier(0.02)

    async def test_comes_after_what_was_kept(self, notifier: Notifier, listener: Listener) -> None:
        listener.fill()
        notifier.stopping()
        listener.texts()
        assert not await notifier.barrier(0.02)
        assert listener.texts() == ["STOPPING=1", "BARRIER=1"]


class TestNobodyThere:
    async def everything_is_a_no_op(self, notifier: Notifier) -> None:
        notifier.ready()
        with notifier.reloading():
            notifier.status("x")
        notifier.extend_timeout(1)
        notifier.watchdog()
        notifier.restart_reset()
        assert not notifier.store("a", 0)
        assert not notifier.remove("a")
        notifier.stopping()
        assert await notifier.barrier(0)
        assert not notifier.active

    async def test_without_a_socket(self, caplog: pytest.LogCaptureFixture) -> None:
        await self.everything_is_a_no_op(Notifier(SystemdEnvironment()))
        assert caplog.records == []

    @pytest.mark.parametrize(
        ("address", "line"),
        [
            (
                "/tmp/not/there",
                "cannot reach NOTIFY_SOCKET /tmp/not/there (No such file or directory); systemd is told nothing",
            ),
            (
                "/" + "x" * 200,
                f"cannot reach NOTIFY_SOCKET /{'x' * 200} (AF_UNIX path too long); systemd is told nothing",
            ),
            (
                "vsock:2:1234",
                "NOTIFY_SOCKET 'vsock:2:1234' is neither a path nor an abstract name; systemd is told nothing",
            ),
        ],
    )
    async def test_a_socket_that_is_not_there_is_one_line(
        self, address: str, line: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        await self.everything_is_a_no_op(Notifier(SystemdEnvironment(notify_socket=address)))
        assert [record.getMessage() for record in caplog.records] == [line]

    async def test_a_socket_that_goes_away_is_one_line_too(
        self, notifier: Notifier, listener: Listener, caplog: pytest.LogCaptureFixture
    ) -> None:
        listener.close()
        notifier.watchdog()
        notifier.ready()
        notifier.stopping()
        lines = [record.getMessage() for record in caplog.records]
        assert lines == ["cannot tell systemd WATCHDOG=1: Connection refused"]

    async def test_a_closed_notifier_says_nothing(self, notifier: Notifier, listener: Listener) -> None:
        listener.fill()
        notifier.stopping()
        notifier.close()
        await self.everything_is_a_no_op(notifier)

    def test_the_socket_does_not_reach_a_child(self, listener: Listener) -> None:
        before = _sockets()
        with Notifier(SystemdEnvironment(notify_socket=str(listener.path))):
            assert [os.get_inheritable(fd) for fd in _sockets() - before] == [False]


def _sockets() -> set[int]:
    folder = Path("/proc/self/fd")
    return {int(name) for name in os.listdir(folder) if os.path.islink(folder / name) and _is_socket(folder / name)}


def _is_socket(link: Path) -> bool:
    return str(link.readlink()).startswith("socket:")
