"""Labels of a source: each as the string by which its class is counted, or the reason why its row is refused."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa

from augmill.tasks.errors import DataError
from augmill.tasks.problems.labels import class_of, fold_label, label_text, spelling
from augmill.tasks.recipe.sections import Labels, Splits

SHOWN = 5  # names in a sentence


@dataclass(frozen=True)
class _Rules:
    """The recipe's labels as the classes that they mean among labels of one type."""

    declared: set[str]
    retired: set[str]
    aliases: dict[str, tuple[str, Any]]  # class, and the label in the user's type
    spelt: dict[str, str]  # folded: as the recipe spells it


def _rules_for(rules: Labels, like: Any) -> _Rules:
    fold = rules.fold and isinstance(like, str)

    def key(label: Any) -> str:
        name = class_of(label, like)
        return fold_label(name) if fold else name

    new = [(old, class_of(label, like), label) for old, label in rules.aliases.items()]
    spelt = {fold_label(name): name for name in [name for _, name, _ in new] + [label_text(d) for d in rules.declared]}
    first: dict[str, Any] = {}  # of names that are one class, the first one's label
    for _, name, label in new:
        first.setdefault(name, _typed(label, name, like))
    return _Rules(
        {key(label) for label in rules.declared},
        {key(label) for label in rules.retired},
        {key(old): (name, first[name]) for old, name, _ in new},
        spelt if fold else {},
    )


def _typed(label: Any, name: str, like: Any) -> Any:
    """An alias's label in the type of the column that it goes into, where it fits; else as the recipe has it."""
    if isinstance(like, bool):
        return name == "true" if name in ("true", "false") else label
    return int(name) if isinstance(like, int) and name.lstrip("-").isdigit() else label


class LabelReader:
    """Maps a source label to its class, or says why its row is refused."""

    def __init__(self, rules: Labels) -> None:
        self.rules = rules
        self.by_type: dict[type, _Rules] = {}
        self.values: dict[str, Any] = {}
        self.coerced = 0

    def _plain(self, value: Any) -> tuple[Any, str]:
        """(the label as a text, whole number or truth value, why it is none)."""
        blank = self.rules.fold and isinstance(value, str) and not value.strip()
        if value is None or value == "" or blank:
            return None, "no_label"
        if isinstance(value, float | Decimal):
            if not math.isfinite(value) or value != int(value):
                return None, "fractional_label"
            self.coerced += isinstance(value, float)
            return int(value), ""
        return value, "" if isinstance(value, str | int) else "label_type"

    def read(self, value: Any) -> tuple[str | None, str, str | None]:
        """(class or None, reason why it is refused or "", what the source calls it: None where that is no label)."""
        value, reason = self._plain(value)
        if reason:
            return None, reason, None
        rules = self.by_type.get(type(value)) or self.by_type.setdefault(type(value), _rules_for(self.rules, value))
        folds = self.rules.fold and isinstance(value, str)
        said = name = label_text(value)
        key = fold_label(name) if folds else name
        if key in rules.aliases:
            name, value = rules.aliases[key]
            key = fold_label(name) if folds else name
        if folds:
            name = value = rules.spelt.get(key, key)
        if key in rules.retired:
            return None, "retired_label", said
        if rules.declared and key not in rules.declared and self.rules.unknown != "admit":
            return None, "unknown_label", said
        self.values.setdefault(name, value)
        return name, "", said


def label_array(names: Sequence[str], values: Mapping[str, Any], kind: pa.DataType) -> pa.Array:
    """The labels of the named classes in the user's own type; in a text column the class's name is the label.

    Raises DataError where one does not fit.
    """
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.array(names, pa.string())
    whole = Decimal if pa.types.is_decimal(kind) else lambda value: value
    try:
        return pa.array([whole(values[name]) for name in names], kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, ArithmeticError) as error:
        problem = f"labels do not fit their column, which holds {kind}: {error}"
        raise DataError(
            problem,
            where="columns.label, labels.aliases",
            fix="give labels, and what aliases make of them, one plain type",
        ) from error


def has_other_spellings(labels: Labels, splits: Splits) -> bool:
    """Whether a name in the recipe is found by its value alone, as 1.0 and True are: version 1 of ingest found none."""
    named = [*labels.declared, *labels.retired, *labels.aliases, *labels.aliases.values(), *splits.names]
    return any(class_of(name, like) != label_text(name) for name in named for like in (0, True))


def named_in_vain(rules: Labels, said: Iterable[str], kind: pa.DataType) -> list[tuple[str, str]]:
    """(recipe key, name) of each declared, renamed or retired label that no row has.

    ``said``: what rows call theirs; ``kind``: the type of their column.
    """
    texts = not pa.types.is_primitive(kind) and not pa.types.is_decimal(kind)
    like = "" if texts else pa.types.is_boolean(kind) or 0
    spelt = fold_label if rules.fold and texts else str
    known = {spelt(name) for name in said}
    old = [("labels.aliases", name) for name in rules.aliases]
    known |= {spelt(class_of(new, like)) for name, new in rules.aliases.items() if spelt(class_of(name, like)) in known}
    named = [("labels.declared", label_text(label)) for label in rules.declared]
    named += [*old, *(("labels.retired", label_text(label)) for label in rules.retired)]
    return [(key, name) for key, name in named if spelt(class_of(name, like)) not in known]


def _counted(counts: Mapping[str, int]) -> str:
    shown = [f"{name!r} ({rows:,} rows)" for name, rows in list(counts.items())[:SHOWN]]
    return ", ".join(shown) + (f" and {len(counts) - SHOWN:,} more" if len(counts) > SHOWN else "")


def label_warnings(vain: Sequence[tuple[str, str]], counts: Mapping[str, int], several: tuple[int, int]) -> list[str]:
    """What is likely wrong with the labels, a sentence each with what to do: names in the recipe that no row has;

    classes that are likely one (``counts``: rows by class); and ``several``: texts under several labels, their rows.
    """
    found = []
    for key in dict.fromkeys(key for key, _ in vain):
        names = [name for of, name in vain if of == key]
        shown = ", ".join(map(repr, names[:SHOWN])) + (
            f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
        )
        found.append(f"{key}: no row is labelled {shown}; correct the name, or take it out of the recipe")
    groups: dict[str, dict[str, int]] = {}
    for name, rows in counts.items():
        groups.setdefault(spelling(name), {})[name] = rows
    same = [group for _, group in sorted(groups.items()) if len(group) > 1]
    for group in same[:SHOWN]:
        fix = "set labels.fold: true, or give" if len({fold_label(name) for name in group}) == 1 else "give"
        found.append(
            f"likely one label in {len(group)} spellings: {_counted(group)}; {fix} one the other's name in labels.aliases"
        )
    if len(same) > SHOWN:
        found.append(
            f"{len(same) - SHOWN:,} more labels stand in several spellings; set labels.fold: true, or labels.aliases"
        )
    if several[0]:
        found.append(
            f"{several[0]:,} equal text(s) in {several[1]:,} rows stand under several labels; refuse.conflicts: majority keeps "
            "the commonest label of each, drop none"
        )
    return found
