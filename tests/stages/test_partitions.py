"""Night after night: no row moves between splits, and a source that cannot be trusted is said to be so, waited for or not."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from chain import make_run, produce_and_publish, recipe_document, write_rows
from commands import augmill, refused, write_recipe
from partitioned import DATED, Nights, Row, labelled, write_day

from augmill.flows.run import Run
from augmill.flows.source import read_source
from augmill.flows.units import source_view
from augmill.tasks.errors import DataError, UnsoundSource, UserError
from augmill.tasks.recipe.recipe import build_recipe
from augmill.tasks.rows.kinds.text import fold
from augmill.tasks.store.store import Store

NIGHT = "2026-10-08"
WORDS = [
    "alpha",
    "bravo",
    "carol",
    "delta",
    "echo",
    "foxtrot",
    "golf",
    "hotel",
    "india",
    "julia",
    "kilo",
    "lima",
    "mike",
    "november",
    "oscar",
    "papa",
]


def days(first: int, last: int, month: int = 10) -> list[str]:
    return [f"2026-{month:02}-{day:02}" for day in range(first, last + 1)]


def sentences(rng: random.Random, count: int) -> list[Row]:
    return [{"text": " ".join(rng.choices(WORDS, k=6)), "label": rng.choice("ab")} for _ in range(count)]


class Trusted(Nights):
    """Eight days of forty rows, read as a run reads them, on a clock that only sleeping moves."""

    def __init__(self, directory: Path, /, rows: int = 40, **changes: Any) -> None:
        ready = {"source": {"path": str(directory / "in"), "ready": changes.pop("ready", {})}}
        super().__init__(directory, **ready, **changes)
        rng = random.Random(1)
        for day in days(1, 8):
            write_day(self.source, day, sentences(rng, rows))
        self.now = datetime(2026, 10, 9, 2, 0, tzinfo=UTC)
        self.slept: list[float] = []
        self.meanwhile: Callable[[int], object] = lambda slept: None

    def sleep(self, seconds: float) -> bool:
        self.slept.append(seconds)
        self.now += timedelta(seconds=seconds)
        self.meanwhile(len(self.slept))
        return False

    def read(self, as_of: str | None = NIGHT, expected: str | None = None) -> dict[str, str]:
        """The revision of each partition that was read."""
        run = make_run(self.recipe, self.store, as_of, expected=expected)
        return partitions_read(run, clock=lambda: self.now, sleep=self.sleep)


def partitions_read(run: Run, **how: Any) -> dict[str, str]:
    ingested, split = read_source(run, **how)
    assert ingested.key.startswith("gather/") and split.key.startswith("split/")
    found: dict[str, str] = run.source["source"]
    return found


# --- splits -----------------------------------------------------------------------------------------------------------


def splits_of(nights: Nights, as_of: str) -> dict[str, dict[str, str]]:
    """split: {row id: folded text}."""
    _, split = read_source(make_run(nights.recipe, nights.store, as_of))
    tables = {name: nights.work.read(split, f"{name}.parquet") for name in ("train", "validation", "test")}
    return {
        name: dict(zip(table["row_id"].to_pylist(), map(fold, table["text"].to_pylist()), strict=True))
        for name, table in tables.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("window", ["all", "10d"])
def test_over_sixty_nights_in_any_order_no_row_moves_between_splits(tmp_path: Path, window: str) -> None:
    """With rows that come late, and one in a hundred more: what any night trained on is held out by none."""
    rng = random.Random(2)
    nights = Nights(tmp_path, partitions={"every": "day", "window": window})
    names = days(1, 30, 9) + days(1, 30, 10)
    for day in names:
        rows = sentences(rng, 12)
        write_day(nights.source, day, [*rows, *rows[:1]])  # the same text twice
    order = names[9:]
    rng.shuffle(order)
    place: dict[str, str] = {}
    texts: dict[str, set[str]] = {"train": set(), "held out": set()}
    for at, night in enumerate(order):
        if at % 10 == 5:  # late rows, in a day that has been read: one in a hundred more
            write_day(nights.source, rng.choice(names[:-5]), sentences(rng, 8), f"late-{at}.jsonl")
        for split, rows in splits_of(nights, night).items():
            for row_id, text in rows.items():
                assert place.setdefault(row_id, split) == split
                texts["train" if split == "train" else "held out"].add(text)
    assert set(place.values()) == {"train", "validation", "test"} and len(place) > 600
    assert not texts["train"] & texts["held out"]


# --- what a snapshot holds --------------------------------------------------------------------------------------------


def test_a_snapshot_notes_the_revision_of_each_partition_of_its_window(tmp_path: Path) -> None:
    nights = Trusted(tmp_path, partitions={"every": "day", "window": "3d"})
    view = source_view(nights.recipe, nights.store)
    assert {name: rows for name, (rows, _) in view.items()} == dict.fromkeys(days(1, 8), 40)
    assert nights.read("2026-10-07") == {name: view[name].revision for name in days(5, 7)}
    write_day(nights.source, "2026-10-06", sentences(random.Random(3), 5), "late.jsonl")
    later = source_view(nights.recipe, nights.store)
    assert [name for name in view if view[name] != later[name]] == ["2026-10-06"]
    assert nights.read("2026-10-07") == {name: later[name].revision for name in days(5, 7)}


def test_a_source_without_partitions_is_one(tmp_path: Path) -> None:
    recipe = build_recipe(recipe_document(write_rows(tmp_path / "rows.csv")), base=tmp_path)
    store = Store(str(tmp_path / "store"))
    view = source_view(recipe, store)
    assert partitions_read(make_run(recipe, store)) == {"all": view["all"].revision} and view["all"].rows == 60


# --- source.ready ------------------------------------------------------------------------------------------------------


def test_a_partition_without_its_marker_is_not_read(tmp_path: Path) -> None:
    nights = Trusted(tmp_path, ready={"marker": "_SUCCESS"})
    with pytest.raises(UnsoundSource, match=r"not ready: there is no _SUCCESS in .*day=2026-10-08 for 2026-10-08 yet"):
        nights.read()
    assert (nights.slept, nights.store.list_keys("private/manifests/ingest")) == ([], [])
    (nights.source / f"day={NIGHT}" / "_SUCCESS").touch()
    nights.read()
    with pytest.raises(UnsoundSource, match="there is no file of 2026-10-09 yet"):
        nights.read("2026-10-09")


def test_the_marker_of_rows_that_tell_their_day_stands_at_the_root(tmp_path: Path) -> None:
    nights = Nights(tmp_path, source={"path": str(tmp_path / "in"), "ready": {"marker": "done"}})
    rows = [row | {"day": NIGHT} for row in sentences(random.Random(1), 40)]
    (nights.source / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UnsoundSource, match=r"there is no done in .*/in for"):
        partitions_read(make_run(nights.recipe, nights.store, NIGHT))
    (nights.source / "done").touch()
    partitions_read(make_run(nights.recipe, nights.store, NIGHT))


def test_the_newest_partition_is_waited_for_until_the_hour(tmp_path: Path) -> None:
    """A file that is being written looks damaged: that is waited for too."""
    ready = {"min_rows": 30, "wait_until": "04:00"}
    nights = Trusted(tmp_path, ready=ready, schedule={"timezone": "Europe/Berlin"})  # 02:00 UTC is 04:00 there
    path = write_day(nights.source, NIGHT, sentences(random.Random(4), 10))
    nights.now = datetime(2026, 10, 9, 1, 0, tzinfo=UTC)
    with pytest.raises(UnsoundSource, match=r"not ready at 04:00: partition 2026-10-08 has 10 rows; .*asks for 30"):
        nights.read()
    assert nights.now == datetime(2026, 10, 9, 2, 0, tzinfo=UTC) and set(nights.slept) == {15.0}

    whole = path.read_bytes()

    def deliver(slept: int) -> None:
        if slept == 2:
            path.write_bytes(b"[")
        if slept == 3:
            write_day(nights.source, NIGHT, sentences(random.Random(5), 40))

    path.write_bytes(whole)
    nights.now, nights.slept, nights.meanwhile = datetime(2026, 10, 9, 1, 0, tzinfo=UTC), [], deliver
    assert nights.read() and len(nights.slept) == 3


def test_no_other_partition_is_waited_for_and_none_after_the_hour(tmp_path: Path) -> None:
    nights = Trusted(tmp_path, ready={"min_rows": 41, "wait_until": "04:00"})
    for as_of, now in ((NIGHT, datetime(2026, 10, 9, 5, tzinfo=UTC)), ("2026-10-07", nights.now)):
        nights.now = now
        with pytest.raises(UnsoundSource, match="not ready"):
            nights.read(as_of)
    assert nights.slept == []


@pytest.mark.parametrize(("rows", "stops"), [(20, False), (19, True)])
def test_rows_that_collapse_against_the_seven_partitions_before_are_unsound(
    tmp_path: Path, rows: int, stops: bool
) -> None:
    nights = Trusted(tmp_path, ready={"max_drop": "50%"})
    write_day(nights.source, "2026-10-03", sentences(random.Random(6), 400))  # one odd day moves no median
    write_day(nights.source, NIGHT, sentences(random.Random(7), rows))
    if not stops:
        nights.read()
        return
    with pytest.raises(UnsoundSource, match=r"has 19 rows, 52% below the 40 of the 7 before it; .*allows 50%"):
        nights.read()
    nights.read("2026-10-07")


def test_rows_that_collapse_against_the_current_release_are_unsound(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows.csv", 60)
    document = recipe_document(source) | {"source": {"path": str(source), "ready": {"max_drop": "20%"}}}
    recipe, store = build_recipe(document, base=tmp_path), Store(str(tmp_path / "store"))
    release, _ = produce_and_publish(recipe, store)
    write_rows(source, 50)
    partitions_read(make_run(recipe, store, expected=release))
    write_rows(source, 45)
    with pytest.raises(
        UnsoundSource, match=r"below the \d+ of the current release; source\.ready\.max_drop allows 20%"
    ):
        partitions_read(make_run(recipe, store, expected=release))


# --- classes and the user's own expectations --------------------------------------------------------------------------


def test_a_class_that_leaves_the_window_all_at_once_is_unsound_unless_it_is_retired(tmp_path: Path) -> None:
    nights = Trusted(tmp_path, partitions={"every": "day", "window": "2d"})
    write_day(nights.source, "2026-10-06", labelled((f"{word} of c" for word in WORDS[:4]), "c"), "c.jsonl")
    nights.read("2026-10-07")
    write_day(nights.source, "2026-10-09", sentences(random.Random(3), 40))
    for night in (NIGHT, "2026-10-09"):  # it does not pass because nobody looked on the first of them
        with pytest.raises(UnsoundSource, match=r"1 class\(es\) of the windows before .*: c"):
            nights.read(night)
    nights.document |= {"labels": {"retired": ["c"]}}
    nights.read()
    nights.document |= {"labels": {"min_rows": 3}}  # too few to have been trained on
    nights.read()


def test_a_window_that_moves_on_from_a_rare_class_is_sound(tmp_path: Path) -> None:
    """Three rows of it a week, never more than three in a window of two days: it was never to be trained on."""
    nights = Trusted(tmp_path, partitions={"every": "day", "window": "2d"})
    for day in days(2, 4):
        write_day(nights.source, day, labelled([f"{day} is of c"], "c"), "c.jsonl")
    nights.read()


def test_a_day_that_is_not_over_is_not_read_and_one_that_none_can_read_is_no_partition(tmp_path: Path) -> None:
    nights = Trusted(tmp_path)
    broken = write_day(nights.source, "2026-10-09", [])
    broken.write_text('{"text": "half a')
    assert list(source_view(nights.recipe, nights.store, NIGHT)) == days(1, 8)
    for path in [*nights.source.glob("day=*")]:
        path.rename(nights.source / f"day={path.name[-2:]}.10.2026")
    (nights.source / "day=09.10.2026" / "rows.jsonl").write_text('{"text": "a", "label": "a"}\n')
    with pytest.raises(DataError, match=r"'01\.10\.2026': a date that does not begin with its year"):
        source_view(nights.recipe, nights.store)


SUITE = """
- type: expect_column_values_to_be_in_set
  kwargs: {column: label, value_set: [a, b]}
- {type: expect_table_row_count_to_be_between, kwargs: {min_value: 300}}
"""


def test_the_users_expectations_are_of_the_windows_rows_and_show_counts_alone(tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text(SUITE)
    nights = Trusted(tmp_path, validation={"enabled": False, "source": "suite.yaml"})
    nights.read()
    with pytest.raises(UnsoundSource, match=r"1 of 2 .* failed: table: .*row_count.*, observed 280"):
        nights.read("2026-10-07")
    write_day(nights.source, NIGHT, labelled(("a secret sentence", "another"), "hidden"), "odd.jsonl")
    with pytest.raises(UnsoundSource, match=r"label: expect_column_values_to_be_in_set, 2 of 322 rows") as told:
        nights.read()
    assert "hidden" not in str(told.value) and "secret" not in str(told.value)


@pytest.mark.parametrize(
    ("suite", "says"),
    [
        ("- {type: expect_nonsense, kwargs: {}}", r"expectation 1 .*there is no expectation 'expect_nonsense'"),
        ("- {type: expect_column_values_to_not_be_null, kwargs: {colum: text}}", "column"),
        ("- {typo: expect_nonsense}", "expected type and kwargs"),
        ("[]", "expected a list of expectations"),
        ("type: x", "expected a list of expectations"),
        ("- {type: x, kwargs: 3}", "expected type and kwargs"),
    ],
)
def test_a_suite_that_is_none_is_refused_before_anything_is_read(tmp_path: Path, suite: str, says: str) -> None:
    (tmp_path / "suite.yaml").write_text(suite)
    nights = Trusted(tmp_path, rows=1, validation={"source": "suite.yaml"})
    with pytest.raises(UserError, match=says):
        nights.read()
    assert nights.store.list_keys("private/manifests") == []


def test_check_names_an_expectation_that_there_is_not(tmp_path: Path) -> None:
    (tmp_path / "suite.json").write_text('[{"type": "expect_nonsense"}]')
    recipe = write_recipe(tmp_path, validation={"source": "suite.json"})
    refused(augmill("check", recipe), 2, ["suite.json", "expect_nonsense", "validation.source"])


def test_a_changed_suite_makes_no_other_release(tmp_path: Path) -> None:
    nights = Trusted(tmp_path, rows=1)
    first = nights.recipe.hash()
    (tmp_path / "suite.yaml").write_text(SUITE)
    nights.document |= {"validation": {"enabled": False, "source": "suite.yaml"}, "columns": DATED}
    assert nights.recipe.hash() == first
