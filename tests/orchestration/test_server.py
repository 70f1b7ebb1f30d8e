"""Our own Prefect server: it ends with its run, two may start at once, and it says nothing the user cannot use."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from chain import recipe_document, write_rows
from recorded import wait_until
from relay import Relay

# Prints the server's process and its address, runs a flow of three tasks, and waits where the test wants to kill it.
RUN = textwrap.dedent("""
    import json, sys, time
    from pathlib import Path
    from augmill.flows.orchestration.logs import prepare_prefect
    prepare_prefect()  # as the command line does before anything imports Prefect
    from augmill.flows.flow import OwnFlow, call_flow
    from augmill.flows.progress import Progress
    from augmill.flows.run import new_run, open_session
    from augmill.flows.signals import leave
    from augmill.flows.step import map_bounded, step
    from augmill.tasks.boundary.retries import STAGE
    from augmill.tasks.recipe.recipe import build_recipe

    @step(STAGE, "{item}")
    def square(call, *, item):
        return item * item

    def whole():
        print(json.dumps({"servers": servers, "done": squares(range(3))}), flush=True)
        time.sleep(float(sys.argv[1]))
        return {"outcome": "done", "reason": f"{squares(range(int(sys.argv[1]) and 3))}"}

    def squares(items):
        return map_bounded(lambda item: square(run, item=item), list(items), run.stop, limit=2)

    try:
        store = Path(sys.argv[2])
        document = {"dataset": "x", "source": {"path": "rows.csv"}, "columns": {"text": "text", "label": "label"}}
        document |= {"target": {"per_class": 1}, "generators": [{"use": "rules"}], "run": {"store": str(store)}}
        with open_session(build_recipe(document, base=store), command="test") as session:
            import psutil
            servers = [child.pid for child in psutil.Process().children()]
            run = new_run(session, session.recipe, None, Progress(live=False, quiet=True))
            call_flow(session, OwnFlow(whole, "x@1", "augment"))
    except KeyboardInterrupt as interrupt:
        sys.stderr.write("interrupted\\n")
        leave(130)
""")


def command(home: Path, seconds: float = 0) -> list[str]:
    return [sys.executable, "-W", "error", "-c", RUN, str(seconds), str(home / "store")]


def start(home: Path, environment: dict[str, str], seconds: float = 0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(home, seconds),
        env={**environment, "PREFECT_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def first_line(process: subprocess.Popen[str]) -> dict[str, list[int]]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    value: dict[str, list[int]] = json.loads(line)
    return value


def lines(errors: str) -> list[str]:
    """But for the wait itself, where a busy machine starts the server late."""
    return [line for line in errors.splitlines() if "waiting for Prefect's server" not in line]


def gone(pids: list[int], within: float) -> bool:
    until = time.monotonic() + within
    while any(psutil.pid_exists(pid) for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def states(home: Path) -> tuple[list[str], list[str]]:
    """(flow runs' states, task runs' states) as ``prefect server start`` would show them."""
    with sqlite3.connect(home / "prefect.db") as database:
        flows = [name for (name,) in database.execute("SELECT state_name FROM flow_run ORDER BY start_time")]
        tasks = [name for (name,) in database.execute("SELECT state_name FROM task_run")]
    database.close()
    return flows, tasks


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, clean_environment: dict[str, str]) -> Path:
    """A Prefect home on which two runs have started at once while it was fresh."""
    directory = tmp_path_factory.mktemp("prefect")
    both = [start(directory, clean_environment) for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=240)
        assert (process.returncode, lines(errors)) == (0, [])
    return directory


@pytest.mark.slow
def test_two_runs_that_start_at_once_on_a_fresh_home_are_both_recorded_in_full_and_silent(home: Path) -> None:
    flows, tasks = states(home)
    assert flows[:2] == ["Done"] * 2
    assert tasks[:6] == ["Completed"] * 6


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_soon_is_recorded_as_cancelled_and_leaves_no_server(
    home: Path, clean_environment: dict[str, str], number: signal.Signals
) -> None:
    process = start(home, clean_environment, seconds=600)
    servers = first_line(process)["servers"]
    os.killpg(process.pid, number)  # as a terminal does
    _, errors = process.communicate(timeout=240)
    assert (process.returncode, lines(errors)) == (130, ["interrupted"])
    assert gone(servers, within=60)
    flows, tasks = states(home)
    assert flows[-1] == "Cancelled"
    assert set(tasks) == {"Completed"}


@pytest.mark.slow
def test_the_server_does_not_outlive_a_killed_run(home: Path, clean_environment: dict[str, str]) -> None:
    process = start(home, clean_environment, seconds=60)
    servers = first_line(process)["servers"]
    assert len(servers) == 1
    process.kill()
    process.communicate()
    assert gone(servers, within=60)


@pytest.mark.slow
def test_a_server_that_dies_costs_its_records_only(home: Path, clean_environment: dict[str, str]) -> None:
    process = start(home, clean_environment, seconds=1)
    os.kill(first_line(process)["servers"][0], signal.SIGKILL)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0
    (said,) = lines(errors)
    assert said.startswith("Warning: Prefect's API does not answer")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"PREFECT_HOME": "/dev/null/prefect"}, "Prefect's directory /dev/null/prefect cannot be written"),
        ({"PREFECT_API_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:////dev/null/x.db"}, "server did not start"),
    ],
)
def test_where_prefect_cannot_keep_its_records_the_run_says_so_and_completes(
    home: Path, clean_environment: dict[str, str], broken: dict[str, str], said: str
) -> None:
    environment = {**clean_environment, "PREFECT_HOME": str(home), **broken}
    done = subprocess.run(command(home), env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["done"] == [0, 1, 4]
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@contextlib.contextmanager
def stranger(answer: bytes | None) -> Iterator[str]:
    """An address that accepts, and says ``answer`` to whatever it is asked, or nothing at all."""
    kept = []  # an open connection, not a closed one

    def talk() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                kept.append(connection)
                if answer is not None:
                    connection.recv(65536)
                    connection.sendall(answer)
                    connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=talk, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/api"


def _page(status: str, body: str, kind: str) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return (head + body).encode()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        pytest.param(None, "no answer within 8 s", marks=pytest.mark.slow),
        (b"", "cannot be used"),
        (_page("401 No", "{}", "application/json"), "HTTP 401"),
        *(
            pytest.param(answer, said, marks=pytest.mark.slow)
            for answer, said in (
                (_page("500 Oops", "<html>", "text/html"), "HTTP 500"),
                (_page("200 OK", "<html>hello</html>", "text/html"), "cannot be used"),
                (_page("302 Found\r\nLocation: http://127.0.0.1:9/", "", "text/html"), "cannot be used"),
            )
        ),
    ],
)
def test_an_address_that_is_no_api_of_prefects_costs_one_warning(
    tmp_path: Path, clean_environment: dict[str, str], answer: bytes | None, said: str
) -> None:
    """Also one that accepts and says nothing: it held a run for ten minutes, in silence."""
    with stranger(answer) as plain:
        url = plain.replace("//", "//me:hunter2@")
        environment = {**clean_environment, "PREFECT_HOME": str(tmp_path), "PREFECT_API_URL": url}
        done = subprocess.run(
            command(tmp_path), env=environment, capture_output=True, text=True, timeout=240, check=False
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"servers": [], "done": [0, 1, 4]}
    assert said in done.stderr and done.stderr.count("Warning: ") == 1 and "hunter2" not in done.stderr


def test_a_refused_connection_costs_one_warning(tmp_path: Path, clean_environment: dict[str, str]) -> None:
    with stranger(b"") as url:
        pass
    environment = {**clean_environment, "PREFECT_HOME": str(tmp_path), "PREFECT_API_URL": url}
    done = subprocess.run(command(tmp_path), env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0 and json.loads(done.stdout)["done"] == [0, 1, 4]
    assert done.stderr.count("Warning: ") == 1 and "cannot be used" in done.stderr


@pytest.mark.parametrize("when", ["attempts/**/start.json", "manifests/split/*", "_log/*.json"])
def test_an_api_that_falls_silent_in_mid_run_costs_its_records_and_one_warning(
    prefect_api: str, clean_environment: dict[str, str], tmp_path: Path, when: str
) -> None:
    """Connections stay open and new ones are accepted; nothing is answered any more."""
    path, store = tmp_path / "tiny.yaml", tmp_path / "store"
    document = recipe_document(write_rows(tmp_path / "rows.csv")) | {"run": {"threads": 1, "store": str(store)}}
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    with Relay(prefect_api) as relay, (tmp_path / "stderr").open("w+", encoding="utf-8") as errors:
        environment = {**clean_environment, "PREFECT_HOME": str(tmp_path / "home"), "PREFECT_API_URL": relay.url}
        command = [str(Path(sys.executable).with_name("augmill")), "run", str(path)]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
        while not list(store.rglob(when)) and process.poll() is None:
            time.sleep(0.01)
        relay.silent.set()
        started = time.monotonic()
        out, _ = process.communicate(timeout=300)
        seconds = time.monotonic() - started
        errors.seek(0)
        said = errors.read()
    assert process.returncode == 0, said
    assert said.count("Warning: ") == 1 and "Prefect's API does not answer" in said and "Traceback" not in said, said
    assert (store / "public/tiny/releases" / json.loads(out.splitlines()[-1])["release"] / "manifest.json").exists()
    assert seconds < 90  # on a quiet machine 10; a request to it waited a minute and was made again


EARLY = textwrap.dedent("""
    import sys
    from augmill.flows.orchestration.server import early_server, prefect_server
    import psutil

    children = psutil.Process().children
    with early_server("prefect"):
        (early,) = children()
        if "fail" in sys.argv:
            raise SystemExit(3)
        try:
            with prefect_server() as url:
                print(children() == [early], url)
        finally:
            print(len(children()))
""")


@pytest.mark.slow
@pytest.mark.parametrize("way", ["take", "fail", "profile"])
def test_a_server_started_early_is_taken_over_or_ended(
    home: Path, tmp_path: Path, clean_environment: dict[str, str], way: str
) -> None:
    where = home
    if way == "profile":  # the API that a file of Prefect's names is known only once Prefect is imported
        where = tmp_path
        profile = "active = 'there'\n[profiles.there]\nPREFECT_API_URL = 'http://127.0.0.1:9/api'\n"
        (tmp_path / "profiles.toml").write_text(profile, encoding="utf-8")
    command = [sys.executable, "-W", "error", "-c", EARLY, way]
    environment = {**clean_environment, "PREFECT_HOME": str(where)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    if way == "take":
        assert done.returncode == 0 and done.stdout.startswith("True http://127.0.0.1:"), done.stderr
        assert done.stdout.splitlines()[1] == "0"
    elif way == "fail":
        assert (done.returncode, done.stdout, done.stderr) == (3, "", "")
    else:
        assert "127.0.0.1:9/api cannot be used" in done.stderr
        assert not (tmp_path / "prefect.db").exists()

    def left() -> list[int]:
        return [
            process.info["pid"]
            for process in psutil.process_iter(["pid", "environ", "cmdline"])
            if "augmill.flows.orchestration.server_child" in (process.info["cmdline"] or [])
            and (process.info["environ"] or {}).get("PREFECT_HOME") == str(where)
        ]

    wait_until(lambda: not left(), 60.0, left)  # a child ends with its parent, in a moment


def test_a_configured_api_is_used_and_none_is_started(prefect_api: str) -> None:
    from augmill.flows.orchestration.server import prefect_server

    before = psutil.Process().children()
    with prefect_server() as url:
        assert url == prefect_api
        assert psutil.Process().children() == before


def test_no_setting_of_the_server_lets_it_call_out(prefect_api: str) -> None:
    (server,) = [
        child for child in psutil.Process().children() if "augmill.flows.orchestration.server_child" in child.cmdline()
    ]
    environment = server.environ()
    assert (environment["PREFECT_SERVER_ANALYTICS_ENABLED"], environment["DO_NOT_TRACK"]) == ("false", "1")
    assert all(connection.laddr.ip == "127.0.0.1" for connection in server.net_connections("inet"))


def test_no_test_reaches_the_network() -> None:
    import socket

    with pytest.raises(RuntimeError, match="reached for the network"):
        socket.create_connection(("192.0.2.1", 80), timeout=0.1)
    with pytest.raises(RuntimeError, match="reached for the network"):
        socket.getaddrinfo("example.org", 80)
