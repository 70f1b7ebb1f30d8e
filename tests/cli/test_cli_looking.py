"""Commands that only look change no file of the store, and a source that cannot be cut is said by each of them."""

from __future__ import annotations

import csv
import hashlib
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from commands import Ended, augmill, fingerprint, refused, write_recipe

from augmill.tasks.rows.hashing import seal
from augmill.tasks.store.log import read_log
from augmill.tasks.store.store import LookingStore, Store

NO_PREFECT = """
import sys
from augmill.flows.cli import main
sys.argv = ["augmill", *sys.argv[1:]]
try:
    main()
except SystemExit as ended:
    print(ended.code, sorted(name for name in sys.modules if name.split(".")[0] == "prefect"))
"""


@pytest.mark.parametrize(
    "command",
    [
        ["status", "recipe.yaml"],
        ["releases", "tiny", "--store", "store"],
        ["show", "tiny", "--store", "store"],
        ["check", "recipe.yaml"],
        ["gc", "--help"],
    ],
    ids=lambda command: command[0],
)
def test_commands_that_run_nothing_do_without_prefect(first_run: tuple[Path, Ended], command: list[str]) -> None:
    """Its import takes 1.3 s."""
    ended = subprocess.run(
        [sys.executable, "-c", NO_PREFECT, *command], cwd=first_run[0], capture_output=True, text=True, check=True
    )
    assert ended.stdout.splitlines()[-1] == "0 []", ended.stdout + ended.stderr


def sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


COLUMNS = {"text": "text", "label": "label", "partition": "day"}


def write_source(folder: Path, form: str) -> None:
    """60 rows over four days that ended weeks ago; ``form``: how each day is written."""
    folder.mkdir(exist_ok=True)
    first = datetime.now(UTC) - timedelta(days=30)
    with (folder / "rows.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label", "day"])
        for at in range(60):
            words = f"parcel number {at} is late" if at % 2 else f"invoice {at} was paid twice"
            writer.writerow([words, "ab"[at % 2], (first + timedelta(days=at // 15)).strftime(form)])


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source by day whose first day is released, and whose newest file the store has not seen yet."""
    folder = tmp_path_factory.mktemp("looking") / "nights"
    write_source(folder, "%Y-%m-%d")
    recipe = write_recipe(folder, source={"path": "*.csv"}, columns=COLUMNS, partitions={"every": "day"})
    (first, *_) = augmill("backfill", recipe, "--dry-run").last["order"]
    assert augmill("backfill", recipe, "--to", first).last["outcome"] == "done"
    assert augmill("run", recipe).code == 0
    shutil.copyfile(folder / "rows.csv", folder / "later.csv")
    (folder / "ids.txt").write_text("".join(f"{row}\n" for row in rows_of(folder)))
    return folder


def rows_of(folder: Path) -> list[str]:
    import pyarrow.parquet as pq

    store = Store(str(folder / "store"))
    release = read_log(store, "tiny").newest()
    found: list[str] = pq.read_table(folder / f"store/public/tiny/releases/{release}/train")["aug_row_id"].to_pylist()
    return found[:2]


LOOKING = [
    "status RECIPE",
    "status RECIPE --check",
    "backfill RECIPE --dry-run",
    "backfill RECIPE --dry-run --reprocess all",
    "nightly RECIPE --dry-run",
    "check RECIPE",
    "forget RECIPE --rows IDS --reason test --dry-run",
    "gc RECIPE",
    "releases --store STORE",
    "show --store STORE",
    "audit RELEASE --store STORE",
    "diff RELEASE RELEASE --store STORE",
    "explain ROW --store STORE",
    "path RECIPE",
    "verify --store STORE",
    "verify --all --store STORE",
    "doctor RECIPE --quick",
]


def carried_out(command: str, folder: Path) -> list[str]:
    store = folder / "store"
    names = {"RECIPE": folder / "recipe.yaml", "STORE": store, "IDS": folder / "ids.txt", "ROW": rows_of(folder)[0]}
    names["RELEASE"] = read_log(LookingStore(str(store)), "tiny").newest() or ""
    return [str(names.get(word, word)) for word in command.split()]


@pytest.mark.parametrize("command", LOOKING)
def test_a_command_that_only_looks_changes_nothing_in_the_store(
    nights: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(
        "augmill.flows.orchestration.doctor.check_prefect", lambda quick: iter(())
    )  # a server is none of this
    arguments, before = carried_out(command, nights), fingerprint(nights)
    ended = augmill(*arguments)
    assert ended.code == 0, ended.err
    after = fingerprint(nights)
    if command.startswith("doctor"):  # it proves that the store can be written, and takes what it wrote away
        before, after = ({name: size for name, (size, _) in found.items()} for found in (before, after))  # type: ignore[assignment]
    assert after == before


@pytest.mark.parametrize("command", ["status RECIPE", "backfill RECIPE --dry-run", "nightly RECIPE --dry-run"])
def test_a_look_at_a_store_that_has_rotted_is_made_good_without_it(nights: Path, tmp_path: Path, command: str) -> None:
    """What is found corrupt is made anew aside, and stands where it stood for the next run to find."""
    folder = tmp_path / "copy"
    shutil.copytree(nights, folder)
    write_recipe(folder, source={"path": "*.csv"}, columns=COLUMNS, partitions={"every": "day"})
    whole = augmill(*carried_out(command, folder))
    private = folder / "store/private"
    for path in [*(private / "manifests/ingest").iterdir(), *(private / "sources").rglob("*.json")]:
        path.write_bytes(b"rotten")
    before = fingerprint(folder)
    ended = augmill(*carried_out(command, folder))
    assert (ended.code, ended.last) == (whole.code, whole.last) and ended.code == 0
    assert fingerprint(folder) == before


@pytest.mark.parametrize("command", ["backfill RECIPE --dry-run", "check RECIPE", "nightly RECIPE --dry-run"])
def test_a_look_makes_no_store(nights: Path, tmp_path: Path, command: str) -> None:
    words = [str(nights / "recipe.yaml") if word == "RECIPE" else word for word in command.split()]
    assert augmill(*words, "--store", tmp_path / "nowhere").code == 0
    assert not (tmp_path / "nowhere").exists()


def test_a_looking_store_reads_what_stands_and_keeps_what_is_written_to_itself(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    store.put("private/x/a", b"1")
    store.put("private/x/b", seal({"n": 1}))
    before = fingerprint(tmp_path)
    looking = LookingStore(str(tmp_path / "store"))
    assert looking.get("private/x/a") == b"1" and not looking.put_if_absent("private/x/a", b"2")
    assert looking.put_if_absent("private/x/c", b"3") and not looking.put_if_absent("private/x/c", b"4")
    assert looking.write_sealed("private/x/b", {"n": 2}) == {"n": 1}
    looking.put("private/x/a", b"5")
    looking.delete("private/x/b")
    assert [looking.get(f"private/x/{name}") for name in "abc"] == [b"5", None, b"3"]
    assert looking.list_keys("private/x") == ["private/x/a", "private/x/c"] and looking.size("private/x/b") is None
    held = [sum(looking.holds(f"private/x/{name}", sha256(b), 1) for b in (b"1", b"5", b"3")) for name in "abc"]
    assert held == [1, 0, 1] and looking.holds("private/x/a", sha256(b"5"), 1)
    assert looking.digests(["private/x/a", "private/x/b"]) == [sha256(b"5"), None]
    made = tmp_path / "made"
    made.write_bytes(b"made")
    assert looking.fetch_object(*looking.put_object(made)).read_bytes() == b"made"
    made.unlink()
    assert fingerprint(tmp_path) == before and store.list_keys("private/x") == ["private/x/a", "private/x/b"]


# --- a source that cannot be cut --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "named"), [("%m/%d/%Y", "day and month may stand either way round"), ("%Y%m%d%H", "digits of a day")]
)
def test_a_source_of_which_no_row_says_its_day_is_said_by_every_command(tmp_path: Path, form: str, named: str) -> None:
    write_source(tmp_path, form)
    recipe = write_recipe(tmp_path, columns=COLUMNS, partitions={"every": "day"})
    for command in (["check"], ["backfill", "--dry-run"], ["backfill", "--from", "2026-01-01"], ["backfill"]):
        refused(augmill(command[0], recipe, *command[1:]), 3, ["bad_partition 60", "rows.csv line 2", named])
    told = augmill("status", recipe)
    assert told.code == 0 and "cannot be used" in told.out and named in str(told.last["source_problem"])
    for _ in range(2):  # the same where the store has seen it
        watched = augmill("status", recipe, "--check")
        assert watched.code == 10 and named in watched.last["reason"]
        assert augmill("nightly", recipe).code != 0


@pytest.mark.parametrize("form", ["%Y-%m-%d 00:30:00 UTC", "%Y-%m-%d 00:30:00.000 +0000", "%s", "%s000"])
def test_days_are_cut_alike_however_warehouses_write_them(tmp_path: Path, form: str) -> None:
    plans = []
    for name, written in (("plain", "%Y-%m-%d"), ("other", form)):
        write_source(tmp_path / name, written)
        recipe = write_recipe(tmp_path / name, columns=COLUMNS, partitions={"every": "day"})
        plans.append(augmill("backfill", recipe, "--dry-run").last["order"])
    assert plans[0] == plans[1] and len(plans[0]) == 30


def test_rows_of_days_to_come_are_said_and_made_by_no_command(tmp_path: Path) -> None:
    write_source(tmp_path, "%Y-%m-%d")
    recipe = write_recipe(tmp_path, columns=COLUMNS, partitions={"every": "day"}, source={"path": "*.csv"})
    (tmp_path / "store").mkdir()
    assert augmill("status", recipe).last["source_warning"] is None
    plan = augmill("backfill", recipe, "--dry-run").last["order"]
    (tmp_path / "late.csv").write_text("text,label,day\nfrom the future,a,2126-10-01\n")
    words = "1 partition(s) come after today's"
    dry = augmill("backfill", recipe, "--dry-run")
    assert dry.last["order"] == plan and words in dry.err and "first 2126-10-01" in dry.err
    told = augmill("status", recipe)
    assert told.code == 0 and words in told.last["source_warning"] and "2126-10-01" in told.out
    checked = augmill("check", recipe)
    assert checked.code == 0 and words in checked.out


# --- a store below the source -----------------------------------------------------------------------------------------


def test_the_first_recipe_of_a_directory_runs_though_its_store_stands_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_source(tmp_path, "%Y-%m-%d")
    monkeypatch.chdir(tmp_path)
    assert augmill("init", ".", "--out", "recipe.yaml").code == 0
    assert augmill("check", "recipe.yaml").code == 0
    first = augmill("run", "recipe.yaml", "--orchestrator", "none")
    assert first.code == 0, first.err
    again = augmill("run", "recipe.yaml", "--orchestrator", "none")
    assert (again.code, again.last["new"], again.last["release"]) == (0, False, first.last["release"])
    assert augmill("init", ".", "--out", "again.yaml").code == 0
    assert augmill("check", "recipe.yaml").code == 0
