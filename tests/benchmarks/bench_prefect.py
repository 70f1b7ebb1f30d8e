"""What Prefect's records and clients cost over many runs: the database's size, and the memory of what stands. Prints tables.

    python tests/benchmarks/bench_prefect.py [--runs 200] [--session 20] [--nights 30] [--served 30]

A run is the whole path over 60 rows. Records: ``--runs`` of them, ``--session`` under one server of our own, in this one
process; the size counts the -wal file, and "most meanwhile" is the largest after any run of the session. Backfill: so
many dates in one process, with Prefect and without. Served: ``augmill serve``, which is told of a night, waits for its
end, and is told of the next. 0 leaves a part out. Memory is resident, in MB (10^6 bytes), after the run of that number.
"""

from __future__ import annotations

import argparse
import os
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml
from machine import machine_line, markdown

sys.path.insert(0, str(Path(__file__).parents[1]))

import dated
from chain import make_snapshot, recipe_document, write_rows

from augmill.flows.run import open_session
from augmill.tasks.recipe.recipe import build_recipe

AUGMILL = str(Path(sys.executable).with_name("augmill"))
TABLES = ("flow_run", "task_run", "flow_run_state", "task_run_state", "log", "artifact", "events", "event_resources")
SERVER = "augmill.flows.orchestration.server_child"
MB = 1e6


def resident(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / MB


def database_size(home: Path) -> float:
    return sum(path.stat().st_size for path in home.glob("prefect.db*")) / MB


def row_counts(home: Path) -> list[int]:
    with closing(sqlite3.connect(home / "prefect.db")) as database:
        return [database.execute(f"select count(*) from {table}").fetchone()[0] for table in TABLES]


def some_of(count: int) -> set[int]:
    """The first, the last, and about ten between."""
    return {1, count, *range(0, count, max(1, count // 10))} - {0}


def count_records(folder: Path, runs: int, session: int) -> None:
    home = Path(os.environ["PREFECT_HOME"])
    rows: list[list[str]] = []
    for first in range(0, runs, session):
        most, last = 0.0, min(first + session, runs)
        recipe = build_recipe(tiny(folder) | {"seed": first}, base=folder)
        started = time.monotonic()
        with open_session(recipe, command="bench", orchestrator="prefect") as opened:
            for _ in range(first, last):
                make_snapshot(opened)
                most = max(most, database_size(home))
            (server,) = servers_of(psutil.Process())
            memory = [f"{resident(server):.0f}", f"{resident(psutil.Process()):.0f}"]
        seconds = time.monotonic() - started
        figures = [f"{database_size(home):.1f}", f"{most:.1f}", *(f"{count:,}" for count in row_counts(home))]
        rows.append([f"{last}", *figures, *memory, f"{seconds:.0f}"])
        print(*rows[-1], file=sys.stderr, flush=True)
    header = [
        "runs",
        "database: MB",
        "most meanwhile: MB",
        *TABLES,
        "the session's server: MB",
        "this process: MB",
        "seconds",
    ]
    print(f"\nRecords, {session} runs a session\n\n{markdown(header, rows)}", flush=True)


def measure_backfill(folder: Path, nights: int) -> None:
    rows: dict[int, list[str]] = {}
    dated.FIRST = datetime.now(UTC).date() - timedelta(days=nights)  # the newest complete day is the last one
    path = folder / "dated.yaml"
    document = tiny(folder) | {
        "source": {"path": str(dated.write_days(folder / "days.csv", nights))},
        "columns": {"text": "text", "label": "label", "partition": "day"},
        "partitions": {"every": "day"},
    }
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    for kind in ("prefect", "none"):
        store = folder / f"backfill-{kind}"
        options = ["--store", str(store), "--orchestrator", kind, "--from", dated.day(0), "--to", dated.day(nights - 1)]
        with started("backfill", path, *options) as process:
            for number in range(1, nights + 1):
                ended = store / "private/attempts/tiny"
                wait_until(process, lambda: len(list(ended.rglob("end.json"))) >= number)  # noqa: B023 - called at once
                if number in some_of(nights):
                    servers = [f"{resident(server):.0f}" for server in servers_of(process)]
                    rows.setdefault(number, [f"{number}"]).extend([f"{resident(process):.0f}", *servers])
            process.wait(timeout=120)
    header = ["date", "with Prefect: MB", "its server: MB", "without: MB"]
    print(f"\nA backfill of {nights} dates in one process\n\n{markdown(header, list(rows.values()))}", flush=True)


def measure_serve(folder: Path, nights: int) -> None:
    rows: list[list[str]] = []
    path = folder / "served.yaml"
    path.write_text(yaml.safe_dump(tiny(folder)), encoding="utf-8")
    with started("serve", path, "--store", str(folder / "served")) as process:
        api = serving(process)
        (deployment,) = api.post("deployments/filter", json={"flows": {"name": {"any_": ["nightly"]}}}).json()
        for number in range(1, nights + 1):
            made = api.post(f"deployments/{deployment['id']}/create_flow_run", json={})
            if made.is_error:
                raise RuntimeError(f"night {number} was not taken: {made.status_code} {made.text}")
            run = made.json()["id"]
            most = 0.0
            while (state := api.get(f"flow_runs/{run}").json()["state"]["type"]) not in ("COMPLETED", "FAILED"):
                with suppress(psutil.Error):  # what ends while it is looked at
                    most = max(most, resident_of_night(process))
                time.sleep(0.2)
            if state == "FAILED":
                raise RuntimeError(f"night {number} failed")
            if number in some_of(nights):
                (server,) = servers_of(process)
                rows.append([f"{number}", *(f"{value:.0f}" for value in (resident(process), resident(server), most))])
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)
    header = ["night", "augmill serve: MB", "its server: MB", "the night's own processes, most: MB"]
    print(f"\n{nights} nights of augmill serve\n\n{markdown(header, rows)}", flush=True)


@contextmanager
def started(verb: str, recipe: Path, *options: str) -> Iterator[psutil.Popen]:
    with (recipe.parent / f"{verb}.log").open("ab") as log:
        environment = os.environ | {"PREFECT_RUNNER_POLL_FREQUENCY": "1"}
        process = psutil.Popen([AUGMILL, verb, str(recipe), *options], env=environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        if process.is_running():
            process.kill()
            process.wait()


def servers_of(process: psutil.Process) -> list[psutil.Process]:
    return [child for child in process.children() if SERVER in command_of(child)]


def command_of(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:  # it has ended
        return []


def resident_of_night(process: psutil.Process) -> float:
    """Of what ``augmill serve`` started beside its server, and of its one worker."""
    nights = [child for child in process.children() if SERVER not in command_of(child)]
    return sum(resident(each) for night in nights for each in [night, *night.children(recursive=True)])


def serving(process: psutil.Process) -> httpx.Client:
    """A client of the API that ``augmill serve`` started, once it knows the deployment."""

    def address() -> httpx.Client | None:
        for server in servers_of(process):
            for connection in server.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    return httpx.Client(base_url=f"http://127.0.0.1:{connection.laddr.port}/api/", timeout=30)
        return None

    wait_until(process, lambda: address() is not None)
    api = address()
    assert api is not None

    def known() -> bool:
        try:
            return len(api.post("deployments/filter", json={}).json()) == 2
        except httpx.TransportError:  # it listens before it answers
            return False

    wait_until(process, known)
    return api


def wait_until(process: psutil.Process, ready: Callable[[], bool], seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > until or not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            raise RuntimeError(f"{process.pid} did not come so far")
        time.sleep(0.05)


def tiny(folder: Path) -> dict[str, Any]:
    source = folder / "rows.csv"
    if not source.exists():
        write_rows(source)
    return recipe_document(source) | {"run": {"shard_rows": 25, "threads": 1, "store": str(folder / "store")}}


def main() -> None:
    parser = argparse.ArgumentParser(description="Prefect over many runs.")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--session", type=int, default=20, help="runs under one server")
    parser.add_argument("--nights", type=int, default=30, help="dates of the backfill")
    parser.add_argument("--served", type=int, default=30, help="nights that augmill serve runs")
    given = parser.parse_args()
    print(machine_line(), flush=True)
    with tempfile.TemporaryDirectory(prefix="augmill-bench-") as directory:
        folder = Path(directory)
        os.environ["PREFECT_HOME"] = str(folder / "prefect")  # before Prefect is imported
        os.environ.pop("PREFECT_API_URL", None)  # a server of our own is what is measured
        if given.runs:
            count_records(folder, given.runs, given.session)
        if given.nights:
            measure_backfill(folder, given.nights)
        if given.served:
            measure_serve(folder, given.served)


if __name__ == "__main__":
    main()
