"""Unlabelled real rows, labelled by a teacher that learnt from the train rows and from all unlabelled text.

Self-training (Scudder, IEEE Trans. Information Theory 1965; Yarowsky, ACL 1995), one pass of it: the teacher is an
ensemble (tasks/problems/semi_supervised.py), for a learner taught by its own guesses alone learns little. Row k of class c
answers the request for class c with ordinal k; past the last one nothing is delivered. No row is made: what is released
is a real text under a label that nobody gave, with that row as its parent.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.contracts import ROW_ID, STRATUM, Context, FitInputs, Fitted, Generator, Request
from augmill.tasks.generators._parents import Parents, answer, count_classes, sort_parents, write_parents
from augmill.tasks.problems import MEMBERS, Learner, Teaching, teach
from augmill.tasks.rows.kinds.text import equal, join_fields

Ints = npt.NDArray[np.int64]

LEAST = 0.2  # of the rows of a class are handed out, however seldom the teacher is right


@dataclass(frozen=True)
class SelfTrainingOptions:
    """Which rows are handed out under a class, and how the teacher is made."""

    keep: float | None = field(
        default=None,
        metadata={
            "help": "The share of the rows assigned to a class that is handed out, most confident first; by default the share"
            " of train rows on which the teacher is right, measured on rows it did not learn from."
        },
    )
    confidence: float = field(
        default=0.0,
        metadata={"help": "Hand out no row whose class has a lower probability, whatever `keep` is."},
    )
    order: Literal["spread", "confident"] = field(
        default="spread",
        metadata={
            "help": "spread: the first rows asked for come evenly from all of that share; confident: the most confident "
            "first. The most confident rows are those most like the labelled ones, which teach the least."
        },
    )
    members: dict[Learner, float] = field(
        default_factory=lambda: dict(MEMBERS),
        metadata={
            "help": "The weight of each learner's vote; learners not named here have none. logistic: regression on "
            "TF-IDF; latent: on its leading directions; bayes: naive Bayes that also learns from the unlabelled "
            "rows."
        },
    )
    rounds: int = field(default=6, metadata={"help": "Rounds in which `bayes` learns from the unlabelled rows (EM)."})
    balance: float = field(
        default=0.0,
        metadata={
            "help": "How far the classes' shares among the unlabelled rows are pulled towards those in train: 0, not at "
            "all; 1, completely."
        },
    )
    max_rows: int = field(
        default=20_000,
        metadata={"help": "Maximum number of unlabelled rows the teacher learns from; it labels all of them."},
    )

    def __post_init__(self) -> None:
        if self.keep is not None and not 0 < self.keep <= 1:
            raise ValueError(f"keep: expected a share above 0, at most 1; found {self.keep}")
        if not 0 <= self.confidence <= 1:
            raise ValueError(f"confidence: expected 0 to 1; found {self.confidence}")
        Teaching(self.members, self.rounds, self.balance, self.max_rows)  # raises where it is out of bounds


class SelfTraining(Generator):
    """Hands out unlabelled rows under the class that a teacher found."""

    VERSION = 2
    Options = SelfTrainingOptions
    repeatable: ClassVar[bool] = True
    finite: ClassVar[bool] = True
    labels: ClassVar[Literal["asked", "own"]] = "asked"
    origin: ClassVar[Literal["synthetic", "pseudo_labelled"]] = "pseudo_labelled"

    def wants_unlabelled(self) -> bool:
        return True

    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        """Writes parents.arrow (by class, then the most confident first, then id) and summary.json.

        A text that stands in train is left out: it has its label already. With one class in train, or no unlabelled
        rows, there is nothing to tell, and no row is handed out.
        """
        train = inputs.train.sort_by(ROW_ID)
        texts, strata = _texts(train, ctx.fields), train[STRATUM].to_pylist()
        known = {equal(text) for text in texts}
        keys = [equal(text) for text in _texts(inputs.unlabelled, ctx.fields)]
        new = pa.array([key not in known for key in keys], pa.bool_())
        free = inputs.unlabelled.filter(new).sort_by(ROW_ID)
        summary: dict[str, Any] = {
            "labelled": len(texts),
            "unlabelled": free.num_rows,
            "in_train": len(keys) - free.num_rows,
        }
        chosen = sort_parents(free.slice(0, 0), ctx.fields)
        if free.num_rows and len(set(strata)) > 1:
            chosen, told = self._label(texts, strata, free, ctx)
            summary |= told
        summary["rows"] = dict(sorted(count_classes(chosen).items()))
        path = ctx.workdir / "summary.json"
        path.write_text(json.dumps(summary, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
        return {"summary.json": path, "parents.arrow": write_parents(chosen, ctx)}

    def _label(
        self, texts: list[str], strata: list[str], free: pa.Table, ctx: Context
    ) -> tuple[pa.Table, dict[str, Any]]:
        """(rows to hand out under their classes, what the summary says of the teacher)."""
        options: SelfTrainingOptions = self.options
        how = Teaching(options.members, options.rounds, options.balance, options.max_rows)
        unlabelled = _texts(free, ctx.fields)
        teacher, held_out = teach(texts, strata, unlabelled, how, seed=ctx.seed, tell=ctx.tell)
        chances = teacher.probabilities(unlabelled)
        found = chances.argmax(axis=1)
        # Rounded: two rows that a CPU's last bits tell apart stand by their ids.
        sure = np.round(chances.max(axis=1), 6)
        right = [teacher.strata[at] == name for at, name in zip(held_out.argmax(axis=1), strata, strict=True)]
        table = free.select([ROW_ID, *ctx.fields]).add_column(
            1, STRATUM, pa.array([teacher.strata[at] for at in found], pa.string())
        )
        table = table.append_column("sure", pa.array(sure))
        order = [(STRATUM, "ascending"), ("sure", "descending"), (ROW_ID, "ascending")]
        table = table.sort_by(order)
        accuracy = round(float(np.mean(right)), 4)
        kept = _most_confident(table, options.keep or max(accuracy, LEAST), options.confidence)
        told = {"accuracy": accuracy, "told": dict(sorted(count_classes(table).items()))}
        least: dict[str, float] = {}
        for name, value in zip(kept[STRATUM].to_pylist(), kept["sure"].to_pylist(), strict=True):
            least[name] = min(value, least.get(name, 1.0))
        return kept.drop_columns(["sure"]), told | {"least_confidence": {k: round(v, 4) for k, v in least.items()}}

    def sample(self, fitted: Fitted, request: Request, ctx: Context) -> pa.Table:
        """The rows; ``exhausted`` where the class has fewer than the ordinal asks for."""
        options: SelfTrainingOptions = self.options
        parents = fitted.get("parents", lambda: Parents(fitted))
        orders = fitted.get(f"orders:{options.order}", lambda: _orders(parents, options.order))
        nothing = np.empty(0, dtype=np.int64)
        rows = np.array(
            [
                own[ordinal] if ordinal < len(own := orders.get(stratum, nothing)) else -1
                for stratum, ordinal in zip(request.strata, request.ordinals.tolist(), strict=True)
            ],
            dtype=np.int64,
        )
        taken = parents.table.take(pa.array(rows, mask=rows < 0))
        texts = list(zip(*(taken[name].to_pylist() for name in ctx.fields), strict=True))
        delivered = [None if row < 0 else list(parts) for row, parts in zip(rows.tolist(), texts, strict=True)]
        return answer(request, ctx.fields, delivered, parents.ids_of(rows), ["exhausted"] * len(rows))


def _texts(table: pa.Table, fields: tuple[str, ...]) -> list[str]:
    return [join_fields(parts) for parts in zip(*(table[name].to_pylist() for name in fields), strict=True)]


def _most_confident(table: pa.Table, keep: float, confidence: float) -> pa.Table:
    """Of each class the first ``keep`` of its rows, one at least, where they are sure enough; ``table`` is sorted."""
    counts, place = count_classes(table), dict[str, int]()
    kept = []
    for name, sure in zip(table[STRATUM].to_pylist(), table["sure"].to_pylist(), strict=True):
        place[name] = place.get(name, 0) + 1
        kept.append(place[name] <= max(1, round(keep * counts[name])) and sure >= confidence)
    return table.filter(pa.array(kept, pa.bool_()))


def _orders(parents: Parents, order: str) -> dict[str, Ints]:
    """The position of each class's row by ordinal."""
    return {
        name: start + (spread(count) if order == "spread" else np.arange(count, dtype=np.int64))
        for name, (start, count) in parents.ranges.items()
    }


def spread(count: int) -> Ints:
    """0 to ``count - 1`` in an order of which every beginning is spread evenly over the whole (van der Corput, 1935)."""
    bits = max(1, (count - 1).bit_length())
    numbers = np.arange(1 << bits, dtype=np.int64)
    turned = np.zeros_like(numbers)
    for bit in range(bits):
        turned |= ((numbers >> bit) & 1) << (bits - 1 - bit)
    return turned[turned < count]
