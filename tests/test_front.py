"""The gateway as a part of the daemon: its keys (how it listens and drains: tests/gateway, test_service)."""

from hashlib import sha256

import pytest

from llamad.front import changed_keys
from llamad.gateway.keys import NO_KEYS, NOBODYS_KEYS, Keys


def keys(**by_name: str) -> Keys:
    return Keys({sha256(key.encode()).digest(): name for name, key in by_name.items()})


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (keys(a="1", b="2"), keys(b="2", a="1"), None),
        (keys(a="1", bob="2", c="3"), keys(a="1", alice="4", c="5"), "+alice -bob ~c"),
        (keys(a="1", b="2"), keys(a="2", b="1"), "~a ~b"),
        (NO_KEYS, keys(a="1"), "+a"),
        (keys(a="1"), NO_KEYS, "-a"),
        (NOBODYS_KEYS, keys(a="1"), "+a"),
        (
            NO_KEYS,
            keys(**{f"k{n:02}": str(n) for n in range(23)}),
            " ".join(f"+k{n:02}" for n in range(20)) + " and 3 more",
        ),
    ],
)
def test_which_keys_changed_is_told_by_their_names(old: Keys, new: Keys, words: str | None) -> None:
    assert list(changed_keys(old, new)) == ([] if words is None else [f"gateway: the API keys changed: {words}"])
