import errno
import json
import os
import stat
import subprocess
import time
from pathlib import Path

import pytest

from llamad.config import options
from llamad.config.options import Binary, BinaryError, probe_binary
from llamad.errors import ExitCode
from tests.config.files import HELP, a_program

MINIMAL = "echo '--model M  x'; echo '--host H  x'; echo '--port P  x'; echo '--ctx-size N  x'"


@pytest.fixture(autouse=True)
def _no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts of these tests stand for programs."""
    monkeypatch.setattr(options, "_memory", {})
    monkeypatch.setattr(options, "_is_script", lambda path: path.name == "script")


def probe(path: Path | str, cache: Path | None = None, **environ: str) -> Binary:
    return probe_binary(str(path), cache=cache, environ=environ)


def refused(path: Path | str, **environ: str) -> tuple[str, str | None]:
    """The message and the hint of a program that is no llama-server."""
    with pytest.raises(BinaryError) as caught:
        probe(path, None, **environ)
    assert caught.value.exit_code is ExitCode.FAILED
    return caught.value.message, caught.value.hint


def counting(tmp_path: Path, script: str = MINIMAL) -> tuple[Path, Path]:
    """A llama-server that writes down that it was run."""
    runs = tmp_path / "runs"
    runs.touch()
    return a_program(tmp_path / "llama-server", f"echo x >>{runs}; {script}"), runs


def test_a_real_help_is_read(tmp_path: Path) -> None:
    path = a_program(tmp_path / "server", f"exec /bin/cat {HELP}")
    binary = probe(path)
    assert binary.path == path
    assert (binary.size, binary.mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)
    assert len(binary.options.options) == 257


def test_a_name_is_looked_up_in_path(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        a_program(tmp_path / folder / "llama-server", MINIMAL)
    (tmp_path / "one" / "llama-server").chmod(0o644)
    path = f"{tmp_path}/one:{tmp_path}/two"
    assert probe("llama-server", PATH=path).path == tmp_path / "two" / "llama-server"


def test_it_is_asked_in_the_environment_of_its_process_and_without_input(tmp_path: Path) -> None:
    """A binary that needs LD_LIBRARY_PATH, or a script that needs a variable of the unit, answers as it will run."""
    seen = tmp_path / "seen"
    script = f'/usr/bin/env >{seen}; read line; echo "read=$? $*" >>{seen}; pwd >>{seen}; {MINIMAL}'
    environ = {"HOME": "/h", "OF_UNIT": "s", "LLAMA_ARG_PORT": "1", "LD_LIBRARY_PATH": "/lib"}
    env = {"LD_LIBRARY_PATH": "/own", "LLAMA_ARG_THREADS": "wrong", "CUDA_VISIBLE_DEVICES": "0"}
    probe_binary(str(a_program(tmp_path / "server", script)), cache=None, environ=environ, env=env)
    lines = set(seen.read_text().splitlines())
    assert {"HOME=/h", "OF_UNIT=s", "LD_LIBRARY_PATH=/own", "CUDA_VISIBLE_DEVICES=", "read=1 --help", "/"} <= lines
    assert not [line for line in lines if line.startswith("LLAMA")]


def test_a_binary_that_needs_a_variable_of_its_server(tmp_path: Path) -> None:
    path = a_program(tmp_path / "server", f'[ "$LD_LIBRARY_PATH" = /own ] || exit 1; {MINIMAL}')
    with pytest.raises(BinaryError):
        probe(path)
    cache = tmp_path / "cache.json"
    first = probe_binary(str(path), cache=cache, environ={}, env={"LD_LIBRARY_PATH": "/own"})
    assert first.options.program == str(path)
    with pytest.raises(BinaryError):  # the answer in one environment is none in another
        probe(path, cache)
    assert "/own" not in cache.read_text()  # it may be a secret


def test_what_is_only_an_option_makes_no_other_answer(tmp_path: Path) -> None:
    path, runs = counting(tmp_path)
    for threads in "12":
        probe_binary(str(path), cache=None, environ={}, env={"LLAMA_ARG_THREADS": threads})
    assert runs.read_text() == "x\n"


def test_a_program_that_always_answers_alike_is_not_asked_for_each_of_many_servers(tmp_path: Path) -> None:
    path, runs = counting(tmp_path)
    for number in range(100):
        probe_binary(str(path), cache=None, environ={}, env={"NAME": str(number)})
    assert len(runs.read_text().splitlines()) == options.MANY


def test_a_program_whose_answer_depends_on_its_environment_is_asked_each_time(tmp_path: Path) -> None:
    path, runs = counting(tmp_path, f'{MINIMAL}; echo "--new-$NAME  x"')
    for number in range(20):
        binary = probe_binary(str(path), cache=None, environ={}, env={"NAME": str(number)})
        assert binary.options.find(f"new-{number}")
    assert len(runs.read_text().splitlines()) == 20


def test_a_script_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays the same while the build that it calls is upgraded."""
    called = tmp_path / "called"
    called.write_text("--old  x\n")
    path = a_program(tmp_path / "script", f"{MINIMAL}; /bin/cat {called}")
    cache = tmp_path / "cache.json"
    assert probe(path, cache).options.find("old")
    called.write_text("--new  x\n")
    assert probe(path, cache).options.find("old")
    monkeypatch.setattr(options, "SCRIPT_AGE", -1.0)
    assert probe(path, cache).options.find("new")
    assert not cache.exists()


def test_what_is_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    (tmp_path / "binary").write_bytes(b"\x7fELF")
    script = a_program(tmp_path / "script", MINIMAL)
    assert [options._is_script(path) for path in (script, tmp_path / "binary", tmp_path / "gone")] == [
        True,
        False,
        False,
    ]


def test_it_is_asked_once_while_it_stays_the_same(tmp_path: Path) -> None:
    path, runs = counting(tmp_path)
    assert probe(path) is probe(path)
    assert runs.read_text() == "x\n"
    os.utime(path, ns=(1, 1))
    assert probe(path).mtime_ns == 1
    assert runs.read_text() == "x\nx\n"


def test_what_is_remembered_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "MAX_CACHED", 2)
    cache = tmp_path / "cache.json"
    for name in "abc":
        probe(a_program(tmp_path / name, MINIMAL), cache)
    assert len(options._memory) == 2
    assert [one["path"] for one in json.loads(cache.read_text())["help"]] == [f"{tmp_path}/b", f"{tmp_path}/c"]


def test_the_answer_outlives_the_process(tmp_path: Path) -> None:
    path, runs = counting(tmp_path)
    cache = tmp_path / "cache" / "options.json"
    first = probe(path, cache)
    options._memory.clear()
    second = probe(path, cache)
    assert runs.read_text() == "x\n"
    assert second.options.options == first.options.options
    assert stat.S_IMODE(cache.stat().st_mode) == 0o600
    assert list(cache.parent.iterdir()) == [cache]


@pytest.mark.parametrize(
    "broken", ["", "{", "[]", "{}", '{"help": 5}', '{"help": [{}]}', '{"help": [{"path": 1, "size": "x"}]}', "\udcff"]
)
def test_a_broken_cache_is_ignored_and_replaced(tmp_path: Path, broken: str) -> None:
    path, runs = counting(tmp_path)
    cache = tmp_path / "options.json"
    cache.write_bytes(broken.encode(errors="surrogateescape"))
    probe(path, cache)
    options._memory.clear()
    probe(path, cache)
    assert runs.read_text() == "x\n"


def test_a_cache_with_another_programs_help_is_ignored(tmp_path: Path) -> None:
    path, runs = counting(tmp_path)
    cache = tmp_path / "options.json"
    probe(path, cache)
    [entry] = json.loads(cache.read_text())["help"]
    cache.write_text(json.dumps({"help": [entry | {"text": "hello"}]}))
    options._memory.clear()
    probe(path, cache)
    assert runs.read_text() == "x\nx\n"


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = a_program(tmp_path / "server", MINIMAL)
    assert probe(path, tmp_path / "file" / "options.json").path == path
    options._memory.clear()
    (tmp_path / "options.json").mkdir()
    assert probe(path, tmp_path / "options.json").path == path
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "options.json", "server"]


def test_not_in_path(tmp_path: Path) -> None:
    assert refused("llama-server", PATH=str(tmp_path)) == (
        "llama-server is not in PATH",
        "install llama.cpp, or set llama_server to the program's absolute path",
    )


def test_not_there(tmp_path: Path) -> None:
    assert refused(tmp_path / "x")[0] == f"{tmp_path}/x: No such file or directory"
    (tmp_path / "file").touch()
    assert refused(tmp_path / "file" / "x")[0] == f"{tmp_path}/file/x: Not a directory"


def test_not_executable(tmp_path: Path) -> None:
    path = tmp_path / "server"
    path.write_text("x")
    assert refused(path) == (f"{path} is not executable", f"chmod +x {path}, if it is llama-server")
    assert refused(tmp_path)[0] == f"{tmp_path} is a folder, not a program"


def test_no_program(tmp_path: Path) -> None:
    path = tmp_path / "server"
    path.write_bytes(b"\x7fELF\x02\x01\x01garbage")
    path.chmod(0o755)
    assert refused(path) == (
        f"{path} cannot be run: Exec format error",
        "it is built for another machine, or is no program",
    )


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (errno.EMFILE, None),
        (errno.ENOMEM, None),
        (errno.EACCES, "its file system may be mounted noexec, or a security module forbids it"),
        (errno.ENOENT, "the interpreter or loader that it names is not there"),
    ],
)
def test_what_keeps_a_program_from_being_run_is_not_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, hint: str | None
) -> None:
    path = a_program(tmp_path / "server", "exit 0")

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(subprocess, "Popen", fail)
    assert refused(path) == (f"{path} cannot be run: {os.strerror(code)}", hint)


def test_another_program(tmp_path: Path) -> None:
    path = a_program(tmp_path / "server", "echo usage: something else")
    assert refused(path) == (
        f"{path} is another program, not llama-server: its --help tells of no --model",
        "llama_server has to name llama.cpp's llama-server",
    )


def test_a_program_that_refuses(tmp_path: Path) -> None:
    path = a_program(tmp_path / "server", "echo first >&2; echo unknown option >&2; exit 3")
    assert refused(path) == (
        f"{path} --help ended with status 3: unknown option",
        "llama_server has to name llama.cpp's llama-server",
    )
    assert refused(a_program(tmp_path / "mute", "exit 1"))[0] == f"{tmp_path}/mute --help ended with status 1"


def test_a_script_that_may_not_run_the_program(tmp_path: Path) -> None:
    (tmp_path / "real").touch()
    message, hint = refused(a_program(tmp_path / "server", f"exec {tmp_path}/real"))
    assert "--help ended with status 126" in message
    assert hint is not None
    assert "see that file's permissions" in hint
    assert refused(a_program(tmp_path / "other", f"{tmp_path}/gone"))[1] == (
        "it is a script, and what it calls is not there"
    )


def test_a_program_that_the_machine_forbids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("subprocess.Popen", refuse)
    message, hint = refused(a_program(tmp_path / "server", MINIMAL))
    assert message == f"{tmp_path}/server cannot be run: Permission denied"
    assert hint is not None
    assert "noexec" in hint


def test_a_library_is_missing(tmp_path: Path) -> None:
    words = "libx.so.1: error while loading shared libraries: libx.so.1: cannot open"
    path = a_program(tmp_path / "server", f"echo {words} >&2; exit 127")
    assert refused(path) == (
        f"{path} --help ended with status 127: {words}",
        "a library it needs is not found: install it, or name its folder in env: {LD_LIBRARY_PATH: ...}",
    )


def test_a_help_that_ends_badly_is_a_help_all_the_same(tmp_path: Path) -> None:
    assert probe(a_program(tmp_path / "server", f"{MINIMAL}; exit 1")).options.find("model")


def test_a_build_for_another_cpu(tmp_path: Path) -> None:
    path = a_program(tmp_path / "server", "kill -ILL $$")
    assert refused(path) == (
        f"{path} --help was ended by an illegal instruction",
        "this build is for another CPU: install one for this machine, or build llama.cpp on it",
    )


def test_a_crash(tmp_path: Path) -> None:
    path = a_program(tmp_path / "server", "kill -SEGV $$")
    assert refused(path) == (f"{path} --help was ended by SIGSEGV", None)


@pytest.mark.parametrize("script", ["exec sleep 60", "exec >&- 2>&-; exec sleep 60"])
def test_a_program_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr(options, "HELP_TIMEOUT", 0.3)
    path = a_program(tmp_path / "server", script)
    began = time.monotonic()
    with pytest.raises(BinaryError) as caught:
        probe(path)
    assert caught.value.message == f"{path} has not ended 0.3 s after --help"
    assert caught.value.passing
    assert time.monotonic() - began < 3


def test_a_cold_disk_and_the_libraries_of_a_gpu_have_time() -> None:
    assert options.HELP_TIMEOUT >= 30


@pytest.mark.parametrize("redirect", ["", ">&2"])
def test_a_program_that_never_stops_talking(tmp_path: Path, redirect: str) -> None:
    path = a_program(tmp_path / "server", f"while :; do echo {'x' * 4000}; done {redirect}")
    assert refused(path)[0] == f"{path} is another program, not llama-server: it prints more than 1 MiB to --help"


def test_what_it_started_is_ended_with_it(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    began = time.monotonic()
    probe(a_program(tmp_path / "server", f"sleep 60 & echo $! >{pid_file}; {MINIMAL}"))
    assert time.monotonic() - began < 3  # the pipes it inherited are still open
    pid = int(pid_file.read_text())
    deadline = time.monotonic() + 5
    while _runs(pid):
        assert time.monotonic() < deadline
        os.sched_yield()


def _runs(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
