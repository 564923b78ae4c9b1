"""Log records as journal entries with fields, by journald's native protocol (systemd's JOURNAL_NATIVE_PROTOCOL)."""

import errno
import fcntl
import logging
import os
import re
import select
import socket
import struct
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

from llamad.host.logrecord import fields_of, message_of, notice_of_loss, traceback_of

JOURNAL_SOCKET = Path("/run/systemd/journal/socket")
IDENTIFIER = "llamad"
PATIENCE = 0.1
"""Seconds a log line may wait for a busy journal before it is dropped and counted."""

_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_FIELD_NAME_LIMIT = 64
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def priority(level: int) -> int:
    """The syslog priority (syslog(3)) of a logging level."""
    return next((number for least, number in _PRIORITIES if level >= least), 7)


def field_name(name: str) -> str:
    """The journal's name of a structured field: `server` becomes `LLAMAD_SERVER`."""
    return ("LLAMAD_" + re.sub(r"[^A-Z0-9_]", "_", name.upper()))[:_FIELD_NAME_LIMIT]


def entry_of(record: logging.LogRecord) -> dict[str, str]:
    """The journal fields of a record. MESSAGE begins with the server's name, where there is one: it is all that a
    plain `journalctl` shows.
    """
    fields = fields_of(record)
    message = message_of(record)
    traceback = traceback_of(record)
    if traceback is not None:
        message += "\n" + traceback
    entry = {
        "MESSAGE": f"{fields['server']}: {message}" if "server" in fields else message,
        "PRIORITY": str(priority(record.levelno)),
        "SYSLOG_IDENTIFIER": IDENTIFIER,
    }
    return entry | {field_name(name): str(value) for name, value in fields.items()}


def encode(entry: Mapping[str, str]) -> bytes:
    """One datagram: `KEY=value`, or the length before a value of several lines."""
    out = bytearray()
    for name, value in entry.items():
        data = value.encode()
        if b"\n" in data:
            out += name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
        else:
            out += name.encode() + b"=" + data + b"\n"
    return bytes(out)


class JournalHandler(logging.Handler):
    """Sends records to journald. Never raises and never blocks for longer than PATIENCE: what the journal does not
    take is dropped and counted, and the count is logged with the next record that it takes. The constructor raises
    OSError where there is no journal.
    """

    def __init__(self, path: Path = JOURNAL_SOCKET) -> None:
        super().__init__()
        self._path = path
        self._lost = 0
        self._socket: socket.socket | None = self._connect()

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        patience = 0.0 if self._lost else PATIENCE  # a journal that hangs costs one wait, not one a line
        if self._lost and self._send(encode(entry_of(notice_of_loss(self._lost))), patience):
            self._lost = 0
        if self._lost or not self._send(encode(entry_of(record)), patience):
            self._lost += 1

    def close(self) -> None:
        """Let go of the socket."""
        with self.lock or nullcontext():
            self._drop_socket()
        super().close()

    def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            sock.connect(str(self._path))
        except OSError:
            sock.close()
            raise
        return sock

    def _drop_socket(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, data: bytes, patience: float) -> bool:
        deadline = time.monotonic() + patience
        reconnected = False
        while True:
            try:
                if self._socket is None:
                    self._socket = self._connect()
                    reconnected = True
                _deliver(self._socket, data)
            except BlockingIOError:
                if self._socket is None or not _wait_writable(self._socket, deadline):
                    return False
            except OSError:
                self._drop_socket()
                if reconnected:
                    return False
                reconnected = True  # once: journald may have been started anew
            else:
                return True


def _deliver(sock: socket.socket, data: bytes) -> None:
    """Send one entry; through a sealed memory file where it is too large for a datagram."""
    try:
        sock.send(data)
    except OSError as error:
        if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
            raise
        with open(os.memfd_create("llamad-journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "wb") as file:
            file.write(data)
            file.flush()
            fcntl.fcntl(file.fileno(), fcntl.F_ADD_SEALS, _SEALS)
            socket.send_fds(sock, [b""], [file.fileno()])


def _wait_writable(sock: socket.socket, deadline: float) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000)) and time.monotonic() < deadline
