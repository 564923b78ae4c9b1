"""What a server's arguments name, in a running llamad with fake servers."""

import json
from collections.abc import Iterator

import pytest

from tests.builders import gguf
from tests.llamads import Llamad, a_llamad

pytestmark = pytest.mark.daemon


@pytest.fixture
def llamad() -> Iterator[Llamad]:
    with a_llamad() as one:
        yield one


def test_a_file_that_an_argument_names_is_waited_for(llamad: Llamad) -> None:
    """As the model is: named while it is missing, started once it is there; a relative path begins at models_dir."""
    projector = llamad.folder / "p.gguf"
    llamad.configure({"a": {"args": {"mmproj": "p.gguf"}}}, models_dir=str(llamad.folder))
    llamad.start()
    failed = llamad.wait_for("a", "failed")
    assert failed["last_error"] == f"{projector} is not there"
    projector.write_bytes(gguf({"general.architecture": "clip"}))
    llamad.wait_for("a")


def test_a_missing_part_of_a_split_model_is_waited_for(llamad: Llamad) -> None:
    first, second = (llamad.folder / f"big-0000{number}-of-00002.gguf" for number in (1, 2))
    first.write_bytes(gguf())
    llamad.configure({"a": {"model": str(first)}})
    llamad.start()
    assert llamad.wait_for("a", "failed")["last_error"] == f"the model {second} is not there"
    second.write_bytes(gguf())
    llamad.wait_for("a")


def test_what_is_only_written_otherwise_restarts_nothing(llamad: Llamad) -> None:
    llamad.configure({"a": {"args": {"ctx_size": 4096, "jinja": True, "temp": 0.5}}})
    llamad.start()
    pid = llamad.wait_for("a")["pid"]
    text = json.loads(llamad.file.read_text())
    text["servers"]["a"]["args"] = {"temperature": "0.5", "no_jinja": False, "ctx-size": "4096"}
    llamad.write(json.dumps(text))
    answer = llamad.client.post("reload", wait=True)
    assert llamad.wait_for("a")["pid"] == pid
    assert "replace" not in json.dumps(answer)


def test_a_program_that_needs_a_variable_of_its_server(llamad: Llamad) -> None:
    """LD_LIBRARY_PATH in `env:` holds for the question (--help) as for the run."""
    real = llamad.binary.rename(llamad.folder / "real")
    llamad.binary.write_text(f'#!/bin/sh\n[ "$LD_LIBRARY_PATH" = /own ] || exit 127\nexec {real} "$@"\n')
    llamad.binary.chmod(0o755)
    llamad.configure({"a": {"env": {"LD_LIBRARY_PATH": "/own"}}, "b": {}})
    llamad.start()
    llamad.wait_for("a")
    assert "status 127" in llamad.wait_for("b", "failed")["last_error"]
