"""Between refits (law 7): a fit of the calendar's night, its candidates used again, no history of runs an input."""

from __future__ import annotations

import csv
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from chain import WORDS, Produced, make_run, produce_snapshot, tiny_recipe

from augmill.flows.outcome import CutShort
from augmill.flows.rounds import produce, split_to_fit
from augmill.flows.source import read_source
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.rows.calendar import Calendar
from augmill.tasks.store.stage import Event, fetch, read_json
from augmill.tasks.store.store import Store

DAYS = list(Calendar("day").between("2026-10-01", "2026-10-12"))  # the grid of 7 days: complete by Sunday 4th and 11th


def sentence(draw: random.Random, label: str) -> str:
    return " ".join(draw.choices(WORDS.get(label, WORDS["login"]), k=7))


def write_day(folder: Path, day: str, rows: Sequence[tuple[str, str, str]]) -> None:
    """One partition: (id, label, text) each."""
    path = folder / f"day={day}" / "rows.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "label", "text"])
        writer.writerows(rows)


def drawn(day: str, count: int, labels: Sequence[str] = ("refund", "track", "login")) -> list[tuple[str, str, str]]:
    draw = random.Random(day)
    picked = [labels[at % len(labels)] for at in range(count)]
    return [(f"{day}-{at}", label, sentence(draw, label)) for at, label in enumerate(picked)]


def write_source(folder: Path, days: Sequence[str] = DAYS, first: int = 120, later: int = 6) -> Path:
    for at, day in enumerate(days):
        write_day(folder, day, drawn(day, later if at else first))
    return folder


def dated(source: Path, *, refit: dict[str, Any], window: str = "all", **changes: Any) -> Recipe:
    columns = {"text": "text", "label": "label", "id": "id", "partition": "day"}
    partitions = {"every": "day", "window": window}
    target = {"target": {"multiply": 2.0}}
    return tiny_recipe(source, columns=columns, partitions=partitions, refit=refit, **(target | changes))


@dataclass(frozen=True)
class Night:
    produced: Produced
    events: list[Event]
    store: Store

    @property
    def drift(self) -> dict[str, Any]:
        return self.produced.made.drift

    @property
    def content(self) -> str:
        return self.produced.settled.content

    @property
    def fitted(self) -> str:
        return str(self.drift["fitted"])

    def count(self, stage: str) -> int:
        return sum(event.rows for event in self.events if event.stage == stage and not event.reused)

    def rows(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = pq.read_table(fetch(self.store, self.produced.settled, name)).to_pylist()
        return found

    def train(self) -> dict[str, str]:
        """The class of each train row."""
        table = pq.read_table(fetch(self.store, self.produced.split, "train.parquet"))
        return dict(zip(table["row_id"].to_pylist(), table["stratum"].to_pylist(), strict=True))

    def ledger(self) -> dict[str, Any]:
        found: dict[str, Any] = read_json(self.store, self.produced.settled, "ledger.json")
        return found


def night(recipe: Recipe, root: Path, day: str) -> Night:
    store = Store(str(root))
    produced = produce_snapshot(recipe, store, day)
    return Night(produced, produced.run.events, store)


EVERY: dict[str, Any] = {"every": "7d"}


def test_the_fit_is_of_the_grid_and_only_the_shortfall_is_sampled(tmp_path: Path) -> None:
    recipe = dated(write_source(tmp_path / "rows"), refit=EVERY)
    nights = {day: night(recipe, tmp_path / "store", day) for day in DAYS[:6]}
    # History begins on the 1st, after the grid's 27th of September: the first night there is.
    assert [nights[day].fitted for day in DAYS[:6]] == [*[DAYS[0]] * 3, *[DAYS[3]] * 3]
    first, second, refitted = nights[DAYS[0]], nights[DAYS[1]], nights[DAYS[3]]
    assert first.count("sample") == first.count("generate") > 60
    assert second.count("generate") > 0 and second.count("sample") < first.count("sample") / 5
    assert second.count("fit") == 0 < second.count("fit_check")  # judged anew, by checks of the night's own rows
    assert refitted.count("fit") > 0 and refitted.count("sample") > 60


def test_how_far_the_rows_moved_is_known_of_a_night_whose_fit_is_cut_short(tmp_path: Path) -> None:
    recipe = dated(write_source(tmp_path / "rows", DAYS[:3]), refit=EVERY)
    run = make_run(recipe, Store(str(tmp_path / "store")), DAYS[2])
    ingested, split = read_source(run)
    run.site = replace(run.site, deadline=0.0)
    made = produce(run, split, ingested)
    assert isinstance(made.missing, CutShort) and made.drift["fitted"] == DAYS[0]


@pytest.mark.slow
@pytest.mark.parametrize(("refit", "window"), [(EVERY, "4d"), ({"when_drifted": 0.1, "max_age": "7d"}, "all")])
def test_any_order_of_nights_gives_the_same_rows(tmp_path: Path, refit: dict[str, Any], window: str) -> None:
    source = write_source(tmp_path / "rows", DAYS[:5], first=60, later=20)
    write_day(source, DAYS[4], drawn(DAYS[4], 60, ["refund"]))  # a jump of the label mix
    recipe = dated(source, refit=refit, window=window, checks={"label_consistency": False})
    days = DAYS[2:5]
    found = {
        name: {day: (made := night(recipe, tmp_path / name, day)).content + made.fitted for day in order}
        for name, order in {"oldest": days, "newest": days[::-1]}.items()
    }
    assert found["oldest"] == found["newest"]


def test_no_later_row_has_a_say(tmp_path: Path) -> None:
    before = write_source(tmp_path / "before", DAYS[:5])
    after = write_source(tmp_path / "after", DAYS)
    for refit in (EVERY, {"when_drifted": 0.05, "max_age": "7d"}):
        made = [
            night(dated(source, refit=refit), tmp_path / f"{source.name}-store", DAYS[4]) for source in (before, after)
        ]
        assert made[0].content == made[1].content


def test_a_class_that_came_after_the_fit_is_a_shortfall_until_the_next(tmp_path: Path) -> None:
    source = write_source(tmp_path / "rows", DAYS[:4])
    write_day(source, DAYS[1], drawn(DAYS[1], 40, ["refund", "moved"]))
    recipe = dated(source, refit=EVERY)
    waiting = night(recipe, tmp_path / "store", DAYS[2])
    assert waiting.fitted == DAYS[0]
    ledger = waiting.ledger()
    assert ledger["shortfall"]["moved"] == ledger["targets"]["moved"] > 0
    assert "moved" not in {entry["class"] for entry in ledger["rows"]}
    assert ledger["accepted"]["refund"] > 0
    assert night(recipe, tmp_path / "store", DAYS[3]).ledger()["accepted"]["moved"] > 0


def change_rows(source: Path) -> None:
    """Of the first day's rows a quarter is relabelled and a quarter withdrawn, after a fit has seen them."""
    rows = drawn(DAYS[0], 120)
    kept = [(i, "track" if at % 4 == 0 else label, text) for at, (i, label, text) in enumerate(rows) if at % 4 != 1]
    write_day(source, DAYS[0], kept)


def leave_window(source: Path) -> None:
    """Nothing: two days of window let the first day's rows go."""


@pytest.mark.parametrize(("window", "change"), [("2d", leave_window), ("all", change_rows)])
def test_every_accepted_row_descends_from_the_nights_own_train_rows(
    tmp_path: Path, window: str, change: Callable[[Path], None]
) -> None:
    """Law 5, also where a fit of a week ago knew other rows. A changed source changes the fit too: what is old is a file."""
    source = write_source(tmp_path / "rows", DAYS[:4], first=120, later=60)
    old = tmp_path / "made.csv"
    with old.open("w", newline="", encoding="utf-8") as stream:  # rows that were made from the rows as they once were
        draw, writer = random.Random(5), csv.writer(stream)
        writer.writerow(["text", "label", "parent"])
        for row_id, label, text in drawn(DAYS[0], 120):
            writer.writerow([f"{text} {draw.choice(WORDS[label])} {draw.choice(WORDS[label])}", label, row_id])
    change(source)
    generators = [
        {"use": "rules", "operations": {"insert": 1.0, "swap": 1.0, "delete": 1.0}},
        {"use": "replay", "path": str(old), "parent": "parent", "parent_by": "id"},
    ]
    recipe = dated(source, refit=EVERY, window=window, generators=generators)
    made = night(recipe, tmp_path / "store", DAYS[2])
    assert made.fitted == DAYS[0]
    train = made.train()
    accepted = made.rows("accepted.parquet")
    assert accepted
    for row in accepted:
        assert all(train.get(parent) == row["stratum"] for parent in row["parent_ids"]), row
    left = [row for row in made.rows("rest.parquet") if row["why"] == "relations: parent_left"]
    assert left
    assert all(any(train.get(parent) != row["stratum"] for parent in row["parent_ids"]) for row in left)


def test_a_jump_of_the_rows_is_a_new_reference_and_is_reported(tmp_path: Path) -> None:
    source = write_source(tmp_path / "rows", DAYS[:8], first=60, later=6)
    write_day(source, DAYS[5], drawn(DAYS[5], 120, ["refund"]))
    recipe = dated(source, refit={"when_drifted": 0.2, "max_age": "60d"}, target={"multiply": 1.2})
    nights = {day: night(recipe, tmp_path / "store", day) for day in DAYS[4:7]}
    assert [made.fitted for made in nights.values()] == [DAYS[0], DAYS[5], DAYS[5]]
    jumped = nights[DAYS[5]].drift
    assert jumped["against"] == DAYS[4] and jumped["labels"] == jumped["largest"] > 0.2
    assert nights[DAYS[4]].drift["against"] == DAYS[0]


def test_a_first_night_that_cannot_be_split_is_passed_over(tmp_path: Path) -> None:
    source = write_source(tmp_path / "rows", DAYS[:4])
    write_day(source, DAYS[0], drawn(DAYS[0], 3, ["refund"]))
    write_day(source, DAYS[1], drawn(DAYS[1], 120))
    made = night(dated(source, refit=EVERY), tmp_path / "store", DAYS[2])
    assert made.fitted == DAYS[1] and made.rows("accepted.parquet")


@pytest.mark.parametrize("in_column", [False, True])
@pytest.mark.parametrize("refit", [{}, EVERY])
def test_nights_before_the_first_row_are_passed_over_without_a_word(
    tmp_path: Path,
    refit: dict[str, Any],
    in_column: bool,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    source = write_source(tmp_path / "rows", DAYS[:2])
    if in_column:
        with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["id", "label", "text", "day"])
            writer.writerows((*row, DAYS[0]) for row in drawn(DAYS[0], 120))
        source = tmp_path / "rows.csv"
    with caplog.at_level(logging.INFO, logger="augmill"):
        made = night(dated(source, refit=refit), tmp_path / "store", DAYS[0])
    assert made.fitted == DAYS[0]
    # Stages' own lines name the night that they read.
    said = " ".join(record.getMessage() for record in caplog.records if record.name == "augmill")
    assert "2026-09" not in said and "--as-of" not in said and "stopped" not in said + capfd.readouterr().err


def test_a_fold_and_a_snapshot_of_all_are_fitted_on_their_own_rows(tmp_path: Path) -> None:
    recipe = dated(write_source(tmp_path / "rows", DAYS[:3]), refit=EVERY)
    made = night(recipe, tmp_path / "store", DAYS[2])
    ingested, split = made.produced.ingested, made.produced.split
    run = make_run(recipe, made.store, DAYS[2])
    assert split_to_fit(run, split, None)[0] == split != split_to_fit(run, split, ingested)[0]
    everything = make_run(recipe, made.store)
    ingested, split = read_source(everything)
    assert split_to_fit(everything, split, ingested) == (split, {})
