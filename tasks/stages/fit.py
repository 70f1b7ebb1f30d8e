"""Fit: real rows in, the artifact of a generator or of a check out."""

from __future__ import annotations

from augmill.tasks.checks import CHECKS
from augmill.tasks.contracts import Artifact
from augmill.tasks.generators import GENERATORS
from augmill.tasks.problems.strata import STRATA
from augmill.tasks.stages.extensions import FitConfig, extension_context
from augmill.tasks.store.stage import Work, load_inputs, stage


@stage("fit", version=1)
def fit(work: Work, config: FitConfig, split: Artifact) -> None:
    """Fits a generator to the train rows; it never sees a held-out one."""
    inputs = load_inputs(work, split, held_out=False)
    GENERATORS[config.extension](config.options).fit(inputs, extension_context(work, config, "files"))
    if config.learnt.fits_strata:  # by which the strata of its rows follow from their targets
        work.write_json(work.read_json(split, STRATA), STRATA)
    work.rows = inputs.train.num_rows


@stage("fit_check", version=1)
def fit_check(work: Work, config: FitConfig, split: Artifact) -> None:
    """Fits one check to the real rows of all splits; check.json says whether it abstains."""
    inputs = load_inputs(work, split, held_out=True)
    CHECKS[config.extension](config.options).fit(inputs, extension_context(work, config, "files"))
    work.rows = inputs.train.num_rows
