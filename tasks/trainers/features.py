"""TF-IDF features of texts and text pairs: one map for all arms, so that arms differ in rows and weights alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from augmill.tasks.rows.kinds.text import is_unspaced

Sparse = Any  # scipy.sparse.csr_matrix of float32


def text_features(train: list[list[str]], evaluation: list[list[str]], idf_rows: int) -> tuple[Sparse, Sparse]:
    """TF-IDF of words 1-2 and characters 2-5 within word bounds; characters 1-4 alone where words are not spaced.

    ``train[f]`` and ``evaluation[f]`` are the texts of field f. The vocabulary is that of all training rows, the
    inverse document frequencies those of the first ``idf_rows`` (the real ones). Each block of a row has length 1.
    Pairs: each field's block over one shared vocabulary, what the two share, and how much they overlap.

    Returns csr float32 of shapes (train rows, features) and (evaluation rows, features).
    """
    texts = [text for field in train for text in field]
    unspaced = is_unspaced(texts)
    plans = [("char", (1, 4))] if unspaced else [("word", (1, 2)), ("char_wb", (2, 5))]
    blocks = [block for plan in plans if (block := _tfidf(train, evaluation, idf_rows, *plan)) is not None]
    if not blocks:
        return _empty(len(train[0])), _empty(len(evaluation[0]))
    return _stack([b[0] for b in blocks]), _stack([b[1] for b in blocks])


def _tfidf(
    train: list[list[str]], evaluation: list[list[str]], idf_rows: int, analyzer: str, ngrams: tuple[int, int]
) -> tuple[list[Sparse], list[Sparse]] | None:
    """Blocks of one kind of n-gram for all fields (and, for pairs, their overlap); None where no text has any."""
    from sklearn.feature_extraction.text import CountVectorizer

    words = {"token_pattern": r"(?u)\b\w+\b"} if analyzer == "word" else {}  # one-letter words count too
    counter = CountVectorizer(analyzer=analyzer, ngram_range=ngrams, dtype=np.float32, **words)
    try:
        counter.fit(text for field in train for text in field)
    except ValueError:  # "empty vocabulary": texts of punctuation alone have no words, empty ones no characters
        return None
    counted = [counter.transform(field) for field in train]
    seen = sum(np.asarray((matrix[:idf_rows] > 0).sum(axis=0)).ravel() for matrix in counted)
    idf = (np.log((1 + idf_rows * len(train)) / (1 + seen)) + 1).astype(np.float32)
    weighted = [_weigh(matrix, idf) for matrix in counted]
    held = [_weigh(counter.transform(field), idf) for field in evaluation]
    return _with_overlap(weighted), _with_overlap(held)


def _weigh(counts: Sparse, idf: npt.NDArray[np.float32]) -> Sparse:
    """(1 + log tf) * idf, each row of length 1 (or 0 where it is empty)."""
    from scipy.sparse import diags
    from sklearn.preprocessing import normalize

    counts.data = 1 + np.log(counts.data)
    return normalize(counts @ diags(idf)).astype(np.float32).tocsr()


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


def _stack(blocks: list[list[Sparse]]) -> Sparse:
    from scipy.sparse import hstack

    return hstack([matrix for kind in blocks for matrix in kind], format="csr", dtype=np.float32)


def _empty(rows: int) -> Sparse:
    from scipy.sparse import csr_matrix

    return csr_matrix((rows, 1), dtype=np.float32)
