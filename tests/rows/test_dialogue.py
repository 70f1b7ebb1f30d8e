"""Dialogues: which turns are read, what is refused, what comes back in the user's own type, and how a report shows them."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from augmill.tasks.contracts import ReadLimits
from augmill.tasks.rows.kinds import KINDS
from augmill.tasks.rows.kinds.dialogue import TURNS

KIND = KINDS["dialogue"]
HI = [{"role": "user", "content": "hi"}]


def read(values: list[Any], kind: pa.DataType | None = None, most: int = 100) -> tuple[pa.Array, list[str | None]]:
    return KIND.read(pa.chunked_array([pa.array(values, kind)]), "dialogue", ReadLimits(most))


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        (HI, None),
        ([{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}], None),  # need not alternate
        ([{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}], None),
        ({"messages": HI}, None),
        ([], "no_turns"),
        (None, "no_turns"),
        ("no JSON", "no_turns"),
        ([1], "no_turns"),
        ([{"role": "wizard", "content": "hi"}], "unknown_role"),
        ([{"content": "hi"}], "unknown_role"),
        ([*HI, {"role": "assistant", "content": " "}], "empty_turn"),
        ([*HI, {"role": "assistant", "content": None}], "empty_turn"),
        ([{"role": "user", "content": [{"type": "image"}]}], "empty_turn"),
        ([{"role": "user", "content": "x" * 101}], "too_long"),
    ],
)
def test_turns_are_read_from_json_or_refused_with_a_reason(turns: Any, reason: str | None) -> None:
    values, reasons = read([turns if turns is None or isinstance(turns, str) else json.dumps(turns)], pa.string())
    assert reasons == [reason] and values.type == TURNS and (values.null_count == 1) == (reason is not None)
    assert reason is None or reason in KIND.remedies


def test_structs_with_more_fields_or_other_names_come_back_as_they_are() -> None:
    other = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string()), ("weight", pa.int32())]))
    assert KIND.takes(TURNS, "dialogue") and KIND.takes(other, "dialogue")
    assert not any(KIND.takes(kind, "dialogue") for kind in (pa.string(), pa.list_(pa.string()), pa.int64()))
    values, reasons = read([[{"from": "human", "value": "hi", "weight": 1}]], other)
    assert reasons == [None] and values.to_pylist() == [HI]
    assert KIND.release(values, other).to_pylist() == [[{"from": "user", "value": "hi", "weight": None}]]
    assert json.loads(KIND.release(values, pa.string())[0].as_py()) == HI


def test_who_says_it_counts_and_so_does_where_a_turn_ends() -> None:
    said = [
        [("user", "yes"), ("assistant", "no")],
        [("user", "yes"), ("user", "no")],
        [("user", "yes no")],
        [("user", "yes a no")],
    ]
    rows = pa.array([[{"role": role, "content": text} for role, text in turns] for turns in said], TURNS)
    ids = KIND.id(pa.table({"dialogue:m": rows}))
    assert len(set(ids)) == 4


def test_a_profile_says_how_many_do_not_alternate() -> None:
    rows = [HI, [*HI, *HI], [{"role": "system", "content": "be kind"}, *HI]]
    found = KIND.profile(pa.table({"dialogue:m": pa.array(rows, TURNS)}))
    assert found["alternating"] == {"no": 1, "yes": 2} and found["turns"] == {"1": 1, "2": 2}
    assert found["speakers"] == {"system": 1, "user": 4}


def test_a_report_draws_turns_as_lines_and_escapes_them() -> None:
    rows = pa.table({"dialogue:m": pa.array([[{"role": "user", "content": "<b>\x1b[1m</b>"}]], TURNS)})
    (drawn,) = KIND.draw(rows) or []
    assert drawn.startswith("<div><b>user</b> &lt;b&gt;") and "\x1b" not in drawn
    assert KIND.show(rows) == ["user: <b>\x1b[1m</b>"]
