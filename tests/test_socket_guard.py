"""The guard sees what tries to leave this machine: Python, Rust (obstore), a child; loopback passes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import obstore
import pytest
import socket_guard
from obstore.store import S3Store

pytestmark = pytest.mark.skipif(not socket_guard.active(), reason="needs a C compiler, on Linux")
FAR = "192.0.2.1"  # of a block that is nobody's (RFC 5737)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """What the guard notes from here on: elsewhere than in the suite's own log, which fails the suite."""
    monkeypatch.setenv(socket_guard.LOG, str(tmp_path / "log"))
    return socket_guard.noted


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stderr


def test_a_child_that_connects_sends_or_looks_up_a_name_is_refused_and_noted(log: Callable[[], list[str]]) -> None:
    lines = "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)"
    for call, expected in {
        f"socket.create_connection(('{FAR}', 9))": f"connect {FAR}",
        f"{lines}; s.sendto(b'x', ('{FAR}', 9))": f"sendto {FAR}",
        "socket.create_connection(('2001:db8::1', 9))": "connect 2001:db8::1",
        "socket.getaddrinfo('example.org', 80)": "look up example.org",
    }.items():
        before = len(log())
        assert "rror" in python(f"import socket; {call}")
        assert [line.split(" by ")[0] for line in log()[before:]] == [expected]
        assert "test_a_child_that_connects" in log()[-1]


def test_rust_in_this_process_is_refused_and_noted(log: Callable[[], list[str]]) -> None:
    for endpoint, expected in ((f"http://{FAR}:9", f"connect {FAR}"), ("http://example.org", "look up example.org")):
        store = S3Store(
            "bucket",
            endpoint=endpoint,
            access_key_id="x",
            secret_access_key="x",
            client_options={"allow_http": True, "connect_timeout": timedelta(seconds=5)},
            retry_config={"max_retries": 0},
        )
        with pytest.raises(Exception, match=r"sending request|error"):
            obstore.get(store, "key")
        assert expected in {line.split(" by ")[0] for line in log()}


def test_loopback_passes(log: Callable[[], list[str]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for host in ("127.0.0.1", "localhost", socket.gethostname()):
            python(f"import socket; socket.create_connection(('{host}', {port}), timeout=1)")
        assert "Error" not in python(f"import socket; socket.create_connection(('127.0.0.1', {port}))")
    assert [line for line in log() if "127." in line or "localhost" in line] == []


_OUTER = ("AUGMILL_GUARD", "LD_PRELOAD", "PYTEST_XDIST")  # of the suite that runs this test


@pytest.mark.slow
def test_a_suite_that_reaches_for_the_network_fails_and_says_where(tmp_path: Path) -> None:
    """With this suite's own conftest, in a process of its own."""
    for name in ("conftest.py", "socket_guard.py", "socket_guard.c"):
        (tmp_path / name).write_bytes(Path(__file__).with_name(name).read_bytes())
    code = "import subprocess, sys\n\n\ndef test_far():\n    subprocess.run([sys.executable, '-c', {!r}], stderr=-1)\n"
    (tmp_path / "test_far.py").write_text(code.format(f"import socket; socket.create_connection(('{FAR}', 9))"))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OUTER)}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "test_far.py"]
    done = subprocess.run(command, cwd=tmp_path, env=kept, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert "reached for the network" in done.stdout and f"connect {FAR} by process" in done.stdout
    assert "test_far.py::test_far" in done.stdout
