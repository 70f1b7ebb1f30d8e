"""Settle: all verdicts so far in total order; the only place where a row is accepted. Gives the rows and the ledger."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from augmill.tasks.contracts import STRATUM, Artifact
from augmill.tasks.errors import LedgerError
from augmill.tasks.recipe.sections import Settle
from augmill.tasks.rows.kinds import equal_keys, near_groups, real_schema
from augmill.tasks.stages.targets import split_target
from augmill.tasks.store.stage import Work, stage

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


def priority(rows: pl.DataFrame, config: SettleConfig) -> pl.DataFrame:
    """The rows in the order in which they are preferred; ``(generator, asked, ordinal)`` makes the order total."""
    total = ["generator_index", "asked", "ordinal"]
    if config.settle.prefer == "first":
        return rows.sort(total)
    label_score = (
        pl.col("scores")
        .list.eval(pl.element().filter(pl.element().struct.field("name") == "label_consistency"))
        .list.first()
        .struct.field("value")
        .fill_null(0.0)
    )
    return rows.with_columns(score=label_score).sort(["score", *total], descending=[True, False, False, False])


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
    ranked = (
        rows.with_row_index("priority")
        .join(pl.DataFrame(quotas, schema=schema), on=[STRATUM, "generator"], how="left", maintain_order="left")
        .with_columns(within=pl.col("priority").rank("ordinal").over(STRATUM, "generator"))
        .with_columns(extra=(pl.col("within") > pl.col("quota").fill_null(0)).cast(pl.Int64))
        .sort("extra", "priority")
        .with_columns(place=pl.int_range(1, pl.len() + 1).over(STRATUM))
    )
    return ranked.with_columns(accepted=(pl.col("place") <= pl.col("target").fill_null(0)).fill_null(False)).sort(
        "priority"
    )


def settle_rows(candidates: pl.DataFrame, config: SettleConfig) -> pl.DataFrame:
    """Every candidate with its ``status``: accepted, surplus, rejected or undelivered, and the ``why`` of the last two.

    Sorted by (generator, asked class, ordinal), whatever shards they came in.
    """
    order = {generator: index for index, generator in enumerate(config.shares)}
    rows = candidates.with_columns(generator_index=pl.col("generator").replace_strict(order, return_dtype=pl.Int64))
    key = ["generator", "asked", "ordinal"]
    # What decides, and no more: the other columns are half of a gibibyte at a million rows.
    passed = rows.filter(pl.col("reason").is_null() & pl.col("rejected").is_null()).select(
        *key, "generator_index", STRATUM, *config.fields, "scores"
    )
    marked = mark_duplicates(priority(passed, config), config).drop(*config.fields, "scores")
    accepted = mark_accepted(marked.filter(pl.col("refused").is_null()), config)
    rows = rows.join(marked.select(*key, "refused"), on=key, how="left").join(
        accepted.select(*key, "accepted"), on=key, how="left"
    )
    why = pl.coalesce("reason", "rejected", "refused")
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
        rows.with_columns(status=status, why=why)
        .sort("generator_index", "asked", "ordinal")
        .drop("generator_index", "refused", "accepted", "reason", "rejected")
    )


def _entries(rows: pl.DataFrame) -> dict[tuple[str, str], dict[str, Any]]:
    """The ledger's rows by generator and asked class."""
    entries: dict[tuple[str, str], dict[str, Any]] = {}
    groups = rows.group_by("generator", "asked", "status", "why").len().sort("generator", "asked", "status", "why")
    for item in groups.to_dicts():
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
    accepted = dict(sorted(Counter(kept[STRATUM].to_list()).items()))
    relabelled = kept.group_by("generator", "asked", STRATUM).len().sort("generator", "asked", STRATUM)
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
        "relabelled": relabelled.rename({STRATUM: "final"}).to_dicts(),
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

    ``shards``: all of the snapshot so far; ``previous``: the settle of the round before, or none.
    """
    candidates, schema, notes = _read(work, shards)
    if config.asked is not None:
        require_all(candidates, config.asked)
    rows = settle_rows(candidates, config)
    before = work.read_json(previous[0], "ledger.json")["streams"] if previous else {}
    accepted = rows.filter(pl.col("status") == "accepted").drop("status", "why", "also")
    work.write(accepted.to_arrow().cast(_schema(schema, accepted.columns)), "accepted.parquet")
    rest = rows.filter(pl.col("status") != "accepted")
    work.write(rest.to_arrow().cast(_schema(schema, rest.columns)), "rest.parquet")
    work.write_json(ledger_of(rows, config, before), "ledger.json")
    work.note({"shards": notes}, "shards.json")
    work.rows = accepted.height


def _read(work: Work, shards: list[Artifact]) -> tuple[pl.DataFrame, pa.Schema, list[dict[str, Any]]]:
    """All candidates, their schema in Arrow, and the ledger of each shard."""
    tables = [work.read(shard, "candidates.parquet") for shard in shards]
    notes = [_shard_ledger(shard, table) for shard, table in zip(shards, tables, strict=True)]
    return _frame(pa.concat_tables(tables)), tables[0].schema, notes


def _shard_ledger(shard: Artifact, table: pa.Table) -> dict[str, Any]:
    """asked, delivered, undelivered and rejected of one shard by class."""
    frame = _frame(table)
    groups = frame.group_by("generator", "asked").agg(
        pl.len().alias("rows"),
        pl.col("reason").is_null().sum().alias("delivered"),
        (pl.col("reason").is_null() & pl.col("rejected").is_null()).sum().alias("passed"),
    )
    return {"shard": shard.key, "classes": groups.sort("generator", "asked").to_dicts()}


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _schema(candidates: pa.Schema, names: list[str]) -> pa.Schema:
    """polars' Arrow types back to the candidates' own."""
    return pa.schema(
        [candidates.field(name) if name in candidates.names else pa.field(name, pa.string()) for name in names]
    )
