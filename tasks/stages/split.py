"""Split: a row's split is a function of the row (law 6), so it is the same on every night, in every window and order."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from augmill.tasks.contracts import FIRST_PROBLEM, ROW_ID, STRATUM, TARGET, Artifact, Problem, ReadLimits
from augmill.tasks.errors import DataError, UserError
from augmill.tasks.problems import PROBLEMS
from augmill.tasks.problems.classification import Labels
from augmill.tasks.problems.strata import STRATA, restratify
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.recipe.sections import Columns, Splits
from augmill.tasks.rows.kinds import RowIndex, equal_keys, group_keys, real_schema, type_of
from augmill.tasks.rows.schema import SPLIT, class_counts
from augmill.tasks.sources import SOURCES, SourceFile, SourceOptions, hash_file, list_files, read_batches
from augmill.tasks.stages.user_columns import read_fields, versions_of
from augmill.tasks.store.stage import Work, stage

HELD_OUT = ("validation", "test")
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
            exclude.append((options, tuple(list_files(options))))
        except UserError as error:  # it speaks of the source
            where = f"{error.where} (splits.heldout_exclude)"
            raise UserError(error.problem, where=where, fix="correct splits.heldout_exclude") from error
    columns = recipe.columns
    excluded = tuple(
        (options, SOURCES[file.format].VERSION, hash_file(file, options))
        for options, files in exclude
        for file in files
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
                fields, unread = read_fields(batch.table, columns, ReadLimits(sys.maxsize))
                ids = [f"{file.name}:{place}" for place in batch.locations.to_pylist()]
                keys = [pa.array(ids, pa.string()), pa.array([""] * len(ids), pa.string())]
                read = pa.Table.from_arrays([*keys, *fields.columns], schema=schema)
                tables.append(read.filter(pa.array([reason is None for reason in unread], pa.bool_())))
    return pa.concat_tables(tables)


def hold_back(train: pa.Table, held_out: pa.Table, exclude: pa.Table, config: SplitConfig) -> tuple[pa.Table, pa.Table]:
    """(train without the rows that stand, exactly or nearly, in a held-out set; those rows with match and similarity)."""
    against = pa.concat_tables([t.select([ROW_ID, *config.fields]) for t in (held_out, exclude)])
    best, similarity = RowIndex.build(against, config.fields, config.splits.near).nearest(train)
    matched = pa.array(best >= 0)
    out = train.filter(matched)
    ids = against[ROW_ID].take(pa.array(best[best >= 0], pa.int64()))
    held = out.select([name for name in (ROW_ID, STRATUM, TARGET) if name in out.column_names] + list(config.fields))
    reasons = ["in_heldout" if s >= 1 else "near_heldout" for s in similarity[best >= 0]]
    held = held.append_column("reason", pa.array(reasons, pa.string()))
    held = held.append_column("match", ids).append_column("similarity", pa.array(similarity[best >= 0], pa.float64()))
    return train.filter(pc.invert(matched)), held


def _different(table: pa.Table, config: SplitConfig) -> int:
    """How many rows are left of which none equals another: equal ones share a split."""
    return len(set(equal_keys(table, config.fields)))


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


def _rare(train: pa.Table, everything: pa.Table, twins: _Twins, config: SplitConfig) -> list[str]:
    """Strata with fewer train rows than the problem needs. Raises DataError where the recipe says stop."""
    counts, least = class_counts(train[STRATUM]), config.learnt.least(config.labels)
    rare = [name for name in class_counts(everything[STRATUM]) if counts.get(name, 0) < least]
    if rare and config.learnt.stops(config.labels):
        before = class_counts(everything[STRATUM])
        different = {
            name: _different(everything.filter(pc.equal(everything[STRATUM], name)), config) for name in rare[:5]
        }
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


def _leave(tables: dict[str, pa.Table], rare: list[str], schema: pa.Schema) -> tuple[dict[str, pa.Table], pa.Table]:
    """(the tables without the rare classes, those rows of all splits with their reason)."""
    are_rare = {name: pc.is_in(table[STRATUM], pa.array(rare, pa.string())) for name, table in tables.items()}
    left = pa.concat_tables([table.filter(are_rare[name]) for name, table in tables.items()])
    empty = {"reason": pa.repeat("rare_class", left.num_rows)}
    columns = [
        left[field.name]
        if field.name in left.column_names
        else empty.get(field.name, pa.nulls(left.num_rows, field.type))
        for field in schema
    ]
    kept = {name: table.filter(pc.invert(are_rare[name])) for name, table in tables.items()}
    return kept, pa.table(columns, schema=schema)


def _unlabelled(work: Work, given: list[Artifact], held_out: pa.Table, exclude: pa.Table, config: SplitConfig) -> int:
    """Writes the unlabelled rows that stand, exactly or nearly, in no held-out set; how many had to leave."""
    schema = real_schema(config.fields)
    rows = work.read(given[0]) if given else schema.empty_table()
    kept, left = hold_back(rows, held_out, exclude, config)
    work.write(kept, "unlabelled.parquet")
    return int(left.num_rows)


@stage("split", version=4)
def split(work: Work, config: SplitConfig, ingested: Artifact, unlabelled: list[Artifact]) -> None:
    """train, validation and test of the snapshot, and the rows that had to leave: each row stands in one of the four.

    ``unlabelled``: that stage's rows, or none. Those in or near a held-out row leave them too.
    Raises DataError with one class only, nothing to train or judge on, a rare class (unless quarantined), or
    nothing but copies of one row.
    """
    rows = work.read(ingested)
    names = pa.array(split_names(rows, config))
    rows = rows.drop_columns([SPLIT])
    if config.learnt.fits_strata:
        fitted = config.learnt.fit_strata(rows.filter(pc.equal(names, "train")))
        rows = restratify(rows, config.learnt, fitted)
        work.write_json(fitted, STRATA)
    tables = {name: rows.filter(pc.equal(names, name)) for name in ("train", *HELD_OUT)}
    exclude = _exclude_table(config)
    held_out = pa.concat_tables([tables[name] for name in HELD_OUT])
    given_train = tables["train"].num_rows
    tables["train"], held = hold_back(tables["train"], held_out, exclude, config)
    twins = _twins(held, given_train, config)
    rare = _rare(tables["train"], rows, twins, config)
    if rare:
        tables, left = _leave(tables, rare, held.schema)
        held = pa.concat_tables([held, left])
    _require_sound(tables, rows, twins, config)
    for name, table in tables.items():
        work.write(table, f"{name}.parquet")
    work.write(exclude, "exclude.parquet")
    left = _unlabelled(work, unlabelled, held_out, exclude, config)
    work.write(held, "held_back.parquet")
    work.rows = rows.num_rows
    work.write_json(
        {
            "rows": {name: table.num_rows for name, table in tables.items()},
            "classes": {name: class_counts(table[STRATUM]) for name, table in tables.items()},
            "train_before_leaving": given_train,
            "held_back": dict(sorted(Counter(held["reason"].to_pylist()).items())),
            "rare_classes": rare,
            "excluded_texts": exclude.num_rows,
            "unlabelled": {"rows": sum(part.rows for part in unlabelled) - left, "held_back": left},
        },
        "summary.json",
    )


def _require_sound(tables: dict[str, pa.Table], rows: pa.Table, twins: _Twins, config: SplitConfig) -> None:
    lack = config.learnt.lacks(tables["train"])
    if lack is not None:
        problem, fix = lack
        if 0 < rows.num_rows < FEW and not tables["train"].num_rows:
            problem = f"there are too few rows ({rows.num_rows}): none of them is in train"
            raise DataError(problem, where="source", fix="give more rows, or check the splits section")
        raise DataError(
            f"{problem} ({rows.num_rows:,} rows before the split)" + (f": {twins.told}" if twins.classes else ""),
            where="source",
            fix=twins.fix if twins.many else fix,
        )
    if _different(tables["train"], config) < 2:
        raise DataError("all train rows are equal", where="source", fix="check the columns to learn from (columns)")
    if tables["validation"].num_rows == 0:
        raise DataError(
            "no validation row: nothing could be proven",
            where="splits",
            fix="raise splits.validation or give more rows",
        )
