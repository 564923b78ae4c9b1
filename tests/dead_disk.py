"""A disk that never answers: a FUSE mount that nobody serves, as a dead network mount is."""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

_libc = ctypes.CDLL(None, use_errno=True)
_MNT_DETACH = 2


@contextlib.contextmanager
def a_dead_disk(folder: Path) -> Iterator[Path]:
    """Mounted at `folder` for the time of the block; whoever waits for it then gets ENOTCONN. Skips where this process
    may not mount.
    """
    folder.mkdir()
    try:
        fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        pytest.skip("there is no /dev/fuse for us")
    try:
        options = f"fd={fd},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}".encode()
        if _libc.mount(b"dead", os.fsencode(folder), b"fuse", 0, options):
            pytest.skip("this process may not mount")
        try:
            yield folder
        finally:
            os.close(fd)
            fd = -1
            _libc.umount2(os.fsencode(folder), _MNT_DETACH)
    finally:
        if fd >= 0:
            os.close(fd)
