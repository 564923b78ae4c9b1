"""What people and tools do to the files of a running llamad: real files, real inotify, the real program."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llamad.errors import LlamadError
from tests.llamads import Llamad, a_llamad
from tests.waiting import wait_until

pytestmark = pytest.mark.daemon


@pytest.fixture
def llamad() -> Iterator[Llamad]:
    with a_llamad() as one:
        yield one


def servers(llamad: Llamad) -> list[str]:
    return [one["name"] for one in llamad.client.get("status")["servers"]]


def error(llamad: Llamad) -> str:
    return llamad.client.get("status")["config"]["error"] or ""


def command(llamad: Llamad, *words: str) -> subprocess.CompletedProcess[str]:
    whole = [sys.executable, "-m", "llamad", *words, "--socket", str(llamad.runtime / "control.sock")]
    return subprocess.run(whole, capture_output=True, text=True, check=False, timeout=30)


def a_drop_in(llamad: Llamad, name: str = "b.yaml", server: str = "b") -> Path:
    path = llamad.folder / "conf.d" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"servers": {server: {"model": str(llamad.model)}}}))
    return path


# --- files that go away and come back


def test_a_drop_in_that_a_tool_takes_away_for_a_moment_stops_nothing(llamad: Llamad) -> None:
    """As git checkout and rsync do: away, something else is saved meanwhile, and there again."""
    llamad.configure({"a": {}})
    drop_in = a_drop_in(llamad)
    llamad.start()
    pids = {name: llamad.wait_for(name)["pid"] for name in "ab"}
    text = drop_in.read_text()
    drop_in.unlink()
    wait_until(lambda: llamad.events(f"{drop_in} is gone: what it said goes on for 10 s"))
    assert servers(llamad) == ["a", "b"]
    drop_in.write_text(text)
    wait_until(lambda: llamad.events(f"{drop_in} was saved"))
    assert {name: llamad.wait_for(name)["pid"] for name in "ab"} == pids
    drop_in.unlink()
    wait_until(lambda: len(llamad.events("is gone: what it said goes on")) == 2)
    assert command(llamad, "reload").stdout == "stop b: no longer configured\n"
    assert servers(llamad) == ["a"]
    assert llamad.end() == 0


def test_folders_may_be_swapped_as_a_whole(llamad: Llamad) -> None:
    """As Kubernetes does with a ConfigMap: every file is a link through `..data`, which is replaced."""
    etc = llamad.folder / "etc"
    etc.mkdir()
    llamad.configure({"a": {}})
    whole = json.loads(llamad.file.read_text())

    def publish(version: str, ctx_size: int) -> None:
        fresh = etc / f"..{version}"
        (fresh / "conf.d").mkdir(parents=True)
        whole["servers"]["a"]["args"] = {"ctx_size": ctx_size}
        (fresh / "llamad.yaml").write_text(json.dumps(whole))
        (fresh / "conf.d" / "b.yaml").write_text(json.dumps({"servers": {"b": {"model": str(llamad.model)}}}))
        link = etc / "..data_tmp"
        link.symlink_to(fresh.name)
        os.replace(link, etc / "..data")

    publish("1", 1024)
    for name in ("llamad.yaml", "conf.d"):
        (etc / name).symlink_to(f"..data/{name}")
    llamad.file = etc / "llamad.yaml"
    llamad.start()
    first = {name: llamad.wait_for(name)["pid"] for name in "ab"}
    publish("2", 2048)
    shutil.rmtree(etc / "..1")
    wait_until(lambda: llamad.status("a").get("pid") not in (None, first["a"]))
    llamad.wait_for("a")
    assert llamad.wait_for("b")["pid"] == first["b"]
    assert error(llamad) == ""
    assert llamad.end() == 0


# --- what is told


def test_who_plans_or_reloads_hears_what_a_save_has_done_already(llamad: Llamad) -> None:
    llamad.configure({"a": {}, "b": {}})
    llamad.start()
    llamad.wait_for("b")
    llamad.configure({"a": {}})
    wait_until(lambda: servers(llamad) == ["a"])
    for verb, last in (("plan", "nothing would change since then"), ("reload", "accepted, nothing changed since then")):
        first, second = command(llamad, verb).stdout.splitlines()
        assert first.startswith("applied at ")
        assert first.endswith(f", {llamad.file} was saved: stop b: no longer configured")
        assert second == last
    assert command(llamad, "plan").stdout == "nothing would change\n"
    llamad.send(signal.SIGHUP)
    wait_until(lambda: llamad.events("reload: SIGHUP"))
    assert not llamad.events("systemctl reload")
    assert llamad.end() == 0


def test_without_the_watch_an_edit_waits_for_a_reload(llamad: Llamad) -> None:
    llamad.configure({"a": {}, "b": {}}, watch=False)
    llamad.start()
    llamad.wait_for("b")
    llamad.configure({"a": {}, "c": {}}, watch=False)
    planned = command(llamad, "plan").stdout
    assert planned == "stop b: no longer configured\nstart c: new\n"
    away = llamad.binary.with_suffix(".away")
    llamad.binary.rename(away)
    away.rename(llamad.binary)  # what makes llamad look again applies no edit either
    assert command(llamad, "plan").stdout == planned
    assert servers(llamad) == ["a", "b"]
    assert command(llamad, "reload").stdout == planned
    llamad.configure({"a": {}}, watch=True)
    assert command(llamad, "reload").stdout == "stop c: no longer configured\nwatch false -> true\n"
    llamad.configure({"a": {}, "d": {}})
    wait_until(lambda: servers(llamad) == ["a", "d"])
    assert llamad.end() == 0


def test_a_draft_is_judged_by_the_llamad_that_runs(llamad: Llamad, tmp_path: Path) -> None:
    llamad.configure({"a": {}})
    llamad.start()
    llamad.wait_for("a")
    draft = tmp_path / "draft.yaml"
    draft.write_text(llamad.file.read_text().replace('"a": {', '"a": {"args": {"ctx_size": 512},'))
    assert command(llamad, "plan", str(draft)).stdout == "replace a: args.ctx_size unset -> 512\n"
    checked = command(llamad, "check", str(draft))
    assert (checked.returncode, checked.stdout) == (0, f"{draft}: OK, 1 server (as the running llamad sees it)\n")
    whole = draft.read_text()
    draft.write_text(whole.replace("m.gguf", "gone.gguf"))
    checked = command(llamad, "check", str(draft))
    assert checked.returncode == 78, "it would stop a model that runs"
    draft.write_text(whole.replace('"a": {', '"new": {').replace("m.gguf", "gone.gguf"))
    assert command(llamad, "check", str(draft)).returncode == 1
    own = command(llamad, "check")
    assert own.stdout == f"{llamad.file}: OK, 1 server (as the running llamad sees it)\n"
    assert servers(llamad) == ["a"]
    assert error(llamad) == ""
    assert llamad.end() == 0


# --- keys


def test_a_key_that_is_taken_out_of_the_file_of_the_credential_is_out_at_once(llamad: Llamad) -> None:
    """systemd reads LoadCredential= at a start only; what an operator edits is the file."""
    path, file, credentials = llamad.folder / "g", llamad.folder / "api-keys", llamad.folder / "credentials"
    credentials.mkdir()
    for keys in (file, credentials / "api-keys"):
        keys.write_text("ann:one\nbob:two\n")
    llamad.configure({"a": {}}, gateway={"listen": f"unix:{path}"})

    def status_of(key: str) -> int:
        connection = http.client.HTTPConnection("llamad")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(path))
        connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"})
        status = connection.getresponse().status
        connection.close()
        return status

    llamad.start(CREDENTIALS_DIRECTORY=str(credentials))
    llamad.wait_for("a")
    assert [status_of("one"), status_of("two"), status_of("x")] == [200, 200, 401]
    file.write_text("bob:two\n")
    assert command(llamad, "reload").returncode == 0
    assert [status_of("one"), status_of("two")] == [401, 200]
    file.write_text("bob:three\n")  # saved is enough
    wait_until(lambda: [status_of("two"), status_of("three")] == [401, 200])
    file.unlink()
    checked = command(llamad, "reload")
    assert "the API keys go on that it had when the service was started" in checked.stderr
    assert [status_of("one"), status_of("three")] == [200, 401]
    assert llamad.end() == 0


# --- what is no file


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_loop(path: Path) -> None:
    path.symlink_to(path.name)


def a_huge_file(path: Path) -> None:
    path.touch()
    os.truncate(path, 100 << 30)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


def problems_of_a_reload(llamad: Llamad) -> tuple[str, ...]:
    try:
        llamad.client.post("reload")
    except LlamadError as refused:
        return refused.problems
    return ()


MAKERS = [a_pipe, a_device, a_loop, a_huge_file, a_socket, Path.mkdir]
PLACES = ["llamad.yaml", "conf.d/x.yaml", "keys", "k", "x.gguf"]
STATE = ["run/children.json", "cache/options.json", "run/accepted", "run/keep", "run/stopping", "credentials/api-keys"]


@pytest.mark.parametrize("make", MAKERS)
def test_whatever_stands_in_the_place_of_a_file_stops_no_model_and_no_reload(
    llamad: Llamad, make: Callable[[Path], object]
) -> None:
    llamad.configure({"a": {}})
    llamad.start()
    pid = llamad.wait_for("a")["pid"]
    whole = llamad.file.read_text()
    for place in PLACES:
        path = llamad.folder / place
        path.parent.mkdir(exist_ok=True)
        if place == "keys":
            llamad.configure({"a": {}}, gateway={"listen": None, "api_keys_file": "keys"})
        elif place == "k":
            llamad.configure({"a": {}, "x": {"url": "http://127.0.0.1:9", "model": None, "api_key_file": "k"}})
        elif place == "x.gguf":
            llamad.configure({"a": {}, "x": {"model": str(path)}})
        else:
            path.unlink(missing_ok=True)
        make(path)
        problems = problems_of_a_reload(llamad)
        assert not problems or str(path) in " ".join(problems)
        assert llamad.status("a")["pid"] == pid
        path.rmdir() if make is Path.mkdir else path.unlink()
        llamad.write(whole)
        llamad.client.post("reload")
    assert llamad.end() == 0


@pytest.mark.parametrize("make", [a_pipe, a_loop, Path.mkdir])
def test_whatever_stands_where_llamad_keeps_its_own_files_keeps_it_from_nothing(
    llamad: Llamad, make: Callable[[Path], object]
) -> None:
    for place in STATE:
        path = llamad.folder / place
        path.parent.mkdir(exist_ok=True, mode=0o700)
        make(path)
    llamad.configure({"a": {}})
    llamad.start(CREDENTIALS_DIRECTORY=str(llamad.folder / "credentials"))
    assert llamad.wait() == 78, "keys that cannot be read open nothing"
    path = llamad.folder / "credentials" / "api-keys"
    path.rmdir() if make is Path.mkdir else path.unlink()
    llamad.start(CREDENTIALS_DIRECTORY=str(llamad.folder / "credentials"))
    llamad.wait_for("a")
    llamad.client.post("reload")
    assert llamad.end() == 0
