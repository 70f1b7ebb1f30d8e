"""Evaluate: real rows alone, placebo and mix in; gain with an interval, on real rows nobody generated from, out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from augmill.tasks.contracts import ROW_ID, STRATUM, Artifact
from augmill.tasks.gate import judge as gate
from augmill.tasks.gate.judge import GateOptions
from augmill.tasks.metrics.distinct import diversity
from augmill.tasks.rows.hashing import hash_json
from augmill.tasks.rows.kinds.text import fold
from augmill.tasks.rows.schema import ORIGIN, REAL, texts_of
from augmill.tasks.store.stage import Work, identity_of, stage
from augmill.tasks.trainers import TRAINERS
from augmill.tasks.validation.suites import RELEASE_BOUNDS, ValidationOptions, validate_release

COMPARED = 5_000  # rows of each side whose diversity is measured


@dataclass(frozen=True)
class EvaluateConfig:
    gate: GateOptions
    trainer: str
    trainer_version: int
    trainer_options: Any
    trainer_content: dict[str, str]  # Trainer.content(), when the run began to judge
    seed: int
    fields: tuple[str, ...]
    validation: ValidationOptions


def release_metrics(
    train: pa.Table, held_out: pa.Table, ledger: dict[str, Any], fields: tuple[str, ...]
) -> dict[str, float]:
    """Numbers of the release to be, for its Great Expectations suite; counts but for the two shares."""
    folded = {fold(text) or text for text in texts_of(held_out, fields)}
    made = train.filter(pc.not_equal(train[ORIGIN], REAL))
    delivered = sum(row["delivered"] for row in ledger["rows"])
    target = sum(ledger["targets"].values())
    return {
        "rows": train.num_rows,
        "missing_classes": len(set(ledger["targets"]) - set(train[STRATUM].unique().to_pylist())),
        "leaked_rows": sum((fold(text) or text) in folded for text in texts_of(made, fields)),
        "duplicate_rows": train.num_rows - len(train[ROW_ID].unique()),
        "null_texts": sum(table[name].null_count for table in (train, held_out) for name in fields),
        "accepted_share": sum(ledger["accepted"].values()) / delivered if delivered else 0.0,
        "shortfall_share": sum(ledger["shortfall"].values()) / target if target else 0.0,
    }


@stage("evaluate", version=2)
def evaluate(work: Work, config: EvaluateConfig, split: Artifact, mixed: Artifact, settled: Artifact) -> None:
    """evidence.json: the gate's verdict and numbers, the release's metrics and what their suite says; predictions too.

    Finished trainings rest in the store's scratch space, so that a killed run pays for none twice.
    """
    rows = work.read(mixed, "mix.parquet")
    synthetic = rows.filter(pc.not_equal(rows[ORIGIN], REAL))
    real = work.read(mixed, "real.parquet")
    validation, test = (work.read(split, f"{name}.parquet") for name in ("validation", "test"))
    gate.require_focus(validation, config.gate)
    identity = hash_json(identity_of((config, split, mixed)))
    predicted = gate.predict(
        real,
        synthetic,
        [validation, *([test] if test.num_rows else [])],
        TRAINERS[config.trainer](config.trainer_options),
        config.gate,
        seed=config.seed,
        fields=config.fields,
        workdir=work.site.store.local_scratch(work.site.place(f"trainer-{identity[:16]}")),
    )
    found = gate.judge(predicted, config.gate, config.seed, real=real.num_rows, synthetic=synthetic.num_rows)
    work.write(predicted[0].to_table(), "predictions.parquet")
    work.write_json(predicted[0].about(), "predictions.json")
    ledger = work.read_json(settled, "ledger.json")
    columns = [ROW_ID, STRATUM, *config.fields]
    metrics = release_metrics(
        rows, pa.concat_tables([validation.select(columns), test.select(columns)]), ledger, config.fields
    )
    checked = validate_release(metrics, RELEASE_BOUNDS, config.validation) if config.validation.enabled else None
    work.rows = validation.num_rows
    work.write_json(
        {
            **found,
            "options": asdict(config.gate),
            "release_metrics": metrics,
            "release_validation": checked,
            "diversity": diversity(*(texts_of(t.slice(0, COMPARED), config.fields) for t in (synthetic, real))),
        },
        "evidence.json",
    )
