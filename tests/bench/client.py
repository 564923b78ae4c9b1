"""An honest client of HTTP/1.1 that believes nothing: what it asks, what it gets, and whether that is whole."""

import asyncio
import json
import re
from dataclasses import dataclass, field
from enum import Enum, auto
from types import TracebackType
from typing import Any, Self

PATIENCE = 60.0
"""Seconds for one answer: who gets none in this time has lost the request."""
Address = str | tuple[str, int]


class End(Enum):
    """How a request ended."""

    ANSWERED = auto()
    REFUSED = auto()
    """A whole answer that says no."""
    TOLD = auto()
    """A stream that broke off, with an error event that the client sees."""
    LOST = auto()
    """No answer, or a part of one and no word about the rest."""
    WRONG = auto()
    """A whole answer, but not to what was asked."""
    UNREACHABLE = auto()
    """No connection could be made, or it was closed before anything was sent on it."""


class Kind(Enum):
    """What is asked."""

    JSON = auto()
    STREAM = auto()
    ECHO = auto()
    PAIR = auto()
    """Two echoes sent at once: they are answered in order."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, headers by lower-case name, and a body; not `whole` where the connection ended before it did."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one request. `pid` is the process that answered, `task` its count of what it worked on."""

    kind: Kind
    end: End
    detail: str = ""
    status: int = 0
    pid: int = 0
    task: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    error: dict[str, Any] = field(default_factory=dict)


class Connection:
    """One connection at a time to the gateway, opened anew when it was closed between two answers."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close what is open."""
        if self._streams is not None:
            writer, self._streams = self._streams[1], None
            writer.transport.abort()
            await asyncio.sleep(0)

    async def ask(self, kind: Kind, model: str, mark: str, *, words: int, key: str | None = None) -> Result:
        """Ask, and judge what comes: `words` is how many the server is to say, `mark` what it is to echo."""
        wishes = [mark] if kind is not Kind.PAIR else [f"{mark}-1", f"{mark}-2"]
        try:
            async with asyncio.timeout(PATIENCE):
                reader, writer = await self._open()
        except OSError as error:
            return Result(kind, End.UNREACHABLE, repr(error))
        try:
            async with asyncio.timeout(PATIENCE):
                writer.write(b"".join(request(kind, model, one, words=words, key=key) for one in wishes))
                for one in wishes:
                    answer = await read_answer(reader)
                    if not answer.whole or answer.headers.get("connection") == "close":
                        await self.close()
                    result = judge(kind, answer, one, words=words)
                    if result.end is not End.ANSWERED:
                        break
                    if self._streams is None and one != wishes[-1]:  # RFC 9112 section 9.6: it was not taken
                        return Result(kind, End.UNREACHABLE, "the first answer said that the connection ends")
        except (OSError, asyncio.IncompleteReadError) as error:
            await self.close()
            return Result(kind, End.LOST, f"no answer: {error!r}")
        except TimeoutError:
            await self.close()
            return Result(kind, End.LOST, f"no answer within {PATIENCE:.0f} s")
        if result.end is not End.ANSWERED:
            await self.close()
        return result

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is not None and self._streams[0].at_eof():
            await self.close()
        if self._streams is None:
            if isinstance(self._address, str):
                self._streams = await asyncio.open_unix_connection(self._address)
            else:
                self._streams = await asyncio.open_connection(*self._address)
        return self._streams


def request(kind: Kind, model: str, mark: str, *, words: int, key: str | None) -> bytes:
    """The bytes of a request."""
    body: dict[str, object] = {"model": model, "mark": mark, "max_tokens": words}
    path = "/v1/responses"
    if kind in (Kind.JSON, Kind.STREAM):
        path = "/v1/chat/completions"
        body |= {"messages": [{"role": "user", "content": mark}], "stream": kind is Kind.STREAM}
    data = json.dumps(body).encode()
    authorization = f"Authorization: Bearer {key}\r\n" if key else ""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{authorization}Content-Type: application/json\r\n"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """The next answer; IncompleteReadError where not even its head came."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    body, whole = b"", True
    try:
        if headers.get("transfer-encoding") == "chunked":
            while size := int((await reader.readuntil(b"\r\n")), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readexactly(2)
        else:
            body = await reader.readexactly(int(headers["content-length"]))
    except (OSError, asyncio.IncompleteReadError):
        whole = False
    return Answer(int(lines[0].split()[1]), headers, body, whole)


def judge(kind: Kind, answer: Answer, mark: str, *, words: int) -> Result:
    """Whether `answer` is what was asked for. Pure."""
    if answer.status != 200:
        return _judge_refusal(kind, answer)
    if kind is Kind.STREAM:
        return _judge_stream(answer, words)
    if not answer.whole:
        return Result(kind, End.LOST, "the answer broke off", answer.status)
    said = json.loads(answer.body)
    if kind is Kind.JSON:
        pid, task = (int(one) for one in said["id"].split("-")[1:])
        content = said["choices"][0]["message"]["content"]
        end = End.ANSWERED if content == "".join(_words(words)) else End.WRONG
        return Result(kind, end, content if end is End.WRONG else "", 200, pid, task)
    echoed = json.loads(said["body"])["mark"]
    if echoed != mark:
        return Result(kind, End.WRONG, f"{echoed!r} in answer to {mark!r}", 200, said["pid"])
    return Result(kind, End.ANSWERED, "", 200, said["pid"])


def _judge_refusal(kind: Kind, answer: Answer) -> Result:
    if not answer.whole:
        return Result(kind, End.LOST, f"a {answer.status} that broke off", answer.status)
    error = json.loads(answer.body).get("error", {})
    return Result(kind, End.REFUSED, str(error), answer.status, headers=answer.headers, error=error)


def _judge_stream(answer: Answer, words: int) -> Result:
    text = answer.body.decode()
    found = re.search(r'"id":"chatcmpl-(\d+)-(\d+)"', text)
    pid, task = (int(found[1]), int(found[2])) if found else (0, 0)
    said = re.findall(r'"content":"(word\d+ )"', text)
    if said != _words(words)[: len(said)]:
        return Result(Kind.STREAM, End.WRONG, f"out of order: {said}", 200, pid, task)
    if answer.whole and len(said) == words and text.endswith("data: [DONE]\n\n"):
        return Result(Kind.STREAM, End.ANSWERED, "", 200, pid, task)
    event = re.search(r"\n\nevent: error\ndata: (\{.*\})\n\n\Z", text)
    if event and "message" in json.loads(event[1])["error"]:
        return Result(Kind.STREAM, End.TOLD, f"after {len(said)} words", 200, pid, task)
    return Result(Kind.STREAM, End.LOST, f"silent after {len(said)} of {words} words", 200, pid, task)


def _words(many: int) -> list[str]:
    return [f"word{i} " for i in range(1, many + 1)]
