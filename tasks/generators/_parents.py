"""Train rows that new rows are made from: kept by class and id, drawn by a row's own seed; which of their texts change;

and the answer to a request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from augmill.tasks.contracts import ROW_ID, STRATUM, TARGET, Context, Fitted, Request
from augmill.tasks.errors import UserError
from augmill.tasks.rows.kinds import candidate_schema, type_of
from augmill.tasks.rows.kinds.whole import read_arrow, write_arrow
from augmill.tasks.rows.parts import kept
from augmill.tasks.rows.randomness import uniforms

PARENTS = "parents.arrow"
DIALOGUES = "dialogues.arrow"  # of train rows, by id: what stays of a dialogue whose user says it otherwise
TARGETS = "targets.arrow"  # of train rows, by id: what rows made of their inputs keep
BATCH = 256  # rows of a batch of ``stream_parents``
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def sort_parents(train: pa.Table, fields: tuple[str, ...]) -> pa.Table:
    """Ids, classes and texts by class and id, so that the order of the train table changes nothing."""
    rows = train.select([ROW_ID, STRATUM, *fields])
    return kept(rows, pc.sort_indices(rows, sort_keys=[(STRATUM, "ascending"), (ROW_ID, "ascending")]).to_numpy())


def write_parents(rows: pa.Table, ctx: Context) -> Path:
    """``rows``: as ``sort_parents`` has them, or some of these."""
    rows, path = rows.combine_chunks(), ctx.workdir / PARENTS
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
        writer.write_table(rows)
    return path


def stream_parents(train: pa.Table, names: tuple[str, ...], ctx: Context) -> Path:
    """As ``write_parents(sort_parents(...))``, in batches of BATCH rows: for rows whose files are not held twice."""
    order = pc.sort_indices(train.select([STRATUM, ROW_ID]), sort_keys=[(STRATUM, "ascending"), (ROW_ID, "ascending")])
    rows, path = train.select([ROW_ID, STRATUM, *names]), ctx.workdir / PARENTS
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
        for start in range(0, len(order), BATCH):
            part = pa.concat_tables([rows.slice(at, 1) for at in order.slice(start, BATCH).to_pylist()])
            writer.write_table(part.combine_chunks())
    return path


def count_classes(table: pa.Table) -> dict[str, int]:
    return {item["values"]: item["counts"] for item in pc.value_counts(table[STRATUM]).to_pylist()}


def changed_fields(change: str, fields: tuple[str, ...], who: str) -> list[int]:
    """Which text columns the option ``change`` allows. Raises UserError where it names none of this dataset."""
    if change in ("one", "all"):
        return list(range(len(fields)))
    if change not in fields:
        raise UserError(
            f"`change: {change}` names no text column of this dataset; found {', '.join(fields)}",
            where=who,
            fix="use one of these, or `one` or `all`",
        )
    return [fields.index(change)]


def draw_fields(change: str, allowed: list[int], texts: Sequence[str | None], number: float) -> list[int]:
    """Which texts of a row are made anew: of those that are not empty all, or one, drawn by ``number`` in [0, 1)."""
    have = [at for at in allowed if (texts[at] or "").strip()]
    return [have[int(number * len(have))]] if have and change == "one" else have


def keep_targets(train: pa.Table, ctx: Context) -> dict[str, Path]:
    """``targets.arrow``, as a fit returns its files; nothing where the stratum says all of the target."""
    if ctx.target is None:
        return {}
    path = ctx.workdir / TARGETS
    return {TARGETS: write_arrow(train.select([ROW_ID, TARGET]).sort_by(ROW_ID).combine_chunks(), path)}


def with_targets(rows: pa.Table, fitted: Fitted, ctx: Context) -> pa.Table:
    """Rows of ``candidate_schema(ctx.fields)``, each with the target of its first parent, where the problem has targets."""
    if ctx.target is None:
        return rows
    known = fitted.get("targets", lambda: load_targets(fitted))
    first = [ids[0] if ids else None for ids in rows["parent_ids"].to_pylist()]
    column = pa.array([None if name is None else known[name] for name in first], ctx.target)
    schema = candidate_schema(ctx.fields, ctx.target)
    return rows.append_column(TARGET, column).select(schema.names).cast(schema)


def load_targets(fitted: Fitted) -> dict[str, Any]:
    table = read_arrow(fitted.path / TARGETS)
    return dict(zip(table[ROW_ID].to_pylist(), table[TARGET].to_pylist(), strict=True))


# --- Dialogues, for generators of texts: what their user says last is a text ---------------------------------------------


def spoken(train: pa.Table, ctx: Context) -> tuple[pa.Table, Context]:
    """(the rows, the context) with a text instead of each dialogue: the user's last turn, empty where there is none."""
    names = {name: _spoken_name(name) for name in ctx.fields}
    for name, other in names.items():
        if name != other:
            said = [_last_said(turns)[1] for turns in train[name].to_pylist()]
            train = train.append_column(other, pa.array(said, pa.string()))
    return train, replace(ctx, fields=tuple(names.values()))


def _spoken_name(field: str) -> str:
    return field.replace(":", " ") if type_of(field) == "dialogue" else field


def _last_said(turns: list[dict[str, str]] | None) -> tuple[int, str]:
    """(where the user's last turn stands, what it is); (-1, nothing) where there is none."""
    found = [(at, turn["content"]) for at, turn in enumerate(turns or ()) if turn["role"] == "user"]
    return found[-1] if found else (-1, "")


def keep_dialogues(train: pa.Table, ctx: Context) -> dict[str, Path]:
    """``dialogues.arrow``, as a fit returns its files; nothing where there are none."""
    names = [name for name in ctx.fields if _spoken_name(name) != name]
    if not names:
        return {}
    path = ctx.workdir / DIALOGUES
    return {DIALOGUES: write_arrow(train.select([ROW_ID, *names]).sort_by(ROW_ID).combine_chunks(), path)}


def with_dialogues(rows: pa.Table, fitted: Fitted, ctx: Context) -> pa.Table:
    """Rows of ``spoken`` fields with their first parents' dialogues, in which the user says last what was made."""
    names = [name for name in ctx.fields if _spoken_name(name) != name]
    if not names:
        return rows
    known = fitted.get(
        "dialogues", lambda: {row[ROW_ID]: row for row in read_arrow(fitted.path / DIALOGUES).to_pylist()}
    )
    schema = candidate_schema(ctx.fields, ctx.target)
    columns = {name: rows[_spoken_name(name) if name in names else name] for name in schema.names}
    parents = rows["parent_ids"].to_pylist()
    for name in names:
        made = [
            None if text is None else _said(known[ids[0]][name], text)
            for text, ids in zip(columns[name].to_pylist(), parents, strict=True)
        ]
        columns[name] = pa.chunked_array([pa.array(made, schema.field(name).type)])
    return pa.table(columns, schema)


def _said(turns: list[dict[str, str]], text: str) -> list[dict[str, str]]:
    at, _ = _last_said(turns)
    return [turn | {"content": text} if place == at else turn for place, turn in enumerate(turns)]


class Parents:
    """The rows that ``write_parents`` wrote. ``ranges``: (first position, rows) of each class."""

    def __init__(self, fitted: Fitted) -> None:
        with pa.memory_map(str(fitted.path / PARENTS)) as source:
            self.table = pa.ipc.open_file(source).read_all()
        self.ids = self.table[ROW_ID].combine_chunks()
        strata, starts, counts = np.unique(
            np.array(self.table[STRATUM].to_pylist(), dtype=object), return_index=True, return_counts=True
        )
        self.ranges = {str(s): (int(a), int(n)) for s, a, n in zip(strata, starts, counts, strict=True)}
        self._starts, self._counts = np.append(starts, 0), np.append(counts, 0)  # the last, -1, of any other class
        self._classes = {name: at for at, name in enumerate(self.ranges)}

    def draw(self, request: Request, numbers: Floats | None = None) -> Ints:
        """The parent's position per requested row, by the first of its uniforms (``numbers``, where the caller has them);

        -1 where the class has none.
        """
        drawn = uniforms(request.seeds, 1)[:, 0] if numbers is None else numbers
        own = np.fromiter(map(self._classes.get, request.strata, repeat(-1)), np.int64, len(request))
        return np.where(own >= 0, self._starts[own] + (drawn * self._counts[own]).astype(np.int64), -1)

    def only_parents(self, rows: Ints) -> pa.ListArray:
        """The id at each position, as the only parent; none where it is -1."""
        offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(rows >= 0, dtype=np.int32)])
        return pa.ListArray.from_arrays(pa.array(offsets), self.ids.take(pa.array(rows[rows >= 0])))

    def ids_of(self, rows: Ints) -> list[list[str]]:
        """The id at each position, as the only parent; none where it is -1."""
        found = self.ids.take(pa.array(rows, mask=rows < 0)).to_pylist()
        return [[] if row_id is None else [row_id] for row_id in found]


def answer(
    request: Request,
    fields: tuple[str, ...],
    texts: Sequence[Sequence[Any] | None],
    parent_ids: Sequence[Sequence[str]],
    reasons: Sequence[str | None],
    strata: Sequence[str] | None = None,
) -> pa.Table:
    """``candidate_schema(fields)``, a row a request. Where ``texts[i]`` is None, ``reasons[i]`` says why it is.

    ``strata``: the classes that the rows claim, where they are not those that were asked.
    """
    columns = {
        "ordinal": request.ordinals,
        "asked": request.strata,
        STRATUM: request.strata if strata is None else strata,
        **{name: [row and row[at] for row in texts] for at, name in enumerate(fields)},
        "parent_ids": [list(ids) if row is not None else [] for ids, row in zip(parent_ids, texts, strict=True)],
        "seed": request.seeds,
        "reason": [None if row is not None else why for row, why in zip(texts, reasons, strict=True)],
    }
    return pa.table(columns, schema=candidate_schema(fields))
