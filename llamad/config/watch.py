"""Tells when a configuration file was saved: its folder is watched, since an editor replaces the file itself. The
file of API keys that it names is watched in the same way.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import watchfiles

from llamad.config.files import DROP_INS, is_drop_in
from llamad.host.inotify import Writers

log = logging.getLogger(__name__)
STILL_FOR = 0.2
"""Seconds without a change before a saved file is read."""
_LOOK_EVERY = 0.05
_LONGEST_WAIT = 10.0
_RETRY = 30.0
_LOOK_ANYWAY = 1000
"""Milliseconds after which the files are looked at without an event: one may be lost while the watch is set up, and a
network file system sends none."""

Marks = Mapping[Path, tuple[int, ...]]
"""How a file looks from outside: inode, size, and when it, and who may read it, was changed."""


@dataclass(frozen=True, slots=True)
class Saved:
    """What was saved, and what is gone; nothing of both where only a folder came or went."""

    files: tuple[Path, ...] = ()
    deleted: tuple[Path, ...] = ()

    def __str__(self) -> str:
        words = [f"{path} was saved" for path in self.files] + [f"{path} was deleted" for path in self.deleted]
        return ", ".join(words) or "the folder of the configuration was changed"


class FolderWatch:
    """Watches `file`, `*.yaml` in the folder `conf.d` beside it, which may appear later, and one file more (`follow`).
    What is there when this is made counts as known: make it before the files are read for the first time.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._drop_ins = file.parent / DROP_INS
        self._named: Path | None = None
        self._known = _marks(self._files())

    def follow(self, named: Path | None) -> None:
        """Watch this file from now on, and no more the one that was named before. What is there now counts as known:
        call it before the file is read.
        """
        if named == self._named:
            return
        known = {path: mark for path, mark in self._known.items() if path != self._named}
        self._named = named
        self._known = known if named is None else {**_marks([named]), **known}

    async def saved(self) -> AsyncIterator[Saved]:
        """Yield once for every time that files were saved, closed, and kept still. Until cancelled."""
        while True:
            try:
                async for writers in self._changes():
                    now = await settled(self._files, writers)
                    known, self._known = self._known, now
                    yield _difference(known, now)
            except OSError as error:  # no inotify watch to be had: ENOSPC, EMFILE
                log.warning(
                    "cannot watch %s for edits (%s): use `systemctl reload llamad`; tried again in %d s",
                    self._file.parent, error.strerror or error, _RETRY, extra={"event": "watch-failed"},
                )  # fmt: skip
                await asyncio.sleep(_RETRY)

    async def _changes(self) -> AsyncIterator[Writers]:
        """Every change of one of the files; ends when the set of folders to watch has changed."""
        folders = self._folders()
        with Writers() as writers:
            for folder in folders:
                writers.follow(folder)
            async for events in watchfiles.awatch(
                *folders,
                watch_filter=self._concerns,
                recursive=False,
                debounce=100,
                step=50,
                rust_timeout=_LOOK_ANYWAY,
                yield_on_timeout=True,
            ):
                if events or _marks(self._files()) != self._known:
                    yield writers
                if self._folders() != folders:
                    return  # conf.d came or went, or a folder was replaced: watch what is there now

    def _folders(self) -> dict[Path, int]:
        """The folders of the file, of what it links to, and of the drop-ins; with their inodes, for one may be replaced
        by another. That of the file that is named only where it may be read: it is looked at now and then all the same.
        """
        there = {self._file.parent, _real(self._file).parent, self._drop_ins}
        if self._named is not None:
            named = (self._named.parent, _real(self._named).parent)
            there.update(folder for folder in named if os.access(folder, os.R_OK | os.X_OK))
        return {folder: folder.stat().st_ino for folder in there if folder.is_dir()}

    def _concerns(self, _: watchfiles.Change, name: str) -> bool:
        path = Path(name)
        drop_in = path.parent.name == DROP_INS and is_drop_in(path)
        if drop_in or path in (self._file, _real(self._file), self._drop_ins):
            return True
        return self._named is not None and path in (self._named, _real(self._named))

    def _files(self) -> Iterable[Path]:
        named = () if self._named is None else (self._named,)
        return [self._file, *sorted(path for path in self._drop_ins.glob("*.yaml") if is_drop_in(path)), *named]


async def settled(files: Callable[[], Iterable[Path]], writers: Writers) -> Marks:
    """Return once nobody writes to the files and they did not change for STILL_FOR; after ten seconds in any case.
    What they look like then.
    """
    loop = asyncio.get_running_loop()
    began = still_since = loop.time()
    seen = _marks(files())
    while loop.time() - began < _LONGEST_WAIT:
        if loop.time() - still_since >= STILL_FOR:
            break
        await asyncio.sleep(_LOOK_EVERY)
        now = _marks(files())
        written = writers.writing()
        if now != seen or any(path in written or _real(path) in written for path in files()):
            seen, still_since = now, loop.time()
    return seen


def _difference(before: Marks, now: Marks) -> Saved:
    saved = tuple(path for path, mark in now.items() if before.get(path) != mark)
    return Saved(saved, tuple(path for path in before if path not in now))


def _real(path: Path) -> Path:
    """Where it leads; unlike Path.resolve also where that is in a circle."""
    return Path(os.path.realpath(path))


def _marks(files: Iterable[Path]) -> Marks:
    marks = {}
    for path in files:
        try:
            stat = path.stat()
        except OSError:
            continue
        marks[path] = (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    return marks
