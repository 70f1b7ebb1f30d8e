"""Refuses rows too near to held-out rows, their own parents or other train rows (three thresholds).

To held-out rows: never, exact or near. To its own parents: not equal under the generator's declared normalisation; near
they may be, for word-level edits stand at 0.8 or more from their parent in 37-62 % of cases. To other train rows: no
exact copy, and no near one from a high similarity up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from augmill.tasks.checks.base import SLICE, require, slices, verdicts, write_check
from augmill.tasks.contracts import ANY, ROW_ID, STRATUM, Check, Context, FitInputs, Fitted, Ints
from augmill.tasks.rows.kinds import RowIndex, equal_keys, id_keys
from augmill.tasks.rows.kinds.whole import read_arrow, write_arrow

_PARENTS, _UNLABELLED = "parents.arrow", "unlabelled.arrow"
FEW = 1 << 17  # train rows up to which a dict has their ids: three times as fast
_REASONS = (None, "in_heldout", "near_heldout", "parent_left", "equals_parent", "in_train", "near_train")
KEYS = {"canonical": id_keys, "fold": equal_keys}  # by the name of the normalisation that a generator declares


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
    """Train rows by their place: digests of their keys, their classes, the row that stands for each in the index (equal

    ones share it). The last place, which -1 takes, is of no row.
    """

    places: _Names  # by row_id
    keys: npt.NDArray[np.uint64]
    classes: dict[str, int]
    strata: Ints
    indexed: Ints


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
        keys = _digests_by(rows, ctx.fields)
        indexed = _first_equal(keys["fold"])
        query, position, _ = train.matches(rows)
        repeats = indexed < np.arange(rows.num_rows)
        repeats[query[position < query]] = True
        columns = {
            ROW_ID: rows[ROW_ID],
            STRATUM: rows[STRATUM],
            **{name: _binary(digests) for name, digests in keys.items()},
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
        children, of = _parents_of(candidates, parents, free)
        to_heldout = heldout.nearest(candidates)[1]
        to_train = _nearest_other(train, candidates, children, parents.indexed[of])
        known = np.array([parents.classes.get(name, -1) for name in candidates[STRATUM].to_pylist()], np.int64)
        left = of < 0
        # Strata of texts are lengths: an answer longer than its parent's is no wrong one.
        lengths = ctx.target is not None and pa.types.is_large_string(ctx.target)
        if self.options.parent_class == "same" and not lengths:
            left |= parents.strata[of] != known[children]
        keys = _digests(KEYS[under](candidates, ctx.fields))
        equal = (keys[children] == parents.keys[of]).all(axis=1) & (of >= 0)
        near = [np.where(found == 1, 1, np.where(found > 0, 2, 0)) for found in (to_heldout, to_train)]
        parent = [np.bincount(children, rows, len(near[0])) > 0 for rows in (left, equal)]
        which = np.select([near[0] > 0, *parent, near[1] > 0], [near[0], 3, 4, near[1] + 4], 0)
        return verdicts([_REASONS[at] for at in which.tolist()], 1 - np.maximum(to_heldout, to_train))


def _digest(key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=16).digest()


def _digests(keys: Sequence[bytes]) -> npt.NDArray[np.uint64]:
    """(keys, 2)"""
    whole = b"".join(map(_digest, keys))
    return np.frombuffer(whole, np.uint64).reshape(-1, 2)


def _digests_by(rows: pa.Table, fields: Sequence[str]) -> dict[str, npt.NDArray[np.uint64]]:
    """By the name of the normalisation."""
    found: dict[str, list[npt.NDArray[np.uint64]]] = {name: [] for name in KEYS}
    for part in slices(rows):
        for name, of in KEYS.items():
            found[name].append(_digests(of(part, fields)))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _first_equal(digests: npt.NDArray[np.uint64]) -> Ints:
    """The place of the first row that equals each, which may be itself."""
    order = np.lexsort((digests[:, 1], digests[:, 0]))
    ranked = digests[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = (ranked[1:] != ranked[:-1]).any(axis=1)
    found = np.empty(len(order), np.int64)
    found[order] = order[np.flatnonzero(new)][np.cumsum(new) - 1]
    return found


def _binary(digests: npt.NDArray[np.uint64]) -> pa.Array:
    return pa.Array.from_buffers(pa.binary(16), len(digests), [None, pa.py_buffer(digests)])


def _parents_of(rows: pa.Table, train: _Train, free: set[str]) -> tuple[Ints, Ints]:
    """(row, its parent's place in train; -1: it stands there no more), a line a parent; unlabelled ones have none."""
    column = rows["parent_ids"].combine_chunks()
    names = pc.list_flatten(column).to_pylist()
    children = pc.list_parent_indices(column).to_numpy().astype(np.int64)
    of = train.places.find(names)
    counts = np.array([at >= 0 or name not in free for at, name in zip(of.tolist(), names, strict=True)], np.bool_)
    return children[counts], of[counts]


def _nearest_other(train: RowIndex, candidates: pa.Table, children: Ints, indexed: Ints) -> npt.NDArray[np.float64]:
    """Greatest similarity of each row to a train row that is none of its parents; 0 where none is near.

    ``indexed``: where the parents of the rows ``children`` stand in the index.
    """
    query, position, similarity = train.matches(candidates)
    width = np.int64(1 + max(position.max(initial=0), indexed.max(initial=0)))
    there = indexed >= 0  # -1, of a parent that left, would stand for the last place beside the row before
    other = ~np.isin(query * width + position, children[there] * width + indexed[there])
    result = np.zeros(candidates.num_rows)
    np.maximum.at(result, query[other], similarity[other])
    return result


class _Names:
    """Distinct names to be found again by their place: many in arrays, 16 bytes each, where a dict takes some 200."""

    def __init__(self, names: pa.ChunkedArray) -> None:
        self.names = names.combine_chunks()
        self.dict = {name: place for place, name in enumerate(self.names.to_pylist())} if len(names) <= FEW else None
        if self.dict is None:
            hashes = np.concatenate([_hashes(part.to_pylist()) for part in _pieces(self.names)])
            self.order = np.argsort(hashes, kind="stable")
            self.hashes = hashes[self.order]

    def find(self, names: list[str]) -> Ints:
        """The place of each; -1 where it is none of them."""
        if self.dict is not None:
            return np.fromiter(map(self.dict.get, names, repeat(-1)), np.int64, len(names))
        wanted, given = _hashes(names), pa.array(names, pa.string())
        found, at = np.full(len(names), -1, np.int64), np.searchsorted(self.hashes, wanted)
        left = np.arange(len(names))
        while len(left):  # once, but where hashes collide
            left = left[at[left] < len(self.hashes)]
            left = left[self.hashes[at[left]] == wanted[left]]
            places = self.order[at[left]]
            same = pc.equal(self.names.take(pa.array(places)), given.take(pa.array(left)))
            same = same.fill_null(False).to_numpy(zero_copy_only=False)
            found[left[same]] = places[same]
            left = left[~same]
            at[left] += 1
        return found


def _hashes(names: list[str]) -> Ints:
    """Of this process alone."""
    return np.fromiter(map(hash, names), np.int64, len(names))


def _pieces(values: pa.Array) -> Iterator[pa.Array]:
    for start in range(0, max(1, len(values)), SLICE):
        yield values.slice(start, SLICE)


def _load_train(path: Path, under: str) -> _Train:
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
    names = pc.unique(table[STRATUM])
    strata = pc.index_in(table[STRATUM], names).to_numpy().astype(np.int64)
    keys = [
        np.frombuffer(part.buffers()[1], np.uint64)[2 * part.offset :][: 2 * len(part)] for part in table[under].chunks
    ]
    return _Train(
        _Names(table[ROW_ID]),
        np.concatenate([*keys, np.zeros(2, np.uint64)]).reshape(-1, 2),
        {name: code for code, name in enumerate(names.to_pylist())},
        np.append(strata, -2),
        np.append(table["indexed"].to_numpy(), -1),
    )
