"""What the generators' tests share: train rows as tables, a fitted generator in a directory of its own, requests."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from drawn_histories import HISTORY_FIELDS, history_rows
from pictured import PICTURE_FIELDS, picture_rows

from augmill.tasks.contracts import ANY
from augmill.tasks.generators import GENERATORS
from augmill.tasks.generators.seq2seq.back_translation import Pivot
from augmill.testing import GeneratorBench
from augmill.testing.generators import ask, part
from augmill.testing.rows import ROWS, TABLE_FIELDS, TABLE_ROWS, UNLABELLED, table

__all__ = ["ROWS", "UNLABELLED", "Bench", "agreement", "ask", "fields_of", "options_of", "part", "rows_of", "table"]

# The smallest that still learns something; a fit takes about a second.
TINY_LM: dict[str, Any] = {"layers": 1, "hidden": 32, "heads": 2, "vocabulary": 400, "epochs": 40, "batch_size": 8}


def fields_of(name: str) -> tuple[str, ...]:
    """Such that the generator serves them."""
    kinds = set(GENERATORS[name].kinds)
    fields = {"table": TABLE_FIELDS, "image": PICTURE_FIELDS, "items": HISTORY_FIELDS}
    return ("text",) if {"text", ANY} & kinds else next(own for kind, own in fields.items() if kind in kinds)


def rows_of(fields: tuple[str, ...]) -> list[tuple[Any, ...]]:
    if fields == HISTORY_FIELDS:
        return history_rows()
    return TABLE_ROWS if fields == TABLE_FIELDS else picture_rows() if fields == PICTURE_FIELDS else ROWS


def options_of(name: str, folder: Path) -> dict[str, Any]:
    """Options that make a generator quick, or that it cannot do without; defaults for one not named here."""
    if name == "replay":
        path = folder / "made.csv"
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["text", "text_b", "label", "parent"])
            writer.writerows([f"{text} again", second, stratum, row_id] for row_id, stratum, text, second in ROWS)
        return {"path": str(path), "parent": "parent"}
    if name == "interpolate":
        return {"relation": "each"}  # the second texts of ROWS are no pairs
    if name in ("masked_lm", "seq2seq"):
        return TINY_LM
    if name == "back_translation":
        from tiny_seq2seq import babbler

        return {"pivots": (Pivot(str(babbler())),), "least_similar": 0.0, "max_length": 64, "min_p": 0.0}
    if name == "chat":
        from tiny_chat import endpoint, row_server

        return endpoint(row_server())
    return TINY_LM if name == "causal_lm" else {}


class Bench(GeneratorBench):
    """One fitted generator of the registry, with options that make it quick."""

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        rows: list[tuple[Any, ...]] | None = None,
        fields: tuple[str, ...] | None = None,
        seed: int = 0,
        threads: int = 1,
        **options: Any,
    ) -> None:
        fields = fields or fields_of(name)
        train = table(rows or rows_of(fields), fields)
        kind = GENERATORS[name]
        made = kind(kind.Options(**(options_of(name, folder) | options)))
        super().__init__(made, folder, rows=train, seed=seed, threads=threads)


def agreement(known: list[tuple[str, str]], made: list[dict[str, Any]]) -> float:
    """In how many of the made rows a probe finds the class they are said to be of. ``known``: (class, text) of its rows."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    parts = TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=(1, 4))  # Chinese too
    probe = make_pipeline(parts, LogisticRegression(C=10, max_iter=300))
    probe.fit([text for _, text in known], [stratum for stratum, _ in known])
    found = probe.predict([row["text"] for row in made])
    return float(np.mean(found == np.array([row["stratum"] for row in made])))
