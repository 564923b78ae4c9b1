"""The lab's machines: one a suite and a test worker, booted when first asked for, reset before every test."""

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab.guest import Guest, bare_guest, install
from tests.lab.machine import missing
from tests.lab.roots import REPOSITORY

SUITES = ("forky", "trixie", "bookworm")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With xdist, tests of one suite stay on one worker (`--dist loadgroup`): it boots that machine once."""
    for item in items:
        if item.get_closest_marker("lab") is None:
            continue
        callspec = getattr(item, "callspec", None)
        item.add_marker(pytest.mark.xdist_group(callspec.params.get("suite", "forky") if callspec else "forky"))


@pytest.fixture(scope="session")
def lab() -> None:
    """Skips where no container can be booted."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def deb(lab: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([REPOSITORY / "packaging/build-deb", folder], check=True, capture_output=True)
    return next(folder.glob("llamad_*_all.deb"))


@pytest.fixture(scope="session")
def machine_of(lab: None, deb: Path) -> Iterator[Callable[[str], Guest]]:
    """The machine of a suite with llamad installed, booted at the first call."""
    with contextlib.ExitStack() as stack:
        guests: dict[str, Guest] = {}

        def get(suite: str) -> Guest:
            if suite not in guests:
                guest = stack.enter_context(bare_guest(suite))
                install(guest, None if suite == "bookworm" else deb)
                guests[suite] = guest
            return guests[suite]

        yield get


@pytest.fixture(scope="session", params=SUITES)
def suite(request: pytest.FixtureRequest) -> str:
    """Each Debian in turn."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def _installed(suite: str, machine_of: Callable[[str], Guest]) -> Guest:
    return machine_of(suite)


@pytest.fixture
def guest(_installed: Guest) -> Guest:
    """llamad on each Debian, as freshly installed."""
    _installed.reset()
    return _installed


@pytest.fixture(scope="session")
def _newest(machine_of: Callable[[str], Guest]) -> Guest:
    return machine_of("forky")


@pytest.fixture
def newest(_newest: Guest) -> Guest:
    """llamad on the newest Debian, which has llama-server, as freshly installed."""
    _newest.reset()
    return _newest
