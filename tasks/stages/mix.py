"""Mix: real train rows and accepted rows in, the training set in each arrangement that may be released, with its order.

Three arrangements: ``mix``, ``real`` (real rows alone) and ``placebo`` (real rows weighted to the mix's class counts,
each row once). Which one is released is decided later, by the gate.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

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
    names = ("generator", "asked", "ordinal", "seed")
    keys = zip(*(rows[name].to_pylist() for name in names), strict=True)
    return pa.array(
        ["syn-" + hashlib.sha256("\x1f".join(map(str, key)).encode()).hexdigest()[:24] for key in keys], pa.string()
    )


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
    origins = [GENERATORS[name].origin for name in made["generator"].to_pylist()]
    made = made.append_column(ORIGIN, pa.array(origins, pa.string()))
    weights = {"synthetic": config.mix.synthetic_weight, "pseudo_labelled": config.mix.pseudo_labelled_weight}
    made = made.append_column("weight", pa.array([weights[origin] for origin in origins], pa.float64()))
    parents = [ids[0] if ids else None for ids in made["parent_ids"].to_pylist()]
    at = {row_id: index for index, row_id in enumerate(real[ROW_ID].to_pylist())}
    from_parent = pa.array([at.get(parent) if parent else None for parent in parents], pa.int64())
    for name in real.column_names:
        if name.startswith(USER_PREFIX):
            copied = name.removeprefix(USER_PREFIX) in config.copy
            kind = real.schema.field(name).type
            made = made.append_column(name, real[name].take(from_parent) if copied else pa.nulls(made.num_rows, kind))
    return pa.concat_tables([real, made.select(real.column_names).cast(real.schema)])


def weigh_placebo(real: pa.Table, mix: pa.Table) -> pa.Table:
    """Real rows, each once, weighted so that every class weighs what it weighs in the mix."""
    in_mix: dict[str, list[float]] = {}
    for name, weight in zip(mix[STRATUM].to_pylist(), mix["weight"].to_pylist(), strict=True):
        in_mix.setdefault(name, []).append(weight)
    counts = class_counts(real[STRATUM])
    # fsum is exact: the order of the rows, which a plain sum's last bits hang on, is not a class's weight.
    each = {name: math.fsum(in_mix[name]) / count for name, count in counts.items()}
    weights = [each[name] for name in real[STRATUM].to_pylist()]
    at = real.column_names.index("weight")
    return real.set_column(at, "weight", pa.array(weights, pa.float64()))


def _shuffled(ids: list[str], seed: int, epoch: int, what: str) -> npt.NDArray[np.int64]:
    keys = row_seeds(stream_key(seed, "order", epoch, what), np.arange(len(ids), dtype=np.int64))
    return np.argsort(keys, kind="stable")


def reading_order(rows: pa.Table, config: MixConfig) -> pa.Table:
    """(epoch, position, row_id) over ``mix.epochs`` epochs.

    shuffled: every row once an epoch. alternating: an epoch is as long as the real rows; ``synthetic_share`` of it
    are synthetic rows, taken in turn over the epochs, the rest real ones, taken in turn too.
    """
    ids = rows[ROW_ID].to_pylist()
    origins = rows[ORIGIN].to_pylist()
    real = [i for i, origin in zip(ids, origins, strict=True) if origin == REAL]
    made = [i for i, origin in zip(ids, origins, strict=True) if origin != REAL]
    alternating = config.mix.order == "alternating" and bool(made)
    out: dict[str, list[object]] = {"epoch": [], "position": [], ROW_ID: []}
    for epoch in range(config.mix.epochs):
        chosen = ids
        if alternating:
            size = round(len(real) * config.mix.synthetic_share)
            chosen = _turn(made, size, epoch, config.seed, "synthetic") + _turn(
                real, len(real) - size, epoch, config.seed, REAL
            )
        order = [chosen[index] for index in _shuffled(chosen, config.seed, epoch, "epoch")]
        out["epoch"] += [epoch] * len(order)
        out["position"] += range(len(order))
        out[ROW_ID] += order
    return pa.table(out, schema=ORDER_SCHEMA)


def _turn(ids: list[str], size: int, epoch: int, seed: int, what: str) -> list[str]:
    """``size`` ids from an endless series of shuffles of ``ids``, beginning where the epoch before ended."""
    taken: list[str] = []
    start = epoch * size
    while len(taken) < size:
        lap, offset = divmod(start + len(taken), len(ids))
        order = _shuffled(ids, seed, lap, f"lap-{what}")
        taken += [ids[index] for index in order[offset : offset + size - len(taken)]]
    return taken


@stage("mix", version=2)
def mix(work: Work, config: MixConfig, split: Artifact, settled: Artifact) -> None:
    """train and order of each arrangement, and the synthetic rows of the mix alone."""
    train = work.read(split, "train.parquet")
    accepted = work.read(settled, "accepted.parquet")
    real = arrange(train, accepted.slice(0, 0), config)
    mixed = arrange(train, accepted, config)
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
