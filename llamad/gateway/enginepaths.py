"""What each path of llama-server does with the model: one table. Pure.

From llama.cpp's tools/server/server.cpp and server-http.cpp (builds of 2024 to October 2026; the router's own paths
are not in it, as llamad runs no router), and ik_llama.cpp's examples/server.
"""

import re
from difflib import get_close_matches
from enum import Enum
from urllib.parse import unquote


class Kind(Enum):
    """What a request does."""

    USE = "uses the model"
    """It starts a server that is down, waits for it, and keeps it loaded."""
    PASSIVE = "asks what is known"
    PAGE = "the web UI"
    """A page or one of its files; public where llama-server asks for keys, too."""
    STREAM = "resumes an answer"
    """Of a conversation, which is in one process."""
    EVERY = "concerns each process"
    """It changes, or looks for, what each process has for itself."""
    SLOT = "concerns a slot"
    """Of one process."""


_TABLE: dict[tuple[str, Kind], str] = {
    ("POST", Kind.USE): """
        /completion /completions /v1/completions /chat/completions /v1/chat/completions /api/chat
        /chat/completions/input_tokens /v1/chat/completions/input_tokens
        /responses /v1/responses /responses/input_tokens /v1/responses/input_tokens
        /v1/messages /v1/messages/count_tokens /infill /tokenize /detokenize /apply-template
        /embedding /embeddings /v1/embeddings /rerank /reranking /v1/rerank /v1/reranking
        /audio/transcriptions /v1/audio/transcriptions /v1/systemone""",
    ("GET", Kind.PASSIVE): """
        /health /v1/health /metrics /props /v1/props /models /v1/models /api/tags /slots /slots/list /list
        /lora-adapters /control-vectors /tools /cors-proxy /version""",
    ("POST", Kind.PASSIVE): "/api/show /tools /cors-proxy /rename_prompt /delete_prompt",
    ("GET", Kind.STREAM): "/v1/stream",
    ("DELETE", Kind.EVERY): "/v1/stream",
    ("POST", Kind.EVERY): """
        /props /lora-adapters /v1/streams/lookup /v1/chat/completions/control
        /control-vectors/load /control-vectors/unload /control-vectors/apply""",
}
WAKING = frozenset({"/slots", "/slots/list", "/lora-adapters"})
"""What is passive for all but a server that sleeps (--sleep-idle-seconds), which wakes for it."""
_KINDS = {(method, path): kind for (method, kind), paths in _TABLE.items() for path in paths.split()}
_METHODS: dict[str, list[str]] = {}
for _method, _path in _KINDS:
    _METHODS.setdefault(_path, []).append(_method)
_SLOT = re.compile(r"/slots/[0-9]+")
_NAME = r"[\w@~+-][\w@~+.-]*"
_PAGE = re.compile(rf"/(?!(?:v1|api|models|slots|servers)/)(?:{_NAME}/)*{_NAME}\.[0-9A-Za-z]{{1,12}}", re.ASCII)
_SLASHES = re.compile("//+")


def plain(path: str) -> str:
    """What a path means: escapes undone as llama-server does, and slashes too many, as of a base URL, left out."""
    if "%" in path:
        path = unquote(path)
    if "//" in path:
        path = _SLASHES.sub("/", path)
    return path.removesuffix("/") or "/"


def kind_of(method: str, path: str) -> Kind | None:
    """What `method` on `path` (plain) does; None: llama-server has no such thing."""
    if method == "HEAD":
        method = "GET"
    kind = _KINDS.get((method, path))
    if kind is not None:
        return kind
    if method == "GET":
        return Kind.PAGE if path == "/" or _PAGE.fullmatch(path) else None
    return Kind.SLOT if method == "POST" and _SLOT.fullmatch(path) else None


def allowed(path: str) -> str:
    """The methods of `path` (plain), as the Allow header names them; empty: it is no path of llama-server's."""
    methods = list(_METHODS.get(path, ["POST"] if _SLOT.fullmatch(path) else []))
    if "GET" in methods or kind_of("GET", path) is Kind.PAGE:
        methods = ["GET", "HEAD", *(method for method in methods if method != "GET")]
    return ", ".join(methods)


def nearest(path: str) -> str | None:
    """The path that `path` (plain) was probably meant to be: its end where a base URL has too much, or alike."""
    close = get_close_matches(path[:100], _METHODS, n=1, cutoff=0.9)
    if close:
        return close[0]
    _, *parts = path.split("/")
    ends = ["/" + "/".join(parts[start:]) for start in range(1, len(parts))]
    for end in ends:
        for known in (end, f"/v1{end}"):
            if known in _METHODS:
                return known
    return None
