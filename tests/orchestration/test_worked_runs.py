"""Runs of deployments on a worker, or served: done, done again from the UI, cancelled from there, and resumed."""

from __future__ import annotations

import csv
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from chain import WORDS
from dated import dated_document
from recorded import asking, wait_until

from augmill.flows.deployed import augment
from augmill.flows.orchestration.deployments import recipe_deployments
from augmill.tasks.recipe.recipe import load_recipe
from augmill.tasks.store.attempts import read_attempts
from augmill.tasks.store.log import read_log
from augmill.tasks.store.store import Store

pytestmark = pytest.mark.slow

POOL = "worked"
PATIENCE = 120.0  # seconds: two processes that import Prefect, on a machine that is busy
SOON = 20.0  # seconds from the click to the end of our workers; Prefect takes up to 10 to hear of it
YESTERDAY = (datetime.now(UTC).date() - timedelta(days=1)).isoformat()


def write_recipe(folder: Path, dataset: str, **changes: Any) -> Path:
    """60 rows of yesterday."""
    rng = random.Random(5)
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as stream:
        lines = csv.writer(stream)
        lines.writerow(["text", "label", "day"])
        for index in range(60):
            label = ("refund", "track")[index % 2]
            lines.writerow([" ".join(rng.choices(WORDS[label], k=7)), label, YESTERDAY])
    document = dated_document(folder / "rows.csv", folder / "store", dataset=dataset) | changes
    path = folder / f"{dataset}.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def prefect_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "prefect", *arguments]


@contextmanager
def running(command: list[str]) -> Iterator[None]:
    """A process that stays; what it says is shown where the test fails."""
    process = subprocess.Popen(
        command,
        env=os.environ | {"PREFECT_WORKER_QUERY_SECONDS": "1", "PREFECT_RUNNER_POLL_FREQUENCY": "1"},
        start_new_session=True,
    )
    try:
        yield
        assert process.poll() is None, "it ended by itself"
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:  # a worker waits for runs that others left: how it ends is Prefect's
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def worker(prefect_api: str) -> Iterator[str]:
    """The name of a pool whose worker runs, in processes of this machine."""
    from prefect.client.schemas.actions import WorkPoolCreate

    with asking() as client:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"), overwrite=True)
    with running(prefect_command("worker", "start", "--pool", POOL, "--type", "process", "--name", "one")):
        yield POOL


def deploy_augment(recipe: Path, store: Path) -> Any:
    from prefect.deployments.runner import RunnerDeployment
    from prefect.types.entrypoint import EntrypointType

    deployment = RunnerDeployment.from_flow(
        augment,
        name=recipe.stem,
        parameters={"recipe": str(recipe), "store": str(store)},
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    deployment.work_pool_name = POOL
    return deployment.apply()


def deploy_nightly(recipe: Path) -> Any:
    nightly, _ = recipe_deployments(load_recipe(recipe), POOL)
    nightly.schedules = []
    return nightly.apply()


def ended(client: Any, run: Any, times: int = 1) -> Any:
    """The run, once it has ended for the so-manieth time."""

    def found() -> Any:
        now = client.read_flow_run(run.id)
        return now if now.state.is_final() and now.run_count >= times else None

    return wait_until(found, PATIENCE, lambda: client.read_flow_run(run.id).state)


def retry(client: Any, run: Any) -> None:
    """As the button of the UI does."""
    from prefect.states import AwaitingRetry

    client.set_flow_run_state(run.id, AwaitingRetry(message="Retry from the UI"))


def test_deployed_runs_do_their_work_and_the_same_when_run_again(worker: str, tmp_path: Path) -> None:
    """Of the flow of one snapshot, and of the nightly one, which finds nothing to do then."""
    kinds = {}
    for kind in ("augment", "nightly"):
        (tmp_path / kind).mkdir()
        kinds[kind] = write_recipe(tmp_path / kind, f"worked-{kind}")
    stores = {kind: Store(str(tmp_path / kind / "store")) for kind in kinds}
    with asking() as client:
        deployments = {
            "augment": deploy_augment(kinds["augment"], tmp_path / "augment" / "store"),
            "nightly": deploy_nightly(kinds["nightly"]),
        }
        runs = {kind: client.create_flow_run_from_deployment(of) for kind, of in deployments.items()}
        told = {kind: [ended(client, run)] for kind, run in runs.items()}
        releases = {kind: read_log(stores[kind], recipe.stem).newest() for kind, recipe in kinds.items()}
        for run in runs.values():
            retry(client, run)
        for kind, run in runs.items():
            told[kind].append(ended(client, run, times=2))
        others = {kind: client.create_flow_run_from_deployment(of) for kind, of in deployments.items()}
        for kind, run in others.items():
            told[kind].append(ended(client, run))
    assert {run.state_type.value for each in told.values() for run in each} == {"COMPLETED"}
    assert len({(run.state_name, run.state.message) for run in told["augment"]}) == 1
    assert [run.state_name for run in told["nightly"]] == ["Done", "Nothing", "Nothing"]
    for kind, recipe in kinds.items():
        log = read_log(stores[kind], recipe.stem)
        assert log.newest() == releases[kind] is not None and len(log.entries) == 1
        tries = [attempt for of in read_attempts(stores[kind], recipe.stem).values() for attempt in of]
        assert len(tries) == {"augment": 3, "nightly": 1}[kind]


def processes_of(run: Any) -> list[psutil.Process]:
    """Our workers that run for that flow run: every process of it inherits its id."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = "augmill.tasks.workers" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
            if ours and process.environ().get("PREFECT__FLOW_RUN_ID") == str(run.id):
                found.append(process)
        except psutil.Error:  # gone meanwhile, or another user's
            continue
    return found


def manifests(store: Path, stage: str) -> dict[str, int]:
    """When each of the stage's was written."""
    return {path.name: path.stat().st_mtime_ns for path in store.glob(f"private/manifests/{stage}/*")}


def cancelled_and_resumed(deployment: Any, store: Path, dataset: str) -> None:
    from prefect.states import Cancelling

    with asking() as client:
        run = client.create_flow_run_from_deployment(deployment)
        wait_until(lambda: len(manifests(store, "generate")) >= 3, PATIENCE, lambda: client.read_flow_run(run.id).state)
        assert processes_of(run)
        client.set_flow_run_state(run.id, Cancelling())  # as the button of the UI does
        wait_until(lambda: not processes_of(run), SOON, lambda: client.read_flow_run(run.id).state)
        assert ended(client, run).state_type.value == "CANCELLED"
        ((attempt,),) = read_attempts(Store(str(store)), dataset).values()
        assert attempt.end is not None and attempt.end["outcome"] == "interrupted"
        before = manifests(store, "fit") | manifests(store, "generate")
        retry(client, run)
        again = ended(client, run, times=2)
        assert again.state_type.value == "COMPLETED", again.state
    after = manifests(store, "fit") | manifests(store, "generate")
    assert len(after) > len(before) and {name: after[name] for name in before} == before, "what stood was made again"
    assert read_log(Store(str(store)), dataset).newest() is not None


def slow_recipe(folder: Path, dataset: str) -> Path:
    """Its generation takes several seconds, in many shards."""
    run = {"orchestrator": "prefect", "shard_rows": 3, "threads": 1, "store": str(folder / "store")}
    return write_recipe(folder, dataset, run=run, target={"per_class": 200}, refill={"max_rounds": 1})


def test_a_worked_run_that_is_cancelled_ends_its_workers_soon_and_goes_on_when_run_again(
    worker: str, tmp_path: Path
) -> None:
    recipe = slow_recipe(tmp_path, "cancelled")
    cancelled_and_resumed(deploy_augment(recipe, tmp_path / "store"), tmp_path / "store", "cancelled")


def test_a_served_run_that_is_cancelled_ends_its_workers_soon_and_goes_on_when_run_again(
    prefect_api: str, tmp_path: Path
) -> None:
    from prefect.exceptions import ObjectNotFound

    recipe = slow_recipe(tmp_path, "served-slow")

    def deployed() -> Any:
        try:
            with asking() as client:
                found = client.read_deployment_by_name("nightly/served-slow")
                return found.id if found.parameters["recipe"] == str(recipe) else None
        except ObjectNotFound:
            return None

    with running([str(Path(sys.executable).with_name("augmill")), "serve", str(recipe)]):
        cancelled_and_resumed(wait_until(deployed, PATIENCE), tmp_path / "store", "served-slow")
