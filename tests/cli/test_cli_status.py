"""``status``: a calendar in 80 columns, what is not plainly released and why, JSON for programs, a check for monitors."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attempted import RECIPE, begun, dated, tried
from commands import augmill, fingerprint, refused, write_recipe

from augmill.flows.cli.status import page
from augmill.flows.nights.plan import BackfillPlan, BackfillRequest, PlannedSnapshot
from augmill.flows.nights.record import left_to_do, unfinished, write_end, write_plan
from augmill.flows.nights.states import snapshot_states
from augmill.flows.provenance import code_version
from augmill.flows.terminal import print_lines
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.rows.shown import clusters
from augmill.tasks.store.attempts import LEASE, utc_now
from augmill.tasks.store.log import read_log, rollback
from augmill.tasks.store.store import Store

GOLDEN = """\
tiny: 34 snapshot(s), 2026-09-28 to 2026-10-31

  September 2026                   October 2026
  Mo  Tu  We  Th  Fr  Sa  Su       Mo  Tu  We  Th  Fr  Sa  Su
  28P 29R 30K                                   1P  2F  3I  4W
                                    5-  6-  7-  8S  9P 10R 11R
                                   12P 13P 14P 15P 16P 17P 18P
                                   19P 20P 21P 22P 23P 24P 25P
                                   26P 27P 28P 29P 30P 31P

  P published, the mix 23   R released, real rows 3   K kept 1   S stale 1
  - missing 3   I interrupted 1   F failed 1   W withdrawn 1

  2026-09-29  released (inconclusive): real rows.
  2026-09-30  kept (unsound_source): unsound_source it is.
    Fix the source; the current release stays.
  2026-10-02  failed (DataError): source: error it is; release 0123456789abcdef
    stands.
    mend it; then: augmill backfill recipe.yaml --from 2026-10-02 --to
    2026-10-02 --reprocess failed
  2026-10-03  interrupted: killed, or cut off: no sign of life since
    2026-11-01T04:00:00+00:00.
    To go on where it stopped: augmill backfill recipe.yaml --from 2026-10-03
    --to 2026-10-03
  2026-10-04  withdrawn: rolled back: wrong labels.
    It was taken back and will not be made again as it was: change the recipe or
    the source.
  2026-10-05 to 2026-10-07 (3)  missing: never run.
    To make it: augmill backfill recipe.yaml --from 2026-10-05 --to 2026-10-07
  2026-10-08  stale (published): the recipe changed.
    To make it again: augmill backfill recipe.yaml --from 2026-10-08 --to
    2026-10-08 --reprocess changed-recipe
  2026-10-10  released (harmful): real rows.
  2026-10-11  released (not_produced): not_produced it is.
    To go on where it stopped: augmill backfill recipe.yaml --from 2026-10-11
    --to 2026-10-11 --reprocess failed
  2026-10-31  released (published): published it is; a new release is staged.
    The backfill that staged it switches to it when it is run again.
Current: release 0123456789abcdef
"""


def fill(store: Store) -> None:
    """34 nights: one of each kind, the others published."""
    tried(store, "2026-09-28")
    tried(store, "2026-10-04")
    rollback(store, "tiny", to=None, reason="wrong labels", command="test")
    tried(store, "2026-09-29", "inconclusive")
    tried(
        store, "2026-09-30", "unsound_source", action="keep_current", next="Fix the source; the current release stays."
    )
    tried(store, "2026-10-01")
    tried(store, "2026-10-02")
    tried(store, "2026-10-02", "error", action="none")
    begun(store, "2026-10-03", ago=LEASE)
    tried(store, "2026-10-08", about={"recipe": "older"})
    for day in range(9, 32):
        ended: dict[int, dict[str, Any]] = {
            10: {"outcome": "harmful"},
            11: {"outcome": "not_produced", "cut_short": True},
        }
        tried(store, f"2026-10-{day:02}", **ended.get(day, {}))
    tried(store, "2026-10-31", pending={"snapshot": "2026-10-31"})


def shown(recipe: Recipe, store: Store, **options: Any) -> str:
    log = read_log(store, "tiny")
    view = options.pop("view", {"2026-09-28": (1, "v")})
    problem = options.pop("problem", None)
    states = snapshot_states(recipe, store, view, log, **({"now": utc_now()} | options))
    written = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", written)
        print_lines(page(recipe, log, states, problem, "recipe.yaml"))
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:+]+", "2026-11-01T04:00:00+00:00", written.getvalue())
    return re.sub(r"\b[0-9a-f]{16}\b", "0123456789abcdef", text)


def test_the_calendar_and_what_to_do(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    fill(store)
    text = shown(RECIPE, store, last="2026-10-31")
    assert text == GOLDEN
    assert max(map(len, text.splitlines())) <= 80


def test_what_an_unfinished_backfill_still_does_is_advised_by_its_own_command(tmp_path: Path) -> None:
    """Another command would begin another backfill, and what is staged would wait on."""
    store = Store(str(tmp_path / "store"))
    days = [f"2026-10-0{number}" for number in range(1, 7)]
    for day in days[:4]:
        tried(store, day, about={"recipe": "older"})
    request = BackfillRequest(first=days[0], last=days[4], reprocess="changed-recipe", order="newest")
    about = {
        "dataset": "tiny",
        "time": "2026-11-01T00:00:00+00:00",
        "code": code_version(RECIPE),
        "request": request.key(),
        "publish": "together",
    }
    lines = tuple(
        PlannedSnapshot(day, "stale", "the recipe changed", known=0 if day < days[4] else -1) for day in days[:5]
    )
    held = BackfillPlan("20261101T000000-abc", "backfill", recipe=RECIPE.hash(), lines=lines, **about)
    write_plan(store, replace(held, id="20261101T000001-def", recipe="older"))
    write_plan(store, replace(held, id="20261101T000002-fed", kind="nightly"))
    write_plan(store, held)
    tried(store, days[3], pending={"snapshot": days[3]}, about={"backfill": held.id})
    tried(store, days[1], "error", action="none", about={"backfill": held.id})
    tried(store, days[2], about={"backfill": held.id})
    log, now = read_log(store, "tiny"), utc_now()
    states = snapshot_states(RECIPE, store, {days[0]: (1, "v")}, log, now=now, last=days[5])
    left = left_to_do(store, RECIPE, states, now)
    assert {day: plan.id for day, plan in left.items()} == dict.fromkeys([*days[:2], *days[3:5]], held.id)
    found = page(RECIPE, log, states, None, "my recipe.yaml", left)
    text = " ".join(" ".join("".join(piece for piece, _ in line) for line in found).split())
    command = (
        f"augmill backfill 'my recipe.yaml' --from {days[0]} --to {days[4]} --reprocess changed-recipe --order newest"
    )
    assert text.count(f"{command} That goes on with the unfinished backfill {held.id}.") == 4
    assert f"To make it: augmill backfill my recipe.yaml --from {days[5]} --to {days[5]}" in text
    write_end(store, held, {})
    assert list(unfinished(store, "tiny")) == [replace(held, id="20261101T000001-def", recipe="older")]


def test_what_is_no_day_stands_in_columns(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    weekly = dated(every="week")
    tried(store, "2026-W39", about={"recipe": weekly.hash()})
    text = shown(weekly, store, view={"2026-W39": (1, "v")}, now=datetime(2026, 10, 26, tzinfo=UTC))
    assert "\n  2026-W39 P  2026-W40 -  2026-W41 -  2026-W42 -  2026-W43 -\n" in text
    keyed = dated(every="key")
    names = {"\N{SNOWMAN}" * 60: (1, "v"), "../x": (1, "v"), "red\x1b[31m": (1, "v")}
    text = shown(keyed, store, view=names)
    assert "\n  ../x  " in text and "\x1b" not in text and max(map(len, text.splitlines())) <= 80


def test_a_source_that_cannot_be_read_is_said_and_the_store_told(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    tried(store, "2026-10-01")
    text = shown(RECIPE, store, view=None, last="2026-10-02", problem="rows: no file matches")
    assert "The source cannot be used: rows: no file matches" in text
    assert "   1P  2-" in text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recipe by day whose source and store are there."""
    rows = ["text,label,day", *(f"some words {at},{'ab'[at % 2]},2026-10-{1 + at % 2:02}" for at in range(40))]
    (tmp_path / "rows.csv").write_text("\n".join(rows) + "\n")
    columns = {"text": "text", "label": "label", "partition": "day"}
    schedule = {"freshness": "36h"}
    write_recipe(tmp_path, columns=columns, partitions={"every": "day"}, schedule=schedule)
    (tmp_path / "store").mkdir()
    return tmp_path


def test_the_command_tells_every_snapshot_of_the_source_as_text_and_as_json(folder: Path) -> None:
    store = Store(str(folder / "store"))
    release = tried(store, "2026-10-02", about={"recipe": "older"})
    ended = augmill("status", folder / "recipe.yaml", "--to", "2026-10-03")
    assert ended.code == 0 and "   1-  2S  3-" in ended.out
    assert ended.last["counts"] == {"missing": 2, "stale": 1} and ended.last["current"] == release
    ended = augmill("status", folder / "recipe.yaml", "--from", "2026-10-02", "--to", "2026-10-03", "--json")
    (line,) = ended.out.splitlines()
    found = json.loads(line)["snapshots"]
    assert [(one["snapshot"], one["state"], one["changed"]) for one in found] == [
        ("2026-10-02", "stale", ["recipe"]),
        ("2026-10-03", "missing", []),
    ]
    assert found[0]["release"] == release


def test_a_column_of_the_terminal_cuts_no_character_apart() -> None:
    from augmill.flows.cli import terminal

    text = "ab👨‍👩‍👧‍👦🇩🇪नमस्ते❤️‍🔥1️⃣"
    for width in range(1, 24):
        cut = terminal.shown(text, width)
        assert cut == text or (cut.endswith("…") and clusters(text)[: len(clusters(cut)) - 1] == clusters(cut)[:-1])
    assert terminal.shown("a\u200db\x1b") == "a\\u200db\\u001b"


def test_what_cannot_be_shown_is_refused(folder: Path) -> None:
    recipe = folder / "recipe.yaml"
    refused(augmill("status", recipe, "--from", "yesterday"), 2, ["--from", "'yesterday'", "2026-10-01"])
    refused(augmill("status", recipe, "--store", folder / "nowhere"), 2, ["nowhere", "augmill run"])
    assert not (folder / "nowhere").exists()


def test_check_ends_with_10_and_one_line_where_a_monitor_should_wake_somebody(folder: Path) -> None:
    recipe, store = folder / "recipe.yaml", Store(str(folder / "store"))
    (folder / "rows.csv").unlink()  # the store alone is looked at
    ended = augmill("status", recipe, "--check")
    assert (ended.code, ended.out.splitlines()[0]) == (10, "tiny: there is no release yet")
    day = (utc_now().date() - timedelta(days=1)).isoformat()
    tried(store, day)
    before = fingerprint(folder)
    ended = augmill("status", recipe, "--check")
    assert (ended.code, ended.out.splitlines()[0], ended.last["outcome"]) == (0, "tiny: ok", "ok")
    assert fingerprint(folder) == before
    tried(store, day, "error", action="none")
    ended = augmill("status", recipe, "--check")
    assert ended.code == 10 and ended.out.startswith(f"tiny: {day} DataError: source: error it is; release")
    assert ended.last == {"outcome": "trouble", "dataset": "tiny", "reason": ended.out.splitlines()[0][6:]}
