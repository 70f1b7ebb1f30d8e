"""The user's own Great Expectations suite over the real rows: read, checked, evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from augmill.tasks.errors import UnsoundSource, UserError
from augmill.tasks.recipe.document import read_yaml
from augmill.tasks.validation.suites import Expectation, great_expectations_context, run_suite

KEY = "validation.source"


def load_suite(path: str | None) -> list[Expectation] | None:
    """A list of ``{type: ..., kwargs: {...}}``, YAML or JSON; None without a path.

    Raises UserError, also for a type that there is not. Imports Great Expectations (3 s), where the recipe names a suite.
    """
    if path is None:
        return None
    if not Path(path).is_file():
        raise UserError("there is no such file", where=f"{path} ({KEY})", fix=f"correct {KEY}")
    document, _ = read_yaml(Path(path))
    if not isinstance(document, list) or not document:
        raise _wrong(path, "expected a list of expectations, each with type and kwargs", 0)
    suite = []
    for at, each in enumerate(document, 1):
        sound = isinstance(each, dict) and isinstance(each.get("type"), str) and set(each) <= {"type", "kwargs"}
        if not sound or not isinstance(each.get("kwargs", {}), dict):
            raise _wrong(path, "expected type and kwargs and nothing else", at)
        suite.append({"type": each["type"], "kwargs": each.get("kwargs", {})})
    with great_expectations_context():
        for at, each in enumerate(suite, 1):
            _check(path, each, at)
    return suite


def _check(path: str, expectation: Expectation, at: int) -> None:
    from great_expectations.exceptions import ExpectationNotFoundError
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    try:
        ExpectationConfiguration(**expectation).to_domain_obj()
    except ExpectationNotFoundError:
        raise _wrong(path, f"there is no expectation {expectation['type']!r}", at) from None
    except (ValueError, TypeError) as error:  # pydantic's too: an argument that is missing, or not of its type
        found = str(error).splitlines()
        raise _wrong(
            path, f"{expectation['type']}: {'; '.join(line.strip() for line in found[1:3]) or found[0]}", at
        ) from None


def _wrong(path: str, problem: str, at: int) -> UserError:
    where = f"{path}, expectation {at}" if at else path
    fix = "write a list such as - {type: expect_column_values_to_not_be_null, kwargs: {column: text}}"
    return UserError(problem, where=f"{where} ({KEY})", fix=fix)


def failed_expectations(rows: pa.Table, suite: list[dict[str, Any]], where: str) -> UnsoundSource | None:
    """The user's own Great Expectations suite over the real rows: what failed, as counts, never with values of rows."""
    summary = run_suite(rows, suite, {}, samples=False)
    if summary["success"]:
        return None
    told = [_told(result) for result in summary["results"] if result["status"] != "passed"]
    problem = f"{len(told):,} of {len(suite):,} expectations on the source failed: {'; '.join(told[:3])}"
    return UnsoundSource(problem, where=where, fix="correct the source's rows, or the expectation")


def _told(result: dict[str, Any]) -> str:
    kwargs = result["kwargs"]
    on = kwargs.get("column") or ", ".join(kwargs.get("column_list") or kwargs.get("column_set") or []) or "table"
    if result["status"] == "errored":
        return f"{on}: {result['type']} could not be evaluated: {result['message']}"
    counts = result["result"]
    if "unexpected_count" in counts:
        return f"{on}: {result['type']}, {counts['unexpected_count']:,} of {counts['element_count']:,} rows"
    seen = counts.get("observed_value")
    return f"{on}: {result['type']}" + (f", observed {seen:,}" if isinstance(seen, int | float) else "")
