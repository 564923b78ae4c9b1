"""Read, compare, apply: real files and the fleet of the fake machine, on a clock that jumps."""

import asyncio
import logging
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from llamad.accepted import accepted_file, emptied, keep_accepted
from llamad.config.loader import Loaded
from llamad.config.model import Config
from llamad.errors import ConfigError, LlamadError
from llamad.host.dirs import Directories
from llamad.reload import Beside, Reloader
from llamad.servers.fleet import Fleet
from llamad.servers.plan import Action
from tests.builders import fake_binary, gguf
from tests.stories import a_world, tell


class House:
    """A configuration on disk, and a reloader that follows it."""

    def __init__(self, folder: Path, fleet: Fleet) -> None:
        self.folder = folder
        self.fleet = fleet
        self.file = folder / "llamad.yaml"
        self.directories = Directories(folder / "run", folder / "state", folder / "cache")
        self.directories.runtime.mkdir()
        self.binary = fake_binary(folder)
        (folder / "m.gguf").write_bytes(gguf())
        self.accepted: list[Config] = []
        self.announced: list[str] = []
        self.problems: tuple[str, ...] = ()
        self.keys = ("old", "old")
        """Those that hold, and those on disk."""
        self.followed: list[Path | None] = []
        self.bug: Exception | None = None
        self.reloader = Reloader(
            self.file,
            self.directories,
            {},
            fleet,
            verify=self.verify,
            follow=self.followed.append,
            on_accepted=self.accepted.append,
            announce=self.announce,
        )

    def verify(self, loaded: Loaded, config: Config) -> Beside:
        assert self.followed[-1] == config.gateway.api_keys_file, "it is watched before it is read"
        if self.bug is not None:
            raise self.bug
        holds, there = self.keys

        def take() -> None:
            self.keys = (there, self.keys[1])

        return Beside(self.problems, () if holds == there else (f"keys {holds} -> {there}",), take)

    @contextmanager
    def announce(self) -> Iterator[None]:
        self.announced.append("begin")
        yield
        self.announced.append("end")

    def set(self, **settings: Any) -> None:
        """Add settings to the file."""
        self.file.write_text(yaml.safe_dump({**yaml.safe_load(self.file.read_text()), **settings}))

    def configure(self, **servers: dict[str, Any]) -> None:
        full = {name: {"model": str(self.folder / "m.gguf"), **one} for name, one in servers.items()}
        self.file.write_text(yaml.safe_dump({"llama_server": str(self.binary), "servers": full}))

    def states(self) -> dict[str, str]:
        return {key.server: str(view.state) for key, view in self.fleet.board.replicas.items()}


@asynccontextmanager
async def a_house(folder: Path) -> AsyncIterator[House]:
    with a_world() as world:
        async with Fleet(world.around) as fleet:
            house = House(folder, fleet)
            task = asyncio.ensure_future(house.reloader.run())
            try:
                yield house
            finally:
                task.cancel()
                await asyncio.wait((task,))


def test_what_was_accepted_is_applied_told_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def story() -> None:
        async with a_house(tmp_path) as house:
            house.configure(a={}, b={"start": "manual"})
            applied = await house.reloader.reload()
            assert applied.touched == ("a", "b")
            await house.fleet.settled(["a", "b"])
            assert house.states() == {"a": "ready"}
            assert [list(one.servers) for one in house.accepted] == [["a", "b"]]
            assert house.reloader.error is None
            assert house.reloader.loaded_at > 0
            assert house.reloader.files == (house.file,)
            assert house.reloader.config is house.accepted[0]
            assert accepted_file(house.file, house.directories).read_text() == house.file.read_text()
            assert house.announced == ["begin", "end"]
            assert (await house.reloader.plan()).touched == ()
            again = await house.reloader.reload()
            assert again.touched == ()
            assert [step.action for step in again.plan] == [Action.KEEP, Action.KEEP]

    tell(story)
    assert [one.getMessage() for one in caplog.records if "accepted" in one.getMessage()] == [
        "configuration accepted: start a: new; add b: starts by hand",
        "configuration accepted: no server changed",
    ]


def test_what_changes_beside_servers_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def story() -> None:
        async with a_house(tmp_path) as house:
            house.configure(a={})
            assert (await house.reloader.reload()).settings == ()
            house.set(startup="strict")
            assert (await house.reloader.plan()).settings == ("startup settle -> strict",)
            applied = await house.reloader.reload()
            assert (applied.touched, applied.settings) == ((), ("startup settle -> strict",))
            assert (await house.reloader.plan()).settings == ()

    tell(story)
    assert "configuration accepted: startup settle -> strict" in caplog.text


def test_changed_keys_are_told_and_hold_once_they_are_accepted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def story() -> None:
        async with a_house(tmp_path) as house:
            house.configure(a={})
            await house.reloader.reload()
            house.keys = ("old", "new")
            assert (await house.reloader.plan()).settings == ("keys old -> new",)
            house.configure(a={"model": "/nowhere/a.gguf"})
            with pytest.raises(ConfigError):
                await house.reloader.reload()
            assert house.keys == ("old", "new"), "what is refused changes nothing"
            house.configure(a={})
            assert (await house.reloader.reload()).settings == ("keys old -> new",)
            assert (await house.reloader.plan()).settings == ()

    tell(story)
    assert "configuration accepted: keys old -> new" in caplog.text


def test_a_file_of_keys_is_followed_also_where_it_is_not_there(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_house(tmp_path) as house:
            house.configure(a={})
            house.set(gateway={"api_keys_file": "keys"})
            with pytest.raises(ConfigError):
                await house.reloader.reload()
            assert house.followed == [tmp_path / "keys"]

    tell(story)


def test_another_control_socket_is_said_to_wait_for_the_next_start(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_house(tmp_path) as house:
            house.configure(a={})
            assert (await house.reloader.reload()).remarks == ()
            house.set(control={"socket": str(tmp_path / "c")})
            for ask in (house.reloader.plan, house.reloader.reload, house.reloader.plan):
                (remark,) = (await ask()).remarks
                assert remark.startswith("control.socket was changed")
            house.configure(a={})
            assert (await house.reloader.plan()).remarks == ()

    tell(story)


def test_who_asks_while_one_is_read_is_answered_by_the_next(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def story() -> None:
        async with a_house(tmp_path) as house:
            house.configure(a={})
            asked = [asyncio.ensure_future(house.reloader.reload()) for _ in range(5)]
            await asyncio.wait(asked)
            assert len(house.accepted) == 1
            for cause in ("the file was saved", "SIGHUP", "the file was saved", *map(str, range(99))):
                house.reloader.request(cause)
            await house.reloader.reload()
            assert len(house.accepted) == 2

    tell(story)
    told = [one.getMessage() for one in caplog.records if one.getMessage().startswith("reload: ")]
    assert told == ["reload: the file was saved; SIGHUP; 0; 1; 2; 3; 4; 5"]


def test_who_does_not_wait_for_the_answer_stops_nobody(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_house(tmp_path) as house:
            house.configure(a={})
            for text in (house.file.read_text(), "servers: ["):
                house.file.write_text(text)
                left, stays = (asyncio.ensure_future(house.reloader.reload()) for _ in range(2))
                await asyncio.sleep(0)
                left.cancel()
                await asyncio.wait((left, stays))
                assert left.cancelled()
                assert (stays.exception() is None) == (text != "servers: [")

    tell(story)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("servers: [", ":1:"),
        ("", ":1:1: the file is empty, but servers run: taken for a mistake"),
        ("servers: {a: {modle: x}}", "servers.a.modle"),
    ],
)
def test_a_refused_file_changes_nothing_and_is_remembered_until_it_is_mended(
    text: str, line: str, tmp_path: Path
) -> None:
    async def story() -> None:
        async with a_house(tmp_path) as house:
            house.configure(a={})
            await house.reloader.reload()
            whole = house.file.read_text()
            for ask in (house.reloader.plan, house.reloader.reload):
                house.file.write_text(text)
                with pytest.raises(ConfigError) as refused:
                    await ask()
                assert any(line in one for one in refused.value.problems)
            assert house.reloader.error is not None
            assert line in house.reloader.error
            assert len(house.accepted) == 1
            assert list(house.fleet.configs) == ["a"]
            assert accepted_file(house.file, house.directories).read_text() == whole
            house.file.write_text(whole)
            await house.reloader.reload()
            assert house.reloader.error is None

    tell(story)


def test_no_server_at_all_may_be_wished_for(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_house(tmp_path) as house:
            house.configure(a={})
            await house.reloader.reload()
            house.configure()
            assert (await house.reloader.reload()).touched == ("a",)
            house.file.write_text("")  # and then an empty file says the same
            assert (await house.reloader.reload()).touched == ()
            house.file.unlink()
            with pytest.raises(ConfigError):
                await house.reloader.reload()

    tell(story)


def test_what_is_wrong_with_what_it_refers_to_refuses_it(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_house(tmp_path) as house:
            house.configure(a={})
            house.problems = ("keys:1: no key",)
            with pytest.raises(ConfigError) as refused:
                await house.reloader.reload()
            assert refused.value.problems == ("keys:1: no key",)
            assert house.accepted == []

    tell(story)


def test_a_typo_in_a_running_server_refuses_and_in_a_new_one_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with a_house(tmp_path) as house:
            house.configure(a={})
            await house.reloader.reload()
            house.configure(a={"model": "/nowhere/a.gguf"})
            with pytest.raises(ConfigError, match="it would stop or break a server"):
                await house.reloader.reload()
            house.configure(a={}, b={"model": "/nowhere/b.gguf"})
            applied = await house.reloader.reload()
            assert applied.touched == ("b",)
            (remark,) = applied.remarks
            assert "/nowhere/b.gguf" in remark
            assert remark in [one.getMessage() for one in caplog.records]

    tell(story)


def test_a_bug_in_reading_ends_no_server(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async with a_house(tmp_path) as house:
            house.configure(a={})
            await house.reloader.reload()
            house.bug = RuntimeError("unthinkable")
            with pytest.raises(LlamadError, match="a bug in llamad"):
                await house.reloader.reload()
            assert house.reloader.error == "a bug in llamad: RuntimeError('unthinkable')"
            assert list(house.fleet.configs) == ["a"]
            house.bug = None
            await house.reloader.reload()
            assert house.reloader.error is None

    tell(story)
    assert any(one.exc_info for one in caplog.records)


def test_drop_ins_are_kept_with_the_file_and_old_ones_are_not(tmp_path: Path) -> None:
    directories = Directories(tmp_path / "run", tmp_path, tmp_path)
    directories.runtime.mkdir()
    file, drop_in = tmp_path / "llamad.yaml", tmp_path / "conf.d" / "10.yaml"
    drop_in.parent.mkdir()
    file.write_text("1")
    drop_in.write_text("2")
    keep_accepted((file, drop_in), file, directories)
    copy = accepted_file(file, directories)
    assert (copy.read_text(), (copy.parent / "conf.d" / "10.yaml").read_text()) == ("1", "2")
    keep_accepted((file,), file, directories)
    assert list((copy.parent / "conf.d").iterdir()) == []
    keep_accepted((copy,), file, directories)  # it was what was read: a broken file is on disk
    assert copy.read_text() == "1"
    assert copy.parent.stat().st_mode & 0o777 == 0o700


def test_a_copy_that_cannot_be_made_costs_a_line_and_not_the_old_copy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directories = Directories(tmp_path / "run", tmp_path, tmp_path)
    directories.runtime.mkdir()
    file = tmp_path / "llamad.yaml"
    file.write_text("1")
    keep_accepted((file,), file, directories)
    keep_accepted((tmp_path / "gone",), file, directories)
    assert accepted_file(file, directories).read_text() == "1"
    assert caplog.records[0].getMessage().startswith("cannot keep a copy of the configuration: ")


def test_the_old_copy_is_there_until_the_new_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directories = Directories(tmp_path / "run", tmp_path, tmp_path)
    directories.runtime.mkdir()
    file = tmp_path / "llamad.yaml"
    file.write_text("1")
    keep_accepted((file,), file, directories)
    copy = accepted_file(file, directories)
    seen = []
    for module, name in ((os, "replace"), (shutil, "rmtree")):
        real = getattr(module, name)

        def look(*args: Any, real: Callable[..., object] = real, **given: Any) -> None:
            seen.append(copy.read_text())
            real(*args, **given)
            seen.append(copy.read_text())

        monkeypatch.setattr(module, name, look)
    file.write_text("2")
    keep_accepted((file,), file, directories)
    assert seen == ["1", "2", "2", "2"]
    assert len(list(directories.runtime.iterdir())) == 2, "the old one is gone"


def test_a_file_that_is_gone_is_not_an_empty_one(tmp_path: Path) -> None:
    nothing = Config.model_validate({"servers": {}, "models_dir": "/models"})
    file = tmp_path / "gone"
    for config in (nothing, None):
        loaded = Loaded(config, (), (file,), {})
        assert emptied(loaded, ["a"], file, Directories(tmp_path, tmp_path, tmp_path)) is None


def test_an_emptied_drop_in_stops_nobody_and_one_that_always_was_is_no_matter(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_house(tmp_path) as house:
            folder = house.file.parent / "conf.d"
            folder.mkdir()
            house.configure(a={})
            b = f"servers: {{b: {{model: {house.folder}/m.gguf}}}}"
            (folder / "b.yaml").write_text(b)
            (folder / "empty.yaml").touch()
            await house.reloader.reload()
            (folder / "b.yaml").write_text("")
            with pytest.raises(ConfigError) as refused:
                await house.reloader.reload()
            assert refused.value.problems == (
                f"{folder}/b.yaml:1:1: the file is empty, but servers run: taken for a mistake",
            )
            assert list(house.fleet.configs) == ["a", "b"]
            (folder / "b.yaml").unlink()
            (folder / "new.yaml").touch()
            assert (await house.reloader.reload()).touched == ("b",)
            (folder / "b.yaml").write_text(b)
            await house.reloader.reload()
            whole = house.file.read_text()
            house.file.write_text("llama_server: " + str(house.binary))
            assert (await house.reloader.reload()).touched == ("a",)
            house.file.write_text(whole)
            await house.reloader.reload()
            house.file.write_text("")  # others have servers, and still it is a mistake
            with pytest.raises(ConfigError):
                await house.reloader.reload()

    tell(story)
