"""Who may control llamad."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamad.control import peers
from llamad.control.peers import Peer, group_id, how_to_be_allowed, may_control, peer_of


@pytest.fixture
def pair() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours


@pytest.mark.parametrize(
    ("uid", "groups", "group", "may"),
    [
        (0, set(), None, True),
        (990, set(), None, True),
        (1000, set(), None, False),
        (1000, {1000, 27}, 991, False),
        (1000, {1000, 991}, 991, True),
        (65534, {991}, 991, True),
        (1000, {991}, None, False),
    ],
)
def test_root_the_own_user_and_the_groups_members_may(
    uid: int, groups: set[int], group: int | None, *, may: bool
) -> None:
    assert may_control(Peer(1, uid, frozenset(groups)), uid=990, group=group) is may


def test_the_kernel_says_who_it_is(pair: socket.socket) -> None:
    peer = peer_of(pair.fileno())
    assert (peer.pid, peer.uid) == (os.getpid(), os.geteuid())
    assert {os.getegid(), *os.getgroups()} == set(peer.groups)


def test_the_connection_stays_open(pair: socket.socket) -> None:
    peer_of(pair.fileno())
    pair.send(b"x")


def test_an_old_kernel_leaves_the_groups_to_the_database(pair: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_SO_PEERGROUPS", 9999)
    assert os.getegid() in peer_of(pair.fileno()).groups


def test_a_user_that_is_in_no_database_has_no_more_groups(pair: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(peers, "_SO_PEERGROUPS", 9999)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert peer_of(pair.fileno()).groups == {os.getegid()}


def test_a_peer_is_named_where_it_has_a_name() -> None:
    assert str(Peer(1, 0, frozenset())) == "user root (uid 0)"
    assert str(Peer(1, 4_000_000_000, frozenset())) == "uid 4000000000"


def test_llamads_group_need_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "GROUP", "root")
    assert group_id() == 0
    monkeypatch.setattr(peers, "GROUP", "no-such-group")
    assert group_id() is None


@pytest.mark.parametrize(
    ("group", "kernel", "database", "words"),
    [
        (None, [], [], "use sudo, or ask as the user who runs llamad"),
        (991, [27], [27], "add yourself to group llamad: sudo usermod -aG llamad $USER, then log in again"),
        (991, [27], [27, 991], "this login is older than that: log in again, or run: newgrp llamad"),
        (991, [27, 991], [27, 991], "it may not use /run/x.sock: see journalctl -u llamad"),
    ],
)
def test_who_is_kept_out_is_told_what_helps(
    monkeypatch: pytest.MonkeyPatch, group: int | None, kernel: list[int], database: list[int], words: str
) -> None:
    """A member was told to become one."""
    monkeypatch.setattr(peers, "group_id", lambda: group)
    monkeypatch.setattr("os.getegid", lambda: 1000)
    monkeypatch.setattr("os.getgroups", lambda: kernel)
    monkeypatch.setattr("os.getgrouplist", lambda _name, _gid: database)
    assert words in how_to_be_allowed(Path("/run/x.sock"))
