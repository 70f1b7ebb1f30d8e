"""Weather: a store or a source that does not answer is waited out for as long as the recipe says, told once, and no longer."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from buckets import s3_server
from chain import write_rows
from commands import augmill, write_recipe
from hypothesis import given
from hypothesis import strategies as st
from storms import Storm, storm

from augmill.flows.units import read_units
from augmill.tasks.boundary.retries import PATIENCE, Patience, can_pass
from augmill.tasks.errors import StoreError, StoreRefused, StoreSilent
from augmill.tasks.recipe.recipe import not_identity
from augmill.tasks.sources.storage import ask, open_bytes
from augmill.tasks.stages.gather import gather
from augmill.tasks.store.store import Store

ENDING = ["run", "backfill", "status", "releases", "show", "verify", "path", "audit", "rollback", "tag", "gc"]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    PATIENCE.renew(120.0)
    yield
    PATIENCE.renew(120.0)


@pytest.fixture
def root(tmp_path: Path) -> str:
    return f"s3://mill/{tmp_path.name}"


@pytest.fixture
def weather(monkeypatch: pytest.MonkeyPatch) -> Iterator[Storm]:
    with s3_server("mill") as endpoint, storm(endpoint) as made:
        monkeypatch.setenv("AWS_ENDPOINT_URL", made.address)
        yield made


def outage(weather: Storm, seconds: float, *, status: int = 503) -> None:
    """From now on nothing answers but with that status, for so long."""
    ends = time.monotonic() + seconds
    weather.rule = lambda method, path, count: status if time.monotonic() < ends else None


@given(st.floats(0, 300), st.lists(st.floats(0.01, 20), min_size=1), st.booleans())
def test_it_is_asked_again_until_the_time_is_over_and_never_after(
    seconds: float, answers: list[float], passes: bool
) -> None:
    """``answers``: how long each request takes, over and over; the store answers at three quarters of the time."""
    now, asked = 0.0, 0
    patience = Patience(seconds=seconds, silent=True)

    def pause(stopped: threading.Event, wait: float) -> bool:
        nonlocal now
        now += wait
        return False

    def request() -> int:
        nonlocal now, asked
        began = now
        now += answers[asked % len(answers)]
        asked += 1
        if passes and began >= 0.75 * seconds:
            return 7
        raise StoreError("status code: 503 No", where="k")

    patience._pause = pause  # type: ignore[method-assign]
    longest = max(answers)
    try:
        assert patience.outwait(request, clock=lambda: now) == 7
        assert passes
    except StoreSilent as error:
        assert error.where == "k" and not error.retryable
        assert not passes or longest >= 0.25 * seconds  # its last request began before the store was back
        before, passes = asked, False
        with pytest.raises(StoreSilent):
            patience.outwait(request, clock=lambda: now)
        assert asked == before + 1  # one outage is borne once
    assert now <= seconds + 3 * longest + 1  # counted from the first failure; the last; the one of the second call


@pytest.mark.parametrize("status", [400, 403, 404, 405, 412, 301, 501])
def test_a_status_that_stays_is_told_from_one_that_passes(status: int) -> None:
    assert not can_pass(f"Generic S3 error: Server returned non-2xx status code: {status} No: <Error>")
    for other in (408, 409, 429, 500, 502, 503, 504):
        assert can_pass(f"Generic S3 error: Server returned non-2xx status code: {other} No: <Error>")
    assert can_pass("Generic S3 error: error sending request")


@pytest.mark.parametrize("status", [400, 403])
def test_what_waiting_cannot_cure_takes_no_time(weather: Storm, root: str, status: int) -> None:
    store = Store(root)
    weather.rule = lambda method, path, count: status
    started = time.monotonic()
    for call in (
        lambda: store.get("a"),
        lambda: store.list_keys("a"),
        lambda: store.put("a", b""),
        lambda: store.delete("a"),
    ):
        with pytest.raises(StoreRefused, match=f"^{root}: a: "):
            call()
    assert time.monotonic() - started < 60  # of a patience of minutes


def test_every_request_outlasts_an_outage_and_it_is_told_once(
    weather: Storm, root: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(root)
    store.put("private/a", b"1")
    (tmp_path / "f").write_bytes(b"file")
    sha256, size = store.put_object(tmp_path / "f")
    outage(weather, 4.0)
    requests: list[Callable[[], object]] = [
        lambda: store.get("private/a"),
        lambda: store.head("private/a"),
        lambda: store.digest("private/a"),
        lambda: store.list_keys("private"),
        lambda: store.put("private/b", b"2"),
        lambda: store.put_if_absent("private/c", b"3"),
        lambda: store.delete("private/d"),
        lambda: store.fetch_object(sha256, size),
        lambda: open_bytes(f"{root}/private/a").read(),
    ]
    failed: list[Exception] = []

    def run(request: Callable[[], object]) -> None:
        try:
            request()
        except Exception as error:  # noqa: BLE001 - shown below
            failed.append(error)

    threads = [threading.Thread(target=run, args=(request,)) for request in requests]
    with caplog.at_level(logging.INFO, "augmill"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failed == [] and store.get("private/c") == b"3"
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 1
    assert re.fullmatch(
        rf"The store does not answer \(503 Service Unavailable\): {root}.*; trying for up to 120 s\.", told[0]
    )
    assert "answers again" in caplog.text


@pytest.mark.slow
def test_a_run_outlasts_an_outage_of_ten_seconds_before_its_first_stage_and_in_its_middle(
    weather: Storm, root: str, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path)
    state = {"ends": time.monotonic() + 10.0, "again": 10.0}

    def rule(method: str, path: str, count: int) -> int | None:
        if "manifests/settle" in path and state["again"]:
            state["ends"], state["again"] = time.monotonic() + 10.0, 0.0
        return 503 if time.monotonic() < state["ends"] else None

    weather.rule = rule
    started = time.monotonic()
    ended = augmill("run", recipe, "--store", root)
    assert ended.code == 0, ended.err
    assert time.monotonic() - started > 20 and not state["again"]
    assert ended.err.count("The store does not answer (503 Service Unavailable)") == 2


@pytest.mark.parametrize("name", ENDING)
def test_a_command_ends_at_the_recipes_patience_and_names_the_object(weather: Storm, tmp_path: Path, name: str) -> None:
    run = {"orchestrator": "none", "store": f"s3://mill/{name}", "store_patience": 1.5}
    recipe = write_recipe(tmp_path, run=run)
    weather.rule = lambda method, path, count: 503
    reason = ["--reason", "r"] if name in ("rollback",) else []
    first = ["t"] if name == "tag" else ["0"] if name == "audit" else []
    started = time.monotonic()
    ended = augmill(name, *first, recipe, *reason, *(["--dry-run"] if name == "backfill" else []))
    assert ended.code == 4 and f"s3://mill/{name}: " in ended.err and "503" in ended.err, ended.err
    assert ended.last["kind"] == "StoreSilent" and "run.store_patience" in ended.last["next"]
    assert 1.0 < time.monotonic() - started < 60  # of a patience of minutes


def test_a_source_in_a_bucket_is_waited_for_as_well(
    weather: Storm, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = write_rows(tmp_path / "rows.csv", 400).read_bytes()
    Store(root).put("rows.csv", rows)
    outage(weather, 3.0)
    with open_bytes(f"{root}/rows.csv") as stream:
        assert stream.read(10) == rows[:10]
        outage(weather, 3.0)
        stream.seek(5)
        assert stream.read() == rows[5:]
    PATIENCE.renew(1.0)
    weather.rule = lambda method, path, count: 503
    with pytest.raises(StoreSilent, match=f"^{root}/rows.csv: "):
        open_bytes(f"{root}/rows.csv").read()


def test_a_listing_that_is_cut_in_the_middle_begins_anew(monkeypatch: pytest.MonkeyPatch, root: str) -> None:
    with s3_server("mill"):
        import obstore

        store = Store(root)
        for name in "abc":
            store.put(f"private/{name}", b"")
        really, cuts = obstore.list, [1, 1]

        def cut(*arguments: object) -> Iterator[list[object]]:
            for chunk in really(*arguments):  # type: ignore[arg-type]
                if cuts:
                    cuts.pop()
                    yield list(chunk)[:1]
                    raise obstore.exceptions.GenericError("error decoding response body")
                yield list(chunk)

        monkeypatch.setattr(obstore, "list", cut)
        assert store.list_keys("private") == ["private/a", "private/b", "private/c"] and cuts == []


def test_a_second_answer_that_says_taken_is_known_as_ones_own(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first PUT succeeded and its answer was lost; the second finds its own bytes, or another's."""
    with s3_server("mill"):
        store = Store(root)
        really, lost = store._write, [1]

        def write(key: str, value: bytes, *, overwrite: bool) -> None:
            really(key, value, overwrite=overwrite)
            if lost:
                lost.pop()
                raise StoreError("status code: 504 No", where=key)

        monkeypatch.setattr(store, "_write", write)
        assert store.put_if_absent("private/a", b"1") is True
        lost.append(1)
        assert store.put_if_absent("private/b", b"1") is True
        assert store.put_if_absent("private/b", b"1") is False  # not lost: another's, though alike


WAITING = """
import sys
from augmill.flows.cli import main
sys.argv = ["augmill", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", ["run", "status"])
def test_an_interrupt_ends_the_wait_at_once(weather: Storm, tmp_path: Path, number: int, name: str) -> None:
    recipe = write_recipe(tmp_path, run={"orchestrator": "none", "store": "s3://mill/interrupted"})
    weather.rule = lambda method, path, count: 503
    with subprocess.Popen(
        [sys.executable, "-c", WAITING, name, str(recipe)], stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "The store does not answer" in line:
                break
        time.sleep(1.0)
        process.send_signal(number)
        started = time.monotonic()
        process.communicate(timeout=120)
    assert time.monotonic() - started < 60  # of a patience of minutes
    assert process.returncode == (130 if number == signal.SIGINT else 143)


@pytest.mark.parametrize("where", ["flows.units._known", "tasks.stages.gather._Unit"])
def test_an_interrupt_while_units_are_looked_up_ends_the_wait_of_all_threads(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else those that stand in line ask the silent store one after another before the interrupt is raised."""

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"augmill.{where}", interrupted)
    with pytest.raises(KeyboardInterrupt):
        if where.startswith("flows"):
            read_units(None, [None, None])  # type: ignore[arg-type, list-item]
        else:
            gather.run(None, None, [None, None])
    assert PATIENCE.stopped.is_set()


def test_who_was_stopped_stays_so_and_who_comes_after_a_renewal_waits_again() -> None:
    """A notebook whose run was interrupted goes on asking the store; before, it never waited again."""
    patience, asked, renewed = Patience(20.0, silent=True), threading.Event(), threading.Event()

    def silent() -> None:
        asked.set()
        raise StoreError("silent")

    def wait() -> None:
        with contextlib.suppress(StoreError):
            patience.outwait(silent)
        renewed.wait(5.0)

    waiting = threading.Thread(target=wait)
    waiting.start()
    asked.wait(5.0)
    patience.stop()
    patience.renew()
    renewed.set()
    waiting.join(5.0)
    assert not waiting.is_alive()
    answers = iter([StoreError("silent"), None])

    def second_time() -> int:
        if (error := next(answers)) is not None:
            raise error
        return 1

    assert patience.outwait(second_time) == 1


def test_the_patience_changes_no_row_and_no_recipes_hash() -> None:
    assert "run.store_patience" in not_identity()


def test_it_counts_for_what_asks_alone() -> None:
    with pytest.raises(StoreRefused):
        PATIENCE.outwait(lambda: (_ for _ in ()).throw(StoreRefused("no")))
    assert ask("s3://mill/x", lambda: 1) == 1
