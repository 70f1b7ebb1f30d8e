"""The encoder-decoder generator: spans and their tokens, what a row hangs on, that the label counts, what is refused."""

from __future__ import annotations

import importlib.util
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from generating import ROWS, TINY_LM, Bench, agreement, ask, part
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from tiny_seq2seq import TEXTS, babbler, bart_model, fast_tokenizer, folder, seeded, t5_model, teach, untrained

from augmill.tasks.contracts import Context
from augmill.tasks.errors import DataError, UserError
from augmill.tasks.generators.lm.decode import Sampling, draw, lower, penalise, torch_threads
from augmill.tasks.generators.lm.encoder_decoder import Frame, in_parts, pad_rows, sample, search
from augmill.tasks.generators.lm.models import load_model
from augmill.tasks.generators.lm.rewriting import require_sentencepiece
from augmill.tasks.generators.seq2seq.generator import Seq2Seq
from augmill.tasks.generators.seq2seq.infill import Infiller, Layout, Words, draw_spans
from augmill.tasks.generators.seq2seq.options import Seq2SeqOptions
from augmill.tasks.rows.kinds.text import canonical
from augmill.tasks.rows.randomness import uniforms

PLAIN = Sampling(temperature=1.0, top_k=1000, top_p=1.0, min_p=0.0, repetition_penalty=1.0)
KINDS = ("bart", "t5")


def loaded(path: Path) -> tuple[Any, Any]:
    model, tokenizer = load_model(path, "seq2seq", trust_remote_code=False, allow_pickle=False)
    return model.eval(), tokenizer


@st.composite
def texts_with_spans(draw_from: st.DrawFn) -> tuple[list[Words], list[list[tuple[int, int]]]]:
    words = st.lists(
        st.sampled_from(["please", "pay", "the", "order", "包裹现在", "，", "to", "me"]), min_size=1, max_size=20
    )
    texts = [Words.of(" ".join(draw_from(words))) for _ in range(draw_from(st.integers(1, 2)))]
    numbers = st.lists(st.floats(0, 1, exclude_max=True), min_size=8, max_size=8)
    share, longest = draw_from(st.floats(0.01, 1)), draw_from(st.integers(1, 4))
    spans = [draw_spans(len(text.words), draw_from(numbers), share, longest) for text in texts]
    return texts, [spans[0], *([[]] if len(texts) > 1 and draw_from(st.booleans()) else spans[1:])]


@given(st.integers(0, 60), st.floats(0.01, 1), st.integers(1, 5), st.lists(st.floats(0, 0.999), min_size=6, max_size=6))
def test_spans_hold_the_share_of_words_stand_apart_and_are_no_longer_than_told(
    count: int, share: float, longest: int, numbers: list[float]
) -> None:
    spans = draw_spans(count, numbers, share, longest)
    masked = sum(stop - start for start, stop in spans)
    assert masked == min(max(1, round(share * count)), 6 * longest) * (count > 0)
    assert all(0 <= start < stop <= count for start, stop in spans)
    assert all(before[1] < after[0] for before, after in pairwise(spans))
    assert len(spans) <= 6
    if count - masked >= len(numbers):  # room enough to keep them apart
        assert all(stop - start <= longest for start, stop in spans)


def test_a_span_can_stand_anywhere() -> None:
    found = {draw_spans(4, [number, 0.5], 0.25, 3)[0] for number in np.linspace(0, 0.999, 50)}
    assert found == {(0, 1), (1, 2), (2, 3), (3, 4)}


@settings(deadline=None)
@given(texts_with_spans(), st.sampled_from(KINDS))
def test_what_is_to_be_said_for_a_row_reads_back_as_the_row(
    drawn: tuple[list[Words], list[list[tuple[int, int]]]], kind: str
) -> None:
    texts, spans = drawn
    tokenizer = TOKENIZERS[kind]
    layout = LAYOUTS[kind]
    target, marks = layout.target(tokenizer, texts, spans), layout.marks(spans)
    assert [token for token in target if token in {2, 3, *layout.fills}] == list(marks)
    source = layout.source(tokenizer, 1, texts, spans)
    assert len([token for token in source if token in layout.fills]) == sum(map(len, spans))
    assert source[: len(layout.prefix) + 1] == [*layout.prefix, 1] and source[-1] == 2
    assert layout.read(tokenizer, target[:-1], texts, spans)[0] == [text.glue.join(text.words) for text in texts]


LAYOUTS = {
    "bart": Layout("mask", (4,), 3, 2, (0,), (2,)),
    "t5": Layout("sentinel", tuple(range(4, 44)), 3, 2, (), (2,)),
}
TOKENIZERS = {
    kind: fast_tokenizer([*TEXTS, "please pay the order 包裹现在，to me"] * 2, bart=kind == "bart").backend_tokenizer
    for kind in KINDS
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_batched_loop_draws_what_a_plain_loop_over_one_row_without_a_cache_draws(kind: str) -> None:
    model, _ = loaded(untrained(kind))
    vocabulary = model.get_output_embeddings().weight.shape[0]
    frame = Frame((1, 5), (*range(12), *range(40, vocabulary)))  # few words, so that marks come up
    rng = np.random.default_rng(0)
    sources = [rng.integers(12, 60, length).tolist() for length in (7, 3, 7, 12, 1, 9, 15, 2, 7, 11, 5)]
    noise = uniforms(np.arange(11), 24)
    marks = [(6, 2) if row % 2 else (2,) for row in range(11)]
    sampling = Sampling(1.2, 28, 0.99, 0.001, 1.0 if kind == "bart" else 1.3)
    found = sample(model, pad_rows(sources, 96), marks, noise, frame, sampling)
    for row in range(11):
        drawn: list[int] = []
        said = 0
        with torch.inference_mode(), torch_threads(1):
            for step in range(24):
                ids = torch.tensor([[*frame.start, *drawn]])
                logits = model(input_ids=torch.tensor([sources[row]]), decoder_input_ids=ids).logits[:, -1]
                keep = logits[0, marks[row][said]].clone()
                logits[:, list(frame.banned)] = -torch.inf
                logits[0, marks[row][said]] = keep
                if sampling.repetition_penalty != 1.0 and drawn:
                    logits = penalise(logits, torch.tensor([drawn]), -1, sampling.repetition_penalty)
                drawn.append(int(draw(logits, torch.tensor([noise[row, step]]), sampling)))
                said += drawn[-1] == marks[row][said]
                if said == len(marks[row]):
                    break
        assert found[row] == (drawn[:-1] if said == len(marks[row]) else None)
    assert {row is None for row in found} == {True, False}


def test_beams_are_those_of_generate_for_one_row_whatever_the_models_own_settings() -> None:
    with seeded():
        model = bart_model(fast_tokenizer(TEXTS, bart=True), std=0.3).eval()
    model.final_logits_bias[0, 2] = 5.0
    rng = np.random.default_rng(1)
    sources = [rng.integers(5, 60, length).tolist() for length in (6, 3, 9, 1, 6, 15, 12, 2, 7)]
    plain = {"num_beams": 4, "num_return_sequences": 4, "early_stopping": True, "max_new_tokens": 60}
    alone = [
        model.generate(
            torch.tensor([source]), forced_eos_token_id=None, decoder_input_ids=torch.tensor([[2, 0]]), **plain
        )[:, 2:].tolist()
        for source in sources
    ]  # fmt: skip
    model.generation_config.update(length_penalty=3.0, min_new_tokens=9, no_repeat_ngram_size=2, num_beam_groups=2)
    found = search(model, pad_rows(sources, 96), 60, 4, Frame((2, 0), ()), 2)
    for beams, want in zip(found, alone, strict=True):
        assert all(2 in line for line in want)  # none was cut off, which `generate` would count as an end
        assert beams == [line[: line.index(2)] for line in want]
    assert len({str(beams) for beams in found}) > 3
    assert model.generation_config.length_penalty == 3.0  # the model itself is left as it is
    cut = search(model, pad_rows(sources, 96), 3, 4, Frame((2, 0), ()), 2)
    assert all(len(line) < 3 for beams in cut for line in beams) and sum(map(len, cut)) < sum(map(len, found))


def wide(kind: str) -> Any:
    """Two heads of odd width and random weights."""
    with seeded():
        tokenizer = fast_tokenizer(TEXTS, bart=kind == "bart")
        model = bart_model(tokenizer, hidden=264, std=0.2) if kind == "bart" else t5_model(tokenizer, hidden=264)
    return model.eval()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_target_is_the_same_in_any_batch_in_either_precision(kind: str, precision: Any) -> None:
    model = lower(wide(kind), precision)
    rng = np.random.default_rng(0)
    lengths = [1, 3, 7, 11, 15, 16, 17, 22, 28, 31, 32, 33, 39, 16, 32, 3]
    sources = [rng.integers(12, 60, length).tolist() for length in lengths]
    sources += sources[2:6]  # a source that stands twice is read once
    # Few words, so that targets come to their end.
    frame, plain = Frame((1,), (0, *range(20, model.config.vocab_size))), Sampling(4.0, 20, 1.0, 0.0, 1.0)
    noise = uniforms(np.arange(len(sources)), 16)

    def run(batch: int, beams: int = 0) -> list[Any]:
        def part(ats: list[int]) -> list[Any]:
            lines = pad_rows([sources[at] for at in ats], 96)
            if beams:
                return search(model, lines, 16, beams, frame, 2)
            return sample(model, lines, [(2,)] * len(ats), noise[ats], frame, plain)

        return in_parts(sources, part, batch, 96, Context(seed=0, fields=("text",), workdir=Path(), threads=1), "test")

    whole = run(64)
    assert len({str(row) for row in whole if row}) > 5
    for batch in (1, 3):
        assert run(batch) == whole, batch
    assert run(2, beams=3) == run(24, beams=3)


@pytest.mark.parametrize("options", [{}, {"model": "bart"}])
def test_a_row_is_the_same_at_every_batch_size_and_number_of_threads(options: dict[str, Any], tmp_path: Path) -> None:
    size = {"layers": 2, "hidden": 128, "heads": 4, "epochs": 1}
    if "model" in options:
        size = {"model": str(babbler()), "epochs": 1, "mask_share": 0.5}
    bench = Bench("seq2seq", tmp_path, **(options | size))
    asked = ask(["refund", "track", "中文", "refund"] * 16)
    whole = bench.sample(asked)
    for batch in (1, 24, 48):
        for threads in (1, 2):
            assert bench.sample(asked, threads=threads, decode_batch=batch).equals(whole), (batch, threads)
    assert bench.sample(part(asked, [37])).equals(whole.slice(37, 1).combine_chunks())


TEA = [
    (f"{kind}-{at}", kind, f"the tea of table {at} is {kind} today", "so they say")
    for at in range(12)
    for kind in ("hot", "cold")
]


@pytest.fixture(scope="module")
def tea(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    options = TINY_LM | {"layers": 2, "hidden": 64, "epochs": 200}
    options |= {"mask_share": 0.2, "span_words": 1, "temperature": 0.7}
    return Bench("seq2seq", tmp_path_factory.mktemp("tea"), rows=TEA, **options)


def test_the_label_alone_tells_what_fills_a_span(tea: Bench) -> None:
    """Rows of both classes differ in one word; where it is taken out, only the label says which it was."""
    rows = tea.sample(ask(["hot", "cold"] * 100)).to_pylist()
    texts = [(row["stratum"], row["text"].split()) for row in rows if row["text"]]
    right = sum(stratum in words for stratum, words in texts)
    wrong = sum({"hot": "cold", "cold": "hot"}[stratum] in words for stratum, words in texts)
    # Most come back as they were: 49 to 78 of 200 are new, over four seeds.
    assert len(texts) > 30 and right > 0.7 * len(texts) and wrong < 0.1 * len(texts)


def test_rows_are_new_name_their_parent_and_keep_its_other_words(tea: Bench) -> None:
    parents = {row_id: text for row_id, _, text, _ in TEA}
    for row in tea.sample(ask(["hot", "cold"] * 30)).to_pylist():
        if row["reason"] is None:
            (parent,) = row["parent_ids"]
            before, after = parents[parent].split(), row["text"].split()
            assert before != after and parent.startswith(row["stratum"])
            assert sum(word in after for word in before) >= len(before) - 2
        else:
            assert row["reason"] in {"unchanged", "too_long"}


def test_only_the_named_text_changes_and_one_that_is_not_there_is_refused(tmp_path: Path) -> None:
    fields, seconds = ("text", "text_b"), {row_id: second for row_id, _, _, second in ROWS}
    rows = Bench("seq2seq", tmp_path / "a", fields=fields, change="text").sample(ask(["refund", "中文"] * 8))
    delivered = [row for row in rows.to_pylist() if row["reason"] is None]
    assert delivered and all(row["text_b"] == seconds[row["parent_ids"][0]] for row in delivered)
    with pytest.raises(UserError, match="names no text column"):
        Bench("seq2seq", tmp_path / "b", change="text_b")


def test_another_seed_trains_other_weights_and_no_global_generator_is_touched(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    first, second = (Bench("seq2seq", tmp_path / str(seed), seed=seed, epochs=1) for seed in (0, 1))
    assert first.files["model.safetensors"].read_bytes() != second.files["model.safetensors"].read_bytes()
    assert torch.equal(before, torch.random.get_rng_state())


def test_text_that_looks_like_a_special_token_is_text(tmp_path: Path) -> None:
    rows = [(f"r{at}", "ab"[at % 2], "say <extra_id_0> and <|label:1|> twice or <|pad|>", "x") for at in range(8)]
    bench = Bench("seq2seq", tmp_path, rows=rows, epochs=2, mask_share=0.1)
    texts = [text for text in bench.sample(ask(["a", "b"] * 8))["text"].to_pylist() if text]
    assert texts and all(text.count("<") >= 2 for text in texts)  # one word of six is filled anew
    infiller = Infiller.load(bench.fitted, "cpu", Seq2SeqOptions())
    assert not set(infiller.tokenizer.encode(rows[0][2]).ids) & {*infiller.layout.fills, *infiller.labels.values()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_local_model_is_fine_tuned_in_its_own_layout(kind: str, tmp_path: Path) -> None:
    options = {"model": str(untrained(kind)), "learning_rate": 5e-3, "epochs": 40, "batch_size": 8}
    bench = Bench("seq2seq", tmp_path, **options)
    plan = bench.fitted.read_json("seq2seq.json")
    assert plan["layout"]["kind"] == {"bart": "mask", "t5": "sentinel"}[kind]
    assert plan["start"] == {"bart": [2, 0], "t5": [1, 4]}[kind]  # </s> <s>; padding and the first sentinel
    losses = plan["training"]["train_loss"]
    assert losses[-1] < 0.75 * losses[0]
    rows = bench.sample(ask(["refund", "track", "中文"] * 8))
    assert rows["reason"].null_count >= 12
    assert not any("<" in (text or "") for text in rows["text"].to_pylist())
    assert bench.sample(ask(["refund"] * 9), decode_batch=2).equals(bench.sample(ask(["refund"] * 9)))


@pytest.fixture(scope="module")
def shouter() -> Path:
    """A T5 that was taught to say the word after `shout: ` three times."""
    words = [f"word{at}" for at in range(6)]
    tokenizer = fast_tokenizer([*words, "shout: ", "other: "] * 3, bart=False, vocabulary=200)
    pairs = [(tokenizer(f"shout: {word}").input_ids, tokenizer(" ".join([word] * 3)).input_ids) for word in words]
    with seeded():
        model = t5_model(tokenizer)
    assert teach(model, pairs, [1], 1, 200) < 0.2
    path = folder()
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_a_paraphrase_model_is_used_as_it_is_with_its_prefix(shouter: Path, tmp_path: Path) -> None:
    rows = [(f"r{at}", "ab"[at % 2], f"word{at}", "x") for at in range(6)]
    options = {"mode": "paraphrase", "model": str(shouter), "prefix": "shout: ", "temperature": 0.1, "epochs": 0}
    bench = Bench("seq2seq", tmp_path, rows=rows, **options)
    before, after = load_file(shouter / "model.safetensors"), load_file(bench.files["model.safetensors"])
    assert before.keys() == after.keys() and all((before[name] == after[name]).all() for name in before)
    for options in ({}, {"beams": 2}):
        found = bench.sample(ask(["a", "b"] * 10), **options).to_pylist()
        right = [row["text"] == " ".join([f"word{row['parent_ids'][0][1:]}"] * 3) for row in found if row["text"]]
        assert len(right) > 10 and sum(right) > len(right) * (0.9 if not options else 0.3)


def test_a_paraphrase_model_learns_from_rows_of_one_class_where_it_is_asked_to(tmp_path: Path) -> None:
    rows = [
        (f"{kind}-{at}", kind, f"{word} {at}", "x")
        for kind, word in (("a", "order"), ("b", "parcel"))
        for at in range(6)
    ]
    options = {"mode": "paraphrase", "model": str(untrained("bart")), "epochs": 60, "learning_rate": 5e-3}
    bench = Bench("seq2seq", tmp_path, rows=rows, **options)
    assert bench.fitted.read_json("seq2seq.json")["training"]["steps"] == 60 * 2
    texts = [(row["stratum"], row["text"]) for row in bench.sample(ask(["a", "b"] * 20)).to_pylist() if row["text"]]
    right = sum({"a": "order", "b": "parcel"}[stratum] in text for stratum, text in texts)
    assert len(texts) > 20 and right > 0.8 * len(texts)


def test_infilling_reads_a_recipe_with_beams_on_samples_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny = {"layers": 1, "hidden": 16, "heads": 2, "epochs": 1}
    bench = Bench("seq2seq", tmp_path / "beams", beams=4, **tiny)
    assert "rows of `infill` are sampled" in caplog.text
    asked = ask(["refund", "track"] * 4)
    assert bench.sample(asked).equals(Bench("seq2seq", tmp_path / "none", **tiny).sample(asked))


def test_beams_are_drawn_by_the_seed_and_searched_once_per_source(shouter: Path, tmp_path: Path) -> None:
    rows = [("r0", "a", "word0", "x")]
    options = {"mode": "paraphrase", "model": str(shouter), "prefix": "other: ", "beams": 4, "max_length": 16}
    options["epochs"] = 0
    bench = Bench("seq2seq", tmp_path, rows=rows, **options)
    texts = [row["text"] for row in bench.sample(ask(["a"] * 60)).to_pylist()]
    assert 2 <= len(set(texts)) <= 4
    few, many = (Context(seed=0, fields=("text",), workdir=tmp_path) for _ in range(2))
    bench.generator.sample(bench.fitted, ask(["a"]), few)
    bench.generator.sample(bench.fitted, ask(["a"] * 60), many)
    assert few.usage == many.usage and few.usage["tokens"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "paraphrase"}, "model: `paraphrase` needs a pretrained model"),
        ({"epochs": 0}, "epochs: "),
        ({"epochs": -1, "mode": "paraphrase", "model": "m"}, "epochs: "),
        ({"mask_share": 0.0}, "mask_share: "),
        ({"beams": 65}, "beams: "),
        ({"hidden": 30, "heads": 4}, "hidden: "),
    ],
)
def test_options_out_of_bounds_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        Seq2SeqOptions(**options)


def test_a_model_that_cannot_be_used_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"config.json is missing"):
        Seq2Seq(Seq2SeqOptions(model=str(tmp_path / "empty"))).preflight(("text",))
    with pytest.raises(UserError, match="expected `scratch`, a local directory, or a hub id"):
        Seq2Seq(Seq2SeqOptions(model="someone/model")).preflight(("text",))
    tokenizer = fast_tokenizer(TEXTS, bart=False)
    with seeded():
        bart_model(tokenizer).save_pretrained(tmp_path / "plain")
    from transformers import PreTrainedTokenizerFast

    from augmill.tasks.generators.lm.train import train_tokenizer

    bare = train_tokenizer(TEXTS, ["<s>", "<pad>", "</s>"], 200, "characters")
    bare.post_processor = tokenizer.backend_tokenizer.post_processor
    PreTrainedTokenizerFast(tokenizer_object=bare, eos_token="</s>", pad_token="<pad>").save_pretrained(
        tmp_path / "plain"
    )
    with pytest.raises(UserError, match="cannot fill spans"):
        Bench("seq2seq", tmp_path / "a", model=str(tmp_path / "plain"))


def test_a_missing_package_for_the_tokenizer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source.spm").write_bytes(b"")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="package sentencepiece is not installed") as caught:
        require_sentencepiece(tmp_path)
    assert "source.spm" in caught.value.problem and "pip install sentencepiece" in caught.value.fix
    (tmp_path / "tokenizer.json").write_text("{}")
    require_sentencepiece(tmp_path)


def test_rows_longer_than_the_bound_are_no_parents_and_all_of_them_are_an_error(tmp_path: Path) -> None:
    long = ("r-long", "refund", "very " * 60 + "long", "x")
    bench = Bench("seq2seq", tmp_path / "a", rows=[*ROWS, long], max_length=60, epochs=1)
    parents = {parent for row in bench.sample(ask(["refund"] * 200)).to_pylist() for parent in row["parent_ids"]}
    assert parents and "r-long" not in parents
    with pytest.raises(DataError, match="at most 4 tokens"):
        Bench("seq2seq", tmp_path / "b", max_length=4)


@pytest.mark.slow
def test_rows_of_a_real_set_keep_their_label_and_are_new(tmp_path: Path) -> None:
    """SNIPS at 10 rows per class: a probe on all 13,084 rows agreed with 97 % of the labels, none was a copy."""
    from checking import shared_rows

    rows = [(f"r{at}", stratum, text, "") for at, (stratum, text) in enumerate(shared_rows("snips", "train", 10))]
    known = shared_rows("snips", "train", 300)
    bench = Bench(
        "seq2seq", tmp_path, rows=rows, threads=2, max_steps=200, batch_size=16, layers=2, hidden=64, vocabulary=1000
    )
    strata = sorted({stratum for _, stratum, _, _ in rows}) * 20
    made = [row for row in bench.sample(ask(strata)).to_pylist() if row["text"]]
    agreed = agreement(known, made)
    seen = {canonical(text) for _, _, text, _ in rows}
    assert len(made) > 0.8 * len(strata) and agreed > 0.85  # by chance: 0.14
    assert len({row["text"] for row in made} - seen) > 0.9 * len(made)
