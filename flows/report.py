"""Gathers what a run found into its report: the page, Data Docs beside it, and Prefect's own artifacts."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from augmill.flows.outcome import Outcome
from augmill.flows.provenance import spent_on
from augmill.flows.rounds import split_table
from augmill.flows.snapshot import Snapshot, read_json
from augmill.flows.steps import Steps
from augmill.tasks.contracts import ROW_ID, STRATUM
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.report import ReportEvidence, Sample, render_report, report_markdown, report_table
from augmill.tasks.rows.hashing import hash_json
from augmill.tasks.rows.kinds.text import count_characters, shingles, texts_of
from augmill.tasks.stages.extensions import library_versions
from augmill.tasks.stages.mix import synthetic_ids
from augmill.tasks.store.stage import Work, fetch
from augmill.tasks.store.store import Store, release_key
from augmill.tasks.validation import build_data_docs

SAMPLES = 12  # of accepted and of refused rows each
COMPARED = 20_000  # train rows among which a sample's nearest is looked for


def write_report(recipe: Recipe, steps: Steps, snapshot: Snapshot, outcome: Outcome) -> str:
    """Puts the report into the store's private side (it shows rows) and returns where it is."""
    evidence = gather(recipe, steps, snapshot, outcome)
    store = steps.site.store
    with steps.progress.stage("report") as shown, tempfile.TemporaryDirectory(prefix="augmill-report-") as directory:
        folder = Path(directory)
        if recipe.validation.enabled and recipe.validation.data_docs and snapshot.settled:
            shards = {
                shard.key.split("/")[1][:12]: read_json(store, shard, "validation.json") for shard in _valid(snapshot)
            }
            release = (snapshot.evidence or {}).get("release_validation")
            build_data_docs(folder / "data_docs", shards, release, title=f"{recipe.dataset} {snapshot.name}")
            evidence["validation"]["docs"] = "data_docs/index.html"
        (folder / "index.html").write_text(render_report(evidence), encoding="utf-8")
        _copy_refused(store, snapshot, folder)
        name = hash_json({"evidence": {k: v for k, v in evidence.items() if k != "versions"}})[:12]
        shown_name = re.sub(r"[^A-Za-z0-9-]", "_", snapshot.name)[:64]  # a partition may be named `../x`
        prefix = f"private/reports/{recipe.dataset}/{shown_name}-{name}"
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                store.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path)
        shown.note = outcome.name
    location = f"{store.root}/{prefix}/index.html"
    key = recipe.dataset.replace("_", "-")
    steps.artifacts.markdown(f"augmill-{key}-verdict", report_markdown(evidence, location), "the gate's verdict")
    steps.artifacts.table(f"augmill-{key}-classes", report_table(evidence), "targets and accepted rows by class")
    uri = Path(location).absolute().as_uri() if store.local is not None else location
    steps.artifacts.link(f"augmill-{key}-report", uri, "report", "the full report")
    return location


def _copy_refused(store: Store, snapshot: Snapshot, folder: Path) -> None:
    """What did not get in, with its reasons, as Parquet beside the page: nothing vanishes, and it can be looked at."""
    kept = {
        "source_rows_refused.parquet": (snapshot.ingested, "refused.parquet"),
        "train_rows_held_back.parquet": (snapshot.split, "held_back.parquet"),
        "made_rows_not_accepted.parquet": (snapshot.settled, "rest.parquet"),
    }
    for name, (artifact, file) in kept.items():
        if artifact is not None:
            shutil.copyfile(fetch(store, artifact, file), folder / name)
    made = folder / "made_rows_not_accepted.parquet"
    if made.exists():  # under the ids by which `augmill explain` finds them
        rows = pq.read_table(made)
        pq.write_table(rows.add_column(0, ROW_ID, synthetic_ids(rows)), made)


def _valid(snapshot: Snapshot) -> list[Any]:
    return [shard for shard in snapshot.shards if shard.key.startswith("generate/")]


def _heading(recipe: Recipe, steps: Steps, snapshot: Snapshot, outcome: Outcome) -> ReportEvidence:
    """What is known of a run however far it came."""
    released = {"keep_current": "current", "fail": None}.get(outcome.action, outcome.arrangement)
    evidence: ReportEvidence = {
        "dataset": recipe.dataset,
        "snapshot": snapshot.name,
        "outcome": outcome.name,
        "reason": outcome.reason,
        "released": released,
        "next_action": outcome.next,
        "release": outcome.release,
        "prefix": recipe.publish.prefix,
        "recipe_sha256": recipe.hash(),
        "versions": library_versions(
            ("augmill", "prefect", "torch", "transformers", "pyarrow", "polars", "scikit-learn")
        ),
        "validation": {},
    }
    if outcome.release:
        evidence["release_path"] = f"{steps.site.store.root}/{release_key(recipe.dataset, outcome.release)}"
    return evidence


def gather(recipe: Recipe, steps: Steps, snapshot: Snapshot, outcome: Outcome) -> ReportEvidence:
    """Everything the report shows, from the store; parts that the run did not reach are left out."""
    store, evidence = steps.site.store, _heading(recipe, steps, snapshot, outcome)
    if snapshot.ingested:
        evidence["source"] = read_json(store, snapshot.ingested, "summary.json")
    if snapshot.split:
        summary = read_json(store, snapshot.split, "summary.json")
        evidence["train"] = summary["classes"]["train"]
        near = sum(rows for reason, rows in summary["held_back"].items() if reason != "rare_class")
        evidence["splits"] = summary["rows"] | {"held_back": near}
    if snapshot.drift:
        evidence["drift"] = snapshot.drift
    if snapshot.checks:
        evidence["checks"] = [
            _finding(name, read_json(store, artifact, "files/check.json")) for name, artifact in snapshot.checks.items()
        ]
    if snapshot.weighed:
        evidence["split"] = split_table(snapshot, steps)
    if snapshot.settled:
        evidence["ledger"] = read_json(store, snapshot.settled, "ledger.json")
        spent = spent_on(store, snapshot.shards)
        evidence["spent"] = {name: usage for name, usage in spent.items() if "requests" in usage}
        _add_samples(evidence, recipe, steps, snapshot)
        outcomes = Counter(read_json(store, shard, "validation.json")["outcome"] for shard in _valid(snapshot))
        outcomes["set_aside"] = len(snapshot.shards) - len(_valid(snapshot))
        evidence["validation"] = {"shards": {name: count for name, count in sorted(outcomes.items()) if count}}
    if snapshot.evidence:
        evidence["gate"] = snapshot.evidence
        if snapshot.evidence["release_validation"]:
            evidence["validation"]["release"] = snapshot.evidence["release_validation"]
    return evidence


def _finding(name: str, found: dict[str, Any]) -> Any:
    known = ("abstains", "real_refused", "why")
    return {"name": name, **{key: found.get(key) for key in known}, "thresholds": _thresholds(found)}


def _thresholds(found: dict[str, Any]) -> dict[str, Any]:
    """What a check learnt from train: its bounds by name, and the least and most of each text column."""
    spans = {
        f"{name} {unit}": f"{least:g} to {most:g}"
        for name, bounds in found.get("fields", {}).items()
        for unit, (least, most) in bounds.items()
    }
    return {**spans, **found.get("bounds", {})}


def _add_samples(evidence: ReportEvidence, recipe: Recipe, steps: Steps, snapshot: Snapshot) -> None:
    """Accepted and refused rows spread evenly over their tables, each with its nearest train row; and the lengths."""
    assert snapshot.settled is not None and snapshot.split is not None
    fields = recipe.columns.fields
    work = Work(steps.site, Path())
    accepted = work.read(snapshot.settled, "accepted.parquet")
    rest = work.read(snapshot.settled, "rest.parquet")
    refused = rest.filter(pc.equal(rest["status"], "rejected"))
    train = work.read(snapshot.split, "train.parquet").slice(0, COMPARED)
    real = texts_of(train, fields)
    known = [shingles(text) for text in real]
    evidence["samples"] = {
        "accepted": [_sample(row, fields, train, real, known) for row in _spread(accepted)],
        "refused": [_sample(row, fields, train, real, known) for row in _spread(refused)],
    }
    made = texts_of(accepted.slice(0, COMPARED), fields)
    evidence["lengths"] = {"real": [*map(count_characters, real)], "synthetic": [*map(count_characters, made)]}


def _spread(rows: pa.Table) -> list[dict[str, Any]]:
    at = sorted(set(np.linspace(0, rows.num_rows - 1, min(SAMPLES, rows.num_rows)).astype(int).tolist()))
    picked = rows.take(pa.array(at, pa.int64()))
    named: list[dict[str, Any]] = picked.append_column(ROW_ID, synthetic_ids(picked)).to_pylist()
    return named


def _sample(
    row: dict[str, Any], fields: tuple[str, ...], train: pa.Table, real: list[str], known: list[set[str]]
) -> Sample:
    text = "\x1f".join(row[name] or "" for name in fields)
    own = shingles(text)
    scores = [len(own & other) / len(own | other) for other in known]
    best = int(np.argmax(scores))
    sample: Sample = {"text": text.replace("\x1f", " | "), "label": row[STRATUM], "generator": row["generator"]}
    sample["row_id"] = row[ROW_ID]
    if row.get("why"):
        sample["reason"] = row["why"]
    sample["nearest"] = {
        "text": real[best].replace("\x1f", " | "),
        "label": train[STRATUM][best].as_py(),
        "row_id": train[ROW_ID][best].as_py(),
        "similarity": round(scores[best], 3),
    }
    return sample
