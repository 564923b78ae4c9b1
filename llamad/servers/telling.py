"""How a replica's events are logged: the server is a field, which every format shows, the replica a word."""

import asyncio
import logging

from llamad.servers.board import Failure, ReplicaKey


def tell(log: logging.Logger, level: int, key: ReplicaKey, message: str, *values: object, **fields: object) -> None:
    """Log `message` about one replica, with `fields` beside `server` and `replica`."""
    who = f"replica {key.index} " if key.index else ""
    log.log(level, f"{who}{message}", *values, extra={"server": key.server, "replica": key.index, **fields})  # noqa: G004


def tell_bug(log: logging.Logger, server: str, error: Exception) -> Failure:
    """Log a fault of llamad's own that `server` has met, with its traceback; returns it as why that server is down.
    Where its task was told to end meanwhile, that is not lost: CancelledError.
    """
    log.error("a bug in llamad", exc_info=error, extra={"server": server, "event": "bug"})
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
    while isinstance(error, ExceptionGroup):  # a group of tasks wraps what one of them raised
        error = error.exceptions[0]
    return Failure("internal-error", f"a bug in llamad: {error!r}", "please report it with the log")
