"""``augmill init``: a first recipe for a dataset, with its columns guessed."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import shlex
import textwrap
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from augmill.flows.cli.judge import InputOption, LabelOption, TargetOption, TextOption
from augmill.flows.columns import Asked, Chosen
from augmill.flows.terminal import say

SPLIT_OF = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "development"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SPLIT_COLUMN = re.compile(r"(^|_)(split|subset|fold|set)$", re.IGNORECASE)
USUAL_SHARE, MOST_REFUSED = 0.05, 0.5  # of refused rows: the recipe's default, and where the file is not the right one
UNBALANCED = 1.5  # largest class to smallest: below it there is nothing to balance
MOST_ASKED = 3  # times the train rows; balancing a class of 4 up to one of 100,000 is no start
NAMED = 8  # columns in a line
CSV_ENDINGS = (".data", ".dat", ".txt")  # by which old sets name what is a CSV file
BEGINNINGS = {
    "rules": "Word edits say nothing that your rows do not say already, so the gate will often refuse them. With a "
    "thesaurus of your own words they do.",
    "sequences": "Changed histories say little that your users do not say already, so the gate will often refuse them.",
    "resample": "Each new row is one of yours, slightly changed. The gate asks whether that helps more than weighting your rows.",
}


@dataclass
class Draft:
    """What is known of the recipe so far: the document, and a reason for what was found rather than chosen."""

    document: dict[str, Any]
    why: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def options(self) -> str:
        """By which columns such as these are named."""
        return "--input and --target" if "inputs" in self.document["columns"] else "--text and --label"


def register(app: typer.Typer) -> None:
    app.command("init")(init)


def init(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="Your labelled rows: a file, glob or directory, or an s3:// address.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write here.  [default: the data's name with .yaml]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Write every key, those left at their default as comments.")
    ] = False,
    text: TextOption = None,
    label: LabelOption = None,
    input: InputOption = None,
    target: TargetOption = None,
) -> None:
    """Writes a first recipe for your data, with its columns guessed.

    It says why it chose each column, and what you may want to change. --full writes every key with its default.
    """

    from augmill.flows.cli.terminal import shown, wrapped
    from augmill.tasks.errors import UserError

    asked = Asked(text or [], label, input or [], target)
    if "://" not in data and os.path.expanduser(data).startswith("~"):  # noqa: PTH111
        raise UserError("there is no such home directory", where=f"DATA {data}", fix="write the path out")
    name = dataset_name(data)
    path = out if out is not None else Path(f"{name}.yaml")
    if path.exists() and not force:
        raise UserError("this file exists already", where=str(path), fix="give --out OTHER, or --force to overwrite it")
    if not path.absolute().parent.is_dir():
        raise UserError("its directory does not exist", where=str(path), fix="create it, or give another --out")
    draft = draft_recipe(data, name, path.absolute().parent, asked)
    shown_data = shown(Path(data).name if "://" not in data else data)
    written = starter(draft, path.absolute().parent, data=shown_data, recipe=path.name, full=full)
    try:
        path.write_text(written, encoding="utf-8")
    except OSError as error:
        raise UserError(f"it cannot be written: {error.strerror}", where=str(path), fix="give another --out") from error
    out_lines = [f"Wrote {path}. Please check what was guessed:"]
    for key, value in draft.document["columns"].items():
        names = _named(value)
        out_lines += wrapped(f"{key}: {names} ({draft.why[f'columns.{key}']})")
    for note in draft.notes:
        out_lines += wrapped(note)
    out_lines += ["", f"Next     {shlex.join(['augmill', 'check', str(path)])}"]
    say(*out_lines)


def _named(columns: str | list[str] | dict[str, str]) -> str:
    from augmill.flows.cli.terminal import named

    if isinstance(columns, dict):
        return named([f"{name} {type}" for name, type in columns.items()], NAMED)
    return columns if isinstance(columns, str) else ", ".join(columns)


def dataset_name(data: str) -> str:
    """A dataset name from a path: of the file without its endings, or the directory above where that says little."""
    whole = data if "://" in data else os.path.normpath(Path(data).expanduser().absolute())
    parts = [part for part in whole.split("/") if part and not re.search(r"[*?\[]", part)]
    for part in reversed(parts):
        stem = re.sub(r"(\.(csv|tsv|jsonl|ndjson|json|parquet|pq|tar|tgz|gz|gzip|zst|zstd))+$", "", part.lower())
        name = re.sub(r"[^a-z0-9_-]+", "-", stem).strip("-_")[:64]
        if name and name not in (*SPLIT_OF, "data", "raw"):
            return name
    return "dataset"


def draft_recipe(data: str, name: str, base: Path, asked: Asked) -> Draft:
    """The recipe that ``augmill check`` accepts for this data. Raises as check does where there is none."""
    from augmill.flows.columns import choose_columns
    from augmill.tasks.errors import UserError
    from augmill.tasks.sources import SourceOptions, doubt_file

    as_csv = "://" not in data and data.lower().endswith(CSV_ENDINGS)
    try:
        source = SourceOptions(path=data, format="csv" if as_csv else "auto")
    except ValueError as error:
        raise UserError(str(error), where="DATA", fix="name a file or directory") from error
    files = _list(source)
    near = data if "://" in data else os.path.relpath(Path(data).expanduser(), base)
    # A path that climbs further says less than where the data is.
    path = near if not near.startswith("../../") else os.path.normpath(Path(data).expanduser().absolute())
    draft = Draft({"dataset": name, "source": {"path": path}, "columns": {}})
    if as_csv:
        draft.document["source"]["format"] = "csv"
    splits = split_files([each.name for file in files for each in file.members or (file,)])
    train = next((file for file in files if file.name.startswith(splits.get("train", "").rstrip("*"))), files[0])
    doubt = doubt_file(train, source)
    if doubt is not None and doubt.skip:
        source = dataclasses.replace(source, skip_lines=doubt.skip)
        draft.document["source"]["skip_lines"] = doubt.skip
        draft.why["source.skip_lines"] = plain(doubt.problem)
        draft.notes.append(f"{doubt.problem}; source.skip_lines was set to {doubt.skip}")
    told = _as_events(draft, train, source) if not (asked.text or asked.label or asked.inputs or asked.target) else None
    if told is not None:
        source, chosen = told
        files = _list(source)
    else:
        chosen = choose_columns(train, source, asked, where=train.name, fix=f"correct {asked.options}")
    draft.notes += chosen.notes
    source = dataclasses.replace(source, **chosen.source)
    draft.document["source"] |= chosen.source
    _write_columns(draft, chosen)
    _choose_splits(
        draft, files, source, splits, () if chosen.guessed else tuple(draft.document["columns"].get("inputs", ()))
    )
    _choose_generator(draft)
    _fit_to_data(draft, base)
    return draft


def _as_events(draft: Draft, file: Any, source: Any) -> tuple[Any, Chosen] | None:
    """(how the source is read, its columns), where the columns are a user, an item and a time; else None."""
    from augmill.tasks.sources import read_schema
    from augmill.tasks.sources.events import EVENTS, guess_events

    about = guess_events(read_schema(file, source))
    if about is None:
        return None
    named = {key: name for key in ("user", "item", "time", "value") if (name := getattr(about, key)) is not None}
    draft.document["source"] |= {"format": EVENTS, "events": named}
    draft.why["source.format"] = "its columns are a user, an item and a time"
    notes = [f"read as events: {', '.join(f'{name} is the {key}' for key, name in named.items())}"]
    if about.value is not None:
        notes.append(f"every event counts, whatever its {about.value}; source.events.min_value leaves low ones out")
    why = {
        "inputs": "what the user had, in the order of time",
        "target": "the last item of each user",
        "id": "a row is a user",
        "group": "users are held out, not events",
    }
    columns = {"id": "user", "group": "user", "inputs": {"history": "items"}, "target": {"next": "item"}}
    chosen = Chosen(columns, why, notes, {"id": None, "date": [], "why": {}})
    return dataclasses.replace(source, format=EVENTS, events=about), chosen


def _list(source: Any) -> list[Any]:
    """As ``list_files``, in words for who has no recipe yet. Raises UserError."""
    from augmill.tasks.errors import UserError
    from augmill.tasks.sources import list_files

    try:
        return list(list_files(source))
    except UserError as error:
        fix = error.fix.replace("source.path", "the path")
        raise UserError(error.problem, where=error.where, fix=fix) from error


def _write_columns(draft: Draft, chosen: Chosen) -> None:
    """The chosen columns into the draft, each with why it was chosen."""
    from augmill.flows.cli.schema import recipe_text

    columns, guess = draft.document["columns"], chosen.guess
    columns |= chosen.columns
    texts = columns.get("text")
    used = [*columns.get("inputs", ()), *columns.get("target", ()), columns.get("label")]
    used += texts if isinstance(texts, list) else [texts]
    if guess["id"] is not None and guess["id"] not in used:
        columns["id"] = guess["id"]
        draft.why["columns.id"] = plain(guess["why"][guess["id"]])
    if isinstance(texts, list) and len(texts) == 2:
        draft.document["task"] = "pair_classification"
    for key, reason in chosen.why.items():
        draft.why[f"columns.{key}"] = plain(reason)
    if guess["date"]:
        draft.why["columns.#partition"] = (
            "# this column holds dates; with it, `augmill run --as-of D` uses the rows up to D\n"
            + (f"#partition: {recipe_text(guess['date'][0])}")
        )


def _choose_generator(draft: Draft) -> None:
    """The first that serves these rows, needs no options and no large library; of pictures and sounds each needs one."""
    from augmill.flows.cli.schema import default_of
    from augmill.tasks.errors import UserError
    from augmill.tasks.generators import GENERATORS
    from augmill.tasks.recipe.recipe import rows_of_document
    from augmill.tasks.rows.kinds import KINDS

    rows = rows_of_document(draft.document)
    for name, kind in sorted(GENERATORS.items(), key=lambda item: bool(item[1].libraries)):
        free = all(default_of(item) is not dataclasses.MISSING for item in dataclasses.fields(kind.Options))
        light = not kind.libraries or any(
            KINDS[type].files for type in draft.document["columns"].get("inputs", {}).values()
        )
        if free and light and rows.served_whole(kind) and not kind(kind.Options()).wants_unlabelled():
            draft.document["generators"] = [{"use": name}]
            draft.why["generators"] = BEGINNINGS.get(name, "The first that serves these rows.")
            return
    raise UserError(
        f"no built-in generator makes rows of {rows}",
        where="--input, --target",
        fix="take columns of one kind: texts and a label, or numbers, categories and timestamps",
    )


def plain(text: str) -> str:
    """On one line, so that it can stand behind a key as a comment."""
    return " ".join(text.split())


def _choose_splits(draft: Draft, files: list[Any], source: Any, found: dict[str, str], inputs: tuple[str, ...]) -> None:
    """Splits that the source gives: by file, or by a column whose every value names one. ``inputs``: named as such."""
    splits: dict[str, Any] = {}
    columns = draft.document["columns"]
    used = [*inputs, *columns.get("target", ()), *(name for name in columns.values() if isinstance(name, str))]
    if found:
        splits = {"files": found}
    elif (column := split_column(files, source, used)) is not None:
        name, values = column
        columns.get("inputs", {}).pop(name, None)
        names = {value: split for value, split in values.items() if value != split}
        splits = {"column": name} | ({"names": names} if names else {})
        found = {split: value for value, split in values.items()}
    if not splits:
        return
    if "validation" not in found:
        # Something must judge, and a part of the given train rows would no longer be the given split.
        key = "files" if "files" in splits else "names"
        splits[key] = {k: "validation" if v == "test" else v for k, v in splits.get(key, {}).items()}
        if key == "files":
            splits[key] = {("validation" if k == "test" else k): v for k, v in found.items()}
        else:
            splits[key] |= {found["test"]: "validation"}
        draft.notes.append("there is no validation part, so the test rows judge, and none are left for a report alone")
    draft.document["splits"] = splits
    draft.notes.append(f"splits: as given, by {'file' if 'files' in splits else 'column ' + splits['column']}")


def split_files(names: list[str]) -> dict[str, str]:
    """split: pattern, where every file's name, or that of its directory, begins with the name of a split."""
    groups: dict[str, dict[str, list[str]]] = {}
    for name in names:
        first = name.split("/")[0]
        word = re.split(r"[^a-z]", first.lower())[0]
        if word not in SPLIT_OF:
            return {}
        pattern = f"{first}/*" if "/" in name else f"{first[: len(word)]}*"
        groups.setdefault(SPLIT_OF[word], {}).setdefault(pattern, []).append(name)
    if not {"train", "validation"} <= set(groups) and not {"train", "test"} <= set(groups):
        return {}
    if any(len(patterns) > 1 for patterns in groups.values()):
        return {}
    out = {}
    for split in ("train", "validation", "test"):
        for pattern, members in groups.get(split, {}).items():
            out[split] = members[0] if len(members) == 1 else pattern
    return out


def split_column(files: list[Any], source: Any, used: list[str]) -> tuple[str, dict[str, str]] | None:
    """(column, {value: split}) of a column named as one whose every value names a split, train and another at least."""
    from augmill.tasks.sources import read_batches, read_schema, scan_schema

    names = [n for n in read_schema(files[0], source) if SPLIT_COLUMN.search(n) and n not in used]
    for name in names:
        schema = scan_schema(files, source)
        values: set[Any] = set()
        for file in files:
            for batch in read_batches(file, source, [name], schema=schema):
                values |= set(batch.table[name].unique().to_pylist())
        splits = {str(value): SPLIT_OF.get(str(value).lower(), "") for value in values}
        taken = list(splits.values())
        if "train" in taken and len(set(taken)) == len(taken) > 1 and "" not in taken:
            return name, splits
    return None


def _fit_to_data(draft: Draft, base: Path) -> None:
    """Tries the draft on the whole source and sets what the rows ask for: rare classes, refused rows, target."""
    found = _try(draft, base)
    if {"duplicate_id", "no_id"} & set(found["source"]["refused"]):
        dropped = draft.document["columns"].pop("id")
        draft.notes.append(f"column {dropped} is not an id after all: a value occurs twice, or is missing")
        found = _try(draft, base)
    source, splits = found["source"], found["splits"]
    _allow_refused(draft, source)
    if splits["rare_classes"]:
        from augmill.flows.cli.terminal import named

        draft.document["labels"] = {"rare": "quarantine"}
        draft.notes.append(f"left out, with too few train rows: {named(splits['rare_classes'], 6)} (labels.rare)")
    _choose_target(draft, found)
    gate = found["gate"]
    if (gate["visible"] or 0) > 2 and gate["unit"] == "points":
        draft.notes.append(
            f"{gate['rows']:,} validation rows can prove a gain of roughly {gate['visible']:.1f} points or more, as "
            "an estimate before a first run; with `gate.folds: auto` the train rows judge too, at five times the work"
        )


def _choose_target(draft: Draft, found: dict[str, Any]) -> None:
    """Rare classes are filled up where that is no flood; bins of a number, which are even, get as many rows as they have."""
    counts = [row["train"] for row in found["classes"]]
    top, low, train = max(counts), min(counts), sum(counts)
    missing = sum(top - count for count in counts)
    labels = "label" in draft.document["columns"] or "label" in draft.document["columns"]["target"].values()
    balance = labels and top > UNBALANCED * low and missing <= MOST_ASKED * train
    draft.document["target"] = {"balance": "max"} if balance else {"multiply": 2.0}
    key = next(iter(draft.document["target"]))
    kind = "classes" if labels else f"{_word_of_stratum(draft)}s of the target"
    draft.why[f"target.{key}"] = f"{len(counts):,} {kind} with {low:,} to {top:,} train rows each"
    draft.why["target.#"] = "# or per_class, multiply, balance: one of the three"
    if labels:
        name = "columns.label" if "label" in draft.document["columns"] else "columns.target"
        classes = f"{len(counts) + len(found['splits']['rare_classes']):,} classes"
        draft.why[name] = re.sub(r"\d[\d,]* distinct values? in [\d,]+ rows", classes, draft.why[name])


def _word_of_stratum(draft: Draft) -> str:
    from augmill.tasks.contracts import FIRST_PROBLEM
    from augmill.tasks.problems import PROBLEMS, problem_learning

    (type,) = draft.document["columns"]["target"].values()
    return PROBLEMS[problem_learning(type) or FIRST_PROBLEM].stratum_word


def _try(draft: Draft, base: Path) -> dict[str, Any]:
    """The survey of the draft with every bound open. Few rows: the test share judges too. Raises as the survey."""
    from augmill.flows.cli.survey import survey
    from augmill.tasks.errors import DataError
    from augmill.tasks.recipe.recipe import build_recipe

    open_bounds = {"target": {"per_class": 1}, "labels": {"rare": "quarantine"}, "refuse": {"max_share": 1.0}}
    try:
        return survey(build_recipe(draft.document | open_bounds, base=base))
    except DataError as error:
        if error.where != "splits" or "splits" in draft.document:
            raise
    draft.document["splits"] = {"validation": 0.3, "test": 0.0}
    draft.notes.append("there are so few rows that all held-out ones must judge (splits.validation 0.3, test 0)")
    return survey(build_recipe(draft.document | open_bounds, base=base))


def _allow_refused(draft: Draft, source: dict[str, Any]) -> None:
    """Raises ``refuse.max_share`` to what these rows need, and says so. Raises DataError where most are refused."""
    from augmill.flows.cli.terminal import counted
    from augmill.tasks.errors import DataError

    refused = sum(source["refused"].values())
    share = refused / source["read"]
    if share <= USUAL_SHARE:
        return
    first = source["examples"][0]
    if share > MOST_REFUSED:
        raise DataError(
            f"{refused:,} of {source['read']:,} rows could not be used ({counted(source['refused'])})",
            where=f"{first['file']} {first['location']} is the first",
            fix=f"name other columns with {draft.options}, or repair the file",
        )
    draft.document["refuse"] = {"max_share": math.ceil(100 * share) / 100}
    draft.notes.append(
        f"{share:.0%} of the rows are refused ({counted(source['refused'])}), so refuse.max_share was raised"
    )


# --- The first recipe that ``augmill init`` writes: what was found in the data, every default beside it, as -----------


SHORT_HEAD = """\
# How {data} is augmented. A first draft by `augmill init`: edit what does not fit.
#
# `augmill check {recipe}` shows what it means for your data; `augmill run {recipe}` makes a release.
# All other keys have defaults: docs/recipe.md explains them, `augmill init --full` writes them out.
"""
SAID = {
    "columns": "Which column is what. `group: COLUMN` keeps rows that belong together in one split.",
    "target": "How many rows each class gets: `balance` fills up small classes, `multiply` and `per_class` set other numbers.",
    "splits": "Which rows train and which judge. The validation rows decide; the test rows are only reported.",
    "labels": "`rare: quarantine` leaves out classes with fewer than `min_rows` (2) train rows; `stop` refuses to run.",
    "refuse": "A run stops if a larger share of the source rows cannot be used.",
}
THESAURUS = "# thesaurus: words.csv  # words that may replace each other, one group a line: parcel,package,delivery"
OTHER = "# trainer: linear  # judge by another training, or by your own: {command: ...} (docs/recipe.md)"
OWN = "# trainer: {command: ...}  # judge by your own training (docs/recipe.md)"  # where no other serves
OFTEN = f"""
# Often changed: take the `# ` away.
# gate: {{folds: auto}}  # few held-out rows: the train rows judge too, at five times the work
{OTHER}
# run: {{store: /data/augmill}}  # where releases go: a directory, or s3://, gs:// or az://; else ./augmill-store
"""
WIDTH = 100
# Sections that show only what was found; docs/recipe.md has the rest of their keys.
SHORT = ("source", "columns", "target")
HEAD = """\
# A recipe for {data}, written by `augmill init`.
#
# `augmill check {recipe}` shows what it means for your data; `augmill run {recipe}` goes from source to release.
# A line that begins with `#` and a word is a default: take the `#` away (and that of its section) to change it.
# docs/recipe.md and `augmill schema` have every key.
"""
REST = "# Everything below is left at its default."


def starter(draft: Draft, base: Path, *, data: str, recipe: str, full: bool) -> str:
    """The recipe's text: what was found, with its reasons; ``full``: every other key of such rows too, as a comment."""
    from augmill.tasks.recipe.recipe import build_recipe

    built = build_recipe(draft.document, base=base)
    lines = _full(draft, built, data, recipe) if full else _short(draft, built, data, recipe)
    return "\n".join(lines) + "\n"


def _short(draft: Draft, built: Any, data: str, recipe: str) -> list[str]:
    """What was found, and beneath it, as comments, what one changes first."""
    from augmill.flows.cli.schema import yaml_text
    from augmill.tasks.recipe.recipe import Recipe, rows_of
    from augmill.tasks.trainers import TRAINERS

    document, why = draft.document, draft.why
    lines = SHORT_HEAD.format(data=data, recipe=recipe).splitlines()
    for item in dataclasses.fields(Recipe):
        name = item.name
        if name not in document:
            continue
        value, said = document[name], SAID.get(name, "")
        if name == "generators":
            others = ", ".join(_others(value, rows_of(built)))
            said = why[name] + (f" Other generators for such rows: {others} (docs/generators.md)." if others else "")
        lines += ["", *(_prose(said, "") if said else [])]
        if name == "generators":
            lines += ["generators:", *(f"  - use: {entry['use']}" for entry in value)]
            lines += [f"    {THESAURUS}"] if value == [{"use": "rules"}] else []
        elif isinstance(value, dict):
            kind = typing.get_type_hints(Recipe)[name]
            given = [part for part in dataclasses.fields(kind) if part.name in value]
            lines += [f"{name}:", *(_key("  ", part, value, why, f"{name}.") for part in given)]
            told = why.get(f"{name}.#partition", "").replace("#partition", "# partition")
            lines += [f"  {line}" for line in told.splitlines()]
        else:
            lines.append(f"{name}: {yaml_text(value)}")
    served = [name for name, each in TRAINERS.items() if rows_of(built).served_whole(each) and name != "command"]
    other = next((name for name in served if name != built.trainer.use), None)
    return [*lines, *OFTEN.replace(OTHER, OWN if other is None else OTHER.replace("linear", other)).splitlines()]


def _full(draft: Draft, built: Any, data: str, recipe: str) -> list[str]:
    """Every key of such rows in the reference's order, those left at their default as comments."""
    from augmill.tasks.recipe.recipe import Recipe, rows_of

    document, why = draft.document, draft.why
    rows = rows_of(built)
    hints = typing.get_type_hints(Recipe)
    fields = {item.name: item for item in dataclasses.fields(Recipe)}
    order = [name for name in fields if name in document] + [name for name in fields if name not in document]
    lines = HEAD.format(data=data, recipe=recipe).splitlines()
    for position, name in enumerate(order):
        if position == len(document):
            lines += ["", REST]
        lines += ["", *_prose(fields[name].metadata["help"], "")]
        if name == "generators":
            lines += _generators(document[name], why, rows)
        elif name == "checks":
            lines += _checks(rows)
        elif name == "trainer":
            lines += ["#trainer:", f"  #use: {built.trainer.use}"]
        elif name == "task" and name not in document:
            lines.append(f"#task: {built.task}")  # which follows from what is learnt
        elif dataclasses.is_dataclass(hints[name]):
            lines += _section(name, hints[name], document.get(name), why)
        else:
            lines += [_key("", fields[name], document, why)]
    return lines


def _prose(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ", break_on_hyphens=False
    )


def _section(name: str, kind: Any, given: dict[str, Any] | None, why: dict[str, str]) -> list[str]:
    """The section's line and its keys, those left at their default as comments."""
    lines = [f"{name}:" if given is not None else f"#{name}:"]
    for item in dataclasses.fields(kind):
        if name in SHORT and item.name not in (given or {}):
            continue
        lines += _prose(item.metadata["help"], "  ")
        lines.append(_key("  ", item, given or {}, why, f"{name}."))
    for key, text in why.items():
        if key.startswith(f"{name}.#"):
            lines += ["  " + line for line in text.splitlines()]
    return lines


def _key(indent: str, item: dataclasses.Field[Any], given: dict[str, Any], why: dict[str, str], above: str = "") -> str:
    from augmill.flows.cli.schema import default_of, recipe_text, yaml_text

    if item.name not in given:
        return f"{indent}#{item.name}: {yaml_text(default_of(item))}"
    reason, value = why.get(f"{above}{item.name}", ""), given[item.name]
    comment = f"  # {reason}" if reason else ""
    if isinstance(value, dict) and item.name == "inputs":  # a line each, to be taken out by hand
        parts = [f"{indent}  {yaml_text(key)}: {yaml_text(part)}" for key, part in value.items()]
        return "\n".join([f"{indent}{item.name}:{comment}", *parts])
    return f"{indent}{item.name}: {recipe_text(value)}{comment}"


def _generators(chosen: list[dict[str, Any]], why: dict[str, str], rows: Any) -> list[str]:
    """The chosen generators with the options they leave at their default; the others that serve the rows by name."""
    from augmill.flows.cli.schema import about
    from augmill.tasks.generators import GENERATORS

    lines = ["generators:"]
    for entry in chosen:
        lines += [*_prose(why["generators"], "  "), f"  - use: {entry['use']}"]
        for item in dataclasses.fields(GENERATORS[entry["use"]].Options):
            lines += _prose(item.metadata["help"], "    ")
            lines.append(_key("    ", item, entry, {}))
    for name in _others(chosen, rows):
        lines += _prose(f"`- use: {name}`: {about(GENERATORS[name])}", "  ")
    return lines


def _others(chosen: list[dict[str, Any]], rows: Any) -> list[str]:
    """The other generators that serve such rows."""
    from augmill.tasks.generators import GENERATORS

    used = [entry["use"] for entry in chosen]
    return [name for name, kind in GENERATORS.items() if name not in used and rows.served_whole(kind)]


def _checks(rows: Any) -> list[str]:
    from augmill.flows.cli.schema import default_of, yaml_text
    from augmill.tasks.checks import CHECKS

    lines = ["#checks:"]
    for name, kind in CHECKS.items():
        if not rows.served_in_part(kind) or not kind.always:
            continue
        options = {item.name: default_of(item) for item in dataclasses.fields(kind.Options)}
        lines.append(f"  #{name}: {yaml_text(options)}")
    return lines
