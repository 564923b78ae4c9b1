"""Binding what is to be listened on, or finding out why it cannot be."""

import errno
import os
import socket
import stat
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

from llamad.config.loader import Loaded
from llamad.config.problems import Problem, ProblemKind
from llamad.gateway.socketunit import UnitSockets
from llamad.host.accept import BACKLOG
from llamad.host.address import UNIX_PATH_LIMIT, Address, TcpAddress, UnixAddress
from llamad.host.files import status
from llamad.host.keepalive import watch_peer

UNIX_MODE = 0o660
_UNIQUE = 6
"""Characters that a name needs so that nobody else has it."""
IN_USE = "something else listens there"
NO_UNIT = UnitSockets()
Place = tuple[int, str]
"""A family and an IP address that a host stands for."""
Leaving = Mapping[Address, Sequence[socket.socket]]
"""What is listened on and will soon be closed: the new may have the same port, or the same file."""


def bind(address: Address, places: Iterable[Place], leaving: Leaving, unit: UnitSockets) -> list[socket.socket]:
    """Sockets that listen at `address`: those of llamad.socket where it has them, else new ones. `places` is what a TCP
    address's host stands for (`resolve`). OSError where it cannot be; then nothing is left open.
    """
    if isinstance(address, UnixAddress):
        return [unit.at(socket.AF_UNIX, str(address.path)) or _bind_unix(address.path, leaving)]
    opened: list[socket.socket] = []
    try:
        with _sharing(address.port, leaving) as shared:
            for family, host in places:
                if (given := unit.at(family, (host, address.port))) is not None:
                    opened.append(given)
                    continue
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


def why_not_bound(address: Address, leaving: Leaving, unit: UnitSockets) -> str | None:
    """Why `address` could not be bound now, None where it could. Blocks (a host is looked up); nothing stays open."""
    try:
        if isinstance(address, UnixAddress):
            if (given := unit.at(socket.AF_UNIX, str(address.path))) is None:
                _try_unix(address.path, leaving)
            else:
                given.close()
        else:
            with _sharing(address.port, leaving) as shared:
                for family, host in resolve(address):
                    given = unit.at(family, (host, address.port))
                    (given or _bind_tcp(family, host, address.port, shared=shared)).close()
    except OSError as error:
        return why(error, address, unit)
    return None


def listen_problems(
    loaded: Loaded,
    current: Mapping[Address, Sequence[socket.socket]],
    given_up: Container[int] = (),
    unit: UnitSockets = NO_UNIT,
) -> list[Problem]:
    """What of the `gateway.listen` that was read cannot be listened on. `current` is what is listened on now, or will
    be without being looked at again; `given_up` are ports of our own servers, which will be free. Blocks.
    """
    wanted = () if loaded.config is None else loaded.config.gateway.listen
    leaving = {address: sockets for address, sockets in current.items() if address not in wanted}
    problems = []
    for address, (position, path) in zip(wanted, loaded.listen_at, strict=True):
        reason = None if address in current else why_not_bound(address, leaving, unit)
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


def why(error: OSError, address: Address, unit: UnitSockets) -> str:
    """Why an address cannot be listened on, for a person."""
    match error.errno:
        case errno.EADDRINUSE:
            held = unit.with_port(address)
            return IN_USE if held is None else f"llamad.socket has {held}: name that, or change the socket unit"
        case errno.EACCES | errno.EPERM:
            return "not allowed: a port below 1024 needs CAP_NET_BIND_SERVICE, a socket a writable folder"
        case errno.EADDRNOTAVAIL:
            return "this machine does not have that IP address (yet)"
        case _:
            return error.strerror or str(error)


@contextmanager
def _sharing(port: int, leaving: Leaving) -> Iterator[bool]:
    """Inside the block a socket may be bound, and listen, beside those that have this port and leave; whether there are
    any. It has to share the port too (SO_REUSEPORT of socket(7)), for as long.
    """
    there = (sock for sockets in leaving.values() for sock in sockets)
    same = [sock for sock in there if sock.family != socket.AF_UNIX and sock.getsockname()[1] == port]
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


def _bind_unix(path: Path, leaving: Leaving) -> socket.socket:
    """A socket file left behind by a process that ended is replaced, one that answers is not. Whoever connects finds
    the old or the new.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made = path
    try:
        sock.settimeout(0)
        try:
            sock.bind(str(path))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _replaceable(path, leaving):
                raise
            made = _beside(path)
            sock.bind(str(made))
        made.chmod(UNIX_MODE)
        sock.listen(BACKLOG)
        made.replace(path)
    except OSError:
        sock.close()
        if made != path:
            made.unlink(missing_ok=True)
        raise
    return sock


def _beside(path: Path) -> Path:
    """A name in the same folder that is not in use; with a path as long as a socket's may be, the old is removed."""
    name = f".{token_hex(8)}"[: UNIX_PATH_LIMIT - len(os.fsencode(path.parent)) - 1]
    if len(name) >= _UNIQUE:
        return path.with_name(name)
    path.unlink()
    return path


def _try_unix(path: Path, leaving: Leaving) -> None:
    """OSError where no socket could be made at `path`."""
    status(path.parent)  # whether it is there, and its disk answers
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    if os.path.lexists(path) and not _replaceable(path, leaving):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _replaceable(path: Path, leaving: Leaving) -> bool:
    """Whether nobody listens at a socket's file, or what leaves does."""
    seen = path.lstat()
    if not stat.S_ISSOCK(seen.st_mode):
        return False  # connecting to it would be refused just the same
    if any(sockets and _is_file(address, seen) for address, sockets in leaving.items()):
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


def _is_file(address: Address, seen: os.stat_result) -> bool:
    return isinstance(address, UnixAddress) and file_of(address) == (seen.st_dev, seen.st_ino)


def file_of(address: Address) -> tuple[int, int] | None:
    """Which file a unix socket is now: a successor may have put its own there. None where there is none."""
    if isinstance(address, UnixAddress):
        try:
            found = address.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino
    return None
