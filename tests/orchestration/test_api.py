"""Prefect's API may be mute or dead, at the start, in the middle or at the end: seconds, one warning, and all the data."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from relay import Relay

from augmill.flows.orchestration.api import Api, open_api

# A flow as ours are: asks before it begins and before it returns. Says where it is, and waits for an answer there.
RUN = textwrap.dedent("""
    import logging, sys, time
    from augmill.flows.orchestration.api import open_api
    from augmill.flows.orchestration.logs import quiet_logging

    def at(place):
        print(place, flush=True)
        sys.stdin.readline()

    def main():
        with quiet_logging(), open_api("prefect") as api:
            from prefect import artifacts, flow, task
            from prefect.cache_policies import NO_CACHE
            from prefect.exceptions import Abort

            @task(name="square", cache_policy=NO_CACHE, persist_result=False)
            def square(number):
                logging.getLogger("augmill.progress").info("number %d", number)
                return number * number

            done = []

            @flow(name="squares", flow_run_name=sys.argv[1], persist_result=False)
            def squares():
                at("first")  # before an event has told Prefect's queue about the flow
                for number in range(10):
                    if number == 5:
                        at("middle")
                        api.send(lambda: artifacts.create_markdown_artifact("half", key="half"))
                    done.append((square if api.recording else square.fn)(number))
                at("end")
                if not api.still_there():
                    raise Abort("the API is gone")

            at("start")
            if api.still_there():
                try:
                    squares()
                except Abort:
                    assert not api.recording
                except Exception as error:
                    api.report(error)
            else:
                done = [square.fn(number) for number in range(10)]
            print(done, api.recording, flush=True)

    main()
""")
SQUARES = [number * number for number in range(10)]


def run(environment: dict[str, str], name: str, url: str, act: dict[str, Any]) -> tuple[str, str, float]:
    """(what it says last, its stderr, seconds from the first of ``act``, called by place, to its end)."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", RUN, name],
        env={**environment, "PREFECT_API_URL": url},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        since, last = time.monotonic(), ""
        for line in process.stdout:
            if (last := line.strip()) in ("start", "first", "middle", "end"):
                if last in act:
                    act[last]()
                    since = time.monotonic()
                process.stdin.write("\n")
                process.stdin.flush()
        errors = process.stderr.read()
    assert process.returncode == 0, errors
    return last, errors, time.monotonic() - since


@pytest.mark.parametrize("place", ["start", "first", "middle", "end"])
@pytest.mark.parametrize("how", ["mute", "dead"])
def test_an_api_lost_on_the_way_costs_seconds_and_one_warning(
    prefect_api: str, clean_environment: dict[str, str], place: str, how: str
) -> None:
    with Relay(prefect_api) as relay:
        act = {place: relay.silent.set if how == "mute" else relay.die}
        last, errors, seconds = run(clean_environment, f"{how} {place}", relay.url, act)
    assert last == f"{SQUARES} False"
    assert errors.count("\n") == 1 and errors.startswith("Warning: Prefect's API does not answer"), errors
    assert seconds < 40  # on a quiet machine at most 10; it was 93 to 114


def test_what_a_run_sends_is_recorded_in_full(prefect_api: str, clean_environment: dict[str, str]) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName, LogFilter, LogFilterFlowRunId

    last, errors, _ = run(clean_environment, "in full", prefect_api, {})
    assert (last, errors) == (f"{SQUARES} True", "")
    with get_client(sync_client=True) as client:
        (flow,) = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=["in full"])))
        until = time.monotonic() + 30  # the server records task runs from events, a second or so later
        states: list[str | None] = []
        while states != ["Completed"] * 10 and time.monotonic() < until:
            time.sleep(0.1)
            tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id={"any_": [flow.id]}))
            states = [task.state_name for task in tasks]
        logs = client.read_logs(log_filter=LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow.id])))
    assert (flow.state_name, states) == ("Completed", ["Completed"] * 10)
    assert sorted(log.message for log in logs if log.name == "augmill.progress") == [f"number {n}" for n in range(10)]


def test_an_error_while_the_api_is_there_costs_that_record_only(prefect_api: str) -> None:
    api = Api()

    def refuse() -> None:
        raise ValueError("no such artifact")

    assert api.send(refuse) is None
    assert api.recording and api.send(lambda: 7) == 7


def test_what_many_threads_find_lost_at_once_is_said_once(prefect_api: str, caplog: pytest.LogCaptureFixture) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    api = Api()

    def find(_: int) -> bool:
        with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
            api.report(OSError("reset"))
        return api.recording

    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(8) as pool:
        assert not any(pool.map(find, range(8)))
    said = {id(record): record.message for record in caplog.records if "goes on without it" in record.message}
    assert len(said) == 1
    assert not api.still_there() and api.send(lambda: 7) is None  # for the session, though the API is back


def test_a_run_without_prefect_records_nothing_and_imports_none_of_it(clean_environment: dict[str, str]) -> None:
    with open_api("none") as api:
        assert not api.recording and not api.still_there() and api.send(lambda: 7) is None
    script = (
        "import sys\nfrom augmill.flows.orchestration.api import open_api\n"
        "with open_api('none'): print('prefect' in sys.modules)"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=clean_environment, capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout == "False\n"


def test_settings_of_the_user_outlast_ours(clean_environment: dict[str, str], tmp_path: Path) -> None:
    script = textwrap.dedent("""
        from augmill.flows.orchestration.client import patience
        from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_CLIENT_MAX_RETRIES
        with patience(), patience(retries=0):
            print(PREFECT_API_REQUEST_TIMEOUT.value(), PREFECT_CLIENT_MAX_RETRIES.value())
    """)
    environment = {**clean_environment, "PREFECT_HOME": str(tmp_path)}
    for given, said in (({}, "4.0 0\n"), ({"PREFECT_API_REQUEST_TIMEOUT": "33"}, "33.0 0\n")):
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, env=environment | given, capture_output=True, text=True, timeout=240, check=True)
        assert done.stdout == said
