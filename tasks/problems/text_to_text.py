"""Text to text: question to answer, dialogue to reply, source to translation. What is learnt is a text.

Its stratum is a bin of the lengths of train rows' texts, each with about as many of them. Not a column that the user names:
rows that a generator makes have no such column, but every text has a length; and it is length that tells a name or a number
to be found from a sentence to be written, which trainers learn in unlike ways and metrics judge unlike.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from augmill.tasks.contracts import TARGET, Ints, Problem, ReadTarget, TargetReader
from augmill.tasks.rows.kinds.text import canonical
from augmill.tasks.rows.shown import cut

BINS = 4  # at most
ROWS_PER_BIN = 20  # at least, so that each bin can be asked for and judged
TOLD = 300  # characters of a target in a report
REMEDIES = {  # of what ``AnswerReader`` refuses
    "no_target": "check columns.target, and fill the empty texts",
    "target_not_a_text": "check columns.target: every cell has to be a text",
    "target_too_long": "shorten those texts, or raise refuse.max_chars",
}


class AnswerReader(TargetReader):
    """Refused: ``no_target`` (null, blank), ``target_not_a_text``, ``target_too_long`` (``refuse.max_chars``)."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def read(self, value: Any) -> ReadTarget:
        if value is None or (isinstance(value, str) and not canonical(value)):
            return ReadTarget(None, None, "no_target", None)
        if not isinstance(value, str):
            return ReadTarget(None, None, "target_not_a_text", None)
        if len(value) > self.limits.max_chars:
            return ReadTarget(None, None, "target_too_long", None)
        return ReadTarget("", value, "", None)


class TextToText(Problem):
    """Strata are quantile bins of the lengths of train rows' targets, in characters, whose names sort in ascending order."""

    VERSION: ClassVar[int] = 1
    name: ClassVar[str] = "text_to_text"
    types: ClassVar[tuple[str, ...]] = ("text",)
    kinds: ClassVar[tuple[str, ...]] = ("text", "dialogue")
    target: ClassVar[pa.DataType | None] = pa.large_string()
    fits_strata: ClassVar[bool] = True
    metric: ClassVar[str] = "rouge_l"
    metrics: ClassVar[tuple[str, ...]] = ("rouge_l", "chrf", "exact_match")
    stratum_metric: ClassVar[str] = "rouge_l"
    stratum_word: ClassVar[str] = "bin"
    hub: ClassVar[str] = "generation"
    remedies: ClassVar[Mapping[str, str]] = REMEDIES

    def reader(self, rules: Any) -> AnswerReader:
        return AnswerReader()

    def lacks(self, train: pa.Table) -> tuple[str, str] | None:
        return lacks_texts(train)

    def fit_strata(self, train: pa.Table) -> dict[str, Any]:
        return fit_lengths(train)

    def stratum(self, target: pa.Array, fitted: Mapping[str, Any]) -> pa.Array:
        return length_strata(target, fitted)

    def tell(self, value: Any) -> str:
        return tell_text(value)


# --- What problems share whose target is a text --------------------------------------------------------------------------


def lacks_texts(train: pa.Table) -> tuple[str, str] | None:
    """As ``Problem.lacks``."""
    values = len(train[TARGET].unique())
    if values >= 2:
        return None
    found = "every row has the same" if values else "there are no rows at all"
    return f"train needs at least two different targets; {found}", "check columns.target and the splits section"


def fit_lengths(train: pa.Table) -> dict[str, Any]:
    """``edges``: ascending; bin i holds texts from edge i - 1 characters up to, not with, edge i."""
    lengths = _lengths(train[TARGET].combine_chunks())
    bins = int(np.clip(len(lengths) // ROWS_PER_BIN, 1, BINS))
    if bins == 1:
        return {"edges": []}
    edges = np.unique(np.quantile(lengths, np.arange(1, bins) / bins, method="higher"))
    return {"edges": [int(edge) for edge in edges if edge > lengths.min()]}


def length_strata(target: pa.Array, fitted: Mapping[str, Any]) -> pa.Array:
    """``fitted``: of ``fit_lengths``."""
    edges = fitted["edges"]
    names = _names(edges)
    at = np.searchsorted(edges, _lengths(target), side="right")
    return pa.array([names[place] for place in at], pa.string())


def tell_text(value: Any) -> str:
    """On one line, cut to ``TOLD`` characters."""
    text = " ".join(str(value).split())
    return text if len(text) <= TOLD else f"{cut(text, TOLD - 1)}…"


def _lengths(target: pa.Array) -> Ints:
    found: Ints = pc.utf8_length(target).to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def _names(edges: list[int]) -> list[str]:
    if not edges:
        return ["1: all"]
    spans = [(low, high - 1) for low, high in itertools.pairwise(edges)]
    between = [f"{low} to {high} characters" if low < high else f"{low} characters" for low, high in spans]
    names = [f"below {edges[0]} characters", *between, f"from {edges[-1]} characters"]
    return [f"{at}: {name}" for at, name in enumerate(names, 1)]
