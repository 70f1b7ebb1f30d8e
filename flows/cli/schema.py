"""``augmill schema``: the recipe's JSON Schema for editors and CI, and the recipe reference, docs/recipe.md."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import types
import typing
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import typer

from augmill.flows.terminal import say_text

INTRODUCTION = """\
# The recipe

A recipe is one YAML file that says what to augment, how, and when the result is good enough. `augmill init DATA` writes
a first one, `augmill check RECIPE` shows what it means for your data, with every default, and `augmill schema` prints
its JSON Schema for editors. An unknown key is an error that names the nearest known one.

Recipes are read as YAML 1.2: `NO`, `on`, `1_000`, `12:30` and dates are texts, `010` is 10. Keys and labels count as you
write them, quoted or not: `010` is the label `010`. If the labels are numbers or truth values, `1.0` names 1 and `True`
names true. If no row has a label that the recipe names, `augmill check`, the run and its report say so; with
`labels.unknown: stop` it is refused, unless the snapshot is as of a partition (`--as-of`).

"Rows" says whether a key can change a row of a release. Keys that cannot may change between nights, and everything in
the store is still reused.

This page is generated: `augmill schema --markdown > docs/recipe.md`.

## One recipe in many places

**Paths** begin at the file in which they stand, `run.store` too. A recipe in a bucket (s3://, gs://, az://) finds the rows
that it names beside it; its other paths are absolute, and so are all of a recipe that a deployment holds as text. `--store`
is an argument of the shell: it begins at the working directory.

**Variables.** `${NAME}` in a value is what the environment holds, `${NAME:-default}` has a default for a variable that is
not set or empty. Names are capitals, digits and `_`; anything else after `${` is text, and `$${` is a literal `${`. A plain
value that is one variable is read as what it holds would be, so `seed: ${SEED:-7}` is a number; in quotes, and beside other
characters, it is text. Between `{ }` and `[ ]` YAML wants quotes around it. What a variable holds is a value like any
other: the recipe's identity counts it, and a release's provenance shows it. So no secrets: where one is needed, as in
`api_key: {env: NAME}`, the recipe names the variable instead. An error in the recipe shows `${NAME}`, never what it holds.

**`extends`** takes over another recipe, or a part of one, by its path or address:

```
extends: ../team.yaml       # or a list, of which later ones win
seed: 7
gate: {min_gain: 0.01}      # the other keys of gate stay as they are in team.yaml
```

Sections are merged key by key; a list, or a section that names another `use`, replaces the one below it; `null` takes a value
back. The nearer file wins. A recipe has 16 files at most, 8 on top of each other.

An experiment that extends a recipe needs a `dataset` of its own, such as `tickets-shout`. With the same one in the same
store its releases become the current ones of that dataset, and whoever trains on the newest gets the experiment's.

**`--set KEY=VALUE`** is the last word, with every command that takes a recipe: `--set seed=7 --set generators.0.share=0.5
--set 'gate.focus=[refund]'`. The value is read as YAML, the way it would be in the recipe: paths begin there, and the
identity counts it. `augmill deploy` and `serve` keep it in the parameter `set` of the runs.
"""
GENERATORS_HEAD = """\
## Generators

Each entry of `generators` names a generator and takes its options beside these two:
"""
CHECKS_HEAD = """\
## Checks

`checks: {NAME: {...}}` sets options, `checks: {NAME: off}` turns a check off; a check that is not named runs with its
defaults. The first check that refuses a row, in this order, owns it in the ledger.
"""
TRAINERS_HEAD = """\
## Trainers

What the gate trains to see whether the rows help: `trainer: NAME`, or a section with its options.
"""
USE = ("use", "text", "required", "yes", "which generator")
SHARE = ("share", "number", "`1.0`", "yes", "its part of each class's target, relative to the other generators")
SPECIAL = {
    "generators": "list of sections, see [Generators](#generators)",
    "checks": "sections by name, see [Checks](#checks)",
    "trainer": "section or name, see [Trainers](#trainers)",
}
NAMES = {str: "text", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def register(app: typer.Typer) -> None:
    app.command("schema")(schema)


def schema(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the reference of all recipe keys instead (docs/recipe.md).")
    ] = False,
) -> None:
    """Prints the recipe's JSON Schema, or its reference."""
    from augmill.tasks.recipe.recipe import json_schema

    if markdown:
        say_text(reference().removesuffix("\n"))
    else:
        say_text(json.dumps(json_schema(), indent=2, ensure_ascii=False))


def reference() -> str:
    """docs/recipe.md: every section, key, type, default, help text, and whether it changes rows."""
    from augmill.tasks.checks import CHECKS
    from augmill.tasks.generators import GENERATORS
    from augmill.tasks.recipe.recipe import Recipe
    from augmill.tasks.trainers import TRAINERS

    hints = typing.get_type_hints(Recipe)
    sections: dict[str, Any] = {name: kind for name, kind in hints.items() if dataclasses.is_dataclass(kind)}
    helps = {item.name: item.metadata["help"] for item in dataclasses.fields(Recipe)}
    out = [INTRODUCTION, "## Top level\n", _top(Recipe, sections)]
    for name, kind in sections.items():
        # A dataclass without a docstring is given its signature as one.
        written = "" if (kind.__doc__ or "").startswith(f"{kind.__name__}(") else paragraph(kind.__doc__)
        out += [f"## {name}\n", f"{written or helps[name][0].upper() + helps[name][1:] + '.'}\n", _table(kind)]
    out += [GENERATORS_HEAD, _rows([USE, SHARE]), *(_extension(name, kind) for name, kind in GENERATORS.items())]
    out += [CHECKS_HEAD, *(_extension(name, kind) for name, kind in CHECKS.items())]
    out += [TRAINERS_HEAD, *(_extension(name, kind) for name, kind in TRAINERS.items())]
    return "\n".join(out).rstrip("\n") + "\n"


def _top(recipe: Any, sections: dict[str, Any]) -> str:
    linked = {name: f"section, see [{name}](#{name})" for name in sections} | SPECIAL
    return _rows(
        [(name, linked.get(name, kind), *rest) for name, kind, *rest in _entries(recipe)],  # type: ignore[misc]
        linked=linked,
    )


def _extension(name: str, kind: Any) -> str:
    """One extension: what it is, then its options."""
    parts = [f"### `{name}`\n", f"{about(kind)}\n"]
    if dataclasses.fields(kind.Options):
        parts.append(_table(kind.Options))
    else:
        parts.append("It has no options.\n")
    return "\n".join(parts)


def paragraph(text: str | None) -> str:
    """What a docstring says first, on one line: its paragraphs up to the first that ends a sentence."""
    said = ""
    for part in (text or "").split("\n\n"):
        said = f"{said} {' '.join(part.split())}".strip()
        if said.endswith((".", "!", "?")):
            break
    return re.sub(r" \(DESIGN, [^)]*\)", "", said).replace("``", "`")


def about(kind: Any) -> str:
    """What an extension is and does: the first sentences of its module and of its class."""
    return f"{paragraph(sys.modules[kind.__module__].__doc__)} {paragraph(kind.__doc__)}"


def _table(kind: Any) -> str:
    return _rows(_entries(kind))


def _entries(kind: Any) -> list[tuple[str, str, str, str, str]]:
    """(key, type, default, whether it changes rows, help) of each field of an options dataclass."""
    hints = typing.get_type_hints(kind)
    entries = []
    for item in dataclasses.fields(kind):
        changes = f"no: {item.metadata['why']}" if item.metadata.get("identity") is False else "yes"
        entries.append((item.name, type_text(hints[item.name]), default_text(item), changes, item.metadata["help"]))
    return entries


def _rows(entries: list[tuple[str, str, str, str, str]], linked: Iterable[str] = ()) -> str:
    lines = ["| key | type | default | rows | what |", "|---|---|---|---|---|"]
    for name, kind, default, changes, text in entries:
        shown = default if name not in linked or default == "required" else ""
        cells = (f"`{name}`", kind, shown, "" if name in linked else changes, text)
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def type_text(hint: Any) -> str:
    """A type as a reader of recipes would say it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_text(argument) for argument in arguments)
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"[{', '.join(type_text(argument) for argument in arguments)}]"
    if origin in (tuple, list):
        return f"list of {_one(arguments[0])}"
    if origin is dict:
        return f"map of {_one(arguments[0])} to {_one(arguments[1])}"
    return NAMES.get(hint, "section" if dataclasses.is_dataclass(hint) else "any")


def _one(hint: Any) -> str:
    """A type inside another one: a choice of types in brackets."""
    text = type_text(hint)
    return f"({text})" if " or " in text or ", " in text else text


def default_text(item: dataclasses.Field[Any]) -> str:
    """A field's default as it would stand in a recipe; ``required`` where there is none."""
    value = default_of(item)
    return "required" if value is dataclasses.MISSING else f"`{yaml_text(value)}`"


def default_of(item: dataclasses.Field[Any]) -> Any:
    """A field's default, or dataclasses.MISSING."""
    return item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default


def yaml_text(value: Any) -> str:
    """A value on one line, in YAML's flow style."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{yaml_text(key)}: {yaml_text(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(yaml_text(part) for part in value) + "]"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return yaml_text({item.name: getattr(value, item.name) for item in dataclasses.fields(value)})
    import yaml

    from augmill.tasks.recipe.document import Dumper

    # As PyYAML would write it inside a flow collection: a number, a null or a `:` in a text is then quoted.
    written: str = yaml.dump([value], Dumper=Dumper, default_flow_style=True, allow_unicode=True, width=1 << 20)
    return written.strip().removeprefix("[").removesuffix("]")


def recipe_text(value: Any) -> str:
    """The same as a recipe's value: what would be a variable there stays text."""
    return yaml_text(_literal(value))


def _literal(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("${", "$${")
    if isinstance(value, dict):
        return {key: _literal(part) for key, part in value.items()}
    return [_literal(part) for part in value] if isinstance(value, list | tuple) else value
