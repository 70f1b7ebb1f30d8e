"""Settle: all verdicts so far in total order; the only place where a row is accepted. Gives the rows and the ledger."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from augmill.tasks.contracts import STRATUM, Artifact
from augmill.tasks.errors import LedgerError
from augmill.tasks.recipe.sections import Settle
from augmill.tasks.rows.kinds import equal_keys, near_groups, real_schema
from augmill.tasks.stages.targets import split_target
from augmill.tasks.stages.twins import TWINS, crowds, made_for, twins_of
from augmill.tasks.store.stage import Work, read_manifest, stage

DUPLICATE = "settle: duplicate"
NEAR = "settle: near_duplicate"
# When a stream counts as dry: after so many rows in a row without one that is new and sound, or where three of them were
# to be expected by its share before them (none comes by chance in 5 % then). One barren round of four rows says nothing.
DRY_ROWS, DRY_EXPECTED = 30, 3


@dataclass(frozen=True)
class SettleConfig:
    settle: Settle
    targets: dict[str, int]
    shares: dict[str, float]
    fields: tuple[str, ...]
    asked: dict[str, dict[str, int]] | None = None  # generator, class: rows planned so far; None: not compared
    codes: dict[str, str] | None = field(default=None, metadata={"later": True})  # of extensions from outside


# Of the check of that name; a row that it gave none comes last.
LABEL_SCORE = (
    pl.col("scores")
    .list.eval(pl.element().filter(pl.element().struct.field("name") == "label_consistency"))
    .list.first()
    .struct.field("value")
    .fill_null(0.0)
)


def priority(rows: pl.DataFrame, config: SettleConfig) -> pl.DataFrame:
    """The rows in the order in which they are preferred; ``(generator, asked, ordinal)`` makes the order total."""
    total = ["generator_index", "asked", "ordinal"]
    if config.settle.prefer == "first":
        return rows.sort(total)
    return rows.sort(["score", *total], descending=[True, False, False, False])


def mark_duplicates(rows: pl.DataFrame, config: SettleConfig) -> pl.DataFrame:
    """Adds ``refused``: null, or which kind of duplicate of a preferred row this one is. Rows come in priority order."""
    table = (
        rows.select(config.fields)
        .to_arrow()
        .cast(real_schema(config.fields).empty_table().select(config.fields).schema)
    )
    first = pl.Series("key", equal_keys(table, config.fields)).is_first_distinct().to_numpy()
    refused: list[str | None] = [None if is_first else DUPLICATE for is_first in first]
    at = np.flatnonzero(first)
    if config.settle.near < 1 and len(at):
        keep = near_groups(table.take(pa.array(at)), config.fields, config.settle.near)
        for index in at[~np.asarray(keep, dtype=bool)]:
            refused[index] = NEAR
    return rows.with_columns(refused=pl.Series(refused, dtype=pl.String))


def mark_accepted(rows: pl.DataFrame, config: SettleConfig) -> pl.DataFrame:
    """Adds ``accepted``: each class takes its generators' shares first, then the best of the rest, up to its target."""
    quotas = [
        {STRATUM: name, "generator": generator, "quota": quota, "target": target}
        for name, target in config.targets.items()
        for generator, quota in split_target(target, config.shares).items()
    ]
    schema = {STRATUM: pl.String, "generator": pl.String, "quota": pl.Int64, "target": pl.Int64}
    kinds: dict[Any, Any] = {name: rows.schema[name] for name in (STRATUM, "generator")}
    ranked = (
        rows.with_row_index("priority")
        .join(
            pl.DataFrame(quotas, schema=schema).cast(kinds, strict=False),
            on=[STRATUM, "generator"],
            how="left",
            maintain_order="left",
        )
        .with_columns(within=pl.col("priority").rank("ordinal").over(STRATUM, "generator"))
        .with_columns(extra=(pl.col("within") > pl.col("quota").fill_null(0)).cast(pl.Int64))
        .sort("extra", "priority")
        .with_columns(place=pl.int_range(1, pl.len() + 1).over(STRATUM))
    )
    return ranked.with_columns(accepted=(pl.col("place") <= pl.col("target").fill_null(0)).fill_null(False)).sort(
        "priority"
    )


def decide(
    candidates: pl.DataFrame, config: SettleConfig, mark: Callable[[pl.DataFrame], pl.DataFrame]
) -> pl.DataFrame:
    """Every candidate with its ``status``: accepted, surplus, rejected or undelivered, and the ``why`` of the last two.

    Sorted by (generator, asked class, ordinal), whatever shards they came in. ``mark``: adds ``refused`` to those that
    passed, in order of priority, as ``mark_duplicates`` does.
    """
    order = {generator: index for index, generator in enumerate(config.shares)}
    rows = candidates.with_columns(
        at=pl.int_range(pl.len(), dtype=pl.Int64),
        generator_index=pl.col("generator").cast(pl.String).replace_strict(order, return_dtype=pl.Int32),
    )
    passed = rows.filter(pl.col("reason").is_null() & pl.col("rejected").is_null()).drop("reason", "rejected")
    marked = mark(priority(passed, config)).select("at", "generator", STRATUM, "refused")
    accepted = mark_accepted(marked.filter(pl.col("refused").is_null()), config).select("at", "accepted")
    rows = rows.join(marked.select("at", "refused"), on="at", how="left", maintain_order="left")
    rows = rows.join(accepted, on="at", how="left", maintain_order="left")
    why = pl.coalesce(pl.col("reason", "rejected").cast(pl.String), "refused")
    status = (
        pl.when(pl.col("reason").is_not_null())
        .then(pl.lit("undelivered"))
        .when(why.is_not_null())
        .then(pl.lit("rejected"))
        .when(pl.col("accepted"))
        .then(pl.lit("accepted"))
        .otherwise(pl.lit("surplus"))
    )
    return (
        rows.with_columns(status=status.cast(_STATUS), why=why.cast(pl.Categorical))
        .sort("generator_index", "asked", "ordinal")
        .drop("generator_index", "refused", "accepted", "reason", "rejected")
    )


def _counted(rows: pl.DataFrame, *names: str) -> list[dict[str, Any]]:
    """``len`` of each group, sorted by what it is called."""
    counted = rows.group_by(*names).len().with_columns(pl.col(*names).cast(pl.String))
    return counted.sort(*names).to_dicts()


def _entries(rows: pl.DataFrame) -> dict[tuple[str, str], dict[str, Any]]:
    """The ledger's rows by generator and asked class."""
    entries: dict[tuple[str, str], dict[str, Any]] = {}
    for item in _counted(rows, "generator", "asked", "status", "why"):
        entry = entries.setdefault(
            (item["generator"], item["asked"]),
            {
                "generator": item["generator"],
                "class": item["asked"],
                "asked": 0,
                "delivered": 0,
                "undelivered": {},
                "rejected": {},
                "surplus": 0,
                "accepted": 0,
            },
        )
        entry["asked"] += item["len"]
        entry["delivered"] += 0 if item["status"] == "undelivered" else item["len"]
        if item["status"] in ("undelivered", "rejected"):
            entry[item["status"]][item["why"]] = item["len"]
        else:
            entry[item["status"]] += item["len"]
    return entries


def ledger_of(rows: pl.DataFrame, config: SettleConfig, before: dict[str, Any]) -> dict[str, Any]:
    """Every candidate accounted for (law 4). ``before``: the previous round's streams, to see which are dry."""
    entries = _entries(rows)
    kept = rows.filter(pl.col("status") == "accepted")
    accepted = {item[STRATUM]: item["len"] for item in _counted(kept, STRATUM)}
    relabelled = _counted(kept, "generator", "asked", STRATUM)
    streams: dict[str, dict[str, dict[str, Any]]] = {}
    for (generator, name), entry in entries.items():
        last = before.get(generator, {}).get(name, {"asked": 0, "eligible": 0, "barren": 0, "stopped": False})
        eligible = entry["accepted"] + entry["surplus"]
        barren = last["barren"] + entry["asked"] - last["asked"] if eligible <= last["eligible"] else 0
        dry = barren >= DRY_ROWS or (barren > 0 and barren * eligible >= DRY_EXPECTED * (entry["asked"] - barren) > 0)
        stream = {"asked": entry["asked"], "eligible": eligible, "barren": barren, "stopped": last["stopped"] or dry}
        streams.setdefault(generator, {})[name] = stream
    ledger = {
        "rows": list(entries.values()),
        "targets": config.targets,
        "accepted": accepted,
        "shortfall": {name: target - accepted.get(name, 0) for name, target in config.targets.items()},
        "relabelled": [{"final" if name == STRATUM else name: of for name, of in item.items()} for item in relabelled],
        "streams": streams,
    }
    verify_ledger(ledger)
    return ledger


def verify_ledger(ledger: dict[str, Any]) -> None:
    """Raises LedgerError where a candidate is unaccounted for."""
    for entry in ledger["rows"]:
        undelivered, rejected = sum(entry["undelivered"].values()), sum(entry["rejected"].values())
        if entry["asked"] != entry["delivered"] + undelivered:
            raise LedgerError(f"asked is not delivered + undelivered: {entry}")
        if entry["delivered"] != rejected + entry["surplus"] + entry["accepted"]:
            raise LedgerError(f"delivered is not rejected + surplus + accepted: {entry}")
    for name, target in ledger["targets"].items():
        if target != ledger["accepted"].get(name, 0) + ledger["shortfall"][name] or ledger["shortfall"][name] < 0:
            raise LedgerError(f"class {name!r}: target is not accepted + shortfall")
    relabelled = sum(item["len"] for item in ledger["relabelled"])
    if not relabelled == sum(ledger["accepted"].values()) == sum(entry["accepted"] for entry in ledger["rows"]):
        raise LedgerError("the relabel matrix does not join asked and final classes")


def require_all(rows: pl.DataFrame, asked: dict[str, dict[str, int]]) -> None:
    """Raises LedgerError where a planned row is missing or doubled, or a row was never planned."""
    groups = rows.group_by("generator", "asked").agg(
        pl.len().alias("rows"), pl.col("ordinal").n_unique().alias("distinct"), pl.col("ordinal").max().alias("last")
    )
    groups = groups.with_columns(pl.col("generator", "asked").cast(pl.String))
    found = {(g["generator"], g["asked"]): (g["rows"], g["distinct"], g["last"] + 1) for g in groups.to_dicts()}
    planned = {(generator, name): (n, n, n) for generator, part in asked.items() for name, n in part.items()}
    if wrong := sorted(key for key in found.keys() | planned.keys() if found.get(key) != planned.get(key)):
        generator, name = wrong[0]
        raise LedgerError(
            f"{len(wrong)} classes differ from the plan; of class {name!r} {planned.get(wrong[0], (0,))[0]} rows were asked "
            f"of {generator}, and (rows, distinct, last) {found.get(wrong[0], (0, 0, 0))} came"
        )


@stage("settle", version=3)
def settle(work: Work, config: SettleConfig, shards: list[Artifact], previous: list[Artifact]) -> None:
    """accepted.parquet, rest.parquet (surplus, rejected and undelivered rows with their reasons), ledger.json.

    ``shards``: all of the snapshot so far; ``previous``: the settle of the round before, or none. What decides is held of
    all rows, 0.1 kB each; whole rows are read again from the shards as they are written.
    """
    pile = _Pile(work, config, shards)
    if config.asked is not None:
        require_all(pile.keys, config.asked)
    rows = decide(pile.keys, config, pile.mark)
    before = work.read_json(previous[0], "ledger.json")["streams"] if previous else {}
    work.write_json(ledger_of(rows, config, before), "ledger.json")
    work.note({"shards": pile.notes}, "shards.json")
    work.rows = rows.filter(pl.col("status") == "accepted").height
    pile.write(rows.select("at", "status", "why"))


_STATUS = pl.Enum(["accepted", "rejected", "surplus", "undelivered"])
_KEYS = ("generator", "asked", STRATUM, "reason", "rejected")  # few values each, over many rows
_PART = 1 << 15  # rows written at once
_OPEN = 4  # shards held at once: rows come by class, so as many stand beside one another as there were rounds


class _Pile:
    """The candidates of all shards. ``keys``: what decides, a row each, shard by shard; ``notes``: each shard's ledger."""

    def __init__(self, work: Work, config: SettleConfig, shards: list[Artifact]) -> None:
        self.work, self.config, self.shards = work, config, shards
        self._tables: OrderedDict[tuple[int, bool], pa.Table] = OrderedDict()
        frames, twins = [], []
        for shard in shards:
            frame, found = self._read(shard)
            frames.append(frame)
            twins.append(found)
        self.starts = np.concatenate([[0], np.cumsum([frame.height for frame in frames])])
        self.notes = [_shard_ledger(shard, frame) for shard, frame in zip(shards, frames, strict=True)]
        keys = pl.concat(frames)
        # In the order of their names, letter by letter.
        enums = {name: pl.Enum(keys[name].unique().drop_nulls().cast(pl.String).sort()) for name in _KEYS[:3]}
        self.keys = keys.with_columns(pl.col(name).cast(pl.String).cast(kind) for name, kind in enums.items())
        self.twins = pa.concat_tables(twins)
        self.schema = pq.read_schema(work.path(shards[0], "candidates.parquet"))

    def _read(self, shard: Artifact) -> tuple[pl.DataFrame, pa.Table]:
        """(what decides, in the order of the shard's rows; ``twins_of`` those that passed)."""
        scored = self.config.settle.prefer == "score"
        columns = [*_KEYS, "ordinal", *(["scores"] if scored else [])]
        table = self.work.read(shard, "candidates.parquet", columns)
        for name in _KEYS:
            table = table.set_column(table.column_names.index(name), name, table[name].dictionary_encode())
        frame = _frame(table).cast(dict.fromkeys(_KEYS, pl.Categorical))
        if scored:
            frame = frame.with_columns(score=LABEL_SCORE).drop("scores")
        near, fields = self.config.settle.near, list(self.config.fields)
        if TWINS in read_manifest(self.work.site.store, shard)["files"]:
            twins = self.work.read(shard, TWINS)
            if made_for(twins.schema, near):
                return frame, twins
        whole = self.work.read(shard, "candidates.parquet", [*fields, "reason", "rejected"])
        passed = whole.filter(pc.and_(pc.is_null(whole["reason"]), pc.is_null(whole["rejected"])))
        return frame, twins_of(passed, fields, near)

    def mark(self, passed: pl.DataFrame) -> pl.DataFrame:
        """As ``mark_duplicates``, by digests, and by those whole rows alone that may be near another."""
        sound = self.keys.select(pl.col("reason").is_null() & pl.col("rejected").is_null()).to_series()
        place = (np.cumsum(sound.to_numpy()) - 1)[passed["at"].to_numpy()]
        twins = self.twins.take(pa.array(place))
        first = pl.Series(twins["digest"].cast(pa.binary())).is_first_distinct().to_numpy()
        refused = np.where(first, 0, 1).astype(np.int8)
        twins = twins.drop_columns(["digest"]).filter(pa.array(first)).combine_chunks()
        self.twins = twins.slice(0, 0)  # asked once, and 50 bytes a row
        unlike = np.flatnonzero(first)
        parts = list(crowds([column.to_numpy() for column in twins.columns]))
        if parts:
            at = np.sort(np.concatenate(parts))
            doubtful = self.rows(passed["at"].to_numpy()[unlike[at]], fields=True)
            for part in parts:
                table = doubtful.take(pa.array(np.searchsorted(at, part)))
                twin = ~near_groups(table, self.config.fields, self.config.settle.near)
                refused[unlike[part[twin]]] = 2
        words = {0: None, 1: DUPLICATE, 2: NEAR}
        return passed.with_columns(refused=pl.Series(refused).replace_strict(words, return_dtype=pl.String))

    def rows(self, at: npt.NDArray[np.int64], *, fields: bool = False) -> pa.Table:
        """The candidates of those places, in that order; ``fields``: these columns alone."""
        shard = np.searchsorted(self.starts, at, side="right") - 1
        order, parts = np.argsort(shard, kind="stable"), []
        for which in np.unique(shard).tolist():
            own = at[order][shard[order] == which] - self.starts[which]
            parts.append(self._table(which, fields).take(pa.array(own)))
        table = pa.concat_tables(parts) if parts else self._table(0, fields).slice(0, 0)
        return table.take(pa.array(np.argsort(order, kind="stable"))).combine_chunks()

    def _table(self, which: int, fields: bool) -> pa.Table:
        """A shard's rows, from the store where they are not among the last few asked for."""
        key = (which, fields)
        if key not in self._tables:
            columns = list(self.config.fields) if fields else None
            self._tables[key] = self.work.read(self.shards[which], "candidates.parquet", columns)
        self._tables.move_to_end(key)
        while len(self._tables) > _OPEN:
            self._tables.popitem(last=False)
        return self._tables[key]

    def write(self, settled: pl.DataFrame) -> None:
        """``settled``: at, status, why of every candidate, in the order of the files."""
        kept = [field for field in self.schema if field.name not in ("reason", "rejected")]
        rest = pa.schema([*kept, ("status", pa.string()), ("why", pa.string())])
        good = pa.schema([field for field in kept if field.name != "also"])
        with self.work.writing(good, "accepted.parquet") as accept, self.work.writing(rest, "rest.parquet") as set_by:
            for part in settled.iter_slices(_PART):
                rows = self.rows(part["at"].to_numpy())
                told = (
                    part.select(pl.col("status", "why").cast(pl.String))
                    .to_arrow()
                    .cast(rest.empty_table().select(["status", "why"]).schema)
                )
                for name in told.column_names:
                    rows = rows.append_column(name, told[name])
                accepted = pc.equal(rows["status"], "accepted")
                accept(rows.filter(accepted).select(good.names).cast(good))
                set_by(rows.filter(pc.invert(accepted)).select(rest.names).cast(rest))


def _shard_ledger(shard: Artifact, frame: pl.DataFrame) -> dict[str, Any]:
    """asked, delivered, undelivered and rejected of one shard by class."""
    groups = (
        frame.group_by("generator", "asked")
        .agg(
            pl.len().alias("rows"),
            pl.col("reason").is_null().sum().alias("delivered"),
            (pl.col("reason").is_null() & pl.col("rejected").is_null()).sum().alias("passed"),
        )
        .with_columns(pl.col("generator", "asked").cast(pl.String))
    )
    return {"shard": shard.key, "classes": groups.sort("generator", "asked").to_dicts()}


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame
