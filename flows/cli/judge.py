"""``augmill judge``: the gate alone, for rows made anywhere; no recipe, no store, nothing is published."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import typer

from augmill.flows.terminal import say
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
Text = Annotated[list[str] | None, typer.Option("--text", help="The text column; twice for pairs.")]
Label = Annotated[str | None, typer.Option(help="The label column.")]
TrainerOption = Annotated[str, typer.Option(help="tfidf, or your own training as a command; see docs/recipe.md.")]
RuleOption = Annotated[str, typer.Option(help="superior or not_worse.")]
MinGain = Annotated[float, typer.Option(help="Points that the mix must gain, for superior.")]
Margin = Annotated[float, typer.Option(help="Points that the mix may lose, for not_worse.")]
MetricOption = Annotated[str, typer.Option(help="accuracy, macro_f1, auc or average_precision.")]
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
    text: Text = None,
    label: Label = None,
    trainer: TrainerOption = "tfidf",
    rule: RuleOption = "superior",
    min_gain: MinGain = 0.0,
    margin: Margin = 0.5,
    metric: MetricOption = "accuracy",
    seeds: Seeds = 10,
    seed: Seed = 0,
    report: Report = None,
    exit_code: ExitCode = "",
    as_json: AsJson = False,
) -> None:
    """Judges rows made anywhere: do they help, measured on real rows? Publishes nothing."""

    from augmill.flows.cli.run import parse_exit_codes

    codes = parse_exit_codes(exit_code)
    options = _gate_options(rule=rule, min_gain=min_gain, margin=margin, metric=metric, seeds=seeds)
    chosen = _trainer(trainer)
    _require_writable(report)
    with tempfile.TemporaryDirectory(prefix="augmill-judge-") as directory:
        read = read_all(real, synthetic, validation, directory, text=text or [], label=label)
        rows = part_rows(read, directory, seed=seed)
        evidence = _measure(rows, chosen, options, seed, Path(directory))
    result = _result(evidence, rows, {name: part.about for name, part in read.items()})
    if report is not None:
        _write_report(report, evidence, rows, result)
    if not as_json:
        say(*_text(result))
    say(json.dumps(result, ensure_ascii=False, sort_keys=True))
    raise typer.Exit(codes.get(result["outcome"], 0))


def _gate_options(**given: Any) -> Any:
    from typing import get_args, get_type_hints

    from augmill.tasks.gate.judge import GateOptions
    from augmill.tasks.metrics import METRICS
    from augmill.tasks.problems import PROBLEMS

    problem = PROBLEMS["classification"]
    served = tuple(name for name, metric in METRICS.items() if problem.name in metric.problems)
    for name, known in (("rule", get_args(get_type_hints(GateOptions)["rule"])), ("metric", served)):
        if given[name] not in known:
            raise UserError(f"expected {' or '.join(known)}, found {given[name]!r}", where=f"--{name}", fix="give one")
    try:
        return GateOptions(**given).resolved(problem)
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


def _require_writable(report: Path | None) -> None:
    if report is not None and (report.is_dir() or not report.absolute().parent.is_dir()):
        raise UserError(
            "no file can be written there", where=f"--report {report}", fix="name a file in a directory that is there"
        )


def _measure(rows: Any, trainer: Any, options: Any, seed: int, directory: Path) -> Any:
    """The gate's evidence, with a line of progress on stderr."""
    from augmill.flows.progress import Progress
    from augmill.tasks.gate import judge as gate
    from augmill.tasks.problems import PROBLEMS

    with Progress() as progress, progress.stage("judge", 3 * options.seeds, "trainings") as shown:
        return gate.evaluate(
            rows.train,
            rows.synthetic,
            rows.validation,
            trainer,
            options,
            gate.Question(PROBLEMS["classification"], rows.fields),
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
    from augmill.flows.cli.terminal import counted, padded, wrapped

    lines = []
    for name, about in result["read"].items():
        columns = f"text {', '.join(about['text'])}, label {about['label']}, {about['why']}"
        lines += wrapped(f"{name}: {about['taken']:,} rows of {about['path']} ({columns})", "    ", "")
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
    lines.append(f"  {'trained on':<20}{result['judged_by']:>9}  {'over real rows alone':<24}over the placebo")
    for arm, name in ARMS.items():
        gains = [result["numbers"].get(f"{arm}-{other}") for other in ("real", "placebo")]
        cells = [(_gain(gain) if gain else "").ljust(24) for gain in gains]
        lines.append(f"  {padded(name, 20)}{result['scores'][arm]:>9.1f}  {''.join(cells)}".rstrip())
    if result["caveat"]:
        lines += ["", *wrapped(result["caveat"])]
    if result["report"]:
        lines.append(f"  Report   {result['report']}")
    return [*lines, *wrapped(result["next"], "           ", "  Next     ")]


def _gain(gain: dict[str, float]) -> str:
    return f"{gain['gain']:+.1f} ({gain['low']:+.1f} to {gain['high']:+.1f})"


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
    from augmill.tasks.rows.kinds.text import texts_of
    from augmill.tasks.rows.shown import count_characters

    train, made = class_counts(rows.train[STRATUM]), class_counts(rows.synthetic[STRATUM])
    real, synthetic = texts_of(rows.train, rows.fields), texts_of(rows.synthetic, rows.fields)
    spread = range(0, len(synthetic), max(1, len(synthetic) // SAMPLES))[:SAMPLES]
    labels = rows.synthetic[STRATUM].to_pylist()
    samples = [
        {"text": synthetic[at].replace("\x1f", " | "), "label": labels[at], "generator": "given"} for at in spread
    ]
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
        "lengths": {"real": [*map(count_characters, real)], "synthetic": [*map(count_characters, synthetic)]},
        "samples": {"accepted": samples},
    }


# --- The rows that ``augmill judge`` compares: read as a run reads them, and kept apart as a run keeps them apart -----


NAMED = 8  # labels in a message
SHARE = 0.3  # of the real rows judges where no validation file is given: what a recipe holds out by default, in all


@dataclass(frozen=True)
class Read:
    """One source as read: ``rows`` has ``real_schema(fields)``; ``about`` is what the user is told of it."""

    rows: pa.Table
    recipe: Recipe
    about: dict[str, Any]


@dataclass(frozen=True)
class Parted:
    """``train``, ``synthetic``, ``validation``: what the gate sees. ``left``: part to reason to rows that left it."""

    train: pa.Table
    synthetic: pa.Table
    validation: pa.Table
    fields: tuple[str, ...]
    left: dict[str, dict[str, int]]


def read_all(
    real: str, synthetic: str, validation: str | None, directory: str, *, text: list[str], label: str | None
) -> dict[str, Read]:
    """``real``, ``synthetic`` and, where it is given, ``validation``. Raises as ``read_rows``."""
    read = {"real": read_rows(real, "--real", directory, text=text, label=label)}
    for name, path in (("synthetic", synthetic), ("validation", validation)):
        if path is not None:
            like = read["real"].recipe.columns
            part = read_rows(path, f"--{name}", directory, text=text, label=label, like=like)
            read[name] = _named_alike(part, f"--{name}", list(class_counts(read["real"].rows[STRATUM])))
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


def read_rows(
    path: str, option: str, directory: str, *, text: list[str], label: str | None, like: Columns | None = None
) -> Read:
    """Reads a file, glob or directory through the ingest stage; ``directory``: a store that is thrown away.

    ``like``: the columns of the real rows, taken where this source has them too. Raises UserError where a column is not
    there or cannot be guessed, DataError as ingest does.
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
    columns, why = _columns(source, option, text, label, like)
    # No share of refused rows stops it: they are counted and shown, and nothing is published.
    recipe = Recipe("judge", source, columns, Target(per_class=1), (), refuse=Refuse(max_share=1.0))
    site = Site(Store(directory))
    ingested = gather_source(site, recipe)
    work = Work(site, site.store.local_scratch("judge"))
    summary = work.read_json(ingested, "summary.json")
    about = {"path": path, "text": list(columns.sources), "label": columns.label, "why": why}
    about |= {name: summary[name] for name in ("read", "taken", "refused")} | ({"skip_lines": skip} if skip else {})
    rows = work.read(ingested).select(real_schema(columns.fields).names)
    return Read(rows, recipe, about)


def _columns(
    source: SourceOptions, option: str, text: list[str], label: str | None, like: Columns | None
) -> tuple[Columns, str]:
    """The columns and where they stem from: named, as in the real rows, or guessed."""
    from augmill.flows.cli.init import choose_columns
    from augmill.tasks.sources import list_files, read_schema

    file = list_files(source)[0]
    if like is not None and {*like.sources, like.label, *text, label or like.label} <= set(read_schema(file, source)):
        return like, "as in the real rows"
    where = f"{file.name} ({option})"
    fix = "give --real, --synthetic and --validation the same column names"
    texts, chosen, _ = choose_columns(file, source, text, label, where=where, fix=fix)
    if like is not None and len(texts) != len(like.sources):
        raise UserError(
            f"expected {len(like.sources)} text column(s) as in the real rows, found {', '.join(texts)}",
            where=where,
            fix="name the columns alike and give --text",
        )
    return _make_columns(texts, chosen), "named" if text and label else "guessed"


def _make_columns(texts: list[str], label: str) -> Columns:
    from augmill.tasks.recipe.sections import Columns

    try:
        return Columns(text=texts[0] if len(texts) == 1 else tuple(texts), label=label)
    except ValueError as error:
        raise UserError(str(error), where="--text, --label", fix="name each column once") from error


def part_rows(read: dict[str, Read], directory: str, *, seed: int) -> Parted:
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
        fix = "check --label, or give more rows, and --validation rows that are neither copies of these nor of one template"
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
    return Parted(train, made, held_out, recipe.columns.fields, left)


def _synthetic(
    work: Work, recipe: Recipe, parted: Artifact, rows: pa.Table, train: pa.Table
) -> tuple[pa.Table, dict[str, int]]:
    """The synthetic rows that may count, with empty ``parent_ids``, and how many left for which reason.

    Those of labels that no train row has leave, those that the check `relations` refuses, and those that settle would
    call duplicates of one before them.
    """
    import polars as pl

    from augmill.tasks.checks import CHECKS
    from augmill.tasks.recipe.sections import Settle
    from augmill.tasks.stages.extensions import FITTED, check_config, extension_context
    from augmill.tasks.stages.fit import fit_check
    from augmill.tasks.stages.settle import SettleConfig, mark_duplicates

    left: Counter[str] = Counter()

    def keep(reasons: pa.Array | pa.ChunkedArray) -> None:
        nonlocal rows
        left.update(reasons.drop_null().to_pylist())
        rows = rows.filter(pc.is_null(reasons))

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
