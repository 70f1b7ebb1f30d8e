"""Refuses a row whose class no train row has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from augmill.tasks.checks.base import CHECK_FILE, verdicts, write_check
from augmill.tasks.contracts import ANY, STRATUM, Check, Context, FitInputs, Fitted


@dataclass(frozen=True)
class LabelSetOptions:
    """This check has nothing to set: the classes are those of the train rows."""


class LabelSet(Check):
    """Reason: ``unknown_label``. It never abstains, because every train row's class is in the set."""

    VERSION: ClassVar[int] = 1
    Options: ClassVar[type[LabelSetOptions]] = LabelSetOptions
    kinds: ClassVar[tuple[str, ...]] = (ANY,)

    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        strata = sorted(
            {str(stratum) for stratum in pc.unique(inputs.train[STRATUM]).to_pylist() if stratum is not None}
        )
        why = f"{len(strata)} classes stand in train; every real row has one of them"
        return write_check(ctx, abstains=False, real_refused=0.0, why=why, strata=strata)

    def judge(self, fitted: Fitted, candidates: pa.Table, ctx: Context) -> pa.Table:
        known = fitted.get("strata", lambda: frozenset(fitted.read_json(CHECK_FILE)["strata"]))
        inside = [stratum in known for stratum in candidates[STRATUM].to_pylist()]
        return verdicts([None if ok else "unknown_label" for ok in inside], [float(ok) for ok in inside])
