"""Progress: lines on a stream, a live line on a terminal, nothing on stdout, and artifacts that cannot fail a run."""

from __future__ import annotations

import contextvars
import fcntl
import io
import logging
import os
import pty
import re
import signal
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from augmill.flows.orchestration.api import Api
from augmill.flows.orchestration.logs import quiet_logging
from augmill.flows.progress import STRETCH, Artifacts, Progress, ShownStage, TimeLeft
from augmill.tasks.rows.hashing import hash_json
from augmill.tasks.store.stage import Site, Work, identity_of


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """For ``redirect_stderr``."""
    monkeypatch.setenv("TERM", "xterm")
    return Terminal()


WHOSE: contextvars.ContextVar[str] = contextvars.ContextVar("whose", default="nobody's")


class Heard(logging.Handler):
    """Every record with the run in whose context it was written."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        assert record.levelno == logging.INFO
        self.lines.append((WHOSE.get(), record.getMessage()))


@pytest.fixture
def heard() -> Iterator[Heard]:
    logger, handler = logging.getLogger("augmill.progress"), Heard()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


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


def test_a_live_line_shows_counts_and_lets_messages_through(terminal: Terminal) -> None:
    with (
        redirect_stderr(terminal),
        quiet_logging(prefect_too=False),
        Progress() as progress,
        progress.stage("fit", 2, "steps") as stage,
    ):
        stage.advance(2)
        logging.getLogger("augmill").warning("look here")
    assert "Warning: look here" in terminal.getvalue()
    assert "2 of 2 steps" in terminal.getvalue()


def test_a_terminal_shows_at_once_what_is_waited_for(terminal: Terminal) -> None:
    with redirect_stderr(terminal), Progress() as progress:
        with progress.waiting("Prefect's server"):
            assert "waiting for Prefect's server  0:00" in terminal.getvalue()
        before = len(terminal.getvalue())
        with progress.stage("fit causal_lm"):
            assert "fit causal_lm  0:00" in terminal.getvalue()[before:]
    assert re.search(r"fit causal_lm +\d\.\d s\n", terminal.getvalue())
    assert not re.search(r"waiting [^\r\n]*\n", terminal.getvalue())


@pytest.mark.parametrize("width", [40, 60, 80, 200])
@pytest.mark.parametrize("name", ["fit", "fit_check label_consistency", "標籤" * 40, "x" * 300])
def test_elapsed_is_seen_whole_at_any_width(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, width: int, name: str
) -> None:
    clock = Clock()
    monkeypatch.setenv("COLUMNS", str(width))
    with redirect_stderr(terminal), Progress(clock=clock) as progress, progress.stage(name) as stage:
        stage.tell(0, 1_200_000, "steps")
        clock.now += 3723
        stage.tell(12_345, 1_200_000, "steps")
        before = len(terminal.getvalue())
        progress._screen.refresh()
        drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue()[before:])
    (line,) = [part for part in re.split(r"[\r\n]+", drawn) if part]
    assert "  1:02:03  " in line and line[2:6].strip() and "12,345" in line
    assert ("12,345 of 1,200,000 steps, about 99.5 h left" in line) == (width == 200 or (name == "fit" and width >= 60))


def test_what_a_stage_tells_is_shown_while_it_runs_and_its_own_line_stays_as_it_was(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Progress(live=False) as progress:
        with progress.stage("fit") as stage:
            stage.tell(40, 200, "steps")
            assert (stage.done, stage.total, stage.counts()) == (40, 200, "40 of 200 steps")
            stage.note = "300 rows"
        with progress.stage("ingest", 3, "unit(s)") as stage:
            stage.tell(5000, None, "rows")
            stage.advance()
            assert (stage.done, stage.total, stage.counts()) == (1, 3, "1 of 3 unit(s), 5,000 rows")
        with pytest.raises(ValueError, match="x"), progress.stage("fit") as stage:
            stage.tell(40, 200, "steps")
            raise ValueError("x")
    said = [line.split("s  ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert said == ["300 rows", "1 of 3 unit(s)", "40 of 200 steps, stopped"]


def test_shards_add_up_in_one_count_and_each_is_replaced_by_what_it_gave() -> None:
    stage = ShownStage("generate 1", 100, "rows")
    first, second = stage.tell_part(0, 40), stage.tell_part(1, 60)
    first(10, 20, "steps")  # half of its 40 rows
    second(6, None, "rows")
    assert stage.done == 26
    first(0, 20, "steps")  # tried again
    assert stage.done == 6
    second(500, None, "rows")  # no more than it has
    stage.advance(40, part=0)
    assert (stage.done, stage.counts()) == (100, "100 of 100 rows")
    stage.advance(58, part=1)
    assert (stage.done, stage.count) == (98, "98 of 100 rows")


def test_counts_from_many_threads_lose_nothing() -> None:
    stage = ShownStage("generate 1", 64_000, "rows")

    def shard(number: int) -> None:
        tell = stage.tell_part(number, 1000)
        for done in range(0, 1000, 10):
            tell(done, 1000, "rows")
        stage.advance(1000, part=number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(shard, range(64)))
    assert stage.done == 64_000


@pytest.mark.parametrize("quiet", [False, True])
def test_a_stream_hears_of_a_long_stage_after_20_seconds_and_then_each_minute(
    quiet: bool, heard: Heard, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    progress = Progress(live=False, quiet=quiet, clock=clock)  # not entered: nobody ticks but we
    with progress.stage("fit causal_lm") as stage:
        told = []
        for second in range(150):
            clock.now += 1
            stage.tell(second, 300, "steps")
            progress.tick()
            told += [second + 1] * (len(heard.lines) > len(told))
    assert told == [20, 80, 140]
    said = [line for _, line in heard.lines]
    assert said[0] == "... fit causal_lm: 19 of 300 steps, about 5 min left"
    assert said[1] == "... fit causal_lm: 79 of 300 steps, about 4 min left"
    assert [line.split() for line in said[3:]] == [["fit", "causal_lm", "150.0", "s"]]
    assert capsys.readouterr().err.splitlines() == ([] if quiet else said)


def test_a_stage_without_a_count_says_how_long_it_has_run(heard: Heard) -> None:
    clock = Clock()
    progress = Progress(live=False, quiet=True, clock=clock)
    with progress.waiting("Prefect's server"):
        clock.now += 25
        progress.tick()
    assert heard.lines == [("nobody's", "... waiting for Prefect's server: 25 s so far")]


@pytest.mark.parametrize("live", [False, True])
def test_the_ticker_writes_into_the_logs_of_the_stages_own_run_and_ends_with_the_progress(
    live: bool, heard: Heard, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(progress: Progress, whose: str) -> None:
        WHOSE.set(whose)
        with progress.stage(whose):
            wait_until(lambda: (whose, f"... {whose}: 0 s so far") in heard.lines)

    with Progress(live=live, first=0.02) as progress:
        (ticker,) = [thread for thread in threading.enumerate() if thread.name == "augmill-progress"]
        threads = [
            threading.Thread(target=contextvars.copy_context().run, args=(run, progress, whose)) for whose in "ab"
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    wait_until(lambda: not ticker.is_alive())
    assert {whose for whose, line in heard.lines} == {"a", "b"}
    assert all(whose in line for whose, line in heard.lines)
    assert ("... a: 0 s so far" in capsys.readouterr().err) == (not live)


def test_no_line_of_progress_is_seen_twice(capsys: pytest.CaptureFixture[str]) -> None:
    with quiet_logging(prefect_too=False), Progress(live=False) as progress, progress.stage("mix"):
        pass
    assert capsys.readouterr().err.count("mix") == 1


Waits = st.one_of(st.floats(0.01, 3), st.floats(0.01, 100))
Steps = st.lists(st.tuples(Waits, st.integers(0, 400)), min_size=1, max_size=60)


@given(Steps, st.one_of(st.none(), st.integers(0, 4000)))
def test_what_is_left_is_never_negative_and_never_claimed_before_it_can_be_known(
    steps: list[tuple[float, int]], total: int | None
) -> None:
    pace, now, begun, seen = TimeLeft(), 50.0, None, list[int]()
    for wait, done in steps:
        now += wait
        begun = now if begun is None or done < min(seen[-1:] or [0]) else begun
        pace.see(now, done)
        seen.append(done)
        left = pace.left(now, total)
        assert left is None or left >= 0
        if total is None or done >= total or now - 50.0 - steps[0][0] < 10 or len(set(seen)) == 1:
            assert left is None
        if now - begun < STRETCH and total is not None and max(seen) - min(seen) < 0.05 * total:
            assert left is None


def test_nothing_is_claimed_of_the_first_seconds_nor_of_a_small_part() -> None:
    half, small = TimeLeft(), TimeLeft()
    half.see(0.0, 0)
    half.see(5.0, 50)
    assert (half.left(9.9, 100), half.left(10.0, 100)) == (None, 10.0)
    small.see(0.0, 0)
    small.see(30.0, 4)
    assert small.left(59.9, 100) is None
    assert small.left(60.0, 100) == pytest.approx(96 * 60 / 4)  # a minute has shown the pace


@given(st.floats(0.2, 50), st.integers(200, 100_000), st.integers(0, 1000))
def test_a_steady_count_ends_when_it_was_said_to(rate: float, total: int, begin: int) -> None:
    """``begin``: where a checkpoint took it up, which nobody was there to see done."""
    pace, now = TimeLeft(), 7.0
    for second in range(90):
        done = begin + int(rate * second)
        pace.see(now + second, done)
        left = pace.left(now + second, total)
        if left is not None:
            assert second >= 10
            assert left == pytest.approx((total - done) / rate, rel=0.3, abs=10)
    assert left is not None or done >= total


def test_a_count_that_begins_anew_has_a_new_pace() -> None:
    pace = TimeLeft()
    for second in range(200):
        pace.see(float(second), 10 * second)
    assert pace.left(199.0, 4000) == pytest.approx(201, abs=2)
    pace.see(200.0, 0)
    assert pace.left(205.0, 4000) is None


def test_whoever_looks_on_is_no_part_of_an_identity(tmp_path: object) -> None:
    told: list[tuple[int, int | None, str]] = []
    site = Site(None, tell=lambda *how: told.append(how))  # type: ignore[arg-type]
    Work(site, None).tell(1, 2, "rows")  # type: ignore[arg-type]
    assert told == [(1, 2, "rows")]
    with pytest.raises(TypeError):  # a site cannot even be hashed as an input
        hash_json(identity_of(site))


INTERRUPTED = """
import threading, time
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr
from augmill.flows.progress import Progress
with Progress(live=True) as progress, ThreadPoolExecutor(2) as pool:
    with progress.stage("generate 1", 100, "rows") as stage:
        tell = stage.tell_part(0, 50)
        going = threading.Event()
        def shard():
            n = 0
            while not going.wait(0.001):
                tell(n % 50, 50, "rows")
                n += 1
        pool.submit(shard)
        try:
            print("READY", flush=True)
            threading.Event().wait(300)
        finally:
            going.set()
"""


@pytest.mark.slow
def test_ctrl_c_is_answered_while_a_line_is_live_and_threads_tell() -> None:
    """0.1 s on a quiet machine; the bound is far above what load makes of it, and far below the 300 s of the wait."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm"
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # whoever began the tests in the background had it ignored
        os.execv(sys.executable, [sys.executable, "-c", INTERRUPTED])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    seen, sent = b"", 0.0
    try:
        while part := os.read(terminal, 65536):
            seen += part
            if not sent and b"READY" in seen:
                sent = time.monotonic()
                os.write(terminal, b"\x03")
    except OSError:  # how a terminal ends on Linux
        pass
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0
    assert b"stopped" in seen and b"KeyboardInterrupt" in seen
    assert sent and time.monotonic() - sent < 20


def test_our_messages_are_plain_lines_and_the_loggers_are_put_back(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    with quiet_logging(prefect_too=False):
        logging.getLogger("augmill.tasks").info("fitted %d rules", 3)
        logging.getLogger("augmill").debug("not shown")
        logging.getLogger("somebody.else").info("not shown")
    assert capsys.readouterr().err == "fitted 3 rules\n"
    assert (root.handlers[:], root.level) == before


def test_prefect_is_heard_only_when_asked_for(
    prefect_api: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("augmill.flows.orchestration.logs._Prepared.hushes", True)  # as in a process of our own
    for verbose, heard in ((False, 0), (True, 1)):
        with quiet_logging(verbose):
            logging.getLogger("prefect.flow_runs").error("loud")
            logging.getLogger("prefect._internal").error("inner")
        assert capsys.readouterr().err.count("loud") == heard


def test_artifacts_without_prefect_do_nothing() -> None:
    artifacts = Artifacts(Api(recording=False))
    assert artifacts.table("t", [{"a": 1}]) is None
    assert artifacts.markdown("m", "# x") is None
    artifacts.bar("p", 3).advance(3)


def test_artifacts_are_kept_with_the_flow_run_and_a_refused_one_does_not_fail_it(prefect_api: str) -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    api = Api(recording=True)
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
