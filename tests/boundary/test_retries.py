"""Retry policies: bounded, jittered, and only for causes that can pass."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from augmill.tasks.boundary import retries
from augmill.tasks.boundary.retries import NEVER, RetryPolicy, call_with_retries, may_retry
from augmill.tasks.errors import DataError, DeadlineExceeded, StoreRefused, UserError, WorkerDied, WorldError

POLICIES = st.builds(
    RetryPolicy,
    tries=st.integers(1, 8),
    first_delay=st.floats(0, 10),
    longest=st.floats(0, 60),
    jitter=st.floats(0, 0.99),
)


@given(POLICIES, st.integers(0, 10), st.floats(0, 1, exclude_max=True))
def test_a_call_is_tried_as_often_as_its_policy_says_and_waits_within_its_jitter(
    policy: RetryPolicy, failures: int, draw: float
) -> None:
    tried, waits = 0, []

    def work() -> int:
        nonlocal tried
        tried += 1
        if tried <= failures:
            raise DeadlineExceeded("late")  # a deadline counts as a try
        return tried

    if failures < policy.tries:
        assert call_with_retries(work, policy, sleep=waits.append, uniform=lambda: draw) == failures + 1
    else:
        with pytest.raises(DeadlineExceeded):
            call_with_retries(work, policy, sleep=waits.append, uniform=lambda: draw)
    assert tried == min(failures + 1, policy.tries)
    assert len(waits) == tried - 1
    for wait, delay in zip(waits, policy.delays(), strict=False):
        assert delay * (1 - policy.jitter) <= wait <= delay * (1 + policy.jitter) <= policy.longest * 2


@pytest.mark.parametrize("error", [UserError("x"), DataError("x"), StoreRefused("x"), ValueError("x")])
def test_what_waiting_cannot_cure_is_not_tried_again(error: Exception) -> None:
    tried = []

    def work() -> None:
        tried.append(1)
        raise error

    with pytest.raises(type(error)):
        call_with_retries(work, RetryPolicy(tries=5), sleep=lambda _: None)
    assert len(tried) == 1
    assert not may_retry(error)


def test_delays_double_up_to_the_longest() -> None:
    assert RetryPolicy(tries=6, first_delay=1, longest=5).delays() == [1, 2, 4, 5, 5]
    assert NEVER.delays() == []


def test_every_named_policy_ends_within_two_minutes() -> None:
    named = [value for value in vars(retries).values() if isinstance(value, RetryPolicy)]
    assert len(named) >= 5
    assert all(sum(policy.delays()) * (1 + policy.jitter) < 120 for policy in named)


def test_a_policy_without_tries_is_refused() -> None:
    with pytest.raises(ValueError, match="tries >= 1"):
        RetryPolicy(tries=0)


def test_each_retry_is_announced_with_its_error() -> None:
    told: list[tuple[str, int]] = []

    def work() -> int:
        if len(told) < 2:
            raise WorkerDied(f"death {len(told)}")
        return 7

    policy = RetryPolicy(tries=3, first_delay=0)
    assert call_with_retries(work, policy, on_retry=lambda error, tried, _: told.append((str(error), tried))) == 7
    assert told == [("death 0", 1), ("death 1", 2)]
    assert issubclass(WorkerDied, WorldError)
