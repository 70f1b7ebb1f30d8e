"""States are a function of what the store holds and of the source's revisions: each is reached, and nothing else moves one."""

from __future__ import annotations

import random
import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attempted import RECIPE, begun, dated, tried
from chain import tiny_recipe
from commands import fingerprint
from hypothesis import given, settings
from hypothesis import strategies as st

from augmill.flows.augment import run_recipe
from augmill.flows.nights.plan import least_mode
from augmill.flows.nights.states import SnapshotState, find_trouble, snapshot_states, snapshots_of
from augmill.flows.provenance import code_version
from augmill.flows.units import require_partition, source_view
from augmill.tasks.checks import CHECKS
from augmill.tasks.errors import UserError
from augmill.tasks.generators import GENERATORS
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.stages.publish import commit_releases
from augmill.tasks.store.attempts import LEASE, utc_now
from augmill.tasks.store.log import append, read_log, rollback
from augmill.tasks.store.stage import STAGE_VERSIONS
from augmill.tasks.store.store import Store

DAY = "2026-10-02"
VIEW = {f"2026-10-{day:02}": (10, f"v{day}") for day in (1, 2, 4)}
NOW = datetime(2026, 10, 6, 1, 0, tzinfo=UTC)  # the newest complete day is the fifth


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def states(store: Store, recipe: Recipe = RECIPE, view: Any = VIEW, **options: Any) -> dict[str, SnapshotState]:
    options = {"now": utc_now(), "first": "2026-10-01", "last": "2026-10-05"} | options
    found = snapshot_states(recipe, store, view, read_log(store, "tiny"), **options)
    return {state.snapshot: state for state in found}


def state(store: Store, recipe: Recipe = RECIPE, view: Any = VIEW, **options: Any) -> SnapshotState:
    return states(store, recipe, view, **options)[DAY]


def test_every_day_up_to_the_last_complete_one_is_a_snapshot_rows_or_not() -> None:
    days = [f"2026-10-{day:02}" for day in range(1, 6)]
    assert snapshots_of(RECIPE, VIEW, now=NOW) == days
    assert snapshots_of(RECIPE, VIEW, now=NOW, first="2026-10-02", last="2026-10-03") == days[1:3]
    assert snapshots_of(RECIPE, [*VIEW, "2027-01-01"], now=NOW) == days  # rows of the future wait for their day
    assert snapshots_of(dated(timezone="America/New_York"), VIEW, now=NOW) == days[:-1]
    assert snapshots_of(RECIPE, [], now=NOW) == []
    keyed = dated(every="key")
    assert snapshots_of(keyed, ["b", "a", "c"], now=NOW, first="b") == ["b", "c"]
    assert snapshots_of(tiny_recipe(Path("/rows.csv")), ["all"], now=NOW) == ["all"]


def test_a_partition_that_cannot_be_is_refused() -> None:
    for recipe, name in [(RECIPE, "2026-13-01"), (RECIPE, "../x"), (tiny_recipe(Path("/rows.csv")), DAY)]:
        with pytest.raises(UserError, match=r"^--from: "):
            require_partition(recipe, name, "--from")
    require_partition(RECIPE, DAY, "--from")


def test_what_was_never_tried_is_missing(store: Store) -> None:
    assert {found.state for found in states(store).values()} == {"missing"}


def test_one_that_beats_is_running_and_one_that_stopped_beating_interrupted(store: Store) -> None:
    begun(store, DAY)
    assert state(store).state == "running"
    assert state(store, now=utc_now() + LEASE).state == "interrupted"


def test_one_stopped_by_hand_is_interrupted(store: Store) -> None:
    tried(store, DAY, outcome="interrupted", action="none")
    assert state(store).state == "interrupted"


def test_a_failure_after_a_release_is_a_failure_and_names_what_stands(store: Store) -> None:
    release = tried(store, DAY)
    tried(store, DAY, outcome="error", action="none")
    found = state(store)
    assert (found.state, found.outcome, found.reason) == ("failed", "DataError", "source: error it is")
    assert found.release == release and found.basis is not None and found.basis.number == 0


def test_a_release_is_told_with_the_outcome_that_made_it(store: Store) -> None:
    release = tried(store, DAY, outcome="inconclusive")
    found = state(store)
    assert (found.state, found.outcome, found.release, found.changed) == ("released", "inconclusive", release, ())


@pytest.mark.parametrize("before", [False, True])
def test_an_outcome_that_released_nothing_new_is_kept(store: Store, before: bool) -> None:
    release = tried(store, DAY) if before else None
    tried(store, DAY, outcome="unsound_source", action="keep_current")
    found = state(store)
    assert (found.state, found.outcome, found.release) == ("kept", "unsound_source", release)


def test_a_rollback_withdraws_and_later_failures_of_the_same_do_not_hide_it(store: Store) -> None:
    tried(store, "2026-10-01")
    gone = tried(store, DAY)
    rollback(store, "tiny", to=None, reason="bad labels", command="test")
    for ended in (False, True):
        if ended:
            tried(store, DAY, outcome="error", action="none")
        found = state(store)
        assert (found.state, found.reason, found.release) == ("withdrawn", "rolled back: bad labels", None)
        assert found.changed == () and found.basis is not None and (found.basis.end or {})["release"] == gone
    begun(store, DAY)
    assert state(store).state == "running"


@pytest.mark.parametrize("kept_after", [False, True])
def test_what_was_erased_and_not_made_again_is_missing_and_says_why(store: Store, kept_after: bool) -> None:
    gone = tried(store, DAY)
    if kept_after:  # what was kept then is gone too
        tried(store, DAY, outcome="harmful", action="keep_current")
    entry = {"kind": "forget", "current": {DAY: None}, "erased": [gone], "reason": "request 12"}
    append(store, "tiny", lambda log: entry, command="augmill forget")
    for found in (state(store), state(store, view=VIEW | {DAY: (11, "later")})):
        assert (found.state, found.outcome, found.release, least_mode(found)) == ("missing", None, None, "missing")
        assert "erased" in found.reason and "rolled back" not in found.reason
    for key in store.list_keys("private/attempts"):
        store.delete(key)
    assert state(store).state == "missing" and "erased" in state(store).reason  # the log alone tells it
    release = tried(store, DAY)
    assert (state(store).state, state(store).release) == ("released", release)


def test_a_night_after_an_erasure_that_kept_nothing_is_told_with_its_outcome(store: Store) -> None:
    gone = tried(store, DAY)
    entry = {
        "kind": "forget",
        "current": {DAY: None},
        "erased": [gone],
        "reason": "",
        "time": "2026-10-01T00:00:00+00:00",
    }
    append(store, "tiny", lambda log: entry, command="augmill forget")
    tried(store, DAY, outcome="unsound_source", action="keep_current")
    assert (state(store).state, state(store).outcome) == ("kept", "unsound_source")


def test_a_withdrawn_one_says_what_changed_since_even_where_late_rows_count_for_nothing(store: Store) -> None:
    tried(store, "2026-10-01")
    tried(store, DAY, source={"2026-10-01": "v1", DAY: "v2"})
    rollback(store, "tiny", to=None, reason="bad", command="test")
    assert state(store).changed == ()
    found = state(store, view=VIEW | {"2026-10-01": (11, "later")})
    assert (found.state, found.changed) == ("withdrawn", ("source",))
    assert state(store, dated(window="1d"), view=VIEW | {"2026-10-01": (11, "later")}).changed == ("recipe",)


def test_a_rollback_of_the_release_that_a_night_kept_withdraws_nothing_of_that_night(store: Store) -> None:
    tried(store, "2026-09-30")
    other = tried(store, "2026-10-01")
    tried(store, DAY, "unsound_source", action="keep_current", release=other)
    rollback(store, "tiny", to=None, reason="bad", command="test")
    assert (state(store).state, state(store).release) == ("kept", None)


def test_what_a_rollback_went_back_to_is_released_not_stale(store: Store) -> None:
    first = tried(store, DAY, about={"recipe": "older"})
    assert (state(store).state, state(store).changed) == ("stale", ("recipe",))
    tried(store, DAY)
    rollback(store, "tiny", to=None, reason="bad", command="test")
    found = state(store)  # made again it would be what was withdrawn
    assert (found.state, found.release, found.changed) == ("released", first, ())
    assert found.reason == "rolled back: bad; back to the release before"


def test_what_a_rollback_went_back_to_is_compared_with_the_run_that_made_it(store: Store) -> None:
    """Not with the newest one, whose release is withdrawn: the recipe that made what stands has nothing to make again."""
    old = dated(window="9d", late={"reopen": "3d"})
    first = tried(store, DAY, about={"recipe": old.hash()}, source={"2026-10-01": "v1", DAY: "v2"})
    tried(store, DAY, source={"2026-10-01": "v1", DAY: "v2"})
    rollback(store, "tiny", to=None, reason="bad", command="test")
    found = state(store, old, view=VIEW)
    assert (found.state, found.release, found.changed) == ("released", first, ())
    assert found.basis is not None and found.basis.number == 0  # made again it would be what stands
    assert state(store, old, view=VIEW | {DAY: (11, "late")}).changed == ("source",)
    assert state(store, dated(window="7d"), view=VIEW).changed == ("recipe",)
    assert store.local is not None
    shutil.rmtree(store.local / "private" / "attempts" / "tiny" / DAY / "00000000")
    assert state(store, old, view=VIEW).state == "released"  # the log tells the recipe too


def test_recipe_and_code_make_stale_and_both_are_named(store: Store) -> None:
    release = tried(store, DAY)
    assert state(store).state == "released"
    assert state(store, dated(window="7d")).changed == ("recipe",)
    tried(store, DAY, about={"code": "older"})
    assert state(store).changed == ("code",)
    found = state(store, dated(window="7d"))
    assert (found.state, found.changed) == ("stale", ("recipe", "code"))
    assert found.reason == "the recipe changed; Augmill changed" and found.release != release


def test_a_version_counts_where_the_recipe_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new extension, or one more stage's version that this recipe never reaches, marks no snapshot stale."""
    adaptive, before = dated_adaptive(), (code_version(RECIPE), code_version(dated_adaptive()))
    monkeypatch.setitem(GENERATORS, "another", GENERATORS["replay"])
    monkeypatch.setattr(GENERATORS["replay"], "VERSION", 99)
    monkeypatch.setattr(CHECKS["teacher"], "VERSION", 99)
    assert (code_version(RECIPE), code_version(adaptive)) == before
    monkeypatch.setitem(STAGE_VERSIONS, "weigh", 99)
    assert code_version(RECIPE) == before[0] and code_version(adaptive) != before[1]
    monkeypatch.setattr(GENERATORS["rules"], "VERSION", 99)
    changed = code_version(RECIPE)
    assert changed != before[0]
    monkeypatch.setitem(STAGE_VERSIONS, "settle", 99)
    assert code_version(RECIPE) != changed


def dated_adaptive() -> Recipe:
    both = [{"use": "rules"}, {"use": "interpolate"}]
    return tiny_recipe(Path("/rows.csv"), generators=both, plan={"policy": "adaptive"})


def test_a_release_whose_attempts_are_lost_still_tells_its_recipe(store: Store) -> None:
    tried(store, DAY)
    assert store.local is not None
    shutil.rmtree(store.local / "private")
    assert state(store).state == "released"
    assert state(store, dated(window="7d")).changed == ("recipe",)


def test_a_staged_release_changes_nothing_until_it_is_current(store: Store) -> None:
    staged = tried(store, DAY, pending={"snapshot": DAY})
    assert (state(store).state, state(store).staged) == ("missing", staged)
    release = tried(store, DAY)
    assert (state(store).state, state(store).staged) == ("released", None)
    staged = tried(store, DAY, pending={"snapshot": DAY})
    found = state(store)
    assert (found.state, found.release, found.staged) == ("released", release, staged)
    commit_releases(store, "tiny", {DAY: (release, str(staged))}, entry={"reason": "together"}, command="test")
    found = state(store)
    assert (found.state, found.release, found.staged) == ("released", staged, None)


@given(ages=st.sets(st.integers(-2, 9), max_size=2), reopen=st.integers(1, 6), window=st.integers(1, 6))
def test_late_alone_decides_what_a_new_revision_makes_stale(
    tmp_path_factory: pytest.TempPathFactory, ages: set[int], reopen: int, window: int
) -> None:
    """``ages``: how many days before the snapshot's the partitions lie whose rows changed."""
    store = Store(str(tmp_path_factory.mktemp("s")))
    recipes = [dated(window=f"{window}d", late=late) for late in ("fold_into_next", {"reopen": f"{reopen}d"})]
    days = {age: (date.fromisoformat(DAY) - timedelta(days=age)).isoformat() for age in range(-2, 10)}
    held = {day: "v" for age, day in days.items() if 0 <= age < window}
    tried(store, DAY, source=held, about={"recipe": recipes[0].hash()})
    view = {day: (1, "other" if age in ages else "v") for age, day in days.items()}
    expected = any(0 <= age < min(window, reopen) for age in ages)
    folded, reopened = (state(store, recipe, view) for recipe in recipes)
    assert recipes[0].hash() == recipes[1].hash()  # how late rows are treated changes no row
    assert (folded.state, reopened.state) == ("released", "stale" if expected else "released")
    assert reopened.changed == (("source",) if expected else ())


def test_a_partition_that_appears_or_vanishes_is_a_change_too(store: Store) -> None:
    tried(store, DAY, source={"2026-10-01": "v1", DAY: "v2"})
    recipe = dated(late={"reopen": "3d"})
    assert state(store, recipe).state == "released"
    for view in (VIEW | {"2026-09-30": (1, "x")}, {DAY: VIEW[DAY]}):
        assert state(store, recipe, view).changed == ("source",)


def test_a_source_without_partitions_is_stale_by_any_new_revision(store: Store) -> None:
    recipe = tiny_recipe(Path("/rows.csv"))
    tried(store, "all", source={"all": "v1"}, about={"recipe": recipe.hash()})
    for revision, changed in (("v1", ()), ("v2", ("source",))):
        found = states(store, recipe, {"all": (9, revision)}, first=None, last=None)["all"]
        assert (found.state, found.changed) == ("stale" if changed else "released", changed)


def test_without_a_look_at_the_source_the_store_alone_tells(store: Store) -> None:
    tried(store, "2026-10-04")
    tried(store, DAY, outcome="error", action="none")
    found = states(store, view=None, now=NOW, first=None, last=None)
    assert {name: one.state for name, one in found.items()} == {
        DAY: "failed",
        "2026-10-03": "missing",
        "2026-10-04": "released",
        "2026-10-05": "missing",
    }


OPS = st.tuples(
    st.sampled_from(["publish", "keep", "fail", "stage", "kill", "rollback"]),
    st.sampled_from(["2026-10-01", DAY, "2026-10-03"]),
)


class Model:
    """What should hold, told by a stack of publications that can be undone."""

    def __init__(self) -> None:
        self.current: dict[str, str] = {}
        self.undo: list[tuple[str, str | None]] = []
        self.gone: set[str] = set()
        self.last: dict[str, tuple[str, str | None]] = {}  # the last outcome, and the release it named
        self.broken: dict[str, str] = {}  # failed or interrupted after it

    def apply(self, store: Store, kind: str, day: str) -> None:
        if kind == "rollback":
            self.roll_back(store)
        elif kind == "publish":
            release = str(tried(store, day))
            self.undo.append((day, self.current.get(day)))
            self.current[day] = release
            self.last[day] = ("released", release)
            self.broken.pop(day, None)
        elif kind == "keep":
            tried(store, day, "harmful", action="keep_current")
            self.last[day] = ("kept", None)
            self.broken.pop(day, None)
        elif kind == "stage":
            tried(store, day, pending={"snapshot": day})
        elif kind == "fail":
            tried(store, day, "error", action="none")
            self.broken[day] = "failed"
        else:
            begun(store, day)
            self.broken[day] = "interrupted"

    def roll_back(self, store: Store) -> None:
        day, before = self.undo[-1] if self.undo else ("", None)
        if before is None and len(self.current) < 2:
            with pytest.raises(UserError):
                rollback(store, "tiny", to=None, reason="bad", command="test")
            return
        rollback(store, "tiny", to=None, reason="bad", command="test")
        self.undo.pop()
        self.gone.add(self.current.pop(day))
        self.current |= {} if before is None else {day: before}

    def state(self, day: str) -> str:
        outcome, release = self.last.get(day, ("missing", None))
        if day in self.broken and release not in self.gone:
            return self.broken[day]
        if release in self.gone and day not in self.current:
            return "withdrawn"
        return outcome


@given(st.lists(OPS, max_size=12))
@settings(max_examples=40)
def test_states_follow_from_the_store_whatever_happened_in_whichever_order(
    tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[str, str]]
) -> None:
    base = tmp_path_factory.mktemp("s")
    store, model = Store(str(base / "store")), Model()
    for kind, day in operations:
        model.apply(store, kind, day)
    later = utc_now() + LEASE
    before = fingerprint(base)
    found = states(store, now=later)
    assert fingerprint(base) == before  # looking changes nothing
    assert {day: one.state for day, one in found.items()} == {day: model.state(day) for day in found}
    assert {day: one.release for day, one in found.items() if one.release} == model.current
    shutil.copytree(base / "store", base / "copy")
    assert states(Store(str(base / "copy")), now=later) == found


def trouble(recipe: Recipe, store: Store, hours: float = 0) -> str | None:
    return find_trouble(recipe, store, read_log(store, "tiny"), now=utc_now() + timedelta(hours=hours))


def days_ago(days: int) -> str:
    return (utc_now().date() - timedelta(days=days)).isoformat()


def test_a_monitor_is_told_when_the_current_release_is_too_old(store: Store) -> None:
    recipe = dated(schedule={"freshness": "36h"})
    assert trouble(recipe, store) == "there is no release yet"
    assert trouble(RECIPE, store) is None
    release = tried(store, days_ago(1))
    assert trouble(recipe, store, 35) is None
    assert trouble(recipe, store, 37) == f"release {release} is 37 h old; schedule.freshness allows 36h"
    assert trouble(RECIPE, store, 37) is None


@pytest.mark.parametrize(
    ("outcome", "action"), [("error", "none"), ("interrupted", "none"), ("unsound_source", "keep_current")]
)
def test_a_monitor_is_told_what_went_wrong_as_far_as_the_nights_look_back(
    store: Store, outcome: str, action: str
) -> None:
    recipe = dated(schedule={"freshness": "36h", "look_back": "2d"})
    tried(store, days_ago(3), outcome, action=action)
    tried(store, days_ago(2))
    assert trouble(recipe, store) is None  # no night looks at it any more
    assert str(trouble(dated(schedule={"look_back": "7d"}), store)).startswith(days_ago(3))
    tried(store, days_ago(1), outcome, action=action)
    assert str(trouble(recipe, store)).startswith(days_ago(1))
    begun(store, days_ago(1))
    assert trouble(recipe, store) is None  # it is being made


def test_a_night_that_makes_the_same_release_again_keeps_it_fresh(store: Store) -> None:
    recipe = tiny_recipe(Path("/rows.csv"), schedule={"freshness": "36h"})
    release = tried(store, "all")
    later = (utc_now() + timedelta(hours=30)).isoformat(timespec="seconds")
    tried(store, "all", "harmful", action="keep_current", time=later)
    assert trouble(recipe, store, 40) is not None  # to keep it is not to make it
    tried(store, "all", action="best_real", release=release, arrangement="mix", time=later)
    assert trouble(recipe, store, 40) is None
    assert trouble(recipe, store, 67) is not None


def write_nights(path: Path, nights: int, *, labels: str = "abc") -> None:
    """Rows of so many nights; each night's own are the same whatever follows."""
    rows = ["text,label,day"]
    for night in range(1, nights + 1):
        rng = random.Random(night)
        for at in range(30):
            label = labels[at % len(labels)]
            words = " ".join(rng.choices([f"{label}{word}" for word in range(9)], k=6))
            rows.append(f"{words},{label},2026-10-{night:02}")
    path.write_text("\n".join(rows) + "\n")


@pytest.mark.slow
def test_real_nights_leave_the_states_that_were_told_here(tmp_path: Path) -> None:
    """Two nights, then a late row and a changed recipe; then a class that vanished."""
    source = tmp_path / "rows.csv"
    store = Store(str(tmp_path / "store"))

    def by_day(**changes: Any) -> Recipe:
        columns = {"text": "text", "label": "label", "partition": "day"}
        partitions = {"every": "day", "window": "2d", "late": {"reopen": "1d"}}
        run = {"orchestrator": "none", "store": store.root}
        options: dict[str, Any] = {"columns": columns, "partitions": partitions, "run": run, "target": {"per_class": 2}}
        return tiny_recipe(source, **(options | changes))

    def told(recipe: Recipe, last: int) -> list[tuple[str, tuple[str, ...]]]:
        view = source_view(recipe, store)
        found = states(store, recipe, view, last=f"2026-10-{last:02}")
        return [(one.state, one.changed) for one in found.values()]

    write_nights(source, 2)
    recipe = by_day()
    for night in (1, 2):
        run_recipe(recipe, as_of=f"2026-10-{night:02}")
    assert told(recipe, 3) == [("released", ()), ("released", ()), ("missing", ())]
    with source.open("a") as stream:
        stream.write("a1 a2 a3 a4 and late,a,2026-10-01\n")
    assert told(recipe, 2) == [("stale", ("source",)), ("released", ())]  # reopened for a day
    assert told(by_day(seed=1), 2) == [("stale", ("source", "recipe")), ("stale", ("recipe",))]
    with source.open("a") as stream:
        stream.writelines(f"b{at} b,b,2026-10-03\nc{at} c,c,2026-10-03\n" for at in range(20))
    lone = by_day(partitions={"every": "day", "window": "1d"})
    run_recipe(lone, as_of="2026-10-03")
    found = states(store, lone, source_view(lone, store), last="2026-10-03")["2026-10-03"]
    assert (found.state, found.outcome, found.release) == ("kept", "unsound_source", None)
    rollback(store, "tiny", to=None, reason="bad", command="test")  # of the night before, whose release it kept
    found = states(store, lone, source_view(lone, store), last="2026-10-03")["2026-10-03"]
    assert (found.state, found.outcome) == ("kept", "unsound_source")
