"""``augmill judge``: the gate alone, for rows made anywhere; no recipe, no store, nothing is published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from augmill.flows.columns import Asked
from augmill.flows.terminal import say, say_result
from augmill.tasks.boundary.processes import importing

SHOWN = 8  # labels or columns in a sentence

TextOption = Annotated[
    list[str] | None,
    typer.Option("--text", metavar="COLUMN", help="The text column. Give it twice for pairs of texts."),
]
LabelOption = Annotated[str | None, typer.Option("--label", metavar="COLUMN", help="The label column.")]
InputOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="COLUMN[:TYPE]",
        help="A column to learn from; may be repeated. TYPE: text, number, category or timestamp.  [default: guessed]",
    ),
]
TargetOption = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="COLUMN[:TYPE]",
        help="The column to predict. TYPE: label, or number for a regression.  [default: guessed]",
    ),
]
Paths = Annotated[str, typer.Option("--real", help="Labelled real rows: a file, glob or directory.")]
Made = Annotated[str, typer.Option("--synthetic", help="Labelled rows that somebody or something made.")]
Held = Annotated[
    str | None, typer.Option(help="Real rows to judge by, which the maker never saw; else a part of --real.")
]
TrainerOption = Annotated[
    str | None,
    typer.Option(
        help="What trains: tfidf for texts, boosting or linear for tables, cnn for pictures "
        "and sound, or your own training as a command; by default "
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
Early = Annotated[
    bool, typer.Option("--early/--all-runs", help="Train fewer where the others could hardly change the outcome.")
]
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
    early: Early = True,
    seed: Seed = 0,
    report: Report = None,
    exit_code: ExitCode = "",
    as_json: AsJson = False,
) -> None:
    """Measures whether rows you already have help, on real rows.

    The synthetic rows may come from anywhere. Publishes nothing.
    """
    with importing():
        from augmill.flows.cli.init import dataset_name
        from augmill.flows.cli.run import parse_exit_codes
        from augmill.flows.judge import judge_rows

    codes = parse_exit_codes(exit_code)
    judged = judge_rows(
        real, synthetic, validation, asked=Asked(text or [], label, input or [], target), trainer=trainer, seed=seed,
        report=report, dataset=dataset_name(synthetic),
        rule=rule, min_gain=min_gain, margin=margin, metric=metric, seeds=seeds, early=early,
    )  # fmt: skip
    result = judged.result
    if not as_json:
        say(*_text(result))
    say_result(result)
    raise typer.Exit(codes.get(result["outcome"], 0))


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
    from augmill.flows.judge import AS_REAL

    if "text" in about:
        return f"text {', '.join(about['text'])}, label {about['label']}, {about['why']}"
    if about["why"] == AS_REAL:
        return AS_REAL
    inputs = named([f"{name} {type}" for name, type in about["inputs"].items()], SHOWN)
    target = ", ".join(f"{name} {type}" for name, type in about["target"].items())
    return f"inputs {inputs}; target {target}; {about['why']}"


def _table(result: dict[str, Any]) -> list[str]:
    """The three arms: score, and gain over the other two, in the metric's unit."""
    from augmill.flows.cli.terminal import padded
    from augmill.flows.judge import arm_rows

    lines = [f"  {'trained on':<20}{result['judged_by']:>9}  {'over real rows alone':<24}over the placebo"]
    for name, score, *gains in arm_rows(result):
        cells = "".join(gain.ljust(24) for gain in gains)
        lines.append(f"  {padded(name, 20)}{score:>9}  {cells}".rstrip())
    return lines
