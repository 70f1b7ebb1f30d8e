"""Steps, maps and flows do the same to the data with and without Prefect; the loss of its API costs its records only."""

from __future__ import annotations

import dataclasses
import gc
import logging
import signal
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chain import make_session, tiny_recipe, write_rows
from recorded import asking, flow_runs, task_runs

from augmill.flows.flow import OwnFlow, Result, call_flow
from augmill.flows.orchestration.api import Api
from augmill.flows.progress import Progress
from augmill.flows.run import Run, Session, new_run, open_session
from augmill.flows.signals import Terminated
from augmill.flows.step import Step, StepCall, map_bounded, step
from augmill.tasks.boundary.retries import NEVER, STAGE, RetryPolicy
from augmill.tasks.contracts import Artifact
from augmill.tasks.errors import AugmillError, CorruptObject, DataError, DeadlineExceeded, LedgerError, WorkerDied
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.store.store import Store

QUICK = RetryPolicy(tries=3, first_delay=0.01)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    run = {"orchestrator": "prefect", "store": str(tmp_path / "store")}
    return tiny_recipe(write_rows(tmp_path / "rows.csv"), run=run)


def make_run(recipe: Recipe, *, recording: bool) -> Run:
    session = make_session(recipe, Store(recipe.run.store))
    session = dataclasses.replace(session, api=Api(recording=recording))
    return new_run(session, recipe, None, Progress(live=False, quiet=True))


@pytest.fixture(params=["none", pytest.param("prefect", marks=pytest.mark.slow)])
def run(request: pytest.FixtureRequest, recipe: Recipe) -> Run:
    if request.param == "prefect":
        request.getfixturevalue("prefect_api")
    return make_run(recipe, recording=request.param == "prefect")


def in_flow(session: Session, body: Callable[[], Any], name: str = "test") -> Any:
    """What ``body`` gives inside a flow run of that name; alone where nothing is recorded."""
    found = []

    def whole() -> Result:
        found.append(body())
        return {"outcome": "done", "reason": "it was a test"}

    call_flow(session, OwnFlow(whole, name, "test"))
    return found[0]


class Flaky:
    """Raises ``error`` the first ``failures`` times it is called for an item, then gives the item's square."""

    def __init__(self, failures: dict[int, int], error: Callable[[], AugmillError]) -> None:
        self.failures, self.error, self.calls = failures, error, dict.fromkeys(failures, 0)

    def __call__(self, item: int) -> int:
        self.calls[item] = self.calls.get(item, 0) + 1
        if self.calls[item] <= self.failures.get(item, 0):
            raise self.error()
        return item * item


def step_of(work: Callable[[int], Any], retry: RetryPolicy = QUICK, name: str = "fit") -> Step[..., Any]:
    """``work(item)`` as a step that is given its item by name, as a stage its configuration."""

    def fn(call: StepCall[Any], *, item: int) -> Any:
        return work(item)

    fn.__name__ = name
    return step(retry, "{item}")(fn)


def test_what_can_pass_is_tried_again_and_what_cannot_is_not(run: Run) -> None:
    dying, wrong = Flaky({3: 2}, lambda: WorkerDied("died")), Flaky({3: 1}, lambda: DataError("bad rows"))

    def body() -> Any:
        with pytest.raises(DataError, match="bad rows"):
            step_of(wrong)(run, item=3)
        return step_of(dying)(run, item=3)

    assert in_flow(run.session, body) == 9
    assert (dying.calls[3], wrong.calls[3]) == (3, 1)


def test_each_further_try_is_told_with_its_cause(run: Run, said: list[str]) -> None:
    dying = Flaky({3: 2}, lambda: WorkerDied("died\nat length"))
    in_flow(run.session, lambda: step_of(dying)(run, item=3))
    told = [line for line in said if "died" in line]
    assert told == ["fit 3: died\n  Try 2 of 3 follows.", "fit 3: died\n  Try 3 of 3 follows."]


def test_tries_used_up_raise_the_last_error_out_of_the_flow(run: Run) -> None:
    dying = Flaky({1: 9}, lambda: WorkerDied("died again"))
    with pytest.raises(WorkerDied, match="died again"):
        in_flow(run.session, lambda: step_of(dying)(run, item=1))
    assert dying.calls[1] == QUICK.tries


def test_never_means_once_and_other_tries_are_another_step(run: Run) -> None:
    dying = Flaky({1: 9}, lambda: WorkerDied("died"))
    once = step_of(dying, NEVER)
    for tried, expected in ((once, 1), (once.with_tries(2), 3), (once, 4)):
        with pytest.raises(WorkerDied):
            in_flow(run.session, lambda tried=tried: tried(run, item=1))
        assert dying.calls[1] == expected


def test_a_defect_is_raised_as_it_is_and_once(run: Run) -> None:
    def broken(item: int) -> int:
        tried.append(item)
        raise ZeroDivisionError("seven by nothing")

    tried: list[int] = []
    with pytest.raises(ZeroDivisionError, match="seven by nothing"):
        in_flow(run.session, lambda: step_of(broken)(run, item=7))
    assert tried == [7]


def test_a_map_keeps_order_and_never_has_more_than_its_limit_in_flight(run: Run) -> None:
    lock, now, most, done = threading.Lock(), 0, 0, list[int]()

    def work(item: int) -> int:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.01 * (item % 3))
        with lock:
            now -= 1
        return -item

    shard = step_of(work, name="generate")

    def body() -> list[int]:
        return map_bounded(
            lambda item: shard(run, item=item),
            range(12),
            run.stop,
            limit=3,
            on_done=lambda _, value: done.append(value),
        )

    assert in_flow(run.session, body) == [-item for item in range(12)]
    assert sorted(done) == [-item for item in reversed(range(12))]
    assert 2 <= most <= 3


def test_one_item_that_fails_for_good_can_be_answered_for(run: Run) -> None:
    shard = step_of(Flaky({2: 9, 4: 1}, lambda: WorkerDied("died")))

    def give_up(item: int, error: AugmillError) -> int:
        return -1 if "died" in str(error) else 0

    def body() -> list[int]:
        return map_bounded(lambda item: shard(run, item=item), range(6), run.stop, limit=2, give_up=give_up)

    assert in_flow(run.session, body) == [0, 1, -1, 9, 16, 25]


@pytest.mark.parametrize("error", [LedgerError("lost a row"), DataError("bad"), CorruptObject("rotten")])
def test_only_what_a_retry_could_have_cured_is_answered_for(run: Run, error: AugmillError) -> None:
    shard = step_of(Flaky({1: 9}, lambda: error))

    def body() -> list[int]:
        return map_bounded(
            lambda item: shard(run, item=item), range(3), run.stop, limit=1, give_up=lambda item, error: -1
        )

    with pytest.raises(type(error)):
        in_flow(run.session, body)


def test_the_first_failure_of_a_map_lets_running_items_finish_and_starts_no_more(run: Run) -> None:
    began, ended = [], []

    def work(item: int) -> int:
        began.append(item)
        if item == 1:
            raise DataError("bad")
        time.sleep(0.2)
        ended.append(item)
        return item

    shard = step_of(work)
    with pytest.raises(DataError, match="bad"):
        in_flow(
            run.session,
            lambda: map_bounded(lambda item: shard(run, item=item), range(200), run.stop, limit=2),
        )
    assert len(began) < 200 and sorted(ended) == sorted({*began} - {1})


def test_an_interrupt_stops_workers_and_retries_and_is_raised(run: Run) -> None:
    killed, working, tried = threading.Event(), threading.Event(), list[int]()
    run.stop.on_stop(killed.set)

    def work(item: int) -> int:
        tried.append(item)
        if item == 0:
            assert working.wait(120)
            raise KeyboardInterrupt
        working.set()
        assert killed.wait(120), "nobody killed the workers"
        raise WorkerDied("killed")

    shard = step_of(work)
    with pytest.raises(KeyboardInterrupt):
        in_flow(
            run.session,
            lambda: map_bounded(lambda item: shard(run, item=item), [1, 0, *range(2, 50)], run.stop, limit=2),
        )
    assert killed.is_set() and run.stop.is_set()
    assert sorted(tried) == [0, 1]
    with pytest.raises(KeyboardInterrupt):  # a snapshot in another thread begins no further stage
        shard(run, item=5)


def test_sigterm_in_a_step_is_told_from_ctrl_c(run: Run) -> None:
    """The command ends with another code, and Prefect is told who ended a run of a deployment."""

    def terminate(item: int) -> None:
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Terminated):
        in_flow(run.session, lambda: step_of(terminate)(run, item=1))


def test_an_interrupt_ends_the_wait_before_a_further_try(recipe: Recipe) -> None:
    run = make_run(recipe, recording=False)

    def work(item: int) -> int:
        threading.Timer(0.2, run.stop.now).start()
        raise WorkerDied("died")

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        step_of(work, RetryPolicy(tries=2, first_delay=60))(run, item=1)
    assert time.monotonic() - began < 30


def test_a_time_limit_on_the_main_thread_ends_the_try(run: Run) -> None:
    tries = []

    def slow(call: StepCall[Any]) -> None:
        with call.watched():
            tries.append(time.monotonic())
            time.sleep(20)

    how = dataclasses.replace(run.recipe.run, stage_minutes=0.2 / 60)
    hasty = dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, run=how))
    fit = step(RetryPolicy(tries=2, first_delay=0))(slow)
    with pytest.raises(DeadlineExceeded, match=r"slow took longer than 0\.2 s"):
        in_flow(run.session, lambda: fit(hasty))
    assert len(tries) == 2


# --- what Prefect keeps -----------------------------------------------------------------------------------------------


def test_names_tags_tries_and_states_are_recorded(prefect_api: str, recipe: Recipe) -> None:
    run = make_run(recipe, recording=True)
    flaky, wrong = Flaky({1: 1}, lambda: WorkerDied("died")), Flaky({1: 1}, lambda: DataError("bad", fix="mend it"))
    in_flow(run.session, lambda: step_of(flaky, name="fit x@\x1b{1}")(run, item=1), "recorded")
    with pytest.raises(DataError):
        in_flow(run.session, lambda: step_of(wrong)(run, item=1), "failed")
    with asking() as client:
        done, failed = flow_runs(client, "recorded")[-1], flow_runs(client, "failed")[-1]
        assert (done.state_name, done.state.message, sorted(done.tags)) == (
            "Done",
            "it was a test",
            ["augmill", "tiny"],
        )
        assert (failed.state_name, failed.state.message) == ("Failed", "bad\n  What to do: mend it")
        (task,) = task_runs(client, done, last=r"fit x@\u001b{1} 1").values()
        assert (task.name, task.tags, task.run_count) == (r"fit x@\u001b{1} 1", [], 2)
        assert task.state_name == "Completed"
        (task,) = task_runs(client, failed, last="fit 1").values()
        assert task.state_name == "Failed"


def test_an_interrupt_is_recorded_as_cancelled_in_the_flow_and_each_of_its_tasks(
    prefect_api: str, recipe: Recipe
) -> None:
    run = make_run(recipe, recording=True)
    working = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert working.wait(120)
            raise KeyboardInterrupt
        working.set()
        assert run.stop.wait(120)
        raise WorkerDied("killed")

    shard = step_of(work, name="generate")
    with pytest.raises(KeyboardInterrupt):
        in_flow(
            run.session,
            lambda: map_bounded(lambda item: shard(run, item=item), [1, 0], run.stop, limit=2),
            "interrupted",
        )
    with asking() as client:
        found = flow_runs(client, "interrupted")[-1]
        assert (found.state_name, found.state.message) == ("Cancelled", "interrupted (KeyboardInterrupt)")
        told = {
            task.name: (task.state_name, task.state.message)
            for task in task_runs(client, found, last="generate 1").values()
        }
    assert told == {
        "generate 0": ("Cancelled", "interrupted (KeyboardInterrupt)"),
        "generate 1": ("Cancelled", "its worker was stopped"),
    }


def test_results_are_neither_pickled_nor_kept_by_prefect(prefect_api: str, recipe: Recipe) -> None:
    from prefect.settings import PREFECT_HOME

    run, unpicklable, storage = (
        make_run(recipe, recording=True),
        threading.Lock(),
        Path(PREFECT_HOME.value(), "storage"),
    )
    before = {*storage.glob("*")}  # a defect's error, which is raised through Prefect, is
    assert in_flow(run.session, lambda: step_of(lambda item: unpicklable)(run, item=1)) is unpicklable
    with pytest.raises(DataError):
        in_flow(run.session, lambda: step_of(Flaky({1: 1}, lambda: DataError("bad")))(run, item=1))
    assert {*storage.glob("*")} == before


def test_without_its_api_a_run_still_completes_and_says_so_once(
    prefect_api: str, recipe: Recipe, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    run = make_run(recipe, recording=True)
    shard = step_of(Flaky({1: 1}, lambda: WorkerDied("died")))
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        squares = in_flow(
            run.session, lambda: map_bounded(lambda item: shard(run, item=item), range(4), run.stop, limit=2)
        )
    assert squares == [0, 1, 4, 9]
    assert not run.session.api.recording
    assert len([line for line in said if "goes on without it" in line]) == 1, said


def test_a_run_after_one_that_lost_its_api_is_recorded(prefect_api: str, recipe: Recipe) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    lost = Api(recording=True)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        lost.report(ConnectionError("gone"))
    assert not lost.recording
    with open_session(recipe, command="test") as session:
        run = new_run(session, recipe, None, Progress(live=False, quiet=True))
        in_flow(session, lambda: step_of(lambda item: item, name="fit")(run, item=1), "afterwards")
    with asking() as client:
        found = flow_runs(client, "afterwards")[-1]
        assert [task.state_name for task in task_runs(client, found, last="fit 1").values()] == ["Completed"]


def test_a_run_that_ended_is_held_by_nothing(prefect_api: str, recipe: Recipe) -> None:
    """Else a process of many runs grows with what each of them held."""

    class Held:
        """What a run's body refers to."""

    def run_once() -> list[weakref.ref[Any]]:
        held, made = Held(), Artifact("fit/x", 1, "0" * 64, "0" * 64)
        use = step(STAGE)(lambda call, artifact, *, config: artifact)

        with open_session(recipe, command="test") as session:
            run = new_run(session, recipe, None, Progress(live=False, quiet=True))

            def body() -> None:
                logging.getLogger("augmill").info("a record of the run")
                use(run, use(run, made, config=held), config=held)

            in_flow(session, body)
        return [weakref.ref(held), weakref.ref(made), weakref.ref(run), weakref.ref(session)]

    ended = [run_once() for _ in range(3)]
    gc.collect()
    assert [[each() for each in of] for of in ended] == [[None] * 4] * 3


def test_an_interrupt_kills_workers_after_the_api_was_lost_too(recipe: Recipe) -> None:
    run, killed = make_run(recipe, recording=False), threading.Event()
    run.stop.on_stop(killed.set)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_flow(run.session, interrupt)
    assert killed.is_set()
