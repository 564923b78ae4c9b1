"""The client: where it looks, and what it makes of each way to fail."""

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llamad.control import client as client_module
from llamad.control.client import Client, RefusedError, find_socket, own_client
from llamad.control.peers import how_to_be_allowed
from llamad.errors import ExitCode, LlamadError, NotAllowedError, UnavailableError
from llamad.servers.plan import Action, Step
from tests.control.fakes import FakeOperations, a_listener, daemon
from tests.folders import short_folder


def test_the_socket_is_the_one_given() -> None:
    environ = {"LLAMAD_SOCKET": "/b", "RUNTIME_DIRECTORY": "/c"}
    assert find_socket(Path("/a"), environ, uid=0) == Path("/a")
    assert find_socket(None, environ, uid=0) == Path("/b")


def test_the_socket_is_where_systemd_says() -> None:
    assert find_socket(None, {"RUNTIME_DIRECTORY": "/run/other:/run/x"}, uid=990) == Path("/run/other/control.sock")


def test_root_and_whoever_has_no_llamad_of_its_own_ask_the_systems(tmp_path: Path) -> None:
    system = tmp_path / "system.sock"
    assert find_socket(None, {}, uid=0, system=system) == system
    assert find_socket(None, {"XDG_RUNTIME_DIR": str(tmp_path)}, uid=1000, system=system) == system
    assert find_socket(None, {"RUNTIME_DIRECTORY": "relative"}, uid=0) == Path("/run/llamad/control.sock")


def test_the_users_own_llamad_goes_before_the_systems_but_nobody_elses(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    (tmp_path / "llamad").mkdir()
    own = tmp_path / "llamad/control.sock"
    own.write_text("")
    system = tmp_path / "system.sock"
    uid = 1000
    try:
        os.chown(own, uid, -1)
    except PermissionError:
        uid = os.geteuid()
    assert find_socket(None, environ, uid=uid, system=system) == own
    assert find_socket(None, environ, uid=uid + 1, system=system) == system


def test_the_environment_of_the_process_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMAD_SOCKET", "/nowhere/x.sock")
    with pytest.raises(UnavailableError, match=r"/nowhere/x\.sock: there is no such socket"):
        own_client(None).get("status")


def test_no_daemon_is_unavailable() -> None:
    with short_folder() as folder:
        with pytest.raises(UnavailableError) as missing:
            Client(folder / "c.sock").get("status")
        a_listener(folder / "c.sock").close()
        with pytest.raises(UnavailableError) as stale:
            Client(folder / "c.sock").get("status")
    assert missing.value.message == f"cannot reach llamad at {folder}/c.sock: there is no such socket"
    assert stale.value.message == f"cannot reach llamad at {folder}/c.sock: Connection refused"
    assert str(missing.value.hint).startswith("is llamad running? systemctl status llamad")
    assert missing.value.exit_code == 69


def test_a_path_that_no_socket_can_have_is_unavailable() -> None:
    with pytest.raises(UnavailableError, match="path too long"):
        Client(Path("/" + "x" * 200)).get("status")


def test_no_permission_is_not_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(socket.socket):
        def connect(self, address: object) -> None:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("socket.socket", Closed)
    with pytest.raises(NotAllowedError) as refused:
        Client(Path("/x")).get("status")
    assert refused.value.exit_code == 77
    assert refused.value.hint == how_to_be_allowed(Path("/x"))


@contextmanager
def a_stranger(answer: bytes) -> Iterator[Path]:
    """Somebody who answers every connection with the same bytes, and closes."""
    with short_folder() as folder, a_listener(folder / "c.sock") as sock:

        def serve() -> None:
            connection, _ = sock.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield folder / "c.sock"
        thread.join()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "llamad ended the connection"),
        (b"SSH-2.0-OpenSSH\r\n", "llamad ended the connection"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "llamad ended the connection"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "no llamad of this version: what it says is no JSON"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "what it says is no JSON object"),
        (b"HTTP/1.1 502 Bad\r\nContent-Length: 2\r\n\r\n{}", "no llamad of this version: status 502"),
    ],
)
def test_what_is_no_llamad_is_said_to_be_none(answer: bytes, said: str) -> None:
    with a_stranger(answer) as path, pytest.raises(UnavailableError, match=said):
        Client(path).get("status")


def test_an_exit_code_of_another_version_is_a_failure() -> None:
    body = b'{"error": {"message": "no", "exit_code": 99}}'
    head = b"HTTP/1.1 400 Bad\r\nContent-Length: %d\r\n\r\n" % len(body)
    with a_stranger(head + body) as path, pytest.raises(RefusedError) as refused:
        Client(path).get("status")
    assert (refused.value.exit_code, refused.value.hint, refused.value.problems) == (ExitCode.FAILED, None, ())


def test_a_daemon_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "ANSWER_TIMEOUT", 0.05)
    silent = pytest.raises(UnavailableError, match="llamad did not answer within 0 s")
    with short_folder() as folder, a_listener(folder / "c.sock"), silent:
        Client(folder / "c.sock").get("status")


async def refusal(operations: FakeOperations, *path: str) -> LlamadError:
    """What a client raises when it posts."""
    async with daemon(operations) as at:
        with pytest.raises(LlamadError) as refused:
            await asyncio.to_thread(Client(at).post, *path)
    return refused.value


async def test_refusals_come_in_the_daemons_words() -> None:
    broken = await refusal(FakeOperations(problems=("a:1:1: b",)), "reload")
    assert isinstance(broken, RefusedError)
    assert (broken.exit_code, broken.problems) == (78, ("a:1:1: b",))
    unknown = await refusal(FakeOperations(), "servers", "x y/z", "stop")
    assert (unknown.exit_code, unknown.message) == (1, "no server is called 'x y/z'")


async def test_a_post_waits_as_long_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "ANSWER_TIMEOUT", 0.01)
    hang = asyncio.Event()
    operations = FakeOperations(hang=hang, steps=(Step(Action.START, "qwen"),))
    async with daemon(operations) as path:
        asking = asyncio.create_task(asyncio.to_thread(lambda: Client(path).post("reload", wait=True)))
        done, _ = await asyncio.wait([asking], timeout=0.1)
        assert not done
        hang.set()
        answer = await asking
    assert [one["server"] for one in answer["servers"]] == ["qwen"]


async def test_lines_come_one_by_one() -> None:
    operations = FakeOperations()
    operations.say(*(f"line {number} " + "x" * 3000 for number in range(100)))
    async with daemon(operations) as path:
        lines = await asyncio.to_thread(lambda: list(Client(path).lines("servers", "qwen", "logs", n=100, follow=None)))
    assert [line["text"].split()[1] for line in lines] == [str(number) for number in range(100)]


async def test_an_error_in_the_middle_of_lines_is_raised_after_them() -> None:
    operations = FakeOperations()
    operations.say("CRASH")
    got = []

    def read(path: Path) -> None:
        for line in Client(path).lines("servers", "qwen", "logs"):
            got.append(line["text"])  # noqa: PERF401 -- what came before the error counts

    async with daemon(operations) as path:
        with pytest.raises(RefusedError, match="the log cannot be read"):
            await asyncio.to_thread(read, path)
    assert got == ["loading", "ready"]


async def test_lines_of_an_unknown_server_are_refused() -> None:
    async with daemon() as path:
        with pytest.raises(RefusedError, match="no server is called 'x'"):
            await asyncio.to_thread(lambda: list(Client(path).lines("servers", "x", "logs")))


async def test_lines_that_are_cut_off_are_no_end() -> None:
    operations = FakeOperations()
    async with daemon(operations) as path:
        lines = Client(path).lines("servers", "qwen", "logs", follow=1)
        assert (await asyncio.to_thread(next, lines))["text"] == "loading"
        assert (await asyncio.to_thread(next, lines))["text"] == "ready"
    with pytest.raises(UnavailableError, match="llamad ended the connection"):
        await asyncio.to_thread(next, lines)
