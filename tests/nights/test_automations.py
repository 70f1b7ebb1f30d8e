"""Who is told of a night that went wrong: pages and notes arrive, once, with a reason; the address stays a secret."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from chain import tiny_recipe, write_rows
from hypothesis import given
from hypothesis import strategies as st

from augmill.flows.nights import paging
from augmill.flows.nights.flows import run_nightly
from augmill.flows.nights.paging import Message, messages, send, watched
from augmill.tasks.boundary.hosts import why_not
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.store.attempts import Attempt

SECRET = "T0ps3cret"
NOW = datetime(2026, 10, 4, 3, tzinfo=UTC)


@dataclass
class Receiver:
    """A webhook that answers with each of ``answers`` in turn, the last one from then on."""

    answers: list[int] = field(default_factory=lambda: [200])
    bodies: list[dict[str, Any]] = field(default_factory=list)
    tries: int = 0
    address: str = ""
    location: str = ""


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setattr(paging, "PAUSE", 0.01)
    with serving() as receiver:
        monkeypatch.setenv("NIGHT_HOOK", receiver.address)
        yield receiver


@contextmanager
def serving() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = receiver.answers[min(receiver.tries, len(receiver.answers) - 1)]
            receiver.tries += 1
            if answer == 200:
                receiver.bodies.append(json.loads(body))
            self.send_response(answer)
            self.send_header("Content-Length", "0")
            if receiver.location:
                self.send_header("Location", receiver.location)
            self.end_headers()

        def do_GET(self) -> None:
            receiver.tries += 1
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Not on the test's stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.address = f"http://127.0.0.1:{server.server_address[1]}/{SECRET}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


def recipe(source: Path, **schedule: Any) -> Recipe:
    run = {"orchestrator": "none", "store": str(source.parent / "store")}
    return tiny_recipe(source, run=run, schedule={"webhook": "NIGHT_HOOK", **schedule}, target={"per_class": 3})


def attempt(snapshot: str, outcome: str, *, at: datetime = NOW, number: int = 0, action: str = "best_real") -> Attempt:
    end = {"time": at.isoformat(), "outcome": outcome, "action": action, "reason": "because", "next": "do this"}
    return Attempt(snapshot, number, {"time": at.isoformat()}, at, end)


@given(
    st.lists(st.sampled_from(["published", "harmful", "inconclusive", "not_produced", "unsound_source"]), min_size=1)
)
def test_every_third_refusal_in_a_row_is_a_note_and_no_other(outcomes: list[str]) -> None:
    refused = len(list(takewhile(lambda name: name in ("harmful", "inconclusive", "not_produced"), reversed(outcomes))))
    dated = {f"2026-10-{at:02}": [attempt(f"2026-10-{at:02}", name)] for at, name in enumerate(outcomes, 1)}
    alone = {"all": [attempt("all", name, number=at) for at, name in enumerate(outcomes)]}
    for attempts in (dated, alone):
        told = messages("tiny", attempts, NOW, None)
        notes = [message for message in told if message.severity == "note"]
        assert [message.kind for message in notes] == (["refused"] if refused and refused % 3 == 0 else [])
        assert {message.severity for message in told} - {"note"} <= {"page"}
        assert all(message.kind == "unsound_source" for message in told if message.severity == "page")


def test_only_what_this_night_did_is_told_of() -> None:
    before, since = NOW - timedelta(days=1), NOW
    attempts = {
        "2026-10-01": [attempt("2026-10-01", "error", at=before)],
        "2026-10-02": [attempt("2026-10-02", "error", at=before), attempt("2026-10-02", "published", number=1)],
        "2026-10-03": [attempt("2026-10-03", "interrupted")],
        "2026-10-04": [attempt("2026-10-04", "error")],
        "2026-10-05": [attempt("2026-10-05", "harmful", action="fail")],
        "2026-10-06": [Attempt("2026-10-06", 0, {"time": NOW.isoformat()}, NOW)],  # another's, still running
    }
    told = messages("tiny", attempts, since, "release x is 40 h old")
    assert [(message.kind, message.snapshot) for message in told] == [
        ("failed", "2026-10-04"),
        ("failed", "2026-10-05"),
        ("stale", "2026-10-06"),
    ]
    assert all(message.severity == "page" and message.reason and message.next for message in told)


def test_nights_of_a_source_that_rots_are_paged_with_the_cause(webhook: Receiver, tmp_path: Path) -> None:
    made = recipe(write_rows(tmp_path / "rows.csv"))
    source = tmp_path / "rows.csv"

    def night() -> list[dict[str, Any]]:
        webhook.bodies.clear()
        with watched(made, datetime.now(UTC)):
            run_nightly(made, orchestrator="none")
        return webhook.bodies

    assert night() == []
    source.write_text("".join(f"{line}\n" for line in source.read_text().splitlines() if ",login," not in line))
    (vanished,) = night()
    assert vanished["text"].count("What to do: ") == 1
    assert (vanished["severity"], vanished["kind"], vanished["snapshot"]) == ("page", "unsound_source", "all")
    assert "login" in vanished["reason"] and "login" in vanished["text"] and vanished["next"]
    source.unlink()
    (failed,) = night()  # an attempt that failed: `augmill status` has it too
    assert failed["kind"] == "failed" and "rows.csv" in failed["reason"]
    webhook.bodies.clear()
    with pytest.raises(OSError), watched(made, datetime.now(UTC)):
        raise OSError(28, "no space")
    assert [body["kind"] for body in webhook.bodies] == ["failed"]


def test_a_messenger_that_talks_nonsense_ends_no_night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Nonsense(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            self.request.sendall(b"what?\r\n\r\n")

    monkeypatch.setattr(paging, "PAUSE", 0.01)
    with socketserver.TCPServer(("127.0.0.1", 0), Nonsense) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("NIGHT_HOOK", f"http://127.0.0.1:{server.server_address[1]}/x")
        page = Message("page", "failed", "tiny", "all", "it broke.", "mend it.")
        assert send(recipe(write_rows(tmp_path / "rows.csv")), [page]) == 0
        server.shutdown()


@pytest.mark.parametrize(
    ("answers", "tries", "taken"), [([200], 1, 1), ([500, 429, 200], 3, 1), ([503], 3, 0), ([404], 1, 0)]
)
def test_what_can_pass_is_tried_again_and_what_was_not_taken_is_a_warning_without_the_address(
    webhook: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture, answers: list[int], tries: int, taken: int
) -> None:
    webhook.answers = answers
    page = Message("page", "failed", "tiny", "all", "it broke.", "mend it.")
    with caplog.at_level(logging.WARNING):
        assert send(recipe(write_rows(tmp_path / "rows.csv")), [page]) == taken
    assert webhook.tries == tries
    assert ("did not take the page" in caplog.text) == (not taken)
    assert SECRET not in caplog.text and "NIGHT_HOOK" in caplog.text + "NIGHT_HOOK" * taken


@pytest.mark.parametrize(
    "address",
    [
        "",
        f"ftp://{SECRET}",
        f"{SECRET}.example",
        f"http://127.0.0.1:9/{SECRET}",
        f"http://[{SECRET}",
        f"http://h/{SECRET} x",
        f"http://h:{SECRET}/",
    ],
)
def test_an_address_that_cannot_be_used_ends_nothing_and_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, address: str
) -> None:
    monkeypatch.setattr(paging, "PAUSE", 0.01)
    monkeypatch.setenv("NIGHT_HOOK", address)
    with caplog.at_level(logging.WARNING):
        assert send(recipe(write_rows(tmp_path / "rows.csv")), [Message("note", "refused", "t", "-", "r.", "n.")]) == 0
    assert "NIGHT_HOOK" in caplog.text and SECRET not in caplog.text


# --- Prefect's part -------------------------------------------------------------------------------------------------

DOZE = """
import os, sys, time
from prefect import flow

@flow(name="doze")
def doze():
    print("dozing", flush=True)
    time.sleep(120)
"""


@pytest.mark.slow
def test_a_run_whose_process_died_is_marked_crashed_and_paged(
    prefect_api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed with SIGKILL: nobody is left to tell. The silence is cut from 540 s to the 10 s that Prefect allows."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_HOME

    from augmill.flows.nights import automations
    from augmill.flows.orchestration.server import _own_server, _settings_for

    monkeypatch.setattr(automations, "ZOMBIE", timedelta(seconds=10))
    (tmp_path / "dozing.py").write_text(DOZE)
    with (
        serving() as receiver,
        _own_server(Path(PREFECT_HOME.value()), True, threading.Event()) as url,
        _settings_for(url),
    ):
        monkeypatch.setenv("NIGHT_HOOK", receiver.address)
        with get_client(sync_client=True) as client:
            flow = client.create_flow_from_name("doze")
            deployment = client.create_deployment(flow, "tiny", entrypoint="dozing.doze", tags=["augmill", "tiny"])
            automations.ensure_automations(recipe(write_rows(tmp_path / "rows.csv")), deployment)
            run = client.create_flow_run_from_deployment(deployment)
            environment = {"PREFECT_API_URL": url, "PREFECT__FLOW_RUN_ID": str(run.id), "PYTHONPATH": str(tmp_path)}
            process = subprocess.Popen(
                [sys.executable, "-m", "prefect.engine"],
                env={**os.environ, **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            with process:
                assert process.stdout is not None and process.stdout.readline() == "dozing\n"
                time.sleep(1.5)  # its first heartbeat is under way
                process.send_signal(signal.SIGKILL)
            until = time.monotonic() + 40
            while not receiver.bodies and time.monotonic() < until:
                time.sleep(0.3)
            state = client.read_flow_run(run.id).state
            assert state is not None and state.is_crashed() and "no heartbeat" in str(state.message)
            assert [(body["severity"], body["kind"], body["dataset"]) for body in receiver.bodies] == [
                ("page", "failed", "tiny")
            ]
            client.delete_deployment(deployment)
            for automation in client.read_automations():
                client.delete_automation(automation.id)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_takes_no_page_and_is_not_followed(
    webhook: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    webhook.answers = [status]
    page = Message("page", "failed", "tiny", "all", "it broke.", "mend it.")
    with serving() as elsewhere, caplog.at_level(logging.WARNING):
        webhook.location = elsewhere.address
        assert send(recipe(write_rows(tmp_path / "rows.csv")), [page]) == 0
        assert (webhook.tries, elsewhere.tries) == (1, 0)
    assert f"HTTP {status}" in caplog.text and SECRET not in caplog.text


@pytest.mark.parametrize(
    ("host", "address", "private", "asked"),
    [
        ("hooks.example", "93.184.216.34", False, True),
        ("hooks.example", "10.0.0.7", False, False),
        ("hooks.example", "10.0.0.7", True, True),
        ("hooks.example", "127.0.0.1", False, False),  # a name that came to lead here
        ("localhost", "127.0.0.1", False, True),
        ("127.0.0.1", "127.0.0.1", False, True),
        ("hooks.example", "169.254.169.254", True, False),
        ("hooks.example", "::ffff:169.254.169.254", True, False),
        ("hooks.example", "64:ff9b::a9fe:a9fe", True, False),
        ("hooks.example", "fe80::1%eth0", True, False),
        ("hooks.example", "fd00:ec2::254", True, False),
        ("hooks.example", "0.0.0.0", True, False),
        ("hooks.example", "100.64.3.4", False, False),
    ],
)
def test_which_address_may_be_asked(host: str, address: str, private: bool, asked: bool) -> None:
    assert (why_not(host, address, private=private) is None) == asked


def test_a_page_goes_to_no_private_host_unless_the_recipe_says_so(
    webhook: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A name that leads to this machine by another name than its own counts as private."""
    real = socket.getaddrinfo

    def look_up(host: Any, *others: Any, **more: Any) -> Any:
        return real("127.0.0.1" if host in ("hooks.example", b"hooks.example") else host, *others, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setenv("NIGHT_HOOK", webhook.address.replace("127.0.0.1", "hooks.example"))
    page = Message("page", "failed", "tiny", "all", "it broke.", "mend it.")
    source = write_rows(tmp_path / "rows.csv")
    with caplog.at_level(logging.WARNING):
        assert send(recipe(source), [page]) == 0
    assert webhook.tries == 0 and "webhook_private" in caplog.text and SECRET not in caplog.text
    assert send(recipe(source, webhook_private=True), [page]) == 1
    monkeypatch.setenv("NIGHT_HOOK", f"http://169.254.169.254/{SECRET}")
    assert send(recipe(source, webhook_private=True), [page]) == 0


def test_only_these_files_ask_anything_over_http() -> None:
    """Every way out goes through the one rule of tasks/boundary/hosts.py, or is Prefect's own API."""
    root = Path(paging.__file__).parents[2]
    words = re.compile(r"^\s*(?:import|from) (?:httpx|urllib\.request|http\.client|requests|aiohttp|urllib3)\b", re.M)
    found = {
        path.relative_to(root).as_posix()
        for top in ("flows", "tasks")
        for path in (root / top).rglob("*.py")
        if words.search(path.read_text(encoding="utf-8"))
    }
    assert found == {
        "flows/nights/paging.py",
        "tasks/generators/chat/http.py",
        "tasks/boundary/hosts.py",
    }
