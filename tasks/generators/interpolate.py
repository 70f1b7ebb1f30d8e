"""Rows combined from parts of two real rows of one class; for pairs also the two texts swapped.

Halves of two texts of one class are Luque's instance crossover ("Atalaya at TASS 2019", IberLEF 2019), a span of one
inside the other is text substitution after Shi, Livescu and Gimpel ("Substructure Substitution: Structured Data
Augmentation for NLP", ACL Findings 2021).

With texts that a label relates to each other (paraphrase, entailment), parts of two rows would break the relation. So
there two rows are recombined only where they agree in all texts but one: parts of two texts that stand in one relation
to the same third text. And where the relation holds both ways (``symmetric``), the swapped pair is a row of the class.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa

from augmill.tasks.contracts import ROW_ID, STRATUM, Context, FitInputs, Fitted, Generator, Request
from augmill.tasks.errors import UserError
from augmill.tasks.generators._edits import run_together, split_words, tell_scripts
from augmill.tasks.generators._parents import PARENTS, Parents, answer, count_classes, sort_parents, write_parents
from augmill.tasks.rows.kinds.text import canonical, fold, is_unspaced
from augmill.tasks.rows.randomness import stream_key, uniforms

# --- Parts of two texts put together: what the `interpolate` generator is made of -------------------------------------
# Both texts are cut at the same share of their length, so that the new one is about as long as they are and holds what
# stands early in one and late in the other. Cuts fall between words; where a script sets
# no blanks (Chinese, Thai) between characters, which are grapheme clusters; none within a placeholder or an address.


Part = Literal["halves", "clauses", "phrases"]
DRAWS = 3  # random numbers that a recombination takes
MARKS = frozenset(".,;:!?…。，、；：！？")  # what a sentence or a clause ends with
PHRASE = (0.2, 0.4)  # least and most of a text's words that a phrase holds


@dataclass(frozen=True)
class Pieces:
    """A canonical text with the places where it may be cut, as (share of its words before, offset in the text)."""

    text: str
    cuts: tuple[tuple[float, int], ...]
    clauses: tuple[tuple[float, int], ...]  # those of the cuts that a mark stands before


def take_apart(text: str | None) -> Pieces:
    """Both sides of a cut hold a word, and no cut falls between a word and the mark after it."""
    text = canonical(text or "")
    tokens, glue = split_words(text)
    total, before, offset = sum(bool(core) for _, core, _ in tokens), 0, 0
    cuts: list[tuple[float, int]] = []
    clauses: list[tuple[float, int]] = []
    ended = False
    for lead, core, trail in tokens:
        # A mark that leads a token ("，ok" in a Chinese text) belongs to the word before it.
        own = 1 + max((at for at, mark in enumerate(lead) if mark in MARKS), default=-1)
        if core:
            if before:
                cuts.append((before / total, offset + own))
                clauses += cuts[-1:] if ended or own else []
            before += 1
        ended = not MARKS.isdisjoint(trail if core else lead)
        offset += len(lead + core + trail) + len(glue)
    return Pieces(text, tuple(cuts), tuple(clauses))


def drawn_part(weights: Mapping[Part, float], first: Pieces, second: Pieces, draw: float) -> Part | None:
    """One of the weighted ways in which these two can be put together; None where there is no way."""
    can: dict[Part, bool] = {
        "halves": bool(first.cuts and second.cuts),
        "clauses": bool(first.clauses and second.clauses),
        "phrases": len(first.cuts) > 1 and len(second.cuts) > 1,
    }
    allowed = [(name, weights.get(name, 0.0)) for name in can if can[name] and weights.get(name, 0.0) > 0]
    left = draw * sum(weight for _, weight in allowed)
    for name, weight in allowed:
        left -= weight
        if left < 0:
            return name
    return allowed[-1][0] if allowed else None


def recombine(part: Part, first: Pieces, second: Pieces, spread: float, draws: Sequence[float]) -> str:
    """``first`` up to a cut, then ``second`` from its own; `phrases`: ``first`` with a span of ``second`` inside.

    ``draws``: DRAWS numbers in [0, 1). ``spread``: how far from the middle a cut may lie, as a share of the text.
    """
    middle = 0.5 + spread * (2 * draws[0] - 1)
    if part == "phrases":
        width = PHRASE[0] + (PHRASE[1] - PHRASE[0]) * draws[1]
        span = (middle - width / 2, middle + width / 2)
        head, tail = (_offset(first.cuts, share) for share in span)
        start, end = (_offset(second.cuts, share) for share in span)
        return _join(first.text[:head], second.text[start : max(start, end)], first.text[max(head, tail) :])
    cuts, others = (first.clauses, second.clauses) if part == "clauses" else (first.cuts, second.cuts)
    return _join(first.text[: _offset(cuts, middle)], second.text[_offset(others, middle) :])


def _offset(cuts: tuple[tuple[float, int], ...], share: float) -> int:
    """Where the cut nearest to that share of the words lies in the text."""
    at = bisect_left(cuts, (share, 0))
    near = cuts[max(0, at - 1) : at + 1]
    return min(near, key=lambda cut: abs(cut[0] - share))[1]


def _join(*parts: str) -> str:
    """With a space between two parts, unless both are written without spaces where they meet."""
    text = ""
    for part in filter(None, (part.strip() for part in parts)):
        apart = (bool(text) and not (is_unspaced(text[-2:]) or is_unspaced(part[:2]))) or run_together(text, part)
        text += f" {part}" if apart else part
    return canonical(text)


# --- The generator ----------------------------------------------------------------------------------------------------


PREPARED = 1 << 14  # texts kept taken apart per process
TRIES = 4  # partners and cuts that a row draws before it gives up as unchanged
Row = tuple[list[str], list[str]]  # texts, ids of the parents
Place = tuple[int, int]  # row, text column


@dataclass(frozen=True)
class InterpolateOptions:
    """How two rows of a class become one."""

    parts: dict[Part, float] = field(
        default_factory=lambda: {"halves": 1.0, "clauses": 1.0, "phrases": 1.0},
        metadata={
            "help": "Weight of each way: `halves`: the start of one row and the end of the other; `clauses`: the same, "
            "cut after a punctuation mark; `phrases`: a span of one row inside the other. Each row gets one way "
            "that its parents allow."
        },
    )
    spread: float = field(
        default=0.2, metadata={"help": "How far from its middle a text may be cut, as a share of its words."}
    )
    relation: Literal["between", "each"] = field(
        default="between",
        metadata={
            "help": "With several text columns: `between`: the label says how the texts relate (paraphrase, entailment), "
            "so rows are recombined only if they share all texts but one; `each`: every text supports the label "
            "by itself (title and body), so each column is recombined."
        },
    )
    symmetric: bool = field(
        default=False,
        metadata={
            "help": "Pairs: the label holds in both directions (paraphrase, duplicate), so the two texts may be swapped."
        },
    )

    def __post_init__(self) -> None:
        weights = self.parts.values()
        if not all(0 <= weight < float("inf") for weight in weights) or not sum(weights) > 0:
            raise ValueError(f"parts: expected weights of zero or more, one above zero; found {self.parts}")
        if not 0 <= self.spread <= 0.5:
            raise ValueError(f"spread: expected a share between 0 and 0.5; found {self.spread}")
        if self.symmetric and self.relation == "each":
            raise ValueError("symmetric: only with `relation: between`; with `each` texts do not relate to each other")


class Interpolate(Generator):
    """Both rows are parents. Every pair that may be swapped is swapped once, in an order drawn by the recipe's seed.

    Ordinals count these pairs; further rows are recombined if rows share a text, otherwise they are ``exhausted``.
    """

    VERSION = 2
    Options = InterpolateOptions
    repeatable: ClassVar[bool] = True
    finite: ClassVar[bool] = False
    labels: ClassVar[Literal["asked", "own"]] = "asked"
    normalisation: ClassVar[str] = "fold"

    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        """Writes ``parents.arrow`` (all train rows) and ``summary.json``. Raises UserError where an option does not fit."""
        options: InterpolateOptions = self.options
        if options.symmetric and len(ctx.fields) != 2:
            raise UserError(
                f"`symmetric` is for two text columns; this dataset has {len(ctx.fields)}",
                where="interpolate",
                fix="leave it out",
            )
        train = sort_parents(inputs.train, ctx.fields)
        tell_scripts((train[name].to_pylist() for name in ctx.fields), "interpolate", ctx.log)
        order = [stream_key("interpolate", ctx.seed, row_id) >> 1 for row_id in train[ROW_ID].to_pylist()]
        train = train.append_column("order", pa.array(order, pa.int64()))
        write_parents(train.sort_by([(STRATUM, "ascending"), ("order", "ascending"), (ROW_ID, "ascending")]), ctx)
        text = json.dumps({"rows": count_classes(train)}, sort_keys=True, ensure_ascii=False)
        (ctx.workdir / "summary.json").write_text(text, encoding="utf-8")
        return {name: ctx.workdir / name for name in (PARENTS, "summary.json")}

    def sample(self, fitted: Fitted, request: Request, ctx: Context) -> pa.Table:
        """Rows that cannot be made: ``no_parent`` (the class has no row), ``no_partner`` (no two rows that fit together),

        ``unchanged`` (what was drawn equals a parent), ``exhausted`` (every pair was swapped, and nothing else fits).
        """
        options: InterpolateOptions = self.options
        rows = fitted.get("interpolate", lambda: _FittingRows(fitted, options, ctx.fields))
        numbers = uniforms(request.seeds, TRIES * (2 + 1 + DRAWS)).tolist()
        asked = zip(request.strata, request.ordinals.tolist(), numbers, strict=True)
        made = [rows.make(stratum, ordinal, draws) for stratum, ordinal, draws in asked]
        return answer(
            request,
            ctx.fields,
            [None if isinstance(row, str) else row[0] for row in made],
            [[] if isinstance(row, str) else row[1] for row in made],
            [row if isinstance(row, str) else None for row in made],
        )


class _FittingRows:
    """The train rows and which of them fit together, as a process loads them."""

    def __init__(self, fitted: Fitted, options: InterpolateOptions, fields: tuple[str, ...]) -> None:
        self.options, self.parents = options, Parents(fitted)
        self.ids: list[str] = self.parents.ids.to_pylist()
        self.texts = list(zip(*(self.parents.table[name].to_pylist() for name in fields), strict=True))
        self.folded = [tuple(fold(text or "") for text in row) for row in self.texts]
        self.between = options.relation == "between" and len(fields) > 1
        self.swaps: dict[str, list[int]] = {}
        self.sites: dict[str, list[tuple[list[Place], int]]] = {}  # places that share the other texts, and one of them
        if self.between:
            self._relate()
        self.pieces = lru_cache(maxsize=PREPARED)(take_apart)

    def _relate(self) -> None:
        """The rows whose swap is no row of train, and those that share all texts but one with another of their class."""
        known = set(self.folded)
        for stratum, (start, count) in self.parents.ranges.items():
            rows = range(start, start + count)
            if self.options.symmetric:
                self.swaps[stratum] = [row for row in rows if self.folded[row][::-1] not in known]
            shared: defaultdict[tuple[Any, ...], dict[str, Place]] = defaultdict(dict)
            for row in rows:
                for at, own in enumerate(self.folded[row]):
                    others = self.folded[row][:at] + self.folded[row][at + 1 :]
                    # Where the relation holds both ways, it does not matter on which side the shared text stands.
                    shared[others if self.options.symmetric else (at, others)].setdefault(own, (row, at))
            groups = [list(group.values()) for group in shared.values() if len(group) > 1]
            self.sites[stratum] = [(group, at) for group in groups for at in range(len(group))]

    def make(self, stratum: str, ordinal: int, draws: list[float]) -> Row | str:
        """The row, or why there is none. ``draws``: TRIES times (parent, partner, part, DRAWS cuts)."""
        start, count = self.parents.ranges.get(stratum, (0, 0))
        if not count:
            return "no_parent"
        swaps = self.swaps.get(stratum, [])
        if ordinal < len(swaps):
            return list(self.texts[swaps[ordinal]][::-1]), [self.ids[swaps[ordinal]]]
        if self.between and not self.sites[stratum]:
            return "exhausted" if swaps else "no_partner"
        if count < 2:
            return "no_partner"
        size, reason = len(draws) // TRIES, "no_partner"
        for at in range(0, len(draws), size):
            found = self._try(stratum, start, count, draws[at : at + size])
            if not isinstance(found, str):
                return found
            reason = found
        return reason

    def _try(self, stratum: str, start: int, count: int, draws: list[float]) -> Row | str:
        """One drawn pair of rows put together."""
        if self.between:
            group, place = self.sites[stratum][int(draws[0] * len(self.sites[stratum]))]
            row, at = group[place]
            partner, column = group[(place + 1 + int(draws[1] * (len(group) - 1))) % len(group)]
            columns = {at: column}
        else:
            first = int(draws[0] * count)
            second = (first + 1 + int(draws[1] * (count - 1))) % count
            row, partner = start + first, start + second
            columns = {at: at for at in range(len(self.texts[row]))}
        texts = [text or "" for text in self.texts[row]]
        changed = 0
        for at, other in columns.items():
            made = self._join(self.texts[row][at], self.texts[partner][other], draws[2:])
            if made is not None:
                texts[at], changed = made, changed + 1
        if not changed:
            return "no_partner"
        if tuple(fold(text) for text in texts) in (self.folded[row], self.folded[partner]):
            return "unchanged"
        return texts, [self.ids[row], self.ids[partner]]

    def _join(self, text: str | None, other: str | None, draws: list[float]) -> str | None:
        first: Pieces = self.pieces(text)
        second: Pieces = self.pieces(other)
        part = drawn_part(self.options.parts, first, second, draws[0])
        return None if part is None else recombine(part, first, second, self.options.spread, draws[1:])
