"""Comparing generators: each on the same splits and seeds, a cell at a time, every finished cell kept in the store.

A cell is the ordinary path (read, fit, rounds, checks, settle, mix, gate) for one generator and one seed, without a
release. What was found stands under ``private/compare/<dataset>/<identity>.json``, sealed and put if absent, so that
the table grows from call to call and a killed comparison pays for no cell twice.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from augmill.flows import run as running
from augmill.flows import stages
from augmill.flows.augment import how_to_judge, mix_config
from augmill.flows.estimate import BILLED, price_of
from augmill.flows.flow import Result, call_flow, own_flow
from augmill.flows.outcome import NotProduced, judge_evidence, none_accepted
from augmill.flows.progress import Progress
from augmill.flows.rounds import not_asked, produce
from augmill.flows.run import Run, Session, new_run
from augmill.flows.source import read_source
from augmill.flows.units import MENDS
from augmill.tasks.contracts import ROW_ID, STRATUM, Artifact
from augmill.tasks.errors import CorruptObject, DataError, UserError
from augmill.tasks.gate import judge as gate
from augmill.tasks.gate.evidence import Predictions
from augmill.tasks.gate.gauge import Gauge
from augmill.tasks.generators import GENERATORS
from augmill.tasks.metrics import METRICS
from augmill.tasks.recipe.reader import LABEL_BY, GeneratorChoice
from augmill.tasks.recipe.recipe import Recipe, rows_of
from augmill.tasks.report import cut, cuts, enlarge, measured, ratio_of, totals
from augmill.tasks.rows.hashing import hash_json
from augmill.tasks.rows.kinds import diversity
from augmill.tasks.rows.names import nearest
from augmill.tasks.rows.schema import ORIGIN, REAL, class_counts
from augmill.tasks.stages.evaluate import COMPARED
from augmill.tasks.stages.extensions import check_config, generator_config
from augmill.tasks.stages.mix import arrange
from augmill.tasks.store.stage import STAGE_VERSIONS, Event, Work, identity_of, read_json
from augmill.tasks.trainers import TRAINERS

OTHER_RUNS = 1  # trainings of each arm at ratios beside the target's; seeds are where their doubt lies
VERSION = 1  # counts up whenever the same rows would give other numbers
PRICED = ("fit", "weigh", "sample", "generate")  # stages that a generator's rows cost
MAKING = ("split", "fit", "fit_check", "plan", "sample", "generate", "settle", "mix")


@dataclasses.dataclass(frozen=True)
class Left:
    """A cell that could not be made, and why; running again tries it again."""

    generator: str
    seed: int
    reason: str


@dataclasses.dataclass
class Compared:
    """``cells`` in the order they were asked for, whether made now or before; ``made``: how many were made now."""

    cells: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    left: list[Left] = dataclasses.field(default_factory=list)
    made: int = 0


@own_flow(functools.partial(running.name_of_flow_run, "compare"))
def compare(
    recipe: str,
    store: str | None = None,
    generators: str = "",
    seeds: int = 10,
    ratios: tuple[float, ...] = (),
    as_of: str | None = None,
    set: list[str] | None = None,
) -> Result:
    """``augmill compare`` with the same options; every finished cell is kept in the store."""
    with running.session_of(recipe, store, set, command="deployment compare", by_morning=False) as session:
        own, found = session.recipe, running.handed(Compared) or Compared()
        numbers = range(own.seed, own.seed + seeds)
        with Progress(quiet=session.quiet) as progress:
            compare_all(
                session, entrants(own, generators), seeds=numbers, ratios=ratios, as_of=as_of,
                progress=progress, found=found,
            )  # fmt: skip
    cells = f"{len(found.cells):,} cell(s), {found.made:,} made now, {len(found.left):,} left out"
    return {"outcome": "compared", "reason": cells, "cells": len(found.cells), "new": found.made}


def run_compare(
    recipe: Recipe,
    found: Compared,
    *,
    command: str,
    orchestrator: str | None = None,
    verbose: bool = False,
    quiet: bool = False,
    embedded: bool = False,
    **parameters: Any,
) -> Result:
    """The flow ``compare``; its cells go into ``found``, also those of one that is stopped. Raises AugmillError."""
    with (
        running.handing(found),
        running.open_session(
            recipe,
            command=command,
            orchestrator=orchestrator,
            verbose=verbose,
            by_morning=False,
            quiet=quiet,
            embedded=embedded,
        ) as session,  # fmt: skip
    ):
        return call_flow(session, compare, **running.parameters_of(recipe), **parameters)


def compare_all(
    session: Session,
    entrants: dict[str, Recipe],
    *,
    seeds: Iterable[int],
    ratios: Sequence[float],
    as_of: str | None = None,
    progress: Progress | None = None,
    found: Compared | None = None,
) -> Compared:
    """Every generator with every seed. Seeds come first, so that a comparison that is stopped early compares all alike.

    ``found``: where the cells go, for a caller that wants those of a comparison that is stopped. What a generator cannot
    use, a model or an answer of its endpoint, leaves its cell out and no other's. Raises UserError where that is so of
    every cell, WorldError where the world fails: what is finished is kept.
    """
    found, took = Compared() if found is None else found, dict[str, Event]()
    refused: UserError | None = None
    shown = progress or Progress(live=False, quiet=True)
    order = [(name, seed) for seed in seeds for name in entrants]
    for name, seed in order:
        recipe = dataclasses.replace(entrants[name], seed=seed)
        with shown.stage(f"{name} {seed}") as line:
            try:
                cell, new = run_cell(session, recipe, name, ratios, as_of, took)
            except (DataError, NotProduced, UserError) as error:
                refused = error if isinstance(error, UserError) else refused
                found.left.append(Left(name, seed, str(error)))
                line.note = f"left out: {error}"
                continue
            found.cells.append(cell)
            found.made += new
            line.note = told(cell) + ("" if new else ", from the store")
    if refused is not None and not found.cells:
        raise refused
    return found


def told(cell: dict[str, Any]) -> str:
    """A cell in one line."""
    ledger = cell["ledger"]
    return f"{cell['outcome']}, {ledger['accepted']:,} rows accepted of {ledger['asked']:,} asked"


def run_cell(
    session: Session,
    recipe: Recipe,
    name: str,
    ratios: Sequence[float],
    as_of: str | None = None,
    took: dict[str, Event] | None = None,
) -> tuple[dict[str, Any], bool]:
    """(the cell, whether it was made now). A corrupt object is made anew, as in a run.

    ``took``: what the artifacts of the cells before took to make, by key; this cell's are added. One that uses a fit of
    another (``causal_lm/teacher`` that of ``causal_lm``) then has its price as well.
    """
    took = {} if took is None else took
    for turn in range(1, MENDS + 1):
        try:
            return _run_cell(session, recipe, name, ratios, as_of, took)
        except CorruptObject:
            if turn == MENDS:
                raise
    raise AssertionError("unreachable")


def _run_cell(
    session: Session,
    recipe: Recipe,
    name: str,
    ratios: Sequence[float],
    as_of: str | None,
    took: dict[str, Event],
) -> tuple[dict[str, Any], bool]:
    run = new_run(session, recipe, as_of, Progress(live=False, quiet=True))
    ingested, split = read_source(run)
    summary = read_json(run.store, split, "summary.json")
    if not summary["rows"]["test"]:
        fix = "give the test split a share of the rows (splits.test), or its own rows (splits.files)"
        raise DataError("generators are compared on test rows, but there are none", where="splits", fix=fix)
    real = summary["classes"]["train"]
    own = ratio_of(recipe.target, real)
    run.recipe = dataclasses.replace(recipe, target=enlarge(recipe.target, real, max([own, *ratios])))
    key = f"private/compare/{recipe.dataset}/{_identity(split, run.recipe, recipe, ratios)}.json"
    standing = run.store.read_sealed(key)
    if standing is not None:
        return _priced(standing, recipe) | {"generator": name}, False
    settled = _settled(run, ingested, split)
    body = stages.measure(run, split, settled, cell=functools.partial(_measure, recipe=recipe, ratios=ratios, key=key))
    took |= {event.key: event for event in run.events if not event.reused}
    body |= {"generator": name, "spent": _spent(session.device, run.events, body["ledger"]["asked"], took)}
    return _priced(run.store.write_sealed(key, body), recipe) | {"generator": name}, True


def _identity(split: Artifact, made_by: Recipe, recipe: Recipe, ratios: Sequence[float]) -> str:
    """Of a cell: its rows and all that makes and judges them. Its generator's name is no part: ``a`` is ``a`` alone."""
    generators = [generator_config(choice, made_by) for choice in made_by.generators]
    parts = {
        "version": VERSION,
        "recipe": made_by.hash(),
        "target": recipe.target,
        "ratios": sorted(set(ratios)),
        "split": split,
        "generators": generators,
        "checks": [check_config(check, options, made_by) for check, options in made_by.checks.items()],
        "judge": how_to_judge(recipe),
        "stages": {stage: STAGE_VERSIONS[stage] for stage in MAKING},
    }
    return hash_json(identity_of(parts))


def _settled(run: Run, ingested: Artifact, split: Artifact) -> Artifact:
    """Rounds until the target. What the world did wrong is raised as such: the cell is not the generator's failure."""
    made = produce(run, split, ingested)
    if made.missing is not None:
        raise made.missing.__cause__ or made.missing
    if made.settled is None:
        raise not_asked(run, split)
    return made.settled


def _measure(
    run: Run, split: Artifact, settled: Artifact, *, recipe: Recipe, ratios: Sequence[float], key: str
) -> dict[str, Any]:
    """The cell but for its price. Arms at the recipe's own target decide by validation rows; all are measured on test."""
    work, judging = Work(run.site, Path()), how_to_judge(recipe)
    train, validation, test = (work.read(split, f"{n}.parquet") for n in ("train", "validation", "test"))
    gate.require_focus(validation, recipe.gate, judging.question.problem)
    accepted = work.read(settled, "accepted.parquet")
    ledger = totals(work.read_json(settled, "ledger.json"))
    body: dict[str, Any] = {
        "version": VERSION,
        "dataset": recipe.dataset,
        "seed": recipe.seed,
        "outcome": "not_produced",
        "reason": none_accepted(ledger),
        "released": "real",
        "rows": {"train": train.num_rows, "validation": validation.num_rows, "test": test.num_rows},
        "heldout": hash_json(sorted(test[ROW_ID].to_pylist()))[:16],
        "ledger": ledger,
        "points": [],
    }
    if judging.target:  # what it is called; the stratum is not what is learnt
        body["gauge"] = Gauge.of(METRICS[judging.question.problem.stratum_metric], judging.target).to_json()
    if not accepted.num_rows:
        return body
    config = mix_config(recipe)
    real = arrange(train, accepted.slice(0, 0), config)
    for ratio, wanted in cuts(recipe.target, recipe.mix.max_ratio, class_counts(train[STRATUM]), ratios):
        mixed = arrange(train, cut(accepted, wanted), config)
        made = mixed.filter(pc.not_equal(mixed[ORIGIN], REAL))
        if not made.num_rows or made.num_rows in [point["synthetic"] for point in body["points"]]:
            continue  # there were no more rows than for a smaller ratio
        predicted = gate.predict(
            real, made, [validation, test], TRAINERS[recipe.trainer.use](recipe.trainer.options), judging.question,
            runs=recipe.gate.seeds if ratio is None else OTHER_RUNS, seed=recipe.seed, scores=recipe.gate.needs_scores,
            workdir=run.store.local_scratch(run.site.place(f"trainer-{key[-21:-5]}-{ratio or 'target'}")),
        )  # fmt: skip
        body["points"].append(measured(predicted[1], ratio, made.num_rows))
        if ratio is None:
            body |= _verdict(predicted[0], judging.question, recipe, real, made)
    return body


def _verdict(
    predicted: Predictions, question: gate.Question, recipe: Recipe, real: pa.Table, made: pa.Table
) -> dict[str, Any]:
    """What the gate would have said and released; and how varied the rows are."""
    counts = {"real": real.num_rows, "synthetic": made.num_rows}
    evidence = gate.judge([predicted], recipe.gate, question, recipe.seed, **counts)
    outcome = judge_evidence(dict(evidence), recipe)
    return {
        "outcome": outcome.name,
        "reason": outcome.reason,
        "released": outcome.arrangement,
        "validation": outcome.numbers,
        "diversity": diversity(made.slice(0, COMPARED), real.slice(0, COMPARED), recipe.columns.fields),
    }


def _priced(cell: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """The cell with its cost by the prices of today; None where a part's making was not seen, or nothing has a price."""
    billed = cell["spent"].get("billed")
    return cell | {"spent": cell["spent"] | {"cost": None if billed is None else price_of(recipe.price, billed)}}


def _spent(device: str, events: list[Event], asked: int, took: dict[str, Event]) -> dict[str, Any]:
    """Seconds and rows of the parts whose making was seen; ``billed``, None where one was not: what has prices."""
    seconds, rows = dict.fromkeys(PRICED, 0.0), dict.fromkeys(PRICED, 0)
    used, whole = dict.fromkeys(("tokens", *BILLED), 0.0), True
    for event in events:
        if event.stage not in PRICED:
            continue
        made = took.get(event.key)
        if made is None:
            whole = whole and event.stage == "sample"  # of these the rows are counted
            continue
        part = event.rows / made.rows if event.stage == "sample" and made.rows else 1.0
        seconds[event.stage] += part * made.seconds
        rows[event.stage] += event.rows
        for name in used:
            used[name] += part * made.usage.get(name, 0)
    fit_seconds = seconds["fit"] + seconds["weigh"]
    on_gpu = fit_seconds + seconds["sample"] if "cuda" in device else 0.0
    whole = whole and rows["sample"] == asked
    billed = {"seconds": sum(seconds.values()), "gpu_seconds": on_gpu, **used}
    return {
        "fit_seconds": round(fit_seconds, 3) if all(e.key in took for e in events if e.stage == "fit") else None,
        "sampled": rows["sample"],
        "sample_seconds": round(seconds["sample"], 4),
        "checked": rows["generate"],
        "check_seconds": round(seconds["generate"], 4),
        "tokens": round(used["tokens"]),
        "billed": billed if whole else None,
        "device": device,
    }


# --- What `augmill compare` compares: names on the command line as recipes, each with its generators and no other -----


ADAPTIVE: Final = "adaptive"
_WHERE = "--generators"


def entrants(recipe: Recipe, names: str) -> dict[str, Recipe]:
    """Name to recipe, for ``rules,causal_lm/teacher,rules+interpolate,adaptive:rules+interpolate``; "": each of the recipe's.

    A generator has the options that the recipe gives it, else its defaults; ``/teacher`` and ``/agree`` say who labels
    its rows; ``+`` lets several share the target, and ``adaptive:`` before it, or ``adaptive`` alone for all of the
    recipe, splits it by what helps. Raises UserError, also where a model's file is missing.
    """
    wanted = [part.strip() for part in names.split(",") if part.strip()]
    if names and not wanted:
        raise UserError(f"{names!r} names no generator", where=_WHERE, fix="name some, such as rules,interpolate")
    wanted = wanted or [choice.use for choice in recipe.generators]
    if len(set(wanted)) < len(wanted):
        doubled = next(name for name in wanted if wanted.count(name) > 1)
        raise UserError(f"{doubled!r} is listed twice", where=_WHERE, fix="list each once")
    made = {name: _entrant(recipe, name) for name in wanted}
    for entrant in made.values():
        entrant.preflight()
    return made


def _entrant(recipe: Recipe, name: str) -> Recipe:
    policy, _, team = name.partition(":")
    if policy != ADAPTIVE:
        team = name
    parts = team.split("+") if team else [choice.use for choice in recipe.generators]
    choices = tuple(_choice(recipe, part.strip()) for part in parts)
    if len({choice.use for choice in choices}) < len(choices):
        raise UserError(f"a generator is listed twice in {name!r}", where=_WHERE, fix="list each once")
    if policy == ADAPTIVE and len(choices) < 2:
        fix = f"name two or more, such as {ADAPTIVE}:rules+interpolate, or let the recipe hold several"
        raise UserError(f"{name!r} needs generators to choose among; found {len(choices)}", where=_WHERE, fix=fix)
    plan = dataclasses.replace(recipe.plan, policy=ADAPTIVE if policy == ADAPTIVE else "shares")
    return dataclasses.replace(recipe, generators=choices, plan=plan)


def _choice(recipe: Recipe, part: str) -> GeneratorChoice:
    use, slash, labeller = part.partition("/")
    if problem := GENERATORS.problem_of(use):
        fix = problem if problem.startswith("the generator") else nearest(use, [*GENERATORS.names(), ADAPTIVE])
        raise UserError(f"there is no generator {use!r}", where=_WHERE, fix=fix)
    if not rows_of(recipe).served_whole(GENERATORS[use]):
        fix = f"those that do: {', '.join(n for n, g in GENERATORS.items() if rows_of(recipe).served_whole(g))}"
        raise UserError(f"{use} does not make rows of {rows_of(recipe)}", where=_WHERE, fix=fix)
    choice: GeneratorChoice | None = next((own for own in recipe.generators if own.use == use), None)
    choice = choice or _by_default(use)
    if recipe.unlabelled is None and choice.build().wants_unlabelled():
        fix = "name them in the recipe: `unlabelled: {path: ...}`"
        raise UserError(f"{use} learns from unlabelled rows; the recipe names none", where=_WHERE, fix=fix)
    if not slash:
        return choice
    if labeller not in LABEL_BY:
        fix = f"one of {', '.join(f'{use}/{name}' for name in LABEL_BY)}"
        raise UserError(f"unknown labeller {labeller!r} ({part!r})", where=_WHERE, fix=fix)
    if labeller != LABEL_BY[0] and "teacher" not in recipe.checks:
        problem = f"{part!r} needs the check `teacher`, which is off"
        raise UserError(problem, where=_WHERE, fix="remove `teacher: off` from the recipe's checks")
    change: dict[str, Any] = {"label_by": labeller}
    return dataclasses.replace(choice, **change)


def _by_default(use: str) -> GeneratorChoice:
    """A generator that the recipe does not name, with its default options."""
    options = GENERATORS[use].Options
    needed = [
        item.name
        for item in dataclasses.fields(options)
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    ]
    if needed:
        problem = f"{use} needs {', '.join(needed)}, which the recipe does not set"
        raise UserError(problem, where=_WHERE, fix=f"add `use: {use}` with them to the recipe's generators")
    return GeneratorChoice(use, 1.0, options())
