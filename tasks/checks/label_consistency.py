"""Refuses a row whose claimed class a classifier fitted on the train rows finds far less likely than another.

LAMBADA's filter (Anaby-Tavor et al., "Do not have enough data? Deep learning to the rescue!", AAAI 2020). TF-IDF over
words and characters (characters alone where words are not set apart by spaces) and logistic regression with averaged
loss; of rows that are not texts alone, what each kind makes of its fields (``Kind.features``) and the same regression.
At 10 rows a class such a classifier is right on half of TREC: so it measures itself, and abstains where it is no good.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from augmill.tasks.checks.base import (
    CHECK_FILE,
    fold_numbers,
    require,
    text_fields,
    verdicts,
    write_check,
)
from augmill.tasks.contracts import ANY, ROW_ID, STRATUM, Check, Context, FitInputs, Fitted, Tell, tell_nobody
from augmill.tasks.problems import VOCABULARY, WEIGHTS, Classifier, RowClassifier
from augmill.tasks.rows.kinds.text import prepared

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Rows = Any  # what a classifier reads: a list of folded texts, or the rows themselves as a table
Model = Classifier | RowClassifier
Learn = Callable[[Any, list[str]], Model]  # from rows and their classes

FOLDS = 5
_BLOCK = 1 << 14  # rows scored at once: 20 MB of probabilities at 150 classes


@dataclass(frozen=True)
class LabelConsistencyOptions:
    """``threshold`` is relative, so that it means the same at 2 classes and at 150."""

    keep: Literal["threshold", "best_share"] = field(
        default="threshold",
        metadata={"help": "`threshold`: refuse; `best_share`: refuse nothing here, settle keeps the best scored"},
    )
    threshold: float = field(
        default=0.1,
        metadata={
            "help": "refuse if the claimed class has less than this times the probability of the likeliest class"
        },
    )
    max_real_refused: float = field(
        default=0.1,
        metadata={
            "help": "abstain if more than this share of real rows would be refused (twice this for a single class)"
        },
    )
    min_power: float = field(
        default=3.0, metadata={"help": "abstain unless wrong labels are refused this many times as often as real ones"}
    )
    max_rows: int = field(default=10_000, metadata={"help": "maximum number of train rows the classifier is fitted on"})
    max_measured: int = field(
        default=4_000, metadata={"help": "maximum number of train rows the self-measurement uses"}
    )

    def __post_init__(self) -> None:
        require("threshold", self.threshold, 0, 1)
        require("max_real_refused", self.max_real_refused, 0, 1)
        require("min_power", self.min_power, 1, 1000)
        require("max_rows", self.max_rows, 10, 10**9)
        require("max_measured", self.max_measured, 10, 10**9)


def refused(probabilities: Floats, claimed: Ints, threshold: float) -> npt.NDArray[np.bool_]:
    """Which rows' claimed class has less than ``threshold`` times the greatest probability."""
    result: npt.NDArray[np.bool_] = probabilities[np.arange(len(claimed)), claimed] < threshold * probabilities.max(1)
    return result


@dataclass(frozen=True)
class Measurement:
    """Cross-fitted shares of right answers, of real rows refused and of rows refused under a wrong class;

    ``by_stratum``: (rows, refusals) of each class.
    """

    accuracy: float
    real_refused: float
    wrong_refused: float
    by_stratum: dict[str, tuple[int, int]]

    @classmethod
    def of(
        cls,
        rows: Rows,
        strata: list[str],
        folds: Ints,
        threshold: float,
        learn: Learn,
        tell: Tell = tell_nobody,
    ) -> Measurement:
        """A row counts where its class stands in the other folds too; without such a row the refused shares are 1."""
        right: list[bool] = []
        real: list[bool] = []
        wrong: list[float] = []
        counts: dict[str, tuple[int, int]] = {}
        for done, number in enumerate(np.unique(folds)):
            tell(done, FOLDS + 1, "trainings")
            rest = [at for at in range(len(strata)) if folds[at] != number]
            known = sorted({strata[at] for at in rest})
            here = [at for at in range(len(strata)) if folds[at] == number and strata[at] in known]
            if len(known) < 2 or not here:
                continue
            model = learn(_take(rows, rest), [strata[at] for at in rest])
            chances = model.probabilities(_take(rows, here))
            own = np.array([model.strata.index(strata[at]) for at in here])
            out = refused(chances, own, threshold)
            low = (chances < threshold * chances.max(axis=1, keepdims=True)).sum(axis=1)
            right += (chances.argmax(axis=1) == own).tolist()
            real += out.tolist()
            wrong += ((low - out) / (len(model.strata) - 1)).tolist()
            for at, is_out in zip(here, out.tolist(), strict=True):
                judged, refusals = counts.get(strata[at], (0, 0))
                counts[strata[at]] = (judged + 1, refusals + is_out)
        if not real:
            return cls(0.0, 1.0, 1.0, {})
        return cls(float(np.mean(right)), float(np.mean(real)), float(np.mean(wrong)), counts)


class LabelConsistency(Check):
    """Reason: ``inconsistent_label``. Score: probability of the claimed class, even if the check abstains."""

    VERSION: ClassVar[int] = 1
    Options: ClassVar[type[LabelConsistencyOptions]] = LabelConsistencyOptions
    kinds: ClassVar[tuple[str, ...]] = (ANY,)

    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        order = pc.sort_indices(inputs.train[ROW_ID]).to_numpy()
        strata = inputs.train[STRATUM].take(pa.array(order)).combine_chunks()
        names = sorted(map(str, pc.unique(strata).to_pylist()))
        if len(names) < 2:
            why = "abstains: train has one class only"
            return write_check(ctx, abstains=True, real_refused=0.0, why=why, abstains_for=names)
        learn = _learner(len(strata), ctx.fields)
        fitted_on = _spread(strata, self.options.max_rows)
        measured_on = _spread(strata, self.options.max_measured)
        used = np.union1d(fitted_on, measured_on)  # of a large train a small part
        rows = _rows(inputs.train.take(pa.array(order[used])), ctx.fields)
        folds = fold_numbers(inputs.train, ctx.fields, FOLDS)[order[measured_on]]
        fitted_on, measured_on = (np.searchsorted(used, at) for at in (fitted_on, measured_on))
        classes = [str(name) for name in strata.take(pa.array(used)).to_pylist()]
        measured = Measurement.of(
            _take(rows, measured_on),
            [classes[at] for at in measured_on],
            folds,
            self.options.threshold,
            learn,
            ctx.tell,
        )
        ctx.tell(FOLDS, FOLDS + 1, "trainings")
        model = learn(_take(rows, fitted_on), [classes[at] for at in fitted_on])
        return model.save(ctx.workdir) | self._write(ctx, measured, names)

    def _write(self, ctx: Context, measured: Measurement, strata: list[str]) -> dict[str, Path]:
        limit, power = self.options.max_real_refused, self.options.min_power
        why = (
            f"right on {measured.accuracy:.1%} of the real rows it was not fitted on, refuses "
            f"{measured.real_refused:.1%} of them, and {measured.wrong_refused:.1%} under a wrong label"
        )
        weak = measured.wrong_refused < max(0.1, power * measured.real_refused)  # SST-2 at 10 a class: 0.00 and 0.00
        abstains = measured.real_refused > limit or weak
        # Two refused rows at least: one of four is chance. A class that could not be measured is not judged either.
        abstains_for = [
            name
            for name in strata
            for rows, out in [measured.by_stratum.get(name, (0, 0))]
            if not rows or (out >= 2 and out > 2 * limit * rows)
        ]
        return write_check(
            ctx,
            abstains=abstains,
            real_refused=measured.real_refused,
            why=f"abstains: {why}" if abstains else why,
            abstains_for=abstains_for,
            accuracy=round(measured.accuracy, 6),
            wrong_refused=round(measured.wrong_refused, 6),
        )

    def judge(self, fitted: Fitted, candidates: pa.Table, ctx: Context) -> pa.Table:
        learnt = fitted.read_json(CHECK_FILE)
        if not (fitted.path / WEIGHTS).exists():
            return verdicts([None] * candidates.num_rows, [None] * candidates.num_rows)
        kind: type[Model] = Classifier if _texts_alone(ctx.fields) else RowClassifier
        model: Any = fitted.get("model", lambda: kind.load(fitted.path, fitted.read_json(VOCABULARY)))
        column = {name: at for at, name in enumerate(model.strata)}
        rows = _rows(candidates, ctx.fields)
        claimed = [str(stratum) for stratum in candidates[STRATUM].to_pylist()]
        at = np.array([column.get(name, -1) for name in claimed], dtype=np.int64)
        scores, out = np.zeros(len(claimed)), np.zeros(len(claimed), dtype=bool)
        for start in range(0, len(claimed), _BLOCK):
            block = slice(start, start + _BLOCK)
            chances = model.probabilities(rows[block])
            scores[block] = np.where(at[block] >= 0, chances[np.arange(len(chances)), at[block]], 0.0)
            out[block] = refused(chances, at[block], self.options.threshold) & (at[block] >= 0)
        silent = learnt["abstains"] or self.options.keep == "best_share"
        exempt = set(learnt["abstains_for"])
        passes = [silent or name in exempt or not bad for name, bad in zip(claimed, out.tolist(), strict=True)]
        return verdicts([None if ok else "inconsistent_label" for ok in passes], scores)


def _texts_alone(fields: Sequence[str]) -> bool:
    return len(text_fields(fields)) == len(fields)


def _rows(table: pa.Table, fields: Sequence[str]) -> Rows:
    return prepared(table.select(text_fields(fields))).fold if _texts_alone(fields) else table


def _take(rows: Rows, at: Sequence[int] | Ints) -> Rows:
    return rows.take(pa.array(at, pa.int64())) if isinstance(rows, pa.Table) else [rows[row] for row in at]


def _learner(count: int, fields: Sequence[str]) -> Learn:
    """How a classifier is fitted to rows of such fields, of which train has ``count``."""
    if not _texts_alone(fields):
        return lambda rows, strata: RowClassifier.fit(rows, fields, strata)
    least = 2 if count > 3000 else 1  # on BANKING77 and CLINC150: half the columns and seconds, equal accuracy
    return lambda texts, strata: Classifier.fit(texts, strata, least)


def _spread(strata: pa.Array, most: int) -> Ints:
    """Indices of at most ``most`` rows, evenly over the classes' rows in their order; two of each class at least."""
    encoded = strata.dictionary_encode().indices.to_numpy()
    order = np.argsort(encoded, kind="stable")
    share, chosen = min(1.0, most / len(strata)), [np.empty(0, np.int64)]
    for rows in np.split(order, np.cumsum(np.bincount(encoded))[:-1]):
        count = min(len(rows), max(2, int(share * len(rows))))
        chosen.append(rows[np.arange(count) * len(rows) // count])
    return np.sort(np.concatenate(chosen))
