"""Both orchestrators do the same to the data; Prefect's records are right, and its loss costs nothing but them."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from augmill.flows.orchestration.orchestrate import Orchestrator, PlainOrchestrator
from augmill.tasks.boundary.retries import NEVER, RetryPolicy
from augmill.tasks.errors import AugmillError, CorruptObject, DataError, DeadlineExceeded, LedgerError, WorkerDied

QUICK = RetryPolicy(tries=3, first_delay=0.01)


@pytest.fixture(params=["none", pytest.param("prefect", marks=pytest.mark.slow)])
def orchestrator(request: pytest.FixtureRequest) -> Iterator[Orchestrator]:
    if request.param == "none":
        yield PlainOrchestrator()
        return
    request.getfixturevalue("prefect_api")
    from augmill.flows.orchestration.orchestrate import PrefectOrchestrator

    yield PrefectOrchestrator()


def in_flow(orchestrator: Orchestrator, body: Callable[[], Any], name: str = "test") -> Any:
    return orchestrator.run(body, name="test", run_name=name, parameters={"recipe": "r.yaml"}, tags=["dataset:x"])


class Flaky:
    """Raises ``error`` the first ``failures`` times it is called for an item, then gives the item's square."""

    def __init__(self, failures: dict[int, int], error: Callable[[], AugmillError]) -> None:
        self.failures, self.error, self.calls = failures, error, dict.fromkeys(failures, 0)

    def __call__(self, item: int) -> int:
        self.calls[item] = self.calls.get(item, 0) + 1
        if self.calls[item] <= self.failures.get(item, 0):
            raise self.error()
        return item * item


def test_a_call_that_can_pass_is_retried_and_one_that_cannot_is_not(orchestrator: Orchestrator) -> None:
    dying = Flaky({3: 2}, lambda: WorkerDied("died"))
    wrong = Flaky({3: 1}, lambda: DataError("bad rows"))

    def body() -> int:
        with pytest.raises(DataError, match="bad rows"):
            orchestrator.call(wrong, 3, name="fit x {y}", retry=QUICK)
        return orchestrator.call(dying, 3, name="fit x", retry=QUICK, tags=["gpu"])

    assert in_flow(orchestrator, body) == 9
    assert (dying.calls[3], wrong.calls[3]) == (3, 1)


def test_tries_used_up_raise_the_last_error_out_of_the_flow(orchestrator: Orchestrator) -> None:
    dying = Flaky({1: 9}, lambda: WorkerDied("died again"))
    with pytest.raises(WorkerDied, match="died again"):
        in_flow(orchestrator, lambda: orchestrator.call(dying, 1, name="fit", retry=QUICK))
    assert dying.calls[1] == QUICK.tries


def test_a_map_keeps_order_and_never_has_more_than_its_limit_in_flight(orchestrator: Orchestrator) -> None:
    lock, now, most, done = threading.Lock(), 0, 0, []

    def work(item: int) -> int:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.01 * (item % 3))
        with lock:
            now -= 1
        return -item

    def body() -> list[int]:
        return orchestrator.map(work, range(12), limit=3, name=lambda item: f"generate {item}", on_done=done.append)

    assert in_flow(orchestrator, body) == [-item for item in range(12)]
    assert sorted(done) == [-item for item in reversed(range(12))]
    assert 2 <= most <= 3


def test_one_item_that_fails_for_good_can_be_answered_for(orchestrator: Orchestrator) -> None:
    dying = Flaky({2: 9, 4: 1}, lambda: WorkerDied("died"))

    def body() -> list[int]:
        return orchestrator.map(
            dying,
            range(6),
            limit=2,
            name=str,
            retry=QUICK,
            give_up=lambda item, error: -1 if "died" in str(error) else 0,
        )

    assert in_flow(orchestrator, body) == [0, 1, -1, 9, 16, 25]


def test_only_what_a_retry_could_have_cured_is_answered_for(orchestrator: Orchestrator) -> None:
    for error in (LedgerError("lost a row"), DataError("bad"), CorruptObject("rotten")):
        with pytest.raises(type(error)):
            broken = Flaky({1: 9}, lambda error=error: error)
            in_flow(
                orchestrator,
                lambda broken=broken: orchestrator.map(
                    broken, range(3), limit=1, name=str, retry=QUICK, give_up=lambda item, found: -1
                ),
            )


def test_the_first_failure_of_a_map_starts_no_more_items(orchestrator: Orchestrator) -> None:
    dying = Flaky({0: 9}, lambda: DataError("bad"))
    with pytest.raises(DataError, match="bad"):
        in_flow(orchestrator, lambda: orchestrator.map(dying, range(200), limit=1, name=str))
    assert len(dying.calls) < 200


def test_an_interrupt_stops_workers_and_retries_and_is_raised(orchestrator: Orchestrator) -> None:
    killed = threading.Event()
    orchestrator.on_stop(killed.set)

    def work(item: int) -> int:
        if not killed.wait(5):
            raise AssertionError("nobody killed the workers")
        raise WorkerDied("killed")

    def interrupt(item: int) -> None:
        raise KeyboardInterrupt

    tried: list[int] = []

    def both(item: int) -> int:
        if item == 0:
            raise KeyboardInterrupt
        tried.append(item)
        return work(item)

    with pytest.raises(KeyboardInterrupt):
        in_flow(orchestrator, lambda: orchestrator.map(both, [1, 0], limit=2, name=str, retry=QUICK), "interrupted")
    assert killed.is_set()
    assert orchestrator.stopping.is_set()
    assert tried == [1]


def test_prefect_records_names_states_tags_and_retries(prefect_api: str) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName

    from augmill.flows.orchestration.client import flush_client
    from augmill.flows.orchestration.orchestrate import PrefectOrchestrator

    orchestrator = PrefectOrchestrator()
    flaky = Flaky({1: 1}, lambda: WorkerDied("died"))
    in_flow(orchestrator, lambda: orchestrator.call(flaky, 1, name="fit x@1 rules", retry=QUICK, tags=["gpu"]), "x@1")
    with pytest.raises(DataError):
        in_flow(orchestrator, lambda: orchestrator.call(Flaky({1: 1}, lambda: DataError("bad")), 1, name="fit"), "x@2")
    flush_client()
    with get_client(sync_client=True) as client:

        def read(name: str) -> Any:
            (run,) = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[name])))
            return run

        run = read("x@1")
        assert (run.state_name, run.tags, run.parameters) == (
            "Completed",
            ["dataset:x"],
            {"parameters": {"recipe": "r.yaml"}},
        )
        assert (read("x@2").state_name, read("x@2").state.message) == ("Failed", "bad")
        assert read("interrupted").state_name == "Cancelled"
        until = time.monotonic() + 20  # the server records task runs from events, a second or so later
        while not (tasks := client.read_task_runs(flow_run_filter=FlowRunFilter(id={"any_": [run.id]}))) or (
            tasks[0].state_name != "Completed"
        ):
            assert time.monotonic() < until
            time.sleep(0.1)
    (task,) = tasks
    assert (task.name, task.tags, task.run_count) == ("fit x@1 rules", ["gpu"], 2)


def test_results_are_neither_pickled_nor_kept_by_prefect(prefect_api: str, tmp_path: Path) -> None:
    from prefect.settings import PREFECT_HOME

    from augmill.flows.orchestration.orchestrate import PrefectOrchestrator

    orchestrator = PrefectOrchestrator()
    unpicklable = threading.Lock()
    assert in_flow(orchestrator, lambda: orchestrator.call(lambda: unpicklable, name="fit")) is unpicklable
    with pytest.raises(DataError):
        in_flow(orchestrator, lambda: orchestrator.call(Flaky({1: 1}, lambda: DataError("bad")), 1, name="fit"))
    assert not (Path(PREFECT_HOME.value()) / "storage").exists()


def test_a_deadline_on_the_main_thread_ends_the_try(prefect_api: str) -> None:
    from augmill.flows.orchestration.orchestrate import PrefectOrchestrator

    orchestrator = PrefectOrchestrator()
    tries: list[float] = []

    def slow() -> None:
        tries.append(time.monotonic())
        time.sleep(5)

    policy = RetryPolicy(tries=2, first_delay=0)
    with pytest.raises(DeadlineExceeded, match=r"fit took longer than 0\.2 s"):
        in_flow(orchestrator, lambda: orchestrator.call(slow, name="fit", retry=policy, timeout=0.2))
    assert len(tries) == 2


def test_without_its_api_a_run_still_completes_and_says_so_once(
    prefect_api: str, caplog: pytest.LogCaptureFixture
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from augmill.flows.orchestration.orchestrate import PrefectOrchestrator

    orchestrator = PrefectOrchestrator()
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}), caplog.at_level(logging.WARNING):
        squares = in_flow(
            orchestrator,
            lambda: orchestrator.map(
                Flaky({1: 1}, lambda: WorkerDied("died")), range(4), limit=2, name=str, retry=QUICK, tags=["t"]
            ),
        )
    assert squares == [0, 1, 4, 9]
    assert not orchestrator.recording
    said = {id(record): record.message for record in caplog.records if "goes on without it" in record.message}
    assert len(said) == 1


def test_a_run_that_ended_is_held_by_nothing(prefect_api: str) -> None:
    """Else a process of many runs grows with what each of them held."""
    from augmill.flows.orchestration.logs import quiet_logging
    from augmill.flows.orchestration.orchestrate import open_orchestrator

    class Held:
        """What the run's body refers to."""

    def run_once() -> weakref.ref[Held]:
        held = Held()

        def body() -> None:
            logging.getLogger("augmill").info("a record of the run")
            runner.call(lambda: vars(held).clear(), name="fit x")

        with quiet_logging(), open_orchestrator("prefect") as runner:
            in_flow(runner, body)
        return weakref.ref(held)

    ended = [run_once() for _ in range(3)]
    gc.collect()
    assert [each() for each in ended] == [None, None, None]


def test_a_run_after_one_that_lost_its_api_is_recorded(prefect_api: str) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterName

    from augmill.flows.orchestration.logs import quiet_logging
    from augmill.flows.orchestration.orchestrate import PrefectOrchestrator, open_orchestrator

    with open_orchestrator("prefect") as runner:
        assert isinstance(runner, PrefectOrchestrator)
        runner._api.lost.set()
    with quiet_logging(), open_orchestrator("prefect") as runner:
        in_flow(runner, lambda: runner.call(lambda: None, name="fit afterwards"))
    named = TaskRunFilter(name=TaskRunFilterName(any_=["fit afterwards"]))
    with get_client(sync_client=True) as client:
        until = time.monotonic() + 10
        while not (found := client.read_task_runs(task_run_filter=named)) and time.monotonic() < until:
            time.sleep(0.1)
    assert [run.state_name for run in found] == ["Completed"]


def test_never_means_once(orchestrator: Orchestrator) -> None:
    dying = Flaky({1: 9}, lambda: WorkerDied("died"))
    with pytest.raises(WorkerDied):
        in_flow(orchestrator, lambda: orchestrator.call(dying, 1, name="fit", retry=NEVER))
    assert dying.calls[1] == 1


def test_an_interrupt_kills_workers_after_the_api_was_lost_too() -> None:
    from augmill.flows.orchestration.orchestrate import PrefectOrchestrator

    orchestrator, killed = PrefectOrchestrator(), threading.Event()
    orchestrator.on_stop(killed.set)
    orchestrator._api.lost.set()

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        orchestrator.run(interrupt, name="test", run_name="x", nested=True)
    assert killed.is_set()
    with pytest.raises(KeyboardInterrupt):  # a snapshot in another thread begins no further stage
        orchestrator.call(lambda: None, name="fit x")
