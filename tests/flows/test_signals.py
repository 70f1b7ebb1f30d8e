"""Time limits end what they surround, whatever it catches; and so do interrupts."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from chain import InlinePool, make_session, make_snapshot, tiny_recipe, write_rows

from augmill.flows.run import attempt, open_session
from augmill.flows.signals import interruptible, time_limit
from augmill.flows.source import read_source
from augmill.tasks.boundary.retries import STAGE
from augmill.tasks.errors import DeadlineExceeded, WorkerDied
from augmill.tasks.store.attempts import read_attempts
from augmill.tasks.store.store import Store


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


def test_an_interrupt_that_is_lost_on_its_way_still_ends_the_session(tmp_path: Path) -> None:
    """Such as one that comes in a finaliser: Python drops what is raised there."""
    recipe = tiny_recipe(write_rows(tmp_path / "rows.csv"))
    recipe = dataclasses.replace(recipe, run=dataclasses.replace(recipe.run, store=str(tmp_path / "store")))
    with open_session(recipe, command="test") as session, attempt(session, None) as run:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            next(read_source(run))


def test_an_interrupt_in_another_thread_decides_nothing_about_a_snapshot(tmp_path: Path) -> None:
    """Its workers are killed: without one, a fit that is tried for the last time ends as generators that fail do."""
    recipe = tiny_recipe(write_rows(tmp_path / "rows.csv"), outcomes={"not_produced": "keep_current"})
    store = Store(str(tmp_path / "store"))

    class Killed(InlinePool):
        tries = 0

        def run(self, *job: Any, **how: Any) -> Any:
            self.tries += 1
            if self.tries == STAGE.tries:
                session.stop.now()
            raise WorkerDied("killed")

    session = make_session(recipe, store, Killed())
    with pytest.raises(KeyboardInterrupt):
        make_snapshot(session)
    (tried,) = read_attempts(store, "tiny")["all"]
    assert tried.end is not None and tried.end["outcome"] == "interrupted"


def test_a_signal_that_whoever_began_us_ignores_stays_ignored() -> None:
    """A script's background commands are begun so: Ctrl-C at the script is not for them."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)
