"""Has a server wait until it may run beside the others: groups and memory budgets, by the verdicts of `residency`."""

import asyncio
import logging
from collections.abc import Callable, Mapping

from llamad.config.model import ServerConfig
from llamad.host.threads import aside
from llamad.servers.around import Around
from llamad.servers.explain import no_room
from llamad.servers.member import Member
from llamad.servers.residency import Device, Resident, Verdict, room_for

log = logging.getLogger(__name__)
LOOK_AGAIN = 0.1
"""Seconds: traffic that ends is not on the board."""
MEMORY_WAIT = 10.0
"""Seconds that memory of an ended server may take to become free (VRAM: 0.5 to 1.5 s were seen)."""


class Room:
    """`make` lets servers start. Those who wait stand in line: what one waits for is not taken by who comes later, and
    who fits beside all of them passes. `evict` is to stop an idle server.
    """

    def __init__(self, around: Around, members: Mapping[str, Member], evict: Callable[[str], None]) -> None:
        self._around = around
        self._board = around.board
        self._members = members
        self._evict = evict
        self._line: list[str] = []
        self._told: dict[str, str] = {}
        """Why some of the line cannot start at all as things are."""
        self.budget: Mapping[Device, int] = {}

    def is_waited_for_by(self, server: str) -> bool:
        """Whether nothing of `server` runs because it waits here."""
        return server in self._line and not self._members[server].posted

    def verdict(self, server: str) -> Verdict | None:
        """What `server`, which waits here, needs before it may start; None where it does not wait."""
        if server not in self._line or not self._members[server].target.running:
            return None
        return self._verdict(self._members[server].target.intent.config)

    def is_blocked(self, server: str) -> bool:
        """Whether `server`, which waits here, cannot start at all as things are at this moment."""
        verdict = self.verdict(server)
        return verdict is not None and verdict.never is not None

    async def make(self, server: str) -> None:
        """Return when `server` may start beside what runs (others made way, and their memory is really free), or when
        it is not wanted any more.
        """
        member = self._members[server]
        waited = False
        self._line.append(server)
        try:
            while member.target.running:
                config = member.target.intent.config
                verdict = self._verdict(config)
                if verdict == Verdict() and not waited:
                    return
                if verdict == Verdict():
                    await self._memory_free(config)
                    waited = False
                    continue  # that took its time: others may have come
                self._tell(server, verdict)
                waited = waited or not verdict.never
                for name in verdict.evict:
                    log.info("makes way for %s", server, extra={"server": name, "event": "evicted"})
                    self._evict(name)
                await self._changed(member)
        finally:
            self._line.remove(server)
            self._tell(server, Verdict())

    def _verdict(self, config: ServerConfig) -> Verdict:
        if config.group is None and config.memory is None:
            return Verdict()
        return room_for(config, self._residents(config.name), self.budget)

    def _residents(self, server: str) -> list[Resident]:
        """Who has memory or a group's place, or came before `server` and will have it."""
        ahead = self._line[: self._line.index(server)]
        residents = []
        for name, member in self._members.items():
            config, traffic = member.target.intent.config, member.traffic
            if member.posted:
                leaving = not member.target.running
                idle = traffic.idle and not member.awaited
                residents.append(Resident(config, idle=idle, last_used=traffic.last_used, leaving=leaving))
            elif name in ahead and name not in self._told:
                residents.append(Resident(config, idle=False, last_used=traffic.last_used))
        return residents

    def _tell(self, server: str, verdict: Verdict) -> None:
        """Log, once, why a server cannot start as things are, where that is so."""
        if verdict.never == self._told.get(server):
            return
        if verdict.never is None:
            del self._told[server]
        else:
            self._told[server] = verdict.never
            log.error("%s", no_room(verdict), extra={"server": server, "event": "no-room"})
        self._board.wake_waiters()

    async def _changed(self, member: Member) -> None:
        """Wait for anything that may change the verdict."""
        target, before = member.target, self._verdict(member.target.intent.config)
        try:
            async with asyncio.timeout(LOOK_AGAIN):
                await self._board.wait_for(
                    lambda: member.target is not target or self._verdict(target.intent.config) != before
                )
        except TimeoutError:
            return

    async def _memory_free(self, config: ServerConfig) -> None:
        """Wait, bounded, until the devices really have what the server needs; skip those that do not tell."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + MEMORY_WAIT
        for device, size in config.memory_needs.items():
            while loop.time() < deadline:
                free = await aside(self._around.memory_free, device)
                if free is None or free >= size:
                    break
                await asyncio.sleep(0.05)
