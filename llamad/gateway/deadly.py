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
        self.until: dict[tuple[str, str, int, bytes], float] = {}
        """Empty nearly always: who looks here before `is_known` saves most requests a call."""

    def note(self, server: str, target: str, body: bytes, now: float) -> None:
        """It ended the process that worked on it, and the one that it was repeated on."""
        if len(self.until) >= MOST:
            del self.until[next(iter(self.until))]
        self.until[server, target, len(body), sha256(body).digest()] = now + REMEMBERED

    def is_known(self, server: str, target: str, body: bytes, now: float) -> bool:
        """Whether this very request did so lately."""
        self.until = {what: until for what, until in self.until.items() if until > now}
        alike = {digest for *what, digest in self.until if what == [server, target, len(body)]}
        return bool(alike) and sha256(body).digest() in alike
