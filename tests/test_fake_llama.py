"""The fake's misbehaviours are what other tests stand on: each really happens."""

import http.client
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from llamad.servers.diagnosis import Exit, LastLines, diagnose
from tests.builders import fake_binary, gguf
from tests.contract.server import Engine, Server

CHAT: dict[str, object] = {"messages": []}


def fake(folder: Path, **misbehaviour: Any) -> Engine:
    (folder / "m.gguf").write_bytes(gguf())
    return Engine("fake", fake_binary(folder, **misbehaviour), folder / "m.gguf")


def run(folder: Path, **misbehaviour: Any) -> subprocess.CompletedProcess[bytes]:
    """One that ends by itself."""
    binary = fake_binary(folder, **misbehaviour)
    return subprocess.run([binary, "--host", folder / "s.sock"], capture_output=True, timeout=20, check=False)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # unix sockets by a short path
    return Path()


@pytest.mark.parametrize(
    ("failure", "code", "cause"),
    [
        ("cuda-oom", 1, "out-of-gpu-memory"),
        ("architecture", 1, "model-unsupported"),
        ("no-cuda-library", 127, "library-missing"),
    ],
)
def test_it_fails_in_the_words_of_the_real_one(folder: Path, failure: str, code: int, cause: str) -> None:
    done = run(folder.absolute(), fail=failure)
    assert done.returncode == code
    assert diagnose(Exit(code), LastLines(done.stderr.decode().splitlines())).cause == cause


def test_it_dies_at_the_start(folder: Path) -> None:
    assert run(folder.absolute(), die="start", exit_code=3, exit_lines='a "b" $c\\n').stderr == b'a "b" $c\n'
    assert run(folder.absolute(), die="start", signal=11).returncode == -signal.SIGSEGV
    assert run(folder.absolute(), die="ready:0", signal=9).returncode == -signal.SIGKILL


def test_it_fails_only_so_often(folder: Path) -> None:
    engine = fake(folder.absolute(), die="start", starts=folder.absolute() / "starts", bad_starts=2)
    assert [engine.run().returncode for _ in range(2)] == [1, 1]
    with Server(engine) as server:
        assert server.get("/health").status == 200
        started = (folder / "starts").read_text().splitlines()
        assert len(started) == 3
        assert started[-1].startswith(f"{server.process.pid} --model ")


def test_it_dies_after_requests_and_in_the_middle_of_a_stream(folder: Path) -> None:
    with Server(fake(folder.absolute(), die="requests:2", exit_code=4)) as server:
        server.ask("POST", "/v1/chat/completions", CHAT)
        server.get("/slots")  # does not count
        with suppress(OSError, http.client.HTTPException):
            server.ask("POST", "/echo/x")
        assert server.process.wait(20) == 4
    with Server(fake(folder.absolute(), die="chunks:2")) as server:
        seen = list(server.events("/v1/chat/completions", {**CHAT, "stream": True}))
        assert len(seen) == 3  # the role and two words, and no [DONE]
        assert server.process.wait(20) == 1


def test_it_loads_until_a_file_appears(folder: Path) -> None:
    go = folder.absolute() / "go"
    with Server(fake(folder.absolute(), load_file=go, load_lines=0.01), wait=False) as server:
        while server.log.read_text().count("load_tensors") < 3:
            assert server.process.poll() is None
        assert server.get("/health").status == 503
        go.touch()
        server.wait_ready()


def test_it_ignores_sigterm_or_takes_its_time(folder: Path) -> None:
    with Server(fake(folder.absolute(), ignore_term=1)) as server:
        server.process.terminate()
        assert server.get("/health").status == 200
    with Server(fake(folder.absolute(), term_s=0.2)) as server:
        began = time.monotonic()
        assert server.end() == 0
        assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize(("what", "path"), [("health", "/health"), ("slots", "/slots"), ("all", "/props")])
def test_it_hangs_while_a_file_exists(folder: Path, what: str, path: str) -> None:
    switch = folder.absolute() / "hang"
    with Server(fake(folder.absolute(), hang=what, hang_file=switch)) as server:
        switch.touch()
        with server.connection() as connection:
            connection.timeout = 0.1
            connection.request("GET", path)
            with pytest.raises(TimeoutError):
                connection.getresponse()
        switch.unlink()
        assert server.get(path).status == 200


def test_a_decode_that_hangs(folder: Path) -> None:
    with Server(fake(folder.absolute(), hang="decode"), "--parallel", "1") as server:
        with server.connection() as connection:
            connection.request("POST", "/completion", b"{}")
            (busy,) = server.wait_until("busy", "/slots", lambda slots: slots[0]["is_processing"])
            assert busy["next_token"][0]["n_decoded"] == 0
            assert server.get("/health").status == 200
        server.wait_until("freed once the client left", "/slots", lambda slots: not slots[0]["is_processing"])


def test_it_leaves_a_grandchild(folder: Path) -> None:
    with Server(fake(folder.absolute(), grandchild="setsid")) as server:
        while "grandchild: pid " not in server.log.read_text():
            assert server.process.poll() is None
        pid = int(server.log.read_text().split("grandchild: pid ")[1].split()[0])
        assert server.end() == 0
        os.kill(pid, signal.SIGKILL)  # it is there, or this fails


def test_it_takes_memory_when_asked(folder: Path) -> None:
    with Server(fake(folder.absolute(), eat=100_000_000)) as server:
        server.process.send_signal(signal.SIGUSR1)
        statm = Path(f"/proc/{server.process.pid}/statm")
        while int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") < 100_000_000:
            assert server.process.poll() is None
        assert server.get("/health").status == 200


def test_it_writes_what_it_is_told(folder: Path) -> None:
    done = run(folder.absolute(), log="\\xff partial", long_line=20000, no_gpu=1, flood_once=50, die="ready:0")
    assert done.stderr.startswith(b"\xff partial" + b"x" * 20000 + b"\nwarning: no usable GPU found")
    assert done.stderr.count(b"flood: line ") == 50


def test_it_floods_and_closes_its_output(folder: Path) -> None:
    with Server(fake(folder.absolute(), flood=5000)) as server:
        while server.log.read_bytes().count(b"flood: line ") < 500:
            assert server.process.poll() is None
    with Server(fake(folder.absolute(), close_output=1)) as server:
        fds = Path(f"/proc/{server.process.pid}/fd")
        while (fds / "2").exists():
            assert server.process.poll() is None
        assert server.get("/health").status == 200


def test_it_answers_as_told(folder: Path) -> None:
    with Server(fake(folder.absolute(), status=500, keepalive=1)) as server:
        answer = server.ask("POST", "/v1/chat/completions", CHAT)
        assert (answer.status, answer.headers["Connection"]) == (500, "close")
        shown = server.ask("PUT", "/echo/a?b=c", b"body", {"X-Y": "z"}).json
        assert (shown["method"], shown["target"], shown["body"]) == ("PUT", "/echo/a?b=c", "body")
        assert ["X-Y", "z"] in shown["headers"]
        assert shown["pid"] == server.process.pid


def test_another_build_has_other_options(folder: Path) -> None:
    (folder / "help").write_text("----- common params -----\n\n--host HOST                             where\n")
    done = subprocess.run(
        [fake_binary(folder.absolute(), help_file=folder.absolute() / "help"), "--port", "1"],
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, b"error: invalid argument: --port\n")
