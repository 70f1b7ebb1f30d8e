"""Ranking: which item comes next after a user's history. Its stratum is how popular that item is among train users.

That is what users of recommenders ask of: whether the long tail is served, not the few items that everybody knows. A
history's length would not do, since a stratum follows from the target alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from augmill.tasks.contracts import TARGET, Problem, ReadTarget, TargetReader

NAMES = {  # by how many of them there are, each of about as many train rows
    1: ("1: all",),
    2: ("1: popular", "2: rare"),
    3: ("1: popular", "2: middling", "3: rare"),
}
ROWS_PER_BIN = 20  # at least, so that each bin can be asked for and judged


class ItemReader(TargetReader):
    """Refused: ``no_target`` (null, blank), ``target_not_an_item`` (a list, a fraction, a truth value)."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.coerced = 0

    def read(self, value: Any) -> ReadTarget:
        if value is None or value == "":
            return ReadTarget(None, None, "no_target", None)
        if type(value) is float and value.is_integer():
            value, self.coerced = int(value), self.coerced + 1
        if type(value) not in (str, int):
            return ReadTarget(None, None, "target_not_an_item", None)
        return ReadTarget("", str(value), "", None)


class ItemRanking(Problem):
    """A row is a user's history, the target the item that follows, an answer the best items, the best one first."""

    VERSION: ClassVar[int] = 1
    name: ClassVar[str] = "ranking"
    kinds: ClassVar[tuple[str, ...]] = ("items",)
    types: ClassVar[tuple[str, ...]] = ("item",)
    target: ClassVar[pa.DataType | None] = pa.string()
    answer: ClassVar[pa.DataType | None] = pa.list_(pa.string())
    fits_strata: ClassVar[bool] = True
    strata_of_fields: ClassVar[bool] = True
    metric: ClassVar[str] = "ndcg"
    metrics: ClassVar[tuple[str, ...]] = ("ndcg", "recall")
    stratum_metric: ClassVar[str] = "ndcg"
    stratum_word: ClassVar[str] = "bin"
    hub: ClassVar[str] = "other"
    remedies: ClassVar[Mapping[str, str]] = {
        "no_target": "check columns.target, and leave out users without a next item",
        "target_not_an_item": "check columns.target: every cell has to be one item, a text or a whole number",
    }

    def reader(self, rules: Any) -> ItemReader:
        return ItemReader()

    def lacks(self, train: pa.Table) -> tuple[str, str] | None:
        items = len(train[TARGET].unique())
        if items >= 2:
            return None
        found = "every row has the same" if items else "there are no rows at all"
        return f"train needs at least two different next items; {found}", "check columns.target and the splits section"

    def fit_strata(self, train: pa.Table) -> dict[str, Any]:
        """``counts``: how often an item stands in train that has a name but the last, at least, descending; ``items``: those.

        Of histories and next items together. One name where rows are too few for several.
        """
        lists = [name for name in train.column_names if pa.types.is_list(train.schema.field(name).type)]
        counts = Counter(train[TARGET].to_pylist())
        for name in lists:
            counts.update(pc.list_flatten(train[name]).to_pylist())
        known = sorted((counts[item] for item in train[TARGET].to_pylist()), reverse=True)
        for parts in (3, 2):
            least = sorted(
                {known[len(known) * part // parts] for part in range(1, parts)} if known else (), reverse=True
            )
            rows = [sum(_place(count, least) == at for count in known) for at in range(parts)]
            if len(least) == parts - 1 and min(rows) >= ROWS_PER_BIN:
                return {"counts": least, "items": {i: n for i, n in sorted(counts.items()) if n >= least[-1]}}
        return {"counts": [], "items": {}}

    def stratum(self, target: pa.Array, fitted: Mapping[str, Any]) -> pa.Array:
        least, items = fitted["counts"], fitted["items"]
        names = NAMES[len(least) + 1]
        return pa.array([names[_place(items.get(item, 0), least)] for item in target.to_pylist()], pa.string())


def _place(count: int, least: list[int]) -> int:
    """Which of the names an item has that comes next so often; ``least``: of all names but the last, descending."""
    return next((at for at, bound in enumerate(least) if count >= bound), len(least))
