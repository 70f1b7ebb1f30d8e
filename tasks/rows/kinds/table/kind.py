"""Numbers, categories and timestamps: all such columns of a row, taken together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from augmill.tasks.contracts import Floats, Kind, NearIndex, ReadLimits
from augmill.tasks.rows.kinds.table.cells import drift_column, encode, profile_column
from augmill.tasks.rows.kinds.table.features import LinearFeatures, TreeFeatures, nearest_distances
from augmill.tasks.rows.kinds.table.values import (
    ARROW,
    CATEGORY,
    NUMBER,
    TIMESTAMP,
    Reasons,
    is_moment,
    is_numeric,
    is_text,
    plain,
    read_column,
    release_column,
    texts_shown,
)

SNIFFED = 1000  # rows of a column that are looked at
FEW = 20  # different whole numbers, of codes at most
LARGEST = float(np.finfo(np.float64).max)


class Table(Kind):
    """``id``: exact numbers and moments, categories NFC with blanks folded. ``equal``: numbers with six significant digits,

    categories without case and width, moments to the second. Nothing is near: a similarity over all columns, such as
    Gower's, calls most rows of a table near some other row. Any value may be missing (null).
    """

    VERSION: ClassVar[int] = 1
    name: ClassVar[str] = "table"
    types: ClassVar[tuple[str, ...]] = (NUMBER, CATEGORY, TIMESTAMP)
    hub: ClassVar[str] = "tabular"

    remedies: ClassVar[Mapping[str, str]] = {
        "not_a_number": "correct those cells, or give the column as a category (columns.inputs)",
        "infinite_number": "replace infinite numbers, or leave their cells empty",
        "not_a_timestamp": "write moments as 2026-10-01 or 2026-10-01T00:30:00, in the years 1 to 9999, or give the column "
        "as a category (columns.inputs)",
        "too_long": "shorten those texts, or raise refuse.max_chars",
    }

    def arrow(self, type: str) -> pa.DataType:
        return ARROW[type]

    def takes(self, kind: pa.DataType, type: str) -> bool:
        if is_text(kind) or pa.types.is_null(kind):
            return True
        if type == NUMBER:
            return is_numeric(kind)
        return is_moment(kind) if type == TIMESTAMP else bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind))

    def sniff(self, column: pa.ChunkedArray, name: str) -> tuple[str, float]:
        """By its type, by what its texts can be read as, and by how often values repeat."""
        values = plain(column.slice(0, SNIFFED)).drop_null()
        kind, distinct = values.type, values.unique()
        if not len(values) or not any(self.takes(kind, type) for type in self.types):
            return CATEGORY, 0.0
        if is_moment(kind):
            return TIMESTAMP, 0.95
        if pa.types.is_boolean(kind):
            return CATEGORY, 0.95
        if is_numeric(kind):
            return _sniff_numbers(values, len(distinct), name)
        return _sniff_texts(values, name)

    def read(self, column: pa.ChunkedArray, type: str, limits: ReadLimits) -> tuple[pa.Array, Reasons]:
        """Missing values are null: null, NaN, blanks, and the texts in ``values.MISSING``.

        Refused: ``not_a_number``, ``infinite_number``, ``not_a_timestamp``, ``too_long`` (a category).
        """
        return read_column(column, type, limits.max_chars)

    def release(self, values: pa.Array, kind: pa.DataType) -> pa.Array:
        return release_column(values, kind)

    def id(self, columns: pa.Table) -> list[bytes]:
        return encode(columns, exact=True)

    def equal(self, columns: pa.Table) -> list[bytes]:
        return encode(columns, exact=False)

    def near(self, columns: pa.Table, threshold: float) -> NearIndex | None:
        return None

    def load_near(self, directory: Path, name: str) -> NearIndex:
        raise NotImplementedError("rows of tables are equal or they are not")

    def groups(self, columns: pa.Table, threshold: float) -> npt.NDArray[np.bool_]:
        keep, seen = np.zeros(columns.num_rows, np.bool_), set[bytes]()
        for row, key in enumerate(self.equal(columns)):
            keep[row] = key not in seen
            seen.add(key)
        return keep

    def profile(self, columns: pa.Table) -> dict[str, Any]:
        return {name: profile_column(plain(columns[name])) for name in columns.column_names}

    def drift(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, float]:
        """Of numbers and categories: moments of a window that moves on are never those of the window before."""
        own = [way for way in one if way.partition(":")[0] in (NUMBER, CATEGORY) and way in other]
        return {way: drift_column(one[way], other[way]) for way in own}

    def expectations(self, field: str, max_null_share: float) -> list[dict[str, Any]]:
        """Nulls are let through: in a shard of few rows a column that is seldom filled may well be all null."""
        type = field.partition(":")[0]
        if type == CATEGORY:
            return [{"type": "expect_column_value_lengths_to_be_between", "kwargs": {"column": field, "min_value": 1}}]
        if type == TIMESTAMP:
            of = {"column": field, "type_": "Timestamp"}  # what pandas calls moments with a zone
            return [{"type": "expect_column_values_to_be_of_type", "kwargs": of}]
        within = {"column": field, "min_value": -LARGEST, "max_value": LARGEST}
        return [
            {"type": "expect_column_values_to_be_of_type", "kwargs": {"column": field, "type_": "float64"}},
            {"type": "expect_column_values_to_be_between", "kwargs": within},  # no infinity
        ]

    def features(self, train: pa.Table) -> LinearFeatures:
        return LinearFeatures(train)

    def tree_features(self, train: pa.Table) -> TreeFeatures:
        """For trees, which need no scale, and which take missing values and codes as they are."""
        return TreeFeatures(train)

    def show(self, columns: pa.Table) -> list[str]:
        named = [
            [f"{name.partition(':')[2]}={text}" for text in texts_shown(plain(columns[name]))]
            for name in columns.column_names
        ]
        return [", ".join(row) for row in zip(*named, strict=True)]

    def similarities(self, made: pa.Table, real: pa.Table) -> Floats:
        """1 / (1 + d), d the Euclidean distance in standardised columns, over the root of their number."""
        if not made.num_rows or not real.num_rows:
            return np.zeros((made.num_rows, real.num_rows))
        space = LinearFeatures(real)
        ours, theirs = (np.asarray(space.transform(rows), dtype=np.float64) for rows in (made, real))
        squared = (ours**2).sum(axis=1)[:, None] + (theirs**2).sum(axis=1) - 2 * ours @ theirs.T
        near: Floats = 1 / (1 + np.sqrt(np.maximum(squared, 0) / made.num_columns))
        return near

    def diversity(self, made: pa.Table, real: pa.Table) -> dict[str, float]:
        """``distinct_rows``: share of made rows that no other one equals; ``moved``: mean over the columns of the distance of

        made from real values (``drift``); ``distance``: mean distance to the nearest real row (``nearest_distances``).
        """
        moved = self.drift(self.profile(made), self.profile(real)).values()
        apart = nearest_distances(made, real)
        return {
            "distinct_rows": round(len(set(self.equal(made))) / max(1, made.num_rows), 4),
            "moved": round(sum(moved) / max(1, len(moved)), 4),
            "distance": round(sum(apart) / max(1, len(apart)), 4),
        }


_KEY = ("id", "key", "uuid", "index")  # last words of names of columns that only count rows
_CODE = ("code", "zip", "postcode", "class", "type", "category")  # of names of columns whose numbers are names


def _last_word(name: str) -> str:
    return name.replace("-", "_").replace(" ", "_").lower().rpartition("_")[2]


def _sniff_numbers(values: pa.Array, distinct: int, name: str) -> tuple[str, float]:
    if pa.types.is_floating(values.type) or pa.types.is_decimal(values.type):
        return NUMBER, 0.95
    word = _last_word(name)
    if word in _KEY and distinct == len(values):
        return NUMBER, 0.1
    if word in _CODE or distinct <= 2:
        return CATEGORY, 0.7
    return NUMBER, 0.6 if distinct <= FEW else 0.9


def _sniff_texts(values: pa.Array, name: str) -> tuple[str, float]:
    """Numbers with a leading zero are codes."""
    texts = pc.utf8_trim_whitespace(values.cast(pa.string()))
    for type, sure in ((NUMBER, 0.9), (TIMESTAMP, 0.9)):
        read, reasons = read_column(texts, type, SNIFFED)
        if read.null_count < len(read) and not any(reasons):
            if type == TIMESTAMP:
                return type, sure
            coded = pc.any(pc.match_substring_regex(texts, r"^[+-]?0[0-9]")).as_py()
            numbers = read.drop_null()
            whole = pc.all(pc.equal(numbers, pc.round(numbers))).as_py()
            numbers = numbers.cast(pa.int64(), safe=False) if whole else numbers
            return (CATEGORY, 0.6) if coded else _sniff_numbers(numbers, len(numbers.unique()), name)
    given, _ = read_column(texts, CATEGORY, 10**6)
    given = given.drop_null()
    if not len(given):
        return CATEGORY, 0.0
    repeated = 1 - len(given.unique()) / len(given)
    return CATEGORY, round(0.9 * repeated, 4)
