"""The benchmarks still run: each command at its tiniest size prints its table. What they measure is not judged here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

HERE = Path(__file__).parent / "benchmarks"
SHARED = Path(os.environ.get("AUGMILL_SHARED", Path(__file__).parents[2] / "shared"))

# Command without its interpreter, and the heading of a column of its table.
TINIEST = {
    "bench_million.py": (["--rows", "400", "--real", "300"], "| stage | seconds |"),
    "bench_stages.py": (
        ["--per-class", "3", "--classes", "3", "--seeds", "3", "--rows", "300"],
        "| stage | 3 a class: s | driver MiB | workers MiB | text: s | rows/s |",
    ),
    "bench_decode.py": (
        ["--models", "scratch", "--rows", "4", "--alone", "2", "--steps", "3", "--repeats", "1"],
        "| scratch |",
    ),
    "bench_minhash.py": (["--shared", str(SHARED), "--rows", "60"], "TextIndex, verified"),
    "bench_nights.py": (
        ["--nights", "2", "--rows", "300", "--windows", "all", "--refits", "7d"],
        "| night | fitted as of |",
    ),
    "bench_overhead.py": (
        ["--shards", "2", "--starts", "1"],
        "| way | before the first shard | 2 shards | first stage line |",
    ),
    "bench_commits.py": (["--measure", "help", "--repeats", "1", "--dry-run"], "| date | commit | what |"),
    "flip_files.py": (["--files", "3"], "| kind | files | verify |"),
    "bench_prefect.py": (
        ["--runs", "2", "--session", "1", "--nights", "1", "--served", "1"],
        "| night | augmill serve: MB |",
    ),
    "bench_row_order.py": (["--rows", "900", "--repeats", "1"], "| rows | order | row group |"),
    "bench_tables.py": (["--rows", "200", "--asked", "100"], "| generator | train rows |"),
    "bench_sounds.py": (["--rows", "12", "--repeats", "1"], "| twin | found | others found |"),
    "bench_transforms.py": (["--rows", "70", "--repeats", "1"], "| policy | rows/s |"),
    "media_runs.py": (["--sets", "digits-4", "--draws", "1", "--trainer", "linear"], "| digits-4 | 0 | 40 |"),
    "ranking_runs.py": (["--draws", "1", "--trainers", "transitions", "--ways", "mask"], "| transitions | mask | 0 |"),
    "question_runs.py": (["--ways", "rules", "--draws", "1"], "| rules | 0 |"),
    "table_runs.py": (["--sets", "wine", "--seeds", "1"], "| wine | verify --all |"),
    "bench_checks.py": (
        ["--data", "trec_kumar", "--per-class", "5", "--shards", "1", "--rows", "50"],
        "| us a row | trec_kumar |",
    ),
    "bench_readers.py": (["--megabytes", "0.2", "--repeats", "1"], "| stage | CPU s |"),
    "fuzz_readers.py": (["--files", "20"], "| file | all rows |"),
    "data_plane.py": (["--rows", "400", "--real", "300"], "| stage |"),
    "bench_training.py": (["--steps", "4", "--repeats", "1"], "| scratch |"),
    "bench_near_images.py": (
        ["--sets", "omniglot", "--pictures", "40", "--planted", "10", "--indexed", "60"],
        "| set | planted | pairs | found |",
    ),
    "bench_gate.py": (["--gates", "1", "--kinds", "aa", "--heldout", "100"], "| trec | aa |"),
}
WITHOUT_SHARED = {
    "bench_commits.py",
    "bench_million.py",
    "bench_decode.py",
    "bench_nights.py",
    "bench_overhead.py",
    "bench_prefect.py",
    "bench_readers.py",
    "bench_row_order.py",
    "bench_sounds.py",
    "bench_tables.py",
    "bench_transforms.py",
    "data_plane.py",
    "flip_files.py",
    "fuzz_readers.py",
    "media_runs.py",
    "question_runs.py",
    "table_runs.py",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TINIEST))
def test_a_benchmark_prints_its_table(name: str) -> None:
    if name not in WITHOUT_SHARED and not SHARED.exists():
        pytest.skip("the shared data sets are not here")
    arguments, shown = TINIEST[name]
    assert shown in _run(name, arguments)


@pytest.mark.slow
def test_the_comparison_of_sets_goes_on_where_it_stopped(tmp_path: Path) -> None:
    if not SHARED.exists():
        pytest.skip("the shared data sets are not here")
    out = tmp_path / "cells.jsonl"
    asked = ["--out", str(out), "--sets", "trec-10", "auggpt_symptoms-2", "--generators", "rules", "--seeds", "1"]
    said = [_run("compare_sets.py", asked) for _ in range(2)]
    made = len(out.read_text(encoding="utf-8").splitlines())
    assert f"{made} of {made} cells to make" in said[0] and f"0 of {made} cells to make" in said[1]
    tables = [text[text.index("| set |") :] for text in said]
    assert tables[0] == tables[1] and "| trec-10 | 60 | rules | 1 |" in tables[0] and "| AugGPT1 | 1 |" in tables[0]


def _run(name: str, arguments: list[str]) -> str:
    done = subprocess.run([sys.executable, str(HERE / name), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_every_benchmark_is_run_at_its_tiniest_size() -> None:
    assert {path.name for path in HERE.glob("bench_*.py")} == set(TINIEST) - {
        "data_plane.py",
        "flip_files.py",
        "fuzz_readers.py",
        "media_runs.py",
        "ranking_runs.py",
        "question_runs.py",
        "table_runs.py",
    }


def test_every_module_of_stages_gate_and_store_names_the_tests_that_its_mutants_meet() -> None:
    from mutate import COVERED, ROOT

    found = [path for name in ("stages", "gate", "store") for path in (ROOT / "tasks" / name).glob("*.py")]
    modules = {f"{path.parent.name}/{path.stem}" for path in found if path.stem != "__init__"}
    assert set(COVERED) == modules
    named = {name for names in COVERED.values() for name in names.split()}
    assert not [name for name in named if not (ROOT / f"tests/{name}.py").exists()]


def test_the_picture_of_speed_is_drawn_from_its_table() -> None:
    import bench_commits

    assert bench_commits.PICTURE.read_text(encoding="utf-8") == bench_commits.draw(
        bench_commits.read_table(bench_commits.TABLE)
    )
    again = [dict(zip(bench_commits.HEADER, ("2026-11-30", "a<b", "x & y", "2", "0.5", "4"), strict=True))] * 9
    panels = ElementTree.fromstring(bench_commits.draw(again))
    assert len(panels.findall(".//{*}circle")) == 9 and "x & y: rows a CPU second" in [t.text for t in panels.iter()]
