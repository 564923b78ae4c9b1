"""When a replica that ended is started again."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from llamad.config.model import RestartPolicy
from llamad.servers.backoff import Retry, count_failures, next_retry
from llamad.servers.board import Failure

CRASH = Failure("segfault", "it crashed")
HOPELESS = Failure("model-corrupt", "not GGUF", permanent=True)
FOREVER = RestartPolicy(max_retries=None)


@pytest.mark.parametrize(("failures", "delay"), [(1, 1), (2, 2), (3, 4), (5, 16), (6, 30), (7, 30), (10**9, 30)])
def test_the_delay_grows_up_to_its_maximum(failures: int, delay: float) -> None:
    assert next_retry(FOREVER, failures, CRASH, chance=0.5) == Retry(delay, given_up=False)


@pytest.mark.parametrize("failures", [1, 3, 10**12])
@pytest.mark.parametrize(("initial", "factor"), [(0.0, 2.0), (5.0, 1.0), (0.0, 1.0)])
def test_a_delay_that_does_not_grow_is_found_at_once(initial: float, factor: float, failures: int) -> None:
    policy = RestartPolicy(initial_delay=initial, factor=factor, max_retries=None)
    assert next_retry(policy, failures, CRASH, chance=0.5).delay == initial


def test_more_failures_than_retries_give_up() -> None:
    policy = RestartPolicy(max_retries=2)
    assert [next_retry(policy, n, CRASH, chance=0.5).given_up for n in (1, 2, 3)] == [False, False, True]
    assert next_retry(policy, 3, CRASH, chance=0.5).delay == 300
    assert next_retry(RestartPolicy(max_retries=0), 1, CRASH, chance=0.5).given_up


def test_what_may_pass_at_any_time_is_tried_again_soon_for_ever() -> None:
    gone = Failure("rpc-server-gone", "it went", passing=True)
    policy = RestartPolicy(max_retries=2)
    assert [next_retry(policy, n, gone, chance=0.5) for n in (1, 99)] == [
        Retry(1, given_up=False), Retry(30, given_up=True)
    ]  # fmt: skip
    assert next_retry(RestartPolicy(max_retries=2, retry_failed_every=None), 9, gone, chance=0.5).delay is None
    assert next_retry(RestartPolicy(max_retries=2, retry_failed_every=7), 9, gone, chance=0.5).delay == 7


def test_a_permanent_cause_gives_up_at_once() -> None:
    assert next_retry(FOREVER, 1, HOPELESS, chance=0.5) == Retry(300, given_up=True)
    policy = RestartPolicy(retry_failed_every=None)
    assert next_retry(policy, 1, HOPELESS, chance=0.5) == Retry(None, given_up=True)


def test_a_run_that_was_ready_for_long_enough_starts_anew() -> None:
    policy = RestartPolicy(reset_after=60)
    assert count_failures(4, ready_for=59.9, policy=policy) == 5
    assert count_failures(4, ready_for=60, policy=policy) == 1
    assert count_failures(0, ready_for=0, policy=policy) == 1


@settings(max_examples=50)
@given(
    failures=some.integers(1, 5000),
    chance=some.floats(0, 1),
    jitter=some.floats(0, 1),
    factor=some.floats(1, 1e6),
    delays=some.tuples(some.floats(0, 1e5), some.floats(0, 1e5)).map(sorted),
)
def test_the_delay_stays_within_the_jitter(
    failures: int, chance: float, jitter: float, factor: float, delays: list[float]
) -> None:
    initial, most = delays
    policy = RestartPolicy(initial_delay=initial, max_delay=most, factor=factor, jitter=jitter, max_retries=None)
    delay = next_retry(policy, failures, CRASH, chance=chance).delay
    middle = next_retry(policy, failures, CRASH, chance=0.5).delay
    assert delay is not None
    assert middle is not None
    assert initial * 0.999 <= middle <= most
    assert middle * (1 - jitter) * 0.999 <= delay <= middle * (1 + jitter) * 1.001
