"""How a replica's events are logged: the server is a field, which every format shows, the replica a word."""

import logging

from llamad.servers.board import ReplicaKey


def tell(log: logging.Logger, level: int, key: ReplicaKey, message: str, *values: object, **fields: object) -> None:
    """Log `message` about one replica, with `fields` beside `server` and `replica`."""
    who = f"replica {key.index} " if key.index else ""
    log.log(level, f"{who}{message}", *values, extra={"server": key.server, "replica": key.index, **fields})  # noqa: G004
