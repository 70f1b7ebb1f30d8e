"""What Great Expectations would pass in silence does not pass here; pages hold counts and no markup of data."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augmill.tasks.validation.data_docs import build_data_docs
from augmill.tasks.validation.suites import (
    RELEASE_BOUNDS,
    ValidationOptions,
    hold,
    run_suite,
    shard_suite,
    validate_release,
    validate_round,
    validate_shard,
)

STRATA = ("billing", "refund")
METRICS = {
    "rows": 900,
    "missing_classes": 0,
    "leaked_rows": 0,
    "duplicate_rows": 0,
    "null_texts": 0,
    "accepted_share": 0.62,
    "shortfall_share": 0.05,
}


def shard(texts: list[str | None], **columns: Any) -> pa.Table:
    count = len(texts)
    strata = pa.array([STRATA[place % 2] for place in range(count)], pa.string())
    rows = {"ordinal": np.arange(count), "asked": strata, "stratum": strata, "text": pa.array(texts, pa.string())}
    return pa.table({**rows, "seed": np.arange(count) + 2**62, **columns})


def validate(rows: pa.Table, options: ValidationOptions | None = None, **kwargs: Any) -> dict[str, Any]:
    return validate_shard(rows, ["text"], STRATA, options or ValidationOptions(), **kwargs)


def test_sound_rows_pass_with_every_planned_expectation_evaluated() -> None:
    summary = validate(shard(["where is my money", "退款 please", "naïve 😀"]))
    assert summary["outcome"] == "passed" and summary["success"] and summary["problems"] == []
    assert summary["planned"] == summary["evaluated"] == len(summary["results"]) == 11


_TEXTS = st.one_of(st.none(), st.sampled_from(["", "a", "\u9000\u6b3e", "\U0001f600", " "]), st.text(max_size=3))
_NUMBERS = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True), st.sampled_from([1.0, -0.0, 5e-324]))
_MOMENTS = st.one_of(st.none(), st.integers(0, 2**50))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([*STRATA, *STRATA, "other"]), _TEXTS, _NUMBERS, _TEXTS, _MOMENTS), max_size=5),
    st.booleans(),
    st.sampled_from([0.0, 0.5]),
    st.sets(st.sampled_from(["text", "number:age", "asked", "timestamp:at"]), max_size=1),
    st.booleans(),
)
def test_a_shard_is_summed_up_as_great_expectations_would(
    cells: list[Any], doubled: bool, share: float, lacking: set[str], samples: bool
) -> None:
    """Whether it was asked (something does not hold) or not."""
    strata, texts, numbers, categories, moments = zip(*cells, strict=True) if cells else ((),) * 5
    columns = {
        "ordinal": pa.array([0 if doubled else at for at in range(len(cells))], pa.int64()),
        "asked": pa.array(strata, pa.string()),
        "stratum": pa.array(strata, pa.string()),
        "text": pa.array([text and text.encode("utf-8", "replace").decode() for text in texts], pa.string()),
        "number:age": pa.array(numbers, pa.float64()),
        "category:of": pa.array(
            [text and text.encode("utf-8", "replace").decode() for text in categories], pa.string()
        ),
        "timestamp:at": pa.array(moments, pa.timestamp("us", "UTC")),
        "seed": pa.array(range(len(cells)), pa.int64()),
    }
    rows = pa.table({name: column for name, column in columns.items() if name not in lacking})
    fields = ["text", "number:age", "category:of", "timestamp:at"]
    options = ValidationOptions(max_null_share=share, samples_in_docs=samples)
    suite = shard_suite(fields, STRATA, options, len(cells))
    largest = {"text": share}
    plainly, asked = (run_suite(rows, suite, largest, samples=samples, plainly=how) for how in (True, False))
    assert json.dumps(plainly, sort_keys=True) == json.dumps(asked, sort_keys=True)


def test_great_expectations_is_not_asked_for_a_sound_shard() -> None:
    rows = shard(["fine", "good"])
    assert hold(rows, shard_suite(["text"], STRATA, ValidationOptions(), 2), samples=False) is not None


def test_an_expectation_of_a_kind_from_outside_is_great_expectations_own() -> None:
    suite = [{"type": "expect_column_values_to_match_regex", "kwargs": {"column": "text", "regex": "^f"}}]
    assert hold(shard(["fine"]), suite, samples=False) is None
    summary = run_suite(shard(["fine", "good"]), suite, {}, samples=False, plainly=True)
    assert summary["failed"] == 1 and summary["results"][0]["result"]["unexpected_count"] == 1


def test_a_rounds_rows_and_what_its_shards_counted_are_validated_together() -> None:
    counts = [validate(shard(["fine", "good"])) | {"delivered": 3}, validate(shard([])) | {"delivered": 0}]
    sound = validate_round(shard(["fine", "good"]), counts, ["text"], STRATA, ValidationOptions())
    assert sound["rows"]["success"] and sound["shards"]["success"] and sound["shards"]["rows"] == 2
    for wrong in ({"delivered": 1}, {"evaluated": 10}, {"failed": 1}, {"errored": 1}):
        found = validate_round(shard(["fine"]), [counts[0] | wrong], ["text"], STRATA, ValidationOptions())
        assert found["shards"]["outcome"] == "failed", wrong
    assert validate_round(shard(["fine", ""]), counts, ["text"], STRATA, ValidationOptions())["rows"]["failed"] == 1


def test_two_generators_of_a_round_count_their_rows_each_by_itself() -> None:
    one, other = shard(["fine", "good"]), shard(["well", "sound"], seed=np.arange(2) + 7)
    counts = [validate(each) | {"delivered": 2} for each in (one, other)]
    both = validate_round(pa.concat_tables([one, other]), counts, ["text"], STRATA, ValidationOptions())
    assert both["rows"]["success"], both["rows"]["problems"]
    doubled = validate_round(pa.concat_tables([one, one]), counts, ["text"], STRATA, ValidationOptions())
    assert doubled["rows"]["failed"] == 1 and "compound_columns" in doubled["rows"]["problems"][0]


def test_the_summary_is_the_same_json_every_time() -> None:
    rows = shard(["where is my money", None, ""])
    first, second = (json.dumps(validate(rows), sort_keys=True) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (shard([None, None]), "text: expect_column_values_to_not_be_null failed on 2 of 2 rows"),
        (shard(["fine", ""]), "text: expect_column_value_lengths_to_be_between failed on 1 of 2 rows"),
        (
            shard(["fine", "good"], stratum=["billing", "other"]),
            "stratum: expect_column_values_to_be_in_set failed on 1",
        ),
        (shard(["fine", "good"], ordinal=[7, 7], asked=["refund"] * 2), "asked, ordinal: expect_compound_columns"),
    ],
)
def test_each_defect_of_a_shard_fails_and_is_named(rows: pa.Table, told: str) -> None:
    summary = validate(rows)
    assert summary["outcome"] == "failed" and not summary["success"]
    assert any(problem.startswith(told) for problem in summary["problems"]), summary["problems"]


def test_a_missing_column_is_errored_not_failed() -> None:
    summary = validate(shard(["fine", "good"]).drop(["text"]))
    assert summary["outcome"] == "errored" and summary["errored"] == 2
    assert summary["evaluated"] == summary["planned"] - 2
    assert summary["null_share"]["text"] == 1.0
    assert any('"text" in BatchData does not exist' in problem for problem in summary["problems"])


def test_an_all_null_column_fails_even_where_the_allowed_share_hides_it_from_lengths() -> None:
    summary = validate(shard([None, None]), ValidationOptions(max_null_share=0.5))
    assert summary["outcome"] == "failed" and summary["null_share"]["text"] == 1.0


def test_an_empty_shard_has_an_outcome_of_its_own() -> None:
    summary = validate(shard([]), delivered=100)
    assert summary["outcome"] == "nothing_to_validate" and not summary["success"]
    asked = validate(shard([]), ValidationOptions(min_passed=0.1), delivered=100)
    assert asked["outcome"] == "failed"


def test_too_small_a_passed_share_fails() -> None:
    rows = shard(["fine", "good"])
    assert validate(rows, ValidationOptions(min_passed=0.2), delivered=10)["outcome"] == "passed"
    assert validate(rows, ValidationOptions(min_passed=0.21), delivered=10)["outcome"] == "failed"


def test_summaries_hold_no_text_of_a_row_unless_asked() -> None:
    rows = shard(["fine", "good"], stratum=["billing", "secret"])
    assert "secret" not in json.dumps(validate(rows))
    found = validate(rows, ValidationOptions(samples_in_docs=True))
    assert "secret" in json.dumps(found) and "secret" not in json.dumps(found["problems"])  # which become reasons


def test_release_metrics_pass_fail_and_err() -> None:
    options = ValidationOptions()
    assert validate_release(METRICS, RELEASE_BOUNDS, options)["outcome"] == "passed"
    leaked = validate_release({**METRICS, "leaked_rows": 1}, RELEASE_BOUNDS, options)
    assert leaked["outcome"] == "failed"
    assert leaked["problems"] == ["leaked_rows: expect_column_values_to_be_between failed on 1 of 1 rows, such as 1.0"]
    assert validate_release({**METRICS, "rows": float("nan")}, RELEASE_BOUNDS, options)["outcome"] == "failed"
    unmeasured = {name: value for name, value in METRICS.items() if name != "leaked_rows"}
    assert validate_release(unmeasured, RELEASE_BOUNDS, options)["outcome"] == "errored"


def test_the_recipe_adds_and_tightens_release_bounds() -> None:
    options = ValidationOptions(release={"accepted_share": (0.7, None)})
    assert validate_release(METRICS, RELEASE_BOUNDS, options)["outcome"] == "failed"
    for wrong in ({"release": {"rows": (2, 1)}}, {"release": {"a b": (1, 2)}}, {"min_passed": 1.1}):
        with pytest.raises(ValueError, match=r"share|smallest|named"):
            ValidationOptions(**wrong)  # type: ignore[arg-type]


def test_data_docs_are_repeatable_offline_and_escape_everything(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    bad = validate_shard(
        shard([hostile, "fine"], stratum=[hostile, "refund"]),
        ["text"],
        STRATA,
        ValidationOptions(samples_in_docs=True),
    )
    shards = {f"rules/../{hostile}": bad, "lost": validate(shard(["a"]).drop(["text"])), "none": validate(shard([]))}
    release = validate_release(METRICS, RELEASE_BOUNDS, ValidationOptions())
    sites = [tmp_path / name for name in ("one", "two")]
    for site in sites:
        assert build_data_docs(site, shards, release, title=hostile) == site / "index.html"
    files = [sorted(each.relative_to(site) for each in site.rglob("*") if each.is_file()) for site in sites]
    assert files[0] == files[1]
    assert all((sites[0] / name).read_bytes() == (sites[1] / name).read_bytes() for name in files[0])
    paths = sorted(sites[0].rglob("*"))
    assert sum(path.is_file() for path in paths) == 4
    for path in filter(Path.is_file, paths):
        page = path.read_text(encoding="utf-8")
        assert all((path.parent / link).is_file() for link in re.findall(r'href="([^"#]+)"', page))
        assert hostile not in page and str(tmp_path) not in page
        assert "http" not in page.replace("http-equiv", "") and "<script" not in page
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_data_docs_page_the_failing_shards_first_and_say_what_has_no_page(tmp_path: Path) -> None:
    good = validate(shard(["fine", "good"]))
    shards = {"a": good, "b": good, "z": validate(shard(["fine", ""]))}
    index = build_data_docs(tmp_path / "docs", shards, None, title="tickets", limit=1).read_text(encoding="utf-8")
    assert index.count("<a href=") == 1 and ">shard z</a>" in index and "2 of 3 have no page" in index
