"""What gc takes: only what nothing needs, never what is current, tagged, running or young; cut anywhere, it can go on."""

from __future__ import annotations

import itertools
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attempted
import pytest
from attempted import RECIPE, tried
from buckets import s3_server
from chain import tiny_recipe, write_rows
from dated import inline_workers  # noqa: F401 - a fixture
from hypothesis import given
from hypothesis import strategies as st
from keeping import GATE, DyingStore, Killed, copy_store, keys
from running import run

from augmill.flows.augment import run_recipe
from augmill.flows.nights.plan import includes
from augmill.flows.nights.states import snapshot_states
from augmill.flows.releases.gc import find_garbage, sweep_store
from augmill.flows.releases.retention import HOLDING_REJECTED, Limits, expired
from augmill.flows.releases.verify import verify_store
from augmill.tasks.contracts import Context
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.stages import fit as fit_stage
from augmill.tasks.stages.extensions import extension_context
from augmill.tasks.store.attempts import begin
from augmill.tasks.store.log import Log, read_log, tag
from augmill.tasks.store.releases import verify_release
from augmill.tasks.store.stage import Work
from augmill.tasks.store.store import RENEWED, Store

DAY = timedelta(days=1)
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
LIMITS = Limits(releases=90 * DAY, least=0, rejected=30 * DAY, requests=30 * DAY)
FOREVER = Limits(releases=90 * DAY, least=0, rejected=3000 * DAY, requests=3000 * DAY)


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, str, str, Path]:
    """(recipe, its release, the release that took its place, store): the same snapshot made with two seeds."""
    folder = tmp_path_factory.mktemp("nights")
    source = write_rows(folder / "rows.csv")
    store = folder / "store"
    how = {"orchestrator": "none", "shard_rows": 60, "store": str(store)}
    first = run(tiny_recipe(source, gate=GATE, run=how, seed=1)).result["release"]
    recipe = tiny_recipe(source, gate=GATE, run=how)
    second = run(recipe).result["release"]
    assert first != second
    return recipe, first, second, store


def at(store: Store, recipe: Recipe) -> Recipe:
    return replace(recipe, run=replace(recipe.run, store=store.root))


def swept(store: Store, *, days: int, limits: Limits | None = None) -> dict[str, dict[str, int]]:
    """gc as it would be ``days`` from now."""
    later = datetime.now(UTC) + days * DAY
    found = find_garbage(store, grace=DAY, limits={"tiny": limits} if limits else {}, now=later)
    sweep_store(store, found, grace=DAY, command="test", now=lambda: later)
    return found.counts()


def begin_at(store: Store, moment: datetime) -> None:
    """An attempt that runs at that time, by its own word and by the store's."""
    assert store.local is not None
    attempt = begin(store, "tiny", "all", {}, now=lambda: moment)
    start = store.local / f"private/attempts/tiny/all/{attempt.number:08d}/start.json"
    os.utime(start, (moment.timestamp(), moment.timestamp()))


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """Publications, rollbacks and tags in any order, hours to months apart."""
    log, moment = Log("any"), BEGINNING
    for number in range(draw(st.integers(1, 12))):
        moment += timedelta(hours=draw(st.integers(1, 2000)))
        names = st.sampled_from([f"r{index}" for index in range(6)])
        entry = {"number": number, "time": moment.isoformat(timespec="seconds"), "current": {}}
        if draw(st.booleans()) or number == 0:
            snapshots = draw(st.lists(st.sampled_from(["a", "b"]), min_size=1, unique=True))
            entry |= {"kind": "release", "current": {name: draw(names) for name in snapshots}}
        elif draw(st.booleans()):
            entry |= {"kind": "rollback", "current": {"a": draw(st.none() | names)}}
        else:
            entry |= {"kind": "tag", "tag": draw(st.sampled_from(["x", "y"])), "release": draw(st.none() | names)}
        log.entries.append(entry)
    return log


def shown(log: Log) -> set[str]:
    """What readers get who name no date, or all."""
    state = log.current()
    return {release for name, release in state.items() if name in ("all", max(state.keys() - {"all"}, default="all"))}


@given(logs(), st.integers(0, 4), st.integers(1, 120), st.integers(0, 400))
def test_what_readers_get_and_what_is_tagged_or_young_never_expires(
    log: Log, least: int, days: int, later: int
) -> None:
    limits = Limits(days * DAY, least, DAY, DAY)
    now = datetime.fromisoformat(log.entries[-1]["time"]) + later * DAY
    standing = {f"r{index}" for index in range(6)}
    gone = expired(log, standing, {}, limits, now)
    assert not gone & {log.newest(), *log.tags().values()}
    published = {release for entry in log.entries for release in entry["current"].values() if release is not None}
    assert gone <= published and len(standing & published) - len(gone) >= min(least, len(published))
    # At every moment of the last ``days`` another had taken its place, of its own date or of a later one.
    times = [datetime.fromisoformat(entry["time"]) for entry in log.entries[1:]] + [now]
    for number, until in enumerate(times):
        if now - until < limits.releases:
            assert not gone & shown(Log("any", log.entries[: number + 1]))
    assert gone <= expired(log, standing, {}, limits, now + DAY)  # who is gone today is gone tomorrow


def test_what_a_rerun_needs_stays(nights: tuple[Recipe, str, str, Path], tmp_path: Path) -> None:
    recipe, first, second, source = nights
    store = copy_store(source, tmp_path / "store")
    swept(store, days=2)
    assert verify_store(store).wrong == []
    assert verify_release(store, "tiny", first) == verify_release(store, "tiny", second) == []
    again = run(at(store, recipe))
    assert (again.worked, again.result["new"], again.result["release"]) == (0, False, second)


def test_a_release_goes_when_its_time_is_over_and_what_it_alone_was_made_of(
    nights: tuple[Recipe, str, str, Path], tmp_path: Path
) -> None:
    recipe, first, second, source = nights
    store = copy_store(source, tmp_path / "store")
    before = keys(store)
    assert "releases" not in swept(store, days=89, limits=FOREVER)
    assert "releases" in swept(store, days=91, limits=FOREVER)
    log = read_log(store, "tiny")
    assert log.entries[-1]["kind"] == "expire" and log.entries[-1]["expired"] == [first]
    assert log.current() == {"all": second}
    assert not [key for key in keys(store) if first in key] and keys(store) < before
    assert not (tmp_path / "store/public/tiny/releases" / first).exists()
    assert verify_store(store).wrong == []
    assert run(at(store, recipe)).worked == 0
    assert swept(store, days=91, limits=FOREVER) == {}  # and no second word in the log
    assert len(read_log(store, "tiny").entries) == len(log.entries)


def test_a_tag_keeps_a_release(nights: tuple[Recipe, str, str, Path], tmp_path: Path) -> None:
    _, first, _, source = nights
    store = copy_store(source, tmp_path / "store")
    tag(store, "tiny", "model-7", first, reason="in production", command="test")
    assert "releases" not in swept(store, days=3000, limits=FOREVER)
    assert verify_release(store, "tiny", first) == []
    tag(store, "tiny", "model-7", None, reason="retired", command="test")
    assert "releases" in swept(store, days=3000, limits=FOREVER)


def test_rows_that_did_not_get_in_go_after_their_time_and_a_rerun_makes_the_same_release(
    nights: tuple[Recipe, str, str, Path], tmp_path: Path
) -> None:
    recipe, _, second, source = nights
    store = copy_store(source, tmp_path / "store")
    assert "reports" not in swept(store, days=29, limits=LIMITS)
    counts = swept(store, days=31, limits=LIMITS)
    assert counts["reports"]["files"] and "releases" not in counts
    assert not {key.split("/")[2] for key in store.list_keys("private/manifests")} & HOLDING_REJECTED
    assert verify_store(store).wrong == [] and verify_release(store, "tiny", second) == []
    again = run_recipe(at(store, recipe))
    assert (again["release"], again["new"]) == (second, False)


def test_leftovers_of_a_killed_run_go_after_the_grace_time(
    nights: tuple[Recipe, str, str, Path], tmp_path: Path
) -> None:
    _, _, second, source = nights
    store = copy_store(source, tmp_path / "store")
    swept(store, days=2)
    clean = keys(store)
    store.put("private/objects/ab/" + "ab" * 32, b"an object whose manifest was never written")
    store.put("private/staging/0123", b"half a fi")
    store.put("private/aside/private/objects/cd/x.1", b"rotted")
    store.put("public/tiny/releases/0123456789abcdef/train/part-00000.parquet", b"never published")
    assert swept(store, days=0) == {} and keys(store) > clean
    counts = swept(store, days=2)
    assert {kind: count["files"] for kind, count in counts.items()} == {
        "objects": 1,
        "staging": 1,
        "aside": 1,
        "releases": 1,
    }
    assert keys(store) == clean and verify_release(store, "tiny", second) == []


def test_what_a_comparison_measured_goes_with_releases_of_its_age_and_is_never_another_datasets(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for dataset in ("tiny", "other"):
        store.write_sealed(f"private/compare/{dataset}/0123.json", {"generator": "rules", "spent": {}})
    assert swept(store, days=89, limits=LIMITS) == {} and swept(store, days=91) == {}
    assert swept(store, days=91, limits=LIMITS).keys() == {"compare"}
    assert keys(store) == {"private/compare/other/0123.json"}


def test_scratch_space_goes_by_the_retention_of_the_dataset_whose_it_is(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for dataset in ("tiny", "other"):
        begin(store, dataset, "all", {}, now=lambda: BEGINNING)
    for place in ("tiny/chat/answers/a", "other/chat/answers/a", "of-nobody"):
        store.put(f"private/scratch/{place}", b"paid for")
    later, short, long = datetime.now(UTC) + 2 * DAY, replace(LIMITS, requests=0 * DAY), FOREVER

    def listed(**limits: Limits) -> list[str]:
        return [item.key for item in find_garbage(store, grace=DAY, limits=limits, now=later).others]

    assert listed() == listed(other=long) == []
    assert listed(other=short) == ["private/scratch/other/chat/answers/a"]
    assert listed(other=short, tiny=long) == ["private/scratch/other/chat/answers/a"]
    assert len(listed(other=short, tiny=short)) == 3  # what is of no dataset goes when all of them would let it go
    assert any(
        "1 file(s) that may belong to any dataset" in line
        for line in find_garbage(store, grace=DAY, limits={"tiny": short}).left_alone
    )


@pytest.mark.usefixtures("inline_workers")
def test_what_a_extension_keeps_lies_under_its_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def keeping(work: Work, *how: Any) -> Context:
        context = extension_context(work, *how)
        assert context.scratch is not None
        context.scratch.put_if_absent("note", b"x")
        return context

    monkeypatch.setattr(fit_stage, "extension_context", keeping)
    recipe = tiny_recipe(write_rows(tmp_path / "rows.csv"), run={"orchestrator": "none", "store": str(tmp_path / "s")})
    run_recipe(recipe)
    kept = Store(str(tmp_path / "s")).list_keys("private/scratch")
    assert "private/scratch/tiny/rules/note" in kept and all(key.startswith("private/scratch/tiny/") for key in kept)


def test_what_a_running_attempt_may_name_stays(nights: tuple[Recipe, str, str, Path], tmp_path: Path) -> None:
    _, first, _, source = nights
    store = copy_store(source, tmp_path / "store")
    later = datetime.now(UTC) + 100 * DAY
    begin_at(store, later)
    before = keys(store)
    found = find_garbage(store, grace=DAY, limits={"tiny": LIMITS}, now=later)
    sweep_store(store, found, grace=DAY, command="test", now=lambda: later)
    assert found.left_alone and not found.releases()
    assert {key for key in before - keys(store) if not key.startswith("private/reports/")} == set()
    # One that begins after gc has looked: the release that gc was about to delete stays, and is there for it.
    store = copy_store(source, tmp_path / "store")
    found = find_garbage(store, grace=DAY, limits={"tiny": FOREVER}, now=later)
    assert found.releases() == {"tiny": [first]}
    begin_at(store, later)
    sweep_store(store, found, grace=DAY, command="test", now=lambda: later)
    assert verify_release(store, "tiny", first) == []


def test_a_bucket_is_swept_as_a_disk_is() -> None:
    with s3_server("nights"):
        store = Store("s3://nights/store")
        store.put("private/aside/private/objects/cd/x.1", b"rotted")
        store.put("private/objects/ab/" + "ab" * 32, b"an object whose manifest was never written")
        assert swept(store, days=0) == {}
        assert swept(store, days=2).keys() == {"aside", "objects"}
        assert keys(store) == set()
        store.delete("private/never/there")


def test_an_object_that_is_named_again_is_as_young_as_a_new_one(tmp_path: Path) -> None:
    """gc deletes by age: an object may be old and unnamed while a run is about to name it."""
    store = Store(str(tmp_path / "store"))
    (tmp_path / "file").write_bytes(b"content")
    sha256, _ = store.put_object(tmp_path / "file")
    path = tmp_path / "store/private/objects" / sha256[:2] / sha256
    past = datetime.now(UTC) - 2 * RENEWED
    os.utime(path, (past.timestamp(), past.timestamp()))
    store.put_object(tmp_path / "file")
    head = store.head(f"private/objects/{sha256[:2]}/{sha256}")
    assert head is not None and datetime.now(UTC) - head.modified < RENEWED


def test_a_gc_that_is_killed_anywhere_leaves_a_whole_store_and_the_next_one_ends_it(
    nights: tuple[Recipe, str, str, Path], tmp_path: Path
) -> None:
    _, _, second, source = nights
    later = datetime.now(UTC) + 91 * DAY

    def gc(store: Store) -> None:
        found = find_garbage(store, grace=DAY, limits={"tiny": LIMITS}, now=later)
        sweep_store(store, found, grace=DAY, command="test", now=lambda: later)

    copy_store(source, tmp_path / "undisturbed")
    undisturbed = DyingStore(str(tmp_path / "undisturbed"), None)
    gc(undisturbed)
    points = sorted(
        {*range(8), *range(8, undisturbed.changes, max(1, undisturbed.changes // 16)), undisturbed.changes - 1}
    )
    assert len(points) > 15
    for point in points:
        store = copy_store(source, tmp_path / "killed")
        with pytest.raises(Killed):
            gc(DyingStore(store.root, point))
        assert verify_store(store).wrong == [], point
        assert verify_release(store, "tiny", second) == []
        gc(store)
        assert keys(store) == keys(undisturbed), point
        assert [entry["kind"] for entry in read_log(store, "tiny").entries] == ["release", "release", "expire"]


def test_a_date_whose_release_expired_is_kept_as_such_and_no_night_makes_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempted, "_numbers", itertools.count())  # of one second the greatest id is the newest
    store, days = Store(str(tmp_path)), ["2026-10-01", "2026-10-02", "2026-10-03"]
    first, second, third = (tried(store, day) for day in days)
    later, limits = datetime.now(UTC) + 91 * DAY, Limits(90 * DAY, 1, 90 * DAY, 90 * DAY)
    found = find_garbage(store, grace=DAY, limits={"tiny": limits}, now=later)
    sweep_store(store, found, grace=DAY, command="test", now=lambda: later)
    log = read_log(store, "tiny")
    assert log.entries[-1]["expired"] == sorted(filter(None, (first, second)))
    assert log.current() == {days[2]: third} and log.newest() == third
    states = snapshot_states(RECIPE, store, None, log, now=later, first=days[0], last=days[2])
    assert [(state.state, state.outcome) for state in states[:2]] == [("kept", "expired")] * 2
    assert states[2].release == third
    assert not any(includes("failed", state) for state in states)
