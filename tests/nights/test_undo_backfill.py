"""``augmill rollback --backfill``: a whole backfill is taken back, whether its dates switched one by one or together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import augmill, refused
from dated import dated_recipe, day, inline_workers, noon_after, write_days  # noqa: F401
from fake_releases import put_fake

from augmill.flows import augment as flow
from augmill.flows.nights.flows import BackfillRequest, run_backfill, run_nightly
from augmill.flows.nights.record import backfill_key
from augmill.flows.outcome import Outcome
from augmill.flows.report import Found
from augmill.flows.run import Run
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.stages.publish import commit_releases
from augmill.tasks.store.delta import delta_uri
from augmill.tasks.store.log import read_log
from augmill.tasks.store.store import Store

pytestmark = pytest.mark.usefixtures("inline_workers")
DAYS = 4


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_days(tmp_path_factory.mktemp("dated") / "rows.csv", DAYS)


def fill(recipe: Recipe, **asked: Any) -> dict[str, Any]:
    return run_backfill(recipe, BackfillRequest(**asked), now=lambda: noon_after(DAYS))


def undo(store: Path, *more: object) -> Any:
    return augmill("rollback", "tiny", "--store", store, "--reason", "the new split is wrong", *more)


@pytest.mark.parametrize(("publish", "entries"), [("each", 3), ("together", 1)])
def test_a_whole_backfill_is_taken_back_in_one_entry_and_dates_that_moved_on_are_left_alone(
    rows: Path, tmp_path: Path, publish: str, entries: int
) -> None:
    store = Store(str(tmp_path))
    fill(dated_recipe(rows, tmp_path), last=day(1))
    before = read_log(store, "tiny").current()
    changed = dated_recipe(rows, tmp_path, splits={"validation": 0.3, "test": 0.2})
    done = fill(changed, reprocess="changed-recipe", publish=publish, last=day(2))
    log = read_log(store, "tiny")
    assert len(log.entries) == 2 + entries
    assert [entry["backfill"] for entry in log.entries[2:]] == [done["backfill"]] * entries
    late = put_fake(store, "late")
    move = {day(1): (done["released"][day(1)], late)}
    assert commit_releases(store, "tiny", move, entry={"reason": "by hand"}, command="test")

    told = undo(tmp_path, "--backfill", done["backfill"][:-2], "--dry-run")
    assert told.code == 0 and len(read_log(store, "tiny").entries) == 3 + entries and "Nothing was changed" in told.out
    ended = undo(tmp_path, "--backfill", done["backfill"])
    log = read_log(store, "tiny")
    assert (ended.code, len(log.entries)) == (0, 4 + entries)
    assert log.current() == {day(0): before[day(0)], day(1): late}
    assert log.entries[-1]["reason"] == "the new split is wrong" and done["backfill"] in log.entries[-1]["command"]
    assert log.withdrawn() == {done["released"][day(0)], done["released"][day(2)]}
    for out in (ended.out, told.out.replace("would be", "is")):
        assert f"tiny {day(0)}: {before[day(0)]} is current again; {done['released'][day(0)]} is withdrawn." in out
        assert f"tiny {day(2)}: nothing is current any more; {done['released'][day(2)]} is withdrawn." in out
        assert f"tiny {day(1)}: left alone; {late} was made current since (entry {2 + entries}, release)." in out
    refused(undo(tmp_path, "--backfill", done["backfill"]), 2, ["nothing of it can be undone", day(0)])


def test_a_backfill_of_an_earlier_version_is_known_by_its_attempts(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its log entries did not name it."""
    store, recipe = Store(str(tmp_path)), dated_recipe(rows, tmp_path)
    fill(recipe, last=day(0))
    publish = flow.publish

    def unnamed(run: Run, found: Found, outcome: Outcome) -> Outcome:
        return publish(replace(run, session=replace(run.session, about={})), found, outcome)

    monkeypatch.setattr(flow, "publish", unnamed)
    done = fill(recipe, last=day(2))
    assert all("backfill" not in entry for entry in read_log(store, "tiny").entries[1:])
    assert undo(tmp_path, "--backfill", done["backfill"]).code == 0
    assert list(read_log(store, "tiny").current()) == [day(0)]


def test_what_names_no_backfill_is_refused_and_the_known_ones_are_named(rows: Path, tmp_path: Path) -> None:
    first = fill(dated_recipe(rows, tmp_path), last=day(0))["backfill"]
    refused(undo(tmp_path, "--backfill", "nope"), 2, ["--backfill", "there is no backfill 'nope' of 'tiny'", first])
    refused(undo(tmp_path, "--backfill", first, "--to", "abc"), 2, ["--to", "leave one of the two out"])
    refused(undo(tmp_path, "--dry-run"), 2, ["--dry-run"])
    refused(augmill("rollback", "--store", tmp_path, "--backfill", first, "--reason", " "), 2, ["--reason", "blank"])


@pytest.mark.parametrize("kind", ["backfill", "nightly"])
def test_only_of_an_unfinished_backfill_is_it_said_that_its_command_goes_on(
    rows: Path, tmp_path: Path, kind: str
) -> None:
    """What a night left is the next one's."""
    store, recipe = Store(str(tmp_path)), dated_recipe(rows, tmp_path)
    fill(recipe, last=day(0))
    done = fill(recipe, last=day(1)) if kind == "backfill" else run_nightly(recipe, now=lambda: noon_after(DAYS))
    store.delete(backfill_key("tiny", done["backfill"], "end.json"))
    for how in (["--dry-run"], []):
        ended = undo(tmp_path, "--backfill", done["backfill"], *how)
        assert ended.code == 0 and ("it would make what is left" in ended.out) == (kind == "backfill")


def test_the_delta_table_follows(rows: Path, tmp_path: Path) -> None:
    deltalake = pytest.importorskip("deltalake")
    store = Store(str(tmp_path))
    recipe = dated_recipe(rows, tmp_path, publish={"format": "delta"})
    fill(recipe, last=day(0))
    done = fill(recipe, last=day(2))
    assert undo(tmp_path, "--backfill", done["backfill"]).code == 0
    current = read_log(store, "tiny").current()
    table = deltalake.DeltaTable(delta_uri(store, "tiny"))
    assert list(current) == [day(0)] and table.history(1)[0]["release"] == current[day(0)]
