"""A train user's history, changed, before the same next item: CL4SRec's ways (Xie et al., ICDE 2022), CoSeRec's substitution

(Liu et al., 2021), and users made by a Markov chain with restarts. All that is known of items comes from train rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from augmill.tasks.contracts import STRATUM, TARGET, Context, FitInputs, Fitted, Floats, Generator, Ints, Request
from augmill.tasks.errors import DeadlineExceeded
from augmill.tasks.generators._parents import PARENTS, Parents, sort_parents, write_parents
from augmill.tasks.generators.sequences.ways import WAYS, Knowledge, learn
from augmill.tasks.rows.kinds import candidate_schema
from augmill.tasks.rows.kinds.items import ITEMS
from augmill.tasks.rows.randomness import uniforms

TRIES = 4  # a row that equals its parent is drawn anew this often; then it is `unchanged`
ROWS = 512  # made at once: what is drawn for each is held
_PARENT, _FIRST = 0, 1  # streams of a row's seed: which parent, and from which one on its ways are drawn


def _weight(default: float, help: str) -> Any:
    return field(default=default, metadata={"help": f"how often, beside the other ways: {help}"})


@dataclass(frozen=True)
class SequencesOptions:
    """How histories are changed; a way of weight 0 is left out."""

    crop: float = _weight(1.0, "only the later part of a history stays")
    mask: float = _weight(1.0, "items are left out here and there")
    reorder: float = _weight(1.0, "a stretch of a history is shuffled")
    substitute: float = _weight(1.0, "items are replaced by similar ones, which stand near them in train histories")
    markov: float = _weight(
        0.0, "a history is made anew, backwards from the next item, by what came before what in train"
    )
    share: float = field(
        default=0.3, metadata={"help": "share of a history's items that crop, mask, reorder or substitute touch"}
    )
    similar: int = field(default=10, metadata={"help": "from how many of the most similar items a substitute is drawn"})
    restart: float = field(
        default=0.2, metadata={"help": "how often the Markov chain goes on from an item of the parent's history"}
    )
    repeats: bool = field(
        default=False, metadata={"help": "whether a made history may have an item twice (songs, shops)"}
    )

    def __post_init__(self) -> None:
        weights = [getattr(self, way) for way in WAYS]
        if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
            raise ValueError(f"{', '.join(WAYS)}: expected weights of 0 or more, one of them above 0")
        if not 0 < self.share < 1:
            raise ValueError(f"share: expected a share between 0 and 1; found {self.share}")
        if not 1 <= self.similar <= 1000:
            raise ValueError(f"similar: expected 1 to 1,000; found {self.similar}")
        if not 0 < self.restart <= 1:
            raise ValueError(f"restart: expected a share above 0, at most 1; found {self.restart}")


class Sequences(Generator):
    """The parent is the user whose history is changed, drawn evenly from the stratum; the target stays the parent's.

    Where that is no item (a class, a number) the Markov chain goes back from the parent's last item.
    """

    VERSION: ClassVar[int] = 1
    Options: ClassVar[type[SequencesOptions]] = SequencesOptions
    repeatable: ClassVar[bool] = True
    finite: ClassVar[bool] = False
    labels: ClassVar[Literal["asked", "own"]] = "asked"
    normalisation: ClassVar[str] = "canonical"
    kinds: ClassVar[tuple[str, ...]] = ("items",)
    problems: ClassVar[tuple[str, ...]] = ("ranking", "classification", "regression")

    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        """Writes ``parents.arrow``; where the ways need them ``similar.arrow`` and ``follows.arrow``."""
        rows = sort_parents(inputs.train, (TARGET, *ctx.fields) if ctx.target is not None else ctx.fields)
        following = _items(rows, ctx)
        histories = [
            [*(items or ()), *([] if item is None else [item])]
            for name in ctx.fields
            for items, item in zip(rows[name].to_pylist(), following, strict=True)
        ]
        files = {PARENTS: write_parents(rows, ctx)}
        return files | learn(histories, self.options, ctx.workdir)

    def sample(self, fitted: Fitted, request: Request, ctx: Context) -> pa.Table:
        """Not delivered: ``no_parent`` (the stratum has no train row), ``unchanged`` (no way changed it in four draws).

        Raises DeadlineExceeded past the deadline.
        """
        parents = fitted.get("parents", lambda: Parents(fitted))
        known = fitted.get("known", lambda: Knowledge.load(fitted.path))
        pieces = [candidate_schema(ctx.fields, ctx.target).empty_table()]
        for start in range(0, len(request), ROWS):
            if ctx.out_of_time():
                raise DeadlineExceeded("sequences ran out of time", where="sequences", fix="raise run.shard_minutes")
            ctx.tell(start, len(request), "rows")
            part = slice(start, start + ROWS)
            some = Request(request.strata[part], request.ordinals[part], request.seeds[part])
            pieces.append(self._answer(parents, known, some, ctx))
        return pa.concat_tables(pieces).combine_chunks()

    def _answer(self, parents: Parents, known: Knowledge, request: Request, ctx: Context) -> pa.Table:
        places = parents.draw(request, uniforms(request.seeds, 1, stream=_PARENT)[:, 0])
        lost = places < 0
        taken = parents.table.take(pa.array(places, mask=lost))
        was = [taken[name].to_pylist() for name in ctx.fields]
        made = self._changed(known, was, _items(taken, ctx), np.flatnonzero(~lost), request.seeds)
        lost = np.array([row is None for row in made], np.bool_)
        columns: dict[str, Any] = {"ordinal": request.ordinals, "asked": request.strata, STRATUM: request.strata}
        if ctx.target is not None:
            columns[TARGET] = parents.table[TARGET].combine_chunks().take(pa.array(places, mask=lost))
        for at, name in enumerate(ctx.fields):
            columns[name] = pa.array([None if row is None else row[at] for row in made], ITEMS)
        columns |= {
            "parent_ids": parents.only_parents(np.where(lost, -1, places)),
            "seed": request.seeds,
            "reason": [
                None if not none else "no_parent" if place < 0 else "unchanged"
                for none, place in zip(lost.tolist(), places.tolist(), strict=True)
            ],
        }
        schema = candidate_schema(ctx.fields, ctx.target)
        return pa.table({name: columns[name] for name in schema.names}, schema)

    def _changed(
        self, known: Knowledge, was: list[list[list[str] | None]], following: list[str | None], left: Ints, seeds: Ints
    ) -> list[list[list[str]] | None]:
        """The fields of each row; None where no row was made. ``was``: by field, the parents' histories;

        ``left``: the rows that have a parent.
        """
        made: list[list[list[str]] | None] = [None] * len(seeds)
        longest = max((len(items or ()) for column in was for items in column), default=0)
        for attempt in range(TRIES):
            if not len(left):
                break
            draws = [
                uniforms(seeds[left], 1 + 2 * longest, stream=_FIRST + attempt * len(was) + at)
                for at in range(len(was))
            ]
            for place, row in enumerate(left.tolist()):
                old = [column[row] or [] for column in was]
                own = [self._one(known, o, following[row], d[place]) for o, d in zip(old, draws, strict=True)]
                if own != old and all(own):
                    made[row] = own
            left = np.array([row for row in left.tolist() if made[row] is None], np.int64)
        return made

    def _one(self, known: Knowledge, items: list[str], following: str | None, draws: Floats) -> list[str]:
        """By one way of those that the history is long enough for; itself where there is none."""
        able = [way for way, least in WAYS.items() if len(items) >= least and getattr(self.options, way)]
        weights = np.cumsum([getattr(self.options, way) for way in able])
        if not able:
            return items
        way = able[int(np.searchsorted(weights, draws[0] * weights[-1], "right"))]
        return known.change(way, items, following, draws[1:], self.options)


def _items(rows: pa.Table, ctx: Context) -> list[str | None]:
    """The item that follows each history, where an item is what is learnt."""
    is_item = ctx.target is not None and pa.types.is_string(ctx.target)
    found: list[str | None] = rows[TARGET].to_pylist() if is_item else [None] * rows.num_rows
    return found
