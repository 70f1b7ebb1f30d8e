"""Inside somebody else's flow: our runs are runs within theirs, and their logging is theirs again afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from commands import write_recipe
from recorded import asking, children_of, flow_runs, logs, wait_until

# A flow of somebody's own, plain or asynchronous, that runs a recipe by the function, and by our flow.
HOST = textwrap.dedent("""
    import logging, json, sys

    from prefect import flow, get_run_logger

    from augmill.flows.augment import augment, run_recipe
    from augmill.tasks.recipe.recipe import load_recipe

    recipe, store, kind = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, format="host: %(message)s", force=True)
    NAMES = (None, "augmill", "prefect", "prefect.flow_runs", "somebody")

    def logging_now():
        of = map(logging.getLogger, NAMES)
        return [[logger.name, logger.level, logger.propagate, [id(handler) for handler in logger.handlers]] for logger in of]

    def work():
        before = logging_now(), logging.raiseExceptions
        told = [run_recipe(load_recipe(recipe, store=store), orchestrator="prefect")["outcome"]]
        told.append(augment(recipe=recipe, store=store)["outcome"])
        after = logging_now(), logging.raiseExceptions
        get_run_logger().info("told in the run afterwards")
        logging.getLogger("somebody").info("said on the terminal afterwards")
        print(json.dumps({"outcomes": told, "before": before, "after": after}))

    if kind == "plain":
        @flow(name="host", flow_run_name="host plain")
        def host():
            work()
        host()
    else:
        import asyncio

        @flow(name="host", flow_run_name="host asynchronous")
        async def host():
            work()
        asyncio.run(host())
""")


@pytest.mark.parametrize("kind", ["plain", "asynchronous"])
def test_a_run_within_another_flow_is_recorded_so_and_gives_its_logging_back(
    prefect_api: str, tmp_path: Path, kind: str
) -> None:
    recipe = write_recipe(tmp_path, target={"balance": 1})
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-W",
            "ignore::ResourceWarning",
            "-c",
            HOST,
            str(recipe),
            str(tmp_path / "store"),
            kind,
        ],
        env=os.environ | {"PREFECT_API_URL": prefect_api},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "never awaited" not in done.stderr and "Traceback" not in done.stderr, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["after"] == told["before"] and len({*told["outcomes"]}) == 1
    assert "host: said on the terminal afterwards" in done.stderr
    with asking() as client:
        host = flow_runs(client, f"host {kind}")[-1]
        assert host.state_name == "Completed"
        assert [(run.name, run.state_name) for run in children_of(client, host, 2)] == [
            ("all tiny", "Nothing to make")
        ] * 2
        wait_until(lambda: "told in the run afterwards" in [line.message for line in logs(client, host)])
