"""Users by name: how a person knows them, and the one that the service runs as. Root that acts on what another user has
written gives its power up first: it would do whatever that user wants.
"""

import os
import pwd
from pathlib import Path

SERVICE_USER = "llamad"
"""The unit's User=."""


def service_uid() -> int | None:
    """The number of the service's user; None where there is no such user."""
    try:
        return pwd.getpwnam(SERVICE_USER).pw_uid
    except KeyError:
        return None


def user_name(uid: int) -> str:
    """`user NAME`, or what to say of one without a name."""
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:  # not in the database, or not in this user namespace
        return f"the user with id {uid}"


def become_owner_of(folder: Path) -> None:
    """Where this process is root, make it one of the owner of `folder`, for good. Nothing changes where the folder is
    root's own or is not there, and for everyone else. OSError where the kernel refuses: the caller must not go on.
    """
    if os.geteuid() != 0:
        return
    try:
        owner = folder.stat()
    except FileNotFoundError:
        return
    if owner.st_uid == 0:
        return
    try:
        entry = pwd.getpwuid(owner.st_uid)
    except KeyError:  # nobody has that number now
        os.setgroups([])
        group = owner.st_gid
    else:
        os.initgroups(entry.pw_name, entry.pw_gid)
        group = entry.pw_gid
    os.setresgid(group, group, group)
    os.setresuid(owner.st_uid, owner.st_uid, owner.st_uid)
