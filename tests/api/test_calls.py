"""The library's calls give what the commands say, leave the process as it was, and raise Augmill's own errors."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import logging
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.csv
import pytest
import yaml
from chain import write_rows
from commands import augmill as command
from commands import fingerprint, write_recipe

import augmill

SCRIPT = "<script>alert(1)</script>"
LOUD = {"gate": {"seeds": 3, "resamples": 200, "rule": "not_worse", "margin": 100.0}}  # a mix is published


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, augmill.RunResult]:
    """A recipe, and how its run ended."""
    recipe = write_recipe(tmp_path_factory.mktemp("calls"), 120, **LOUD)
    return recipe, augmill.run(recipe, quiet=True)


def quick(folder: Path, **changes: Any) -> Path:
    """A recipe with nothing to make: its run is over in a second."""
    return write_recipe(folder, **({"target": {"balance": 1}} | changes))


# --- What they give ---------------------------------------------------------------------------------------------------


def test_a_run_gives_its_release_and_the_second_one_publishes_nothing(made: tuple[Path, augmill.RunResult]) -> None:
    recipe, first = made
    assert (first.outcome, first.action, first.ok, first.new) == ("published", "publish", True, True)
    assert first.release is not None and first.release.current and first.release == augmill.releases(recipe)[0]
    assert {*first.release.to_polars()["aug_origin"]} == {"real", "synthetic"}
    assert first.report is not None and Path(first.report).exists()
    second = augmill.run(recipe, quiet=True)
    assert (second.release, second.new) == (first.release, False)
    assert first.facts == json.loads(json.dumps(dict(first.facts)))
    said = command("run", recipe).last
    assert {name: said[name] for name in second.facts} == second.facts


def test_a_recipe_is_taken_as_a_path_a_text_a_document_or_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = quick(tmp_path, source={"path": str(write_rows(tmp_path / "rows.csv"))})
    document = yaml.safe_load(path.read_text())
    loaded = augmill.load_recipe(path)
    monkeypatch.chdir(tmp_path)
    for where in (str(path), path.read_text(), document, document | {"source": {"path": Path("rows.csv")}}, loaded):
        assert augmill.load_recipe(where).hash() == loaded.hash()
    elsewhere = augmill.load_recipe(loaded, store=tmp_path / "elsewhere")
    assert (elsewhere.run.store, elsewhere.origin) == (str(tmp_path / "elsewhere"), str(path))
    result = augmill.run(document, store=tmp_path / "elsewhere", quiet=True)
    assert result.outcome == "not_produced" and augmill.releases(elsewhere)[0] == result.release


def test_check_says_what_the_command_says_and_touches_nothing(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    before = fingerprint(tmp_path)
    found, said = augmill.check(recipe), json.loads(command("check", recipe, "--json").out)
    timed = {"measured_seconds", "time"}
    assert {name: value for name, value in found.facts.items() if name not in timed} == {
        name: said[name] for name in found.facts if name not in timed
    }
    assert found.rows == said["splits"]["rows"] and found.target == said["plan"]["target"] == 60
    assert {each["label"] for each in found.classes} == {"refund", "track", "login"}
    assert fingerprint(tmp_path) == before


def test_tables_are_judged_as_the_files_they_came_from(tmp_path: Path) -> None:
    files = [write_rows(tmp_path / f"{name}.csv", 90, seed) for seed, name in enumerate(("real", "made", "held"))]
    columns = {"text": "text", "label": "label"}
    told = augmill.judge(*files, **columns, seeds=3, quiet=True, report=tmp_path / "page.html")
    options = [
        *("--real", files[0], "--synthetic", files[1], "--validation", files[2]),
        "--text",
        "text",
        "--label",
        "label",
    ]
    said = command("judge", *options, "--seeds", 3)
    assert told.facts == said.last | {"report": str(tmp_path / "page.html")}
    assert (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")
    makers: dict[str, Callable[[Path], Any]] = {
        "polars": pl.read_csv,
        "lazy": pl.scan_csv,
        "pandas": lambda path: pl.read_csv(path).to_pandas(),
        "pyarrow": pyarrow.csv.read_csv,
        "dicts": lambda path: pl.read_csv(path).to_dicts(),
        "columns": lambda path: pl.read_csv(path).to_dict(as_series=False),
    }
    for name, make in makers.items():
        alike = augmill.judge(*map(make, files), **columns, seeds=3, quiet=True)
        assert (alike.scores, alike.gains, alike.rows) == (told.scores, told.gains, told.rows), name
        assert alike.facts["read"]["real"]["path"] == "a table in memory"
    categories = pl.read_csv(files[0]).with_columns(pl.col("label").cast(pl.Categorical)).to_pandas()
    assert augmill.judge(categories, *files[1:], **columns, seeds=3, quiet=True).gains == told.gains


def test_a_comparison_has_the_commands_numbers_and_keeps_its_cells(
    made: tuple[Path, augmill.RunResult], tmp_path: Path
) -> None:
    recipe, _ = made
    found = augmill.compare(recipe, ["rules"], seeds=1, ratios=(), out=tmp_path / "out", quiet=True)
    said = command(
        "compare", recipe, "--generators", "rules", "--seeds", 1, "--ratios", "", "--out", tmp_path / "again"
    )
    assert (said.last["cells"], said.last["new"]) == (1, 0) and len(found.cells) == 1
    for name in ("table.md", "cells.jsonl"):
        assert (tmp_path / "out" / name).read_text() == (tmp_path / "again" / name).read_text()
    (line,) = found.generators
    assert line["generator"] == "rules" and f"{line['accepted']:,}" in found._repr_html_()
    rows = found.cells[0]["rows"]
    for shown in (said.out.replace("\n", " "), repr(found), found._repr_html_()):
        assert f"Gains are on {rows['test']:,} test rows, over all seeds" in shown
        assert f"on {rows['validation']:,} validation rows" in shown
    assert augmill.compare(recipe, "rules", seeds=1, ratios=(), quiet=True) == dataclasses.replace(found, report=None)


# --- How they are shown -----------------------------------------------------------------------------------------------


def test_nothing_of_the_data_is_markup_or_turns_a_line_around(tmp_path: Path) -> None:
    text = write_rows(tmp_path / "rows.csv", 120).read_text()
    (tmp_path / "rows.csv").write_text(text.replace(",login,", f",{SCRIPT}\u202e,"))
    recipe = write_recipe(tmp_path, validation={"enabled": False})
    checked = augmill.check(recipe)
    assert SCRIPT in {each["label"].rstrip("\u202e") for each in checked.classes}
    judged = augmill.judge(
        tmp_path / "rows.csv", write_rows(tmp_path / f"{SCRIPT[1:7]}.csv", 60, 5), seeds=3, quiet=True
    )
    release = augmill.Release(SCRIPT, SCRIPT, "\u202e", SCRIPT, "", SCRIPT, True, False, (SCRIPT,), str(tmp_path))
    result = augmill.RunResult(
        "published", SCRIPT, SCRIPT, "publish", SCRIPT, "\u202e", release, True, SCRIPT, (SCRIPT,), SCRIPT, {}
    )
    compared = augmill.Comparison(SCRIPT, (), (), ((SCRIPT, 1, f"{SCRIPT}\u202e"),), None)
    for shown in (checked, judged, release, result, compared):
        page = shown._repr_html_()
        assert "<script" not in page and "\u202e" not in page and "\u202e" not in repr(shown)
        assert page.startswith("<div") and page.count("<table>") == page.count("</table>") > 0
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\u202e" in checked._repr_html_()
    assert "&lt;script&gt;" in result._repr_html_() and "\\u202e" in repr(release)


def test_a_report_is_a_link_only_where_it_is_a_path_or_an_address(made: tuple[Path, augmill.RunResult]) -> None:
    _, result = made
    assert result.report and f"<a href='file://{result.report}'>{result.report}</a>" in result._repr_html_()
    for report, linked in (
        ("https://reports.example/1.html", "href='https://reports.example/1.html'"),
        ("/a b'>.html", "href='file:///a%20b%27%3E.html'"),
        ("javascript:alert(1)", None),
        ("s3://bucket/report.html", None),
    ):
        page = dataclasses.replace(result, report=report)._repr_html_()
        assert linked in page if linked else "href" not in page


def test_a_recipe_is_shown_in_a_line(made: tuple[Path, augmill.RunResult]) -> None:
    told = repr(augmill.load_recipe(made[0]))
    assert told == "<Recipe: tiny, classification of text, by rules>"


@pytest.mark.parametrize("given", [None, 5])
def test_what_is_no_recipe_is_refused_by_its_type(given: Any) -> None:
    for call in (augmill.load_recipe, augmill.check, augmill.releases):
        with pytest.raises(augmill.UserError, match=f"expected the path.*found a {type(given).__name__}"):
            call(given)


# --- The process they run in ------------------------------------------------------------------------------------------


def state() -> dict[str, Any]:
    loggers = [logging.getLogger(name) for name in ("", "augmill", "augmill.progress", "prefect")]
    return {
        "logging": [(each.level, each.propagate, each.handlers[:]) for each in loggers],
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)],
        "temporary": tempfile.tempdir,
        "hooks": (sys.excepthook, threading.excepthook, sys.unraisablehook),
    }


@pytest.fixture
def app_logs() -> Iterator[list[tuple[str, str]]]:
    """What the logging that an application has set up hears: (logger, message)."""
    heard: list[tuple[str, str]] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append((record.name, record.getMessage()))

    root, handler = logging.getLogger(), Handler()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield heard
    root.removeHandler(handler)
    root.setLevel(level)


def test_the_process_stays_the_callers(
    tmp_path: Path, app_logs: list[tuple[str, str]], capfd: pytest.CaptureFixture[str]
) -> None:
    """Its handlers hear its own records, and ours, while a run lasts; where its temporary files lie does not move."""
    recipe = quick(tmp_path)
    augmill.run(recipe, quiet=True)  # imports Prefect
    before, seen, sent, over = state(), set(), list[str](), threading.Event()

    def look() -> None:
        while not over.wait(0.01):
            seen.add(tempfile.gettempdir())
            sent.append(f"still here {len(sent)}")
            logging.getLogger("app").info(sent[-1])

    looker = threading.Thread(target=look)
    looker.start()
    capfd.readouterr()
    augmill.run(recipe, quiet=True)
    over.set()
    looker.join()
    assert seen == {tempfile.gettempdir()} and state() == before
    assert [message for name, message in app_logs if name == "app"] == sent != []
    assert capfd.readouterr() == ("", "")


def test_progress_where_no_terminal_is_are_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a notebook: nothing is drawn over, and stdout is the caller's."""
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    augmill.run(quick(tmp_path))
    assert out.getvalue() == "" and "ingest" in err.getvalue()
    assert not {"\r", "\x1b"} & {*err.getvalue()}


def test_a_running_loop_is_no_hindrance(tmp_path: Path) -> None:
    async def main() -> list[str]:
        recipe = quick(tmp_path)
        augmill.check(recipe)
        return [
            augmill.run(recipe, quiet=True).outcome,
            (await asyncio.to_thread(augmill.run, recipe, quiet=True)).outcome,
        ]

    assert asyncio.run(main()) == ["not_produced"] * 2


def test_calls_of_several_threads_take_turns(tmp_path: Path) -> None:
    recipes = [quick(tmp_path / name) for name in "ab" if (tmp_path / name).mkdir() is None]
    before, results = state(), dict[str, augmill.RunResult]()

    def work(recipe: Path) -> None:
        results[str(recipe)] = augmill.run(recipe, quiet=True)

    threads = [threading.Thread(target=work, args=(recipe,)) for recipe in recipes * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [str(recipe) for recipe in recipes] and state() == before
    assert {result.outcome for result in results.values()} == {"not_produced"}


# --- What they raise --------------------------------------------------------------------------------------------------


def test_errors_are_augmills_own_and_name_arguments_as_python_does(tmp_path: Path) -> None:
    recipe, rows = quick(tmp_path), tmp_path / "rows.csv"
    calls: list[tuple[Callable[[], object], type[Exception], str]] = [
        (lambda: augmill.load_recipe(tmp_path / "no.yaml"), augmill.UserError, "no.yaml"),
        (lambda: augmill.load_recipe({"dataset": "x"}), augmill.UserError, "source"),
        (lambda: augmill.run(recipe, as_of="2026-10-01"), augmill.UserError, "as_of: "),
        (lambda: augmill.run(recipe, orchestrator="airflow"), augmill.UserError, "orchestrator: "),  # type: ignore[arg-type]
        (lambda: augmill.compare(recipe, ["rule"]), augmill.UserError, "generators: "),
        (lambda: augmill.compare(recipe, seeds=0), augmill.UserError, "seeds: "),
        (lambda: augmill.judge(rows, rows, min_gain=float("nan")), augmill.UserError, "min_gain"),
        (lambda: augmill.judge(rows, rows, label="lable"), augmill.UserError, "(real)"),
        (lambda: augmill.judge(rows, 3), augmill.UserError, "synthetic: expected a table, found int"),
        (lambda: augmill.judge(rows, rows, seeds=3, quiet=True), augmill.DataError, "synthetic: "),
        (lambda: augmill.run(recipe, store="/proc/nowhere"), augmill.WorldError, "/proc/nowhere"),
    ]
    for call, kind, words in calls:
        with pytest.raises(kind) as caught:
            call()
        assert words in str(caught.value) and "--" not in str(caught.value), str(caught.value)
        assert isinstance(caught.value, augmill.AugmillError)
