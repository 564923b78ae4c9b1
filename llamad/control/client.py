"""The client of the control socket, on the standard library only: it has to start in a moment.

It takes what it is answered as dictionaries (`documents.py` has their shapes), and turns refusals into LlamadErrors.
"""

import errno
import http.client
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from llamad.control.peers import how_to_be_allowed
from llamad.errors import ExitCode, LlamadError, NotAllowedError, UnavailableError
from llamad.host.dirs import directories

Document = dict[str, Any]

SYSTEM_SOCKET = Path("/run/llamad/control.sock")
ANSWER_TIMEOUT = 30.0
"""Seconds for an answer to a question that waits for nothing."""
_IS_IT_RUNNING = "is llamad running? systemctl status llamad; another socket is named by --socket or LLAMAD_SOCKET"


class RefusedError(LlamadError):
    """What the daemon answered instead of doing it: its message, hint, exit code and problem lines."""

    def __init__(self, message: str, *, hint: str | None, exit_code: ExitCode, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint=hint, problems=problems)
        self.exit_code = exit_code


def find_socket(given: Path | None, environ: Mapping[str, str], *, uid: int, system: Path = SYSTEM_SOCKET) -> Path:
    """The daemon's socket: `given` (--socket), else $LLAMAD_SOCKET, else the one in $RUNTIME_DIRECTORY, else that of
    the user's own llamad where there is one, else the system's.
    """
    if given is not None:
        return given
    if named := environ.get("LLAMAD_SOCKET"):
        return Path(named)
    own = directories(environ, uid=uid).control_socket
    if environ.get("RUNTIME_DIRECTORY", "").startswith("/") or (uid != 0 and _is_of(own, uid)):
        return own
    return system


def _is_of(path: Path, uid: int) -> bool:
    """Whether somebody with this uid made it: the fall-back below /tmp could be anybody's."""
    try:
        return path.lstat().st_uid == uid
    except OSError:
        return False


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float | None) -> None:
        super().__init__("llamad")
        self._path = path
        self._timeout = timeout

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self._timeout)
        self.sock.connect(str(self._path))


class Client:
    """Asks the daemon at `path`. Every method raises UnavailableError (69) where it is not there, NotAllowedError (77)
    where it may not be asked, and RefusedError with the daemon's own words and exit code.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, *path: str, **query: str | int | None) -> Document:
        """GET /v1/PATH, answered at once."""
        return self._ask("GET", _target(path, query), timeout=ANSWER_TIMEOUT)

    def post(self, *path: str, wait: bool = False, body: Document | None = None) -> Document:
        """POST /v1/PATH; with `wait` for as long as it takes. A reload may read slow disks: it has no limit either."""
        return self._ask("POST", _target(path, {"wait": 1 if wait else None}), timeout=None, body=body)

    def lines(self, *path: str, **query: str | int | None) -> Iterator[Document]:
        """GET /v1/PATH as a stream of documents, until it ends."""
        with self._exchange("GET", _target(path, query), timeout=None) as answer:
            if answer.status >= 400:
                self._refuse(answer.status, answer.read())
            rest = b""
            while part := answer.read1(65536):
                *whole, rest = (rest + part).split(b"\n")
                for line in whole:
                    document = self._document(line)
                    if "error" in document and isinstance(document["error"], dict):
                        raise _refusal(document["error"])
                    yield document

    def _ask(self, method: str, target: str, *, timeout: float | None, body: Document | None = None) -> Document:
        with self._exchange(method, target, timeout=timeout, body=body) as answer:
            said = answer.read()
        if answer.status >= 400:
            self._refuse(answer.status, said)
        return self._document(said)

    @contextmanager
    def _exchange(
        self, method: str, target: str, *, timeout: float | None, body: Document | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        connection = _UnixConnection(self._path, timeout)
        try:
            connection.request(method, target, body=None if body is None else json.dumps(body).encode())
            with connection.getresponse() as answer:
                yield answer
        except TimeoutError as error:
            raise UnavailableError(
                f"llamad did not answer within {timeout:.0f} s", hint="systemctl status llamad"
            ) from error
        except (http.client.HTTPException, BrokenPipeError, ConnectionResetError) as error:
            raise UnavailableError(
                f"llamad ended the connection on {self._path}", hint="did it end? systemctl status llamad"
            ) from error
        except OSError as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()

    def _unreachable(self, error: OSError) -> LlamadError:
        if error.errno in (errno.EACCES, errno.EPERM):
            return NotAllowedError(f"you may not connect to {self._path}", hint=how_to_be_allowed(self._path))
        why = "there is no such socket" if error.errno == errno.ENOENT else error.strerror or str(error)
        return UnavailableError(f"cannot reach llamad at {self._path}: {why}", hint=_IS_IT_RUNNING)

    def _refuse(self, status: int, body: bytes) -> None:
        document = self._document(body)
        if not isinstance(document.get("error"), dict):
            raise self._stranger(f"status {status}")
        raise _refusal(document["error"])

    def _document(self, body: bytes) -> Document:
        try:
            document = json.loads(body)
        except ValueError:
            raise self._stranger("what it says is no JSON") from None
        if not isinstance(document, dict):
            raise self._stranger("what it says is no JSON object")
        return document

    def _stranger(self, what: str) -> UnavailableError:
        return UnavailableError(f"what answers at {self._path} is no llamad of this version: {what}")


def _target(path: tuple[str, ...], query: Mapping[str, str | int | None]) -> str:
    asked = urlencode({key: value for key, value in query.items() if value is not None})
    return "/v1/" + "/".join(quote(part, safe=",") for part in path) + (f"?{asked}" if asked else "")


def _refusal(error: Document) -> RefusedError:
    try:
        code = ExitCode(error.get("exit_code", ExitCode.FAILED))
    except ValueError:  # of another version
        code = ExitCode.FAILED
    problems = tuple(str(line) for line in error.get("problems") or ())
    return RefusedError(str(error.get("message")), hint=error.get("hint"), exit_code=code, problems=problems)


def own_client(given: Path | None) -> Client:
    """The client for this process's user and environment."""
    return Client(find_socket(given, os.environ, uid=os.geteuid()))


def answers(path: Path) -> bool:
    """Whether a process accepts connections at `path`, as far as this one may see."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            return probe.connect_ex(str(path)) in (0, errno.EAGAIN)
        except OSError:  # a path that no socket can have
            return False
