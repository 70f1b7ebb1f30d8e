"""Gathers what a run found into its report: the page, Data Docs beside it, and Prefect's own artifacts."""

from __future__ import annotations

import importlib.metadata
import inspect
import re
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from augmill.flows.outcome import Outcome
from augmill.flows.provenance import spent_on
from augmill.flows.rounds import ASIDE, Made, split_table
from augmill.flows.run import Run
from augmill.tasks.contracts import ROW_ID, STRATUM, TARGET, Artifact, Problem
from augmill.tasks.recipe.recipe import rows_of
from augmill.tasks.recipe.sections import report_link
from augmill.tasks.report import ReportEvidence, Sample, render_report, report_markdown, report_table
from augmill.tasks.rows.hashing import hash_file, hash_json
from augmill.tasks.rows.kinds import draw, show, similarities, sizes
from augmill.tasks.rows.kinds.whole import drawn_whole
from augmill.tasks.stages.extensions import library_versions
from augmill.tasks.stages.mix import synthetic_ids
from augmill.tasks.store.stage import Work, fetch, read_json
from augmill.tasks.store.store import Store, release_key
from augmill.tasks.validation import build_data_docs

SAMPLES = 12  # of accepted and of refused rows each
COMPARED = 20_000  # train rows among which a sample's nearest is looked for
MADE = "made_from.txt"  # in a report's folder, put last: the hash of what it was made from, and its files, a line each
CODE = {".py", ".html", ".css", ".md"}


@dataclass(frozen=True)
class Found:
    """What a run has made of its snapshot; what is missing was not reached."""

    ingested: Artifact | None = None
    split: Artifact | None = None
    made: Made = Made()
    mixed: Artifact | None = None
    evaluated: Artifact | None = None
    evidence: dict[str, Any] | None = None

    @property
    def valid(self) -> list[Artifact]:
        """The shards that were not set aside."""
        return [shard for shard in self.made.shards if not shard.key.startswith(ASIDE)]


def write_report(run: Run, outcome: Outcome, found: Found) -> str:
    """Puts the report into the store's private side (it shows rows), where it does not stand, and returns where it is."""
    evidence = gather(run, outcome, found)
    recipe, store = run.recipe, run.store
    name = hash_json({"evidence": {k: v for k, v in evidence.items() if k != "versions"}})[:12]
    shown_name = re.sub(r"[^A-Za-z0-9-]", "_", run.name)[:64]  # a partition may be named `../x`
    prefix = f"private/reports/{recipe.dataset}/{shown_name}-{name}"
    with run.progress.stage("report") as shown:
        made_from = _made_from(evidence, found)
        stands = _stands(store, prefix, made_from)
        if not stands:
            _make(run, found, evidence, prefix, made_from)
        shown.note = outcome.name + (", unchanged, from the store" if stands else "")
    location = f"{store.root}/{prefix}/index.html"
    if run.session.api.recording:
        _tell_prefect(run, evidence, location, prefix)
    return location


def _made_from(evidence: ReportEvidence, found: Found) -> str:
    """The hash of all that the report shows or copies, and of what makes its pages: an edited template makes them anew."""
    own, pages, docs = (Path(inspect.getfile(each)).parent for each in (write_report, render_report, build_data_docs))
    code = [own / "report.py", *pages.rglob("*"), *docs.glob("*.py")]
    artifacts = [found.ingested, found.split, found.made.settled, *found.valid]
    return hash_json(
        {
            "evidence": evidence,
            "artifacts": [artifact.sha256 for artifact in artifacts if artifact is not None],
            "great_expectations": importlib.metadata.version("great-expectations"),
            "code": sorted(hash_file(path) for path in code if path.suffix in CODE),
        }
    )


def _stands(store: Store, prefix: str, made_from: str) -> bool:
    """Whether the report is there, whole, and would be made the same again."""
    first, *names = (store.get(f"{prefix}/{MADE}") or b"").decode(errors="replace").split("\n")
    return first == made_from and {f"{prefix}/{name}" for name in names} <= {*store.list_keys(prefix)}


def _make(run: Run, found: Found, evidence: ReportEvidence, prefix: str, made_from: str) -> None:
    store = run.store
    with tempfile.TemporaryDirectory(prefix="augmill-report-") as directory:
        folder = Path(directory)
        if "docs" in evidence["validation"]:
            shards = {shard.key.split("/")[1][:12]: read_json(store, shard, "validation.json") for shard in found.valid}
            release = (found.evidence or {}).get("release_validation")
            build_data_docs(folder / "data_docs", shards, release, title=f"{run.recipe.dataset} {run.name}")
        (folder / "index.html").write_text(render_report(evidence), encoding="utf-8")
        _copy_refused(store, found, folder)
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        for name, path in files.items():
            store.put(f"{prefix}/{name}", path)
    store.put(f"{prefix}/{MADE}", "\n".join([made_from, *files]).encode())


def _tell_prefect(run: Run, evidence: ReportEvidence, location: str, prefix: str) -> None:
    key, url = run.recipe.dataset.replace("_", "-"), run.recipe.report.url
    run.artifacts.markdown(f"augmill-{key}-verdict", report_markdown(evidence, location), "the report")
    run.artifacts.table(f"augmill-{key}-classes", report_table(evidence), "targets and accepted rows by class")
    if url is not None:
        run.artifacts.link(f"augmill-{key}-report", report_link(url, prefix), "report", "the report's page")


def _copy_refused(store: Store, found: Found, folder: Path) -> None:
    """What did not get in, with its reasons, as Parquet beside the page: nothing vanishes, and it can be looked at."""
    kept = {
        "source_rows_refused.parquet": (found.ingested, "refused.parquet"),
        "train_rows_held_back.parquet": (found.split, "held_back.parquet"),
        "made_rows_not_accepted.parquet": (found.made.settled, "rest.parquet"),
    }
    for name, (artifact, file) in kept.items():
        if artifact is not None:
            shutil.copyfile(fetch(store, artifact, file), folder / name)
    made = folder / "made_rows_not_accepted.parquet"
    if made.exists():  # under the ids by which `augmill explain` finds them
        rows = pq.read_table(made)
        pq.write_table(rows.add_column(0, ROW_ID, synthetic_ids(rows)), made)


def _heading(run: Run, outcome: Outcome) -> ReportEvidence:
    """What is known of a run however far it came."""
    recipe = run.recipe
    released = {"keep_current": "current", "fail": None}.get(outcome.action, outcome.arrangement)
    evidence: ReportEvidence = {
        "dataset": recipe.dataset,
        "snapshot": run.name,
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
        evidence["release_path"] = f"{run.store.root}/{release_key(recipe.dataset, outcome.release)}"
    return evidence


def gather(run: Run, outcome: Outcome, found: Found) -> ReportEvidence:
    """Everything the report shows, from the store; parts that the run did not reach are left out."""
    store, evidence = run.store, _heading(run, outcome)
    if found.ingested:
        evidence["source"] = read_json(store, found.ingested, "summary.json")
    if found.split:
        summary = read_json(store, found.split, "summary.json")
        evidence["train"] = summary["classes"]["train"]
        near = sum(rows for reason, rows in summary["held_back"].items() if reason != "rare_class")
        evidence["splits"] = summary["rows"] | {"held_back": near}
    if found.made.drift:
        evidence["drift"] = found.made.drift
    if found.made.checks:
        evidence["checks"] = [
            _finding(name, read_json(store, artifact, "files/check.json"))
            for name, artifact in found.made.checks.items()
        ]
        evidence["aside"] = rows_of(run.recipe).asides()
    if found.made.weighed:
        evidence["split"] = split_table(store, run.recipe, found.made)
    if found.made.settled:
        evidence["ledger"] = read_json(store, found.made.settled, "ledger.json")
        spent = spent_on(store, found.made.shards)
        evidence["spent"] = {name: usage for name, usage in spent.items() if "requests" in usage}
        _add_samples(evidence, run, found)
        outcomes = Counter(read_json(store, shard, "validation.json")["outcome"] for shard in found.valid)
        outcomes["set_aside"] = len(found.made.shards) - len(found.valid)
        evidence["validation"] = {"shards": {name: count for name, count in sorted(outcomes.items()) if count}}
        if run.recipe.validation.enabled and run.recipe.validation.data_docs:
            evidence["validation"]["docs"] = "data_docs/index.html"
    if found.evidence:
        evidence["gate"] = found.evidence
        if found.evidence["release_validation"]:
            evidence["validation"]["release"] = found.evidence["release_validation"]
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


def _add_samples(evidence: ReportEvidence, run: Run, found: Found) -> None:
    """Accepted and refused rows spread evenly over their tables, each with its nearest train row; and the lengths."""
    assert found.made.settled is not None and found.split is not None
    fields = run.recipe.columns.fields
    work = Work(run.site, Path())
    accepted = work.read(found.made.settled, "accepted.parquet")
    rest = work.read(found.made.settled, "rest.parquet")
    refused = rest.filter(pc.equal(rest["status"], "rejected"))
    train = work.read(found.split, "train.parquet").slice(0, COMPARED)
    evidence["samples"] = {
        "accepted": _samples(_spread(accepted), train, fields, run.recipe.problem),
        "refused": _samples(_spread(refused), train, fields, run.recipe.problem),
    }
    counted = [sizes(rows, fields) for rows in (train, accepted.slice(0, COMPARED))]
    if counted[0] is not None and counted[1] is not None:
        evidence["lengths"] = {"real": counted[0][1], "synthetic": counted[1][1]}
        evidence["counted"] = counted[0][0]


def _spread(rows: pa.Table) -> pa.Table:
    at = sorted(set(np.linspace(0, rows.num_rows - 1, min(SAMPLES, rows.num_rows)).astype(int).tolist()))
    picked = rows.take(pa.array(at, pa.int64()))
    return picked.append_column(ROW_ID, synthetic_ids(picked))


def _samples(rows: pa.Table, train: pa.Table, fields: tuple[str, ...], problem: Problem) -> list[Sample]:
    """Each row as the report shows it, with the train row that it is most like."""
    alike, samples = similarities(rows, train, fields), list[Sample]()
    plain = rows.drop_columns(list(fields)).to_pylist()
    for at, (shown, drawn, row) in enumerate(
        zip(show(rows, fields), drawn_rows(rows, fields, problem), plain, strict=True)
    ):
        sample: Sample = {
            "text": shown,
            "drawn": drawn,
            "drawn_whole": drawn_whole(fields),
            "label": told_target(row, problem),
            "generator": row["generator"],
            "row_id": row[ROW_ID],
        }
        if row.get("why"):
            sample["reason"] = row["why"]
        if train.num_rows:
            best = int(np.argmax(alike[at]))
            near = train.slice(best, 1)
            (other,) = near.drop_columns(list(fields)).to_pylist()
            sample["nearest"] = {
                "text": show(near, fields)[0],
                "drawn": drawn_rows(near, fields, problem)[0],
                "label": told_target(other, problem),
                "row_id": other[ROW_ID],
                "similarity": round(float(alike[at, best]), 3),
            }
        samples.append(sample)
    return samples


def drawn_rows(rows: pa.Table, fields: tuple[str, ...], problem: Problem) -> list[str]:
    """Each row as HTML, with what is learnt of it set into it, where its kinds and its problem draw."""
    found = draw(rows, fields)
    if TARGET not in rows.column_names:
        return found
    own, values = rows.select(list(fields)), rows[TARGET].to_pylist()
    return [problem.draw(each, own.slice(at, 1), values[at]) for at, each in enumerate(found)]


def told_target(row: dict[str, Any], problem: Problem) -> str:
    """What is learnt of a row: its class, or its value."""
    return problem.tell(row[TARGET]) if row.get(TARGET) is not None else str(row[STRATUM])
