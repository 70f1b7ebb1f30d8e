"""Back-translation: there and back by real model classes, the pivot is the row's own, likeness decides, what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from generating import ROWS, Bench, ask, part
from tiny_seq2seq import babbler, bart_model, fast_tokenizer, folder, m2m100, marian, seeded, teach

from augmill.tasks.contracts import Context
from augmill.tasks.errors import UserError
from augmill.tasks.generators.lm.decode import Sampling
from augmill.tasks.generators.lm.models import load_model, quiet
from augmill.tasks.generators.lm.rewriting import Decoding, Rewriter, Task
from augmill.tasks.generators.seq2seq.back_translation import BackTranslation, BackTranslationOptions, Pivot
from augmill.tasks.recipe.recipe import build_recipe
from augmill.tasks.store.stage import identity_of

BEAMS = Decoding(Sampling(1.0, 1, 1.0, 0.0, 1.0), 4, 64, 92)
# A toy language with two words for everything, and a pivot with one.
CONCEPTS = [("big", "large", "grand"), ("car", "auto", "coche"), ("red", "crimson", "rojo"), ("fast", "quick", "rapido"),
            ("house", "home", "casa"), ("small", "little", "poco")]  # fmt: skip
MEANING = {word: at for at, words in enumerate(CONCEPTS) for word in words}
SENTENCES = [[a, b] for a in range(6) for b in range(6) if a != b]


def spoken(sentence: list[int], seed: int) -> str:
    """The sentence in the toy language, its words drawn."""
    rng = np.random.default_rng(seed)
    return " ".join(CONCEPTS[at][int(rng.integers(2))] for at in sentence)


def taught(pairs: list[tuple[str, str]], steps: int) -> Path:
    tokenizer = fast_tokenizer([text for pair in pairs for text in pair], bart=True)
    with seeded():
        model = bart_model(tokenizer, hidden=64)
    examples = [(tokenizer(source).input_ids, tokenizer(target).input_ids[1:]) for source, target in pairs]
    teach(model, examples, [2, 0], 1, steps)
    path = folder()
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def toy() -> Pivot:
    """Two models that were taught to translate between the toy languages, word by word."""
    said = [(spoken(sentence, seed), sentence) for seed in range(8) for sentence in SENTENCES]
    there = [(text, " ".join(CONCEPTS[at][2] for at in sentence)) for text, sentence in said]
    return Pivot(str(taught(there, 180)), str(taught([(b, a) for a, b in there], 180)))


TOY_ROWS = [
    (f"r{at}", ("home", "road")[at % 2], spoken(sentence, at), "x")
    for at, sentence in enumerate([[0, 4], [2, 1], [5, 4], [3, 1], [2, 4], [0, 1], [4, 5], [1, 3]])
]


def test_a_round_trip_keeps_the_meaning_and_finds_other_words(toy: Pivot, tmp_path: Path) -> None:
    bench = Bench("back_translation", tmp_path, rows=TOY_ROWS, pivots=(toy,), temperature=1.0)
    parents = {row_id: text for row_id, _, text, _ in TOY_ROWS}
    for options in ({}, {"beams": 4}):
        rows = bench.sample(ask(["home", "road"] * 40), **options).to_pylist()
        made = [row for row in rows if row["reason"] is None]
        assert len(made) > 20
        kept = new = 0
        for row in made:
            parent = parents[row["parent_ids"][0]]
            kept += [MEANING.get(word) for word in row["text"].split()] == [MEANING[word] for word in parent.split()]
            new += row["text"] != parent
        assert new == len(made)  # the parent again is no row
        assert kept > len(made) * (0.8 if not options else 0.2)  # lower beams are poorer; by chance 0.03
        assert {row["reason"] for row in rows} <= {None, "unchanged", "too_far", "too_near", "too_long"}


def test_rows_keep_their_label(toy: Pivot, tmp_path: Path) -> None:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB

    bench = Bench("back_translation", tmp_path, rows=TOY_ROWS, pivots=(toy,))
    words = CountVectorizer()
    label = [("home", "road")[4 not in sentence] for sentence in SENTENCES for _ in range(4)]
    real = words.fit_transform([spoken(sentence, 100 + at) for sentence in SENTENCES for at in range(4)])
    probe = MultinomialNB().fit(real, label)
    made = [row for row in bench.sample(ask(["home", "road"] * 40)).to_pylist() if row["text"]]
    agreed = np.mean(probe.predict(words.transform([row["text"] for row in made])) == [row["stratum"] for row in made])
    assert len(made) > 20 and agreed > 0.8


@pytest.mark.parametrize("beams", [0, 2])
def test_a_row_is_the_same_at_every_batch_size_and_number_of_threads(beams: int, tmp_path: Path) -> None:
    pivots = (Pivot(str(babbler())), Pivot(str(babbler()), str(babbler())))
    bench = Bench("back_translation", tmp_path, pivots=pivots, beams=beams, most_similar=1.0)
    asked = ask(["refund", "track", "中文", "refund"] * 8)
    whole = bench.sample(asked)
    for batch in (1, 5):
        for threads in (1, 2):
            assert bench.sample(asked, threads=threads, decode_batch=batch).equals(whole)
    assert bench.sample(part(asked, [17])).equals(whole.slice(17, 1).combine_chunks())


def test_every_pivot_is_drawn_and_a_model_is_kept_once(toy: Pivot, tmp_path: Path) -> None:
    mute = Pivot(str(babbler()))
    bench = Bench(
        "back_translation", tmp_path / "a", rows=TOY_ROWS, pivots=(toy, mute, mute), beams=1, most_similar=1.0
    )
    assert bench.fitted.read_json("pivots.json")["pivots"] == [["model-0", "model-1"], ["model-2"] * 2, ["model-2"] * 2]
    assert sum(name.endswith("model.safetensors") for name in bench.files) == 3
    reasons = bench.sample(ask(["home"] * 90))["reason"].to_pylist()
    assert 5 < sum(why is None or why == "unchanged" for why in reasons) < 60  # what the toy model says, a third


@pytest.mark.parametrize(("bounds", "reason"), [((0.99, 1.0), "too_far"), ((0.0, 0.001), "too_near")])
def test_texts_too_far_from_their_parent_or_too_near_are_no_rows(
    toy: Pivot, tmp_path: Path, bounds: tuple[float, float], reason: str
) -> None:
    least, most = bounds
    bench = Bench("back_translation", tmp_path, rows=TOY_ROWS, pivots=(toy,), least_similar=least, most_similar=most)
    reasons = bench.sample(ask(["home", "road"] * 20))["reason"].to_pylist()
    assert reasons.count(reason) > 10 and None not in [why for why in reasons if why == reason]
    assert set(reasons) <= {reason, "unchanged", "too_long", None} and reasons.count(None) < 8


def rewritten(path: Path, **languages: str) -> tuple[Rewriter, list[str | None]]:
    with quiet():
        model, tokenizer = load_model(path, "seq2seq", trust_remote_code=False, allow_pickle=False)
    rewriter = Rewriter(model.eval(), tokenizer, **languages)
    context = Context(seed=0, fields=("text",), workdir=path)
    found = rewriter.rewrite([text for _, _, text, _ in ROWS[:8]], np.arange(8), 0, Task(BEAMS, context, "test"))
    return rewriter, [text for text, _ in found]


def said_by_generate(rewriter: Rewriter, text: str, **forced: Any) -> list[str]:
    """What transformers' own ``generate`` says by the same beams."""
    banned = [[index] for index in rewriter.frame.banned if index != rewriter.end]
    lines = rewriter.model.generate(
        torch.tensor([rewriter.encode(text)]), max_new_tokens=90, num_beams=4, num_return_sequences=4, do_sample=False,
        early_stopping=True, bad_words_ids=banned, renormalize_logits=True, forced_eos_token_id=None, **forced,
    )  # fmt: skip
    assert all(rewriter.end in line[1:] for line in lines.tolist())
    said = [line[len(rewriter.frame.start) :] for line in lines.tolist()]
    return [text.strip() for text in rewriter.tokenizer.batch_decode(said, skip_special_tokens=True)]


def test_the_marian_layout_says_what_generate_says() -> None:
    pytest.importorskip("sentencepiece")
    rewriter, found = rewritten(marian())
    assert type(rewriter.model).__name__ == "MarianMTModel" and rewriter.frame.start == (
        rewriter.tokenizer.pad_token_id,
    )
    assert all(
        said in said_by_generate(rewriter, text) for said, (_, _, text, _) in zip(found, ROWS, strict=False) if said
    )
    assert sum(map(bool, found)) > 1
    assert rewritten(marian(), target="fra")[0].encode("pay")[0] == rewriter.tokenizer.convert_tokens_to_ids(">>fra<<")


def test_the_m2m100_layout_begins_with_the_codes_of_its_languages() -> None:
    pytest.importorskip("sentencepiece")
    rewriter, found = rewritten(m2m100(), source="en", target="fr")
    english, french = (rewriter.tokenizer.get_lang_id(code) for code in ("en", "fr"))
    assert rewriter.frame.start == (2, french) and rewriter.encode("pay")[0] == english
    for said, (_, _, text, _) in zip(found, ROWS, strict=False):
        assert not said or said in said_by_generate(rewriter, text, forced_bos_token_id=french)
    assert sum(map(bool, found)) > 1
    back = rewritten(m2m100(), source="fr", target="en")[0]
    assert back.encode("pay")[0] == french and rewriter.encode("pay")[0] == english


def test_one_model_of_many_languages_goes_there_and_back(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    pivots = (Pivot(str(m2m100()), language="fr"), Pivot(str(m2m100()), language="de"))
    bench = Bench("back_translation", tmp_path, pivots=pivots, language="en", most_similar=1.0, max_length=90)
    assert sum(name.endswith("model.safetensors") for name in bench.files) == 1
    rows = bench.sample(ask(["refund", "track"] * 8))
    assert rows["reason"].null_count > 4
    for wrong, message in (
        ({"language": ""}, "needs two language codes"),
        ({"language": "xx"}, "no language 'xx'; it knows"),
    ):
        with pytest.raises(UserError, match=message):
            Bench("back_translation", tmp_path / message[:3], **({"pivots": pivots, "language": "en"} | wrong))


def test_models_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    good = str(babbler())
    (tmp_path / "empty").mkdir()
    for pivot, message in (
        (Pivot(good, str(tmp_path / "empty")), "config.json is missing"),
        (Pivot("someone/model"), "no revision"),
        (Pivot(good, "someone/model", back_revision="main"), "can change"),
    ):
        generator = BackTranslation(BackTranslationOptions(pivots=(pivot,)))
        with pytest.raises(UserError, match=message):
            generator.preflight(("text",)) if message != "can change" else Bench(
                "back_translation", tmp_path / "b", pivots=(pivot,)
            )
    BackTranslation(BackTranslationOptions(pivots=(Pivot(good), Pivot(good, good)))).preflight(("text",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pivots": ()}, "pivots: expected at least one"),
        ({"least_similar": 0.9, "most_similar": 0.5}, "least_similar: "),
        ({"most_similar": 1.5}, "most_similar: "),
        ({"beams": -1}, "beams: "),
    ],
)
def test_options_out_of_bounds_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        BackTranslationOptions(**({"pivots": (Pivot("a"),)} | options))
    for texts, name in ((("",), "there"), (("a", ""), "back")):  # an empty path would be the working directory
        with pytest.raises(ValueError, match=rf"^{name}: "):
            Pivot(*texts)


def test_a_pivots_directories_are_relative_to_the_recipe_and_count_by_their_content(tmp_path: Path) -> None:
    def options(place: str, content: str) -> BackTranslationOptions:
        (tmp_path / place / "model").mkdir(parents=True)
        (tmp_path / place / "model" / "config.json").write_text(content)
        document = {
            "dataset": "tiny", "source": {"path": "rows.csv"}, "columns": {"text": "text", "label": "label"},
            "target": {"per_class": 20},
            "generators": [{"use": "back_translation", "pivots": [{"there": "model", "back": "a/b"}]}],
        }  # fmt: skip
        made: BackTranslationOptions = build_recipe(document, base=tmp_path / place).generators[0].options
        return made

    first, moved, other = options("x", "{}"), options("y", "{}"), options("z", "{ }")
    assert first.pivots[0].there == str(tmp_path / "x" / "model") and first.pivots[0].back == "a/b"
    assert identity_of(first) == identity_of(moved) != identity_of(other)
    assert identity_of(dataclasses.replace(first, decode_batch=1)) == identity_of(first)
    assert identity_of(Pivot("a"))["back"] is None  # and not the working directory's content
