"""What our own server keeps of our runs is bounded; what it keeps of others' is not ours to touch."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

# Five runs of ours and one of somebody else's, each with tasks, a log line and an artifact, against a server of our own.
RUNS = textwrap.dedent("""
    import logging, tempfile
    from pathlib import Path
    from prefect import flow, tags
    from augmill.flows.flow import OwnFlow, call_flow
    from augmill.flows.progress import Progress
    from augmill.flows.run import new_run, open_session
    from augmill.flows.step import step
    from augmill.tasks.boundary.retries import STAGE
    from augmill.tasks.recipe.recipe import build_recipe

    @step(STAGE, "{item}")
    def square(call, *, item):
        return item * item

    def body(run, number):
        logging.getLogger("augmill").info("number %d", number)
        for item in range(3):
            square(run, item=item)
        run.artifacts.markdown(f"augmill-{number}", "text")
        return {"outcome": "done", "reason": ""}

    store = Path(tempfile.mkdtemp())
    document = {"dataset": "x", "source": {"path": "rows.csv"}, "columns": {"text": "text", "label": "label"}}
    document |= {"target": {"per_class": 1}, "generators": [{"use": "rules"}], "run": {"store": str(store)}}
    with open_session(build_recipe(document, base=store), command="test") as session:
        for number in range(6):
            run = new_run(session, session.recipe, None, Progress(live=False, quiet=True))
            if number:
                call_flow(session, OwnFlow(lambda: body(run, number), f"run {number}", "augment"))
            else:  # somebody else's
                with tags("augmill-like"):
                    flow(name="other", flow_run_name="run 0", persist_result=False)(lambda: body(run, 0))()
""")
SWEEP = textwrap.dedent("""
    import asyncio, sys
    from augmill.flows.orchestration import retention as kept
    kept.KEEP_RUNS, kept.KEEP_DAYS, kept.SPARE = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    print(asyncio.run(kept.sweep()))
""")


NEVER = 1e12  # bytes that lie free before the file is packed
MB = 1_000_000


def run(code: str, home: Path, environment: dict[str, str], *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    around = {**environment, "PREFECT_HOME": str(home)}
    return subprocess.run(command, env=around, capture_output=True, text=True, timeout=200, check=True).stdout


def counts(home: Path) -> dict[str, int]:
    with sqlite3.connect(home / "prefect.db") as database:
        return {
            table: database.execute(f"select count(*) from {table}").fetchone()[0]
            for table in ("flow_run", "task_run", "log", "artifact", "artifact_collection", "events", "event_resources")
        }


def pages(home: Path) -> tuple[int, int]:
    """(bytes of the file, bytes of it that lie free)."""
    with contextlib.closing(sqlite3.connect(home / "prefect.db")) as database:
        size, count, free = [
            database.execute(f"pragma {name}").fetchone()[0] for name in ("page_size", "page_count", "freelist_count")
        ]
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
    return size * count, size * free


@pytest.mark.slow
def test_old_runs_of_ours_go_with_all_that_hangs_on_them_and_nobody_elses(
    tmp_path: Path, clean_environment: dict[str, str]
) -> None:
    run(RUNS, tmp_path, clean_environment)
    before = counts(tmp_path)
    assert (before["flow_run"], before["task_run"], before["artifact_collection"]) == (6, 18, 6), before
    assert before["log"] >= 6 and before["events"] > 18
    assert run(SWEEP, tmp_path, clean_environment, 100, 30, NEVER).split() == ["0"]
    assert counts(tmp_path) == before
    assert run(SWEEP, tmp_path, clean_environment, 2, 30, NEVER).split() == ["3"]
    after = counts(tmp_path)
    for table, count in before.items():
        assert after[table] == pytest.approx(count / 2, abs=count / 12), (table, before, after)
    with sqlite3.connect(tmp_path / "prefect.db") as database:
        left = {name for (name,) in database.execute("select name from flow_run")}
        loose = database.execute(
            "select count(*) from event_resources where event_id not in (select id from events)"
        ).fetchone()[0]
    assert left == {"run 0", "run 4", "run 5"} and loose == 0, json.dumps(after)
    assert run(SWEEP, tmp_path, clean_environment, 100, 0, NEVER).split() == ["2"]  # by age, whatever their number
    assert counts(tmp_path)["flow_run"] == 1


@pytest.mark.slow
def test_free_pages_are_given_back_where_they_are_most_of_the_file_and_else_used_again(
    tmp_path: Path, clean_environment: dict[str, str]
) -> None:
    run(RUNS, tmp_path, clean_environment)
    full, _ = pages(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "prefect.db")) as database, database:
        database.execute("create table ballast as select zeroblob(40000000) as bytes")
    with contextlib.closing(sqlite3.connect(tmp_path / "prefect.db")) as database, database:
        database.execute("drop table ballast")
    ballasted, free = pages(tmp_path)
    assert ballasted >= full + 40 * MB and free >= 40 * MB

    assert run(SWEEP, tmp_path, clean_environment, 4, 30, 64 * MB).split() == ["1"]  # fewer lie free
    kept, free = pages(tmp_path)
    assert kept == ballasted and free > 40 * MB
    run(RUNS, tmp_path, clean_environment)
    assert pages(tmp_path)[0] == ballasted and pages(tmp_path)[1] < free  # new records, no larger file

    before = counts(tmp_path)["flow_run"]
    assert run(SWEEP, tmp_path, clean_environment, 3, 30, 1 * MB).split() == [str(before - 2 - 3)]  # 2 are another's
    packed, free = pages(tmp_path)
    assert packed < full and free < MB
    assert counts(tmp_path)["flow_run"] == 5
    assert run(SWEEP, tmp_path, clean_environment, 2, 30, 0).split() == ["1"]  # free, but less than half of the file
    assert pages(tmp_path)[0] == packed
