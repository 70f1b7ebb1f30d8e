"""Ctrl-C and SIGTERM in each phase of ``augmill run``: soon over, nothing left behind, and said as what it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from chain import WORDS, recipe_document
from recorded import asking, flow_runs, task_runs, wait_until

from augmill.tasks.store.attempts import read_attempts
from augmill.tasks.store.store import Store

pytestmark = pytest.mark.slow

COMMAND = Path(sys.executable).with_name("augmill")
SOON = 60.0  # seconds: 0.3 to 2 on a quiet machine; what it guards against is waiting for work, which takes minutes
MANY, FEW = 60_000, 60  # rows: of MANY each stage takes a second or so


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with few.csv and many.csv."""
    folder = tmp_path_factory.mktemp("sources")
    names = sorted(WORDS)
    for name, count in (("few", FEW), ("many", MANY)):
        rows = []
        for at in range(count):
            words = WORDS[names[at % 3]]
            rows.append(f"{' '.join(words[(at // 13**k) % len(words)] for k in range(6))} {at},{names[at % 3]}")
        (folder / f"{name}.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Phase:
    """``begun``: whether the store shows that it goes on; ``tasks``: the steps that may then be stopped."""

    source: str
    begun: Callable[[Path], object]
    tasks: tuple[str, ...]
    changes: dict[str, Any]


def manifest(stage: str) -> Callable[[Path], object]:
    return lambda store: list(store.glob(f"private/manifests/{stage}/*"))


def started(store: Path) -> object:
    return list(store.rglob("start.json"))


DOZE = {
    "trainer": {"use": "command", "command": f"{sys.executable} doze.py {{train}} {{eval}} {{seed}} {{predictions}}"}
}
PHASES = {
    "ingest": Phase("many", started, ("ingest", "gather", "split"), {}),
    "fit": Phase("many", manifest("split"), ("fit", "fit_check"), {}),
    "generate": Phase("few", manifest("plan"), ("generate",), {"target": {"per_class": 100_000}}),
    "evaluate": Phase("few", manifest("mix"), ("evaluate",), DOZE),
    "publish": Phase("many", manifest("real"), ("release", "put", "publish"), {"target": {"balance": 1}}),
}


def write_recipe(folder: Path, source: Path, dataset: str, **changes: Any) -> Path:
    (folder / "doze.py").write_text("import time; time.sleep(300)")
    document = recipe_document(source, dataset=dataset, **changes)
    document["run"] = {"store": str(folder / "store"), "shard_rows": 2000, "threads": 1}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def start(recipe: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    """In a session of its own: the signal reaches the command alone, as that of a scheduler does."""
    return subprocess.Popen(
        [str(COMMAND), "run", str(recipe)],
        env=environment,
        cwd=recipe.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def interrupt(process: subprocess.Popen[str], number: signal.Signals) -> tuple[float, list[psutil.Process]]:
    """(seconds until it had ended, its processes that are left). Raises where it did not end as it should."""
    assert process.poll() is None, process.communicate()
    children = psutil.Process(process.pid).children(recursive=True)
    sent = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=240)
    seconds = time.monotonic() - sent
    assert process.returncode == (130 if number == signal.SIGINT else 143), err
    assert "Traceback" not in err and "Interrupted. What is finished is kept" in err, err
    assert json.loads(out.splitlines()[-1])["outcome"] == "interrupted"
    _, left = psutil.wait_procs(children, timeout=120)  # a server that was starting ends when it has
    return seconds, left


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("ingest", signal.SIGTERM),
        ("fit", signal.SIGINT),
        ("generate", signal.SIGINT),
        ("generate", signal.SIGTERM),
        ("evaluate", signal.SIGTERM),
        ("publish", signal.SIGINT),
    ],
)
def test_a_phase_is_interrupted_soon_and_recorded_so(
    prefect_api: str, sources: Path, tmp_path: Path, name: str, number: signal.Signals
) -> None:
    phase, store = PHASES[name], tmp_path / "store"
    dataset = f"{name}-{number.name.lower()}"
    recipe = write_recipe(tmp_path, sources / f"{phase.source}.csv", dataset, **phase.changes)
    process = start(recipe, {**os.environ, "PREFECT_API_URL": prefect_api})
    wait_until(lambda: phase.begun(store) or process.poll() is not None, 120)
    if name != "publish":
        time.sleep(0.2)
    seconds, left = interrupt(process, number)
    assert not left and seconds < SOON, (seconds, left)
    ((attempt,),) = read_attempts(Store(str(store)), dataset).values()
    # what publishes takes milliseconds: once it is decided, the outcome stands whatever interrupts the report
    assert attempt.end is not None
    assert attempt.end["outcome"] in ("interrupted", *(("not_produced",) if name == "publish" else ()))
    with asking() as client:
        run = flow_runs(client, f"all {dataset}")[-1]
        assert (run.state_name, run.state.message.split()[0]) == ("Cancelled", "interrupted")
        states = {task.name: task.state_name for task in task_runs(client, run, last="ingest").values()}
    stopped = [task for task, state in states.items() if state == "Cancelled"]
    assert (stopped or name == "publish") and all(task.split()[0] in phase.tasks for task in stopped), states
    assert {*states.values()} <= {"Completed", "Cancelled"}


def test_the_start_of_the_server_is_interrupted_soon(
    clean_environment: dict[str, str], sources: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, sources / "few.csv", "serving")
    home = tmp_path / "prefect"
    process = start(recipe, clean_environment | {"PREFECT_HOME": str(home)})
    wait_until(lambda: (home / "prefect.db").exists() or process.poll() is not None, 120)
    seconds, left = interrupt(process, signal.SIGINT)
    assert not left and seconds < SOON, (seconds, left)
    assert not (tmp_path / "store" / "private" / "attempts").exists()
