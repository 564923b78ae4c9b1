"""Who may be asking through a browser: under which names this gateway answers, and for pages of which origins. Pure.

Any web page can have a browser send requests to this machine: under a name of the page's own that it lets point here
(DNS rebinding), or across sites in a shape that needs no preflight (Fetch standard, "CORS-safelisted request-header").
A key stops both. Where none is asked, what the browser says of itself in Host, Origin and Sec-Fetch-Site does.
"""

import ipaddress

from llamad.config.model import GatewayConfig
from llamad.gateway.cors import Cors
from llamad.gateway.replies import error_answer
from llamad.gateway.types import Answer, RequestHead
from llamad.host.address import TcpAddress, is_loopback

_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}
_SAME = (None, b"same-origin", b"none")
"""Sec-Fetch-Site of a page of ours, of an address that a person typed, and of what is no browser."""


class Visitors:
    """Whom a gateway without keys answers. `machine` is this host's name."""

    def __init__(self, settings: GatewayConfig, machine: str) -> None:
        listed = [name.lower().rstrip(".") for name in settings.hosts]
        listening = [one.host for one in settings.listen if isinstance(one, TcpAddress)]
        self._every_host = "*" in listed
        self._domains = tuple(name[1:] for name in listed if name.startswith("*."))
        self._listed = frozenset(listed)
        self._names = self._listed | {_plain(host) for host in listening} | {"", "localhost"}
        self._addresses = any(_is_everywhere(host) for host in listening)
        """Whether each of the machine's addresses is listened on: then any address is one of them."""
        if any(not is_loopback(host) for host in listening):
            self._names |= {machine.lower(), f"{machine.lower()}.local"}
        self._cors = Cors(settings.cors_origins)

    def refusal(self, head: RequestHead, *, unix: bool, public: bool) -> Answer | None:
        """Why `head` is not answered; None: it is. `unix`: it came over a unix socket, which no browser reaches but
        through a proxy, whose names are its own. `public`: it asks for what any page may show.
        """
        if not unix and not self._is_ours(head.host):
            return _wrong_host(head.host)
        return None if public or self._may_ask(head) else _foreign_page(head)

    def _is_ours(self, authority: bytes) -> bool:
        name = _plain(_without_port(authority.decode("latin-1")))
        if self._every_host or name in self._names or name.endswith(".localhost") or self._is_listed(name):
            return True
        return is_loopback(name) or (self._addresses and _is_address(name))

    def _is_listed(self, name: str) -> bool:
        return name in self._listed or (bool(self._domains) and name.endswith(self._domains))

    def _may_ask(self, head: RequestHead) -> bool:
        """Whether no page of another origin asks, or one that is in `gateway.cors_origins`."""
        origin = head.header(b"origin")
        if origin is not None:
            return self._is_own(origin, head.host) or self._cors.allows(origin)
        if head.header(b"sec-fetch-site") in _SAME or self._cors.allows(b"*"):
            return True
        return head.header(b"sec-fetch-mode") == b"navigate" and head.method in ("GET", "HEAD")

    def _is_own(self, origin: bytes, host: bytes) -> bool:
        """Whether a page came from this gateway: under the name that is asked now, or one of `gateway.hosts` (a proxy
        in between may write Host anew).
        """
        scheme, _, authority = origin.lower().partition(b"://")
        if scheme not in _DEFAULT_PORTS:
            return False
        default = _DEFAULT_PORTS[scheme]
        if authority.removesuffix(default) == host.lower().removesuffix(default):
            return True
        return self._is_listed(_plain(_without_port(authority.decode("latin-1"))))


def _without_port(authority: str) -> str:
    host, colon, port = authority.rpartition(":")
    return host if colon and (port.isdigit() or not port) and not host.endswith(":") else authority


def _plain(host: str) -> str:
    """A name or an address in the one spelling that is compared."""
    return host.removeprefix("[").removesuffix("]").lower().removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_everywhere(name: str) -> bool:
    return _is_address(name) and ipaddress.ip_address(name).is_unspecified


def _wrong_host(host: bytes) -> Answer:
    shown = host.decode("latin-1")[:100]
    message = f"without API keys no request for the host {shown!r} is answered: add its name to gateway.hosts"
    return error_answer(403, f"{message} if it is a name of this machine", kind="host_not_allowed")


def _foreign_page(head: RequestHead) -> Answer:
    origin = head.header(b"origin")
    page = "another site" if origin is None else repr(origin.decode("latin-1")[:100])
    message = f"without API keys no web page of {page} may ask this: add its origin to gateway.cors_origins"
    return error_answer(403, message, kind="origin_not_allowed")
