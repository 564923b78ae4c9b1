"""`llamad demo` as a person runs it."""

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import llamad

pytestmark = pytest.mark.engine

ROOT = Path(llamad.__file__).parents[1]


@pytest.fixture
def environ(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Of a person without a home, a llama-server or anything else; what the demo leaves behind is a failure."""
    (tmp_path / "t").mkdir()
    yield {"PATH": str(tmp_path / "bin"), "TMPDIR": str(tmp_path / "t"), "HOME": str(tmp_path / "no")}
    assert list((tmp_path / "t").iterdir()) == []
    left = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_text()
        except OSError:
            continue
        if str(tmp_path / "t") in words:
            left.append(words)
    assert left == []


def demo(*words: str) -> list[str]:
    return [sys.executable, "-m", "llamad", "demo", *words]


def test_demo_once(environ: dict[str, str]) -> None:
    ended = subprocess.run(
        demo("--once"), env=environ, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "Paris" in ended.stdout
    assert "Loading the model" in ended.stderr or "Starting the engine" in ended.stderr
    assert "Ready after" in ended.stderr
    assert "tokens/s" in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_invites_answers_and_ends_when_told(number: signal.Signals, environ: dict[str, str]) -> None:
    with subprocess.Popen(demo(), env=environ, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = ""
        while "Ctrl-C" not in said:
            line = process.stdout.readline().decode()
            assert line, process.communicate()[1].decode()
            said += line
        (curl,) = [line for line in said.splitlines() if line.strip().startswith("curl ")]
        url = curl.split()[1]
        body = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}).encode()
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=120) as answer:
            assert json.load(answer)["choices"][0]["message"]["content"]
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_interrupted_while_it_starts_it_leaves_nothing(environ: dict[str, str]) -> None:
    with subprocess.Popen(demo("--once"), env=environ, cwd=ROOT, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM


def test_a_llama_server_in_path_that_is_none_is_named_and_not_used(environ: dict[str, str]) -> None:
    other = Path(environ["PATH"]) / "llama-server"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\necho hello\n")
    other.chmod(0o755)
    ended = subprocess.run(
        demo("--once"), env=environ, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert f"Not using {other}" in ended.stderr
    assert "Paris" in ended.stdout
