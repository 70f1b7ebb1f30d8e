"""TF-IDF features of texts and text pairs: one map for all arms, so that arms differ in rows and weights alone.

An n-gram that no training row has counts for nothing, in the length of an evaluation row too. If it did, a row of many new
words would be shortened, the intercepts would decide, and where classes are imbalanced that is the largest one: 5.8 points of
the example's real rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from augmill.tasks.boundary.processes import importing
from augmill.tasks.rows.kinds.text import is_unspaced

Sparse = Any  # scipy.sparse.csr_matrix of float32

STACKED = 16_384  # rows at once


def text_features(train: list[list[str]], evaluation: list[list[str]], idf_rows: int) -> tuple[Sparse, Sparse]:
    """TF-IDF of words 1-2 and characters 2-5 within word bounds; characters 1-4 alone where words are not spaced.

    ``train[f]`` and ``evaluation[f]`` are the texts of field f. The inverse document frequencies are those of the first
    ``idf_rows`` training rows (the real ones). Each block of a row has length 1. Pairs: each field's block over one
    shared vocabulary, what the two share, and how much they overlap.

    Returns csr float32 of shapes (train rows, features) and (evaluation rows, features).
    """
    unspaced = is_unspaced([text for field in train for text in field[:idf_rows]])
    fields = [[text.lower() for text in (*rows, *held)] for rows, held in zip(train, evaluation, strict=True)]
    counted = [_characters(fields)] if unspaced else [_words(fields), _word_parts(fields)]
    rows, last = len(train[0]), len(fields[0])
    blocks = [part for counts in counted for part in _with_overlap(_weigh(counts, len(fields), rows, idf_rows))]
    return _stack(blocks, 0, rows), _stack(blocks, rows, last)


# --- Counts: (texts of one field after the other, n-grams) ------------------------------------------------------------


def _words(fields: list[list[str]]) -> Sparse:
    return _count((text for field in fields for text in field), "word", (1, 2))


def _characters(fields: list[list[str]]) -> Sparse:
    return _count((text for field in fields for text in field), "char", (1, 4))


def _word_parts(fields: list[list[str]]) -> Sparse:
    """Characters 2-5 within word bounds: those of each distinct word are counted once. It takes a quarter of the time."""
    from scipy.sparse import csr_matrix

    places: dict[str, int] = {}
    ends, words = [0], []
    for field in fields:
        for text in field:
            words += [places.setdefault(word, len(places)) for word in text.split()]
            ends.append(len(words))
    parts = _count(places, "char_wb", (2, 5))
    ones = np.ones(len(words), dtype=np.float32)
    counts = csr_matrix((ones, np.array(words, dtype=np.int32), ends), shape=(len(ends) - 1, len(places))) @ parts
    counts.sort_indices()
    return counts


def _count(texts: Iterable[str], analyzer: str, ngrams: tuple[int, int]) -> Sparse:
    """A column an n-gram, in alphabetical order; one of zeros where no text has any."""
    with importing():
        from scipy.sparse import csr_matrix
        from sklearn.feature_extraction.text import CountVectorizer

    given = list(texts)
    words = {"token_pattern": r"(?u)\b\w+\b"} if analyzer == "word" else {}  # one-letter words count too
    counter = CountVectorizer(analyzer=analyzer, ngram_range=ngrams, dtype=np.float32, lowercase=False, **words)
    try:
        return counter.fit_transform(given)
    except ValueError:  # "empty vocabulary": texts of punctuation alone have no words, empty ones no characters
        return csr_matrix((len(given), 1), dtype=np.float32)


# --- Weights and blocks -------------------------------------------------------------------------------------------------


def _weigh(counts: Sparse, fields: int, train_rows: int, idf_rows: int) -> list[Sparse]:
    """Of each field (1 + log tf) * idf, 0 for what no training row has, each row of length 1 (or 0 where it is empty)."""
    from sklearn.preprocessing import normalize

    rows = counts.shape[0] // fields

    def seen_in(first: int) -> npt.NDArray[np.int64]:
        """In how many of each field's first rows a column stands."""
        parts = [slice(counts.indptr[rows * at], counts.indptr[rows * at + first]) for at in range(fields)]
        return np.bincount(np.concatenate([counts.indices[part] for part in parts]), minlength=counts.shape[1])

    idf = (np.log((1 + idf_rows * fields) / (1 + seen_in(idf_rows))) + 1).astype(np.float32)
    idf[seen_in(train_rows) == 0] = 0
    np.log(counts.data, out=counts.data)
    counts.data += 1
    counts.data *= idf[counts.indices]
    counts.eliminate_zeros()
    weighed = normalize(counts, copy=False)
    return [weighed] if fields == 1 else [weighed[rows * at : rows * (at + 1)] for at in range(fields)]


def _with_overlap(fields: list[Sparse]) -> list[Sparse]:
    """The fields' own blocks; for two or more, also what the first two share and the cosine between them."""
    from scipy.sparse import csr_matrix

    if len(fields) == 1:
        return fields
    first, second = fields[0], fields[1]
    shared = first.multiply(second)
    cosine = np.asarray(shared.sum(axis=1), dtype=np.float32)
    # The cosine as it is, and as soft steps: a linear model cannot bend it, and what matters is often the top end.
    steps = np.hstack([cosine, *[np.maximum(cosine - edge, 0) * 2 for edge in (0.25, 0.5, 0.75)]])
    return [*fields, first.minimum(second).tocsr(), csr_matrix(steps.astype(np.float32))]


def _stack(blocks: list[Sparse], start: int, stop: int) -> Sparse:
    """These rows of the blocks side by side. In parts: scipy's hstack holds all numbers three times."""
    from scipy.sparse import csr_matrix, hstack

    size = sum(int(block.indptr[stop] - block.indptr[start]) for block in blocks)
    data, indices, ends = (
        np.empty(size, dtype=np.float32),
        np.empty(size, dtype=np.int32),
        [np.zeros(1, dtype=np.int32)],
    )
    done = 0
    for first in range(start, stop, STACKED):
        part = hstack([block[first : min(first + STACKED, stop)] for block in blocks], format="csr", dtype=np.float32)
        data[done : done + part.nnz], indices[done : done + part.nnz] = part.data, part.indices
        ends.append(part.indptr[1:] + done)
        done += part.nnz
    return csr_matrix(
        (data, indices, np.concatenate(ends)), shape=(stop - start, sum(block.shape[1] for block in blocks))
    )
