"""Ingest: one unit of the source in, typed real rows out; what is refused stands apart with its reason.

A unit is the files of one partition, or one file with a column of partitions, or a source without any. What hangs on
other units (ids, the window, the share of refused rows) is the gather stage's: a night ingests what is new alone.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from contextlib import ExitStack

import pyarrow as pa
import pyarrow.parquet as pq

from augmill.tasks.errors import NoRows
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.recipe.sections import Columns
from augmill.tasks.rows.calendar import FORMS
from augmill.tasks.rows.hashing import TableHasher
from augmill.tasks.rows.names import spelt_otherwise
from augmill.tasks.rows.schema import PLACES, UNIT_REFUSED
from augmill.tasks.sources import SOURCES, SourceFile, describe_file, list_files, read_batches, scan_schema
from augmill.tasks.sources.members import name_files
from augmill.tasks.stages.partitions import Cut, cut_source, cuts_upto, hash_files
from augmill.tasks.stages.refusals import require_columns, require_plain
from augmill.tasks.stages.unit_rows import BAD_PARTITION, IngestConfig, UnitRows, convert, open_batch
from augmill.tasks.stages.user_columns import files_named, versions_of
from augmill.tasks.store.erasure import Erased, read_erased
from augmill.tasks.store.stage import PARQUET, Work, stage
from augmill.tasks.store.store import Store

_log = logging.getLogger("augmill")

LOOKED_AT = 20  # first rows of a file, whether its column says what its directory does


def prepare_ingest(
    recipe: Recipe, as_of: str | None = None, store: Store | None = None, listed: Sequence[SourceFile] | None = None
) -> tuple[IngestConfig, ...]:
    """Lists the source and hashes its files (``store`` knows those that did not change): one configuration a unit.

    Files of a directory or name after ``as_of`` are left alone. Raises UserError or DataError where there is nothing
    to read.
    """
    listed = list_files(recipe.source) if listed is None else listed
    listed = name_files(listed, recipe.source, files_named(recipe.columns))
    cuts = cut_source(listed, recipe)
    if as_of is not None:
        cuts = cuts_upto(cuts, recipe, as_of)
    chosen = [file for cut in cuts for file in cut.files]
    hashes = hash_files(chosen, listed, recipe.source, store, recipe.dataset)
    erased = Erased() if store is None else read_erased(store, recipe.dataset)
    return tuple(dataclasses.replace(_config(recipe, cut, hashes), erased=erased) for cut in cuts)


def _config(recipe: Recipe, cut: Cut, hashes: dict[str, str]) -> IngestConfig:
    files = tuple(
        {
            "name": item.name,
            "sha256": hashes[item.uri],
            "partition": item.partition,
            "reader": SOURCES[item.format].VERSION,
            **({"code": code} if (code := SOURCES.code(item.format)) else {}),
        }
        for item in cut.files
    )
    return IngestConfig(
        files=files,
        source=dataclasses.replace(recipe.source, path="-"),
        columns=recipe.columns,
        labels=recipe.labels,
        max_chars=recipe.refuse.max_chars,
        split_column=recipe.splits.column,
        split_files=recipe.splits.files,
        split_names=recipe.splits.names,
        calendar=recipe.partitions.calendar,
        pattern=recipe.partitions.pattern,
        partition=cut.partition,
        handles=cut.files,
        places=recipe.refuse.conflicts != "keep",
        problem=recipe.learnt,
        versions=versions_of(recipe.columns, recipe.learnt),
        reading=2 if spelt_otherwise([*recipe.problem.named(recipe.labels), *recipe.splits.names]) else 1,
    )


def _needed(columns: Columns, split_column: str | None) -> list[str]:
    names = [*columns.named.values(), split_column]
    return [name for name in dict.fromkeys(names) if name is not None]


@stage("ingest", version=5)
def ingest(work: Work, config: IngestConfig) -> None:
    """Reads a unit's files in order, batch by batch: memory does not grow with the file.

    Gives rows.parquet in the files' order, with the hash of the inputs or the id column's value as ``row_id``; per
    partition what was read, taken and refused, its classes and its revision (parts.json); the refused rows; and where
    each row stands, for the message on a doubled id (places.parquet). Raises UserError for a column that no file has.
    """
    rows = UnitRows(config)
    schema = _schema(config, rows.partitioned)
    require_columns(config.columns, config.split_column, schema.names, config.handles[0], config.source)
    require_plain(config.columns, schema, config.handles[0], config.source, learnt=rows.problem)
    refused = _write_rows(work, rows, schema)
    work.rows = sum(part.taken for part in rows.parts.values())
    work.write(pa.Table.from_pylist(refused, UNIT_REFUSED), "refused.parquet")
    work.notes |= {"refused.parquet", "places.parquet"}
    work.write(schema.empty_table(), "source.parquet")  # the columns and types that a release gives back
    if any(BAD_PARTITION in part.refused for part in rows.parts.values()):
        work.meta["forms"] = FORMS
    work.write_json({name: part.to_json() for name, part in rows.parts.items()}, "parts.json")
    read_as = [describe_file(file, config.source) for file in config.handles[:20]]
    files = [item["name"] for item in config.files]
    repaired = dict(sorted(rows.repaired.items()))
    work.note({"files": files, "read_as": read_as, "repaired": repaired}, "summary.json")


def _schema(config: IngestConfig, partitioned: bool) -> pa.Schema:
    """One type for each column of the unit. A partition without a readable line has the needed columns, of no type."""
    try:
        return scan_schema(config.handles, config.source)
    except NoRows:
        if not partitioned:
            raise
        return pa.schema([(name, pa.null()) for name in _needed(config.columns, config.split_column)])


def _warn_of_column(file: SourceFile, config: IngestConfig) -> None:
    """The directory counts, as everywhere with hive partitions; where the file's own column says otherwise, one of the

    two is wrong. Of the first rows alone: the column is not read for anything else.
    """
    column, told = config.columns.partition, config.partition
    if column is None or told is None or column not in file.partition:
        return
    reader = SOURCES[file.format]()
    if file.format != "jsonl" and column not in reader.columns(
        file, config.source
    ):  # as for nearly all: rows cost more
        return
    for row in reader.sample(file, config.source, LOOKED_AT):
        value = row.get(column)
        if value is not None and config.calendar.name_of(value) != told and str(value) != file.partition[column]:
            said = f"{file.name!r} is in the directory of {told!r}, but its column {column!r} says {value!r}"
            _log.warning("%s: the directory counts; move the file, or correct the column", said)
            return


def _write_rows(work: Work, rows: UnitRows, schema: pa.Schema) -> list[dict[str, str]]:
    """Writes rows.parquet and places.parquet batch by batch; the refused rows."""
    config, refused = rows.config, list[dict[str, str]]()
    hasher: TableHasher | None = None
    needed = _needed(config.columns, config.split_column)
    with ExitStack() as stack:

        def write(name: str, table: pa.Table) -> None:
            if name not in writers:
                writers[name] = stack.enter_context(pq.ParquetWriter(work.directory / name, table.schema, **PARQUET))
            writers[name].write_table(table)

        writers: dict[str, pq.ParquetWriter] = {}
        for file in config.handles:
            _warn_of_column(file, config)
            for batch in read_batches(file, config.source, needed=needed, schema=schema):
                opened = open_batch(rows, file, batch)
                rows.see(batch.table, opened.names)
                table, kept, bad = convert(rows, opened)
                rows.repaired.update(batch.repaired)
                refused += [*bad, *rows.unread(file, batch.refused)]
                hasher = hasher or TableHasher(table.schema)
                hasher.update(table)
                work.tell(sum(part.taken for part in rows.parts.values()), None, "rows")
                write("rows.parquet", table)
                if config.columns.id is not None or config.places:
                    places = [opened.locations[index] for index in kept]
                    write("places.parquet", pa.table({"file": [file.name] * len(places), "location": places}, PLACES))
    assert hasher is not None  # a reader gives at least one batch, perhaps an empty one
    work.contents["rows.parquet"] = hasher.hexdigest()
    return refused
