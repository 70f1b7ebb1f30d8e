"""Forgetting a row: afterwards nothing in the store says it, and what is left is as if it had never been there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chain import make_run, tiny_recipe, write_rows
from hypothesis import given
from hypothesis import strategies as st
from keeping import GATE, DyingStore, Killed, copy_store, files_with, keys, released
from running import run

from augmill.flows.augment import run_recipe
from augmill.flows.nights.plan import least_mode
from augmill.flows.nights.states import snapshot_states
from augmill.flows.releases import forgetting
from augmill.flows.releases.differences import audit
from augmill.flows.releases.forgetting import forget
from augmill.flows.releases.holding import find_rows
from augmill.flows.releases.verify import verify_store
from augmill.flows.source import read_source
from augmill.tasks.errors import ConflictError, UserError
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.store.attempts import begin, utc_now
from augmill.tasks.store.erasure import count_held, read_erased, write_erased
from augmill.tasks.store.log import Log, read_log, tag
from augmill.tasks.store.releases import verify_release
from augmill.tasks.store.stage import Work
from augmill.tasks.store.store import Store, log_key

REASON = "request 12"


def at(store: Store, recipe: Recipe) -> Recipe:
    return replace(recipe, run=replace(recipe.run, store=store.root))


def without(source: Path, text: str, target: Path) -> Path:
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith(f"{text},")]
    assert len(kept) < len(lines)
    target.parent.mkdir(exist_ok=True)
    target.write_text("".join(kept), encoding="utf-8")
    return target


def row_with_children(store: Store, release: str) -> dict[str, Any]:
    """A real train row of which synthetic ones were made."""
    rows = released(store, "tiny", release)
    parents = {parent for row in rows for parent in row["aug_parent_ids"] or []}
    return next(row for row in rows if row["aug_row_id"] in parents)


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, list[str], Path]:
    """(recipe, its three releases of one snapshot, store): the first one tagged, the last one current."""
    folder = tmp_path_factory.mktemp("nights")
    source = write_rows(folder / "rows.csv")
    how = {"orchestrator": "none", "shard_rows": 60, "store": str(folder / "store")}
    recipes = [tiny_recipe(source, gate=GATE, run=how, seed=seed) for seed in (1, 2, 0)]
    releases = [run(recipe).result["release"] for recipe in recipes]
    assert len(set(releases)) == 3
    store = Store(str(folder / "store"))
    tag(store, "tiny", "model-7", releases[0], reason="in production", command="test")
    return recipes[-1], releases, folder / "store"


@pytest.fixture(scope="module")
def forgotten(
    nights: tuple[Recipe, list[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Recipe, dict[str, Any], dict[str, Any], Store]:
    """(recipe, the row, what forget said, the store after it)."""
    recipe, releases, source = nights
    store = copy_store(source, tmp_path_factory.mktemp("forgotten") / "store")
    row = row_with_children(store, releases[-1])
    store.put("private/aside/private/objects/ab/x.1", row["text"].encode())
    store.put("private/scratch/paid/answers.json", json.dumps({"text": row["text"]}).encode())
    said = forget(at(store, recipe), [row["aug_row_id"]], reason=REASON, command="augmill forget recipe.yaml")
    return at(store, recipe), row, said, store


def test_nothing_in_the_store_says_the_row_any_more(
    nights: tuple[Recipe, list[str], Path], forgotten: tuple[Recipe, dict[str, Any], dict[str, Any], Store]
) -> None:
    _, row, _, store = forgotten
    before = files_with(nights[2], row["text"])
    assert {path.split("/")[0] for path in before} == {"private", "public"} and len(before) > 10  # the scan finds it
    assert any("/reports/" in path for path in before)
    assert store.local is not None
    assert files_with(store.local, row["text"]) == []
    assert files_with(store.local, row["aug_row_id"]) == []
    assert verify_store(store).wrong == []


def test_what_is_left_is_what_a_source_without_the_row_gives(
    forgotten: tuple[Recipe, dict[str, Any], dict[str, Any], Store], tmp_path: Path
) -> None:
    recipe, row, said, _ = forgotten
    clean = without(Path(recipe.source.path), row["text"], tmp_path / "clean" / "rows.csv")
    other = replace(
        recipe,
        source=replace(recipe.source, path=str(clean)),
        run=replace(recipe.run, store=str(tmp_path / "fresh")),
    )
    assert run_recipe(other)["release"] == said["made"]["all"]


def test_the_row_stays_away_though_the_source_still_holds_it(
    forgotten: tuple[Recipe, dict[str, Any], dict[str, Any], Store], tmp_path: Path
) -> None:
    recipe, row, said, source = forgotten
    assert source.local is not None and row["text"] in Path(recipe.source.path).read_text()
    store = copy_store(source.local, tmp_path / "store")
    again = run(at(store, recipe))
    assert (again.result["release"], again.result["new"], again.worked) == (said["made"]["all"], False, 0)
    (gathered,) = store.list_keys("private/manifests/gather")
    summary = json.loads(store.get(gathered) or b"")["body"]["files"]["summary.json"]
    refused = json.loads(store.fetch_object(summary["sha256"], summary["size"]).read_text())
    assert refused["refused"] == {"erased": 1}


def test_the_log_tells_pinned_readers_and_does_not_repeat_the_row(
    nights: tuple[Recipe, list[str], Path], forgotten: tuple[Recipe, dict[str, Any], dict[str, Any], Store]
) -> None:
    _, releases, _ = nights
    _, _, said, store = forgotten
    new = said["made"]["all"]
    log = read_log(store, "tiny")
    (entry,) = [entry for entry in log.entries if entry["kind"] == "forget"]
    assert entry["reason"] == REASON and entry["erased"] == sorted(releases)
    assert entry["replaced"] == {releases[0]: new, releases[2]: new}  # the tagged and the current one; not the old one
    # The tagged release was made by another recipe (its seed) than the one that makes the new one.
    counts = {"rows": 1, "found": 1, "unknown": 0, "releases": 3, "made_again": 2, "other_recipe": 1}
    assert entry["counts"] == counts and said["other_recipe"] == [releases[0]]
    assert log.current() == {"all": new} and log.tags() == {"model-7": new}
    assert verify_release(store, "tiny", new) == []
    for release, successor in ((releases[0], new), (releases[1], None), (releases[2], new)):
        (name,) = store.list_keys(f"public/tiny/releases/{release}")
        assert json.loads(store.get(name) or b"")["replaced_by"] == successor


def test_what_is_made_again_says_who_approved_it_with_which_numbers(
    forgotten: tuple[Recipe, dict[str, Any], dict[str, Any], Store],
) -> None:
    """It is judged anew: the numbers are of its own run, by the recipe that made it."""
    recipe, _, said, store = forgotten
    new = said["made"]["all"]
    log = read_log(store, "tiny")
    entry = log.publication(new)
    assert (entry["kind"], entry["recipe"], entry["approved_by"]) == ("forget", recipe.hash(), "rule not_worse")
    assert entry["outcome"] == "published" and "mix-real" in entry["verdict"]
    assert entry["reason"].startswith(f"{REASON}; made again without the rows: ")
    (told,) = [e for e in audit(store, log, new)["entries"] if e["kind"] == "forget"]
    assert {name: told[name] for name in ("verdict", "approved_by", "recipe")} == {
        name: entry[name] for name in ("verdict", "approved_by", "recipe")
    }
    # What was erased was not judged by it: of that one the entry says that it is gone, and what took its place.
    (gone,) = [e for e in audit(store, log, next(iter(entry["replaced"])))["entries"] if e["kind"] == "forget"]
    assert gone["reason"] == REASON and "verdict" not in gone and "outcome" not in gone


def test_a_release_that_a_tag_alone_keeps_is_made_again_with_its_approval_too(
    nights: tuple[Recipe, list[str], Path], tmp_path: Path
) -> None:
    """The current one does not hold the row, so the new one becomes current nowhere."""
    recipe, releases, source = nights
    store = copy_store(source, tmp_path / "store")
    row = row_with_children(store, releases[-1])
    clean = without(Path(recipe.source.path), row["text"], tmp_path / "clean" / "rows.csv")
    other = replace(at(store, recipe), source=replace(recipe.source, path=str(clean)))
    current = run_recipe(replace(other, seed=9))["release"]
    said = forget(other, [row["aug_row_id"]], reason=REASON, command="test")
    log = read_log(store, "tiny")
    assert log.current() == {"all": current} and log.tags() == {"model-7": said["made"]["all"]}
    assert log.publication(said["made"]["all"])["approved_by"] == "rule not_worse"


def test_a_second_forget_of_the_same_row_changes_nothing(
    forgotten: tuple[Recipe, dict[str, Any], dict[str, Any], Store], tmp_path: Path
) -> None:
    recipe, row, _, source = forgotten
    assert source.local is not None
    store = copy_store(source.local, tmp_path / "store")
    before = keys(store), len(read_log(store, "tiny").entries)
    forget(at(store, recipe), [row["aug_row_id"]], reason=REASON, command="test")
    assert (keys(store), len(read_log(store, "tiny").entries)) == before


def test_looking_first_changes_nothing_and_finds_what_then_goes(
    nights: tuple[Recipe, list[str], Path], forgotten: tuple[Recipe, dict[str, Any], dict[str, Any], Store]
) -> None:
    recipe, releases, _ = nights
    store = Store(recipe.run.store)
    before = keys(store)
    found = find_rows(store, recipe, [forgotten[1]["aug_row_id"]])
    assert keys(store) == before and found.again == ["all"]
    assert {name: held.because for name, held in found.holding.items()} == dict.fromkeys(releases, "rows")
    assert sorted(found.holding[releases[0]].names) == ["model-7"] and found.holding[releases[1]].names == []
    counted = sum(
        forgotten[1]["aug_row_id"] in (row["aug_parent_ids"] or []) for row in released(store, "tiny", releases[2])
    )
    assert found.holding[releases[2]].descended == counted > 0
    with pytest.raises(UserError, match="none of the 1 id"):
        forgetting.require_known(store, find_rows(store, recipe, ["no such row"]))


def test_nothing_is_forgotten_while_a_snapshot_runs(nights: tuple[Recipe, list[str], Path], tmp_path: Path) -> None:
    recipe, releases, source = nights
    store = copy_store(source, tmp_path / "store")
    begin(store, "tiny", "all", {})
    before = keys(store)
    row = row_with_children(store, releases[-1])
    with pytest.raises(ConflictError, match="is being made"):
        forget(at(store, recipe), [row["aug_row_id"]], reason=REASON, command="test")
    assert keys(store) == before


def test_a_made_row_is_refused_before_anything_is_written(nights: tuple[Recipe, list[str], Path]) -> None:
    """No run could leave it out, so the request would never end."""
    recipe, releases, source = nights
    store = Store(str(source))
    rows = released(store, "tiny", releases[-1])
    real, made = (next(r["aug_row_id"] for r in rows if r["aug_origin"] == of) for of in ("real", "synthetic"))
    before = keys(store)
    for ids in ([made], [real, made]):
        with pytest.raises(UserError, match=rf"'{made}' is a synthetic row.*\n.*parents"):
            forget(recipe, ids, reason=REASON, command="test")
    assert keys(store) == before


def test_a_snapshot_that_cannot_be_made_again_stops_before_anything_is_removed_and_is_pending(
    nights: tuple[Recipe, list[str], Path], tmp_path: Path
) -> None:
    recipe, releases, source = nights
    store = copy_store(source, tmp_path / "store")
    broken = replace(at(store, recipe), source=replace(recipe.source, path=str(tmp_path / "gone.csv")))
    row = row_with_children(store, releases[-1])
    ids = [row["aug_row_id"], "no such row"]
    before = {key for key in keys(store) if key.startswith("public/")}
    assert verify_store(store).pending == []
    with pytest.raises(UserError, match=r"(?s)snapshot 'all' .*nothing was removed yet.*gone\.csv.*--no-rebuild"):
        forget(broken, ids, reason=REASON, command="test")
    assert {key for key in keys(store) if key.startswith("public/")} == before
    (sentence,) = verify_store(store).pending
    assert sentence.startswith("tiny: 1 erasure(s) pending")
    said = forget(broken, ids, reason=REASON, command="test", rebuild=False)
    assert (said["made_again"], said["other_recipe"], said["made"]) == ([], [], {})
    log = read_log(store, "tiny")
    (state,) = snapshot_states(recipe, store, None, log, now=utc_now())  # a night, or a backfill, makes it
    assert (state.state, state.release, least_mode(state)) == ("missing", None, "missing")
    assert verify_store(store).pending == [] and files_with(tmp_path / "store", row["text"]) == []
    # An id that stands nowhere is told apart, in the log too, and kept out should it come late.
    entry = read_log(store, "tiny").entries[-2]  # before the tag's
    assert entry["kind"] == "forget"
    for counts in (said, entry["counts"]):
        assert (counts["rows"], counts["found"], counts["unknown"]) == (2, 1, 1)
    assert read_erased(store, "tiny").holds("no such row")


@pytest.mark.slow
def test_a_forget_that_is_killed_anywhere_is_ended_by_the_same_command(
    nights: tuple[Recipe, list[str], Path],
    forgotten: tuple[Recipe, dict[str, Any], dict[str, Any], Store],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the list and the new release, which every kill of a run is tested with (test_crash): each kind of change."""
    recipe, _, source = nights
    _, row, said, undisturbed = forgotten
    made = copy_store(source, tmp_path / "made")
    write_erased(made, "tiny", [row["aug_row_id"]])
    staged = run_recipe(at(made, recipe))  # so that each forget below finds the new release and its artifacts
    assert staged["release"] == said["made"]["all"]
    made.delete(log_key("tiny", 4))  # as a staged run leaves it: put, not current
    total = DyingStore(str(copy_store(tmp_path / "made", tmp_path / "count").root), None)
    dies = {"store": total}
    monkeypatch.setattr(forgetting, "Store", lambda root: dies["store"])
    forget(at(total, recipe), [row["aug_row_id"]], reason=REASON, command="test")
    points = sorted({0, 1, 2, 3, *range(4, total.changes, max(1, total.changes // 5)), total.changes - 1})
    for point in points:
        store = copy_store(tmp_path / "made", tmp_path / "killed")
        dies["store"] = DyingStore(store.root, point)
        with pytest.raises(Killed):
            forget(at(store, recipe), [row["aug_row_id"]], reason=REASON, command="test")
        assert verify_store(store).wrong == [], point
        dies["store"] = store
        forget(at(store, recipe), [row["aug_row_id"]], reason=REASON, command="test")
        assert store.local is not None and files_with(store.local, row["text"]) == [], point
        log = read_log(store, "tiny")
        assert [entry["kind"] for entry in log.entries].count("forget") == 1, point
        assert log.current() == {"all": said["made"]["all"]} == {"all": log.tags()["model-7"]}, point
        assert {key for key in keys(store) if key.startswith("public/")} == {
            key for key in keys(undisturbed) if key.startswith("public/")
        }, point


IDS = st.lists(st.sampled_from(["a", "b", "a-2", "c-11", ""]), max_size=8)


@given(IDS, st.lists(st.none() | IDS, max_size=6), st.lists(st.booleans(), min_size=8, max_size=8), st.booleans())
def test_rows_and_descendants_are_counted_as_a_loop_counts_them(
    own: list[str], parents: list[list[str] | None], synthetic: list[bool], with_id: bool
) -> None:
    def plain(name: str) -> str:
        return name if with_id else name.partition("-")[0]

    wanted = frozenset({"a", "c"})
    parents = (parents + [None] * len(own))[: len(own)]
    kinds = ["synthetic" if made else "real" for made in synthetic[: len(own)]]
    names = ("user_row_id", "user_origin", "x_row_id", "x_origin")
    columns = (["a"] * len(own), ["synthetic"] * len(own), own, kinds)
    table = pa.table(
        [pa.array(column, pa.string()) for column in columns] + [pa.array(parents, pa.list_(pa.string()))],
        names=[*names, "x_parent_ids"],
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    held = count_held(pa.BufferReader(sink.getvalue()), wanted, with_id=with_id)
    assert held.rows == sum(plain(name) in wanted for name in own)
    assert held.descended == sum(any(plain(name) in wanted for name in of or []) for of in parents)
    real = [name for name, kind in zip(own, kinds, strict=True) if kind == "real"]
    made = [name for name, kind in zip(own, kinds, strict=True) if kind == "synthetic"]
    assert held.source == {plain(name) for name in real + [name for of in parents for name in of or []]} & wanted
    assert held.made == {plain(name) for name in made} & wanted


@given(requests=st.lists(st.sets(st.text(max_size=5), min_size=1, max_size=5), min_size=1, max_size=4))
def test_the_list_holds_what_was_ever_asked_and_says_none_of_it(
    requests: list[set[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = Store(str(tmp_path_factory.mktemp("erased")))
    for ids in [*requests, requests[0]]:
        write_erased(store, "tiny", ids)
    erased, every = read_erased(store, "tiny"), set().union(*requests)
    assert all(erased.holds(name) for name in every) and not erased.holds("never asked")
    assert len(store.list_keys("private/erased")) == len({frozenset(ids) for ids in requests})
    assert read_erased(store, "other").digest == "" and not read_erased(store, "other").holds(next(iter(every)))


def test_of_dated_snapshots_only_those_that_hold_the_row_are_made_again(tmp_path: Path) -> None:
    """Also where another snapshot's run has read the row's partition: it stands before its window."""
    days = ("2026-10-01", "2026-10-02", "2026-10-03")
    for number, day in enumerate(days):
        folder = tmp_path / "source" / f"day={day}"
        folder.mkdir(parents=True)
        write_rows(folder / "rows.csv", seed=number)
    recipe = tiny_recipe(
        tmp_path / "source",
        gate=GATE,
        columns={"text": "text", "label": "label", "partition": "day"},
        partitions={"every": "day", "window": "2d"},
        run={"orchestrator": "none", "shard_rows": 60, "store": str(tmp_path / "store")},
    )
    before = {day: run(recipe, as_of=day).result["release"] for day in days[1:]}
    store = Store(recipe.run.store)
    row = next(row for row in released(store, "tiny", before[days[1]]) if str(row["day"]) == days[0])
    said = forget(recipe, [row["aug_row_id"]], reason=REASON, command="test")
    assert said["made_again"] == [days[1]] and said["made"][days[1]] != before[days[1]]
    assert read_log(store, "tiny").current() == {days[1]: said["made"][days[1]], days[2]: before[days[2]]}
    assert files_with(tmp_path / "store", row["text"]) == []
    assert verify_store(store).wrong == []
    last = run(recipe, as_of=days[2])
    assert (last.result["new"], last.result["release"]) == (False, before[days[2]])
    assert last.worked <= 3  # the units are read again, without the row; what is made of them stands


@pytest.mark.parametrize("with_id", [False, True])
def test_erased_rows_are_no_sign_of_an_unsound_source(tmp_path: Path, with_id: bool) -> None:
    """A third of the rows, far more than refuse.max_share lets through; with an id column, by the value in it."""
    lines = write_rows(tmp_path / "plain.csv").read_text().splitlines()
    ids = ["id", *(f"customer {number}" for number in range(1, len(lines)))]
    (tmp_path / "rows.csv").write_text("".join(f"{line},{name}\n" for line, name in zip(lines, ids, strict=True)))
    columns = {"text": "text", "label": "label"} | ({"id": "id"} if with_id else {})
    recipe = tiny_recipe(tmp_path / "rows.csv", columns=columns)
    store = Store(str(tmp_path / "store"))
    run = make_run(recipe, store)
    before, _ = read_source(run)
    chosen = Work(run.site, tmp_path).read(before).slice(0, 20)
    write_erased(store, recipe.dataset, chosen["row_id"].to_pylist())
    gathered, _ = read_source(make_run(recipe, store))
    left = Work(run.site, tmp_path).read(gathered)
    assert left.num_rows == 40 and not set(left["text"].to_pylist()) & set(chosen["text"].to_pylist())
    refused = Work(run.site, tmp_path).read(gathered, "refused.parquet").to_pylist()
    assert [(row["reason"], row["detail"], row["row"]) for row in refused] == [("erased", "", "")] * 20


def test_a_rollback_undoes_the_last_publication_not_the_forgetting() -> None:
    """What was made again stands where what it replaced was published."""

    def entry(kind: str, current: dict[str, str], **more: Any) -> dict[str, Any]:
        return {"kind": kind, "current": current, **more}

    log = Log("tiny", [entry("release", {"a": "a1"}), entry("release", {"b": "b1"}), entry("release", {"c": "c1"})])
    log.entries.append(entry("forget", {"a": "a2", "b": "b2"}, replaced={"a1": "a2", "b1": "b2"}))
    assert log.standing() == {"a": 0, "b": 1, "c": 2}
    log.entries.append(entry("release", {"a": "a3"}))
    assert log.standing() == {"a": 4, "b": 1, "c": 2}
