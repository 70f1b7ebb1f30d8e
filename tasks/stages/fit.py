"""Fit: real rows in, the artifact of a generator or of a check out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from augmill.tasks.checks import CHECKS
from augmill.tasks.contracts import Artifact
from augmill.tasks.errors import UserError
from augmill.tasks.generators import GENERATORS
from augmill.tasks.problems.strata import STRATA
from augmill.tasks.stages.extensions import FitConfig, extension_context
from augmill.tasks.store.stage import Work, load_inputs, stage


@stage("fit", version=1)
def fit(work: Work, config: FitConfig, split: Artifact) -> None:
    """Fits a generator to the train rows; it never sees a held-out one."""
    inputs = load_inputs(work, split, held_out=False)
    if config.learnt.fits_strata:  # by which the strata of its rows follow from their targets
        inputs = replace(inputs, strata=work.read_json(split, STRATA))
        work.write_json(inputs.strata, STRATA)
    GENERATORS[config.extension](config.options).fit(inputs, extension_context(work, config, "files"))
    work.rows = inputs.train.num_rows


@stage("fit_check", version=1)
def fit_check(work: Work, config: FitConfig, split: Artifact) -> None:
    """Fits one check to the real rows of all splits; check.json says whether it abstains."""
    inputs = load_inputs(work, split, held_out=True)
    CHECKS[config.extension](config.options).fit(inputs, extension_context(work, config, "files"))
    _require_measured(work.directory / "files" / "check.json", f"the check {config.extension}")
    work.rows = inputs.train.num_rows


def _require_measured(path: Path, where: str) -> None:
    """Raises UserError where a fit, which may be one from outside, does not say what the check measured on real rows."""
    said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    lacks = [name for name in ("abstains", "real_refused", "why") if not isinstance(said, dict) or name not in said]
    if lacks:
        problem = f"its fit wrote no check.json with {', '.join(lacks)}"
        raise UserError(problem, where=where, fix="see docs/extending.md: what a check measures on real rows first")
