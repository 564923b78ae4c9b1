"""A real model's server under a real llamad: it comes up, comes back, fails with the reason, and follows the file."""

import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llamad.control.client import RefusedError
from llamad.errors import ExitCode
from tests.engine.conftest import Llamad

pytestmark = pytest.mark.engine

Start = Callable[[dict[str, dict[str, Any]]], Llamad]


def is_ready(replica: dict[str, Any]) -> bool:
    return bool(replica["state"] == "ready")


def has_failed(replica: dict[str, Any]) -> bool:
    return bool(replica["state"] == "failed")


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_start_ready_killed_ready_again(start: Start, model: Path) -> None:
    llamad = start({"a": {"model": str(model)}})
    first = llamad.until("a", is_ready)
    assert alive(first["pid"])
    assert first["restarts"] == 0
    os.kill(first["pid"], signal.SIGKILL)
    again = llamad.until("a", lambda replica: is_ready(replica) and replica["pid"] != first["pid"])
    assert again["restarts"] == 1
    assert "SIGKILL" in again["last_exit"]
    assert not alive(first["pid"])


def test_a_corrupt_model_and_a_missing_one_fail_with_their_own_hints(start: Start, model: Path, tmp_path: Path) -> None:
    corrupt = tmp_path / "corrupt.gguf"
    with model.open("rb") as whole:
        corrupt.write_bytes(whole.read(200_000))
    missing = tmp_path / "missing.gguf"
    llamad = start(
        {"corrupt": {"model": str(corrupt)}, "missing": {"model": str(missing)}, "good": {"model": str(model)}}
    )
    of_corrupt, of_missing = llamad.until("corrupt", has_failed), llamad.until("missing", has_failed)
    assert str(corrupt) in of_corrupt["last_error"]
    assert str(missing) in of_missing["last_error"]
    assert of_corrupt["hint"]
    assert of_missing["hint"]
    assert of_corrupt["cause"] != of_missing["cause"]
    assert of_corrupt["hint"] != of_missing["hint"]
    assert of_corrupt["restarts"] == 0  # a retry cannot mend it
    llamad.until("good", is_ready)


def test_a_failed_server_starts_when_its_model_appears(start: Start, model: Path, tmp_path: Path) -> None:
    late = tmp_path / "late.gguf"
    llamad = start({"a": {"model": str(late)}})
    llamad.until("a", has_failed)
    fresh = tmp_path / "late.part"
    shutil.copyfile(model, fresh)
    fresh.rename(late)
    llamad.until("a", is_ready)


def test_a_reload_replaces_what_changed_and_keeps_what_did_not(start: Start, model: Path) -> None:
    same = {"model": str(model)}
    llamad = start({"kept": same, "changed": {**same, "args": {"ctx_size": 1024}}})
    kept, changed = llamad.until("kept", is_ready), llamad.until("changed", is_ready)

    llamad.write({"kept": same, "changed": {**same, "args": {"ctx_size": 512}}})
    llamad.client.post("reload", wait=True)
    new = llamad.until("changed", lambda replica: is_ready(replica) and replica["pid"] != changed["pid"])
    assert not alive(changed["pid"])
    words = Path(f"/proc/{new['pid']}/cmdline").read_text().split("\0")
    assert words[words.index("--ctx-size") + 1] == "512"
    assert llamad.replica("kept")["pid"] == kept["pid"]

    retuned = {**same, "args": {"ctx_size": 512}, "restart": {"max_retries": 9}, "health": {"interval": "1s"}}
    llamad.write({"kept": same, "changed": retuned})
    llamad.client.post("reload", wait=True)
    assert llamad.replica("changed")["pid"] == new["pid"]
    assert llamad.replica("kept")["pid"] == kept["pid"]
    assert is_ready(llamad.replica("changed"))


def test_an_option_the_engine_does_not_know_refuses_a_reload(start: Start, model: Path) -> None:
    llamad = start({"a": {"model": str(model)}})
    before = llamad.until("a", is_ready)
    llamad.write({"a": {"model": str(model), "args": {"ctx_sise": 512}}})
    with pytest.raises(RefusedError) as refused:
        llamad.client.post("reload", wait=True)
    assert refused.value.exit_code == ExitCode.CONFIG
    assert any("ctx_sise" in line and re.search("ctx.size", line) for line in refused.value.problems)
    after = llamad.replica("a")
    assert (after["pid"], after["state"]) == (before["pid"], "ready")


def test_what_the_server_serves_is_asked_of_it(start: Start, model: Path) -> None:
    llamad = start({"a": {"model": str(model)}})
    llamad.until("a", is_ready)
    (served,) = llamad.client.get("models")["served"]
    assert (served["server"], served["source"], served["path"]) == ("a", "server", str(model))
    assert served["context"] == 2048


def test_ending_llamad_ends_its_servers(start: Start, model: Path) -> None:
    llamad = start({"a": {"model": str(model)}, "b": {"model": str(model)}})
    pids = [llamad.until(name, is_ready)["pid"] for name in ("a", "b")]
    llamad.daemon.__exit__(None, None, None)
    assert llamad.daemon.ended() == 0
    assert not any(alive(pid) for pid in pids)
