"""How varied synthetic texts are, and how far from train. Reported; decides nothing."""

from __future__ import annotations

from typing import Any

import numpy as np

from augmill.tasks.rows.kinds.text.normal import fold, is_unspaced, shingles

CHUNK = 1000  # synthetic rows compared with train at once


def diversity(synthetic: list[str], train: list[str]) -> dict[str, float]:
    """How many n-grams differ, are new, and how near the texts are to train.

    ``distinct_1``, ``distinct_2``: distinct n-grams over all n-grams (Li et al., NAACL 2016); more texts give less.
    ``new_1``, ``new_2``: share of the distinct n-grams that train does not have. ``nearest``: mean over synthetic
    texts of the Jaccard similarity of character 5-grams to the nearest train text. Tokens are words, or characters
    where words are not spaced. All in [0, 1]; 0 where there is nothing to count.
    """
    unspaced = is_unspaced([*synthetic, *train])
    made, real = ([_tokens(text, unspaced) for text in texts] for texts in (synthetic, train))
    found: dict[str, float] = {}
    for size in (1, 2):
        grams = [gram for tokens in made for gram in _grams(tokens, size)]
        distinct, known = set(grams), {gram for tokens in real for gram in _grams(tokens, size)}
        found[f"distinct_{size}"] = round(len(distinct) / len(grams), 4) if grams else 0.0
        found[f"new_{size}"] = round(len(distinct - known) / len(distinct), 4) if distinct else 0.0
    similarity = nearest(synthetic, train)
    found["nearest"] = round(float(np.mean(similarity)), 4) if similarity else 0.0
    return found


def _tokens(text: str, unspaced: bool) -> list[str]:
    folded = fold(text)
    return list(folded.replace(" ", "")) if unspaced else folded.split()


def _grams(tokens: list[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(tokens[start : start + size]) for start in range(len(tokens) - size + 1)]


def nearest(synthetic: list[str], train: list[str]) -> list[float]:
    """For each synthetic text the highest Jaccard similarity of character 5-grams to a train text; 0 without train."""
    if not synthetic or not train:
        return [0.0] * len(synthetic)
    vocabulary: dict[str, int] = {}
    known, sizes = _incidence(train, vocabulary, grow=True)
    found: list[float] = []
    for start in range(0, len(synthetic), CHUNK):
        made, own = _incidence(synthetic[start : start + CHUNK], vocabulary, grow=False)
        shared = (made @ known.T).toarray()
        found += (shared / (own[:, None] + sizes[None, :] - shared)).max(axis=1).tolist()
    return found


def _incidence(texts: list[str], vocabulary: dict[str, int], *, grow: bool) -> tuple[Any, Any]:
    """Sparse rows of which known n-grams each text has, and how many it has in all."""
    from scipy.sparse import csr_matrix

    sets = [shingles(text) for text in texts]
    if grow:
        for grams in sets:
            for gram in grams:
                vocabulary.setdefault(gram, len(vocabulary))
    columns = [sorted(vocabulary[gram] for gram in grams if gram in vocabulary) for grams in sets]
    ends = np.cumsum([0, *(len(row) for row in columns)])
    flat = np.array([column for row in columns for column in row], dtype=np.int64)
    matrix = csr_matrix((np.ones(len(flat), dtype=np.float32), flat, ends), shape=(len(texts), len(vocabulary)))
    return matrix, np.array([len(grams) for grams in sets], dtype=np.float32)
