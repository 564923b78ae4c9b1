"""Saved files are noticed once they are whole: real files, real time."""

# ruff: noqa: ASYNC240 - files of a few bytes

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from watchfiles._rust_notify import WatchfilesRustInternalError

from llamad.config import watch
from llamad.config.watch import FolderWatch, settled
from llamad.host import files
from llamad.host.files import within
from llamad.host.inotify import Writers
from tests.dead_disk import a_dead_disk
from tests.waiting import until


class Watched:
    """Counts what a watch tells, and keeps the last of it in words."""

    def __init__(self, watch: FolderWatch) -> None:
        self.watch = watch
        self.saves = 0
        self.last = ""
        self.told: list[str] = []

    async def follow(self) -> None:
        async for saved in self.watch.saved():
            self.saves += 1
            self.last = str(saved)
            self.told.append(self.last)

    async def hears(self, words: str) -> None:
        """Wait until this is told, which is then forgotten. On a busy machine one save may be seen as two."""
        await until(lambda: words in self.told)
        assert set(self.told) == {words}, "nothing else is noticed"
        self.told.clear()

    async def reaches(self, saves: int) -> None:
        await until(lambda: self.saves == saves)


@asynccontextmanager
async def watching(file: Path, *, meanwhile: Callable[[], object] = lambda: None) -> AsyncIterator[Watched]:
    """A watch that runs; `meanwhile` happens between its making and its first look."""
    watched = Watched(FolderWatch(file))
    meanwhile()
    task = asyncio.ensure_future(watched.follow())
    await asyncio.sleep(0.1)  # there is no sign that a watch is set up; what comes too early is noticed a little later
    try:
        yield watched
    finally:
        task.cancel()
        await asyncio.wait((task,))
        if not task.cancelled():
            task.result()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, to in {"STILL_FOR": 0.05, "_LOOK_EVERY": 0.01, "_LOOK_ANYWAY": 200}.items():
        monkeypatch.setattr(watch, name, to)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "llamad.yaml"
    path.write_text("servers: {}\n")
    return path


def replace(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text)
    fresh.replace(path)


async def test_every_way_of_saving_is_noticed_and_nothing_else(file: Path) -> None:
    async with watching(file) as watched:
        began = asyncio.get_running_loop().time()
        file.write_text("in place")
        await watched.hears(f"{file} was saved")
        assert asyncio.get_running_loop().time() - began >= watch.STILL_FOR
        replace(file, "by another")
        await watched.hears(f"{file} was saved")
        (file.parent / "llamad.yaml~").touch()
        (file.parent / "other.yaml").touch()
        file.read_text()
        (file.parent / "conf.d").mkdir()
        await watched.hears("the folder of the configuration was changed")
        drop_in = file.parent / "conf.d" / "10.yaml"
        drop_in.write_text("a drop-in")
        await watched.hears(f"{drop_in} was saved")
        (file.parent / "conf.d" / ".10.yaml.swp").touch()
        (file.parent / "conf.d" / "README").touch()
        drop_in.unlink()
        await watched.hears(f"{drop_in} was deleted")


@pytest.mark.parametrize("_", range(10))
async def test_a_folder_that_comes_while_the_watch_is_set_up_anew_is_noticed(file: Path, _: int) -> None:
    """Its event came to the old watch, which nobody read any more."""
    async with watching(file) as watched:
        replace(file, "by another")
        await watched.hears(f"{file} was saved")
        (file.parent / "conf.d").mkdir()
        await watched.hears("the folder of the configuration was changed")


async def test_a_file_that_is_named_is_watched_until_another_is(file: Path, tmp_path: Path) -> None:
    keys, other = tmp_path / "elsewhere" / "keys", tmp_path / "other"
    keys.parent.mkdir()
    keys.write_text("1")
    other.write_text("1")
    async with watching(file) as watched:
        await watched.watch.follow([keys])
        await watched.watch.follow([keys])
        await asyncio.sleep(0.3)
        assert watched.saves == 0, "what is there is known"
        acts: list[Callable[[], object]] = [lambda: replace(keys, "2"), keys.unlink, lambda: keys.write_text("3")]
        for number, act in enumerate(acts, 1):
            act()
            await watched.reaches(number)
            assert watched.last == f"{keys} was {'deleted' if number == 2 else 'saved'}"
        await watched.watch.follow([other])
        keys.write_text("4")
        replace(other, "2")
        await until(lambda: watched.saves == 4)
        assert watched.last == f"{other} was saved"
        await watched.watch.follow([])
        other.write_text("3")
        file.write_text("more")
        await until(lambda: watched.saves == 5)
        assert watched.last == f"{file} was saved"


async def test_a_change_of_the_rights_is_noticed(file: Path) -> None:
    async with watching(file) as watched:
        file.chmod(0o600)
        await until(lambda: watched.saves == 1)


async def test_a_named_file_whose_folder_cannot_be_watched_costs_no_watch(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "closed" / "keys"
    keys.parent.mkdir()
    keys.write_text("1")
    monkeypatch.setattr(os, "access", lambda path, _: path != keys.parent)
    async with watching(file) as watched:
        await watched.watch.follow([keys])
        assert keys.parent not in watched.watch._folders()
        replace(keys, "2")
        await until(lambda: watched.saves == 1)


async def test_a_link_to_a_dead_disk_hides_no_edit(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = file.parent / "keys"
    monkeypatch.setattr(watch, "within", lambda path, look: within(path, look, patience=0.1))
    monkeypatch.setattr(watch, "status", lambda path: within(path, path.stat, patience=0.1))
    with a_dead_disk(tmp_path / "disk") as disk:
        keys.symlink_to(disk / "keys")
        async with watching(file) as watched:
            await watched.watch.follow([keys])
            file.write_text("more")
            await until(lambda: f"{file} was saved" in watched.told)
            assert len(files._threads._stuck) <= 2, "a thread is lost once, and not with every look"


async def test_a_link_in_a_circle_ends_nothing(file: Path) -> None:
    async with watching(file) as watched:
        file.unlink()
        file.symlink_to(file)
        await until(lambda: watched.saves == 1)
        file.unlink()
        file.write_text("1")
        await until(lambda: watched.saves >= 2)


async def test_what_is_saved_before_the_watch_is_set_up_is_not_lost(file: Path) -> None:
    async with watching(file, meanwhile=lambda: file.write_text("between")) as watched:
        await until(lambda: watched.saves == 1)


async def test_a_folder_that_is_replaced_is_watched_on(file: Path) -> None:
    async with watching(file) as watched:
        aside = file.parent.with_name("aside")
        shutil.copytree(file.parent, aside)
        file.parent.rename(file.parent.with_name("old"))
        aside.rename(file.parent)
        file.write_text("in the new one")
        await until(lambda: watched.saves >= 1)


async def test_a_file_that_is_a_link_is_noticed_where_it_leads(file: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "real.yaml"
    target.write_text("1")
    file.unlink()
    file.symlink_to(target)
    async with watching(file) as watched:
        replace(target, "2")
        await until(lambda: watched.saves == 1)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), WatchfilesRustInternalError("No space left on device")]
)
async def test_a_watch_that_cannot_be_had_is_told_and_tried_again(
    error: Exception, file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What watchfiles itself meets is no OSError, and no reason to end llamad."""
    tries = 0

    class Refused(Writers):
        def __init__(self) -> None:
            nonlocal tries
            tries += 1
            if tries == 1:
                raise error
            super().__init__()

    monkeypatch.setattr(watch, "Writers", Refused)
    monkeypatch.setattr(watch, "_RETRY", 0.01)
    async with watching(file) as watched:
        file.write_text("more")
        await until(lambda: watched.saves == 1)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"cannot watch {file.parent} for edits (No space left on device): use ")


async def test_a_file_has_to_be_closed_and_to_keep_still(file: Path) -> None:
    with Writers() as writers:
        writers.follow(file.parent)
        with file.open("w") as writer:
            waiting = asyncio.ensure_future(settled(lambda: [file], writers))
            writer.write("half")
            writer.flush()
            await asyncio.sleep(0.2)
            assert not waiting.done()
        marks = await waiting
    stat = file.stat()
    assert marks == {file: (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)}


async def test_a_writer_that_never_closes_is_not_waited_for_for_ever(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_LONGEST_WAIT", 0.05)
    with Writers() as writers, os.fdopen(os.open(file, os.O_WRONLY), "w") as writer:
        writers.follow(file.parent)
        writer.write("half")
        writer.flush()
        await settled(lambda: [file, file.with_name("gone")], writers)


def test_others_may_be_named_while_a_thread_looks(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reload names other key files on the loop: a look that went on by them ended llamad with a KeyError."""
    seen = FolderWatch(file)

    def look(path: Path) -> Path:
        seen._named = frozenset({file.parent / "others"})
        return path

    monkeypatch.setattr(watch, "_real", look)
    assert seen._folders().keys() == {file.parent}
