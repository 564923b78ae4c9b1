"""The unit on real systemd: it verifies, scores, and its sandbox really holds for a server."""

import json

import pytest

from tests.lab.guest import Guest, exposure, fake_server

pytestmark = pytest.mark.lab

PROBE = "/usr/local/bin/probe-llama-server"
TRIES = {
    "write /etc": "open('/etc/lab-probe', 'w')",
    "write /usr": "open('/usr/lab-probe', 'w')",
    "write a model": "open('/srv/models/tiny.gguf', 'a')",
    "read /home": "open('/home/lab/secret').read()",
    "read /root": "open('/root/secret').read()",
    "open another device": "open('/dev/lab', 'rb', buffering=0)",
    "make a device": "os.mknod('/run/llamad/device', 0o600 | stat.S_IFCHR, os.makedev(1, 11))",
    "load a module": "libc(175, 0, 0, b'')",
    "mount": "libc(165, b'none', b'/tmp', b'tmpfs', 0, None)",
    "make a namespace": "os.unshare(0x10000000) if hasattr(os, 'unshare') else libc(272, 0x10000000)",
    "use a raw socket": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "set the clock": "time.clock_settime(time.CLOCK_REALTIME, 1)",
    "have code that is written and run": "mmap.mmap(-1, 4096, prot=7)",
    "become root": "os.setuid(0)",
    "make a setuid file": "os.chmod(os.open('/run/llamad/suid', os.O_CREAT), 0o4755)",
    "reboot": "libc(169, 0xfee1dead, 672274793, 0, None)",
}
SCRIPT = """#!/usr/bin/python3
import ctypes, json, mmap, os, socket, stat, sys, time
if "--help" not in sys.argv:
    raw = ctypes.CDLL(None, use_errno=True).syscall
    def libc(*args):
        if raw(*args) < 0:
            raise OSError(ctypes.get_errno(), "syscall")
    result = {}
    for name, code in TRIES.items():
        try:
            eval(code)
            result[name] = "allowed"
        except (OSError, ValueError) as error:
            result[name] = f"refused: {error}"
    print("0.00.000.001 I probe: " + json.dumps(result), flush=True)
os.execv("/usr/local/bin/fake-llama-server", ["fake", *sys.argv[1:]])
"""


def test_the_unit_verifies_without_a_word(guest: Guest) -> None:
    """On 252 three keys are unknown, and that is all."""
    path = guest.show("FragmentPath")
    done = guest.machine.run("systemd-analyze", "verify", path, path.replace(".service", ".socket"), check=False)
    complaints = [line for line in (done.stdout + done.stderr).splitlines() if "llamad" in line]
    if guest.systemd >= 257:
        assert (done.returncode, complaints) == (0, [])
    else:
        unknown = ("RestartSteps", "RestartMaxDelaySec", "DelegateSubgroup")
        assert [line for line in complaints if not any(f"Unknown key '{key}'" in line for key in unknown)] == []


def test_the_exposure_is_one_and_a_half_or_better(guest: Guest) -> None:
    assert exposure(guest.run("systemd-analyze", "security", "--no-pager", "llamad.service")) <= 1.5


@pytest.mark.parametrize("example", ["writable-executable-memory", "models-elsewhere", "proxy", "accelerator"])
def test_each_drop_in_example_is_understood(guest: Guest, example: str) -> None:
    share = "/usr/local/share" if guest.suite == "bookworm" else "/usr/share"
    text = guest.run("cat", f"{share}/doc/llamad/examples/{example}.conf")
    place = f"/etc/systemd/system/llamad.service.d/{example}.conf"
    guest.machine.write(place, text)
    try:
        guest.run("systemctl", "daemon-reload")
        done = guest.machine.run("systemd-analyze", "verify", guest.show("FragmentPath"), check=False)
        assert example not in done.stdout + done.stderr
        guest.configure({"one": fake_server()})
        guest.start()
    finally:
        guest.machine.remove(place)


def test_the_sandbox_holds_for_a_server(guest: Guest) -> None:
    guest.run("sh", "-c", "mkdir -p /home/lab; echo x >/home/lab/secret; echo x >/root/secret; chmod -R a+rX /home/lab")
    guest.run("sh", "-c", "test -e /dev/lab || mknod -m 666 /dev/lab c 1 11; : </dev/lab")
    guest.machine.write(PROBE, SCRIPT.replace("TRIES.items()", f"{TRIES!r}.items()"), 0o755)
    guest.configure({"one": {**fake_server(), "llama_server": PROBE}})
    guest.start()
    line = next(one for one in guest.messages("LLAMAD_SERVER=one").splitlines() if "probe: " in one)
    result = json.loads(line.split("probe: ", 1)[1])
    assert set(result) == set(TRIES)
    assert {name: how for name, how in result.items() if not how.startswith("refused")} == {}


def test_a_server_is_no_easier_prey_than_the_rest_and_dumps_no_core(guest: Guest) -> None:
    """llamad itself is kept from the OOM killer; its servers, which hold the memory, are not. (Not every host lets a
    container lower the score, so the unit's word has to do for llamad.)
    """
    guest.configure({"one": fake_server()})
    guest.start()
    pid = guest.replica("one")["pid"]
    assert guest.show("OOMScoreAdjust") == "-500"
    assert int(guest.run("cat", f"/proc/{pid}/oom_score_adj")) >= 0
    limits = guest.run("cat", f"/proc/{pid}/limits").splitlines()
    assert next(line.split()[4] for line in limits if line.startswith("Max core file size")) == "0"
    environment = guest.run("cat", f"/proc/{pid}/environ")
    assert not [name for name in ("NOTIFY_SOCKET", "LISTEN_", "WATCHDOG_") if name in environment]


def test_each_server_has_a_control_group_of_its_own(guest: Guest) -> None:
    guest.configure({"one": fake_server(), "two": fake_server(replicas=2)})
    guest.start()
    groups = {}
    for name, index in (("one", 0), ("two", 0), ("two", 1)):
        pid = guest.server(name)["replicas"][index]["pid"]
        groups[name, index] = guest.run("cat", f"/proc/{pid}/cgroup").strip().rpartition("/")[2]
    assert len(set(groups.values())) == 3
    assert all(f"srv-{name}" in group for (name, _), group in groups.items())
