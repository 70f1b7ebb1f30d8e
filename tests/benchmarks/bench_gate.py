"""How often the gate publishes what does not help, on real sets and simulated. Prints tables.

    python tests/benchmarks/bench_gate.py [--gates 100] [--out gates.jsonl] [--kinds aa aa-imbalanced deletion]
        [--sets trec snips income diabetes adult] [--metrics accuracy macro_f1 auc average_precision mae rmse r2]
        [--simulate 1000] [--cost] [--per-class 10]

aa: the "mix" is a second draw of the placebo, 10 rows per class, 2.5 copies of each: nothing true to find.
aa-imbalanced: the same with classes of 40 rows down to 4, copied up to balance; here the placebo itself may help, and
the share of gates that find the mix better than the placebo is the gate's own error.
deletion: rows with a tenth of their words deleted, the gain on 2,000 further rows standing for the truth. Of tables:
rows whose numbers are shaken by a third of their standard deviation.
diabetes (scikit-learn's) and adult (age, from its other numbers) are regressions, income (adult's) are two labels: 100
real rows; the trainer is a ridge or a logistic regression on random features, so that its runs differ.
Every gate trains all runs; "early" is what it would have said and trained if it had ended where gate.early lets it.
--simulate: gates over made predictions of two arms that are equally good on the population of rows; no training. Last,
the same where one of them is better (power).
--cost: processor seconds and memory of whole gates that end early, of those that train all runs, and of all but training.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from augmill.tasks.contracts import Judged
from augmill.tasks.gate import judge as gate
from augmill.tasks.gate.evidence import Ending, Predictions
from augmill.tasks.gate.gauge import Gauge
from augmill.tasks.gate.interval import Replicates, by_run, interval, resample
from augmill.tasks.gate.judge import Evidence, GateOptions, Question
from augmill.tasks.gate.verdict import Gains, Rule, best_real, decide
from augmill.tasks.metrics import METRICS
from augmill.tasks.problems import PROBLEMS
from augmill.tasks.trainers import Prediction, TfidfOptions, TfidfTrainer, Trainer, TrainerInputs, Training
from augmill.tasks.trainers.logistic import log_odds, solver

SHARED = Path(os.environ.get("AUGMILL_SHARED", Path(__file__).parents[3] / "shared"))
SETS = {"trec": "trec_kumar", "snips": "snips"}
LARGE = {"banking77": "banking77"}
TABLES = {"diabetes": "regression", "adult": "regression", "income": "classification"}
LABELS = ("accuracy", "macro_f1", "auc", "average_precision")
NUMBERS = ("mae", "rmse", "r2")
Row = dict[str, Any]


def read(name: str) -> list[Row]:
    """All rows of a set, distinct texts, in order."""
    seen: dict[str, Row] = {}
    for split in ("train", "dev", "test"):
        path = SHARED / "data" / (SETS | LARGE)[name] / f"{split}.jsonl"
        if split == ("test" if name in SETS else "dev"):
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
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
        count = max(sizes.values()) * 3 // 2 - size if kind == "aa-imbalanced" else int(2.5 * size)
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


def predict_texts(
    rows: list[Row], kind: str, number: int, heldout: int, options: GateOptions, test: int, per_class: int = 10
) -> tuple[list[Predictions], Question]:
    """What the arms of one gate predict, over rows drawn for ``number``; ``test`` further rows stand for the truth.

    Without end before the last run, unless ``options.early`` is on and they are resolved.
    """
    rng = np.random.default_rng([number, len(rows)])
    classes = len({str(row["label"]) for row in rows})
    sizes = [per_class] * classes
    if kind == "aa-imbalanced":
        sizes = rng.permutation(np.geomspace(40, 4, classes).astype(int)).tolist()
    real, others = take(rows, sizes, rng)
    made, parents = deleted(real, rng) if kind == "deletion" else copies(real, kind, rng)
    question, trainer = Question(PROBLEMS["classification"], ("text",)), TfidfTrainer(TfidfOptions(threads=1))
    tables = [table(others[:heldout], "v"), table(others[heldout : heldout + test], "t")]
    looks = gate.looks((), options, question, number) if options.metric else None
    with tempfile.TemporaryDirectory() as workdir:
        found = gate.predict(
            table(real, "r"), table(made, "s", parents), [part for part in tables if part.num_rows], trainer, question,
            runs=options.seeds, seed=number, workdir=Path(workdir), scores=options.metric is None or options.needs_scores,
            looks=looks,
        )  # fmt: skip
    return found, question


def judge(
    rows: list[Row], kind: str, number: int, heldout: int, options: GateOptions | None = None, test: int = 2000
) -> Evidence:
    """The evidence of one gate over texts."""
    options = (options or GateOptions()).resolved(PROBLEMS["classification"])
    found, question = predict_texts(rows, kind, number, heldout, options, test)
    return gate.judge(found, options, question, number, real=0, synthetic=0)


def ended_early(found: list[Predictions], options: GateOptions, question: Question, seed: int) -> list[Predictions]:
    """As if the gate had looked after each run. ``options``: resolved."""
    looks = gate.looks((), options, question, seed)
    assert looks is not None
    for runs in range(1, options.seeds):
        if ended := looks.ending(first_runs(found[0], runs)):
            return [first_runs(part, runs, ended) for part in found]
    return found


def first_runs(found: Predictions, runs: int, ended: Ending | None = None) -> Predictions:
    scores = {arm: of[:runs] for arm, of in found.scores.items()} if found.scores else None
    chosen = {arm: of[:runs] for arm, of in found.chosen.items()}
    return replace(
        found, arms={a: of[:runs] for a, of in found.arms.items()}, scores=scores, chosen=chosen, ended=ended
    )


# --- Real tables --------------------------------------------------------------------------------------------------------


class RandomFeatures(Trainer):
    """A regression on 60 random waves of the standardised numbers; which waves hangs on the training's seed."""

    VERSION: ClassVar[int] = 1
    Options: ClassVar[type[Any]] = type(None)
    kinds: ClassVar[tuple[str, ...]] = ("table",)
    problems: ClassVar[tuple[str, ...]] = ("regression", "classification")
    scores: ClassVar[bool] = True

    def predict(self, inputs: TrainerInputs, trainings: list[Training], workdir: Path) -> Iterator[Prediction]:
        tables = (inputs.real, inputs.synthetic, inputs.evaluation)
        real, made, held = (np.stack([part[name].to_numpy() for name in inputs.fields], axis=1) for part in tables)
        middle, width = real.mean(axis=0), real.std(axis=0) + 1e-9
        train, held = (np.concatenate([real, made]) - middle) / width, (held - middle) / width
        learnt = "target" if inputs.problem.target is not None else "stratum"
        target = np.concatenate([part[learnt].to_pylist() for part in tables[:2]])
        for training in trainings:
            merged = training.merged()
            rng = np.random.default_rng(training.seed)
            waves, phase = rng.normal(0, 0.3, (train.shape[1], 60)), rng.uniform(0, 2 * np.pi, 60)
            inside, outside = (np.c_[np.ones(len(x)), x, np.cos(x @ waves + phase)] for x in (train[merged.rows], held))
            weights = merged.weights * len(real) / merged.weights.sum()
            if learnt == "stratum":
                labels = np.array([inputs.classes.index(name) for name in target[merged.rows]])
                (found,) = solver(inside[:, 1:].astype(np.float32))(labels, weights, [1.0])
                odds = log_odds(outside[:, 1:] @ found.model[:-1] + found.model[-1])
                yield Prediction(found.classes[odds.argmax(axis=1)], odds)
                continue
            gram = inside.T @ (inside * weights[:, None]) + np.diag([1e-6] + [3.0] * (inside.shape[1] - 1))
            yield Prediction(outside @ np.linalg.solve(gram, inside.T @ (weights * target[merged.rows])))


def read_numbers(name: str) -> tuple[np.ndarray, np.ndarray]:
    """(rows, columns) and the target."""
    if name == "diabetes":
        from sklearn.datasets import load_diabetes

        found = load_diabetes()
        return found.data, found.target
    with (SHARED / "data" / "adult" / "adult.data").open(encoding="utf-8") as stream:
        rows = [[cell.strip() for cell in row] for row in csv.reader(stream) if len(row) == 15]
    numbers = np.array([[float(row[at]) for at in (0, 4, 10, 11, 12)] for row in rows])
    flags = np.array([[row[5] == "Never-married", row[9] == "Male"] for row in rows], dtype=float)
    rich = np.array([row[14] for row in rows])
    known = np.c_[numbers[:, 1], np.log1p(numbers[:, 2:4]), numbers[:, 4], flags]
    return (np.c_[known, rich == ">50K"], numbers[:, 0]) if name == "adult" else (np.c_[known, numbers[:, 0]], rich)


def predict_table(
    rows: tuple[np.ndarray, np.ndarray], kind: str, number: int, heldout: int, options: GateOptions, test: int
) -> tuple[list[Predictions], Question]:
    """As ``predict_texts``."""
    rng = np.random.default_rng([number, len(rows[1])])
    order, labelled = rng.permutation(len(rows[1])), rows[1].dtype.kind == "U"
    problem = PROBLEMS["classification" if labelled else "regression"]
    fields = tuple(f"number:{at}" for at in range(rows[0].shape[1]))

    def part(at: np.ndarray, prefix: str, shaken: float = 0.0) -> pa.Table:
        numbers = rows[0][at] + shaken * rows[0].std(axis=0) * rng.normal(size=(len(at), len(fields)))
        columns = {"row_id": [f"{prefix}{row:05d}" for row in range(len(at))]} | {learnt: rows[1][at].tolist()}
        made = pa.table(columns | {name: numbers[:, place] for place, name in enumerate(fields)})
        made = made.append_column("parent_ids", pa.array([[]] * len(at), pa.list_(pa.string())))
        if labelled:
            return made
        return made.append_column("stratum", problem.stratum(made["target"].combine_chunks(), fitted))

    learnt = "stratum" if labelled else "target"
    fitted = {} if labelled else problem.fit_strata(pa.table({"target": rows[1][order[:100]]}))
    real, held, further = order[:100], order[100 : 100 + heldout], order[100 + heldout :][:test]
    if kind == "deletion":
        made = part(np.repeat(real, 2), "s", shaken=1 / 3)
    else:
        labels = part(real, "r")["stratum"].to_pylist()
        twins, _ = copies([{"label": label, "at": at} for label, at in zip(labels, real, strict=True)], kind, rng)
        made = part(np.array([row["at"] for row in twins]), "s")
    splits = [part(at, prefix) for at, prefix in ((held, "v"), (further, "t")) if len(at)]
    question = Question(problem, fields, "target")
    found = gate.predict(
        part(real, "r"), made, splits, RandomFeatures(None), question,
        runs=options.seeds, seed=number, workdir=Path(), scores=labelled,
    )  # fmt: skip
    return found, question


# --- Simulated: no training, so that thousands of gates take minutes ----------------------------------------------------


def arms_without_effect(
    metric: str, held: int, runs: int, spread: float, rng: np.random.Generator, better: float = 0.0
) -> list[list[Judged]]:
    """Two arms that are equally good on the population of rows, ``runs`` trainings of each; the first ``better``.

    A row is hard or easy, an arm has luck with a row whatever the run (0.3), a run with all rows (``spread``) and with one
    row (0.3).
    """
    units = np.arange(held)
    if metric in NUMBERS:
        truth, base = 3 * rng.normal(size=held), rng.standard_t(4, size=held)
        return [
            [
                Judged(
                    truth,
                    truth + base * size + luck + spread * rng.normal() + 0.3 * rng.normal(size=held),
                    None,
                    units,
                    held,
                )
                for _ in range(runs)
            ]
            for luck, size in zip(0.3 * rng.normal(size=(2, held)), (1 - better / 2, 1.0), strict=True)
        ]
    truth, names = rng.integers(4, size=held), tuple("0123")
    own, base = np.eye(4)[truth], 1.2 * rng.normal(size=(held, 4))
    arms = []
    for more in (better, 0.0):
        luck, arm = 0.3 * rng.normal(size=(held, 4)), []
        for _ in range(runs):
            scores = base + luck + (1.5 + more + spread * rng.normal()) * own + 0.3 * rng.normal(size=(held, 4))
            arm.append(Judged(truth, scores.argmax(axis=1), scores, units, held, names))
        arms.append(arm)
    return arms


def simulate(name: str, gates: int, held: int, runs: int, spread: float, resamples: int = 200, seed: int = 1) -> int:
    """How many of the gates find the first arm better than the second by its lower bound: 5 % of them is stated."""
    metric, gauge, proven = METRICS[name], Gauge.of(METRICS[name]), 0
    drawn, rng = resample(held, runs, resamples, 0), np.random.default_rng([seed, held, runs])
    for _ in range(gates):
        arms = arms_without_effect(name, held, runs, spread, rng)
        one, other = (Replicates.over(by_run(metric, arm, drawn.units), drawn.runs) for arm in arms)
        step = max(metric.one_unit(run) for arm in arms for run in arm)
        proven += interval(one.values - other.values, one.runs - other.runs, 0.95, step, gauge).low > 0
    return proven


def simulate_early(
    name: str, gates: int, held: int, runs: int, spread: float, better: float = 0.0, resamples: int = 200, seed: int = 1
) -> Counter[str]:
    """How many gates find the mix better, and worse, than the placebo where they end early and where they do not.

    The real rows alone are far behind, which is the worst case for the rule: the mix need only beat the placebo by luck.
    """
    question = Question(PROBLEMS["regression" if name in NUMBERS else "classification"], ("text",), "target")
    options = GateOptions(seeds=runs, metric=name, resamples=resamples).resolved(question.problem)
    told, rng = Counter[str](), np.random.default_rng([seed, held, runs])
    for number in range(gates):
        mix, placebo = arms_without_effect(name, held, runs, spread, rng, better)
        all_runs = predictions(mix, placebo)
        (early,) = ended_early([all_runs], options, question, number)
        verdicts = [over_placebo(part, options, question, number) for part in (early, all_runs)]
        for when, verdict in zip(("early", "all"), verdicts, strict=True):
            told[f"{verdict} {when}"] += 1
        told["differ"] += verdicts[0] != verdicts[1]
        told["runs"] += early.runs
    return told


def predictions(mix: list[Judged], placebo: list[Judged]) -> Predictions:
    """As a gate has them, with real rows alone that are never right."""
    truth, numbers = mix[0].truth, mix[0].scores is None
    wrong = truth + 100.0 if numbers else (truth + 1) % 4
    arms = {"placebo": [run.predicted for run in placebo], "mix": [run.predicted for run in mix]}
    arms["real"] = [wrong] * len(mix)
    scores = None
    if not numbers:
        scores = {"placebo": np.stack([run.scores for run in placebo]), "mix": np.stack([run.scores for run in mix])}
        scores["real"] = np.stack([np.eye(4)[wrong] + 0.01 * run.scores for run in mix])
    stratum = np.zeros(len(truth), np.int64) if numbers else truth
    strata, chosen = ("all",) if numbers else tuple("0123"), {arm: [{}] * len(mix) for arm in arms}
    stacked = {arm: np.stack(of) for arm, of in arms.items()}
    return Predictions(strata, stratum, stacked, chosen, truth if numbers else None, scores=scores)


def over_placebo(found: Predictions, options: GateOptions, question: Question, seed: int) -> str:
    """better, worse or neither, by the bounds of the gain over the placebo."""
    metric = METRICS[str(options.metric)]
    judged = {arm: found.judged(arm) for arm in ("mix", "placebo")}
    drawn = resample(len(found.stratum), found.runs, options.resamples, seed)
    one, other = (Replicates.over(by_run(metric, judged[arm], drawn.units), drawn.runs) for arm in ("mix", "placebo"))
    step = max(metric.one_unit(run) for arm in judged.values() for run in arm)
    gain = interval(one.values - other.values, one.runs - other.runs, 0.95, step, Gauge.of(metric))
    return "better" if gain.low > 0 else "worse" if gain.high < 0 else "neither"


CELLS = ((150, 10, 0.2, 0.0), (400, 10, 0.15, 0.0), (60, 10, 0.1, 0.0), (400, 10, 1.0, 0.0), (400, 10, 0.15, 0.15))


def simulations(gates: int, metrics: list[str]) -> None:
    print("`better`: what the first arm is better by; 5 % found better are stated where it is 0.\n")
    print(
        "| metric | held-out | runs | spread of runs | better | gates | found better: early | all runs | found worse: early "
        "| all runs | verdicts that differ | runs trained |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for name in metrics:
        for held, runs, spread, better in CELLS:
            found = simulate_early(name, gates, held, runs, spread, better)
            shares = [
                f"{found[key] / gates:.1%}"
                for key in ("better early", "better all", "worse early", "worse all", "differ")
            ]
            mean = f"{found['runs'] / gates:.1f}"
            print(f"| {' | '.join(map(str, (name, held, runs, spread, better, gates, *shares, mean)))} |", flush=True)


# --- The table of real gates --------------------------------------------------------------------------------------------


def summary(evidence: Evidence, metric: str) -> Row:
    gains = Gains.of(evidence["validation"]["comparisons"], metric, metric)
    assert evidence["test"] is not None
    true = evidence["test"]["comparisons"]
    return {
        "verdict": decide(gains, Rule("superior", 0.0, 0.5, 0.95)),
        "over_placebo": gains.mix_placebo.low > 0,
        "over_real": gains.mix_real.low > 0,
        "placebo_over_real": gains.placebo_real.low > 0,
        "best_real": best_real(gains.placebo_real),
        "gain": gains.mix_real.gain,
        "half_width": gains.mix_real.gain - gains.mix_real.low,
        "half_width_placebo": gains.mix_placebo.gain - gains.mix_placebo.low,
        "true_gain": true["mix-real"]["gains"][metric]["gain"],
        "true_gain_placebo": true["mix-placebo"]["gains"][metric]["gain"],
        "true_placebo": true["placebo-real"]["gains"][metric]["gain"],
        "score": evidence["validation"]["arms"]["real"][metric],
    }


def judge_by(
    found: list[Predictions], question: Question, number: int, names: list[str], how: GateOptions
) -> dict[str, Row]:
    """One gate by each metric, over the same trainings."""
    judged: dict[str, Row] = {}
    for metric in names:
        if metric not in judged:  # a gate measures several, whichever decides
            options = replace(how, metric=metric).resolved(question.problem)
            evidence = gate.judge(found, options, question, number, real=0, synthetic=0)
            judged |= {name: summary(evidence, name) for name in names if name in evidence["metrics"]}
        options = replace(how, metric=metric).resolved(question.problem)
        part = ended_early(found, options, question, number)
        early = gate.judge(part, options, question, number, real=0, synthetic=0) if part[0].ended else None
        told = judged[metric] if early is None else summary(early, metric)
        for key in ("verdict", "over_placebo", "best_real"):
            judged[metric][f"{key}_early"] = told[key]
        judged[metric]["runs"] = part[0].runs
    return judged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gates", type=int, default=100, help="gates per set, kind and number of held-out rows")
    parser.add_argument("--heldout", type=int, nargs="+", default=[100, 300])
    parser.add_argument("--kinds", nargs="+", default=["aa", "aa-imbalanced", "deletion"])
    parser.add_argument("--sets", nargs="+", default=[*SETS], help=f"among {', '.join([*SETS, *TABLES])}")
    parser.add_argument("--metrics", nargs="+", default=["accuracy", "macro_f1", *NUMBERS])
    parser.add_argument("--seeds", type=int, default=10, help="trainings of each arm")
    parser.add_argument("--test", type=int, default=2000, help="further rows that stand for the truth")
    parser.add_argument("--out", type=Path, default=None, help="a JSON line per gate, as each finishes")
    parser.add_argument("--per-class", type=int, default=10, help="--cost: real rows per class")
    parser.add_argument("--cost", action="store_true", help="what whole gates over texts cost, instead of the error")
    parser.add_argument("--simulate", type=int, default=0, help="simulated gates per metric, instead of real ones")
    options = parser.parse_args()
    if options.simulate:
        return simulations(options.simulate, options.metrics)
    if options.cost:
        print(
            "| set | kind | rows a class | gates | runs asked | trained | CPU-s | all runs: CPU-s | ratio | measuring | MiB |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|---|")
        for name, kind in itertools.product(options.sets, options.kinds):
            costs(name, kind, options.gates, options.heldout[0], options.test, options.seeds, options.per_class)
        return None
    how = GateOptions(seeds=options.seeds)
    print(
        "| set | kind | held-out | metric | gates | published | of these harmful | over placebo | early: published "
        "| early: over placebo | verdicts or best_real that differ | runs trained | half width | s/gate |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|")
    for name in options.sets:
        rows: Any = read_numbers(name) if name in TABLES else read(name)
        predict: Any = predict_table if name in TABLES else predict_texts
        served = NUMBERS if TABLES.get(name) == "regression" else LABELS
        names = [metric for metric in options.metrics if metric in served]
        for kind in options.kinds:
            for heldout in options.heldout:
                start = time.monotonic()
                found: dict[str, list[Row]] = {metric: [] for metric in names}
                for number in range(options.gates):
                    for metric, kept in judge_by(
                        *predict(rows, kind, number, heldout, how, options.test), number, names, how
                    ).items():
                        found[metric].append(kept)
                        if options.out is not None:
                            about = {"set": name, "kind": kind, "heldout": heldout, "metric": metric, "n": number}
                            with options.out.open("a", encoding="utf-8") as sink:
                                sink.write(json.dumps({**about, **kept}) + "\n")
                report(name, kind, heldout, found, (time.monotonic() - start) / options.gates)
    return None


def report(name: str, kind: str, heldout: int, found: dict[str, list[Row]], seconds: float) -> None:
    for metric, gates in found.items():
        published = [gate for gate in gates if gate["verdict"] == "published"]
        harmful = sum(min(gate["true_gain"], gate["true_gain_placebo"]) < 0 for gate in published)
        over = sum(gate["over_placebo"] for gate in gates)
        width = float(np.mean([gate["half_width"] for gate in gates]))
        early = [sum(g["verdict_early"] == "published" for g in gates), sum(g["over_placebo_early"] for g in gates)]
        other = sum((g["verdict"], g["best_real"]) != (g["verdict_early"], g["best_real_early"]) for g in gates)
        cells: list[Any] = [name, kind, heldout, metric, len(gates), len(published), harmful, over, *early, other]
        cells += [f"{np.mean([g['runs'] for g in gates]):.1f}", f"{width:.3g}", f"{seconds:.2f}"]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


def costs(name: str, kind: str, gates: int, heldout: int, test: int, seeds: int, per_class: int) -> None:
    """Whole gates, early and not, alternately."""
    rows, spent = read(name), {True: [], False: []}
    for number in [gates, *range(gates)]:  # the first is for what is imported, and is not counted
        for early, cells in spent.items():
            options = GateOptions(seeds=seeds, early=early).resolved(PROBLEMS["classification"])
            start = time.process_time()
            found, question = predict_texts(rows, kind, number, heldout, options, test, per_class)
            trained = time.process_time()
            evidence = gate.judge(found, options, question, number, real=0, synthetic=0)
            cells.append((time.process_time() - start, time.process_time() - trained, found[0].runs))
            print(f"{number} {early=} {evidence['verdict']} {evidence['ended']} {cells[-1]}", file=sys.stderr)
    whole, measuring, runs = (
        [float(np.median([c[at] for c in cells[1:]])) for cells in spent.values()] for at in range(3)
    )
    row: list[Any] = [name, kind, per_class, gates, seeds, f"{runs[0]:.0f}", f"{whole[0]:.1f}", f"{whole[1]:.1f}"]
    row += [f"{whole[1] / whole[0]:.1f}", f"{measuring[0]:.1f}"]
    row += [f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}"]
    print(f"| {' | '.join(map(str, row))} |", flush=True)


if __name__ == "__main__":
    main()
