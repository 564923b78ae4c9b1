"""File descriptors that systemd handed over at the start: its fd store's and socket units' (sd_listen_fds(3))."""

import fcntl
import logging
import os
from collections.abc import Iterable

from llamad.host.notify import SystemdEnvironment

FIRST = 3
"""The first descriptor that may be handed over (SD_LISTEN_FDS_START)."""
LIMIT = 4096
"""More than this is refused; the unit's FileDescriptorStoreMax."""
UNNAMED = "unknown"
"""The name of a descriptor that came without one, as systemd spells it."""

log = logging.getLogger(__name__)


def received(env: SystemdEnvironment, *, pid: int, first: int = FIRST) -> dict[str, list[int]]:
    """What was handed over to this process, by name and in order; children will not inherit it. `pid` is this
    process's. What is meant for another process or makes no sense is refused with one log line. The caller owns the
    descriptors from here on; what it does not know it gives to `close_all`.
    """
    if env.listen_fds is None:
        return {}
    if env.listen_pid != str(pid):
        log.warning("file descriptors are not taken: LISTEN_PID is %s and not %d", env.listen_pid or "unset", pid)
        return {}
    if not (env.listen_fds.isascii() and env.listen_fds.isdigit() and int(env.listen_fds) <= LIMIT):
        log.warning("file descriptors are not taken: LISTEN_FDS is %r", env.listen_fds)
        return {}
    count = int(env.listen_fds)
    names = env.listen_fdnames.split(":") if env.listen_fdnames and count else [UNNAMED] * count
    if len(names) != count:
        log.warning("the names of the file descriptors are ignored: LISTEN_FDNAMES has %d for %d", len(names), count)
        names = [UNNAMED] * count
    found: dict[str, list[int]] = {}
    for fd, name in enumerate(names, first):
        try:
            fcntl.fcntl(fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        except OSError as error:
            log.warning("file descriptor %d (%s) is not taken: %s", fd, name, error.strerror)
            continue
        found.setdefault(name, []).append(fd)
    return found


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors that nobody claims; one that is closed already is passed over."""
    for fd in fds:
        try:
            os.close(fd)
        except OSError as error:
            log.debug("file descriptor %d cannot be closed: %s", fd, error.strerror)
