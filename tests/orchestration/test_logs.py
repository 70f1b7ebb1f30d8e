"""Logging is the host's: ours is quiet and plain while it lasts, and leaves everything as it was."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

LOGGERS = ["", "augmill", "augmill.progress", "prefect", "prefect.flow_runs", "prefect.task_runs", "prefect.events"]
STATE = textwrap.dedent(f"""
    import logging, sys

    def state():
        loggers = [logging.getLogger(name) for name in {LOGGERS!r}]
        kept = [(each.name, each.handlers[:], each.level, each.propagate, each.disabled) for each in loggers]
        levels = [handler.level for each in loggers for handler in each.handlers]
        return kept, levels, logging.raiseExceptions, logging.lastResort
""")
# Somebody's program: logging of its own, a flow of its own, ours in the middle of it; then the same within an event loop.
HOST = STATE + textwrap.dedent("""
    import asyncio
    logging.basicConfig(level=logging.INFO, format="HOST %(name)s %(message)s", stream=sys.stdout)
    from prefect import flow, get_run_logger
    from augmill.flows.orchestration.api import open_api
    from augmill.flows.orchestration.logs import quiet_logging

    def ours():
        before = state()
        with quiet_logging(), open_api("prefect") as api:
            assert api.recording and api.still_there()
            get_run_logger().info("theirs, inside")
            logging.getLogger("augmill").info("ours")
            logging.getLogger("augmill.progress").info("a stage of ours")
        assert state() == before

    @flow(name="theirs", flow_run_name=sys.argv[1])
    def theirs():
        get_run_logger().info("theirs, before")
        ours()
        get_run_logger().info("theirs, after")
        logging.getLogger("host").info("of the host")

    async def in_a_loop():
        theirs()

    before = state()
    theirs()
    asyncio.run(in_a_loop())
    assert state() == before
    logging.getLogger("host").info("the end")
""")


def python(script: str, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", script, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_a_host_with_a_flow_of_its_own_keeps_its_logging(prefect_api: str, clean_environment: dict[str, str]) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName, LogFilter, LogFilterFlowRunId

    done = python(HOST, {**clean_environment, "PREFECT_API_URL": prefect_api}, "hosted")
    assert done.returncode == 0, done.stderr
    assert "never awaited" not in done.stdout + done.stderr
    lines = done.stdout.splitlines()
    for said in ("prefect.flow_runs theirs, before", "prefect.flow_runs theirs, after", "host of the host"):
        assert lines.count(f"HOST {said}") == 2, done.stdout
    assert "HOST host the end" in lines
    assert done.stderr.count("ours\n") == 2 and "a stage of ours" not in done.stdout + done.stderr
    with get_client(sync_client=True) as client:
        until, found = time.monotonic() + 30, set[str]()
        while len(found) < 6 and time.monotonic() < until:
            time.sleep(0.2)
            runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=["hosted"])))
            logs = client.read_logs(log_filter=LogFilter(flow_run_id=LogFilterFlowRunId(any_=[runs[0].id])))
            found = {log.message for log in logs} & {
                "theirs, before", "theirs, inside", "theirs, after", "ours", "a stage of ours", "of the host",
            }  # fmt: skip
    assert found == {"theirs, before", "theirs, inside", "theirs, after", "ours", "a stage of ours"}


def test_a_process_of_our_own_hears_nothing_of_prefect_and_has_its_logging_back(
    prefect_api: str, clean_environment: dict[str, str]
) -> None:
    script = STATE + textwrap.dedent("""
        from augmill.flows.orchestration.api import open_api
        from augmill.flows.orchestration.logs import prepare_prefect, quiet_logging

        prepare_prefect()
        import prefect.main
        from prefect import flow, get_run_logger

        @flow
        def ours():
            get_run_logger().warning("of the engine")

        before = state()
        with quiet_logging(), open_api("prefect"):
            ours()
            during = state()
        assert during != before and not during[2]
        assert state() == before
    """)
    done = python(script, {**clean_environment, "PREFECT_API_URL": prefect_api})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_stages_say_is_nowhere_where_there_is_no_page(clean_environment: dict[str, str]) -> None:
    script = STATE + textwrap.dedent("""
        from augmill.flows.orchestration.logs import quiet_logging
        before = state()
        with quiet_logging(prefect_too=False):
            logging.getLogger("augmill.progress").warning("a stage")
            logging.getLogger("augmill").warning("a warning")
        assert state() == before and "prefect" not in sys.modules
    """)
    done = python(script, clean_environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "Warning: a warning\n")


def test_help_is_quick_imports_no_prefect_and_makes_no_directory(
    clean_environment: dict[str, str], tmp_path: Path
) -> None:
    script = textwrap.dedent("""
        import atexit, sys
        sys.argv = ["augmill", "--help"]
        atexit.register(lambda: sys.stderr.write(str("prefect" in sys.modules)))
        from augmill.flows.cli import main
        main()
    """)
    home = tmp_path / "nothing" / "here"
    done = python(script, {**clean_environment, "PREFECT_HOME": str(home)})
    assert (done.returncode, done.stderr) == (0, "False") and "augmill" in done.stdout.lower()
    assert not home.parent.exists()


@pytest.mark.parametrize("used", [True, False])
def test_a_directory_that_cannot_be_written_is_said_once_where_prefect_is_used(
    clean_environment: dict[str, str], used: bool
) -> None:
    script = textwrap.dedent(f"""
        import os
        from augmill.flows.orchestration.logs import prepare_prefect, quiet_logging
        for _ in range(2):
            prepare_prefect()
            with quiet_logging(prefect_too={used}):
                pass
        assert os.environ["PREFECT_HOME"] != "/dev/null/prefect" and os.path.isdir(os.environ["PREFECT_HOME"])
        print(os.environ["PREFECT_HOME"])
    """)
    done = python(script, {**clean_environment, "PREFECT_HOME": "/dev/null/prefect"})
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Prefect's directory /dev/null/prefect cannot be written") == used
    assert not Path(done.stdout.strip()).exists()
