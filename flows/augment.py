"""One snapshot, source to release: read, split, produce, mix, evaluate, publish."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from augmill.flows import run as running
from augmill.flows import stages
from augmill.flows.flow import Result, call_flow, own_flow
from augmill.flows.mirror import mirror_delta, require_mirrors
from augmill.flows.outcome import CutShort, NothingToMake, NotProduced, Outcome, judge_evidence, none_accepted
from augmill.flows.provenance import provenance, spent_on
from augmill.flows.report import Found, write_report
from augmill.flows.rounds import Made, not_asked, produce
from augmill.flows.run import Run
from augmill.flows.source import read_source
from augmill.flows.units import MENDS, require_over
from augmill.tasks.contracts import Artifact
from augmill.tasks.errors import CorruptObject, UnsoundSource
from augmill.tasks.exports import EXPORTS
from augmill.tasks.gate.verdict import folds_for
from augmill.tasks.problems import PROBLEMS
from augmill.tasks.recipe.origin import name_of
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.report import totals
from augmill.tasks.stages.evaluate import EvaluateConfig, FoldConfig, JudgeConfig, can_judge, foreseen
from augmill.tasks.stages.extensions import judging_code
from augmill.tasks.stages.mix import MixConfig
from augmill.tasks.stages.publish import ReleaseConfig
from augmill.tasks.stages.user_columns import codes_of
from augmill.tasks.store.attempts import Clock, utc_now
from augmill.tasks.store.stage import read_json
from augmill.tasks.store.store import release_key
from augmill.tasks.trainers import TRAINERS

_log = logging.getLogger("augmill")


def run_recipe(
    recipe: Recipe,
    *,
    as_of: str | None = None,
    command: str = "augmill run",
    orchestrator: str | None = None,
    republish: bool = False,
    verbose: bool = False,
    now: Clock = utc_now,
    **how: Any,
) -> Result:
    """The whole main job; returns what the last line of stdout says. ``how``: as ``open_session`` takes it.

    Raises AugmillError.
    """
    require_over(recipe, as_of, "--as-of", now=now())
    with running.open_session(
        recipe, command=command, orchestrator=orchestrator, verbose=verbose, republish=republish, **how
    ) as session:
        return call_flow(session, augment, **running.parameters_of(recipe), as_of=as_of)


@own_flow(running.name_of_flow_run)
def augment(recipe: str, store: str | None = None, as_of: str | None = None, set: list[str] | None = None) -> Result:
    """One snapshot, source to release. Returns what the last line of ``augmill run`` says.

    ``recipe``: a YAML file, its address in an object store, or its text; ``store``: instead of the recipe's; ``as_of``:
    the last partition whose rows count, all without it; ``set``: values for the recipe, as ``--set`` takes them. Parameters
    hold no secrets.
    """
    by_command = running.current() is not None  # which has looked at what it asks for
    with running.session_of(recipe, store, set, command=f"deployment {name_of(recipe, set)}") as session:
        if not by_command:
            require_over(session.recipe, as_of, "as_of", now=utc_now())
        with running.attempt(session, as_of) as run:
            outcome, found = _mending(run, make_snapshot)
            run.result = outcome.to_json(run.recipe, run.name, None)  # from here on it stands, whatever interrupts
            run.result |= _facts(run, outcome, found)
            run.result["report"] = _report(run, outcome, found)
    return run.result


def make_snapshot(run: Run) -> tuple[Outcome, Found]:
    """Runs the whole path and publishes what the outcome calls for. Raises AugmillError where nothing can be said."""
    require_mirrors(run.recipe)
    run.recipe.preflight()
    read: list[Artifact] = []
    try:
        for artifact in read_source(run):
            read.append(artifact)
    except UnsoundSource as error:
        return keep_standing(run, error), Found(*read)  # type: ignore[arg-type]
    ingested, split = read
    made = produce(run, split, ingested)
    run.source["drift"], split = made.drift, made.split or split
    proof = prove(run, split, made)
    run.stop.require_going()  # in a thread, workers that an interrupt killed look like a generator that cannot be fitted
    outcome = judge(run, proof)
    found = Found(ingested, split, made, proof.mixed, proof.evaluated, proof.evidence)
    return publish(run, found, outcome), found


def keep_standing(run: Run, error: UnsoundSource) -> Outcome:
    """What follows where the source cannot be trusted: never fresh rows."""
    action = run.recipe.outcomes.unsound_source
    if run.standing is None and action == "keep_current":
        raise error  # there is nothing to keep
    reason = f"{error.where}: {error.problem}. What to do: {error.fix}"
    return Outcome("unsound_source", action, reason, release=run.standing)


# --- Proving ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Proof:
    """The mix and the evidence for it, as far as it came; ``missing`` says why there is none."""

    mixed: Artifact | None = None
    evaluated: Artifact | None = None
    evidence: dict[str, Any] | None = None
    missing: NotProduced | None = None


def prove(run: Run, split: Artifact, made: Made) -> Proof:
    """Mixes what was accepted and measures it on held-out real rows."""
    proof = Proof()
    try:
        mixed = mix_accepted(run, split, made)
        proof = Proof(mixed)
        evaluated = evaluate(run, split, mixed, made)
    except NotProduced as error:
        return dataclasses.replace(proof, missing=error)
    evidence = read_json(run.store, evaluated, "evidence.json")
    checked = evidence["release_validation"]
    if checked is not None and not checked["success"]:
        why = NotProduced(f"the release's metrics failed their expectations: {'; '.join(checked['problems'])}")
        return Proof(mixed, evaluated, evidence, why)
    return Proof(mixed, evaluated, evidence)


def mix_accepted(run: Run, split: Artifact, made: Made) -> Artifact:
    """Real and accepted rows put together. Raises NotProduced where there is none to put, or too few were accepted."""
    if made.missing is not None:
        raise made.missing
    if made.settled is None:
        raise not_asked(run, split)
    ledger = read_json(run.store, made.settled, "ledger.json")
    short = {name: count for name, count in ledger["shortfall"].items() if count}
    if short and run.recipe.refill.on_shortfall == "refuse":
        found = ", ".join(f"{name} lacks {count:,}" for name, count in list(short.items())[:5])
        raise NotProduced(
            f"{len(short)} class(es) did not reach their target ({found}) and refill.on_shortfall is refuse"
        )
    if not sum(ledger["accepted"].values()):
        raise NotProduced(none_accepted(totals(ledger)))
    return stages.mix(run, split, made.settled, config=mix_config(run.recipe))


def evaluate(run: Run, split: Artifact, mixed: Artifact, made: Made) -> Artifact:
    """The gate's evidence: by the held-out rows, and where these are too few by folds of the train rows as well."""
    recipe = run.recipe
    assert made.settled is not None  # there is a mix
    rows = read_json(run.store, split, "summary.json")["rows"]["validation"]
    seen = foreseen(run.store, split, recipe.gate, PROBLEMS[recipe.task])
    folds = folds_for(recipe.gate.folds, rows, recipe.gate.min_gain, recipe.gate.confidence, seen)
    judging = how_to_judge(recipe)
    if folds:  # run r of the whole is run r of every fold, so that none may stop before the others
        judging = dataclasses.replace(judging, gate=dataclasses.replace(judging.gate, early=False))
    evaluated = stages.evaluate(run, split, mixed, made.settled, config=EvaluateConfig(judging, recipe.validation))
    return judge_in_folds(run, split, evaluated, folds, judging) if folds else evaluated


def judge_in_folds(run: Run, split: Artifact, evaluated: Artifact, folds: int, config: JudgeConfig) -> Artifact:
    """The whole path inside each fold; their held-out rows together judge. Raises NotProduced where a fold makes none."""
    recipe, predicted = run.recipe, []
    for number in range(folds):
        inside = dataclasses.replace(run, place=f"fold {number + 1}")
        splits, fields = recipe.splits, recipe.columns.fields
        fold_config = FoldConfig(number, folds, splits.seed, splits.near, fields, config.problem, config.codes)
        part = stages.fold(run, split, number=number + 1, config=fold_config)
        if not can_judge(read_json(run.store, part, "summary.json")):
            continue
        mixed = mix_accepted(inside, part, produce(inside, part, None))
        predicted.append(stages.predict_fold(inside, part, mixed, config=config))
    return stages.judge_folds(run, evaluated, predicted, config=config)


def how_to_judge(recipe: Recipe) -> JudgeConfig:
    """What evaluation and folds have in common: the gate, and the trainer with all that can change its answers."""
    trainer, problem = recipe.trainer, PROBLEMS[recipe.task]
    return JudgeConfig(
        recipe.gate,
        trainer.use,
        TRAINERS[trainer.use].VERSION,
        trainer.options,
        TRAINERS[trainer.use](trainer.options).content(),
        recipe.seed,
        recipe.columns.fields,
        recipe.learnt,
        "" if problem.target is None else recipe.columns.answer,
        judging_code(recipe),
    )


def mix_config(recipe: Recipe) -> MixConfig:
    return MixConfig(recipe.mix, recipe.publish.copy, recipe.columns.fields, recipe.seed)


def judge(run: Run, proof: Proof) -> Outcome:
    """The gate's verdict; or why there was nothing to judge."""
    if proof.missing is None:
        assert proof.evidence is not None
        return judge_evidence(proof.evidence, run.recipe)
    cut_short = isinstance(proof.missing, CutShort) or run.cut_short
    met = isinstance(proof.missing, NothingToMake)
    action = run.recipe.outcomes.not_produced
    return Outcome("not_produced", action, str(proof.missing), cut_short=cut_short, met=met)


# --- Publishing -------------------------------------------------------------------------------------------------------


def publish(run: Run, found: Found, outcome: Outcome) -> Outcome:
    """One immutable release and one log entry, as the outcome's action says."""
    recipe, session = run.recipe, run.session
    if outcome.action in ("keep_current", "fail"):
        return dataclasses.replace(outcome, release=run.standing)
    if found.mixed is None:
        outcome = dataclasses.replace(outcome, arrangement="real")
    built = build_release(run, found, outcome)
    with run.progress.stage("publish") as shown:
        told = provenance(
            recipe, run.site, session.command, run.events, run.failures,
            source_versions=run.source["source_versions"], spent=spent_on(run.store, found.made.shards),
        )  # fmt: skip
        put = stages.put(run, built, provenance=told)
        release = put.id
        own = {name: session.about[name] for name in ("backfill",) if name in session.about}
        entry = log_entry(outcome, recipe) | own
        if session.staged:
            shown.note = f"{release}, staged"
            pending = {"snapshot": run.name, "release": release, "expected": run.expected, "entry": entry}
            return dataclasses.replace(outcome, release=release, pending=pending)
        appended = stages.publish(run, put, entry=entry)
        version = mirror_delta(run.store, recipe.dataset, wanted=True) if recipe.publish.format == "delta" else None
        shown.note = release if appended else f"{release}, already published"
    return dataclasses.replace(outcome, release=release, appended=appended, delta=version)


def build_release(run: Run, found: Found, outcome: Outcome) -> Artifact:
    """The release's files as an artifact: of the mix where there is one, else of the real rows."""
    recipe = run.recipe
    assert found.ingested is not None and found.split is not None
    config = ReleaseConfig(
        recipe.dataset,
        run.name,
        outcome.arrangement,
        recipe.publish.prefix,
        recipe.columns,
        recipe.hash(),
        recipe.task,
        outcome.proven if outcome.arrangement == "mix" else "",
        codes_of(recipe.columns, recipe.learnt),
        {name: EXPORTS[name].VERSION for name in recipe.publish.export} or None,
    )
    mixed = found.mixed or stages.real(run, found.split, config=mix_config(recipe))
    settled = [found.made.settled] if found.made.settled else []
    evaluated = [found.evaluated] if found.evaluated else []
    return stages.release(run, found.ingested, found.split, mixed, settled, evaluated, config=config)


def log_entry(outcome: Outcome, recipe: Recipe) -> dict[str, Any]:
    """What the log says of a release: why, with which numbers, approved by which rule."""
    return {
        "reason": outcome.reason,
        "outcome": outcome.name,
        "arrangement": outcome.arrangement,
        "recipe": recipe.hash(),
        "verdict": outcome.numbers,
        "approved_by": f"rule {recipe.gate.rule}" if outcome.name == "published" else f"outcomes.{outcome.name}",
    }


# --- What is said of it -----------------------------------------------------------------------------------------------


def _mending(run: Run, make: Callable[[Run], tuple[Outcome, Found]]) -> tuple[Outcome, Found]:
    """The path, run again where it met a corrupt object: it was moved aside, and its stage makes it anew."""
    met: Counter[str] = Counter()
    while True:
        try:
            return make(run)
        except CorruptObject as error:
            met[error.where] += 1
            if met[error.where] == MENDS:
                raise
            run.failures.append({"reason": "corrupt", "error": str(error)})


def _facts(run: Run, outcome: Outcome, found: Found) -> dict[str, Any]:
    """Beside the outcome: what is likely wrong with the source's labels, and where the release is."""
    more: dict[str, Any] = {}
    summary = read_json(run.store, found.ingested, "summary.json") if found.ingested else {}
    if warnings := list(summary.get("warnings", ())):
        more["warnings"] = warnings
    if outcome.action in ("publish", "best_real"):
        more["location"] = f"{run.store.root}/{release_key(run.recipe.dataset, str(outcome.release))}"
    return more


def _report(run: Run, outcome: Outcome, found: Found) -> str | None:
    """Where the report is; None, with a warning, where it could not be written: what was published stands all the same."""
    try:
        return write_report(run, outcome, found)
    except Exception as error:  # noqa: BLE001 - whatever it is, the outcome is decided and in the log
        _log.warning("The outcome stands, but its report could not be written: %s: %s", type(error).__name__, error)
        return None
