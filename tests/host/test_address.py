"""Addresses in their one spelling."""

from pathlib import Path

import pytest

from llamad.host.address import UNIX_PATH_LIMIT, Address, TcpAddress, UnixAddress, parse_address


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
        ("8080", "'8080' has no port: write HOST:PORT or unix:/PATH"),
        ("::1:8080", "an IPv6 address is written in brackets: [::1]:8080"),
        (":8080", "':8080' has no host: write 127.0.0.1:8080, or 0.0.0.0:8080 for every interface"),
        ("[]:8080", "'[]:8080' has no host: write 127.0.0.1:8080, or 0.0.0.0:8080 for every interface"),
        ("host:0", "'0' is no port: a number from 1 to 65535"),
        ("host:65536", "'65536' is no port: a number from 1 to 65535"),
        ("host:http", "'http' is no port: a number from 1 to 65535"),
        ("host:٣", "'٣' is no port: a number from 1 to 65535"),
        ("unix:run/x", "a unix socket's path is absolute, not 'run/x'"),
        ("unix:/" + "é" * 54, "a unix socket's path has at most 107 bytes, this one 109"),
    ],
)
def test_what_is_wrong_is_said_in_words(text: str, message: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the whole message is compared
        parse_address(text)
    assert str(raised.value) == message
