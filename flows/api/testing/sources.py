"""The laws of readers: over a file, or the directory of a table, of which the test knows the rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from augmill.tasks.sources import Batch, SourceFile, SourceOptions, list_files, read_batches
from augmill.tasks.sources.options import Reader


class SourceBench:
    """A format, as recipes name it (a path such as ``package.module:Class`` too), a file of it, and the rows in it.

    ``rows``: each with all columns, as they should be read; two columns and three rows at least.
    """

    def __init__(self, format: str, path: Path, rows: Sequence[dict[str, Any]]) -> None:
        from augmill.tasks.sources import SOURCES

        self.reader: Reader = SOURCES[format]()
        self.options, self.rows = SourceOptions(path=str(path), format=format), list(rows)
        (self.file,) = list_files(self.options)

    def batches(self, names: Sequence[str] | None = None) -> list[Batch]:
        """Of these columns, or of all."""
        whole = self.reader.schema([self.file], self.options)
        wanted = whole if names is None else pa.schema([whole.field(name) for name in names])
        return list(self.reader.batches(self.file, self.options, wanted))


def it_gives_back_what_stands_in_the_file(bench: SourceBench) -> None:
    batches = list(read_batches(bench.file, bench.options))
    assert [row for batch in batches for row in batch.table.to_pylist()] == bench.rows, "the rows, in order"
    places = [place for batch in batches for place in batch.locations.to_pylist()]
    assert len(set(places)) == len(bench.rows), "each row says where it stands, such as `line 12`"
    assert not [row for batch in batches for row in batch.refused], "a sound row is refused"


def columns_and_schema_agree(bench: SourceBench) -> None:
    names = bench.reader.columns(bench.file, bench.options)
    assert names == bench.reader.schema([bench.file], bench.options).names == list(bench.rows[0]), "in the file's order"


def only_the_asked_columns_are_given(bench: SourceBench) -> None:
    first = next(iter(bench.rows[0]))
    found = [row for batch in bench.batches([first]) for row in batch.table.to_pylist()]
    assert found == [{first: row[first]} for row in bench.rows], "the column that was asked for, and no other"


def a_sample_is_the_first_rows(bench: SourceBench) -> None:
    assert bench.reader.sample(bench.file, bench.options, 2) == bench.rows[:2], "the first two rows"
    assert bench.reader.sample(bench.file, bench.options, len(bench.rows) + 9) == bench.rows, (
        "all, if more are asked for"
    )


def it_says_what_it_is(bench: SourceBench) -> None:
    assert type(bench.reader.VERSION) is int and bench.reader.VERSION >= 1, "VERSION is a whole number from 1"
    assert bench.reader.noun, "noun: what a row is called where it stands, `line` or `row`"
    assert isinstance(bench.file, SourceFile)


SOURCE_LAWS: tuple[Callable[[SourceBench], None], ...] = (
    it_gives_back_what_stands_in_the_file,
    columns_and_schema_agree,
    only_the_asked_columns_are_given,
    a_sample_is_the_first_rows,
    it_says_what_it_is,
)
