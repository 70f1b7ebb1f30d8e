"""Backfills and nights: a plan that says what will happen, and a run that does exactly that, once, whatever comes between."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from chain import make_run, make_snapshot, public_bytes, tiny_recipe, write_rows
from commands import augmill
from dated import dated_document, dated_recipe, day, inline_workers, noon_after, starts, tries, write_days
from hypothesis import given
from hypothesis import strategies as st

from augmill.flows import augment as main_path
from augmill.flows import rounds
from augmill.flows import run as running
from augmill.flows.augment import run_recipe
from augmill.flows.estimate import price_of
from augmill.flows.flow import call_flow
from augmill.flows.nights import flows as flows_backfill
from augmill.flows.nights import run as backfill_run
from augmill.flows.nights import states
from augmill.flows.nights.flows import run_backfill, run_nightly
from augmill.flows.nights.plan import (
    MODES,
    BackfillPlan,
    BackfillRequest,
    Estimate,
    Mode,
    Past,
    PlannedSnapshot,
    choose,
    has_price,
    includes,
    total,
)
from augmill.flows.nights.run import BackfillRun
from augmill.flows.nights.states import STATES, SnapshotState, find_trouble
from augmill.flows.outcome import NotProduced, Outcome
from augmill.flows.report import Found
from augmill.flows.run import Run, Session, open_session
from augmill.flows.signals import Terminated
from augmill.flows.source import read_source
from augmill.tasks.boundary.processes import is_gone, this_process
from augmill.tasks.boundary.retries import NEVER
from augmill.tasks.contracts import Artifact
from augmill.tasks.errors import DataError, StoreError, UserError
from augmill.tasks.recipe.nights import Price
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.store.attempts import Attempt, begin, finish, utc_now
from augmill.tasks.store.log import entry_of, read_log, rollback
from augmill.tasks.store.store import Store

pytestmark = pytest.mark.usefixtures("inline_workers")
MAKE_SNAPSHOT = main_path.make_snapshot  # as it is where no test lets it fail

OUTCOMES = ("published", "inconclusive", "unsound_source", "not_produced", None)
STATE = st.builds(
    SnapshotState,
    st.dates().map(str),
    st.sampled_from(STATES),
    st.sampled_from(OUTCOMES),
    changed=st.lists(st.sampled_from(("source", "recipe", "code")), unique=True).map(tuple),
    release=st.sampled_from((None, "r")),
    cut_short=st.booleans(),
)
NO_PAST = Past({}, "", Price(), noon_after(0))


# --- the plan ---------------------------------------------------------------------------------------------------------


@given(STATE)
def test_each_mode_includes_the_one_before(state: SnapshotState) -> None:
    held = [includes(mode, state) for mode in MODES]
    assert held == sorted(held)
    assert state.state != "running" or not any(held)
    overtaken = state.release is not None and not {"recipe", "code"}.isdisjoint(state.changed)
    assert state.state not in ("missing", "interrupted") or all(held) or overtaken
    assert not (overtaken and includes("failed", state))  # what a night asks for
    assert state.state != "withdrawn" or any(held) == bool(state.changed)


@pytest.mark.parametrize(
    ("state", "mode"),
    [
        (SnapshotState("a", "missing"), "missing"),
        (SnapshotState("a", "interrupted", changed=("recipe",)), "missing"),
        (SnapshotState("a", "interrupted", changed=("recipe",), release="r"), "changed-recipe"),
        (SnapshotState("a", "interrupted", changed=("source",), release="r"), "missing"),
        (SnapshotState("a", "failed", changed=("code",)), "failed"),
        (SnapshotState("a", "failed", changed=("code",), release="r"), "changed-recipe"),
        (SnapshotState("a", "kept", "unsound_source"), "failed"),  # there was no verdict
        (SnapshotState("a", "kept", "harmful"), "all"),  # there was one
        (SnapshotState("a", "released", "not_produced", release="r", cut_short=True), "failed"),
        (SnapshotState("a", "kept", "not_produced", cut_short=True), "failed"),
        (SnapshotState("a", "kept", "not_produced"), "all"),  # it would only come out the same
        (
            SnapshotState("a", "stale", "not_produced", changed=("recipe",), release="r", cut_short=True),
            "changed-recipe",
        ),
        (SnapshotState("a", "released", "not_produced", release="r"), "all"),
        (SnapshotState("a", "stale", "published", changed=("source", "recipe")), "changed-data"),
        (SnapshotState("a", "stale", "published", changed=("code",)), "changed-recipe"),
        (SnapshotState("a", "kept", "harmful", changed=("recipe",)), "changed-recipe"),
        (SnapshotState("a", "withdrawn", changed=("source",)), "changed-data"),
        (SnapshotState("a", "released", "published"), "all"),
    ],
)
def test_the_first_mode_that_runs_a_snapshot(state: SnapshotState, mode: Mode) -> None:
    assert [m for m in MODES if includes(m, state)] == list(MODES[MODES.index(mode) :])


@given(st.lists(STATE, unique_by=lambda state: state.snapshot), st.sampled_from(MODES))
def test_a_plan_has_a_line_for_each_that_is_due_in_the_asked_order(states: list[SnapshotState], mode: Mode) -> None:
    oldest, _ = choose(states, mode, "oldest", NO_PAST)
    newest, _ = choose(states, mode, "newest", NO_PAST)
    names = [line.snapshot for line in oldest]
    assert names == sorted(state.snapshot for state in states if includes(mode, state))
    assert [line.snapshot for line in newest] == names[::-1]


@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=30), st.integers(1, 8))
def test_the_time_of_a_plan_lies_between_what_one_and_what_perfect_sharing_would_take(
    seconds: list[float], most: int
) -> None:
    lines = [
        PlannedSnapshot(str(at), "missing", "", estimate=Estimate(s, 1.0, 2.0, None)) for at, s in enumerate(seconds)
    ]
    whole, unknown = total(lines, most)
    assert whole.seconds is not None and unknown == 0
    assert max(*seconds, sum(seconds) / most) - 0.1 <= whole.seconds <= sum(seconds) + 0.1
    assert (whole.gpu_seconds, whole.tokens, whole.cost) == (len(seconds), 2 * len(seconds), None)


def test_estimates_are_medians_of_runs_of_the_same_recipe_that_made_something() -> None:
    def attempt(seconds: float, recipe: str, worked: int, tokens: int = 0) -> Attempt:
        spent = {"seconds": seconds, "gpu_seconds": 36.0, "tokens": tokens, "worked": worked}
        end = {"outcome": "published", "time": "2026-10-01T00:00:00+00:00", **spent}
        return Attempt("x", 0, {"recipe": recipe}, utc_now(), end)

    mine = [attempt(s, "mine", 9, tokens=1_000_000) for s in (10.0, 3600.0, 90.0)]
    past_runs = {"x": [*mine, attempt(1.0, "mine", 0), attempt(5000.0, "other", 9)]}
    price = Price(gpu_hour=2.0, million_tokens=0.5)
    past = Past(past_runs, "mine", price, utc_now())
    assert past.of(SnapshotState("a", "missing")) == Estimate(90.0, 36.0, 1_000_000, 0.52)
    assert past.of(SnapshotState("a", "released")).seconds == 1.0
    assert Past(past_runs, "new", price, utc_now()).of(SnapshotState("a", "missing")).seconds == 1845.0
    assert NO_PAST.of(SnapshotState("a", "missing")) == Estimate()


def test_an_endpoints_own_prices_count_once_and_without_any_other_price() -> None:
    asked = {"tokens": 3_000_000, "tokens_in": 1_000_000, "tokens_out": 500_000, "micro_cost": 2_000_000}
    assert price_of(Price(), {"tokens": 5, "seconds": 9.0}) is None
    assert price_of(Price(), asked) == 2.0
    assert price_of(Price(million_tokens=4.0), asked) == 2.0 + 4.0 * 1.5  # of what another generator's model wrote
    assert price_of(Price(cpu_hour=3.6), {"seconds": 0.01}) == pytest.approx(1e-5)  # not rounded away
    end = {
        "time": "2026-10-01T00:00:00+00:00",
        "outcome": "published",
        "worked": 1,
        "seconds": 1.0,
        "tokens": 1_500_000,
    }
    past = Past({"x": [Attempt("x", 0, {}, utc_now(), end | {"spent": asked})]}, "", Price(), utc_now())
    assert past.of(SnapshotState("a", "missing")).cost == 2.0


def test_a_price_of_its_own_is_enough_for_a_bound_on_costs(tmp_path: Path) -> None:
    source = write_days(tmp_path / "rows.csv", 3)
    chat = {"use": "chat", "backend": "endpoint", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
    for price, known in (({}, False), ({"price_in": 0.1}, True), ({"price_out": 0.1}, True)):
        assert has_price(dated_recipe(source, tmp_path / "store", generators=[chat | price])) == known
    assert has_price(dated_recipe(source, tmp_path / "store", price={"gpu_hour": 2.0}))


def test_what_cannot_be_asked_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--reprocess"):
        BackfillRequest(reprocess="everything")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="--max-active"):
        BackfillRequest(max_active=0)
    recipe = dated_recipe(write_days(tmp_path / "rows.csv", 3), tmp_path / "store")
    for request, words in (
        (BackfillRequest(last=day(3)), f"the newest complete day is {day(2)}"),
        (BackfillRequest(first=day(2), last=day(1)), "comes after"),
        (BackfillRequest(first="October"), "expected a day such as"),
        (BackfillRequest(max_cost=1.0), "nothing has a price"),
    ):
        with pytest.raises(UserError, match=words):
            run_backfill(recipe, request, now=lambda: noon_after(3))


def test_a_day_that_is_not_over_is_run_by_no_command(tmp_path: Path) -> None:
    """Its snapshot would stay what stood there then for good, and one of the future would be what readers get."""
    recipe = dated_recipe(write_days(tmp_path / "rows.csv", 4), tmp_path / "store")
    for early in (day(3), day(30)):
        words = f"{early} is not over yet; the newest complete day is {day(2)}"
        with pytest.raises(UserError, match=words) as refused:
            run_recipe(recipe, as_of=early, now=lambda: noon_after(3))
        assert refused.value.where == "--as-of" and day(2) in refused.value.fix
        with pytest.raises(UserError, match=words):
            run_backfill(recipe, BackfillRequest(last=early), now=lambda: noon_after(3))
    assert not (tmp_path / "store").exists()
    assert run_recipe(recipe, as_of=day(2), now=lambda: noon_after(3))["release"]
    keyed = dated_recipe(tmp_path / "rows.csv", tmp_path / "keyed", partitions={"every": "key"})
    assert run_recipe(keyed, as_of=day(3), now=lambda: noon_after(3))["release"]  # nobody can say when a key is over


def test_numbers_as_keys_are_made_and_read_in_their_order(tmp_path: Path) -> None:
    rows = write_days(tmp_path / "rows.csv", 4)
    keys = {day(at): str(8 + at) for at in range(4)}
    text = rows.read_text()
    for name, key in keys.items():
        text = text.replace(name, key)
    rows.write_text(text)
    recipe = dated_recipe(rows, tmp_path / "store", partitions={"every": "key"})
    assert fill(recipe, dry_run=True)["order"] == ["8", "9", "10", "11"]
    assert fill(recipe, dry_run=True, order="newest", first="9", last="10")["order"] == ["10", "9"]
    assert fill(recipe)["outcome"] == "done"
    log = read_log(Store(str(tmp_path / "store")), "tiny")
    current = log.current()
    assert (log.newest(), log.newest("9"), log.newest("10")) == (current["11"], current["9"], current["10"])
    assert fill(recipe)["outcome"] == "nothing"
    with pytest.raises(UserError, match="10 comes after 9"):
        fill(recipe, first="10", last="9")


def test_a_partition_that_no_log_may_name_is_told_before_anything_is_planned(tmp_path: Path) -> None:
    """It would be the plan that is refused, as if somebody else had written it."""
    rows = write_days(tmp_path / "rows.csv", 3)
    rows.write_text(rows.read_text().replace(day(1), "a\x1b[31m"))
    recipe = dated_recipe(rows, tmp_path / "store", partitions={"every": "key"})
    for make in (lambda: fill(recipe), lambda: fill(recipe, dry_run=True), lambda: run_nightly(recipe)):
        with pytest.raises(DataError, match="without control characters") as refused:
            make()
        assert "'a\\x1b[31m'" in refused.value.problem and "rename" in refused.value.fix
    assert run_recipe(recipe)["release"]  # all rows at once name no partition
    store = Store(str(tmp_path / "store"))
    assert not store.list_keys("private/backfills")


# --- carrying it out --------------------------------------------------------------------------------------------------

DAYS = 8


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_days(tmp_path_factory.mktemp("dated") / "rows.csv", DAYS)


@pytest.fixture(scope="module")
def undisturbed(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The public bytes of every day made one after the other, oldest first."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        inline_workers.__wrapped__(patch)  # type: ignore[attr-defined]
        result = fill(dated_recipe(rows, folder))
    assert (result["outcome"], result["done"], len(result["released"])) == ("done", DAYS, DAYS)
    return public_bytes(folder)


def fill(recipe: Recipe, **asked: Any) -> dict[str, Any]:
    return run_backfill(recipe, BackfillRequest(**asked), now=lambda: noon_after(DAYS))


def test_a_dry_run_tells_what_the_run_then_does_and_touches_nothing(rows: Path, tmp_path: Path) -> None:
    recipe, store = dated_recipe(rows, tmp_path), Store(str(tmp_path))
    told = fill(recipe, order="newest", last=day(3), dry_run=True)
    assert not store.list_keys("public") and not tries(store) and not store.list_keys("private/backfills")
    done = fill(recipe, order="newest", last=day(3))
    assert starts(store) == told["order"] == [day(3), day(2), day(1), day(0)]
    key = f"private/backfills/tiny/{done['backfill']}/plan.json"
    plan = store.read_sealed(key)
    assert plan is not None and plan["lines"] == told["lines"]
    assert json.loads(json.dumps(BackfillPlan.from_json(plan).to_json())) == plan
    assert fill(recipe, last=day(3))["outcome"] == "nothing"


@pytest.mark.parametrize("asked", [{"order": "newest"}, {"max_active": 3}])
def test_every_order_and_parallel_give_equal_bytes(
    asked: dict[str, Any], rows: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    assert fill(dated_recipe(rows, tmp_path), **asked)["done"] == DAYS
    assert public_bytes(tmp_path) == undisturbed
    store = Store(str(tmp_path))
    if asked.get("order") == "newest":
        assert starts(store) == sorted(starts(store), reverse=True)
    assert most_at_once(store) == asked.get("max_active", 1)


def most_at_once(store: Store) -> int:
    """How many attempts were open at the same moment, by when the store got their documents."""
    assert store.local is not None
    moments = [
        (path.stat().st_mtime_ns, 1 if path.name == "start.json" else -1)
        for path in (store.local / "private/attempts").rglob("*.json")
        if path.name in ("start.json", "end.json")
    ]
    now, most = 0, 0
    for _, change in sorted(moments):
        now += change
        most = max(most, now)
    return most


def test_one_failure_stops_the_others_only_where_that_is_asked(tmp_path: Path) -> None:
    rows = write_days(
        tmp_path / "rows.csv", 4, each=16, first_day_labels=("refund",)
    )  # one class: no snapshot can be made
    recipe, store = dated_recipe(rows, tmp_path / "store"), Store(str(tmp_path / "store"))
    stopped = fill(recipe, last=day(3), max_failures=1)
    assert (stopped["outcome"], stopped["stopped_by"], list(stopped["failed"])) == ("stopped", "max_failures", [day(0)])
    assert starts(store) == [day(0)] and "3 of 4 snapshot(s) were not begun" in stopped["reason"]
    rest = fill(recipe, last=day(3))  # the limit is no part of the plan: this takes the same one up
    assert rest["backfill"] == stopped["backfill"]
    assert (rest["outcome"], list(rest["failed"]), list(rest["released"])) == (
        "failed",
        [day(0)],
        [day(1), day(2), day(3)],
    )
    assert fill(recipe, last=day(3))["outcome"] == "nothing"
    assert fill(recipe, last=day(3), reprocess="failed", dry_run=True)["order"] == [day(0)]


def fail_days(patch: pytest.MonkeyPatch, *days: str) -> None:
    """Their attempts end by an error."""

    def fail(run: Run) -> tuple[Outcome, Found]:
        if run.as_of in days:
            raise StoreError("the disk is full")
        return MAKE_SNAPSHOT(run)

    patch.setattr(main_path, "make_snapshot", fail)


@pytest.mark.parametrize("order", ["oldest", "newest"])
def test_the_same_command_goes_on_with_what_was_not_tried_and_takes_failed_ones_last(
    order: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, store = dated_recipe(rows, tmp_path), Store(str(tmp_path))
    one, two, three = days = [day(n) for n in ((0, 1, 2) if order == "oldest" else (2, 1, 0))]
    fail_days(monkeypatch, *days)
    asked = {"last": day(2), "order": order, "max_failures": 1}
    ended = [fill(recipe, **asked) for _ in range(2)]
    assert [(each["outcome"], list(each["failed"])) for each in ended] == [("stopped", [one]), ("stopped", [two])]
    assert ended[0]["backfill"] == ended[1]["backfill"] and "makes the rest" in ended[1]["next"]
    assert fill(recipe, **asked, dry_run=True)["order"] == [three, one, two]
    fail_days(monkeypatch)
    done = fill(recipe, **asked)
    assert (done["outcome"], list(done["released"]), starts(store)) == (
        "done",
        sorted(days),
        [one, two, three, one, two],
    )


def test_the_dry_run_of_an_unfinished_backfill_tells_what_is_so_now(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = dated_recipe(rows, tmp_path)
    fail_days(monkeypatch, day(1))
    first = fill(recipe, last=day(2), max_failures=1)
    assert (list(first["released"]), list(first["failed"])) == ([day(0)], [day(1)])
    told = fill(recipe, last=day(2), dry_run=True)
    assert [line["state"] for line in told["lines"]] == ["missing", "failed"]
    assert "the disk is full" in told["lines"][1]["reason"]
    assert all(line["estimate"]["seconds"] for line in told["lines"]) and told["total"]["unknown"] == 0
    done = fill(recipe, last=day(2), max_failures=1)  # the attempts of before the plan are still known as such
    assert (done["outcome"], list(done["failed"])) == ("failed", [day(1)])


def test_limits_start_nothing_more_and_the_same_command_goes_on(rows: Path, tmp_path: Path) -> None:
    recipe, store = dated_recipe(rows, tmp_path, price={"cpu_hour": 3600.0}), Store(str(tmp_path))
    late = fill(recipe, last=day(1), max_hours=0)
    assert (late["outcome"], late["stopped_by"], tries(store)) == ("stopped", "max_hours", {})
    dear = fill(recipe, last=day(1), max_cost=0.01)  # the first run's price is not known before it has run
    assert (dear["backfill"], dear["stopped_by"], list(dear["released"])) == (late["backfill"], "max_cost", [day(0)])
    assert fill(recipe, last=day(1), max_cost=0.01)["stopped_by"] == "max_cost"  # what was spent is remembered
    assert list(fill(recipe, last=day(1), max_cost=1e6)["released"]) == [day(0), day(1)]
    assert starts(store) == [day(0), day(1)]


def test_a_changed_recipe_gives_an_unfinished_backfill_up(rows: Path, tmp_path: Path) -> None:
    said: list[str] = []
    first = fill(dated_recipe(rows, tmp_path), last=day(1), max_hours=0)
    changed = dated_recipe(rows, tmp_path, seed=7)
    request = BackfillRequest(last=day(1))
    second = run_backfill(changed, request, now=lambda: noon_after(DAYS), show=lambda plan, note: said.append(note))
    assert second["backfill"] != first["backfill"] and second["done"] == 2
    assert said == [
        f"The unfinished backfill {first['backfill']} is given up: the recipe changed since. This is a new one."
    ]


# --- together ---------------------------------------------------------------------------------------------------------


def test_a_changed_recipe_switches_in_one_entry_that_one_rollback_undoes(rows: Path, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    fill(dated_recipe(rows, tmp_path), last=day(2))
    before = read_log(store, "tiny").current()
    changed = dated_recipe(rows, tmp_path, splits={"validation": 0.3, "test": 0.2})
    assert fill(changed, reprocess="changed-data", last=day(2))["outcome"] == "nothing"
    done = fill(changed, reprocess="changed-recipe", last=day(2))
    log = read_log(store, "tiny")
    assert (done["publish"], len(log.entries), done["log_entry"]) == ("together", 4, 3)
    assert log.entries[3]["current"] == done["released"] == log.current()
    assert not set(log.current().values()) & set(before.values())
    assert {s: e["recipe"] for s, e in log.entries[3]["snapshots"].items()} == dict.fromkeys(before, changed.hash())
    told = entry_of(log.entries[3], done["released"][day(1)])  # what an audit of one of them finds
    assert told["outcome"] == "not_produced" and "nothing was asked for" in told["reason"]
    rollback(store, "tiny", to=None, reason="worse", command="test")
    assert read_log(store, "tiny").current() == before
    again = fill(changed, reprocess="all", last=day(2), dry_run=True)  # it would only make what was withdrawn
    assert (again["order"], list(again["left_out"])) == ([], [day(0), day(1), day(2)])
    old = dated_recipe(rows, tmp_path)  # it made what stands
    assert fill(old, reprocess="changed-recipe", last=day(2), dry_run=True)["order"] == []


def test_a_switch_speaks_of_what_it_moves_alone(rows: Path, tmp_path: Path) -> None:
    """The others stood already."""
    recipe, store = dated_recipe(rows, tmp_path), Store(str(tmp_path))
    fill(recipe, last=day(1))
    done = fill(recipe, last=day(2), reprocess="all", publish="together")
    entry = read_log(store, "tiny").entries[done["log_entry"]]
    assert list(entry["current"]) == list(entry["snapshots"]) == [day(2)]
    assert entry["reason"].endswith("1 of 3 snapshots switched; the others were current already")


def test_a_staged_backfill_that_could_not_switch_only_switches_when_it_goes_on(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, store = dated_recipe(rows, tmp_path), Store(str(tmp_path))
    with monkeypatch.context() as broken:

        def refuse(*args: object, **options: object) -> bool:
            raise StoreError("the store went away")

        broken.setattr(backfill_run, "commit_releases", refuse)
        broken.setattr(backfill_run, "COMMIT", NEVER)
        with pytest.raises(StoreError):
            fill(recipe, last=day(2), publish="together")
    assert read_log(store, "tiny").entries == []
    run_nightly(recipe, now=lambda: noon_after(3))  # somebody else publishes the newest of them meanwhile
    done = fill(recipe, last=day(2), publish="together")
    assert starts(store) == [day(0), day(1), day(2), day(2)]
    assert read_log(store, "tiny").entries[done["log_entry"]]["current"] == {
        day(0): done["released"][day(0)],
        day(1): done["released"][day(1)],
    }


def test_what_others_published_while_it_was_staged_is_left_out_and_told(rows: Path, tmp_path: Path) -> None:
    recipe, store = dated_recipe(rows, tmp_path), Store(str(tmp_path))
    fill(recipe, last=day(1))
    changed = dated_recipe(rows, tmp_path, splits={"validation": 0.3, "test": 0.2})
    overtaken: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        commit = backfill_run.commit_releases

        def late(store: Store, dataset: str, moves: dict[str, Any], **options: Any) -> bool:
            if day(0) in moves and not overtaken:
                overtaken.append(run_one(dated_recipe(rows, tmp_path, splits={"validation": 0.4, "test": 0.2}), day(0)))
            return commit(store, dataset, moves, **options)

        patch.setattr(backfill_run, "commit_releases", late)
        done = fill(changed, reprocess="changed-recipe", last=day(1))
    assert done["outcome"] == "done" and list(done["released"]) == [day(1)]
    assert done["not_switched"] == {day(0): f"{overtaken[0]} was made current meanwhile"}
    assert read_log(store, "tiny").current() == {day(0): overtaken[0]} | done["released"]


def run_one(recipe: Recipe, snapshot: str) -> str:
    with open_session(recipe, command="test", orchestrator="none", verbose=False) as session:
        return str(make_snapshot(session, snapshot)["release"])


def test_nothing_switches_while_one_that_failed_would_keep_its_release_of_another_recipe(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else readers would have a mixture of two recipes for good: the plan would have ended."""
    store = Store(str(tmp_path / "store"))
    fill(dated_recipe(rows, tmp_path / "store"), last=day(1))
    before = read_log(store, "tiny").current()
    changed = dated_recipe(rows, tmp_path / "store", splits={"validation": 0.3, "test": 0.2})
    with monkeypatch.context() as broken:
        refuse_days(broken, day(1), day(2))
        held = fill(changed, reprocess="changed-recipe", last=day(2))
    assert (held["outcome"], held["stopped_by"], held["released"]) == ("failed", "failed", {})
    assert list(held["failed"]) == [day(1), day(2)]
    assert "1 of 3 snapshot(s) failed that have earlier releases; nothing was published" in held["reason"]
    assert "the same command retries" in held["next"] and read_log(store, "tiny").current() == before
    shutil.copytree(tmp_path / "store", tmp_path / "other")

    with monkeypatch.context() as broken:  # one that has no release leaves nothing old behind
        refuse_days(broken, day(2))
        done = fill(changed, reprocess="changed-recipe", last=day(2))
    assert (done["backfill"], done["planned"], done["stopped_by"]) == (held["backfill"], 2, None)
    log = read_log(store, "tiny")
    assert (
        list(done["released"]) == [day(0), day(1)] and log.entries[-1]["current"] == log.current() == done["released"]
    )
    assert "--reprocess changed-recipe` tries them again" in done["next"]
    assert fill(changed, reprocess="changed-recipe", last=day(2), dry_run=True)["order"] == [day(2)]

    each = dated_recipe(rows, tmp_path / "other", splits={"validation": 0.3, "test": 0.2})
    refuse_days(monkeypatch, day(1))
    assert list(fill(each, reprocess="changed-recipe", last=day(2), publish="each")["released"]) == [day(0), day(2)]


def refuse_days(patch: pytest.MonkeyPatch, *days: str) -> None:
    def refuse(session: Session, flow: Any, **parameters: Any) -> dict[str, Any]:
        if parameters["as_of"] in days:
            raise StoreError("the store went away")
        return call_flow(session, flow, **parameters)

    patch.setattr(backfill_run, "call_flow", refuse)


def test_the_same_backfill_started_twice_switches_once(rows: Path, tmp_path: Path) -> None:
    recipe, store = dated_recipe(rows, tmp_path), Store(str(tmp_path))
    asked, first = BackfillRequest(last=day(1), publish="together"), []

    def begun(plan: BackfillPlan, note: str) -> None:  # by the first one's process
        head = {"command": "first", "recipe": plan.recipe, "code": plan.code, "backfill": plan.id}
        first.append(begin(store, "tiny", day(1), head | {"owner": this_process()}))

    second = run_backfill(recipe, asked, now=utc_now, show=begun)
    assert (second["outcome"], second["stopped_by"], second["elsewhere"]) == ("stopped", "running_elsewhere", [day(1)])
    assert (second["released"], read_log(store, "tiny").entries) == ({}, [])
    finish(store, "tiny", first[0], {"outcome": "interrupted", "reason": "", "where": ""})
    done = run_backfill(recipe, asked, now=utc_now)
    assert (done["backfill"], list(done["released"])) == (second["backfill"], [day(0), day(1)])
    assert [entry["current"] for entry in read_log(store, "tiny").entries] == [done["released"]]


# --- nights -----------------------------------------------------------------------------------------------------------


def night(recipe: Recipe, days: int, **options: Any) -> dict[str, Any]:
    return run_nightly(recipe, now=lambda: noon_after(days), **options)


def test_after_an_outage_a_night_catches_up_as_declared(rows: Path, tmp_path: Path) -> None:
    def after(policy: str, **options: Any) -> dict[str, Any]:
        recipe = dated_recipe(rows, tmp_path / policy, schedule={"catch_up": policy, "look_back": "3d"})
        night(recipe, 1)
        return night(recipe, 5, dry_run=True, **options)

    assert after("all")["order"] == [day(4), day(3), day(2)]  # the newest first, and no further than the look-back
    assert after("all")["left_out"] == {}
    assert after("latest")["order"] == [day(4)]
    assert after("none")["order"] == [day(4)]
    passed = "missing; schedule.catch_up: latest leaves it to `augmill backfill`"
    assert after("latest")["left_out"] == {day(2): passed, day(3): passed}
    assert after("none", scheduled=noon_after(5) - timedelta(minutes=59))["order"] == [day(4)]
    assert after("none", scheduled=noon_after(5) - timedelta(minutes=61))["outcome"] == "skipped"
    assert after("latest", scheduled=noon_after(2))["order"] == [day(4)]


def test_a_night_takes_failed_ones_again_and_no_date_for_a_changed_recipe(rows: Path, tmp_path: Path) -> None:
    recipe, store = dated_recipe(rows, tmp_path), Store(str(tmp_path))
    night(recipe, 1)
    failed = begin(store, "tiny", day(1), {"command": "test", "recipe": recipe.hash()})
    finish(store, "tiny", failed, {"outcome": "error", "kind": "WorldError", "reason": "disk", "where": "", "next": ""})
    changed = dated_recipe(rows, tmp_path, seed=3)
    assert night(changed, 3, dry_run=True)["order"] == [day(2), day(1)]
    assert list(night(changed, 3)["released"]) == [day(1), day(2)]
    assert night(changed, 3)["outcome"] == "nothing"


@pytest.mark.parametrize("end", [None, "interrupted", "error"])
@pytest.mark.parametrize("what", ["recipe", "code"])
def test_a_night_leaves_released_dates_of_an_unfinished_backfill_of_another_recipe_alone(
    what: str, end: str | None, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, store = dated_recipe(rows, tmp_path), Store(str(tmp_path))
    released = night(recipe, 1)["released"]
    if what == "recipe":
        recipe = dated_recipe(rows, tmp_path, splits={"validation": 0.3, "test": 0.2})
    else:
        for module in (states, flows_backfill):
            monkeypatch.setattr(module, "code_version", lambda recipe: "later")
    planned = fill(recipe, reprocess="changed-recipe", last=day(0), max_hours=0)  # it stops before its first
    head = {"command": "backfill", "recipe": recipe.hash(), "code": states.code_version(recipe)}
    head |= {"backfill": planned["backfill"], "owner": this_process() | {"began": 1}}  # and was killed in it
    attempt = begin(store, "tiny", day(0), head)
    if end is not None:
        finish(store, "tiny", attempt, {"outcome": end, "kind": "WorldError", "reason": "disk", "where": ""})
    alone = night(recipe, 1)
    assert alone["outcome"] == "nothing" and f"{what} changed: --reprocess changed-recipe" in alone["left_out"][day(0)]
    assert read_log(store, "tiny").current() == released
    rest = fill(recipe, reprocess="changed-recipe", last=day(0), dry_run=True)
    assert planned["backfill"] in rest["reason"] and rest["order"] == [day(0)]


def test_a_night_whose_only_snapshot_is_being_made_elsewhere_has_nothing_to_wait_for(
    rows: Path, tmp_path: Path
) -> None:
    recipe, store = dated_recipe(rows, tmp_path), Store(str(tmp_path))
    head = {"command": "elsewhere", "recipe": recipe.hash(), "code": "x", "owner": this_process()}
    done = night(recipe, 1, show=lambda plan, note: begin(store, "tiny", day(0), head))
    assert (done["outcome"], done["stopped_by"], done["elsewhere"]) == ("done", None, [day(0)])
    assert done["reason"] == "1 of 1 snapshot(s) are running elsewhere; the others are done"
    assert starts(store) == [day(0)]


def test_a_night_in_the_middle_of_a_backfill_is_neither_doubled_nor_starved(
    rows: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    recipe, store = dated_recipe(rows, tmp_path), Store(str(tmp_path))
    nights: list[dict[str, Any]] = []

    def in_the_middle(plan: BackfillPlan, note: str) -> None:  # the plan is fixed: every day, the newest one too
        assert len(plan.lines) == DAYS
        nights.append(night(recipe, DAYS))

    done = run_backfill(recipe, BackfillRequest(), now=lambda: noon_after(DAYS), show=in_the_middle)
    assert list(nights[0]["released"]) == done["elsewhere"] == [day(DAYS - 1)]
    assert (done["outcome"], done["done"], starts(store)) == ("done", DAYS, [day(DAYS - 1), *map(day, range(DAYS - 1))])
    assert public_bytes(tmp_path) == undisturbed


def test_what_runs_elsewhere_is_left_to_it_and_told(rows: Path, tmp_path: Path) -> None:
    recipe, store = dated_recipe(rows, tmp_path), Store(str(tmp_path))
    head = {
        "command": "elsewhere",
        "recipe": recipe.hash(),
        "code": "x",
        "owner": {"machine": "other", "pid": 1, "began": 1},
    }
    alive = []
    planned = fill(recipe, last=day(1), dry_run=True)["order"]
    done = run_backfill(
        recipe,
        BackfillRequest(last=day(1)),
        now=utc_now,
        show=lambda plan, note: alive.append(begin(store, "tiny", day(0), head)),
    )
    assert planned == [day(0), day(1)] and list(done["released"]) == [day(1)]
    assert (done["outcome"], done["stopped_by"], done["elsewhere"]) == ("stopped", "running_elsewhere", [day(0)])
    assert "running elsewhere since" in night_now(recipe)["left_out"][day(0)]
    finish(store, "tiny", alive[0], {"outcome": "interrupted", "reason": "", "where": ""})
    assert list(run_backfill(recipe, BackfillRequest(last=day(1)), now=utc_now)["released"]) == [day(0), day(1)]


def test_a_night_that_finds_its_snapshot_running_elsewhere_says_so_and_when_to_call_again(
    rows: Path, tmp_path: Path
) -> None:
    recipe, store = dated_recipe(rows, tmp_path), Store(str(tmp_path))
    about = {"command": "elsewhere", "recipe": recipe.hash(), "code": "x"}
    owner = {"machine": "other", "pid": 1, "began": 1}
    attempt = begin(store, "tiny", day(0), about | {"owner": owner})
    told = night(recipe, 1)
    assert (told["outcome"], list(told["left_out"])) == ("nothing", [day(0)])
    assert f"nothing is due but what is being made: {day(0)} is running elsewhere since " in told["reason"]
    assert told["next"].startswith("call again when that run has ended") and "for 2 minutes more" in told["next"]
    finish(store, "tiny", attempt, {"outcome": "interrupted", "reason": "", "where": ""})
    assert list(night(recipe, 1)["released"]) == [day(0)]
    assert night(recipe, 1)["reason"] == "nothing is due"


def night_now(recipe: Recipe) -> dict[str, Any]:
    return run_backfill(recipe, BackfillRequest(last=day(1), reprocess="all", dry_run=True), now=utc_now)


def test_a_night_of_a_source_without_partitions_is_one_run(rows: Path, tmp_path: Path) -> None:
    recipe = dated_recipe(rows, tmp_path, columns={"text": "text", "label": "label"}, partitions={})
    assert list(night(recipe, 1)["released"]) == ["all"]
    assert night(recipe, 2)["planned"] == 1
    with pytest.raises(UserError, match="no partitions"):
        run_backfill(recipe, BackfillRequest(first=day(0)), now=utc_now)


def test_past_its_deadline_a_night_starts_nothing_and_what_runs_ends_by_cause(rows: Path, tmp_path: Path) -> None:
    recipe = dated_recipe(
        rows,
        tmp_path,
        target={"per_class": 60},
        run={"orchestrator": "none", "store": str(tmp_path), "deadline": "05:30"},
    )
    plan = BackfillPlan(
        "x",
        "nightly",
        "tiny",
        "",
        recipe.hash(),
        "",
        {"reprocess": "failed"},
        "each",
        (PlannedSnapshot(day(1), "missing", ""),),
    )
    with open_session(recipe, command="test", verbose=False) as session:
        assert session.deadline is not None and 0 < session.deadline - time.monotonic() <= 24 * 3600
        past = replace(session, deadline=time.monotonic() - 1)
        run = BackfillRun(past, plan, BackfillRequest(), utc_now)
        run.go()
        assert (run.result()["stopped_by"], tries(Store(str(tmp_path)))) == ("deadline", {})
        result = make_snapshot(past, day(1))
        assert (result["outcome"], result["action"], result["new"]) == ("not_produced", "best_real", True)
    with open_session(recipe, command="test", verbose=False, by_morning=False) as session:
        assert session.deadline is None  # a backfill has no morning


def test_what_a_deadline_cut_short_is_due_again_and_what_would_end_the_same_is_not(rows: Path, tmp_path: Path) -> None:
    def recipe(target: int, **run: Any) -> Recipe:
        how = {"orchestrator": "none", "shard_rows": 1000, "threads": 1, "store": str(tmp_path)} | run
        return dated_recipe(rows, tmp_path, target={"per_class": target}, run=how)

    full = dated_recipe(rows, tmp_path)
    assert night(full, 1)["outcomes"] == {day(0): "not_produced"}  # nothing was asked for
    assert night(full, 1)["outcome"] == "nothing"
    short = night(recipe(30, deadline_minutes=0.0001), 2)
    assert (list(short["released"]), short["outcomes"]) == ([day(1)], {day(1): "not_produced"})
    end = tries(Store(str(tmp_path)))[day(1)][-1].end or {}
    assert "the run's deadline passed before" in end["reason"] and "goes on where this run stopped" in end["next"]
    for mode in MODES[1:3]:
        assert run_backfill(recipe(30), BackfillRequest(reprocess=mode, dry_run=True), now=lambda: noon_after(2))[
            "order"
        ] == [day(1)]
    told = night(recipe(30), 2, dry_run=True)
    assert told["order"] == [day(1)] and "the run's deadline passed before" in told["lines"][0]["reason"]
    assert night(recipe(31), 2)["outcome"] == "nothing"  # a changed recipe: for a backfill to do
    done = night(recipe(30), 2)
    assert done["outcomes"][day(1)] != "not_produced"
    assert night(recipe(30), 2)["outcome"] == "nothing"


def test_past_the_deadline_no_shard_is_handed_to_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each would cost a worker its life, and would be tried again, after the morning has come."""
    recipe = tiny_recipe(write_rows(tmp_path / "rows.csv"))
    run = make_run(recipe, Store(str(tmp_path / "store")))
    ingested, split = read_source(run)
    generate_round, handed = rounds.generate_round, []

    def late(run: Run, *round_: Any) -> list[Artifact]:
        run.site = replace(run.site, deadline=time.monotonic())
        monkeypatch.setattr(run.session.pool, "run", lambda *job, **how: handed.append(job))
        return generate_round(run, *round_)

    monkeypatch.setattr(rounds, "generate_round", late)
    began = time.monotonic()
    made = rounds.produce(run, split, ingested)
    assert isinstance(made.missing, NotProduced) and made.settled is None
    assert "the run's deadline passed before it was made" in str(made.missing)
    assert not handed and run.cut_short and {failure["reason"] for failure in run.failures} == {"deadline"}
    assert time.monotonic() - began < 10  # without a pause before another try


def test_an_outcome_that_the_recipe_calls_a_failure_is_the_state_failed(rows: Path, tmp_path: Path) -> None:
    """For state, advice, modes and monitors alike; what is current stays."""
    store = Store(str(tmp_path))
    before = night(dated_recipe(rows, tmp_path), 1)["released"]
    recipe = dated_recipe(rows, tmp_path, outcomes={"not_produced": "fail"})
    done = night(recipe, 2)
    assert (done["outcome"], list(done["failed"]), done["released"]) == ("failed", [day(1)], {})
    log = read_log(store, "tiny")
    assert log.current() == before
    found = states.snapshot_states(recipe, store, None, log, now=noon_after(2), first=day(1))[-1]
    assert (found.state, found.outcome, found.release) == ("failed", "not_produced", None)
    assert "nothing was asked for" in found.reason
    trouble = find_trouble(recipe, store, log, now=noon_after(2))
    assert trouble is not None and trouble.startswith(f"{day(1)} not_produced: ")
    again = run_backfill(recipe, BackfillRequest(reprocess="failed", dry_run=True), now=lambda: noon_after(2))
    assert again["order"] == [day(1)] == night(recipe, 2, dry_run=True)["order"]
    assert again["lines"][0]["state"] == "failed"
    assert night(dated_recipe(rows, tmp_path), 2)["released"].keys() == {day(1)}  # it never had a release: mended so


def test_a_backfill_tries_again_what_its_recipe_calls_a_failure(rows: Path, tmp_path: Path) -> None:
    recipe = dated_recipe(rows, tmp_path, outcomes={"not_produced": "fail"})
    stopped = fill(recipe, last=day(1), max_failures=1)
    assert (list(stopped["failed"]), stopped["stopped_by"]) == ([day(0)], "max_failures")
    rest = fill(recipe, last=day(1))
    assert rest["backfill"] == stopped["backfill"] and list(rest["failed"]) == [day(0), day(1)]
    assert fill(recipe, last=day(1))["outcome"] == "nothing"  # in mode missing
    assert fill(recipe, last=day(1), reprocess="failed", dry_run=True)["order"] == [day(0), day(1)]


# --- kills ------------------------------------------------------------------------------------------------------------


def test_only_a_process_of_this_machine_that_ended_is_known_to_be_gone() -> None:
    code = "from augmill.tasks.boundary.processes import this_process; import json; print(json.dumps(this_process()))"
    ended = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout)
    if not ended:
        pytest.skip("needs /proc")
    assert is_gone(ended) and not is_gone(this_process())
    assert is_gone(this_process() | {"began": 1})  # another process of the same number
    assert not is_gone(ended | {"machine": "another"}) and not is_gone(None) and not is_gone({})


@pytest.fixture(scope="module")
def killed(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a backfill, in mode `all`, whose process was killed by SIGKILL after three releases."""
    store = tmp_path_factory.mktemp("killed") / "store"
    recipe = store.with_name("recipe.yaml")
    recipe.write_text(yaml.safe_dump(dated_document(rows, store)))
    kill_after(3, [str(recipe), "--reprocess", "all", "--to", day(DAYS - 1)], store, signal.SIGKILL)
    return store


def kill_after(
    releases: int, arguments: list[str], store: Path, sign: signal.Signals
) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("augmill")), "backfill", *arguments]
    log = store / "public/tiny/_log"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not (log.is_dir() and len(list(log.glob("*.json"))) >= releases):
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.01)
    process.send_signal(sign)
    out, err = process.communicate(timeout=240)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@pytest.mark.parametrize("mode", ["missing", "failed", "all"])
def test_killed_and_started_again_it_does_the_rest_and_nothing_twice(
    mode: Mode, killed: Path, rows: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    shutil.copytree(killed, tmp_path / "store")
    recipe, store = dated_recipe(rows, tmp_path / "store"), Store(str(tmp_path / "store"))
    ended = {s for s, each in tries(store).items() if each[-1].end is not None}
    before = starts(store)
    assert len(ended) >= 2 and len(before) < DAYS
    asked = BackfillRequest(reprocess=mode, last=day(DAYS - 1), max_active=2)
    told = run_backfill(recipe, replace(asked, dry_run=True), now=utc_now)
    done = run_backfill(recipe, asked, now=utc_now)
    rest = [day(n) for n in range(DAYS) if day(n) not in ended]
    assert told["order"] == sorted(starts(store)[len(before) :]) == rest
    assert (done["outcome"], done["failed"], len(read_log(store, "tiny").entries)) == ("done", {}, DAYS)
    assert public_bytes(tmp_path / "store") == undisturbed
    if mode == "all":  # the next one, though, is a new backfill of everything
        assert run_backfill(recipe, replace(asked, dry_run=True), now=utc_now)["planned"] == DAYS


@pytest.mark.slow
def test_sigterm_leaves_interrupted_attempts_and_says_how_to_go_on(rows: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(dated_document(rows, store)))
    ended = kill_after(2, [str(recipe), "--to", day(DAYS - 1), "--max-active", "2"], store, signal.SIGTERM)
    last = json.loads(ended.stdout.splitlines()[-1])
    assert (ended.returncode, last["outcome"]) == (143, "interrupted") and "backfill" in last["next"]
    states = {a.state(utc_now()) for each in tries(Store(str(store))).values() for a in each}
    assert states <= {"done", "interrupted"} and "Traceback" not in ended.stderr
    assert fill(dated_recipe(rows, store), last=day(DAYS - 1))["done"] == DAYS


# --- Prefect ----------------------------------------------------------------------------------------------------------


def test_each_snapshot_is_a_run_of_its_own_inside_the_backfills(prefect_api: str, tmp_path: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName

    from augmill.flows.orchestration.client import flush_client

    rows = write_days(tmp_path / "rows.csv", 3, each=16, first_day_labels=("refund",))
    recipe = dated_recipe(rows, tmp_path / "store", dataset="nested")
    done = run_backfill(recipe, BackfillRequest(max_active=2), orchestrator="prefect", now=lambda: noon_after(3))
    assert (list(done["failed"]), list(done["released"])) == ([day(0)], [day(1), day(2)])
    flush_client()
    with get_client(sync_client=True) as client:

        def read(*names: str) -> dict[str, Any]:
            runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[*names])))
            return {run.name: run for run in runs}

        (whole,) = read("backfill nested").values()
        inside = read(*(f"{day(n)} nested" for n in range(3)))
    assert (whole.state_type, whole.state_name) == ("FAILED", "Failed") and whole.parent_task_run_id is None
    assert whole.state.message.startswith(f"{day(0)} failed: ")
    # Records are telemetry: on a busy machine one of two that begin at once was lost, in 2 of some 10 runs.
    assert len(inside) >= 2
    for name, run in inside.items():
        ended = ("FAILED", "Failed") if name == f"{day(0)} nested" else ("COMPLETED", "Nothing to make")
        assert (run.state_type, run.state_name) == ended
        assert run.parent_task_run_id is not None


# --- the command line -------------------------------------------------------------------------------------------------


def test_the_command_prints_its_plan_and_ends_by_code(tmp_path: Path) -> None:
    rows = write_days(tmp_path / "rows.csv", 3, each=16, first_day_labels=("refund",))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(dated_document(rows, tmp_path / "store")))
    planned = augmill("backfill", recipe, "--to", day(1), "--dry-run")
    assert planned.code == 0 and planned.last["order"] == [day(0), day(1)]
    lines = planned.out.splitlines()
    assert lines[0] == "tiny: 2 snapshots to make, each published as it ends."
    assert [line.split() for line in lines[2:4]] == [
        [d, "no", "run", "yet", "missing:", "never", "run"] for d in (day(0), day(1))
    ]
    late = augmill("backfill", recipe, "--to", day(1), "--max-hours", "0", "--json")
    assert (late.code, late.last["stopped_by"], late.out.count("\n")) == (11, "max_hours", 1)
    limited = augmill("backfill", recipe, "--to", day(1), "--max-failures", "1")
    assert (limited.code, list(limited.last["failed"])) == (11, [day(0)])
    failed = augmill("backfill", recipe, "--to", day(1))
    assert (failed.code, list(failed.last["failed"])) == (3, [day(0)])  # one class alone: the data, not the world
    assert augmill("backfill", recipe, "--to", day(1)).code == 0  # failed ones were not asked for
    assert augmill("nightly", recipe, "--dry-run").last["outcome"] == "planned"
    assert augmill("backfill", recipe, "--order", "random").code == 2


@pytest.mark.parametrize(
    ("place", "outcome"),
    [
        ((running, "begin"), "interrupted"),
        ((main_path, "make_snapshot"), "interrupted"),
        ((main_path, "write_report"), "not_produced"),  # its release is in the log already
        ((running, "finish"), "not_produced"),
    ],
)
@pytest.mark.parametrize("after", [False, True])
def test_sigterm_at_any_moment_leaves_no_attempt_without_an_end(
    place: tuple[Any, str], outcome: str, after: bool, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, name = place
    stopped = getattr(module, name)

    def stop(*given: Any, **options: Any) -> Any:
        monkeypatch.setattr(module, name, stopped)
        if not after:
            signal.raise_signal(signal.SIGTERM)
        made = stopped(*given, **options)
        if after:
            signal.raise_signal(signal.SIGTERM)
        return made

    monkeypatch.setattr(module, name, stop)
    recipe, store = dated_recipe(rows, tmp_path), Store(str(tmp_path))
    with pytest.raises(Terminated):
        fill(recipe, last=day(0))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    (attempt,) = tries(store)[day(0)]
    assert attempt.end is not None and attempt.end["outcome"] == outcome
    assert (outcome == "not_produced") == (
        attempt.end.get("release") in set(read_log(store, "tiny").current().values())
    )
    assert fill(recipe, last=day(0))["outcome"] == "done"
