"""Texts that a reader would call equal are equal here, in every script, and those that differ stay different."""

from __future__ import annotations

import re
import time
import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from augmill.tasks.generators._edits import split_words
from augmill.tasks.rows.kinds.text import (
    canonical,
    canonical_texts,
    equal,
    fold,
    is_unspaced,
    join_fields,
    prepared,
    shingles,
)
from augmill.tasks.rows.kinds.text.normal import fold_texts
from augmill.tasks.rows.kinds.text.prepared import KEPT
from augmill.tasks.rows.shown import CLUSTER, JOINERS, clusters, count_characters, cut

TEXT = st.text(st.characters(exclude_characters="\x1f"), max_size=20)


@given(TEXT)
def test_canonical_is_its_own_canonical_and_sees_no_white_space_or_composition(text: str) -> None:
    once = canonical(text)
    assert canonical(once) == once
    assert canonical(f" \t{text}\n") == once
    for form in ("NFC", "NFD"):
        assert canonical(unicodedata.normalize(form, text)) == once  # type: ignore[arg-type]
    assert "  " not in once and "\x1f" not in once


PLAIN = st.text(st.characters(max_codepoint=127) | st.sampled_from("\x85\u2003\u00c4\u4e2d\uff21"), max_size=30)


@given(PLAIN)
def test_the_quick_ways_give_what_the_expressions_give(text: str) -> None:
    """Ids, splits and near-duplicates hang on both, and plain English takes a way of its own through each."""
    assert canonical(text) == re.sub(r"\s+", " ", unicodedata.normalize("NFC", text)).strip()
    fields = (unicodedata.normalize("NFKC", part).casefold() for part in text.split("\x1f"))
    folded = [re.sub(r"[\W_]+", " ", part).strip() for part in fields]
    assert fold(text) == ("\x1f".join(folded) if any(folded) else "")


@given(TEXT, TEXT)
def test_texts_with_one_canonical_form_have_one_folded_form(text: str, other: str) -> None:
    assert fold(canonical(text)) == fold(text)
    assert canonical(text) != canonical(other) or fold(text) == fold(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Where is my parcel?", "where is my  PARCEL"),
        ("Straße", "STRASSE"),
        ("ｆｕｌｌ　ｗｉｄｔｈ", "full width"),
        ("ﬁnd it", "find it"),
        ("don't", "DON’T"),
        ("snake_case", "snake case"),
        ("我的包裹在哪里？", "我的包裹在哪里"),
        ("e\u0301tude", "étude"),
    ],
)
def test_case_width_punctuation_and_composition_are_folded_away(one: str, other: str) -> None:
    assert fold(one) == fold(other) != ""


@pytest.mark.parametrize(("one", "other"), [("a b", "ab"), ("résumé", "resume"), ("42", "43"), ("我", "你")])
def test_words_accents_and_numbers_are_not(one: str, other: str) -> None:
    assert fold(one) != fold(other)


def test_fields_stay_apart_when_they_are_folded() -> None:
    pairs = [("A b!", "c"), ("a", "b c"), ("a b c", ""), ("", "a b c")]
    assert len({fold(join_fields(pair)) for pair in pairs}) == len(pairs)
    assert fold(join_fields(["!", "?"])) == ""
    assert join_fields(["a\x1fb"]) == "a b"


@given(st.lists(st.text("ab \n", max_size=3), min_size=1, max_size=3))
def test_fields_are_joined_so_that_where_they_end_can_be_seen(parts: list[str]) -> None:
    assert join_fields(canonical(part) for part in parts).split("\x1f") == [canonical(part) for part in parts]
    assert join_fields([None, "x"]) == join_fields(["", "x"])


@given(TEXT, st.integers(1, 7))
def test_shingles_cover_the_folded_text(text: str, size: int) -> None:
    found = shingles(text, size)
    folded = fold(text) or text.strip()
    assert found and all(piece in folded for piece in found)
    assert {len(piece) for piece in found} == {min(size, len(folded))}
    assert len(found) <= max(1, len(folded) - size + 1)
    assert set("".join(found)) == set(folded)


@pytest.mark.parametrize(
    ("text", "unspaced"),
    [
        ("我的包裹在哪里", True),
        ("私の荷物はどこ", True),
        ("where is it", False),
        ("내 소포 어디", False),
        ("?! 12", False),
    ],
)
def test_only_chinese_and_japanese_are_written_without_spaces(text: str, unspaced: bool) -> None:
    assert is_unspaced([text]) is unspaced
    assert not is_unspaced([])


def test_korean_is_taken_apart_at_its_spaces() -> None:
    assert [word for _, word, _ in split_words("내 소포 어디")[0]] == ["내", "소포", "어디"]
    assert [word for _, word, _ in split_words("我的包裹")[0]] == ["我", "的", "包", "裹"]


@given(
    st.lists(
        st.sampled_from(["❤️‍🔥", "👨‍👩‍👧‍👦", "🇩🇪", "1️⃣", "🙏🏽", "स्ते", "วั", "ကာ", "a", "公", "é", " "]), max_size=20
    ),
    st.integers(1, 40),
)
def test_a_text_is_counted_and_cut_by_what_a_reader_calls_characters(characters: list[str], most: int) -> None:
    text = "".join(characters)
    assert clusters(text) == characters and count_characters(text) == len(characters)
    begun = cut(text, most)
    assert text.startswith(begun) and len(begun) <= most
    if begun and len(characters[0]) <= most:
        assert clusters(begun) == characters[: count_characters(begun)]


def test_one_character_longer_than_the_bound_is_cut_within_its_accents() -> None:
    assert cut("z" + "\u0301" * 500, 10) == "z" + "\u0301" * 9


@given(
    st.text(
        st.sampled_from("a \u0600\u0301\u200d\ufe0f\U0001f1e9\U0001f1ea\U0001f468\u1100\u1161\u094d\u0915\r\n"),
        max_size=12,
    )
)
def test_flags_taken_in_pairs_are_the_clusters_of_the_standard(text: str) -> None:
    import regex

    assert regex.findall(CLUSTER, text) == regex.findall(rf"\X[{JOINERS}]*", text)


def test_a_text_of_flags_alone_is_cut_in_linear_time() -> None:
    started = time.process_time()
    assert len(clusters("\U0001f1e9" * 40_001)) == 20_001
    assert time.process_time() - started < 1.0


COLUMN = st.lists(TEXT | PLAIN | st.text("ab .\x1e\t\n", max_size=9), max_size=8)


@given(COLUMN)
def test_texts_normalised_together_are_as_one_by_one(texts: list[str]) -> None:
    texts = [text.replace("\x1f", " ") for text in texts]
    assert canonical_texts(texts) == [canonical(text) for text in texts]
    assert fold_texts(texts) == [fold(text) for text in texts]


@given(st.lists(st.tuples(st.none() | TEXT | PLAIN, st.none() | TEXT | PLAIN), max_size=6), st.sampled_from([1, 2]))
def test_what_is_prepared_of_a_table_is_what_each_row_is_by_itself(rows: list[tuple[str, str]], width: int) -> None:
    columns = [[row[at] for row in rows] for at in range(width)]
    table = pa.table({f"text{at}": pa.array(column, pa.string()) for at, column in enumerate(columns)})
    made, parts = prepared(table), [row[:width] for row in rows]
    joined = [join_fields(row) for row in parts]
    assert made.joined == joined
    assert made.id == [join_fields(canonical(part or "") for part in row) for row in parts]
    assert made.equal == [equal(text) for text in joined]
    assert made.fold == [fold(text) for text in joined]
    assert made.canonical == [[canonical(text or "") for text in column] for column in columns]


def test_the_texts_of_equal_tables_are_prepared_once_and_those_of_others_anew() -> None:
    def table(*texts: str) -> pa.Table:
        return pa.table({"text": list(texts)})

    first = prepared(table("a", "b"))
    assert prepared(table("a", "b")) is first
    assert prepared(pa.record_batch({"text": ["a", "b"]})) is first
    prepared(table("a", "b").slice(0, 0))  # between the last check and the twins of a shard, to learn what kind this is
    assert prepared(table("a", "b")) is first
    assert prepared(table("a", "c")).equal == ["a", "c"]
    assert prepared(table("a", "b").rename_columns(["text_b"])) is not first
    large = table("x" * KEPT)
    assert prepared(large) is not prepared(large)  # so that no process holds on to it
