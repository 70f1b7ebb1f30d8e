"""How long a run will take, roughly: counts from the survey times rates measured on the real sets.

The rates: 2 shared cores, 2026-11, ``augmill run --orchestrator none``. Seconds that the gate took, and (estimated):
the example, 201 train rows and 10 classes, 4 (3); BANKING77, 760 and 77, 43 (59); TNEWS, 1,185 and 15, 19 (29); TREC,
4,874 and 6, 335 (227); SST-2, 6,225 and 2, 227 (245); ``augmill judge`` on SNIPS, 13,034 and 7, 3 seeds, 194 (184).
How many steps a fit takes depends on the texts.
"""

from __future__ import annotations

from typing import Any

from augmill.tasks.recipe.recipe import Recipe

START = {"none": 4.0, "prefect": 16.0}  # imports; Prefect's server took 8 to 18 s, of which imports are a part
FIRST_SHARD = 2.0  # Great Expectations is imported by each worker's first shard
FASTEST = 2_500.0  # rows a second through the word edits and the checks: 0.3 to 0.5 ms a row
CHECKS_BASE, CHECKS_ROW, CHECKS_ROWS = 1.0, 7e-4, 4_000  # the label check measures itself on so many rows at most
SETTLE_ROW = 1e-4  # settle, mix and publish, per row of the mix
TRAINING_BASE = 0.07  # seconds of a training, however small
TRAINING = (
    4.5e-9  # seconds per (row x column x (class + 60)) of the built-in trainer's default choice among 3 C in 3 folds
)
CLASSES = 60  # below about so many classes a fit is bound by reading its rows, not by arithmetic
EXACT = 4096  # columns of the built-in trainer at most
COPIES = 3  # of its rows at a time: SNIPS peaked at 1.4 GB, where one copy takes 0.43
DEFAULT_FITS = 7.0  # 3 C x 3 folds of two thirds of the rows, and the last one on all
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
    trainings = 3 * recipe.gate.seeds
    if recipe.trainer.use != "tfidf":
        return ("evaluate", None, f"{trainings} trainings by your command")
    options = recipe.trainer.options
    fits = 1 + (len(options.cs) * options.folds * (1 - 1 / options.folds) if len(options.cs) > 1 else 0)
    mixed = train + target
    # Real alone and placebo train on the real rows, the mix on four fifths of the synthetic ones too.
    work = 2 * train * min(train, EXACT) + (train + 0.8 * target) * min(mixed, EXACT)
    seconds = TRAINING * work * (classes + CLASSES) * recipe.gate.seeds * fits / DEFAULT_FITS
    return (
        "evaluate",
        TRAINING_BASE * trainings + seconds,
        f"{trainings} trainings, {held_out:,} held-out rows, {classes} classes",
    )


def trainer_bytes(recipe: Recipe, found: dict[str, Any]) -> int:
    """Memory that the built-in trainer holds at its peak, roughly; 0 where the user's own command trains."""
    rows = found["splits"]["rows"]["train"] + found["plan"]["target"]
    return 4 * rows * min(rows, EXACT) * COPIES if recipe.trainer.use == "tfidf" else 0
