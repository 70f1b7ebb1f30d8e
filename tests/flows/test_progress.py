"""Progress: lines on a stream, a bar on a terminal, nothing on stdout, and artifacts that cannot fail a run."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from augmill.flows.orchestration.api import Api
from augmill.flows.orchestration.logs import quiet_logging
from augmill.flows.progress import Artifacts, Progress


def test_on_a_stream_each_stage_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(live=False) as progress:
        with progress.stage("generate", total=1200, unit="rows") as stage:
            stage.advance(1000)
            stage.advance(200)
        with progress.stage("fit") as stage:
            stage.note = "unchanged, from the store"
        with pytest.raises(ValueError, match="x"), progress.stage("mix"):
            raise ValueError("x")
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split("s  ", 1)[1] for line in err.splitlines()] == [
        "1,200 of 1,200 rows",
        "unchanged, from the store",
        "stopped",
    ]


def test_a_live_bar_shows_counts_and_lets_messages_through(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    with quiet_logging(prefect_too=False), Progress(live=True) as progress, progress.stage("fit", 2, "steps") as stage:
        stage.advance(2)
        logging.getLogger("augmill").warning("look here")
    assert "Warning: look here" in terminal.getvalue()
    assert "2 of 2 steps" in terminal.getvalue()


def test_our_messages_are_plain_lines_and_the_loggers_are_put_back(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    with quiet_logging(prefect_too=False):
        logging.getLogger("augmill.tasks").info("fitted %d rules", 3)
        logging.getLogger("augmill").debug("not shown")
        logging.getLogger("somebody.else").info("not shown")
    assert capsys.readouterr().err == "fitted 3 rules\n"
    assert (root.handlers[:], root.level) == before


def test_prefect_is_heard_only_when_asked_for(prefect_api: str, capsys: pytest.CaptureFixture[str]) -> None:
    for verbose, heard in ((False, 0), (True, 1)):
        with quiet_logging(verbose):
            logging.getLogger("prefect.flow_runs").error("loud")
            logging.getLogger("prefect._internal").error("inner")
        assert capsys.readouterr().err.count("loud") == heard


def test_artifacts_without_prefect_do_nothing() -> None:
    artifacts = Artifacts(Api(there=False))
    assert artifacts.table("t", [{"a": 1}]) is None
    assert artifacts.markdown("m", "# x") is None
    artifacts.bar("p", 3).advance(3)


def test_artifacts_are_kept_with_the_flow_run_and_a_refused_one_does_not_fail_it(prefect_api: str) -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    api = Api(there=True)
    artifacts = Artifacts(api)

    @flow(name="test", flow_run_name="artifacts", persist_result=False)
    def body() -> None:
        assert artifacts.table("ledger", [{"class": "a", "accepted": 3}]) is not None
        assert artifacts.markdown("verdict", "published") is not None
        assert artifacts.link("report", "https://example.org/report.html", "report") is not None
        bar = artifacts.bar("shards", 3)
        bar.advance(1)
        bar.advance(2)
        assert artifacts.markdown("Not A Key!", "refused by the API") is None

    body()
    assert api.recording
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["ledger", "verdict", "report", "shards"]))
        )
    assert {artifact.key for artifact in found} == {"ledger", "verdict", "report", "shards"}
    (bar,) = [artifact for artifact in found if artifact.key == "shards"]
    assert bar.data == 100.0
