"""The step from "should run" to a running child."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from llamad.config.optionfiles import NamedFile, Use
from llamad.host.address import TcpAddress, UnixAddress
from llamad.host.dirs import Directories
from llamad.servers import starting
from llamad.servers.board import Failure, ReplicaKey
from llamad.servers.starting import CannotStartError, file_marks, mark, prepare, spawn_failure
from tests.builders import a_launch
from tests.stories import KEY, World, a_server, a_world, tell


def test_a_mark_tells_a_file_from_its_replacement(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    assert mark(None) is None
    assert mark(path) is None
    path.write_bytes(b"one")
    first = mark(path)
    assert first is not None
    assert mark(path) == first
    other = tmp_path / "new"
    other.write_bytes(b"two")
    os.utime(other, ns=(0, first[3]))
    other.replace(path)
    assert mark(path) != first


def test_a_mark_tells_what_may_be_done_with_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who mends the mode, or the owner, of a program or a model has mended what the server failed for."""
    path = tmp_path / "llama-server"
    path.touch(mode=0o644)
    first = mark(path)
    path.chmod(0o755)
    assert mark(path) != first
    second = mark(path)
    monkeypatch.setattr(os, "access", lambda _path, way: way != os.R_OK)
    assert mark(path) not in (first, second)


def test_the_program_and_all_that_a_start_needs_are_marked(tmp_path: Path) -> None:
    async def story() -> None:
        program, model = tmp_path / "llama-server", tmp_path / "m.gguf"
        with a_world() as world:
            around = replace(world.around, environ={"PATH": str(tmp_path)})
            failure = Failure("unknown-option", "it is not known", permanent=True)
            assert await file_marks(a_server(), failure, around) == (None, None)
            program.touch(mode=0o755)
            assert await file_marks(a_server(), failure, around) == (None, mark(program))
            model.touch()
            launch = a_launch(files=(NamedFile(model, Use.MODEL), NamedFile(tmp_path / "p.gguf", Use.READ)))
            assert await file_marks(a_server(), launch, around) == (mark(model), None, mark(program))

    tell(story)


def test_each_part_of_a_split_model_is_marked(tmp_path: Path) -> None:
    """A part that was missing when the server failed wakes it when it appears."""

    async def story() -> None:
        first, second = (tmp_path / f"m-0000{number}-of-00002.gguf" for number in (1, 2))
        first.touch()
        with a_world() as world:
            launch = a_launch(model=first)
            assert (await file_marks(a_server(), launch, world.around))[:2] == (mark(first), None)
            second.touch()
            assert (await file_marks(a_server(), launch, world.around))[:2] == (mark(first), mark(second))

    tell(story)


def test_what_a_server_writes_is_no_change(tmp_path: Path) -> None:
    """A log that grows, or a slot that is saved, while it crashes: the back-off would never grow."""

    async def story() -> None:
        log, slots, media, gone = (tmp_path / name for name in ("x.log", "slots", "media", "gone"))
        slots.mkdir()
        media.mkdir()
        uses = ((log, Use.WRITTEN), (slots, Use.FILLED), (media, Use.FOLDER), (gone, Use.FILLED))
        with a_world() as world:
            launch = a_launch(files=tuple(NamedFile(path, use) for path, use in uses))
            before = await file_marks(a_server(), launch, world.around)
            log.write_text("a line")
            (slots / "0.bin").touch()
            (media / "image.png").touch()
            assert await file_marks(a_server(), launch, world.around) == before
            gone.mkdir()
            assert await file_marks(a_server(), launch, world.around) != before

    tell(story)


def test_each_start_has_a_socket_of_its_own_and_none_that_is_there(tmp_path: Path) -> None:
    async def story() -> None:
        with a_world() as world:
            around = replace(world.around, directories=Directories(tmp_path, tmp_path, tmp_path))
            around.directories.servers.mkdir()
            seen = set()
            for _ in range(3):
                address = (await prepare(KEY, a_launch(), around)).address
                assert isinstance(address, UnixAddress)
                assert address.path.parent == around.directories.servers
                seen.add(address.path)
                number = int(address.path.stem.rpartition("-")[2])
                (address.path.parent / f"a-0-{number + 1}.sock").touch()
            assert len(seen) == 3
            assert not any(path.exists() for path in seen)

    tell(story)


def test_a_port_is_taken_as_it_is() -> None:
    async def story() -> None:
        with a_world() as world:
            port = TcpAddress("127.0.0.1", 81)
            assert (await prepare(KEY, a_launch(port=port), world.around)).address == port

    tell(story)


def test_a_path_too_long_for_a_socket_is_named() -> None:
    async def story() -> None:
        with a_world() as world, pytest.raises(CannotStartError) as caught:
            await prepare(ReplicaKey("x" * 100, 0), a_launch(), world.around)
        assert caught.value.failure.cause == "socket-path-too-long"
        assert caught.value.failure.permanent

    tell(story)


def test_only_a_socket_needs_its_folder() -> None:
    async def story() -> None:
        with a_world() as world:
            made: list[Path] = []
            around = replace(world.around, make_folder=made.append)
            for launch in (a_launch(port=TcpAddress("127.0.0.1", 81)), a_launch()):
                prepared = await prepare(KEY, launch, around)
                running = starting.start(prepared, around, started_at=1.0, restarts=2)
                assert (running.started_at, running.restarts, running.address) == (1.0, 2, prepared.address)
            assert made == [world.around.directories.servers]
            end_all(world)

    tell(story)


def end_all(world: World) -> None:
    for child in world.machine.children:
        child.kill()
        child.close()


def test_an_error_of_the_kernel_without_a_hint_of_ours_is_told_as_it_is() -> None:
    assert spawn_failure(OSError("odd")).message == "cannot start a process: odd"
    assert spawn_failure(OSError(errno.EMFILE, "Too many open files")).passing
    assert not spawn_failure(OSError(errno.E2BIG, "Argument list too long")).passing
    assert spawn_failure(OSError(5, "Input/output error")).hint is None
