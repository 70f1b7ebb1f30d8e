"""A Prefect API server that lives exactly as long as the run that needs one.

Prefect's own ephemeral server outlives a killed parent, logs event-flush errors when it is torn down and sends
telemetry. This one runs in a child process with a watchdog, announces its port when it is ready, and is stopped only
after the client's queues and its own are written. Both use the database under PREFECT_HOME, so the runs are there
when ``prefect server start`` is run later. Start-up takes 3 s, or 11 s on a fresh database (its migrations).
"""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from augmill.flows.orchestration.logs import QUIET, prefect_home, prepare_prefect
from augmill.tasks.boundary.masking import masked
from augmill.tasks.errors import WorldError

START_TIMEOUT = 120.0  # seconds; a fresh database on a busy 2-core machine took 20
_STOP_TIMEOUT = 20.0  # seconds; the child gives its own queues 10 before it stops
_LOG_BYTES = 1_000_000  # the server's log starts anew beyond this

_SERVER_ENV = {
    **QUIET,
    "PREFECT_SERVER_UI_ENABLED": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "ERROR",
    "PREFECT__SERVER_FINAL": "1",
}
# Automations belong to a server that stands; in one that does not they would also race with a stop within the first
# second. The same for the scheduler and for the marking of late runs.
_PASSING_ENV = {"PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false", "PREFECT__SERVER_EPHEMERAL": "1"}


class ServerUnavailable(WorldError):
    """The Prefect server did not start; the run can go on without one."""

    retryable = False


@dataclass(frozen=True)
class _Spawned:
    process: subprocess.Popen[bytes]
    home: Path
    log: Path
    offset: int  # where in the log this process's lines begin

    def stop(self, *, now: bool = False, wait: bool = True) -> None:
        """``now``: without time to write what it holds. ``wait``: until it has ended; one that starts ends after that."""
        if self.process.stdout is not None:
            self.process.stdout.close()
        (self.process.kill if now else self.process.terminate)()
        if not wait:
            threading.Thread(target=self.process.wait, daemon=True, name="augmill-server-end").start()
            return
        try:
            self.process.wait(timeout=_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


_early: list[_Spawned] = []  # at most one, which ``prefect_server`` takes over


@contextlib.contextmanager
def early_server(kind: str) -> Iterator[None]:
    """A server of our own starts while the body still imports Prefect, for the first ``prefect_server`` in it.

    Does nothing for an orchestrator other than ``prefect``, inside another such block, where PREFECT_API_URL is set, and
    where Prefect is imported already. Where a profile or file of Prefect's configures an API, the child finds that out
    itself and ends.
    """
    if kind == "prefect" and not _early and not os.environ.get("PREFECT_API_URL") and "prefect" not in sys.modules:
        prepare_prefect()
        with contextlib.suppress(OSError):  # said by the second try
            _early.append(_spawn(prefect_home(), {}, standing=False))
    try:
        yield
    finally:
        while _early:
            _early.pop().stop(wait=False)


@contextlib.contextmanager
def prefect_server(*, standing: bool = False, lost: threading.Event | None = None) -> Iterator[str]:
    """The address of a Prefect API for the body: the configured PREFECT_API_URL, or that of a server of our own.

    ``standing``: our own one schedules runs and heeds automations too, as ``prefect server start`` does. ``lost``: set
    by whoever finds that the API is gone; nothing more is sent then. Raises ``ServerUnavailable`` where the configured
    one cannot be used, or none could be started within ``START_TIMEOUT``. On leaving, what the client still holds is
    sent, and then the server stops.
    """
    prepare_prefect()
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME

    lost = threading.Event() if lost is None else lost
    with contextlib.ExitStack() as stack:
        configured = PREFECT_API_URL.value()
        url = configured or stack.enter_context(_own_server(Path(PREFECT_HOME.value()), standing, lost))
        from augmill.flows.orchestration.client import api_trouble, client_queues, patience  # imports Prefect's client

        if configured and (trouble := api_trouble()) is not None:
            raise ServerUnavailable(
                f"Prefect's API at {masked(configured)} cannot be used ({trouble})",
                where="PREFECT_API_URL",
                fix="start it (`prefect server start`), or correct the address; `augmill doctor` looks closer",
            )
        if not configured:
            stack.enter_context(_settings_for(url))
        stack.enter_context(patience())
        stack.enter_context(client_queues(lost))
        yield url


@contextlib.contextmanager
def _settings_for(url: str) -> Iterator[None]:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    bypass = {name: os.environ.get(name) for name in ("NO_PROXY", "no_proxy")}
    for name, value in bypass.items():  # a proxy in the environment cannot reach this machine's loopback
        os.environ[name] = f"{value},127.0.0.1" if value else "127.0.0.1"
    try:
        with temporary_settings({PREFECT_API_URL: url}):
            yield
    finally:
        for name, value in bypass.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _own_server(home: Path, standing: bool, lost: threading.Event) -> Iterator[str]:
    spawned = _early.pop() if _early else None
    if spawned is not None and (standing or spawned.home != home):  # Prefect's own files name another home
        spawned.stop()
        spawned = None
    if spawned is None:
        from prefect.settings import get_current_settings

        try:
            spawned = _spawn(home, get_current_settings().to_environment_variables(exclude_unset=True), standing)
        except OSError as error:
            raise _not_started(server_log(home), str(error)) from error
    answers = False
    try:
        _import_client()  # meanwhile
        port = _announced_port(spawned.process, START_TIMEOUT)
        if port is None:
            tail = spawned.log.read_bytes()[spawned.offset :].decode(errors="replace").strip().splitlines()[-3:]
            raise _not_started(spawned.log, " | ".join(tail))
        answers = True
        yield f"http://127.0.0.1:{port}/api"
    finally:
        spawned.stop(now=lost.is_set(), wait=answers)


def _not_started(log: Path, why: str) -> ServerUnavailable:
    said = "Prefect's server did not start" + (": " + masked(why) if why else "")
    return ServerUnavailable(said, where=str(log), fix="read that log, or set `run: {orchestrator: none}`")


def _import_client() -> None:
    """What the first run imports anyway, 2 s of it."""
    for name in ("prefect.flow_engine", "prefect.task_engine", "augmill.flows.orchestration.client"):
        importlib.import_module(name)


def server_log(home: Path) -> Path:
    """What our own server has to say: warnings and worse."""
    return home / "augmill-server.log"


def _spawn(home: Path, settings: Mapping[str, str], standing: bool) -> _Spawned:
    """Raises OSError where ``home`` cannot hold the log."""
    home.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **settings, **_SERVER_ENV, **({} if standing else _PASSING_ENV)}
    environment |= {"PREFECT_HOME": str(home)}
    environment.pop("PREFECT_API_URL", None)  # empty, it would hide from the child what a profile names
    log = server_log(home)
    if log.exists() and log.stat().st_size > _LOG_BYTES:
        log.unlink()
    with log.open("ab") as output:
        offset = output.tell()
        process = subprocess.Popen(
            # -P: nothing in the working directory shadows a package of the server's
            [sys.executable, "-P", "-m", "augmill.flows.orchestration.server_child", str(os.getpid())],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output.fileno(),
            start_new_session=True,  # Ctrl-C in the terminal is for the run, which still needs the server then
        )
    return _Spawned(process, home, log, offset)


def _announced_port(process: subprocess.Popen[bytes], timeout: float) -> int | None:
    """The port the child prints once it answers; None where it died or took longer than ``timeout`` seconds."""
    assert process.stdout is not None
    with process.stdout:
        ready, _, _ = select.select([process.stdout], [], [], timeout)
        line = process.stdout.readline() if ready else b""
    return int(line) if line.strip().isdigit() else None
