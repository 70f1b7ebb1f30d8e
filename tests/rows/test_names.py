"""A name that is not there: what was meant, or what there is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from augmill.tasks.rows.names import SHOWN, nearest

COLUMNS = ["id", "comment_text", "toxic", "threat", "insult"]


@pytest.mark.parametrize(
    ("name", "present", "meant"),
    [
        ("text", COLUMNS, "comment_text"),  # which holds the word; threat has more of its letters
        ("TEXT", [*COLUMNS, "Text", "next"], "Text"),
        ("toxik", COLUMNS, "toxic"),
        ("label", ["LABEL", "Label"], "LABEL"),
    ],
)
def test_the_nearest_is_named_whatever_the_case_and_one_that_holds_the_word_first(
    name: str, present: list[str], meant: str
) -> None:
    assert nearest(name, present) == f"did you mean {meant!r}?"


def test_where_none_is_near_the_names_that_there_are_stand_in_their_order() -> None:
    assert nearest("zzz", COLUMNS) == f"there are: {', '.join(COLUMNS)}"
    assert nearest("zzz", COLUMNS, "see the docs") == "see the docs"
    many = [f"column{at}" for at in range(SHOWN + 1000)]
    assert nearest("zzz", many).endswith(f"column{SHOWN - 1} and 1,000 more")


@given(st.text(max_size=5), st.lists(st.text(max_size=5), max_size=6))
def test_what_is_said_to_be_meant_is_there(name: str, present: list[str]) -> None:
    said = nearest(name, present, "nothing")
    assert said == "nothing" or said in {f"did you mean {other!r}?" for other in present}
