"""One runtime directory belongs to one llamad at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llamad.errors import LlamadError
from llamad.host.dirs import Directories


def lock_file(directories: Directories) -> Path:
    """The file that is locked (flock(2)). A llamad that runs has made it."""
    return directories.runtime / "llamad.lock"


@contextmanager
def only_one(directories: Directories) -> Iterator[None]:
    """Have the runtime directory alone for the time of the block: two would fight for the same servers. LlamadError
    where another has it, or where it cannot be had.
    """
    path = lock_file(directories)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LlamadError(f"cannot open {path}: {error.strerror}", hint="is it another user's?") from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LlamadError(
                f"another llamad already uses {directories.runtime}", hint="see `llamad status`, or end it first"
            ) from None
        yield
    finally:
        os.close(fd)
