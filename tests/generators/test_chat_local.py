"""Calls answered in this process: the model's own template, what a call's answer hangs on, what is computed once."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from generating import Bench, ask
from tiny_chat import NO_SYSTEM, instruct_model

from augmill.tasks.contracts import Context
from augmill.tasks.errors import DeadlineExceeded, UserError
from augmill.tasks.generators.chat.backend import Answer, Backend, ModelCall, call_key, keep_answers
from augmill.tasks.generators.chat.generator import Chat as ChatGenerator
from augmill.tasks.generators.chat.local import BUCKET, ChatModel, as_tokens, load_chat, local_backend, vllm_backend
from augmill.tasks.generators.chat.options import ChatOptions
from augmill.tasks.generators.lm.decode import Sampling, draw
from augmill.tasks.rows.randomness import uniforms
from augmill.tasks.store.store import Store

STEPS = 24


@pytest.fixture(scope="module")
def chat() -> ChatModel:
    return load_chat(ChatOptions(model=str(instruct_model())), "cpu")


def make_calls(count: int) -> list[ModelCall]:
    """Of many lengths, among them the two around a multiple of BUCKET."""
    say = ("where is it? " * (1 + number % 7) + str(number) for number in range(count))
    return [
        ModelCall(
            ({"role": "system", "content": "Be brief."}, {"role": "user", "content": text}), STEPS, 1.0, 0.95, number
        )
        for number, text in enumerate(say)
    ]


def context(folder: Path, threads: int = 1, **more: Any) -> Context:
    return Context(0, ("text",), folder, threads=threads, **more)


def ask_local(chat: ChatModel, calls: list[ModelCall], ctx: Context, **options: Any) -> list[Answer]:
    return local_backend(ChatOptions(model="m", **options), lambda: chat)(calls, ctx)


def test_an_answer_is_the_same_at_every_batch_size_and_number_of_threads(chat: ChatModel, tmp_path: Path) -> None:
    calls = make_calls(40)
    whole = ask_local(chat, calls, context(tmp_path))
    assert len({answer.text for answer in whole}) == 40
    assert len({len(as_tokens(chat.tokenizer, call.messages)) // BUCKET for call in calls}) > 1
    for batch in (1, 3, 1000):
        for threads in (1, 2):
            assert ask_local(chat, calls, context(tmp_path, threads), decode_batch=batch) == whole
    assert ask_local(chat, calls[13:14], context(tmp_path)) == whole[13:14]
    other = dataclasses.replace(calls[0], seed=99)
    assert ask_local(chat, [other], context(tmp_path))[0].text != whole[0].text


def test_it_draws_what_a_plain_loop_over_the_rendered_prompt_draws(chat: ChatModel, tmp_path: Path) -> None:
    """Without padding, batch or cache, and with the template written out by hand."""
    calls = make_calls(12)
    ended = 0
    for call, answer in zip(calls, ask_local(chat, calls, context(tmp_path)), strict=True):
        text = f"<s><|system|>Be brief.<|end|><|user|>{call.messages[1]['content']}<|end|><|assistant|>"
        prompt = chat.tokenizer.encode(text, add_special_tokens=False)
        noise = uniforms(np.array([int(call_key("noise", call)[:15], 16)]), STEPS)[0]
        drawn: list[int] = []
        for step in range(STEPS):
            with torch.no_grad():
                logits = chat.model(input_ids=torch.tensor([prompt + drawn])).logits[:, -1].float()
            logits[:, 2] = torch.logsumexp(logits[:, [2, 3]], dim=-1)
            logits[:, [0, 1, 3, 4, 5, 6]] = -torch.inf
            token = int(draw(logits, torch.tensor([noise[step]]), Sampling(1.0, 50, 0.95, 0.0, 1.0))[0])
            if token == 2:
                ended += 1
                break
            drawn.append(token)
        assert answer == Answer(chat.tokenizer.decode(drawn), None, len(prompt), len(drawn), False)
    assert ended < 12


def test_an_answer_ends_with_any_of_the_models_ends(chat: ChatModel, tmp_path: Path) -> None:
    """The token that ends a turn is often another than the tokenizer's own end."""
    assert set(chat.ends) == {2, 3} and not {2} & set(chat.banned)
    likely = load_chat(ChatOptions(model=str(instruct_model())), "cpu")
    head = likely.model.get_output_embeddings()
    likely.model.set_output_embeddings(torch.nn.Linear(head.in_features, head.out_features))
    with torch.no_grad():
        bias = likely.model.get_output_embeddings().bias
        bias[3] = 50.0  # `<|end|>`
    answers = ask_local(likely, make_calls(8), context(tmp_path))
    assert {answer.text for answer in answers} == {""}


def test_where_a_template_knows_no_system_message_it_stands_before_the_users() -> None:
    tokenizer = load_chat(ChatOptions(model=str(instruct_model(NO_SYSTEM))), "cpu").tokenizer
    text = tokenizer.decode(as_tokens(tokenizer, make_calls(1)[0].messages)).replace("|> ", "|>")
    assert text == "<s><|user|>Be brief.\n\nwhere is it? 0<|end|><|assistant|>"


def test_a_prompt_that_leaves_no_room_for_an_answer_is_a_reason(chat: ChatModel, tmp_path: Path) -> None:
    short, long = make_calls(2)
    long = dataclasses.replace(long, max_tokens=5000)
    answers = ask_local(chat, [long, short], context(tmp_path))
    assert answers[0] == Answer(None, "too_long", 0, 0, False) and answers[1].text


def test_a_deadline_ends_it(chat: ChatModel, tmp_path: Path) -> None:
    with pytest.raises(DeadlineExceeded):
        ask_local(chat, make_calls(1), context(tmp_path, deadline=time.monotonic() - 1))


def test_an_answer_is_computed_once_and_the_first_that_is_kept_is_the_truth(tmp_path: Path) -> None:
    asked: list[int] = []

    def backend_of(word: str) -> Backend:
        def run(calls: Any, ctx: Context) -> list[Answer]:
            asked.extend(call.seed for call in calls)
            return [
                Answer(f"{word} {call.seed}" if call.seed else None, None if call.seed else "no", 1, 2, False)
                for call in calls
            ]

        return run

    scratch, calls = Store(str(tmp_path)).scratch("chat"), make_calls(6)
    first = keep_answers(backend_of("a"), "m", 2)(calls[:4], context(tmp_path, scratch=scratch))
    assert asked == [0, 1, 2, 3] and first[0].reason == "no"
    ctx = context(tmp_path, scratch=scratch)
    again = keep_answers(backend_of("b"), "m", 2)([*calls, calls[5]], ctx)
    assert asked == [0, 1, 2, 3, 0, 4, 5]  # what has no text is not kept, what is asked twice is asked once
    assert [answer.text for answer in again] == [None, "a 1", "a 2", "a 3", "b 4", "b 5", "b 5"]
    assert ctx.usage == {"cached": 3, "tokens": 9}
    assert keep_answers(backend_of("c"), "another", 2)(calls[1:2], ctx)[0].text == "c 1"

    def slow(calls: Any, ctx: Context) -> list[Answer]:  # another process is faster
        keep_answers(backend_of("d"), "third", 2)(calls, context(tmp_path, scratch=scratch))
        return backend_of("e")(calls, ctx)

    assert keep_answers(slow, "third", 2)(calls[1:2], ctx)[0].text == "d 1"


def test_the_generator_runs_with_a_model_of_its_own(tmp_path: Path) -> None:
    """An untrained model writes no JSON; what counts is that every row has its reason, and the same in another process."""
    options = {"backend": "local", "model": str(instruct_model()), "base_url": "", "max_new_tokens": 16}
    first, second = (Bench("chat", tmp_path / name, **options) for name in "ab")
    rows = first.sample(ask(["refund", "中文"] * 4))
    assert set(rows["reason"].to_pylist()) <= {"bad_json", "empty", "bad_item"} and rows.num_rows == 8
    assert second.sample(ask(["refund", "中文"] * 4), decode_batch=1).equals(rows)


def test_another_model_in_the_same_place_is_another_fit(tmp_path: Path) -> None:
    model = Path(shutil.copytree(instruct_model(), tmp_path / "model"))
    options = {"backend": "local", "model": str(model), "base_url": ""}
    plans = [Bench("chat", tmp_path / "a", **options).files["chat.json"].read_bytes()]
    plans.append(Bench("chat", tmp_path / "b", **options).files["chat.json"].read_bytes())
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    plans.append(Bench("chat", tmp_path / "c", **options).files["chat.json"].read_bytes())
    assert plans[0] == plans[1] != plans[2]


def test_a_model_that_cannot_be_used_is_refused_before_the_run(tmp_path: Path) -> None:
    plain = Path(shutil.copytree(instruct_model(), tmp_path / "plain"))
    for template in plain.glob("chat_template*"):
        template.unlink()
    settings = json.loads((plain / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (plain / "tokenizer_config.json").write_text(json.dumps(settings))
    empty = Path(shutil.copytree(instruct_model(), tmp_path / "empty", ignore=shutil.ignore_patterns("*.safetensors")))
    for model, message in (
        (plain, "no chat template"),
        (empty, "weights are missing"),
        ("nowhere/at-all", "no revision"),
    ):
        generator = ChatGenerator(ChatOptions(model=str(model)))
        with pytest.raises(UserError, match=message):
            generator.preflight(("text",))
    ChatGenerator(ChatOptions(model=str(instruct_model()))).preflight(("text",))


def test_vllm_is_asked_by_its_documented_interface(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, chat: ChatModel
) -> None:
    """`LLM.generate(prompts, sampling_params, use_tqdm=)` with a SamplingParams a prompt; vLLM itself needs a GPU."""
    module: Any = ModuleType("vllm")
    module.SamplingParams = SimpleNamespace
    monkeypatch.setitem(sys.modules, "vllm", module)

    class Engine:
        llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=70))

        def get_tokenizer(self) -> Any:
            return chat.tokenizer

        def generate(self, prompts: list[dict[str, list[int]]], sampling_params: list[Any], *, use_tqdm: bool) -> Any:
            assert not use_tqdm and all(len(prompt["prompt_token_ids"]) + STEPS <= 70 for prompt in prompts)
            return [
                SimpleNamespace(outputs=[SimpleNamespace(text=f"{one.seed} {one.top_k}", token_ids=[1, 2])])
                for _, one in zip(prompts, sampling_params, strict=True)
            ]

    calls = make_calls(7)
    answers = vllm_backend(ChatOptions(model="m", backend="vllm"), Engine)(calls, context(tmp_path))
    fits = [len(as_tokens(chat.tokenizer, call.messages)) + STEPS <= 70 for call in calls]
    assert 0 < sum(fits) < 7
    for call, answer, fit in zip(calls, answers, fits, strict=True):
        assert (answer.text, answer.reason) == ((f"{call.seed} 50", None) if fit else (None, "too_long"))
