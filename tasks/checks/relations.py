"""Refuses a row for what it stands too near to: held-out rows, its own parents, other train rows (three thresholds).

To held-out rows: never, exact or near. To its own parents: not equal under the generator's declared normalisation; near
they may be, for word-level edits stand at 0.8 or more from their parent in 37-62 % of cases. To other train rows: no
exact copy, and no near one from a high similarity up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.checks.base import joined_texts, require, verdicts, write_check
from augmill.tasks.contracts import ROW_ID, STRATUM, Check, Context, FitInputs, Fitted
from augmill.tasks.rows.kinds.text import NORMALISATIONS
from augmill.tasks.rows.kinds.text.near import TextIndex

_PARENTS, _UNLABELLED = "parents.arrow", "unlabelled.arrow"


@dataclass(frozen=True)
class RelationsOptions:
    """Similarities are Jaccard over character 5-grams of the folded texts; 1 means equal up to case and punctuation."""

    heldout_near: float = field(
        default=0.8, metadata={"help": "refuse from this similarity to a validation, test or excluded row up"}
    )
    train_near: float = field(
        default=0.95, metadata={"help": "refuse from this similarity to a train row other than a parent up"}
    )
    parent_normalisation: Literal["canonical", "fold"] = field(
        default="canonical",
        metadata={"help": "a row must differ from its parents under this; set to what the generator declares"},
    )
    parent_class: Literal["same", "any"] = field(
        default="same",
        metadata={
            "help": "same: a row leaves when a parent's class is no longer its own (a corrected label); any: for rows "
            "that are meant to be of another class than what they were made from"
        },
    )

    def __post_init__(self) -> None:
        require("heldout_near", self.heldout_near, 0.5, 1)
        require("train_near", self.train_near, 0.5, 1)


@dataclass(frozen=True)
class _Train:
    """Train texts and classes by row_id, and for each the row that stands for it in the index (equal texts share one)."""

    texts: dict[str, str]
    strata: dict[str, str]
    indexed: dict[str, int]


class Relations(Check):
    """Reasons, the first that holds: ``in_heldout``, ``near_heldout``, ``parent_left``, ``equals_parent``, ``in_train``,

    ``near_train``. ``parent_left``: made from a row that is no train row of this snapshot any more, or one of another
    class: it left the window, was corrected, held back or erased since the generator was fitted (law 5). A row that was
    unlabelled has that row for its parent, and may equal it.
    Score: 1 minus the greatest similarity found, at or above a threshold, to a row that is no parent. Never abstains:
    a leak is a leak however many real rows repeat each other.
    """

    VERSION: ClassVar[int] = 3
    Options: ClassVar[type[RelationsOptions]] = RelationsOptions

    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        """``real_refused`` counts train rows that stand near a held-out row or near an earlier other train row."""
        held_out = [
            text
            for table in (inputs.validation, inputs.test, inputs.exclude)
            if table.num_rows
            for text in joined_texts(table, ctx.fields)
        ]
        texts = joined_texts(inputs.train, ctx.fields)
        heldout = TextIndex.build(held_out, self.options.heldout_near)
        train = TextIndex.build(texts, self.options.train_near)
        near_heldout = heldout.nearest(texts)[0] >= 0
        first = train.exact(texts)
        query, position, _ = train.matches(texts)
        repeats = first < np.arange(len(texts))
        repeats[query[position < query]] = True
        ids = pa.array(inputs.train[ROW_ID].to_pylist(), pa.string())
        columns = {ROW_ID: ids, STRATUM: inputs.train[STRATUM], "text": pa.array(texts, pa.string()), "indexed": first}
        table = pa.table(columns).sort_by(ROW_ID)
        unlabelled = inputs.unlabelled.select([ROW_ID]).sort_by(ROW_ID)
        own = {name: ctx.workdir / name for name in (_PARENTS, _UNLABELLED)}
        for path, rows in zip(own.values(), (table, unlabelled), strict=True):
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
                writer.write_table(rows)
        near, again = (float(mask.mean()) if len(texts) else 0.0 for mask in (near_heldout, repeats))
        why = f"{near:.1%} of train rows stand in or near held-out rows, {again:.1%} repeat an earlier train row"
        share = float((near_heldout | repeats).mean()) if len(texts) else 0.0
        files = write_check(
            ctx, abstains=False, real_refused=share, why=why, near_heldout=round(near, 6), repeated=round(again, 6)
        )
        return files | heldout.save(ctx.workdir, "heldout") | train.save(ctx.workdir, "train") | own

    def judge(self, fitted: Fitted, candidates: pa.Table, ctx: Context) -> pa.Table:
        heldout = fitted.get("heldout", lambda: TextIndex.load(fitted.path, "heldout"))
        train = fitted.get("train", lambda: TextIndex.load(fitted.path, "train"))
        parents = fitted.get("parents", lambda: _load_train(fitted.path / _PARENTS))
        texts = joined_texts(candidates, ctx.fields)
        free = fitted.get("unlabelled", lambda: set(_read(fitted.path / _UNLABELLED)[ROW_ID].to_pylist()))
        parent_ids = [
            [i for i in ids or [] if i in parents.strata or i not in free]
            for ids in candidates["parent_ids"].to_pylist()
        ]
        to_heldout = heldout.nearest(texts)[1]
        to_train = _nearest_other(train, texts, parent_ids, parents)
        normalise = NORMALISATIONS[self.options.parent_normalisation]
        reasons: list[str | None] = []
        strata = candidates[STRATUM].to_pylist()
        for text, stratum, ids, held, near in zip(texts, strata, parent_ids, to_heldout, to_train, strict=True):
            if held > 0:
                reasons.append("in_heldout" if held == 1 else "near_heldout")
            elif any(self._left(parents.strata.get(i), stratum) for i in ids):
                reasons.append("parent_left")
            elif any(normalise(parents.texts[i]) == normalise(text) for i in ids):
                reasons.append("equals_parent")
            elif near > 0:
                reasons.append("in_train" if near == 1 else "near_train")
            else:
                reasons.append(None)
        return verdicts(reasons, 1 - np.maximum(to_heldout, to_train))

    def _left(self, now: str | None, stratum: str) -> bool:
        """Whether a parent whose class in train is ``now`` (None: it stands there no more) no longer stands for the row."""
        return now is None or (self.options.parent_class == "same" and now != stratum)


def _nearest_other(
    train: TextIndex, texts: list[str], parent_ids: list[list[str]], parents: _Train
) -> npt.NDArray[np.float64]:
    """Greatest similarity of each text to a train row that is none of its parents; 0 where none is near."""
    query, position, similarity = train.matches(texts)
    own = {(row, parents.indexed[i]) for row, ids in enumerate(parent_ids) for i in ids if i in parents.indexed}
    pairs = zip(query.tolist(), position.tolist(), strict=True)
    other = np.fromiter((pair not in own for pair in pairs), bool, len(query))
    result = np.zeros(len(texts))
    np.maximum.at(result, query[other], similarity[other])
    return result


def _read(path: Path) -> pa.Table:
    with pa.OSFile(str(path), "rb") as source:
        return pa.ipc.open_file(source).read_all()


def _load_train(path: Path) -> _Train:
    table = _read(path)
    ids, *columns = (table[name].to_pylist() for name in (ROW_ID, "text", STRATUM, "indexed"))
    texts, strata, indexed = (dict(zip(ids, column, strict=True)) for column in columns)
    return _Train(texts, strata, indexed)
