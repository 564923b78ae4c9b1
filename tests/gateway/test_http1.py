"""Request heads as values: what is read, what is remembered, what an upstream gets."""

import gc

import pytest

from llamad.gateway.fields import MalformedError, Memory, read_field, split_length
from llamad.gateway.http1 import MAX_HEAD, Decided, Heads, check_start, read_request, unread_request, upstream_head

LINES = b"\r\nHost: gate\r\nUser-Agent: x\r\nContent-Type: application/json"
POST = b"POST /v1/x?a=b HTTP/1.1" + LINES


def test_head_is_read() -> None:
    head = read_request(POST + b"\r\nContent-Length: 12").head
    assert (head.method, head.path, head.query, head.version) == ("POST", "/v1/x", "a=b", (1, 1))
    assert (head.chunked, head.keep_alive) == (False, True)
    assert head.header(b"user-agent") == b"x"


@pytest.mark.parametrize("line", [b"Content-Length: 7", b"content-length: 7", b"CONTENT-LENGTH:7"])
def test_length_is_read_anew_for_a_head_that_is_remembered(line: bytes) -> None:
    for _ in range(2):
        request = read_request(POST + b"\r\n" + line)
        assert request.length == 7
    assert read_request(POST).length is None
    assert read_request(POST + b"\r\nContent-Length: 8").length == 8


def test_lists_may_stand_in_several_lines() -> None:
    block = POST + b"\r\nConnection: keep-alive\r\nConnection: X, close\r\nX: y"
    request = read_request(block)
    assert not request.head.keep_alive
    assert b"x: y" not in upstream_head(request, "/", length=0, peer="unix", fixed=b"")


def test_ids_are_not_shared_by_heads_that_are_the_same() -> None:
    assert read_request(POST).id != read_request(POST).id


@pytest.mark.parametrize("first", [b"Transfer-Encoding: chunked", b"Content-Length: 3", b"CONTENT-LENGTH: 3"])
@pytest.mark.parametrize("second", [b"Transfer-Encoding: chunked", b"Content-Length: 3", b"CONTENT-LENGTH: 3"])
def test_what_is_remembered_lets_no_second_framing_pass(first: bytes, second: bytes) -> None:
    """Each of the two is good alone and remembered then; both together are refused in any order."""
    for line in (first, second):
        read_request(POST + b"\r\n" + line)
    for block in (POST + b"\r\n" + first + b"\r\n" + second, POST + b"\r\n" + second + b"\r\n" + first):
        with pytest.raises(MalformedError):
            read_request(block)


def test_bad_lengths_are_refused_though_the_rest_is_known() -> None:
    read_request(POST + b"\r\nContent-Length: 3")
    for digits in (b"", b"-1", b"+3", b"3 3", b"0x3", b"9" * 19, b"\xb3", b"1_0"):
        with pytest.raises(MalformedError):
            read_request(POST + b"\r\nContent-Length: " + digits)


def test_upstream_gets_a_head_of_ours() -> None:
    block = POST + b"\r\nAuthorization: Bearer x\r\nX-Forwarded-For: 10.0.0.1\r\nX-Request-Id: r\r\nContent-Length: 99"
    written = upstream_head(read_request(block), "/y", length=5, peer="10.0.0.2", fixed=b"host: here\r\n")
    assert written.endswith(b"\r\n\r\n")
    first, *lines = written[:-4].split(b"\r\n")
    assert first == b"POST /y HTTP/1.1"
    assert sorted(lines) == [
        b"content-length: 5",
        b"content-type: application/json",
        b"host: here",
        b"user-agent: x",
        b"x-forwarded-for: 10.0.0.1, 10.0.0.2",
        b"x-forwarded-host: gate",
        b"x-forwarded-proto: http",
        b"x-request-id: r",
    ]


@pytest.mark.parametrize(("method", "length", "told"), [(b"GET", 0, False), (b"GET", 3, True), (b"POST", 0, True)])
def test_length_is_told_where_a_body_is_expected(method: bytes, length: int, *, told: bool) -> None:
    request = read_request(method + b" / HTTP/1.1" + LINES)
    written = upstream_head(request, "/", length=length, peer="unix", fixed=b"")
    assert (b"content-length: %d\r\n" % length in written) is told


def test_absolute_target_names_the_host() -> None:
    request = read_request(b"GET http://other/x HTTP/1.1\r\nHost: gate")
    assert b"x-forwarded-host: other\r\n" in upstream_head(request, "/x", length=0, peer="unix", fixed=b"")


def test_head_that_is_too_large_is_refused_whole_or_not() -> None:
    large = POST + b"\r\nX: " + b"y" * MAX_HEAD
    for check in (lambda: read_request(large), lambda: check_start(large, 0)):
        with pytest.raises(MalformedError) as refused:
            check()
        assert refused.value.status == 431


def test_start_of_a_head_is_checked_once() -> None:
    start = POST + b"\r\nX: y"
    check_start(start, 0)
    check_start(start + b"z", len(start))
    check_start(b"GE", 0)
    with pytest.raises(MalformedError):
        check_start(b"GE\x00", 2)
    with pytest.raises(MalformedError) as refused:
        check_start(b"\x16\x03\x01", 0)
    assert "https" in refused.value.message


def test_stub_has_an_id_and_nothing_else() -> None:
    request = unread_request()
    head = request.head
    assert request.id
    assert (head.method, head.headers, head.keep_alive) == ("-", [], False)


def test_memory_is_bounded_and_forgets_what_did_not_come_again() -> None:
    memory: Memory[int] = Memory(entries=6, largest=5)
    memory.put(b"often", 1)
    memory.put(b"once", 2)
    for number in range(100):
        memory.put(b"%d" % number, number)
        assert memory.get(b"often") == 1
        assert sum(memory.get(b"%d" % one) is not None for one in range(number, number - 10, -1)) <= 6
    assert memory.get(b"once") is None
    assert memory.get(b"99") == 99
    memory.put(b"too large", 1)
    assert memory.get(b"too large") is None
    memory.clear()
    assert memory.get(b"often") is None


@pytest.mark.parametrize("name", [b"Authorization", b"x-api-key", b"api-key", b"Cookie", b"Proxy-Authorization"])
def test_what_is_remembered_of_a_head_has_no_secret(name: bytes) -> None:
    """Heads and lines were kept by module-level caches, raw keys among them, and after a key was taken away too."""
    heads = Heads()
    block = POST + b"\r\n" + name + b": sk-very-secret\r\nX-Other: told\r\nContent-Length: 2"
    request = heads.read(block)
    assert "sk-very-secret" in repr(request.head)
    request.shape.decided = decided = Decided("me", None, [])
    heads.keep(request)
    again = heads.read(block)
    assert again.shape.decided is decided
    assert again.head.header(b"x-other") == b"told"
    assert "secret" not in repr(again)
    remembered = [one for one in gc.get_objects() if isinstance(one, Memory)]
    assert len(remembered) >= 2
    assert not [one for one in remembered if "secret" in repr(vars(one))]
    assert heads.read(block.replace(b"very", b"not-so")).shape.decided is None
    heads.forget()
    assert heads.read(block).shape.decided is None


def test_what_may_mean_two_things_is_read_each_time() -> None:
    heads = Heads()
    for block in (POST + b"\r\nTransfer-Encoding: chunked", POST + b"\r\nX: " + b"y" * 3000):
        request = heads.read(block)
        request.shape.decided = Decided(None, None, [])
        heads.keep(request)
        assert heads.read(block).shape.decided is None


@pytest.mark.parametrize("line", [b"X:" + b" " * 30_000 + b"\x01", b" " * 30_000, b"X" * 30_000])
def test_long_lines_are_refused_in_no_time(line: bytes) -> None:
    with pytest.raises(MalformedError):
        read_field(line)


def test_length_is_split_off_only_where_it_is_plain() -> None:
    assert split_length(b"a\r\nContent-Length: 5\r\nb") == (b"a\r\nb", b"5")
    assert split_length(b"a\r\nContent-Length: 5") == (b"a", b"5")
    for block in (b"a", b"Content-Length: 5", b"a\r\nContent-Length: x", b"a\r\nX-Content-Length: 5"):
        assert split_length(block) == (block, None)
