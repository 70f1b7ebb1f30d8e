"""``augmill check``: what a recipe means for its data, before anything is generated; it touches nothing."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from augmill.flows.cli.costs import estimate, trainer_bytes
from augmill.flows.cli.run import RecipePath, SetOption, StoreOption
from augmill.flows.terminal import print_lines, say
from augmill.tasks.boundary.processes import importing

if TYPE_CHECKING:
    from augmill.tasks.gate.gauge import Gauge
    from augmill.tasks.recipe.recipe import Recipe

SHOWN = 40  # classes; of more, the largest and the smallest
NAMED = 6  # things named in a sentence
FILES = 5
TWINS = 0.3  # of the train rows: where more are near held-out rows, advice is due (the public sets have 1 to 3 %)
HOPELESS = 10.0  # points: few trainings on more rows gain so much
SLOW = 3600.0  # seconds from twice which a time is told in hours
MUCH = 2e9  # bytes of memory worth a word


def register(app: typer.Typer) -> None:
    app.command("check")(check)


def check(
    recipe: RecipePath,
    changes: SetOption = None,
    store: StoreOption = None,
    as_of: Annotated[
        str | None,
        typer.Option(
            "--as-of", metavar="PARTITION", help="Use the rows up to the end of this partition, such as a date."
        ),
    ] = None,
    show_resolved: Annotated[
        bool, typer.Option("--resolved", help="Print the recipe as it will be used too, with every default.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Shows what a recipe means for your data. Changes nothing.

    Rows and classes, how many rows a run will make, how small a gain it can prove, how long it will take, and what to
    do next.
    """
    with importing():
        from augmill.flows.cli.survey import store_facts, survey
        from augmill.tasks.recipe.layers import read_document
        from augmill.tasks.recipe.recipe import load_recipe

    loaded = load_recipe(recipe, store=store, changes=changes)
    found = survey(loaded, as_of=as_of) | {"store": store_facts(loaded, as_of)}
    found |= {"time": estimate(loaded, found), "trainer_bytes": trainer_bytes(loaded, found)}
    given = [*(["--store", store] if store else []), *(["--as-of", as_of] if as_of else [])]
    found |= {"mend": mend(loaded, found), "next": shlex.join(["augmill", "run", recipe, *given])}
    entries = resolved(loaded, read_document(recipe, changes or ()).value, store=store)
    if as_json:
        say(json.dumps(found | nested(entries), ensure_ascii=False, sort_keys=True))
        return
    out = _head(found)
    for part in (_source, _rows, _splits, _classes, _plan, _gate, _time, _store):
        out += ["", *part(found)]
    if show_resolved:
        out += ["", "Recipe, as it will be used", *(f"  {line}" for line in recipe_lines(entries))]
    say(*out)
    print_lines(
        [[("", "")], *([(line, "yellow")] for line in _mend_lines(found)), [(f"Next     {found['next']}", "bold")]]
    )


def mend(recipe: Recipe, found: dict[str, Any]) -> list[str]:
    """What to mend before a run that would end badly: one sentence for each, the worst first."""
    plan, gate = found["plan"], found["gate"]
    if not plan["target"]:
        why = plan["nothing_to_make"].removeprefix("nothing to make: ").removesuffix("; nothing was asked for")
        return [f"A run would make no rows: {why}. Raise the target (target, mix.max_ratio)."]
    if (gate["visible"] or 0) > HOPELESS and gate["unit"] == "points":
        more = "" if gate["folds"] else ", or let the train rows judge too (gate: {folds: auto})"
        return [
            f"A run would hardly prove anything: {gate['rows']:,} rows judge, which prove only gains of "
            f"roughly {gate['visible']:.1f} points or more. Give more held-out rows{more}."
        ]
    return []


def _mend_lines(found: dict[str, Any]) -> list[str]:
    from augmill.flows.cli.terminal import shown, wrapped

    return [line for text in found["mend"] for line in wrapped(shown(text), " " * 9, "First    ")]


def _head(found: dict[str, Any]) -> list[str]:
    """The whole in a sentence or two."""
    from augmill.flows.cli.terminal import wrapped

    rows, plan, gate = found["splits"]["rows"], found["plan"], found["gate"]
    when = "" if found["snapshot"] == "all" else f", as of {found['snapshot']}"
    labels = found["rows"]["learnt"]["type"] == "label"
    classes = f" in {len(found['classes']):,} classes" if labels else ""
    text = f"{found['dataset']}{when}: {rows['train']:,} train rows{classes}."
    if plan["target"]:
        known = sum(part["seconds"] or 0 for part in found["time"])
        unknown = any(part["seconds"] is None for part in found["time"])
        takes = f"at least {duration(known)}" if unknown else f"about {duration(known)}"
        text += f" A run makes {plan['target']:,} more and takes {takes}."
    if gate["visible"] is not None:
        gain = f"{_gauge(gate).shown(gate['visible'])} {_gauge(gate).words}"
        text += f" It can prove a gain of roughly {gain} or more: an estimate, until a first run has measured."
    return wrapped(text, "", "")


def _source(found: dict[str, Any]) -> list[str]:
    from augmill.flows.cli.terminal import counted, shown, wrapped

    source, files = found["source"], found["files"]
    lines = ["Source"]
    for file in files[:FILES]:
        how = [file["format"], *([f"{int(file['members']):,} files"] if "members" in file else [])]
        if "encoding" in file:
            how.append(f"{file['encoding']} ({file['encoding_why']})")
        if "delimiter" in file:
            how.append(f"delimiter {file['delimiter']!r} ({file['delimiter_why']})")
        lines += wrapped(f"{shown(file['file'])}: {', '.join(how)}", "    ", "  ")
        if "doubt" in file:
            lines += wrapped(shown(file["doubt"]), "    ", "    ")
    if len(files) > FILES:
        lines.append(f"  and {len(files) - FILES:,} more files")
    refused = sum(source["refused"].values())
    reasons = f" ({counted(source['refused'])})" if refused else ""
    lines += wrapped(f"{source['read']:,} rows read: {source['taken']:,} used, {refused:,} refused{reasons}")
    for example in source["examples"][:3]:
        detail = f" ({example['detail']})" if example["detail"] else ""
        lines += wrapped(f"{example['file']} {example['location']}: {example['reason']}{detail}", "      ", "    ")
    if source["labels_coerced_from_float"] and found["rows"]["learnt"]["type"] == "label":
        lines.append(f"  {source['labels_coerced_from_float']:,} labels are numbers like 3.0 and were read as 3")
    for warning in source.get("warnings", ()):
        lines += wrapped(f"Warning: {shown(warning, 400)}")
    return lines + (wrapped(f"{found['source_warning']}.") if found["source_warning"] else [])


def _rows(found: dict[str, Any]) -> list[str]:
    """What they are made of, what serves them, and what stands aside."""
    from augmill.flows.cli.terminal import counted, named, shown, wrapped

    rows = found["rows"]
    learnt = rows["learnt"]
    lines = [f"Rows: {rows['problem'].replace('_', ' ')} of {' and '.join(rows['kinds'])}"]
    lines += wrapped(
        shown(
            f"columns to learn from: {counted(dict(Counter(rows['inputs'].values())))}; to predict: {learnt['column']} "
            f"({learnt['type']})"
        )
    )
    if missing := rows["missing"]:
        cells = list(dict.fromkeys(cell or "empty" for of in missing.values() for cell in of["cells"]))
        of = {name: column["rows"] for name, column in missing.items()}
        lines += wrapped(shown(f"missing values: {counted(of)} (cells: {named(cells, NAMED)})"))
    if rows["exact"]:
        lines += wrapped(
            f"rows of {' and '.join(rows['exact'])} are equal or they are not: there are no near-duplicates"
        )
    for what, names in rows["serve"].items():
        aside = _aside(rows["aside"]) if what == "checks" else ""
        lines += wrapped(f"{what} for such rows: {', '.join(names)}{aside}", "    ", "  ")
    return lines


def _aside(checks: dict[str, str]) -> str:
    of: dict[str, list[str]] = {}
    for name, why in checks.items():
        of.setdefault(why, []).append(name)
    told = "; ".join(f"{', '.join(names)} ({why})" for why, names in of.items())
    return f"; not used: {told}" if told else ""


def _splits(found: dict[str, Any]) -> list[str]:
    from augmill.flows.cli.terminal import counted, named, wrapped

    splits = found["splits"]
    rows = splits["rows"]
    lines = [f"Splits, by {splits['by']}"]
    lines.append("  " + ", ".join(f"{name} {rows[name]:,}" for name in ("train", "validation", "test")))
    held_back = {reason: count for reason, count in splits["held_back"].items() if reason != "rare_class"}
    if held_back:
        left = sum(held_back.values())
        lines += wrapped(
            f"{left:,} of {splits['train_before_leaving']:,} train rows are left out because they equal or resemble a "
            f"held-out row: {counted(held_back)}"
        )
        if left > TWINS * splits["train_before_leaving"]:
            lines += wrapped(
                "That is a lot, as of rows made from one template. A group column (columns.group) keeps related rows in one "
                "split; splits.near says how similar is too similar."
            )
    if splits["rare_classes"]:
        lines += wrapped(f"classes left out, as they have too few train rows: {named(splits['rare_classes'], NAMED)}")
    if splits["unlabelled"]["rows"] or splits["unlabelled"]["held_back"]:
        free = splits["unlabelled"]
        near = (
            f"; {free['held_back']:,} more are left out, as they equal or resemble a held-out row"
            if free["held_back"]
            else ""
        )
        lines.append(f"  {free['rows']:,} unlabelled rows{near}")
    if splits["excluded_texts"]:
        lines.append(f"  {splits['excluded_texts']:,} texts (splits.heldout_exclude) are kept out of train")
    return lines


def _classes(found: dict[str, Any]) -> list[str]:
    from augmill.flows.cli.terminal import shown, table
    from augmill.tasks.contracts import FIRST_PROBLEM
    from augmill.tasks.problems import PROBLEMS, problem_learning

    classes = found["classes"]
    columns = ("train", "target", "validation", "test")
    rows = [(row["label"], *(f"{row[name]:,}" for name in columns), "" if row["judged"] else "*") for row in classes]
    total = ("all", *(f"{sum(row[name] for row in classes):,}" for name in columns), "")
    longest = max(len(shown(row["label"])) for row in classes)
    type, column = (found["rows"]["learnt"][key] for key in ("type", "column"))
    word = PROBLEMS[problem_learning(type) or FIRST_PROBLEM].stratum_word
    lines = [
        f"Classes ({len(classes):,})"
        if type == "label"
        else f"{word.capitalize()}s of {shown(column)} ({len(classes):,})"
    ]
    body = table(
        (word, "train", "to make", "validation", "test", ""),
        [*rows, total],
        min(40, max(12, 2 * longest)),
    )
    if len(classes) > SHOWN:
        half = SHOWN // 2
        body[1 + half : 1 + len(classes) - half] = [f"  ... {len(classes) - SHOWN:,} more in between; --json lists all"]
    lines += [line.rstrip() for line in body]
    few = sum(not row["judged"] for row in classes)
    if few:
        lines.append(f"  * too few rows to be judged by itself: {few:,} of {len(classes):,} (see Gate)")
    return lines


def _plan(found: dict[str, Any]) -> list[str]:
    from augmill.flows.cli.terminal import shown, wrapped

    plan = found["plan"]
    if not plan["target"]:
        return ["Plan", *wrapped(shown(f"{plan['nothing_to_make']}. Raise the target if more rows are wanted."))]
    lines = ["Plan", *wrapped(f"A run makes rows until {plan['target']:,} have passed all checks.")]
    for name, count in plan["asked_first"].items():
        lines += wrapped(
            f"{name} makes {count:,} in the first round, to fill its share of {plan['asked_at_least'][name]:,}."
        )
    if plan["policy"] == "adaptive":
        lines += wrapped(
            f"Policy adaptive: the first round makes {plan['explore']:.0%} of each target, by share. Until round "
            f"{plan['adaptive_rounds']} the rest is divided by what passed the checks and what helped on parts of train, so "
            "a generator's share is where it starts from, no bound."
        )
    return lines + wrapped(
        f"The first round is cut into {plan['shards_first']:,} shard(s). A run ends after {plan['max_rounds']} rounds or "
        f"{plan['asked_at_most']:,} rows made, whatever has passed by then."
    )


def _gate(found: dict[str, Any]) -> list[str]:
    from augmill.flows.cli.terminal import named, wrapped

    gate = found["gate"]
    asks = "must be proven to help" if gate["rule"] == "superior" else "must be proven to do no harm"
    lines = [f"Gate: the new rows {asks}, by {gate['metric']} (rule {gate['rule']})", *_sight(gate)]
    few = [row["label"] for row in found["classes"] if not row["judged"]]
    if few:
        least = gate["min_heldout_per_class"]
        lines += wrapped(
            f"With fewer than {least} rows to judge by, these are not judged by themselves: {named(few, NAMED)}"
        )
    return lines


def _sight(gate: dict[str, Any]) -> list[str]:
    """What the held-out rows can show, and what that assumes."""
    from augmill.flows.cli.terminal import shown, wrapped
    from augmill.tasks.gate.verdict import true_effect

    gauge = _gauge(gate)
    if gate["visible"] is None:
        return wrapped(
            f"How small a gain in {gauge.title} {gate['rows']:,} rows can prove is not known before something is trained."
        )
    who = "validation rows" if not gate["folds"] else f"rows (validation, and train in {gate['folds']} folds)"
    visible, passes = (f"{gauge.shown(gate[name])} {gauge.words}" for name in ("visible", "passes"))
    lines = wrapped(f"With {gate['rows']:,} {who}, a true gain of {visible} is proven four times in five.")
    if gate["rule"] == "not_worse":
        lines += wrapped(f"As often, {gate['sight']}. It need not gain anything.")
    elif gate["bar"] > 0:
        lines += wrapped(f"To pass min_gain {gate['bar']:g}, the true gain must be about {passes}.")
    if gate["rows_for_min_gain"]:
        lines += wrapped(
            f"That is too few for min_gain: to prove a gain of {gauge.amount(gate['bar'])} takes about "
            f"{gate['rows_for_min_gain']:,} rows."
        )
    if gate["rows_needed"] > gate["rows"]:
        effect = true_effect(gate["further"], gauge)
        lines += wrapped(f"For {effect} that takes about {gate['rows_needed']:,} rows.")
    return lines + wrapped(f"({shown(gate['assumed'])})")


def _gauge(gate: dict[str, Any]) -> Gauge:
    from augmill.flows.cli.terminal import shown
    from augmill.tasks.gate.gauge import Gauge

    return Gauge(gate["metric"], gate["title"], unit=shown(gate["unit"]))


def _time(found: dict[str, Any]) -> list[str]:
    from augmill.flows.cli.terminal import padded, shown, wrapped

    lines = ["Time of a first run on 2 cores, roughly (it may be off by a factor of three)"]
    for part in found["time"]:
        lines.append(f"  {padded(part['stage'], 20)}{duration(part['seconds']):>10}  {shown(part['basis'], 45)}")
    known = sum(part["seconds"] or 0 for part in found["time"])
    more = any(part["seconds"] is None for part in found["time"])
    lines.append(f"  {padded('total', 20)}{duration(known):>10}" + ("  and the time that is not known" if more else ""))
    if found["trainer_bytes"] > MUCH:
        lines += wrapped(
            f"The built-in trainer would need about {found['trainer_bytes'] / 1e9:.0f} GB of memory; `trainer: {{command: "
            "...}` names your own."
        )
    return lines


def duration(seconds: float | None) -> str:
    """A rough time in words: two figures of it are already too many."""
    if seconds is None:
        return "?"
    if seconds < 1:
        return "< 1 s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * SLOW else f"{seconds / 3600:.1f} h"


def _store(found: dict[str, Any]) -> list[str]:
    from augmill.flows.cli.terminal import wrapped

    store = found["store"]
    current = f"; current release {store['current']}" if store["current"] else ""
    return ["Store", *wrapped(f"{store['root']}: {store['state']}{current}")]


# --- A recipe as it will be used: every key with its value, and whether the value is a default ------------------------


@dataclass(frozen=True)
class ResolvedKey:
    """One key: the sections above it and its name, its value (None for a section's own line), where it stems from."""

    path: tuple[str | int, ...]
    value: Any
    default: bool
    section: bool = False


def resolved(recipe: Recipe, given: dict[str, Any], *, store: str | None = None) -> list[ResolvedKey]:
    """Every key of the recipe in the reference's order. ``given``: the document as it was read; ``store``: --store."""
    if store is not None:
        given = given | {"run": (given.get("run") or {}) | {"store": store}}
    entries: list[ResolvedKey] = []
    for key, value in _fields(recipe):
        if key == "generators":
            entries.append(ResolvedKey((key,), None, False, section=True))
            for index, (choice, document) in enumerate(zip(value, given[key], strict=True)):
                entries.append(ResolvedKey((key, index, "use"), choice.use, False))
                entries.append(ResolvedKey((key, index, "share"), choice.share, "share" not in document))
                entries += _walk(choice.options, document, (key, index))
        elif key == "trainer":
            document = given.get(key, {})
            entries.append(ResolvedKey((key,), None, key not in given, section=True))
            entries.append(ResolvedKey((key, "use"), value.use, key not in given))
            entries += _walk(value.options, document, (key,))
        elif key == "checks":
            document = given.get(key) or {}
            entries.append(ResolvedKey((key,), None, key not in given, section=True))
            off = {name: False for name in document if name not in value}
            entries += _walk(value | off, document, (key,))
        else:
            entries += _walk({key: value}, given, ())
    return entries


def _walk(value: Any, given: Any, above: tuple[str | int, ...]) -> Iterator[ResolvedKey]:
    given = given if isinstance(given, dict) else {}
    for key, part in value.items() if isinstance(value, dict) else _fields(value):
        if dataclasses.is_dataclass(part):
            yield ResolvedKey((*above, key), None, key not in given, section=True)
            yield from _walk(part, given.get(key), (*above, key))
        else:
            yield ResolvedKey((*above, key), part, key not in given)


def _fields(value: Any) -> list[tuple[str, Any]]:
    return [(item.name, getattr(value, item.name)) for item in dataclasses.fields(value)]


def recipe_lines(entries: Iterable[ResolvedKey]) -> list[str]:
    """The recipe as YAML that loads again; a default is marked at the end of its line."""
    from augmill.flows.cli.schema import recipe_text

    lines = []
    for entry in entries:
        indent = "  " * (len(entry.path) - 1)
        if any(isinstance(part, int) for part in entry.path):
            indent = indent[:-2] + ("- " if entry.path[-1] == "use" else "  ")
        mark = "  # default" if entry.default else ""
        value = "" if entry.section else f" {recipe_text(entry.value)}"
        lines.append(f"{indent}{entry.path[-1]}:{value}{mark}")
    return lines


def nested(entries: Iterable[ResolvedKey]) -> dict[str, Any]:
    """The same as one document, and under ``defaults`` the dotted names of the keys that were not given."""
    document: dict[str, Any] = {}
    defaults = []
    for entry in entries:
        place: Any = document
        for part, below in zip(entry.path, entry.path[1:], strict=False):
            empty: Any = [] if isinstance(below, int) else {}
            if isinstance(place, list):
                if part == len(place):
                    place.append(empty)
                place = place[int(part)]
            else:
                place = place.setdefault(part, empty)
        if not entry.section:
            place[entry.path[-1]] = list(entry.value) if isinstance(entry.value, tuple) else entry.value
            if entry.default:
                defaults.append(".".join(str(part) for part in entry.path))
    return {"recipe": document, "defaults": defaults}
