"""What the generators' tests share: train rows as tables, a fitted generator in a directory of its own, requests."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from augmill.tasks.contracts import ANY, Context, FitInputs, Fitted, Request
from augmill.tasks.generators import GENERATORS
from augmill.tasks.generators.seq2seq.back_translation import Pivot
from augmill.tasks.rows.kinds import real_schema
from augmill.tasks.rows.randomness import row_seeds

ROWS = [
    # Two numbers, so that parts of two rows make a third.
    (f"{stratum}-{number}", stratum, text.format(number, 30 - number), f"{second} {number}")
    for stratum, text, second in (
        ("refund", "please pay the money for order {} back to me by day {}", "the refund of order"),
        ("track", "where is the parcel number {} that you sent on day {}", "the status of parcel"),
        ("中文", "请问第{}个包裹{}天后在哪里，谢谢", "包裹查询"),
    )
    for number in range(12)
]
# The same rows as tables: numbers, one in four of them missing, a name and a day.
TABLE_FIELDS = ("number:amount", "number:parts", "category:place", "timestamp:day")
TABLE_ROWS: list[tuple[Any, ...]] = [
    (
        row_id,
        stratum,
        None if number % 4 == 3 else round(1.7**number + at, 2),
        float(number % 5 + at),
        (None, "Köln", "Ulm", "Bonn")[(number + at) % 4],
        datetime(2026, 1 + at, 1 + number, tzinfo=UTC),
    )
    for at, stratum in enumerate(("refund", "track", "中文"))
    for number, (row_id, *_) in enumerate(row for row in ROWS if row[1] == stratum)
]
# The same kinds of row without a class, for generators that want such.
UNLABELLED = [
    (f"free-{row_id}-{turn}", "", *(f"{part} {turn}" for part in texts))
    for row_id, _, *texts in ROWS
    for turn in (1, 2, 3)
]
# The smallest that still learns something; a fit takes about a second.
TINY_LM: dict[str, Any] = {"layers": 1, "hidden": 32, "heads": 2, "vocabulary": 400, "epochs": 40, "batch_size": 8}


def fields_of(name: str) -> tuple[str, ...]:
    """Such that the generator serves them."""
    return ("text",) if {"text", ANY} & set(GENERATORS[name].kinds) else TABLE_FIELDS


def rows_of(fields: tuple[str, ...]) -> list[tuple[Any, ...]]:
    return TABLE_ROWS if fields == TABLE_FIELDS else ROWS


def table(rows: list[tuple[Any, ...]], fields: tuple[str, ...]) -> pa.Table:
    columns = list(zip(*rows, strict=True))[: 2 + len(fields)]
    return pa.table(dict(zip(("row_id", "stratum", *fields), map(list, columns), strict=True)), real_schema(fields))


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


class Bench:
    """One fitted generator: its files and its rows."""

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
        self.directory = folder / "fitted"
        self.directory.mkdir(parents=True)
        kind = GENERATORS[name]
        self.generator = kind(kind.Options(**(options_of(name, folder) | options)))
        self.context = Context(seed=seed, fields=fields, workdir=self.directory, threads=threads)
        train = table(rows or rows_of(fields), fields)
        empty = train.slice(0, 0)
        free = table(UNLABELLED, fields) if self.generator.wants_unlabelled() else empty
        self.files = self.generator.fit(FitInputs(train, empty, empty, empty, free), self.context)
        self.fitted = Fitted(self.directory, "content")

    def sample(self, request: Request, threads: int = 1, seed: int = 0, **options: Any) -> pa.Table:
        """Through a generator object and a cache of its own, as another worker would."""
        changed = type(self.generator)(type(self.generator.options)(**(vars(self.generator.options) | options)))
        context = Context(seed=seed, fields=self.context.fields, workdir=self.directory, threads=threads)
        return changed.sample(self.fitted, request, context)


def ask(strata: list[str], start: int = 0, key: int = 7) -> Request:
    ordinals = np.arange(start, start + len(strata), dtype=np.int64)
    return Request(strata, ordinals, row_seeds(key, ordinals))


def part(request: Request, at: list[int]) -> Request:
    return Request([request.strata[index] for index in at], request.ordinals[at], request.seeds[at])


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
