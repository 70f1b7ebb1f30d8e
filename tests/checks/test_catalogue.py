"""The check `catalogue`: invented items and odd lengths are refused, and it abstains where real rows would be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from drawn_histories import HISTORY_FIELDS, users

from augmill.tasks.checks import CHECKS
from augmill.tasks.rows.kinds import real_schema
from augmill.testing import CHECK_LAWS, CheckBench


def rows(found: list[dict[str, Any]]) -> pa.Table:
    columns = {
        "row_id": [each["user"] for each in found],
        "stratum": ["1: all"] * len(found),
        "target": [each["next"] for each in found],
        HISTORY_FIELDS[0]: [each["history"] for each in found],
    }
    return pa.table(columns, schema=real_schema(HISTORY_FIELDS, pa.string()))


def bench(folder: Path, train: pa.Table, **options: Any) -> CheckBench:
    check = CHECKS["catalogue"]
    return CheckBench(check(check.Options(**options)), folder, rows=train, held_out=rows(users(9, 300)))


def judged(found: CheckBench, *histories: list[str], target: str = "i01") -> list[str | None]:
    asked = rows([{"user": f"c{at}", "history": each, "next": target} for at, each in enumerate(histories)])
    reasons: list[str | None] = found.judge(
        asked.append_column("parent_ids", pa.array([[]] * len(histories), pa.list_(pa.string())))
    )["reason"].to_pylist()
    return reasons


@pytest.mark.parametrize("law", CHECK_LAWS, ids=lambda law: law.__name__)
def test_it_keeps_the_laws_of_checks(law: Any, tmp_path: Path) -> None:
    law(bench(tmp_path, rows(users(60))))


def test_invented_items_and_odd_lengths_are_refused(tmp_path: Path) -> None:
    found = bench(tmp_path, rows(users(60)))
    known = ["i00", "i02", "i03", "i04", "i05"]
    assert judged(found, known, [*known[:4], "Casablanca"], [*known[:3], "a", "b"]) == [None, None, "unknown_items"]
    assert judged(found, known, target="Vertigo") == [None]  # one of six
    assert judged(bench(tmp_path / "tight", rows(users(60)), slack=1.0), known[:1], known * 4) == [
        "few_items",
        "many_items",
    ]
    assert judged(bench(tmp_path / "none", rows(users(60)), max_unknown=0.0), [*known, "new"]) == ["unknown_items"]


def test_it_abstains_where_every_user_has_items_of_their_own(tmp_path: Path) -> None:
    own = [{"user": f"u{at}", "history": [f"a{at}", f"b{at}", f"c{at}"], "next": f"d{at}"} for at in range(30)]
    found = bench(tmp_path, rows(own))
    assert found.learnt["abstains"] and found.learnt["real_refused"] == 1.0
    assert not bench(tmp_path / "b", rows(users(60))).learnt["abstains"]
