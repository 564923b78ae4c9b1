"""Which web pages may use the gateway from a browser (the Fetch standard, "CORS protocol"). Pure."""

from collections.abc import Iterable

from llamad.gateway.types import METHODS, Answer, Headers, RequestHead

_METHODS = ", ".join(METHODS).encode()
_MAX_AGE = b"600"
_EXPOSED = b"x-request-id, retry-after"


class Cors:
    """`gateway.cors_origins`: origins as a browser sends them (`https://chat.example.org`), or `*` for every page."""

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(origin.rstrip("/").encode() for origin in origins)
        self._any = b"*" in self._origins

    def headers(self, head: RequestHead) -> Headers:
        """What every answer to `head` carries; nothing where no origin is allowed at all."""
        if not self._origins:
            return []
        origin = head.header(b"origin")
        if origin is None:
            return [] if self._any else [(b"vary", b"origin")]
        allowed = self._allow(origin)
        return [*allowed, (b"access-control-expose-headers", _EXPOSED)] if allowed else [(b"vary", b"origin")]

    def preflight(self, head: RequestHead) -> Answer:
        """The answer to OPTIONS, asked by a browser before the real request or by anybody. The origin's own headers
        are not in it: they come with `headers`, as on every answer.
        """
        answer = Answer(204, headers=[(b"allow", _METHODS)])
        origin, method = head.header(b"origin"), head.header(b"access-control-request-method")
        if origin is None or method is None or not self._allow(origin):
            return answer
        answer.headers.append((b"access-control-allow-methods", _METHODS))
        # Named back, not `*`: a wildcard does not cover Authorization (Fetch, "CORS-safelisted request-header").
        asked = head.header(b"access-control-request-headers")
        if asked:
            answer.headers.append((b"access-control-allow-headers", asked))
        answer.headers.append((b"access-control-max-age", _MAX_AGE))
        return answer

    def allows(self, origin: bytes) -> bool:
        """Whether pages of `origin` may ask."""
        return self._any or origin in self._origins

    def _allow(self, origin: bytes) -> Headers:
        if self._any:
            return [(b"access-control-allow-origin", b"*")]
        if origin in self._origins:
            return [(b"access-control-allow-origin", origin), (b"vary", b"origin")]
        return []
