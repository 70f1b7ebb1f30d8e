"""The gate alone, for rows made anywhere: read as a run reads them, kept apart as a run keeps them apart, and judged.

No recipe, no store, nothing is published. Errors name what was given as the command line does (``--real``).
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from augmill.flows.columns import Asked, choose_columns
from augmill.tasks.contracts import STRATUM, Artifact, Problem
from augmill.tasks.errors import DataError, UserError
from augmill.tasks.problems.labels import labels_alike
from augmill.tasks.rows.kinds import real_schema
from augmill.tasks.rows.schema import SPLIT, class_counts

if TYPE_CHECKING:
    from augmill.tasks.recipe.recipe import Recipe
    from augmill.tasks.recipe.sections import Columns
    from augmill.tasks.sources import SourceOptions
    from augmill.tasks.store.stage import Work

NEXT = {
    "gain": "Train on real and synthetic rows together.",
    "published": "Nothing speaks for the synthetic rows yet but that they lose no more than --margin. Take them for a "
    "reason of their own, or give more rows to --validation.",
    "harmful": "Leave the synthetic rows out, or look at what is wrong with them.",
    "inconclusive": "Leave the synthetic rows out, or give more rows to --validation.",
}
ARMS = {"real": "real rows alone", "placebo": "the same, repeated", "mix": "with synthetic rows"}
AS_REAL = "as in the real rows"
SAMPLES = 12  # synthetic rows in the report
SEEN = (
    "The rows that judged are a part of --real. Whoever made the synthetic rows from all of --real has seen them, and "
    "the gain looks larger than it is. --validation names rows that the maker never saw."
)
NAMED = 8  # labels in a message
SHARE = 0.3  # of the real rows judges where no validation file is given: what a recipe holds out by default, in all
IN_MEMORY = "a table in memory"

Given: TypeAlias = str | pa.Table  # rows: a file, glob, directory or address, or a table


@dataclass(frozen=True)
class JudgedEvidence:
    """``evidence``: the gate's; ``rows``: what it saw; ``result``: what the last line of ``augmill judge`` says."""

    evidence: Any
    rows: JudgedRows
    result: dict[str, Any]


def judge_rows(
    real: Given,
    synthetic: Given,
    validation: Given | None = None,
    *,
    asked: Asked,
    trainer: str | None = None,
    seed: int = 0,
    report: Path | None = None,
    dataset: str = "rows",
    quiet: bool = False,
    **gate: Any,
) -> JudgedEvidence:
    """Whether the synthetic rows help, measured on real ones; writes nothing but ``report``, which names ``dataset``.

    ``asked``: the columns; ``gate``: options of ``GateOptions``; ``quiet``: no progress on stderr. Raises UserError for
    what is no option, no trainer or no column, DataError where no row is left to compare.
    """
    options = _gate_options(**gate)
    chosen = _trainer(trainer) if trainer is not None else None
    _require_writable(report)
    with tempfile.TemporaryDirectory(prefix="augmill-judge-") as directory:
        first = read_rows(real, "--real", directory, asked)
        chosen, options = _serving(chosen, options, first.recipe)
        read = read_others(first, synthetic, validation, directory, asked)
        rows = part_rows(read, directory, seed=seed)
        evidence = _measure(rows, chosen, options, first.recipe, seed, Path(directory), quiet)
    judged = JudgedEvidence(evidence, rows, _result(evidence, rows, {name: part.about for name, part in read.items()}))
    if report is not None:
        _write_report(report, judged, dataset)
    return judged


def _gate_options(**given: Any) -> Any:
    from typing import get_args, get_type_hints

    from augmill.tasks.gate.judge import GateOptions
    from augmill.tasks.metrics import METRICS

    rules = get_args(get_type_hints(GateOptions)["rule"])
    if given["rule"] not in rules:
        raise UserError(f"expected {' or '.join(rules)}, found {given['rule']!r}", where="--rule", fix="give one")
    if given["metric"] is not None and (problem := METRICS.problem_of(given["metric"])):
        known = " or ".join(METRICS)
        raise UserError(f"expected {known}, found {given['metric']!r}", where="--metric", fix=problem)
    try:
        return GateOptions(**given)
    except ValueError as error:
        raise UserError(
            str(error).removeprefix("gate."), where="augmill judge", fix="see augmill judge --help"
        ) from error


def _trainer(text: str) -> Any:
    """A trainer by name with its defaults, or the user's command. Raises UserError."""
    from augmill.tasks.rows.names import nearest
    from augmill.tasks.trainers import TRAINERS

    try:
        if "{" in text:
            return TRAINERS["command"](TRAINERS["command"].Options(command=text))
        problem = TRAINERS.problem_of(text)
        if text != "command" and not problem:
            return TRAINERS[text](TRAINERS[text].Options())
    except ValueError as error:
        raise UserError(str(error), where="--trainer", fix="see docs/recipe.md, Trainers") from error
    known = [name for name in TRAINERS.names() if name != "command"]
    hint = nearest(text, known, "a command has places such as {train} and {predictions}")
    hint = problem if problem.startswith("the trainer") else hint
    raise UserError(
        f"{text!r} is no trainer and no command; {hint}", where="--trainer", fix="see docs/recipe.md, Trainers"
    )


def _serving(trainer: Any, options: Any, recipe: Recipe) -> tuple[Any, Any]:
    """(the trainer, by default the first that serves the rows; the options with what the problem says). Raises UserError."""
    from augmill.tasks.recipe.recipe import rows_of
    from augmill.tasks.trainers import TRAINERS

    rows = rows_of(recipe)
    able = {name: kind for name, kind in TRAINERS.items() if rows.served_whole(kind)}
    if trainer is None:
        name = next(name for name in able)  # `command` serves any rows, so there is one
        if name == "command":
            raise UserError(
                f"no built-in trainer serves rows of {rows}", where="--trainer", fix="give your own, as a command"
            )
        trainer = able[name](able[name].Options())
    if not rows.served_whole(trainer):
        fix = f"those that do: {', '.join(able)}"
        raise UserError(f"this trainer does not serve rows of {rows}", where="--trainer", fix=fix)
    try:
        options = options.resolved(recipe.problem)
    except ValueError as error:
        key, _, problem = str(error).removeprefix("gate.").partition(": ")
        raise UserError(problem, where=f"--{key.replace('_', '-')}", fix="see augmill judge --help") from error
    if options.needs_scores and not trainer.scores:
        fix = f"those that do: {', '.join(name for name, kind in able.items() if kind.scores) or 'none'}"
        raise UserError(f"{options.metric} needs scores, which this trainer does not give", where="--trainer", fix=fix)
    return trainer, options


def _require_writable(report: Path | None) -> None:
    if report is not None and (report.is_dir() or not report.absolute().parent.is_dir()):
        raise UserError(
            "no file can be written there", where=f"--report {report}", fix="name a file in a directory that is there"
        )


def _measure(
    rows: JudgedRows, trainer: Any, options: Any, recipe: Recipe, seed: int, directory: Path, quiet: bool
) -> Any:
    """The gate's evidence, with a line of progress on stderr."""
    from augmill.flows.progress import Progress
    from augmill.tasks.gate import judge as gate

    target = "" if recipe.problem.target is None else recipe.columns.answer
    with Progress(quiet=quiet) as progress, progress.stage("judge", 3 * options.seeds, "trainings") as shown:
        return gate.evaluate(
            rows.train,
            rows.synthetic,
            rows.validation,
            trainer,
            options,
            gate.Question(recipe.problem, rows.fields, target),
            seed=seed,
            workdir=directory / "trainer",
            progress=lambda done, total: shown.advance(),
        )


def _result(evidence: Any, rows: Any, read: dict[str, Any]) -> dict[str, Any]:
    """The last line of stdout, in the words of ``augmill run``'s."""
    from augmill.tasks.gate.verdict import headline

    outcome, judged_by = evidence["verdict"], evidence["judged_by"]
    comparisons = evidence["validation"]["comparisons"]
    gain = all(comparisons[pair]["gains"][judged_by]["low"] > 0 for pair in ("mix-real", "mix-placebo"))
    return {
        "outcome": outcome,
        "headline": headline(outcome, evidence),
        "reason": evidence["reason"],
        "judged_by": judged_by,
        "unit": evidence["unit"],
        "metrics": evidence["metrics"],
        "numbers": {pair: part["gains"][judged_by] for pair, part in comparisons.items()},
        "scores": {arm: evidence["validation"]["arms"][arm][judged_by] for arm in ARMS},
        "rows": {name: count for name, count in evidence["rows"].items() if name != "test"},
        "left": rows.left,
        "read": read,
        "seeds": evidence["seeds"],
        "seeds_asked": evidence["seeds_asked"],
        "ended": evidence["ended"],
        "smallest_visible_gain": evidence["smallest_visible_gain"],
        "rows_needed": evidence["rows_needed"],
        "caveat": None if "validation" in read else SEEN,
        "report": None,
        "next": NEXT["gain" if outcome == "published" and gain else outcome],
    }


def arm_rows(result: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Of each arm of a result: its name, its score, and its gain over real rows alone and over the placebo."""
    from augmill.tasks.gate.gauge import Gauge

    gauge, numbers = Gauge(**result["metrics"][result["judged_by"]]), result["numbers"]
    decimals = gauge.decimals(*(gain[name] for gain in numbers.values() for name in ("gain", "low", "high")))

    def told(arm: str, other: str) -> str:
        if not (gain := numbers.get(f"{arm}-{other}")):
            return ""
        one, low, high = (f"{gain[name]:+,.{decimals}f}" for name in ("gain", "low", "high"))
        return f"{one} ({low} to {high})"

    scores = {arm: f"{result['scores'][arm]:,.{decimals}f}" for arm in ARMS}
    return [(name, scores[arm], told(arm, "real"), told(arm, "placebo")) for arm, name in ARMS.items()]


def _write_report(path: Path, judged: JudgedEvidence, dataset: str) -> None:
    """The page of a run's report, with the parts there are here: the gate, the classes, some synthetic rows."""
    from augmill.tasks.report import render_report

    page = render_report(_report_evidence(judged, dataset))
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"it cannot be written: {error.strerror}", where=f"--report {path}", fix="name another"
        ) from error
    judged.result["report"] = str(path)


def _report_evidence(judged: JudgedEvidence, dataset: str) -> Any:
    """tasks.report_evidence.ReportEvidence of what was judged."""
    from augmill.flows.report import drawn_rows, told_target
    from augmill.tasks.rows.kinds import show, sizes

    evidence, rows, result = judged.evidence, judged.rows, judged.result
    train, made = class_counts(rows.train[STRATUM]), class_counts(rows.synthetic[STRATUM])
    spread = range(0, rows.synthetic.num_rows, max(1, rows.synthetic.num_rows // SAMPLES))[:SAMPLES]
    picked = rows.synthetic.take(pa.array(spread, pa.int64()))
    samples = [
        {"text": text, "drawn": drawn, "label": told_target(row, rows.problem), "generator": "given"}
        for text, drawn, row in zip(
            show(picked, rows.fields),
            drawn_rows(picked, rows.fields, rows.problem),
            picked.drop_columns(list(rows.fields)).to_pylist(),
            strict=True,
        )
    ]
    counted = [sizes(part, rows.fields) for part in (rows.train, rows.synthetic)]
    lengths = {"real": counted[0][1], "synthetic": counted[1][1]} if counted[0] and counted[1] else {}
    return {
        "dataset": dataset,
        "snapshot": "judge",
        "outcome": result["outcome"],
        "reason": " ".join(filter(None, (result["reason"], result["caveat"]))),
        "released": None,
        "next_action": result["next"],
        "gate": dict(evidence),
        "train": train,
        "mixed": {name: count + made.get(name, 0) for name, count in train.items()},
        "splits": {"train": rows.train.num_rows, "validation": rows.validation.num_rows, "test": 0},
        "samples": {"accepted": samples},
        **({"lengths": lengths} if lengths else {}),
    }


@dataclass(frozen=True)
class Read:
    """One source as read: ``rows`` has ``real_schema(fields, target)``; ``about`` is what the user is told of it."""

    rows: pa.Table
    recipe: Recipe
    about: dict[str, Any]


@dataclass(frozen=True)
class JudgedRows:
    """``train``, ``synthetic``, ``validation``: what the gate sees. ``left``: part to reason to rows that left it."""

    train: pa.Table
    synthetic: pa.Table
    validation: pa.Table
    fields: tuple[str, ...]
    problem: Problem
    left: dict[str, dict[str, int]]


def read_others(
    real: Read, synthetic: Given, validation: Given | None, directory: str, asked: Asked
) -> dict[str, Read]:
    """``real``, ``synthetic`` and, where it is given, ``validation``. Raises as ``read_rows``."""
    read = {"real": real}
    for name, given in (("synthetic", synthetic), ("validation", validation)):
        if given is not None:
            part = read_rows(given, f"--{name}", directory, asked, like=real.recipe)
            labelled = real.recipe.problem.target is None
            read[name] = _named_alike(part, f"--{name}", list(class_counts(real.rows[STRATUM]))) if labelled else part
    return read


def _named_alike(read: Read, option: str, classes: list[str]) -> Read:
    """Its labels as the real rows write them, where they differ as 0 and 0.0, true and True, or A and a do.

    The sources may be of several types: what one holds as a number stands in the other as text. ``about["read_as"]``
    says which. Raises DataError where no label is one of the real rows'.
    """
    named = class_counts(read.rows[STRATUM])
    renamed = labels_alike(named, classes)
    if named and not renamed and not set(named) & set(classes):
        raise DataError(
            f"no label is one of the real rows'; here: {_some(named)}; there: {_some(classes)}",
            where=option,
            fix="name the right label column (--label), or write the labels alike",
        )
    strata = pa.array([renamed.get(name, name) for name in read.rows[STRATUM].to_pylist()], pa.string())
    rows = read.rows.set_column(read.rows.column_names.index(STRATUM), STRATUM, strata)
    return Read(rows, read.recipe, read.about | {"read_as": renamed})


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - NAMED:,} more" if len(listed) > NAMED else ""
    return ", ".join(map(repr, listed[:NAMED])) + more


def read_rows(given: Given, option: str, directory: str, asked: Asked, *, like: Recipe | None = None) -> Read:
    """Reads a file, glob, directory or table through the ingest stage; ``directory``: a store that is thrown away.

    ``like``: how the real rows were read; their columns are taken where this source has them too. Raises UserError where
    a column is not there or cannot be guessed, DataError as ingest does.
    """
    from augmill.flows.units import gather_source
    from augmill.tasks.recipe.recipe import Recipe
    from augmill.tasks.recipe.sections import Refuse, Target
    from augmill.tasks.sources import SourceOptions, doubt_file, list_files
    from augmill.tasks.store.stage import Site, Work
    from augmill.tasks.store.store import Store

    try:
        source = SourceOptions(path=given if isinstance(given, str) else _on_disk(given, option, directory))
    except ValueError as error:
        raise UserError(str(error), where=option, fix="name a file or directory") from error
    doubt = doubt_file(list_files(source)[0], source)
    skip = doubt.skip if doubt is not None else 0  # as `augmill init` reads it
    source = dataclasses.replace(source, skip_lines=skip)
    columns, why = _columns(source, option, asked, like.columns if like is not None else None)
    task = like.task if like is not None else _task(columns)
    # No share of refused rows stops it: they are counted and shown, and nothing is published.
    recipe = Recipe("judge", source, columns, Target(per_class=1), (), task=task, refuse=Refuse(max_share=1.0))
    site = Site(Store(directory))
    ingested = gather_source(site, recipe)
    work = Work(site, site.store.local_scratch("judge"))
    summary = work.read_json(ingested, "summary.json")
    short = columns.inputs is None and columns.label is not None
    told = {"text": list(columns.sources), "label": columns.label}
    about = {
        "path": given if isinstance(given, str) else IN_MEMORY,
        "why": why,
        **(told if short else {"inputs": columns.types, "target": columns.target or {columns.answer: "label"}}),
    }
    about |= {name: summary[name] for name in ("read", "taken", "refused")} | ({"skip_lines": skip} if skip else {})
    rows = work.read(ingested).select(real_schema(columns.fields, recipe.problem.target).names)
    return Read(rows, recipe, about)


def _on_disk(table: pa.Table, option: str, directory: str) -> str:
    """Where the table lies as a file: there is one way to read rows. Raises UserError for types that Parquet has not."""
    import pyarrow.parquet as pq

    path = Path(directory) / f"{option.removeprefix('--')}.parquet"
    try:
        pq.write_table(table, path)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        problem = f"the table has a column that Parquet cannot hold: {error}"
        raise UserError(problem, where=option, fix="cast it, or leave the column out") from error
    return str(path)


def _task(columns: Columns) -> str:
    """The first that learns a target of this type from such inputs."""
    from augmill.tasks.problems import problem_learning

    type = "label" if columns.target is None else columns.target[columns.answer]
    return str(problem_learning(type, columns.types.values()) or problem_learning(type))


def _columns(source: SourceOptions, option: str, asked: Asked, like: Columns | None) -> tuple[Columns, str]:
    """The columns and where they stem from: named, as in the real rows, or guessed."""
    from augmill.tasks.recipe.sections import Columns
    from augmill.tasks.sources import list_files, read_schema

    file = list_files(source)[0]
    names = set(read_schema(file, source))
    named = {*asked.text, *([asked.label] if asked.label else [])}
    if like is not None and {*like.sources, like.answer, *named} <= names:
        return like, AS_REAL
    where = f"{file.name} ({option})"
    fix = "give --real, --synthetic and --validation the same column names"
    if like is not None and (like.inputs is not None or like.label is None):
        lacking = ", ".join(sorted({*like.sources, like.answer} - names))
        raise UserError(f"it lacks columns of the real rows: {lacking}", where=where, fix=fix)
    chosen = choose_columns(file, source, asked, where=where, fix=fix).columns
    try:
        parts: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in chosen.items()
        }
        columns = Columns(**parts)
    except ValueError as error:
        raise UserError(str(error), where=asked.options, fix="name each column once") from error
    if like is not None and (columns.inputs is not None or len(columns.sources) != len(like.sources)):
        raise UserError(
            f"expected {len(like.sources)} text column(s) as in the real rows, found {', '.join(columns.sources)}",
            where=where,
            fix="name the columns alike and give --text",
        )
    return columns, "named" if asked.named else "guessed"


def part_rows(read: dict[str, Read], directory: str, *, seed: int) -> JudgedRows:
    """Takes out what would make the comparison worthless, and counts it. Raises DataError where nothing is left.

    Held-out rows: ``validation``, else SHARE of the real rows. The split stage takes train rows that stand in or near them
    out, and rows to judge by of labels that no train row has. Thresholds are the defaults of a recipe.
    """
    from augmill.tasks.problems.classification import Labels
    from augmill.tasks.recipe.sections import Splits
    from augmill.tasks.stages.split import prepare_split, split
    from augmill.tasks.store.stage import Site, Work, commit
    from augmill.tasks.store.store import Store

    splits = Splits(validation=SHARE, test=0.0, seed=seed)
    if "validation" in read:
        splits = dataclasses.replace(splits, files={"train": "--real", "validation": "--validation"})
    labels = Labels(min_rows=1, rare="quarantine")
    recipe = dataclasses.replace(read["real"].recipe, splits=splits, labels=labels, seed=seed)
    work = Work(Site(Store(directory)), Path(tempfile.mkdtemp(dir=directory)))
    parts = [(read[name].rows, of) for name, of in (("real", "train"), ("validation", "validation")) if name in read]
    work.write(pa.concat_tables([rows.append_column(SPLIT, pa.repeat(of, rows.num_rows)) for rows, of in parts]))
    try:
        parted = split(work.site, prepare_split(recipe), commit(work, "judge", "real"), [])
    except DataError as error:
        fix = "check what is learnt, or give more rows, and --validation rows that are no copies of these; rows made from "
        fix += "one template are near each other"
        raise DataError(error.problem, where="--real", fix=fix) from error
    train, held_out = (work.read(parted, f"{name}.parquet") for name in ("train", "validation"))
    held = work.read_json(parted, "summary.json")["held_back"]
    strange = held.pop("rare_class", 0)
    made, of_made = _synthetic(work, recipe, parted, read["synthetic"].rows, train)
    if not made.num_rows:
        why = ", ".join(f"{reason} {count:,}" for reason, count in of_made.items()) or "there were none"
        fix = "give more, or other, rows"
        if 2 * of_made.get("near_heldout", 0) > sum(of_made.values()):
            fix += "; rows made from one template are near each other: give --validation rows that are of none of them"
        raise DataError(f"no synthetic row is left to judge with: {why}", where="--synthetic", fix=fix)
    left = {"train": held, "validation": {"no_train_rows": strange} if strange else {}, "synthetic": of_made}
    return JudgedRows(train, made, held_out, recipe.columns.fields, recipe.problem, left)


def _synthetic(
    work: Work, recipe: Recipe, parted: Artifact, rows: pa.Table, train: pa.Table
) -> tuple[pa.Table, dict[str, int]]:
    """The synthetic rows that may count, with empty ``parent_ids``, and how many left for which reason.

    Those of labels that no train row has leave, those that the check `relations` refuses, and those that settle would
    call duplicates of one before them.
    """
    import polars as pl

    from augmill.tasks.checks import CHECKS
    from augmill.tasks.problems.strata import STRATA, restratify
    from augmill.tasks.recipe.sections import Settle
    from augmill.tasks.stages.extensions import FITTED, check_config, extension_context
    from augmill.tasks.stages.fit import fit_check
    from augmill.tasks.stages.settle import SettleConfig, mark_duplicates

    left: Counter[str] = Counter()

    def keep(reasons: pa.Array | pa.ChunkedArray) -> None:
        nonlocal rows
        left.update(reasons.drop_null().to_pylist())
        rows = rows.filter(pc.is_null(reasons))

    if recipe.problem.fits_strata:  # by their targets they fall into the bins of train rows
        rows = restratify(rows, recipe.problem, work.read_json(parted, STRATA))
    else:
        keep(pc.if_else(pc.is_in(rows[STRATUM], train[STRATUM].unique()), None, "unknown_label"))
    rows = rows.append_column("parent_ids", pa.array([[]] * rows.num_rows, pa.list_(pa.string())))
    config = check_config("relations", CHECKS["relations"].Options(), recipe)
    fitted = FITTED.get(work.site, fit_check(work.site, config, parted))
    check = CHECKS[config.extension](config.options)
    keep(check.judge(fitted, rows, extension_context(work, config, "relations"))["reason"])
    frame = pl.DataFrame(pl.from_arrow(rows.select(list(recipe.columns.fields))))
    twins = mark_duplicates(frame, SettleConfig(Settle(), {}, {}, recipe.columns.fields))["refused"].to_arrow()
    keep(pc.if_else(pc.is_null(twins), None, "repeats_another"))
    return rows, dict(left)
