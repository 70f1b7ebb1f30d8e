"""The language model generator: how a token is drawn, on what a row depends, and which models are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from generating import ROWS, TINY_LM, Bench, agreement, ask, part
from tiny_masked_lm import untrained

from augmill.tasks.errors import DataError, UserError
from augmill.tasks.generators.causal.generator import CausalLMOptions
from augmill.tasks.generators.lm.decode import Grammar, Sampling, decode, draw, lower, penalise, tabulate, torch_threads
from augmill.tasks.generators.lm.load import load_fitted, load_pretrained
from augmill.tasks.generators.lm.train import is_select, train_tokenizer
from augmill.tasks.rows.randomness import uniforms

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PLAIN = Sampling(temperature=1.0, top_k=1000, top_p=1.0, min_p=0.0, repetition_penalty=1.0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench("causal_lm", tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with a tokenizer that has a start token, an end token and one for padding."""
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("llama")
    tokenizer = train_tokenizer([text for _, _, text, _ in ROWS], ["<pad>", "<s>", "</s>"], 350)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast.save_pretrained(folder)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=384, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def copy(folder: Path, target: Path, *leave: str) -> Path:
    return Path(shutil.copytree(folder, target, ignore=shutil.ignore_patterns(*leave)))


def one_step_logits(rows: int) -> torch.Tensor:
    return torch.tensor([[2.0, 1.0, 0.0, -1.0, -2.0]]).repeat(rows, 1)


def test_tokens_are_drawn_with_the_probabilities_of_the_softmax() -> None:
    noise = torch.from_numpy(uniforms(np.arange(200_000), 1)[:, 0])
    for temperature in (0.5, 1.0, 2.0):
        sampling = Sampling(temperature, 5, 1.0, 0.0, 1.0)
        counts = torch.bincount(draw(one_step_logits(len(noise)), noise, sampling), minlength=5)
        expected = torch.softmax(one_step_logits(1)[0].double() / temperature, dim=0) * len(noise)
        chi_square = float(((counts - expected) ** 2 / expected).sum())
        assert chi_square < 23.5  # the 0.9999 quantile with 4 degrees of freedom


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(1.0, 2, 1.0, 0.0, 1.0), {0, 1}),
        (Sampling(1.0, 5, 0.6, 0.0, 1.0), {0}),  # the first token alone has 0.636
        (Sampling(1.0, 5, 0.7, 0.0, 1.0), {0, 1}),
        (Sampling(1.0, 5, 1.0, 0.1, 1.0), {0, 1, 2}),  # shares of the likeliest: 1, 0.37, 0.14, 0.05, 0.02
        (Sampling(1.0, 50, 1.0, 0.0, 1.0), {0, 1, 2, 3, 4}),
    ],
)
def test_top_k_top_p_and_min_p_cut_the_candidates(sampling: Sampling, kept: set[int]) -> None:
    noise = torch.linspace(0, 1 - 1e-12, 10_001, dtype=torch.float64)
    assert set(draw(one_step_logits(len(noise)), noise, sampling).tolist()) == kept


def test_a_repeated_token_is_penalised_once_and_the_end_token_never() -> None:
    logits = torch.tensor([[2.0, -2.0, 4.0, 1.0]])
    penalised = penalise(logits, torch.tensor([[0, 1, 0, 2]]), 2, 2.0)
    assert penalised.tolist() == [[1.0, -4.0, 4.0, 1.0]]


def test_the_batched_loop_draws_what_one_pass_over_each_row_alone_draws(tiny: Bench) -> None:
    """Without batch, padding or cache: of a causal model one pass over a row has the logits of each of its prefixes."""
    plan = tiny.fitted.read_json("lm.json")
    model, _ = load_fitted(tiny.fitted, "cpu", trust_remote_code=False)
    labels = list(plan["labels"].values())
    prompts = np.array([[*plan["start"], labels[row % 3]] for row in range(20)], dtype=np.int64)
    noise = uniforms(np.arange(20), plan["max_new_tokens"])
    for sampling in (PLAIN, Sampling(0.7, 20, 0.9, 0.01, 1.3)):
        grammar = Grammar(plan["end"], 1, tuple(plan["banned"]))
        tokens, whole = decode(model, prompts, noise, grammar, sampling)
        for row in range(20):
            given = tokens[row].tolist()
            if plan["end"] in given:
                given = given[: given.index(plan["end"]) + 1]
            ids = torch.tensor([[*prompts[row].tolist(), *given[:-1]]])
            with torch.no_grad():
                found = model(input_ids=ids).logits[0, prompts.shape[1] - 1 :].float()
            found[:, plan["banned"]] = -torch.inf
            drawn: list[int] = []
            for step in range(len(given)):
                logits = found[step : step + 1]
                if sampling.repetition_penalty != 1.0 and drawn:
                    logits = penalise(logits, torch.tensor([drawn]), plan["end"], sampling.repetition_penalty)
                drawn.append(int(draw(logits, torch.tensor([noise[row, step]]), sampling)))
            assert given == drawn
            assert whole[row] == (drawn[-1] == plan["end"]) and (whole[row] or len(drawn) == plan["max_new_tokens"])


def test_a_row_is_the_same_at_every_batch_size_and_number_of_threads(tmp_path: Path) -> None:
    bench = Bench("causal_lm", tmp_path, layers=2, hidden=128, heads=4, epochs=2)
    asked = ask(["refund", "track", "中文", "refund"] * 32)
    whole = bench.sample(asked)
    for batch in (1, 32, 48, 64):
        for threads in (1, 2):
            assert bench.sample(asked, threads=threads, decode_batch=batch).equals(whole), (batch, threads)
    assert bench.sample(part(asked, [77])).equals(whole.slice(77, 1).combine_chunks())


def untaught(kind: str, hidden: int) -> Any:
    """Two layers with random weights; of ``llama`` all heads share their keys, and no width is a power of two."""
    import transformers

    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        size: dict[str, Any] = {"vocab_size": 333, "max_position_embeddings": 64}
        if kind == "gpt2":
            config = transformers.GPT2Config(**size, n_embd=hidden, n_layer=2, n_head=8, initializer_range=0.2)
            return transformers.GPT2LMHeadModel(config).eval()
        size |= {"hidden_size": hidden, "intermediate_size": 300, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = transformers.LlamaConfig(**size, num_key_value_heads=1, initializer_range=0.2)
        return transformers.LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_row_is_the_same_in_any_batch_in_either_precision(kind: str, precision: Any) -> None:
    model = lower(untaught(kind, 264), precision)
    prompts = np.array([[1, 2 + row % 3, 9] for row in range(40)], dtype=np.int64)
    noise, grammar, plain = uniforms(np.arange(40), 12), Grammar(0, 1, ()), Sampling(1.5, 333, 1.0, 0.0, 1.0)
    with torch_threads(1):
        whole, _ = decode(model, prompts, noise, grammar, plain)
        for batch in (1, 3, 8, 21):
            parts = [slice(start, start + batch) for start in range(0, 40, batch)]
            found = [decode(model, prompts[part], noise[part], grammar, plain)[0] for part in parts]
            assert np.array_equal(np.concatenate(found), whole), batch
    assert len({row.tobytes() for row in whole}) == 40


def test_auto_goes_by_the_models_width_and_not_by_the_machine() -> None:
    kinds = {width: lower(untaught("gpt2", width), "auto").dtype for width in (64, 248, 256, 320)}
    assert kinds == {64: torch.float32, 248: torch.float32, 256: torch.bfloat16, 320: torch.bfloat16}
    assert lower(untaught("gpt2", 320), "float32").dtype == torch.float32


@pytest.mark.parametrize("kind", ["gelu_pytorch_tanh", "gelu_new", "gelu_fast"])
def test_an_activation_looked_up_is_the_same_for_every_number_in_bfloat16(kind: str) -> None:
    config = transformers.GPT2Config(
        vocab_size=9, n_positions=8, n_embd=8, n_layer=1, n_head=1, activation_function=kind
    )
    plain = transformers.GPT2LMHeadModel(config).bfloat16().eval()
    every = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16).view(torch.bfloat16)
    numbers = torch.cat([every[every.isfinite()], every[every.isfinite()].flip(0)]).view(2, 1, -1)
    want = plain.transformer.h[0].mlp.act(numbers)
    table = tabulate(plain).transformer.h[0].mlp.act
    assert type(table).__name__ == "Tabulated"
    assert torch.equal(table(numbers).view(torch.int16), want.view(torch.int16))
    assert torch.equal(table(numbers.transpose(0, 2)), want.transpose(0, 2))  # whatever the strides


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_likeliest_tokens_are_those_of_generate_token_for_token(kind: str) -> None:
    model = untaught(kind, 64)
    prompts = np.random.default_rng(0).integers(1, 333, (12, 5))
    tokens, _ = decode(
        model, prompts, uniforms(np.arange(12), 20), Grammar(0, 1, (0,)), Sampling(1.0, 1, 1.0, 0.0, 1.0)
    )
    want = model.generate(
        torch.from_numpy(prompts), attention_mask=torch.ones(12, 5, dtype=torch.int64), do_sample=False,
        max_new_tokens=20, min_new_tokens=20, suppress_tokens=[0], eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    assert tokens.tolist() == want[:, 5:].tolist()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_tokens_come_as_often_as_transformers_own_processors_say(precision: Any) -> None:
    from transformers import (
        LogitsProcessorList,
        MinPLogitsWarper,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    draws, model = 200_000, lower(untaught("llama", 64), precision)
    prompt = np.array([[1, 5, 7, 300]])
    noise = uniforms(np.arange(draws), 1, stream=3)
    # Logits in bfloat16 are often equal, and which of two equal ones a cut takes is nobody's law.
    top_k, top_p = (40, 0.9) if precision == "float32" else (333, 1.0)
    sampling = Sampling(1.3, top_k, top_p, 0.02, 1.0)
    tokens, _ = decode(model, np.repeat(prompt, draws, axis=0), noise, Grammar(0, 1, (0, 3)), sampling)
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(np.repeat(prompt, 8, axis=0))).logits[:1, -1].float()
    logits[:, [0, 3]] = -torch.inf
    parts = [TemperatureLogitsWarper(1.3), TopKLogitsWarper(top_k), TopPLogitsWarper(top_p), MinPLogitsWarper(0.02)]
    chances = torch.softmax(LogitsProcessorList(parts)(torch.from_numpy(prompt), logits).double(), dim=-1)[0].numpy()
    counts = np.bincount(tokens[:, 0], minlength=333)
    asked = chances > 0
    assert counts[~asked].sum() == 0 and asked.sum() > 10
    chi_square = float(((counts - draws * chances)[asked] ** 2 / (draws * chances)[asked]).sum())
    freedom = int(asked.sum()) - 1
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5 + 8  # above the 0.9999 quantile


def test_a_prompt_that_rows_share_is_read_once_and_the_head_asked_at_the_last_place() -> None:
    model, seen = untaught("gpt2", 64), []
    model.transformer.register_forward_pre_hook(lambda module, given: seen.append(tuple(given[0].shape)))
    model.lm_head.register_forward_pre_hook(lambda module, given: seen.append(tuple(given[0].shape[:2])))
    prompts = np.array([[1, 2 + row % 3, 9, 9] for row in range(40)], dtype=np.int64)
    decode(model, prompts, uniforms(np.arange(40), 2), Grammar(0, 1, (0,)), Sampling(1.0, 333, 1.0, 0.0, 1.0))
    assert seen == [(8, 4), (8, 1), (40, 1), (40, 1)]  # three prompts, filled up to a tile


def test_the_label_conditions_the_row(tiny: Bench) -> None:
    words = {"refund": "money", "track": "parcel", "中文": "请问"}
    rows = tiny.sample(ask(["refund", "track", "中文"] * 40)).to_pylist()
    delivered = [row for row in rows if row["text"]]
    right = sum(words[row["stratum"]] in row["text"] for row in delivered)
    wrong = sum(word in row["text"] for row in delivered for name, word in words.items() if name != row["stratum"])
    assert len(delivered) > 80 and right > 0.6 * len(delivered) and wrong < 0.1 * len(delivered)


def test_another_seed_trains_other_weights_and_no_global_generator_is_touched(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    numpy_before = np.random.get_state()[1].copy()  # noqa: NPY002 - the global one is what is looked at
    first, second = (Bench("causal_lm", tmp_path / str(seed), seed=seed, epochs=1) for seed in (0, 1))
    weights = [bench.files["model.safetensors"].read_bytes() for bench in (first, second)]
    assert weights[0] != weights[1]
    assert torch.equal(before, torch.random.get_rng_state())
    assert (numpy_before == np.random.get_state()[1]).all()  # noqa: NPY002


def test_text_that_looks_like_a_special_token_is_text(tmp_path: Path) -> None:
    rows = [(f"r{number}", "ab"[number % 2], "say <|end|> and <|label:1|> now", "x") for number in range(8)]
    bench = Bench("causal_lm", tmp_path, rows=rows, epochs=150, temperature=0.1)
    texts = [text for text in bench.sample(ask(["a", "b"] * 4))["text"].to_pylist() if text]
    assert texts and set(texts) == {"say <|end|> and <|label:1|> now"}


def test_a_select_part_of_train_ends_the_training_and_is_not_learnt_from(tmp_path: Path) -> None:
    rows = [(f"r{n}", "ab"[n % 2], f"case {n * 7919 % 1009} of {n * 31 % 97}", "x") for n in range(300)]
    select = sum(is_select(text) for _, _, text, _ in rows)
    assert 20 <= select <= 45
    told = Bench("causal_lm", tmp_path / "a", rows=rows, patience=2, epochs=40).fitted.read_json("lm.json")["training"]
    assert told["steps"] < 40 * -(-(300 - select) // TINY_LM["batch_size"])
    assert len(told["select_loss"]) == len(told["train_loss"])
    assert min(told["select_loss"]) == told["select_loss"][-3]
    few = Bench("causal_lm", tmp_path / "b", patience=2, epochs=3).fitted.read_json("lm.json")["training"]
    assert few["select_loss"] == [] and few["steps"] == 3 * -(-len(ROWS) // TINY_LM["batch_size"])


def test_a_local_model_is_fine_tuned_and_keeps_its_own_end_token(llama: Path, tmp_path: Path) -> None:
    bench = Bench("causal_lm", tmp_path, model=str(llama), learning_rate=5e-3)
    plan = bench.fitted.read_json("lm.json")
    assert plan["start"] == [1] and plan["end"] == 2
    assert set(plan["banned"]) >= {0, 1, *plan["labels"].values()} and 2 not in plan["banned"]
    assert plan["training"]["train_loss"][-1] < plan["training"]["train_loss"][0] / 2
    rows = bench.sample(ask(["refund", "track", "中文"] * 8))
    assert rows["reason"].null_count >= 12
    assert not any("<" in (text or "") for text in rows["text"].to_pylist())
    assert bench.sample(ask(["refund"] * 9), decode_batch=2).equals(bench.sample(ask(["refund"] * 9)))


@pytest.mark.slow
def test_a_real_pretrained_model_is_fine_tuned(tmp_path: Path) -> None:
    from checking import SHARED

    folder = SHARED / "models" / "tinystories_656k"
    if not folder.exists():
        pytest.skip("needs tinystories_656k under AUGMILL_SHARED")
    bench = Bench("causal_lm", tmp_path, rows=ROWS[:24], model=str(folder), layers=2, epochs=30, learning_rate=2e-3)
    losses = bench.fitted.read_json("lm.json")["training"]["train_loss"]
    assert losses[-1] < losses[0] / 3
    texts = [text for text in bench.sample(ask(["refund", "track"] * 20))["text"].to_pylist() if text]
    assert len(texts) > 20
    assert sum(any(word in text for word in ("order", "parcel", "money")) for text in texts) > len(texts) / 2


@pytest.mark.parametrize(
    ("missing", "message"),
    [(("config.json",), "config.json is missing"), (("*.safetensors",), "the weights are missing")],
)
def test_a_model_that_is_not_whole_is_refused_by_name(
    llama: Path, tmp_path: Path, missing: tuple[str, ...], message: str
) -> None:
    folder = copy(llama, tmp_path / "model", *missing)
    with pytest.raises(UserError, match=message) as caught:
        Bench("causal_lm", tmp_path, model=str(folder))
    assert str(folder) in str(caught.value) and caught.value.fix


def test_pickled_weights_are_refused_unless_allowed(llama: Path, tmp_path: Path) -> None:
    folder = copy(llama, tmp_path / "model", "*.safetensors")
    model = load_pretrained(llama, trust_remote_code=False, allow_pickle=False).model
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pickle files only \(pytorch_model.bin\)"):
        Bench("causal_lm", tmp_path / "a", model=str(folder))
    assert Bench("causal_lm", tmp_path / "b", model=str(folder), allow_pickle=True, epochs=1).files


def test_code_that_comes_with_a_model_is_not_run_unless_allowed(llama: Path, tmp_path: Path) -> None:
    folder, ran = copy(llama, tmp_path / "model"), tmp_path / "ran"
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w').close()\nC = M = object\n")
    with pytest.raises(UserError, match="no causal language model that transformers can load"):
        Bench("causal_lm", tmp_path, model=str(folder))
    assert not ran.exists()


def test_a_model_of_another_kind_is_refused(llama: Path, tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    folder = copy(llama, tmp_path / "model", "*.safetensors", "config.json")
    config = BertConfig(
        vocab_size=384,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        is_decoder=True,
    )
    BertModel(config).save_pretrained(folder)
    with pytest.raises(UserError, match="reads in both directions"):  # which transformers would load
        Bench("causal_lm", tmp_path / "bert", model=str(untrained("bert")))
    with pytest.raises(UserError, match="not \\(all of\\) a causal language model"):
        Bench("causal_lm", tmp_path, model=str(folder))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "someone/model"}, "no revision"),
        ({"model": "someone/model", "revision": "main"}, "can change"),
        ({"model": "/not/there", "revision": COMMIT}, "no such directory"),
        ({"model": __file__}, "found a file"),
    ],
)
def test_a_name_that_pins_no_model_is_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        Bench("causal_lm", tmp_path, **options)


def test_a_hub_model_in_the_local_cache_is_found_without_a_network(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        Bench("causal_lm", tmp_path / "a", model="someone/model", revision=COMMIT)
    copy(llama, tmp_path / "hub" / "models--someone--model" / "snapshots" / COMMIT)
    cached = Bench("causal_lm", tmp_path / "b", model="someone/model", revision=COMMIT, epochs=1)
    local = Bench("causal_lm", tmp_path / "c", model=str(llama), epochs=1)
    for name, path in local.files.items():
        assert cached.files[name].read_bytes() == path.read_bytes()


def test_rows_longer_than_the_bound_are_left_out_and_all_of_them_are_an_error(tmp_path: Path) -> None:
    long = ("r-long", "refund", "very " * 60 + "long", "x")
    plan = Bench("causal_lm", tmp_path / "a", rows=[*ROWS, long], max_length=40, epochs=1).fitted.read_json("lm.json")
    assert plan["too_long"] == 1 and plan["max_new_tokens"] < 40
    with pytest.raises(DataError, match="at most 4 tokens"):
        Bench("causal_lm", tmp_path / "b", max_length=4)


@pytest.mark.slow
def test_rows_of_a_real_set_keep_their_label_and_are_new(tmp_path: Path) -> None:
    """SNIPS at 50 rows per class: a probe on all 13,084 rows agreed with 97 % of the labels, 2 % were copies."""
    from checking import shared_rows

    rows = [(f"r{at}", stratum, text, "") for at, (stratum, text) in enumerate(shared_rows("snips", "train", 50))]
    known = shared_rows("snips", "train", 400, seed=1)
    defaults = vars(CausalLMOptions())
    bench = Bench("causal_lm", tmp_path, rows=rows, threads=2, **defaults)
    strata = sorted({stratum for _, stratum, *_ in rows}) * 30
    made = [row for row in bench.sample(ask(strata), threads=2).to_pylist() if row["text"]]
    assert len(made) > 190 and agreement(known, made) > 0.85  # by chance: 0.14
    texts = [row["text"] for row in made]
    assert len(set(texts) - {text for _, _, text, _ in rows}) > 0.85 * len(texts)
