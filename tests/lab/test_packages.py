"""Install, upgrade, remove and purge, on machines of their own."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.guest import Guest, bare_guest, fake_server, install, put_checkout
from tests.lab.installed import CONF, DROP_IN, SERVICE, SHIPPED_CONFIG
from tests.lab.machine import until
from tests.lab.roots import REPOSITORY

pytestmark = pytest.mark.lab

MODEL = "/var/lib/llamad/models/precious.gguf"
FETCHED = "/var/cache/llamad/org_name_fetched.gguf"
FOLDERS = ("/var/lib/llamad", "/var/cache/llamad")


@pytest.fixture(params=["forky", "trixie"])
def fresh(request: pytest.FixtureRequest, lab: None) -> Iterator[Guest]:
    """A machine without llamad."""
    with bare_guest(request.param) as guest:
        yield guest


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of this checkout under a later version number."""
    checkout = tmp_path_factory.mktemp("newer")
    for folder in ("llamad", "packaging", "systemd"):
        shutil.copytree(REPOSITORY / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__"))
    version = checkout / "llamad/__init__.py"
    version.write_text(version.read_text().replace('__version__ = "', '__version__ = "99.'))
    subprocess.run([checkout / "packaging/build-deb"], check=True, capture_output=True)
    return next((checkout / "dist").glob("llamad_99.*.deb"))


def files_named_llamad(guest: Guest) -> set[str]:
    """Every file with the name, the lab's own apart."""
    roots = ["/etc", "/usr", "/opt", "/var/lib/llamad", "/var/cache/llamad", "/run/llamad", "/var/lib/systemd"]
    found = guest.machine.run("find", *roots, "-path", "*llamad*", check=False).stdout.split()
    return {path for path in found if "lab" not in path.replace("llamad", "") and not path.endswith("~")}


def test_installed_upgraded_removed_and_purged(fresh: Guest, deb: Path, newer: Path) -> None:
    guest = fresh
    before = files_named_llamad(guest)
    install(guest, deb)
    assert guest.show("ActiveState") == "active"
    assert guest.run("systemctl", "is-enabled", SERVICE).strip() == "enabled"
    assert guest.run("llamad", "--version").strip().endswith(deb.name.split("_")[1])

    guest.configure({"one": fake_server()})
    pid = guest.wait_ready("one")["pid"]
    edited = f"{guest.run('cat', SHIPPED_CONFIG)}\n# edited by the operator\n"
    guest.machine.write(SHIPPED_CONFIG, edited)
    guest.run("llamad", "reload", "--wait")
    old_main = guest.main_pid
    install(guest, newer)
    until(lambda: guest.main_pid not in (0, old_main) and guest.show("ActiveState") == "active", "the new one is up")
    assert guest.wait_ready("one")["pid"] == pid
    assert guest.status()["version"].startswith("99.")
    assert guest.run("cat", SHIPPED_CONFIG) == edited

    guest.run("dpkg", "--remove", "llamad")
    assert guest.processes() == {}
    assert guest.machine.exists(CONF)
    install(guest, newer)
    assert guest.show("ActiveState") == "active", "removed and installed, it runs as after the first installation"
    assert guest.run("systemctl", "is-enabled", SERVICE).strip() == "enabled"
    guest.wait_ready("one")

    for path in (MODEL, FETCHED):
        guest.machine.write(path, b"GGUF")
        guest.run("chown", "llamad:llamad", path)
    guest.drop_in(TimeoutStartSec="60s")
    guest.run("dpkg", "--remove", "llamad")
    purged = guest.machine.run("dpkg", "--purge", "llamad")
    assert [f"models are left in {folder}" in purged.stderr for folder in FOLDERS] == [True, True]
    left = files_named_llamad(guest) - before
    assert left == {*FOLDERS, "/var/lib/llamad/models", MODEL, FETCHED, str(Path(DROP_IN).parent)}
    assert guest.machine.exists(DROP_IN)
    assert guest.code("getent", "passwd", "llamad") != 0
    assert guest.code("getent", "group", "llamad") != 0
    assert guest.run("stat", "-c", "%U", MODEL, FETCHED).split() == ["root", "root"]

    install(guest, deb)
    assert guest.show("ActiveState") == "active"
    assert guest.run("stat", "-c", "%U", MODEL, FETCHED).split() == ["llamad", "llamad"]


def test_what_was_disabled_stays_so_over_a_removal(fresh: Guest, deb: Path) -> None:
    install(fresh, deb)
    fresh.run("systemctl", "disable", "--now", SERVICE)
    fresh.run("dpkg", "--remove", "llamad")
    install(fresh, deb)
    assert fresh.show("ActiveState") == "inactive"
    assert fresh.run("systemctl", "is-enabled", SERVICE, check=False).strip() == "disabled"


def test_an_upgrade_respects_a_stopped_and_disabled_service(fresh: Guest, deb: Path, newer: Path) -> None:
    install(fresh, deb)
    fresh.run("systemctl", "disable", "--now", SERVICE)
    install(fresh, newer)
    assert fresh.show("ActiveState") == "inactive"
    assert fresh.run("systemctl", "is-enabled", SERVICE, check=False).strip() == "disabled"


def test_an_upgrade_with_a_broken_file_leaves_the_old_one_running(fresh: Guest, deb: Path, newer: Path) -> None:
    install(fresh, deb)
    fresh.configure({"one": fake_server()})
    pid, main = fresh.wait_ready("one")["pid"], fresh.main_pid
    fresh.machine.write(CONF, "servers: [\n")
    install(fresh, newer)
    assert (fresh.main_pid, fresh.replica("one")["pid"]) == (main, pid)


@pytest.fixture
def oldest(lab: None) -> Iterator[Guest]:
    """A Debian that has not the Python packages, without llamad."""
    with bare_guest("bookworm") as guest:
        yield guest


def test_the_install_script_installs_upgrades_and_uninstalls(oldest: Guest) -> None:
    guest = oldest
    before = files_named_llamad(guest)
    install(guest, None)
    assert guest.show("ActiveState") == "active"
    guest.configure({"one": fake_server()})
    pid, old_main = guest.wait_ready("one")["pid"], guest.main_pid
    version = guest.machine.files / "root/llamad/llamad/__init__.py"
    put_checkout(guest)
    version.write_text(version.read_text().replace('__version__ = "', '__version__ = "99.'))
    guest.run("/root/llamad/packaging/install", "--wheels", "/root/wheels", timeout=120)
    until(lambda: guest.main_pid not in (0, old_main) and guest.show("ActiveState") == "active", "the new one is up")
    assert guest.wait_ready("one")["pid"] == pid
    assert guest.status()["version"].startswith("99.")

    guest.run("systemctl", "disable", "--now", SERVICE)
    guest.run("/root/llamad/packaging/install", "--wheels", "/root/wheels", timeout=120)
    assert guest.show("ActiveState") == "inactive", "an upgrade starts nothing that the operator has stopped"
    assert guest.run("systemctl", "is-enabled", SERVICE, check=False).strip() == "disabled"

    for path in (MODEL, FETCHED):
        guest.machine.write(path, b"GGUF")
    guest.drop_in(TimeoutStartSec="60s")
    assert "/etc/llamad" in guest.run("/root/llamad/packaging/install", "--uninstall")
    assert guest.processes() == {}
    assert guest.machine.exists(CONF)
    guest.run("/root/llamad/packaging/install", "--uninstall", "--purge")
    kept = {*FOLDERS, "/var/lib/llamad/models", MODEL, FETCHED, str(Path(DROP_IN).parent)}
    assert files_named_llamad(guest) - before == kept
    assert guest.machine.exists(DROP_IN)
    assert guest.code("getent", "passwd", "llamad") != 0


def test_lintian_has_nothing_to_say(deb: Path) -> None:
    if shutil.which("lintian") is None:
        pytest.skip("lintian is missing: sudo ./packaging/test --system")
    done = subprocess.run(
        [
            "lintian",
            "--no-cfg",
            "--display-info",
            "--pedantic",
            "--fail-on=error,warning,info,pedantic",
            deb,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")
