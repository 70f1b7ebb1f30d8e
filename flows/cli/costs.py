"""What a first run takes, roughly: counts from the survey times rates measured on real sets; and the trainer's memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from augmill.tasks.recipe.recipe import Recipe

# A gate's time is the processor's if it trains all its runs; most end earlier. Measured, and (estimated) for as many runs, on
# 2 shared and busy cores, 2026-11-30: TREC, 60 train rows, 10 runs, 0.6 s (0.7); 240 rows, 1.2 (1.3); SNIPS, 700, 3 runs, 2.4
# (2.2); BANKING77, 770 and 77 classes, 3 runs, 5.7 to 6.8 (7.9); 3,850, 67 (57). The steps of a fit hang on the texts.

START = {"none": 4.0, "prefect": 16.0}  # imports; Prefect's server took 8 to 18 s, of which imports are a part
FIRST_SHARD = 2.0  # Great Expectations is imported by each worker's first shard
FASTEST = 2_500.0  # rows a second through the word edits and the checks: 0.3 to 0.5 ms a row
CHECKS_BASE, CHECKS_ROW, CHECKS_ROWS = 1.0, 7e-4, 4_000  # the label check measures itself on so many rows at most
SETTLE_ROW = 1e-4  # settle, mix and publish, per row of the mix
TRAINING_BASE = 0.02  # seconds of a training, however small: its look, and its part of what is measured at the end
FEATURES_ROW = 5e-5  # seconds of a text, once a gate
# Seconds per row and (class + 20) of fits on texts with 3 C one after the other, at 1,000 rows; more rows take more steps.
# From 200 rows of TREC to 6,700 of BANKING77 it was 2.1e-6 to 4.8e-6.
TEXTS, CLASSES, STEPS = 2.8e-6, 20, 0.25
ONE = 0.4  # of it a fit with one C that starts from another model
# Boosting and linear: CPU-seconds of a training with the defaults, and (estimated). On adult at 200, 2,000, 10,000 and
# 30,000 rows boosting took 0.3 (0.4), 0.7 (0.7), 1.5 (1.7) and 3.1 (4.2), linear 0.06 (0.02), 0.2 (0.2), 0.9 (0.9) and 3.3
# (2.7); on digits (1,258 rows, 64 columns, 10 classes) 7.8 (11) and 0.3 (0.3).
TREE = 5e-4  # seconds of a tree, however few its rows
TREE_CELL = 1.5e-8  # and per row and column
LINEAR_CELL, LINEAR_CLASS = 7e-8, 1.5e-8  # seconds per row and feature of a fit, and more for each class
RIDGE_CELL, RIDGE_TERM = 1.5e-8, 1.2e-7  # the same of ridge regression; and per row and term of its texts
TERMS = 150  # of a text of BANKING77, SNIPS or TREC
# Bytes per row: its terms in six copies, and per class what a fit remembers of 5 steps, twice as two fits go on at once.
# BANKING77 at 50 a class, 11,550 rows in all, took 470 to 510 MiB with the process's 200.
TERM_BYTES, CLASS_BYTES = 48, 208
FEATURES = {"number": 2, "timestamp": 8, "category": 11}  # of a column; a category's hang on its values, adult's are 11
CNN_CELL = 2e-8  # seconds per row of a step, pixel and channel of the first layer: 21 ms a step with the defaults
CELL_BYTES = 48  # two trainings at a time, each with its copies in float64
MODEL_MINUTES = 1.5  # the small model's steps are bounded (causal_lm, `model: scratch`)

Part = tuple[str, float | None, str]


def estimate(recipe: Recipe, found: dict[str, Any]) -> list[dict[str, Any]]:
    """``[{stage, seconds or None, basis}]`` of a first run; what the store holds already takes no time.

    ``found``: the survey. A model's or a command's own speed is not known: None, with what there is to do.
    """
    measured, splits, plan, gate = (found[key] for key in ("measured_seconds", "splits", "plan", "gate"))
    train, target = splits["rows"]["train"], plan["target"]
    held_out = splits["rows"]["validation"] + splits["rows"]["test"]
    parts: list[Part] = [("start", START[recipe.run.orchestrator], f"orchestrator: {recipe.run.orchestrator}")]
    parts += [(name, measured[name], "measured just now") for name in ("ingest", "gather", "split")]
    path = [*_fits(recipe, found), ("fit checks", _checks(train), f"{train:,} train rows")]
    path.append(_generate(recipe, plan))
    path.append(_evaluate(recipe, train, target, held_out, len(found["classes"])))
    parts += path
    if gate["folds"]:
        known = [seconds for _, seconds, _ in path if seconds is not None]
        parts.append(("folds", gate["folds"] * sum(known), f"the path above {gate['folds']} times more"))
    parts.append(("settle to publish", 1 + SETTLE_ROW * (train + target), f"{train + target:,} rows in the mix"))
    return [{"stage": name, "seconds": seconds, "basis": basis} for name, seconds, basis in parts]


def _fits(recipe: Recipe, found: dict[str, Any]) -> list[Part]:
    parts: list[Part] = []
    for choice in recipe.generators:
        if choice.use in found["fitted"]:
            parts.append((f"fit {choice.use}", 0.5, "it trains nothing"))
        elif getattr(choice.options, "model", None) == "scratch":
            parts.append((f"fit {choice.use}", 60 * MODEL_MINUTES, "at most; its steps are bounded"))
        else:
            parts.append((f"fit {choice.use}", None, "depends on the model and the machine"))
    return parts


def _checks(train: int) -> float:
    return CHECKS_BASE + CHECKS_ROW * min(train, CHECKS_ROWS)


def _generate(recipe: Recipe, plan: dict[str, Any]) -> Part:
    from augmill.tasks.generators import GENERATORS

    asked = sum(plan["asked_first"].values())
    slow = [choice.use for choice in recipe.generators if GENERATORS[choice.use].libraries]
    if slow:
        return ("generate", None, f"{asked:,} rows in the first round; depends on the model ({', '.join(slow)})")
    return ("generate", FIRST_SHARD + asked / FASTEST, f"{asked:,} rows in the first round")


def _evaluate(recipe: Recipe, train: int, target: int, held_out: int, classes: int) -> Part:
    from augmill.tasks.trainers import CHOOSING

    seeds = recipe.gate.seeds
    upto = "up to " if recipe.gate.early and seeds > CHOOSING else ""
    known: dict[str, Costs]
    known = {"tfidf": _tfidf_seconds, "boosting": _boosting_seconds, "linear": _linear_seconds, "cnn": _cnn_seconds}
    if recipe.trainer.use not in known:
        who = "your command" if recipe.trainer.use == "command" else recipe.trainer.use
        return ("evaluate", None, f"{upto}{3 * seeds} trainings by {who}")
    # Real alone and placebo train on the real rows, the mix on four fifths of the synthetic ones too.
    (real, chosen_real), (mix, chosen_mix) = (
        known[recipe.trainer.use](recipe, rows, classes) for rows in (train, train + 0.8 * target)
    )
    choosing = min(seeds, CHOOSING)
    seconds = choosing * (2 * (real + chosen_real) + mix + chosen_mix) + (seeds - choosing) * (real + mix)
    seconds += 3 * TRAINING_BASE * seeds + FEATURES_ROW * (train + target + held_out)
    return ("evaluate", seconds, f"processor time, {upto}{3 * seeds} trainings")


Costs = Callable[["Recipe", float, int], tuple[float, float]]  # rows, classes: seconds of a fit, of a choice before it


def _choosing(options: Any) -> float:
    """Of a regression: fits of all C on all rows, in rows."""
    return options.folds - 1 if len(options.cs) > 1 else 0


def _tfidf_seconds(recipe: Recipe, rows: float, classes: int) -> tuple[float, float]:
    options = recipe.trainer.options
    path = TEXTS * rows * (rows / 1000) ** STEPS * (classes + CLASSES)
    return ONE * path, path * _choosing(options) * len(options.cs) / 3


def _boosting_seconds(recipe: Recipe, rows: float, classes: int) -> tuple[float, float]:
    options, columns = recipe.trainer.options, len(recipe.columns.fields)
    trees = options.iterations * (classes if classes > 2 and recipe.problem.target is None else 1)
    cells, folds = TREE_CELL * rows * columns, options.folds
    # Each fold trains all trees on what is left without it, and the last fit on all rows at most as many.
    return trees * (TREE + cells), trees * (TREE * folds + cells * max(folds - 1, 0))


def _linear_seconds(recipe: Recipe, rows: float, classes: int) -> tuple[float, float]:
    (table, texts), options = _linear_features(recipe), recipe.trainer.options
    if recipe.problem.target is not None:
        fit = rows * (table * RIDGE_CELL + texts * TERMS * RIDGE_TERM)
    elif texts:
        one, choice = _tfidf_seconds(recipe, rows, classes)
        return one * (texts + table / TERMS), choice * (texts + table / TERMS)
    else:
        fit = rows * table * (LINEAR_CELL + LINEAR_CLASS * classes)
    return fit, fit * _choosing(options) * len(options.cs)


def _cnn_seconds(recipe: Recipe, rows: float, classes: int) -> tuple[float, float]:
    options = recipe.trainer.options
    net = 3 if options.net == "residual" else 1
    return CNN_CELL * options.steps * options.batch * options.side**2 * options.width * net, 0.0


def _linear_features(recipe: Recipe) -> tuple[int, int]:
    """(features of the columns that are no texts, texts)."""
    from augmill.tasks.rows.kinds import type_of

    types = [type_of(name) for name in recipe.columns.fields]
    return sum(FEATURES.get(type, 0) for type in types), types.count("text")


def trainer_bytes(recipe: Recipe, found: dict[str, Any]) -> int:
    """Memory that the built-in trainer holds at its peak, roughly; 0 where the user's own command trains."""
    rows, classes = found["splits"]["rows"]["train"] + found["plan"]["target"], len(found["classes"])
    if recipe.trainer.use == "boosting":
        return int(rows * len(recipe.columns.fields) * CELL_BYTES)
    if recipe.trainer.use not in ("tfidf", "linear"):
        return 0
    table, texts = (0, len(recipe.columns.fields)) if recipe.trainer.use == "tfidf" else _linear_features(recipe)
    outputs = classes if texts and recipe.problem.target is None else 0
    return int(rows * (table * CELL_BYTES + texts * TERMS * TERM_BYTES + outputs * CLASS_BYTES))
