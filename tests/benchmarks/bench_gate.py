"""How often the gate publishes what does not help, measured on real sets. Prints a table.

    python tests/benchmarks/bench_gate.py [--gates 100] [--out gates.jsonl] [--kinds aa aa-imbalanced deletion]

aa: the "mix" is a second draw of the placebo, 10 rows per class, 2.5 copies of each: nothing true to find.
aa-imbalanced: the same with classes of 40 rows down to 4, copied up to balance; here the placebo itself may help, and
the share of gates that find the mix better than the placebo is the gate's own error.
deletion: rows with a tenth of their words deleted, the gain on 2,000 further rows standing for the truth.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from augmill.tasks.gate.judge import Evidence, GateOptions, Question, evaluate
from augmill.tasks.gate.verdict import Gains, Rule, decide
from augmill.tasks.problems import PROBLEMS
from augmill.tasks.trainers.tfidf import TfidfOptions, TfidfTrainer

SHARED = Path(os.environ.get("AUGMILL_SHARED", Path(__file__).parents[3] / "shared"))
SETS = {"trec": "trec_kumar", "snips": "snips"}
Row = dict[str, Any]


def read(name: str) -> list[Row]:
    """All rows of a set, distinct texts, in order."""
    seen: dict[str, Row] = {}
    for split in ("train", "dev"):
        for line in (SHARED / "data" / SETS[name] / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            seen.setdefault(row["text"], row)
    return list(seen.values())


def table(rows: list[Row], prefix: str, parents: list[list[str]] | None = None) -> pa.Table:
    columns: dict[str, Any] = {
        "row_id": [f"{prefix}{position:05d}" for position in range(len(rows))],
        "stratum": [str(row["label"]) for row in rows],
        "text": [row["text"] for row in rows],
    }
    if parents is not None:
        columns["parent_ids"] = pa.array(parents, pa.list_(pa.string()))
    return pa.table(columns)


def take(rows: list[Row], sizes: list[int], rng: np.random.Generator) -> tuple[list[Row], list[Row]]:
    """(that many rows of each class, the others), both in random order."""
    wanted = dict(zip(sorted({str(row["label"]) for row in rows}), sizes, strict=True))
    taken, others = [], []
    for position in rng.permutation(len(rows)):
        row = rows[position]
        if wanted[str(row["label"])] > 0:
            wanted[str(row["label"])] -= 1
            taken.append(row)
        else:
            others.append(row)
    # What was passed over first is short of the classes that took many rows: held-out rows need an order of their own.
    return taken, [others[position] for position in rng.permutation(len(others))]


def copies(real: list[Row], kind: str, rng: np.random.Generator) -> tuple[list[Row], list[list[str]]]:
    """A draw of the placebo, as a generator would deliver it."""
    made, parents = [], []
    sizes = Counter(str(row["label"]) for row in real)
    for label, size in sorted(sizes.items()):
        own = [position for position, row in enumerate(real) if str(row["label"]) == label]
        count = int(2.5 * size) if kind == "aa" else max(sizes.values()) * 3 // 2 - size
        chosen = own * (count // size) + rng.permutation(own)[: count % size].tolist()
        made += [real[position] for position in chosen]
        parents += [[f"r{position:05d}"] for position in chosen]
    return made, parents


def deleted(real: list[Row], rng: np.random.Generator) -> tuple[list[Row], list[list[str]]]:
    made, parents = [], []
    for position, row in enumerate(real):
        for _ in range(2):
            words = row["text"].split()
            kept = [word for word in words if rng.random() > 0.1] or words
            made.append({"text": " ".join(kept), "label": row["label"]})
            parents.append([f"r{position:05d}"])
    return made, parents


def judge(
    rows: list[Row], kind: str, number: int, heldout: int, options: GateOptions | None = None, test: int = 2000
) -> Evidence:
    """One gate over rows drawn for ``number``; ``test`` further rows stand for the truth."""
    rng = np.random.default_rng([number, len(rows)])
    classes = len({str(row["label"]) for row in rows})
    sizes = [10] * classes
    if kind == "aa-imbalanced":
        sizes = rng.permutation(np.geomspace(40, 4, classes).astype(int)).tolist()
    real, others = take(rows, sizes, rng)
    made, parents = deleted(real, rng) if kind == "deletion" else copies(real, kind, rng)
    with tempfile.TemporaryDirectory() as workdir:
        return evaluate(
            table(real, "r"),
            table(made, "s", parents),
            table(others[:heldout], "v"),
            TfidfTrainer(TfidfOptions(threads=1)),
            options or GateOptions(),
            Question(PROBLEMS["classification"], ("text",)),
            seed=number,
            workdir=Path(workdir),
            test=table(others[heldout : heldout + test], "t"),
        )


def summary(evidence: Evidence, metric: str) -> Row:
    gains = Gains.of(evidence["validation"]["comparisons"], metric, metric)
    assert evidence["test"] is not None
    true = evidence["test"]["comparisons"]
    return {
        "verdict": decide(gains, Rule("superior", 0.0, 0.5, 0.95)),
        "over_placebo": gains.mix_placebo.low > 0,
        "over_real": gains.mix_real.low > 0,
        "placebo_over_real": gains.placebo_real.low > 0,
        "gain": gains.mix_real.gain,
        "half_width": gains.mix_real.gain - gains.mix_real.low,
        "half_width_placebo": gains.mix_placebo.gain - gains.mix_placebo.low,
        "true_gain": true["mix-real"]["gains"][metric]["gain"],
        "true_gain_placebo": true["mix-placebo"]["gains"][metric]["gain"],
        "true_placebo": true["placebo-real"]["gains"][metric]["gain"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gates", type=int, default=100, help="gates per set, kind and number of held-out rows")
    parser.add_argument("--heldout", type=int, nargs="+", default=[100, 300])
    parser.add_argument("--kinds", nargs="+", default=["aa", "aa-imbalanced", "deletion"])
    parser.add_argument("--out", type=Path, default=None, help="a JSON line per gate, as each finishes")
    options = parser.parse_args()
    print(
        "| set | kind | held-out | metric | gates | published | of these harmful | over placebo | half width | s/gate |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in SETS:
        rows = read(name)
        for kind in options.kinds:
            for heldout in options.heldout:
                start = time.monotonic()
                found: dict[str, list[Row]] = {"accuracy": [], "macro_f1": []}
                for number in range(options.gates):
                    evidence = judge(rows, kind, number, heldout)
                    for metric, kept in found.items():
                        kept.append(summary(evidence, metric))
                        if options.out is not None:
                            accuracy = evidence["validation"]["arms"]["real"]["accuracy"]
                            about = {"set": name, "kind": kind, "heldout": heldout, "metric": metric, "n": number}
                            with options.out.open("a", encoding="utf-8") as sink:
                                sink.write(json.dumps({**about, "accuracy": accuracy, **kept[-1]}) + "\n")
                report(name, kind, heldout, found, (time.monotonic() - start) / options.gates)


def report(name: str, kind: str, heldout: int, found: dict[str, list[Row]], seconds: float) -> None:
    for metric, gates in found.items():
        published = [gate for gate in gates if gate["verdict"] == "published"]
        harmful = sum(min(gate["true_gain"], gate["true_gain_placebo"]) < 0 for gate in published)
        over = sum(gate["over_placebo"] for gate in gates)
        width = float(np.mean([gate["half_width"] for gate in gates]))
        print(
            f"| {name} | {kind} | {heldout} | {metric} | {len(gates)} | {len(published)} | {harmful} | {over} "
            f"| {width:.2f} | {seconds:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
