"""EDA and AEDA edits: what they change, what they leave alone, and on what a row depends."""

from __future__ import annotations

import json
import logging
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from augmill.tasks.contracts import Context, FitInputs, Fitted, Request
from augmill.tasks.errors import UserError
from augmill.tasks.generators._edits import (
    Operation,
    PhraseSite,
    edit,
    find_sites,
    holds_whole,
    index_thesaurus,
    prepare,
    read_thesaurus,
    split_words,
)
from augmill.tasks.generators._plain import MOST_EDITS, PlainTexts
from augmill.tasks.generators.rules import Rules, RulesOptions
from augmill.tasks.rows.kinds import candidate_schema, real_schema
from augmill.tasks.rows.kinds.text import canonical, canonical_texts, fold
from augmill.tasks.rows.randomness import row_seeds, uniforms
from augmill.tasks.rows.shown import CLUSTER

OPERATIONS = ("synonym", "insert", "swap", "delete", "punctuation")
GROUPS = [["money back", "refund", "reimbursement"], ["delivery", "parcel"], ["公司", "企业"]]
ROWS = [
    ("r1", "refund", "Where is my REFUND? I sent the parcel (back) on Monday!"),
    ("r2", "refund", "When do I get my money back for the lamp?"),
    ("r3", "refund", "It is not there, is it"),
    ("r4", "track", "My parcel, please."),
    ("r5", "track", "track the parcel with order 48213 to Chloé’s flat"),
    ("r6", "one", "no no no"),
    ("r7", "zh", "这家公司发布了iPhone 12，你喜欢吗？"),
]


def write_thesaurus(folder: Path, text: str = "money back,refund,reimbursement\nparcel,delivery\n公司,企业\n") -> str:
    path = folder / "thesaurus.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


def fit(
    folder: Path, options: RulesOptions, rows: list[tuple[str, ...]], *fields: str
) -> tuple[Rules, Fitted, Context]:
    fields = fields or ("text",)
    columns = list(zip(*rows, strict=True))
    train = pa.table(dict(zip(("row_id", "stratum", *fields), map(list, columns), strict=True)), real_schema(fields))
    folder.mkdir(parents=True, exist_ok=True)
    generator, ctx, empty = Rules(options), Context(seed=0, fields=fields, workdir=folder), train.slice(0, 0)
    generator.fit(FitInputs(train, empty, empty, empty, empty), ctx)
    return generator, Fitted(folder, "content"), ctx


def ask(strata: list[str], start: int = 0) -> Request:
    ordinals = np.arange(start, start + len(strata), dtype=np.int64)
    return Request(strata, ordinals, row_seeds(7, ordinals))


def apply(text: str, operation: str, seed: int, strength: float = 0.3) -> str:
    sentence = prepare(text, index_thesaurus(GROUPS), {operation: 1.0}, strength)
    if not sentence.operations:
        return sentence.text
    return edit(sentence, uniforms(np.array([seed]), sentence.draws)[0].tolist())


texts = st.text(st.sampled_from("ab Z9é'.,?(-公司，　 ")) | st.lists(
    st.sampled_from(["parcel,", "Refund", "MONEY", "back", "the", "(lamp)", "-", "公司"]), max_size=12
).map(" ".join)


@given(texts)
@example("  (a)  -- b! ")
@example("这家 公司，ok 吗")
def test_a_text_taken_apart_and_joined_is_its_canonical_form(text: str) -> None:
    tokens, glue = split_words(canonical(text))
    assert glue.join("".join(token) for token in tokens) == canonical(text)


@given(texts, st.sampled_from(OPERATIONS), st.integers(0, 2**62), st.sampled_from([0.05, 0.5, 1.0]))
def test_edits_never_fail_nor_empty_a_text(text: str, operation: str, seed: int, strength: float) -> None:
    edited = apply(text, operation, seed, strength)
    assert bool(edited) == bool(canonical(text))
    assert canonical(edited) == edited


EMOJI = ("❤️‍🔥", "👨‍👩‍👧‍👦", "🖥️", "1️⃣", "#️⃣", "🙏🏽", "👩🏽‍💻", "🏳️‍🌈", "🇩🇪", "🇫🇷", "🏠", "✊🏿", "☕️")
LETTERS = (
    "a",
    "Z",
    "é",
    "q\u0301",
    "न",
    "स्ते",
    "क्षि",
    "का",
    "วั",
    "กำ",
    "ກີ",
    "ខ្មែ",
    "မြ",
    "ကာ",
    "公",
    "辻\U000e0100",
    "が",
    "한",
)
WHOLE = (
    *("{name}", "${HOME}", "{{ first name }}", "{% if x %}", "%s", "%(count)d", "%.2f", "<b>now or never</b>", "<br/>"),
    *("https://x.org/a_b?c=d", "www.example.com/x", "ann.b+c@x.org", "@user_1", "#tag", "[EMAIL_1]", "$HOME"),
)


def clusters(text: str) -> list[str]:
    """By the library itself, without the product's short cuts."""
    found: list[str] = regex.findall(CLUSTER, text)
    return found


pieces = st.lists(st.sampled_from([*EMOJI, *LETTERS, *" .,!  "]), max_size=24)
strange = st.lists(st.sampled_from([*EMOJI, *LETTERS, *" \u200d\u0301\ufe0f\u200b🇩\u1100\u1161\u0600🏽"]), max_size=12)
wholes = st.lists(st.sampled_from([*WHOLE, "parcel,", "ok", "公司", "(lamp)", "สวัสดี", "❤️"]), max_size=8)


@given(pieces.map("".join) | strange.map("".join) | wholes.map(" ".join))
def test_characters_of_several_code_points_are_taken_apart_nowhere(text: str) -> None:
    tokens, glue = split_words(canonical(text))
    assert glue.join("".join(token) for token in tokens) == canonical(text)
    apart = [piece for token in tokens for part in token for piece in clusters(part)]
    assert "".join(apart) == canonical(text).replace(glue or "\0", "") or " " in "".join(apart)
    whole = Counter(part.strip(" ") for part in clusters(canonical(text)))  # a space may belong to the mark before it
    assert Counter(part.strip(" ") for part in apart if part.strip(" ")) <= whole


@given(pieces.map("".join) | strange.map("".join), st.sampled_from(OPERATIONS), st.integers(0, 2**62))
@example("I love it ❤️‍🔥 thanks a lot", "swap", 1)
@example("公🇩🇪司🇫🇷a", "delete", 1)
@example("\u0301a b c", "insert", 1)
def test_an_edit_holds_characters_of_its_text_the_thesaurus_and_the_marks_alone(
    text: str, operation: str, seed: int
) -> None:
    text = f"{text} parcel" if operation in ("synonym", "insert") else text
    edited = Counter(clusters(apply(text, operation, seed, 1.0)))
    before = Counter(clusters(canonical(text)))
    added = {character for group in GROUPS for phrase in group for character in clusters(phrase + phrase.upper())}
    invented = {character: count for character, count in (edited - before).items() if character != " "}
    assert set(invented) <= {"synonym": added, "insert": added, "punctuation": set(".;?:!,")}.get(operation, set())


@given(wholes, st.sampled_from([" ", ""]), st.sampled_from(OPERATIONS), st.integers(0, 2**62))
def test_placeholders_addresses_and_mentions_move_whole(words: list[str], gap: str, operation: str, seed: int) -> None:
    """Between characters of a script without blanks as well: 公{name}司. A mention ends there where a blank stands."""
    text = " ".join(words) if gap else "".join(f"公{word} 司" for word in words)
    whole = Counter(word for word in words if word in WHOLE)
    edited = apply(text, operation, seed, 1.0)
    kept = Counter(core for _, core, _ in split_words(edited)[0] if core in WHOLE)
    assert kept == whole if operation != "delete" else kept <= whole
    rest = edited
    for word in sorted(kept.elements(), key=len, reverse=True):
        rest = rest.replace(word, "", 1)
    assert not any(part in rest for part in ("{", "}", "%", "<", "@", "#", "[", "$", "http", "www", "name", "user"))


def test_emoji_placeholders_and_scripts_by_known_values() -> None:
    text = "Hi {name}, see (www.x.de)! mail 'a.b@x.org' 👩🏽‍💻 ❤️‍🔥 1️⃣ 🇩🇪 100% #️⃣ 5 < 6"
    tokens = [token for token in split_words(text)[0] if token[1] or len(token[0]) > 1]
    assert tokens == [
        *(("", "Hi", ""), ("", "{name}", ","), ("", "see", ""), ("(", "www.x.de", ")!"), ("", "mail", "")),
        *(("'", "a.b@x.org", "'"), ("👩🏽‍💻", "", ""), ("❤️‍🔥", "", ""), ("", "1️⃣", ""), ("🇩🇪", "", "")),
        *(("", "100", "%"), ("#️⃣", "", ""), ("", "5", ""), ("", "6", "")),
    ]
    assert [core for _, core, _ in split_words("转发@小明 #话题#谢谢")[0]] == [
        "转",
        "发",
        "@小明",
        "#话题#",
        "谢",
        "谢",
    ]
    assert [core for _, core, _ in split_words("สวัสดี")[0]] == ["ส", "วั", "ส", "ดี"]
    assert [core for _, core, _ in split_words("မြန်မာစာ")[0]] == ["မြ", "န်", "မာ", "စာ"]
    assert all(map(holds_whole, WHOLE)) and not any(map(holds_whole, (*EMOJI, "a@b", "50%", "1 < 2", "$5", "C#")))


def test_words_of_a_text_without_blanks_do_not_run_together() -> None:
    made = {apply("我的iPhone的Mac", "delete", seed, 0.01) for seed in range(40)}
    assert "我的iPhone Mac" in made and not any("iPhoneMac" in text for text in made)


def test_a_script_without_blanks_is_named_at_the_fit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        fit(tmp_path / "a", RulesOptions(), [("r1", "x", "สวัสดี ครับ"), ("r2", "x", "ສະບາຍດີ"), ("r3", "x", "我的包裹")])
    assert "Lao, Thai" in caplog.text and "edited by characters" in caplog.text
    caplog.clear()
    fit(tmp_path / "b", RulesOptions(), ROWS)
    assert not caplog.text


@given(texts, st.integers(0, 2**62))
def test_a_swap_keeps_the_words_and_a_deletion_invents_none(text: str, seed: int) -> None:
    def words(value: str) -> Counter[str]:
        return Counter(core for _, core, _ in split_words(value)[0] if core)

    def letters(value: str) -> Counter[str]:
        return Counter("".join(value.split()))

    assert letters(apply(text, "swap", seed)) == letters(canonical(text))
    before, after = words(canonical(text)), letters(apply(text, "delete", seed))
    assert after <= letters(canonical(text))
    assert (after != letters(canonical(text))) == (sum(before.values()) > 1)


@given(texts, st.integers(0, 2**62))
def test_punctuation_changes_nothing_but_punctuation(text: str, seed: int) -> None:
    edited = apply(text, "punctuation", seed)
    assert "".join(fold(edited).split()) == "".join(fold(canonical(text)).split())
    assert len(edited) > len(canonical(text)) or not any(letter.isalnum() for letter in text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Refund, please", {"Reimbursement, please", "Money back, please"}),
        ("my (MONEY BACK)?", {"my (REFUND)?", "my (REIMBURSEMENT)?"}),
        ("money. Back home", {"money. Back home"}),  # no phrase across punctuation
        ("refunds", {"refunds"}),  # no part of a word
        ("这家公司好", {"这家企业好"}),
        ("iPhone 的公司，好", {"iPhone 的企业，好"}),
    ],
)
def test_phrases_of_the_thesaurus_are_replaced_in_place_with_their_case(text: str, expected: set[str]) -> None:
    assert {apply(text, "synonym", seed, 1.0) for seed in range(40)} == expected


def test_strength_is_the_share_of_words_that_change() -> None:
    text = " ".join(f"w{number}" for number in range(40))
    for strength, gone in ((0.01, 1), (0.1, 4), (0.5, 20), (1.0, 39)):
        assert len(apply(text, "delete", 3, strength).split()) == 40 - gone


def test_rows_depend_on_their_own_seed_and_class_alone(tmp_path: Path) -> None:
    options = RulesOptions(thesaurus=write_thesaurus(tmp_path), strength=0.4)
    long = ("r8", "track", " ".join(f"parcel {number}" for number in range(300)))
    generator, fitted, ctx = fit(tmp_path / "fit", options, [*ROWS, long])
    strata = ["refund", "track", "zh", "one", "absent"] * 20
    whole = generator.sample(fitted, ask(strata), ctx)
    assert whole.schema == candidate_schema(("text",))
    alone = [generator.sample(fitted, ask([stratum], at), ctx) for at, stratum in enumerate(strata)]
    assert whole.equals(pa.concat_tables(alone).combine_chunks())
    assert len(set(whole["text"].to_pylist())) > 40


def test_the_order_of_train_rows_changes_no_byte(tmp_path: Path) -> None:
    options = RulesOptions(thesaurus=write_thesaurus(tmp_path))
    for name, rows in (("a", ROWS), ("b", ROWS[::-1])):
        fit(tmp_path / name, options, rows)
    for name in ("parents.arrow", "thesaurus.json", "summary.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_parents_are_of_the_asked_class_and_every_row_differs_from_its_parent(tmp_path: Path) -> None:
    options = RulesOptions(thesaurus=write_thesaurus(tmp_path), operations=dict.fromkeys(OPERATIONS, 1.0))
    generator, fitted, ctx = fit(tmp_path / "fit", options, ROWS)
    made = generator.sample(fitted, ask(["refund", "track"] * 200), ctx).to_pylist()
    known = {row_id: (stratum, text) for row_id, stratum, text in ROWS}
    delivered = [row for row in made if row["reason"] is None]
    assert {row["parent_ids"][0] for row in delivered} == {"r1", "r2", "r3", "r4", "r5"}
    for row in delivered:
        stratum, text = known[row["parent_ids"][0]]
        assert row["asked"] == row["stratum"] == stratum
        assert row["text"] != canonical(text)


def test_what_cannot_be_made_says_why(tmp_path: Path) -> None:
    options = RulesOptions(thesaurus=write_thesaurus(tmp_path), operations={"synonym": 1.0})
    generator, fitted, ctx = fit(tmp_path / "fit", options, ROWS)
    made = generator.sample(fitted, ask(["one", "absent", "zh"]), ctx).to_pylist()
    assert [row["reason"] for row in made] == ["unchanged", "no_parent", None]
    assert made[0]["text"] is None and made[0]["parent_ids"] == []
    assert json.loads((tmp_path / "fit/summary.json").read_text())["editable"] == {"refund": 2, "track": 2, "zh": 1}
    assert generator.sample(fitted, ask([]), ctx).schema == candidate_schema(("text",))


def test_change_says_which_fields_of_a_pair_are_edited(tmp_path: Path) -> None:
    rows = [("p1", "yes", "a b c d e", "v w x y z")]
    changed = {}
    for change in ("one", "all", "text_b"):
        options = RulesOptions(operations={"delete": 1.0}, change=change)
        generator, fitted, ctx = fit(tmp_path / change, options, rows, "text", "text_b")
        made = generator.sample(fitted, ask(["yes"] * 50), ctx).to_pylist()
        changed[change] = {(row["text"] != rows[0][2], row["text_b"] != rows[0][3]) for row in made}
    assert changed == {"one": {(True, False), (False, True)}, "all": {(True, True)}, "text_b": {(False, True)}}
    with pytest.raises(UserError, match="found text"):
        fit(tmp_path / "none", RulesOptions(change="text_b"), ROWS)


def test_operations_are_drawn_by_their_weights(tmp_path: Path) -> None:
    generator, fitted, ctx = fit(tmp_path, RulesOptions(operations={"delete": 3.0, "swap": 1.0}), [ROWS[4]])
    made = generator.sample(fitted, ask(["track"] * 2000), ctx)["text"].to_pylist()
    deleted = sum(len(text) < len(ROWS[4][2]) for text in made)
    assert abs(deleted / 2000 - 0.75) < 0.04  # four standard deviations


def test_a_thesaurus_is_read_without_comments_and_repetitions(tmp_path: Path) -> None:
    text = "\ufeff# a comment, with a comma\n\nparcel, delivery,Parcel\ndelivery,parcel\n" + '"to call, off",cancel\n'
    groups = read_thesaurus(Path(write_thesaurus(tmp_path, text)))
    assert groups == [["cancel", "to call, off"], ["delivery", "parcel"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\nparcel, Parcel\n", "line 2"),
        ("glad,happy,\U0001f600\n".encode(), "line 1"),
        (b"a,b\n\xff\xfe\n", "could not be read"),
        (None, "could not be read"),
    ],
)
def test_a_broken_thesaurus_is_the_users_error(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "t.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_thesaurus(path)


@pytest.mark.parametrize(
    "options",
    [
        {"strength": 0.0},
        {"strength": 1.5},
        {"operations": {}},
        {"operations": {"swap": -1.0, "delete": 2.0}},
        {"operations": {"swap": float("nan")}},
        {"operations": {"rotate": 1.0}},
        {"operations": {"synonym": 1.0}},
    ],
)
def test_options_out_of_bounds_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"expected|need"):
        RulesOptions(**options)  # type: ignore[arg-type]


LINES = st.lists(st.sampled_from(["a", "b", "bb!", "(c)", "--", "d,", "'e", "x_y", "A"]), max_size=40).map(" ".join)


@given(
    st.lists(
        LINES | texts | st.sampled_from(["www.x.org a b", "to @bob and c", "[x] y z", "a://b c", "é b c"]), min_size=1
    ),
    st.sampled_from(
        [{"swap": 1.0, "delete": 1.0}, {"swap": 0.3, "delete": 2.0, "insert": 1.0}, {"swap": 1.0}, {"delete": 1.0}]
    ),
    st.sampled_from([0.1, 0.3, 0.9]),
    st.integers(0, 2**40),
)
@settings(deadline=None)
def test_plain_texts_are_edited_together_as_each_is_by_itself(
    lines: list[str], weights: dict[Operation, float], strength: float, key: int
) -> None:
    lines = canonical_texts(lines)
    slow = [prepare(line, index_thesaurus([]), weights, strength) for line in lines]
    quick = PlainTexts(lines, weights, strength, wanted=True)
    for line, sentence, plain, can, edits in zip(lines, slow, quick.plain, quick.can, quick.edits, strict=True):
        assert not plain or (can == bool(sentence.operations) and edits == sentence.edits and not holds_whole(line))
    some = np.flatnonzero(quick.can).repeat(2)[::-1]
    draws = uniforms(row_seeds(key, np.arange(len(some))), 1 + 2 * MOST_EDITS)
    assert quick.edit(some, draws).to_pylist() == [
        edit(slow[at], numbers) for at, numbers in zip(some.tolist(), draws.tolist(), strict=True)
    ]
    assert not PlainTexts(lines, weights, strength, wanted=False).plain.any()


WORDS = st.sampled_from(
    ["Money", "money,", "back", "(back)", "refund", "REFUND!", "the", "Ｒefund", "é", "--", "by", "post"]
)


@given(st.lists(WORDS, max_size=12), st.booleans())
def test_phrases_are_found_as_by_trying_all_of_them(words: list[str], across: bool) -> None:
    known = index_thesaurus([["money back", "refund"], ["back", "rear"], ["by post", "mail"], ["the money", "it"]])
    tokens = split_words(canonical(" ".join(words)))[0]
    keys = [unicodedata.normalize("NFKC", core).casefold().replace("’", "'") for _, core, _ in tokens]
    slow, start = [], 0
    while start < len(tokens):
        length = 1
        for size in range(min(known.longest, len(tokens) - start), 0, -1):
            apart = any((tokens[at - 1][2] + tokens[at][0]).strip() for at in range(start + 1, start + size))
            choices = known.choices.get(tuple(keys[start : start + size]))
            if choices and (across or not apart):
                slow.append(PhraseSite(start, size, choices))
                length = size
                break
        start += length
    assert find_sites(tokens, known, across=across) == slow


@pytest.mark.parametrize("change", ["one", "all", "text_b"])
@pytest.mark.parametrize("listed", [True, False])
def test_rows_are_the_same_whether_all_parents_are_kept_or_some_taken_apart_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, listed: bool
) -> None:
    options = RulesOptions(thesaurus=write_thesaurus(tmp_path) if listed else None, strength=0.4, change=change)
    rows = [
        (*row, ROWS[at % len(ROWS) - 1][2]) for at, row in enumerate([*ROWS, ("r8", "one", "a"), ("r9", "track", "é")])
    ]
    request = ask(["refund", "track", "zh", "one", "absent"] * 40)
    generator, fitted, ctx = fit(tmp_path / "fit", options, rows, "text", "text_b")
    kept = generator.sample(fitted, request, ctx)
    monkeypatch.setattr("augmill.tasks.generators.rules.KEPT", 0)
    monkeypatch.setattr("augmill.tasks.generators.rules.CHUNK", 7)
    assert generator.sample(Fitted(tmp_path / "fit", "content"), request, ctx).equals(kept)
    assert kept["reason"].null_count > 150  # of 160 whose class is there


def test_most_english_texts_are_plain() -> None:
    lines = [text for _, _, text in ROWS[:4]]
    assert PlainTexts(lines, {"swap": 1.0}, 0.1, wanted=True).plain.all()
    assert not PlainTexts(["word " * 300, "é", "a b c d " * 40], {"swap": 1.0}, 0.9, wanted=True).plain.any()
