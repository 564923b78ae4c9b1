"""Where a server listens: a unix socket or a TCP port, in the one spelling used by config, status and logs."""

import ipaddress
import re
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
HTTP_PORT = 80
_SCHEME = "http://"
_LABEL = re.compile(r"[0-9A-Za-z_]([0-9A-Za-z_-]{0,61}[0-9A-Za-z_])?")
"""A part of a host's name: what is longer or empty cannot be looked up."""


def parse_address(text: str) -> Address:
    """Read `unix:/path.sock`, `host:port` or `[v6]:port`; ValueError says in words what is wrong."""
    if text.startswith("unix:"):
        return _parse_unix(text.removeprefix("unix:"))
    scheme, there, _ = text.partition("://")
    if there:
        raise ValueError(f"{text!r} is a URL: write HOST:PORT, without {scheme}:// and without a path")
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError(f"{text!r} has no port: write HOST:PORT or unix:/PATH")
    if not host or host == "[]":
        raise ValueError(f"{text!r} has no host: write 127.0.0.1:{port}, or 0.0.0.0:{port} for every interface")
    if not host.startswith("[") and _is_ipv6(host):
        raise ValueError(f"an IPv6 address is written in brackets: [{host}]:{port}")
    return TcpAddress(_host(host), _port(port))


def parse_url(url: str) -> TcpAddress:
    """Read `http://host[:port][/]`, port 80 unless it says another; ValueError says in words what is wrong."""
    if not url.startswith(_SCHEME):
        raise ValueError(f"{url!r} is no URL: write http://HOST:PORT, without a path")
    place = url.removeprefix(_SCHEME).removesuffix("/")
    if "@" in place:
        raise ValueError("must not name a user: an API key is given by api_key_file or api_key_credential")
    before_port = place.rfind(":") > place.rfind("]") and not (place.startswith("[") and "]" not in place)
    host, colon, port = place.rpartition(":") if before_port else (place, "", "")
    if host in ("", "[]"):
        raise ValueError(f"{url!r} has no host: write http://HOST:PORT")
    if not host.startswith("[") and _is_ipv6(place):
        raise ValueError(f"an IPv6 address is written in brackets: http://[{place}]")
    return TcpAddress(_host(host), _port(port) if colon else HTTP_PORT)


def _host(text: str) -> str:
    """A host as it was written, out of its brackets; ValueError where nothing could ever be found by it."""
    if text.startswith("[") and text.endswith("]"):
        if not _is_ipv6(text[1:-1]):
            raise ValueError(f"{text!r} is no IPv6 address")
        return text[1:-1]
    labels = text.removesuffix(".").split(".")
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{text!r} is neither an address nor a host's name")
    return text


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= 65535):
        raise ValueError(f"{text!r} is no port: a number from 1 to 65535")
    return int(text)


def _parse_unix(path: str) -> UnixAddress:
    if not path.startswith("/"):
        raise ValueError(f"a unix socket's path is absolute, not {path!r}")
    if not Path(path).name:
        raise ValueError(f"{path!r} names no file: a unix socket is a file in a folder")
    if not is_plain(path):
        raise ValueError(f"a unix socket's path has no control characters, as {path!r} has")
    if len(path.encode()) > UNIX_PATH_LIMIT:
        raise ValueError(f"a unix socket's path has at most {UNIX_PATH_LIMIT} bytes, this one {len(path.encode())}")
    return UnixAddress(Path(path))


def is_plain(text: str) -> bool:
    """Whether a path or a name is without control characters (a NUL ends a path) and without half characters."""
    return not any(char < " " or char == "\x7f" or "\ud800" <= char <= "\udfff" for char in text)


def is_loopback(host: str) -> bool:
    """Whether a name or an address is reached from this machine only."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
