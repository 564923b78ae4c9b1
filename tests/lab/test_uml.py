"""What needs a kernel of its own: memory limits with their OOM kills, and a clock that is set."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.lab.guest import fake_server
from tests.lab.installed import SERVICE, Document
from tests.lab.machine import until
from tests.lab.uml import VirtualGuest, missing_for_kernel, virtual

pytestmark = pytest.mark.lab

MIB = 2**20
WATCHDOG = 4
QUICK: Document = {
    "restart": {"initial_delay": "2s", "max_delay": "2s"},
    "health": {"interval": "1s", "timeout": "2s", "failures": 3, "hang_timeout": "10s"},
}


@pytest.fixture(scope="module")
def _booted(lab: None, deb: Path) -> Iterator[VirtualGuest]:
    reason = missing_for_kernel()
    if reason is not None:
        pytest.skip(reason)
    with virtual(deb) as guest:
        yield guest


@pytest.fixture
def own(_booted: VirtualGuest) -> VirtualGuest:
    """llamad on a kernel of its own, not started."""
    _booted.reset()
    return _booted


def uptime(guest: VirtualGuest) -> float:
    """Seconds since the machine was booted, whatever its clock says."""
    return float(guest.run("cat", "/proc/uptime").split()[0])


def is_pinged(guest: VirtualGuest, after: float) -> bool:
    """Whether llamad has told systemd that it is alive, later than that many seconds after the boot."""
    return int(guest.show("WatchdogTimestampMonotonic")) / 1e6 > after


def test_limits_are_those_of_the_servers_group(own: VirtualGuest) -> None:
    limits = {"memory_max": "256M", "memory_high": "200M", "cpu_weight": 50}
    own.configure({"limited": fake_server(limits=limits), "free": fake_server()})
    own.start()
    files = ("memory.max", "memory.high", "cpu.weight", "memory.oom.group")
    assert [own.group("limited", file) for file in files] == [str(256 * MIB), str(200 * MIB), "50", "1"]
    assert [own.group("free", file) for file in files] == ["max", "max", "100", "1"]
    limited = own.wait_for("limited", lambda one: one["memory_bytes"] and one["cpu_s"], "is measured")
    assert str(limited["pid"]) in own.group("limited", "cgroup.procs").split()
    assert MIB < limited["memory_bytes"] < 200 * MIB
    assert 0 < limited["cpu_s"] < limited["uptime_s"]


def test_a_server_beyond_its_memory_limit_is_killed_whole_named_and_restored(own: VirtualGuest) -> None:
    eater = fake_server(FAKE_EAT=200 * MIB, FAKE_GRANDCHILD=1, limits={"memory_max": "64M"}, **QUICK)
    own.configure({"eater": eater, "other": fake_server()})
    own.start()
    pid, other, main = own.replica("eater")["pid"], own.replica("other")["pid"], own.main_pid
    family = own.group("eater", "cgroup.procs").split()
    assert len(family) == 2

    own.signal("USR1", pid)
    down = own.wait_for("eater", lambda one: one["state"] == "backoff", "is down")
    assert down["cause"] == "oom-killed"
    assert "limits.memory_max" in down["hint"]
    assert [own.code("kill", "-0", one) for one in family] == [1, 1]
    whole = "srv-eater-0-0 are going to be killed due to memory.oom.group set"
    until(lambda: whole in own.kernel_log(), f"the kernel says: {whole}")

    back = own.wait_ready("eater")
    assert (back["restarts"], back["cause"], back["last_exit"]) == (1, None, "killed by SIGKILL")
    assert own.ask("eater")["choices"]
    story = own.messages("LLAMAD_SERVER=eater")
    assert "down: the kernel killed it because memory ran out (raise limits.memory_max" in story
    assert story.count("ready after") == 2

    assert (own.replica("other")["pid"], own.main_pid, own.show("NRestarts")) == (other, main, "0")
    assert own.ask("other")["choices"]

    own.signal("KILL", back["pid"])
    assert own.wait_for("eater", lambda one: one["state"] == "backoff", "is down again")["cause"] == "killed"


def test_a_clock_that_is_set_changes_nothing(own: VirtualGuest) -> None:
    own.drop_in(WatchdogSec=f"{WATCHDOG}s")
    own.configure({"one": fake_server(**QUICK), "two": fake_server(**QUICK)})
    own.start()
    before = {name: own.replica(name) for name in ("one", "two")}
    main = own.main_pid

    for change in ("2 days", "4 days ago"):
        set_at = uptime(own)
        own.run("date", "--set", change)

        until(partial(is_pinged, own, set_at + WATCHDOG), f"the watchdog is pinged on, {change}", limit=30, every=0.5)
        assert (own.main_pid, own.show("NRestarts")) == (main, "0")
        for name, first in before.items():
            now = own.replica(name)
            assert (now["pid"], now["state"], now["restarts"]) == (first["pid"], "ready", 0)
            assert WATCHDOG < now["uptime_s"] - first["uptime_s"] < 120
        assert own.ask("one")["choices"]


def test_a_clock_that_is_set_makes_no_adopted_server_younger_or_older(own: VirtualGuest) -> None:
    own.configure({"one": fake_server()})
    own.start()
    for change in ("2 days", "4 days ago"):
        first, main = own.replica("one"), own.main_pid
        own.run("date", "--set", change)
        own.signal("KILL", main)
        until(partial(own.is_up_as_another, main), "llamad is back", every=0.5)
        now = own.wait_ready("one")
        assert now["pid"] == first["pid"]
        assert 0 < now["uptime_s"] - first["uptime_s"] < 120


def test_a_machine_out_of_memory_costs_a_server_and_never_llamad(own: VirtualGuest) -> None:
    own.drop_in(MemoryMax="300M")
    own.configure({"hog": fake_server(FAKE_EAT=400 * MIB, **QUICK), "other": fake_server()})
    own.start()
    main, other = own.main_pid, own.replica("other")["pid"]
    own.signal("USR1", own.replica("hog")["pid"])
    down = own.wait_for("hog", lambda one: one["state"] == "backoff", "is down")
    assert down["cause"] == "oom-killed"
    own.wait_ready("hog")
    assert (own.main_pid, own.replica("other")["pid"]) == (main, other)
    assert own.run("systemctl", "is-active", SERVICE).strip() == "active"
