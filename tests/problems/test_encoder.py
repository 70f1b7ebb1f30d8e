"""The features of texts are scikit-learn's, to the bit: what checks and teachers learnt with them is read on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from augmill.tasks.problems.encoder import Encoder, vectorizers

TRAIN = [
    "where is my card",
    "my card is late",
    "the fee is a fee",
    "^ how $",
    "o k",
    "我的包裹在哪里",
    "包裹 在",
    "Straße",
]
TEXTS = st.lists(
    st.text(st.sampled_from("amycrdfe is\x1f\t\u3000我的包裹🙂\ud800"), max_size=30)
    | st.lists(st.sampled_from(" ".join(TRAIN).split()), max_size=9).map(" ".join),
    max_size=6,
)


def slowly(encoder: Encoder, texts: list[str]) -> Any:
    """The features as scikit-learn makes them."""
    from scipy import sparse

    parts = vectorizers(encoder.spaced)
    for part, terms, idf in zip(parts, encoder.terms, encoder.idf, strict=True):
        part.set_params(vocabulary=terms)
        part.idf_ = idf
    return sparse.hstack([part.transform(texts) for part in parts], format="csr")


@pytest.mark.parametrize("spaced", [True, False])
@pytest.mark.parametrize("least", [1, 2])
@given(texts=TEXTS)
@example(texts=["", "my", "a\x1f\x1fb  c", "card card card card"])
@settings(max_examples=60, deadline=None)
def test_features_are_those_of_scikit_learn_to_the_bit(spaced: bool, least: int, texts: list[str]) -> None:
    encoder = Encoder.fit(TRAIN, spaced, least)
    texts = [*texts, *TRAIN]
    quick, slow = encoder.features(texts), slowly(encoder, texts)
    assert quick.shape == slow.shape and quick.dtype == slow.dtype
    for part in ("indptr", "indices", "data"):
        assert (getattr(quick, part) == getattr(slow, part)).all()


def test_a_texts_features_hang_on_it_alone() -> None:
    encoder = Encoder.fit(TRAIN, True, 1)
    together = encoder.features(TRAIN).toarray()
    assert (together == np.concatenate([encoder.features([text]).toarray() for text in TRAIN])).all()
