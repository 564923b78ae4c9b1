"""What a llamad starts with: the files on disk, or what an earlier one had accepted, for the sake of what runs."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from llamad import beginning as module
from llamad.accepted import keep_accepted
from llamad.beginning import First, Reading, first_config
from llamad.candidate import Beside
from llamad.config.files import read_disk
from llamad.config.keyfiles import where_keys_are
from llamad.config.loader import Loaded, load
from llamad.config.model import Config
from llamad.errors import ConfigError
from llamad.gateway.keys import load_keys
from llamad.host.dirs import Directories
from llamad.servers.command import Launch
from llamad.servers.ledger import Record
from tests.builders import fake_binary, gguf


class Site:
    """A configuration of two files, both accepted by an earlier llamad whose servers a and b still run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "etc" / "llamad.yaml"
        self.drop_in = folder / "etc" / "conf.d" / "b.yaml"
        self.keys = folder / "etc" / "keys"
        self.directories = Directories(folder / "run", folder / "state", folder / "cache")
        self.environ: dict[str, str] = {}
        self.handed: dict[str, list[int]] = {"pid-a-0-0": []}
        self.followed: list[Path | None] = []
        for path in (self.drop_in.parent, folder / "etc" / "models", *(folder / name for name in ("run", "cache"))):
            path.mkdir(parents=True)
        (folder / "etc" / "models" / "m.gguf").write_bytes(gguf())
        self.keys.write_text("ann:k\n")
        binary = str(fake_binary(folder))
        self.write(
            models_dir="models",
            llama_server=binary,
            gateway={"listen": ["0.0.0.0:80"], "api_keys_file": "keys"},
            servers={"a": {"model": "m.gguf"}},
        )
        self.drop_in.write_text("servers: {b: {model: m.gguf}}")
        keep_accepted(read_disk(self.file), self.directories)
        children = [
            asdict(Record(name, 0, 0, pid, 1, "boot", "print", "unix:/x", time.time()))
            for name, pid in (("a", 4711), ("b", 4712))
        ]
        document = {"version": 1, "children": children, "stopped": []}
        self.directories.ledger.write_text(json.dumps(document))

    def write(self, **top: Any) -> None:
        self.file.write_text(yaml.safe_dump(top))

    async def first(self) -> First:
        key_files = where_keys_are(self.file, self.environ)

        def verify(_: Loaded, config: Config) -> Beside:
            return Beside(tuple(load_keys(config.gateway, key_files)[1]), (), lambda: None)

        async def follow(loaded: Loaded) -> None:
            self.followed.append(loaded.keys_file)

        reading = Reading(self.file, self.directories, self.environ, key_files, verify, follow)
        return await first_config(reading, self.handed)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def damage_text(site: Site) -> str:
    site.file.write_text("servers: [")
    return "llamad.yaml:1:"


def damage_emptied(site: Site) -> str:
    site.file.write_text("\n")
    return "llamad.yaml:1:1: the file is empty"


def damage_emptied_drop_in(site: Site) -> str:
    site.drop_in.write_text("")
    return "b.yaml:1:1: the file is empty"


def damage_gone(site: Site) -> str:
    site.file.unlink()
    return "cannot be read"


def damage_keys_file(site: Site) -> str:
    other = site.folder / "etc" / "other"
    other.write_text("nonsense")
    site.file.write_text(site.file.read_text().replace("api_keys_file: keys", "api_keys_file: other"))
    return "other:1:1:"


DAMAGES = [damage_text, damage_emptied, damage_emptied_drop_in, damage_gone, damage_keys_file]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_what_runs_goes_on_with_what_was_accepted(damage: Callable[[Site], str], site: Site) -> None:
    before = await site.first()
    assert not before.verdict.refused
    line = damage(site)
    first = await site.first()
    assert any(line in one for one in first.verdict.lines)
    assert not first.keys_unknown
    named = {"damage_keys_file": site.folder / "etc" / "other", "damage_emptied_drop_in": site.keys}
    assert site.followed == [site.keys, named.get(damage.__name__)], "what is on disk names what to watch"
    assert first.candidate.wanted == before.candidate.wanted, "relative paths mean what they meant"
    assert first.candidate.loaded.config is not None
    assert first.candidate.loaded.config.gateway.api_keys_file == site.keys
    assert isinstance(first.candidate.wanted["b"].launches[0], Launch)


@pytest.mark.parametrize("damage", [damage_text, damage_gone, damage_keys_file])
async def test_with_nothing_that_runs_it_is_refused(damage: Callable[[Site], str], site: Site) -> None:
    line = damage(site)
    site.handed = {"gateway": []}
    with pytest.raises(ConfigError) as refused:
        await site.first()
    assert line in refused.value.problems[0]
    assert site.folder.name in refused.value.message, "the file at fault is named"


async def test_with_nothing_accepted_it_is_refused(site: Site) -> None:
    (site.directories.runtime / "accepted").unlink()
    damage_text(site)
    with pytest.raises(ConfigError):
        await site.first()


async def test_a_copy_that_is_of_no_use_is_not_gone_on_with(site: Site) -> None:
    damage_text(site)
    keep_accepted(read_disk(site.file), site.directories)
    with pytest.raises(ConfigError):
        await site.first()


@pytest.mark.parametrize(("keys", "is_accepted"), [("nonsense", True), ("", True), (None, True), ("nonsense", False)])
async def test_without_the_keys_what_runs_goes_on_and_nobody_is_let_in(
    keys: str | None, site: Site, *, is_accepted: bool
) -> None:
    site.keys.unlink()
    if keys is not None:
        site.keys.write_text(keys)
    if not is_accepted:
        (site.directories.runtime / "accepted").unlink()
    first = await site.first()
    assert first.keys_unknown
    assert first.verdict.refused
    assert sorted(first.candidate.wanted) == ["a", "b"]
    assert all(isinstance(one.launches[0], Launch) for one in first.candidate.wanted.values())


async def test_a_credential_of_keys_that_is_gone_opens_nothing(site: Site, tmp_path: Path) -> None:
    credential = tmp_path / "api-keys"
    credential.write_text("ann:k")
    site.environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    site.file.write_text(site.file.read_text().replace("api_keys_file: keys", "insecure: false"))
    keep_accepted(read_disk(site.file), site.directories)
    assert not (await site.first()).keys_unknown
    credential.unlink()
    first = await site.first()
    assert first.keys_unknown
    assert "no API key is asked" in first.verdict.lines[0]


@pytest.mark.parametrize("inherits", [True, False])
async def test_a_bug_ends_nothing_that_runs(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, inherits: bool
) -> None:
    def breaks(file: Path, dirs: Directories, **given: Any) -> Loaded:
        if given["files"] is None:
            raise RuntimeError("unthinkable")
        return load(file, dirs, **given)

    monkeypatch.setattr(module, "load", breaks)
    if not inherits:
        site.handed = {}
        with pytest.raises(RuntimeError, match="unthinkable"):
            await site.first()
        return
    first = await site.first()
    assert first.verdict.lines == (f"{site.file}:1:1: a bug in llamad: RuntimeError('unthinkable')",)
    assert sorted(first.candidate.wanted) == ["a", "b"]
    assert any(one.exc_info for one in caplog.records)


async def test_a_drop_in_that_is_gone_or_says_so_is_a_wish(site: Site) -> None:
    site.drop_in.write_text("servers: {}")
    assert list((await site.first()).candidate.wanted) == ["a"]
    site.drop_in.unlink()
    first = await site.first()
    assert (list(first.candidate.wanted), first.verdict.refused) == (["a"], ())
