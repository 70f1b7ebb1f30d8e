"""A train row of the asked stratum, with its pictures and sounds transformed: what they are stays, how they look or sound

moves. Several fields of one row get the same transformation, so that what they show together stays together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.contracts import STRATUM, TARGET, Context, FitInputs, Fitted, Generator, Ints, Request
from augmill.tasks.errors import DeadlineExceeded
from augmill.tasks.generators._parents import PARENTS, Parents, stream_parents
from augmill.tasks.generators.transforms.options import TransformsOptions
from augmill.tasks.problems.detection import BOXES
from augmill.tasks.rows.kinds import candidate_schema, kinds_of
from augmill.tasks.rows.kinds.media import media

ROWS, BYTES = 512, 1 << 26  # of parents that are transformed together: what stays in memory
TRIES = 4  # a row that equals its parent is drawn anew this often; then it is `unchanged`


class Medium(Protocol):
    """How files of one kind are transformed; made once a process."""

    def transform(self, files: Sequence[Sequence[bytes]], seeds: Ints, attempt: int) -> list[list[bytes] | None]:
        """New files of each row, a field each; None where all of them would equal the parent's.

        ``files``: the parent's; ``attempt``: from 0, which further draw of the seed counts. A row is a function of its own
        files, seed and attempt.
        """


class Transforms(Generator):
    """The parent is the row whose files are transformed; parents are drawn evenly from the stratum. A target stays."""

    VERSION: ClassVar[int] = 1
    Options: ClassVar[type[TransformsOptions]] = TransformsOptions
    repeatable: ClassVar[bool] = True
    finite: ClassVar[bool] = False
    labels: ClassVar[Literal["asked", "own"]] = "asked"
    normalisation: ClassVar[str] = "fold"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "scipy")
    kind_libraries: ClassVar[Mapping[str, tuple[str, ...]]] = {"image": ("kornia",)}
    kinds: ClassVar[tuple[str, ...]] = ("image", "audio")
    problems: ClassVar[tuple[str, ...]] = ("classification", "regression", "detection", "transcription")

    def preflight(self, fields: tuple[str, ...]) -> None:
        """Raises UserError where a library that these fields need is not installed, or an amount has no such name."""
        for kind, _ in kinds_of(fields):
            _require(kind.name, self.options)

    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        """Writes ``parents.arrow``: the train rows with their files, as they are; for boxes ``order.json`` too, of labels."""
        names = (TARGET, *ctx.fields) if ctx.target is not None else ctx.fields
        files = {PARENTS: stream_parents(inputs.train, names, ctx)}
        if ctx.target != BOXES:
            return files
        from augmill.tasks.generators.transforms.boxes import keep_order

        return files | keep_order(inputs, ctx)

    def sample(self, fitted: Fitted, request: Request, ctx: Context) -> pa.Table:
        """Not delivered: ``no_parent`` (the stratum has no train row), ``unchanged`` (nothing moved in four draws).

        Raises UserError where a library is missing, DeadlineExceeded past the deadline.
        """
        parents = fitted.get("parents", lambda: MediaParents(fitted))
        mediums = fitted.get(
            "mediums", lambda: [(_medium(k.name, self.options), own) for k, own in kinds_of(ctx.fields)]
        )
        if ctx.target == BOXES:
            return self._composed(fitted, parents, request, ctx)
        places = parents.draw(request)
        pieces = [candidate_schema(ctx.fields, ctx.target).empty_table()]
        for part in parents.pieces(places, ctx.fields):
            _require_time(ctx)
            ctx.tell(part.start, len(request), "rows")
            some = Request(request.strata[part], request.ordinals[part], request.seeds[part])
            pieces.append(_answer(parents, mediums, some, places[part], ctx))
        return pa.concat_tables(pieces).combine_chunks()

    def _composed(self, fitted: Fitted, parents: MediaParents, request: Request, ctx: Context) -> pa.Table:
        from augmill.tasks.generators.transforms.boxes import ORDER, Scenery, answer

        order = fitted.read_json(ORDER)
        scenery = fitted.get("scenery", lambda: Scenery(parents, self.options, ctx.fields[0], order))
        pieces = [candidate_schema(ctx.fields, ctx.target).empty_table()]
        for start in range(0, len(request), ROWS):
            _require_time(ctx)
            ctx.tell(start, len(request), "rows")
            part = slice(start, start + ROWS)
            some = Request(request.strata[part], request.ordinals[part], request.seeds[part])
            pieces.append(answer(scenery, some, ctx))
        return pa.concat_tables(pieces).combine_chunks()


def _require_time(ctx: Context) -> None:
    if ctx.out_of_time():
        raise DeadlineExceeded("transforms ran out of time", where="transforms", fix="raise run.shard_minutes")


class MediaParents(Parents):
    """The rows that ``stream_parents`` wrote; files stay on the disk until they are asked for."""

    def files(self, row: int, fields: Sequence[str]) -> list[bytes]:
        """The files of the row at that position, a field each."""
        # By batch and place: `take` of a chunked column would copy all its files.
        chunk, place = divmod(row, self.chunk)
        columns = [self.table[name].chunk(chunk).field("bytes") for name in fields]
        return [column[place].as_py() or b"" for column in columns]

    def pieces(self, places: Ints, fields: Sequence[str]) -> Iterator[slice]:
        """Of rows with parents at these positions some after another, whose files fit into memory together."""
        start, held = 0, 0
        for at, row in enumerate(places.tolist()):
            chunk, place = divmod(max(row, 0), self.chunk)
            sizes = (
                (self.table[name].chunk(chunk).field("bytes")[place].as_buffer() for name in fields) if row >= 0 else ()
            )
            held += sum(size.size for size in sizes if size is not None)
            if held > BYTES or at + 1 - start == ROWS:
                yield slice(start, at + 1)
                start, held = at + 1, 0
        if start < len(places):
            yield slice(start, len(places))

    @property
    def chunk(self) -> int:
        """Rows of every batch but the last."""
        return len(self.table[STRATUM].chunk(0)) if self.table.num_rows else 1


def _answer(
    parents: MediaParents, mediums: list[tuple[Medium, list[str]]], request: Request, places: Ints, ctx: Context
) -> pa.Table:
    made: dict[str, list[bytes | None]] = {name: [None] * len(request) for name in ctx.fields}
    left = np.flatnonzero(places >= 0)
    for attempt in range(TRIES):
        if not len(left):
            break
        changed = np.zeros(len(left), np.bool_)
        for medium, own in mediums:
            files = [parents.files(row, own) for row in places[left].tolist()]
            found = medium.transform(files, request.seeds[left], attempt)
            for at, (row, was, new) in enumerate(zip(left.tolist(), files, found, strict=True)):
                changed[at] |= new is not None
                for name, file in zip(own, was if new is None else new, strict=True):
                    made[name][row] = file
        left = left[~changed]
    unchanged = np.isin(np.arange(len(request)), left)
    return _table(parents, request, np.where(unchanged, -1, places), places, made, ctx)


def _table(
    parents: MediaParents,
    request: Request,
    delivered: Ints,
    places: Ints,
    made: dict[str, list[bytes | None]],
    ctx: Context,
) -> pa.Table:
    """``delivered``: each row's parent; -1 where none was made."""
    lost: npt.NDArray[np.bool_] = delivered < 0
    columns: dict[str, Any] = {"ordinal": request.ordinals, "asked": request.strata, STRATUM: request.strata}
    if ctx.target is not None:
        columns[TARGET] = parents.table[TARGET].combine_chunks().take(pa.array(delivered, mask=lost))
    for name, files in made.items():
        columns[name] = media([None if none else file for none, file in zip(lost, files, strict=True)])
    columns |= {
        "parent_ids": parents.only_parents(delivered),
        "seed": request.seeds,
        "reason": [
            None if row >= 0 else "no_parent" if place < 0 else "unchanged"
            for row, place in zip(delivered.tolist(), places.tolist(), strict=True)
        ],
    }
    schema = candidate_schema(ctx.fields, ctx.target)
    return pa.table({name: columns[name] for name in schema.names}, schema)


def _medium(kind: str, options: TransformsOptions) -> Medium:
    if kind == "audio":
        from augmill.tasks.generators.transforms.sound import Sounds

        return Sounds(options)
    from augmill.tasks.generators.transforms.image import Pictures

    return Pictures(options)


def _require(kind: str, options: TransformsOptions) -> None:
    if kind == "audio":
        from augmill.tasks.generators.transforms.sound import require

        require(options)
        return
    from augmill.tasks.generators.transforms.image import require as require_pictures

    require_pictures(options)
