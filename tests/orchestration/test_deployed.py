"""A recipe's deployments: created once however often, run late or on time as its schedule says, ended cleanly."""

from __future__ import annotations

import csv
import importlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from chain import WORDS, recipe_document, write_rows
from commands import augmill, refused
from dated import dated_document

from augmill.tasks.recipe.recipe import build_recipe, load_recipe
from augmill.tasks.store.attempts import read_attempts
from augmill.tasks.store.store import Store

ROOT = Path(__file__).parents[2]
TODAY = datetime.now(UTC).date()
DAYS = [(TODAY - timedelta(days=back)).isoformat() for back in (3, 2, 1)]


def write_recipe_file(folder: Path, name: str, **changes: Any) -> Path:
    """A recipe over the last three days, its dataset named as it is, beside its rows and its store."""
    rows, rng = folder / "rows.csv", random.Random(5)
    with rows.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label", "day"])
        for index in range(60):
            label = ("refund", "track")[index % 2]
            writer.writerow([" ".join(rng.choices(WORDS[label], k=7)), label, DAYS[max(0, index // 10 - 3)]])
    document = dated_document(rows, folder / f"store-{name}") | {"dataset": name} | changes
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(document))
    return path


def wait_until(holds: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.3)


def clear(client: Any) -> None:
    for deployment in client.read_deployments():
        client.delete_deployment(deployment.id)
    for automation in client.read_automations():
        client.delete_automation(automation.id)


def late_runs(client: Any, deployment: UUID, days: tuple[int, ...] = (3, 2, 1)) -> list[UUID]:
    """What a scheduler made while no worker was there to take it."""
    from prefect.states import Scheduled

    now = datetime.now(UTC)
    states = [Scheduled(scheduled_time=now - timedelta(days=back)) for back in days]
    return [client.create_flow_run_from_deployment(deployment, state=state).id for state in states]


def test_the_deployed_flow_publishes_and_its_tasks_are_seen(prefect_api: str, tmp_path: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName

    from augmill.flows.deployed import augment

    document = recipe_document(write_rows(tmp_path / "rows.csv"), target={"per_class": 3})
    path = tmp_path / "deployed-tiny.yaml"
    path.write_text(json.dumps(document | {"run": {"shard_rows": 50}}))
    result = augment(recipe=str(path), store=str(tmp_path / "store"))
    assert isinstance(result, dict)
    assert result["release"] and Path(result["location"]).is_dir()
    with get_client(sync_client=True) as client:
        (run,) = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=["all deployed-tiny"]))
        )
        assert run.state is not None and run.state.is_completed()


def test_what_is_set_is_a_parameter_of_deployed_runs_which_note_it(prefect_api: str, tmp_path: Path) -> None:
    from augmill.flows.deployed import augment
    from augmill.flows.orchestration.deployments import recipe_deployments

    path = write_recipe_file(tmp_path, "changed")
    recipe = load_recipe(path, changes=["seed=7", "splits.seed=3"])
    made = recipe_deployments(recipe, None)
    parameters = {"recipe": str(path), "store": str(tmp_path / "store-changed")}
    assert [each.parameters for each in made] == [parameters | {"set": ["seed=7", "splits.seed=3"]}] * 2
    result = augment(**made[0].parameters, as_of=DAYS[-1])
    assert isinstance(result, dict) and result["release"]
    ((attempt,),) = read_attempts(Store(parameters["store"]), "changed").values()
    assert attempt.start["recipe"] == recipe.hash() != load_recipe(path).hash()
    assert attempt.start["command"] == "deployment changed.yaml --set seed=7 --set splits.seed=3"


@pytest.mark.parametrize("name", ["augment", "nightly", "backfill"])
def test_a_failing_deployed_flow_is_seen_as_failed(prefect_api: str, tmp_path: Path, name: str) -> None:
    from augmill.flows import deployed

    path = tmp_path / "broken.yaml"
    path.write_text(json.dumps(recipe_document(tmp_path / "not-there.csv")))
    state = getattr(deployed, name)(recipe=str(path), store=str(tmp_path / "store"), return_state=True)
    assert state.is_failed() and "not-there.csv" in str(state.message)


def test_a_deployed_flow_makes_no_snapshot_of_a_day_that_is_not_over(prefect_api: str, tmp_path: Path) -> None:
    from augmill.flows.deployed import augment

    path = write_recipe_file(tmp_path, "early")
    state = augment(recipe=str(path), as_of=TODAY.isoformat(), return_state=True)
    assert state.is_failed() and f"{TODAY} is not over yet" in str(state.message)
    assert not read_attempts(Store(str(tmp_path / "store-early")), "early")


def test_deploying_again_changes_nothing_and_another_schedule_is_taken_over(
    prefect_api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    def deployed(**schedule: Any) -> tuple[list[Any], list[Any]]:
        path = write_recipe_file(tmp_path, "again", schedule=schedule)
        ended = augmill("deploy", path, "--pool", "nights")
        assert ended.code == 0, ended.err
        assert ended.last["deployments"] == ["nightly/again", "backfill/again"]
        assert "s3cret" not in ended.out + ended.err
        found = [
            (
                *(item.id, item.entrypoint, item.parameters, item.tags, item.work_pool_name, item.concurrency_options),
                [(plan.active, plan.schedule.model_dump()) for plan in item.schedules],
                item.global_concurrency_limit and item.global_concurrency_limit.limit,
            )
            for item in sorted(client.read_deployments(), key=lambda item: item.entrypoint or "")
        ]
        watches = [(item.id, item.name, str(item.trigger), str(item.actions)) for item in client.read_automations()]
        assert "s3cret" not in str(found) + str(watches)
        return found, sorted(watches)

    monkeypatch.setenv("NIGHT_HOOK", "https://hooks.example.org/s3cret")
    with get_client(sync_client=True) as client:
        clear(client)
        path = write_recipe_file(tmp_path, "again")
        refused(augmill("deploy", path, "--pool", "nights"), 2, ["nights", "prefect work-pool create"])
        client.create_work_pool(WorkPoolCreate(name="nights", type="process"))
        asked = {"cron": "15 3 * * *", "timezone": "Europe/Berlin", "webhook": "NIGHT_HOOK", "freshness": "36h"}
        first = deployed(**asked)
        assert deployed(**asked) == first
        (backfill, nightly), automations = first
        assert nightly[1] == "augmill.flows.deployed.nightly" and nightly[-1] == backfill[-1] == 1
        parameters = {"recipe": str(tmp_path / "again.yaml"), "store": str(tmp_path / "store-again")}
        assert nightly[2] == backfill[2] == parameters
        ((active, schedule),) = nightly[-2]
        assert active and (schedule["cron"], schedule["timezone"]) == ("15 3 * * *", "Europe/Berlin")
        assert backfill[-2] == []
        assert [name.removeprefix("augmill: ").split(" of again")[0] for _, name, _, _ in automations]
        assert len(automations) == 3
        (_, other), fewer = deployed(cron="0 2 * * 1-5", catch_up="none")
        assert other[0] == nightly[0] and [plan["cron"] for _, plan in other[-2]] == ["0 2 * * 1-5"]
        assert (nightly[5].collision_strategy.value, other[5].collision_strategy.value) == ("ENQUEUE", "CANCEL_NEW")
        assert len(fewer) == 1  # no webhook any more: nobody is paged
        clear(client)


def test_a_deployment_needs_a_server_that_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    path = write_recipe_file(tmp_path, "alone")
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        refused(augmill("deploy", path, "--pool", "nights"), 4, ["cannot be used", "prefect server start"])


def test_the_file_for_prefect_deploy_says_what_augmill_deploy_does(tmp_path: Path) -> None:
    from augmill.flows.orchestration.deployments import recipe_deployments

    document = recipe_document(tmp_path / "rows.csv", dataset="support")
    made = recipe_deployments(build_recipe(document, base=tmp_path), "augmill")
    written = yaml.safe_load((ROOT / "infra" / "prefect.yaml").read_text())["deployments"]
    for ours, entry in zip(made, written, strict=True):
        module, flow = entry["entrypoint"].rsplit(".", 1)
        assert getattr(importlib.import_module(module), flow).name == ours.flow_name
        assert (ours.entrypoint, ours.name, ours.tags) == (entry["entrypoint"], entry["name"], entry["tags"])
        assert ours.parameters.keys() == entry["parameters"].keys()
        assert ours.work_pool_name == entry["work_pool"]["name"]
        assert ours.concurrency_options is not None
        limit = {
            "limit": ours.concurrency_limit,
            "collision_strategy": ours.concurrency_options.collision_strategy.value,
        }
        assert limit == entry["concurrency_limit"]
        schedules = [plan.schedule.model_dump(exclude={"slug"}) for plan in ours.schedules or []]
        assert schedules == entry.get("schedules", [])


def test_after_three_nights_without_a_worker_each_catch_up_does_what_it_says(prefect_api: str, tmp_path: Path) -> None:
    """Scenario 15. The three late runs of each recipe all begin when the worker is back."""
    from prefect.client.orchestration import get_client
    from prefect.runner import Runner

    from augmill.flows.orchestration.deployments import recipe_deployments, running
    from augmill.tasks.recipe.recipe import load_recipe

    paths = {name: write_recipe_file(tmp_path, name, schedule={"catch_up": name}) for name in ("all", "latest", "none")}
    recipes = {name: load_recipe(path) for name, path in paths.items()}
    runner = Runner(name="catch-up", query_seconds=1, limit=9, pause_on_shutdown=False)
    with get_client(sync_client=True) as client:
        clear(client)
        runs: dict[str, list[UUID]] = {}
        for name, recipe in recipes.items():
            nightly, _ = recipe_deployments(recipe, None)
            nightly.schedules = []  # the late ones only
            runs[name] = late_runs(client, runner.add_deployment(nightly))  # type: ignore[arg-type]

        def ended(name: str) -> list[str]:
            found = [client.read_flow_run(run).state for run in runs[name]]
            return [state.type.value for state in found if state is not None and state.is_final()]

        with running(runner):
            wait_until(lambda: bool(ended("all") and ended("latest")) and len(ended("none")) == 3, 120)
        assert set(ended("all") + ended("latest") + ended("none")) <= {"COMPLETED", "CANCELLED"}
        assert "COMPLETED" in ended("none")  # it ran, and did nothing
        clear(client)
    made = {name: sorted(read_attempts(Store(recipe.run.store), name)) for name, recipe in recipes.items()}
    assert made == {"all": DAYS, "latest": DAYS[-1:], "none": []}
    tries = read_attempts(Store(recipes["all"].run.store), "all")
    assert {len(found) for found in tries.values()} == {1}  # the runs behind it found nothing to do


def test_serve_runs_what_is_due_and_ends_cleanly_while_a_night_runs(prefect_api: str, tmp_path: Path) -> None:
    """Scenario 3 for the process that stays: SIGTERM ends it and its night in time; the night goes on the next time."""
    from prefect.client.orchestration import get_client

    (tmp_path / "doze.py").write_text("import time; time.sleep(120)")
    command = f"{sys.executable} {tmp_path / 'doze.py'} {{train}} {{eval}} {{seed}} {{predictions}}"
    slow = {"trainer": {"use": "command", "command": command}, "target": {"per_class": 5}}
    path = write_recipe_file(tmp_path, "served", **slow)
    with get_client(sync_client=True) as client:
        clear(client)
        process = subprocess.Popen(
            [Path(sys.executable).with_name("augmill"), "serve", path],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        with process:
            assert process.stdout is not None and process.stdout.readline().startswith("nightly/served ")
            (run,) = late_runs(client, client.read_deployment_by_name("nightly/served").id, (0,))
            store = Store(str(tmp_path / "store-served"))
            wait_until(lambda: bool(read_attempts(store, "served")), 60)
            process.send_signal(signal.SIGTERM)
            out, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
        assert json.loads(out.splitlines()[-1])["outcome"] == "stopped"
        assert "Traceback" not in errors
        state = client.read_flow_run(run).state
        assert state is not None and state.is_cancelled()
        clear(client)
    ((attempt,),) = read_attempts(store, "served").values()
    assert attempt.end is not None and attempt.end["outcome"] == "interrupted"
