"""Addresses in their one spelling."""

from pathlib import Path

import pytest

from llamad.host.address import UNIX_PATH_LIMIT, Address, TcpAddress, UnixAddress, parse_address, parse_url


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", TcpAddress("127.0.0.1", 8080)),
        ("[::1]:1", TcpAddress("::1", 1)),
        ("gpu.example:65535", TcpAddress("gpu.example", 65535)),
        ("unix:/run/llamad/x.sock", UnixAddress(Path("/run/llamad/x.sock"))),
        ("unix:/" + "x" * (UNIX_PATH_LIMIT - 1), UnixAddress(Path("/" + "x" * (UNIX_PATH_LIMIT - 1)))),
    ],
)
def test_what_is_read_is_written_the_same(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "http://h:8080",
            "'http://h:8080' is a URL: write HOST:PORT, without http:// and without a path",
        ),
        ("8080", "'8080' has no port: write HOST:PORT or unix:/PATH"),
        ("::1:8080", "an IPv6 address is written in brackets: [::1]:8080"),
        (":8080", "':8080' has no host: write 127.0.0.1:8080, or 0.0.0.0:8080 for every interface"),
        ("[]:8080", "'[]:8080' has no host: write 127.0.0.1:8080, or 0.0.0.0:8080 for every interface"),
        ("host:0", "'0' is no port: a number from 1 to 65535"),
        ("host:65536", "'65536' is no port: a number from 1 to 65535"),
        ("host:http", "'http' is no port: a number from 1 to 65535"),
        ("host:٣", "'٣' is no port: a number from 1 to 65535"),
        ("1:2:3", "'1:2' is neither an address nor a host's name"),
        ("a..b:3", "'a..b' is neither an address nor a host's name"),
        (f"{'x' * 64}:3", f"'{'x' * 64}' is neither an address nor a host's name"),
        (f"{'x.' * 127}:3", f"'{'x.' * 127}' is neither an address nor a host's name"),
        ("[zz]:3", "'[zz]' is no IPv6 address"),
        ("h:" + "1" * 5000, f"'{'1' * 5000}' is no port: a number from 1 to 65535"),
        ("unix:/", "'/' names no file: a unix socket is a file in a folder"),
        ("unix:/x\0y", "a unix socket's path has no control characters, as '/x\\x00y' has"),
        ("unix:/\ud800", "a unix socket's path has no control characters, as '/\\ud800' has"),
        ("unix:run/x", "a unix socket's path is absolute, not 'run/x'"),
        ("unix:/" + "é" * 54, "a unix socket's path has at most 107 bytes, this one 109"),
    ],
)
def test_what_is_wrong_is_said_in_words(text: str, message: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the whole message is compared
        parse_address(text)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://host", TcpAddress("host", 80)),
        ("http://host/", TcpAddress("host", 80)),
        ("http://unix:81", TcpAddress("unix", 81)),
        ("http://10.0.0.1:8080", TcpAddress("10.0.0.1", 8080)),
        ("http://gpu_2.example.:65535", TcpAddress("gpu_2.example.", 65535)),
        ("http://[::1]", TcpAddress("::1", 80)),
        ("http://[::1]:81/", TcpAddress("::1", 81)),
    ],
)
def test_a_url_as_an_address(url: str, address: TcpAddress) -> None:
    assert parse_url(url) == address


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://h", "'https://h' is no URL: write http://HOST:PORT, without a path"),
        ("http://h:99999", "'99999' is no port: a number from 1 to 65535"),
        ("http://h:0", "'0' is no port: a number from 1 to 65535"),
        ("http://h:", "'' is no port: a number from 1 to 65535"),
        ("http://:80", "'http://:80' has no host: write http://HOST:PORT"),
        ("http://", "'http://' has no host: write http://HOST:PORT"),
        ("http://[]", "'http://[]' has no host: write http://HOST:PORT"),
        ("http://x:1:2", "'x:1' is neither an address nor a host's name"),
        ("http://[::1", "'[::1' is neither an address nor a host's name"),
        ("http://[::g]:1", "'[::g]' is no IPv6 address"),
        ("http://::1", "an IPv6 address is written in brackets: http://[::1]"),
        ("http://user:pw@h", "must not name a user: an API key is given by api_key_file or api_key_credential"),
    ],
)
def test_what_is_wrong_with_a_url_is_said_in_words(url: str, message: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the whole message is compared
        parse_url(url)
    assert str(raised.value) == message
