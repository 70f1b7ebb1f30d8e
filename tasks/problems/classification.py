"""Classification: one label per row. Each is read as the string by which its class is counted, or its row is refused."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, ClassVar, Literal

import pyarrow as pa

from augmill.tasks.contracts import STRATUM, Problem, ReadTarget, TargetReader
from augmill.tasks.errors import DataError
from augmill.tasks.problems.labels import class_among, fold_label, spelling
from augmill.tasks.rows.names import name_meant, name_of, nearest

SHOWN = 5  # names in a sentence


@dataclass(frozen=True)
class Labels:
    """What labels may be."""

    declared: tuple[str | int | bool, ...] = field(
        default=(), metadata={"help": "the known labels; empty: whatever the source holds"}
    )
    aliases: dict[str, str | int | bool] = field(
        default_factory=dict, metadata={"help": "old name: new name, for labels that were renamed or misspelt"}
    )
    retired: tuple[str | int | bool, ...] = field(
        default=(), metadata={"help": "labels whose rows are left out and counted"}
    )
    unknown: Literal["admit", "quarantine", "stop"] = field(
        default="admit",
        metadata={
            "help": "what happens to a label outside `declared`: it becomes a class, its rows are refused, or the run stops"
        },
    )
    min_rows: int = field(default=2, metadata={"help": "train rows that each class needs"})
    rare: Literal["stop", "quarantine"] = field(
        default="stop", metadata={"help": "what happens to a class with fewer: the run stops, or its rows are left out"}
    )
    fold: bool = field(
        default=False,
        metadata={
            "help": "labels that differ only in case or blanks are one class, spelt as in `declared` or an alias, "
            "otherwise in lower case",
            "later": True,
        },
    )

    def __post_init__(self) -> None:
        if not self.declared and self.unknown != "admit":
            raise ValueError("unknown: quarantine and stop need `declared` labels")
        if not 1 <= self.min_rows <= 10**9:
            raise ValueError("min_rows: at least 1")


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
        name = name_meant(label, like)
        return fold_label(name) if fold else name

    new = [(old, name_meant(label, like), label) for old, label in rules.aliases.items()]
    spelt = {fold_label(name): name for name in [name for _, name, _ in new] + [name_of(d) for d in rules.declared]}
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


class LabelReader(TargetReader):
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

    def read(self, value: Any) -> ReadTarget:
        value, reason = self._plain(value)
        if reason:
            return ReadTarget(None, None, reason, None)
        rules = self.by_type.get(type(value)) or self.by_type.setdefault(type(value), _rules_for(self.rules, value))
        folds = self.rules.fold and isinstance(value, str)
        said = name = name_of(value)
        key = fold_label(name) if folds else name
        if key in rules.aliases:
            name, value = rules.aliases[key]
            key = fold_label(name) if folds else name
        if folds:
            name = value = rules.spelt.get(key, key)
        if key in rules.retired:
            return ReadTarget(None, None, "retired_label", said)
        if rules.declared and key not in rules.declared and self.rules.unknown != "admit":
            return ReadTarget(None, None, "unknown_label", said)
        self.values.setdefault(name, value)
        return ReadTarget(name, None, "", said)


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
            fix="use one plain type for labels and for what aliases make of them",
        ) from error


def named_in_vain(rules: Labels, said: Iterable[str], kind: pa.DataType) -> list[tuple[str, str]]:
    """(recipe key, name) of each declared, renamed or retired label that no row has.

    ``said``: what rows call theirs; ``kind``: the type of their column.
    """
    texts = not pa.types.is_primitive(kind) and not pa.types.is_decimal(kind)
    like = "" if texts else pa.types.is_boolean(kind) or 0
    spelt = fold_label if rules.fold and texts else str
    known = {spelt(name) for name in said}
    old = [("labels.aliases", name) for name in rules.aliases]
    known |= {
        spelt(name_meant(new, like)) for name, new in rules.aliases.items() if spelt(name_meant(name, like)) in known
    }
    named = [("labels.declared", name_of(label)) for label in rules.declared]
    named += [*old, *(("labels.retired", name_of(label)) for label in rules.retired)]
    return [(key, name) for key, name in named if spelt(name_meant(name, like)) not in known]


def _counted(counts: Mapping[str, int]) -> str:
    shown = [f"{name!r} ({rows:,} rows)" for name, rows in list(counts.items())[:SHOWN]]
    return ", ".join(shown) + (f" and {len(counts) - SHOWN:,} more" if len(counts) > SHOWN else "")


def label_warnings(vain: Sequence[tuple[str, str]], counts: Mapping[str, int], several: tuple[int, int]) -> list[str]:
    """What is likely wrong with the labels, a sentence each with what to do: names in the recipe that no row has;

    classes that are likely one (``counts``: rows by class); and ``several``: equal rows under several labels, all of them.
    """
    found = []
    for key in dict.fromkeys(key for key, _ in vain):
        names = [name for of, name in vain if of == key]
        shown = ", ".join(map(repr, names[:SHOWN])) + (
            f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
        )
        found.append(f"{key}: no row is labelled {shown}; correct the name, or remove it from the recipe")
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
            f"{len(same) - SHOWN:,} more labels have several spellings; set labels.fold: true, or labels.aliases"
        )
    if several[0]:
        found.append(
            f"{several[1]:,} equal rows ({several[0]:,} different ones) have several labels; "
            "refuse.conflicts: majority keeps the commonest label of each, drop keeps none"
        )
    return found


class Classification(Problem):
    """The stratum is the class. Of a pair of texts, the class belongs to the pair."""

    VERSION: ClassVar[int] = 1
    name: ClassVar[str] = "classification"
    types: ClassVar[tuple[str, ...]] = ("label",)
    metric: ClassVar[str] = "accuracy"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1")
    stratum_metric: ClassVar[str] = "accuracy"  # of one class's rows it is the class's recall
    focus_metric: ClassVar[str | None] = "macro_f1"
    hub: ClassVar[str] = "classification"
    unsaid: ClassVar[int] = 1
    remedies: ClassVar[Mapping[str, str]] = {
        "no_label": "check columns.label, and fill the empty labels",
        "fractional_label": "check columns.label: a label is a text, a whole number, or true or false",
        "label_type": "check columns.label: a label is a text, a whole number, or true or false",
        "unknown_label": "declare the labels (labels.declared), or add aliases (labels.aliases)",
    }

    def reader(self, rules: Labels) -> LabelReader:
        return LabelReader(rules)

    def lacks(self, train: pa.Table) -> tuple[str, str] | None:
        classes = train[STRATUM].unique().to_pylist()
        if len(classes) >= 2:
            return None
        found = f"only {classes[0]!r}" if classes else "no rows at all"
        return f"train needs at least two classes; found {found}", "check columns.label and the splits section"

    def named(self, rules: Labels) -> list[Any]:
        return [*rules.declared, *rules.retired, *rules.aliases, *rules.aliases.values()]

    def least(self, rules: Labels) -> int:
        return rules.min_rows

    def stops(self, rules: Labels) -> bool:
        return rules.rare == "stop"

    def vanished(self, rules: Labels, before: Mapping[str, int], now: Mapping[str, int]) -> list[str]:
        """Not those that the recipe retires or renames."""
        spelt = fold_label if rules.fold else str
        named = [name_of(label) for label in [*rules.retired, *rules.aliases]]
        left = {spelt(class_among(name, before) or name) for name in named}
        left |= {spelt(name) for name, rows in now.items() if rows}
        enough = 2 * rules.min_rows
        return sorted(name for name, rows in before.items() if rows >= enough and spelt(name) not in left)

    def doubts(
        self, rules: Labels, said: set[str], counts: Mapping[str, int], several: tuple[int, int], kind: pa.DataType
    ) -> list[str]:
        return label_warnings(named_in_vain(rules, said, kind), counts, several)

    def require_named(self, rules: Labels, said: set[str], kind: pa.DataType) -> None:
        """For ``unknown: stop``, of every name that no row has."""
        vain = named_in_vain(rules, said, kind)
        if vain and rules.unknown == "stop":
            (key, name), more = vain[0], f" ({len(vain):,} such names)" if len(vain) > 1 else ""
            problem = f"no row is labelled {name!r}{more}; {nearest(name, sorted(said))}"
            raise DataError(problem, where=key, fix=f"correct {key} in the recipe, or set labels.unknown to quarantine")

    def column(self, rows: pa.Table, values: Mapping[str, Any], kind: pa.DataType) -> pa.Array:
        return label_array(rows[STRATUM].to_pylist(), values, kind)

    def stratum_named(self, name: str, known: Iterable[str]) -> str | None:
        return class_among(name, known)
