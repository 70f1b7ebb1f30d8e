"""Lists of items in order (what a user watched, bought, played): all such columns of a row, taken together."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from augmill.tasks.contracts import Featurizer, Floats, Kind, ReadLimits
from augmill.tasks.rows.kinds.items.near import NearItems, jaccard, tokens_of
from augmill.tasks.rows.schema import distance

ITEMS = pa.list_(pa.string())
MOST_ITEMS = 10_000  # of a row: what is longer is a catalogue
SNIFFED = 1000  # rows of a column that are looked at
SHOWN = 12  # items of a row in a report: the last ones
POPULAR = 500  # items that a profile counts by name
VOCABULARY = 20_000  # items that are features, the most frequent
_LENGTH, _ITEMS = "history_length", "items"  # the ways of a profile


class Items(Kind):
    """``id`` and ``equal``: the same items in the same order, letter by letter: names of items belong to the user.

    Near: Jaccard's overlap of the items, whatever their order, at most 0.9999 for rows that are not equal.
    """

    VERSION: ClassVar[int] = 1
    name: ClassVar[str] = "items"
    types: ClassVar[tuple[str, ...]] = ("items",)
    hub: ClassVar[str] = "tabular"
    remedies: ClassVar[Mapping[str, str]] = {
        "no_items": "leave out rows without a history, or fill them",
        "not_items": "write histories as lists of texts or whole numbers (in CSV as JSON: [17, 4])",
        "empty_item": "name every item of a history, or leave it out",
        "too_long": "shorten those names of items, or raise refuse.max_chars",
        "too_many_items": f"cut histories to their last {MOST_ITEMS:,} items at most (source.events.max_history)",
    }

    def arrow(self, type: str) -> pa.DataType:
        return ITEMS

    def takes(self, kind: pa.DataType, type: str) -> bool:
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind):
            return True
        one_size = pa.types.is_fixed_size_list(kind)  # made histories have their own lengths, which it could not hold
        return _is_list(kind) and not one_size and _is_name(kind.value_type)

    def sniff(self, column: pa.ChunkedArray, name: str) -> tuple[str, float]:
        """By its type; texts by whether all of them are lists in JSON."""
        values = column.slice(0, SNIFFED).drop_null()
        if not len(values) or not self.takes(values.type, "items"):
            return "items", 0.0
        if _is_list(values.type):
            return "items", 0.95 if len(pc.list_flatten(values)) else 0.0
        found = [_parsed(text) for text in values.to_pylist()]
        return "items", 0.95 if all(items is not None for items in found) and any(found) else 0.0

    def read(self, column: pa.ChunkedArray, type: str, limits: ReadLimits) -> tuple[pa.Array, list[str | None]]:
        """Lists of texts or whole numbers, or texts that are such lists in JSON. Refused, each with its remedy:

        ``no_items``, ``not_items``, ``empty_item``, ``too_long`` (the name of an item), ``too_many_items``.
        """
        rows: list[Any] = column.to_pylist()
        reasons: list[str | None] = [None] * len(rows)
        texts = not _is_list(column.type)
        for at, given in enumerate(rows):
            items = _parsed(given) if texts and given is not None else given
            if items is None and given is not None:
                rows[at], reasons[at] = None, "not_items"
                continue
            rows[at] = None if items is None else [None if item is None else str(item) for item in items]
            reasons[at] = _reason(rows[at], limits)
            if reasons[at] in ("no_items", "empty_item"):
                rows[at] = None
        return pa.array(rows, ITEMS), reasons

    def release(self, values: pa.Array, kind: pa.DataType) -> pa.Array:
        """In the user's own type: texts or whole numbers in a list, or its JSON."""
        if _is_list(kind):
            return values.cast(kind)
        texts = [None if row is None else json.dumps(row, ensure_ascii=False) for row in values.to_pylist()]
        return pa.array(texts, pa.string()).cast(kind)

    def id(self, columns: pa.Table) -> list[bytes]:
        """Each item with its length, so that none runs into the next."""
        fields = [[_encoded(row) for row in columns[name].to_pylist()] for name in columns.column_names]
        return [b"".join(row) for row in zip(*fields, strict=True)]

    def equal(self, columns: pa.Table) -> list[bytes]:
        return self.id(columns)

    def near(self, columns: pa.Table, threshold: float) -> NearItems:
        return NearItems.build(columns, threshold, self.equal)

    def load_near(self, directory: Path, name: str) -> NearItems:
        return NearItems.load(directory, name, self.equal)

    def groups(self, columns: pa.Table, threshold: float) -> npt.NDArray[np.bool_]:
        keep, seen = np.ones(columns.num_rows, np.bool_), set[bytes]()
        for row, key in enumerate(self.equal(columns)):
            keep[row] = key not in seen
            seen.add(key)
        query, position, _ = self.near(columns, threshold).matches(columns)
        for one, other in zip(query.tolist(), position.tolist(), strict=True):  # by query: those before are decided
            if other < one and keep[other]:
                keep[one] = False
        return keep

    def profile(self, columns: pa.Table) -> dict[str, Any]:
        """Rows by the length of their histories (binary orders of magnitude); how often the most popular items stand."""
        lengths = Counter(str(count.bit_length()) for count in self.sizes(columns)[1])
        counts = Counter(item for row in _rows(columns) for item in row)
        popular = sorted(counts.items(), key=lambda found: (-found[1], found[0]))[:POPULAR]
        others = counts.total() - sum(count for _, count in popular)
        return {_LENGTH: dict(sorted(lengths.items())), _ITEMS: {**dict(popular), "": others}}

    def drift(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, float]:
        return {way: distance(one[way], other[way]) for way in (_LENGTH, _ITEMS)}

    def expectations(self, field: str, max_null_share: float) -> list[dict[str, Any]]:
        of = {"column": field, "mostly": 1.0 - max_null_share}
        return [{"type": "expect_column_values_to_not_be_null", "kwargs": of}]

    def features(self, train: pa.Table) -> ItemCounts:
        return ItemCounts(train)

    def show(self, columns: pa.Table) -> list[str]:
        """The last items of each history, and how many there are."""
        fields = [[_shown(row) for row in columns[name].to_pylist()] for name in columns.column_names]
        return [" | ".join(row) for row in zip(*fields, strict=True)]

    def similarities(self, made: pa.Table, real: pa.Table) -> Floats:
        own, others = tokens_of(made), tokens_of(real)
        equal = [(one, set(tokens)) for one, tokens in zip(self.equal(made), own, strict=True)]
        keys = [(other, set(tokens)) for other, tokens in zip(self.equal(real), others, strict=True)]
        found = [[1.0 if a == b else jaccard(one, other) for b, other in keys] for a, one in equal]
        return np.array(found, np.float64).reshape(len(own), len(others))

    def diversity(self, made: pa.Table, real: pa.Table) -> dict[str, float]:
        """``distinct_rows``: share of made rows that no other one equals; ``items_used``: of the items of real rows the share

        that stands in made ones.
        """
        if not made.num_rows or not real.num_rows:
            return {}
        ours, theirs = ({item for row in _rows(table) for item in row} for table in (made, real))
        return {
            "distinct_rows": round(len(set(self.equal(made))) / made.num_rows, 4),
            "items_used": round(len(ours & theirs) / max(1, len(theirs)), 4),
        }

    def sizes(self, columns: pa.Table) -> tuple[str, list[int]]:
        counts = [pc.fill_null(pc.list_value_length(columns[name]), 0).to_pylist() for name in columns.column_names]
        return "items", [sum(row) for row in zip(*counts, strict=True)]


class ItemCounts(Featurizer):
    """How often each of the most frequent items of train stands in a row, by the root of how many the row has."""

    def __init__(self, train: pa.Table) -> None:
        counts = Counter(token for row in tokens_of(train) for token in set(row))
        ranked = sorted(counts.items(), key=lambda found: (-found[1], found[0]))[:VOCABULARY]
        self.places = {token: at for at, (token, _) in enumerate(ranked)}

    def transform(self, columns: pa.Table) -> Any:
        from scipy.sparse import csr_matrix

        rows, cells, values = list[int](), list[int](), list[float]()
        for at, tokens in enumerate(tokens_of(columns)):
            known = [self.places[token] for token in tokens if token in self.places]
            rows += [at] * len(known)
            cells += known
            values += [max(1, len(tokens)) ** -0.5] * len(known)
        return csr_matrix((np.array(values, np.float32), (rows, cells)), (columns.num_rows, len(self.places)))


def _is_list(kind: pa.DataType) -> bool:
    of = pa.types
    return bool(of.is_list(kind) or of.is_large_list(kind) or of.is_fixed_size_list(kind) or of.is_list_view(kind))


def _is_name(kind: pa.DataType) -> bool:
    of = pa.types
    return bool(of.is_string(kind) or of.is_large_string(kind) or of.is_integer(kind) or of.is_null(kind))


def _parsed(text: str) -> list[Any] | None:
    """The list that the text is in JSON; None where it is none of names."""
    if not text.lstrip().startswith("["):
        return None
    try:
        found = json.loads(text)
        if "\\u" in text:
            json.dumps(found, ensure_ascii=False).encode()  # no half of a surrogate pair, which no table can hold
    except (ValueError, RecursionError):
        return None
    known = isinstance(found, list) and all(item is None or type(item) in (str, int) for item in found)
    return found if known else None


def _reason(items: Sequence[str | None] | None, limits: ReadLimits) -> str | None:
    if not items:
        return "no_items"
    if len(items) > MOST_ITEMS:
        return "too_many_items"
    if not all(items):
        return "empty_item"
    return "too_long" if max(len(item or "") for item in items) > limits.max_chars else None


def _encoded(items: Iterable[str | None] | None) -> bytes:
    if items is None:
        return b"-"
    names = [(item or "").encode("utf-8", "surrogatepass") for item in items]
    return b"%d[" % len(names) + b"".join(b"%d:%s" % (len(name), name) for name in names) + b"]"


def _rows(columns: pa.Table) -> list[list[str]]:
    fields = [columns[name].to_pylist() for name in columns.column_names]
    return [[item for items in row for item in items or ()] for row in zip(*fields, strict=True)]


def _shown(items: Sequence[str] | None) -> str:
    if not items:
        return "no items"
    more = f"{len(items)} items, the last: " if len(items) > SHOWN else ""
    return more + ", ".join(items[-SHOWN:])
