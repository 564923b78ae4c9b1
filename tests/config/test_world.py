import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamad.config.loader import load
from llamad.config.problems import ProblemKind
from llamad.gateway.bind import listen_problems
from llamad.host import files, sandbox
from tests.builders import gguf
from tests.config.files import Place, a_place
from tests.dead_disk import a_dead_disk

NOBODY = "nobody"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return a_place(tmp_path)


def said(place: Place, model: Path | str, *, service_user: str | None = None, **environ: str) -> list[str]:
    """What is wrong with a server of this model; all of it the world's fault, and the server's."""
    place.write(f"servers: {{a: {{model: {model}}}}}")
    loaded = load(place.file, place.dirs, environ=place.environ | environ, service_user=service_user)
    assert loaded.config is not None
    assert {(one.kind, one.server, one.path) for one in loaded.problems} <= {
        (ProblemKind.WORLD, "a", "servers.a.model")
    }
    return [str(one).partition("model: ")[2] for one in loaded.problems]


def test_a_split_model_with_all_its_parts(place: Place) -> None:
    (place.dirs.models / "big-00003-of-00003.gguf").write_bytes(gguf())
    assert said(place, "big-00001-of-00003.gguf") == []


def test_a_split_model_of_a_part_that_is_no_model(place: Place) -> None:
    part = place.dirs.models / "big-00003-of-00003.gguf"
    part.write_bytes(b"")
    hint = "llama.cpp loads whole GGUF files only: fetch it again"
    assert said(place, "big-00001-of-00003.gguf") == [f"{part} is not usable: it is empty ({hint})"]


def test_a_number_that_is_no_count_of_parts(place: Place) -> None:
    (place.dirs.models / "x-00001-of-99999.gguf").write_bytes(gguf())
    assert said(place, "x-00001-of-99999.gguf") == []


def test_a_pipe_in_the_place_of_a_model(place: Place) -> None:
    os.mkfifo(place.dirs.models / "pipe")
    assert said(place, "pipe") == [f"{place.dirs.models}/pipe cannot be read: it is a named pipe, not a file"]


def test_a_path_through_a_file(place: Place) -> None:
    assert said(place, "m.gguf/x") == [f"{place.dirs.models}/m.gguf/x cannot be read: Not a directory"]


def test_what_the_sandbox_hides_is_named_in_the_service(place: Place) -> None:
    for path, setting in (("/home/ann/m.gguf", "ProtectHome=yes"), ("/tmp/nowhere/m.gguf", "PrivateTmp=yes")):
        hint = f"the service's sandbox hides that folder ({setting}): put the model into models_dir"
        assert said(place, path, INVOCATION_ID="x") == [f"{path} is not there ({hint})"]
        assert said(place, path) == [f"{path} is not there"]
    assert said(place, "/srv/nowhere.gguf", INVOCATION_ID="x") == ["/srv/nowhere.gguf is not there"]


def test_what_root_reads_and_the_sandboxed_service_does_not(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = {str(place.root): "ProtectHome=yes"}
    monkeypatch.setattr(sandbox, "HIDDEN", hidden)
    model = place.dirs.models / "m.gguf"
    hint = "its sandbox hides that folder (ProtectHome=yes): put the model into models_dir"
    assert said(place, model, service_user="llamad") == [
        f"{model} can be read by root, but not by the service ({hint})"
    ]
    assert said(place, model) == []


@pytest.fixture
def open_place() -> Iterator[Place]:
    """A place whose folders everybody may enter, which pytest's own are not."""
    root = Path(tempfile.mkdtemp(dir="/tmp"))
    root.chmod(0o755)
    yield a_place(root)
    shutil.rmtree(root)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_what_root_reads_and_the_services_user_does_not(open_place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "HIDDEN", {})
    models = open_place.dirs.models
    model = models / "m.gguf"
    nobody = pwd.getpwnam(NOBODY)
    words = f"{model} can be read by root, but not by {NOBODY}"
    for folder in (models, *models.parents):
        if folder.is_relative_to(open_place.root):
            folder.chmod(0o755)
    model.chmod(0o600)
    assert said(open_place, model, service_user=NOBODY) == [f"{words} (it may not read {model}: see its mode)"]
    os.chown(model, nobody.pw_uid, -1)
    assert said(open_place, model, service_user=NOBODY) == []
    os.chown(model, 0, nobody.pw_gid)
    model.chmod(0o640)
    assert said(open_place, model, service_user=NOBODY) == []
    models.chmod(0o700)
    assert said(open_place, model, service_user=NOBODY) == [f"{words} (it may not enter {models}: see its mode)"]
    assert said(open_place, model, service_user="no-such-user-here") == []


def test_credentials(place: Place) -> None:
    folder = place.root / "credentials"
    folder.mkdir()
    (folder / "hf").write_text("token")
    place.write(
        """
servers:
  a: {model: m.gguf, env_credentials: {HF_TOKEN: hf, OTHER: none, UP: ../hf}}
  b: {url: "http://x:1", api_key_credential: key}
"""
    )
    assert place.load().problems == ()
    loaded = place.load(CREDENTIALS_DIRECTORY=str(folder))
    hint = "(add LoadCredential={0}:/etc/llamad/{0} to the unit and restart it)"
    assert place.lines(loaded) == [
        "3:61: servers.a.env_credentials.OTHER: the service has no credential 'none' " + hint.format("none"),
        "3:71: servers.a.env_credentials.UP: the service has no credential '../hf' " + hint.format("../hf"),
        "4:46: servers.b.api_key_credential: the service has no credential 'key' " + hint.format("key"),
    ]
    assert {one.kind for one in loaded.problems} == {ProblemKind.WORLD}


def test_a_key_file_that_is_missing(place: Place) -> None:
    loaded = place.load("servers: {a: {url: 'http://x:1', api_key_file: k}}")
    assert place.lines(loaded) == ["1:48: servers.a.api_key_file: ~~/etc/k is not there"]


def test_a_models_dir_that_is_no_folder(place: Place) -> None:
    place.write("")
    loaded = place.load("models_dir: llamad.yaml")
    assert place.lines(loaded) == ["1:13: models_dir: ~~/etc/llamad.yaml is not a folder"]
    assert loaded.config is not None


def test_a_folder_that_cannot_be_looked_at_is_a_problem_and_no_bug(place: Place) -> None:
    """As /home, which is closed for the service: `Path.is_dir` raises there."""
    name = "x" * 300
    (line,) = place.lines(place.load(f"models_dir: /{name}\nservers: {{}}"))
    assert line == f"1:13: models_dir: /{name} cannot be read: File name too long"


def test_a_dead_disk_holds_up_no_reading(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.within, "__kwdefaults__", {"patience": 0.2})
    with a_dead_disk(place.root / "disk") as disk:
        text = f"models_dir: {disk}/m\ngateway: {{listen: 'unix:{disk}/s'}}\ncontrol: {{socket: {disk}/a/b/c}}\n"
        loaded = place.load(f"{text}servers: {{a: {{url: 'http://x:1', api_key_file: {disk}/key}}}}")
        paths = {problem.path for problem in loaded.problems}
        (problem,) = listen_problems(loaded, {})
    assert paths == {"models_dir", "control.socket", "servers.a.api_key_file"}
    assert "disk does not answer" in problem.message


def test_a_machine_without_a_gpu_and_one_that_does_not_say(place: Place) -> None:
    shutil.rmtree(place.machine / "proc/driver/nvidia")
    loaded = place.load("servers: {a: {model: m.gguf, gpus: [0]}, b: {model: m.gguf, gpus: all}}")
    hint = "(`llamad devices` tells what the kernel shows)"
    assert place.lines(loaded) == [f"1:37: servers.a.gpus.0: no GPU is visible on this machine {hint}"]
    assert [(one.kind, one.server) for one in loaded.problems] == [(ProblemKind.WORLD, "a")]
    shutil.rmtree(place.machine)
    assert place.load().problems == ()
