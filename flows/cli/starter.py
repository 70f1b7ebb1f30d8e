"""The first recipe that ``augmill init`` writes: what was found in the data, every default beside it, as comments."""

from __future__ import annotations

import dataclasses
import textwrap
import typing
from typing import Any

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


def starter(document: dict[str, Any], why: dict[str, str], *, data: str, recipe: str) -> str:
    """The recipe's text. ``document``: what is not left at its default; ``why``: dotted key to the reason, a line."""
    from augmill.tasks.recipe.recipe import Recipe

    hints = typing.get_type_hints(Recipe)
    fields = {item.name: item for item in dataclasses.fields(Recipe)}
    order = [name for name in fields if name in document] + [name for name in fields if name not in document]
    lines = HEAD.format(data=data, recipe=recipe).splitlines()
    for position, name in enumerate(order):
        if position == len(document):
            lines += ["", REST]
        lines += ["", *_prose(fields[name].metadata["help"], "")]
        if name == "generators":
            lines += _generators(document[name], why)
        elif name == "checks":
            lines += _checks()
        elif name == "trainer":
            lines += ["#trainer:", "  #use: tfidf"]
        elif dataclasses.is_dataclass(hints[name]):
            lines += _section(name, hints[name], document.get(name), why)
        else:
            lines += [_key("", fields[name], document, why)]
    return "\n".join(lines) + "\n"


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
    from augmill.flows.cli.schema import default_of, yaml_text

    if item.name not in given:
        return f"{indent}#{item.name}: {yaml_text(default_of(item))}"
    reason = why.get(f"{above}{item.name}", "")
    return f"{indent}{item.name}: {yaml_text(given[item.name])}" + (f"  # {reason}" if reason else "")


def _generators(chosen: list[dict[str, Any]], why: dict[str, str]) -> list[str]:
    """The chosen generators with the options they leave at their default; the others by name."""
    from augmill.flows.cli.schema import about
    from augmill.tasks.generators import GENERATORS

    lines = ["generators:"]
    for entry in chosen:
        lines += [*_prose(why["generators"], "  "), f"  - use: {entry['use']}"]
        for item in dataclasses.fields(GENERATORS[entry["use"]].Options):
            lines += _prose(item.metadata["help"], "    ")
            lines.append(_key("    ", item, entry, {}))
    for name, kind in GENERATORS.items():
        if name not in [entry["use"] for entry in chosen]:
            lines += _prose(f"`- use: {name}`: {about(kind)}", "  ")
    return lines


def _checks() -> list[str]:
    from augmill.flows.cli.schema import default_of, yaml_text
    from augmill.tasks.checks import CHECKS

    lines = ["#checks:"]
    for name, kind in CHECKS.items():
        options = {item.name: default_of(item) for item in dataclasses.fields(kind.Options)}
        lines.append(f"  #{name}: {yaml_text(options)}")
    return lines
