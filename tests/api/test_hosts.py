"""The library in somebody else's process: a script, a flow and its tasks, a notebook's kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import write_recipe
from recorded import asking, children_of, flow_runs, wait_until

SCRIPT = textwrap.dedent("""
    import json, sys
    import augmill

    recipe = sys.argv[1]
    told = [augmill.run(recipe, quiet=True) for _ in range(2)]
    print(json.dumps([[each.outcome, each.new, each.release.id] for each in told]))
""")

FLOW = textwrap.dedent("""
    import json, sys
    from prefect import flow, task
    import augmill

    recipe = sys.argv[1]

    @task
    def work():
        return augmill.run(recipe).outcome

    @flow(name="library host", flow_run_name="library host")
    def host():
        return [augmill.run(recipe).outcome, work(), work.submit().result()]

    print(json.dumps(host()))
""")


def python(program: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | environment,
    )


def test_a_script_runs_a_recipe_twice(tmp_path: Path) -> None:
    """Without `if __name__ == "__main__"`: workers do not import it."""
    ended = python(SCRIPT, write_recipe(tmp_path, target={"balance": 1}))
    assert ended.returncode == 0 and ended.stderr == "", ended.stderr
    first, second = json.loads(ended.stdout)
    assert first == ["not_produced", True, second[2]] and second[1] is False


def test_inside_a_flow_and_its_tasks_runs_are_recorded_within_it(prefect_api: str, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, target={"balance": 1})
    ended = python(FLOW, recipe, PREFECT_API_URL=prefect_api)
    assert ended.returncode == 0 and "Traceback" not in ended.stderr, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1]) == ["not_produced"] * 3
    with asking() as client:
        host = flow_runs(client, "library host")[-1]
        within = children_of(client, host, 3)
        assert host.state_name == "Completed" and len(flow_runs(client, "all tiny")) >= 3
        assert ("all tiny", "Nothing to make") in {(run.name, run.state_name) for run in within}


@pytest.mark.slow
def test_inside_a_flow_on_a_temporary_server_runs_go_unrecorded(
    clean_environment: dict[str, str], tmp_path: Path
) -> None:
    """A server of our own beside theirs would know nothing of their flow."""
    recipe = write_recipe(tmp_path, target={"balance": 1})
    program = FLOW.replace("augmill.run(recipe)", "augmill.run(recipe, orchestrator=sys.argv[2] or None)")
    for orchestrator in ("", "prefect"):
        ended = subprocess.run(
            [sys.executable, "-c", program, str(recipe), orchestrator],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env=clean_environment | {"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "200"},
        )
        if orchestrator:
            assert ended.returncode and "set PREFECT_API_URL" in ended.stderr, ended.stderr
        else:
            assert json.loads(ended.stdout.splitlines()[-1]) == ["not_produced"] * 3, ended.stderr


# --- A notebook -------------------------------------------------------------------------------------------------------


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Any]:
    """A client of an IPython kernel, whose main thread has a running loop."""
    pytest.importorskip("ipykernel")
    from jupyter_client.blocking.client import BlockingKernelClient

    connection = tmp_path / "kernel.json"
    with subprocess.Popen(
        [sys.executable, "-m", "ipykernel_launcher", "-f", str(connection)],
        env=os.environ | {"JUPYTER_RUNTIME_DIR": str(tmp_path), "IPYTHONDIR": str(tmp_path / "ipython")},
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        wait_until(lambda: connection.exists() and connection.read_text().endswith("}"), 120)
        client = BlockingKernelClient(connection_file=str(connection))
        client.load_connection_file()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=120)
            yield client
        finally:
            client.stop_channels()
            client.context.destroy(linger=0)
            process.kill()


def cell(client: Any, code: str) -> list[dict[str, Any]]:
    """What the kernel's outputs are: messages' types and contents."""
    found: list[dict[str, Any]] = []

    def hear(message: dict[str, Any]) -> None:
        found.append({"type": message["msg_type"], **message["content"]})

    reply = client.execute_interactive(code, output_hook=hear, timeout=300)
    assert reply["content"]["status"] == "ok", found
    return found


def test_a_notebook_shows_results_and_nothing_is_drawn_over_it(kernel: Any, tmp_path: Path) -> None:
    write_recipe(tmp_path, target={"balance": 1})
    code = "import asyncio, augmill; asyncio.get_running_loop(); augmill.run('recipe.yaml')"
    outputs = cell(kernel, code)
    (shown,) = [each for each in outputs if each["type"] == "execute_result"]
    assert "<table>" in shown["data"]["text/html"] and shown["data"]["text/plain"].startswith("<RunResult: ")
    streams = [each for each in outputs if each["type"] == "stream"]
    assert {each["name"] for each in streams} == {"stderr"}  # a line per stage
    assert not {"\r", "\x1b"} & {*"".join(each["text"] for each in streams)}
    assert not [each for each in outputs if each["type"] in ("display_data", "update_display_data", "clear_output")]
    again = cell(kernel, "augmill.run('recipe.yaml', quiet=True)")
    assert [each["type"] for each in again if each["type"] != "status"] == ["execute_input", "execute_result"]
    train = cell(kernel, "augmill.releases('recipe.yaml')[0].to_polars().height")
    assert int(train[-2]["data"]["text/plain"]) > 0
