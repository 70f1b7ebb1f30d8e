"""``augmill judge``: the gate alone, for rows made anywhere; no recipe, no store, nothing is published."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from augmill.flows.terminal import say

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
Metric = Annotated[str, typer.Option(help="accuracy or macro_f1.")]
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
    metric: Metric = "accuracy",
    seeds: Seeds = 10,
    seed: Seed = 0,
    report: Report = None,
    exit_code: ExitCode = "",
    as_json: AsJson = False,
) -> None:
    """Judges rows made anywhere: do they help, measured on real rows? Publishes nothing."""
    from augmill.flows.cli.judge_rows import part_rows, read_all
    from augmill.flows.cli.run import parse_exit_codes

    codes = parse_exit_codes(exit_code)
    options = _gate_options(rule=rule, min_gain=min_gain, margin=margin, metric=metric, seeds=seeds)
    chosen = _trainer(trainer)
    _require_writable(report)
    with tempfile.TemporaryDirectory(prefix="augmill-judge-") as directory:
        read = read_all(real, synthetic, validation, directory, text=text or [], label=label)
        rows = part_rows(read, seed=seed)
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

    from augmill.tasks.contracts import UserError
    from augmill.tasks.gate.judge import GateOptions

    for name in ("rule", "metric"):
        known = get_args(get_type_hints(GateOptions)[name])
        if given[name] not in known:
            raise UserError(f"expected {' or '.join(known)}, found {given[name]!r}", where=f"--{name}", fix="give one")
    try:
        return GateOptions(**given)
    except ValueError as error:
        raise UserError(
            str(error).removeprefix("gate."), where="augmill judge", fix="see augmill judge --help"
        ) from error


def _trainer(text: str) -> Any:
    """A trainer by name with its defaults, or the user's command. Raises UserError."""
    import difflib

    from augmill.tasks.contracts import UserError
    from augmill.tasks.trainers import TRAINERS

    try:
        if "{" in text:
            return TRAINERS["command"](TRAINERS["command"].Options(command=text))
        if text in TRAINERS and text != "command":
            return TRAINERS[text](TRAINERS[text].Options())
    except ValueError as error:
        raise UserError(str(error), where="--trainer", fix="see docs/recipe.md, Trainers") from error
    close = difflib.get_close_matches(text, [name for name in TRAINERS if name != "command"], n=1)
    hint = f"did you mean {close[0]!r}?" if close else "a command has places such as {train} and {predictions}"
    raise UserError(
        f"{text!r} is no trainer and no command; {hint}", where="--trainer", fix="see docs/recipe.md, Trainers"
    )


def _require_writable(report: Path | None) -> None:
    from augmill.tasks.contracts import UserError

    if report is not None and (report.is_dir() or not report.absolute().parent.is_dir()):
        raise UserError(
            "no file can be written there", where=f"--report {report}", fix="name a file in a directory that is there"
        )


def _measure(rows: Any, trainer: Any, options: Any, seed: int, directory: Path) -> Any:
    """The gate's evidence, with a line of progress on stderr."""
    from augmill.flows.progress import Progress
    from augmill.tasks.gate import judge as gate

    with Progress() as progress, progress.stage("judge", 3 * options.seeds, "trainings") as shown:
        return gate.evaluate(
            rows.train,
            rows.synthetic,
            rows.validation,
            trainer,
            options,
            seed=seed,
            fields=rows.fields,
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
    from augmill.tasks.contracts import UserError
    from augmill.tasks.report.report import render_report

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
    from augmill.tasks.contracts import STRATUM
    from augmill.tasks.rows.kinds.text import count_characters
    from augmill.tasks.rows.schema import class_counts, texts_of

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
