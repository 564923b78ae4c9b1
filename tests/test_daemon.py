"""`llamad run` in the foreground, as a person would start it: real processes, the real control socket."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from llamad.control.client import RefusedError
from llamad.errors import NO_RESTART, ExitCode, LlamadError
from llamad.host.pidfd import boot_id, open_pidfd, start_time
from llamad.servers.ledger import Record
from tests.llamads import Llamad, a_llamad
from tests.waiting import wait_until

pytestmark = pytest.mark.daemon

FAST_STOP = {"drain_timeout": "1s", "term_timeout": "200ms"}


@pytest.fixture(scope="module")
def shared() -> Iterator[Llamad]:
    """One llamad for all tests that leave it as it was: `a` runs, and `b`."""
    with a_llamad() as one:
        as_usual(one)
        one.start()
        one.wait_for("a")
        one.wait_for("b")
        yield one
        assert one.end() == 0


def as_usual(one: Llamad) -> None:
    one.configure({"a": {}, "b": {"aliases": ["bee"]}})


@pytest.fixture
def llamad(shared: Llamad) -> Iterator[Llamad]:
    pid = shared.status("a")["pid"]
    yield shared
    as_usual(shared)
    shared.client.post("reload", wait=True)
    assert shared.status("a")["pid"] == pid, "a was touched"


def error_of(one: Llamad) -> str | None:
    error: str | None = one.client.get("status")["config"]["error"]
    return error


def test_a_saved_file_is_applied_and_what_is_equal_not_touched(llamad: Llamad) -> None:
    b = llamad.status("b")["pid"]
    llamad.configure({"a": {}, "b": {"args": {"ctx_size": 512}}, "c": {}})
    llamad.wait_for("c")
    wait_until(lambda: llamad.status("b").get("pid") not in (b, None))
    llamad.wait_for("b")
    llamad.configure({"a": {}})
    wait_until(lambda: [one["name"] for one in llamad.client.get("status")["servers"]] == ["a"])
    assert llamad.events(f"reload: {llamad.file} was saved")


def test_a_file_that_is_gone_is_not_said_to_be_saved(llamad: Llamad) -> None:
    llamad.file.unlink()
    wait_until(lambda: error_of(llamad) is not None, seconds=20)  # only after it was away for a while
    assert llamad.events(f"reload: {llamad.file} was deleted")
    assert llamad.status("b")["state"] == "ready"


def test_a_file_in_the_middle_of_being_written_stops_no_server(llamad: Llamad) -> None:
    whole = llamad.file.read_text()
    accepted = len(llamad.events("configuration accepted"))
    with llamad.file.open("w") as file:
        file.write(f"llama_server: {llamad.binary}\ngateway: {{listen: null}}\nservers: {{}}\n")
        file.flush()
        until = time.monotonic() + 0.6  # three times as long as a file has to keep still
        while time.monotonic() < until:
            assert llamad.status("b")["state"] == "ready"
        assert len(llamad.events("configuration accepted")) == accepted
        file.seek(0)
        file.truncate()
        file.write(whole)
    wait_until(lambda: len(llamad.events("configuration accepted")) > accepted)
    assert len(llamad.client.get("status")["servers"]) == 2


@pytest.mark.parametrize("text", ["", "\n  \n"])
def test_an_empty_file_is_a_mistake_and_not_a_wish(llamad: Llamad, text: str) -> None:
    llamad.write(text)
    wait_until(lambda: error_of(llamad) is not None)
    said = "the file is empty, but servers run: taken for a mistake (to stop them, write `servers: {}`)"
    assert error_of(llamad) == f"{llamad.file}:1:1: {said}"
    assert llamad.status("b")["state"] == "ready"
    as_usual(llamad)
    wait_until(lambda: error_of(llamad) is None)


def test_a_broken_file_is_refused_with_its_lines_and_changes_nothing(llamad: Llamad) -> None:
    llamad.write("servers:\n  a: {modle: x}\n  b: [")
    with pytest.raises(RefusedError) as refused:
        llamad.client.post("reload", wait=True)
    assert refused.value.exit_code is ExitCode.CONFIG
    assert refused.value.problems
    assert all(line.startswith(f"{llamad.file}:") for line in refused.value.problems)
    assert llamad.status("b")["state"] == "ready"
    wait_until(lambda: error_of(llamad) is not None)


def test_a_typo_in_a_running_servers_model_does_not_stop_it(llamad: Llamad) -> None:
    llamad.configure({"a": {}, "b": {"model": "/nowhere/b.gguf"}})
    with pytest.raises(RefusedError) as refused:
        llamad.client.post("reload")
    assert "/nowhere/b.gguf" in "\n".join(refused.value.problems)
    assert llamad.status("b")["state"] == "ready"


def test_a_hangup_before_llamad_can_reload_waits_and_ends_nothing() -> None:
    """Unhandled, it ends a process; a script that edits and reloads does not wait for the end of a start."""
    with a_llamad() as one:
        as_usual(one)
        one.start()
        assert one.process is not None
        status = Path(f"/proc/{one.process.pid}/status")

        def blocks_it() -> bool:
            blocked = next(line for line in status.read_text().splitlines() if line.startswith("SigBlk:"))
            return bool(int(blocked.split()[1], 16) & 1 << signal.SIGHUP - 1)

        wait_until(blocks_it)
        one.send(signal.SIGHUP)
        one.wait_for("a")
        wait_until(lambda: one.events("reload: SIGHUP") != [])
        assert not blocks_it()
        assert one.end() == 0


@pytest.mark.parametrize("delay", [0.0, 0.005, 0.02])
def test_a_stop_in_the_middle_of_a_reload_ends_all(delay: float) -> None:
    """The reload's new servers would have nobody who ends them, and the stop would wait for them for ever."""
    with a_llamad() as one:
        as_usual(one)
        one.start()
        one.wait_for("a")
        one.wait_for("b")
        one.configure({name: {"args": {"ctx_size": 99}} for name in "bcd"})
        one.send(signal.SIGHUP)
        time.sleep(delay)  # no condition tells of the moments that lie in between
        assert one.end() == 0
        assert not one.events("Traceback")


def test_sighup_reads_the_file(llamad: Llamad) -> None:
    before = len(llamad.events("configuration accepted: no server changed"))
    llamad.send(signal.SIGHUP)
    wait_until(lambda: len(llamad.events("configuration accepted: no server changed")) > before)
    assert llamad.events("reload: SIGHUP")
    assert not llamad.events("systemctl reload")


def test_a_reload_that_waits_tells_which_server_failed(llamad: Llamad) -> None:
    restart = {"initial_delay": "1ms", "max_delay": "1ms", "max_retries": 1, "jitter": 0}
    bad = {"env": {"FAKE_DIE": "start"}, "restart": restart}
    llamad.configure({"a": {}, "b": {"aliases": ["bee"]}, "good": {}, "bad": bad})
    answer = llamad.client.post("reload", wait=True)
    states = {one["server"]: one["state"] for one in answer["servers"]}
    assert states == {"good": "ready", "bad": "failed"}


def test_what_crashes_is_started_again(llamad: Llamad) -> None:
    first = llamad.status("b")
    os.kill(first["pid"], signal.SIGKILL)
    wait_until(lambda: llamad.status("b")["restarts"] == first["restarts"] + 1)
    again = llamad.wait_for("b")
    assert again["pid"] != first["pid"]
    assert again["last_exit"] == "killed by SIGKILL"


def test_orders_by_name_and_alias(llamad: Llamad) -> None:
    llamad.client.post("servers", "bee", "stop", wait=True)
    assert llamad.status("b")["wanted"] == "stopped"
    assert llamad.status("bee")["replicas"] == []
    llamad.send(signal.SIGHUP)  # a stop survives a reload of an unchanged configuration
    llamad.client.post("reload", wait=True)
    assert llamad.status("b")["wanted"] == "stopped"
    llamad.client.post("servers", "b", "start", wait=True)
    before = llamad.wait_for("b")["pid"]
    llamad.client.post("servers", "b", "restart", wait=True)
    assert llamad.wait_for("b")["pid"] != before


def test_output_is_to_be_had_and_names_its_server(llamad: Llamad) -> None:
    lines = [line["text"] for line in llamad.client.lines("servers", "a", "logs")]
    assert any("model loaded" in line for line in lines)
    assert any("info    a: " in line for line in llamad.events("model loaded"))


def test_an_upgrade_in_place_needs_systemd(llamad: Llamad) -> None:
    with pytest.raises(LlamadError, match="only a llamad that systemd runs"):
        llamad.client.post("upgrade")


def test_a_second_llamad_in_the_same_place_ends_with_a_word(llamad: Llamad) -> None:
    other = Llamad(llamad.folder)
    other.log_file = llamad.folder / "other.log"
    other.start()
    assert other.wait() == 1
    assert f"another llamad already uses {llamad.runtime}" in other.log
    assert "Traceback" not in other.log


# --- starts and ends of their own


def test_a_broken_file_at_the_start_ends_with_78_and_starts_nothing() -> None:
    with a_llamad() as one:
        one.write("servers:\n  a: {modle: x.gguf}\n")
        one.start()
        assert one.wait() == ExitCode.CONFIG
        assert one.events(f"{one.file}:2:7: servers.a")
        assert not one.events("started, pid")
        assert "Traceback" not in one.log


def test_sigterm_ends_everything_at_once_also_what_loads_or_does_not_obey() -> None:
    with a_llamad() as one:
        one.configure({
            "loads": {"env": {"FAKE_LOAD_S": "60"}},
            "deaf": {"env": {"FAKE_IGNORE_TERM": "1", "FAKE_GRANDCHILD": "1"}, "stop": FAST_STOP},
            "waits": {"env": {"FAKE_DIE": "start"}, "restart": {"initial_delay": "1m", "max_delay": "1m"}},
        })  # fmt: skip
        one.start()
        pids = [one.wait_for("deaf")["pid"], one.wait_for("loads", "loading")["pid"]]
        one.wait_for("waits", "backoff")
        began = time.monotonic()
        assert one.end() == 0
        assert time.monotonic() - began < 3
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
        assert list((one.runtime / "servers").iterdir()) == []
        assert one.log.splitlines()[-1].endswith("llamad ends")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_of_a_server_outlives_llamad_wherever_it_went(number: signal.Signals) -> None:
    """A server that had put a process into a session of its own left it behind."""
    with a_llamad() as one:
        one.configure({"parent": {"env": {"FAKE_GRANDCHILD": "setsid"}, "stop": FAST_STOP}})
        one.start()
        pids = [one.wait_for("parent")["pid"]]
        wait_until(lambda: one.events("grandchild: pid "))
        pids.append(int(one.events("grandchild: pid ")[0].split()[-1]))
        assert one.end(number) == (0 if number == signal.SIGTERM else -number)
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_the_end_waits_for_requests_as_long_as_their_server_allows_and_says_so() -> None:
    with a_llamad() as one:
        path = one.folder / "g.sock"
        one.configure(
            {"patient": {}, "brief": {"env": {"FAKE_HANG": "decode"}, "stop": FAST_STOP}},
            gateway={"listen": f"unix:{path}"},
        )
        one.start()
        one.wait_for("patient")
        one.wait_for("brief")
        with socket.socket(socket.AF_UNIX) as client:
            wait_until(path.exists)
            client.connect(str(path))
            body = b'{"model": "brief", "prompt": "x"}'
            head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
            client.sendall(head + body)
            wait_until(lambda: one.status("brief")["in_flight"] == 1)
            one.send(signal.SIGTERM)
            wait_until(lambda: one.events("stopping: 1 request runs, at most 1s"))
            assert one.client.get("status")["gateway_problem"].startswith("stopping: ")
            assert one.wait(seconds=10) == 0, "and not the 30 s of the other"
        assert one.events("1 request still runs, and the time for draining is over: cut")


def test_a_port_that_is_taken_is_told_before_anything_else() -> None:
    with a_llamad() as one, socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        one.configure({"a": {}}, gateway={"listen": address})
        one.start()
        wait_until(lambda: one.events(f"warning llamad: cannot listen on {address}: something else listens there; 1/1"))
        assert not one.events("ready: ")
        assert one.end() == 0


def test_sigkill_leaves_no_child_and_the_next_one_starts_clean() -> None:
    with a_llamad() as one:
        one.configure({"a": {}})
        one.start()
        pid_fd = open_pidfd(one.wait_for("a")["pid"])
        assert pid_fd is not None
        try:
            one.end(signal.SIGKILL)
            assert select.select([pid_fd], [], [], 2)[0], "a pidfd is readable once its process has ended"
        finally:
            os.close(pid_fd)
        one.start()
        one.wait_for("a")
        assert one.end() == 0


def test_a_bug_of_llamads_own_leaves_no_orphan_where_nobody_would_take_it_over() -> None:
    with a_llamad() as one:
        one.configure({"a": {}, "b": {"replicas": 2}})
        fault = one.folder / "fault"
        (one.folder / "sitecustomize.py").write_text(
            "import os\nfrom llamad.reporter import Reporter\nusual = Reporter.line\ndef line(reporter):\n"
            f"    if os.path.exists({str(fault)!r}):\n        raise KeyError('a fault')\n    return usual(reporter)\n"
            "Reporter.line = line\n"
        )
        one.start(PYTHONPATH=f"{one.folder}:{Path(__file__).parents[1]}")
        pids = [one.wait_for(name)["pid"] for name in ("a", "b")]
        fault.touch()
        one.send(signal.SIGHUP)
        assert one.wait() == ExitCode.SOFTWARE
        assert "KeyError: 'a fault'" in one.log
        for pid in pids:
            wait_until(lambda pid=pid: open_pidfd(pid) is None)  # type: ignore[misc]


def test_the_unix_socket_of_the_gateway_is_gone_after_a_clean_end() -> None:
    with a_llamad() as one:
        path = one.folder / "g.sock"
        one.configure({"a": {}}, gateway={"listen": f"unix:{path}"})
        one.start()
        one.wait_for("a")
        wait_until(path.exists)
        assert one.end() == 0
        assert not path.exists()


def test_a_strict_start_fails_with_a_server_once_and_leaves_none() -> None:
    with a_llamad() as one:
        one.configure({"a": {}, "b": {"model": "/nowhere/b.gguf"}}, startup="strict")
        one.start()
        assert one.wait() == ExitCode.UNAVAILABLE
        assert one.events("startup is strict: b failed: ")
        for line in one.events("a: started, pid "):  # it may have ended before anybody could ask for its state
            pid = int(line.rpartition(" ")[2])
            wait_until(lambda pid=pid: open_pidfd(pid) is None)  # type: ignore[misc]


def test_systemd_restarts_no_llamad_that_would_only_fail_again() -> None:
    unit = (Path(__file__).parents[1] / "systemd" / "llamad.service").read_text()
    assert f"RestartPreventExitStatus={' '.join(code.name for code in sorted(NO_RESTART, reverse=True))}\n" in unit


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a place that root may not write to: any other user has that")
def test_a_place_that_cannot_be_used_is_told() -> None:
    with a_llamad() as one:
        one.configure({})
        result = subprocess.run(
            [sys.executable, "-m", "llamad", "run", "--config", str(one.file)],
            env={"PATH": os.environ["PATH"], "RUNTIME_DIRECTORY": "/dev/null/x", "PYTHONPATH": str(Path.cwd())},
            capture_output=True,
            text=True,
            check=False,
        )
    assert result.returncode == 1
    assert "cannot make /dev/null/x: Not a directory" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_edit_during_the_start_is_applied_after_it() -> None:
    """A start waits for what an earlier llamad left: a reload in that time was applied, and then undone by the older
    configuration of the start.
    """
    with a_llamad() as one:
        one.configure({"a": {}})
        left = subprocess.Popen(["sh", "-c", "trap '' TERM; echo; exec sleep 60"], stdout=-1, process_group=0)
        try:
            assert left.stdout is not None
            assert left.stdout.readline()
            ticks, boot = start_time(left.pid), boot_id()
            assert ticks is not None
            assert boot is not None
            record = Record("old", 0, 0, left.pid, ticks, boot, "", "127.0.0.1:1", 0.0)
            one.runtime.mkdir()
            ledger = {"version": 1, "children": [asdict(record)], "stopped": []}
            (one.runtime / "children.json").write_text(json.dumps(ledger))
            one.start()
            wait_until(lambda: bool(one.events("of an earlier llamad still runs")))
            one.configure({"a": {}, "b": {}})
            reload = threading.Thread(target=lambda: one.client.post("reload"))
            reload.start()
            reload.join(1)  # it was answered at once, and is now once the start is over
        finally:
            left.kill()
            left.communicate()
        reload.join()
        wait_until(lambda: one.client.get("status")["ready"])
        one.wait_for("b")
        assert one.end() == 0
