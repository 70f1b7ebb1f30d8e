"""Real rows that a prompt shows: which of a class may stand there, and which of them a call draws."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.contracts import ROW_ID, STRATUM, Context, Fitted
from augmill.tasks.generators.chat.options import ChatOptions
from augmill.tasks.rows.kinds.text import is_unspaced, join_fields

EXAMPLES = "examples.arrow"
BESIDE = "beside"  # positions within the class of the rows that are shown with this one
POOL = 1000  # rows of a class at most, by the hash of their ids: distances between all pairs take 8 MB
FOLDS = 5
Floats = npt.NDArray[np.float64]


def write_examples(train: pa.Table, shown: tuple[str, ...], options: ChatOptions, ctx: Context) -> Path:
    """``train``: sorted, of ``ctx.fields``. Only the columns in ``shown`` are kept, and no row without a text.

    ``shown`` may name an answer too, which is no field.
    """
    told = dict.fromkeys((*ctx.fields, *shown))
    rows = [row for row in train.to_pylist() if _fits([row[name] for name in told], options.max_chars)]
    if not (options.examples and shown):
        rows = []
    texts = {row[ROW_ID]: join_fields(row[name] for name in shown) for row in rows}
    if options.choice == "hardest":
        rows = _hardest(rows, texts, options.examples)
    classes: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: hashlib.sha256(row[ROW_ID].encode()).digest()):
        if len(classes[row[STRATUM]]) < POOL:
            classes[row[STRATUM]].append(row)
    kept: list[dict[str, Any]] = []
    for stratum in sorted(classes):
        own = sorted(classes[stratum], key=lambda row: str(row[ROW_ID]))
        beside = _BESIDE.get(options.choice, _none)(own, texts, options.examples - 1)
        kept += [row | {BESIDE: others} for row, others in zip(own, beside, strict=True)]
    kinds = [(name, pa.string()) for name in (ROW_ID, STRATUM, *shown)]
    schema = pa.schema([*kinds, (BESIDE, pa.list_(pa.int32()))])
    path = ctx.workdir / EXAMPLES
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(pa.Table.from_pylist(kept, schema=schema).combine_chunks())
    return path


def _fits(texts: list[str | None], max_chars: int) -> bool:
    return all((text or "").strip() and len(text or "") <= max_chars for text in texts)


def _tfidf(texts: list[str]) -> Any:
    """Rows of unit length. Words, or pairs of characters where words are not set apart."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    kind: dict[str, Any] = (
        {"analyzer": "char", "ngram_range": (1, 2)} if is_unspaced(texts) else {"ngram_range": (1, 2)}
    )
    if "analyzer" not in kind:
        kind["token_pattern"] = r"(?u)\w+"
    try:
        return TfidfVectorizer(sublinear_tf=True, **kind).fit_transform(texts)
    except ValueError:  # no word in any text
        return TfidfVectorizer(analyzer="char").fit_transform(texts)


def _similarities(rows: list[dict[str, Any]], texts: dict[str, str]) -> Floats:
    vectors = _tfidf([texts[row[ROW_ID]] for row in rows])
    similar: Floats = np.round((vectors @ vectors.T).toarray(), 6)  # equal up to the last bits is equal
    return similar


def _nearest(rows: list[dict[str, Any]], texts: dict[str, str], count: int) -> list[list[int]]:
    similar = _similarities(rows, texts)
    np.fill_diagonal(similar, -1.0)
    order = np.argsort(-similar, axis=1, kind="stable")[:, : min(count, len(rows) - 1)]
    return [list(map(int, line)) for line in order]


def _diverse(rows: list[dict[str, Any]], texts: dict[str, str], count: int) -> list[list[int]]:
    """k-centre by farthest-first traversal (Gonzalez, "Clustering to minimize the maximum intercluster distance",

    1985), from every row at once: the next is the one whose nearest chosen row is farthest.
    """
    similar = _similarities(rows, texts)
    np.fill_diagonal(similar, 2.0)
    nearest, chosen = similar.copy(), []
    for _ in range(min(count, len(rows) - 1)):
        chosen.append(nearest.argmin(axis=1))
        nearest = np.maximum(nearest, similar[chosen[-1]])
    return [list(map(int, line)) for line in np.array(chosen, dtype=np.int64).reshape(-1, len(rows)).T]


def _none(rows: list[dict[str, Any]], texts: dict[str, str], count: int) -> list[list[int]]:
    return [[] for _ in rows]


_BESIDE: dict[str, Callable[[list[dict[str, Any]], dict[str, str], int], list[list[int]]]] = {
    "nearest": _nearest,
    "diverse": _diverse,
}


def _hardest(rows: list[dict[str, Any]], texts: dict[str, str], count: int) -> list[dict[str, Any]]:
    """Of each class the quarter of the least margins (own class against the best other), twice ``count`` rows at least.

    The margins are those of a logistic regression that has not seen the row. All rows, where there is nothing to
    compare: fewer than two classes of two rows.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    strata = np.array([row[STRATUM] for row in rows], dtype=object)
    names, codes, counts = np.unique(strata, return_inverse=True, return_counts=True)
    folds = min(FOLDS, int(counts.min())) if len(names) > 1 else 0
    if folds < 2:
        return rows
    vectors = _tfidf([texts[row[ROW_ID]] for row in rows])
    model = LogisticRegression(C=10.0, max_iter=1000)
    share = cross_val_predict(model, vectors, codes, cv=StratifiedKFold(folds), method="predict_proba")
    own = share[np.arange(len(rows)), codes].copy()
    share[np.arange(len(rows)), codes] = -1.0
    margins = np.round(own - share.max(axis=1), 6)
    kept: list[int] = []
    for code in range(len(names)):
        members = np.flatnonzero(codes == code)
        most = max(2 * count, len(members) // 4)
        kept += members[np.argsort(margins[members], kind="stable")[:most]].tolist()
    return [rows[at] for at in sorted(kept)]


class Examples:
    """What ``write_examples`` wrote, by class, and how a call draws from it."""

    def __init__(self, fitted: Fitted) -> None:
        with pa.memory_map(str(fitted.path / EXAMPLES)) as source:
            table = pa.ipc.open_file(source).read_all()
        self.fields = tuple(name for name in table.column_names if name not in (ROW_ID, STRATUM, BESIDE))
        self.classes: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in table.to_pylist():
            self.classes[row[STRATUM]].append(row)

    def draw(self, stratum: str, choice: str, numbers: Floats) -> list[dict[str, Any]]:
        """As many rows as there are ``numbers`` in [0, 1), or all of the class; no row twice."""
        rows = self.classes.get(stratum, [])
        if not rows or not len(numbers):
            return []
        if choice in _BESIDE:
            first = rows[int(numbers[0] * len(rows))]
            return [first, *(rows[at] for at in first[BESIDE])]
        left, drawn = list(range(len(rows))), []
        for number in numbers[: len(rows)]:
            drawn.append(rows[left.pop(int(number * len(left)))])
        return drawn
