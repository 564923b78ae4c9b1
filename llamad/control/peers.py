"""Who is at the other end of a unix socket, and whether they may be.

The socket's mode already keeps others out; this check holds also where somebody changed the mode, or where the
descriptor was handed on. `how_to_be_allowed` is for those whom it keeps out.
"""

import grp
import os
import pwd
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

GROUP = "llamad"
"""Members of this group may control llamad."""

_SO_PEERGROUPS = 59  # asm-generic/socket.h, Linux 4.13; the socket module does not name it
_UCRED = struct.Struct("=iII")
_GID = struct.Struct("=I")


@dataclass(frozen=True, slots=True)
class Peer:
    """A process as the kernel saw it when it connected. `groups` holds the primary and the supplementary ones."""

    pid: int
    uid: int
    groups: frozenset[int]

    def __str__(self) -> str:
        try:
            return f"user {pwd.getpwuid(self.uid).pw_name} (uid {self.uid})"
        except KeyError:  # not in this user namespace, or not in the database
            return f"uid {self.uid}"


def peer_of(connection: int) -> Peer:
    """The peer of a connected unix socket, by its file descriptor (SO_PEERCRED and SO_PEERGROUPS of unix(7)).

    The supplementary groups come from the kernel, since inside systemd's PrivateUsers= the peer's user is nobody, but
    the service's own group keeps its number; where the kernel cannot tell, from the group database.
    """
    with socket.socket(fileno=os.dup(connection)) as sock:
        pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        try:
            packed = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1024)
        except OSError:
            return Peer(pid, uid, frozenset({gid, *_groups_of(uid, gid)}))
    return Peer(pid, uid, frozenset({gid, *(one for (one,) in _GID.iter_unpack(packed))}))


def _groups_of(uid: int, gid: int) -> list[int]:
    try:
        return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:
        return []


def may_control(peer: Peer, *, uid: int, group: int | None) -> bool:
    """Whether `peer` is root, `uid` (llamad's own user), or in `group` (the socket's, if members of it may)."""
    return peer.uid in (0, uid) or (group is not None and group in peer.groups)


def group_id() -> int | None:
    """The number of llamad's group; None where there is no such group."""
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return None


def how_to_be_allowed(path: Path) -> str:
    """What this process, which may not connect to the socket at `path`, has to do."""
    group, uid = group_id(), os.geteuid()
    if group is None:
        return "use sudo, or ask as the user who runs llamad"
    if group in (os.getegid(), *os.getgroups()):
        return f"you are in group {GROUP}, but it may not use {path}: see journalctl -u llamad; until then, use sudo"
    if group in _groups_of(uid, os.getgid()):
        return f"you are in group {GROUP}, but this login is older than that: log in again, or run: newgrp {GROUP}"
    return f"add yourself to group {GROUP}: sudo usermod -aG {GROUP} $USER, then log in again; or use sudo"
