"""A look at the program, the files and the port: before a start, what would fail anyway is named without trying, and
after an end without a word, what can be seen of its cause.
"""

import errno
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

from llamad.config.filefaults import file_fault
from llamad.config.optionfiles import Use
from llamad.host.address import Address, TcpAddress
from llamad.host.files import status
from llamad.servers.board import Failure
from llamad.servers.causes import quoted
from llamad.servers.command import Launch

LDD_TIMEOUT = 10.0
_LISTEN_HINTS = {
    errno.EADDRINUSE: "another program has the port: `ss -ltnp` names it; without port: llamad uses a private socket",
    errno.EADDRNOTAVAIL: "no interface of this host has that address: correct host",
    errno.EACCES: "a port below 1024 needs CAP_NET_BIND_SERVICE: use a higher one",
}
_HINTS = {
    "missing": "put it there, or correct what names it",
    "unreadable": "look at the disk",
    "corrupt": "fetch it again",
}
_NOT_EXECUTABLE = "is not executable"
_CHMOD = "chmod +x it, if it is llama-server"


def inspect(launch: Launch) -> Failure | None:
    """Why a start is pointless, or None. It reads the disk: call it in a thread."""
    if (there := _fault_of(launch.binary)) is not None:
        hint = _CHMOD if there == _NOT_EXECUTABLE else "install it there, or correct llama_server"
        return _permanent("binary-missing", f"{launch.binary} {there}", hint)
    for named in launch.files:
        fault = file_fault(named, os.environ)
        if fault is not None:
            what, whose = ("the model ", "model") if named.use is Use.MODEL else ("", "file")
            advice = fault.hint or _HINTS.get(fault.kind)
            return Failure(f"{whose}-{fault.kind}", what + fault.message, advice, permanent=not fault.passing)
    return None


def _fault_of(binary: Path) -> str | None:
    try:
        found = status(binary)
    except FileNotFoundError:
        return "is not there"
    except OSError as error:
        return f"cannot be looked at: {error.strerror}"
    if stat.S_ISDIR(found.st_mode):
        return "is a folder, not a program"
    return None if os.access(binary, os.X_OK) else _NOT_EXECUTABLE


def examine(launch: Launch, address: Address, environ: Mapping[str, str]) -> Failure | None:
    """What can be seen of the cause of a start that ended without a word, or None. `address` is where it was to listen,
    `environ` what it inherits. It reads the disk and runs ldd(1): call it in a thread.
    """
    return inspect(launch) or _examine_port(address) or _examine_libraries(launch, environ)


def _examine_port(address: Address) -> Failure | None:
    """Whether a server can listen there now."""
    if not isinstance(address, TcpAddress):
        return None
    try:
        ((family, kind, protocol, _, name), *_) = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM
        )
        with socket.socket(family, kind, protocol) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(name)
            one.listen(1)
    except OSError as error:
        hint = _LISTEN_HINTS.get(error.errno or 0)
        if hint is None:
            return None  # what fails for llamad itself (no descriptor) says nothing of it
        why = f"it cannot listen on {address.host}, port {address.port}: {error.strerror}"
        return Failure("port-taken", why, hint)
    return None


def _examine_libraries(launch: Launch, environ: Mapping[str, str]) -> Failure | None:
    """The first library that its program does not find; a script, or a host without ldd(1), has none to tell of."""
    ldd = shutil.which("ldd", path="/usr/bin:/bin")
    if ldd is None:
        return None
    try:
        done = subprocess.run(
            [ldd, str(launch.binary)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LDD_TIMEOUT,
            env={**environ, **dict(launch.environment)},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):  # then this look tells nothing
        return None
    for line in done.stdout.decode(errors="replace").splitlines():
        library, _, found = line.strip().partition(" => ")
        if found == "not found":
            what = f"llama-server needs the library {quoted(library)}, which is not there"
            hint = "install the package that brings it, or set LD_LIBRARY_PATH in env"
            return _permanent("library-missing", what, hint)
    return None


def _permanent(cause: str, message: str, hint: str) -> Failure:
    return Failure(cause, message, hint, permanent=True)
