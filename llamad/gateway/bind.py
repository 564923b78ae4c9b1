"""Binding what is to be listened on, or finding out why it cannot be."""

import errno
import os
import socket
import stat
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from llamad.config.loader import Loaded
from llamad.config.problems import Problem, ProblemKind
from llamad.host.accept import BACKLOG
from llamad.host.address import Address, TcpAddress, UnixAddress
from llamad.host.keepalive import watch_peer

UNIX_MODE = 0o660
IN_USE = "something else listens there"
Place = tuple[int, str]
"""A family and an IP address that a host stands for."""


def bind(address: Address, places: Iterable[Place], beside: Sequence[socket.socket] = ()) -> list[socket.socket]:
    """Sockets that listen at `address`, non-blocking. `places` is what a TCP address's host stands for (`resolve`).
    OSError where it cannot be; then nothing is left open. `beside` are listening sockets that will soon be closed: one
    of them may have the same port, or the same file.
    """
    if isinstance(address, UnixAddress):
        return [_bind_unix(address.path, beside)]
    opened: list[socket.socket] = []
    try:
        with _sharing(address.port, beside) as shared:
            for family, host in places:
                sock = _bind_tcp(family, host, address.port, shared=shared)
                opened.append(sock)
                sock.listen(BACKLOG)
                if shared:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
    except OSError:
        for sock in opened:
            sock.close()
        raise
    return opened


def why_not_bound(address: Address, beside: Sequence[socket.socket]) -> str | None:
    """Why `address` could not be bound now, None where it could. Blocks (a host is looked up); nothing stays open."""
    try:
        if isinstance(address, UnixAddress):
            _try_unix(address.path, beside)
        else:
            with _sharing(address.port, beside) as shared:
                for family, host in resolve(address):
                    _bind_tcp(family, host, address.port, shared=shared).close()
    except OSError as error:
        return why(error)
    return None


def listen_problems(
    loaded: Loaded, current: Mapping[Address, Sequence[socket.socket]], given_up: Container[int] = ()
) -> list[Problem]:
    """What of the `gateway.listen` that was read cannot be listened on. `current` is what is listened on now, or will
    be without being looked at again; `given_up` are ports of our own servers, which will be free. Blocks.
    """
    wanted = () if loaded.config is None else loaded.config.gateway.listen
    beside = [sock for address, sockets in current.items() if address not in wanted for sock in sockets]
    problems = []
    for address, (position, path) in zip(wanted, loaded.listen_at, strict=True):
        reason = None if address in current else why_not_bound(address, beside)
        soon_free = reason == IN_USE and isinstance(address, TcpAddress) and address.port in given_up
        if reason is not None and not soon_free:
            words = f"cannot listen on {address}: {reason}"
            problems.append(Problem(position, path, words, ProblemKind.WORLD))
    return problems


def resolve(address: TcpAddress) -> list[Place]:
    """What the host of a TCP address stands for. Blocks; OSError where nothing is found."""
    flags = socket.AI_PASSIVE
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys((family, str(where[0])) for family, _, _, _, where in found))


def why(error: OSError) -> str:
    """Why an address cannot be listened on, for a person."""
    match error.errno:
        case errno.EADDRINUSE:
            return IN_USE
        case errno.EACCES | errno.EPERM:
            return "not allowed: a port below 1024 needs CAP_NET_BIND_SERVICE, a socket a writable folder"
        case errno.EADDRNOTAVAIL:
            return "this machine does not have that IP address (yet)"
        case _:
            return error.strerror or str(error)


@contextmanager
def _sharing(port: int, beside: Iterable[socket.socket]) -> Iterator[bool]:
    """Inside the block a socket may be bound, and listen, beside those of `beside` that have this port; whether there
    are any. It has to share the port too (SO_REUSEPORT of socket(7)), for as long.
    """
    same = [sock for sock in beside if sock.family != socket.AF_UNIX and sock.getsockname()[1] == port]
    for sock in same:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        yield bool(same)
    finally:
        for sock in same:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)


def _bind_tcp(family: int, host: str, port: int, *, shared: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        watch_peer(sock)
        sock.settimeout(0)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


def _bind_unix(path: Path, beside: Sequence[socket.socket]) -> socket.socket:
    """A socket file left behind by a process that ended is replaced, one that answers is not."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(0)
        try:
            sock.bind(str(path))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _replaceable(path, beside):
                raise
            path.unlink()
            sock.bind(str(path))
        path.chmod(UNIX_MODE)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _try_unix(path: Path, beside: Sequence[socket.socket]) -> None:
    """OSError where no socket could be made at `path`."""
    path.parent.stat()  # whether it is there
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    if os.path.lexists(path) and not _replaceable(path, beside):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _replaceable(path: Path, beside: Iterable[socket.socket]) -> bool:
    """Whether nobody listens at a socket's file, or one of `beside` does."""
    seen = path.lstat()
    if not stat.S_ISSOCK(seen.st_mode):
        return False  # connecting to it would be refused just the same
    if any(_is_at(sock, seen) for sock in beside):
        return True
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:  # its queue is full, or it is not ours to ask: somebody has it
            return False
    return False


def _is_at(sock: socket.socket, seen: os.stat_result) -> bool:
    if sock.family != socket.AF_UNIX:
        return False
    try:
        bound = os.lstat(sock.getsockname())
    except OSError:  # its file is gone: it is at no path
        return False
    return (bound.st_dev, bound.st_ino) == (seen.st_dev, seen.st_ino)
