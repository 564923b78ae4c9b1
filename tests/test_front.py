"""The gateway as a part of the daemon: its keys, and its end (how it listens: tests/gateway, test_service)."""

import asyncio
import logging
import math
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import cast

import pytest

from llamad.config.files import Files
from llamad.config.loader import Loaded
from llamad.config.model import Config, GatewayConfig, StopPolicy
from llamad.config.problems import Position
from llamad.front import Front, changed_keys, drain, farewell
from llamad.gateway.gateway import Gateway
from llamad.gateway.keys import NO_KEYS, NOBODYS_KEYS, Keys
from llamad.gateway.listen import STORED, descriptor_name
from llamad.host.address import TcpAddress
from llamad.host.notify import Notifier, SystemdEnvironment
from llamad.host.pulse import Pulse
from llamad.servers.board import ReplicaKey
from llamad.servers.fleet import Fleet
from tests.stories import a_fleet, a_world, an_intent, tell


def keys(**by_name: str) -> Keys:
    return Keys({sha256(key.encode()).digest(): name for name, key in by_name.items()})


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (keys(a="1", b="2"), keys(b="2", a="1"), None),
        (keys(a="1", bob="2", c="3"), keys(a="1", alice="4", c="5"), "+alice -bob ~c"),
        (keys(a="1", b="2"), keys(a="2", b="1"), "~a ~b"),
        (NO_KEYS, keys(a="1"), "+a"),
        (keys(a="1"), NO_KEYS, "-a"),
        (NOBODYS_KEYS, keys(a="1"), "+a"),
        (
            NO_KEYS,
            keys(**{f"k{n:02}": str(n) for n in range(23)}),
            " ".join(f"+k{n:02}" for n in range(20)) + " and 3 more",
        ),
    ],
)
def test_which_keys_changed_is_told_by_their_names(old: Keys, new: Keys, words: str | None) -> None:
    assert list(changed_keys(old, new)) == ([] if words is None else [f"gateway: the API keys changed: {words}"])


class Draining:
    """A gateway whose clients are gone after `gone` seconds, and what it was told."""

    def __init__(self, gone: float = math.inf) -> None:
        self.gone = gone
        self.told: list[float] = []

    async def drain(self, timeout: float) -> None:
        self.told.append(timeout)
        await asyncio.sleep(min(timeout, self.gone))


@asynccontextmanager
async def two_servers() -> AsyncIterator[tuple[Fleet, float]]:
    """`brief` may take 5 s to drain, `patient` 60; and when it is."""
    with a_world() as world:
        intents = [an_intent(name, stop=StopPolicy(drain_timeout=s)) for name, s in (("brief", 5), ("patient", 60))]
        async with a_fleet(world, *intents) as fleet:
            await fleet.settled(["brief", "patient"])
            yield fleet, asyncio.get_running_loop().time()


def begin(fleet: Fleet, server: str, *, for_s: float) -> None:
    """A request that takes this long."""
    key = ReplicaKey(server, 0)
    flight = fleet.traffic(server).begin(key)
    asyncio.get_running_loop().call_later(for_s, fleet.traffic(server).end, flight)


@pytest.mark.parametrize(
    ("requests", "gone", "takes", "told"),
    [
        ({}, 1.0, 1.0, [math.inf]),
        ({}, math.inf, 3.0, [math.inf, 0.0]),
        ({"brief": 99}, math.inf, 5.0, [math.inf, 0.0]),
        ({"patient": 99}, math.inf, 60.0, [math.inf, 0.0]),
        ({"patient": 99}, 40.0, 40.0, [math.inf]),
        ({"brief": 99, "patient": 20}, math.inf, 20.0, [math.inf, 0.0]),
        ({"patient": 20}, math.inf, 23.0, [math.inf, 0.0]),
    ],
)
def test_the_end_waits_for_the_most_patient_server_that_has_requests(
    requests: dict[str, float], gone: float, takes: float, told: list[float]
) -> None:
    async def story() -> None:
        async with two_servers() as (fleet, began):
            for server, seconds in requests.items():
                begin(fleet, server, for_s=seconds)
            gateway = Draining(gone)
            await drain(gateway.drain, fleet.in_hand, grace=3.0)
            assert asyncio.get_running_loop().time() - began == pytest.approx(takes, abs=0.3)
            assert gateway.told == told
            await asyncio.sleep(100)

    tell(story)


def test_a_server_on_its_way_out_has_its_requests_in_hand_too() -> None:
    async def story() -> None:
        async with two_servers() as (fleet, _):
            assert farewell(*fleet.in_hand()) == "stopping: no request runs"
            begin(fleet, "brief", for_s=3)
            assert farewell(*fleet.in_hand()) == "stopping: 1 request runs, at most 5s"
            fleet.traffic("patient").queued += 1
            assert farewell(*fleet.in_hand()) == "stopping: 2 requests run, at most 1m"
            fleet.traffic("patient").queued -= 1
            fleet.apply({})
            assert fleet.in_hand() == (1, 5.0)
            await asyncio.sleep(10)
            assert fleet.in_hand() == (0, 0.0)

    tell(story)


def test_at_a_start_what_systemd_kept_is_listened_on(tmp_path: Path) -> None:
    """After a crash, an upgrade, or with llamad.socket, each start said that something else listens on its own port."""

    async def story() -> None:
        async with two_servers() as (fleet, began):
            with socket.create_server(("127.0.0.1", 0)) as taken:
                address = TcpAddress("127.0.0.1", taken.getsockname()[1])
                config = Config(models_dir=tmp_path, gateway=GatewayConfig(listen=(address,)))
                at = ((Position(tmp_path, 1, 1), "gateway.listen"),)
                loaded = Loaded(config, (), Files(tmp_path, {}), {}, listen_at=at)
                for name, count in ((descriptor_name(address), 0), ("gateway", 0), ("else", 1), (f"{STORED}1234", 1)):
                    front = Front(
                        fleet,
                        (),
                        Notifier(SystemdEnvironment()),
                        Pulse(lambda: began),
                        external_key=lambda _: None,
                        changed=lambda: None,
                        handed={name: [taken.fileno()]},
                    )
                    assert len(front.verify(loaded, config).problems) == count, name

    tell(story)


def test_what_systemd_kept_and_nobody_needs_is_closed_and_named(caplog: pytest.LogCaptureFixture) -> None:
    """`descriptors 'gateway' from systemd are of no use here: closed` told neither whose they are, nor why."""
    caplog.set_level(logging.INFO)
    ends = [os.pipe() for _ in range(3)]
    handed = dict(zip(("gateway", f"{STORED}1234", "else"), map(list, ends), strict=True))

    async def story() -> None:
        async with two_servers() as (fleet, began):
            pulse, notifier = Pulse(lambda: began), Notifier(SystemdEnvironment())
            front = Front(fleet, (), notifier, pulse, external_key=lambda _: None, changed=lambda: None)
            front._close_useless(handed)

    tell(story)
    assert handed == {}
    for fd in (fd for pair in ends for fd in pair):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    assert [(one.levelname, one.getMessage()) for one in caplog.records if one.name == "llamad.front"] == [
        ("WARNING", "llamad.socket ('gateway') has something that is no listening socket: closed"),
        ("INFO", f"a socket of an address that gateway.listen names no more ('{STORED}1234') is closed"),
        ("WARNING", "systemd handed over file descriptors that are not llamad's ('else'): closed"),
    ]


class Stumbling:
    """A gateway whose first change meets a bug."""

    def __init__(self) -> None:
        self.descriptors: dict[str, list[int]] = {}
        self.applied: list[GatewayConfig] = []

    async def apply(self, settings: GatewayConfig, keys: Keys) -> None:
        self.applied.append(settings)
        if len(self.applied) == 1:
            raise ZeroDivisionError

    def stuck(self, now: float) -> str | None:
        return None


def test_a_bug_costs_one_change_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async with two_servers() as (fleet, _):
            pulse = Pulse(asyncio.get_running_loop().time)
            front = Front(
                fleet, (), Notifier(SystemdEnvironment()), pulse, external_key=lambda _: None, changed=lambda: None
            )
            gateway = Stumbling()
            following = asyncio.ensure_future(front._follow(cast(Gateway, gateway)))
            for number in (1, 2):
                front.accept(Config(models_dir=Path("/")))
                await asyncio.sleep(1)
                assert len(gateway.applied) == number
            assert not following.done()
            following.cancel()
            await asyncio.wait((following,))

    tell(story)
    (record,) = [one for one in caplog.records if one.exc_info]
    assert "in part only" in record.getMessage()
