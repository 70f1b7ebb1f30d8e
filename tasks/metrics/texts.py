"""How near a predicted text is to the true one: ROUGE-L, chrF, and whether the two are the same.

Both measures are made of sums over rows. They are the packages' own numbers where those know the writing: rouge-score drops
every letter beyond a to z, so words here are of any script, and of Chinese and Japanese each character is one.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

import numpy as np

from augmill.tasks.contracts import Floats, Foresight, Judged
from augmill.tasks.metrics.additive import Additive, ratio
from augmill.tasks.rows.kinds.text import equal, words

ORDERS, BETA = 6, 2.0  # of chrF: characters 1 to 6, recall counts twice as much as precision (chrF2)
# Standard deviation of what a row adds to the gain of one arm over another, before anything is trained. By the intervals of
# tests/benchmarks/question_runs.py (480 rows): 0.10 to 0.17 for words swapped and deleted, 0.42 for questions put anew.
DIFFERING = 0.25


def common_length(one: list[str], other: list[str]) -> int:
    """Of the longest common subsequence: a bit a word of ``one`` (Hyyrö, "Bit-parallel LCS-length computation", 2004)."""
    places: dict[str, int] = {}
    for at, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << at
    whole = left = (1 << len(one)) - 1
    for word in other:
        met = left & places.get(word, 0)
        left = (left + met | left - met) & whole
    return len(one) - left.bit_count()


def rouge_l(truth: str, predicted: str) -> float:
    """F1 of the longest common subsequence of words (Lin, "ROUGE", 2004): rouge-score's ``rougeL`` without a stemmer."""
    one, other = words(truth), words(predicted)
    return 2 * common_length(one, other) / (len(one) + len(other))


def ngram_counts(text: str) -> list[Counter[str]]:
    """Of characters 1 to ``ORDERS``, white space left out."""
    whole = "".join(text.split())
    return [Counter(whole[at : at + size] for at in range(len(whole) - size + 1)) for size in range(1, ORDERS + 1)]


def chrf_statistics(truth: str, predicted: str) -> list[int]:
    """Of each order how many n-grams were predicted, are true, and are both."""
    found: list[int] = []
    for true, said in zip(ngram_counts(truth), ngram_counts(predicted), strict=True):
        # As sacrebleu counts: what was predicted counts only where the truth is long enough to have any.
        found += [said.total() if true else 0, true.total(), (true & said).total()]
    return found


class _OfTexts(Additive):
    """The mean over rows of a share that ``measure`` gives."""

    problems: ClassVar[tuple[str, ...]] = ("text_to_text",)

    def measure(self, truth: str, predicted: str) -> float:
        raise NotImplementedError

    def statistics(self, judged: Judged) -> Any:
        pairs = zip(judged.truth, judged.predicted, strict=True)
        return np.array([[self.measure(truth, said), 1.0] for truth, said in pairs]).reshape(-1, 2)

    def reduce(self, sums: Floats) -> Floats:
        return ratio(sums[..., 0], sums[..., 1])

    def foresee(self, spread: float | None) -> Foresight:
        return _foresee(self.title or self.name)


class RougeL(_OfTexts):
    """Mean over rows of the F1 of the longest common subsequence of words."""

    name: ClassVar[str] = "rouge_l"
    title: ClassVar[str] = "ROUGE-L"

    def measure(self, truth: str, predicted: str) -> float:
        return rouge_l(truth, predicted)


class ExactMatch(_OfTexts):
    """Share of rows whose text is right but for case, width and punctuation."""

    name: ClassVar[str] = "exact_match"
    title: ClassVar[str] = "exact match"

    def measure(self, truth: str, predicted: str) -> float:
        return float(equal(truth) == equal(predicted))


class ChrF(Additive):
    """F-score of character n-grams over all rows together (Popović, "chrF", 2015): sacrebleu's chrF2."""

    name: ClassVar[str] = "chrf"
    title: ClassVar[str] = "chrF"
    problems: ClassVar[tuple[str, ...]] = ("text_to_text",)

    def statistics(self, judged: Judged) -> Any:
        pairs = zip(judged.truth, judged.predicted, strict=True)
        rows = [[*chrf_statistics(truth, said), 1] for truth, said in pairs]
        return np.array(rows, dtype=np.float64).reshape(-1, 3 * ORDERS + 1)

    def reduce(self, sums: Floats) -> Floats:
        said, true, both = (sums[..., at : 3 * ORDERS : 3] for at in range(3))
        there = (said > 0) & (true > 0)
        orders = np.maximum(there.sum(axis=-1), 1)
        precision = np.where(there, both / np.where(said > 0, said, 1), 0).sum(axis=-1) / orders
        recall = np.where(there, both / np.where(true > 0, true, 1), 0).sum(axis=-1) / orders
        whole = BETA**2 * precision + recall
        found = (1 + BETA**2) * precision * recall / np.where(whole > 0, whole, 1)
        return np.where(sums[..., -1] > 0, found, np.nan)

    def foresee(self, spread: float | None) -> Foresight:
        return _foresee(self.title)


def _foresee(title: str) -> Foresight:
    words = f"If the mix changes the {title} of a row by about {100 * DIFFERING:.0f} points."
    return Foresight(DIFFERING, 1.0, 0.01, words)
