"""Whether an installation works, each part proven by doing what a night will do (`augmill doctor`)."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from augmill.flows.orchestration.server import ServerUnavailable, server_log
from augmill.tasks.errors import AugmillError
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.store.store import Store
from augmill.tasks.workers import find_devices

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

SCHEDULE_TIMEOUT = 70.0  # seconds; a healthy server and 2 busy cores took 25
FIRST_RUN = timedelta(seconds=12)  # from now; the scheduler looks for new deployments every 5 s
MIN_FREE = 2 << 30  # bytes; a night of a small model writes about as much


@dataclass(frozen=True)
class Finding:
    """One finding; ``fix`` where it is not ok."""

    name: str
    ok: bool
    said: str
    fix: str = ""


def examine(recipe: Recipe | None, store: str | None, quick: bool) -> Iterator[Finding]:
    """Each finding when it is there. ``quick`` leaves out the scheduled run, which takes half a minute."""
    yield _safe("versions", check_versions, "pip install with the project's constraints.txt")
    yield _safe("devices", lambda: check_devices(recipe.run.devices if recipe else ()), "correct run.devices")
    root = store or (recipe.run.store if recipe else None)
    yield _safe("disk", lambda: check_disk(root), "make room")
    if root is not None:
        yield _safe("store", lambda: check_store(root), "give another store (run.store, --store)")
    if recipe is not None and recipe.schedule.webhook is not None:
        yield check_webhook(recipe.schedule.webhook)
    yield from check_prefect(quick)


def _safe(name: str, check: Callable[[], Finding], fix: str) -> Finding:
    """The finding; an error of any kind is one too: this is the place that tells what is broken."""
    try:
        return check()
    except AugmillError as error:
        where = f"{error.where}: " if error.where else ""
        return Finding(name, False, f"{where}{error.problem}", error.fix or fix)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
        return Finding(name, False, f"{type(error).__name__}: {str(error)[:300]}", fix)


def check_versions() -> Finding:
    """Every package that is required, against the bounds it is required with."""
    from packaging.requirements import Requirement

    wrong = []
    required = [Requirement(text) for text in importlib.metadata.requires("augmill") or []]
    required = [item for item in required if item.marker is None or item.marker.evaluate({"extra": ""})]
    for item in required:
        try:
            found = importlib.metadata.version(item.name)
        except importlib.metadata.PackageNotFoundError:
            found = None
        if found is None or not item.specifier.contains(found, prereleases=True):
            wrong.append((f"{item.name} {found or 'is missing'} (needs {item.specifier})", f"'{item}'"))
    if wrong:
        said = "; ".join(text for text, _ in wrong)
        return Finding("versions", False, said, f"pip install {' '.join(name for _, name in wrong)}")
    names = {item.name: importlib.metadata.version(item.name) for item in required}
    shown = ", ".join(
        f"{name} {names[name]}" for name in ("prefect", "fastapi", "sqlalchemy", "torch") if name in names
    )
    return Finding("versions", True, f"{len(required)} packages within their bounds: {shown}")


def check_devices(asked: tuple[str, ...]) -> Finding:
    devices = find_devices(asked, 0)
    cuda = [device for device in devices if device.startswith("cuda")]
    if not cuda:
        return Finding("devices", True, f"{', '.join(devices)} ({os.cpu_count()} cores); no CUDA device is used")
    import torch

    count = torch.cuda.device_count()
    missing = [device for device in cuda if int(device.partition(":")[2] or 0) >= count]
    if missing:
        fix = "correct run.devices, or repair the driver: torch must see what nvidia-smi shows"
        return Finding("devices", False, f"{', '.join(missing)} asked for, but torch sees {count} CUDA device(s)", fix)
    return Finding("devices", True, ", ".join(f"{device} {torch.cuda.get_device_name(device)}" for device in cuda))


def check_disk(root: str | None) -> Finding:
    """Free space where rows, Prefect's records and temporary files go."""
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    places = {"Prefect": home, "temporary files": Path(os.environ.get("TMPDIR", "/tmp"))}
    if root is not None and "://" not in root:
        places = {"store": Path(root).expanduser().absolute()} | places
    free = {name: shutil.disk_usage(_standing(path)).free for name, path in places.items()}
    said = ", ".join(f"{name} {size / 2**30:.1f} GiB" for name, size in free.items())
    low = [name for name, size in free.items() if size < MIN_FREE]
    if low:
        return Finding("disk", False, f"free: {said}", f"free at least {MIN_FREE >> 30} GiB for: {', '.join(low)}")
    return Finding("disk", True, f"free: {said}")


def _standing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def check_store(root: str) -> Finding:
    """Writes, is refused a second write of the same name, reads, and takes it away again."""
    base = None if "://" in root else Path(root).expanduser().absolute()
    folders = [] if base is None else [base / "private/doctor", base / "private/staging", base / "private", base]
    ours = [folder for folder in folders if not folder.exists()]
    store = Store(root)
    key = f"private/doctor/{secrets.token_hex(8)}"
    try:
        first, second = store.put_if_absent(key, b"one"), store.put_if_absent(key, b"another")
        read = store.get(key)
    finally:
        store.delete(key)
        for folder in ours:
            with contextlib.suppress(OSError):  # somebody else writes there by now
                folder.rmdir()
    if (first, second, read) != (True, False, b"one"):
        fix = "this kind of store cannot keep two runs apart: use a local disk, S3, GCS or Azure"
        return Finding("store", False, f"{root} does not honour put-if-absent: a second write went through", fix)
    return Finding("store", True, f"{root} can be written, with put-if-absent; left as it was")


def check_webhook(name: str) -> Finding:
    from augmill.tasks.boundary.hosts import is_address

    if is_address(os.environ.get(name, "")):
        return Finding("webhook", True, f"{name} is set; nothing was sent")
    fix = f"set {name} to an address with http:// or https:// where nights run, and where `augmill deploy` is called"
    return Finding("webhook", False, f"schedule.webhook: {name} is not set, or holds no address", fix)


def check_prefect(quick: bool) -> Iterator[Finding]:
    """The server that runs will use: the configured one, or one of our own, started as `augmill serve` does."""
    from augmill.flows.orchestration.deployments import standing_api

    with contextlib.ExitStack() as stack:
        try:
            url = stack.enter_context(standing_api(own=True))
        except ServerUnavailable as error:
            yield Finding("server", False, str(error).splitlines()[0], error.fix)
            return
        server = _safe("server", lambda: check_server(url), "see the server's own log")
        yield server
        if server.ok and not quick:
            yield _safe("schedule", prove_schedule, "see the server's own log")


def check_server(url: str) -> Finding:
    import prefect
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    with get_client(sync_client=True) as client:
        version = client.api_version()
    configured = "configured" if os.environ.get("PREFECT_API_URL") or PREFECT_API_URL.value() != url else "our own"
    if version.split(".")[:2] != prefect.__version__.split(".")[:2]:
        fix = "install the same minor version on server and worker"
        return Finding("server", False, f"Prefect {version} there, {prefect.__version__} here", fix)
    return Finding("server", True, f"Prefect {version} answers ({configured})")


def prove_schedule(timeout: float | None = None) -> Finding:
    """A deployment whose schedule begins in seconds: the server must create a run, and a runner here execute it."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import IntervalSchedule
    from prefect.deployments.runner import RunnerDeployment
    from prefect.runner import Runner
    from prefect.settings import PREFECT_LOGGING_LEVEL, temporary_settings
    from prefect.types.entrypoint import EntrypointType

    from augmill.flows import deployed
    from augmill.flows.orchestration.deployments import running

    begin = time.monotonic()
    until = begin + (timeout or SCHEDULE_TIMEOUT)
    name = f"doctor-{secrets.token_hex(4)}"
    deployment = RunnerDeployment.from_flow(deployed.probe, name=name, entrypoint_type=EntrypointType.MODULE_PATH)
    schedule = IntervalSchedule(interval=timedelta(seconds=30), anchor_date=datetime.now(UTC) + FIRST_RUN)
    deployment.schedules = [DeploymentScheduleCreate(schedule=schedule, active=True)]
    runner = Runner(name=name, query_seconds=2, limit=1, pause_on_shutdown=False)
    made = cast("UUID", runner.add_deployment(deployment))
    with get_client(sync_client=True) as client:
        try:
            with temporary_settings({PREFECT_LOGGING_LEVEL: "CRITICAL"}), running(runner):  # the run's process is heard
                runs = _wait_for(client, made, until)
        finally:
            _take_away(client, made)
    return _found(runs, time.monotonic() - begin)


def _wait_for(client: SyncPrefectClient, deployment: UUID, until: float) -> list[FlowRun]:
    """The deployment's runs once one has ended, or at ``until``."""
    while True:
        runs = _runs(client, deployment)
        if time.monotonic() > until or any(run.state and run.state.is_final() for run in runs):
            return runs
        time.sleep(1.0)


def _runs(client: SyncPrefectClient, deployment: UUID) -> list[FlowRun]:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId

    chosen = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment]))
    return client.read_flow_runs(flow_run_filter=chosen)


def _take_away(client: SyncPrefectClient, deployment: UUID) -> None:
    """Nothing of ours stays on the server: the deployment goes first, so that no more runs are made."""
    from prefect.exceptions import ObjectNotFound

    runs = _runs(client, deployment)
    client.delete_deployment(deployment)
    for run in runs:
        with contextlib.suppress(ObjectNotFound):  # the scheduled ones went with their deployment
            client.delete_flow_run(run.id)


def _found(runs: list[FlowRun], seconds: float) -> Finding:
    from prefect.settings import PREFECT_HOME

    done: dict[str, Any] = {run.state.type.value: run for run in runs if run.state is not None}
    if "COMPLETED" in done:
        return Finding("schedule", True, f"a scheduled run was created, executed and seen in {seconds:.0f} s")
    if not runs:
        fix = (
            "where the server runs: pip install 'sqlalchemy<2.1' (with 2.1 it starts and never schedules anything), see "
            f"that its scheduler service is on, and read its log (our own: {server_log(Path(PREFECT_HOME.value()))})"
        )
        return Finding("schedule", False, f"the server created no run from a schedule in {seconds:.0f} s", fix)
    ended = next((run for run in runs if run.state is not None and run.state.is_final()), None)
    if ended is not None and ended.state is not None:
        said = f"the scheduled run ended as {ended.state.name}: {ended.state.message or 'no reason given'}"
        return Finding(
            "schedule", False, said, f"see why `{Path(sys.executable).name} -m prefect.engine` cannot run here"
        )
    return Finding(
        "schedule",
        False,
        f"a run was scheduled but not executed within {seconds:.0f} s",
        "see that server and worker clocks agree, and that the machine is not overloaded; then try again",
    )
