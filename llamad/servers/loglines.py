"""The form of llama-server's log lines: their level, what needs nobody, and the moment to look at the server. Pure."""

import logging
import re

_PREFIX = re.compile(
    r"(?:\d+\.\d\d\.\d{3}\.\d{3} [DIWE]|[DWE]|I(?= (?:[^A-Za-z]|$|(?:srv|slot|que) |\w+: ))) ", re.ASCII
)
"""The time and the letter that llama.cpp puts in front (common/log.cpp). Without the time (`--no-log-timestamps`), an I
may also begin a sentence: it counts where what follows is not one.
"""
_JSON = re.compile(r'\{.*"level":\s*"(debug|info|warn|error)"')
_WORDED = re.compile(r"\s*(?:(error|terminate called|\S*GGML_ASSERT|fatal)|(warn|deprecated))(?:ing)?\b", re.IGNORECASE)
_LETTERS = {"D": logging.DEBUG, "I": logging.INFO, "W": logging.WARNING, "E": logging.ERROR}
_NAMES = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
_SERVES = re.compile(r"\bmodel loaded\b|\blistening on \S")
_REQUEST = re.compile(r"\bdone request: |\blog_server_r")
"""As llama.cpp says it, and as ik_llama.cpp and older builds do, in words and in JSON."""
_REMARK = re.compile(
    r"prompt cache is (?:en|dis)abled|use `--cache-ram |--cache-idle-slots requires|the full capacity of the model will"
    r"|for more info see https://github\.com/ggml-org/llama\.cpp/|model has unused tensor|control-looking token"
    r"|special_eog_ids contains both|the tokenizer config may be incorrect"
)
_PRIVATE_REMARK = re.compile(r"\bno API key is set|\bCORS\b")
"""Warnings that say nothing to somebody whose server listens on a socket that nobody else can open."""


def line_level(text: str) -> int | None:
    """The logging level of one line: its letter, the `level` of a line in JSON, or words such as `error:` in front.
    None: the line does not say (it goes on where the one before ended).
    """
    text = text[:300]
    if match := _PREFIX.match(text):
        return _LETTERS[match[0][-2]]
    if match := _JSON.match(text):
        return _NAMES[match[1]]
    if match := _WORDED.match(text):
        return logging.ERROR if match[1] else logging.WARNING
    if "GGML_ASSERT(" in text or text.lstrip().startswith("what():"):
        return logging.ERROR
    return None


def without_prefix(text: str) -> str:
    """The words of a line, without time and level."""
    match = _PREFIX.match(text)
    return text if match is None else text[match.end() :].lstrip()


def has_prefix(text: str) -> bool:
    """Whether a line begins as llama.cpp's own do."""
    return _PREFIX.match(text) is not None


def needs_nobody(text: str, *, private: bool) -> bool:
    """Whether a warning of a start asks nothing of an operator; `private`: only llamad can reach the server."""
    return _REMARK.search(text) is not None or (private and _PRIVATE_REMARK.search(text) is not None)


def ready_hint(text: str) -> bool:
    """Whether a line says that the server is, or is about to be, ready: now is the moment to ask it."""
    return _SERVES.search(text) is not None


def client_hint(text: str) -> bool:
    """Whether a line says that a request was, or is about to be, answered: what is logged from here on may hold the
    words of a client.
    """
    return _SERVES.search(text) is not None or _REQUEST.search(text) is not None
