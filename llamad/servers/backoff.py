"""When a replica that ended is started again. Pure: randomness and time come in as values."""

from dataclasses import dataclass

from llamad.config.model import RestartPolicy
from llamad.servers.board import Failure


@dataclass(frozen=True, slots=True)
class Retry:
    """Start again after `delay` seconds. `given_up` tells `failed` (slow retry) from `backoff`."""

    delay: float | None
    given_up: bool


def count_failures(before: int, *, ready_for: float, policy: RestartPolicy) -> int:
    """The number of failures in a row, this one included; a run that was ready for `reset_after` starts anew."""
    return 1 if ready_for >= policy.reset_after else before + 1


def next_retry(policy: RestartPolicy, failures: int, failure: Failure, *, chance: float) -> Retry:
    """What follows the `failures`-th failure in a row; `chance` is a random number from 0 to 1.

    The delay is initial_delay * factor^(failures - 1), at most max_delay, spread by +-jitter. A permanent cause, or
    more failures than max_retries, gives up: then retry_failed_every is the delay (None: never by itself), and no more
    than max_delay where the cause may pass at any time.
    """
    if failure.permanent or (policy.max_retries is not None and failures > policy.max_retries):
        slow = policy.retry_failed_every
        return Retry(min(slow, policy.max_delay) if failure.passing and slow is not None else slow, given_up=True)
    delay = policy.initial_delay
    for _ in range(failures - 1):
        if delay >= policy.max_delay or policy.factor == 1 or not delay:
            break  # a loop and not a power: 2.0**2000 overflows
        delay *= policy.factor
    return Retry(min(delay, policy.max_delay) * (1 + policy.jitter * (2 * chance - 1)), given_up=False)
