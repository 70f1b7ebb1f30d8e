"""The laws of a kind of field, for any kind: ``kind_laws(kind, tables)`` raises AssertionError where one is broken.

Needs nothing but the kind and some tables of its fields, so that an extension's own tests can run it.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from augmill.tasks.contracts import Kind, NearIndex, ReadLimits

THRESHOLDS = (0.5, 0.9)
Law = Callable[[Kind, pa.Table], None]


def kind_laws(kind: Kind, tables: Sequence[pa.Table]) -> None:
    """Tries every law on every table, on its halves and on none of its rows.

    ``tables``: of this kind's fields alone, each column of type ``kind.arrow(type)`` with values as ``kind.read`` gives
    them. They should hold rows that are equal, nearly equal and not, and nulls where the kind has them.
    """
    for law in KIND_LAWS:
        for table in tables:
            for part in (table, table.slice(0, 0)):
                try:
                    law(kind, part)
                except AssertionError as error:
                    raise AssertionError(f"{kind.name}: {law.__name__}: {error}") from error


def type_of(field: str) -> str:
    return field.partition(":")[0] if ":" in field else "text"


def shuffled(table: pa.Table) -> tuple[pa.Table, list[int]]:
    """(the rows in another order and other chunks, which row stands where)."""
    order = np.random.default_rng(0).permutation(table.num_rows).tolist()
    taken = [table.take(pa.array(order[start : start + 3], pa.int64())) for start in range(0, len(order), 3)]
    return pa.concat_tables(taken) if taken else table, order


def halves(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    middle = table.num_rows // 2
    return table.slice(0, middle), table.slice(middle)


def it_says_what_it_is(kind: Kind, table: pa.Table) -> None:
    assert isinstance(kind.VERSION, int), "VERSION is a whole number"
    assert kind.name and kind.types, "it has a name, and types of fields"
    for name in table.column_names:
        type = type_of(name)
        assert type in kind.types, f"{name} is not its own"
        assert table[name].type == kind.arrow(type), f"{name} is no {kind.arrow(type)}"


def keys_are_of_the_row_alone(kind: Kind, table: pa.Table) -> None:
    other, order = shuffled(table)
    for of in (kind.id, kind.equal):
        keys = of(table)
        assert [type(key) for key in keys] == [bytes] * table.num_rows, "bytes for each row"
        assert of(other) == [keys[row] for row in order], "order and chunks of rows change a key"
        parts = [key for half in halves(table) for key in of(half)]
        assert parts == keys, "a slice of a table has other keys"


def what_has_one_id_is_equal(kind: Kind, table: pa.Table) -> None:
    equal: dict[bytes, bytes] = {}
    for key, coarse in zip(kind.id(table), kind.equal(table), strict=True):
        assert equal.setdefault(key, coarse) == coarse, "rows with one id are not equal"


def an_index_finds_the_first_equal_row(kind: Kind, table: pa.Table) -> None:
    keys = kind.equal(table)
    for threshold in THRESHOLDS:
        index = kind.near(table, threshold)
        if index is None:
            continue
        found = _pairs(index, table)
        for row, key in enumerate(keys):
            assert found.get((row, keys.index(key))) == 1.0, "an equal row is not found, or less than equal"
        firsts = {keys.index(key) for key in keys}
        assert {position for _, position in found} <= firsts, "of equal rows another than the first is found"
        assert all(threshold <= similarity <= 1.0 for similarity in found.values()), "a similarity is out of bounds"


def the_nearest_is_the_best_match(kind: Kind, table: pa.Table) -> None:
    known, asked = halves(table)
    for threshold in THRESHOLDS:
        index = kind.near(known, threshold)
        if index is None:
            continue
        found = _pairs(index, asked)
        best, value = index.nearest(asked)
        assert len(best) == len(value) == asked.num_rows, "one answer a row"
        for row, (position, similarity) in enumerate(zip(best.tolist(), value.tolist(), strict=True)):
            of = {at: near for (query, at), near in found.items() if query == row}
            wanted = max(((near, -at) for at, near in of.items()), default=(0.0, 1))
            assert (similarity, -position) == wanted, "the nearest is not the best match, or not the first of the best"


def a_saved_index_answers_the_same(kind: Kind, table: pa.Table) -> None:
    known, asked = halves(table)
    index = kind.near(known, THRESHOLDS[0])
    if index is None:
        return
    with tempfile.TemporaryDirectory() as directory:
        files = index.save(Path(directory), "some.name")
        assert all(name.startswith("some.name") and path.is_file() for name, path in files.items()), "names of files"
        assert _pairs(kind.load_near(Path(directory), "some.name"), asked) == _pairs(index, asked), "loaded, it differs"


def _pairs(index: NearIndex, table: pa.Table) -> dict[tuple[int, int], float]:
    query, position, similarity = index.matches(table)
    pairs = list(zip(query.tolist(), position.tolist(), strict=True))
    assert pairs == sorted(set(pairs)), "matches stand by query, then position, each once"
    return dict(zip(pairs, similarity.tolist(), strict=True))


def of_a_group_the_first_stays(kind: Kind, table: pa.Table) -> None:
    keys = kind.equal(table)
    for threshold in THRESHOLDS:
        keep = kind.groups(table, threshold)
        assert keep.dtype == np.bool_ and len(keep) == table.num_rows, "a truth value a row"
        kept = set(np.flatnonzero(keep).tolist())
        index = kind.near(table, threshold)
        near = {row: {keys.index(keys[row])} for row in range(table.num_rows)}
        for query, position in _pairs(index, table) if index is not None else ():
            near[query].add(position)
        for row in range(table.num_rows):
            before = {other for other in near[row] if other < row}
            assert (row in kept) == (not before & kept), "a row stays beside one like it, or leaves without one"


def profiles_are_json_of_the_rows_alone(kind: Kind, table: pa.Table) -> None:
    profile = kind.profile(table)
    assert json.loads(json.dumps(profile, allow_nan=False)) == profile, "a profile is JSON"
    assert kind.profile(shuffled(table)[0]) == profile, "the order of rows changes a profile"


def drift_is_a_distance(kind: Kind, table: pa.Table) -> None:
    one, other = (json.loads(json.dumps(kind.profile(half))) for half in halves(table))
    there, back = kind.drift(one, other), kind.drift(other, one)
    assert there == back, "drift depends on which profile comes first"
    assert all(0.0 <= value <= 1.0 for value in there.values()), "drift is from 0 to 1"
    assert set(kind.drift(one, one).values()) <= {0.0}, "a profile drifts from itself"
    stranger: dict[str, Any] = {"of another kind": {"x": 1}}
    assert kind.drift(one | stranger, other | stranger) == there, "it takes another kind's way for its own"


def expectations_are_data_on_the_field(kind: Kind, table: pa.Table) -> None:
    for name in table.column_names:
        found = kind.expectations(name, 0.0)
        assert json.loads(json.dumps(found)) == found, "expectations are JSON"
        for each in found:
            assert each["type"].startswith("expect_column_"), f"{each['type']} is none of a column"
            assert each["kwargs"]["column"] == name, "an expectation is on another column"


def _dense(features: Any) -> Any:
    return features.toarray() if hasattr(features, "toarray") else features


def features_are_of_the_row_alone(kind: Kind, table: pa.Table) -> None:
    featurizer = kind.features(table)
    made = _dense(featurizer.transform(table))
    assert made.dtype == np.float32 and made.ndim == 2 and len(made) == table.num_rows, "float32, (rows, features)"
    assert not np.isinf(made).any(), "a feature is infinite"
    parts = np.vstack([_dense(featurizer.transform(half)) for half in halves(table)])
    assert np.array_equal(parts, made, equal_nan=True), "features of a row depend on the rows beside it"
    other, order = shuffled(table)
    again = _dense(kind.features(other).transform(table))
    assert np.allclose(again, made, atol=1e-5, equal_nan=True), f"the order of train rows changes features ({order})"


def features_of_rows_never_seen_are_made_too(kind: Kind, table: pa.Table) -> None:
    seen, unseen = halves(table)
    featurizer = kind.features(seen)
    one, other = _dense(featurizer.transform(seen)), _dense(featurizer.transform(unseen))
    assert one.shape[1] == other.shape[1] and len(other) == unseen.num_rows, "unseen rows have other features"
    assert not np.isinf(other).any(), "a feature is infinite"


def each_row_is_shown(kind: Kind, table: pa.Table) -> None:
    shown = kind.show(table)
    assert [type(row) for row in shown] == [str] * table.num_rows, "a text a row"
    sizes = kind.sizes(table)
    if sizes is not None:
        what, counts = sizes
        assert what and len(counts) == table.num_rows and all(count >= 0 for count in counts), "a size a row"


def what_it_gives_it_reads_as_it_is(kind: Kind, table: pa.Table) -> None:
    for name in table.column_names:
        type, column = type_of(name), table[name].combine_chunks()
        assert kind.takes(column.type, type), f"it does not take its own {column.type}"
        assert kind.release(column, column.type).equals(column), "released in its own type a value changes"
        values, reasons = kind.read(table[name], type, ReadLimits(10**9))
        assert values.type == kind.arrow(type) and len(reasons) == len(values) == table.num_rows, "a value a row"
        taken = pa.array([reason is None for reason in reasons], pa.bool_())
        assert values.filter(taken).equals(column.filter(taken)), "a value that it gave it reads as another"
        assert set(reasons) <= {None, *kind.remedies}, f"no remedy for one of {set(reasons)}"
        nothing, reasons = kind.read(pa.chunked_array([pa.nulls(2)]), type, ReadLimits(1))
        assert nothing.null_count == len(reasons) == 2, "a column without a type is nulls"


def its_guess_is_one_of_its_types(kind: Kind, table: pa.Table) -> None:
    for name in table.column_names:
        type, sure = kind.sniff(table[name], "column")
        assert type in kind.types and 0.0 <= sure <= 1.0, f"it takes {name} for {type}, sure to {sure}"
    assert kind.sniff(pa.chunked_array([pa.nulls(3)]), "column")[1] == 0.0, "it is sure of a column without a value"


def diversity_is_numbers(kind: Kind, table: pa.Table) -> None:
    found = kind.diversity(*halves(table))
    assert all(isinstance(value, float) and math.isfinite(value) for value in found.values()), "finite floats"


KIND_LAWS: tuple[Law, ...] = (
    it_says_what_it_is,
    keys_are_of_the_row_alone,
    what_has_one_id_is_equal,
    an_index_finds_the_first_equal_row,
    the_nearest_is_the_best_match,
    a_saved_index_answers_the_same,
    of_a_group_the_first_stays,
    profiles_are_json_of_the_rows_alone,
    drift_is_a_distance,
    expectations_are_data_on_the_field,
    features_are_of_the_row_alone,
    features_of_rows_never_seen_are_made_too,
    each_row_is_shown,
    what_it_gives_it_reads_as_it_is,
    its_guess_is_one_of_its_types,
    diversity_is_numbers,
)
