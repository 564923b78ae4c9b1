"""Tells when a configuration file was saved: its folder is watched, since an editor replaces the file itself."""

import asyncio
import fcntl
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import watchfiles

log = logging.getLogger(__name__)
STILL_FOR = 0.2
"""Seconds without a change before a saved file is read."""
_LOOK_EVERY = 0.05
_LONGEST_WAIT = 10.0
_RETRY = 30.0

Marks = tuple[tuple[Path, int, int, int], ...]


class FolderWatch:
    """Watches `file` and `*.yaml` in the folder `conf.d` beside it, which may appear later."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._drop_ins = file.parent / "conf.d"

    async def saved(self) -> AsyncIterator[None]:
        """Yield once for every time that files were saved, closed, and kept still. Until cancelled."""
        while True:
            try:
                async for _ in self._changes():
                    await settled(self._files)
                    yield
            except OSError as error:  # no inotify watch to be had: ENOSPC, EMFILE
                log.warning(
                    "cannot watch %s for edits (%s): use `systemctl reload llamad`; tried again in %d s",
                    self._file.parent, error.strerror or error, _RETRY, extra={"event": "watch-failed"},
                )  # fmt: skip
                await asyncio.sleep(_RETRY)

    async def _changes(self) -> AsyncIterator[None]:
        """Every change of one of the files; ends when the set of folders to watch has changed."""
        folders = self._folders()
        async for _ in watchfiles.awatch(
            *folders, watch_filter=self._concerns, recursive=False, debounce=100, step=50, rust_timeout=60_000
        ):
            yield
            if self._folders() != folders:
                return  # conf.d came or went: watch what is there now

    def _folders(self) -> list[Path]:
        """The folders of the file, of what it links to, and of the drop-ins."""
        there = {self._file.parent, self._file.resolve().parent, self._drop_ins}
        return sorted(folder for folder in there if folder.is_dir())

    def _concerns(self, _: watchfiles.Change, name: str) -> bool:
        path = Path(name)
        drop_in = path.parent.name == "conf.d" and path.suffix == ".yaml" and not path.name.startswith(".")
        return drop_in or path in (self._file, self._file.resolve(), self._drop_ins)

    def _files(self) -> Iterable[Path]:
        return [self._file, *sorted(self._drop_ins.glob("*.yaml"))]


async def settled(files: Callable[[], Iterable[Path]]) -> None:
    """Return once nobody writes to the files and they did not change for STILL_FOR; after ten seconds in any case."""
    loop = asyncio.get_running_loop()
    began = still_since = loop.time()
    seen = _marks(files())
    while loop.time() - began < _LONGEST_WAIT:
        if loop.time() - still_since >= STILL_FOR:
            return
        await asyncio.sleep(_LOOK_EVERY)
        now = _marks(files())
        if now != seen or any(_is_written(path) for path in files()):
            seen, still_since = now, loop.time()


def _marks(files: Iterable[Path]) -> Marks:
    marks = []
    for path in files:
        try:
            stat = path.stat()
        except OSError:
            continue
        marks.append((path, stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return tuple(marks)


def _is_written(path: Path) -> bool:
    """Whether somebody has the file open for writing, told by a read lease being refused (fcntl(2), F_SETLEASE).
    Only the owner of a file may ask; for others' files stillness is all there is.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    else:
        return False
    finally:
        os.close(fd)
