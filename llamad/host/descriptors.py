"""File descriptors: how many this process may have, and how many of them are connections.

Supervision (probes, pidfds, log pipes, starts, the control socket, files that are read) must never lack one because
clients have them all: connections get what is left beside what supervision may need at most.
"""

import errno
import resource

MOST = 1 << 19
"""More descriptors than this are of no use, whatever the hard limit says."""
_LACKS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
_OWN = 96
"""For what there is once: stdio, the loop, the journal, watches, listening sockets, files and starts under way."""
_A_REPLICA = 8
"""Log pipe, pidfd and probes of a replica, and of the one that replaces it."""
_CONTROL = 256
"""Connections to the control socket at most."""


def raise_limit() -> int:
    """Raise the soft limit of descriptors to the hard one (select(2), for which the soft one is kept low, is not used
    here). Returns the soft limit that there was: children get it back.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return soft


def own_limit() -> int:
    """How many descriptors this process may have."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST if soft == resource.RLIM_INFINITY else soft


def control_connections(limit: int) -> int:
    """How many clients of the control socket there may be at once, of `limit` descriptors."""
    return max(4, min(_CONTROL, limit // 16))


def client_connections(limit: int, replicas: int) -> int:
    """How many clients a gateway before `replicas` may have at once, of `limit` descriptors: each may need a second
    descriptor, for a connection to its server.
    """
    left = limit - _OWN - control_connections(limit) - _A_REPLICA * replicas
    return max(8, left * 16 // 35)  # a sixteenth more are told that there are too many, an eighth more idle


def is_lack(error: OSError) -> bool:
    """Whether `error` is the lack of something on this machine (descriptors, memory, local ports): it says nothing of
    whoever was to be reached.
    """
    return error.errno in _LACKS
