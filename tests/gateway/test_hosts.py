"""Which web pages can have a browser use a gateway that asks no key: none but its own and those that were listed."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from llamad.config.model import GatewayConfig
from llamad.gateway.gateway import Gateway
from llamad.gateway.hosts import Visitors
from llamad.gateway.keys import NO_KEYS
from llamad.gateway.types import Answer
from llamad.host.address import Address, TcpAddress, UnixAddress
from llamad.metrics import Metrics
from llamad.servers.state import State
from tests.folders import short_folder
from tests.gateway.fleets import SmallFleet, a_head, servers
from tests.gateway.gate import Wire
from tests.gateway.origin import Origin

EVIL = "https://evil.example"
LOOPBACK = (TcpAddress("127.0.0.1", 8080),)


def visitors(*hosts: str, listen: tuple[Address, ...] = LOOPBACK, origins: tuple[str, ...] = ()) -> Visitors:
    return Visitors(GatewayConfig(listen=listen, hosts=hosts, cors_origins=origins), "Box")


def refused(
    who: Visitors,
    host: str = "127.0.0.1:8080",
    *,
    unix: bool = False,
    public: bool = False,
    method: str = "POST",
    **headers: str,
) -> Answer | None:
    head = a_head(method, **headers)
    object.__setattr__(head, "host", host.encode())
    return who.refusal(head, unix=unix, public=public)


# --- Host ---


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8080", "127.0.0.1", "localhost:9", "LocalHost", "localhost.:8080", "x.localhost", "127.9.9.9",
     "[::1]:8080",
     "[::1]", "[::ffff:127.0.0.1]:1", "[0:0:0:0:0:0:0:1]", "", ":8080", "127.0.0.1:"],
)  # fmt: skip
def test_loopback_is_answered_by_all_its_names_at_any_port(host: str) -> None:
    assert refused(visitors(), host) is None


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8080", "localhost.evil.example", "evil-localhost", "127.0.0.1.evil.example",
     "192.168.1.5",
     "[2001:db8::1]:8080", "box", "0.0.0.0:8080", "xn--lcalhost-54a", "localhost..", "127.0.0.1:8080:1", "1", "\xff"],
)  # fmt: skip
@pytest.mark.parametrize("public", [False, True])
def test_a_name_that_is_not_ours_is_refused_with_the_key_to_set(host: str, public: bool) -> None:  # noqa: FBT001
    answer = refused(visitors(), host, public=public)
    assert answer is not None
    assert answer.status == 403
    assert b"gateway.hosts" in answer.body


@pytest.mark.parametrize(
    ("listed", "host", "good"),
    [
        ("llm.example.org", "LLM.example.org:443", True),
        ("LLM.example.org.", "llm.example.org", True),
        ("llm.example.org", "x.llm.example.org", False),
        ("*.example.org", "a.b.example.org:8080", True),
        ("*.example.org", "example.org", False),
        ("*.example.org", "evilexample.org", False),
        ("*", "anything", True),
        ("10.0.0.1", "10.0.0.1:8080", True),
        ("fe80::1", "[fe80::1]:8080", True),
    ],
)
def test_hosts_that_are_listed(listed: str, host: str, good: bool) -> None:  # noqa: FBT001
    assert (refused(visitors(listed), host) is None) is good


@pytest.mark.parametrize(
    ("listen", "host", "good"),
    [
        ("192.168.1.5", "192.168.1.5:8080", True),
        ("192.168.1.5", "192.168.1.6:8080", False),
        ("192.168.1.5", "box:8080", True),
        ("192.168.1.5", "box.local", True),
        ("llm.lan", "LLM.lan:8080", True),
        ("0.0.0.0", "192.168.1.5:8080", True),
        ("0.0.0.0", "0.0.0.0:8080", True),
        ("::", "[2001:db8::1]:8080", True),
        ("0.0.0.0", "evil.example", False),
        ("127.0.0.1", "box", False),
    ],
)
def test_what_is_listened_on_is_answered(listen: str, host: str, good: bool) -> None:  # noqa: FBT001
    assert (refused(visitors(listen=(TcpAddress(listen, 8080),)), host) is None) is good


def test_a_unix_socket_is_asked_by_any_name_but_not_by_any_page() -> None:
    assert refused(visitors(), "evil.example", unix=True) is None
    assert refused(visitors(), "x", unix=True, origin=EVIL) is not None


# --- Origin ---


@pytest.mark.parametrize(
    "origin",
    [EVIL, "null", "http://127.0.0.1:9", "http://localhost:8080", "chrome-extension://abc", "file://", "", "http://"],
)
def test_a_page_of_another_origin_is_refused_with_the_key_to_set(origin: str) -> None:
    answer = refused(visitors(), origin=origin)
    assert answer is not None
    assert answer.status == 403
    assert b"gateway.cors_origins" in answer.body
    assert refused(visitors(), public=True, origin=origin) is None


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1:8080"),
        ("http://LOCALHOST", "localhost"),
        ("http://localhost", "localhost:80"),
        ("https://llm.example.org", "llm.example.org:443"),
        ("https://llm.example.org", "llm.example.org"),
        ("https://llm.example.org", "127.0.0.1:8080"),
        ("http://[::1]:8080", "[::1]:8080"),
    ],
)
def test_a_page_of_its_own_may_ask_also_behind_a_proxy(origin: str, host: str) -> None:
    assert refused(visitors("llm.example.org"), host, origin=origin) is None


def test_a_page_that_was_listed_may_ask() -> None:
    assert refused(visitors(origins=(EVIL + "/",)), origin=EVIL) is None
    assert refused(visitors(origins=("*",)), origin="null") is None
    assert refused(visitors(origins=("*",)), sec_fetch_site="cross-site", method="GET") is None


def test_every_host_is_not_every_page() -> None:
    assert refused(visitors("*"), "x", origin=EVIL) is not None
    assert refused(visitors("*"), "evil.example", origin=EVIL) is None  # the same origin: what `*` allows


@pytest.mark.parametrize(
    ("site", "mode", "method", "good"),
    [
        ("same-origin", "cors", "POST", True),
        ("none", "navigate", "GET", True),
        ("cross-site", "no-cors", "GET", False),
        ("same-site", "no-cors", "GET", False),
        ("cross-site", "navigate", "GET", True),
        ("cross-site", "navigate", "POST", False),
    ],
)
def test_a_browser_that_sends_no_origin_says_where_the_request_comes_from(
    site: str,
    mode: str,
    method: str,
    good: bool,  # noqa: FBT001
) -> None:
    assert (refused(visitors(), method=method, sec_fetch_site=site, sec_fetch_mode=mode) is None) is good


# --- on the data path ---


@pytest.fixture
async def wires(origin: Origin) -> AsyncIterator[dict[str, Wire]]:
    """A client over TCP and one over a unix socket, of a gateway with one server and no keys."""
    with short_folder() as folder:
        fleet = SmallFleet(servers("one"))
        fleet.board.update(fleet.up("one"), address=UnixAddress(origin.path))
        tcp, unix = TcpAddress("127.0.0.1", 0), UnixAddress(folder / "g.sock")
        settings = GatewayConfig(listen=(tcp, unix))
        gateway = Gateway(
            fleet,
            settings,
            NO_KEYS,
            Metrics("test", list(State)),
            external_key=lambda _: None,
            report=lambda _: None,
        )
        async with gateway:
            await gateway.apply(settings, NO_KEYS)
            port = gateway._server.sockets[tcp][0].getsockname()[1]
            made = {
                "tcp": Wire(*await asyncio.open_connection("127.0.0.1", port)),
                "unix": Wire(*await asyncio.open_unix_connection(str(unix.path))),
            }
            yield made
            for wire in made.values():
                await wire.close()


def a_post(host: str, *lines: str, body: bytes = b'{"model": "one"}', target: str = "/v1/chat/completions") -> bytes:
    """A request that a page can have a browser send without a preflight."""
    length = f"Content-Length: {len(body)}"
    return (
        "\r\n".join(
            [f"POST {target} HTTP/1.1", f"Host: {host}", "Content-Type: text/plain", length, *lines, "", ""]
        ).encode()
        + body
    )


async def test_a_web_page_cannot_use_a_model(wires: dict[str, Wire], origin: Origin) -> None:
    """The kind: DNS rebinding, and cross-site requests that need no preflight."""
    wire = wires["tcp"]
    for lines in (
        a_post("evil.example:8080", "Origin: http://evil.example:8080"),
        a_post("evil.example"),
        a_post("localhost", "Origin: https://evil.example"),
        a_post("localhost", "Origin: null"),
        a_post("localhost", "Sec-Fetch-Site: cross-site"),
        a_post("localhost", target="http://evil.example/v1/chat/completions"),
        a_post("localhost", "Origin: https://evil.example", target="/servers/one/v1/completions"),
        b"OPTIONS /v1/models HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n\r\n",
    ):
        wire.send(lines)
        assert (await wire.reply()).status == 403
    assert not origin.requests
    wire.send(a_post("localhost"))
    assert (await wire.reply()).status == 200


async def test_what_holds_over_a_unix_socket_does_not_hold_over_tcp(wires: dict[str, Wire]) -> None:
    request = a_post("evil.example")
    for name, status in (("unix", 200), ("tcp", 403), ("unix", 200), ("tcp", 403)):
        wires[name].send(request)
        assert (await wires[name].reply()).status == status


async def test_an_old_client_that_names_no_host_is_answered(wires: dict[str, Wire]) -> None:
    wires["tcp"].send(b"GET /health HTTP/1.0\r\n\r\n")
    assert (await wires["tcp"].reply()).status == 200
