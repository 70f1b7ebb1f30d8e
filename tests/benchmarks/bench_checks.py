"""Processor time of every check and of `rules`, by row. Prints a table.

    python tests/benchmarks/bench_checks.py [--data banking77 ...] [--per-class 50] [--shards 7] [--rows 2000]

Train: the first rows of each class; test: the set's own test rows, which nothing made here may repeat. `rules` makes shards of
rows, and the checks judge each in the order in which a run asks them: what one has found of a text the next may use. A line's
number is the median over the shards of microseconds of processor time a row, all threads together; a first shard, which loads
what was fitted, does not count. Judging apart from the table of verdicts that a stage makes of them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from machine import machine_line, markdown

from augmill.tasks.checks import CHECKS
from augmill.tasks.contracts import Context, FitInputs, Fitted, Request
from augmill.tasks.generators import GENERATORS
from augmill.tasks.rows.kinds import real_schema
from augmill.tasks.rows.randomness import row_seeds

SHARED = Path(os.environ.get("AUGMILL_SHARED", Path(__file__).parents[3] / "shared"))
OF_TEXTS = ("length", "label_set", "relations", "garbage", "label_consistency")
FIELDS = ("text",)
FILES = {"fewclue_tnews": {"train": "train_few_all", "test": "test_public"}}  # where a set calls its splits otherwise


def read_rows(name: str, split: str, per_class: int | None) -> pa.Table:
    """Real rows of a set: of each class the first ``per_class``, or all."""
    seen: Counter[str] = Counter()
    rows = []
    file = FILES.get(name, {}).get(split, split)
    for line in (SHARED / "data" / name / f"{file}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if per_class is None or seen[row["label"]] < per_class:
            rows.append((f"{split}{len(rows)}", str(row["label"]), row["text"]))
        seen[row["label"]] += 1
    return pa.table([list(column) for column in zip(*rows, strict=True)], schema=real_schema(FIELDS))


def fit(extension: Any, inputs: FitInputs, folder: Path) -> tuple[Any, Fitted, Context]:
    folder.mkdir()
    context = Context(seed=0, fields=FIELDS, workdir=folder)
    extension.fit(inputs, context)
    return extension, Fitted(folder, "content"), context


def plain_python(texts: dict[str, list[str]], strata: list[str], seed: int) -> pa.Table:
    """What `rules` does with its usual options, as one would write it by hand: no row hangs on its number alone."""
    draw, made = random.Random(seed), []
    for stratum in strata:
        words = draw.choice(texts[stratum]).split()
        if draw.random() < 0.5 and len(words) > 1:
            one, other = draw.randrange(len(words)), draw.randrange(len(words))
            words[one], words[other] = words[other], words[one]
        else:
            del words[draw.randrange(len(words))]
        made.append(" ".join(words))
    return pa.table({"text": pa.array(made), "stratum": pa.array(strata)})


def spent(work: Callable[[], pa.Table]) -> tuple[float, pa.Table]:
    before = time.process_time()
    made = work()
    return time.process_time() - before, made


def measure(name: str, per_class: int, shards: int, rows: int) -> dict[str, float]:
    """Microseconds a row, by extension."""
    train, held_out = read_rows(name, "train", per_class), read_rows(name, "test", None)
    none = train.slice(0, 0)
    inputs = FitInputs(train, none, held_out, none, none)
    classes = sorted(set(train["stratum"].to_pylist()))
    texts: dict[str, list[str]] = {}
    for stratum, text in zip(train["stratum"].to_pylist(), train["text"].to_pylist(), strict=True):
        texts.setdefault(stratum, []).append(text)
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="augmill-bench-") as folder:
        generator, made, own = fit(GENERATORS["rules"](GENERATORS["rules"].Options()), inputs, Path(folder) / "rules")
        fitted = {each: fit(CHECKS[each](CHECKS[each].Options()), inputs, Path(folder) / each) for each in OF_TEXTS}
        for shard in range(shards + 1):
            ordinals = np.arange(shard * rows, (shard + 1) * rows)
            request = Request(
                sorted(classes[at % len(classes)] for at in range(rows)), ordinals, row_seeds(7, ordinals)
            )
            seconds, table = spent(lambda request=request: generator.sample(made, request, own))
            by_hand, _ = spent(lambda request=request, shard=shard: plain_python(texts, request.strata, shard))
            line = {"rules": seconds}
            table = table.filter(pc.is_null(table["reason"]))
            for each, (check, artifact, context) in fitted.items():
                line[each], _ = spent(lambda c=check, a=artifact, x=context, t=table: c.judge(a, t, x))
            if shard:
                for part, seconds in (line | {"all": sum(line.values()), "(rules in plain Python)": by_hand}).items():
                    found.setdefault(part, []).append(1e6 * seconds / rows)
    return {part: statistics.median(values) for part, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Processor time of checks and rules by row.")
    parser.add_argument("--data", nargs="+", default=["banking77", "trec_kumar", "fewclue_tnews"])
    parser.add_argument("--per-class", type=int, default=50, help="train rows of each class")
    parser.add_argument("--shards", type=int, default=7)
    parser.add_argument("--rows", type=int, default=2000, help="of a shard")
    given = parser.parse_args()
    print(f"{given.per_class} train rows a class, shards of {given.rows:,}. {machine_line()}\n")
    found = {name: measure(name, given.per_class, given.shards, given.rows) for name in given.data}
    lines = [[part, *(f"{found[name][part]:.2f}" for name in given.data)] for part in found[given.data[0]]]
    print(markdown(["us a row", *given.data], lines))


if __name__ == "__main__":
    main()
