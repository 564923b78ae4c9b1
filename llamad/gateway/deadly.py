"""Requests that ended two processes of a server: clients' libraries repeat what failed, and each time it would end two
more, until the server is given up for everybody. Pure.
"""

from hashlib import sha256

REMEMBERED = 60.0
"""Seconds; clients' libraries have given up by then."""
MOST = 64


class Deadly:
    """What ended a server lately, by the server, the target, and the body's digest. Times are the loop's clock."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, str, int, bytes], float] = {}

    def note(self, server: str, target: str, body: bytes, now: float) -> None:
        """It ended the process that worked on it, and the one that it was repeated on."""
        if len(self._until) >= MOST:
            del self._until[next(iter(self._until))]
        self._until[server, target, len(body), sha256(body).digest()] = now + REMEMBERED

    def is_known(self, server: str, target: str, body: bytes, now: float) -> bool:
        """Whether this very request did so lately."""
        if not self._until:
            return False
        self._until = {what: until for what, until in self._until.items() if until > now}
        alike = {digest for *what, digest in self._until if what == [server, target, len(body)]}
        return bool(alike) and sha256(body).digest() in alike
