"""How many descriptors there are, and for whom."""

import errno
import subprocess
import sys

import pytest

from llamad.host.descriptors import client_connections, control_connections, is_lack, own_limit

RAISES = """
import resource
from llamad.host.descriptors import own_limit, raise_limit
print(raise_limit(), own_limit(), resource.getrlimit(resource.RLIMIT_NOFILE)[1])
"""


@pytest.mark.parametrize(
    ("soft", "hard", "told"), [(300, 2000, "300 2000 2000"), (500, 500, "500 500 500"), (1024, 4096, "1024 4096 4096")]
)
def test_the_soft_limit_is_raised_to_the_hard_one(soft: int, hard: int, told: str) -> None:
    words = ["prlimit", f"--nofile={soft}:{hard}", sys.executable, "-c", RAISES]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout.split() == told.split()


@pytest.mark.parametrize("limit", [512, 1024, 4096, 65536, 1 << 19])
@pytest.mark.parametrize("replicas", [0, 1, 8])
def test_clients_never_get_what_supervision_may_need(limit: int, replicas: int) -> None:
    clients = client_connections(limit, replicas)
    theirs = 2 * clients + clients // 16 + clients // 8  # with their servers; told that they are too many; idle ones
    assert theirs + control_connections(limit) + 8 * replicas + 96 <= limit
    assert clients >= limit // 5


def test_a_few_are_let_in_however_little_there_is() -> None:
    assert client_connections(64, 100) == 8
    assert control_connections(16) == 4
    assert own_limit() > 64


def test_a_lack_here_is_told_from_a_refusal_there() -> None:
    assert is_lack(OSError(errno.EMFILE, ""))
    assert not is_lack(ConnectionRefusedError(errno.ECONNREFUSED, ""))
    assert not is_lack(OSError())
