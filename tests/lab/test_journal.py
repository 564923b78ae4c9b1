"""The journal: fields for machines, words for people, the right priorities, every line whole."""

import pytest

from tests.lab.guest import Guest, fake_server
from tests.lab.machine import until

pytestmark = pytest.mark.lab


def test_entries_carry_the_fields(guest: Guest) -> None:
    guest.configure({"one": fake_server(), "two": fake_server(replicas=2)})
    guest.start()
    entries = guest.journal("LLAMAD_SERVER=two")
    assert {entry["LLAMAD_REPLICA"] for entry in entries if "LLAMAD_REPLICA" in entry} == {"0", "1"}
    events = [entry.get("LLAMAD_EVENT") for entry in entries]
    assert (events.count("started"), events.count("ready")) == (2, 2)
    assert {entry["SYSLOG_IDENTIFIER"] for entry in entries} == {"llamad"}
    assert {entry["_SYSTEMD_UNIT"] for entry in entries} == {"llamad.service"}
    assert not [entry for entry in entries if entry["LLAMAD_SERVER"] != "two"]


def test_a_servers_own_lines_have_its_levels(guest: Guest) -> None:
    lines = {"E": "an error", "W": "a warning", "I": "a fact"}
    words = "".join(rf"0.00.001.000 {level} srv  test: {text}\n" for level, text in lines.items())
    guest.configure({"one": fake_server(FAKE_LOG=words)})
    guest.start()
    found = {}
    for entry in guest.journal("LLAMAD_SERVER=one"):
        for word in ("an error", "a warning", "a fact"):
            if word in str(entry["MESSAGE"]):
                found[word] = entry["PRIORITY"]
    assert found == {"an error": "3", "a warning": "4", "a fact": "6"}


def test_no_key_is_in_the_journal_the_status_or_the_command_line(guest: Guest) -> None:
    guest.machine.write("/etc/llamad/secret", "hf-very-secret-token\n", 0o600)
    guest.drop_in(LoadCredential="hf-token:/etc/llamad/secret")
    guest.configure(
        {"one": fake_server(env_credentials={"HF_TOKEN": "hf-token"}, FAKE_LOG="token hf-very-secret-token\\n")}
    )
    guest.start()
    pid = guest.replica("one")["pid"]
    secret = "hf-very-secret-token"
    until(lambda: "token" in guest.messages("LLAMAD_SERVER=one"), "the fake's line is in the journal")
    assert secret in guest.run("cat", f"/proc/{pid}/environ")
    assert secret not in guest.run("cat", f"/proc/{pid}/cmdline")
    assert secret not in guest.run("llamad", "status", "--json")
    assert secret not in guest.run("sh", "-c", "cat /run/llamad/*.json")
    configured = guest.messages()
    assert secret not in configured


def test_a_message_of_several_lines_stays_one_entry(guest: Guest) -> None:
    guest.machine.write("/etc/llamad/conf.d/50-lab.yaml", "servers: [\n")
    guest.run("systemctl", "start", "llamad", check=False)
    entries = [entry for entry in guest.journal() if entry.get("LLAMAD_EVENT", "").startswith("config")]
    assert entries
    assert all(entry["PRIORITY"] == "3" for entry in entries)
