"""The masked language model: what is masked and what stays, how places are filled, that the label counts, what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from generating import ROWS, TINY_LM, Bench, agreement, ask, part, table
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_masked_lm import KINDS, model_of, tokenizer_of, untrained
from tiny_seq2seq import seeded

from augmill.tasks.contracts import Context
from augmill.tasks.errors import DataError, UserError
from augmill.tasks.generators._edits import split_words
from augmill.tasks.generators.lm.decode import Sampling, draw, torch_threads
from augmill.tasks.generators.lm.rewriting import Source
from augmill.tasks.generators.masked.generator import MaskedLM
from augmill.tasks.generators.masked.model import SPECIALS, Filler, prepare, word_tokenizer
from augmill.tasks.generators.masked.options import MaskedLMOptions
from augmill.tasks.generators.masked.rows import Filling, WordMasking, fill
from augmill.tasks.generators.masked.text import BLANK, KEPT, Protection, draw_units, put_words
from augmill.tasks.rows.kinds.text import canonical, fold
from augmill.tasks.rows.randomness import uniforms

PLAIN = Sampling(temperature=1.0, top_k=1000, top_p=1.0, min_p=0.0, repetition_penalty=1.0)
WORDS = [
    "please",
    "PAY",
    "the",
    "Café",
    "order",
    "12",
    "B2",
    "包裹现在",
    "，",
    "to",
    "me.",
    "don't",
    "naïve",
    "(yes)",
    "Anna",
]


def prepared(kind: str, fields: tuple[str, ...] = ("text",), **options: Any) -> WordMasking:
    """An untrained model of ``kind``, and what takes rows apart for it."""
    options |= {} if kind == "scratch" else {"model": str(untrained(kind))}
    source = None if kind == "scratch" else Source(options["model"], "", False, False, kind="masked")
    chosen = MaskedLMOptions(**(TINY_LM | {"vocabulary": 5000} | options))
    with seeded():
        filler = prepare(table(ROWS, fields), source, chosen, fields)
    filler.model.eval()
    return WordMasking(filler, chosen, ["New York", "Order"], fields)


MASKINGS = {kind: prepared(kind) for kind in ("scratch", *KINDS)}


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(MASKINGS)),
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=15),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=64, max_size=64),
    st.floats(0.01, 1),
)
def test_only_masked_words_change_and_all_else_stays_to_the_letter(
    kind: str, words: list[str], numbers: list[float], share: float
) -> None:
    masking = MASKINGS[kind]
    (taken,) = masking.take([" ".join(words)])
    units = draw_units(taken, numbers, share)
    assert len(units) == min(max(1, round(share * taken.words)), len(taken.units)) == len(set(units))
    assert put_words(taken, units, [taken.text[unit.start : unit.stop] for unit in units]) == canonical(" ".join(words))
    masked = {at for unit in units for at in range(unit.start, unit.stop)}
    other = put_words(taken, units, ["Q" * (unit.stop - unit.start) for unit in units])
    assert other == "".join("Q" if at in masked else letter for at, letter in enumerate(taken.text))
    for unit in units:
        word = taken.text[unit.start : unit.stop]
        assert word.isalpha() and word not in ("order", "don't")
    job = masking.job("refund", (taken,), [units])
    tokens, _ = masking.filler.write("refund", [taken.ids])
    assert [at for at, pair in enumerate(zip(tokens, job.row, strict=True)) if pair[0] != pair[1]] == job.places
    assert job.was == [tokens[at] for at in job.places]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Please tell Anna Smith about it. She knows Bob", {"Anna", "Smith", "Bob"}),
        ("Where Is The Parcel Of Anna", set()),  # a title: capitals say nothing
        ("PLEASE SEND 2 MORE NOW", {"2"}),
        ("hello Anna Smith", {"Anna", "Smith"}),
        ("we flew to new york, york is nice", {"new", "york"}),
        ("new and york", set()),
        ("the 3rd floor, room B2", {"3rd", "B2"}),
        ("第3个包裹在哪里", {"3"}),
        ("我想去 new york 玩", {"new", "york"}),
        ("please call u.s. bank now", {"u.s", "bank"}),
        ("he asked Mr. Smith and J. Doe to pay. She paid", {"Mr", "Smith", "J", "Doe"}),
        ("my iPhone is here", {"iPhone"}),
        ("iPhone", {"iPhone"}),
        ("what 's the parcel 's name", {"s"}),
        ("hi {name}, mail ann@x.org or @bob", {"{name}", "ann@x.org", "@bob"}),
    ],
)
def test_names_numbers_and_listed_phrases_are_protected(text: str, kept: set[str]) -> None:
    tokens, _ = split_words(text)
    assert {tokens[at][1] for at in Protection(True, True, ["New York", "U.S. Bank"]).of(tokens)} == kept
    always = {"s", "{name}", "ann@x.org", "@bob"}  # a placeholder is no word of the text's
    assert {tokens[at][1] for at in Protection(False, False, []).of(tokens)} == kept & always


def test_a_word_gives_way_to_its_kind() -> None:
    """No special token, no free place, no punctuation and no part of a character is ever drawn."""
    for kind in ("scratch", *KINDS):
        filler = MASKINGS[kind].filler
        ids = {at: filler.tokenizer.id_to_token(at) for at in range(len(filler.kinds))}
        free = {token: filler.kinds[at] for at, token in ids.items() if token}
        marks = {
            "bert": ["[CLS]", "[MASK]", "[unused0]", "，"],
            "roberta": ["<s>", "<mask>", "madeupword0000", ",", "ä"],
        }
        for token in ["<|label:0|>", *marks.get(kind, ["[MASK]", "[PAD]"])]:
            assert free[token] in (KEPT, BLANK), (kind, token)
        assert not any(kind_ >= 0 and filler.kinds.tolist().count(kind_) < 2 for kind_ in set(filler.kinds.tolist()))
    bert, roberta = (
        {token: int(found.kinds[at]) for token, at in found.tokenizer.get_vocab().items()}
        for found in (MASKINGS["bert"].filler, MASKINGS["roberta"].filler)
    )
    assert bert["please"] == bert["parcel"] != bert["##p"] and bert["7"] == bert["11"] != bert["please"]
    assert bert["包"] == bert["裹"] != bert["please"]
    assert roberta["Ġplease"] == roberta["Ġparcel"] != roberta["e"]


@pytest.mark.parametrize("kind", ["scratch", *KINDS])
@pytest.mark.parametrize("may_stay", [True, False])
def test_places_are_filled_one_after_another_by_the_rows_own_noise(kind: str, may_stay: bool) -> None:
    """Against the plainest loop: one row, one place at a time, the whole vocabulary."""
    masking = MASKINGS[kind]
    filler, jobs = masking.filler, []
    for at, (_, stratum, text, _) in enumerate(ROWS):
        row = masking.take([text])
        jobs.append(masking.job(stratum, row, [draw_units(row[0], [0.3] * 64, 0.1 + 0.02 * at)]))
    seeds = ask(["refund"] * len(jobs)).seeds
    context = Context(seed=0, fields=("text",), workdir=Path())
    found = fill(filler, jobs, seeds, Filling(PLAIN, may_stay, 16), context)
    assert len({len(tokens) for tokens in found}) > 2 and context.usage["tokens"] == sum(map(len, found))
    stayed = 0
    with torch.inference_mode(), torch_threads(1):
        for job, seed, tokens in zip(jobs, seeds, found, strict=True):
            row, noise = list(job.row), uniforms(np.array([seed]), len(job.places), stream=2)[0]
            for at, (place, old) in enumerate(zip(job.places, job.was, strict=True)):
                logits = filler.model(input_ids=torch.tensor([row])).logits[:, place]
                logits[0, torch.from_numpy(filler.kinds != filler.kinds[old])] = -torch.inf
                if not may_stay:
                    logits[0, old] = -torch.inf
                row[place] = int(draw(logits, torch.tensor([noise[at]]), PLAIN))
                stayed += row[place] == old
            assert tokens == [row[place] for place in job.places]
    assert (stayed > 0) == may_stay


@pytest.mark.parametrize("precision", ["auto", "bfloat16"])
@pytest.mark.parametrize("kind", ["scratch", *KINDS])
def test_a_row_is_the_same_at_every_batch_size_and_number_of_threads(kind: str, precision: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"layers": 2, "hidden": 128, "heads": 4, "epochs": 1, "mask_share": 0.5}
    options["decode_precision"] = precision  # none of these is wide, so `auto` is float32
    bench = Bench("masked_lm", tmp_path, **options, **({} if kind == "scratch" else {"model": str(untrained(kind))}))
    asked = ask(["refund", "track", "中文", "refund"] * 16)
    whole = bench.sample(asked)
    for batch in (1, 24, 48):
        for threads in (1, 2):
            assert bench.sample(asked, threads=threads, decode_batch=batch).equals(whole), (batch, threads)
    assert bench.sample(part(asked, [37])).equals(whole.slice(37, 1).combine_chunks())


TEA = {"hot": ("hot", "warm", "boiling", "steaming"), "cold": ("cold", "iced", "frozen", "chilly")}
TEA_ROWS = [
    (f"{kind}-{at}", kind, f"the tea of table {at} is {TEA[kind][at % 4]} today", "so they say")
    for at in range(16)
    for kind in TEA
]


@pytest.fixture(scope="module")
def tea(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    options: dict[str, Any] = {"epochs": 100, "hidden": 64, "mask_share": 0.3, "learning_rate": 3e-3}
    return Bench("masked_lm", tmp_path_factory.mktemp("tea"), rows=TEA_ROWS, **(TINY_LM | options))


def test_the_label_alone_tells_what_fills_a_place(tea: Bench) -> None:
    """A template that both classes share, the place masked where they differ: only the label says how."""
    filler = Filler.load(tea.fitted, "cpu", MaskedLMOptions())
    masking = WordMasking(filler, tea.generator.options, [], ("text",))
    row = masking.take(["the tea of table 3 is hot today"])
    (unit,) = (unit for unit in row[0].units if row[0].text[unit.start : unit.stop] == "hot")
    seeds, filling = ask(["hot"] * 60).seeds, Filling(PLAIN, True, 64)
    for label, other in (("hot", "cold"), ("cold", "hot")):
        job = masking.job(label, row, [[unit]])
        words = [filler.say(tokens) for tokens in fill(filler, [job] * 60, seeds, filling, tea.context)]
        right, wrong = (sum(word in TEA[kind] for word in words) for kind in (label, other))
        assert right > 45 and wrong < 6, (label, words)


def test_rows_are_new_name_their_parent_and_keep_its_other_words_and_its_class(tea: Bench) -> None:
    parents = {row_id: text for row_id, _, text, _ in TEA_ROWS}
    rows = [row for row in tea.sample(ask(["hot", "cold"] * 60)).to_pylist() if row["reason"] is None]
    assert len(rows) > 100
    for row in rows:
        (parent,) = row["parent_ids"]
        before, after = parents[parent].split(), row["text"].split()
        changed = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
        assert 0 < len(changed) <= 2 and parent.startswith(row["stratum"])  # 0.3 of eight words
        assert not any(word.isdigit() for word, _ in changed)  # the only number is the table's
    assert sum(row["text"].split()[6] in TEA[row["stratum"]] for row in rows) > 0.9 * len(rows)


def test_only_the_named_text_changes_and_one_that_is_not_there_is_refused(tmp_path: Path) -> None:
    fields, seconds = ("text", "text_b"), {row_id: second for row_id, _, _, second in ROWS}
    rows = Bench("masked_lm", tmp_path / "a", fields=fields, change="text").sample(ask(["refund", "中文"] * 8))
    delivered = [row for row in rows.to_pylist() if row["reason"] is None]
    assert delivered and all(row["text_b"] == seconds[row["parent_ids"][0]] for row in delivered)
    with pytest.raises(UserError, match="names no text column"):
        Bench("masked_lm", tmp_path / "b", change="text_b")


def test_protected_words_of_the_recipe_and_of_a_file_stay(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("# kept\nthe Money\nBACK\n", encoding="utf-8")
    options = {"protect_words": ("pay",), "protect_file": str(tmp_path / "words.txt"), "mask_share": 1.0, "epochs": 1}
    bench = Bench("masked_lm", tmp_path / "a", **options)
    (tmp_path / "words.txt").unlink()  # what counts is in the fit
    texts = [text for text in bench.sample(ask(["refund"] * 8))["text"].to_pylist() if text]
    assert len(texts) == 8
    for text in texts:
        words = text.split()
        assert [words[at] for at in (1, 2, 3, 7)] == ["pay", "the", "money", "back"] and words[6].isdigit()
        assert words[0] != "please" and words[4] != "for"
    with pytest.raises(UserError, match="words to protect could not be read"):
        bench.generator.preflight(("text",))


@pytest.mark.parametrize("kind", KINDS)
def test_a_local_model_is_fine_tuned_in_its_own_layout(kind: str, tmp_path: Path) -> None:
    options = {"model": str(untrained(kind)), "learning_rate": 5e-3, "epochs": 40, "batch_size": 8}
    bench = Bench("masked_lm", tmp_path, fields=("text", "text_b"), **options)
    plan = bench.fitted.read_json("masked_lm.json")
    first, between, last = {"roberta": ([0], [2, 2], [2])}.get(kind, ([2], [3], [3]))
    assert plan["filler"]["frame"] == {"first": first, "between": between, "last": last}
    assert plan["filler"]["bound"] == {"roberta": 78}.get(kind, 80)  # its places begin behind the padding's
    assert plan["filler"]["lead"] == {"roberta": " "}.get(kind, "")
    losses = plan["training"]["train_loss"]
    assert losses[-1] < 0.75 * losses[0]
    rows = bench.sample(ask(["refund", "track", "中文"] * 8))
    assert rows["reason"].null_count >= {"bert": 20}.get(kind, 12)
    assert not any(mark in (text or "") for text in rows["text"].to_pylist() for mark in ("<", "[", "##", "Ġ", "▁"))


def test_a_row_as_long_as_the_model_has_places_can_be_a_parent(tmp_path: Path) -> None:
    for kind, count in (("bert", 80 - 3), ("roberta", 78 - 3)):
        rows = [
            (f"{label}-{extra}", label, " ".join(["please"] * (count + extra)), "x")
            for label in ("a", "b")
            for extra in (0, 1)
        ]
        bench = Bench("masked_lm", tmp_path / kind, rows=rows, model=str(untrained(kind)), epochs=1)
        found = bench.sample(ask(["a", "b"] * 4)).to_pylist()
        assert {parent for row in found for parent in row["parent_ids"]} == {"a-0", "b-0"}
        assert all(row["text"] for row in found)


def test_an_uncased_model_leaves_the_letters_of_other_words(tmp_path: Path) -> None:
    rows = [(f"r{at}", "ab"[at % 2], "PLEASE  pay the Café, OK? parcel naïve", "x") for at in range(8)]
    bench = Bench("masked_lm", tmp_path, rows=rows, model=str(untrained("bert")), epochs=1, mask_share=0.1)
    for text in bench.sample(ask(["a", "b"] * 8))["text"].to_pylist():
        pairs = zip(text.split(), ["PLEASE", "pay", "the", "Café,", "OK?", "parcel", "naïve"], strict=True)
        assert sum(made != word for made, word in pairs) == 1


def test_text_that_looks_like_a_special_token_is_text(tmp_path: Path) -> None:
    rows = [(f"r{at}", "ab"[at % 2], "say [MASK] and <|label:1|> twice or [PAD] [SEP]", "x") for at in range(8)]
    bench = Bench("masked_lm", tmp_path, rows=rows, epochs=2, mask_share=0.1)
    texts = [text for text in bench.sample(ask(["a", "b"] * 8))["text"].to_pylist() if text]
    assert texts and all(text.count("[") == 3 and text.count("<|") == 1 for text in texts)
    for filler in (MASKINGS["scratch"].filler, Filler.load(bench.fitted, "cpu", MaskedLMOptions())):
        inside = {at for at in filler.encode(rows[0][2]).ids if at != 1}  # letters that no train row has are unknown
        assert not inside & {filler.mask, *range(5), *filler.labels.values()}


def test_the_scratch_vocabulary_is_the_most_frequent_words_and_every_character() -> None:
    texts = ["aa aa aa bb bb cc", "包裹 かな aa"]
    tokenizer = word_tokenizer(texts, SPECIALS, 21)
    vocabulary = set(tokenizer.get_vocab())
    assert {"a", "##a", "包", "裹", "か", "aa", "bb"} <= vocabulary and len(vocabulary) == 21 and "cc" not in vocabulary
    assert tokenizer.encode("cc aa 包裹かな").tokens == ["c", "##c", "aa", "包", "裹", "か", "な"]


def test_another_seed_trains_other_weights_and_no_global_generator_is_touched(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    first, second = (Bench("masked_lm", tmp_path / str(seed), seed=seed, epochs=1) for seed in (0, 1))
    assert first.files["model.safetensors"].read_bytes() != second.files["model.safetensors"].read_bytes()
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs: "),
        ({"mask_share": 0.0}, "mask_share: "),
        ({"temperature": float("nan")}, "temperature: "),
        ({"learning_rate": 0.0}, "learning_rate: "),
        ({"hidden": 30, "heads": 4}, "hidden: "),
    ],
)
def test_options_out_of_bounds_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        MaskedLMOptions(**options)


def copy(path: Path, folder: Path, *, without: str = "") -> Path:
    shutil.copytree(path, folder, ignore=shutil.ignore_patterns(without) if without else None)
    return folder


def test_a_model_that_lacks_a_file_is_refused_by_the_files_name_before_a_fit(tmp_path: Path) -> None:
    def preflight(path: Path | str, **options: Any) -> None:
        MaskedLM(MaskedLMOptions(model=str(path), **options)).preflight(("text",))

    good = untrained("bert")
    preflight(good)
    with pytest.raises(UserError, match=r"config.json is missing"):
        preflight(copy(good, tmp_path / "a", without="config.json"))
    bare = copy(good, tmp_path / "b", without="*.safetensors")
    with pytest.raises(UserError, match=r"weights are missing: expected model.safetensors"):
        preflight(bare)
    (bare / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match=r"pickle files only \(pytorch_model.bin\)"):
        preflight(bare)
    preflight(bare, allow_pickle=True)
    with pytest.raises(UserError, match="expected `scratch`, a local directory, or a hub id"):
        preflight("someone/model")


def test_a_model_of_another_kind_or_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    def fit(path: Path) -> None:
        Bench("masked_lm", tmp_path / f"fit-{path.name}", model=str(path))

    tokenizer = tokenizer_of("bert")
    for name, model in (
        ("causal", GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=1))),
        ("headless", BertModel(BertConfig(vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1,
                                          num_attention_heads=1, intermediate_size=8))),
        ("maskless", model_of("bert", tokenizer, hidden=8)),
    ):  # fmt: skip
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    with pytest.raises(UserError, match="no masked language model that transformers can load"):
        fit(tmp_path / "causal")
    with pytest.raises(UserError, match="weights are missing, such as") as caught:
        fit(tmp_path / "headless")
    assert "ForMaskedLM" in caught.value.fix
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, unk_token="[UNK]").save_pretrained(
        tmp_path / "maskless"
    )
    with pytest.raises(UserError, match="the tokenizer has no mask token"):
        fit(tmp_path / "maskless")
    with pytest.raises(UserError, match="the tokenizer's files are missing"):
        fit(copy(untrained("bert"), tmp_path / "mute", without="tokenizer*"))


def test_a_model_whose_embeddings_take_no_options_runs(tmp_path: Path) -> None:
    made = Bench("masked_lm", tmp_path, model=str(untrained("mobilebert")), epochs=1).sample(ask(["refund"] * 8))
    assert made["reason"].null_count > 4


def test_a_model_that_label_tokens_break_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a DebertaV2ForMaskedLM no longer runs once it has tokens for the labels"):
        Bench("masked_lm", tmp_path, model=str(untrained("deberta-new")))


def test_texts_that_the_tokenizer_cannot_read_are_named_as_such(tmp_path: Path) -> None:
    rows = [(f"r{at}", "ab"[at % 2], "สวัสดีครับ", "x") for at in range(6)]
    with pytest.raises(DataError, match="of 6, 0 are longer and the others have none") as caught:
        Bench("masked_lm", tmp_path, rows=rows, model=str(untrained("bert")), epochs=1)
    assert "script" in caught.value.fix


def test_marks_alone_are_no_words() -> None:
    rows = [(f"r{at}", "ab"[at % 2], "a \ufe0f b \u0301 please pay", "x") for at in range(6)]
    filler = prepare(table(rows, ("text",)), None, MaskedLMOptions(**(TINY_LM | {"vocabulary": 5000})), ("text",))
    marks = [
        at for token, at in filler.tokenizer.get_vocab().items() if token.removeprefix("##") in ("\ufe0f", "\u0301")
    ]
    assert marks and all(filler.kinds[at] in (KEPT, BLANK) for at in marks)


def test_rows_too_long_or_without_a_word_to_mask_are_no_parents_and_all_of_them_are_an_error(tmp_path: Path) -> None:
    odd = [("r-long", "refund", "very " * 60 + "long", "x"), ("r-number", "refund", "12 34", "x")]
    odd += [("r-none", "refund", "", "x"), ("empty", "only", "?!", "x")]
    bench = Bench("masked_lm", tmp_path / "a", rows=[*ROWS, *odd], max_length=40, epochs=1)
    rows = bench.sample(ask(["refund"] * 200 + ["only"])).to_pylist()
    parents = {parent for row in rows for parent in row["parent_ids"]}
    assert len(parents) == 12 and not parents & {row_id for row_id, *_ in odd}
    assert rows[-1]["reason"] == "no_parent"
    with pytest.raises(DataError, match="at most 4 tokens"):
        Bench("masked_lm", tmp_path / "b", max_length=4)


def test_a_row_that_differs_in_case_alone_is_unchanged(tmp_path: Path) -> None:
    rows = [(f"r{at}", "ab"[at % 2], word, "x") for at, word in enumerate(["Parcel", "parcel"] * 4)]
    found = Bench("masked_lm", tmp_path, rows=rows, epochs=1, vocabulary=100).sample(ask(["a", "b"] * 8)).to_pylist()
    for row in found:
        assert row["reason"] in (None, "unchanged") and (row["text"] is None or fold(row["text"]) != "parcel")
    assert "unchanged" in {row["reason"] for row in found}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "file", "least"), [("snips", "train", 0.85), ("fewclue_tnews", "train_0", 0.3)])
def test_rows_of_a_real_set_keep_their_label_and_are_new(name: str, file: str, least: float, tmp_path: Path) -> None:
    """A probe that has seen real rows finds the asked class in rows made from ten (English) or all (Chinese) a class."""
    from checking import shared_rows

    rows = [(f"r{at}", stratum, text, "") for at, (stratum, text) in enumerate(shared_rows(name, file, 10))]
    known = shared_rows(name, file if name == "snips" else "test_public", 200)
    bench = Bench("masked_lm", tmp_path, rows=rows, max_steps=150, batch_size=16, layers=2, hidden=64, vocabulary=5000)
    strata = sorted({stratum for _, stratum, _, _ in rows}) * 20
    made = [row for row in bench.sample(ask(strata)).to_pylist() if row["text"]]
    agreed = agreement(known, made)
    seen = {fold(text) for _, _, text, _ in rows}
    print(name, len(made), len(strata), agreed)
    assert len(made) > 0.9 * len(strata) and agreed > least  # by chance: 0.14 and 0.07
    assert len({fold(row["text"]) for row in made} - seen) > 0.9 * len(made)
