"""The socket file, and connections that are no good."""

import asyncio
import errno
import gzip
import json
import logging
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamad.control import api, listening
from llamad.control.listening import control_socket
from llamad.errors import LlamadError
from tests.control.fakes import FakeOperations, a_listener, ask, daemon, send
from tests.folders import short_folder
from tests.waiting import until


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as path:
        yield path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_without_a_group_only_the_own_user_may_connect(folder: Path) -> None:
    old = os.umask(0)  # a lax umask opens nothing
    try:
        with control_socket(folder / "c.sock", group=None) as (_, group):
            assert mode(folder / "c.sock") == 0o600
            assert group is None
    finally:
        os.umask(old)
    assert not (folder / "c.sock").exists()


def test_the_groups_members_may_connect_too(folder: Path) -> None:
    gid = 12345 if os.geteuid() == 0 else os.getegid()
    with control_socket(folder / "c.sock", group=gid) as (_, group):
        assert (mode(folder / "c.sock"), (folder / "c.sock").stat().st_gid, group) == (0o660, gid, gid)


def refuse_chown(monkeypatch: pytest.MonkeyPatch, number: int = errno.EPERM) -> None:
    """As the unit's sandbox does (SystemCallFilter=~@privileged)."""

    def refuse(*_args: object, **_more: object) -> None:
        raise OSError(number, os.strerror(number))

    for name in ("chown", "fchown", "lchown"):
        monkeypatch.setattr(f"os.{name}", refuse)


def test_no_chown_is_needed_for_the_group_that_llamad_runs_with(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """User=llamad, Group=llamad, and a sandbox that forbids every chown: its members were locked out."""
    refuse_chown(monkeypatch)
    gid = os.getegid()
    old = os.umask(0o077)  # the unit's
    try:
        with control_socket(folder / "c.sock", group=gid) as (_, group):
            assert (mode(folder / "c.sock"), (folder / "c.sock").stat().st_gid, group) == (0o660, gid, gid)
    finally:
        os.umask(old)


@pytest.mark.parametrize(
    ("number", "groups", "level"),
    [(errno.EPERM, [], "INFO"), (errno.EPERM, [12345], "WARNING"), (errno.EROFS, [], "WARNING")],
)
def test_a_group_that_cannot_be_given_the_socket_is_told_of(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
    groups: list[int],
    level: str,
) -> None:
    """Expected of a user who is not in it, a fault where the service cannot."""
    caplog.set_level("INFO")
    refuse_chown(monkeypatch, number)
    monkeypatch.setattr("os.getgroups", lambda: groups)
    with control_socket(folder / "c.sock", group=12345) as (_, group):
        assert (mode(folder / "c.sock"), group) == (0o600, None)
    (record,) = caplog.records
    assert record.levelname == level
    assert record.getMessage() == (
        f"members of group llamad cannot control this llamad: {folder}/c.sock cannot be given to the group: "
        f"{os.strerror(number)}"
    )


def test_a_socket_that_cannot_be_removed_is_told_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    def refuse(*_args: object, **_more: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with control_socket(folder / "c.sock", group=None):
        monkeypatch.setattr(Path, "unlink", refuse)
    monkeypatch.undo()
    assert f"cannot remove {folder}/c.sock: Read-only file system" in caplog.text


def test_the_folder_is_made_for_the_user_alone(folder: Path) -> None:
    with control_socket(folder / "llamad" / "c.sock", group=None):
        assert mode(folder / "llamad") == 0o700


def test_no_other_folder_is_made(folder: Path) -> None:
    with pytest.raises(LlamadError, match=f"c.sock: there is no folder {folder}/nonexist"):
        control_socket(folder / "nonexist" / "dir" / "c.sock", group=None).__enter__()
    assert list(folder.iterdir()) == []


def test_a_socket_that_nobody_listens_on_is_replaced(folder: Path) -> None:
    a_listener(folder / "c.sock").close()
    with control_socket(folder / "c.sock", group=None) as (sock, _):
        sock.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(folder / "c.sock"))


def test_another_llamad_is_not_pushed_aside(folder: Path) -> None:
    with a_listener(folder / "c.sock"):
        with pytest.raises(LlamadError, match=r"another llamad listens on .*/c\.sock \(stop it"):
            control_socket(folder / "c.sock", group=None).__enter__()
        assert (folder / "c.sock").exists()


def test_a_file_that_is_no_socket_is_left_alone(folder: Path) -> None:
    (folder / "c.sock").write_text("precious")
    with pytest.raises(LlamadError, match="is there and is no socket"):
        control_socket(folder / "c.sock", group=None).__enter__()
    assert (folder / "c.sock").read_text() == "precious"


def test_the_socket_of_one_that_came_after_stays(folder: Path) -> None:
    with control_socket(folder / "c.sock", group=None):
        (folder / "c.sock").unlink()
        later = a_listener(folder / "c.sock")
    with later:
        assert (folder / "c.sock").exists()


def test_a_path_that_cannot_be_used_is_named(folder: Path) -> None:
    (folder / "file").write_text("")
    with pytest.raises(LlamadError, match=r"cannot make the control socket .*: .+ \(set control\.socket"):
        control_socket(folder / "file" / "c.sock", group=None).__enter__()
    with pytest.raises(LlamadError, match="too long"):
        control_socket(folder / ("x" * 120), group=None).__enter__()


GARBAGE = [
    b"\x00\x01\x02\x03\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    b"GET\r\n\r\n",
    b"GET /v1/status HTTP/9.9\r\n\r\n",
    b"GET /v1/status HTTP/1.1\r\nHost llamad\r\n\r\n",
    b"GET /v1/status HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"GET /v1/status HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"POST /v1/reload HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    b"GET /" + b"x" * 20000 + b" HTTP/1.1\r\n\r\n",
    b"GET /v1/status HTTP/1.1\r\nX: " + b"y" * 20000 + b"\r\n\r\n",
    b"{}\r\n\r\n",
]


@pytest.mark.parametrize("raw", GARBAGE, ids=range(len(GARBAGE)))
async def test_garbage_gets_a_4xx_and_the_next_client_an_answer(raw: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with daemon() as path:
        answer = await send(path, raw)
        assert 400 <= answer.status < 500
        assert "application/json" in answer.head
        assert b'"exit_code": 1' in answer.body
        assert (await ask(path, "GET /v1/status")).status == 200
    assert not caplog.records, "a client's mistake is not the daemon's"


def with_body(body: bytes, *headers: bytes) -> bytes:
    lines = (b"POST /v1/reload HTTP/1.1", b"Host: llamad", b"Connection: close", *headers)
    return b"\r\n".join((*lines, b"Content-Length: %d" % len(body), b"", body))


BODIES = {
    "no gzip": with_body(b"no gzip", b"Content-Encoding: gzip"),
    "cut gzip": with_body(gzip.compress(b"hello")[:-6], b"Content-Encoding: gzip"),
    "whole gzip": with_body(gzip.compress(b"hello"), b"Content-Encoding: gzip"),
    "gzip and more": with_body(gzip.compress(b"hello") + b"xx", b"Content-Encoding: gzip"),
    "bomb": with_body(gzip.compress(b"0" * (32 << 20)), b"Content-Encoding: gzip"),
    "no deflate": with_body(b"\xff\xff\xff", b"Content-Encoding: deflate"),
    "br": with_body(b"xxx", b"Content-Encoding: br"),
    "zstd": with_body(b"xxx", b"Content-Encoding: zstd"),
    "unknown": with_body(b"xxx", b"Content-Encoding: \xc3\xa9"),
    "form": with_body(b"x", b"Content-Type: multipart/form-data"),
    "charset": with_body(b"x", b"Content-Type: text/plain; charset=nonsense"),
    "gzip chunk": b"POST /v1/reload HTTP/1.1\r\nHost: llamad\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
    b"Content-Encoding: gzip\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("raw", BODIES.values(), ids=BODIES)
async def test_a_body_is_refused_whatever_it_is_encoded_as(raw: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A broken gzip body was a 500, and a traceback in the log."""
    operations = FakeOperations()
    async with daemon(operations) as path:
        answer = await send(path, raw)
        assert (answer.status, "application/json" in answer.head) == (400, True)
        assert (await ask(path, "GET /v1/status")).status == 200
    assert operations.calls == []
    assert not caplog.records


FILES = {
    "no json": b"no json",
    "a list": b"[]",
    "nothing": b"null",
    "a number": b'{"file": 5, "files": {}}',
    "no text": b'{"file": "/a", "files": {"/a": 5}}',
    "no mapping": b'{"file": "/a", "files": []}',
    "another": b'{"file": "/b", "files": {"/a": "x"}}',
    "relative": b'{"file": "a", "files": {"a": "x"}}',
    "NUL": b'{"file": "/a\\u0000", "files": {"/a\\u0000": "x"}}',
    "half a character": b'{"file": "/\\ud800", "files": {"/\\ud800": "x"}}',
    "half a text": b'{"file": "/a", "files": {"/a": "\\ud800"}}',
    "deep": b"[" * 50_000,
    "no UTF-8": b"\xff\xfe",
    "gzip": gzip.compress(b"{}"),
}


@pytest.mark.parametrize("verb", ["check", "plan"])
@pytest.mark.parametrize("body", FILES.values(), ids=FILES)
async def test_files_that_are_none_are_a_400(verb: str, body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    operations = FakeOperations()
    async with daemon(operations) as path:
        answer = await send(path, with_body(body, b"Content-Encoding: gzip").replace(b"/reload", f"/{verb}".encode()))
        assert answer.status == 400
        assert json.loads(answer.body)["error"]["message"]
    assert not caplog.records


async def test_a_body_that_turns_out_broken_or_never_ends_is_a_400(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "BODY_TIME", 0.05)
    operations = FakeOperations()
    async with daemon(operations) as path:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"POST /v1/reload HTTP/1.1\r\nHost: llamad\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        assert (await ask(path, "GET /v1/status")).status == 200  # by now the head has arrived
        writer.write(b"zz\r\n")
        answer = await asyncio.wait_for(reader.read(), 30)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"its body is broken" in answer
        writer.close()
        await writer.wait_closed()
    assert operations.calls == []
    assert not caplog.records


PLACES = [
    b"GET /v1/servers/%ff%fe/logs",
    b"GET /v1/servers/%00/logs",
    b"GET /v1/servers/%zz/logs",
    b"GET /v1/servers/a%2fb/logs",
    b"GET /v1/servers/\xc3\xa9/logs",
    b"GET /v1/servers/\xff/logs",
    b"GET /v1/status?server=%ff&watch=%00",
    b"GET /v1/servers/qwen/logs?n=%D9%A3",
    b"GET http://[/v1/status",
    b"GET //v1/status",
    b"OPTIONS *",
    b"CONNECT a:80",
    b"POST /v1/servers/,/stop",
    b"POST /v1/servers/" + b"a," * 3000 + b"/stop",
]


@pytest.mark.parametrize("place", PLACES, ids=range(len(PLACES)))
async def test_a_place_that_is_none_gets_a_4xx(place: bytes, caplog: pytest.LogCaptureFixture) -> None:
    operations = FakeOperations()
    async with daemon(operations) as path:
        answer = await send(path, place + b" HTTP/1.1\r\nHost: llamad\r\nConnection: close\r\n\r\n")
        assert 400 <= answer.status < 500
        assert json.loads(answer.body)["error"]["message"]
    assert operations.calls == []
    assert not caplog.records


@pytest.mark.parametrize(
    "raw", [b"", b"GET /v1", b"GET /v1/status HTTP/1.1\r\n", b"POST /v1/reload HTTP/1.1\r\nContent-Length: 9\r\n\r\nx"]
)
async def test_a_client_that_leaves_in_the_middle_leaves_nothing(raw: bytes) -> None:
    operations = FakeOperations()
    async with daemon(operations) as path:
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(raw)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert (await ask(path, "GET /v1/status")).status == 200
    assert operations.calls == []


async def test_a_bug_of_ours_is_a_500_with_a_traceback_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with daemon(FakeOperations(bug=ZeroDivisionError("oh"))) as path:
        answer = await ask(path, "GET /v1/status")
    assert answer.status == 500
    assert b"journalctl -u llamad" in answer.body
    assert b"oh" not in answer.body
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info


async def test_a_bug_in_the_middle_of_a_stream_ends_it(caplog: pytest.LogCaptureFixture) -> None:
    operations = FakeOperations()
    async with daemon(operations) as path:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /v1/status?watch=1 HTTP/1.1\r\nHost: llamad\r\n\r\n")
        await reader.readuntil(b"\n")
        operations.bug = ZeroDivisionError()
        operations.board.update(next(iter(operations.board.replicas)), restarts=1)
        assert b"0\r\n\r\n" not in await asyncio.wait_for(reader.read(), 30)
        writer.close()
        await writer.wait_closed()
        operations.bug = None
        assert (await ask(path, "GET /v1/status")).status == 200
    assert operations.streams == 0


async def test_one_client_too_many_is_turned_away_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "control_connections", lambda _: 2)
    async with daemon() as path:
        held = [await asyncio.open_unix_connection(path) for _ in range(2)]
        assert (await ask(path, "GET /v1/status")).status == 503
        writer = held[0][1]
        writer.close()
        await writer.wait_closed()

        async def answered() -> bool:
            return (await ask(path, "GET /v1/status")).status == 200

        async with asyncio.timeout(30):
            while not await answered():
                pass
        held[1][1].close()
        await held[1][1].wait_closed()


async def test_an_idle_connection_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "IDLE_TIMEOUT", 0.05)
    async with daemon() as path:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /v1/status HTTP/1.1\r\nHost: llamad\r\n\r\n")
        await asyncio.wait_for(reader.read(), 30)
        writer.close()
        await writer.wait_closed()


async def test_at_the_end_who_waits_is_let_go_after_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "LAST_ANSWERS", 0.05)
    operations = FakeOperations(hang=asyncio.Event())
    async with daemon(operations) as path:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"POST /v1/reload?wait=1 HTTP/1.1\r\nHost: llamad\r\n\r\n")
        await until(lambda: ("waiting",) in operations.calls)
    assert await asyncio.wait_for(reader.read(), 30) == b""
    writer.close()
    await writer.wait_closed()
    assert ("left",) in operations.calls


async def test_at_the_end_those_who_follow_are_let_go_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "LAST_ANSWERS", 60.0)
    operations = FakeOperations()
    began = asyncio.get_running_loop().time()
    async with daemon(operations) as path:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /v1/servers/qwen/logs?follow=1 HTTP/1.1\r\nHost: llamad\r\n\r\n")
        await until(lambda: operations.streams == 1)
    await asyncio.wait_for(reader.read(), 30)
    writer.close()
    await writer.wait_closed()
    assert operations.streams == 0
    assert asyncio.get_running_loop().time() - began < 30
