"""What our own server keeps of our runs is bounded; what it keeps of others' is not ours to touch."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

# Five runs of ours and one of somebody else's, each with tasks, a log line and an artifact, against a server of our own.
RUNS = textwrap.dedent("""
    import logging
    from augmill.flows.orchestration.orchestrate import open_orchestrator
    from augmill.flows.progress import Artifacts
    from augmill.flows.orchestration.logs import quiet_logging

    with quiet_logging(), open_orchestrator("prefect") as orchestrator:
        for number in range(6):
            def body():
                logging.getLogger("augmill").info("number %d", number)
                orchestrator.map(lambda item: item, range(3), limit=1, name=lambda item: f"shard {item}", tags=["augmill"])
                Artifacts(orchestrator).markdown(f"augmill-{number}", "text")
            tags = ["augmill", "tiny"] if number else ["augmill-like"]
            orchestrator.run(body, name="augment", run_name=f"run {number}", tags=tags)
""")
SWEEP = textwrap.dedent("""
    import asyncio, sys
    from augmill.flows.orchestration import retention as kept
    kept.KEEP_RUNS, kept.KEEP_DAYS, kept.SPARE = int(sys.argv[1]), float(sys.argv[2]), 0
    print(asyncio.run(kept.sweep()))
""")


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


@pytest.mark.slow
def test_old_runs_of_ours_go_with_all_that_hangs_on_them_and_nobody_elses(
    tmp_path: Path, clean_environment: dict[str, str]
) -> None:
    run(RUNS, tmp_path, clean_environment)
    before = counts(tmp_path)
    assert (before["flow_run"], before["task_run"], before["artifact_collection"]) == (6, 18, 6), before
    assert before["log"] >= 6 and before["events"] > 18
    assert run(SWEEP, tmp_path, clean_environment, 100, 30).split() == ["0"]
    assert counts(tmp_path) == before
    assert run(SWEEP, tmp_path, clean_environment, 2, 30).split() == ["3"]
    after = counts(tmp_path)
    for table, count in before.items():
        assert after[table] == pytest.approx(count / 2, abs=count / 12), (table, before, after)
    with sqlite3.connect(tmp_path / "prefect.db") as database:
        left = {name for (name,) in database.execute("select name from flow_run")}
        loose = database.execute(
            "select count(*) from event_resources where event_id not in (select id from events)"
        ).fetchone()[0]
        free = database.execute("pragma freelist_count").fetchone()[0]
    assert left == {"run 0", "run 4", "run 5"} and loose == 0, json.dumps(after)
    assert run(SWEEP, tmp_path, clean_environment, 100, 0).split() == ["2"]  # by age, whatever their number
    assert counts(tmp_path)["flow_run"] == 1
    assert free >= 0
