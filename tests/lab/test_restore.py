"""Live restore: llamad is killed, hangs or is upgraded under load; the servers and the clients do not notice."""

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import pytest

from tests.lab.guest import Guest, any_server, fake_server
from tests.lab.installed import CLIENT, CONF, SERVICE, Document
from tests.lab.machine import until

pytestmark = pytest.mark.lab

TIMES = 10


@dataclass(frozen=True, slots=True)
class Request:
    """One of the load's requests: seconds of CLOCK_MONOTONIC, and `ok` or what went wrong."""

    began: float
    ended: float
    outcome: str


@contextlib.contextmanager
def under_load(guest: Guest, model: str) -> Iterator[list[Request]]:
    """Requests one after the other during the block; the list is filled after it."""
    requests: list[Request] = []
    with guest.machine.background("python3", CLIENT, "load", model, "4") as client:
        yield requests
        output, _ = client.communicate(timeout=60)
    requests += [Request(*one) for one in json.loads(output)]


def kill(guest: Guest) -> None:
    """llamad is gone without a word."""
    guest.run("systemctl", "kill", "-s", "KILL", "--kill-whom=main", SERVICE)


def freeze(guest: Guest) -> None:
    """llamad does nothing any more, until the watchdog ends it."""
    guest.run("systemctl", "kill", "-s", "STOP", "--kill-whom=main", SERVICE)


def upgrade(guest: Guest) -> None:
    """llamad makes way for the installed version."""
    guest.run("llamad", "upgrade")


def wait_until_back(guest: Guest, before: int) -> None:
    """Wait for another llamad to be up."""
    until(lambda: guest.is_up_as_another(before), "llamad is back", limit=30)


@pytest.mark.parametrize("end", [kill, freeze, upgrade])
def test_servers_and_requests_live_through_ten_ends_of_llamad(guest: Guest, end: Callable[[Guest], None]) -> None:
    guest.drop_in(WatchdogSec="1s")
    guest.configure({"one": any_server(guest, args={"threads": 1, "parallel": 2}), "two": fake_server(FAKE_FLOOD=50)})
    guest.start()
    pids = pids_of(guest)
    ends: list[float] = []
    with under_load(guest, "one") as requests:
        for _ in range(TIMES):
            before = guest.main_pid
            end(guest)
            ends.append(time.monotonic())
            wait_until_back(guest, before)
            assert pids_of(guest) == pids
    assert len(ends) == TIMES
    assert len(requests) > TIMES
    failed = [one for one in requests if one.outcome != "ok"]
    if end is not upgrade:  # what a killed llamad was relaying is lost with it; whoever comes afterwards waits
        failed = [one for one in failed if not any(one.began < moment for moment in ends if one.ended > moment - 1.5)]
    assert failed == []
    assert guest.replica("two")["restarts"] == 0
    for name in pids:
        guest.wait_for(name, lambda one: one["memory_bytes"], "tells its memory, which /proc hides by now")
    numbers = flood_numbers(guest)
    assert set(range(numbers[0], numbers[-1])) - set(numbers) == set()
    # what llamad was telling when it was ended is told again by the next one
    told_again = [one for one, following in pairwise(numbers) if following != one + 1]
    assert len(told_again) <= (0 if end is upgrade else TIMES)

    guest.stop()
    assert guest.processes() == {}


def pids_of(guest: Guest) -> dict[str, int]:
    """The process of each server, which has to be ready."""
    servers = guest.status()["servers"]
    assert {one["name"]: one["state"] for one in servers} == {one["name"]: "ready" for one in servers}
    return {one["name"]: one["replicas"][0]["pid"] for one in servers}


def flood_numbers(guest: Guest) -> list[int]:
    """The numbers of the fake's flood of lines, as they are in the journal."""
    found = re.findall(r"flood: line (\d+)", guest.messages("LLAMAD_SERVER=two"))
    return [int(one) for one in found]


def test_uptime_goes_on_and_the_adoption_is_told(guest: Guest) -> None:
    guest.configure({"one": any_server(guest)})
    guest.start()
    time_before = guest.replica("one")["uptime_s"]
    before = guest.main_pid
    kill(guest)
    wait_until_back(guest, before)
    assert guest.wait_ready("one")["uptime_s"] >= time_before
    assert [one["LLAMAD_SERVER"] for one in guest.journal("LLAMAD_EVENT=adopted")] == ["one"]


def test_an_edit_meanwhile_is_applied_as_a_reload(guest: Guest) -> None:
    guest.drop_in(RestartSec="2s", RestartSteps="0")
    guest.configure({"kept": fake_server(), "changed": fake_server(), "removed": fake_server()})
    guest.start()
    pids = {name: guest.replica(name)["pid"] for name in ("kept", "changed", "removed")}
    before = guest.main_pid
    kill(guest)
    guest.configure({"kept": fake_server(), "changed": fake_server(args={"ctx_size": 2048}), "new": fake_server()})
    wait_until_back(guest, before)
    assert guest.wait_ready("kept")["pid"] == pids["kept"]
    assert guest.wait_ready("changed")["pid"] != pids["changed"]
    guest.wait_ready("new")
    assert guest.code("kill", "-0", str(pids["removed"])) != 0


def test_a_crash_while_the_file_is_broken_keeps_the_servers(guest: Guest) -> None:
    guest.configure({"one": fake_server()})
    guest.start()
    pid, before = guest.replica("one")["pid"], guest.main_pid
    guest.machine.write(CONF, "servers: [\n")
    kill(guest)
    wait_until_back(guest, before)
    assert guest.wait_ready("one")["pid"] == pid
    assert CONF in guest.status()["config"]["error"]
    guest.configure({"one": fake_server(), "two": fake_server()})
    guest.wait_ready("two")
    assert guest.replica("one")["pid"] == pid
    assert guest.status()["config"]["error"] is None


def test_an_upgrade_with_a_broken_file_is_refused(guest: Guest) -> None:
    guest.configure({"one": fake_server()})
    guest.start()
    before = guest.main_pid
    guest.machine.write(CONF, "servers: [\n")
    refused = guest.machine.run("llamad", "upgrade", check=False)
    assert refused.returncode == 78
    assert CONF in refused.stderr
    assert guest.main_pid == before


def test_a_stop_by_hand_survives_a_crash(guest: Guest) -> None:
    guest.configure({"one": fake_server(), "two": fake_server()})
    guest.start()
    guest.run("llamad", "stop", "--wait", "two")
    before = guest.main_pid
    kill(guest)
    wait_until_back(guest, before)
    guest.wait_ready("one")
    assert (guest.server("two")["wanted"], guest.server("two")["state"]) == ("stopped", "stopped")


def test_a_server_that_ended_meanwhile_is_started_again(guest: Guest) -> None:
    guest.drop_in(RestartSec="1s", RestartSteps="0")
    guest.configure({"one": fake_server()})
    guest.start()
    pid, before = guest.replica("one")["pid"], guest.main_pid
    kill(guest)
    guest.signal("KILL", pid)
    wait_until_back(guest, before)
    assert guest.wait_ready("one")["pid"] != pid


def test_a_llamad_that_cannot_come_back_leaves_nothing(guest: Guest) -> None:
    """Killed, and there is neither a file nor a last accepted one to go on with: exit 78, which is final."""
    guest.drop_in(RestartSec="2s", RestartSteps="0")
    guest.configure({"one": fake_server(FAKE_GRANDCHILD="setsid")})
    guest.start()
    kill(guest)
    guest.machine.write(CONF, "servers: [\n")
    until(lambda: guest.show("SubState") == "auto-restart", "systemd waits for the restart")
    guest.run("sh", "-c", "rm -rf /run/llamad/*")
    until(lambda: guest.show("ActiveState") == "failed", "systemd has given up")
    assert guest.show("ExecMainStatus") == "78"
    until(lambda: guest.processes() == {}, "nothing is left")


def test_the_documented_exception_and_what_ends_it(guest: Guest) -> None:
    """A stop between a crash and its restart; `systemctl kill`, or the next start, ends what lives on."""
    guest.drop_in(RestartSec="5s", RestartSteps="0")
    guest.configure({"one": fake_server()})
    guest.start()
    pid = guest.replica("one")["pid"]
    kill(guest)
    until(lambda: guest.show("SubState") == "auto-restart", "systemd waits for the restart")
    guest.stop()
    assert guest.code("kill", "-0", str(pid)) == 0
    guest.start()
    assert guest.wait_ready("one")["pid"] != pid
    assert guest.code("kill", "-0", str(pid)) != 0


def state_file(guest: Guest) -> Document:
    """What llamad keeps of its children."""
    text = (guest.machine.files / "run/llamad/children.json").read_text()
    state: Document = json.loads(text)
    return state


@pytest.mark.parametrize("damage", ["not json", "{}", '{"version": 99}'])
def test_a_state_that_makes_no_sense_is_refused_with_a_line(guest: Guest, damage: str) -> None:
    guest.drop_in(RestartSec="1s", RestartSteps="0")
    guest.configure({"one": fake_server()})
    guest.start()
    pid, before = guest.replica("one")["pid"], guest.main_pid
    assert state_file(guest)
    kill(guest)
    guest.machine.write("/run/llamad/children.json", damage)
    guest.run("chown", "llamad:llamad", "/run/llamad/children.json")
    wait_until_back(guest, before)
    assert guest.wait_ready("one")["pid"] != pid
    until(lambda: guest.code("kill", "-0", str(pid)) != 0, "the server that nobody knows is gone")
