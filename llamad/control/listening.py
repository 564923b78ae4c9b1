"""The control socket itself: made with its owner and mode before anyone can connect, served, and taken away again."""

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from aiohttp import web

from llamad.control.peers import GROUP
from llamad.errors import LlamadError
from llamad.host.accept import Acceptor
from llamad.host.address import UNIX_PATH_LIMIT
from llamad.host.descriptors import control_connections, own_limit

log = logging.getLogger(__name__)

IDLE_TIMEOUT = 30.0
LAST_ANSWERS = 0.5
"""Seconds that an answer may still take when llamad ends."""
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
    b'{"error": {"message": "too many clients are connected to the control socket", "hint": "end those that follow'
    b' logs or status", "exit_code": 69}}\n'
)


class Connection(web.RequestHandler):
    """One client. Whatever aiohttp itself refuses (a head that is no HTTP) is answered as JSON too."""

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Turn one client too many away at once."""
        super().connection_made(transport)
        manager = self._manager
        if manager is not None and len(manager.connections) > control_connections(own_limit()):
            transport = cast(asyncio.WriteTransport, transport)  # uvloop's are, and do not say so
            transport.write(_BUSY)
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to a request that is no HTTP, and to one that met a bug of ours; the connection ends after it."""
        if request.writer.output_size:
            raise ConnectionError("the answer has begun, and cannot become another one")
        if status >= 500:
            log.error(
                "the control socket failed at %s %s", request.method, request.path, exc_info=exc, extra={"event": "bug"}
            )
            body: dict[str, str | None] = {
                "message": "llamad met a bug; its log has the traceback",
                "hint": "journalctl -u llamad",
            }
        else:
            reason = (message or "bad request").splitlines()[0].rstrip(" :")
            body = {"message": f"this is no HTTP request: {reason}", "hint": None}
        answer = web.json_response({"error": {**body, "exit_code": 1}}, status=status)
        answer.force_close()
        return answer


@asynccontextmanager
async def serving(app: web.Application, sock: socket.socket) -> AsyncIterator[None]:
    """Serve `app` on a bound unix socket for the time of the block. At its end the clients are let go: what they
    asked for and is not answered within LAST_ANSWERS is cut off, streams are at once.
    """
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=LAST_ANSWERS)
    await runner.setup()
    try:
        manager = runner.server
        assert manager is not None
        loop = asyncio.get_running_loop()

        def connection() -> Connection:
            return Connection(
                manager,
                loop=loop,
                access_log=None,  # type: ignore[arg-type]  # what AppRunner hands on to turn it off
                keepalive_timeout=IDLE_TIMEOUT,
                lingering_time=1.0,
                read_bufsize=4096,
                auto_decompress=False,  # a body that is compressed is not JSON, and refused as such
            )

        acceptor = Acceptor(sock, connection)
        try:
            yield
        finally:
            await acceptor.close()
    finally:
        await runner.cleanup()


@contextlib.contextmanager
def control_socket(path: Path, *, group: int | None) -> Iterator[tuple[socket.socket, int | None]]:
    """A bound socket at `path` and the group whose members may connect: mode 0660 and `group` where the file has that
    group or can be given to it, else 0600 and None, with a line in the log. The folder is made (0700) where only it is
    missing; a stale socket is replaced. LlamadError where another llamad answers there, or where the path cannot be
    used. At the end the socket is gone.
    """
    if len(os.fsencode(path)) > UNIX_PATH_LIMIT:
        raise LlamadError(
            f"the control socket's path is too long: {path}",
            hint=f"at most {UNIX_PATH_LIMIT} bytes; set control.socket",
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        try:
            _make_folder(path)
            _remove_stale(path)
            os.fchmod(sock.fileno(), 0o600)  # the file is made with it: never open to others, not for an instant
            sock.bind(str(path))
            granted = _grant(path, group)
            inode = path.stat().st_ino
        except OSError as error:
            raise LlamadError(
                f"cannot make the control socket {path}: {error.strerror}", hint="set control.socket to another path"
            ) from error
        try:
            yield sock, granted
        finally:
            _remove_own(path, inode)


def _remove_own(path: Path, inode: int) -> None:
    """Unless a llamad that came after this one has its own there. One that stays is replaced by the next llamad."""
    try:
        if path.stat().st_ino == inode:
            path.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        log.info("cannot remove %s: %s", path, error.strerror, extra={"event": "control-socket"})


def _make_folder(path: Path) -> None:
    """The socket's own folder and no other: what else is missing is more likely a slip of the pen than wanted."""
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
    except FileNotFoundError:
        raise LlamadError(
            f"cannot make the control socket {path}: there is no folder {path.parent.parent}",
            hint="make it, or set control.socket to another path",
        ) from None


def _remove_stale(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise LlamadError(f"{path} is there and is no socket", hint="remove it, or set control.socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        reason = probe.connect_ex(str(path))
    if reason != errno.ECONNREFUSED:  # it answers, or its queue is full, or it is not ours to ask
        raise LlamadError(f"another llamad listens on {path}", hint="stop it, or set control.socket to another path")
    path.unlink()


def _grant(path: Path, group: int | None) -> int | None:
    """Let the members of `group` connect; the group, or None where only the own user (and root) may. The file is made
    with the group of this process, which in the unit is the right one: there the sandbox forbids every chown.
    """
    if group is None:
        return None
    if path.stat().st_gid != group:
        try:
            os.chown(path, -1, group)
        except OSError as error:
            expected = isinstance(error, PermissionError) and group not in (os.getegid(), *os.getgroups())
            log.log(
                logging.INFO if expected else logging.WARNING,
                "members of group %s cannot control this llamad: %s cannot be given to the group: %s",
                *(GROUP, path, error.strerror),
                extra={"event": "control-group"},
            )
            return None
    path.chmod(0o660)
    return group
