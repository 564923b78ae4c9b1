"""All servers: what is wanted of each, by the configuration, by an operator's order, and by requests.

The fleet is the only one that changes anything. Whoever needs a server asks (`ensure_ready`) and never decides by a
state it read.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Literal, Self

from llamad.config.model import ServerConfig
from llamad.errors import ServerDownError, UnavailableError, UnknownServerError
from llamad.host.pulse import SLACK
from llamad.servers.around import Around
from llamad.servers.backoff import count_failures, next_retry
from llamad.servers.board import Board, Failure
from llamad.servers.explain import Condition, explain
from llamad.servers.leftovers import Adopted
from llamad.servers.member import Member, Target
from llamad.servers.output import Output
from llamad.servers.plan import Action, Intent, Plan, diff
from llamad.servers.residency import Device
from llamad.servers.room import Room
from llamad.servers.starting import Programs, look_at_programs
from llamad.servers.state import State
from llamad.servers.telling import tell_bug
from llamad.servers.traffic import Traffic

log = logging.getLogger(__name__)
IDLE_CHECK = 0.5
"""Seconds between two looks for on-demand servers that were idle for long enough."""
PATIENCE = 60.0
"""Seconds after which an on-demand server that waits for room, and that nobody waits for any more, gives it up."""

LOOK_AT_PROGRAMS = 5.0
"""Seconds between two looks whether programs were changed on disk."""
AFTER_BUGS = 5.0
"""Seconds until a server is tried again whose very failure could not be shown."""


@dataclass(frozen=True, slots=True)
class _Will:
    """Why a server should run or not: an operator's order goes before demand; demand is what requests want of an
    on-demand server, and true of an always-on one until it makes way for another."""

    order: Literal["start", "stop"] | None
    demand: bool
    restarts: int = 0

    @property
    def running(self) -> bool:
        return self.order == "start" or (self.order is None and self.demand)


class Fleet:
    """Use it as `async with`: leaving the block, by any way, ends every server."""

    def __init__(self, around: Around) -> None:
        self._around = around
        self._members: dict[str, Member] = {}
        self._wills: dict[str, _Will] = {}
        self._intents: Mapping[str, Intent] = {}
        self._adopted: dict[str, dict[int, Adopted]] = {}
        self._stack = AsyncExitStack()
        self._room = Room(around, self._members, lambda name: self._want(name, order=None, demand=False))
        self._ends = False
        self._programs = Programs()
        self.configs: Mapping[str, ServerConfig] = {}

    @property
    def board(self) -> Board:
        """What is observed."""
        return self._around.board

    @property
    def intents(self) -> Mapping[str, Intent]:
        """What was accepted last."""
        return self._intents

    async def __aenter__(self) -> Self:
        self._group = await self._stack.enter_async_context(asyncio.TaskGroup())
        self._housekeeping = [
            self._group.create_task(self._stop_idle(), name="idle servers"),
            self._group.create_task(self._look_at_programs(), name="programs"),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends = True
        for member in self._members.values():
            member.leave()
        for task in self._housekeeping:
            task.cancel()
        await self._stack.__aexit__(kind, error, trace)

    def adopt(self, running: Mapping[str, Mapping[int, Adopted]], stopped: Iterable[str]) -> None:
        """Before the first `apply`: children that an earlier llamad left, and what an operator had stopped."""
        self._adopted = {name: dict(one) for name, one in running.items()}
        self._wills = {name: _Will("stop", demand=False) for name in stopped}

    def apply(self, wanted: Mapping[str, Intent], budget: Mapping[Device, int] | None = None) -> Plan:
        """Take over a new configuration; at once, the work follows (`settled`). Equal servers are not touched.
        UnavailableError where the fleet ends.
        """
        self._check_goes_on()
        plan = diff(self._intents, wanted)
        self._intents = dict(wanted)
        self.configs = {name: intent.config for name, intent in wanted.items()}
        self._room.budget = budget or {}
        for step in plan:
            if step.action is Action.STOP:
                self._wills.pop(step.server, None)
                self._members[step.server].leave()
            elif step.action is not Action.KEEP:
                self._take_over(step.server, step.action)
        return plan

    def traffic(self, server: str) -> Traffic:
        """The traffic record of a configured server."""
        return self._member(server).traffic

    def in_hand(self) -> tuple[int, float]:
        """Requests that run or wait, at a server on its way out too; and the seconds that the most patient of the
        servers concerned lets them take (`stop.drain_timeout`).
        """
        busy = [member for member in self._members.values() if not member.traffic.idle]
        count = sum(member.traffic.total + member.traffic.queued for member in busy)
        return count, max((member.target.intent.config.stop.drain_timeout for member in busy), default=0.0)

    def output(self, server: str) -> Output:
        """The newest lines of a configured server."""
        return self._member(server).output

    def wanted(self, server: str) -> Literal["running", "stopped"]:
        """What is wanted of a server now; UnknownServerError."""
        self._member(server)
        return "running" if self._wills[server].running else "stopped"

    @property
    def stopped_by_order(self) -> frozenset[str]:
        """The servers that an operator stopped."""
        return frozenset(name for name, will in self._wills.items() if will.order == "stop")

    def condition(self, server: str) -> Condition:
        """What is wanted of a server, what is, and why not (`explain`). UnknownServerError."""
        self._member(server)
        will, room = self._wills[server], self._room.verdict(server)
        replicas = self.board.of(server)
        return explain(self.configs[server], replicas, running=will.running, order=will.order, room=room)

    def notice(self, server: str) -> str | None:
        """What an operator should know that is no failure."""
        member = self._member(server)
        if (failure := member.cannot_start_again()) is not None:
            return f"it goes on, but could not be started again: {failure.message}"
        if not member.program_changed(self._programs):
            return None
        return f"llama_server was changed on disk since it started; `llamad restart {server}` uses the new one"

    def start(self, server: str) -> None:
        """An operator wants it running; one that waits to start again starts now. UnknownServerError, UnavailableError
        where the fleet ends.
        """
        member = self._member(server)
        self._check_goes_on()
        member.traffic.last_used = asyncio.get_running_loop().time()
        self._want(server, order="start" if self.configs[server].start == "manual" else None, demand=True)
        member.wake()

    def stop(self, server: str) -> None:
        """An operator wants it stopped, whatever asks for it. UnknownServerError."""
        self._member(server)
        self._want(server, order="stop", demand=False)

    def restart(self, server: str) -> None:
        """An operator wants new processes. UnknownServerError, UnavailableError where the fleet ends."""
        self._member(server)
        self.start(server)
        self._want(server, restarts=self._wills[server].restarts + 1)

    async def ensure_ready(self, server: str) -> None:
        """Have it run, and return when one replica is ready. ServerDownError names why it will not be, UnavailableError
        where the fleet ends.
        """
        member = self._member(server)
        self._check_goes_on()
        will = self._wills[server]
        if not will.running and (will.order == "stop" or self.configs[server].start == "manual"):
            raise self._down(server)
        member.traffic.last_used = asyncio.get_running_loop().time()
        if not will.running:
            self._want(server, demand=True)
        member.awaited += 1
        try:
            await self.board.wait_for(lambda: self._decided(member))
        finally:
            member.awaited -= 1
        if self._members.get(server) is not member:
            raise UnknownServerError(server, tuple(self.configs))
        if not self.condition(server).serves:
            raise self._down(server)

    async def settled(self, servers: Iterable[str]) -> None:
        """Return when each of the servers has come to rest: ready, failed, or stopped as wanted."""
        names = tuple(servers)
        while moving := [name for name in names if not self.is_settled(name)]:
            for name in moving:  # one at a time: with every change only one of a thousand is looked at
                await self.board.wait_for(partial(self.is_settled, name))

    def is_settled(self, server: str) -> bool:
        """Whether nothing more will happen to it by itself for now."""
        member = self._members.get(server)
        if member is None:
            return True
        if member.busy and not self._room.is_blocked(server):
            return False
        config = member.target.intent.config
        rest = {State.READY, State.FAILED}
        if config.external or config.restart.max_retries is None:
            rest.add(State.BACKOFF)  # it may go on like this for ever
        views = self.board.of(server)
        return len(views) >= member.posted and all(view.state in rest for view in views)

    def _check_goes_on(self) -> None:
        """What comes while the fleet ends would start servers that nobody ends, and its end would wait for them."""
        if self._ends:
            raise UnavailableError("llamad is stopping", hint="ask again once it was started")

    def _member(self, server: str) -> Member:
        if server not in self.configs:
            raise UnknownServerError(server, tuple(self.configs))
        return self._members[server]

    def _take_over(self, server: str, action: Action) -> None:
        """A server is new or changed. A change lifts an operator's stop: it was meant for what was there before."""
        config = self.configs[server]
        before = self._wills.get(server)
        demand = config.start == "always" or (before is not None and before.demand and config.start == "on-demand")
        is_new = action in (Action.START, Action.ADD)
        order = before.order if before is not None and (is_new or before.order == "start") else None
        will = _Will(order, demand and order != "stop", before.restarts if before else 0)
        adopted = self._adopted.pop(server, {})
        if adopted and order is None:
            will = replace(will, demand=True)
        self._wills[server] = will
        target = Target(self._intents[server], will.running, will.restarts)
        if (member := self._members.get(server)) is not None:
            member.want(target)
            member.wake()
            return
        member = Member(server, target, around=self._around, make_room=self._room.make, adopted=adopted)
        self._members[server] = member
        self._group.create_task(self._run(member), name=f"member {server}")

    async def _run(self, member: Member) -> None:
        """Have one server follow what is wanted of it until it has left. The last resort: a bug of ours costs this
        server, which is tried again by its own policy, and no other.
        """
        loop, failures = asyncio.get_running_loop(), 0
        while True:
            began = loop.time()
            try:
                await member.run()
            except Exception as error:  # noqa: BLE001 - it is told
                failure = tell_bug(log, member.name, error)
                if not member.leaving:
                    policy = member.target.intent.config.restart
                    failures = count_failures(failures, ready_for=loop.time() - began, policy=policy)
                    await self._stay_down(member, failure, failures)
                    continue
            if member.leaving:  # else it was configured again while its last replica ended
                break
        if member.name not in self.configs:
            del self._members[member.name]
        self.board.wake_waiters()

    async def _stay_down(self, member: Member, failure: Failure, failures: int) -> None:
        policy = member.target.intent.config.restart
        retry = next_retry(policy, failures, failure, chance=self._around.chance())
        try:
            await member.stay_down(failure, retry)
        except Exception as error:  # noqa: BLE001 - it is told
            tell_bug(log, member.name, error)
            await asyncio.sleep(AFTER_BUGS)

    def _want(self, server: str, **changes: object) -> None:
        will = self._wills[server] = replace(self._wills[server], **changes)  # type: ignore[arg-type]
        if not self._ends:  # then it leaves already
            self._members[server].want(Target(self._intents[server], will.running, will.restarts))

    def _decided(self, member: Member) -> bool:
        states = [view.state for view in self.board.of(member.name)]
        gone = self._members.get(member.name) is not member
        if gone or State.READY in states:
            return True
        if (member.busy and not self._room.is_blocked(member.name)) or len(states) < member.posted:
            return False
        return all(state in (State.FAILED, State.BACKOFF) for state in states)

    def _down(self, server: str) -> ServerDownError:
        condition, now = self.condition(server), asyncio.get_running_loop().time()
        return ServerDownError(condition.sentence(now), cause=condition.cause, retry_after=condition.retry_in(now))

    async def _look_at_programs(self) -> None:
        """Not when somebody asks for a `notice`: their disk may not answer, and the loop is everybody's."""
        while True:
            await asyncio.sleep(LOOK_AT_PROGRAMS)
            launches = [launch for intent in self._intents.values() for launch in intent.launches]
            self._programs = await look_at_programs(launches)

    async def _stop_idle(self) -> None:
        with self._around.pulse.part("idle servers", within=SLACK) as beat:
            while True:
                beat()
                await asyncio.sleep(IDLE_CHECK)
                for name, config in self.configs.items():
                    will = self._wills[name]
                    if config.start == "on-demand" and will.running and will.order is None:
                        try:
                            self._look_for_use(name, config.idle_timeout)
                        except Exception as error:  # noqa: BLE001 - it is told; this one goes on, and so do all others
                            tell_bug(log, name, error)

    def _look_for_use(self, server: str, idle_timeout: float | None) -> None:
        """Stop an on-demand server that nobody has used for long enough."""
        member, now = self._members[server], asyncio.get_running_loop().time()
        unused_for = now - member.traffic.last_used
        if not member.traffic.idle:
            return
        if self._room.is_waited_for_by(server):
            if unused_for >= PATIENCE:
                log.info("nobody waits for it any more: not started", extra={"server": server, "event": "idle"})
                self._want(server, demand=False)
            return
        ready = [view.ready_since or 0.0 for view in self.board.of(server) if view.state is State.READY]
        if idle_timeout is not None and ready and min(unused_for, now - max(ready)) >= idle_timeout:
            log.info("idle: stopped", extra={"server": server, "event": "idle"})
            self._want(server, demand=False)
