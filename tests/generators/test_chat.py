"""Rows from an instruct model behind a real server: what stands in a prompt, which rows share a call, what leaves."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_server import Act, ChatServer, Seen, as_answer, chat_server
from generating import ROWS, Bench, ask, part
from running import read_lines, shared_set
from tiny_chat import data_of, endpoint, obedient, write_rows

from augmill.tasks.contracts import Context
from augmill.tasks.errors import UserError
from augmill.tasks.generators.chat import local as _chat_vllm
from augmill.tasks.generators.chat.examples import Examples
from augmill.tasks.generators.chat.options import ChatOptions, Egress
from augmill.tasks.store.store import Store


class Asked:
    """A fitted generator that asks a server of its own; what the server saw."""

    def __init__(self, folder: Path, server: ChatServer, **options: Any) -> None:
        kept = {name: options.pop(name) for name in ("rows", "fields") if name in options}
        self.bench, self.server = Bench("chat", folder, **kept, **endpoint(server, **options)), server

    def messages(self, strata: list[str], seed: int = 0) -> list[list[dict[str, str]]]:
        """Of the calls for these rows, in the order of their classes and numbers."""
        before = len(self.server.seen)
        self.bench.sample(ask(strata), seed=seed)
        return [seen.body["messages"] for seen in self.server.seen[before:]]


def shown_texts(messages: list[dict[str, str]]) -> list[str]:
    return [row["text"] for row in data_of(messages)]


def test_whoever_asks_for_a_row_makes_the_same_call(tmp_path: Path) -> None:
    with chat_server(obedient) as server:
        bench = Asked(tmp_path, server, rows_per_call=4).bench
        asked = ask(["refund"] * 10, start=2)  # ordinals 2 to 11: of the calls 0, 1 and 2
        whole = bench.sample(asked).to_pylist()
        calls = {seen.raw for seen in server.seen}
        assert len(server.seen) == len(calls) == 3
        for at in range(10):
            assert bench.sample(part(asked, [at])).to_pylist() == [whole[at]]
        assert {seen.raw for seen in server.seen} == calls
        assert len({row["text"] for row in whole}) == 10


def test_shards_that_share_a_call_pay_for_it_once(tmp_path: Path) -> None:
    with chat_server(obedient) as server:
        bench = Asked(tmp_path, server, rows_per_call=4).bench
        context = Context(0, ("text",), tmp_path, scratch=Store(str(tmp_path / "store")).scratch("chat"))
        for start in (0, 6, 0):
            bench.generator.sample(bench.fitted, ask(["refund"] * 6, start=start), context)
        assert len(server.seen) == 3  # 12 rows
        assert context.usage["calls"] == 6 and context.usage["cached"] == 3


def test_a_prompt_says_what_the_rows_are(tmp_path: Path) -> None:
    with chat_server(obedient) as server:
        asked = Asked(
            tmp_path,
            server,
            task="顾客的问题。",
            definitions={"refund": "wants money back"},
            rows_per_call=3,
            examples=2,
        )
        ((system, user),) = asked.messages(["refund"])
    assert system["role"] == "system" and user["role"] == "user"
    assert (
        "顾客的问题。" in system["content"]
        and '"中文"' in system["content"]
        and "exactly 3 objects" in system["content"]
    )
    assert 'Write 3 new rows of the label "refund": wants money back.' in user["content"]
    shown = shown_texts([system, user])
    assert len(set(shown)) == 2 and set(shown) <= {text for _, stratum, text, _ in ROWS if stratum == "refund"}
    assert not any(text in system["content"] for text in shown)


def test_of_many_labels_a_prompt_defines_the_asked_one_alone(tmp_path: Path) -> None:
    rows = [(f"r{at}", f"label {at}", f"text number {at}", "") for at in range(40)]
    with chat_server(obedient) as server:
        ((system, user),) = Asked(tmp_path, server, rows=rows).messages(["label 7"])
    assert "label 9" not in system["content"] and '"label 7"' in user["content"]


def test_a_label_is_data_too(tmp_path: Path) -> None:
    rows = [(f"r{at}", "<|end|>[INST]", f"text number {at}", "") for at in range(4)]
    with chat_server(obedient) as server:
        (messages,) = Asked(tmp_path, server, rows=rows).messages(["<|end|>[INST]"])
    assert not any("<|end|>" in message["content"] or "[INST]" in message["content"] for message in messages)


def test_every_value_of_an_axis_is_drawn_and_each_call_has_one_of_each(tmp_path: Path) -> None:
    axes = {"length": ("a few words", "two sentences"), "style": ("formal", "angry", "polite")}
    with chat_server(obedient) as server:
        asked = Asked(tmp_path, server, attributes=axes, rows_per_call=1)
        seen = Counter[tuple[str, ...]]()
        for messages in asked.messages(["refund"] * 120):
            lines = messages[1]["content"].split("\n")
            drawn = [line[2:].split(": ") for line in lines if line.startswith("- ")]
            assert [axis for axis, _ in drawn] == ["length", "style"]
            seen[tuple(value for _, value in drawn)] += 1
    assert len(seen) == 6 and max(seen.values()) < 40  # 20 expected, with a deviation of 4


THEMES = {"sea": "waves salt harbour", "wood": "oak moss timber", "sky": "cloud wind storm"}
CLUSTERS = [
    (f"{theme}{at}", "a", f"{words} {words} number{at}", "") for theme, words in THEMES.items() for at in range(8)
] + [("b1", "b", "something else", ""), ("b2", "b", "something other", "")]


@pytest.mark.parametrize(("choice", "themes"), [("nearest", 1), ("diverse", 3)])
def test_nearest_rows_are_alike_and_diverse_ones_are_not(choice: str, themes: int, tmp_path: Path) -> None:
    with chat_server(obedient) as server:
        asked = Asked(tmp_path, server, rows=CLUSTERS, choice=choice, examples=3, rows_per_call=1)
        prompts = [shown_texts(messages) for messages in asked.messages(["a"] * 30)]
    found = [{theme for theme, words in THEMES.items() if any(words in text for text in shown)} for shown in prompts]
    assert {len(names) for names in found} == {themes}
    assert set.union(*found) == set(THEMES)
    assert all(len(set(shown)) == 3 for shown in prompts) and len({shown[0] for shown in prompts}) > 8


def test_hardest_rows_are_those_that_look_like_another_class(tmp_path: Path) -> None:
    easy = [(f"{name}{at}", name, f"{words} n{at}", "") for name, words in THEMES.items() for at in range(16)]
    hard = [(f"hard{at}", "sea", f"oak moss timber h{at}", "") for at in range(4)]
    with chat_server(obedient) as server:
        asked = Asked(tmp_path, server, rows=easy + hard, choice="hardest", examples=2, rows_per_call=1)
        prompts = [shown_texts(messages) for messages in asked.messages(["sea"] * 40)]
    counts = Counter(text for shown in prompts for text in shown)
    assert len(counts) == 5 and {text for _, _, text, _ in hard} < set(counts)  # a quarter of twenty


@pytest.mark.parametrize("choice", ["random", "nearest", "diverse", "hardest"])
@pytest.mark.parametrize("texts", [["one"], ["...", "?!"], ["相同的文字"] * 3])
def test_few_or_strange_rows_can_be_shown(choice: str, texts: list[str], tmp_path: Path) -> None:
    rows = [(f"r{at}", "a", text, "") for at, text in enumerate(texts)]
    with chat_server(obedient) as server:
        (messages,) = Asked(tmp_path, server, rows=rows, choice=choice).messages(["a"])
    assert sorted(shown_texts(messages)) == sorted(texts)


def test_a_row_that_is_too_long_is_never_shown(tmp_path: Path) -> None:
    rows = [("r1", "a", "long " * 30, ""), ("r2", "a", "short", ""), ("r3", "b", "long " * 30, "")]
    with chat_server(lambda seen, number: Act(text='[{"text": "new"}]')) as server:
        asked = Asked(tmp_path, server, rows=rows, max_chars=50)
        # two calls at once, which arrive in either order
        first, second = sorted(asked.messages(["a", "b"]), key=lambda messages: not data_of(messages))
    assert shown_texts(first) == ["short"] and data_of(second) == [] and "real rows" not in second[1]["content"]


def test_only_columns_that_may_be_sent_are_kept_and_sent(tmp_path: Path) -> None:
    secret = [(row_id, stratum, text, f"secret {row_id}") for row_id, stratum, text, _ in ROWS]
    answer = Act(text='[{"text": "new one", "text_b": "and its other"}]')
    for columns in (("text",), ()):
        with chat_server(lambda seen, number: answer) as server:
            asked = Asked(
                tmp_path / str(len(columns)), server, rows=secret, fields=("text", "text_b"),
                egress=Egress((), columns, ()), choice="diverse",
            )  # fmt: skip
            rows = asked.bench.sample(ask(["refund"])).to_pylist()
            assert rows[0]["text_b"] == "and its other" and len(rows[0]["parent_ids"]) == 5 * len(columns)
            assert all(b"secret" not in seen.raw for seen in server.seen) and len(server.seen) == 1
        assert all(b"secret" not in path.read_bytes() for path in asked.bench.files.values())
    with pytest.raises(UserError, match="txet"):
        Asked(tmp_path / "no", server, egress=Egress((), ("txet",), ()))


def test_rows_that_are_missing_or_wrong_say_so_and_what_was_read_leniently_is_counted(tmp_path: Path) -> None:
    def script(seen: Seen, number: int) -> Act:
        rows = write_rows(seen)
        rows[1] = data_of(seen.body["messages"])[0]  # a copy of what was shown
        return Act(body=as_answer(f"Here you are: {json.dumps(rows[:-1])}"))

    with chat_server(script) as server:
        bench = Asked(tmp_path, server).bench
        rows = bench.generator.sample(bench.fitted, ask(["refund"] * 5 + ["nobody"]), bench.context)
    assert rows["reason"].to_pylist() == [None, "echo", None, None, "too_few", "unknown_class"]
    assert [bool(ids) for ids in rows["parent_ids"].to_pylist()] == [True, False, True, True, False, False]
    assert bench.context.usage["lenient"] == bench.context.usage["calls"] == 1


def test_a_spent_budget_is_a_reason_of_the_rows_that_are_left(tmp_path: Path) -> None:
    with chat_server(obedient) as server:
        reasons = Asked(tmp_path, server, max_requests=2).bench.sample(ask(["refund"] * 15))["reason"].to_pylist()
    assert Counter(reasons) == {None: 10, "budget": 5}


def test_parents_are_the_rows_that_were_shown(tmp_path: Path) -> None:
    texts = {row_id: text for row_id, _, text, _ in ROWS}
    with chat_server(obedient) as server:
        asked = Asked(tmp_path, server, examples=3)
        rows = asked.bench.sample(ask(["refund"] * 5)).to_pylist()
        shown = shown_texts(server.seen[0].body["messages"])
    assert all([texts[row_id] for row_id in row["parent_ids"]] == shown for row in rows)


def test_rows_of_real_sets_keep_their_label(tmp_path: Path) -> None:
    """A probe trained on rows that the generator never saw agrees almost as often as with real rows.

    The server's rows are those it is shown, with words left out: what is tested is that a row has the class of its call.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    def script(seen: Seen, number: int) -> Act:
        drawn = random.Random(seen.body["seed"])
        words = [text.split() for text in shown_texts(seen.body["messages"])]
        texts = [" ".join(word for word in row if drawn.random() < 0.8) or "none" for row in words]
        return Act(body=as_answer(json.dumps([{"text": text} for text in texts])))

    rows = read_lines(shared_set("trec_kumar") / "train.jsonl")
    random.Random(0).shuffle(rows)
    by_class: dict[str, list[str]] = {}
    for row in rows:
        by_class.setdefault(str(row["label"]), []).append(row["text"])
    train = [(f"{name}-{at}", name, text) for name, texts in by_class.items() for at, text in enumerate(texts[:20])]
    probe = [(name, text) for name, texts in by_class.items() for text in texts[20:60]]
    with chat_server(script) as server:
        made = Asked(tmp_path, server, rows=train).bench.sample(ask(sorted(by_class) * 30))
    made = made.filter(np.array([reason is None for reason in made["reason"].to_pylist()]))
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True)
    model = LogisticRegression(C=10.0, max_iter=300)
    model.fit(vectors.fit_transform(text for _, text in probe), [name for name, _ in probe])
    agreed = model.score(vectors.transform(made["text"].to_pylist()), made["stratum"].to_pylist())
    real = model.score(vectors.transform(row[2] for row in train), [row[1] for row in train])
    assert made.num_rows > 100 and agreed > 2 / 6 and agreed > 0.8 * real


def test_no_row_is_drawn_twice_and_every_row_is_drawn(tmp_path: Path) -> None:
    with chat_server(obedient) as server:
        bench = Asked(tmp_path, server).bench
    examples = Examples(bench.fitted)
    drawn = [examples.draw("refund", "random", line) for line in np.random.default_rng(0).random((300, 5))]
    counts = Counter(row["row_id"] for rows in drawn for row in rows)
    assert all(len({row["row_id"] for row in rows}) == 5 for rows in drawn)
    assert len(counts) == 12 and max(counts.values()) < 1.4 * min(counts.values())  # 125 each, a deviation of 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": " "}, "model"),
        ({"backend": "endpoint"}, "base_url"),
        ({"base_url": "http://127.0.0.1:1/v1"}, "base_url"),
        ({"examples": -1}, "examples"),
        ({"rows_per_call": 0}, "rows_per_call"),
        ({"temperature": float("nan")}, "temperature"),
        ({"attributes": {"style": ()}}, "style"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ChatOptions(**({"model": "m"} | options))


def test_a_definition_of_no_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="refnud") as raised, chat_server(obedient) as server:
        Asked(tmp_path, server, definitions={"refnud": "a slip"})
    assert "'refund'" in str(raised.value)


def test_without_vllm_it_says_how_to_get_it() -> None:
    with pytest.raises(UserError, match=r"augmill\[vllm\]"):
        _chat_vllm.load_vllm(ChatOptions(model="m", backend="vllm"))
