"""Read, compare, apply: real files and the fleet of the fake machine, on a clock that jumps."""

import asyncio
import errno
import logging
import os
import pwd
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from llamad.accepted import keep_accepted, mistakes, read_accepted
from llamad.candidate import Beside
from llamad.config import files as files_module
from llamad.config.files import Files
from llamad.config.loader import Loaded
from llamad.config.model import Config
from llamad.config.problems import Position, Problem
from llamad.errors import ConfigError, LlamadError
from llamad.host.dirs import Directories
from llamad.host.files import names_in, read_bytes
from llamad.reload import AWAY, LOOK_EVERY, Reloader
from llamad.servers.fleet import Fleet
from llamad.servers.plan import Action
from tests.builders import fake_binary, gguf
from tests.stories import a_world, tell
from tests.waiting import until


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
        self.problems: tuple[Problem, ...] = ()
        self.keys = ("old", "old")
        """Those that hold, and those on disk."""
        self.followed: list[Path | None] = []
        self.bug: Exception | None = None
        self.meanwhile: Callable[[], object] = lambda: None
        """What happens between the reading and the accepting."""
        self.reloader = Reloader(
            self.file,
            self.directories,
            {},
            fleet,
            verify=self.verify,
            follow=self.follow,
            on_accepted=self.accepted.append,
            announce=self.announce,
        )

    async def follow(self, loaded: Loaded) -> None:
        self.followed.append(loaded.keys_file)

    def verify(self, _: Loaded, config: Config) -> Beside:
        if self.bug is not None:
            raise self.bug
        self.meanwhile()
        holds, there = self.keys

        def take() -> None:
            self.keys = (there, self.keys[1])

        return Beside(self.problems, () if holds == there else (f"keys {holds} -> {there}",), take)

    @contextmanager
    def announce(self) -> Iterator[None]:
        self.announced.append("begin")
        try:
            yield
        finally:
            self.announced.append("end")

    def set(self, **settings: Any) -> None:
        """Add settings to the file."""
        self.file.write_text(yaml.safe_dump({**yaml.safe_load(self.file.read_text()), **settings}))

    def configure(self, **servers: dict[str, Any]) -> None:
        full = {name: {"model": str(self.folder / "m.gguf"), **one} for name, one in servers.items()}
        self.file.write_text(yaml.safe_dump({"llama_server": str(self.binary), "servers": full}))

    @property
    def servers(self) -> list[str]:
        return list(self.fleet.configs)

    async def saved(self, *, by_hand: bool = False) -> None:
        """Something was saved (or SIGHUP came), and that was dealt with."""
        count = len(self.announced)
        self.reloader.request("saved", by_hand=by_hand)
        await until(lambda: len(self.announced) >= count + 2)

    async def becomes(self, servers: list[str], *, within: float) -> None:
        async with asyncio.timeout(within):
            await until(lambda: self.servers == servers)

    async def refused(self, words: str, *, within: float) -> None:
        async with asyncio.timeout(within):
            await until(lambda: words in (self.reloader.error or ""))

    def accepted_text(self) -> str:
        files = read_accepted(self.file, self.directories)
        assert files is not None
        return files.contents[self.file].decode()

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
            assert house.accepted_text() == house.file.read_text()
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
            assert house.accepted_text() == whole
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
            house.problems = (Problem(Position(house.folder / "keys", 1, 1), "", "no key"),)
            with pytest.raises(ConfigError) as refused:
                await house.reloader.reload()
            assert refused.value.problems == (f"{house.folder}/keys:1:1: no key",)
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
            with pytest.raises(ConfigError, match=r"refused because of .*/llamad\.yaml:4:12"):
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


def kept(file: Path, directories: Directories) -> dict[str, str] | None:
    files = read_accepted(file, directories)
    return None if files is None else {path.name: data.decode() for path, data in files.contents.items()}


def test_drop_ins_are_kept_with_the_file_and_old_ones_are_not(tmp_path: Path) -> None:
    directories = Directories(tmp_path / "run", tmp_path, tmp_path)
    directories.runtime.mkdir()
    file, drop_in = tmp_path / "llamad.yaml", tmp_path / "conf.d" / "10.yaml"
    keep_accepted(Files(file, {file: b"1", drop_in: b"2"}), directories)
    assert kept(file, directories) == {"llamad.yaml": "1", "10.yaml": "2"}
    keep_accepted(Files(file, {file: b"1"}), directories)
    assert kept(file, directories) == {"llamad.yaml": "1"}
    assert (directories.runtime / "accepted").stat().st_mode & 0o777 == 0o700


def test_a_copy_that_cannot_be_made_costs_a_line_and_not_the_old_copy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    directories = Directories(tmp_path / "run", tmp_path, tmp_path)
    directories.runtime.mkdir()
    file = tmp_path / "llamad.yaml"
    keep_accepted(Files(file, {file: b"1"}), directories)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    keep_accepted(Files(file, {file: b"2"}), directories)
    assert kept(file, directories) == {"llamad.yaml": "1"}
    assert caplog.records[0].getMessage().startswith("cannot keep a copy of the configuration: ")


def test_a_copy_needs_no_descriptor_that_there_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Looking for older copies fails too where there is no descriptor: what was accepted holds all the same."""
    directories = Directories(tmp_path / "run", tmp_path, tmp_path)
    directories.runtime.mkdir()

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "scandir", fail)
    file = tmp_path / "llamad.yaml"
    keep_accepted(Files(file, {file: b"1"}), directories)
    assert caplog.records[0].getMessage().startswith("cannot keep a copy of the configuration: ")


def test_the_old_copy_is_there_until_the_new_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directories = Directories(tmp_path / "run", tmp_path, tmp_path)
    directories.runtime.mkdir()
    file = tmp_path / "llamad.yaml"
    keep_accepted(Files(file, {file: b"1"}), directories)
    seen = []
    for module, name in ((os, "replace"), (shutil, "rmtree")):
        real = getattr(module, name)

        def look(*args: Any, real: Callable[..., object] = real, **given: Any) -> None:
            seen.append(kept(file, directories))
            real(*args, **given)
            seen.append(kept(file, directories))

        monkeypatch.setattr(module, name, look)
    keep_accepted(Files(file, {file: b"2"}), directories)
    assert [one["llamad.yaml"] for one in seen if one is not None] == ["1", "2", "2", "2"]
    assert len(list(directories.runtime.iterdir())) == 2, "the old one is gone"


def test_a_file_that_is_gone_is_not_an_empty_one(tmp_path: Path) -> None:
    nothing = Config.model_validate({"servers": {}, "models_dir": "/models"})
    file = tmp_path / "gone"
    for config in (nothing, None):
        assert mistakes(Loaded(config, (), Files(file, {}), {}), ["a"], None) == ()


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
                f"{folder}/b.yaml:1:1: the file is empty, but servers run: taken for a mistake"
                " (to stop them, write `servers: {}`)",
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


# --- what was read is what is judged, applied and kept


def test_what_is_kept_is_what_was_read_and_not_what_was_saved_meanwhile(tmp_path: Path) -> None:
    """A file that nobody accepted must never become what a llamad that restarts goes on with."""

    async def story() -> None:
        async with a_house(tmp_path) as house:
            house.configure(a={})
            whole = house.file.read_text()
            house.meanwhile = lambda: house.file.write_text("servers: [")
            await house.reloader.reload()
            house.meanwhile = lambda: None
            assert house.accepted_text() == whole
            with pytest.raises(ConfigError):
                await house.reloader.reload()
            assert house.accepted_text() == whole

    tell(story)


def test_a_plan_has_no_effect(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_house(tmp_path) as house:
            house.configure(a={})
            await house.reloader.reload()
            house.set(gateway={"api_keys_file": "keys"})
            followed, announced = list(house.followed), list(house.announced)
            for _ in range(2):
                with pytest.raises(ConfigError):
                    await house.reloader.plan()
                assert (await house.reloader.judged()).verdict.refused
            assert (house.followed, house.announced) == (followed, announced)
            assert house.reloader.error is None
            assert house.keys == ("old", "old")

    tell(story)


def test_a_file_may_be_planned_in_the_place_of_the_one_on_disk(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_house(tmp_path) as house:
            house.configure(a={}, b={})
            await house.reloader.reload()
            whole = house.file.read_text()
            house.configure(a={"args": {"ctx_size": 1}})
            files = Files(Path("/nowhere/new.yaml"), {Path("/nowhere/new.yaml"): house.file.read_bytes()})
            house.file.write_text(whole)
            planned = await house.reloader.plan(files)
            assert sorted(planned.touched) == ["a", "b"]
            assert (await house.reloader.plan()).touched == ()
            for empty in (b"", b" \n"):
                with pytest.raises(ConfigError, match=r"refused because of /nowhere/new\.yaml:1:1"):
                    await house.reloader.plan(Files(files.main, {files.main: empty}))  # as where it stood there
            broken = Files(files.main, {files.main: b"servers: ["})
            with pytest.raises(ConfigError, match=r"refused because of /nowhere/new\.yaml:1:"):
                await house.reloader.plan(broken)
            assert house.reloader.error is None

    tell(story)


def test_one_file_has_the_same_problems_everywhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`check`, `plan`, `reload` and the log tell all of them; STATUS= the first that refuses, and how many more."""

    async def story() -> None:
        async with a_house(tmp_path) as house:
            house.configure(a={})
            await house.reloader.reload()
            house.configure(b={"model": "/nowhere/b.gguf"}, a={"model": "/nowhere/a.gguf"})
            (house.folder / "conf.d").mkdir()
            (house.folder / "conf.d" / "x.yaml").write_text("prot: 1")
            verdict = (await house.reloader.judged()).verdict
            assert len(verdict.lines) == 3
            for ask in (house.reloader.plan, house.reloader.reload):
                with pytest.raises(ConfigError) as refused:
                    await ask()
                assert refused.value.problems == verdict.lines
                assert refused.value.message == verdict.summary
                assert refused.value.message.endswith(f"because of {house.folder}/conf.d/x.yaml:1:1")
            assert house.reloader.error == "\n".join(verdict.lines)
            assert house.reloader.notice is not None
            assert house.reloader.notice.startswith(f"configuration refused: {house.folder}/conf.d/x.yaml:1:1: prot: ")
            assert house.reloader.notice.endswith(" (and 2 more)")
            logged = [one.getMessage() for one in caplog.records]
            assert set(verdict.lines) <= set(logged)
            assert any(verdict.summary in line for line in logged)

    tell(story)


# --- what was applied by itself is told to the next who asks


def test_who_asks_is_told_what_was_applied_by_itself_before(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_house(tmp_path) as house:
            house.configure(a={}, b={})
            assert (await house.reloader.reload()).earlier == ()
            house.configure(a={})
            await house.saved()
            planned = await house.reloader.plan()
            (earlier,) = planned.earlier
            assert (earlier.cause, earlier.changes, earlier.touched) == (
                "saved",
                ("stop b: no longer configured",),
                ("b",),
            )
            assert planned.touched == ()
            await house.saved()  # nothing changed: nothing to tell
            applied = await house.reloader.reload()
            assert applied.earlier == (earlier,)
            assert (await house.reloader.reload()).earlier == ()

    tell(story)


# --- files that go away


def a_drop_in(house: House, name: str = "b") -> Path:
    path = house.folder / "conf.d" / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"servers: {{b: {{model: {house.folder}/m.gguf}}}}")
    return path


def test_a_drop_in_that_is_away_for_a_moment_stops_nothing(tmp_path: Path) -> None:
    """git checkout, rsync and some editors take a file away before they put the new one there."""

    async def story() -> None:
        async with a_house(tmp_path) as house:
            house.configure(a={})
            drop_in = a_drop_in(house)
            await house.reloader.reload()
            text = drop_in.read_text()
            drop_in.unlink()
            await house.saved()
            await asyncio.sleep(AWAY * 0.9)
            await house.saved()
            assert house.servers == ["a", "b"]
            drop_in.write_text(text)
            await house.saved()
            drop_in.unlink()
            await house.saved()
            await asyncio.sleep(AWAY * 0.9)
            assert house.servers == ["a", "b"], "it was there again meanwhile"
            await house.becomes(["a"], within=AWAY * 0.3)

    tell(story)


def test_an_order_to_reload_takes_a_drop_in_that_is_gone_for_gone(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_house(tmp_path) as house:
            for by_signal in (True, False):
                house.configure(a={})
                drop_in = a_drop_in(house)
                await house.reloader.reload()
                drop_in.unlink()
                await house.saved()
                assert house.servers == ["a", "b"]
                assert (await house.reloader.plan()).touched == ("b",), "as a reload would"
                if by_signal:
                    await house.saved(by_hand=True)
                else:
                    await house.reloader.reload()
                assert house.servers == ["a"]

    tell(story)


def test_a_drop_in_that_is_renamed_is_the_same_servers(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_house(tmp_path) as house:
            house.configure(a={})
            drop_in = a_drop_in(house)
            await house.reloader.reload()
            await house.fleet.settled(["a", "b"])
            pids = {view.pid for view in house.fleet.board.replicas.values()}
            drop_in.rename(drop_in.with_name("c.yaml"))
            await house.saved()
            assert house.reloader.error is None
            assert house.servers == ["a", "b"]
            await asyncio.sleep(AWAY * 1.5)
            assert house.reloader.error is None
            assert {view.pid for view in house.fleet.board.replicas.values()} == pids

    tell(story)


def test_a_folder_or_a_first_file_that_is_gone_is_a_mistake_while_servers_run(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_house(tmp_path) as house:
            house.configure(a={})
            drop_in = a_drop_in(house)
            await house.reloader.reload()
            drop_in.parent.rename(house.folder / "aside")
            await house.saved()
            assert house.reloader.error is None
            await house.refused("conf.d:1:1: the folder is gone, but servers run", within=AWAY * 1.5)
            with pytest.raises(ConfigError, match=r"conf\.d:1:1"):
                await house.reloader.reload()
            (house.folder / "aside").rename(drop_in.parent)
            await house.saved()
            assert house.reloader.error is None
            whole = house.file.read_text()
            house.file.unlink()
            await house.saved()
            assert house.reloader.error is None
            await house.refused("llamad.yaml:1:1: cannot be read: No such file", within=AWAY * 1.5)
            assert house.servers == ["a", "b"]
            house.file.write_text(whole)
            await house.saved()
            assert house.reloader.error is None
            for path in (drop_in, drop_in.parent):
                path.unlink() if path == drop_in else path.rmdir()
                await house.reloader.reload() if path == drop_in else await house.saved()
            assert house.reloader.error is None, "an empty folder more or less stops nobody"
            assert house.servers == ["a"]

    tell(story)


def test_another_look_for_a_servers_sake_reads_no_file_that_nobody_accepted(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_house(tmp_path) as house:
            house.configure(a={})
            await house.reloader.reload()
            house.file.write_text("servers: [")
            await house.saved()
            assert house.reloader.error is not None
            error = house.reloader.error
            count = len(house.accepted)
            house.reloader.look_again("a program has changed")
            await until(lambda: len(house.accepted) > count)
            assert house.servers == ["a"]
            assert house.reloader.error == error, "what is on disk is still refused"

    tell(story)


def test_that_a_file_is_gone_for_long_has_nothing_else_read(tmp_path: Path) -> None:
    """When its time is over, another file may be in the middle of being written: nobody waited for its end."""

    async def story() -> None:
        async with a_house(tmp_path) as house:
            house.configure(a={})
            drop_in = a_drop_in(house)
            await house.reloader.reload()
            drop_in.unlink()
            await house.saved()
            house.file.write_text("servers: {}")  # half of it
            await house.becomes(["a"], within=AWAY * 1.5)
            assert house.reloader.error is None
            house.configure(a={})
            drop_in = a_drop_in(house)
            await house.reloader.reload()
            drop_in.unlink()
            await house.saved()
            a_drop_in(house)
            await house.saved()
            count = len(house.accepted)
            await asyncio.sleep(AWAY * 2)
            assert len(house.accepted) == count, "it is back: nothing is to be done"

    tell(story)


def test_what_is_there_and_cannot_be_read_is_not_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A drop-in with mode 0600, a folder with 0700, a disk that does not answer: refused at once, and for as long as
    it lasts.
    """
    closed: set[Path] = set()

    def look(path: Path) -> None:
        if path in closed:
            raise PermissionError(errno.EACCES, "Permission denied")

    def opened(path: Path) -> bytes:
        look(path)
        return read_bytes(path)

    def listed(path: Path) -> list[str]:
        look(path)
        return names_in(path)

    monkeypatch.setattr(files_module, "read_bytes", opened)
    monkeypatch.setattr(files_module, "names_in", listed)

    async def story() -> None:
        async with a_house(tmp_path) as house:
            house.configure(a={})
            drop_in = a_drop_in(house)
            await house.reloader.reload()
            for path in (drop_in, drop_in.parent, house.file):
                closed.add(path)
                await house.saved()
                user = pwd.getpwuid(os.geteuid()).pw_name
                said = f"{path}:1:1: cannot be read: Permission denied (the user {user} needs to read it)"
                assert said in (house.reloader.error or "")
                await asyncio.sleep(AWAY * 2)
                assert house.servers == ["a", "b"]
                assert said in (house.reloader.error or "")
                closed.clear()
                await house.saved()
                assert house.reloader.error is None

    tell(story)


def test_what_was_refused_for_the_sake_of_a_file_that_is_gone_holds_once_that_counts(tmp_path: Path) -> None:
    """A drop-in and its server get another name, and the server keeps its alias."""

    async def story() -> None:
        async with a_house(tmp_path) as house:
            house.configure(a={})
            model = house.folder / "m.gguf"
            drop_in = a_drop_in(house)
            drop_in.write_text(f"servers: {{b: {{model: {model}, aliases: [chat]}}}}")
            await house.reloader.reload()
            drop_in.unlink()
            drop_in.with_name("c.yaml").write_text(f"servers: {{c: {{model: {model}, aliases: [chat]}}}}")
            await house.saved()
            assert "'chat' is already an alias of b" in (house.reloader.error or "")
            await house.becomes(["a", "c"], within=AWAY * 1.5)
            assert house.reloader.error is None

    tell(story)


def test_a_mistake_beside_a_file_that_is_gone_goes_on_to_be_told(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_house(tmp_path) as house:
            house.configure(a={})
            drop_in = a_drop_in(house)
            await house.reloader.reload()
            drop_in.unlink()
            house.file.write_text("servers: [")
            await house.saved()
            await asyncio.sleep(AWAY * 2)
            assert house.servers == ["a", "b"]
            assert (house.reloader.error or "").startswith(f"{house.file}:1:11: this is not valid YAML")
            house.configure(a={})
            await house.saved()
            await house.becomes(["a"], within=AWAY * 1.5)

    tell(story)


def test_an_order_that_was_refused_is_not_obeyed_later(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_house(tmp_path) as house:
            house.configure(a={})
            drop_in = a_drop_in(house)
            await house.reloader.reload()
            drop_in.unlink()
            house.file.write_text("servers: [")
            with pytest.raises(ConfigError):
                await house.reloader.reload()
            count = len(house.announced)
            await asyncio.sleep(AWAY * 2)
            assert len(house.announced) == count, "with `watch: false` nothing happens but what is asked for"

    tell(story)


@pytest.mark.parametrize("watch", [True, False])
def test_what_was_refused_for_the_world_is_applied_once_that_is_mended(tmp_path: Path, *, watch: bool) -> None:
    """The new model is copied after the edit that names it; a port gets free. What nobody edits is not read anew, and
    with `watch: false` nothing happens but what is asked for.
    """

    async def story() -> None:
        async with a_house(tmp_path) as house:
            looks = asyncio.ensure_future(house.reloader.retry_refused())
            house.configure(a={})
            house.set(watch=watch)
            await house.reloader.reload()
            model = house.folder / "new.gguf"
            house.configure(a={"model": str(model)})
            house.set(watch=watch)
            await house.saved()
            assert f"{model} is not there" in (house.reloader.error or "")
            count = len(house.announced)
            await asyncio.sleep(LOOK_EVERY * 3)
            assert len(house.announced) == count, "a look is no reload"
            house.bug = ZeroDivisionError()
            await asyncio.sleep(LOOK_EVERY * 2)
            assert not looks.done(), "a bug in a look is no reason to end llamad"
            house.bug = None
            model.write_bytes(gguf())
            house.file.write_text("servers: {}")  # half of it
            if watch:
                await asyncio.sleep(LOOK_EVERY)
                assert house.reloader.error is not None, "it may be in the middle of being copied"
                async with asyncio.timeout(LOOK_EVERY * 2):
                    await until(lambda: house.reloader.error is None)
                assert house.fleet.intents["a"].config.model == model
            else:
                await asyncio.sleep(LOOK_EVERY * 3)
                assert len(house.announced) == count
            assert house.servers == ["a"]
            looks.cancel()
            await asyncio.wait((looks,))

    tell(story)


def test_a_file_without_servers_may_be_away_too(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_house(tmp_path) as house:
            house.configure(a={})
            drop_in = a_drop_in(house, "s")
            drop_in.write_text("startup: strict")
            await house.reloader.reload()
            drop_in.unlink()
            await house.saved()
            await asyncio.sleep(AWAY * 2)
            startups = [config.startup for config in house.accepted]
            assert startups[-3:] == ["strict", "strict", "settle"], "it counted while it was away for a moment"

    tell(story)
