"""Classifiers of texts, and of rows of any kind: features and softmax regression, saved as JSON, Arrow and safetensors."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.boundary.processes import importing
from augmill.tasks.contracts import Featurizer
from augmill.tasks.problems.encoder import Encoder
from augmill.tasks.rows.kinds import kinds_of
from augmill.tasks.rows.kinds.text import is_unspaced
from augmill.tasks.rows.kinds.whole import read_arrow, write_arrow

VOCABULARY, WEIGHTS = "vocabulary.json", "weights.safetensors"
FEATURES = "features.arrow"
# Mean log loss + penalty / 2 * |w|^2. Of 1/300, 1/3,000 and 1/30,000 the last had the least held-out log loss on TREC,
# SNIPS, TNEWS and BANKING77 at 50 rows a class and on these and SST-2 in full.
PENALTY = 1 / 30_000
ROW_PENALTY = 1 / 1_000  # features of tables have a standard deviation of 1 each
Matrix = npt.NDArray[np.float32]


def write_vocabulary(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")


@dataclass(frozen=True)
class Classifier:
    """Softmax regression: ``weights`` (classes, terms), ``bias`` (classes,), both float32; ``strata`` in row order."""

    encoder: Encoder
    strata: list[str]
    weights: Matrix
    bias: Matrix

    @classmethod
    def fit(cls, texts: Sequence[str], strata: Sequence[str], least: int) -> Classifier:
        """Classes count alike, else the filter would refuse the small ones' rows. One thread, so that bits repeat.

        ``least``: texts that must have a term for it to count.
        """
        encoder = Encoder.fit(texts, not is_unspaced(texts), least)
        return cls(encoder, *_regression(encoder.features(texts), strata, PENALTY))

    def probabilities(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """Shape (texts, classes)."""
        return _softmax(self.encoder.features(texts) @ self._by_term + self.bias)

    @cached_property
    def _by_term(self) -> Matrix:
        """(terms, classes), in the order in which a sparse product reads it, which else copies it each time."""
        return np.ascontiguousarray(self.weights.T)

    def save(self, directory: Path) -> dict[str, Path]:
        from safetensors.numpy import save_file

        vocabulary = {"spaced": self.encoder.spaced, "strata": self.strata, "terms": self.encoder.terms}
        idf = {f"idf_{at}": weights for at, weights in enumerate(self.encoder.idf)}
        files = {name: directory / name for name in (VOCABULARY, WEIGHTS)}
        save_file({"weights": np.ascontiguousarray(self.weights), "bias": self.bias, **idf}, files[WEIGHTS])
        write_vocabulary(files[VOCABULARY], vocabulary)
        return files

    @classmethod
    def load(cls, directory: Path, vocabulary: dict[str, Any]) -> Classifier:
        from safetensors.numpy import load_file

        tensors = load_file(directory / WEIGHTS)
        idf = [tensors[f"idf_{at}"] for at in range(len(vocabulary["terms"]))]
        encoder = Encoder(vocabulary["spaced"], vocabulary["terms"], idf)
        return cls(encoder, vocabulary["strata"], tensors["weights"], tensors["bias"])


@dataclass(frozen=True)
class RowClassifier:
    """Softmax regression on what each kind makes of a row's fields (``Kind.features``), whatever the kinds.

    ``learnt``: the train rows' fields, of which the features are learnt again when it is loaded.
    """

    learnt: pa.Table
    strata: list[str]
    weights: Matrix
    bias: Matrix
    parts: list[tuple[Featurizer, list[str]]]

    @classmethod
    def fit(cls, rows: pa.Table, fields: Sequence[str], strata: Sequence[str]) -> RowClassifier:
        """Classes count alike, as in ``Classifier``. One thread, so that bits repeat."""
        learnt = rows.select(list(fields)).combine_chunks()
        parts = _featurizers(learnt)
        return cls(learnt, *_regression(_features(parts, learnt), strata, ROW_PENALTY), parts)

    def probabilities(self, rows: pa.Table) -> npt.NDArray[np.float64]:
        """Shape (rows, classes). Sparse, so that each row is summed by itself: BLAS would not, see semi_supervised."""
        return _softmax(_features(self.parts, rows) @ self._by_feature + self.bias)

    @cached_property
    def _by_feature(self) -> Matrix:
        return np.ascontiguousarray(self.weights.T)  # as Classifier._by_term

    def save(self, directory: Path) -> dict[str, Path]:
        from safetensors.numpy import save_file

        files = {name: directory / name for name in (FEATURES, VOCABULARY, WEIGHTS)}
        write_arrow(self.learnt, files[FEATURES])
        save_file({"weights": np.ascontiguousarray(self.weights), "bias": self.bias}, files[WEIGHTS])
        write_vocabulary(files[VOCABULARY], {"strata": self.strata})
        return files

    @classmethod
    def load(cls, directory: Path, vocabulary: dict[str, Any]) -> RowClassifier:
        from safetensors.numpy import load_file

        learnt, tensors = read_arrow(directory / FEATURES), load_file(directory / WEIGHTS)
        return cls(learnt, vocabulary["strata"], tensors["weights"], tensors["bias"], _featurizers(learnt))


def _featurizers(rows: pa.Table) -> list[tuple[Featurizer, list[str]]]:
    return [(kind.features(rows.select(own)), own) for kind, own in kinds_of(rows.column_names)]


def _features(parts: list[tuple[Featurizer, list[str]]], rows: pa.Table) -> Any:
    """scipy CSR matrix (rows, features), float32; what is missing counts as 0."""
    from scipy import sparse

    made = [part.transform(rows.select(own)) for part, own in parts]
    plain = [sparse.csr_matrix(np.nan_to_num(part)) if isinstance(part, np.ndarray) else part for part in made]
    return sparse.hstack(plain, format="csr", dtype=np.float32)


def _regression(features: Any, strata: Sequence[str], penalty: float) -> tuple[list[str], Matrix, Matrix]:
    """(classes, weights (classes, features), bias (classes,)): the minimum of mean log loss + penalty / 2 * |w|^2."""
    with importing():
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    model = LogisticRegression(C=1 / (penalty * len(strata)), class_weight="balanced", tol=1e-3, max_iter=100)
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # a filter need not be at the optimum
        model.fit(features, np.array(strata))
    weights, bias = model.coef_, model.intercept_
    if len(weights) == 1:  # two classes: one row for the second, the first stands at zero
        weights, bias = np.vstack([0 * weights, weights]), np.concatenate([0 * bias, bias])
    return model.classes_.tolist(), weights.astype(np.float32), bias.astype(np.float32)


def _softmax(logits: Any) -> npt.NDArray[np.float64]:
    odds = np.exp((logits - logits.max(axis=1, keepdims=True)).astype(np.float64))
    result: npt.NDArray[np.float64] = odds / odds.sum(axis=1, keepdims=True)
    return result
