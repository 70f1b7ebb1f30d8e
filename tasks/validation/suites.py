"""Expectations on a shard's passed rows, on a round's and on a release's metrics, evaluated by Great Expectations.

A shard's are evaluated by Arrow first: Great Expectations takes 80 ms for a shard of text, and is asked only where one does
not hold, for its words. It evaluates the same suite over rows of the whole round.

A suite here is data first: ``[{"type": ..., "kwargs": ...}]`` in a fixed order, so that what was planned can be
compared with what was evaluated. Great Expectations alone reports success for an empty suite, for an empty frame and
for an all-null column, and reports a missing column as a plain failure. So a summary passes only if rows > 0, every
planned expectation was evaluated and held, and each column's own null share is in bounds.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from augmill.tasks.boundary.processes import importing
from augmill.tasks.rows.kinds import KINDS, type_of
from augmill.tasks.rows.schema import with_titles

Bounds = tuple[float | None, float | None]
Expectation = dict[str, Any]

SAMPLES = 20  # values per failed expectation where the recipe lets samples into the summaries

# Great Expectations keeps "the current project" in a global and its contexts are not thread-safe.
_LOCK = threading.Lock()


@dataclass(frozen=True)
class ValidationOptions:
    """What Great Expectations validates, and how strict it is."""

    enabled: bool = field(default=True, metadata={"help": "Validate every shard and the release's metrics."})
    max_null_share: float = field(
        default=0.0, metadata={"help": "Largest share of nulls allowed in a text column of passed rows."}
    )
    min_passed: float = field(
        default=0.0,
        metadata={
            "help": "Smallest share of a shard's delivered rows that must pass the checks, or the shard is set aside (so "
            "other shard sizes may then give other rows); 0 allows none at all."
        },
    )
    source: str | None = field(
        default=None,
        metadata={
            "help": "Your own suite over the real rows: a YAML or JSON file, a list of `{type: ..., kwargs: {...}}`; where "
            "one fails, the source is unsound.",
            "file": True,
            "identity": False,
            "why": "decides whether the source is trusted, not what its rows are",
        },
    )
    release: dict[str, Bounds] = field(
        default_factory=dict,
        metadata={
            "help": "Further bounds on release metrics, as `name: [smallest, largest]`; null leaves a side open."
        },
    )
    data_docs: bool = field(
        default=True,
        metadata={
            "help": "Build Great Expectations' Data Docs beside the report.",
            "identity": False,
            "why": "Data Docs show results; they change no row.",
        },
    )
    samples_in_docs: bool = field(
        default=False,
        metadata={"help": f"Show up to {SAMPLES} offending values per expectation in Data Docs, not counts alone."},
    )

    def __post_init__(self) -> None:
        for name in ("max_null_share", "min_passed"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} is a share between 0 and 1, found {value}")
        for metric, (low, high) in self.release.items():
            if not metric.isidentifier():
                raise ValueError(f"release: a metric is named like accepted_share, found {metric!r}")
            if low is None and high is None:
                raise ValueError(f"release.{metric} needs a smallest or a largest value, found neither")
            if low is not None and high is not None and low > high:
                raise ValueError(f"release.{metric}: the smallest value {low} is above the largest {high}")


def shard_suite(
    fields: Sequence[str],
    strata: Sequence[str],
    options: ValidationOptions,
    delivered: int,
    key: Sequence[str] = ("asked", "ordinal"),
) -> list[Expectation]:
    """The expectations on one shard's passed rows: columns, row count, keys, classes, and what the fields' kinds ask."""
    columns = ["ordinal", "asked", "stratum", *fields, "seed"]
    least = max(1, math.ceil(options.min_passed * delivered))
    suite = [
        _expect("table_columns_to_match_set", column_set=columns, exact_match=False),
        _expect("table_row_count_to_be_between", min_value=least),
        _expect("compound_columns_to_be_unique", column_list=list(key)),
        *(_expect("column_values_to_not_be_null", column=name) for name in ("ordinal", "asked", "stratum", "seed")),
        *(_expect("column_values_to_be_in_set", column=name, value_set=list(strata)) for name in ("asked", "stratum")),
    ]
    return suite + [
        asked for name in fields for asked in KINDS[type_of(name)].expectations(name, options.max_null_share)
    ]


def validate_shard(
    rows: pa.Table,
    fields: Sequence[str],
    strata: Sequence[str],
    options: ValidationOptions,
    *,
    delivered: int | None = None,
) -> dict[str, Any]:
    """The summary (``run_suite``) of one shard's rows that passed the checks.

    ``delivered``: rows the shard delivered
    before the checks (``rows.num_rows`` where unknown). A shard without passed rows is "nothing_to_validate" unless
    ``min_passed`` asks for some: that the checks refused all is the ledger's to tell, not a defect of the shard.
    """
    delivered = rows.num_rows if delivered is None else delivered
    if rows.num_rows == 0 and math.ceil(options.min_passed * delivered) == 0:
        return _summary(0, 0, {}, [], [])
    suite = shard_suite(fields, strata, options, delivered)
    return run_suite(rows, suite, _largest(suite, fields, options), samples=options.samples_in_docs, plainly=True)


def validate_round(
    rows: pa.Table,
    shards: Sequence[Mapping[str, Any]],
    fields: Sequence[str],
    strata: Sequence[str],
    options: ValidationOptions,
) -> dict[str, Any]:
    """The summaries (``run_suite``), by Great Expectations, of a round's passed ``rows`` and of what its shards counted.

    ``rows`` may be those of some of the shards; ``shards``: the summaries of all, with what each ``delivered``.
    """
    # Rows of several generators, which count their ordinals each by itself; their seeds differ.
    suite = shard_suite(fields, strata, options, 0, ("asked", "ordinal", "seed"))
    names = ("delivered", "rows", "planned", "evaluated", "failed", "errored")
    counts = pa.table({name: pa.array([shard[name] for shard in shards], pa.int64()) for name in names})
    of = {"column_A": "delivered", "column_B": "rows", "or_equal": True}
    counted = [
        _expect("column_pair_values_a_to_be_greater_than_b", **of),
        _expect("column_pair_values_to_be_equal", column_A="planned", column_B="evaluated"),
        *(_expect("column_values_to_be_between", column=name, min_value=0, max_value=0) for name in names[-2:]),
    ]
    return {
        "rows": run_suite(rows, suite, _largest(suite, fields, options), samples=options.samples_in_docs),
        "shards": run_suite(counts, counted, {}, samples=False),
    }


def _largest(suite: Sequence[Expectation], fields: Sequence[str], options: ValidationOptions) -> dict[str, float]:
    """The largest share of nulls of each field."""
    # Great Expectations passes an all-null column; a kind that lets values be missing asks for none to be there.
    asked = {each["kwargs"].get("column") for each in suite if each["type"].endswith("to_not_be_null")}
    return {name: options.max_null_share for name in fields if name in asked}


# What the pipeline measures on every release, and the bounds that hold for each. A release outside is a defect.
RELEASE_BOUNDS: dict[str, Bounds] = {
    "rows": (1, None),  # rows of all splits
    "missing_classes": (0, 0),  # classes of the real train rows without a row in the released train split
    "leaked_rows": (0, 0),  # synthetic rows equal or near to a validation, test or excluded row
    "duplicate_rows": (0, 0),  # rows whose aug_row_id stands more than once
    "null_texts": (0, 0),  # null texts over all splits
    "accepted_share": (0, 1),  # accepted / delivered
    "shortfall_share": (0, 1),  # shortfall / target
}


def validate_release(
    metrics: Mapping[str, float], bounds: Mapping[str, Bounds], options: ValidationOptions
) -> dict[str, Any]:
    """The summary (``run_suite``) of a one-row frame of release metrics against ``bounds`` and ``options.release``.

    A bounded metric that was not measured is an error of its expectations; NaN counts as null.
    """
    suite: list[Expectation] = []
    together = {**bounds, **options.release}
    for name in sorted(together):
        low, high = together[name]
        suite.append(_expect("column_values_to_not_be_null", column=name))
        suite.append(_expect("column_values_to_be_between", column=name, min_value=low, max_value=high))
    # Nulls, not NaN, in the frame: Great Expectations' "between" passes both in silence, "not null" sees both.
    values = {name: [None if math.isnan(metrics[name]) else float(metrics[name])] for name in sorted(metrics)}
    frame = pa.table({name: pa.array(value, pa.float64()) for name, value in values.items()})
    return run_suite(frame, suite, {}, samples=True)  # metrics are numbers of ours, not samples of rows


def run_suite(
    rows: pa.Table,
    suite: Sequence[Expectation],
    max_null_share: Mapping[str, float],
    *,
    samples: bool,
    plainly: bool = False,
) -> dict[str, Any]:
    """Evaluates ``suite`` over ``rows`` and closes what Great Expectations would pass in silence.

    ``plainly``: Great Expectations is asked only where not all of it holds on all rows (``hold``).

    Returns a JSON-able dict without ids or times: ``outcome`` (passed | failed | errored | nothing_to_validate),
    ``success`` (outcome is passed), ``rows``, ``planned``, ``evaluated``, ``failed``, ``errored`` (counts of
    expectations), ``null_share`` per column, ``problems`` (one sentence each) and ``results`` in the suite's order.
    """
    needed = {column for expectation in suite for column in _columns_of(expectation)}
    present = [name for name in rows.column_names if name in needed]
    table = rows.select(present)
    shares = {name: table[name].null_count / max(1, table.num_rows) for name in present}
    shares |= {name: 1.0 for name in max_null_share if name not in shares}
    problems = [
        f"{name}: {shares[name]:.2%} of the values are null, at most {largest:.2%} are allowed"
        for name, largest in max_null_share.items()
        if shares[name] > largest
    ]
    table = with_titles(table)  # a frame of files would hold them all once more, and show them where one is at fault
    results = hold(table, suite, samples) if plainly else None
    if results is None:
        results = _evaluate(table, suite, samples)
    return _summary(rows.num_rows, len(suite), shares, results, problems)


def _expect(kind: str, **kwargs: Any) -> Expectation:
    return {"type": f"expect_{kind}", "kwargs": {name: value for name, value in kwargs.items() if value is not None}}


def _columns_of(expectation: Expectation) -> list[str]:
    kwargs = expectation["kwargs"]
    columns: list[str] = kwargs.get("column_list") or kwargs.get("column_set") or []
    return [*columns, *(kwargs[name] for name in ("column", "column_A", "column_B") if name in kwargs)]


def _summary(
    rows: int, planned: int, shares: dict[str, float], results: list[dict[str, Any]], problems: list[str]
) -> dict[str, Any]:
    states = Counter(result["status"] for result in results)
    evaluated = states["passed"] + states["failed"]
    told = [_sentence(result) for result in results if result["status"] != "passed"] + problems
    if planned != evaluated + states["errored"]:
        told.append(f"{planned} expectations were planned, {len(results)} came back")
    if rows == 0 and planned == 0:
        outcome = "nothing_to_validate"
    elif states["errored"] or planned != evaluated:
        outcome = "errored"
    else:
        outcome = "failed" if told or rows == 0 else "passed"
    return {
        "outcome": outcome,
        "success": outcome == "passed",
        "rows": rows,
        "planned": planned,
        "evaluated": evaluated,
        "failed": states["failed"],
        "errored": states["errored"],
        "null_share": dict(sorted(shares.items())),
        "problems": told,
        "results": results,
    }


def _sentence(result: dict[str, Any]) -> str:
    """Without texts, whatever ``samples_in_docs`` says: it becomes a reason, which goes to the public log and Prefect."""
    on = "table" if "column_set" in result["kwargs"] else ", ".join(_columns_of(result)) or "table"
    if result["status"] == "errored":
        return f"{on}: {result['type']} could not be evaluated: {result['message']}"
    counts = result["result"]
    if "unexpected_count" in counts:
        told = f"{on}: {result['type']} failed on {counts['unexpected_count']} of {counts['element_count']} rows"
        found = [value for value in counts.get("partial_unexpected_list") or () if isinstance(value, int | float)]
        return told + (f", such as {found[0]!r}" if found else "")
    return f"{on}: {result['type']} failed, found {counts.get('observed_value')}"


@contextmanager
def great_expectations_context(**sites: dict[str, Any]) -> Iterator[Any]:
    """An in-memory context (4 ms), to ourselves: no files of its own, no telemetry, no progress bars.

    ``sites``: Data Docs sites to build. The first use imports Great Expectations (3 s), whose imports raise
    deprecations (``sre_constants``) that our user can do nothing about.
    """
    with _LOCK:
        with warnings.catch_warnings(), importing():
            warnings.simplefilter("ignore")
            import great_expectations as gx
            from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults
        config = DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
            data_docs_sites=sites,
            analytics_enabled=False,
            progress_bars={"globally": False, "metric_calculations": False},
        )
        yield gx.get_context(project_config=config, mode="ephemeral")


def _evaluate(table: pa.Table, suite: Sequence[Expectation], samples: bool) -> list[dict[str, Any]]:
    """One result per expectation that came back, in the suite's order."""
    with great_expectations_context() as context:
        from great_expectations import ExpectationSuite
        from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

        source = context.data_sources.add_pandas("pandas")
        definition = source.add_dataframe_asset("rows").add_batch_definition_whole_dataframe("rows")
        batch = definition.get_batch(batch_parameters={"dataframe": table.to_pandas()})
        planned = [
            ExpectationConfiguration(type=each["type"], kwargs=each["kwargs"], meta={"place": place}).to_domain_obj()
            for place, each in enumerate(suite)
        ]
        result_format = {"result_format": "BASIC", "partial_unexpected_count": SAMPLES if samples else 0}
        validated = batch.validate(ExpectationSuite("rows", expectations=planned), result_format=result_format)
        raw = [result.to_json_dict() for result in validated.results]
    by_place = sorted(raw, key=lambda result: result["expectation_config"]["meta"]["place"])
    return [_result(suite[each["expectation_config"]["meta"]["place"]], each, samples) for each in by_place]


def hold(table: pa.Table, suite: Sequence[Expectation], samples: bool) -> list[dict[str, Any]] | None:
    """Great Expectations' results where each expectation holds on each row; None where one does not, or is not known here.

    Takes 1 ms for 2,000 rows.
    """
    results = []
    for each in suite:
        kwargs, known = each["kwargs"], _HOLDS.get(each["type"])
        if known is None or not set(kwargs) <= known[0] or not set(_columns_of(each)) <= set(table.column_names):
            return None
        found = known[1](table, kwargs)
        if found is None:
            return None
        listed: dict[str, Any] = {"partial_unexpected_list": []} if samples else {}
        results.append({**each, "status": "passed", "message": "", "result": found | listed})
    return results


Found = dict[str, Any] | None  # what Great Expectations counts where an expectation holds; None where it does not


def _counts(column: pa.ChunkedArray | None, rows: int) -> dict[str, Any]:
    """``column``: that whose missing values are left out; None: none are."""
    counts: dict[str, Any] = {"element_count": rows, "unexpected_count": 0}
    missing = 0 if column is None else _missing(column)
    counts |= {"unexpected_percent": 0.0} if missing < rows else {}
    return counts | {"missing_count": missing, "missing_percent": missing / rows * 100}


def _missing(column: pa.ChunkedArray) -> int:
    """Nulls, and what pandas takes for one: NaN."""
    return int(pc.sum(pc.is_null(column, nan_is_null=True)).as_py() or 0)


def _columns_match(table: pa.Table, kwargs: dict[str, Any]) -> Found:
    return {"observed_value": sorted(table.column_names)} if not kwargs["exact_match"] else None


def _enough_rows(table: pa.Table, kwargs: dict[str, Any]) -> Found:
    return {"observed_value": table.num_rows} if table.num_rows >= max(1, kwargs["min_value"]) else None


def _unique(table: pa.Table, kwargs: dict[str, Any]) -> Found:
    keys = table.select(kwargs["column_list"])
    if any(map(_missing, keys.columns)) or keys.group_by(keys.column_names).aggregate([]).num_rows < keys.num_rows:
        return None
    return _counts(None, table.num_rows)


def _not_null(table: pa.Table, kwargs: dict[str, Any]) -> Found:
    if _missing(table[kwargs["column"]]):
        return None
    return {"element_count": table.num_rows, "unexpected_count": 0, "unexpected_percent": 0.0}


def _in_set(table: pa.Table, kwargs: dict[str, Any]) -> Found:
    column = table[kwargs["column"]]
    sound = pa.types.is_string(column.type) and all(isinstance(value, str) for value in kwargs["value_set"])
    if (
        not sound
        or column.null_count
        or not pc.all(pc.is_in(column, pa.array(kwargs["value_set"], pa.string()))).as_py()
    ):
        return None
    return _counts(column, table.num_rows)


def _long_enough(table: pa.Table, kwargs: dict[str, Any]) -> Found:
    column = table[kwargs["column"]]
    if not pa.types.is_string(column.type):
        return None
    least = pc.min(pc.utf8_length(column)).as_py()
    return _counts(column, table.num_rows) if least is None or least >= kwargs["min_value"] else None


def _between(table: pa.Table, kwargs: dict[str, Any]) -> Found:
    column = table[kwargs["column"]]
    if not pa.types.is_floating(column.type):
        return None
    values = column.filter(pc.invert(pc.is_null(column, nan_is_null=True)))
    ends = pc.min_max(values).as_py() if len(values) else {"min": 0.0, "max": 0.0}
    holds = not len(values) or (kwargs["min_value"] <= ends["min"] and ends["max"] <= kwargs["max_value"])
    return _counts(column, table.num_rows) if holds else None


def _of_type(table: pa.Table, kwargs: dict[str, Any]) -> Found:
    """By what pandas calls the types of Arrow."""
    kind = table[kwargs["column"]].type
    moment = pa.types.is_timestamp(kind) and kind.tz is not None
    named = "Timestamp" if moment else "float64" if pa.types.is_float64(kind) else None
    return {"observed_value": named} if kwargs["type_"] == named else None


# Those that `shard_suite` and the kinds of fields ask for, each with the arguments that it is understood with.
_HOLDS: dict[str, tuple[set[str], Callable[[pa.Table, dict[str, Any]], Found]]] = {
    "expect_table_columns_to_match_set": ({"column_set", "exact_match"}, _columns_match),
    "expect_table_row_count_to_be_between": ({"min_value"}, _enough_rows),
    "expect_compound_columns_to_be_unique": ({"column_list"}, _unique),
    "expect_column_values_to_not_be_null": ({"column", "mostly"}, _not_null),
    "expect_column_values_to_be_in_set": ({"column", "value_set"}, _in_set),
    "expect_column_value_lengths_to_be_between": ({"column", "min_value"}, _long_enough),
    "expect_column_values_to_be_between": ({"column", "min_value", "max_value"}, _between),
    "expect_column_values_to_be_of_type": ({"column", "type_"}, _of_type),
}


_KEPT = ("element_count", "unexpected_count", "unexpected_percent", "missing_count", "missing_percent")


def _result(expectation: Expectation, raw: dict[str, Any], samples: bool) -> dict[str, Any]:
    """``exception_info`` is one flat dict where all went well, and one dict per broken metric where it did not."""
    info = raw.get("exception_info") or {}
    broken = [each for each in (info, *info.values()) if isinstance(each, dict) and each.get("raised_exception")]
    if broken or not raw["result"]:
        message = sorted(str(each.get("exception_message")) for each in broken)[0] if broken else "no result came back"
        return {**expectation, "status": "errored", "message": message.splitlines()[0], "result": {}}
    kept = {name: raw["result"][name] for name in _KEPT if raw["result"].get(name) is not None}
    # Every observed value of the suites here is a count or a list of column names, never a value of a row.
    if "observed_value" in raw["result"]:
        kept["observed_value"] = raw["result"]["observed_value"]
    if samples:
        kept["partial_unexpected_list"] = raw["result"].get("partial_unexpected_list", [])
    return {**expectation, "status": "passed" if raw["success"] else "failed", "message": "", "result": kept}
