"""``augmill run``: one line of JSON last whatever happens, documented exit codes, no work twice, no traceback unasked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from chain import public_bytes, write_rows
from commands import Ended, augmill, fingerprint, refused, write_recipe

from augmill.flows import augment as main_path
from augmill.flows.outcome import NEXT
from augmill.tasks.generators import GENERATORS, rules

COMMAND = Path(sys.executable).with_name("augmill")


def test_a_run_ends_with_its_release_and_one_line_of_json(first_run: tuple[Path, Ended]) -> None:
    folder, ended = first_run
    assert ended.code == 0 and "Traceback" not in ended.out + ended.err and "ERROR" not in ended.err
    result = ended.last
    assert result["outcome"] in NEXT and result["next"] == NEXT[result["outcome"]] and result["reason"] in ended.out
    assert result["dataset"] == "tiny" and result["new"] is True
    assert Path(result["location"], "manifest.json").is_file() and Path(result["report"]).is_file()
    assert Path(result["location"]).is_relative_to(folder / "store" / "public")


def test_what_did_not_get_in_lies_beside_the_report_with_its_reason(first_run: tuple[Path, Ended]) -> None:
    beside = Path(first_run[1].last["report"]).parent
    made = pq.read_table(beside / "made_rows_not_accepted.parquet")
    ledger = json.loads(Path(first_run[1].last["location"], "manifest.json").read_text())["ledger"]
    assert made.num_rows == sum(row["asked"] - row["accepted"] for row in ledger["rows"]) > 0
    assert {"why", "status", "also"} <= set(made.column_names)
    for name, columns in {
        "source_rows_refused": {"file", "location", "reason"},
        "train_rows_held_back": {"reason", "match", "similarity"},
    }.items():
        assert columns <= set(pq.read_schema(beside / f"{name}.parquet").names)


def test_a_report_that_cannot_be_written_takes_no_release_back(
    copied_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(main_path, "write_report", full)
    ended = augmill("run", copied_run / "recipe.yaml", "--store", copied_run / "another")
    assert ended.code == 0 and ended.last["report"] is None
    assert "its report could not be written" in ended.err and "No space left" in ended.err
    assert Path(ended.last["location"], "manifest.json").is_file()


@pytest.mark.parametrize("store", ["s3://KEY:hunter2@bucket/path", "az://box/path?sig=hunter2"])
def test_credentials_in_the_stores_address_are_refused_and_not_repeated(copied_run: Path, store: str) -> None:
    ended = augmill("run", copied_run / "recipe.yaml", "--store", store)
    assert ended.code == 2 and "credentials" in ended.err and "hunter2" not in ended.out + ended.err


def test_a_second_run_does_no_work_and_says_so(copied_run: Path) -> None:
    recipe = copied_run / "recipe.yaml"
    objects = fingerprint(copied_run / "store" / "private" / "objects")
    public = fingerprint(copied_run / "store" / "public")
    ended = augmill("run", recipe)
    assert ended.code == 0 and ended.last["new"] is False and "already published, nothing changed" in ended.out
    stages = [line for line in ended.err.splitlines() if " s  " in line]
    work = [line for line in stages if "from the store" not in line]
    # The report says where the release is, and the copied store is elsewhere.
    assert len(stages) > 10 and {line.split()[0] for line in work} <= {"source", "publish", "report"}, work
    assert fingerprint(copied_run / "store" / "private" / "objects") == objects
    assert fingerprint(copied_run / "store" / "public") == public


def test_an_unchanged_run_makes_no_page_again_and_imports_nothing_that_makes_some(copied_run: Path) -> None:
    """Great Expectations costs 3 s of processor time, Prefect 1.3; a run that finds all in the store takes 1.3 in all."""
    recipe = write_recipe(copied_run, validation={"data_docs": True})
    report = Path(augmill("run", recipe).last["report"]).parent
    pages = fingerprint(report)
    assert "data_docs/index.html" in pages
    code = (
        f"import sys; sys.argv = ['augmill', 'run', {str(recipe)!r}]\n"
        "from augmill.flows.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([name for name in ('great_expectations', 'prefect', 'sklearn', 'jinja2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "published, nothing changed" in done.stdout and "report" in done.stderr
    assert fingerprint(report) == pages


def test_a_report_is_made_again_where_a_file_is_gone_or_would_be_another(copied_run: Path) -> None:
    recipe = copied_run / "recipe.yaml"
    report = Path(augmill("run", recipe).last["report"]).parent
    made, beside = report / "made_from.txt", report / "source_rows_refused.parquet"
    beside.unlink()
    augmill("run", recipe)
    assert beside.is_file()
    other = made.read_text().replace(made.read_text()[:8], "0" * 8)  # as by an edited template, or another version
    made.write_text(other)
    (report / "index.html").write_text("stale")
    augmill("run", recipe)
    assert "stale" not in (report / "index.html").read_text() and made.read_text() != other
    made.write_bytes(b"\xff\n../../x")  # whatever somebody made of it
    assert augmill("run", recipe).last["report"] and len(made.read_text().splitlines()[0]) == 64


def test_exit_codes_follow_the_outcome_and_the_recipe(copied_run: Path, first_run: tuple[Path, Ended]) -> None:
    outcome = first_run[1].last["outcome"]
    recipe = copied_run / "recipe.yaml"
    assert augmill("run", recipe, "--exit-code", f"{outcome}=21").code == 21
    assert augmill("run", recipe, "--exit-code", "unsound_source=21").code == 0
    public = fingerprint(copied_run / "store" / "public")
    failing = write_recipe(copied_run, name="failing.yaml", outcomes=dict.fromkeys(("harmful", "inconclusive"), "fail"))
    ended = augmill("run", failing)
    assert ended.code == 10 and ended.last["action"] == "fail" and ended.last["arrangement"] is None
    assert fingerprint(copied_run / "store" / "public") == public


def test_an_unsound_source_keeps_what_is_current(copied_run: Path) -> None:
    """Too many refused rows: with a current release the night goes on with it; without one there is nothing to keep."""
    text = (copied_run / "rows.csv").read_text().replace(",refund,", ",,")
    (copied_run / "rows.csv").write_text(text)
    public = fingerprint(copied_run / "store" / "public")
    ended = augmill("run", copied_run / "recipe.yaml")
    assert ended.code == 0 and ended.last["outcome"] == "unsound_source" and ended.last["action"] == "keep_current"
    assert "rows.csv line 2 (no_label)" in ended.last["reason"] and "refuse.max_share" in ended.last["reason"]
    failing = write_recipe(copied_run, outcomes={"unsound_source": "fail"})
    ended = augmill("run", failing)
    assert ended.code == 10 and ended.last["outcome"] == "unsound_source"
    assert augmill("run", failing, "--exit-code", "unsound_source=33").code == 33
    assert fingerprint(copied_run / "store" / "public") == public
    refused(
        augmill("run", write_recipe(copied_run), "--store", copied_run / "other"), 3, ["rows.csv line 2", "no_label"]
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runn"], ["no such command", "did you mean 'run'"]),
        (["run"], ["augmill run", "missing argument"]),
        (["run", "recipe.yaml", "--stor", "x"], ["--stor", "--store", "augmill run --help"]),
        (["run", "nothing.yaml"], ["nothing.yaml", "no such file", "recipe.yaml"]),
        (["run", "."], ["is a directory"]),
        (["run", "rows.csv"], ["rows.csv line 1", "a recipe is a YAML document"]),
        (["run", "recipe.yaml", "--orchestrator", "airflow"], ["--orchestrator", "prefect or none", "airflow"]),
        (["run", "recipe.yaml", "--exit-code", "harmful=²"], ["--exit-code", "harmful=²"]),
        (["run", "recipe.yaml", "--exit-code", "bad=3"], ["--exit-code", "bad=3", "published, harmful"]),
        (["run", "recipe.yaml", "--exit-code", "harmful=300"], ["harmful=300", "0 to 255"]),
        (["run", "recipe.yaml", "--as-of", "2026-01-01"], ["columns.partition"]),
        (["run", "recipe.yaml", "--store", "http://example.org/x"], ["run.store", "http://", "s3://"]),
        (["run", "recipe.yaml", "--store", ""], ["run.store"]),
        (["judge", "--real", "rows.csv", "--synthetic", "rows.csv", "--seeds", "many"], ["--seeds", "integer"]),
    ],
)
def test_a_wrong_command_line_is_one_message_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: list[str]
) -> None:
    write_recipe(tmp_path)
    monkeypatch.chdir(tmp_path)
    refused(augmill(*arguments), 2, words)


def test_as_of_takes_a_partition_with_rows_and_writes_nothing_outside_the_store(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.csv").read_text().replace(",en", ",2026-03-01")
    (tmp_path / "rows.csv").write_text(rows)
    recipe = write_recipe(tmp_path, columns={"text": "text", "label": "label", "partition": "lang"})
    refused(augmill("run", recipe, "--as-of", "2026-02-28"), 2, ["2026-02-28", "2026-03-01", "--as-of"])
    # A snapshot's name is the user's own text; a name with `../` sorts before all dates, so there are no rows.
    refused(augmill("run", recipe, "--as-of", "../../../x"), 2, ["../../../x"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.yaml", "rows.csv", "store"]


class Broken(rules.Rules):
    """A generator with a defect."""

    def fit(self, inputs, ctx):  # type: ignore[no-untyped-def]
        raise ZeroDivisionError("seven by nothing")


def test_a_defect_is_told_without_a_traceback_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GENERATORS, "broken", Broken)
    recipe = write_recipe(tmp_path, generators=[{"use": "broken"}])
    ended = augmill("check", recipe)
    refused(ended, 1, ["defect", "ZeroDivisionError", "seven by nothing", "--debug"])
    assert ended.last["kind"] == "Defect"
    for arguments in (["--debug", "check", recipe], ["check", recipe, "--debug"]):
        ended = augmill(*arguments)
        assert ended.code == 1 and "Traceback" in ended.err and "in fit" in ended.err and ended.last["kind"] == "Defect"


def test_what_the_user_did_wrong_shows_its_traceback_with_debug_alone(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, sed=1)
    assert "Traceback" not in augmill("run", recipe).err
    ended = augmill("run", recipe, "--debug")
    assert ended.code == 2 and "Traceback" in ended.err and "did you mean 'seed'" in ended.last["reason"]


def test_an_error_in_a_worker_has_the_exit_code_of_its_kind(tmp_path: Path) -> None:
    """The thesaurus is read by a worker process; what is wrong with it is the user's mistake all the same."""
    recipe = write_recipe(tmp_path, generators=[{"use": "rules", "thesaurus": "nothing.csv"}])
    refused(augmill("run", recipe), 2, ["nothing.csv", "thesaurus"])


def start(recipe: Path, store: Path, orchestrator: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    # A session of its own: the signal reaches the command alone, as that of a scheduler does.
    return subprocess.Popen(
        [str(COMMAND), "run", str(recipe), "--store", str(store), "--orchestrator", orchestrator],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_worker(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The command's processes, once a worker is among them."""
    parent = psutil.Process(process.pid)
    for _ in range(1200):
        children = parent.children(recursive=True)
        if any("augmill.tasks.workers" in " ".join(child.cmdline()) for child in children):
            return children
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("no worker was started")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "orchestrator"),
    [(signal.SIGINT, 130, "none"), (signal.SIGTERM, 143, "none"), (signal.SIGTERM, 143, "prefect")],
)
def test_an_interrupt_leaves_nothing_behind_and_the_next_run_goes_on(
    first_run: tuple[Path, Ended],
    tmp_path: Path,
    number: int,
    code: int,
    orchestrator: str,
    clean_environment: dict[str, str],
) -> None:
    folder, undisturbed = first_run
    recipe, store = folder / "recipe.yaml", tmp_path / "a store"
    process = start(recipe, store, orchestrator, clean_environment)
    children = wait_for_worker(process)
    process.send_signal(number)
    out, err = process.communicate(timeout=240)
    assert process.returncode == code and "Traceback" not in err, err
    assert "goes on from there" in err and f"--store '{store}'" in err
    assert json.loads(out.splitlines()[-1])["outcome"] == "interrupted"
    _, alive = psutil.wait_procs(children, timeout=120)
    assert not alive, alive
    assert not public_bytes(store)
    ended = augmill("run", recipe, "--store", store)
    assert ended.code == 0 and "unchanged, from the store" in ended.err
    assert ended.last["release"] == undisturbed.last["release"]
    assert public_bytes(store) == public_bytes(folder / "store")


@pytest.mark.slow
def test_whoever_stops_reading_gets_no_traceback(first_run: tuple[Path, Ended]) -> None:
    recipe = first_run[0] / "recipe.yaml"
    process = subprocess.Popen([str(COMMAND), "check", str(recipe)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout and process.stderr
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read() and process.wait(60) in (0, 1)
    process.stderr.close()


def test_help_comes_fast_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['augmill', '--help']\n"
        "from augmill.flows.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'prefect', 'sklearn', 'pydantic', 'polars') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert "Usage: augmill" in done.stdout and done.stdout.splitlines()[-1] == "[]"
