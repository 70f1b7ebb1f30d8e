"""The laws of generators."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from augmill.tasks.contracts import Context, FitInputs, Fitted, Generator, Request
from augmill.tasks.rows.kinds import candidate_schema
from augmill.tasks.rows.randomness import row_seeds
from augmill.testing.rows import (
    UNLABELLED,
    fields_in,
    require_declared,
    require_files,
    require_light_import,
    rows_for,
    table,
    target_in,
)


class GeneratorBench:
    """One fitted generator: its files in ``directory/fitted``, and its rows.

    ``rows``: real rows (``row_id``, ``stratum``, the target if there is one, the fields) with two strata at least; without
    them samples of texts or of a table, whichever the generator serves.
    """

    def __init__(
        self, generator: Generator, directory: Path, *, rows: pa.Table | None = None, seed: int = 0, threads: int = 1
    ) -> None:
        self.generator, self.folder = generator, directory
        self.directory = directory / "fitted"
        self.directory.mkdir(parents=True)
        self.train = rows_for(generator) if rows is None else rows
        fields, target = fields_in(self.train), target_in(self.train)
        self.context = Context(seed=seed, fields=fields, workdir=self.directory, target=target, threads=threads)
        empty = self.train.slice(0, 0)
        free = table(UNLABELLED, fields) if generator.wants_unlabelled() else empty
        self.files = generator.fit(FitInputs(self.train, empty, empty, empty, free), self.context)
        self.fitted = Fitted(self.directory, "content")
        self.strata = 8 * sorted(set(self.train["stratum"].to_pylist()))

    def again(self, name: str, rows: pa.Table) -> GeneratorBench:
        """The same generator fitted anew, on these rows."""
        return GeneratorBench(type(self.generator)(self.generator.options), self.folder / name, rows=rows)

    def sample(self, asked: Request | Sequence[str], threads: int = 1, seed: int = 0, **options: Any) -> pa.Table:
        """Rows of the asked strata, through a generator object and a cache of its own, as another worker would."""
        request = asked if isinstance(asked, Request) else ask(list(asked))
        changed = type(self.generator)(dataclasses.replace(self.generator.options, **options))
        return changed.sample(self.fitted, request, dataclasses.replace(self.context, seed=seed, threads=threads))


def ask(strata: list[str], start: int = 0, key: int = 7) -> Request:
    """A row of each stratum, with ordinals from ``start`` and seeds by ``key``."""
    ordinals = np.arange(start, start + len(strata), dtype=np.int64)
    return Request(strata, ordinals, row_seeds(key, ordinals))


def part(request: Request, at: list[int]) -> Request:
    """Some rows of a request, in that order."""
    return Request([request.strata[index] for index in at], request.ordinals[at], request.seeds[at])


def every_asked_row_is_answered_in_order_with_a_row_or_a_reason(bench: GeneratorBench) -> None:
    asked = ask([*bench.strata, "unheard of"])
    rows = bench.sample(asked)
    fields = bench.context.fields
    schema = candidate_schema(fields, bench.context.target)
    assert rows.schema == schema, f"expected kinds.candidate_schema(ctx.fields, ctx.target), found {rows.schema}"
    assert rows.num_rows == len(asked), f"{len(asked)} rows were asked for, {rows.num_rows} came"
    for name, wanted in (("ordinal", asked.ordinals.tolist()), ("asked", asked.strata), ("seed", asked.seeds.tolist())):
        assert rows[name].to_pylist() == wanted, f"the column {name} is the request's"
    for row in rows.to_pylist():
        delivered = any(row[name] is not None and row[name] != "" for name in fields)
        assert (row["reason"] is None) == delivered, f"a row or a reason, not both and not neither: {row}"
        assert row["reason"] is not None or row["stratum"] in bench.strata, f"a stratum that train has: {row}"
    assert rows["reason"][-1].as_py() is not None, "a stratum that train does not have gets a reason"
    assert rows["reason"].null_count, "no row was delivered"
    assert bench.sample(ask([])).schema == schema, "without rows the schema is the same"


def a_row_depends_on_its_own_request_alone(bench: GeneratorBench) -> None:
    asked = ask(bench.strata)
    whole = bench.sample(asked)
    halves = [bench.sample(part(asked, at)) for at in (list(range(5)), list(range(5, len(asked))))]
    hint = "draw from `request.seeds` alone (`uniforms`), not from a generator of random numbers, a clock or a place"
    for at, (one, other) in enumerate(zip(whole.to_pylist(), pa.concat_tables(halves).to_pylist(), strict=True)):
        assert one == other, f"row {at} differs if another request asks for it: {one}, {other}; {hint}"
    backwards = bench.sample(part(asked, list(range(len(asked)))[::-1]), threads=2)
    assert backwards.to_pylist()[::-1] == whole.to_pylist(), "another order, or other threads, give other rows"


def options_that_are_no_identity_change_no_row(bench: GeneratorBench) -> None:
    whole = bench.sample(bench.strata)
    for item in dataclasses.fields(bench.generator.options):
        free = item.metadata.get("identity") is False and isinstance(item.default, int | float)
        for value in (1, 3, 1000) if free else ():
            assert bench.sample(bench.strata, **{item.name: value}).equals(whole), f"{item.name}: {value} changes rows"


def other_seeds_give_other_rows_unless_there_are_only_so_many(bench: GeneratorBench) -> None:
    fields = list(bench.context.fields)
    made = (bench.sample(ask(bench.strata, key=key), seed=key).select(fields).to_pylist() for key in (1, 2))
    first, second = ([str(row) for row in rows] for rows in made)
    assert (first == second) == bench.generator.finite, "`finite` says that there are only so many rows, or that not"
    assert bench.generator.finite or len(set(first)) > len(first) / 2, "half of the rows are the same"


def parents_are_train_rows_of_the_stratum(bench: GeneratorBench) -> None:
    strata = dict(zip(bench.train["row_id"].to_pylist(), bench.train["stratum"].to_pylist(), strict=True))
    free = {row[0] for row in UNLABELLED} if bench.generator.origin == "pseudo_labelled" else set()
    # Of lists, such as boxes, a row may have parts of rows whose own strata are others.
    several = bench.context.target is not None and pa.types.is_nested(bench.context.target)
    for row in bench.sample(bench.strata).to_pylist():
        for parent in row["parent_ids"]:
            own = strata.get(parent)
            known = parent in free or (own is not None and several) or own == row["stratum"]
            assert known, f"{parent} is no train row of {row['stratum']}"


def fitting_twice_in_any_order_of_rows_gives_the_same_files_and_all_are_named(bench: GeneratorBench) -> None:
    require_files(bench.files, bench.directory)
    backwards = bench.train.take(pa.array(range(bench.train.num_rows - 1, -1, -1), pa.int64()))
    for name, rows, why in (
        ("again", bench.train, "fitted twice on the same rows, {} differs: a clock, or random numbers of its own"),
        ("backwards", backwards, "{} depends on the order of the train rows: sort them, by row_id"),
    ):
        other = bench.again(name, rows)
        for file, path in bench.files.items():
            assert path.read_bytes() == other.files[file].read_bytes(), why.format(file)


def what_it_promises_is_declared(bench: GeneratorBench) -> None:
    generator = bench.generator
    require_declared(generator)
    require_light_import(generator)
    assert isinstance(generator.repeatable, bool) and isinstance(generator.finite, bool), "repeatable and finite: bool"
    assert generator.labels in ("asked", "own"), "labels: `asked` or `own`"
    assert generator.normalisation in ("canonical", "fold"), "normalisation: `canonical` or `fold`"


GENERATOR_LAWS: tuple[Callable[[GeneratorBench], None], ...] = (
    every_asked_row_is_answered_in_order_with_a_row_or_a_reason,
    a_row_depends_on_its_own_request_alone,
    options_that_are_no_identity_change_no_row,
    other_seeds_give_other_rows_unless_there_are_only_so_many,
    parents_are_train_rows_of_the_stratum,
    fitting_twice_in_any_order_of_rows_gives_the_same_files_and_all_are_named,
    what_it_promises_is_declared,
)
