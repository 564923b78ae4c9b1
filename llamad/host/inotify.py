"""Which files somebody is writing right now, by inotify(7): changed, and not closed since.

watchfiles tells that something changed, but not that its writer is done. A lease (fcntl(2), F_SETLEASE) would tell,
but only the owner of a file may ask, and the service does not own its configuration.
"""

import ctypes
import os
import struct
from pathlib import Path
from typing import Self

_MODIFY = 0x2
_CLOSE_WRITE = 0x8
_MOVED_FROM = 0x40
_MOVED_TO = 0x80
_DELETE = 0x200
_OVERFLOW = 0x4000
_ASKED = _MODIFY | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _DELETE
_EVENT = struct.Struct("iIII")  # watch, mask, cookie, bytes of the name
_READ = 1 << 16
_libc = ctypes.CDLL(None, use_errno=True)


class Writers:
    """Follows folders. `OSError` where the kernel gives no more instances or watches (EMFILE, ENOSPC), or there is no
    such folder. Use as a context manager.
    """

    def __init__(self) -> None:
        self._fd: int = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._folders: dict[int, Path] = {}
        self._writing: set[Path] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._fd)

    def follow(self, folder: Path) -> None:
        """From now on, know who writes in this folder."""
        watch = _checked(_libc.inotify_add_watch(self._fd, os.fsencode(folder), _ASKED))
        self._folders[watch] = folder

    def writing(self) -> frozenset[Path]:
        """The files that were changed by somebody who has not closed them yet."""
        while data := self._read():
            at = 0
            while at < len(data):
                watch, mask, _, size = _EVENT.unpack_from(data, at)
                at += _EVENT.size
                self._note(watch, mask, data[at : at + size].rstrip(b"\0"))
                at += size
        return frozenset(self._writing)

    def _read(self) -> bytes:
        try:
            return os.read(self._fd, _READ)
        except BlockingIOError:
            return b""

    def _note(self, watch: int, mask: int, name: bytes) -> None:
        if mask & _OVERFLOW:  # nothing is known any more
            self._writing.clear()
        elif watch in self._folders:
            path = self._folders[watch] / os.fsdecode(name)
            if mask & _MODIFY:
                self._writing.add(path)
            else:
                self._writing.discard(path)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
