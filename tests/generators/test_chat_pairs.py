"""`chat` for texts to be answered: new pairs, pairs out of documents whose spans stand there, questions in other words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from chat_server import Act, Seen, as_answer, chat_server
from generating import ask
from hypothesis import given
from hypothesis import strategies as st
from tiny_chat import data_of, endpoint, row_server

from augmill.tasks.contracts import TARGET
from augmill.tasks.errors import UserError
from augmill.tasks.generators.chat import Chat
from augmill.tasks.generators.chat.documents import PASSAGE, passages, stands_in, ungrounded
from augmill.tasks.generators.chat.options import ChatOptions
from augmill.tasks.rows.kinds import field_of
from augmill.tasks.rows.kinds.dialogue import TURNS
from augmill.testing import GENERATOR_LAWS, GeneratorBench

THINGS = ("mill", "tower", "ferry", "well", "gate", "barn", "kiln", "mast")
STUFFS = ("oak", "grey stone", "tin", "brick", "iron", "straw", "clay", "pine")
MADE_OF = dict(zip(THINGS, STUFFS, strict=True))
DOCUMENT = "\n\n".join(
    f"The {thing} of Ost is made of {stuff}, and  \n stands since {1800 + at}."
    for at, (thing, stuff) in enumerate(MADE_OF.items())
)
MESSAGES = field_of("dialogue", "messages")
Script = Callable[[Seen], Any]


def pairs(dialogue: bool = False) -> pa.Table:
    questions: list[Any] = [f"what is the {thing} made of?" for thing in THINGS]
    if dialogue:
        system = {"role": "system", "content": "Be brief."}
        questions = [[system, {"role": "user", "content": text}] for text in questions]
    return pa.table(
        {
            "row_id": [f"r{at}" for at in range(len(THINGS))],
            "stratum": ["1: below 5 characters", "2: from 5 characters"] * (len(THINGS) // 2),
            TARGET: pa.array(STUFFS, pa.large_string()),
            MESSAGES if dialogue else "text": pa.array(questions, TURNS if dialogue else pa.string()),
        }
    )


def passage_of(seen: Seen) -> str:
    block = re.search(r"<document>\n(.*)\n</document>", seen.body["messages"][1]["content"], re.DOTALL)
    return str(json.loads(block[1])) if block else ""


def sample(
    script: Script, folder: Path, dialogue: bool = False, count: int = 1, **options: Any
) -> list[dict[str, Any]]:
    """Rows that a server made which answers with what the script gives."""
    with chat_server(lambda seen, number: Act(body=as_answer(json.dumps(script(seen))))) as server:
        made = Chat(ChatOptions(**endpoint(server, **{"rows_per_call": count} | options)))
        bench = GeneratorBench(made, folder, rows=pairs(dialogue))
        rows: list[dict[str, Any]] = bench.sample(ask(["1: below 5 characters"] * count)).to_pylist()
    return rows


@pytest.mark.parametrize("law", GENERATOR_LAWS, ids=lambda law: law.__name__)
def test_it_keeps_the_laws_of_generators(law: Callable[[GeneratorBench], None], tmp_path: Path) -> None:
    law(GeneratorBench(Chat(ChatOptions(**endpoint(row_server()))), tmp_path, rows=pairs()))


def test_new_pairs_have_answers_of_their_own_and_the_shown_rows_as_parents(tmp_path: Path) -> None:
    def script(seen: Seen) -> Any:
        shown = data_of(seen.body["messages"])
        assert {"text", "answer"} == set(shown[0]) and "answer is below 5 characters" in str(seen.body["messages"])
        return [
            {"text": "of what is the jetty?", "answer": "larch"},
            {"text": "no answer"},
            {"text": "", "answer": "x"},
        ]

    rows = sample(script, tmp_path, count=3)
    assert (rows[0]["text"], rows[0][TARGET], len(rows[0]["parent_ids"])) == ("of what is the jetty?", "larch", 4)
    assert [row["reason"] for row in rows] == [None, "bad_item", "empty"]


def test_no_row_is_shown_whose_answer_is_longer_than_one_may_be(tmp_path: Path) -> None:
    def script(seen: Seen) -> Any:
        assert {row["answer"] for row in data_of(seen.body["messages"])} == {"oak", "tin", "iron", "clay"}
        return [{"text": "of what is the jetty?", "answer": "larch"}]

    rows = pairs()
    answers = pa.array([*STUFFS[:2], "tin", "a" * 301, *STUFFS[4:]], pa.large_string())
    rows = rows.set_column(rows.column_names.index(TARGET), TARGET, answers)
    strata = pa.array(["1: all"] * rows.num_rows)
    rows = rows.set_column(rows.column_names.index("stratum"), "stratum", strata)
    chosen = rows.filter(pa.array([text in ("oak", "tin", "a" * 301, "iron", "clay") for text in answers.to_pylist()]))
    with chat_server(lambda seen, number: Act(body=as_answer(json.dumps(script(seen))))) as server:
        made = Chat(ChatOptions(**endpoint(server, rows_per_call=1, max_chars=300, examples=5)))
        (row,) = GeneratorBench(made, tmp_path, rows=chosen).sample(ask(["1: all"])).to_pylist()
    assert row["reason"] is None and len(row["parent_ids"]) == 4


def test_a_dialogue_that_is_called_answer_is_told_from_the_answer(tmp_path: Path) -> None:
    name = field_of("dialogue", "answer")

    def script(seen: Seen) -> Any:
        assert {name, "answer"} == set(data_of(seen.body["messages"])[0])
        return [{name: [{"role": "user", "content": "of what is the jetty?"}], "answer": "larch"}]

    rows = pairs(dialogue=True).rename_columns({MESSAGES: name})
    with chat_server(lambda seen, number: Act(body=as_answer(json.dumps(script(seen))))) as server:
        made = Chat(ChatOptions(**endpoint(server, rows_per_call=1)))
        (row,) = GeneratorBench(made, tmp_path, rows=rows).sample(ask(["1: below 5 characters"])).to_pylist()
    assert (row[TARGET], row[name][0]["content"]) == ("larch", "of what is the jetty?")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"span": "{thing} of Ost is made  of {stuff}"}, None),  # white space is free
        ({"span": "The {thing} is made of {stuff}"}, "span_not_in_document"),
        ({"span": "f Ost is made of {stuff}"}, "span_not_in_document"),  # no whole words
        ({"span": ""}, "span_not_in_document"),
        ({"span": 3}, "bad_item"),
        ({"answer": "solid gold"}, "answer_not_in_span"),
        ({"answer": "{stuff}, 1700"}, "answer_not_in_span"),
        ({"answer": "What is it made of?", "text": "what is it made of"}, "answer_is_question"),
        ({"answer": "<DATA> {stuff}"}, "echo"),
    ],
)
def test_an_answer_out_of_a_document_names_words_that_stand_in_it(
    tmp_path: Path, change: dict[str, Any], reason: str | None
) -> None:
    (tmp_path / "ost.md").write_text(DOCUMENT)

    def script(seen: Seen) -> Any:
        found = re.search(r"The (\w+) of Ost is made of (.*?),", passage_of(seen))
        assert found is not None
        item = {"text": "Of what is the {thing}?", "answer": "{stuff}", "span": "made of {stuff}"} | change
        names = {"thing": found[1], "stuff": found[2]}
        return [{key: value.format(**names) if isinstance(value, str) else value for key, value in item.items()}]

    (row,) = sample(script, tmp_path / "bench", documents=str(tmp_path / "ost.md"))
    assert row["reason"] == reason and (row[TARGET] in STUFFS) == (reason is None)


def test_a_question_in_other_words_keeps_its_parents_answer(tmp_path: Path) -> None:
    def script(seen: Seen) -> Any:
        (shown,) = data_of(seen.body["messages"])
        thing = re.search(r"the (\w+) made", shown["text"])
        assert thing is not None and '"text", whose' in seen.body["messages"][0]["content"]
        return [{"text": f"tell me the stuff of the {thing[1]}", "answer": "a lie"}, shown["text"], "…"]

    rows = sample(script, tmp_path, count=3, write="questions")
    answers = dict(zip((f"r{at}" for at in range(8)), STUFFS, strict=True))
    assert [row["reason"] for row in rows] == [None, "echo", "empty"]
    assert rows[0][TARGET] == answers[rows[0]["parent_ids"][0]] and len(rows[0]["parent_ids"]) == 1
    assert rows[1][TARGET] is None


def turns(*said: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in said]


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (turns(("system", "BE RUDE."), ("user", "what is it of?")), None),
        (turns(("user", "what is it of?")), "roles_changed"),
        (turns(("system", "Be brief."), ("user", "of what?"), ("assistant", "oak")), "roles_changed"),
        (turns(("system", "Be brief."), ("wizard", "of what?")), "unknown_role"),
        (turns(("system", "Be brief."), ("user", " ")), "empty_turn"),
        ("a text", "bad_item"),
    ],
)
def test_a_dialogue_in_other_words_keeps_its_roles_and_all_that_its_user_does_not_say(
    tmp_path: Path, made: Any, reason: str | None
) -> None:
    (row,) = sample(lambda seen: [{"messages": made}], tmp_path, dialogue=True, write="questions")
    assert row["reason"] == reason
    if reason is None:
        assert row[MESSAGES] == turns(("system", "Be brief."), ("user", "what is it of?"))


def test_a_new_dialogue_ends_with_what_is_to_be_answered(tmp_path: Path) -> None:
    several = turns(("user", "hello"), ("assistant", "yes?"), ("user", "what is the pier of?"))

    def script(seen: Seen) -> Any:
        assert data_of(seen.body["messages"])[0]["messages"][0] == {"role": "system", "content": "Be brief."}
        return [{"messages": several, "answer": "larch"}, {"messages": several[:2], "answer": "larch"}]

    rows = sample(script, tmp_path, dialogue=True, count=2)
    assert rows[0][MESSAGES] == several and rows[0][TARGET] == "larch"
    assert [row["reason"] for row in rows] == [None, "ends_with_reply"]


def test_answers_leave_the_machine_only_where_the_recipe_says_so(tmp_path: Path) -> None:
    seen: list[Any] = []

    def script(request: Seen) -> Any:
        seen.append(data_of(request.body["messages"]))
        return [{"text": "of what is the jetty?", "answer": "larch"}]

    from augmill.tasks.generators.chat.options import Egress

    for columns in (("text",), ("text", "target")):
        egress = Egress(hosts=("127.0.0.1",), columns=columns, redact=())
        (row,) = sample(script, tmp_path / str(len(columns)), egress=egress)
        assert row["reason"] is None
    assert [set(rows[0]) for rows in seen] == [{"text"}, {"text", "answer"}]


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="documents: only for"):
        ChatOptions(model="m", documents="a", write="questions")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    for name, said in (("empty", "no text file"), ("bad.txt", "no UTF-8 at byte 0")):
        options = ChatOptions(**endpoint(row_server()), documents=str(tmp_path / name))
        with pytest.raises(UserError, match=said):
            GeneratorBench(Chat(options), tmp_path / f"bench {name}", rows=pairs())
    for options in (ChatOptions(**endpoint(row_server()), write="questions"),):
        with pytest.raises(UserError, match="texts to be answered, not classes"):
            GeneratorBench(Chat(options), tmp_path / "classes")


@given(st.lists(st.sampled_from(["one", "two.", "three!\n\n", "four\n", "我们。", "x" * 900, " "]), max_size=30))
def test_passages_hold_all_words_in_order_and_are_no_longer_than_they_may_be(parts: list[str]) -> None:
    text = " ".join(parts)
    found = passages(text)
    assert " ".join(found).split() == text.split() and all(0 < len(each) <= PASSAGE for each in found)


@given(st.text(st.sampled_from("ab 我.\n"), max_size=30), st.data())
def test_whole_words_of_a_text_stand_in_it(text: str, data: st.DataObject) -> None:
    parts = text.split()
    start = data.draw(st.integers(0, len(parts)))
    own = parts[start : data.draw(st.integers(start, len(parts)))]
    assert stands_in("  ".join(own), text) == bool(own)


def test_words_are_whole_and_of_chinese_any_character_begins_one() -> None:
    assert not stands_in("art", "a party") and stands_in("party", "a party!") and stands_in("里有", "这里有茶")
    assert ungrounded("茶", "里有茶", "这里有茶") is None
