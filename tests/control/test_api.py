"""Every verb over a real socket, and what is refused."""

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from llamad.config.files import Files
from llamad.control.api import MAX_FILES, admission, control
from llamad.control.client import Client
from llamad.control.peers import Peer, group_id
from llamad.errors import NotAllowedError
from llamad.servers.plan import Action, Step
from llamad.servers.state import State
from tests.control.fakes import Answer, FakeOperations, ask, daemon, send
from tests.folders import short_folder
from tests.waiting import until

ROOT = Path(__file__).parents[2]
REPLACE = Step(Action.REPLACE, "qwen", ("args.ctx_size 4096 -> 8192",))


def body(answer: Answer) -> Any:
    """What an answer says."""
    assert "application/json" in answer.head, answer
    return json.loads(answer.body)


async def test_status_of_all_and_of_one() -> None:
    async with daemon() as path:
        everything = body(await ask(path, "GET /v1/status"))
        one = body(await ask(path, "GET /v1/status?server=embed"))
    assert [server["name"] for server in everything["servers"]] == ["qwen", "embed"]
    assert [server["name"] for server in one["servers"]] == ["embed"]


async def test_plan_tells_the_steps_and_changes_nothing() -> None:
    operations = FakeOperations(
        steps=(REPLACE,), notes=("a.yaml:1:1: not there yet",), settings=("startup settle -> strict",)
    )
    async with daemon(operations) as path:
        answer = body(await ask(path, "GET /v1/plan"))
    assert answer == {
        "steps": [{"action": "replace", "server": "qwen", "reasons": ["args.ctx_size 4096 -> 8192"]}],
        "settings": ["startup settle -> strict"],
        "problems": ["a.yaml:1:1: not there yet"],
        "earlier": [],
    }
    assert operations.calls == []
    assert operations.sent is None


def a_post(path: str, body: bytes) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    )


@pytest.mark.parametrize("verb", ["/v1/plan", "/v1/check"])
async def test_a_configuration_may_be_sent_to_be_judged(verb: str) -> None:
    operations = FakeOperations()
    texts = {"/n/conf.d/a.yaml": "a: \udcff", "/n/new.yaml": "#" * 100_000}
    async with daemon(operations) as path:
        answer = await send(path, a_post(verb, json.dumps({"file": "/n/new.yaml", "files": texts}).encode()))
        assert answer.status == 200
        sent = {Path("/n/new.yaml"): b"#" * 100_000, Path("/n/conf.d/a.yaml"): b"a: \xff"}
        assert [operations.sent] == [Files(Path("/n/new.yaml"), sent)]
        assert (await send(path, a_post(verb, b""))).status == 200
        assert [operations.sent] == [None]
        large = await send(path, a_post(verb, b"x" * (MAX_FILES + 1)))
        assert (large.status, "may have 8 MiB" in body(large)["error"]["message"]) == (413, True)


@pytest.mark.parametrize(
    "document",
    [
        "{",
        "[]",
        "{}",
        '{"file": "/a", "files": {}}',
        '{"file": "/a", "files": {"/b": ""}}',
        '{"file": "a", "files": {"a": ""}}',
        '{"file": "/a", "files": {"/a": 1}}',
        '{"file": "/a\\u0000", "files": {"/a\\u0000": ""}}',
        '{"file": 1, "files": ["/a"]}',
        "[" * 100_000,
    ],
)
async def test_what_is_no_configuration_is_refused_in_words(document: str) -> None:
    async with daemon() as path:
        answer = await send(path, a_post("/v1/check", document.encode()))
    assert answer.status == 400
    assert "file" in body(answer)["error"]["message"]


async def test_reload_answers_once_accepted_or_once_settled() -> None:
    operations = FakeOperations(steps=(REPLACE, Step(Action.KEEP, "embed")), broken=frozenset({"qwen"}))
    async with daemon(operations) as path:
        at_once = body(await ask(path, "POST /v1/reload"))
        settled = body(await ask(path, "POST /v1/reload?wait=1"))
    assert at_once["servers"] == []
    assert settled["servers"] == [
        {"server": "qwen", "state": "failed", "error": "the model is missing", "hint": "put it there"}
    ]
    assert operations.calls == [("reload", False), ("reload", True)]


@pytest.mark.parametrize("request_line", ["POST /v1/reload", "GET /v1/plan", "POST /v1/upgrade"])
async def test_a_refused_configuration_is_a_422_with_every_problem(request_line: str) -> None:
    operations = FakeOperations(problems=("a.yaml:1:1: x: bad", "a.yaml:2:1: y: worse"))
    async with daemon(operations) as path:
        answer = await ask(path, request_line)
    assert answer.status == 422
    assert body(answer)["error"] == {
        "message": "the configuration was not accepted",
        "hint": "nothing was changed",
        "exit_code": 78,
        "problems": ["a.yaml:1:1: x: bad", "a.yaml:2:1: y: worse"],
    }
    assert operations.calls == []
    assert not operations.upgraded


@pytest.mark.parametrize(("verb", "state"), [("start", "ready"), ("stop", "stopped"), ("restart", "ready")])
async def test_servers_are_started_stopped_and_restarted(verb: str, state: str) -> None:
    operations = FakeOperations()
    async with daemon(operations) as path:
        now = body(await ask(path, f"POST /v1/servers/embed/{verb}"))
        then = body(await ask(path, f"POST /v1/servers/qwen,embed,qwen/{verb}?wait=1"))
    assert now == {"servers": [{"server": "embed", "state": "stopped", "error": None, "hint": None}]}
    assert [(one["server"], one["state"]) for one in then["servers"]] == [("qwen", state), ("embed", state)]
    assert operations.calls == [(verb, "embed", False), (verb, "qwen", "embed", True)]


async def test_an_order_of_a_user_that_the_sandbox_hides_is_not_nobodys(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With PrivateUsers= the kernel says 65534 of every user but root and llamad's own."""
    caplog.set_level(logging.INFO, "llamad")
    async with daemon() as path:
        monkeypatch.setattr("llamad.control.api.peer_of", lambda _: Peer(7, 65534, frozenset()))
        await ask(path, "POST /v1/reload")
    assert "reload: asked over the control socket by another user, pid 7" in caplog.messages


async def test_orders_are_in_the_journal_once_with_who_gave_them(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "llamad")
    async with daemon() as path:
        for line in (
            "POST /v1/servers/q,embed,qwen/stop",
            "POST /v1/servers/nope/stop",
            "GET /v1/status",
            "GET /v1/plan",
        ):
            await ask(path, line)
        await ask(path, "POST /v1/reload")
        await ask(path, "POST /v1/upgrade")
    who = f"asked over the control socket by uid {os.geteuid()}, pid {os.getpid()}"
    orders = [(vars(one).get("server"), one.getMessage()) for one in caplog.records if vars(one)["event"] == "order"]
    assert orders == [
        ("qwen", f"stop: {who}"),
        ("embed", f"stop: {who}"),
        (None, f"reload: {who}"),
        (None, f"upgrade: {who}"),
    ]


async def test_one_unknown_name_of_several_changes_nothing() -> None:
    operations = FakeOperations()
    async with daemon(operations) as path:
        answer = await ask(path, "POST /v1/servers/qwen,nope/stop")
    assert answer.status == 404
    assert body(answer)["error"] == {
        "message": "no server is called 'nope'",
        "hint": "there is: qwen, embed",
        "exit_code": 1,
    }
    assert operations.calls == []


@pytest.mark.parametrize(
    "request_line", ["GET /v1/status?server=x", "GET /v1/status?server=x&watch=1", "GET /v1/servers/x/logs"]
)
async def test_an_unknown_server_is_a_404_for_a_stream_too(request_line: str) -> None:
    async with daemon() as path:
        answer = await ask(path, request_line)
    assert answer.status == 404
    assert "no server is called 'x'" in body(answer)["error"]["message"]


async def test_models_and_devices() -> None:
    async with daemon() as path:
        models = body(await ask(path, "GET /v1/models"))
        devices = body(await ask(path, "GET /v1/devices"))
    assert models["files"][0]["architecture"] == "qwen3"
    assert devices["gpus"][0]["name"] == "L4"


async def test_upgrade_is_answered_before_llamad_ends() -> None:
    operations = FakeOperations()
    async with daemon(operations) as path:
        assert (await ask(path, "POST /v1/upgrade")).status == 202
    assert operations.upgraded


@pytest.mark.parametrize(
    ("request_line", "status", "said"),
    [
        ("GET /", 404, "no such thing is here"),
        ("GET /v1/", 404, "no such thing is here"),
        ("GET /v2/status", 404, "no such thing is here"),
        ("POST /v1/servers/qwen/explode", 404, "no such thing is here"),
        ("GET /v1/servers/qwen/stop", 405, "not with this method"),
        ("POST /v1/status", 405, "not with this method"),
        ("HEAD /v1/status", 405, ""),
        ("DELETE /v1/reload", 405, "not with this method"),
        ("GET /v1/status?name=qwen", 400, "unknown parameter 'name'"),
        ("GET /v1/plan?wait=1", 400, "unknown parameter 'wait'"),
        ("GET /v1/status?server=a&server=b", 400, "server is given twice"),
        ("POST /v1/reload?wait=yes", 400, "wait='yes' is neither 0 nor 1"),
        ("POST /v1/reload?wait=", 400, "wait='' is neither 0 nor 1"),
        ("GET /v1/servers/qwen/logs?n=-1", 400, "n='-1' is no number from 0 to 100000"),
        ("GET /v1/servers/qwen/logs?n=100001", 400, "is no number"),
        ("GET /v1/servers/qwen/logs?n=9999999999999", 400, "is no number"),
        ("GET /v1/servers/qwen/logs?n=%D9%A3", 400, "is no number"),
        ("GET /v1/servers/../../etc/passwd/logs", 404, ""),
    ],
)
async def test_what_makes_no_sense_is_refused_in_words(request_line: str, status: int, said: str) -> None:
    operations = FakeOperations()
    async with daemon(operations) as path:
        answer = await ask(path, request_line)
    assert answer.status == status
    assert ("\r\nAllow: " in answer.head) is (status == 405)
    if not request_line.startswith("HEAD"):
        assert said in body(answer)["error"]["message"]
    assert operations.calls == []


async def test_a_body_is_refused_and_read_up_to_a_bound_only() -> None:
    operations = FakeOperations()
    async with daemon(operations) as path:
        head = b"POST /v1/reload HTTP/1.1\r\nHost: llamad\r\nConnection: close\r\n"
        small = await send(path, head + b"Content-Length: 2\r\n\r\n{}")
        large = await send(path, head + b"Content-Length: 200000\r\n\r\n" + b"x" * 200000)
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        chunked = await send(path, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 3 + b"0\r\n\r\n")
    assert [small.status, large.status, chunked.status] == [400, 413, 413]
    assert body(small)["error"]["message"] == "the verbs take no body"
    assert operations.calls == []


async def test_a_client_that_leaves_ends_what_waited_for_it() -> None:
    operations = FakeOperations(hang=asyncio.Event())
    async with daemon(operations) as path:
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(b"POST /v1/servers/qwen/start?wait=1 HTTP/1.1\r\nHost: llamad\r\n\r\n")
        await until(lambda: ("waiting",) in operations.calls)
        writer.close()
        await writer.wait_closed()
        await until(lambda: ("left",) in operations.calls)


async def test_logs_are_lines_and_end() -> None:
    operations = FakeOperations()
    async with daemon(operations) as path:
        everything = await ask(path, "GET /v1/servers/qwen/logs")
        last = await ask(path, "GET /v1/servers/qwen/logs?n=1")
        none = await ask(path, "GET /v1/servers/qwen/logs?n=0")
    assert [json.loads(line)["text"] for line in everything.body.splitlines() if line[:1] == b"{"] == [
        "loading",
        "ready",
    ]
    assert b"loading" not in last.body
    assert b'"ready"' in last.body
    assert b"{" not in none.body
    assert none.body.endswith(b"0\r\n\r\n")


async def test_following_a_log_gets_each_line_when_it_comes_and_ends_with_the_client() -> None:
    operations = FakeOperations()
    async with daemon(operations) as path:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /v1/servers/qwen/logs?n=0&follow=1 HTTP/1.1\r\nHost: llamad\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        for text in ("one", "two"):
            operations.say(text)
            assert text.encode() in await asyncio.wait_for(reader.readuntil(b"}\n"), 30)
        writer.close()
        await writer.wait_closed()
        await until(lambda: operations.streams == 0)


async def test_a_failure_in_the_middle_of_a_stream_is_its_last_line() -> None:
    operations = FakeOperations()
    operations.say("CRASH", "never")
    async with daemon(operations) as path:
        answer = await ask(path, "GET /v1/servers/qwen/logs")
    assert answer.status == 200
    assert b'{"error": {"message": "the log cannot be read", "hint": "try again", "exit_code": 1}}' in answer.body
    assert b"never" not in answer.body


async def test_watching_gets_the_status_now_and_after_changes() -> None:
    operations = FakeOperations()
    async with daemon(operations) as path:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /v1/status?watch=1&server=qwen HTTP/1.1\r\nHost: llamad\r\n\r\n")
        assert b'"state": "ready"' in await asyncio.wait_for(reader.readuntil(b"}\n"), 30)
        for key in list(operations.board.replicas):
            if key.server == "qwen":
                operations.board.move(key, State.UNRESPONSIVE, now=1.0)
        line = b""
        while b'"state": "unresponsive"' not in line:
            line = await asyncio.wait_for(reader.readuntil(b"}\n"), 30)
        writer.close()
        await writer.wait_closed()
        await until(lambda: operations.streams == 0)


async def test_a_hundred_clients_at_once() -> None:
    async with daemon() as path:
        answers = await asyncio.gather(*(ask(path, "GET /v1/status") for _ in range(100)))
    assert {answer.status for answer in answers} == {200}


async def test_who_may_not_is_told_how_to_be_allowed() -> None:
    def nobody(_connection: int) -> None:
        raise NotAllowedError("you may not", hint="ask root")

    operations = FakeOperations()
    async with daemon(operations, admit=nobody) as path:
        for line in ("POST /v1/reload", "GET /v1/status", "GET /nonsense"):
            answer = await ask(path, line)
            assert answer.status == 403
            assert body(answer)["error"] == {"message": "you may not", "hint": "ask root", "exit_code": 77}
    assert operations.calls == []


@pytest.mark.parametrize(
    ("group", "told"), [(None, "to be allowed: use sudo"), (5, "to be allowed: sudo usermod -aG llamad $USER")]
)
def test_the_door_is_shut_for_others(group: int | None, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamad.control.api.peer_of", lambda _: Peer(1, 4_000_000_000, frozenset({7})))
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        with pytest.raises(NotAllowedError) as refused:
            admission(uid=990, group=group)(ours.fileno())
        admission(uid=4_000_000_000, group=group)(ours.fileno())
    assert refused.value.message == "uid 4000000000 may not control llamad"
    assert str(refused.value.hint).startswith(told)


async def test_control_is_open_to_its_own_user() -> None:
    with short_folder() as folder:
        async with control(FakeOperations(), folder / "c.sock", uid=os.geteuid()):
            assert (await ask(folder / "c.sock", "GET /v1/status")).status == 200
        assert not (folder / "c.sock").exists()


ON_UVLOOP = """
import os, sys, uvloop
from pathlib import Path
from llamad.control.api import control
from tests.control.fakes import FakeOperations, ask

async def story(path):
    async with control(FakeOperations(), path, uid=os.geteuid()):
        return (await ask(path, "GET /v1/status")).status

sys.exit(uvloop.run(story(Path(sys.argv[1]))) != 200)
"""


def test_the_same_on_uvloop() -> None:
    """In a process of its own: uvloop keeps a pipe for as long as the process lives."""
    with short_folder() as folder:
        command = [sys.executable, "-c", ON_UVLOOP, str(folder / "c.sock")]
        assert subprocess.run(command, check=False, cwd=ROOT, timeout=20).returncode == 0


DROPPED = """
import contextlib, io, os, sys
from llamad.cli.main import main
with contextlib.redirect_stderr(io.StringIO()):
    main(["status", "--socket", "/nowhere"])  # whatever is imported late may be out of the other user's reach
os.setgroups([int(one) for one in sys.argv[1].split()])
os.setgid(65534)
os.setuid(65534)
sys.exit(main(sys.argv[2:]))
"""


async def as_nobody(path: Path, groups: str = "") -> subprocess.CompletedProcess[str]:
    """`llamad status` as another user."""
    command = [sys.executable, "-c", DROPPED, groups, "status", "--socket", str(path)]
    return await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=20
    )


root_only = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")


@root_only
async def test_the_kernel_keeps_another_user_out() -> None:
    async with daemon(mode=0o600) as path:
        done = await as_nobody(path)
    assert done.returncode == 77
    hint = "use sudo, or ask as the user who runs llamad"
    if group_id() is not None:
        hint = "add yourself to group llamad: sudo usermod -aG llamad $USER, then log in again; or use sudo"
    assert done.stderr == f"llamad: you may not connect to {path}\nhint: {hint}\n"


@root_only
async def test_an_open_socket_keeps_another_user_out_too() -> None:
    async with daemon(mode=0o666, admit=admission(uid=0, group=12345)) as path:
        done = await as_nobody(path)
    assert done.returncode == 77
    assert "(uid 65534) may not control llamad" in done.stderr
    assert "usermod -aG llamad" in done.stderr


@root_only
async def test_a_member_of_the_group_is_let_in() -> None:
    async with daemon(group=12345, admit=admission(uid=0, group=12345)) as path:
        assert (await as_nobody(path, groups="7 12345")).returncode == 0
        assert (await as_nobody(path, groups="7")).returncode == 77


async def test_the_client_reads_what_the_api_writes() -> None:
    async with daemon() as path:
        status = await asyncio.to_thread(Client(path).get, "status")
    assert status["ready"] is True
