"""Dialogues: lists of turns, each with a role and a content, as chat templates read them.

What equal and near mean is the text kind's, of the turns one after the other: who speaks counts as one letter of a word of
its own, so that a question that is repeated as an answer is not the same.
"""

from __future__ import annotations

import html
import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.contracts import Featurizer, Floats, Kind, NearIndex, ReadLimits
from augmill.tasks.rows.kinds.text import Text, canonical
from augmill.tasks.rows.schema import distance
from augmill.tasks.rows.shown import visible

TURNS = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
SPEAKER = "assistant"  # whose turns are learnt
# What other formats call them: ShareGPT's `from` and `value`.
_NAMES = {"role": "from", "content": "value"}
_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
Turn = dict[str, Any]
_TEXT = Text()


def as_turns(value: Any) -> list[Turn] | None:
    """A source's value, perhaps as JSON text, as turns with ``role`` and ``content``, perhaps null; None where it is no list.

    ShareGPT's names become these. Whether they are a dialogue says ``why_not``.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if isinstance(value, dict) and len(value) == 1:  # {"messages": [...]}, as JSON text
        value = next(iter(value.values()))
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        return None
    return [{name: _part(turn, name) for name in ("role", "content")} for turn in value]


def _part(turn: Turn, name: str) -> str | None:
    found = turn.get(name, turn.get(_NAMES[name]))
    if not isinstance(found, str):
        return None
    return _ROLES.get(found, found) if name == "role" else found


def why_not(turns: Sequence[Turn] | None, limits: ReadLimits) -> str | None:
    """Why turns are no dialogue; None where they are one."""
    if not turns:
        return "no_turns"
    if any(turn["role"] not in ROLES for turn in turns):
        return "unknown_role"
    if any(not canonical(turn["content"] or "") for turn in turns):
        return "empty_turn"
    return "too_long" if sum(len(turn["content"]) for turn in turns) > limits.max_chars else None


def split_reply(turns: list[Turn] | None) -> tuple[list[Turn] | None, str | None]:
    """(the turns before the reply, the reply): the last turn where the assistant has it, else none."""
    if not turns or turns[-1]["role"] != SPEAKER:
        return turns, None
    return turns[:-1], turns[-1]["content"]


def alternates(turns: Sequence[Turn]) -> bool:
    """Whether no two turns in a row, beside those of the system, have one role."""
    roles = [turn["role"] for turn in turns if turn["role"] not in ("system", "developer")]
    return all(one != other for one, other in itertools.pairwise(roles))


class Dialogue(Kind):
    """``id``: roles, and contents as the text kind's ids. ``equal`` and near: those of the text that the turns make.

    Any order of roles is taken; which dialogues do not alternate the profile says.
    """

    VERSION: ClassVar[int] = 1
    name: ClassVar[str] = "dialogue"
    types: ClassVar[tuple[str, ...]] = ("dialogue",)
    hub: ClassVar[str] = "text"
    drawn_whole: ClassVar[bool] = True
    remedies: ClassVar[Mapping[str, str]] = {
        "no_turns": "give a list of turns, each with `role` and `content`, or its JSON text (source.dialogue)",
        "unknown_role": f"name the roles {', '.join(ROLES)}",
        "empty_turn": "take out turns without a text",
        "too_long": "shorten those dialogues, or raise refuse.max_chars",
    }

    def arrow(self, type: str) -> pa.DataType:
        return TURNS

    def takes(self, kind: pa.DataType, type: str) -> bool:
        """Lists of structs that have a role and a content, under whichever of their names."""
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_struct(kind.value_type):
            return False
        return all(max(kind.value_type.get_field_index(name) for name in names) >= 0 for names in _NAMES.items())

    def sniff(self, column: pa.ChunkedArray, name: str) -> tuple[str, float]:
        """At most a half where the assistant seldom has the last turn: nobody knows then what is to be learnt."""
        found = [as_turns(value) for value in column.slice(0, 100).drop_null().to_pylist() if isinstance(value, list)]
        if not found or not self.takes(column.type, "dialogue"):
            return "dialogue", 0.0
        sound = float(np.mean([why_not(turns, ReadLimits(1 << 31)) is None for turns in found]))
        ended = float(np.mean([split_reply(turns)[1] is not None for turns in found]))
        return "dialogue", sound if ended > 0.5 else sound / 2

    def read(self, column: pa.ChunkedArray, type: str, limits: ReadLimits) -> tuple[pa.Array, list[str | None]]:
        """Refused: ``no_turns``, ``unknown_role``, ``empty_turn`` and ``too_long`` (all contents together)."""
        found = [as_turns(value) for value in column.to_pylist()]
        reasons = [why_not(turns, limits) for turns in found]
        kept = [None if reason else turns for turns, reason in zip(found, reasons, strict=True)]
        return pa.array(kept, TURNS), reasons

    def release(self, values: pa.Array, kind: pa.DataType) -> pa.Array:
        """As JSON text where the column is one, else as the user's structs, whose other fields are null."""
        rows = values.to_pylist()
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            return pa.array([row and json.dumps(row, ensure_ascii=False) for row in rows], kind)
        names = {}
        for name, other in _NAMES.items():
            own = kind.value_type.get_field_index(name) >= 0
            names[name] = name if own else other
        made = [row and [{names[name]: turn[name] for name in names} for turn in row] for row in rows]
        return pa.array(made, kind)

    def id(self, columns: pa.Table) -> list[bytes]:
        return [
            "\x1f".join(
                "\x1e".join(f"{turn['role']}\x1d{canonical(turn['content'] or '')}" for turn in turns or ())
                for turns in row
            ).encode("utf-8", "replace")
            for row in _rows(columns)
        ]

    def equal(self, columns: pa.Table) -> list[bytes]:
        return _TEXT.equal(as_texts(columns))

    def near(self, columns: pa.Table, threshold: float) -> NearIndex:
        return NearDialogues(_TEXT.near(as_texts(columns), threshold))

    def load_near(self, directory: Path, name: str) -> NearIndex:
        return NearDialogues(_TEXT.load_near(directory, name))

    def groups(self, columns: pa.Table, threshold: float) -> npt.NDArray[np.bool_]:
        return _TEXT.groups(as_texts(columns), threshold)

    def near_keys(self, columns: pa.Table, threshold: float) -> npt.NDArray[np.uint32]:
        return _TEXT.near_keys(as_texts(columns), threshold)

    def profile(self, columns: pa.Table) -> dict[str, Any]:
        """turns: rows by their number; speakers: turns by role; alternating: rows by whether two speak by turns."""
        turns, speakers, alternating = Counter[str](), Counter[str](), Counter[str]()
        for row in _rows(columns):
            whole = [turn for dialogue in row for turn in dialogue or ()]
            turns[str(len(whole))] += 1
            speakers.update(turn["role"] for turn in whole)
            alternating["yes" if all(alternates(dialogue or ()) for dialogue in row) else "no"] += 1
        found = {"turns": turns, "speakers": speakers, "alternating": alternating}
        return {way: dict(sorted(counts.items())) for way, counts in found.items()}

    def drift(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, float]:
        return {way: distance(one[way], other[way]) for way in ("turns", "speakers", "alternating")}

    def expectations(self, field: str, max_null_share: float) -> list[dict[str, Any]]:
        kwargs = {"column": field, "mostly": 1.0 - max_null_share}
        return [{"type": "expect_column_values_to_not_be_null", "kwargs": kwargs}]

    def features(self, train: pa.Table) -> Featurizer:
        return DialogueFeatures(_TEXT.features(as_texts(train)))

    def show(self, columns: pa.Table) -> list[str]:
        return [
            " | ".join(f"{turn['role']}: {turn['content']}" for d in row for turn in d or ()) for row in _rows(columns)
        ]

    def draw(self, columns: pa.Table) -> list[str]:
        """A line a turn, with who speaks in front of it."""
        return [
            "".join(
                f"<div><b>{html.escape(visible(turn['role']))}</b> {html.escape(visible(turn['content']))}</div>"
                for dialogue in row
                for turn in dialogue or ()
            )
            for row in _rows(columns)
        ]

    def similarities(self, made: pa.Table, real: pa.Table) -> Floats:
        return _TEXT.similarities(as_texts(made), as_texts(real))

    def diversity(self, made: pa.Table, real: pa.Table) -> dict[str, float]:
        return _TEXT.diversity(as_texts(made), as_texts(real))

    def sizes(self, columns: pa.Table) -> tuple[str, list[int]]:
        return "turns", [sum(len(dialogue or ()) for dialogue in row) for row in _rows(columns)]


class NearDialogues(NearIndex):
    """Dialogues by the texts that their turns make."""

    def __init__(self, index: NearIndex) -> None:
        self.index = index

    def matches(self, columns: pa.Table) -> Any:
        return self.index.matches(as_texts(columns))

    def nearest(self, columns: pa.Table) -> Any:
        return self.index.nearest(as_texts(columns))

    def save(self, directory: Path, name: str) -> dict[str, Path]:
        return self.index.save(directory, name)


class DialogueFeatures(Featurizer):
    """Those of the texts that the turns make."""

    def __init__(self, texts: Featurizer) -> None:
        self.texts = texts

    def transform(self, columns: pa.Table) -> Any:
        return self.texts.transform(as_texts(columns))


def _rows(columns: pa.Table) -> list[tuple[Any, ...]]:
    """Of each row its dialogues, perhaps null."""
    return list(zip(*(column.to_pylist() for column in columns.columns), strict=True))


def as_texts(columns: pa.Table) -> pa.Table:
    """Each dialogue as one text, its turns one after the other, each behind the first letter of its role."""

    def text(turns: list[Turn] | None) -> str:
        return "\n".join(f"{(turn['role'] or '?')[0]} {turn['content'] or ''}" for turn in turns or ())

    made = [pa.array(list(map(text, column.to_pylist())), pa.string()) for column in columns.columns]
    return pa.table(made, names=columns.column_names)
