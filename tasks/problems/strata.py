"""Strata that hang on data, such as bins of a number: made with the fit, and part of its artifact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from augmill.tasks.contracts import STRATUM, TARGET, Problem

STRATA = "strata.json"  # in the artifact of a split and of a fit: what ``Problem.fit_strata`` learnt


def restratify(rows: pa.Table, problem: Problem, fitted: Mapping[str, Any]) -> pa.Table:
    """The rows with the strata that follow from their targets; a row without a target keeps its own."""
    target = rows[TARGET].combine_chunks()
    known = pc.is_valid(target)
    found = problem.stratum(target.filter(known), fitted)
    strata = pc.replace_with_mask(rows[STRATUM].combine_chunks(), known, found)
    return rows.set_column(rows.column_names.index(STRATUM), STRATUM, strata)
