"""``augmill check``: what a recipe means for its data, before anything is generated; it touches nothing."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from augmill.flows.cli.run import RecipePath, StoreOption
from augmill.flows.terminal import say

SHOWN = 40  # classes; of more, the largest and the smallest
NAMED = 6  # things named in a sentence
FILES = 5
TWINS = 0.3  # of the train rows: where more are near held-out rows, advice is due (the public sets have 1 to 3 %)
SLOW = 3600.0  # seconds from twice which a time is told in hours
MUCH = 2e9  # bytes of memory worth a word


def register(app: typer.Typer) -> None:
    app.command("check")(check)


def check(
    recipe: RecipePath,
    store: StoreOption = None,
    as_of: Annotated[
        str | None, typer.Option("--as-of", help="Use the rows of partitions up to and with this one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
) -> None:
    """Shows what a recipe means for its data: rows, classes, plan, the gain the gate can see. Touches nothing."""
    from augmill.flows.cli.estimate import estimate, trainer_bytes
    from augmill.flows.cli.resolved import nested, recipe_lines, resolved
    from augmill.flows.cli.survey import store_facts, survey
    from augmill.tasks.recipe.recipe import load_recipe
    from augmill.tasks.recipe.recipe_yaml import read_yaml

    loaded = load_recipe(recipe, store=store)
    found = survey(loaded, as_of=as_of) | {"store": store_facts(loaded, as_of)}
    found |= {"time": estimate(loaded, found), "trainer_bytes": trainer_bytes(loaded, found)}
    entries = resolved(loaded, read_yaml(recipe)[0], store=store)
    if as_json:
        say(json.dumps(found | nested(entries), ensure_ascii=False, sort_keys=True))
        return
    out = [f"{found['dataset']}, as of {found['snapshot']}" if as_of else str(found["dataset"])]
    for part in (_source, _splits, _classes, _plan, _gate, _time, _store):
        out += ["", *part(found)]
    out += ["", "Recipe, as it will be used", *(f"  {line}" for line in recipe_lines(entries))]
    say(*out)


def _source(found: dict[str, Any]) -> list[str]:
    from augmill.flows.cli.terminal import counted, shown, wrapped

    source, files = found["source"], found["files"]
    lines = ["Source"]
    for file in files[:FILES]:
        how = [file["format"]]
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
    reasons = f": {counted(source['refused'])}" if refused else ""
    lines += wrapped(f"{source['read']:,} rows read, {source['taken']:,} taken, {refused:,} refused{reasons}")
    for example in source["examples"][:3]:
        detail = f" ({example['detail']})" if example["detail"] else ""
        lines += wrapped(f"{example['file']} {example['location']}: {example['reason']}{detail}", "      ", "    ")
    if source["labels_coerced_from_float"]:
        lines.append(f"  {source['labels_coerced_from_float']:,} labels are numbers like 3.0 and were read as 3")
    for warning in source.get("warnings", ()):
        lines += wrapped(f"Warning: {shown(warning, 400)}")
    return lines + (wrapped(f"{found['source_warning']}.") if found["source_warning"] else [])


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
            f"{left:,} of {splits['train_before_leaving']:,} train rows leave because they stand in held-out sets or too "
            f"near them: {counted(held_back)}"
        )
        if left > TWINS * splits["train_before_leaving"]:
            lines += wrapped(
                "So many are near each other as rows made from one template are: a group column (columns.group) keeps them in "
                "one split, and splits.near says what is near."
            )
    if splits["rare_classes"]:
        lines += wrapped(f"too few train rows, so left out: {named(splits['rare_classes'], NAMED)}")
    if splits["unlabelled"]["rows"] or splits["unlabelled"]["held_back"]:
        free = splits["unlabelled"]
        near = f"; {free['held_back']:,} more stand in or near a held-out row" if free["held_back"] else ""
        lines.append(f"  {free['rows']:,} unlabelled rows{near}")
    if splits["excluded_texts"]:
        lines.append(f"  {splits['excluded_texts']:,} texts of splits.heldout_exclude are kept out of train")
    return lines


def _classes(found: dict[str, Any]) -> list[str]:
    from augmill.flows.cli.terminal import shown, table

    classes = found["classes"]
    columns = ("train", "target", "validation", "test")
    rows = [(row["label"], *(f"{row[name]:,}" for name in columns), "" if row["judged"] else "*") for row in classes]
    total = ("all", *(f"{sum(row[name] for row in classes):,}" for name in columns), "")
    longest = max(len(shown(row["label"])) for row in classes)
    lines = [f"Classes ({len(classes):,})"]
    body = table(("class", *columns, ""), [*rows, total], min(40, max(12, 2 * longest)))
    if len(classes) > SHOWN:
        half = SHOWN // 2
        body[1 + half : 1 + len(classes) - half] = [f"  ... {len(classes) - SHOWN:,} between; --json lists all"]
    lines += [line.rstrip() for line in body]
    few = sum(not row["judged"] for row in classes)
    if few:
        lines.append(f"  * not judged by itself: {few:,} of {len(classes):,} (see Gate)")
    return lines


def _plan(found: dict[str, Any]) -> list[str]:
    from augmill.flows.cli.terminal import shown, wrapped

    plan = found["plan"]
    if not plan["target"]:
        return ["Plan", *wrapped(shown(f"{plan['nothing_to_make']}. Raise the target if more rows are wanted."))]
    lines = ["Plan", f"  {plan['target']:,} rows are to be accepted"]
    for name, least in plan["asked_at_least"].items():
        lines.append(f"  {name}: at least {least:,} rows asked, {plan['asked_first'][name]:,} in the first round")
    if plan["policy"] == "adaptive":
        lines += wrapped(
            f"policy adaptive: the first round asks for {plan['explore']:.0%} of each target, by share; until round "
            f"{plan['adaptive_rounds']} the rest is split by what passed and by what helped on parts of train, so what "
            "a generator is asked at least is where it starts from, no bound"
        )
    return lines + wrapped(
        f"the first round is {plan['shards_first']:,} shard(s); at most {plan['max_rounds']} rounds and "
        f"{plan['asked_at_most']:,} rows asked"
    )


def _gate(found: dict[str, Any]) -> list[str]:
    from augmill.flows.cli.survey import FURTHER
    from augmill.flows.cli.terminal import named, wrapped
    from augmill.tasks.gate.verdict import true_effect

    gate = found["gate"]
    who = "validation rows" if not gate["folds"] else f"rows (validation, and train in {gate['folds']} folds)"
    told = f"{gate['rows']:,} {who} tell a true gain of {gate['visible']:.1f} points from none, four times in five"
    lines = [f"Gate, rule {gate['rule']}, by {gate['metric']}", *wrapped(f"{told}.")]
    if gate["rule"] == "not_worse":
        lines += wrapped(f"As often {gate['sight']}. That it gains anything is not asked.")
    elif gate["bar"] > 0:
        lines += wrapped(f"To pass min_gain {gate['bar']:g}, a mix must truly gain about {gate['passes']:.1f} points.")
    if gate["rows_for_min_gain"]:
        lines += wrapped(
            f"Too few for min_gain: to tell {gate['bar']:g} points from none takes about {gate['rows_for_min_gain']:,} rows."
        )
    if gate["rows_needed"] > gate["rows"]:
        effect = true_effect(gate["bar"] + FURTHER)
        lines += wrapped(f"For {effect} it takes about {gate['rows_needed']:,} rows.")
    lines += wrapped(f"(For accuracy, if the trainer is right on about {gate['assumed_accuracy']:.0%} of them.)")
    few = [row["label"] for row in found["classes"] if not row["judged"]]
    if few:
        least = gate["min_heldout_per_class"]
        lines += wrapped(f"Not judged by themselves, with fewer than {least} rows to judge by: {named(few, NAMED)}")
    return lines


def _time(found: dict[str, Any]) -> list[str]:
    from augmill.flows.cli.terminal import padded, shown, wrapped

    lines = ["Time of a first run, roughly (rates of 2 cores; within a factor of three)"]
    for part in found["time"]:
        lines.append(f"  {padded(part['stage'], 20)}{duration(part['seconds']):>9}  {shown(part['basis'], 46)}")
    known = sum(part["seconds"] or 0 for part in found["time"])
    more = any(part["seconds"] is None for part in found["time"])
    lines.append(f"  {padded('together', 20)}{duration(known):>9}" + ("  and what is not known" if more else ""))
    if found["trainer_bytes"] > MUCH:
        lines += wrapped(
            f"The built-in trainer would hold about {found['trainer_bytes'] / 1e9:.0f} GB of memory; `trainer: {{command: "
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
