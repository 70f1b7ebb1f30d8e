"""``augmill judge``: the gate alone, for rows made anywhere; no recipe, no store, nothing is published."""

from __future__ import annotations

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import typer

from augmill.flows.cli.columns import Asked, InputOption, LabelOption, TargetOption, TextOption
from augmill.flows.terminal import say, say_result
from augmill.tasks.contracts import STRATUM, Artifact
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
SHOWN = 8  # labels in a sentence
SAMPLES = 12  # synthetic rows in the report
SEEN = (
    "The rows that judged are a part of --real. Whoever made the synthetic rows from all of --real has seen them, and "
    "the gain looks larger than it is. --validation names rows that the maker never saw."
)


Paths = Annotated[str, typer.Option("--real", help="Labelled real rows: a file, glob or directory.")]
Made = Annotated[str, typer.Option("--synthetic", help="Labelled rows that somebody or something made.")]
Held = Annotated[
    str | None, typer.Option(help="Real rows to judge by, which the maker never saw; else a part of --real.")
]
TrainerOption = Annotated[
    str | None,
    typer.Option(
        help="What trains: tfidf for texts, boosting or linear for tables, or your own training as a command; by default "
        "the first that serves the rows. See docs/recipe.md.",
        show_default=False,
    ),
]
RuleOption = Annotated[str, typer.Option(help="superior or not_worse.")]
MinGain = Annotated[
    float, typer.Option(help="What the mix must gain, for superior: points, or for mae and rmse the target's own unit.")
]
Margin = Annotated[
    float | None, typer.Option(help="What the mix may lose, for not_worse, in the same unit. Default: 0.5 points.")
]
MetricOption = Annotated[
    str | None,
    typer.Option(
        help="accuracy (default), macro_f1, auc or average_precision; of a regression mae (default), rmse or r2.",
        show_default=False,
    ),
]
Seeds = Annotated[int, typer.Option(help="Trainings of each arm, at least 3.")]
Seed = Annotated[int, typer.Option(help="The seed of everything drawn.")]
Report = Annotated[Path | None, typer.Option(help="Writes the report, one HTML file.")]
ExitCode = Annotated[str, typer.Option(help="Exit codes by outcome, such as harmful=20,inconclusive=21.")]
AsJson = Annotated[bool, typer.Option("--json", help="The last line alone, without the text above it.")]


def register(app: typer.Typer) -> None:
    app.command("judge")(judge)


def judge(
    real: Paths,
    synthetic: Made,
    validation: Held = None,
    text: TextOption = None,
    label: LabelOption = None,
    input: InputOption = None,
    target: TargetOption = None,
    trainer: TrainerOption = None,
    rule: RuleOption = "superior",
    min_gain: MinGain = 0.0,
    margin: Margin = None,
    metric: MetricOption = None,
    seeds: Seeds = 10,
    seed: Seed = 0,
    report: Report = None,
    exit_code: ExitCode = "",
    as_json: AsJson = False,
) -> None:
    """Measures whether rows you already have help, on real rows.

    The synthetic rows may come from anywhere. Publishes nothing.
    """
    from augmill.flows.cli.run import parse_exit_codes

    codes = parse_exit_codes(exit_code)
    options = _gate_options(rule=rule, min_gain=min_gain, margin=margin, metric=metric, seeds=seeds)
    asked = Asked(text or [], label, input or [], target)
    chosen = _trainer(trainer) if trainer is not None else None
    _require_writable(report)
    with tempfile.TemporaryDirectory(prefix="augmill-judge-") as directory:
        first = read_rows(real, "--real", directory, asked)
        chosen, options = _serving(chosen, options, first.recipe)
        read = read_others(first, synthetic, validation, directory, asked)
        rows = part_rows(read, directory, seed=seed)
        evidence = _measure(rows, chosen, options, first.recipe, seed, Path(directory))
    result = _result(evidence, rows, {name: part.about for name, part in read.items()})
    if report is not None:
        _write_report(report, evidence, rows, result)
    if not as_json:
        say(*_text(result))
    say_result(result)
    raise typer.Exit(codes.get(result["outcome"], 0))


def _gate_options(**given: Any) -> Any:
    from typing import get_args, get_type_hints

    from augmill.tasks.gate.judge import GateOptions
    from augmill.tasks.metrics import METRICS

    for name, known in (("rule", get_args(get_type_hints(GateOptions)["rule"])), ("metric", (*METRICS, None))):
        if given[name] not in known:
            names = " or ".join(filter(None, known))
            raise UserError(f"expected {names}, found {given[name]!r}", where=f"--{name}", fix="give one")
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
        if text in TRAINERS and text != "command":
            return TRAINERS[text](TRAINERS[text].Options())
    except ValueError as error:
        raise UserError(str(error), where="--trainer", fix="see docs/recipe.md, Trainers") from error
    known = [name for name in TRAINERS if name != "command"]
    hint = nearest(text, known, "a command has places such as {train} and {predictions}")
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


def _measure(rows: Any, trainer: Any, options: Any, recipe: Recipe, seed: int, directory: Path) -> Any:
    """The gate's evidence, with a line of progress on stderr."""
    from augmill.flows.progress import Progress
    from augmill.tasks.gate import judge as gate

    target = "" if recipe.problem.target is None else recipe.columns.answer
    with Progress() as progress, progress.stage("judge", 3 * options.seeds, "trainings") as shown:
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
        "smallest_visible_gain": evidence["smallest_visible_gain"],
        "rows_needed": evidence["rows_needed"],
        "caveat": None if "validation" in read else SEEN,
        "report": None,
        "next": NEXT["gain" if outcome == "published" and gain else outcome],
    }


def _text(result: dict[str, Any]) -> list[str]:
    from augmill.flows.cli.terminal import counted, wrapped

    lines = []
    for name, about in result["read"].items():
        lines += wrapped(f"{name}: {about['taken']:,} rows of {about['path']} ({_columns_told(about)})", "    ", "")
        if about.get("skip_lines"):
            lines += wrapped(f"its header was found below {about['skip_lines']:,} line(s) of a title or notes")
        if about["refused"]:
            lines += wrapped(f"not read: {counted(about['refused'])}")
        if about.get("read_as"):
            labels = ", ".join(f"{old!r} as {new!r}" for old, new in list(about["read_as"].items())[:SHOWN])
            lines += wrapped(f"labels read as in the real rows: {labels}")
    for name, reasons in result["left"].items():
        if sum(reasons.values()):
            lines += wrapped(f"{name} rows that left: {counted({k: n for k, n in reasons.items() if n})}")
    rows = result["rows"]
    lines += ["", *wrapped(result["headline"], first=""), *wrapped(result["reason"]), ""]
    lines.append(
        f"  {rows['real']:,} real and {rows['synthetic']:,} synthetic rows, {rows['validation']:,} to judge by"
    )
    lines += _table(result)
    if result["caveat"]:
        lines += ["", *wrapped(result["caveat"])]
    if result["report"]:
        lines.append(f"  Report   {result['report']}")
    return [*lines, *wrapped(result["next"], "           ", "  Next     ")]


def _columns_told(about: dict[str, Any]) -> str:
    from augmill.flows.cli.terminal import named

    if "text" in about:
        return f"text {', '.join(about['text'])}, label {about['label']}, {about['why']}"
    if about["why"] == AS_REAL:
        return AS_REAL
    inputs = named([f"{name} {type}" for name, type in about["inputs"].items()], NAMED)
    target = ", ".join(f"{name} {type}" for name, type in about["target"].items())
    return f"inputs {inputs}; target {target}; {about['why']}"


def _table(result: dict[str, Any]) -> list[str]:
    """The three arms: score, and gain over the other two, in the metric's unit."""
    from augmill.flows.cli.terminal import padded
    from augmill.tasks.gate.gauge import Gauge

    gauge = Gauge(**result["metrics"][result["judged_by"]])
    gains = result["numbers"].values()
    decimals = gauge.decimals(*(value for gain in gains for value in (gain["gain"], gain["low"], gain["high"])))

    def told(gain: dict[str, float] | None) -> str:
        if not gain:
            return ""
        one, low, high = (f"{gain[name]:+,.{decimals}f}" for name in ("gain", "low", "high"))
        return f"{one} ({low} to {high})"

    lines = [f"  {'trained on':<20}{result['judged_by']:>9}  {'over real rows alone':<24}over the placebo"]
    for arm, name in ARMS.items():
        cells = [told(result["numbers"].get(f"{arm}-{other}")).ljust(24) for other in ("real", "placebo")]
        lines.append(f"  {padded(name, 20)}{result['scores'][arm]:>9,.{decimals}f}  {''.join(cells)}".rstrip())
    return lines


def _write_report(path: Path, evidence: Any, rows: Any, result: dict[str, Any]) -> None:
    """The page of a run's report, with the parts there are here: the gate, the classes, some synthetic rows."""
    from augmill.tasks.report import render_report

    page = render_report(_report_evidence(evidence, rows, result))
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"it cannot be written: {error.strerror}", where=f"--report {path}", fix="name another"
        ) from error
    result["report"] = str(path)


def _report_evidence(evidence: Any, rows: Any, result: dict[str, Any]) -> Any:
    """tasks.report_evidence.ReportEvidence of what was judged."""
    from augmill.flows.cli.init import dataset_name
    from augmill.flows.report import told_target
    from augmill.tasks.rows.kinds import show, sizes

    train, made = class_counts(rows.train[STRATUM]), class_counts(rows.synthetic[STRATUM])
    spread = range(0, rows.synthetic.num_rows, max(1, rows.synthetic.num_rows // SAMPLES))[:SAMPLES]
    picked = rows.synthetic.take(pa.array(spread, pa.int64()))
    samples = [
        {"text": text, "label": told_target(row), "generator": "given"}
        for text, row in zip(show(picked, rows.fields), picked.to_pylist(), strict=True)
    ]
    counted = [sizes(part, rows.fields) for part in (rows.train, rows.synthetic)]
    lengths = {"real": counted[0][1], "synthetic": counted[1][1]} if counted[0] and counted[1] else {}
    return {
        "dataset": dataset_name(result["read"]["synthetic"]["path"]),
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


# --- The rows that ``augmill judge`` compares: read as a run reads them, and kept apart as a run keeps them apart -----


NAMED = 8  # labels in a message
SHARE = 0.3  # of the real rows judges where no validation file is given: what a recipe holds out by default, in all


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
    left: dict[str, dict[str, int]]


def read_others(real: Read, synthetic: str, validation: str | None, directory: str, asked: Asked) -> dict[str, Read]:
    """``real``, ``synthetic`` and, where it is given, ``validation``. Raises as ``read_rows``."""
    read = {"real": real}
    for name, path in (("synthetic", synthetic), ("validation", validation)):
        if path is not None:
            part = read_rows(path, f"--{name}", directory, asked, like=real.recipe)
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


def read_rows(path: str, option: str, directory: str, asked: Asked, *, like: Recipe | None = None) -> Read:
    """Reads a file, glob or directory through the ingest stage; ``directory``: a store that is thrown away.

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
        source = SourceOptions(path=path)
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
        "path": path,
        "why": why,
        **(told if short else {"inputs": columns.types, "target": columns.target or {columns.answer: "label"}}),
    }
    about |= {name: summary[name] for name in ("read", "taken", "refused")} | ({"skip_lines": skip} if skip else {})
    rows = work.read(ingested).select(real_schema(columns.fields, recipe.problem.target).names)
    return Read(rows, recipe, about)


def _task(columns: Columns) -> str:
    """The first that learns a target of this type."""
    from augmill.tasks.problems import PROBLEMS

    type = "label" if columns.target is None else columns.target[columns.answer]
    return next(name for name, problem in PROBLEMS.items() if type in problem.types)


def _columns(source: SourceOptions, option: str, asked: Asked, like: Columns | None) -> tuple[Columns, str]:
    """The columns and where they stem from: named, as in the real rows, or guessed."""
    from augmill.flows.cli.columns import choose_columns
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
    return JudgedRows(train, made, held_out, recipe.columns.fields, left)


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
