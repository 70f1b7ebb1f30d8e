"""Sample: a fitted generator and ranges of ordinals in, raw candidates out. Judging is apart: the same rows, other checks."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from augmill.tasks.checks import CHECKS
from augmill.tasks.contracts import FIRST_PROBLEM, STRATUM, TARGET, VERDICT_SCHEMA, Artifact, Problem
from augmill.tasks.errors import AugmillError, LedgerError, UserError
from augmill.tasks.generators import GENERATORS
from augmill.tasks.problems import PROBLEMS
from augmill.tasks.problems.strata import STRATA, restratify
from augmill.tasks.registry import Registry
from augmill.tasks.rows.hashing import hash_json
from augmill.tasks.rows.kinds import candidate_schema
from augmill.tasks.rows.schema import SCORES
from augmill.tasks.stages.extensions import FITTED, FitConfig, extension_context, make_request
from augmill.tasks.stages.twins import TWINS, twins_of
from augmill.tasks.store.stage import Work, identity_of, read_manifest, stage
from augmill.tasks.validation import ValidationOptions, validate_round, validate_shard


@dataclass(frozen=True)
class SampleConfig:
    """Which rows of a fitted generator: ranges of ordinals by class."""

    generator: FitConfig
    segments: tuple[dict[str, Any], ...]


@stage("sample", version=1)
def sample(work: Work, config: SampleConfig, fitted: Artifact) -> None:
    """rows.parquet: a row per asked ordinal, with why it was not delivered. What it cost (tokens) stands in the meta."""
    generator = GENERATORS[config.generator.extension](config.generator.options)
    request = make_request(config.generator, config.segments, fitted.content)
    context = extension_context(work, config.generator, "scratch")
    rows = generator.sample(FITTED.get(work.site, fitted), request, context)
    schema = candidate_schema(config.generator.fields, config.generator.learnt.target)
    require_answer(GENERATORS, config.generator, rows, schema, len(request))
    if rows["ordinal"].to_pylist() != request.ordinals.tolist():
        raise answer_error(GENERATORS, config.generator, "it answered other rows than were asked, or in another order")
    shutil.rmtree(work.directory / "scratch")  # an extension's temporary files are no part of what it made
    work.write(rows.select(schema.names).cast(schema), "rows.parquet")
    work.rows = rows.num_rows
    work.meta["usage"] = dict(context.usage)


def require_answer(registry: Registry[Any], config: FitConfig, answer: Any, schema: pa.Schema, rows: int) -> None:
    """Raises where an extension answers with something else than it owes; of one from outside a UserError."""
    if not isinstance(answer, pa.Table):
        raise answer_error(registry, config, f"expected a pyarrow table, found {type(answer).__name__}")
    if lacks := [name for name in schema.names if name not in answer.column_names]:
        raise answer_error(registry, config, f"its table lacks the columns {', '.join(lacks)}")
    if answer.num_rows != rows:
        raise answer_error(registry, config, f"it answered {answer.num_rows:,} of {rows:,} rows")
    try:
        answer.select(schema.names).cast(schema)
    except pa.ArrowException as error:
        raise answer_error(registry, config, f"its table has columns of other types than {schema}: {error}") from error


def answer_error(registry: Registry[Any], config: FitConfig, problem: str) -> AugmillError:
    where = f"the {registry.what} {config.extension}"
    if config.extension in registry:
        return LedgerError(problem, where=where)
    return UserError(
        problem, where=where, fix=f"see docs/extending.md, and the laws of a {registry.what} in augmill.testing"
    )


def bank_of(generator: FitConfig, content: str) -> str:
    """The bank of what this generator samples from the fit artifact of that content."""
    return hash_json({"sample": sample.version, "generator": identity_of(generator), "fit": content})


# --- Generate and validate: a shard's sampled rows in, candidates out, with verdicts of the row and fixed -------------


@dataclass(frozen=True)
class ShardConfig:
    """Which rows one shard holds, and by which rules it judges them.

    ``segments``: ranges of ordinals by class; ``checks`` in the order in which they own a refused row; ``raw``: the
    pieces (stratum, start, count, artifact) in which those rows stand sampled, in the order of the segments; ``near``: from
    which similarity up settle calls rows twins.
    """

    generator: FitConfig
    checks: tuple[FitConfig, ...]
    segments: tuple[dict[str, Any], ...]
    strata: tuple[str, ...]
    validation: ValidationOptions
    raw: tuple[dict[str, Any], ...] = field(
        default=(), metadata={"identity": False, "why": "where rows stand that the fit and the segments decide"}
    )
    near: float = field(
        default=1.0, metadata={"identity": False, "why": "for settle, which finds twins without it too"}
    )


def shard_schema(fields: tuple[str, ...], target: pa.DataType | None = None) -> pa.Schema:
    """The columns of candidates.parquet: the generator's answer, then the checks' verdicts."""
    verdicts = [("rejected", pa.string()), ("also", pa.list_(pa.string())), ("scores", SCORES)]
    return pa.schema(
        [
            pa.field("generator", pa.string()),
            *candidate_schema(fields, target),
            *(pa.field(name, kind) for name, kind in verdicts),
        ]
    )


def judge(
    work: Work, config: ShardConfig, delivered: pa.Table, fitted: list[Artifact], strata: dict[str, Any]
) -> pa.Table:
    """The verdicts on delivered rows: ``rejected`` (the first refusing check and reason), ``also``, ``scores``;

    ``stratum`` and ``target``: what each row has in the end. A check sees what the ones before it gave. ``strata``: of
    the generator's fit, where the problem fits them.
    """
    normalisation = GENERATORS[config.generator.extension].normalisation
    verdicts: list[pa.Table] = []
    for check_config, artifact in zip(config.checks, fitted, strict=True):
        options = check_config.options
        if any(item.name == "parent_normalisation" for item in dataclasses.fields(options)):
            options = dataclasses.replace(options, parent_normalisation=normalisation)
        context = extension_context(work, check_config, f"check-{check_config.extension}")
        found = CHECKS[check_config.extension](options).judge(FITTED.get(work.site, artifact), delivered, context)
        require_answer(CHECKS, check_config, found, VERDICT_SCHEMA, delivered.num_rows)
        delivered = as_judged(delivered, found, config.generator.learnt, strata)
        verdicts.append(found)
    names = [each.extension for each in config.checks]
    own = {name: delivered[name] for name in (STRATUM, TARGET) if name in delivered.column_names}
    return pa.table(put_together(names, verdicts, delivered.num_rows) | own)


def put_together(names: Sequence[str], verdicts: Sequence[pa.Table], rows: int) -> dict[str, pa.Array]:
    """Of each row ``rejected``: the first refusal, as ``check: reason``; ``also``: the others; ``scores``, by check."""
    reasons = [_column(each, "reason", rows) for each in verdicts]
    named = [pc.binary_join_element_wise(f"{name}: ", each, "") for name, each in zip(names, reasons, strict=True)]
    refused = _there(named, rows)
    scores = [_column(each, "score", rows) for each in verdicts]
    scored = _there(scores, rows)
    values = pa.StructArray.from_arrays(
        [pa.array(names, pa.string()).take(pa.array(np.nonzero(scored)[1])), _picked(scores, scored, pa.float64())],
        fields=list(SCORES.value_type),
    )
    others = refused & (np.cumsum(refused, axis=1) > 1)
    return {
        "rejected": pc.coalesce(*named) if named else pa.nulls(rows, pa.string()),
        "also": pa.ListArray.from_arrays(_offsets(others), _picked(named, others, pa.string())),
        "scores": pa.ListArray.from_arrays(_offsets(scored), values).cast(SCORES),
    }


def _column(table: pa.Table, name: str, rows: int) -> pa.Array:
    column = table[name].cast(VERDICT_SCHEMA.field(name).type)
    return column.combine_chunks() if rows else pa.array([], column.type)


def _there(columns: Sequence[pa.Array], rows: int) -> npt.NDArray[np.bool_]:
    """(rows, columns): where a value stands."""
    found = [pc.is_valid(each).to_numpy(zero_copy_only=False) for each in columns]
    return np.stack(found, axis=1) if found else np.zeros((rows, 0), np.bool_)


def _picked(columns: Sequence[pa.Array], where: npt.NDArray[np.bool_], kind: pa.DataType) -> pa.Array:
    """The values of the places, row by row."""
    row, column = np.nonzero(where)
    return pa.concat_arrays(columns).take(pa.array(column * len(where) + row)) if columns else pa.array([], kind)


def _offsets(where: npt.NDArray[np.bool_]) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(where.sum(axis=1))]), pa.int32())


def as_judged(delivered: pa.Table, verdicts: pa.Table, problem: Problem, strata: dict[str, Any]) -> pa.Table:
    """The rows with the class, or the target and the stratum that follows from it, that a check gave them."""
    for name in (STRATUM, TARGET):
        if name in verdicts.column_names and name in delivered.column_names:
            given = pc.coalesce(verdicts[name], delivered[name])
            delivered = delivered.set_column(delivered.column_names.index(name), delivered.schema.field(name), given)
    return delivered if problem.target is None else restratify(delivered, problem, strata)


def sampled_rows(work: Work, config: ShardConfig, content: str) -> pa.Table:
    """The shard's raw rows, from the artifacts they stand in. Raises LedgerError unless they are those that were asked."""
    schema = candidate_schema(config.generator.fields, config.generator.learnt.target)
    tables = {key: work.read(Artifact(key, 0, "", "")) for key in _sampled(config)}
    parts = [schema.empty_table()]
    for piece in config.raw:
        table, start = tables[piece["artifact"]], piece["start"]
        in_range = pc.and_(pc.greater_equal(table["ordinal"], start), pc.less(table["ordinal"], start + piece["count"]))
        parts.append(table.filter(pc.and_(in_range, pc.equal(table["asked"], piece["stratum"]))))
    rows = pa.concat_tables(parts)
    request = make_request(config.generator, config.segments, content)
    asked = pa.table({"asked": request.strata, "ordinal": request.ordinals, "seed": request.seeds})
    if not rows.select(asked.column_names).equals(asked.cast(rows.select(asked.column_names).schema)):
        raise LedgerError(
            f"generator {config.generator.extension}: {rows.num_rows} rows are not the {len(request)} asked ones"
        )
    return rows


@stage("generate", version=2)
def generate(work: Work, config: ShardConfig, fitted: Artifact, checks: list[Artifact]) -> None:
    """One shard: candidates.parquet (every asked row, with why it was not delivered or was refused), validation.json."""
    fields, problem = config.generator.fields, config.generator.learnt
    rows = sampled_rows(work, config, fitted.content)
    strata: dict[str, Any] = work.read_json(fitted, STRATA) if problem.fits_strata else {}
    if problem.target is not None:
        rows = restratify(rows, problem, strata)
    delivered = pc.is_null(rows["reason"])
    verdicts = judge(work, config, rows.filter(delivered), checks, strata)
    # Undelivered rows have no verdict: a null where take() finds no index.
    there = delivered.to_numpy()
    verdicts = verdicts.take(pa.array(np.cumsum(there) - 1, pa.int64(), mask=~there))
    for name in ("rejected", "also", "scores"):
        rows = rows.append_column(name, verdicts[name])
    for name in (STRATUM, TARGET):
        if name in rows.column_names:
            final = pc.coalesce(verdicts[name], rows[name])  # an undelivered row stays what was asked
            rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), final)
    for directory in [path for path in work.directory.iterdir() if path.is_dir()]:
        shutil.rmtree(directory)  # an extension's temporary files are no part of the shard
    spent = {key: read_manifest(work.site.store, Artifact(key, 0, "", ""))["meta"] for key in _sampled(config)}
    work.meta = {
        "generator": config.generator.extension,
        "spent": {key: meta.get("usage", {}) for key, meta in spent.items()},
    }
    _write(work, config, rows, fields)


def _sampled(config: ShardConfig) -> list[str]:
    return sorted({piece["artifact"] for piece in config.raw})


def _write(work: Work, config: ShardConfig, rows: pa.Table, fields: tuple[str, ...]) -> None:
    generator = pa.array([config.generator.extension] * rows.num_rows, pa.string())
    rows = rows.add_column(0, "generator", generator)
    work.rows = rows.num_rows
    work.write(rows, "candidates.parquet")
    kept = _passed(rows)
    passed = rows.filter(kept).select(["ordinal", "asked", STRATUM, *fields, "seed"])
    there = pc.is_null(rows["reason"])
    delivered = int(pc.sum(there).as_py() or 0)
    # Of all that were judged, since what the checks made of these rows is still at hand.
    twins = twins_of(rows.filter(there), fields, config.near).filter(kept.filter(there))
    work.write(twins, TWINS)
    work.notes.add(TWINS)
    if config.validation.enabled:
        summary = validate_shard(passed, fields, config.strata, config.validation, delivered=delivered)
    else:
        summary = {"outcome": "off", "problems": []}
    work.note(summary | {"delivered": delivered, "passed": passed.num_rows}, "validation.json")


# --- Validate: a round's shards in, Great Expectations' word on them out ----------------------------------------------


ROUND_ROWS = 50_000  # passed rows that Great Expectations looks at: 0.1 s; what the shards counted covers all


@dataclass(frozen=True)
class RoundConfig:
    fields: tuple[str, ...]
    strata: tuple[str, ...]
    validation: ValidationOptions


@stage("validate", version=2)
def validate(work: Work, config: RoundConfig, shards: list[Artifact]) -> None:
    """validation.json: ``rows``, a summary of passed rows of shards that stand evenly in the round; ``shards``, one of

    what all of them counted. Neither reads more than ``ROUND_ROWS`` rows and a shard.
    """
    counts = [work.read_json(shard, "validation.json") for shard in shards]
    passed = sum(each["passed"] for each in counts)
    names = ["ordinal", "asked", STRATUM, *config.fields, "seed"]
    parts: list[pa.Table] = []
    for shard in shards[:: -(-passed // ROUND_ROWS) or 1]:
        rows = work.read(shard, "candidates.parquet", [*names, "reason", "rejected"])
        parts.append(rows.filter(_passed(rows)).select(names))
    rows = pa.concat_tables(parts)
    found = validate_round(rows, counts, config.fields, config.strata, config.validation)
    work.rows = rows.num_rows
    work.write_json(found, "validation.json")


def _passed(rows: pa.Table) -> pa.Array:
    """Where a row was delivered and no check refused it."""
    return pc.and_(pc.is_null(rows["reason"]), pc.is_null(rows["rejected"]))


# --- Pace: how fast a generator's shards are, measured once, so that another run cuts the same ones -------------------


@dataclass(frozen=True)
class PaceConfig:
    """``joined``: how many of the first shards' size one shard is to hold from then on."""

    generator: FitConfig
    checks: tuple[FitConfig, ...]
    joined: int = field(metadata={"identity": False, "why": "measured: how shards are cut changes no row"})


@stage("pace", version=1)
def pace(work: Work, config: PaceConfig, fitted: Artifact) -> None:
    """pace.json; no part of what follows."""
    work.note({"joined": config.joined}, "pace.json")


# --- Set aside: what stands for a shard without rows ------------------------------------------------------------------


@dataclass(frozen=True)
class SetAsideConfig:
    generator: str
    fields: tuple[str, ...]
    segments: tuple[dict[str, Any], ...]
    reason: str
    problem: str = field(default=FIRST_PROBLEM, metadata={"later": True})  # its name


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
    schema = shard_schema(config.fields, PROBLEMS[config.problem].target)
    columns = [known.get(field.name, pa.nulls(len(asked), field.type)) for field in schema]
    work.rows = len(asked)
    work.write(pa.table(columns, schema=schema), "candidates.parquet")
