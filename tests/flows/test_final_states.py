"""What Prefect shows of a run that ended: the outcome is its state's name, what was proven or went wrong its message."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from chain import WORDS, tiny_recipe, write_rows
from dated import dated_document, day, inline_workers, noon_after, write_days
from recorded import asking, children_of, flow_runs, logs, task_runs, wait_until
from relay import Relay

from augmill.flows import run as running
from augmill.flows.augment import run_recipe
from augmill.flows.nights.flows import BackfillRequest, backfill, run_backfill
from augmill.flows.orchestration import client as prefect_client
from augmill.tasks.errors import UserError
from augmill.tasks.generators import GENERATORS, rules
from augmill.tasks.recipe.recipe import Recipe, build_recipe
from augmill.tasks.store.attempts import read_attempts
from augmill.tasks.store.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_api", "inline_workers")]
__all__ = ["inline_workers"]


def small_recipe(folder: Path, dataset: str, **changes: Any) -> Recipe:
    rows = folder / "rows.csv"
    if not rows.exists():
        write_rows(rows, 90)
    run = {"orchestrator": "prefect", "shard_rows": 1000, "store": str(folder / "store")}
    return tiny_recipe(rows, dataset=dataset, run=run, **changes)


def newest_run(name: str) -> Any:
    with asking() as client:
        return flow_runs(client, name)[-1]


def write_wrong_rows(path: Path, rows: int = 300) -> Path:
    """For `replay`: each of the words of another class than it says."""
    rng, names = np.random.default_rng(3), sorted(WORDS)
    lines = [f"{' '.join(rng.choice(WORDS[names[(at + 1) % 3]], 7))},{names[at % 3]}" for at in range(rows)]
    path.write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    return path


LENIENT = {"gate": {"seeds": 3, "resamples": 200, "rule": "not_worse", "margin": 100.0}}
OUTCOMES: dict[str, dict[str, Any]] = {
    "published": LENIENT,
    "inconclusive": {},
    "not produced": {"target": {"per_class": 2000}, "refill": {"max_rounds": 1, "on_shortfall": "refuse"}},
    "nothing to make": {"target": {"balance": 1}},
}


@pytest.mark.parametrize("outcome", [*OUTCOMES, "harmful"])
def test_an_outcome_is_the_state_of_its_run(tmp_path: Path, outcome: str) -> None:
    dataset = outcome.replace(" ", "-")
    changes = OUTCOMES.get(outcome) or {}
    if outcome == "harmful":
        made = {"use": "replay", "path": str(write_wrong_rows(tmp_path / "made.csv"))}
        changes = {"generators": [made], "checks": {"label_consistency": False}, "target": {"per_class": 80}}
    result = run_recipe(small_recipe(tmp_path, dataset, **changes))
    run = newest_run(f"all {dataset}")
    assert (run.state_name, run.state_type.value) == (outcome.capitalize(), "COMPLETED")
    assert run.state.message == f"{result['headline']}\n{result['reason']}"
    assert sorted(run.tags) == sorted(["augmill", dataset])


def test_an_unsound_source_is_a_state_of_its_own_and_its_action_decides_whether_it_failed(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, "unsound", target={"balance": 1})
    run_recipe(recipe)
    rows = tmp_path / "rows.csv"
    rows.write_text(rows.read_text().replace(",refund,", ",,"))
    for action, ended in (("keep_current", "COMPLETED"), ("fail", "FAILED")):
        result = run_recipe(
            small_recipe(tmp_path, "unsound", target={"balance": 1}, outcomes={"unsound_source": action})
        )
        run = newest_run("all unsound")
        assert (run.state_name, run.state_type.value) == ("Unsound source", ended)
        assert result["reason"] in run.state.message and "refuse.max_share" in run.state.message


def test_an_outcome_that_is_to_fail_is_a_failure_of_its_name(tmp_path: Path) -> None:
    result = run_recipe(small_recipe(tmp_path, "failing", outcomes={"inconclusive": "fail"}))
    run = newest_run("all failing")
    assert (run.state_name, run.state_type.value) == ("Inconclusive", "FAILED")
    assert run.state.message == f"{result['headline']}\n{result['reason']}"


def test_an_error_with_a_cure_is_a_failure_that_says_both(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, "absent")
    (tmp_path / "rows.csv").unlink()
    with pytest.raises(UserError) as raised:
        run_recipe(recipe)
    run = newest_run("all absent")
    assert (run.state_name, run.state.message) == ("Failed", str(raised.value))
    assert "rows.csv" in run.state.message and "What to do: " in run.state.message


class Broken(rules.Rules):
    """A generator with a defect."""

    def fit(self, inputs, ctx):  # type: ignore[no-untyped-def]
        raise ZeroDivisionError("seven by nothing")


def test_a_defect_leaves_its_traceback_in_the_runs_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GENERATORS, "broken", Broken)
    with pytest.raises(ZeroDivisionError, match="seven by nothing"):
        run_recipe(small_recipe(tmp_path, "broken", generators=[{"use": "broken"}]))
    run = newest_run("all broken")
    assert run.state_name == "Failed" and "ZeroDivisionError" in run.state.message
    with asking() as client:
        found = wait_until(lambda: [line.message for line in logs(client, run) if "Traceback" in line.message])
        tasks = task_runs(client, run, last="fit broken")
    assert any("in fit" in text and "seven by nothing" in text for text in found)
    assert tasks["fit broken"].state_name == "Failed" and tasks["split"].state_name == "Completed"


# --- many snapshots ---------------------------------------------------------------------------------------------------


def write_dated_recipe(folder: Path, dataset: str, days: int, **changes: Any) -> Path:
    document = dated_document(write_days(folder / "rows.csv", days), folder / "store", dataset=dataset, **changes)
    path = folder / f"{dataset}.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


@pytest.mark.parametrize("most", [1, 3])
def test_the_snapshots_of_a_backfill_are_runs_within_it_and_share_its_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Called as a deployment calls it: by the recipe's address."""
    counted: dict[str, int] = {}
    for name in ("STILL_TIMEOUT", "REQUEST_TIMEOUT"):  # the verdict is of what is recorded, not of how fast
        monkeypatch.setattr(prefect_client, name, 60.0)

    def counting(module: Any, name: str) -> None:
        counted[name], real = 0, getattr(module, name)

        def count(*args: Any, **kwargs: Any) -> Any:
            counted[name] += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, count)

    counting(running, "load_recipe")
    counting(running, "worker_pool")
    dataset = f"many-{most}"
    path = write_dated_recipe(tmp_path, dataset, 3)
    result: Any = backfill(recipe=str(path), store=str(tmp_path / "store"), last=day(2), max_active=most)
    assert result["done"] == 3 and counted == {"load_recipe": 1, "worker_pool": 1}
    days = [day(number) for number in range(3)]
    with asking() as client:
        parent = flow_runs(client, f"backfill {dataset}")[-1]
        assert (parent.state_name, parent.state.message) == ("Done", result["reason"])
        children = children_of(client, parent, 3)
        assert [run.name for run in children] == [f"{name} {dataset}" for name in days]
        assert {run.state_type.value for run in children} == {"COMPLETED"}
        assert [run.parameters["as_of"] for run in children] == days
        for run in children:
            assert "publish" in task_runs(client, run, last="publish")
        both = [sorted((run.start_time, run.end_time) for run in children)]
    attempts = read_attempts(Store(str(tmp_path / "store")), dataset)
    assert sorted(attempts) == days and {len(tried) for tried in attempts.values()} == {1}
    assert {tried[0].start["command"] for tried in attempts.values()} == {"deployment backfill"}
    assert {tried[0].start["backfill"] for tried in attempts.values()} == {result["backfill"]}
    if most == 1:
        assert all(ended <= began for of in both for (_, ended), (began, _) in pairwise(of))


def test_a_backfill_with_failed_snapshots_names_them(tmp_path: Path) -> None:
    path = write_dated_recipe(tmp_path, "partly", 3)
    text = (tmp_path / "rows.csv").read_text()
    (tmp_path / "rows.csv").write_text(text.replace(f",refund,{day(2)}", f",nobody,{day(2)}"))
    document = yaml.safe_load(path.read_text()) | {"labels": {"declared": ["refund", "track"], "unknown": "stop"}}
    recipe = build_recipe(document, base=tmp_path)
    result = run_backfill(recipe, BackfillRequest(), orchestrator="prefect", now=lambda: noon_after(3))
    assert list(result["failed"]) == [day(2)]
    parent = newest_run("backfill partly")
    assert (parent.state_name, parent.state_type.value) == ("Failed", "FAILED")
    assert parent.state.message.startswith(f"{day(2)} failed: ") and "nobody" in parent.state.message
    with asking() as client:
        states = [run.state_name for run in children_of(client, parent, 3)]
    assert states[-1] == "Failed" and "Failed" not in states[:-1]


def test_a_snapshot_whose_beginning_prefect_misses_is_begun_again(
    tmp_path: Path, prefect_api: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An API under load answers one request in some thousand too late, or not: the run's record was lost by it."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    recipe = build_recipe(yaml.safe_load(write_dated_recipe(tmp_path, "missed", 2).read_text()), base=tmp_path)
    with Relay(prefect_api) as relay, temporary_settings({PREFECT_API_URL: relay.url}):
        relay.refused = [b"POST /api/flow_runs/ "] * 3  # the client asks twice by itself
        result = run_backfill(recipe, BackfillRequest(), orchestrator="prefect", now=lambda: noon_after(2))
        assert not relay.refused
    assert result["done"] == 2 and "record" not in caplog.text
    with asking() as client:
        parent = newest_run("backfill missed")
        assert parent.state_name == "Done"
        children = children_of(client, parent, 2)
    assert [run.name for run in children] == [f"{day(number)} missed" for number in range(2)]


def test_a_recipe_that_is_edited_in_mid_backfill_stops_it(tmp_path: Path) -> None:
    path, store = write_dated_recipe(tmp_path, "edited", 4), tmp_path / "store"

    def edit() -> None:
        wait_until(lambda: list(store.rglob("start.json")))
        path.write_text(f"{path.read_text()}\nseed: 7\n", encoding="utf-8")

    editor = threading.Thread(target=edit)
    editor.start()
    result: Any = backfill(recipe=str(path), store=str(store), last=day(3))
    editor.join()
    assert (result["outcome"], result["stopped_by"]) == ("stopped", "recipe_edited")
    attempts = read_attempts(Store(str(store)), "edited")
    assert len(attempts) == 1 and all(tried[-1].end for tried in attempts.values()), (
        "what runs ends, nothing more begins"
    )
    run = newest_run("backfill edited")
    assert run.state_name == "Stopped" and "recipe_edited" in run.state.message
