"""Unlabelled: rows of the same shape as the source's, without labels, as of a partition; one of each input, by id."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from augmill.tasks.contracts import ReadLimits
from augmill.tasks.problems.classification import Labels
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.recipe.sections import Columns
from augmill.tasks.rows.calendar import Calendar, rank
from augmill.tasks.rows.kinds import real_schema, stems
from augmill.tasks.rows.schema import id_within
from augmill.tasks.sources import SOURCES, SourceFile, SourceOptions, list_files, read_batches
from augmill.tasks.sources.members import name_files
from augmill.tasks.stages.partitions import cut_source, hash_files, is_partitioned, window_start
from augmill.tasks.stages.refusals import require_plain
from augmill.tasks.stages.unit_rows import IngestConfig, UnitRows
from augmill.tasks.stages.user_columns import files_named, read_fields
from augmill.tasks.store.erasure import ERASED, Erased, read_erased
from augmill.tasks.store.stage import Work, stage
from augmill.tasks.store.store import Store


@dataclass(frozen=True)
class UnlabelledConfig:
    """What decides which unlabelled rows a snapshot may use: those of its own window, never later ones (law 7)."""

    files: tuple[dict[str, Any], ...]  # name, sha256 and hive partition of each, and its reader's version
    source: SourceOptions
    columns: Columns
    max_chars: int
    calendar: Calendar
    pattern: str | None
    first: str | None
    as_of: str | None
    erased: Erased
    handles: tuple[tuple[str | None, SourceFile], ...] = field(
        metadata={"identity": False, "why": "where the same bytes are read from"}
    )


def prepare_unlabelled(recipe: Recipe, as_of: str | None, store: Store) -> UnlabelledConfig:
    """Lists and hashes the files. Raises UserError or DataError where there is nothing to read."""
    assert recipe.unlabelled is not None
    listed = name_files(list_files(recipe.unlabelled), recipe.unlabelled, files_named(recipe.columns))
    cuts = cut_source(listed, recipe)
    hashes = hash_files(listed, listed, recipe.unlabelled, store, f"{recipe.dataset}/unlabelled")
    handles = tuple((cut.partition, file) for cut in cuts for file in cut.files)
    files = [
        {"name": f.name, "sha256": hashes[f.uri], "partition": f.partition, "reader": SOURCES[f.format].VERSION}
        | ({"code": code} if (code := SOURCES.code(f.format)) else {})
        for _, file in handles
        for f in (file,)
    ]
    return UnlabelledConfig(
        files=tuple(files),
        source=dataclasses.replace(recipe.unlabelled, path="-"),
        columns=recipe.columns,
        max_chars=recipe.refuse.max_chars,
        calendar=recipe.partitions.calendar,
        pattern=recipe.partitions.pattern,
        first=window_start(recipe, as_of),
        as_of=as_of if is_partitioned(recipe) else None,
        erased=read_erased(store, recipe.dataset),
        handles=handles,
    )


@stage("unlabelled", version=2)
def unlabelled(work: Work, config: UnlabelledConfig) -> None:
    """rows.parquet (``real_schema``, every stratum empty, sorted by id) and what was left out, by reason (summary.json).

    The files need the source's input columns, and its columns of ids and partitions where the recipe names such; other
    columns, a label too, are not read. Raises DataError for a file that lacks one.
    """
    columns, left = config.columns, Counter[str]()
    found, seen = dict[str, int](), set[str]()  # id: which of the rows that are kept
    tables: list[pa.Table] = []
    needed = [name for name in (*columns.sources, columns.id, columns.partition) if name is not None]
    for partition, file in config.handles:
        rows = UnitRows(_unit(config, partition, file))
        for batch in read_batches(file, config.source, needed, needed=needed):
            require_plain(columns, batch.table.schema, file, config.source, of=f"unlabelled {file.name}, ")
            left["unreadable"] += len(batch.refused)
            names, _ = rows.partitions(file, batch.table)
            ids = batch.table[columns.id].to_pylist() if columns.id else [None] * batch.table.num_rows
            limits = ReadLimits(config.max_chars, config.source.max_file_bytes)
            fields, unread = read_fields(batch.table, columns, limits)
            hashes = stems(fields, columns.fields)
            kept: list[int] = []
            for at, (row_id, name, stem) in enumerate(zip(ids, names, hashes, strict=True)):
                reason = unread[at] or _refusal(config, rows, row_id, name, stem)
                own = str(row_id) if columns.id else id_within(name if rows.partitioned else None, stem)
                if reason or stem in seen or own in found:
                    left[reason or "repeated"] += 1
                else:
                    seen.add(stem)
                    found[own] = len(found)
                    kept.append(at)
            tables.append(fields.take(pa.array(kept, pa.int64())))
    work.rows = len(found)
    work.write(_by_id(found, tables, columns))
    work.write_json({"rows": len(found), "left_out": dict(sorted((+left).items()))}, "summary.json")


def _by_id(found: dict[str, int], tables: list[pa.Table], columns: Columns) -> pa.Table:
    ids = sorted(found)
    schema = real_schema(columns.fields)
    at = pa.array([found[name] for name in ids], pa.int64())
    fields = pa.concat_tables([schema.empty_table().select(list(columns.fields)), *tables]).take(at)
    keys = [pa.array(ids, pa.string()), pa.array([""] * len(ids), pa.string())]
    return pa.Table.from_arrays([*keys, *fields.columns], schema=schema)


def _refusal(config: UnlabelledConfig, rows: UnitRows, row_id: Any, name: str | None, stem: str) -> str:
    """Why a row is left out; empty where it is taken."""
    if config.columns.id and row_id in (None, ""):
        return "no_id"
    if rows.partitioned and name is None:
        return "no_partition"
    if (
        name is not None
        and config.as_of is not None
        and (name < (config.first or "") or rank(name) > rank(config.as_of))
    ):
        return "outside_window"
    return ERASED if config.erased.hashes and rows.is_erased(row_id, stem, name) else ""


def _unit(config: UnlabelledConfig, partition: str | None, file: SourceFile) -> IngestConfig:
    """As ingest has it, to read a row's partition alike."""
    return IngestConfig(
        files=(),
        source=config.source,
        columns=config.columns,
        labels=Labels(),
        max_chars=config.max_chars,
        split_column=None,
        split_files={},
        split_names={},
        calendar=config.calendar,
        pattern=config.pattern,
        partition=partition,
        handles=(file,),
        erased=config.erased,
    )
