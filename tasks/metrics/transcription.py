"""How much of what was said is heard wrong: word and character error rates, of all rows together.

Edits (substitutions, deletions, insertions) over the length of the truth, both summed over rows, as jiwer and the field
have it. Texts are compared without case and punctuation (``kinds.text.words``), of Chinese and Japanese each character is
a word. By an own dozen lines, since strings of any length fit into Python's whole numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from augmill.tasks.contracts import Floats, Foresight, Judged
from augmill.tasks.metrics.additive import Additive, ratio
from augmill.tasks.rows.kinds.text import words

# Standard deviation of what a row adds to the gain of one arm over another, before anything is trained. A guess so far: not
# yet measured.
DIFFERING = 0.35


def edit_distance(one: Sequence[str], other: Sequence[str]) -> int:
    """The fewest items to substitute, delete and insert (Levenshtein): a bit an item of ``one`` (Myers 1999, Hyyrö 2003)."""
    places: dict[str, int] = {}
    for at, item in enumerate(one):
        places[item] = places.get(item, 0) | 1 << at
    whole, last, edits = (1 << len(one)) - 1, 1 << len(one) >> 1, len(one)
    more, less = whole, 0  # where a column of the table grows by one from a row to the next, and where it falls
    for item in other:
        met = places.get(item, 0)
        level = (((met & more) + more) ^ more) | met | less
        up, down = less | whole & ~(level | more), more & level
        edits += 1 if up & last or not one else -1 if down & last else 0
        up, down = (up << 1 | 1) & whole, down << 1 & whole
        more, less = down | whole & ~(met | less | up), up & (met | less)
    return edits


def spoken_words(text: str) -> list[str]:
    """Those that are compared; none of an empty text."""
    return [word for word in words(text) if word]


def spoken_characters(text: str) -> str:
    """Those that are compared: words with one space between them."""
    return " ".join(spoken_words(text))


class _ErrorRate(Additive):
    problems: ClassVar[tuple[str, ...]] = ("transcription",)
    better: ClassVar[Literal["more", "less"]] = "less"

    def parts(self, text: str) -> Sequence[str]:
        raise NotImplementedError

    def statistics(self, judged: Judged) -> Any:
        """(rows, 2): edits, and the length of the truth."""
        pairs = [
            (self.parts(truth), self.parts(said)) for truth, said in zip(judged.truth, judged.predicted, strict=True)
        ]
        rows = [(edit_distance(truth, said), len(truth)) for truth, said in pairs]
        return np.array(rows, dtype=np.float64).reshape(-1, 2)

    def reduce(self, sums: Floats) -> Floats:
        return ratio(sums[..., 0], sums[..., 1])

    def foresee(self, spread: float | None) -> Foresight:
        words = f"If the mix changes the {self.title} of a row by about {100 * DIFFERING:.0f} points."
        return Foresight(DIFFERING, 1.0, 0.01, words)


class WordErrors(_ErrorRate):
    """Word error rate; above 100 where more is heard than was said."""

    name: ClassVar[str] = "wer"
    title: ClassVar[str] = "WER"

    def parts(self, text: str) -> list[str]:
        return spoken_words(text)


class CharacterErrors(_ErrorRate):
    """Character error rate, spaces between words counted."""

    name: ClassVar[str] = "cer"
    title: ClassVar[str] = "CER"

    def parts(self, text: str) -> str:
        return spoken_characters(text)
