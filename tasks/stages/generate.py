"""Sample: a fitted generator and ranges of ordinals in, raw candidates out. Judging is apart: the same rows, other checks."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

from augmill.tasks.boundary.retries import SHARD
from augmill.tasks.contracts import Artifact, LedgerError, candidate_schema
from augmill.tasks.generators import GENERATORS
from augmill.tasks.rows.hashing import hash_json
from augmill.tasks.stages.extensions import FITTED, FitConfig, make_request, rib_context
from augmill.tasks.store.stage import Work, identity_of, stage


@dataclass(frozen=True)
class SampleConfig:
    """Which rows of a fitted generator: ranges of ordinals by class."""

    generator: FitConfig
    segments: tuple[dict[str, Any], ...]


@stage("sample", version=1, retry=SHARD)
def sample(work: Work, config: SampleConfig, fitted: Artifact) -> None:
    """rows.parquet: a row per asked ordinal, with why it was not delivered. What it cost (tokens) stands in the meta."""
    generator = GENERATORS[config.generator.rib](config.generator.options)
    request = make_request(config.generator, config.segments, fitted.content)
    context = rib_context(work, config.generator, "scratch")
    rows = generator.sample(FITTED.get(work.site, fitted), request, context)
    if rows.num_rows != len(request) or rows["ordinal"].to_pylist() != request.ordinals.tolist():
        raise LedgerError(f"generator {config.generator.rib} answered {rows.num_rows} of {len(request)} asked rows")
    schema = candidate_schema(config.generator.fields)
    shutil.rmtree(work.directory / "scratch")  # a rib's temporary files are no part of what it made
    work.write(rows.select(schema.names).cast(schema), "rows.parquet")
    work.rows = rows.num_rows
    work.meta["usage"] = dict(context.usage)


def bank_of(generator: FitConfig, content: str) -> str:
    """The bank of what this generator samples from the fit artifact of that content."""
    return hash_json({"sample": sample.version, "generator": identity_of(generator), "fit": content})
