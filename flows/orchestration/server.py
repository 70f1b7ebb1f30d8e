"""A Prefect API server that lives exactly as long as the run that needs one.

Prefect's own ephemeral server outlives a killed parent, logs event-flush errors when it is torn down and sends
telemetry. This one runs in a child process with a watchdog, announces its port when it is ready, and is stopped only
after the client's queues and its own are written. Both use the database under PREFECT_HOME, so the runs are there
when ``prefect server start`` is run later. Start-up takes 3 s, or 9 s on a fresh database (its migrations).
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from augmill.flows.orchestration.logs import QUIET, api_trouble, flush_client, prepare_prefect
from augmill.tasks.boundary.masking import masked
from augmill.tasks.errors import WorldError

_log = logging.getLogger("augmill.server")

START_TIMEOUT = 120.0  # seconds; a fresh database on a busy 2-core machine took 20
_STOP_TIMEOUT = 20.0  # seconds; the child gives its own queues 10 before it stops
_LOG_BYTES = 1_000_000  # the server's log starts anew beyond this

_SERVER_ENV = {
    **QUIET,
    "PREFECT_SERVER_UI_ENABLED": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    "PREFECT__SERVER_FINAL": "1",
}
# Automations belong to a server that stands; in one that does not they would also race with a stop within the first
# second. The same for the scheduler and for the marking of late runs.
_PASSING_ENV = {"PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false", "PREFECT__SERVER_EPHEMERAL": "1"}


class ServerUnavailable(WorldError):
    """The Prefect server did not start; the run can go on without one."""

    retryable = False


@contextlib.contextmanager
def prefect_server(*, standing: bool = False) -> Iterator[str]:
    """The address of a Prefect API for the body: the configured PREFECT_API_URL, or that of a server of our own.

    ``standing``: our own one schedules runs and heeds automations too, as ``prefect server start`` does. Raises
    ``ServerUnavailable`` where the configured one cannot be used, or none could be started within ``START_TIMEOUT``.
    On leaving, what the client still holds is sent before the server stops.
    """
    prepare_prefect()
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME

    if configured := PREFECT_API_URL.value():
        if (trouble := api_trouble()) is not None:
            raise ServerUnavailable(
                f"Prefect's API at {masked(configured)} cannot be used ({trouble})",
                where="PREFECT_API_URL",
                fix="start it (`prefect server start`), or mend the address; `augmill doctor` looks closer",
            )
        with _patience():
            try:
                yield configured
            finally:
                flush_client()
        return
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(_own_server(Path(PREFECT_HOME.value()), standing))
        stack.enter_context(_settings_for(url))
        stack.callback(flush_client)
        yield url


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """Where the user has not said how long: an API that falls silent in the middle costs a run a minute, not six."""
    from prefect.settings import (
        PREFECT_API_REQUEST_TIMEOUT,
        PREFECT_CLIENT_MAX_RETRIES,
        get_current_settings,
        temporary_settings,
    )

    given = get_current_settings().to_environment_variables(exclude_unset=True)
    wanted = {PREFECT_API_REQUEST_TIMEOUT: 20.0, PREFECT_CLIENT_MAX_RETRIES: 2}
    with temporary_settings({setting: value for setting, value in wanted.items() if setting.name not in given}):
        yield


@contextlib.contextmanager
def _settings_for(url: str) -> Iterator[None]:
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    bypass = {name: os.environ.get(name) for name in ("NO_PROXY", "no_proxy")}
    for name, value in bypass.items():  # a proxy in the environment cannot reach this machine's loopback
        os.environ[name] = f"{value},127.0.0.1" if value else "127.0.0.1"
    # A local server that has died does not come back: 1 retry waits 2 s a request, the default 5 wait 62 s.
    updates = {PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 1}
    try:
        with temporary_settings(updates):
            yield
    finally:
        for name, value in bypass.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _own_server(home: Path, standing: bool) -> Iterator[str]:
    log = server_log(home)
    if log.exists() and log.stat().st_size > _LOG_BYTES:
        log.unlink()
    with log.open("ab") as output:
        offset = output.tell()
        process = _spawn(home, output.fileno(), standing)
    try:
        port = _announced_port(process, START_TIMEOUT)
        if port is None:
            tail = log.read_bytes()[offset:].decode(errors="replace").strip().splitlines()[-3:]
            raise ServerUnavailable(
                "Prefect's server did not start" + (": " + masked(" | ".join(tail)) if tail else ""),
                where=str(log),
                fix="read that log, or set `run: {orchestrator: none}`",
            )
        yield f"http://127.0.0.1:{port}/api"
    finally:
        _stop(process)


def server_log(home: Path) -> Path:
    """What our own server has to say: warnings and worse."""
    return home / "augmill-server.log"


def _spawn(home: Path, log: int, standing: bool) -> subprocess.Popen[bytes]:
    from prefect.settings import get_current_settings

    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    return subprocess.Popen(
        # -P: nothing in the working directory shadows a package of the server's
        [sys.executable, "-P", "-m", "augmill.flows.orchestration.server_child", str(os.getpid())],
        env={**os.environ, **settings, **_SERVER_ENV, **({} if standing else _PASSING_ENV), "PREFECT_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        start_new_session=True,  # Ctrl-C in the terminal is for the run, which still needs the server then
    )


def _announced_port(process: subprocess.Popen[bytes], timeout: float) -> int | None:
    """The port the child prints once it answers; None where it died or took longer than ``timeout`` seconds."""
    assert process.stdout is not None
    with process.stdout:
        ready, _, _ = select.select([process.stdout], [], [], timeout)
        line = process.stdout.readline() if ready else b""
    return int(line) if line.strip().isdigit() else None


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=_STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
