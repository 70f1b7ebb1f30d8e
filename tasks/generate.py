"""Generate and validate: one shard spec in, candidates out, with verdicts that depend on the row and fixed artifacts."""

from __future__ import annotations

import dataclasses
import tempfile
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from augmill.tasks.checks import CHECKS
from augmill.tasks.contracts import STRATUM, Artifact, Fitted, LedgerError, Request, candidate_schema
from augmill.tasks.generators import GENERATORS
from augmill.tasks.randomness import row_seeds, stream_key
from augmill.tasks.retries import SHARD
from augmill.tasks.ribs import FitConfig, rib_context
from augmill.tasks.rows import SCORES
from augmill.tasks.stage import Site, Work, fetch_directory, stage
from augmill.tasks.validation import ValidationOptions, validate_shard


@dataclass(frozen=True)
class ShardConfig:
    """Which rows one shard makes, and by which rules it judges them.

    ``segments``: ranges of ordinals by class; ``checks`` in the order in which they own a refused row.
    """

    generator: FitConfig
    checks: tuple[FitConfig, ...]
    segments: tuple[dict[str, Any], ...]
    strata: tuple[str, ...]
    validation: ValidationOptions


def shard_schema(fields: tuple[str, ...]) -> pa.Schema:
    """The columns of candidates.parquet: the generator's answer, then the checks' verdicts."""
    verdicts = [("rejected", pa.string()), ("also", pa.list_(pa.string())), ("scores", SCORES)]
    return pa.schema(
        [
            pa.field("generator", pa.string()),
            *candidate_schema(fields),
            *(pa.field(name, kind) for name, kind in verdicts),
        ]
    )


class _Loaded:
    """Fit artifacts laid out once per process, the last few of them: a worker loads a model once."""

    def __init__(self, keep: int = 16) -> None:
        self.keep = keep
        self.items: OrderedDict[str, tuple[Fitted, tempfile.TemporaryDirectory[str]]] = OrderedDict()
        self.lock = threading.Lock()

    def get(self, site: Site, artifact: Artifact) -> Fitted:
        key = f"{site.store.root}\x1f{artifact.key}\x1f{artifact.sha256}"
        with self.lock:
            if key not in self.items:
                holder = tempfile.TemporaryDirectory(prefix="augmill-fitted-")
                path = fetch_directory(site.store, artifact, Path(holder.name)) / "files"
                self.items[key] = (Fitted(path, artifact.content), holder)
            self.items.move_to_end(key)
            while len(self.items) > self.keep:
                self.items.popitem(last=False)[1][1].cleanup()
            return self.items[key][0]


_LOADED = _Loaded()


def make_request(config: ShardConfig, content: str) -> Request:
    """The rows of the shard's segments with their seeds: a function of (fit artifact, seed, class, ordinal)."""
    strata: list[str] = []
    ordinals, seeds = [], []
    for segment in config.segments:
        part = np.arange(segment["start"], segment["start"] + segment["count"], dtype=np.int64)
        key = stream_key(content, config.generator.seed, config.generator.rib, segment["stratum"])
        strata += [segment["stratum"]] * len(part)
        ordinals.append(part)
        seeds.append(row_seeds(key, part))
    return Request(strata, np.concatenate(ordinals), np.concatenate(seeds))


def judge(work: Work, config: ShardConfig, delivered: pa.Table, fitted: list[Artifact]) -> pa.Table:
    """The verdicts on delivered rows: ``rejected`` (the first refusing check and reason), ``also``, ``scores``."""
    normalisation = GENERATORS[config.generator.rib].normalisation
    first: list[str | None] = [None] * delivered.num_rows
    also: list[list[str]] = [[] for _ in first]
    scores: list[list[dict[str, Any]]] = [[] for _ in first]
    for check_config, artifact in zip(config.checks, fitted, strict=True):
        options = check_config.options
        if any(item.name == "parent_normalisation" for item in dataclasses.fields(options)):
            options = dataclasses.replace(options, parent_normalisation=normalisation)
        context = rib_context(work, check_config, f"check-{check_config.rib}")
        verdicts = CHECKS[check_config.rib](options).judge(_LOADED.get(work.site, artifact), delivered, context)
        if verdicts.num_rows != delivered.num_rows:
            raise LedgerError(f"check {check_config.rib} judged {verdicts.num_rows} of {delivered.num_rows} rows")
        for index, (reason, score) in enumerate(
            zip(verdicts["reason"].to_pylist(), verdicts["score"].to_pylist(), strict=True)
        ):
            if reason is not None:
                named = f"{check_config.rib}: {reason}"
                if first[index] is None:
                    first[index] = named
                else:
                    also[index].append(named)
            if score is not None:
                scores[index].append({"name": check_config.rib, "value": score})
    return pa.table(
        {
            "rejected": pa.array(first, pa.string()),
            "also": pa.array(also, pa.list_(pa.string())),
            "scores": pa.array(scores, SCORES),
        }
    )


@stage("generate", version=1, retry=SHARD)
def generate(work: Work, config: ShardConfig, fitted: Artifact, checks: list[Artifact]) -> None:
    """One shard: candidates.parquet (every asked row, with why it was not delivered or was refused), validation.json."""
    generator = GENERATORS[config.generator.rib](config.generator.options)
    loaded = _LOADED.get(work.site, fitted)
    request = make_request(config, fitted.content)
    context = rib_context(work, config.generator, "scratch")
    rows = generator.sample(loaded, request, context)
    fields = config.generator.fields
    if rows.num_rows != len(request) or rows["ordinal"].to_pylist() != request.ordinals.tolist():
        raise LedgerError(f"generator {config.generator.rib} answered {rows.num_rows} of {len(request)} asked rows")
    rows = rows.select(candidate_schema(fields).names).cast(candidate_schema(fields))
    delivered_at = [index for index, reason in enumerate(rows["reason"].to_pylist()) if reason is None]
    verdicts = judge(work, config, rows.take(pa.array(delivered_at, pa.int64())), checks)
    # Undelivered rows have no verdict: a null where take() finds no index.
    position: list[int | None] = [None] * rows.num_rows
    for place, index in enumerate(delivered_at):
        position[index] = place
    verdicts = verdicts.take(pa.array(position, pa.int64()))
    for name in verdicts.column_names:
        rows = rows.append_column(name, verdicts[name])
    for directory in [path for path in work.directory.iterdir() if path.is_dir()]:
        _remove(directory)  # a rib's temporary files are no part of the shard
    _write(work, config, rows, fields)


def _remove(directory: Path) -> None:
    import shutil

    shutil.rmtree(directory)


def _write(work: Work, config: ShardConfig, rows: pa.Table, fields: tuple[str, ...]) -> None:
    generator = pa.array([config.generator.rib] * rows.num_rows, pa.string())
    rows = rows.add_column(0, "generator", generator)
    work.rows = rows.num_rows
    work.write(rows, "candidates.parquet")
    good = [
        reason is None and rejected is None
        for reason, rejected in zip(rows["reason"].to_pylist(), rows["rejected"].to_pylist(), strict=True)
    ]
    passed = rows.filter(pa.array(good, pa.bool_())).select(["ordinal", "asked", STRATUM, *fields, "seed"])
    delivered = rows.num_rows - rows["reason"].drop_null().length()
    if config.validation.enabled:
        summary = validate_shard(passed, fields, config.strata, None, config.validation, delivered=delivered)
    else:
        summary = {"outcome": "off", "problems": []}
    work.note(summary | {"delivered": delivered, "passed": passed.num_rows}, "validation.json")


@dataclass(frozen=True)
class SetAsideConfig:
    generator: str
    fields: tuple[str, ...]
    segments: tuple[dict[str, Any], ...]
    reason: str


@stage("set_aside", version=1)
def set_aside(work: Work, config: SetAsideConfig) -> None:
    """What stands for a shard that could not be made, or whose validation failed: its asked rows, all undelivered."""
    asked = [segment["stratum"] for segment in config.segments for _ in range(segment["count"])]
    ordinals = [s["start"] + index for s in config.segments for index in range(s["count"])]
    known: dict[str, Any] = {
        "generator": pa.array([config.generator] * len(asked), pa.string()),
        "ordinal": pa.array(ordinals, pa.int64()),
        "asked": pa.array(asked, pa.string()),
        STRATUM: pa.array(asked, pa.string()),
        "reason": pa.array([config.reason] * len(asked), pa.string()),
    }
    schema = shard_schema(config.fields)
    columns = [known.get(field.name, pa.nulls(len(asked), field.type)) for field in schema]
    work.rows = len(asked)
    work.write(pa.table(columns, schema=schema), "candidates.parquet")
