"""Recombination: a row is made of two rows of its class, cut between words; pairs keep what their label relates."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from generating import Bench, ask
from hypothesis import example, given
from hypothesis import strategies as st
from running import read_lines, shared_set

from augmill.tasks.errors import UserError
from augmill.tasks.generators.interpolate import InterpolateOptions, drawn_part, recombine, take_apart
from augmill.tasks.rows.kinds.text import canonical, fold
from augmill.tasks.rows.shown import clusters

PAIR = ("text", "text_b")
TEXTS = st.lists(
    st.sampled_from(["parcel,", "Refund", "the", "(lamp)", "-", "公司", "，", "好的。", "iPhone", "b.", "!"]),
    max_size=12,
).map(" ".join)
NUMBERS = st.lists(st.floats(0, 1, exclude_max=True), min_size=3, max_size=3)


@given(TEXTS)
@example("这家 公司，ok 吗？好")
@example("「好」 (a) b")
def test_a_text_is_cut_between_words_and_never_before_a_mark(text: str) -> None:
    pieces = take_apart(text)
    assert pieces.text == canonical(text)
    assert set(pieces.clauses) <= set(pieces.cuts)
    for share, offset in pieces.cuts:
        before, after = pieces.text[:offset], pieces.text[offset:]
        assert 0 < share < 1 and fold(before) and fold(after)
        assert after[0] not in ",.，。!？ "
    assert [offset for _, offset in pieces.cuts] == sorted({offset for _, offset in pieces.cuts})


WHOLE = ["❤️‍🔥", "👩🏽‍💻.", "🇩🇪", "{{ a b }}", "ann@x.org,", "公", "नमस्ते", "กำ", "@bob", "ok", "<b>a b</b>"]


@given(*[st.tuples(st.lists(st.sampled_from(WHOLE), max_size=9), st.sampled_from(["", " "]))] * 2, NUMBERS)
def test_no_part_begins_within_a_character_or_a_placeholder(
    one: tuple[list[str], str], other: tuple[list[str], str], numbers: list[float]
) -> None:
    first, second = (gap.join(words) if gap else "公 ".join(words) for words, gap in (one, other))
    parts = [take_apart(first), take_apart(second)]
    made = recombine("phrases", *parts, 0.3, numbers) if parts[0].cuts and parts[1].cuts else ""
    known = Counter(clusters(canonical(first) + " " + canonical(second)))
    assert not {each for each in Counter(clusters(made)) - known if each != " "}
    for word in ("{{ a b }}", "ann@x.org", "<b>a b</b>"):
        assert made.replace(word, "").count(word[:2]) == 0


@given(TEXTS, TEXTS, st.sampled_from(["halves", "clauses", "phrases"]), st.floats(0, 0.5), NUMBERS)
def test_what_comes_out_is_the_start_of_one_and_the_end_of_the_other(
    text: str, other: str, part: Any, spread: float, numbers: list[float]
) -> None:
    first, second = take_apart(text), take_apart(other)
    if drawn_part({part: 1.0}, first, second, 0.5) is None:
        return
    letters = ["".join(fold(value).split()) for value in (text, other)]
    made = "".join(fold(recombine(part, first, second, spread, numbers)).split())
    if part == "phrases":  # both ends are those of the first
        start = next(size for size in range(len(letters[0]), -1, -1) if made.startswith(letters[0][:size]))
        end = next(
            size for size in range(len(letters[0]), -1, -1) if made.endswith(letters[0][len(letters[0]) - size :])
        )
        assert made[start : len(made) - end] in letters[1]
    else:
        assert any(made[:at] == letters[0][:at] and letters[1].endswith(made[at:]) for at in range(1, len(made)))


@pytest.mark.parametrize(
    ("part", "text", "other", "expected"),
    [
        ("halves", "one two three four", "a b c d", "one two c d"),
        ("halves", "where is my parcel, please", "track the box: now", "where is box: now"),
        ("clauses", "hello there, where is it", "good day to you all. I want my money", "hello there, I want my money"),
        ("clauses", "你好，包裹在哪里", "请问一下：钱呢", "你好，钱呢"),
        ("halves", "这家公司好", "那个企业坏", "这家企业坏"),
        ("halves", "买 iPhone", "look at the phone", "买the phone"),
        ("phrases", "a b c d e f", "u v w x y z", "a b w x e f"),
    ],
)
def test_known_texts(part: Any, text: str, other: str, expected: str) -> None:
    first, second = take_apart(text), take_apart(other)
    assert recombine(part, first, second, 0.0, [0.5, 0.5, 0.5]) == expected


def test_parts_are_drawn_by_their_weights_from_what_both_texts_allow() -> None:
    plain, marked = take_apart("a b c d"), take_apart("a b, c d")
    draws = [at / 1000 for at in range(1000)]
    weights: Any = {"halves": 3.0, "clauses": 1.0, "phrases": 0.0}
    assert Counter(drawn_part(weights, marked, marked, draw) for draw in draws) == {"halves": 750, "clauses": 250}
    assert {drawn_part(weights, plain, marked, draw) for draw in draws} == {"halves"}
    assert drawn_part({"clauses": 1.0}, plain, marked, 0.5) is None
    assert drawn_part({"halves": 1.0}, take_apart("one"), marked, 0.5) is None


SINGLE: list[tuple[str, ...]] = [
    *((f"a{at}", "refund", f"please pay {at} coins back to me, in {9 - at} days") for at in range(6)),
    *((f"b{at}", "track", f"where is parcel number {at} that you sent {9 - at} days ago") for at in range(6)),
    ("c", "alone", "nobody else is here"),
    ("d", "short", "no"),
    ("e", "short", "yes"),
]


def test_both_parents_are_of_the_class_and_the_row_equals_neither(tmp_path: Path) -> None:
    known = {row_id: (stratum, text) for row_id, stratum, text in SINGLE}
    made = Bench("interpolate", tmp_path, rows=SINGLE).sample(ask(["refund", "track"] * 100)).to_pylist()
    assert all(row["reason"] is None for row in made)
    for row in made:
        first, second = (known[row_id] for row_id in row["parent_ids"])
        assert first != second and first[0] == second[0] == row["stratum"]
        assert fold(row["text"]) not in (fold(first[1]), fold(second[1]))
    assert len({row["text"] for row in made}) > 40


def test_what_cannot_be_put_together_says_why(tmp_path: Path) -> None:
    rows = Bench("interpolate", tmp_path / "one", rows=SINGLE).sample(ask(["alone", "short", "absent"]))
    assert rows["reason"].to_pylist() == ["no_partner", "no_partner", "no_parent"]
    twins = [("a", "x", "one and two"), ("b", "x", "One and two!")]
    assert Bench("interpolate", tmp_path / "two", rows=twins).sample(ask(["x"]))["reason"].to_pylist() == ["unchanged"]


PAIRS: list[tuple[str, ...]] = [
    ("p1", "yes", "where is my parcel", "track the order now"),
    ("p2", "yes", "how long will it take", "track the order now"),
    ("p3", "yes", "give me a refund", "pay my money back"),
    ("p4", "no", "where is my parcel", "pay my money back"),
    ("p5", "no", "reset the code", "give me a refund"),
    ("p6", "no", "give me a refund", "reset the code"),
]


def pairs(folder: Path, **options: Any) -> dict[str, list[Any]]:
    """What is made of each class of PAIRS: (text, text_b, parents) or the reason, for ordinals 0 to 19."""
    bench = Bench("interpolate", folder, rows=PAIRS, fields=PAIR, relation="between", **options)
    return {
        name: [
            r["reason"] or (r["text"], r["text_b"], *r["parent_ids"])
            for r in bench.sample(ask([name] * 20)).to_pylist()
        ]
        for name in ("yes", "no")
    }


def test_pairs_are_recombined_only_where_they_share_the_other_text(tmp_path: Path) -> None:
    made = pairs(tmp_path)
    assert set(made["no"]) == {"no_partner"}
    assert len(set(made["yes"])) > 3
    for text, second, *parents in made["yes"]:
        assert second == "track the order now" and sorted(parents) == ["p1", "p2"]
        assert set(text.split()) <= {"where", "is", "my", "parcel", "how", "long", "will", "it", "take"}


def test_a_symmetric_pair_is_swapped_once_unless_train_holds_it_so(tmp_path: Path) -> None:
    made = pairs(tmp_path, symmetric=True)
    texts = {row_id: (text, second) for row_id, _, text, second in PAIRS}
    swapped = made["yes"][:3]
    assert {row[2:] for row in swapped} == {("p1",), ("p2",), ("p3",)}
    assert all(row[:2] == texts[row[2]][::-1] for row in swapped)
    assert all(len(row) == 4 for row in made["yes"][3:])  # two parents: recombined around the shared text
    # p5 and p6 are each other's swap; nothing in `no` shares a text with another row on any side but those two.
    assert made["no"][0][:2] == texts["p4"][::-1] and made["no"][0][2:] == ("p4",)
    assert set(made["no"][1:]) == {"exhausted"}


def test_the_recipes_seed_decides_which_pairs_are_swapped_first(tmp_path: Path) -> None:
    rows = [(f"p{at}", "yes", f"first {at}", f"second {at}") for at in range(30)]
    orders = [
        [
            row["parent_ids"][0]
            for row in Bench(
                "interpolate",
                tmp_path / str(seed),
                rows=rows,
                fields=PAIR,
                seed=seed,
                relation="between",
                symmetric=True,
            )
            .sample(ask(["yes"] * 30))
            .to_pylist()
        ]
        for seed in (0, 1)
    ]
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])


def test_columns_that_speak_for_themselves_are_each_recombined(tmp_path: Path) -> None:
    rows = [(f"r{at}", "x", f"t{at} u{at}", f"v{at} w{at}") for at in range(5)]
    made = Bench("interpolate", tmp_path, rows=rows, fields=PAIR, relation="each").sample(ask(["x"] * 40))
    for row in made.to_pylist():
        first, second = (row_id.removeprefix("r") for row_id in row["parent_ids"])
        assert (row["text"], row["text_b"]) == (f"t{first} u{second}", f"v{first} w{second}")


@pytest.mark.parametrize(("name", "chance"), [("trec_kumar", 1 / 6), ("fewclue_tnews", 1 / 15)])
def test_rows_of_real_sets_keep_their_label(name: str, chance: float, tmp_path: Path) -> None:
    """A probe trained on rows that the generator never saw agrees almost as often as with real rows."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    files = {"trec_kumar": "train.jsonl", "fewclue_tnews": "train_few_all.jsonl"}
    rows = read_lines(shared_set(name) / files[name])
    random.Random(0).shuffle(rows)
    used: Counter[str] = Counter()
    train, probe = [], []
    for row in rows:
        stratum = str(row["label"])
        if used[stratum] < 60:
            used[stratum] += 1
            of = train if used[stratum] <= 20 else probe
            of.append((f"{stratum}-{used[stratum]}", stratum, row["text"]))
    made = Bench("interpolate", tmp_path, rows=train).sample(ask(sorted(used) * 30))
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True)
    model = LogisticRegression(C=10.0, max_iter=300)
    model.fit(vectors.fit_transform(row[2] for row in probe), [row[1] for row in probe])
    agreed = {
        kind: model.score(vectors.transform(texts), strata)
        for kind, texts, strata in (
            ("made", made["text"].to_pylist(), made["stratum"].to_pylist()),
            ("real", [row[2] for row in train], [row[1] for row in train]),
        )
    }
    assert agreed["made"] > 2 * chance
    assert agreed["made"] > 0.8 * agreed["real"]


def test_options_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    for options in (
        {"parts": {}},
        {"parts": {"halves": -1.0}},
        {"spread": 0.6},
        {"symmetric": True, "relation": "each"},
    ):
        with pytest.raises(ValueError, match=r"expected|relate"):
            InterpolateOptions(**options)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="two text columns"):
        Bench("interpolate", tmp_path, rows=SINGLE, symmetric=True, relation="between")
