"""Generators on public sets: acceptance, gain over real rows and over placebo, verdicts and prices, by many small cells.

    python tests/benchmarks/compare_sets.py --out cells.jsonl [--sets trec-10 snips-50] [--generators rules ...]
        [--seeds 10] [--minutes 60]
    python tests/benchmarks/compare_sets.py --out cells.jsonl --table [--pages DIR]

A set's name ends in its rows per class; which rows those are, the seed draws. Unlabelled rows are others of train,
without their labels. Validation and test rows are drawn once and stay. A cell is appended to the file as it ends, and
one that stands there is not made again; `--minutes` starts no new one after so long. Cells go seed by seed over all
sets, so that a table that is stopped early is even.

What is made cheaper than a run: the built-in trainer does not search for its C (10, which it mostly chooses here), the
gate trains 3 times an arm where a run trains 10 times, and Great Expectations is off. Generators that take seconds run with
10 seeds, those that train a model with 3.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from machine import machine_line

from augmill.flows.cli.compare import write_comparison
from augmill.flows.compare import VERSION, entrants, run_cell, told
from augmill.flows.run import Session, open_session
from augmill.tasks.errors import AugmillError
from augmill.tasks.generators import GENERATORS
from augmill.tasks.recipe.recipe import build_recipe
from augmill.tasks.report.charts import points
from augmill.tasks.report.comparison import ComparedGenerator, lines, table
from augmill.tasks.store.stage import Event
from augmill.tasks.store.store import Store

SHARED = Path(os.environ.get("AUGMILL_SHARED", Path(__file__).parents[3] / "shared"))
VALIDATION, TEST, UNLABELLED = 1_000, 2_000, 4_000  # rows at most
MANY = 50  # classes from which on ratios above 2 cost more than a cell may take
AUGGPT_SEEDS = (2013, 2014, 2015)
AUGGPT = {"symptoms": ("4", "5", "6"), "amazon": ("21", "22", "23")}
WANTED = (
    "rules", "interpolate", "adaptive:rules+interpolate", "self_training", "causal_lm", "causal_lm/teacher", "causal_lm/agree",
    "masked_lm", "seq2seq",
)  # fmt: skip
SLOW_SEEDS = 3  # of generators that train a model

Row = dict[str, Any]


class Source(NamedTuple):
    """Files of a set: the train rows, then validation and test, each "" where train gives it too; and more without labels."""

    folder: str
    train: str
    validation: str
    test: str
    unlabelled: str = ""
    imbalanced: bool = False


SOURCES = {
    "trec": Source("trec_kumar", "train.jsonl", "dev.jsonl", "test.jsonl"),
    "sst2": Source("sst2_kumar", "train.jsonl", "dev.jsonl", "test.jsonl"),
    "snips": Source("snips", "train.jsonl", "dev.jsonl", "test.jsonl"),
    "banking77": Source("banking77", "train.jsonl", "", "test.jsonl"),
    "clinc150": Source("clinc150", "train.jsonl", "val.jsonl", "test.jsonl"),
    "clinc150_imbalanced": Source("clinc150", "imbalanced_train.jsonl", "val.jsonl", "test.jsonl", "", True),
    "phrasebank": Source("financial_phrasebank", "all.jsonl", "", ""),
    "tnews": Source(
        "fewclue_tnews", "train_few_all.jsonl", "dev_few_all.jsonl", "test_public.jsonl", "unlabeled.jsonl"
    ),
}
SETS = [f"{name}-10" for name in SOURCES] + [f"{name}-50" for name in ("trec", "sst2", "snips")]
REPLAYED = [f"auggpt_{name}-2" for name in AUGGPT]


class Job(NamedTuple):
    """A cell to be made: ``generator`` as the table names it, ``entrant`` as `augmill compare` does."""

    name: str
    generator: str
    entrant: str
    seed: int


def read_lines(path: Path) -> list[Row]:
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return [{"text": row["text"], "label": row["label"]} for row in rows]


def write_lines(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def drawn(rows: list[Row], count: int, key: str) -> list[Row]:
    return random.Random(key).sample(rows, min(count, len(rows)))


def _splits(source: Source) -> dict[str, list[Row]]:
    """Train, validation and test rows, the latter two capped; those that train gives are no train rows any more."""
    folder = SHARED / "data" / source.folder
    pool = read_lines(folder / source.train)
    found: dict[str, list[Row]] = {}
    for split, name, most in (("validation", source.validation, VALIDATION), ("test", source.test, TEST)):
        if name:
            found[split] = drawn(read_lines(folder / name), most, split)
            continue
        at = set(random.Random(split).sample(range(len(pool)), min(most, len(pool) // 3)))
        found[split] = [row for place, row in enumerate(pool) if place in at]
        pool = [row for place, row in enumerate(pool) if place not in at]
    return {"train": pool, **found}


def write_set(folder: Path, name: str, seed: int) -> None:
    """train, validation, test and unlabelled as JSON lines."""
    kind, _, size = name.rpartition("-")
    source, per_class = SOURCES[kind], int(size)
    splits = _splits(source)
    held = {row["text"] for split in ("validation", "test") for row in splits[split]}
    by: dict[str, list[Row]] = {}
    for row in splits["train"]:
        if row["text"] not in held:
            by.setdefault(row["label"], []).append(row)
    largest = max(map(len, by.values()))
    train, rest = [], []
    for label in sorted(by):
        # The imbalanced set keeps its shape: its largest classes have the rows per class that the name says.
        count = max(2, round(per_class * len(by[label]) / largest)) if source.imbalanced else per_class
        shuffled = drawn(by[label], len(by[label]), f"{name} {seed} {label}")
        train += shuffled[:count]
        rest += shuffled[count:]
    if source.unlabelled:
        rest += read_lines(SHARED / "data" / source.folder / source.unlabelled)
    write_lines(folder / "train.jsonl", train)
    for split in ("validation", "test"):
        write_lines(folder / f"{split}.jsonl", splits[split])
    (folder / "apart").mkdir()
    unlabelled = [{"text": row["text"]} for row in drawn(rest, UNLABELLED, f"{name} {seed}")]
    write_lines(folder / "apart" / "unlabelled.jsonl", unlabelled)


def write_auggpt(folder: Path, name: str, seed: int) -> None:
    """The two real rows a class that the methods were given; rows of the same classes judge, those of test are reported."""
    kind = name.removeprefix("auggpt_").removesuffix("-2")
    root = SHARED / "data" / "auggpt_outputs"
    train = _table(root / "Raw" / kind / f"novel_few_shot_data_search_2_{seed}.csv", ",")
    given = {row["text"] for method in methods() for row in _table(_made(method, kind, seed), ",")}
    for split, file in (("validation", "train.csv"), ("test", "test.csv")):
        rows = [row for row in _table(root / f"_{kind}" / file, "\t") if row["label"] in AUGGPT[kind]]
        # Of the rows that other seeds were given, too, there are paraphrases only in those seeds.
        write_lines(folder / f"{split}.jsonl", [row for row in rows if split == "test" or row["text"] not in given])
    write_lines(folder / "train.jsonl", train)


def _made(method: str, kind: str, seed: int) -> Path:
    return SHARED / "data" / "auggpt_outputs" / method / kind / f"novel_few_shot_data_search_2_{seed}.csv"


def methods() -> list[str]:
    """Whose outputs are there; ``Raw`` are the real rows themselves."""
    folder = SHARED / "data" / "auggpt_outputs"
    if not folder.is_dir():  # to print a table it takes none of the sets
        return []
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("_") and p.name != "Raw")


def _table(path: Path, delimiter: str) -> list[Row]:
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter=delimiter, quoting=quoting))
    return [{"text": row["text"], "label": row["labels"]} for row in rows]


def document(job: Job) -> dict[str, Any]:
    """The recipe of a job, as YAML would hold it."""
    replayed = job.name in REPLAYED
    target: dict[str, Any] = {"multiply": 1.0 + max(ratios_of(job)) if job.generator == "self_training" else 2.0}
    if job.name.startswith("clinc150_imbalanced"):
        target = {"balance": "max"}
    if replayed:
        target = {"per_class": 12}
    own: dict[str, Any] = {"use": "rules"}
    if replayed:
        path = _made(job.generator, job.name.removeprefix("auggpt_").removesuffix("-2"), job.seed)
        own = {"use": "replay", "path": str(path), "label": "labels"}
    return {
        "dataset": job.name.lower(),
        "source": {"path": "*.jsonl"},
        **({} if replayed else {"unlabelled": {"path": "apart/unlabelled.jsonl"}}),
        "columns": {"text": "text", "label": "label"},
        "splits": {"files": {split: f"{split}.jsonl" for split in ("train", "validation", "test")}},
        "target": target,
        "generators": [own],
        "trainer": {"use": "tfidf", "cs": [10.0]},
        "gate": {"seeds": 3, "resamples": 500},
        "validation": {"enabled": False},
        "seed": job.seed,
        "run": {"orchestrator": "none", "store": "store"},
    }


def jobs(sets: list[str], generators: list[str], most_seeds: int) -> Iterator[Job]:
    """Seed by seed over all sets and generators."""
    for number in range(most_seeds):
        for name in sets:
            if name in REPLAYED and number < len(AUGGPT_SEEDS):
                yield from (Job(name, method, "replay", AUGGPT_SEEDS[number]) for method in methods())
            elif name not in REPLAYED:
                yield from (Job(name, each, each, number) for each in generators if number < seeds_of(each))


def seeds_of(generator: str) -> int:
    parts = [part.split("/")[0] for part in generator.rpartition(":")[2].split("+")]
    return SLOW_SEEDS if any("torch" in GENERATORS[part].libraries for part in parts) else 10


def ratios_of(job: Job) -> tuple[float, ...]:
    """Synthetic rows per real one. Unlabelled rows are real, and there are many: of these more are asked for."""
    if job.name.startswith("clinc150_imbalanced"):
        return (0.1, 0.2)  # filling it up takes about 0.4 synthetic rows per real one
    if job.name in REPLAYED:
        return (1.0, 3.0)
    many = job.name.startswith(("banking77", "clinc150"))
    if job.generator == "self_training":  # of CLINC150's 1,500 rows there are no four times as many without a label
        return (1.0, 2.0) if job.name.startswith("clinc150") else (1.0, 2.0, 4.0)
    return (0.5, 1.0, 2.0) if many else (0.5, 1.0, 2.0, 4.0)


def read_cells(path: Path) -> list[dict[str, Any]]:
    cells = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    return [cell for cell in cells if cell["version"] == VERSION]


def make(session: Session, job: Job, folder: Path, took: dict[str, Event]) -> dict[str, Any]:
    """The cell, in a folder and a store that the jobs of one set and seed share."""
    if not (folder / "train.jsonl").exists():
        (write_auggpt if job.name in REPLAYED else write_set)(folder, job.name, job.seed)
    recipe = build_recipe(document(job), base=folder)
    store = Store(str(folder / "store"))
    entrant = dataclasses.replace(entrants(recipe, job.entrant)[job.entrant], seed=job.seed)
    here = dataclasses.replace(session, store=store, recipe=recipe)
    cell, _ = run_cell(here, entrant, job.entrant, ratios_of(job), None, took)
    return cell | {"generator": job.generator}


def fill(path: Path, wanted: list[Job], minutes: float) -> None:
    """Makes the cells that the file lacks, appending each as it ends."""
    ends = time.monotonic() + 60 * minutes
    standing = {(cell["dataset"], cell["generator"], cell["seed"]) for cell in read_cells(path)}
    todo = [job for job in wanted if (job.name.lower(), job.generator, job.seed) not in standing]
    print(f"{len(todo)} of {len(wanted)} cells to make. {machine_line()}", flush=True)
    if not todo:
        return
    with tempfile.TemporaryDirectory(prefix="augmill-compare-") as top:
        anything = build_recipe(document(todo[0]), base=Path(top))
        with open_session(anything, command="compare_sets", by_morning=False) as session:
            took: dict[str, Event] = {}
            for job in todo:
                if time.monotonic() > ends:
                    print("time is up; the same command goes on from here")
                    return
                folder = Path(top) / f"{job.name}-{job.seed}"
                folder.mkdir(exist_ok=True)
                started = time.monotonic()
                try:
                    cell = make(session, job, folder, took)
                except AugmillError as error:
                    print(f"{job.name} {job.generator} {job.seed}: left out: {error}", flush=True)
                    continue
                with path.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(cell, ensure_ascii=False, sort_keys=True) + "\n")
                seconds = time.monotonic() - started
                print(f"{job.name} {job.generator} {job.seed}: {seconds:.1f} s, {told(cell)}", flush=True)


def matrix(found: Sequence[ComparedGenerator], per_class: int) -> str:
    """Generators by sets: what the mix gains over the real rows; starred where it is proven to gain over the placebo too,

    in brackets where it is proven to lose against either. Sets at so many rows a class alone.
    """
    size = f"-{per_class}"
    sets = [name for name in SETS if name.endswith(size)]
    by = {(line.generator, line.dataset): line for line in found}
    rows = [["generator", *(name.removesuffix(size) for name in sets)], ["---", *["---:"] * len(sets)]]
    for generator in dict.fromkeys(name for name, dataset in by if dataset in sets):
        cells = []
        for name in sets:
            gains = by[generator, name].gains if (generator, name) in by else {}
            if "mix-real" not in gains:
                cells.append("")
                continue
            both, said = (gains["mix-real"], gains["mix-placebo"]), points(gains["mix-real"].gain)
            cells.append(
                f"{said} \\*"
                if min(g.low for g in both) > 0
                else f"({said})"
                if min(g.high for g in both) < 0
                else said
            )
        rows.append([generator, *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def known_generators() -> list[str]:
    """Those of WANTED whose parts are there."""
    return [
        each for each in WANTED if all(part.split("/")[0] in GENERATORS for part in each.rpartition(":")[2].split("+"))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Generators on public sets, a cell at a time.")
    parser.add_argument("--out", type=Path, required=True, help="a file of cells, one a line; made or gone on with")
    parser.add_argument("--sets", nargs="+", choices=[*SETS, *REPLAYED], default=[*SETS, *REPLAYED])
    parser.add_argument("--generators", nargs="+", default=known_generators())
    parser.add_argument("--seeds", type=int, default=10, help="at most; 3 for generators that train a model")
    parser.add_argument("--minutes", type=float, default=1e6, help="starts no cell after so long")
    parser.add_argument("--table", action="store_true", help="prints the tables of the cells that are there")
    parser.add_argument("--pages", type=Path, help="with --table: report.html, table.md and plot.svg go there")
    given = parser.parse_args()
    if not given.table:
        fill(given.out, list(jobs(given.sets, given.generators, given.seeds)), given.minutes)
    order = {name: at for at, name in enumerate([*SETS, *REPLAYED])}
    rank = {name: at for at, name in enumerate([*WANTED, *methods()])}
    cells = [cell for cell in read_cells(given.out) if cell["dataset"] in order]
    cells.sort(key=lambda cell: (order[cell["dataset"]], rank.get(cell["generator"], 99), cell["seed"]))
    found = lines(cells)
    print("\n".join([table(found), matrix(found, 10), matrix(found, 50)]) if cells else "there is no cell yet")
    if given.pages and cells:
        command = f"python tests/benchmarks/compare_sets.py --out {given.out.name}"
        write_comparison(given.pages, cells, {"title": "Generators on public sets", "command": command, "left": []})


if __name__ == "__main__":
    main()
