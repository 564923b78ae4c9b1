"""Users by name, and root that becomes another one for good."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from llamad.host import users
from llamad.host.users import become_owner_of, service_uid, user_name

ROOT = Path(__file__).parents[2]
BECOME = """
import os, sys
from pathlib import Path
from llamad.host.users import become_owner_of
become_owner_of(Path(sys.argv[1]))
print(*os.getresuid(), *os.getresgid(), *os.getgroups())
"""


def become(folder: Path) -> list[int]:
    """The ids and groups of a root process that has become the owner of `folder`."""
    command = [sys.executable, "-c", BECOME, str(folder)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=20)
    return [int(one) for one in done.stdout.split()]


def test_users_have_names() -> None:
    assert user_name(0) == "user root"
    assert user_name(4_000_000_000) == "the user with id 4000000000"


def test_the_services_user_need_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "SERVICE_USER", "root")
    assert service_uid() == 0
    monkeypatch.setattr(users, "SERVICE_USER", "no-such-user")
    assert service_uid() is None


def test_who_is_not_root_stays_who_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    become_owner_of(tmp_path)
    assert os.getuid() == os.getresuid()[1]


def test_nothing_changes_for_what_is_not_there(tmp_path: Path) -> None:
    before = os.getresuid()
    become_owner_of(tmp_path / "none")
    assert os.getresuid() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="root is needed to give its power up")
@pytest.mark.parametrize("owner", [0, pwd.getpwnam("nobody").pw_uid, 4711])
def test_root_becomes_the_owner_with_nothing_left_of_root(owner: int, tmp_path: Path) -> None:
    os.chown(tmp_path, owner, 4712)
    ids = become(tmp_path)
    assert ids[:3] == [owner] * 3
    if owner == 4711:
        assert ids[3:] == [4712] * 3
    if owner:
        assert 0 not in ids
