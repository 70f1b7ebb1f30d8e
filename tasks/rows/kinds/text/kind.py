"""Text: the texts of a row, taken together."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from augmill.tasks.contracts import Featurizer, Floats, Ints, Kind, NearIndex, ReadLimits
from augmill.tasks.rows.kinds.text.diversity import diversity
from augmill.tasks.rows.kinds.text.near import TextIndex, near_duplicate_groups, near_keys
from augmill.tasks.rows.kinds.text.normal import canonical, is_unspaced, join_fields, shingles
from augmill.tasks.rows.kinds.text.prepared import Prepared, prepared
from augmill.tasks.rows.kinds.text.sketches import LARGE
from augmill.tasks.rows.schema import distance
from augmill.tasks.rows.shown import count_characters

PART = 1 << 15  # rows whose normalised texts are held at once
WORDY = 3.0  # words a value has on average from which a column of texts counts as one that is read, not as names


def joined(columns: pa.Table | pa.RecordBatch) -> list[str]:
    """The texts of each row as one string (``join_fields``)."""
    return [join_fields(parts) for parts in zip(*(column.to_pylist() for column in columns.columns), strict=True)]


class Text(Kind):
    """``id``: NFC and white space folded (``canonical``). ``equal``: case, width and punctuation too (``equal``).

    Near: Jaccard similarity of character 5-grams of what ``equal`` gives.
    """

    VERSION: ClassVar[int] = 1
    name: ClassVar[str] = "text"
    types: ClassVar[tuple[str, ...]] = ("text",)
    verbatim: ClassVar[bool] = True
    hub: ClassVar[str] = "text"
    unsaid: ClassVar[int] = 1

    remedies: ClassVar[Mapping[str, str]] = {
        "too_long": "shorten those texts, or raise refuse.max_chars",
        "no_text": "check columns.text, and fill the empty texts",
    }

    def arrow(self, type: str) -> pa.DataType:
        return pa.string()

    def takes(self, kind: pa.DataType, type: str) -> bool:
        return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))

    def sniff(self, column: pa.ChunkedArray, name: str) -> tuple[str, float]:
        """By words: a text has several, a category's name one or two."""
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            return "text", 0.0
        values = [value for value in column.slice(0, 1000).to_pylist() if value]
        if not values:
            return "text", 0.0
        unspaced = is_unspaced(values)
        words = float(np.mean([len(value) / 2 if unspaced else len(value.split()) for value in values]))
        return "text", min(1.0, words / (2 * WORDY))

    def read(self, column: pa.ChunkedArray, type: str, limits: ReadLimits) -> tuple[pa.Array, list[str | None]]:
        """Refused: ``no_text`` (null, or blank), ``too_long``."""
        texts = column.cast(pa.string())
        reasons = [
            "no_text" if text is None or not canonical(text) else "too_long" if len(text) > limits.max_chars else None
            for text in texts.to_pylist()
        ]
        return texts.combine_chunks(), reasons

    def id(self, columns: pa.Table) -> list[bytes]:
        return [text.encode("utf-8", "replace") for text in prepared(columns).id]

    def equal(self, columns: pa.Table) -> list[bytes]:
        return [text.encode("utf-8", "surrogatepass") for text in prepared(columns).equal]

    def near(self, columns: pa.Table, threshold: float) -> NearIndex:
        if columns.nbytes <= LARGE:
            return NearTexts(TextIndex.build(prepared(columns).queries, threshold))
        return NearTexts(TextIndex.build_parts((Prepared(part).equal for _, part in _parts(columns)), threshold))

    def load_near(self, directory: Path, name: str) -> NearIndex:
        return NearTexts(TextIndex.load(directory, name))

    def groups(self, columns: pa.Table, threshold: float) -> npt.NDArray[np.bool_]:
        return near_duplicate_groups(prepared(columns).queries, threshold)

    def near_keys(self, columns: pa.Table, threshold: float) -> npt.NDArray[np.uint32]:
        return near_keys(prepared(columns).queries, threshold)

    def profile(self, columns: pa.Table) -> dict[str, Any]:
        """lengths: rows by the binary order of magnitude of their characters: 0, 1, 2-3, 4-7, 8-15, ...

        characters: characters by script (letters: LATIN, CYRILLIC, CJK, ...) or general category (N, P, S, Z, ...).
        """
        lengths: Counter[str] = Counter()
        marks: Counter[str] = Counter()
        for texts in zip(*(column.to_pylist() for column in columns.columns), strict=True):
            lengths[str(sum(map(len, texts)).bit_length())] += 1
            for text in texts:
                marks.update(text)
        scripts: Counter[str] = Counter()
        for mark, count in marks.items():
            scripts[script_of(mark)] += count
        return {"lengths": dict(sorted(lengths.items())), "characters": dict(sorted(scripts.items()))}

    def drift(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, float]:
        return {way: distance(one[way], other[way]) for way in ("lengths", "characters")}

    def expectations(self, field: str, max_null_share: float) -> list[dict[str, Any]]:
        return [
            {
                "type": "expect_column_values_to_not_be_null",
                "kwargs": {"column": field, "mostly": 1.0 - max_null_share},
            },
            {"type": "expect_column_value_lengths_to_be_between", "kwargs": {"column": field, "min_value": 1}},
        ]

    def features(self, train: pa.Table) -> Featurizer:
        return TextFeatures(train)

    def show(self, columns: pa.Table) -> list[str]:
        return [text.replace("\x1f", " | ") for text in joined(columns)]

    def similarities(self, made: pa.Table, real: pa.Table) -> Floats:
        """Jaccard of character 5-grams."""
        own, others = ([shingles(text) for text in joined(table)] for table in (made, real))
        shares = [[len(one & other) / len(one | other) for other in others] for one in own]
        return np.array(shares, dtype=np.float64).reshape(len(own), len(others))

    def diversity(self, made: pa.Table, real: pa.Table) -> dict[str, float]:
        return diversity(joined(made), joined(real))

    def sizes(self, columns: pa.Table) -> tuple[str, list[int]]:
        return "characters", [count_characters(text) for text in joined(columns)]


class NearTexts(NearIndex):
    """Rows by all their texts as one."""

    def __init__(self, index: TextIndex) -> None:
        self.index = index

    def matches(self, columns: pa.Table) -> tuple[Ints, Ints, Floats]:
        found = [(start, *self.index.matches(prepared(part).queries)) for start, part in _parts(columns)]
        query = np.concatenate([start + of for start, of, _, _ in found])
        return query, np.concatenate([at for _, _, at, _ in found]), np.concatenate([near for *_, near in found])

    def nearest(self, columns: pa.Table) -> tuple[Ints, Floats]:
        found = [self.index.nearest(prepared(part).queries) for _, part in _parts(columns)]
        return np.concatenate([at for at, _ in found]), np.concatenate([near for _, near in found])

    def save(self, directory: Path, name: str) -> dict[str, Path]:
        return self.index.save(directory, name)


def _parts(columns: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """(place of the first row, rows), one part at least; normalised texts take some ten times what they take here."""
    for start in range(0, max(1, columns.num_rows), PART):
        yield start, columns if columns.num_rows <= PART else columns.slice(start, PART)


def script_of(mark: str) -> str:
    """A letter's script, by the first word of its name; any other character's general category."""
    category = unicodedata.category(mark)[0]
    return unicodedata.name(mark, "L").split(" ")[0] if category == "L" else category


_WORD = re.compile(r"(?u)\b\w+\b")


class TextFeatures(Featurizer):
    """TF-IDF of words 1-2 and characters 2-5 within word bounds; characters 1-4 where words are not spaced.

    Each field has its own vocabulary; each block of a row has length 1, or 0 where no term is known.
    """

    def __init__(self, train: pa.Table) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        unspaced = is_unspaced(text or "" for column in train.columns for text in column.to_pylist())
        plans: list[dict[str, Any]] = [{"analyzer": "char", "ngram_range": (1, 4)}]
        if not unspaced:
            word = {"analyzer": "word", "ngram_range": (1, 2), "token_pattern": _WORD.pattern}
            plans = [word, {"analyzer": "char_wb", "ngram_range": (2, 5)}]
        self.blocks = []
        for name in train.column_names:
            for plan in plans:
                block = TfidfVectorizer(sublinear_tf=True, dtype=np.float32, **plan)
                try:
                    block.fit(_texts(train[name]))
                except ValueError:  # "empty vocabulary": punctuation alone
                    continue
                self.blocks.append((name, block))

    def transform(self, columns: pa.Table) -> Any:
        from scipy import sparse

        if not columns.num_rows or not self.blocks:  # scikit-learn takes no table without rows
            width = sum(len(block.vocabulary_) for _, block in self.blocks)
            return sparse.csr_matrix((columns.num_rows, max(1, width)), dtype=np.float32)
        return sparse.hstack([block.transform(_texts(columns[name])) for name, block in self.blocks], format="csr")


def _texts(column: pa.ChunkedArray) -> list[str]:
    texts: list[str] = pc.fill_null(column, "").to_pylist()
    return texts
