"""What ended a server twice is remembered for a while, and in bounds."""

from llamad.gateway.deadly import MOST, REMEMBERED, Deadly


def test_the_very_same_request_is_known_for_a_while() -> None:
    deadly = Deadly()
    assert not deadly.is_known("a", "/x", b"body", 0.0)
    deadly.note("a", "/x", b"body", 0.0)
    assert deadly.is_known("a", "/x", b"body", REMEMBERED - 1)
    for server, target, body in (("b", "/x", b"body"), ("a", "/y", b"body"), ("a", "/x", b"BODY"), ("a", "/x", b"b")):
        assert not deadly.is_known(server, target, body, 1.0)
    assert not deadly.is_known("a", "/x", b"body", REMEMBERED)


def test_the_oldest_goes_where_there_are_too_many() -> None:
    deadly = Deadly()
    for number in range(MOST + 1):
        deadly.note("a", "/x", b"%d" % number, 0.0)
    assert [deadly.is_known("a", "/x", b"%d" % number, 1.0) for number in (0, 1, MOST)] == [False, True, True]
