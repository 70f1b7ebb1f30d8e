"""A night and a backfill end as a run of the snapshot that failed would: data 3, the world 4, an action `fail` 10."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import augmill
from dated import dated_document, day, inline_workers, write_days  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st

from augmill.flows import augment as main_path
from augmill.flows.nights.plan import CODES, exit_code_for
from augmill.flows.outcome import Outcome
from augmill.flows.report import Found
from augmill.flows.run import Run
from augmill.tasks.errors import AugmillError, DataError, LedgerError, StoreError, UserError, exit_code_of

pytestmark = pytest.mark.usefixtures("inline_workers")
CAUSES: dict[str, BaseException] = {
    "data": DataError("one class", where="rows", fix="mend it"),
    "world": StoreError("no answer", where="store", fix="run it again"),
    "disk": OSError(28, "no space left"),
    "ledger": LedgerError("7 rows", where="ledger", fix="report it"),
    "defect": KeyError("nobody foresaw it"),
}
CODE = {"data": 3, "world": 4, "disk": 4, "ledger": 5, "defect": 1, "fail": 10}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    rows = write_days(tmp_path / "rows.csv", 4)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(dated_document(rows, tmp_path / "store", outcomes={"not_produced": "fail"})))
    return path


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Lets snapshots fail for a cause of their own; the others are made."""
    whole = main_path.make_snapshot

    def let(causes: dict[str, str]) -> None:
        def make_snapshot(run: Run) -> tuple[Outcome, Found]:
            cause = causes.get(str(run.as_of), "")
            if cause in CAUSES:
                raise CAUSES[cause]
            outcome, found = whole(run)
            action = "fail" if cause == "fail" else "best_real"
            return Outcome("not_produced", action, "nothing was asked for", release=outcome.release), found

        monkeypatch.setattr(main_path, "make_snapshot", make_snapshot)

    return let


@pytest.mark.parametrize("cause", CODE)
def test_a_backfill_ends_as_a_run_of_what_failed(
    cause: str, recipe: Path, failing: Callable[[dict[str, str]], None]
) -> None:
    failing({day(1): cause})
    run = augmill("run", recipe, "--as-of", day(1))
    ended = augmill("backfill", recipe, "--to", day(2), "--reprocess", "failed")
    assert (run.code, ended.code) == (CODE[cause], CODE[cause]), ended.err
    assert (ended.last["outcome"], list(ended.last["failed"])) == ("failed", [day(1)])
    assert ended.last["exit_code"] == ended.code


@pytest.mark.parametrize(
    ("causes", "code"),
    [
        (("data", "world"), 4),
        (("world", "data"), 4),
        (("data", "fail"), 3),
        (("defect", "world"), 1),
        (("data", ""), 3),
    ],
)
def test_of_several_causes_the_one_that_another_try_may_cure_comes_before_those_to_be_mended(
    causes: tuple[str, ...], code: int, recipe: Path, failing: Callable[[dict[str, str]], None]
) -> None:
    failing({day(at): cause for at, cause in enumerate(causes)})
    ended = augmill("backfill", recipe, "--to", day(1))
    assert ended.code == code, ended.out
    assert list(ended.last["failed"]) == [day(at) for at, cause in enumerate(causes) if cause]


@pytest.mark.parametrize("orchestrator", ["none", pytest.param("prefect", marks=pytest.mark.slow)])
def test_a_night_whose_data_cannot_be_used_ends_as_run_does(
    orchestrator: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if orchestrator == "prefect":
        request.getfixturevalue("prefect_api")
    (tmp_path / "rows.csv").write_text("text,label,day\n" + "".join(f"row {n},refund,2026-10-01\n" for n in range(40)))
    path = tmp_path / "recipe.yaml"
    document = dated_document(tmp_path / "rows.csv", tmp_path / "store", dataset=f"night_{orchestrator}")
    document["run"]["orchestrator"] = orchestrator
    path.write_text(yaml.safe_dump(document))
    for command in (["nightly", path], ["backfill", path, "--to", day(0)], ["run", path, "--as-of", day(0)]):
        ended = augmill(*command)
        assert ended.code == 3, f"{command}\n{ended.out}\n{ended.err}"


@given(st.lists(st.sampled_from(CODES), min_size=1))
def test_the_code_is_one_of_the_causes_own_and_no_order_of_dates_changes_it(codes: list[int]) -> None:
    ends: list[dict[str, Any]] = [{"action": "fail"} if code == 10 else {"exit_code": code} for code in codes]
    assert exit_code_for(ends) == exit_code_for(ends[::-1]) == exit_code_for(ends * 2)
    assert exit_code_for(ends) in codes


def test_every_error_of_ours_has_a_place_among_the_codes() -> None:
    def kinds(kind: type[AugmillError]) -> list[type[AugmillError]]:
        return [kind, *(deeper for each in kind.__subclasses__() for deeper in kinds(each))]

    assert {kind.exit_code for kind in kinds(AugmillError)} <= set(CODES)
    assert (
        exit_code_of(UserError("x", where="y", fix="z")),
        exit_code_of(MemoryError()),
        exit_code_of(KeyError()),
    ) == (2, 4, 1)
