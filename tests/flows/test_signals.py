"""Time limits end what they surround, whatever it catches."""

from __future__ import annotations

import contextlib
import signal
import time

import pytest

from augmill.flows.signals import time_limit
from augmill.tasks.errors import DeadlineExceeded


def test_a_time_limit_is_not_caught_by_code_that_goes_on_after_any_error() -> None:
    after_any_error = contextlib.suppress(Exception)  # as in Great Expectations
    with pytest.raises(DeadlineExceeded, match=r"took longer than 0\.1 s"), time_limit(0.1, "it"), after_any_error:
        time.sleep(20)


def test_a_time_limit_around_another_fires_after_it_and_in_its_own_words() -> None:
    with pytest.raises(DeadlineExceeded, match="outer took"), time_limit(0.2, "outer"):
        with pytest.raises(DeadlineExceeded, match="inner took"), time_limit(0.05, "inner"):
            time.sleep(20)
        time.sleep(20)


def test_an_error_of_the_block_is_its_own_and_a_timer_of_the_callers_goes_on() -> None:
    handler, left = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0]  # pytest's own
    with pytest.raises(KeyError), time_limit(20_000, "fit"):
        raise KeyError
    assert signal.getsignal(signal.SIGALRM) is handler
    assert left - 60 <= signal.getitimer(signal.ITIMER_REAL)[0] <= left
