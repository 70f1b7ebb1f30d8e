"""Refuses rows too near to held-out rows, their own parents or other train rows (three thresholds).

To held-out rows: never, exact or near. To its own parents: not equal under the generator's declared normalisation; near
they may be, for word-level edits stand at 0.8 or more from their parent in 37-62 % of cases. To other train rows: no
exact copy, and no near one from a high similarity up.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.checks.base import require, verdicts, write_check
from augmill.tasks.contracts import ANY, ROW_ID, STRATUM, Check, Context, FitInputs, Fitted
from augmill.tasks.rows.kinds import RowIndex, equal_keys, id_keys
from augmill.tasks.rows.kinds.whole import read_arrow, write_arrow

_PARENTS, _UNLABELLED = "parents.arrow", "unlabelled.arrow"


@dataclass(frozen=True)
class RelationsOptions:
    """Similarities are those of the rows' kinds, the least of them; 1 means equal (``Kind.equal``)."""

    heldout_near: float = field(
        default=0.8, metadata={"help": "refuse rows at least this similar to a validation, test or excluded row"}
    )
    train_near: float = field(
        default=0.95, metadata={"help": "refuse rows at least this similar to a train row other than a parent"}
    )
    parent_normalisation: Literal["canonical", "fold"] = field(
        default="canonical",
        metadata={
            "help": "a row must differ from its parents under this normalisation; set to the one the generator declares"
        },
    )
    parent_class: Literal["same", "any"] = field(
        default="same",
        metadata={
            "help": "same: refuse a row if a parent's class is no longer its own (a corrected label); any: for rows that "
            "are meant to have another class than their parents"
        },
    )

    def __post_init__(self) -> None:
        require("heldout_near", self.heldout_near, 0.5, 1)
        require("train_near", self.train_near, 0.5, 1)


@dataclass(frozen=True)
class _Train:
    """Train rows' keys and classes by row_id, and for each the row that stands for it in the index (equal ones share it)."""

    keys: dict[str, bytes]
    strata: dict[str, str]
    indexed: dict[str, int]


class Relations(Check):
    """Reasons, the first that holds: ``in_heldout``, ``near_heldout``, ``parent_left``, ``equals_parent``, ``in_train``,

    ``near_train``. ``parent_left``: its parent is no longer a train row of this snapshot, or has another class: it left
    the window, was corrected, held back or erased since the generator was fitted. A pseudo-labelled row has the
    unlabelled row as its parent, and may equal it.
    Score: 1 minus the greatest similarity found, at or above a threshold, to a row that is no parent. Never abstains:
    a leak is a leak however many real rows repeat each other.
    """

    VERSION: ClassVar[int] = 4
    Options: ClassVar[type[RelationsOptions]] = RelationsOptions
    kinds: ClassVar[tuple[str, ...]] = (ANY,)
    problems: ClassVar[tuple[str, ...]] = (ANY,)

    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        """``real_refused`` counts train rows that stand near a held-out row or near an earlier other train row."""
        names = [ROW_ID, *ctx.fields]
        held_out = pa.concat_tables([part.select(names) for part in (inputs.validation, inputs.test, inputs.exclude)])
        rows = inputs.train
        heldout = RowIndex.build(held_out, ctx.fields, self.options.heldout_near)
        train = RowIndex.build(rows, ctx.fields, self.options.train_near)
        near_heldout = heldout.nearest(rows)[0] >= 0
        equal = equal_keys(rows, ctx.fields)
        first = dict(zip(reversed(equal), range(rows.num_rows - 1, -1, -1), strict=True))
        indexed = np.array([first[key] for key in equal], dtype=np.int64)
        query, position, _ = train.matches(rows)
        repeats = indexed < np.arange(rows.num_rows)
        repeats[query[position < query]] = True
        columns = {
            ROW_ID: rows[ROW_ID],
            STRATUM: rows[STRATUM],
            **{name: pa.array(map(_digest, keys), pa.binary(16)) for name, keys in _keys(rows, ctx.fields).items()},
            "indexed": indexed,
        }
        table = pa.table(columns).sort_by(ROW_ID)
        unlabelled = inputs.unlabelled.select([ROW_ID]).sort_by(ROW_ID)
        own = {name: ctx.workdir / name for name in (_PARENTS, _UNLABELLED)}
        for path, part in zip(own.values(), (table, unlabelled), strict=True):
            write_arrow(part, path)
        near, again = (float(mask.mean()) if rows.num_rows else 0.0 for mask in (near_heldout, repeats))
        why = f"{near:.1%} of train rows stand in or near held-out rows, {again:.1%} repeat an earlier train row"
        share = float((near_heldout | repeats).mean()) if rows.num_rows else 0.0
        files = write_check(
            ctx, abstains=False, real_refused=share, why=why, near_heldout=round(near, 6), repeated=round(again, 6)
        )
        return files | heldout.save(ctx.workdir, "heldout") | train.save(ctx.workdir, "train") | own

    def judge(self, fitted: Fitted, candidates: pa.Table, ctx: Context) -> pa.Table:
        heldout = fitted.get("heldout", lambda: RowIndex.load(fitted.path, "heldout"))
        train = fitted.get("train", lambda: RowIndex.load(fitted.path, "train"))
        under = self.options.parent_normalisation
        parents = fitted.get(f"parents {under}", lambda: _load_train(fitted.path / _PARENTS, under))
        free = fitted.get("unlabelled", lambda: set(read_arrow(fitted.path / _UNLABELLED)[ROW_ID].to_pylist()))
        parent_ids = [
            [i for i in ids or [] if i in parents.strata or i not in free]
            for ids in candidates["parent_ids"].to_pylist()
        ]
        to_heldout = heldout.nearest(candidates)[1]
        to_train = _nearest_other(train, candidates, parent_ids, parents)
        keys = map(_digest, _keys(candidates, ctx.fields)[under])
        reasons: list[str | None] = []
        strata = candidates[STRATUM].to_pylist()
        for key, stratum, ids, held, near in zip(keys, strata, parent_ids, to_heldout, to_train, strict=True):
            if held > 0:
                reasons.append("in_heldout" if held == 1 else "near_heldout")
            elif any(self._left(parents.strata.get(i), stratum) for i in ids):
                reasons.append("parent_left")
            elif any(parents.keys[i] == key for i in ids):
                reasons.append("equals_parent")
            elif near > 0:
                reasons.append("in_train" if near == 1 else "near_train")
            else:
                reasons.append(None)
        return verdicts(reasons, 1 - np.maximum(to_heldout, to_train))

    def _left(self, now: str | None, stratum: str) -> bool:
        """Whether a parent whose class in train is ``now`` (None: it stands there no more) no longer stands for the row."""
        return now is None or (self.options.parent_class == "same" and now != stratum)


def _keys(rows: pa.Table, fields: tuple[str, ...]) -> dict[str, list[bytes]]:
    """By the name of the normalisation that a generator declares."""
    return {"canonical": id_keys(rows, fields), "fold": equal_keys(rows, fields)}


def _digest(key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=16).digest()


def _nearest_other(
    train: RowIndex, candidates: pa.Table, parent_ids: list[list[str]], parents: _Train
) -> npt.NDArray[np.float64]:
    """Greatest similarity of each row to a train row that is none of its parents; 0 where none is near."""
    query, position, similarity = train.matches(candidates)
    own = {(row, parents.indexed[i]) for row, ids in enumerate(parent_ids) for i in ids if i in parents.indexed}
    pairs = zip(query.tolist(), position.tolist(), strict=True)
    other = np.fromiter((pair not in own for pair in pairs), bool, len(query))
    result = np.zeros(candidates.num_rows)
    np.maximum.at(result, query[other], similarity[other])
    return result


def _load_train(path: Path, under: str) -> _Train:
    table = read_arrow(path)
    ids, *columns = (table[name].to_pylist() for name in (ROW_ID, under, STRATUM, "indexed"))
    keys, strata, indexed = (dict(zip(ids, column, strict=True)) for column in columns)
    return _Train(keys, strata, indexed)
