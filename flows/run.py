"""What a run knows: the session that the snapshots of one command share, and the making of one snapshot as an attempt."""

from __future__ import annotations

import importlib
import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from augmill.flows.orchestration.api import Api, open_api
from augmill.flows.orchestration.logs import importing_prefect, quiet_logging
from augmill.flows.orchestration.server import early_server
from augmill.flows.progress import Artifacts, Progress
from augmill.flows.provenance import code_version
from augmill.flows.signals import Stop, held_back, interruptible
from augmill.tasks.boundary.processes import importing, own_temporary, require_posix, sweep_temporary, this_process
from augmill.tasks.boundary.retries import PATIENCE
from augmill.tasks.errors import AugmillError, exit_code_of
from augmill.tasks.recipe.origin import dataset_of
from augmill.tasks.recipe.recipe import Recipe, load_recipe, whole_store
from augmill.tasks.rows.calendar import next_clock, parse_clock
from augmill.tasks.rows.shown import visible
from augmill.tasks.store.attempts import Attempt, beating, begin, finish
from augmill.tasks.store.bank import Bank
from augmill.tasks.store.log import read_log
from augmill.tasks.store.releases import read_manifest_of
from augmill.tasks.store.stage import Event, Site
from augmill.tasks.store.store import Store
from augmill.tasks.workers import WorkerPool, find_devices, worker_pool

T = TypeVar("T")
_log = logging.getLogger("augmill")

CUT_SHORT = ("deadline", "shard_failed")  # why a shard is set aside that another try may make

# --- The session ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Session:
    """What the snapshots of one command share. They may be made in several threads at once."""

    recipe: Recipe
    store: Store
    api: Api
    pool: WorkerPool
    stop: Stop
    device: str
    deadline: float | None  # seconds of time.monotonic(), at which generation ends: run.deadline
    command: str
    republish: bool = False  # even a release that was withdrawn
    about: Mapping[str, Any] = field(
        default_factory=dict
    )  # further keys of its attempts: which backfill they belong to
    staged: bool = False  # a release is put, and Outcome.pending holds what the log is to say
    hosted: bool = False  # within a flow run that is not this command's: signals are its own
    quiet: bool = False  # see Progress


_CURRENT: ContextVar[Session | None] = ContextVar("augmill_session", default=None)


def current() -> Session | None:
    """The session that the running command has opened: its flows and their sub-flows share it."""
    return _CURRENT.get()


@contextmanager
def _holding(variable: ContextVar[Any], value: Any) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def shared(session: Session) -> AbstractContextManager[None]:
    """Inside it is the current one."""
    return _holding(_CURRENT, session)


_HANDED: ContextVar[Any] = ContextVar("augmill_handed", default=None)


def handing(value: Any) -> AbstractContextManager[None]:
    """Inside it a flow finds what a command hands it beside its parameters, which are plain values."""
    return _holding(_HANDED, value)


def handed(kind: type[T]) -> T | None:
    """What the running command hands its flow, where it is one of these. Here, since no flow's module may hold a

    ContextVar: it could not be sent to another process.
    """
    value = _HANDED.get()
    return value if isinstance(value, kind) else None


@contextmanager
def open_session(
    recipe: Recipe,
    *,
    command: str,
    orchestrator: str | None = None,
    verbose: bool = False,
    by_morning: bool = True,
    embedded: bool = False,
    **how: Any,
) -> Iterator[Session]:
    """Raises AugmillError where the store cannot be opened. ``by_morning``: whether ``run.deadline`` counts.

    ``embedded``: the process is somebody else's, whose logging and directory for temporary files stay theirs. ``how``:
    further fields of the session.
    """
    from augmill.tasks.stages.extensions import is_light

    require_posix()
    PATIENCE.renew(recipe.run.store_patience)
    store = Store(recipe.run.store)
    deadline = deadline_of(recipe) if by_morning else None
    devices = find_devices(recipe.run.devices, recipe.run.workers, light=is_light(recipe))
    kind, stop, hosted = orchestrator or recipe.run.orchestrator, Stop(), _in_a_flow()
    sweep_temporary()
    try:
        with (
            interruptible(stop, hosted=hosted),
            nullcontext() if embedded else own_temporary(),
            _imported(kind),
            quiet_logging(verbose, prefect_too=kind == "prefect", embedded=embedded),
            _waited_for(kind) as api,
            worker_pool(devices, recipe.run.threads) as pool,
        ):
            stop.on_stop(lambda: pool.close(kill=True))
            session = Session(recipe, store, api, pool, stop, devices[0], deadline, command, hosted=hosted, **how)
            with shared(session):
                yield session
    finally:
        PATIENCE.renew()  # what this process asks a store next was not interrupted


def _in_a_flow() -> bool:
    """Whether a flow of Prefect's calls us; nobody who has not imported it."""
    if "prefect" not in sys.modules:
        return False
    from prefect.context import FlowRunContext

    return FlowRunContext.get() is not None


def name_of_flow_run(what: str | None = None) -> str:
    """The snapshot, or ``what``, first: it tells the runs of a dataset apart where names are cut."""
    from prefect.runtime import flow_run

    session, parameters = current(), flow_run.parameters
    of = dataset_of(str(parameters["recipe"])) if session is None else session.recipe.dataset
    return visible(f"{what or parameters.get('as_of') or 'all'} {of}")


def parameters_of(recipe: Recipe) -> dict[str, Any]:
    """What a flow's parameters say of a recipe: where it came from, its store, and what ``--set`` changed, if anything."""
    found = {"recipe": recipe.origin or recipe.dataset, "store": whole_store(recipe.run.store, Path())}
    return found | ({"set": [*recipe.changes]} if recipe.changes else {})


@contextmanager
def _imported(kind: str) -> Iterator[None]:
    """Imports Prefect where it is the orchestrator, with a line on the terminal, while its server starts."""
    with early_server(kind):
        if kind == "prefect" and "prefect" not in sys.modules:
            with Progress() as shown, shown.waiting("Prefect"), importing_prefect(), importing():
                importlib.import_module("prefect.main")
        yield


@contextmanager
def _waited_for(kind: str) -> Iterator[Api]:
    """``open_api``, with a line on the terminal until it is there."""
    with ExitStack() as stack:
        if kind == "none":
            yield stack.enter_context(open_api(kind))
            return
        with Progress() as shown, shown.waiting("Prefect's server"):
            api = stack.enter_context(open_api(kind))
        yield api


@contextmanager
def session_of(
    recipe: str, store: str | None, changes: list[str] | None, *, command: str, by_morning: bool = True
) -> Iterator[Session]:
    """The command's own session; one for this flow run where Prefect began it: of a deployment, or by somebody's flow."""
    if (session := current()) is not None:
        yield session
        return
    loaded = load_recipe(recipe, store=store, changes=changes)
    with open_session(loaded, command=command, orchestrator="prefect", by_morning=by_morning) as opened:
        yield opened


def deadline_of(recipe: Recipe) -> float | None:
    """When generation ends, in seconds of time.monotonic(): at the next run.deadline.

    A run that starts after this morning's has until the next one: it is too late for this morning whatever it does.
    """
    if recipe.run.deadline is None:
        return None
    now = datetime.now(UTC)
    left = next_clock(parse_clock(recipe.run.deadline), now, recipe.schedule.timezone) - now
    return time.monotonic() + left.total_seconds()


# --- One snapshot's making --------------------------------------------------------------------------------------------


@dataclass
class Run:
    """What the making of one snapshot knows, and what came of it so far: its result, and telemetry."""

    session: Session
    recipe: Recipe
    as_of: str | None
    site: Site
    progress: Progress
    artifacts: Artifacts
    expected: str | None = None  # the release of this snapshot that was current when the run began
    standing: str | None = None  # what a reader as of this snapshot gets until there is a new one
    place: str = ""  # the fold or the other night, before the name of each step in it
    result: dict[str, Any] = field(default_factory=dict)  # once decided: what the last line of stdout says
    # What was read, for the attempt's end: the revision of each partition (source); the versions of the Delta tables, as
    # listed by this run (source_versions); how far the rows have moved since those the generators were fitted on (drift).
    source: dict[str, Any] = field(default_factory=lambda: {"source": {}, "source_versions": {}, "drift": {}})
    events: list[Event] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    banks: dict[str, Bank] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        """Of the snapshot."""
        return self.as_of or "all"

    @property
    def store(self) -> Store:
        return self.session.store

    @property
    def stop(self) -> Stop:
        return self.session.stop

    @property
    def stage_seconds(self) -> float:
        """A stage that takes longer is stopped, and tried again as its retries say."""
        return 60 * self.recipe.run.stage_minutes

    @property
    def cut_short(self) -> bool:
        """Whether a shard is missing that another try may make."""
        return any(failure["reason"] in CUT_SHORT for failure in self.failures)

    def note_version(self, name: str, version: int | None) -> None:
        if version is not None:
            self.source["source_versions"][name] = version

    def out_of_time(self) -> bool:
        return self.site.deadline is not None and time.monotonic() >= self.site.deadline

    def bank(self, name: str) -> Bank:
        """The bank as it stood when it was first asked for in this round: read once, not by each shard."""
        with self._lock:
            if name not in self.banks:
                self.banks[name] = Bank(self.store, name)
            return self.banks[name]


def new_run(session: Session, recipe: Recipe, as_of: str | None, progress: Progress, **how: Any) -> Run:
    """``how``: ``deadline``, and further fields of the run."""
    events: list[Event] = []
    deadline = how.pop("deadline", None)
    site = Site(session.store, session.device, recipe.run.threads, deadline, events.append, dataset=recipe.dataset)
    return Run(session, recipe, as_of, site, progress, Artifacts(session.api), events=events, **how)


@contextmanager
def attempt(session: Session, as_of: str | None) -> Iterator[Run]:
    """The run of one snapshot, noted in the store: its start, that it lives, and its end, whatever ended it."""
    recipe, store, started = session.recipe, session.store, time.monotonic()
    head = {"command": session.command, "recipe": recipe.hash(), "code": code_version(recipe), "owner": this_process()}
    begun: Attempt | None = None
    run: Run | None = None
    try:
        with held_back():  # an interrupt between the claim and here would leave an attempt that nobody ends
            begun = begin(store, recipe.dataset, as_of or "all", head | dict(session.about))
        with beating(store, recipe.dataset, begun), Progress(quiet=session.quiet) as progress:
            log = read_log(store, recipe.dataset)
            expected = log.current().get(as_of or "all")
            ends = [session.deadline] if session.deadline is not None else []
            ends += [started + 60 * recipe.run.deadline_minutes] if recipe.run.deadline_minutes is not None else []
            run = new_run(session, recipe, as_of, progress, deadline=min(ends, default=None), expected=expected)
            run.standing = expected or (log.newest(as_of) if as_of else None)
            if run.standing is not None:  # a later version's format is refused here, before its work is replaced
                read_manifest_of(store, recipe.dataset, run.standing)
            yield run
        _end(session, begun, run.result | run.source, run.events, started)
    except BaseException as error:
        if begun is not None:
            decided = run is not None and run.result
            said = run.result | run.source if run is not None and decided else _failure(error, session.stop.is_set())
            _end(session, begun, said, run.events if run is not None else [], started)
        raise


def _failure(error: BaseException, stopping: bool) -> dict[str, Any]:
    """What a stage raises because its workers were killed for an interrupt is part of the interrupt."""
    interrupted = stopping or not isinstance(error, Exception)  # Ctrl-C, SIGTERM, what Prefect makes of it
    if isinstance(error, AugmillError) and not interrupted:
        kind = type(error).__name__
        said = {"outcome": "error", "kind": kind, "reason": error.problem, "where": error.where, "next": error.fix}
        return said | {"exit_code": error.exit_code}
    return {
        "outcome": "interrupted" if interrupted else "error",
        "kind": type(error).__name__,
        "reason": str(error)[:500],
        "where": "",
        "next": "run it again",
        **({} if interrupted else {"exit_code": exit_code_of(error)}),
    }


def _end(session: Session, begun: Attempt, body: dict[str, Any], events: list[Event], started: float) -> None:
    """What the attempt did, for status, estimates and gc. Where the store takes no more, the attempt stays without an end."""
    worked = [event for event in events if not event.reused]
    on_gpu = "cuda" in session.device
    gpu = sum(event.seconds for event in worked if event.stage in ("fit", "sample")) if on_gpu else 0.0
    spent: Counter[str] = Counter()
    for event in worked:
        spent.update(event.usage)
    done = {
        "seconds": round(time.monotonic() - started, 1),
        "gpu_seconds": round(gpu, 1),
        "worked": len(worked),
        "generated": sum(event.rows for event in worked if event.stage == "sample"),
        "tokens": spent["tokens"],
        "spent": dict(sorted(spent.items())),
        "artifacts": sorted({event.key for event in events}),
    }
    try:
        with held_back():
            finish(session.store, session.recipe.dataset, begun, {**body, **done})
    except AugmillError as error:
        _log.warning("How this attempt ended could not be recorded: %s", error)
