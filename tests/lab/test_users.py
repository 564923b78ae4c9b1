"""What other people than root may do: a member of group llamad everything, anybody else nothing, and both are told.

Until a second user tried, the sandbox had locked every one of them out.
"""

import json
from collections.abc import Iterator

import pytest

from llamad.cli.main import parser
from tests.lab.guest import Guest, fake_server
from tests.lab.machine import until

pytestmark = pytest.mark.lab

MEMBER, STRANGER = "alice", "bob"
OF_THE_DAEMON = {
    "status": ["status"],
    "status of one": ["status", "one", "--json"],
    "plan": ["plan"],
    "reload": ["reload", "--wait"],
    "stop": ["stop", "--wait", "one"],
    "start": ["start", "--wait", "one"],
    "restart": ["restart", "--wait", "one"],
    "logs": ["logs", "one", "-n", "5"],
    "models": ["models"],
    "devices": ["devices"],
    "upgrade": ["upgrade"],
}
"""In an order in which each can succeed."""
OF_ANYBODY = {"check": ["check"], "schema": ["schema"], "reap": ["reap"]}
NOT_HERE = {"run", "demo"}  # a daemon of one's own


@pytest.fixture
def people(guest: Guest) -> Iterator[Guest]:
    """llamad with a server that is ready, and a member of its group."""
    guest.run("usermod", "-aG", "llamad", MEMBER)
    guest.configure({"one": fake_server()})
    guest.start()
    yield guest
    guest.run("gpasswd", "--delete", MEMBER, "llamad")


def test_every_verb_is_tried() -> None:
    (commands,) = (action.choices for action in parser()._actions if isinstance(action.choices, dict))
    assert {words[0] for words in (OF_THE_DAEMON | OF_ANYBODY).values()} | NOT_HERE == set(commands)


def test_a_member_of_the_group_may_use_every_verb(people: Guest) -> None:
    main, ended = people.main_pid, {}
    for name, words in (OF_THE_DAEMON | OF_ANYBODY).items():
        done = people.login(MEMBER, "llamad", *words)
        ended[name] = done.returncode, done.stderr
        if name == "upgrade":
            until(lambda: people.is_up_as_another(main), "the upgraded llamad is up")
    assert {name: how for name, how in ended.items() if how[0] != 0} == {}
    assert people.wait_ready("one")
    assert people.login(MEMBER, "timeout", "2", "llamad", "status", "--watch").returncode == 124
    assert people.login(MEMBER, "timeout", "2", "llamad", "logs", "-f", "one").returncode == 124
    asked = [entry for entry in people.journal("LLAMAD_EVENT=order") if "uid 0," not in str(entry["MESSAGE"])]
    assert len(asked) >= 5, "the journal tells who it was"


def test_anybody_else_may_not_and_is_told_what_to_do(people: Guest) -> None:
    main, pid = people.main_pid, people.replica("one")["pid"]
    for words in OF_THE_DAEMON.values():
        done = people.login(STRANGER, "llamad", *words)
        assert done.returncode == 77, (words, done.stderr)
        assert "you may not connect to /run/llamad/control.sock" in done.stderr
        assert "sudo usermod -aG llamad $USER, then log in again" in done.stderr
    for words in OF_ANYBODY.values():
        assert people.login(STRANGER, "llamad", *words).returncode != 77
    assert (people.main_pid, people.replica("one")["pid"]) == (main, pid)


def test_a_login_that_is_older_than_the_membership_is_told_to_log_in_again(people: Guest) -> None:
    done = people.login(MEMBER, "llamad", "status", groups="")
    assert done.returncode == 77
    assert "this login is older than that: log in again" in done.stderr
    assert "usermod" not in done.stderr


def test_the_socket_is_the_groups_and_nobody_elses(people: Guest) -> None:
    shown = people.run("stat", "-c", "%a %U:%G", "/run/llamad/control.sock", "/run/llamad").split("\n")
    assert shown[:2] == ["660 llamad:llamad", "750 llamad:llamad"]
    assert not people.journal("LLAMAD_EVENT=control-group")


def test_root_beside_the_service_is_told_to_use_it_and_touches_nothing(people: Guest) -> None:
    """It was told to remove the service's runtime directory."""
    pid = people.replica("one")["pid"]
    done = people.machine.run("llamad", "run", check=False)
    assert done.returncode == 1
    assert "llamad runs already, as user llamad (use that one: llamad status" in done.stdout + done.stderr
    people.stop()
    done = people.machine.run("llamad", "run", check=False)
    assert done.returncode == 1
    assert "belongs to user llamad, and this llamad runs as user root (start the service" in done.stdout + done.stderr
    people.start()
    assert people.wait_ready("one")["pid"] != pid


def test_root_reaps_as_the_services_user_only(people: Guest) -> None:
    """A ledger of the service's user named a process and a socket of root's: `sudo llamad reap` ended both."""
    script = "sleep 600 & echo $!; cut -d' ' -f22 /proc/$!/stat; cat /proc/sys/kernel/random/boot_id; wait"
    with people.machine.background("sh", "-c", script) as shell:
        assert shell.stdout is not None
        pid, ticks, boot = (shell.stdout.readline().strip() for _ in range(3))
        record = {"server": "x", "index": 0, "generation": 0, "pid": int(pid), "start_ticks": int(ticks)}
        record |= {"boot_id": boot, "fingerprint": "f", "address": "unix:/run/precious.sock", "started_at": 1.0}
        people.run("mkdir", "-p", "/srv/run")
        people.machine.write("/srv/run/children.json", json.dumps({"version": 1, "children": [record], "stopped": []}))
        people.run("chown", "-R", "llamad:llamad", "/srv/run")
        done = people.machine.run("env", "RUNTIME_DIRECTORY=/srv/run", "llamad", "reap", check=False)
        assert done.returncode == 1
        assert f"x-0-0 of an earlier llamad cannot be ended: pid {pid}" in done.stdout + done.stderr
        assert people.code("kill", "-0", pid) == 0
        people.run("kill", "-KILL", pid)
    people.run("rm", "-r", "/srv/run")
