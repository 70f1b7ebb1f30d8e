"""Mix: ratio, weights and reading orders are exact, and a synthetic row takes nothing from its parents that was not asked."""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from itertools import groupby, islice
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from augmill.tasks.recipe.sections import Mix
from augmill.tasks.rows.randomness import row_seeds, stream_key
from augmill.tasks.rows.schema import SCORES, as_training, class_counts
from augmill.tasks.stages.mix import MixConfig, arrange, placebo_weights, reading_order, synthetic_ids, weigh_placebo

ACCEPTED = pa.schema(
    [
        ("generator", pa.string()),
        ("ordinal", pa.int64()),
        ("asked", pa.string()),
        ("stratum", pa.string()),
        ("text", pa.string()),
        ("parent_ids", pa.list_(pa.string())),
        ("seed", pa.int64()),
        ("scores", SCORES),
    ]
)


def config_of(copy: tuple[str, ...] = (), seed: int = 0, **mix: Any) -> MixConfig:
    return MixConfig(Mix(**mix), copy, ("text",), seed)


def real_rows(strata: str) -> pa.Table:
    """One real row per letter, its class; the user's own columns ``lang`` and ``stars``."""
    count = len(strata)
    return pa.table(
        {
            "row_id": [f"r{i}" for i in range(count)],
            "stratum": pa.array(list(strata), pa.string()),
            "text": pa.array([f"real {i}" for i in range(count)], pa.string()),
            "position": pa.array(range(count), pa.int64()),
            "user.lang": pa.array([f"l{i}" for i in range(count)], pa.string()),
            "user.stars": pa.array(range(count), pa.int16()),
        }
    )


def accepted_rows(strata: str, scores: list[float] | None = None, parents: list[list[str]] | None = None) -> pa.Table:
    rows = [
        {
            "generator": "rules",
            "ordinal": i,
            "asked": name,
            "stratum": name,
            "text": f"made {i}",
            "parent_ids": parents[i] if parents else [],
            "seed": 100 + i,
            "scores": [{"name": "label_consistency", "value": scores[i]}] if scores else [],
        }
        for i, name in enumerate(strata)
    ]
    return pa.Table.from_pylist(rows, ACCEPTED)


CLASSES = st.text("abc", min_size=1, max_size=40)


def placebo_of(alone: pa.Table, mixed: pa.Table) -> pa.Table:
    counts = mixed.group_by(["stratum", "weight"]).aggregate([([], "count_all")]).to_pylist()
    weights = placebo_weights(class_counts(alone["stratum"]), [tuple(each.values()) for each in counts])
    return weigh_placebo(alone, weights)


def order_of(rows: pa.Table, config: MixConfig) -> pa.Table:
    real = sum(origin == "real" for origin in rows["origin"].to_pylist())
    return pa.concat_tables(reading_order(rows["row_id"], real, config))


@given(real=CLASSES, made=CLASSES, weight=st.floats(0.01, 10))
def test_the_placebo_weighs_each_class_as_the_mix_does_with_each_real_row_once(
    real: str, made: str, weight: float
) -> None:
    made = "".join(name for name in made if name in real)
    config = config_of(synthetic_weight=weight)
    alone = arrange(real_rows(real), accepted_rows(""), config)
    mixed = arrange(real_rows(real), accepted_rows(made), config)
    placebo = placebo_of(alone, mixed)

    def totals(table: pa.Table) -> dict[str, float]:
        found: Counter[str] = Counter()
        for name, value in zip(table["stratum"].to_pylist(), table["weight"].to_pylist(), strict=True):
            found[name] += value
        return dict(found)

    assert totals(placebo) == pytest.approx(totals(mixed))
    assert totals(mixed) == pytest.approx({n: c + weight * made.count(n) for n, c in Counter(real).items()})
    assert placebo.drop_columns(["weight"]).equals(alone.drop_columns(["weight"]))
    assert set(alone["weight"].to_pylist()) == {1.0}


@given(weights=st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=12), order=st.randoms(use_true_random=False))
def test_the_placebos_weights_hang_on_no_order_of_rows(weights: list[float], order: random.Random) -> None:
    alone = arrange(real_rows("aab"), accepted_rows(""), config_of())
    mixed = arrange(real_rows("aab"), accepted_rows("a" * (len(weights) - 3)), config_of())
    mixed = mixed.set_column(mixed.column_names.index("weight"), "weight", pa.array(weights))
    shuffled = mixed.take(pa.array(order.sample(range(len(weights)), len(weights))))
    assert placebo_of(alone, mixed).equals(placebo_of(alone, shuffled))


def test_a_row_weighs_by_where_it_comes_from() -> None:
    made = accepted_rows("ab")
    names = pa.array(["rules", "self_training"])
    made = made.set_column(made.column_names.index("generator"), "generator", names)
    mixed = arrange(real_rows("ab"), made, config_of(synthetic_weight=0.5, pseudo_labelled_weight=0.25))
    assert mixed["origin"].to_pylist() == ["real", "real", "synthetic", "pseudo_labelled"]
    assert mixed["weight"].to_pylist() == [1.0, 1.0, 0.5, 0.25]


def test_a_synthetic_row_has_the_users_columns_null_unless_the_recipe_copies_them() -> None:
    real = real_rows("ab")
    made = accepted_rows("abab", parents=[["r1", "r0"], [], ["gone"], ["r0"]])
    mixed = arrange(real, made, config_of(copy=("lang",)))
    assert mixed["user.lang"].to_pylist() == ["l0", "l1", "l1", None, None, "l0"]
    assert mixed["user.stars"].to_pylist() == [0, 1, None, None, None, None]
    assert mixed.schema.field("user.stars").type == pa.int16()
    assert mixed["origin"].to_pylist() == ["real"] * 2 + ["synthetic"] * 4
    assert mixed["parent_ids"].to_pylist() == [None, None, ["r1", "r0"], [], ["gone"], ["r0"]]
    assert mixed["seed"].to_pylist() == [None, None, 100, 101, 102, 103]
    assert mixed.schema.equals(arrange(real, made.slice(0, 0), config_of()).schema)


def test_a_synthetic_id_is_its_own_and_follows_from_what_the_row_is_a_function_of() -> None:
    rows = accepted_rows("ab" * 50)
    ids = synthetic_ids(rows).to_pylist()
    assert len(set(ids)) == 100
    assert synthetic_ids(rows.slice(40, 3)).to_pylist() == ids[40:43]
    other = rows.set_column(rows.column_names.index("seed"), "seed", pa.array([7] * 100, pa.int64()))
    assert not set(ids) & set(synthetic_ids(other).to_pylist())


def epochs(rows: pa.Table, config: MixConfig) -> list[list[str]]:
    """The ids of each epoch in the order in which they are read."""
    order = order_of(rows, config).to_pylist()
    found = [[item["row_id"] for item in part] for _, part in groupby(order, key=lambda item: item["epoch"])]
    assert [(item["epoch"], item["position"]) for item in order] == [
        (epoch, position) for epoch, ids in enumerate(found) for position in range(len(ids))
    ]
    return found


@given(real=CLASSES, made=st.text("abc", max_size=10), count=st.integers(1, 4), seed=st.integers(0, 5))
def test_a_shuffled_epoch_reads_every_row_once(real: str, made: str, count: int, seed: int) -> None:
    rows = arrange(real_rows(real), accepted_rows(made), config_of())
    read = epochs(rows, config_of(epochs=count, seed=seed))
    assert len(read) == count
    for ids in read:
        assert sorted(ids) == sorted(rows["row_id"].to_pylist())


def test_epochs_and_seeds_differ_and_the_order_is_no_order() -> None:
    rows = as_training(real_rows("ab" * 100))
    ids = rows["row_id"].to_pylist()
    read = epochs(rows, config_of(epochs=2))
    other = epochs(rows, config_of(seed=1))
    assert len({tuple(part) for part in [ids, *read, *other]}) == 4
    assert epochs(rows, config_of(epochs=1)) == read[:1]  # more epochs change no earlier one
    moved = sum(abs(ids.index(name) - at) for at, name in enumerate(read[0])) / len(ids)
    assert moved == pytest.approx(len(ids) / 3, rel=0.15)  # a uniform permutation's mean distance


@given(real=CLASSES, made=CLASSES, share=st.floats(0.05, 0.95), count=st.integers(1, 6))
def test_alternating_epochs_keep_the_share_and_take_all_rows_in_turn(
    real: str, made: str, share: float, count: int
) -> None:
    rows = arrange(real_rows(real), accepted_rows(made), config_of())
    read = epochs(rows, config_of(order="alternating", synthetic_share=share, epochs=count))
    synthetic = round(len(real) * share)
    for ids in read:
        assert len(ids) == len(real)
        assert sum(name.startswith("syn-") for name in ids) == synthetic
    # In turn: whatever the epochs, no row is read twice more often than another of its kind is read.
    times = Counter(name for ids in read for name in ids)
    for kind, size, per_epoch in (("syn-", len(made), synthetic), ("r", len(real), len(real) - synthetic)):
        counts = [times[name] for name in rows["row_id"].to_pylist() if name.startswith(kind)]
        assert (len(counts), sum(counts)) == (size, count * per_epoch)
        assert max(counts) - min(counts) <= 1


def test_without_synthetic_rows_alternating_epochs_are_whole_ones() -> None:
    rows = as_training(real_rows("aabb"))
    read = epochs(rows, config_of(order="alternating", epochs=2))
    assert [sorted(ids) for ids in read] == [["r0", "r1", "r2", "r3"]] * 2


# --- what is done to columns at once is what a loop over rows does ---------------------------------------------------


def by_rows(train: pa.Table, accepted: pa.Table, config: MixConfig) -> list[dict[str, Any]]:
    """The mix, row by row."""
    real = as_training(train.drop_columns(["position"]))
    rows, own = real.to_pylist(), [name for name in real.column_names if name.startswith("user.")]
    at = {row["row_id"]: row for row in real.to_pylist()}
    weights = {"rules": config.mix.synthetic_weight, "self_training": config.mix.pseudo_labelled_weight}
    for row in accepted.to_pylist():
        key = "\x1f".join(str(row[name]) for name in ("generator", "asked", "ordinal", "seed"))
        parent = at.get(row["parent_ids"][0], {}) if row["parent_ids"] else {}
        rows.append(
            {name: row[name] for name in ("stratum", "text", "generator", "parent_ids", "seed", "scores")}
            | {name: parent.get(name) if name.removeprefix("user.") in config.copy else None for name in own}
            | {"row_id": "syn-" + hashlib.sha256(key.encode()).hexdigest()[:24], "weight": weights[row["generator"]]}
            | {"origin": "synthetic" if row["generator"] == "rules" else "pseudo_labelled"}
        )
    return rows


def order_by_rows(rows: list[dict[str, Any]], config: MixConfig) -> list[tuple[int, int, str]]:
    """(epoch, position, id), by lists of ids."""

    def shuffled(count: int, epoch: int, what: str) -> list[int]:
        keys = row_seeds(stream_key(config.seed, "order", epoch, what), np.arange(count, dtype=np.int64)).tolist()
        return sorted(range(count), key=lambda at: (keys[at], at))

    def turn(ids: list[str], size: int, epoch: int, what: str) -> list[str]:
        laps = (ids[at] for lap in range(size * (epoch + 1)) for at in shuffled(len(ids), lap, f"lap-{what}"))
        return list(islice(laps, size * epoch, size * (epoch + 1)))

    real = [row["row_id"] for row in rows if row["origin"] == "real"]
    made = [row["row_id"] for row in rows if row["origin"] != "real"]
    read: list[tuple[int, int, str]] = []
    for epoch in range(config.mix.epochs):
        ids = [row["row_id"] for row in rows]
        if config.mix.order == "alternating" and made:
            size = round(len(real) * config.mix.synthetic_share)
            ids = turn(made, size, epoch, "synthetic") + turn(real, len(real) - size, epoch, "real")
        read += [(epoch, place, ids[at]) for place, at in enumerate(shuffled(len(ids), epoch, "epoch"))]
    return read


PARENTS = st.lists(st.sampled_from(["r0", "r1", "r2", "gone", ""]), max_size=2) | st.none()


@given(
    real=CLASSES,
    made=st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from(["rules", "self_training"]), PARENTS), max_size=20
    ),
    weights=st.tuples(st.floats(0.001, 10), st.floats(0.001, 10)),
    copied=st.sampled_from([(), ("lang",), ("lang", "stars")]),
    order=st.sampled_from(["shuffled", "alternating"]),
    cut=st.integers(0, 20),
)
def test_a_mix_is_what_its_rows_are_one_by_one(
    real: str, made: list[Any], weights: tuple[float, float], copied: tuple[str, ...], order: str, cut: int
) -> None:
    accepted = accepted_rows("".join(name for name, _, _ in made), parents=[parents for _, _, parents in made])
    generators = pa.array([generator for _, generator, _ in made], pa.string())
    accepted = accepted.set_column(0, "generator", generators)
    accepted = pa.concat_tables([accepted.slice(0, cut), accepted.slice(cut)])  # as it is read: in several pieces
    how = {"synthetic_weight": weights[0], "pseudo_labelled_weight": weights[1], "order": order}
    config = config_of(copy=copied, epochs=3, **how)
    mixed = arrange(real_rows(real), accepted, config)
    rows = by_rows(real_rows(real), accepted, config)
    assert mixed.to_pylist() == rows
    alone = arrange(real_rows(real), accepted.slice(0, 0), config)
    each = {name: math.fsum(row["weight"] for row in rows if row["stratum"] == name) for name in real}
    assert placebo_of(alone, mixed)["weight"].to_pylist() == [each[name] / real.count(name) for name in real]
    read = order_of(mixed, config)
    assert list(zip(*(column.to_pylist() for column in read.columns), strict=True)) == order_by_rows(rows, config)
