"""Tables drawn by hypothesis: few values, so that rows are equal, nearly equal and not."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from augmill.tasks.rows.kinds import KINDS, type_of

NUMBERS = st.sampled_from([None, 0.0, -0.0, 1.0, 1.0000001, 1.00001, -3.5, 17.0, 1e300, -1e-310, 2.0**53]) | st.floats(
    allow_nan=False, allow_infinity=False
)
CATEGORIES = st.sampled_from([None, "Sales", "sales", "SALES ", "Ｓales", "a  b", "a b", "é", "e\u0301", "x\x1fy", "0"])
MOMENTS = st.sampled_from([None, 0, 1, 999_999, 1_000_000, -1, 1_700_000_000_000_000, -62_135_596_800_000_000])
WORDS = st.sampled_from(
    ["", "where is my new card", "Where is my new card?", "where is my new card now", "my card is lost", "?", "a"]
)
# Each near the one before and the one after it from 0.8 up, and none else.
CHAIN = st.sampled_from(
    ["where is my new card", "where is my new card now", "where is my new card now tell", "Where is my new card?"]
)
VALUES = {"number": NUMBERS, "category": CATEGORIES, "timestamp": MOMENTS, "text": WORDS}
# Of so few that rows of all columns are often near and not equal.
FEW = {
    "number": st.sampled_from([None, 1.0, 1.0000001]),
    "category": st.sampled_from([None, "Sales", "sales"]),
    "text": CHAIN,
}
COLUMNS = ("number:n", "category:c", "timestamp:t", "number:m")


@st.composite
def tables(
    draw: Any, names: tuple[str, ...] | None = None, values: dict[str, st.SearchStrategy[Any]] = VALUES, most: int = 14
) -> pa.Table:
    """Rows of the given columns, or of some of a table's."""
    names = names or tuple(draw(st.lists(st.sampled_from(COLUMNS), min_size=1, unique=True)))
    rows = draw(st.lists(st.tuples(*(values[type_of(name)] for name in names)), max_size=most))
    arrays = {}
    for at, name in enumerate(names):
        kind = KINDS[type_of(name)].arrow(type_of(name))
        plain = pa.int64() if pa.types.is_timestamp(kind) else kind
        arrays[name] = pa.array([row[at] for row in rows], plain).view(kind)
    return pa.table(arrays)
