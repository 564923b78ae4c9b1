"""The one door to files: what is no file is refused, what is too large too, and no disk can hold anybody up."""

import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llamad.host import files
from llamad.host.files import (
    names_in,
    open_regular,
    read_bytes,
    read_end,
    read_kernel,
    read_text,
    replace_file,
    status,
    within,
)
from tests.dead_disk import a_dead_disk
from tests.waiting import wait_until

Readers = dict[str, Callable[[Path], object]]
READERS: Readers = {
    "bytes": read_bytes,
    "text": read_text,
    "end": lambda path: read_end(path, 10),
    "kernel": read_kernel,
}


@pytest.fixture(autouse=True)
def _nobody_is_stuck() -> Iterator[None]:
    yield
    wait_until(lambda: not files._threads._stuck)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize(
    ("make", "why"),
    [
        (os.mkfifo, "it is a named pipe, not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a device, not a file"),
        (lambda path: path.symlink_to("/dev/tty"), "it is a device, not a file"),
        (lambda path: path.mkdir(), "it is a folder, not a file"),
        (a_socket, "it is a socket, not a file"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
        (lambda path: path.symlink_to("nowhere"), "No such file or directory"),
        (lambda path: None, "No such file or directory"),
    ],
)
def test_what_is_no_file_is_refused_at_once(
    make: Callable[[Path], object], why: str, read: Callable[[Path], object], tmp_path: Path
) -> None:
    make(tmp_path / "x")
    with pytest.raises(OSError, match=why):
        read(tmp_path / "x")


def test_a_pipe_is_not_even_opened(tmp_path: Path) -> None:
    """A reader that opens one, and be it for a moment, lets its writer go on, and then kills it."""
    os.mkfifo(tmp_path / "x")
    with pytest.raises(OSError, match="named pipe"):
        read_bytes(tmp_path / "x")
    with pytest.raises(OSError, match="No such device or address"):  # ENXIO: there is no reader
        os.open(tmp_path / "x", os.O_WRONLY | os.O_NONBLOCK)


def test_what_becomes_a_pipe_meanwhile_is_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "x")
    (tmp_path / "file").touch()
    monkeypatch.setattr(Path, "stat", lambda _: os.stat(tmp_path / "file"))
    with pytest.raises(OSError, match="named pipe"):
        open_regular(tmp_path / "x")


def test_a_file_is_bounded_and_a_sparse_one_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    assert read_bytes(path, most=5) == b"12345"
    for most, words in ((4, "it is larger than 0 KiB"), (2048, "it is larger than 2 KiB")):
        path.write_bytes(b"1" * (most + 1))
        with pytest.raises(OSError, match=words):
            read_bytes(path, most=most)
    os.truncate(path, 100 << 30)
    with pytest.raises(OSError, match="it is larger than 4 MiB"):
        read_bytes(path)
    assert read_end(path, 3) == b"\0\0\0"
    path.write_bytes(b"abc")
    assert (read_end(path, 2), read_end(path, 9)) == (b"bc", b"abc")


def test_text_is_utf8_and_the_kernels_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"\xe9")
    assert read_kernel(path) == "\ufffd"
    with pytest.raises(UnicodeDecodeError):
        read_text(path)
    path.write_text("é")
    assert read_text(path) == "é"
    assert read_kernel(Path("/proc/self/comm"))


def test_a_folder_is_listed_within_a_bound(tmp_path: Path) -> None:
    for name in "cab":
        (tmp_path / name).touch()
    assert names_in(tmp_path) == ["a", "b", "c"]
    assert len(names_in(tmp_path, most=2)) == 2
    assert status(tmp_path).st_ino == tmp_path.stat().st_ino
    with pytest.raises(NotADirectoryError):
        names_in(tmp_path / "a")


def test_a_file_is_replaced_whatever_stands_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "x"
    os.mkfifo(path)
    os.mkfifo(tmp_path / "x.new")
    replace_file(path, b"1")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"1", 0o600)
    replace_file(path, b"2", mode=0o644)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    path.unlink()
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        replace_file(path, b"3")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["x", "x.new"]


# --- a disk that does not answer


@pytest.mark.parametrize(
    "look",
    [
        lambda path: within(path, lambda: read_and_say(path), patience=0.2),
        lambda path: within(path, path.stat, patience=0.2),
    ],
)
def test_a_dead_disk_costs_its_first_reader_some_time_and_the_next_none(
    look: Callable[[Path], object], tmp_path: Path
) -> None:
    with a_dead_disk(tmp_path / "disk") as disk:
        with pytest.raises(TimeoutError) as first:
            look(disk / "deep" / "x")
        assert first.value.strerror == "its disk has not answered for 0.2 s"
        began = time.monotonic()
        for path in (disk / "y", disk / "other" / "x"):
            with pytest.raises(TimeoutError, match="its disk does not answer"):
                read_bytes(path)
        assert time.monotonic() - began < 5, "it is not tried again while the first still waits"
        (tmp_path / "fine").write_text("fine")
        assert read_text(tmp_path / "fine") == "fine"
    wait_until(lambda: not files._threads._stuck)
    (tmp_path / "disk" / "y").write_text("back")
    assert read_text(tmp_path / "disk" / "y") == "back"


def read_and_say(path: Path) -> bytes:
    os.close(open_regular(path))
    return b""


def test_only_so_many_threads_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()
    monkeypatch.setattr(files, "MOST_STUCK", 2)
    for number in range(2):
        with pytest.raises(TimeoutError, match="has not answered"):
            within(tmp_path / str(number) / "x", free.wait, patience=0.01)
    with pytest.raises(TimeoutError, match="2 reads already wait"):
        read_bytes(tmp_path / "3" / "x")
    free.set()


def test_without_a_thread_to_be_had_it_is_read_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(_: object) -> None:
        raise RuntimeError("can't start new thread")

    files._threads.end()
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    assert within(tmp_path, threading.get_ident) == threading.get_ident()
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "x")


def test_threads_are_used_again(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    files._threads.end()
    wait_until(lambda: not any(one.name == "files" for one in threading.enumerate()))
    used = {within(tmp_path, threading.get_ident) for _ in range(20)}
    assert len(used) <= 2
    files._threads.end()


def test_a_link_to_a_dead_disk_says_nothing_of_its_neighbours(tmp_path: Path) -> None:
    """The folder of the link is on a disk that is well: a server whose model lies there must go on."""
    (tmp_path / "fine").write_text("fine")
    (tmp_path / "folder").symlink_to("../" + tmp_path.name + "/disk")
    with a_dead_disk(tmp_path / "disk") as disk:
        (tmp_path / "link").symlink_to(disk / "x")
        with pytest.raises(TimeoutError, match="has not answered"):
            within(tmp_path / "link", (tmp_path / "link").stat, patience=0.2)
        assert read_text(tmp_path / "fine") == "fine"
        for path in (disk / "y", tmp_path / "link", tmp_path / "folder" / "z", tmp_path / "folder" / ".." / "disk"):
            with pytest.raises(TimeoutError, match="its disk does not answer"):
                read_bytes(path)
        assert names_in(tmp_path) == ["disk", "fine", "folder", "link"]


def test_what_hangs_on_the_root_disk_stands_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()
    with pytest.raises(TimeoutError, match="has not answered"):
        within(tmp_path / "x", free.wait, patience=0.01)
    (tmp_path / "y").touch()
    assert read_bytes(tmp_path / "y") == b""
    with pytest.raises(TimeoutError, match="its disk does not answer"):
        read_bytes(tmp_path / "x")
    free.set()

    def hidden(*_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files, "read_kernel", hidden)
    assert files._mounts() == frozenset()
