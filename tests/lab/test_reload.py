"""Reloads: whoever asks, a broken file changes nothing and is told everywhere; many of them cost nothing."""

import re
from pathlib import Path

import pytest

from tests.lab.guest import Guest, any_server, fake_server, host_pid
from tests.lab.installed import CONF, SERVICE
from tests.lab.machine import until

pytestmark = pytest.mark.lab

TWO_HUNDRED = """
from llamad.control.client import own_client
for _ in range(200):
    own_client(None).post("reload", wait=False)
"""


def test_a_broken_file_is_refused_and_a_mended_one_applied(guest: Guest) -> None:
    guest.configure({"one": any_server(guest)})
    guest.start()
    before = guest.replica("one")["pid"]
    good = (guest.machine.files / CONF.lstrip("/")).read_text()
    guest.machine.write(CONF, good.replace("model:", "modle:"))
    assert guest.code("systemctl", "reload", SERVICE) == 1
    where = re.compile(rf"{re.escape(CONF)}:\d+:\d+: ")
    until(lambda: where.search(guest.messages()), "the journal tells file, line and column")
    assert where.search(guest.run("systemctl", "status", "--no-pager", "-l", SERVICE, check=False))
    until(lambda: "refused" in guest.show("StatusText"), "the status tells the refusal")
    assert guest.show("ActiveState") == "active"
    assert guest.replica("one")["pid"] == before
    assert guest.status()["config"]["error"]

    guest.configure({"one": any_server(guest), "two": fake_server()})
    guest.run("systemctl", "reload", SERVICE)
    guest.wait_ready("two")
    assert guest.replica("one")["pid"] == before
    assert guest.status()["config"]["error"] is None
    assert "refused" not in guest.show("StatusText")


def test_an_edited_file_is_applied_without_any_command(guest: Guest) -> None:
    guest.configure({"one": fake_server()})
    guest.start()
    before = guest.replica("one")["pid"]
    guest.configure({"one": fake_server(), "two": fake_server()})
    guest.wait_ready("two")
    assert guest.replica("one")["pid"] == before
    guest.configure({"one": fake_server(args={"ctx_size": 2048})})
    guest.wait_for("one", lambda one: one["state"] == "ready" and one["pid"] != before, "runs with the new options")
    until(lambda: [one["name"] for one in guest.status()["servers"]] == ["one"], "the other server is gone")


@pytest.mark.parametrize("kind", ["notify", "notify-reload"])
def test_sighup_reloads_too(guest: Guest, kind: str) -> None:
    if kind == "notify-reload" and guest.systemd < 253:
        kind = "notify"  # the type is newer than this systemd
    guest.drop_in(Type=kind)
    guest.configure({"one": fake_server()})
    guest.start()
    guest.configure({"one": fake_server(), "two": fake_server()})
    guest.run("systemctl", "kill", "-s", "HUP", "--kill-whom=main", SERVICE)
    guest.wait_ready("two")
    until(lambda: guest.show("ActiveState") == "active", "the reload is over")


def test_two_hundred_reloads_leave_nothing(guest: Guest) -> None:
    guest.configure({"one": fake_server()})
    guest.start()
    pid = host_pid(guest, guest.main_pid)
    assert pid is not None
    before = guest.replica("one")["pid"]

    def measure() -> tuple[int, int, int]:
        proc = Path(f"/proc/{pid}")
        pages = int((proc / "statm").read_text().split()[1])
        return len(list((proc / "fd").iterdir())), len(list((proc / "task").iterdir())), pages * 4096

    for _ in range(3):  # caches and the allocator reach their size
        guest.run("llamad", "reload")
    fds, threads, memory = measure()
    guest.run(guest.python, "-c", TWO_HUNDRED, timeout=120)
    fds_after, threads_after, memory_after = measure()
    assert fds_after <= fds + 1
    assert threads_after <= threads + 8, "more than the pools of threads, which may still fill"
    assert memory_after - memory < 8 << 20
    assert guest.replica("one")["pid"] == before
