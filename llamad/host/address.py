"""Where a server listens: a unix socket or a TCP port, in the one spelling used by config, status and logs."""

from dataclasses import dataclass
from pathlib import Path

UNIX_PATH_LIMIT = 107
"""Bytes a unix socket's path may have (sun_path of unix(7), less the trailing NUL)."""


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A unix socket; written `unix:/path`."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A TCP port; written `host:port`, `[v6]:port`."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


Address = UnixAddress | TcpAddress


def parse_address(text: str) -> Address:
    """Read `unix:/path.sock`, `host:port` or `[v6]:port`; ValueError says in words what is wrong."""
    if text.startswith("unix:"):
        return _parse_unix(text.removeprefix("unix:"))
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError(f"{text!r} has no port: write HOST:PORT or unix:/PATH")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"an IPv6 address is written in brackets: [{host}]:{port}")
    if not host:
        raise ValueError(f"{text!r} has no host: write 127.0.0.1:{port}, or 0.0.0.0:{port} for every interface")
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise ValueError(f"{port!r} is no port: a number from 1 to 65535")
    return TcpAddress(host, int(port))


def _parse_unix(path: str) -> UnixAddress:
    if not path.startswith("/"):
        raise ValueError(f"a unix socket's path is absolute, not {path!r}")
    if len(path.encode()) > UNIX_PATH_LIMIT:
        raise ValueError(f"a unix socket's path has at most {UNIX_PATH_LIMIT} bytes, this one {len(path.encode())}")
    return UnixAddress(Path(path))
