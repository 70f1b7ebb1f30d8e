"""The generator `sequences`: what each way changes and keeps, that it knows train items alone, and what it learns of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from drawn_histories import HISTORY_FIELDS, users
from generating import Bench

from augmill.tasks.generators.sequences import Sequences
from augmill.tasks.generators.sequences.generator import SequencesOptions
from augmill.tasks.generators.sequences.ways import WAYS, WINDOW, Knowledge
from augmill.tasks.rows.kinds import real_schema
from augmill.testing import GENERATOR_LAWS, GeneratorBench

STRATA = ["1: popular", "2: rare"]


def train(count: int = 40) -> pa.Table:
    found = users(count)
    columns = {
        "row_id": [each["user"] for each in found],
        "stratum": [STRATA[each["next"] > "i15"] for each in found],
        "target": [each["next"] for each in found],
        HISTORY_FIELDS[0]: [each["history"] for each in found],
    }
    return pa.table(columns, schema=real_schema(HISTORY_FIELDS, pa.string()))


def bench(folder: Path, *ways: str, rows: pa.Table | None = None, **options: Any) -> GeneratorBench:
    given = {way: float(way in ways) for way in WAYS} if ways else {}
    generator = Sequences(SequencesOptions(**given, **options))
    return GeneratorBench(generator, folder, rows=train() if rows is None else rows)


def made(found: GeneratorBench, count: int = 60) -> list[tuple[list[str], list[str], str, str]]:
    """(the parent's history, the made one, the parent's next item, the made one's) of delivered rows."""
    by_id = {row["row_id"]: row for row in found.train.to_pylist()}
    rows = found.sample([STRATA[at % 2] for at in range(count)]).to_pylist()
    out = []
    for row in rows:
        if row["reason"] is None:
            (parent,) = (by_id[name] for name in row["parent_ids"])
            out.append((parent[HISTORY_FIELDS[0]], row[HISTORY_FIELDS[0]], parent["target"], row["target"]))
    return out


@pytest.mark.parametrize("law", GENERATOR_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("way", [*WAYS, ""])
def test_every_way_keeps_the_laws_of_generators(law: Any, way: str, tmp_path: Path) -> None:
    law(bench(tmp_path, *filter(None, [way])))


@pytest.mark.parametrize("way", WAYS)
def test_every_way_changes_the_history_keeps_the_next_item_and_takes_train_items_alone(
    way: str, tmp_path: Path
) -> None:
    found = made(bench(tmp_path, way))
    known = {item for row in train().to_pylist() for item in [*row[HISTORY_FIELDS[0]], row["target"]]}
    assert len(found) > 50
    for was, now, target, kept in found:
        assert now != was and now and kept == target and set(now) <= known
        assert target not in now and len(set(now)) == len(now), "an item that comes next, or twice, in a history"


def test_what_each_way_does(tmp_path: Path) -> None:
    for was, now, *_ in made(bench(tmp_path / "crop", "crop")):
        assert now == was[-len(now) :] and len(was) - len(now) == max(1, round(0.3 * len(was)))
    for was, now, *_ in made(bench(tmp_path / "mask", "mask")):
        assert now == [item for item in was if item in now] and len(was) - len(now) == max(1, round(0.3 * len(was)))
    for was, now, *_ in made(bench(tmp_path / "reorder", "reorder")):
        moved = [at for at, pair in enumerate(zip(was, now, strict=True)) if pair[0] != pair[1]]
        assert sorted(now) == sorted(was) and moved[-1] - moved[0] < max(2, round(0.3 * len(was)))
    similar = Knowledge.load(bench(tmp_path / "substitute", "substitute", similar=3).directory).similar
    for was, now, *_ in made(bench(tmp_path / "three", "substitute", similar=3)):
        pairs = [(old, new) for old, new in zip(was, now, strict=True) if old != new]
        assert 1 <= len(pairs) <= max(1, round(0.3 * len(was))) and all(new in similar[old] for old, new in pairs)


def test_similar_items_and_predecessors_are_those_of_the_plain_definition(tmp_path: Path) -> None:
    knowledge = Knowledge.load(bench(tmp_path, "substitute", "markov").directory)
    histories = [[*row[HISTORY_FIELDS[0]], row["target"]] for row in train().to_pylist()]
    often, together, came = Counter[str](), Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for row in histories:
        often.update(row)
        came.update(zip(row[1:], row[:-1], strict=True))
        together.update((a, b) for i, a in enumerate(row) for j, b in enumerate(row) if 0 < abs(i - j) <= WINDOW)
    for item in often:
        able = [other for other in often if together[item, other] >= 2]
        score = {other: together[item, other] / (often[item] * often[other]) ** 0.5 for other in able}
        wanted = sorted(able, key=lambda other: (-round(score[other], 12), other))[:10]
        assert knowledge.similar.get(item, []) == wanted
        assert Counter(knowledge.before.get(item, [])) == Counter({b: n for (a, b), n in came.items() if a == item})


def test_a_walk_goes_where_train_histories_went(tmp_path: Path) -> None:
    steps = {
        pair
        for row in train().to_pylist()
        for pair in zip(row[HISTORY_FIELDS[0]], [*row[HISTORY_FIELDS[0]][1:], row["target"]], strict=True)
    }
    walked = made(bench(tmp_path / "a", "markov", restart=0.05))
    followed = [pair in steps for _, now, target, _ in walked for pair in zip(now, [*now[1:], target], strict=True)]
    assert sum(followed) / len(followed) > 0.8
    assert any(set(now) - set(was) for was, now, *_ in walked)
    home = made(bench(tmp_path / "b", "markov", restart=1.0))
    assert all(set(now) <= set(was) for was, now, *_ in home)


def test_a_history_that_no_way_can_change_is_unchanged_not_copied(tmp_path: Path) -> None:
    short = pa.table(
        {"row_id": ["a", "b"], "stratum": STRATA, "target": ["y", "z"], HISTORY_FIELDS[0]: [["x"], ["w"]]},
        schema=real_schema(HISTORY_FIELDS, pa.string()),
    )
    rows = bench(tmp_path, rows=short).sample(STRATA).to_pylist()
    assert [row["reason"] for row in rows] == ["unchanged"] * 2 and not any(row["parent_ids"] for row in rows)


def test_of_classes_and_of_several_lists_every_list_is_changed(tmp_path: Path) -> None:
    found = users(20)
    rows = pa.table(
        {"row_id": [each["user"] for each in found], "stratum": [STRATA[at % 2] for at in range(20)]}
        | {name: [each["history"] for each in found] for name in ("items:seen", "items:bought")},
        schema=real_schema(("items:seen", "items:bought")),
    )
    made_rows = bench(tmp_path, rows=rows).sample(STRATA * 10).to_pylist()
    assert all(row["reason"] is None and row["items:seen"] != row["items:bought"] for row in made_rows[:3])
    walked = bench(tmp_path / "markov", "markov", rows=rows).sample(STRATA * 10).to_pylist()
    assert all(row["reason"] is None for row in walked)


def test_without_a_target_it_is_found_by_the_general_suite(tmp_path: Path) -> None:
    assert Bench("sequences", tmp_path).context.target is None


@pytest.mark.parametrize(
    "options", [dict.fromkeys(WAYS, 0.0), {"share": 0.0}, {"similar": 0}, {"restart": 0.0}, {"crop": -1.0}]
)
def test_options_out_of_bounds_name_themselves(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        SequencesOptions(**options)
