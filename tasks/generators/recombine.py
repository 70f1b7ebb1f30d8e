"""Parts of two texts put together: what the `interpolate` generator is made of.

Both texts are cut at the same share of their length, so that the new one is about as long as they are and holds what
stands early in one and late in the other. Cuts fall between words; where a script sets
no blanks (Chinese, Thai) between characters, which are grapheme clusters; none within a placeholder or an address.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from augmill.tasks.generators._edits import run_together, split_words
from augmill.tasks.rows.kinds.text import canonical, is_unspaced

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
