"""Tells when a configuration file was saved: its folder is watched, since an editor replaces the file itself. The
files of keys that it names are watched in the same way. All looks at the disk are taken in threads: one that does not
answer holds nobody up.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from stat import S_ISDIR, S_ISLNK

import watchfiles

from llamad.config.files import DROP_INS, is_drop_in
from llamad.host.files import names_in, status, within
from llamad.host.inotify import Writers
from llamad.host.threads import aside

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
    """Watches `file`, `*.yaml` in the folder `conf.d` beside it, which may appear later, and the files that it names
    (`follow`). What is there when this is made counts as known: make it before the files are read for the first time.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._drop_ins = file.parent / DROP_INS
        self._named: frozenset[Path] = frozenset()
        self._real: frozenset[Path] = frozenset()
        """What the files lead to, as far as they are links."""
        self._known = _marks(self._files())
        self._had_folder = self._folder()

    async def follow(self, named: Iterable[Path]) -> None:
        """Watch these files from now on, and no more those that were named before. What is there now counts as known:
        call it before the files are read.
        """
        now = frozenset(named)
        if now == self._named:
            return
        fresh = await aside(_marks, now - self._named)
        left = self._named - now
        self._named = now
        self._known = {**fresh, **{path: mark for path, mark in self._known.items() if path not in left}}

    async def saved(self) -> AsyncIterator[Saved]:
        """Yield once for every time that files were saved, closed, and kept still. Until cancelled."""
        while True:
            try:
                async for writers in self._changes():
                    now, folder = await settled(self._files, writers), await aside(self._folder)
                    before = (self._known, self._had_folder)
                    self._known, self._had_folder = now, folder
                    if (now, folder) != before:  # one save may come as several events
                        yield _difference(before[0], now)
            except (OSError, RuntimeError) as error:  # no inotify watch to be had (ENOSPC, EMFILE); watchfiles' own
                why = getattr(error, "strerror", None) or error
                log.warning(
                    "cannot watch %s for edits (%s): use `systemctl reload llamad`; tried again in %d s",
                    self._file.parent, why, _RETRY, extra={"event": "watch-failed"},
                )  # fmt: skip
                await asyncio.sleep(_RETRY)

    async def _changes(self) -> AsyncIterator[Writers]:
        """Every change of one of the files; ends when the set of folders to watch has changed."""
        folders = await aside(self._folders)
        with Writers() as writers:
            for folder in folders:
                writers.follow(folder)
            batches = watchfiles.awatch(
                *folders,
                watch_filter=self._concerns,
                recursive=False,
                debounce=100,
                step=50,
                rust_timeout=_LOOK_ANYWAY,
                yield_on_timeout=True,
            )
            async with aclosing(batches):  # else its descriptors stay until somebody collects it
                async for events in batches:
                    if bool(events) or await aside(self._differs):
                        yield writers
                    if await aside(self._folders) != folders:
                        return  # conf.d came or went, or a folder was replaced: watch what is there now

    def _differs(self) -> bool:
        """Whether something is not as it was when it was looked at last."""
        return _marks(self._files()) != self._known or self._folder() != self._had_folder

    def _folders(self) -> dict[Path, int]:
        """The folders of the file, of what it links to, and of the drop-ins; with their inodes, for one may be replaced
        by another. Those of the files that are named only where they may be read: they are looked at now and then all
        the same.
        """
        named = self._named  # a thread looks, and others may be named meanwhile
        real = {path: _real(path) for path in (self._file, *named)}
        self._real = frozenset(real.values())
        there = {self._file.parent, real[self._file].parent, self._drop_ins}
        there |= {one for path in named for one in (path.parent, real[path].parent) if _may_enter(one)}
        found = {folder: _status(folder) for folder in there}
        return {folder: look.st_ino for folder, look in found.items() if look is not None and S_ISDIR(look.st_mode)}

    def _folder(self) -> int | None:
        """Which folder of drop-ins there is."""
        found = _status(self._drop_ins)
        return None if found is None else found.st_ino

    def _concerns(self, _: watchfiles.Change, name: str) -> bool:
        """Called by watchfiles on the loop, and so looks at no disk."""
        path = Path(name)
        drop_in = path.parent.name == DROP_INS and is_drop_in(path)
        return drop_in or path in (self._file, self._drop_ins, *self._named, *self._real)

    def _files(self) -> Iterable[Path]:
        try:
            names = names_in(self._drop_ins)
        except OSError:  # whoever reads them says so
            names = []
        return [self._file, *(path for name in names if is_drop_in(path := self._drop_ins / name)), *self._named]


async def settled(files: Callable[[], Iterable[Path]], writers: Writers) -> Marks:
    """Return once nobody writes to the files and they did not change for STILL_FOR; after ten seconds in any case.
    What they look like then.
    """
    loop = asyncio.get_running_loop()
    began = still_since = loop.time()
    seen, _ = await aside(_look, files, frozenset())
    while loop.time() - began < _LONGEST_WAIT:
        if loop.time() - still_since >= STILL_FOR:
            break
        await asyncio.sleep(_LOOK_EVERY)
        now, is_written = await aside(_look, files, writers.writing())
        if now != seen or is_written:
            seen, still_since = now, loop.time()
    return seen


def _look(files: Callable[[], Iterable[Path]], written: frozenset[Path]) -> tuple[Marks, bool]:
    """How the files look, and whether somebody writes to one."""
    paths = list(files())
    is_written = bool(written) and (not written.isdisjoint(paths) or any(_real(path) in written for path in paths))
    return _marks(paths), is_written


def _difference(before: Marks, now: Marks) -> Saved:
    saved = tuple(path for path, mark in now.items() if before.get(path) != mark)
    return Saved(saved, tuple(path for path in before if path not in now))


def _real(path: Path) -> Path:
    """Where it leads; unlike Path.resolve also where that is in a circle."""
    try:
        return within(path, lambda: Path(os.path.realpath(path)))
    except OSError:  # its disk does not answer: whoever reads it says so
        return path


def _status(path: Path) -> os.stat_result | None:
    """How it looks; None where it is not there, or cannot be looked at: whoever reads it says so."""
    try:
        return status(path)
    except OSError:
        return None


def _may_enter(folder: Path) -> bool:
    return _status(folder) is not None and os.access(folder, os.R_OK | os.X_OK)


def _marks(files: Iterable[Path]) -> Marks:
    """One look a folder: a thread for every file would be slow on a busy machine."""
    by_folder: dict[Path, list[Path]] = {}
    for path in files:
        by_folder.setdefault(path.parent, []).append(path)
    looks: dict[Path, os.stat_result | None] = {}
    for folder, paths in by_folder.items():
        try:
            looks |= within(folder, partial(_looks, paths))
        except OSError:  # the folder's disk does not answer: whoever reads it says so
            continue
        looks |= {path: _status(path) for path in paths if (look := looks[path]) and S_ISLNK(look.st_mode)}
    return {
        path: (look.st_ino, look.st_size, look.st_mtime_ns, look.st_ctime_ns)
        for path, look in looks.items()
        if look is not None
    }


def _looks(files: Iterable[Path]) -> dict[Path, os.stat_result | None]:
    """How files of one folder look; a link itself, since what it leads to may be on a disk that does not answer."""
    found: dict[Path, os.stat_result | None] = {}
    for path in files:
        try:
            found[path] = path.lstat()
        except OSError:  # it is not there, which is all that a mark tells
            found[path] = None
    return found
