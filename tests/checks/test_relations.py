"""Relations: three relations, three thresholds (law 10)."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa
from checking import Bench, candidates, real, sentences, shared_rows
from hypothesis import example, given, settings
from hypothesis import strategies as st

from augmill.tasks.rows.kinds.text import canonical, equal
from augmill.tasks.rows.kinds.text.near import jaccard

TRAIN = [
    ("card", "Where is my new card? It should have been here by now"),
    ("fee", "Why was a fee charged for the transfer that I made yesterday"),
    ("fee", "Why was a fee charged, for the transfer that I made yesterday!"),
]
HELD = [("pin", "How can I change the pin of my card while I am abroad")]


def bench(tmp_path: Path, **options: object) -> Bench:
    return Bench("relations", tmp_path, real(TRAIN), held_out=real(HELD, prefix="h"), **options)


def test_held_out_rows_are_refused_exact_and_near_even_with_a_parent(tmp_path: Path) -> None:
    near = "How can I change the pin of my card while I am abroad now"
    assert 0.8 <= jaccard(near, HELD[0][1]) < 1
    rows = [("pin", HELD[0][1].upper() + "?"), ("pin", near), ("pin", "How can I change my password")]
    assert bench(tmp_path).reasons(candidates(rows, [["r0"], ["r0"], []])) == ["in_heldout", "near_heldout", None]


def test_a_row_must_differ_from_its_parent_under_the_declared_normalisation(tmp_path: Path) -> None:
    loud = candidates([("card", TRAIN[0][1].replace("?", " ,?!"))], [["r0"]])
    copy = candidates([("card", f"  {TRAIN[0][1]} ")], [["r0"]])
    assert bench(tmp_path / "c", parent_normalisation="canonical").reasons(loud) == [None]
    assert bench(tmp_path / "f", parent_normalisation="fold").reasons(loud) == ["equals_parent"]
    assert bench(tmp_path / "c", parent_normalisation="canonical").reasons(copy) == ["equals_parent"]


def test_a_row_that_was_unlabelled_may_equal_the_row_it_was_and_leaves_with_it(tmp_path: Path) -> None:
    free = [("", "The card reader says that my pin is wrong"), ("", TRAIN[0][1])]
    rows = [("pin", free[0][1]), ("card", free[0][1]), ("fee", free[0][1]), ("card", free[1][1]), ("pin", HELD[0][1])]
    parents = [["u0"], ["u0"], ["gone"], ["u1"], ["u0"]]
    check = Bench("relations", tmp_path, real(TRAIN), held_out=real(HELD), unlabelled=real(free, prefix="u"))
    assert check.reasons(candidates(rows, parents)) == [None, None, "parent_left", "in_train", "in_heldout"]


def test_a_row_may_be_near_its_parent_but_not_near_another_train_row(tmp_path: Path) -> None:
    near = TRAIN[0][1] + "a"
    assert 0.95 <= jaccard(near, TRAIN[0][1]) < 1
    table = candidates([("card", near), ("fee", near), ("card", near)], [["r0"], ["r1"], []])
    assert bench(tmp_path).reasons(table) == [None, "near_train", "near_train"]


def test_a_row_leaves_with_any_of_its_parents_and_with_the_class_that_a_parent_had(tmp_path: Path) -> None:
    rows = [("card", "quite another text")] * 5
    parents = [["r0"], ["r0", "gone"], ["r1"], ["r0", "r1"], []]
    assert bench(tmp_path / "same").reasons(candidates(rows, parents)) == [
        None,
        "parent_left",
        "parent_left",
        "parent_left",
        None,
    ]
    told = bench(tmp_path / "any", parent_class="any").reasons(candidates(rows, parents))
    assert told == [None, "parent_left", None, None, None]


def test_a_copy_of_another_train_row_is_refused(tmp_path: Path) -> None:
    table = candidates([("fee", TRAIN[0][1].lower()), ("fee", "a new one")], [["r1"], ["r1"]])
    assert bench(tmp_path).reasons(table) == ["in_train", None]


def test_equal_train_rows_count_as_one_parent(tmp_path: Path) -> None:
    near = candidates([("fee", TRAIN[1][1] + "s")] * 2, [["r1"], ["r2"]])
    assert bench(tmp_path).reasons(near) == [None, None]


def test_thresholds_stand_in_the_options(tmp_path: Path) -> None:
    row = candidates([("pin", "How can I change the pin of my card")])
    assert bench(tmp_path / "a").reasons(row) == [None]
    assert bench(tmp_path / "b", heldout_near=0.5).reasons(row) == ["near_heldout"]


def test_it_never_abstains_even_where_all_train_rows_are_held_out_rows(tmp_path: Path) -> None:
    rows = sentences(5)
    check = Bench("relations", tmp_path, real(rows), held_out=real(rows, prefix="h"))
    assert check.learnt["near_heldout"] == 1
    assert not check.learnt["abstains"]
    assert set(check.reasons(candidates(rows))) == {"in_heldout"}


def test_copied_held_out_rows_of_trec_are_all_refused(tmp_path: Path) -> None:
    train, test = shared_rows("trec_kumar", "train", 50), shared_rows("trec_kumar", "test", None)
    check = Bench("relations", tmp_path, real(train), held_out=real(test, prefix="h"))
    assert set(check.reasons(candidates(test))) == {"in_heldout"}


WORDS = st.sampled_from(["where", "is", "my", "new", "card", "Card!", "fee", "why", "the"])
LINES = st.lists(WORDS, min_size=1, max_size=5).map(" ".join)


def slowly(check: Bench, rows: pa.Table, under: str, free: set[str]) -> list[str | None]:
    """The reasons, row by row and parent by parent."""
    train = {row["row_id"]: row for row in check.train.to_pylist()}
    held = check.held_out["text"].to_pylist()
    same = {"canonical": canonical, "fold": equal}[under]
    found: list[str | None] = []
    for row in rows.to_pylist():
        parents = [i for i in row["parent_ids"] or [] if i in train or i not in free]
        own = {equal(train[i]["text"]) for i in parents if i in train}
        to_held = max((jaccard(row["text"], text) for text in held), default=0.0)
        others = [each["text"] for each in train.values() if equal(each["text"]) not in own]
        to_train = max((jaccard(row["text"], text) for text in others), default=0.0)
        if to_held >= 0.8:
            found.append("in_heldout" if to_held == 1 else "near_heldout")
        elif any(i not in train or train[i]["stratum"] != row["stratum"] for i in parents):
            found.append("parent_left")
        elif any(same(train[i]["text"]) == same(row["text"]) for i in parents):
            found.append("equals_parent")
        else:
            found.append(None if to_train < 0.95 else "in_train" if to_train == 1 else "near_train")
    return found


@given(
    st.lists(st.tuples(st.sampled_from("ab"), LINES), min_size=1, max_size=5),
    st.lists(LINES, max_size=2),
    st.lists(
        st.tuples(
            st.sampled_from("abc"), LINES, st.none() | st.lists(st.sampled_from(["r0", "r1", "u0", "gone"]), max_size=3)
        ),
        max_size=6,
    ),
    st.sampled_from(["canonical", "fold"]),
)
@example([("a", "where where")], [], [("a", "where where", None), ("a", "where", ["r1"])], "canonical")
@settings(max_examples=60, deadline=None)
def test_verdicts_are_those_of_a_loop_over_rows_and_parents(
    train: list[tuple[str, str]],
    held: list[str],
    asked: list[tuple[str, str, list[str] | None]],
    under: str,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check = Bench(
            "relations",
            Path(folder) / "check",
            real(train),
            held_out=real([("a", text) for text in held], prefix="h"),
            unlabelled=real([("", "a free text")], prefix="u"),
            parent_normalisation=under,
        )
        rows = candidates([(stratum, text) for stratum, text, _ in asked])
        parents = pa.array([ids for *_, ids in asked], pa.list_(pa.string()))
        rows = rows.set_column(rows.column_names.index("parent_ids"), "parent_ids", parents)
        assert check.reasons(rows) == slowly(check, rows, under, {"u0"})
