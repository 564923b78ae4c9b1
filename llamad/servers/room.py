"""Has a server wait until it may run beside the others: groups and memory budgets, by the verdicts of `residency`."""

import asyncio
import logging
from collections.abc import Callable, Mapping

from llamad.config.model import ServerConfig
from llamad.servers.around import Around
from llamad.servers.board import Failure
from llamad.servers.member import Member
from llamad.servers.residency import Device, Resident, Verdict, needs, room_for
from llamad.servers.starting import aside

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
        self.budget: Mapping[Device, int] = {}

    def is_waited_for_by(self, server: str) -> bool:
        """Whether nothing of `server` runs because it waits here."""
        return server in self._line and not self._members[server].posted

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
                if verdict == Verdict():
                    if waited:
                        await self._memory_free(config)
                    return
                self._block(member, verdict.never)
                waited = waited or not verdict.never
                for name in verdict.evict:
                    log.info("makes way for %s", server, extra={"server": name, "event": "evicted"})
                    self._evict(name)
                await self._changed(member)
        finally:
            self._line.remove(server)
            self._block(member, None)

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
                residents.append(Resident(config, idle=traffic.idle, last_used=traffic.last_used, leaving=leaving))
            elif name in ahead and member.blocked is None:
                residents.append(Resident(config, idle=False, last_used=traffic.last_used))
        return residents

    def _block(self, member: Member, why: str | None) -> None:
        """Say why a server cannot start as things are, or that nothing keeps it any more."""
        hint = "see memory:, group: and gateway.memory_budget:"
        blocked = Failure("no-room", why, hint, permanent=True) if why else None
        if blocked == member.blocked:
            return
        member.blocked = blocked
        if blocked is not None:
            log.error("cannot start: %s", why, extra={"server": member.name, "event": "no-room"})
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
        for device, size in needs(config).items():
            while loop.time() < deadline:
                free = await aside(self._around.memory_free, device)
                if free is None or free >= size:
                    break
                await asyncio.sleep(0.05)
