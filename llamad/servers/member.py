"""One configured server: its replicas are made to match what is wanted, again and again.

The fleet says what is wanted; the member's one coroutine is the only one that starts and stops supervisors, so
orders that come while it works are never lost and never mix: it looks at the newest when it is done.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from llamad.host.address import Address, parse_url
from llamad.servers.around import Around
from llamad.servers.backoff import Retry
from llamad.servers.board import Failure, Replica, ReplicaKey
from llamad.servers.command import Launch
from llamad.servers.external import ExternalWatcher
from llamad.servers.leftovers import Adopted
from llamad.servers.output import Output
from llamad.servers.plan import Intent
from llamad.servers.starting import Programs, pointless
from llamad.servers.state import State
from llamad.servers.supervisor import Supervisor
from llamad.servers.traffic import Traffic

log = logging.getLogger(__name__)
_OUTCOME = (State.READY, State.FAILED, State.BACKOFF)
_STALE = -1
"""The order of a replica that was taken over and does not run what is wanted: it is replaced."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is wanted of a server. A grown `order` restarts every replica, whatever its launch."""

    intent: Intent
    running: bool
    order: int = 0


@dataclass(frozen=True, slots=True)
class _Post:
    """One supervised replica: who supervises it, and for which launch and order; `fingerprint` is of the launch of a
    child that was taken over.
    """

    supervisor: Supervisor | ExternalWatcher
    task: asyncio.Task[None]
    launch: Launch | Failure | Address
    order: int
    fingerprint: str | None = None


class Member:
    """Converges one server. `want` may be called at any time; `busy` tells whether it has not caught up yet, and
    `awaited` (written by the fleet) how many wait for it to be ready.
    """

    def __init__(
        self,
        name: str,
        target: Target,
        *,
        around: Around,
        make_room: Callable[[str], Awaitable[None]],
        adopted: Mapping[int, Adopted],
    ) -> None:
        loop = asyncio.get_running_loop()
        self.name = name
        self.target: Target = target
        self.output = Output()
        self.traffic = Traffic(loop.time)
        self.busy = True
        self.awaited = 0
        self.leaving = False
        self._around = around
        self._board = around.board
        self._make_room = make_room
        self._adopted = adopted
        self._posts: dict[int, _Post] = {}
        self._generation = 1 + max((one.generation for one in adopted.values()), default=-1)
        self._changed = asyncio.Event()

    def want(self, target: Target) -> None:
        """From now on this is wanted."""
        if target != self.target or self.leaving:
            self.target = target
            self.leaving = False
            self._note_change()

    def leave(self) -> None:
        """The server is not configured any more: stop everything, and `run` returns."""
        self.leaving = True
        self.target = replace(self.target, running=False)
        self._note_change()

    def wake(self) -> None:
        """What waits to start again starts now."""
        for post in self._posts.values():
            post.supervisor.wake()
        if not self._posts:
            self._note_change()

    @property
    def posted(self) -> int:
        """How many replicas are supervised: as many are on the board, or about to be."""
        return len(self._posts)

    def program_changed(self, seen: Programs) -> bool:
        """Whether another file lay at the program's path, when that was `seen`, than the one that runs."""
        supervisors = [post.supervisor for post in self._posts.values()]
        return any(isinstance(one, Supervisor) and one.program_changed(seen) for one in supervisors)

    def cannot_start_again(self) -> Failure | None:
        """Why a process that was taken over, and runs, could not be started again as things are."""
        supervisors = [post.supervisor for post in self._posts.values()]
        failures = (one.cannot_start_again() for one in supervisors if isinstance(one, Supervisor))
        return next((failure for failure in failures if failure is not None), None)

    async def run(self) -> None:
        """Follow the target until the server leaves. Cancelled, or ended by a bug of ours, it stops every replica on
        its way out and leaves nothing on the board: `run` may be called again.
        """
        self._changed.set()
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                await self._take_over()
                while not (self.leaving and not self._posts and not self._changed.is_set()):
                    await self._changed.wait()
                    self._changed.clear()
                    await self._converge(self.target)
                    self.busy = self._changed.is_set()
                    self._board.wake_waiters()
        finally:
            self._posts.clear()
            for view in self._board.of(self.name):
                self._board.remove(view.key)

    async def stay_down(self, failure: Failure, retry: Retry) -> None:
        """Be on the board with that failure, and nothing else, until it is time to try again, or somebody asks."""
        now = asyncio.get_running_loop().time()
        key = self._new_key(0)
        self._board.add(Replica(key, since=now))
        try:
            state = State.FAILED if retry.given_up else State.BACKOFF
            retry_at = None if retry.delay is None else now + retry.delay
            self.busy = self._changed.is_set()
            self._board.move(key, state, now=now, last_error=failure, retry_at=retry_at)
            async with asyncio.timeout(retry.delay):
                await self._changed.wait()
        except TimeoutError:
            self.busy = True
        finally:
            self._board.remove(key)

    def _note_change(self) -> None:
        self.busy = True
        self._changed.set()
        self._board.wake_waiters()

    async def _take_over(self) -> None:
        """Have children of an earlier llamad supervised, whatever is wanted by now, if only to be ended."""
        adopted, self._adopted = self._adopted, {}
        for index, one in adopted.items():
            self._start(index, one.running.launch, self.target, adopted=one)
        await asyncio.sleep(0)  # a task that is cancelled before its first step could not end its child

    async def _converge(self, target: Target) -> None:
        wanted = _launches(target)
        await self._stop([index for index in self._posts if index not in wanted])
        self._recognise(wanted)
        for index, post in self._posts.items():
            if post.launch == wanted[index] and post.order == target.order:
                post.supervisor.retune(target.intent.config)
        missing = [index for index in wanted if index not in self._posts]
        if missing:
            await self._make_room(self.name)
            if self.target is not target:
                return  # that took its time, and something newer is wanted
            for index in missing:
                self._start(index, wanted[index], target)
        await self._roll(target, wanted)

    def _recognise(self, wanted: Mapping[int, Launch | Failure | Address]) -> None:
        """A child that was taken over while its launch was not known is kept if it runs what is wanted now."""
        for index, post in list(self._posts.items()):
            launch, supervisor = wanted[index], post.supervisor
            if not isinstance(supervisor, Supervisor) or not isinstance(launch, Launch) or not supervisor.inherited:
                continue
            if launch.fingerprint == post.fingerprint:
                supervisor.launch = launch
                self._posts[index] = replace(post, launch=launch)

    async def _roll(self, target: Target, wanted: Mapping[int, Launch | Failure | Address]) -> None:
        """Replace the replicas whose launch changed one after the other, so that some always serve."""
        fresh = {
            index for index, post in self._posts.items() if (post.launch, post.order) == (wanted[index], target.order)
        }

        def wanted_still() -> bool:
            return self.target is target

        for index in sorted((index for index in self._posts if index not in fresh), key=self._is_ready):
            await self._its_turn(index, fresh, wanted_still)
            failure = await self._pointless(wanted[index]) if self._is_ready(index) else None
            if not wanted_still():
                return  # something newer is wanted: look at that instead
            fresh.add(index)
            if failure is not None and self._is_ready(index):
                self._keep_old(index, failure, wanted[index], target)
            elif target.intent.config.replace == "start-first" and self._is_ready(index):
                await self._start_first(index, wanted[index], target)
            else:
                await self._stop([index])
                if not wanted_still():
                    return
                self._start(index, wanted[index], target)

    async def _its_turn(self, index: int, fresh: set[int], wanted_still: Callable[[], bool]) -> None:
        """Wait until a replica may be replaced: the last one that serves goes only when others do, or cannot."""
        if self._posts[index].order == _STALE:
            await self._outcome(self._posts[index].supervisor.key, wanted_still)
        if self._is_ready(index):
            for other in fresh:
                await self._outcome(self._posts[other].supervisor.key, wanted_still)

    async def _start_first(self, index: int, launch: Launch | Failure | Address, target: Target) -> None:
        """Bring the new one up beside the old one. One that does not come up, or that nobody wants any more by then,
        leaves an old one that serves in place.
        """
        old = self._posts[index]
        new = self._start(index, launch, target)

        def wanted_still() -> bool:
            return self.target.order == target.order and _launches(self.target).get(index) == launch

        state = await self._outcome(new.supervisor.key, wanted_still)
        view = self._board.replicas.get(new.supervisor.key)
        stays = new if state is State.READY or (state is not None and not self._serves(old)) else old
        self._posts[index] = stays
        await _end([new if stays is old else old])
        if stays is old and state is not None and view is not None and view.last_error is not None:
            self._keep_old(index, view.last_error, launch, target)

    def _keep_old(self, index: int, failure: Failure, launch: Launch | Failure | Address, target: Target) -> None:
        old = self._posts[index]
        # it counts as what is wanted now, or the next look would try the same thing again
        self._posts[index] = replace(old, launch=launch, order=target.order)
        self._board.update(old.supervisor.key, last_error=failure)
        log.error(
            "not replaced: %s; the old one goes on, and `llamad restart %s` tries again", failure.message, self.name,
            extra={"server": self.name, "replica": index, "event": "replace-failed", "cause": failure.cause},
        )  # fmt: skip

    async def _pointless(self, launch: Launch | Failure | Address) -> Failure | None:
        """Why a new process would not come up, as far as a look tells: then a running one is not ended for it."""
        if isinstance(launch, Launch):
            return await pointless(launch, self._around)
        return launch if isinstance(launch, Failure) else None

    async def _outcome(self, key: ReplicaKey, wanted_still: Callable[[], bool]) -> State | None:
        """Wait until the replica is ready or has failed; None when that is not wanted any more. A replica is on the
        board from its supervisor's first step on.
        """

        def outcome() -> State | None:
            view = self._board.replicas.get(key)
            return view.state if view is not None and view.state in _OUTCOME else None

        await self._board.wait_for(lambda: outcome() is not None or not wanted_still())
        return outcome() if wanted_still() else None

    def _is_ready(self, index: int) -> bool:
        return self._serves(self._posts[index])

    def _serves(self, post: _Post) -> bool:
        view = self._board.replicas.get(post.supervisor.key)
        return view is not None and view.state is State.READY

    def _start(
        self, index: int, launch: Launch | Failure | Address, target: Target, *, adopted: Adopted | None = None
    ) -> _Post:
        config = target.intent.config
        key = self._new_key(index)
        order = target.order if adopted is None or adopted.current else _STALE
        supervisor: Supervisor | ExternalWatcher
        if isinstance(launch, Launch | Failure):
            supervisor = Supervisor(
                key,
                config,
                launch,
                around=self._around,
                output=self.output,
                traffic=self.traffic,
                adopted=adopted.running if adopted is not None else None,
            )
        else:
            supervisor = ExternalWatcher(key, config, launch, around=self._around, traffic=self.traffic)
        task = self._group.create_task(supervisor.run(), name=str(key))
        post = _Post(supervisor, task, launch, order, None if adopted is None else adopted.fingerprint)
        self._posts[index] = post
        return post

    def _new_key(self, index: int) -> ReplicaKey:
        self._generation += 1
        return ReplicaKey(self.name, index, self._generation - 1)

    async def _stop(self, indexes: list[int]) -> None:
        posts = [self._posts[index] for index in indexes]
        await _end(posts)
        for index in indexes:
            del self._posts[index]


async def _end(posts: list[_Post]) -> None:
    for post in posts:
        post.task.cancel()
    if posts:
        await asyncio.wait([post.task for post in posts])


def _launches(target: Target) -> dict[int, Launch | Failure | Address]:
    if not target.running:
        return {}
    url = target.intent.config.url
    if url is not None:
        return {0: parse_url(url)}
    return dict(enumerate(target.intent.launches))
