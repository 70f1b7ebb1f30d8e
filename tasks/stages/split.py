"""Split: a row's split is a function of the row (law 6), so it is the same on every night, in every window and order."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from augmill.tasks.contracts import FIRST_PROBLEM, ROW_ID, STRATUM, TARGET, Artifact, Problem, ReadLimits
from augmill.tasks.errors import DataError, UserError
from augmill.tasks.problems import PROBLEMS
from augmill.tasks.problems.classification import Labels
from augmill.tasks.problems.strata import STRATA, restratify
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.recipe.sections import Columns, Splits
from augmill.tasks.rows.kinds import RowIndex, equal_keys, group_keys, real_schema, type_of
from augmill.tasks.rows.parts import in_files, read_parts
from augmill.tasks.rows.schema import GROUP, SPLIT, class_counts, rows_at_once
from augmill.tasks.sources import SOURCES, SourceFile, SourceOptions, list_files, read_batches
from augmill.tasks.sources.members import name_files
from augmill.tasks.stages.partitions import hash_files
from augmill.tasks.stages.user_columns import files_named, read_fields, versions_of
from augmill.tasks.store.stage import Work, stage

Bools = npt.NDArray[np.bool_]

HELD_OUT = ("validation", "test")
SPLITS = ("train", *HELD_OUT)
PART_ROWS, PART_CELLS = 65_536, 4_000_000  # of the rows that are read at once, whichever is less
FEW = 20  # rows; of more, it is the recipe's splits that leave train without any


@dataclass(frozen=True)
class SplitConfig:
    """What of the recipe decides the splits of the snapshot's rows."""

    splits: Splits
    labels: Labels
    fields: tuple[str, ...]
    sources: tuple[str, ...] = field(metadata={"identity_name": "text_columns"})  # the fields' names in the source
    # Each file of splits.heldout_exclude, which may be a glob or remote: how it is read, by which version of its
    # reader, its sha256; and where it is read from.
    excluded: tuple[tuple[SourceOptions, int, str], ...] = ()
    exclude: tuple[tuple[SourceOptions, tuple[SourceFile, ...]], ...] = field(
        default=(), metadata={"identity": False, "why": "where the same bytes are read from"}
    )
    problem: str = field(default=FIRST_PROBLEM, metadata={"later": True})  # its name
    versions: dict[str, int | str] | None = field(default=None, metadata={"later": True})  # as ingest's

    @property
    def learnt(self) -> Problem:
        return PROBLEMS[self.problem]


def prepare_split(recipe: Recipe) -> SplitConfig:
    exclude = []
    for path in recipe.splits.heldout_exclude:
        options = dataclasses.replace(recipe.source, path=path, format="auto")
        try:
            exclude.append((options, tuple(name_files(list_files(options), options, files_named(recipe.columns)))))
        except UserError as error:  # it speaks of the source
            where = f"{error.where} (splits.heldout_exclude)"
            raise UserError(error.problem, where=where, fix="correct splits.heldout_exclude") from error
    columns = recipe.columns
    excluded = tuple(
        (options, SOURCES[file.format].VERSION, digest)
        for options, files in exclude
        for file, digest in zip(files, hash_files(files, files, options, None, recipe.dataset).values(), strict=True)
    )
    versions = versions_of(columns, recipe.learnt)
    named = (columns.fields, columns.sources)
    return SplitConfig(recipe.splits, recipe.labels, *named, excluded, tuple(exclude), recipe.learnt, versions)


def split_names(table: pa.Table, config: SplitConfig) -> list[str]:
    """The split of each row: the given one, else by hash of what equal rows share, or of the group, against the shares."""
    if config.splits.given:
        return [str(name) for name in table[SPLIT].to_pylist()]
    seed, names = f"{config.splits.seed}\x1f".encode(), []
    for key in group_keys(table, config.fields):
        digest = hashlib.sha256(seed + key).digest()
        point = int.from_bytes(digest[:8], "big") / 2**64
        if point < config.splits.validation:
            names.append("validation")
        else:
            names.append("test" if point < config.splits.validation + config.splits.test else "train")
    return names


def _exclude_table(config: SplitConfig) -> pa.Table:
    """The rows of ``splits.heldout_exclude`` that can be read; named by their file and place."""
    schema = real_schema(config.fields)
    columns = Columns(inputs=dict(zip(config.sources, map(type_of, config.fields), strict=True)), label="")
    tables = [schema.empty_table()]
    for options, files in config.exclude:
        for file in files:
            for batch in read_batches(file, options, list(config.sources), needed=list(config.sources)):
                fields, unread = read_fields(batch.table, columns, ReadLimits(sys.maxsize, sys.maxsize))
                ids = [f"{file.name}:{place}" for place in batch.locations.to_pylist()]
                keys = [pa.array(ids, pa.string()), pa.array([""] * len(ids), pa.string())]
                read = pa.Table.from_arrays([*keys, *fields.columns], schema=schema)
                tables.append(read.filter(pa.array([reason is None for reason in unread], pa.bool_())))
    return pa.concat_tables(tables)


class _HeldOut:
    """What train and unlabelled rows must not stand in or near: the rows to judge by, and those of excluded files."""

    def __init__(self, held_out: pa.Table, exclude: pa.Table, config: SplitConfig) -> None:
        against = pa.concat_tables([table.select([ROW_ID, *config.fields]) for table in (held_out, exclude)])
        self.ids, self.fields = against[ROW_ID].combine_chunks(), config.fields
        self.index = RowIndex.build(against, config.fields, config.splits.near)

    def near(self, rows: pa.Table) -> tuple[Bools, pa.Table]:
        """(which rows stand in or near one, exactly or nearly; those rows with reason, match and similarity)."""
        best, similarity = self.index.nearest(rows)
        matched = best >= 0
        out = rows.filter(pa.array(matched))
        held = out.select([name for name in (ROW_ID, STRATUM, TARGET) if name in out.column_names] + list(self.fields))
        reasons = ["in_heldout" if s >= 1 else "near_heldout" for s in similarity[matched]]
        held = held.append_column("reason", pa.array(reasons, pa.string()))
        held = held.append_column("match", self.ids.take(pa.array(best[matched], pa.int64())))
        return matched, held.append_column("similarity", pa.array(similarity[matched], pa.float64()))


def hold_back(train: pa.Table, held_out: pa.Table, exclude: pa.Table, config: SplitConfig) -> tuple[pa.Table, pa.Table]:
    """(train without the rows that stand, exactly or nearly, in a held-out set; those rows with match and similarity)."""
    matched, held = _HeldOut(held_out, exclude, config).near(train)
    return train.filter(pa.array(~matched)), held


class _Parts:
    """The snapshot's rows, read again part by part: only what is held out is ever held whole.

    ``codes``: the place in SPLITS of each row's split; ``leaves``: which rows of train stand in or near a held-out one.
    """

    def __init__(self, path: Path, config: SplitConfig) -> None:
        self.path, self.config = path, config
        self.fitted: dict[str, Any] | None = None
        known = pq.read_schema(path)
        self.schema = known.remove(known.get_field_index(SPLIT))
        self.size = max(1, min(PART_ROWS, PART_CELLS // len(known)))
        asked = [SPLIT] if config.splits.given else [*config.fields, *([GROUP] if GROUP in known.names else [])]
        codes = [np.empty(0, np.uint8)]
        codes += [
            np.array([SPLITS.index(name) for name in split_names(part, config)], np.uint8) for part in self._read(asked)
        ]
        self.codes = np.concatenate(codes)
        self.leaves = np.zeros(len(self.codes), np.bool_)

    def _read(self, columns: list[str]) -> Iterator[pa.Table]:
        with pq.ParquetFile(self.path, pre_buffer=False) as file:
            for batch in file.iter_batches(rows_at_once(file.metadata, self.size), columns=columns):
                yield pa.Table.from_batches([batch])

    def fit_strata(self) -> dict[str, Any]:
        problem = self.config.learnt
        asked = [TARGET, *(self.config.fields if problem.strata_of_fields else ())]
        train = [part.filter(pa.array(self.codes[at] == 0)) for at, part in self._placed(asked)]
        self.fitted = problem.fit_strata(pa.concat_tables(train))
        return self.fitted

    def _placed(self, columns: list[str]) -> Iterator[tuple[slice, pa.Table]]:
        start = 0
        for part in self._read(columns):
            yield slice(start, start + part.num_rows), part
            start += part.num_rows
        if not start:
            yield slice(0, 0), self.schema.empty_table().select(columns)

    def of(self, *splits: str, columns: list[str] | None = None) -> Iterator[tuple[slice, Bools, pa.Table]]:
        """Of each part: its place, which of its rows are of these splits and stay in them, and these rows."""
        chosen = [*(columns or self.schema.names)]
        read = [*chosen, *([TARGET] if self.fitted and STRATUM in chosen and TARGET not in chosen else [])]
        codes = [SPLITS.index(name) for name in splits]
        for at, part in self._placed(read):
            mask = np.isin(self.codes[at], codes) & ~self.leaves[at]
            rows = part.filter(pa.array(mask))
            if self.fitted is not None and STRATUM in chosen:
                rows = restratify(rows, self.config.learnt, self.fitted)
            yield at, mask, rows.select(chosen)

    def tables(self, *splits: str, columns: list[str]) -> Iterator[pa.Table]:
        """The rows of the first split part by part, then those of the next."""
        for split in splits:
            yield from (rows for _, _, rows in self.of(split, columns=columns))

    def counts(self, *splits: str) -> dict[str, int]:
        """Rows by class."""
        found = Counter[str]()
        for _, _, rows in self.of(*splits, columns=[STRATUM]):
            found.update(class_counts(rows[STRATUM]))
        return dict(sorted(found.items()))

    def hold_back(self, held_out: _HeldOut) -> pa.Table:
        """The rows of train that stand in or near a held-out one: from here on they leave."""
        held, leaves = list[pa.Table](), self.leaves.copy()
        for at, mask, rows in self.of("train", columns=self._about):
            near, found = held_out.near(rows)
            leaves[at][np.flatnonzero(mask)[near]] = True
            held.append(found)
        self.leaves = leaves
        return pa.concat_tables(held)

    @property
    def _about(self) -> list[str]:
        """The columns by which a row that leaves is told."""
        return [*(name for name in (ROW_ID, STRATUM, TARGET) if name in self.schema.names), *self.config.fields]

    def rare(self, names: list[str]) -> pa.Table:
        """The rows of these classes, split by split: from here on they leave too."""
        found, leaves, about = list[pa.Table](), self.leaves.copy(), self._about
        for split in SPLITS:
            for at, mask, rows in self.of(split, columns=about):
                is_rare = np.asarray(pc.is_in(rows[STRATUM], pa.array(names, pa.string())))
                leaves[at][np.flatnonzero(mask)[is_rare]] = True
                found.append(rows.filter(pa.array(is_rare)))
        self.leaves = leaves
        return pa.concat_tables(found)

    def different(self, *splits: str, stratum: str | None = None, most: int | None = None) -> int:
        """How many rows are left of which none equals another: equal ones share a split. Counted to ``most`` at most."""
        seen = set[bytes]()
        for _, _, rows in self.of(*splits, columns=[*self.config.fields, STRATUM]):
            part = rows if stratum is None else rows.filter(pc.equal(rows[STRATUM], stratum))
            seen.update(hashlib.blake2b(key, digest_size=16).digest() for key in equal_keys(part, self.config.fields))
            if most is not None and len(seen) >= most:
                break
        return len(seen)


@dataclass(frozen=True)
class _Twins:
    """The train rows that left because they stand in or near a held-out row; ``told``: that, and what to do."""

    classes: dict[str, int]
    many: bool  # of train: the cause of whatever train lacks
    told: str
    fix: str


def _twins(held: pa.Table, given: int, config: SplitConfig) -> _Twins:
    near, known = held.num_rows, Counter(held["reason"].to_pylist())
    told = (
        f"{near:,} of {given:,} train rows were left out: {known['in_heldout']:,} are also in validation or test, "
        f"{known['near_heldout']:,} are near a row there (splits.near {config.splits.near:g})"
    )
    fix = (
        "remove the repeated rows"
        if config.splits.given
        else "keep rows made from one template together (columns.group)"
    )
    return _Twins(class_counts(held[STRATUM]), 2 * near > given, told, f"{fix}, remove repeats, or raise splits.near")


def _rare(parts: _Parts, before: dict[str, int], twins: _Twins) -> list[str]:
    """Strata with fewer train rows than the problem needs. Raises DataError where the recipe says stop.

    ``before``: rows by class, before any left.
    """
    config = parts.config
    counts, least = parts.counts("train"), config.learnt.least(config.labels)
    rare = [name for name in before if counts.get(name, 0) < least]
    if rare and config.learnt.stops(config.labels):
        parts.leaves[:] = False
        different = {name: parts.different(*SPLITS, stratum=name) for name in rare[:5]}
        found = ", ".join(
            f"{name!r} has {counts.get(name, 0)} (of {before[name]:,} rows, {rows:,} different)"
            for name, rows in different.items()
        )
        more = f" and {len(rare) - 5:,} classes more" if len(rare) > 5 else ""
        left = f"; {twins.told}" if twins.classes else ""
        fix = "add rows, retire the label (labels.retired), or set labels.rare: quarantine"
        lost = all(counts.get(name, 0) + twins.classes.get(name, 0) >= least for name in rare)
        raise DataError(
            f"a class needs {least} train rows; {found}{more}{left}",
            where="source",
            fix=twins.fix if lost else fix,
        )
    return rare


def _as_held(left: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows of rare classes among those that were held back."""
    empty = {"reason": pa.repeat("rare_class", left.num_rows)}
    columns = [
        left[field.name]
        if field.name in left.column_names
        else empty.get(field.name, pa.nulls(left.num_rows, field.type))
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _unlabelled(work: Work, given: list[Artifact], held_out: _HeldOut, config: SplitConfig) -> int:
    """Writes the unlabelled rows that stand, exactly or nearly, in no held-out set; how many had to leave."""
    left, rows = 0, work.path(given[0], "rows.parquet") if given else None
    schema = pq.read_schema(rows) if rows else real_schema(config.fields)
    with work.writing(schema, "unlabelled.parquet") as write:
        for part in read_parts(rows) if rows else ():
            near, _ = held_out.near(part)
            write(part.filter(pa.array(~near)))
            left += int(near.sum())
    return left


@stage("split", version=4)
def split(work: Work, config: SplitConfig, ingested: Artifact, unlabelled: list[Artifact]) -> None:
    """train, validation and test of the snapshot, and the rows that had to leave: each row stands in one of the four.

    ``unlabelled``: that stage's rows, or none. Those in or near a held-out row leave them too.
    Raises DataError with one class only, nothing to train or judge on, a rare class (unless quarantined), or
    nothing but copies of one row.
    """
    parts = _Parts(work.path(ingested, "rows.parquet"), config)
    if config.learnt.fits_strata:
        work.write_json(parts.fit_strata(), STRATA)
    exclude = _exclude_table(config)
    about = [ROW_ID, *config.fields]
    judged = in_files(parts.tables(*HELD_OUT, columns=about), pa.schema([parts.schema.field(name) for name in about]))
    held_out = _HeldOut(judged, exclude, config)
    del judged
    given_train, classes = int((parts.codes == 0).sum()), parts.counts(*SPLITS)
    held = parts.hold_back(held_out)
    twins = _twins(held, given_train, config)
    rare = _rare(parts, classes, twins)
    if rare:
        held = pa.concat_tables([held, _as_held(parts.rare(rare), held.schema)])
    _require_sound(parts, twins)
    counts = _write(work, parts)
    work.write(exclude, "exclude.parquet")
    left = _unlabelled(work, unlabelled, held_out, config)
    work.write(held, "held_back.parquet")
    work.rows = len(parts.codes)
    work.write_json(
        {
            "rows": {name: sum(of.values()) for name, of in counts.items()},
            "classes": counts,
            "train_before_leaving": given_train,
            "held_back": dict(sorted(Counter(held["reason"].to_pylist()).items())),
            "rare_classes": rare,
            "excluded_texts": exclude.num_rows,
            "unlabelled": {"rows": sum(part.rows for part in unlabelled) - left, "held_back": left},
        },
        "summary.json",
    )


def _write(work: Work, parts: _Parts) -> dict[str, dict[str, int]]:
    """Writes the splits; the rows of each by class."""
    counts = {}
    for name in SPLITS:
        found = Counter[str]()
        with work.writing(parts.schema, f"{name}.parquet") as write:
            for _, _, rows in parts.of(name):
                write(rows)
                found.update(class_counts(rows[STRATUM]))
        counts[name] = dict(sorted(found.items()))
    return counts


def _require_sound(parts: _Parts, twins: _Twins) -> None:
    config, rows = parts.config, len(parts.codes)
    known = [name for name in (STRATUM, TARGET) if name in parts.schema.names]
    train = pa.concat_tables(parts.tables("train", columns=known))
    lack = config.learnt.lacks(train)
    if lack is not None:
        problem, fix = lack
        if 0 < rows < FEW and not train.num_rows:
            problem = f"there are too few rows ({rows}): none of them is in train"
            raise DataError(problem, where="source", fix="give more rows, or check the splits section")
        raise DataError(
            f"{problem} ({rows:,} rows before the split)" + (f": {twins.told}" if twins.classes else ""),
            where="source",
            fix=twins.fix if twins.many else fix,
        )
    if parts.different("train", most=2) < 2:
        raise DataError("all train rows are equal", where="source", fix="check the columns to learn from (columns)")
    if not bool(((parts.codes == 1) & ~parts.leaves).any()):
        raise DataError(
            "no validation row: nothing could be proven",
            where="splits",
            fix="raise splits.validation or give more rows",
        )
