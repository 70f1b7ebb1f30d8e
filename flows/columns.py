"""Which columns are inputs and which is the target: those that the command line names, else guessed ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NEXT = re.compile(r"next(_?item)?|target(_?item)?|item|following")  # beside lists of items, what comes after them
TRANSCRIPT = re.compile(
    r"text|transcript(ion)?|sentence|utterance|(raw|normali[sz]ed)_(text|transcription)"
)  # of sounds
MANY = 50  # different whole numbers: more are amounts beyond doubt


@dataclass(frozen=True)
class Asked:
    """What the command line names."""

    text: Sequence[str] = ()
    label: str | None = None
    inputs: Sequence[str] = ()
    target: str | None = None

    def __post_init__(self) -> None:
        from augmill.tasks.errors import UserError

        if self.label is not None and self.target is not None:
            raise UserError("both name the column to predict", where="--label, --target", fix="give one of the two")

    @property
    def options(self) -> str:
        """The options by which columns of such rows are named."""
        return "--input and --target" if self.inputs or self.target else "--text and --label"

    @property
    def named(self) -> bool:
        """Whether nothing is left to be guessed but types."""
        return bool(self.text or self.inputs) and bool(self.label or self.target)


@dataclass(frozen=True)
class Chosen:
    """``columns``: of a recipe, ``text`` and ``label``, or ``inputs`` and ``target``; ``why``: by these keys.

    ``notes``: what a person may want otherwise; ``guess``: of the columns beside them (``sources.guess_columns``).
    """

    columns: dict[str, Any]
    why: dict[str, str]
    notes: list[str]
    guess: dict[str, Any]
    guessed: bool = False  # inputs: a column among them may turn out to be something else
    source: dict[str, Any] = field(default_factory=dict)  # what the source has to say beside, for these to be read


def choose_columns(file: Any, source: Any, asked: Asked, *, where: str, fix: str) -> Chosen:
    """The named columns, else guessed ones: of texts by name and length, of tables as their kinds take them.

    Raises UserError where a named one is not there (``fix``: what to do then) or none can be told, DataError where the
    header is in doubt.
    """
    from augmill.tasks.problems import PROBLEMS, problem_learning
    from augmill.tasks.rows.kinds import KINDS
    from augmill.tasks.sources import guess_columns, read_schema
    from augmill.tasks.sources.guess_table import (
        best_files,
        guess_target,
        is_class,
        is_labelled,
        reads_as_table,
        sniff_columns,
    )
    from augmill.tasks.stages.refusals import require_header, require_rows

    names = read_schema(file, source)
    learnt = sorted({type for problem in PROBLEMS.values() for type in problem.types})
    said = (asked.target or "").rpartition(":")[2]
    learnt += [said] if said not in learnt and problem_learning(said) else []
    for name in [*asked.text, *([asked.label] if asked.label else [])]:
        _require_there(name, names, where, fix)
    inputs: list[tuple[str, str | None]] = [(name, "text") for name in asked.text]
    inputs += [_typed_name(given, names, KINDS.names(), where, fix) for given in asked.inputs]
    target: tuple[str, str | None] | None = (asked.label, "label") if asked.label else None
    target = _typed_name(asked.target, names, learnt, where, fix) if asked.target else target
    if not asked.named:
        require_header(file, source, "give --text and --label, or --input and --target")
    require_rows(file, source)
    guess = guess_columns(file, source)
    found = sniff_columns(file, source, guess["id"])
    general = bool(asked.inputs or asked.target)
    lists = [name for name, each in found.items() if each.type == "items" and not each.left]
    if lists and not inputs:
        return _choose_lists(lists, target, found, guess, where=where)
    if not (asked.text or asked.label or general) and (pair := _choose_pair(found, guess)) is not None:
        return pair
    files = None if inputs else best_files(found)
    if files is not None:
        told = guess_target(found, [files]) if target is None else None
        heard = _transcript(found, files) if target is None and not is_labelled(found) else None
        if heard is not None:
            target, told = (heard, "text"), (heard, "named as what is said in them")
        elif told is not None and is_class(told[0], found[told[0]]):
            target = told[0], "label"
        chosen = _choose_general([(files, found[files].type)], target, found, guess, where=where)
        chosen.why["inputs"] = f"holds files of the type {found[files].type}"
        chosen.why["target"] = told[1] if told is not None else chosen.why["target"]
        return chosen
    if not general and (asked.text or not reads_as_table(guess["text"], found)):
        return _choose_text(file, source, asked, guess, where=where)
    if not inputs and not reads_as_table(guess["text"], found):
        inputs = [(name, "text") for name in guess["text"] if target is None or name != target[0]]
    return _choose_general(inputs, target, found, guess, where=where)


def _choose_lists(
    lists: list[str],
    target: tuple[str, str | None] | None,
    found: Mapping[str, Any],
    guess: dict[str, Any],
    *,
    where: str,
) -> Chosen:
    """A history of items, and what comes next."""
    following = next((name for name in found if NEXT.fullmatch(name.lower()) and name not in lists), None)
    target = (following, "item") if target is None and following is not None else target
    chosen = _choose_general([(lists[0], None)], target, found, guess, where=where)
    chosen.why["inputs"] = "holds lists of items"
    chosen.why["target"] = "named as what comes next" if following is not None else chosen.why["target"]
    return chosen


def _choose_pair(found: Mapping[str, Any], guess: dict[str, Any]) -> Chosen | None:
    """A dialogue and its last reply, or texts with a text that is to be answered to them; None where there are none."""
    from augmill.tasks.sources.dialogues import REPLY
    from augmill.tasks.sources.guess_table import guess_dialogue, guess_pair

    if (dialogue := guess_dialogue(found)) is not None:
        columns = {"inputs": {dialogue: "dialogue"}, "target": {REPLY: "text"}}
        replies = (
            "is a column" if REPLY in found else f"what the assistant says last in {dialogue}, split off as a column"
        )
        why = {"inputs": "turns with role and content", "target": replies}
        return Chosen(columns, why, [], guess, source={"dialogue": dialogue})
    if (pair := guess_pair(found)) is not None:
        texts, answer = pair
        why = {
            "inputs": "named as what is asked",
            "target": f"named as what is answered, {found[answer].length:.0f} characters",
        }
        return Chosen({"inputs": dict.fromkeys(texts, "text"), "target": {answer: "text"}}, why, [], guess)
    return None


def _transcript(found: Mapping[str, Any], files: str) -> str | None:
    """The column that says what is said in the files, by its name, where any problem learns texts from such."""
    from augmill.tasks.problems import problem_learning

    learnt = problem_learning("text", [found[files].type]) is not None
    return next((name for name in found if learnt and TRANSCRIPT.fullmatch(name.lower())), None)


def _typed_name(given: str, names: list[str], types: list[str], where: str, fix: str) -> tuple[str, str | None]:
    """(column, type or None) of ``COLUMN[:TYPE]``; a column's name may hold colons. Raises UserError."""
    from augmill.tasks.errors import UserError
    from augmill.tasks.rows.names import nearest

    name, colon, type = given.rpartition(":")
    if given in names or not colon:
        return _require_there(given, names, where, fix), None
    if type in types:
        return _require_there(name, names, where, fix), type
    if name in names:
        raise UserError(
            f"there is no type {type!r}; {nearest(type, types)}", where=where, fix="give COLUMN or COLUMN:TYPE"
        )
    return _require_there(given, names, where, fix), None


def _require_there(name: str, names: list[str], where: str, fix: str) -> str:
    from augmill.tasks.errors import UserError
    from augmill.tasks.rows.names import nearest

    if name not in names:
        raise UserError(f"there is no column {name!r}; {nearest(name, names)}", where=where, fix=fix)
    return name


def _choose_text(file: Any, source: Any, asked: Asked, guess: dict[str, Any], *, where: str) -> Chosen:
    """Texts and a label, in a recipe's short form."""
    from augmill.tasks.errors import DataError, UserError
    from augmill.tasks.sources import doubt_file, read_schema

    texts = list(asked.text) or [name for name in guess["text"] if name != asked.label]
    label = asked.label or next((name for name in [guess["label"]] if name not in texts), None)
    if texts and label:
        why = {
            key: guess["why"].get(name, "named on the command line")
            for key, name in (("text", texts[0]), ("label", label))
        }
        notes = [] if asked.text and asked.label else list(guess["ask"])
        return Chosen({"text": texts[0] if len(texts) == 1 else texts, "label": label}, why, notes, guess)
    what = "label" if texts else "text"
    problem = f"cannot tell which column is the {what}: {', '.join(read_schema(file, source)[:20])}"
    if (doubt := doubt_file(file, source)) is not None:
        raise DataError(f"{problem}: {doubt.problem}", where=where, fix=doubt.fix)
    table = " (for a table: --input COLUMN for each, and --target COLUMN)"
    raise UserError(problem, where=where, fix=f"name it: --{what} COLUMN{table}")


def _ask_type(name: str, type: str, found: Any) -> list[str]:
    """Whether few whole numbers are meant as classes or as amounts."""
    if found.type != "number" or not found.whole or not 2 < found.distinct <= MANY:
        return []
    told, other = ("classes", "number") if type == "label" else ("amounts", "label")
    return [
        f"{name}: its {found.distinct:,} whole numbers are taken for {told}; if they are not, --target {name}:{other}"
    ]


def _choose_general(
    inputs: Sequence[tuple[str, str | None]],
    target: tuple[str, str | None] | None,
    found: Mapping[str, Any],
    guess: dict[str, Any],
    *,
    where: str,
) -> Chosen:
    """Columns with their types, in a recipe's general form."""
    from augmill.tasks.errors import UserError
    from augmill.tasks.sources.guess_table import guess_target, target_type

    why, notes = {"inputs": "named on the command line", "target": "named on the command line"}, list[str]()
    if target is None:
        told = guess_target(found, [name for name, _ in inputs])
        if told is None:
            problem = f"cannot tell which column to predict: {', '.join([*found][:20])}"
            raise UserError(problem, where=where, fix="name it: --target COLUMN")
        target, why["target"] = (told[0], None), told[1]
    name = target[0]
    type = target[1] or target_type(found[name])
    if target[1] is None:
        notes += _ask_type(name, type, found[name])
    types = {column: given or found[column].type for column, given in inputs}
    if not inputs:
        able = {column: each for column, each in found.items() if column != name}
        types = {column: each.type for column, each in able.items() if not each.left}
        why["inputs"] = "with types guessed from their values"
        left = {column: each.left for column, each in able.items() if column not in (*types, guess["id"])}
        if left:
            notes.append(
                f"left out of the inputs: {', '.join(f'{column} ({reason})' for column, reason in left.items())}"
            )
    if not types:
        raise UserError(
            "cannot tell which columns to learn from", where=where, fix="name them: --input COLUMN for each"
        )
    if set(types.values()) == {"text"} and type == "label":  # the short form says the same
        texts = list(types)
        columns: dict[str, Any] = {"text": texts[0] if len(texts) == 1 else texts, "label": name}
        return Chosen(columns, {"text": why["inputs"], "label": why["target"]}, notes, guess)
    return Chosen({"inputs": types, "target": {name: type}}, why, notes, guess, not inputs)
