"""A recipe as it will be used: every key with its value, and whether the value is a default."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from augmill.tasks.recipe.recipe import Recipe


@dataclass(frozen=True)
class Entry:
    """One key: the sections above it and its name, its value (None for a section's own line), where it stems from."""

    path: tuple[str | int, ...]
    value: Any
    default: bool
    section: bool = False


def resolved(recipe: Recipe, given: dict[str, Any], *, store: str | None = None) -> list[Entry]:
    """Every key of the recipe in the reference's order. ``given``: the document as it was read; ``store``: --store."""
    if store is not None:
        given = given | {"run": (given.get("run") or {}) | {"store": store}}
    entries: list[Entry] = []
    for key, value in _fields(recipe):
        if key == "generators":
            entries.append(Entry((key,), None, False, section=True))
            for index, (choice, document) in enumerate(zip(value, given[key], strict=True)):
                entries.append(Entry((key, index, "use"), choice.use, False))
                entries.append(Entry((key, index, "share"), choice.share, "share" not in document))
                entries += _walk(choice.options, document, (key, index))
        elif key == "trainer":
            document = given.get(key, {})
            entries.append(Entry((key,), None, key not in given, section=True))
            entries.append(Entry((key, "use"), value.use, key not in given))
            entries += _walk(value.options, document, (key,))
        elif key == "checks":
            document = given.get(key) or {}
            entries.append(Entry((key,), None, key not in given, section=True))
            off = {name: False for name in document if name not in value}
            entries += _walk(value | off, document, (key,))
        else:
            entries += _walk({key: value}, given, ())
    return entries


def _walk(value: Any, given: Any, above: tuple[str | int, ...]) -> Iterator[Entry]:
    given = given if isinstance(given, dict) else {}
    for key, part in value.items() if isinstance(value, dict) else _fields(value):
        if dataclasses.is_dataclass(part):
            yield Entry((*above, key), None, key not in given, section=True)
            yield from _walk(part, given.get(key), (*above, key))
        else:
            yield Entry((*above, key), part, key not in given)


def _fields(value: Any) -> list[tuple[str, Any]]:
    return [(item.name, getattr(value, item.name)) for item in dataclasses.fields(value)]


def recipe_lines(entries: Iterable[Entry]) -> list[str]:
    """The recipe as YAML that loads again; a default is marked at the end of its line."""
    from augmill.flows.cli.schema import yaml_text

    lines = []
    for entry in entries:
        indent = "  " * (len(entry.path) - 1)
        if any(isinstance(part, int) for part in entry.path):
            indent = indent[:-2] + ("- " if entry.path[-1] == "use" else "  ")
        mark = "  # default" if entry.default else ""
        value = "" if entry.section else f" {yaml_text(entry.value)}"
        lines.append(f"{indent}{entry.path[-1]}:{value}{mark}")
    return lines


def nested(entries: Iterable[Entry]) -> dict[str, Any]:
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
