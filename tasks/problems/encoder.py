"""Texts as TF-IDF features of words and characters, counted a block of texts at once: 4 us a row, scikit-learn 30.

What is counted, and to the bit what comes out, is as scikit-learn's TfidfVectorizer has it, which learns the vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from itertools import chain, repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from augmill.tasks.boundary.processes import importing
from augmill.tasks.rows.segments import Lookup, sort_rows

Ints = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float32]

_BITS = 21  # of a code point
_SPACES = re.compile(r"\s\s+")


class Encoder:
    """Texts to TF-IDF features, from a vocabulary; each part (words, characters) has length 1 or 0.

    ``spaced``: whether spaces part their words: words 1-2 and characters by threes within a word, else characters 1-2.
    ``terms`` and ``idf``: by part, a weight a term.
    """

    def __init__(self, spaced: bool, terms: list[list[str]], idf: list[Weights]) -> None:
        self.spaced, self.terms, self.idf = spaced, terms, idf

    @classmethod
    def fit(cls, texts: Sequence[str], spaced: bool, least: int) -> Encoder:
        """The terms that ``least`` texts have."""
        parts = [part.fit(texts) for part in vectorizers(spaced, min_df=least)]
        terms = [part.get_feature_names_out().tolist() for part in parts]
        return cls(spaced, terms, [part.idf_.astype(np.float32) for part in parts])

    def features(self, texts: Sequence[str]) -> Any:
        """scipy CSR matrix (texts, terms), float32."""
        from scipy import sparse

        if not self.spaced:
            return _weighted(*self._characters.find(texts), self.idf[0])
        tokens = [text.split() for text in texts]
        counts = np.fromiter(map(len, tokens), np.int64, len(tokens))
        flat = list(chain.from_iterable(tokens))
        parts = [self._words.find(flat, counts), self._trigrams.find(flat, counts)]
        weighted = [_weighted(*part, idf) for part, idf in zip(parts, self.idf, strict=True)]
        return sparse.hstack(weighted, format="csr")

    @cached_property
    def _words(self) -> _Words:
        return _Words(self.terms[0])

    @cached_property
    def _trigrams(self) -> _Trigrams:
        return _Trigrams(self.terms[1])

    @cached_property
    def _characters(self) -> _Characters:
        return _Characters(self.terms[0])


def vectorizers(spaced: bool, **options: Any) -> list[Any]:
    """Characters by threes alone: with 4-grams held-out log loss was no better on TREC and BANKING77."""
    with importing():
        from sklearn.feature_extraction.text import TfidfVectorizer

    options |= {"lowercase": False, "sublinear_tf": True, "dtype": np.float32}
    if not spaced:
        return [TfidfVectorizer(analyzer="char", ngram_range=(1, 2), **options)]
    return [
        TfidfVectorizer(analyzer="word", token_pattern=r"\S+", ngram_range=(1, 2), **options),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 3), **options),
    ]


# Each of the three finds the columns of what stands in the texts, -1 for what is no term, and how many a text has of both.


class _Words:
    def __init__(self, terms: list[str]) -> None:
        split = [term.split(" ") for term in terms]
        self._numbers = {word: number for number, word in enumerate(dict.fromkeys(chain.from_iterable(split)))}
        self._alone = np.full(len(self._numbers) + 1, -1, np.int64)  # the last stands for any other word
        pairs, columns = [], []
        for column, (first, *second) in enumerate(split):
            if second:
                pairs.append(self._pair(self._numbers[first], self._numbers[second[0]]))
                columns.append(column)
            else:
                self._alone[self._numbers[first]] = column
        self._pairs, self._columns = Lookup(np.array(pairs, np.int64)), np.array([*columns, -1], np.int64)

    def _pair(self, first: Any, second: Any) -> Any:
        return first * (len(self._numbers) + 1) + second

    def find(self, words: list[str], counts: Ints) -> tuple[Ints, Ints]:
        other = len(self._numbers)
        numbers = np.fromiter(map(self._numbers.get, words, repeat(other)), np.int64, len(words))
        second = np.append(numbers[1:], other)
        second[(np.cumsum(counts) - 1)[counts > 0]] = other  # no pair across the end of a text
        found = np.stack([self._alone[numbers], self._columns[self._pairs.find(self._pair(numbers, second))]], axis=1)
        return found.ravel(), 2 * counts


class _Trigrams:
    def __init__(self, terms: list[str]) -> None:
        codes = _codes("".join(terms)).reshape(-1, 3)
        self._terms = Lookup((codes[:, 0] << 2 * _BITS) | (codes[:, 1] << _BITS) | codes[:, 2])

    def find(self, words: list[str], counts: Ints) -> tuple[Ints, Ints]:
        codes = _codes(f" {' '.join(words)} ")
        inside = np.flatnonzero(codes[1:-1] != ord(" "))  # a character of a word, between its neighbours
        keys = (codes[inside] << 2 * _BITS) | (codes[inside + 1] << _BITS) | codes[inside + 2]
        lengths = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.fromiter(map(len, words), np.int64, len(words)))])
        ends = np.cumsum(counts)
        return self._terms.find(keys).astype(np.int64), lengths[ends] - lengths[ends - counts]


class _Characters:
    def __init__(self, terms: list[str]) -> None:
        pairs = np.array([(ord(term[0]) + 1, ord(term[1])) if term[1:] else (0, ord(term)) for term in terms], np.int64)
        pairs = pairs.reshape(-1, 2)
        self._terms = Lookup((pairs[:, 0] << _BITS) | pairs[:, 1])

    def find(self, texts: Sequence[str]) -> tuple[Ints, Ints]:
        texts = [_SPACES.sub(" ", text) for text in texts]
        counts = np.fromiter(map(len, texts), np.int64, len(texts))
        codes = _codes("".join(texts))
        second = np.append(codes[1:], 0)
        pairs = ((codes + 1) << _BITS) | second
        pairs[(np.cumsum(counts) - 1)[counts > 0]] = 1 << 3 * _BITS - 1  # no pair across the end of a text
        found = np.stack([self._terms.find(codes), self._terms.find(pairs)], axis=1)
        return found.ravel().astype(np.int64), 2 * counts


def _codes(text: str) -> Ints:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.int64)


def _weighted(columns: Ints, sizes: Ints, idf: Weights) -> Any:
    """The TF-IDF of texts that have these columns (-1: none of them), text after text; each text has length 1 or 0."""
    from scipy import sparse
    from sklearn.preprocessing import normalize

    known = columns >= 0
    ends = np.cumsum(sizes)
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(known)])
    sizes = before[ends] - before[ends - sizes]
    columns = sort_rows(columns[known], sizes)
    ends = np.cumsum(sizes)
    first = np.ones(len(columns) + 1, np.bool_)
    first[1:-1] = columns[1:] != columns[:-1]
    first[ends - sizes] = True
    starts = np.flatnonzero(first)
    data = np.diff(starts).astype(np.float32)
    np.log(data, data)
    data += 1.0
    indices = columns[starts[:-1]]
    data *= idf[indices]
    offsets = np.searchsorted(starts, np.concatenate([np.zeros(1, np.int64), ends]))
    matrix = sparse.csr_matrix((data, indices.astype(np.int32), offsets.astype(np.int32)), shape=(len(sizes), len(idf)))
    return normalize(matrix, copy=False)
