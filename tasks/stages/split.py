"""Split: a row's split is a function of the row (law 6), so it is the same on every night, in every window and order."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from augmill.tasks.contracts import ROW_ID, STRATUM, Artifact
from augmill.tasks.errors import DataError, UserError
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.recipe.sections import Labels, Splits
from augmill.tasks.rows.kinds import real_schema
from augmill.tasks.rows.kinds.text import fold, texts_of
from augmill.tasks.rows.kinds.text.near import TextIndex
from augmill.tasks.rows.schema import GROUP, SPLIT, class_counts, equal_keys
from augmill.tasks.sources import SOURCES, SourceFile, SourceOptions, hash_file, list_files, read_batches
from augmill.tasks.store.stage import Work, stage

HELD_OUT = ("validation", "test")


@dataclass(frozen=True)
class SplitConfig:
    """What of the recipe decides the splits of the snapshot's rows."""

    splits: Splits
    labels: Labels
    fields: tuple[str, ...]
    text_columns: tuple[str, ...]
    # Each file of splits.heldout_exclude, which may be a glob or remote: how it is read, by which version of its
    # reader, its sha256; and where it is read from.
    excluded: tuple[tuple[SourceOptions, int, str], ...] = ()
    exclude: tuple[tuple[SourceOptions, tuple[SourceFile, ...]], ...] = field(
        default=(), metadata={"identity": False, "why": "where the same bytes are read from"}
    )


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
    return SplitConfig(recipe.splits, recipe.labels, columns.fields, columns.texts, excluded, tuple(exclude))


def split_names(table: pa.Table, config: SplitConfig) -> list[str]:
    """The split of each row: the given one, else by hash of the folded texts, or of the group, against the shares."""
    if config.splits.given:
        return [str(name) for name in table[SPLIT].to_pylist()]
    keys = equal_keys(table, config.fields)
    if GROUP in table.column_names:  # a row without a group goes by its texts, as one of a source without groups
        keys = [key if group is None else group for key, group in zip(keys, table[GROUP].to_pylist(), strict=True)]
    names = []
    for key in keys:
        digest = hashlib.sha256(f"{config.splits.seed}\x1f{key}".encode("utf-8", "surrogatepass")).digest()
        point = int.from_bytes(digest[:8], "big") / 2**64
        if point < config.splits.validation:
            names.append("validation")
        else:
            names.append("test" if point < config.splits.validation + config.splits.test else "train")
    return names


def _exclude_table(config: SplitConfig) -> pa.Table:
    texts: list[dict[str, Any]] = []
    for options, files in config.exclude:
        for file in files:
            for batch in read_batches(file, options, list(config.text_columns), needed=list(config.text_columns)):
                for index, row in enumerate(batch.table.to_pylist()):
                    values = [row[name] for name in config.text_columns]
                    if all(isinstance(value, str) and value.strip() for value in values):
                        row_id = f"{file.name}:{batch.locations[index].as_py()}"
                        texts.append({ROW_ID: row_id, STRATUM: "", **dict(zip(config.fields, values, strict=True))})
    schema = pa.schema([(name, pa.string()) for name in (ROW_ID, STRATUM, *config.fields)])
    return pa.Table.from_pylist(texts, schema)


def hold_back(train: pa.Table, held_out: pa.Table, exclude: pa.Table, config: SplitConfig) -> tuple[pa.Table, pa.Table]:
    """(train without the rows that stand, exactly or nearly, in a held-out set; those rows with match and similarity)."""
    against = pa.concat_tables([t.select([ROW_ID, *config.fields]) for t in (held_out, exclude)])
    index = TextIndex.build(texts_of(against, config.fields), config.splits.near)
    best, similarity = index.nearest(texts_of(train, config.fields))
    matched = pa.array(best >= 0)
    out = train.filter(matched)
    ids = against[ROW_ID].take(pa.array(best[best >= 0], pa.int64()))
    held = out.select([ROW_ID, STRATUM, *config.fields])
    reasons = ["in_heldout" if s >= 1 else "near_heldout" for s in similarity[best >= 0]]
    held = held.append_column("reason", pa.array(reasons, pa.string()))
    held = held.append_column("match", ids).append_column("similarity", pa.array(similarity[best >= 0], pa.float64()))
    return train.filter(pc.invert(matched)), held


def _texts(table: pa.Table, config: SplitConfig) -> set[str]:
    """The folded texts: rows that agree in them share a split."""
    return {fold(text) or text for text in texts_of(table, config.fields)}


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
        f"{near:,} of {given:,} train rows left it: {known['in_heldout']:,} stand in validation or test too, "
        f"{known['near_heldout']:,} are near a row there (splits.near {config.splits.near:g})"
    )
    fix = (
        "take the repeated rows out"
        if config.splits.given
        else "keep rows made from one template together (columns.group)"
    )
    return _Twins(
        class_counts(held[STRATUM]), 2 * near > given, told, f"{fix}, leave out repeats, or raise splits.near"
    )


def _rare(train: pa.Table, everything: pa.Table, twins: _Twins, config: SplitConfig) -> list[str]:
    """Classes with fewer than labels.min_rows train rows. Raises DataError where the recipe says stop."""
    counts = class_counts(train[STRATUM])
    rare = [name for name in class_counts(everything[STRATUM]) if counts.get(name, 0) < config.labels.min_rows]
    if rare and config.labels.rare == "stop":
        before = class_counts(everything[STRATUM])
        different = {
            name: len(_texts(everything.filter(pc.equal(everything[STRATUM], name)), config)) for name in rare[:5]
        }
        found = ", ".join(
            f"{name!r} has {counts.get(name, 0)} (of {before[name]:,} rows, {texts:,} different)"
            for name, texts in different.items()
        )
        more = f" and {len(rare) - 5:,} classes more" if len(rare) > 5 else ""
        left = f"; {twins.told}" if twins.classes else ""
        fix = "add rows, retire the label (labels.retired), or set labels.rare: quarantine"
        lost = all(counts.get(name, 0) + twins.classes.get(name, 0) >= config.labels.min_rows for name in rare)
        raise DataError(
            f"a class needs {config.labels.min_rows} train rows; {found}{more}{left}",
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


@stage("split", version=3)
def split(work: Work, config: SplitConfig, ingested: Artifact, unlabelled: list[Artifact]) -> None:
    """train, validation and test of the snapshot, and the rows that had to leave: each row stands in one of the four.

    ``unlabelled``: that stage's rows, or none. Those in or near a held-out row leave them too.
    Raises DataError with one class only, nothing to train or judge on, a rare class (unless quarantined), or
    nothing but copies of one text.
    """
    rows = work.read(ingested)
    names = pa.array(split_names(rows, config))
    rows = rows.drop_columns([SPLIT])
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
    _require_sound(tables, rows, twins)
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


def _require_sound(tables: dict[str, pa.Table], rows: pa.Table, twins: _Twins) -> None:
    train = tables["train"]
    counts = class_counts(train[STRATUM])
    if len(counts) < 2:
        found = f"only {next(iter(counts))!r}" if counts else "no rows at all"
        raise DataError(
            f"train needs at least two classes; found {found} ({rows.num_rows:,} rows before the split)"
            + (f": {twins.told}" if twins.classes else ""),
            where="source",
            fix=twins.fix if twins.many else "check columns.label and the splits section",
        )
    texts = {fold(text) or text for text in train["text"].to_pylist()}
    if len(texts) < 2:
        raise DataError("all train rows hold the same text", where="source", fix="check columns.text")
    if tables["validation"].num_rows == 0:
        raise DataError(
            "no validation row: nothing could be proven",
            where="splits",
            fix="raise splits.validation or give more rows",
        )
