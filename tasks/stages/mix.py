"""Mix: real train rows and accepted rows in, the training set in each arrangement that may be released, with its order.

Three arrangements: ``mix``, ``real`` (real rows alone) and ``placebo`` (real rows weighted to the mix's class counts,
each row once). Which one is released is decided later, by the gate.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from augmill.tasks.contracts import ROW_ID, STRATUM, TARGET, USER_PREFIX, Artifact
from augmill.tasks.generators import GENERATORS
from augmill.tasks.recipe.sections import Mix
from augmill.tasks.rows.parts import PART_ROWS
from augmill.tasks.rows.randomness import row_seeds, stream_key
from augmill.tasks.rows.schema import GROUP, ORIGIN, PARTITION, POSITION, REAL, as_training, class_counts
from augmill.tasks.store.stage import Work, stage

ORDER_SCHEMA = pa.schema([("epoch", pa.int32()), ("position", pa.int64()), (ROW_ID, pa.string())])


@dataclass(frozen=True)
class MixConfig:
    mix: Mix
    copy: tuple[str, ...]
    fields: tuple[str, ...]
    seed: int


def synthetic_ids(rows: pa.Table) -> pa.Array:
    """An id per accepted row: a hash of what the row is a function of."""
    names, parts = ["generator", "asked", "ordinal", "seed"], [pa.array([], pa.string())]
    for batch in rows.select(names).to_batches(max_chunksize=1 << 16):
        keys = zip(*(column.to_pylist() for column in batch.columns), strict=True)
        made = ["syn-" + hashlib.sha256("\x1f".join(map(str, key)).encode()).hexdigest()[:24] for key in keys]
        parts.append(pa.array(made, pa.string()))
    return pa.concat_arrays(parts)


def _own_columns(train: pa.Table) -> pa.Table:
    return train.drop_columns([name for name in (GROUP, PARTITION, POSITION) if name in train.column_names])


def arrange(train: pa.Table, synthetic: pa.Table, config: MixConfig) -> pa.Table:
    """Real rows in source order, then synthetic rows in settled order, in one schema."""
    real = as_training(_own_columns(train))
    if not synthetic.num_rows:
        return real
    return pa.concat_tables([real, as_made(synthetic, real.schema, config, _Copied.of(synthetic, real, config))])


@dataclass(frozen=True)
class _Copied:
    """The columns that are copied from a row's first parent, and the place of that parent; null where none is there."""

    columns: pa.Table
    parents: pa.Array

    @classmethod
    def of(cls, synthetic: pa.Table, real: pa.Table, config: MixConfig) -> _Copied | None:
        """``synthetic``: ``parent_ids``; ``real``: the ids and the columns that are copied."""
        if not config.copy:
            return None
        names = [name for name in real.column_names if name.removeprefix(USER_PREFIX) in config.copy]
        names = [name for name in names if name.startswith(USER_PREFIX)]
        return cls(real.select(names), pc.index_in(_first(synthetic["parent_ids"]), real[ROW_ID]))

    def slice(self, start: int, rows: int) -> _Copied:
        return _Copied(self.columns, self.parents.slice(start, rows))


def as_made(synthetic: pa.Table, schema: pa.Schema, config: MixConfig, copied: _Copied | None) -> pa.Table:
    """Accepted rows as training rows, in the ``schema`` that real ones have."""
    keys = [name for name in (STRATUM, TARGET) if name in schema.names]
    made = synthetic.select([*keys, *config.fields, "generator", "parent_ids", "seed", "scores"])
    made = made.append_column(ROW_ID, synthetic_ids(synthetic))
    generators = pc.unique(made["generator"])
    origins = [GENERATORS[name].origin for name in generators.to_pylist()]
    which = pc.index_in(made["generator"], generators)
    made = made.append_column(ORIGIN, pa.array(origins, pa.string()).take(which))
    weights = [_weight_of(name, config) for name in generators.to_pylist()]
    made = made.append_column("weight", pa.array(weights, pa.float64()).take(which))
    for field in schema:
        if field.name.startswith(USER_PREFIX):
            known = copied is not None and field.name in copied.columns.column_names
            taken = copied.columns[field.name].take(copied.parents) if copied is not None and known else None
            made = made.append_column(field.name, pa.nulls(made.num_rows, field.type) if taken is None else taken)
    return made.select(schema.names).cast(schema)


def _weight_of(generator: str, config: MixConfig) -> float:
    weights = {"synthetic": config.mix.synthetic_weight, "pseudo_labelled": config.mix.pseudo_labelled_weight}
    return weights[GENERATORS[generator].origin]


def _first(lists: pa.ChunkedArray) -> pa.Array:
    """Of each list its first value; null of one without."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    places = pa.array(np.cumsum(lengths) - lengths, pa.int64(), mask=lengths == 0)
    return pc.list_flatten(lists).take(places)


def placebo_weights(real: Mapping[str, int], mixed: Iterable[tuple[str, float, int]]) -> dict[str, float]:
    """What a real row of each class weighs, so that the class weighs what it weighs in the mix.

    ``real``: rows by class; ``mixed``: (class, weight, how many rows of it weigh that) of the mix.
    """
    # Exact: the order of the rows, which a plain sum's last bits hang on, is not a class's weight.
    in_mix = dict.fromkeys(real, Fraction())
    for name, weight, rows in mixed:
        in_mix[name] = in_mix.get(name, Fraction()) + Fraction(weight) * rows
    return {name: float(in_mix[name]) / rows for name, rows in real.items()}


def weigh_placebo(real: pa.Table, weights: Mapping[str, float]) -> pa.Table:
    """The rows with the weights of their classes."""
    each_row = pa.array(list(weights.values()), pa.float64())
    found = each_row.take(pc.index_in(real[STRATUM], pa.array(list(weights), pa.string())))
    return real.set_column(real.column_names.index("weight"), "weight", found)


def _shuffled(rows: int, seed: int, epoch: int, what: str) -> npt.NDArray[np.int64]:
    keys = row_seeds(stream_key(seed, "order", epoch, what), np.arange(rows, dtype=np.int64))
    return np.argsort(keys, kind="stable")


def reading_order(ids: pa.ChunkedArray, real: int, config: MixConfig) -> Iterator[pa.Table]:
    """(epoch, position, row_id) over ``mix.epochs`` epochs, part by part. ``real``: how many of the rows, the first, are real.

    shuffled: every row once an epoch. alternating: an epoch is as long as the real rows; ``synthetic_share`` of it
    are synthetic rows, taken in turn over the epochs, the rest real ones, taken in turn too.
    """
    alternating = config.mix.order == "alternating" and len(ids) > real
    for epoch in range(config.mix.epochs):
        chosen = np.arange(len(ids))
        if alternating:
            size = round(real * config.mix.synthetic_share)
            parts = (
                _turn(chosen[real:], size, epoch, config.seed, "synthetic"),
                _turn(chosen[:real], real - size, epoch, config.seed, REAL),
            )
            chosen = np.concatenate(parts)
        order = chosen[_shuffled(len(chosen), config.seed, epoch, "epoch")]
        for start in range(0, len(order), PART_ROWS):
            rows = order[start : start + PART_ROWS]
            columns = [
                np.full(len(rows), epoch, np.int32),
                np.arange(start, start + len(rows)),
                ids.take(pa.array(rows)),
            ]
            yield pa.table(columns, schema=ORDER_SCHEMA)


def _turn(rows: npt.NDArray[np.int64], size: int, epoch: int, seed: int, what: str) -> npt.NDArray[np.int64]:
    """``size`` rows from an endless series of shuffles of ``rows``, beginning where the epoch before ended."""
    taken: list[npt.NDArray[np.int64]] = [rows[:0]]
    start, end = epoch * size, (epoch + 1) * size
    while start < end:
        lap, offset = divmod(start, len(rows))
        part = rows[_shuffled(len(rows), seed, lap, f"lap-{what}")][offset : offset + end - start]
        taken.append(part)
        start += len(part)
    return np.concatenate(taken)


@stage("mix", version=2)
def mix(work: Work, config: MixConfig, split: Artifact, settled: Artifact) -> None:
    """train and order of each arrangement, and the synthetic rows of the mix alone."""
    weights = _placebo_weights(work, config, split, settled)
    schema = _training_schema(work, split)
    with (
        work.writing(schema, "mix.parquet") as mixed,
        work.writing(schema, "real.parquet") as real,
        work.writing(schema, "placebo.parquet") as placebo,
    ):
        for part in _real_parts(work, split):
            mixed(part)
            real(part)
            placebo(weigh_placebo(part, weights))
        for part in _made_parts(work, config, schema, split, settled):
            mixed(part)
    count = _write_order(work, config, "real")
    shutil.copyfile(work.directory / "real.order.parquet", work.directory / "placebo.order.parquet")  # of the same rows
    work.contents["placebo.order.parquet"] = work.contents["real.order.parquet"]
    work.rows = _write_order(work, config, "mix", count)


@stage("real", version=1)
def arrange_real(work: Work, config: MixConfig, split: Artifact) -> None:
    """The real arrangement alone, for a run that produced nothing to mix."""
    with work.writing(_training_schema(work, split), "real.parquet") as write:
        for part in _real_parts(work, split):
            write(part)
    work.rows = _write_order(work, config, "real")


def _training_schema(work: Work, split: Artifact) -> pa.Schema:
    return as_training(_own_columns(pq.read_schema(work.path(split, "train.parquet")).empty_table())).schema


def _real_parts(work: Work, split: Artifact) -> Iterator[pa.Table]:
    for part in work.parts(split, "train.parquet"):
        yield as_training(_own_columns(part))


def _made_parts(
    work: Work, config: MixConfig, schema: pa.Schema, split: Artifact, settled: Artifact
) -> Iterator[pa.Table]:
    copied, start = None, 0
    if config.copy:
        names = [ROW_ID, *(name for name in schema.names if name.removeprefix(USER_PREFIX) in config.copy)]
        real = work.read(split, "train.parquet", list(dict.fromkeys(names)))
        copied = _Copied.of(work.read(settled, "accepted.parquet", ["parent_ids"]), real, config)
    for part in work.parts(settled, "accepted.parquet"):
        yield as_made(part, schema, config, copied and copied.slice(start, part.num_rows))
        start += part.num_rows


def _placebo_weights(work: Work, config: MixConfig, split: Artifact, settled: Artifact) -> dict[str, float]:
    real, made = Counter[str](), Counter[tuple[str, str]]()
    for part in work.parts(split, "train.parquet", [STRATUM]):
        real.update(class_counts(part[STRATUM]))
    for part in work.parts(settled, "accepted.parquet", [STRATUM, "generator"]):
        for each in part.group_by([STRATUM, "generator"]).aggregate([([], "count_all")]).to_pylist():
            made[each[STRATUM], each["generator"]] += each["count_all"]
    added = ((name, _weight_of(generator, config), rows) for (name, generator), rows in made.items())
    return placebo_weights(dict(sorted(real.items())), [*((name, 1.0, rows) for name, rows in real.items()), *added])


def _write_order(work: Work, config: MixConfig, name: str, real: int | None = None) -> int:
    """Writes the reading order of an arrangement whose rows are written, of which ``real`` (all without it) are real.

    How many rows it has.
    """
    ids = pq.read_table(work.directory / f"{name}.parquet", columns=[ROW_ID])[ROW_ID]
    with work.writing(ORDER_SCHEMA, f"{name}.order.parquet") as write:
        for part in reading_order(ids, len(ids) if real is None else real, config):
            write(part)
    return len(ids)
