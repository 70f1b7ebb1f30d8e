"""What every test stands on: no network, a Prefect home of its own, and one Prefect server when a test asks."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import socket_guard
from hypothesis import HealthCheck, settings

# Two shared cores: how long an example takes says nothing about the code.
settings.register_profile("augmill", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)
settings.load_profile("augmill")

# Before anything imports Prefect, which reads them then; subprocesses inherit them. Nobody's own runs are touched.
_HOME = Path(tempfile.mkdtemp(prefix="augmill-tests-"))
os.environ.update(
    {
        "PREFECT_HOME": str(_HOME),
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
)
for _name in ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_API_DATABASE_CONNECTION_URL"):
    os.environ.pop(_name, None)


def _refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: sees every connection Python code of this process opens, whoever's code it is."""
    if event == "socket.connect":
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None  # a path: a Unix socket
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    if host is None or host in ("", "localhost", b"localhost"):
        return
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host)
        if address.is_loopback or address.is_unspecified:
            return
    raise RuntimeError(f"a test reached for the network: {event} {host!r}")


sys.addaudithook(_refuse_network)


@pytest.fixture(autouse=True)
def renewed_patience() -> Iterator[None]:
    """A test that interrupts what waits for a store leaves the next one its patience: the process has one."""
    yield
    if (retries := sys.modules.get("augmill.tasks.boundary.retries")) is not None:
        retries.PATIENCE.renew(retries.PATIENCE_SECONDS)


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What our own logger says meanwhile. ``caplog`` hears it only until some test configures Prefect's logging."""
    messages: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler = Handler()
    logging.getLogger("augmill").addHandler(handler)
    yield messages
    logging.getLogger("augmill").removeHandler(handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs the Prefect server, whose start alone takes 10 s, is no part of the daily round."""
    for item in items:
        if "prefect_api" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


def pytest_configure(config: pytest.Config) -> None:
    if not socket_guard.active():
        shutil.rmtree(_HOME, ignore_errors=True)
        socket_guard.preload(config)  # starts anew, where it can be
        _HOME.mkdir(exist_ok=True)


def pytest_report_header() -> str:
    if socket_guard.active():
        return "network: nothing beyond loopback, in any process (tests/socket_guard.c)"
    return "network: only Python's own connections of this process are watched; a C compiler would guard all"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if socket_guard.noted():
        terminalreporter.section("reached for the network")
        for line in dict.fromkeys(socket_guard.noted()):
            terminalreporter.line(line)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if socket_guard.noted() and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)
    if socket_guard.active() and "PYTEST_XDIST_WORKER" not in os.environ:  # the log is of all test processes
        Path(os.environ[socket_guard.LOG]).unlink(missing_ok=True)


@pytest.fixture(scope="session")
def prefect_api() -> Iterator[str]:
    """The address of the session's one Prefect server; flows in this process and commands in subprocesses use it."""
    from augmill.flows.orchestration.server import prefect_server

    with prefect_server() as url:
        os.environ["PREFECT_API_URL"] = url
        try:
            yield url
        finally:
            del os.environ["PREFECT_API_URL"]


@pytest.fixture(scope="session")
def clean_environment() -> dict[str, str]:
    """For a subprocess that must start a Prefect server of its own even while the session's runs."""
    return {
        name: value for name, value in os.environ.items() if name not in ("PREFECT_API_URL", "NO_PROXY", "no_proxy")
    }
