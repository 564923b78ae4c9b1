"""The words that the parts of the gateway say to each other. No logic."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from llamad.config.model import ServerConfig
from llamad.gateway.enginepaths import Kind
from llamad.servers.board import Board, Replica
from llamad.servers.explain import Condition
from llamad.servers.traffic import Traffic

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""What is spoken here; a request with another method is refused by the parser."""
WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
Headers = list[tuple[bytes, bytes]]
"""Names in lower case, in the order they came."""


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request's head after strict parsing, less what differs between requests that are alike otherwise: its
    Content-Length and its id. `path` is decoded from nothing: it is the target up to `?`, as sent.
    """

    method: str
    path: str
    query: str
    headers: Headers
    chunked: bool
    keep_alive: bool
    version: tuple[int, int]
    host: bytes = b""
    """Whom the request is for: of a target in absolute form, else of the Host header."""

    @property
    def target(self) -> str:
        """Path and query."""
        return f"{self.path}?{self.query}" if self.query else self.path

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, by its lower-case name."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


@dataclass(slots=True)
class Answer:
    """A whole answer that the gateway gives itself. Content-Length and Date are added by whoever writes it."""

    status: int
    body: bytes = b""
    content_type: bytes = b"application/json"
    headers: Headers = field(default_factory=list)
    message: str | None = None
    """What is wrong, of an error of llamad's own: it may be told in another shape."""


@dataclass(slots=True)
class ToServer:
    """Relay the request to a replica of `server`, asking it for `target` (path and query)."""

    server: str
    target: str
    authorization: bytes | None = None
    """The value of the Authorization header for the server itself (an external one may ask a key)."""
    kind: Kind = Kind.USE
    replica: Replica | None = None
    """The one to ask, without waiting for it and without its counting as use; None: whichever the admission gives."""


@dataclass(slots=True)
class Local:
    """Answer by calling `handle` (it may wait: a scrape of every server), or relay to where it says."""

    handle: Callable[[], Awaitable[Answer | ToServer]]


Route = ToServer | Local | Answer


@dataclass(frozen=True, slots=True)
class Reader:
    """What is known of a request whose route depends on its body; the policy's own: the data path only keeps it with
    the head it was given for.
    """

    model: Callable[[bytes], str | None]
    """Reads the model that a body names."""
    target: str
    kind: Kind


@dataclass(slots=True)
class Refusal:
    """Why a request gets no replica: an OpenAI-shaped error to be."""

    status: int
    kind: str
    message: str
    retry_after: int | None = None


class Lease(Protocol):
    """The right to send one request to one replica; give it back exactly once."""

    @property
    def replica(self) -> Replica:
        """Where to send it."""
        ...

    received: int
    fate: str | None
    """See Flight, which it is for whoever watches the replica."""

    def release(self, *, goes_on: bool = False) -> None:
        """The request is over, however it ended; or its client has left, and the engine `goes_on` with it."""
        ...

    def failed(self) -> None:
        """It was answered with status 500."""
        ...


class Ticket(Protocol):
    """A place in a server's queue."""

    def cancel(self) -> None:
        """Whoever waits has left; nothing is called any more."""
        ...


class Admission(Protocol):
    """Who may send a request where, and who waits."""

    def ask(
        self,
        server: str,
        key: str | None,
        decided: Callable[[Lease | Refusal], None],
        *,
        retry: bool = False,
        avoid: Replica | None = None,
    ) -> Lease | Refusal | Ticket:
        """Ask for a replica of `server` on behalf of key `key` (its name). Answers at once with a Lease or a Refusal
        where it can; else the request waits, and `decided` is called later, once, unless the ticket is cancelled.
        `retry` puts a request whose upstream died before the first byte of the answer at the head of the queue;
        `avoid` is the replica it died on (`lease.replica`), which the board may still show as ready for an instant.
        """
        ...


class Backends(Protocol):
    """What the gateway needs of the fleet."""

    @property
    def board(self) -> Board: ...

    @property
    def configs(self) -> Mapping[str, ServerConfig]:
        """The accepted servers; a new mapping object after each reload."""
        ...

    def traffic(self, server: str) -> Traffic:
        """The traffic record of a server in `configs`."""
        ...

    def condition(self, server: str) -> Condition:
        """What is wanted of a server in `configs`, what is, and why not."""
        ...

    async def ensure_ready(self, server: str) -> None:
        """Start `server` if nothing of it runs (making way for it first), and return when one replica is ready.
        Raises ServerDownError (message, hint, cause, retry_after) where it cannot be. Many callers start it once.
        """
        ...


class Exchange:
    """One request as the access log and the metrics see it; filled in along the way. Times are the loop's clock."""

    # Defaults stand in the class: most requests never change them, and an object less to fill is time saved.
    key: str | None = None
    """The name of the API key, never the key."""
    server: str | None = None
    replica: int | None = None
    status: int = 0
    queued_s: float = 0.0
    first_byte: float | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    retries: int = 0
    error: str | None = None
    """What went wrong after the head was sent: `client-left`, `upstream-died`."""
    tail: bytes = b""
    """The last bytes of the answer's body (bounded), where `usage` and `timings` stand."""

    def __init__(self, head: RequestHead, request_id: str, *, began: float, peer: str) -> None:
        self.head = head
        self.request_id = request_id
        self.began = began
        self.peer = peer


class Policy(Protocol):
    """What the data path asks of whoever decides: keys, routes, queues, errors and records. Nothing here waits.

    `authorize`, `reader` and `cors` go by the head and the accepted configuration alone: what they said of a head
    holds for the same head until the next configuration.
    """

    @property
    def admission(self) -> Admission: ...

    def authorize(self, head: RequestHead, *, unix: bool) -> str | Answer | None:
        """The name of the client's key, None where no key is asked, or the 401 or 403 it gets; `unix`: it came over a
        unix socket.
        """
        ...

    def reader(self, head: RequestHead) -> Reader | None:
        """How the route depends on the body; None: it does not, and `route` is called before the body comes."""
        ...

    def route(self, head: RequestHead, reader: Reader | None, body: bytes) -> Route:
        """Where the request goes, or the answer it gets; `reader` is what was said of the head, and without one `body`
        is not looked at.
        """
        ...

    def error(
        self, status: int, message: str, *, kind: str = "invalid_request_error", headers: Headers | None = None
    ) -> Answer:
        """An error in the OpenAI shape; `headers` join the answer's."""
        ...

    def in_dialect(self, head: RequestHead, answer: Answer, request_id: str) -> Answer:
        """An error as the client of `head` reads it: in Anthropic's shape where it speaks that API."""
        ...

    def begin(self, head: RequestHead, request_id: str, peer: str) -> Exchange:
        """A request came from `peer` (an IP address, or `unix`); its head was accepted, or is a stub for a bad one."""
        ...

    def finished(self, exchange: Exchange) -> None:
        """The request is over; called exactly once for what `begin` gave."""
        ...

    def cors(self, head: RequestHead) -> Headers:
        """The Access-Control headers of the answer; the upstream's own are dropped."""
        ...
