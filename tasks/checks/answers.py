"""Refuses answers that repeat their question, and ones far shorter or longer than those of the train rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa

from augmill.tasks.checks.base import CHECK_FILE, abstention, fold_numbers, verdicts, write_check
from augmill.tasks.checks.length import FOLDS, REASONS, LengthOptions, learn, measure, refused
from augmill.tasks.contracts import TARGET, Check, Context, FitInputs, Fitted
from augmill.tasks.rows.kinds import show
from augmill.tasks.rows.kinds.text import canonical, fold, is_unspaced

MOST = 0.8  # of a question's characters: an answer that stands in it and is so much of it, or more, repeats it


class Answers(Check):
    """Reasons, the first that holds: ``repeats_question`` (all of it, or all but a few words, whatever the case and the

    punctuation), ``empty``, ``too_short``, ``too_long``; bounds as in `length`. Whether an answer stands in a document is
    looked at where it is made (`chat`), which alone knows the words that were named.
    """

    VERSION: ClassVar[int] = 1
    Options: ClassVar[type[LengthOptions]] = LengthOptions
    kinds: ClassVar[tuple[str, ...]] = ("text", "dialogue")
    problems: ClassVar[tuple[str, ...]] = ("text_to_text",)

    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        """check.json's ``bounds``: ``{"characters": [least, most], "words": ...}``."""
        rows = inputs.train
        if TARGET not in rows.column_names:
            return write_check(ctx, abstains=True, real_refused=0.0, why="abstains: no text is learnt", bounds={})
        answers = _answers(rows)
        units = measure(answers, spaced=not is_unspaced(answers))
        folds, out = fold_numbers(rows, ctx.fields, FOLDS), np.array(_repeats(rows, ctx.fields), np.bool_)
        for held in range(FOLDS):
            inside = folds == held
            if inside.any() and not inside.all():
                rest = {unit: lengths[~inside] for unit, lengths in units.items()}
                out |= inside & (refused(units, learn(rest, self.options)) > 0)
        share = float(out.mean()) if len(out) else 0.0
        abstains, why_not = abstention(share, self.options.max_real_refused)
        bounds = learn(units, self.options) if answers else {}
        return write_check(ctx, abstains=abstains, real_refused=share, why=why_not, bounds=bounds)

    def judge(self, fitted: Fitted, candidates: pa.Table, ctx: Context) -> pa.Table:
        learnt, none = fitted.read_json(CHECK_FILE), [None] * candidates.num_rows
        if learnt["abstains"] or TARGET not in candidates.column_names:
            return verdicts(none, none)
        units = measure(_answers(candidates), spaced="words" in learnt["bounds"])
        found = zip(_repeats(candidates, ctx.fields), refused(units, learnt["bounds"]).tolist(), strict=True)
        return verdicts(["repeats_question" if repeats else REASONS[why] for repeats, why in found], none)


def _answers(rows: pa.Table) -> list[str]:
    return [canonical(text or "") for text in rows[TARGET].to_pylist()]


def _repeats(rows: pa.Table, fields: Sequence[str]) -> list[bool]:
    """Which answers are their question again."""
    found = []
    for question, answer in zip(show(rows, fields), _answers(rows), strict=True):
        asked, said = fold(question), fold(answer)
        found.append(bool(said) and said in asked and len(said) >= MOST * len(asked))
    return found
