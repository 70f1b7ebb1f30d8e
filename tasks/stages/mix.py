"""Mix: real train rows and accepted rows in, the training set in each arrangement that may be released, with its order.

Three arrangements: ``mix``, ``real`` (real rows alone) and ``placebo`` (real rows weighted to the mix's class counts,
each row once). Which one is released is decided later, by the gate.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from augmill.tasks.contracts import ROW_ID, STRATUM, TARGET, USER_PREFIX, Artifact
from augmill.tasks.generators import GENERATORS
from augmill.tasks.recipe.sections import Mix
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
    keys = [name for name in (STRATUM, TARGET) if name in real.column_names]
    made = synthetic.select([*keys, *config.fields, "generator", "parent_ids", "seed", "scores"])
    made = made.append_column(ROW_ID, synthetic_ids(synthetic))
    generators = pc.unique(made["generator"])
    origins = [GENERATORS[name].origin for name in generators.to_pylist()]
    weights = {"synthetic": config.mix.synthetic_weight, "pseudo_labelled": config.mix.pseudo_labelled_weight}
    which = pc.index_in(made["generator"], generators)
    made = made.append_column(ORIGIN, pa.array(origins, pa.string()).take(which))
    made = made.append_column("weight", pa.array([weights[each] for each in origins], pa.float64()).take(which))
    from_parent = pc.index_in(_first(made["parent_ids"]), real[ROW_ID]) if config.copy else None
    for name in real.column_names:
        if name.startswith(USER_PREFIX):
            copied = name.removeprefix(USER_PREFIX) in config.copy
            kind = real.schema.field(name).type
            taken = real[name].take(from_parent) if copied and from_parent is not None else None
            made = made.append_column(name, pa.nulls(made.num_rows, kind) if taken is None else taken)
    return pa.concat_tables([real, made.select(real.column_names).cast(real.schema)])


def _first(lists: pa.ChunkedArray) -> pa.Array:
    """Of each list its first value; null of one without."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    places = pa.array(np.cumsum(lengths) - lengths, pa.int64(), mask=lengths == 0)
    return pc.list_flatten(lists).take(places)


def weigh_placebo(real: pa.Table, mix: pa.Table) -> pa.Table:
    """Real rows, each once, weighted so that every class weighs what it weighs in the mix."""
    counts = class_counts(real[STRATUM])
    # Exact: the order of the rows, which a plain sum's last bits hang on, is not a class's weight.
    in_mix = dict.fromkeys(counts, Fraction())
    for each in (
        mix.select([STRATUM, "weight"]).group_by([STRATUM, "weight"]).aggregate([([], "count_all")]).to_pylist()
    ):
        in_mix[each[STRATUM]] = in_mix.get(each[STRATUM], Fraction()) + Fraction(each["weight"]) * each["count_all"]
    names = list(counts)
    each_row = pa.array([float(in_mix[name]) / counts[name] for name in names], pa.float64())
    weights = each_row.take(pc.index_in(real[STRATUM], pa.array(names, pa.string())))
    at = real.column_names.index("weight")
    return real.set_column(at, "weight", weights)


def _shuffled(rows: int, seed: int, epoch: int, what: str) -> npt.NDArray[np.int64]:
    keys = row_seeds(stream_key(seed, "order", epoch, what), np.arange(rows, dtype=np.int64))
    return np.argsort(keys, kind="stable")


def reading_order(rows: pa.Table, config: MixConfig) -> pa.Table:
    """(epoch, position, row_id) over ``mix.epochs`` epochs.

    shuffled: every row once an epoch. alternating: an epoch is as long as the real rows; ``synthetic_share`` of it
    are synthetic rows, taken in turn over the epochs, the rest real ones, taken in turn too.
    """
    is_real = pc.equal(rows[ORIGIN], REAL).to_numpy()
    real, made = np.flatnonzero(is_real), np.flatnonzero(~is_real)
    alternating = config.mix.order == "alternating" and len(made) > 0
    out = [ORDER_SCHEMA.empty_table()]
    for epoch in range(config.mix.epochs):
        chosen = np.arange(rows.num_rows)
        if alternating:
            size = round(len(real) * config.mix.synthetic_share)
            parts = (
                _turn(made, size, epoch, config.seed, "synthetic"),
                _turn(real, len(real) - size, epoch, config.seed, REAL),
            )
            chosen = np.concatenate(parts)
        order = chosen[_shuffled(len(chosen), config.seed, epoch, "epoch")]
        columns = [np.full(len(order), epoch, np.int32), np.arange(len(order)), rows[ROW_ID].take(pa.array(order))]
        out.append(pa.table(columns, schema=ORDER_SCHEMA))
    return pa.concat_tables(out).combine_chunks()


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
    train = work.read(split, "train.parquet")
    accepted = work.read(settled, "accepted.parquet")
    real = arrange(train, accepted.slice(0, 0), config)
    mixed = arrange(train, accepted, config)
    del accepted  # it stands in the mix
    arrangements = {"mix": mixed, "real": real, "placebo": weigh_placebo(real, mixed)}
    for name, table in arrangements.items():
        work.write(table, f"{name}.parquet")
        work.write(reading_order(table, config), f"{name}.order.parquet")
    work.rows = mixed.num_rows


@stage("real", version=1)
def arrange_real(work: Work, config: MixConfig, split: Artifact) -> None:
    """The real arrangement alone, for a run that produced nothing to mix."""
    real = as_training(_own_columns(work.read(split, "train.parquet")))
    work.write(real, "real.parquet")
    work.write(reading_order(real, config), "real.order.parquet")
    work.rows = real.num_rows
