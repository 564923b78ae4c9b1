"""The growth guard: `python -m tests.bench.growth [CYCLES]`.

A replica crashes and is started again, over and over, on the fake machine in a process of its own. What is kept per
restart is printed, and exit 1 says that something grows.
"""

import asyncio
import gc
import logging
import os
import sys
import tracemalloc

from llamad.host.pidfd import Exit
from llamad.servers.fleet import Fleet
from llamad.servers.output import MAX_LINES
from llamad.servers.state import State
from tests.stories import Behaviour, World, a_world, an_intent, tell

CYCLES = 1000
WARM_UP = 100
BYTES_A_CYCLE = 20.0
"""Less is noise: free lists of the interpreter, a dict that was resized."""

_LINE = "0.00.006.794 I srv    load_model: loading model"


async def _cycles(world: World, count: int) -> None:
    """Crash the server `count` times, each time once it was ready."""
    key, _ = next(iter(world.board.replicas.items()))
    for _ in range(count):
        child = world.machine.alive[-1]
        await world.board.wait_for(lambda: world.board.replicas[key].state is State.READY)
        child.crash(Exit(signal=11))
        await world.board.wait_for(lambda: world.board.replicas[key].state is State.BACKOFF)
        await world.board.wait_for(lambda: world.board.replicas[key].state is State.STARTING)
        world.machine.children[:] = world.machine.alive
        world.machine.asked.clear()
        world.machine.environments.clear()
        world.states.clear()


def _now() -> tuple[int, int, int]:
    """Open descriptors, tasks and traced bytes."""
    gc.collect()
    return len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks()), tracemalloc.get_traced_memory()[0]


async def _measure(cycles: int) -> tuple[int, int, float]:
    """Descriptors and tasks that were added by that many cycles after the warm-up, and bytes per cycle."""
    talks = Behaviour(loads_for=0.1, says=(_LINE,) * MAX_LINES)  # what is kept of the output is full from the start
    with a_world(talks, usual=Behaviour(loads_for=0.1, says=(_LINE, _LINE))) as world:
        async with Fleet(world.around) as fleet:
            policy = {"max_retries": None, "initial_delay": 1.0, "max_delay": 1.0}
            fleet.apply({"a": an_intent("a", restart=policy)})
            await fleet.settled(["a"])
            await _cycles(world, WARM_UP)
            before = _now()
            await _cycles(world, cycles)
            after = _now()
    return after[0] - before[0], after[1] - before[1], (after[2] - before[2]) / cycles


def main() -> int:
    """Run, print, and tell whether anything grew."""
    cycles = int(sys.argv[1]) if len(sys.argv) > 1 else CYCLES
    logging.disable()
    tracemalloc.start()
    fds, tasks, size = tell(lambda: _measure(cycles))
    print(f"{cycles} restarts: {fds:+d} descriptors, {tasks:+d} tasks, {size:+.1f} bytes a restart")
    return int(fds > 0 or tasks > 0 or size > BYTES_A_CYCLE)


if __name__ == "__main__":
    sys.exit(main())
