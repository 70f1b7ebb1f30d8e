"""The built-in trainer is TF-IDF and logistic regression; the command trainer runs the user's own."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from augmill.tasks.boundary.masking import masked
from augmill.tasks.errors import UserError
from augmill.tasks.gate.evidence import trainings
from augmill.tasks.problems import PROBLEMS
from augmill.tasks.rows.kinds.text import is_unspaced
from augmill.tasks.trainers import logistic
from augmill.tasks.trainers.command import CommandOptions, CommandTrainer
from augmill.tasks.trainers.contract import TrainerInputs, Training
from augmill.tasks.trainers.features import text_features
from augmill.tasks.trainers.linear import _Design
from augmill.tasks.trainers.logistic import log_odds, solver
from augmill.tasks.trainers.tfidf import TfidfOptions, TfidfTrainer
from augmill.tasks.trainers.tuning import CHOOSING, train_side_by_side

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "nrst"]

HERE = Path(__file__).parent


def sentences(count: int, classes: int, rng: np.random.Generator, signal: float = 0.4) -> tuple[list[str], list[str]]:
    """Texts of 6 words; each word is one of its class's own ten with probability ``signal``."""
    labels = [str(position % classes) for position in range(count)]
    texts = []
    for label in labels:
        own = WORDS[10 * int(label) : 10 * int(label) + 10]
        texts.append(" ".join(rng.choice(own if rng.random() < signal else WORDS) for _ in range(6)))
    return texts, labels


def table(prefix: str, texts: list[str], labels: list[str], parents: list[list[str]] | None = None) -> pa.Table:
    ids = [f"{prefix}{position:04d}" for position in range(len(texts))]
    made = pa.table({"row_id": ids, "stratum": labels, "text": texts})
    return made if parents is None else made.append_column("parent_ids", pa.array(parents, pa.list_(pa.string())))


def toy(train: int = 60, made: int = 60, held: int = 200, classes: int = 4) -> TrainerInputs:
    rng = np.random.default_rng(0)
    return TrainerInputs(
        table("r", *sentences(train, classes, rng)),
        table("s", *sentences(made, classes, rng), [[]] * made),
        table("v", *sentences(held, classes, rng)),
        ("text",),
        PROBLEMS["classification"],
        tuple(str(c) for c in range(classes)),
    )


def truth(problem: TrainerInputs) -> np.ndarray:
    return np.array([problem.classes.index(label) for label in problem.evaluation["stratum"].to_pylist()])


def run(problem: TrainerInputs, options: TfidfOptions, runs: int = 2) -> list[list[int]]:
    planned = trainings(problem, 3, runs)
    return [found.target.tolist() for found in TfidfTrainer(options).predict(problem, planned, Path())]


def test_predictions_are_those_of_scikit_learns_logistic_regression_on_the_same_features() -> None:
    from sklearn.linear_model import LogisticRegression

    problem = toy()
    texts = [*problem.real["text"].to_pylist(), *problem.synthetic["text"].to_pylist()]
    features, held = text_features([texts], [problem.evaluation["text"].to_pylist()], problem.real.num_rows)
    labels = np.array(problem.real["stratum"].to_pylist() + problem.synthetic["stratum"].to_pylist())
    for training in trainings(problem, 3, 1):
        weights = training.weights * problem.real.num_rows / training.weights.sum()
        model = LogisticRegression(C=10.0, max_iter=1000, tol=1e-6)
        model.fit(features[training.rows], labels[training.rows], weights)
        found = next(TfidfTrainer(TfidfOptions(cs=(10.0,))).predict(problem, [training], Path()))
        agree = np.mean(model.predict(held) == np.array(problem.classes)[found.target])
        assert agree >= 0.99, training.arm


@pytest.mark.parametrize("c", [0.1, 10.0, 1000.0])
def test_the_solver_reaches_the_minimum_that_scikit_learn_reaches(c: float) -> None:
    from scipy.sparse import csr_matrix
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    inside = rng.normal(size=(80, 30)).astype(np.float32) / 5
    labels, weights = rng.integers(3, size=80), rng.exponential(size=80)
    theirs = LogisticRegression(C=c, max_iter=10_000, tol=1e-10).fit(inside, labels, weights)

    def loss(slopes: np.ndarray, intercepts: np.ndarray) -> float:
        scores = inside.astype(np.float64) @ slopes + intercepts
        chance = np.exp(scores - scores.max(axis=1, keepdims=True))
        own = (chance / chance.sum(axis=1, keepdims=True))[np.arange(80), labels]
        return float(-c * (weights * np.log(own)).sum() + 0.5 * (slopes**2).sum())

    (found,) = solver(csr_matrix(inside))(labels, weights, [c], None)
    assert found.classes.tolist() == [0, 1, 2]
    assert loss(found.model[:-1], found.model[-1]) <= loss(theirs.coef_.T, theirs.intercept_) * 1.001


def plain_loss(rows: np.ndarray, labels: np.ndarray, weights: np.ndarray, model: np.ndarray) -> float:
    """c * sum(weights * log-loss) + |W|^2 / 2 by its definition, over all features, in float64; c is in the weights."""
    scores = rows.astype(np.float64) @ model[:-1] + model[-1]
    scores -= scores.max(axis=1, keepdims=True)
    losses = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(labels)), labels]
    return float((weights * losses).sum() + (model[:-1].astype(np.float64) ** 2).sum() / 2)


def plain_least(rows: np.ndarray, labels: np.ndarray, weights: np.ndarray, classes: int) -> float:
    """The least of it, by scipy from the definition's own slopes."""
    from scipy.optimize import minimize

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        model = flat.reshape(-1, classes)
        scores = rows @ model[:-1] + model[-1]
        share = np.exp(scores - scores.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        slopes = weights[:, None] * (share - np.eye(classes)[labels])
        return plain_loss(rows, labels, weights, model), np.vstack(
            [rows.T @ slopes + model[:-1], slopes.sum(0)]
        ).ravel()

    found = minimize(
        loss, np.zeros((rows.shape[1] + 1) * classes), jac=True, method="L-BFGS-B", options={"maxiter": 999}
    )
    return float(found.fun)


@st.composite
def weighed_rows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Rows with zeros, repeated and empty ones among them; labels with gaps; weights, some of them 0."""
    count, columns = draw(st.integers(1, 20)), draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    rows = (rng.random((count, columns)) * (rng.random((count, columns)) < 0.4)).astype(np.float32)
    rows = rows[rng.integers(count, size=count + draw(st.integers(0, 10)))]
    labels = rng.integers(draw(st.integers(1, 4)), size=len(rows)) * draw(st.sampled_from([1, 3]))
    weights = rng.exponential(size=len(rows)) * (rng.random(len(rows)) < 0.8)
    weights[0] = 1.0
    return rows, labels.astype(np.int64), weights, draw(st.sampled_from([0.1, 1.0, 10.0, 100.0]))


@given(
    weighed_rows(),
    st.sampled_from(["nothing", "other weights", "a path"]),
    st.sampled_from(["kept", "sparse", "array"]),
)
def test_the_solver_reaches_the_least_loss_over_all_features_whatever_it_starts_from(
    case: tuple[np.ndarray, np.ndarray, np.ndarray, float], begin: str, products: str
) -> None:
    from scipy.sparse import csr_matrix

    rows, labels, weights, c = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logistic, "DENSE_ROWS", 1000 if products == "kept" else 0)
        fit = solver(rows if products == "array" else csr_matrix(rows))
    (start,) = fit(labels, weights * np.random.default_rng(0).random(len(rows)), [c / 10], None)
    cs = [c / 1000, c / 10, c] if begin == "a path" else [c]
    for found in fit(labels, weights, cs, start if begin == "other weights" else None):
        assert found.dual is not None
    used = weights > 0
    classes, target = np.unique(labels[used], return_inverse=True)
    assert found.classes.tolist() == classes.tolist()
    least = plain_least(rows[used].astype(np.float64), target, c * weights[used], len(classes))
    reached = plain_loss(rows[used], target, c * weights[used], found.model)
    assert reached <= least + 2e-3 * max(least, 1.0)


def test_the_first_runs_of_an_arm_choose_and_its_later_runs_predict_as_they_would_from_nothing() -> None:
    problem = toy(train=200, made=200, held=400)
    planned, trainer = trainings(problem, 3, 3 * CHOOSING), TfidfTrainer(TfidfOptions())
    found = list(trainer.predict(problem, planned, Path()))
    choosing = 3 * CHOOSING  # of three arms
    for first, later, training in zip(found[:choosing] * 2, found[choosing:], planned[choosing:], strict=True):
        assert later.chosen == first.chosen
        once = TfidfTrainer(TfidfOptions(cs=(first.chosen["C"],)))
        (cold,) = once.predict(problem, [training], Path())
        assert np.mean(cold.target == later.target) >= 0.99, training.arm
    assert found[0].target.tolist() == found[3].target.tolist() and found[2].target.tolist() != found[5].target.tolist()


@given(at=st.sets(st.integers(0, 8), min_size=1).map(sorted))
def test_a_fit_is_of_the_rows_that_it_is_asked_for(at: list[int]) -> None:
    """Also where they are as many as all real rows, or as all rows, whose fits are made once."""
    features = np.arange(9.0)[:, None]
    design = _Design(toy(5, 4), TfidfOptions(), features, features, lambda given: given)
    design._fit_of(np.arange(5)), design._fit_of(np.arange(9))
    assert design._fit_of(np.array(at)).ravel().tolist() == at


def test_nothing_is_trained_beyond_what_is_asked_for_and_a_closed_iterator_leaves_no_thread() -> None:
    begun: list[int] = []

    def train(training: Training, lead: int | None) -> int:
        begun.append(training.run)
        return training.run

    def plan(runs: int) -> list[Training]:
        return [Training("mix", run, 0, np.array([run]), np.ones(1)) for run in range(runs)]

    before = threading.active_count()
    made = train_side_by_side(train, plan(100), 2)
    assert [next(made), next(made)] == [0, 1]
    made.close()
    assert threading.active_count() == before
    assert max(begun) <= 3, begun
    again = train_side_by_side(train, [replace(each, rows=np.zeros(1)) for each in plan(9)], 2)
    begun.clear()
    assert list(again) == [0, 1, 2] * 3 and begun == [0, 1, 2], "the same rows and weights are trained once a choice"


def test_how_many_trainings_run_at_a_time_changes_nothing() -> None:
    assert run(toy(), TfidfOptions(threads=1)) == run(toy(), TfidfOptions(threads=3))


def test_repeating_every_row_changes_nothing_because_the_loss_is_averaged() -> None:
    problem = toy()
    rows = np.arange(problem.real.num_rows)
    once = Training("real", 0, 7, rows, np.ones(len(rows)))
    five = replace(once, rows=np.tile(rows, 5), weights=np.ones(5 * len(rows)))
    first, second = TfidfTrainer(TfidfOptions()).predict(problem, [once, five], Path())
    assert first.target.tolist() == second.target.tolist() and first.chosen == second.chosen


@pytest.mark.parametrize("named", [True, False])
def test_copies_of_held_rows_do_not_help_to_choose(named: bool) -> None:
    """With labels drawn at random, only a copy in the fold's training can tell a held row's label."""
    rng = np.random.default_rng(1)
    texts, _ = sentences(90, 3, rng)
    labels = rng.integers(3, size=90).astype(str).tolist()
    parents = [[f"r{position:04d}"] if named else [] for position in range(90)]
    problem = TrainerInputs(
        table("r", texts, labels),
        table("s", texts, labels, parents),
        table("v", texts, labels),
        ("text",),
        PROBLEMS["classification"],
        ("0", "1", "2"),
    )
    mix = [training for training in trainings(problem, 3, 1) if training.arm == "mix"]
    (found,) = TfidfTrainer(TfidfOptions()).predict(problem, mix, Path())
    assert found.chosen["cv_accuracy"] < 0.55


def plain_features(fields: list[list[str]], train_rows: int, idf_rows: int) -> np.ndarray:
    """Of the texts of one or two fields, by scikit-learn from each text as it stands, dense."""
    from sklearn.feature_extraction.text import CountVectorizer

    blocks: list[np.ndarray] = []
    texts = [text for field in fields for text in field]
    for analyzer, ngrams in (("word", (1, 2)), ("char_wb", (2, 5))):
        words = {"token_pattern": r"(?u)\b\w+\b"} if analyzer == "word" else {}
        counter = CountVectorizer(analyzer=analyzer, ngram_range=ngrams, **words)
        try:
            counts = counter.fit_transform(texts).toarray().astype(np.float64)
        except ValueError:
            counts = np.zeros((len(texts), 1))
        parts = np.split(counts, len(fields))
        seen = sum((part[:idf_rows] > 0).sum(axis=0) for part in parts)
        known = sum((part[:train_rows] > 0).sum(axis=0) for part in parts) > 0
        idf = np.where(known, np.log((1 + idf_rows * len(fields)) / (1 + seen)) + 1, 0)
        weighed = [np.where(part > 0, 1 + np.log(np.maximum(part, 1)), 0) * idf for part in parts]
        weighed = [part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12) for part in weighed]
        blocks += weighed
        if len(fields) == 2:
            cosine = (weighed[0] * weighed[1]).sum(axis=1, keepdims=True)
            blocks += [np.minimum(*weighed), cosine, *(np.maximum(cosine - edge, 0) * 2 for edge in (0.25, 0.5, 0.75))]
    return np.hstack(blocks)


DIRTY = st.text(
    st.sampled_from("abAB ss\u00dfe\u0301\u0130\u03a3\t\n\u00a0\u2003.,!_1\x00\x1f\u4e2d\U0001f600"), max_size=12
)


@given(st.integers(1, 2), st.data())
def test_features_are_those_of_each_whole_text_by_scikit_learn(fields: int, data: st.DataObject) -> None:
    train, held = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 3))
    real = data.draw(st.integers(1, train))
    texts = [data.draw(st.lists(DIRTY, min_size=train + held, max_size=train + held)) for _ in range(fields)]
    if is_unspaced([text for field in texts for text in field[:real]]):
        return
    found = text_features([field[:train] for field in texts], [field[train:] for field in texts], real)
    plain = plain_features(texts, train, real)
    assert np.allclose(found[0].toarray(), plain[:train], atol=1e-5)
    assert np.allclose(found[1].toarray(), plain[train:], atol=1e-5)


def test_what_no_training_row_has_counts_for_nothing() -> None:
    """It shortened rows of new words, so that the intercepts decided: 5.8 points of the example's real rows."""
    train, held = [["red fox", "a blue fox", "red dog"]], [["red fox", "red fox \u0175\u0175 \u0177"]]
    _, (known, more) = text_features(train, held, 2)
    assert known.nnz and abs(known - more).max() == 0


def test_chinese_is_read_by_characters_and_empty_texts_do_no_harm() -> None:
    problem = toy()
    chinese = {"0": "我要退货谢谢", "1": "什么时候到货", "2": "怎么付款呢", "3": ""}
    tables = [
        part.set_column(2, "text", pa.array([chinese[label] for label in part["stratum"].to_pylist()]))
        for part in (problem.real, problem.synthetic, problem.evaluation)
    ]
    problem = replace(problem, real=tables[0], synthetic=tables[1], evaluation=tables[2])
    assert all(labels == truth(problem).tolist() for labels in run(problem, TfidfOptions()))


def test_pairs_are_told_by_what_their_fields_share() -> None:
    rng = np.random.default_rng(2)

    def pairs(prefix: str, count: int) -> pa.Table:
        texts, _ = sentences(count, 1, rng, 0)
        others, _ = sentences(count, 1, rng, 0)
        labels = [str(position % 2) for position in range(count)]
        same = [" ".join(rng.permutation(text.split())) for text in texts]
        second = [s if label == "1" else o for s, o, label in zip(same, others, labels, strict=True)]
        made = table(prefix, texts, labels, [[]] * count)
        return made.append_column("text_b", pa.array(second))

    problem = TrainerInputs(
        pairs("r", 60), pairs("s", 20), pairs("v", 100), ("text", "text_b"), PROBLEMS["classification"], ("0", "1")
    )
    assert np.mean(np.array(run(problem, TfidfOptions(), 1)) == truth(problem)) > 0.95


@pytest.mark.parametrize("wrong", [{"cs": ()}, {"cs": (0.0,)}, {"folds": 1}, {"threads": -1}])
def test_options_out_of_bounds_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        TfidfOptions(**wrong)


SCRIPT = """
import sys, json, time
import pyarrow as pa, pyarrow.parquet as pq
train, evaluation, seed, out, mode = sys.argv[1:]
with open("CALLS", "a") as log:
    log.write(seed + "\\n")
rows = pq.read_table(train).to_pylist()
asked = pq.read_table(evaluation)
assert set(rows[0]) == {"row_id", "origin", "text", "label", "weight"}, rows[0]
assert asked.column_names == ["row", "text"], asked.column_names
if mode == "fail":
    sys.exit("no GPU was found")
if mode == "slow":
    time.sleep(60)
votes = {}
for row in rows:
    for word in row["text"].split():
        votes.setdefault(word, {}).setdefault(row["label"], 0)
        votes[word][row["label"]] += row["weight"]
found = []
for text in asked["text"].to_pylist():
    total = {}
    for word in text.split():
        for label, vote in votes.get(word, {}).items():
            total[label] = total.get(label, 0) + vote
    found.append(max(sorted(total), key=total.get) if total else "0")
numbers = asked["row"].to_pylist()[::-1]
found = found[::-1]
if mode == "short":
    numbers, found = numbers[1:], found[1:]
if mode == "null":
    found[3] = None
if mode == "unknown":
    found[3] = "none of yours"
if mode == "column":
    pq.write_table(pa.table({"row": numbers, "prediction": found}), out)
elif mode == "text":
    open(out, "w").write("hello")
elif mode != "nothing":
    pq.write_table(pa.table({"row": numbers, "label": found}), out)
"""


def command(tmp_path: Path, mode: str = "good", timeout: float = 60.0) -> CommandTrainer:
    script = tmp_path / "train it.py"
    script.write_text(SCRIPT.replace("CALLS", str(tmp_path / "calls")))
    words = f"{sys.executable} '{script}' {{train}} {{eval}} {{seed}} {{predictions}} {mode}"
    return CommandTrainer(CommandOptions(words, timeout))


def calls(tmp_path: Path) -> list[str]:
    return (tmp_path / "calls").read_text().split()


def test_a_command_trains_each_arm_and_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    problem, trainer = toy(), command(tmp_path)
    planned = trainings(problem, 3, 1)
    first = [found.target.tolist() for found in trainer.predict(problem, planned, tmp_path)]
    assert np.mean(np.array(first[2]) == truth(problem)) > 0.6
    assert calls(tmp_path) == [str(planned[0].seed)] * 3
    again = [found.target.tolist() for found in trainer.predict(problem, planned, tmp_path)]
    assert again == first and len(calls(tmp_path)) == 3
    with (tmp_path / "train it.py").open("a") as script:
        script.write("# edited\n")
    list(trainer.predict(problem, planned[:1], tmp_path))
    assert len(calls(tmp_path)) == 4, "an edited script is another trainer"


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("fail", "no GPU was found"),
        ("nothing", "wrote nothing"),
        ("short", "199 rows"),
        ("null", "found None in row"),
        ("unknown", "'none of yours'"),
        ("column", "label is missing"),
        ("text", "expected Parquet"),
    ],
)
def test_what_a_command_does_wrong_is_said_with_the_file_and_not_kept(tmp_path: Path, mode: str, said: str) -> None:
    problem = toy()
    with pytest.raises(UserError) as error:
        list(command(tmp_path, mode).predict(problem, trainings(problem, 3, 1), tmp_path))
    assert said in str(error.value) and (mode == "fail" or ".parquet" in error.value.where)
    assert len(calls(tmp_path)) == 1 and not list(tmp_path.rglob("predictions.parquet"))


NUMBERS = """
import sys
import pyarrow as pa, pyarrow.parquet as pq
train, evaluation, seed, out, mode = sys.argv[1:]
rows, asked = pq.read_table(train), pq.read_table(evaluation)
assert rows.column_names == ["row_id", "origin", "target", "text", "weight"], rows.column_names
assert asked.column_names == ["row", "text"], asked.column_names
mean = sum(rows["target"].to_pylist()) / rows.num_rows
told = [mean + len(text) for text in asked["text"].to_pylist()]
if mode == "nan":
    told[2] = float("nan")
if mode == "words":
    told = [str(value) + " or so" for value in told]
numbers = list(range(asked.num_rows))
pq.write_table(pa.table({"row": numbers[::-1], "target": told[::-1]}), out)
"""


def numbers_command(tmp_path: Path, mode: str) -> tuple[CommandTrainer, TrainerInputs]:
    def rows(prefix: str, count: int) -> pa.Table:
        columns = {"row_id": [f"{prefix}{at}" for at in range(count)], "stratum": ["1: all"] * count}
        made = pa.table(
            {**columns, "target": [float(at) for at in range(count)], "text": ["x" * at for at in range(count)]}
        )
        return made.append_column("parent_ids", pa.array([[]] * count, pa.list_(pa.string())))

    script = tmp_path / "train numbers.py"
    script.write_text(NUMBERS)
    words = f"{sys.executable} '{script}' {{train}} {{eval}} {{seed}} {{predictions}} {mode}"
    held = rows("v", 5).select(["row_id", "text"])
    inputs = TrainerInputs(rows("r", 8), rows("s", 4), held, ("text",), PROBLEMS["regression"])
    return CommandTrainer(CommandOptions(words)), inputs


def test_a_command_predicts_numbers(tmp_path: Path) -> None:
    trainer, inputs = numbers_command(tmp_path, "good")
    (real, *_) = trainer.predict(inputs, trainings(inputs, 1, 1), tmp_path)
    assert real.target.tolist() == [3.5 + at for at in range(5)] and real.scores is None


@pytest.mark.parametrize(
    ("mode", "said"), [("nan", "found nan in row 2"), ("words", "expected numbers in column target")]
)
def test_what_is_no_number_is_refused(tmp_path: Path, mode: str, said: str) -> None:
    trainer, inputs = numbers_command(tmp_path, mode)
    with pytest.raises(UserError, match=said) as error:
        list(trainer.predict(inputs, trainings(inputs, 1, 1), tmp_path))
    assert "columns row and target" in str(error.value)


LISTS = """
import sys
import pyarrow as pa, pyarrow.parquet as pq
rows = pq.read_table(sys.argv[2])["row"]
told = [["a", None] if at == 1 else ["a"] for at in range(len(rows))]
pq.write_table(pa.table({"row": rows, "target": told}), sys.argv[4])
"""


def test_a_null_inside_of_an_answer_is_refused(tmp_path: Path) -> None:
    numbers, inputs = numbers_command(tmp_path, "good")
    (tmp_path / "train numbers.py").write_text(LISTS)
    rows = [table.drop_columns("target") for table in (inputs.real, inputs.synthetic)]
    named = [table.append_column("target", pa.array(["a"] * table.num_rows)) for table in rows]
    ranking = TrainerInputs(*named, inputs.evaluation, ("text",), PROBLEMS["ranking"])
    with pytest.raises(UserError, match="expected no null inside of column target, found one in row 1"):
        list(numbers.predict(ranking, trainings(ranking, 1, 1), tmp_path))


def test_scores_of_a_command_stand_under_its_labels_and_others_score_lowest(tmp_path: Path) -> None:
    problem, trainer = toy(), command(tmp_path)
    script = tmp_path / "train it.py"
    scored = '"score.1": [0.5 + at for at in numbers], "score.x": [1.0] * len(numbers), "label": found}), out)'
    script.write_text(script.read_text().replace('"label": found}), out)', scored))
    (real, *_) = trainer.predict(problem, trainings(problem, 3, 1), tmp_path)
    assert real.scores is not None and real.scores[:, 1].tolist() == [0.5 + at for at in range(200)]
    assert np.isneginf(real.scores[:, [0, 2, 3]]).all()


def test_log_odds_keep_the_order_of_the_probabilities_and_tell_sure_rows_apart() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32) * 5
    share = np.exp(logits - logits.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    odds = log_odds(logits)
    assert 1 / (1 + np.exp(-odds)) == pytest.approx(share, abs=1e-6)
    sure = log_odds(np.array([[60.0, 0.0], [70.0, 0.0], [0.0, 80.0]]))
    assert sure == pytest.approx(np.array([[60, -60], [70, -70], [-80, 80]]))
    assert (
        np.isfinite(log_odds(np.array([[3.0], [4.0]]))).all() and np.isfinite(log_odds(np.array([[0.0, 5000.0]]))).all()
    )


def test_a_class_that_no_training_row_has_scores_lowest() -> None:
    problem = toy()
    problem = replace(problem, classes=(*problem.classes, "none such"))
    (found,) = TfidfTrainer(TfidfOptions(cs=(1.0,))).predict(problem, trainings(problem, 3, 1, ("mix",)), Path())
    assert found.scores is not None and found.scores.shape == (200, 5)
    assert np.isneginf(found.scores[:, 4]).all() and (found.scores.argmax(axis=1) == found.target).all()


def test_a_command_is_stopped_when_its_time_is_up(tmp_path: Path) -> None:
    problem = toy()
    with pytest.raises(UserError, match="within 2 s"):
        list(command(tmp_path, "slow", 2.0).predict(problem, trainings(problem, 3, 1), tmp_path))


def test_a_command_goes_through_no_shell(tmp_path: Path) -> None:
    problem, mark = toy(), tmp_path / "mark"
    options = CommandOptions(f"echo {{train}} {{eval}} {{seed}} {{predictions}} ; touch {mark} $(touch {mark})")
    with pytest.raises(UserError, match="wrote nothing"):
        list(CommandTrainer(options).predict(problem, trainings(problem, 3, 1), tmp_path))
    assert not mark.exists()


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    problem = toy()
    trainer = CommandTrainer(CommandOptions("no-such-program {train} {eval} {seed} {predictions}"))
    with pytest.raises(UserError, match="no-such-program"):
        list(trainer.predict(problem, trainings(problem, 3, 1), tmp_path))


def test_what_a_training_hangs_on_is_every_file_that_the_command_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "trainer").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "trainer").chmod(0o755)
    for name in ("train.py", "c.yaml", "d.yaml", "trainer", "{e}"):
        (tmp_path / name).write_text(name)
    options = CommandOptions("trainer train.py --cfg c.yaml --more=d.yaml {{e}} {train} {eval} {seed} {predictions}")
    before = CommandTrainer(options).content()
    assert list(before) == ["--more=d.yaml", "c.yaml", "train.py", "trainer", "{e}"]
    for path, word in (("train.py", "train.py"), ("d.yaml", "--more=d.yaml"), ("bin/trainer", "trainer")):
        (tmp_path / path).write_text((tmp_path / path).read_text() + "# edited\n")
        after = CommandTrainer(options).content()
        assert [name for name in after if after[name] != before[name]] == [word]
        before = after
    (tmp_path / "trainer").write_text("a file in the working directory is not what runs")
    assert CommandTrainer(options).content() == before
    assert TfidfTrainer(TfidfOptions()).content() == {}


def test_two_runs_at_once_share_no_file_and_agree(tmp_path: Path) -> None:
    """Each waits, its training half written, until the other has begun; then both write their predictions."""
    problem, script = toy(), tmp_path / "train it.py"
    wait = f"""
import pathlib, time
here = pathlib.Path({str(tmp_path)!r})
pathlib.Path(out).write_text("half a file")
(here / f"begun.{{os.getpid()}}").touch()
while len(list(here.glob("begun.*"))) < 2:
    time.sleep(0.01)
assert open(out).read() == "half a file"
"""
    trainer = command(tmp_path, timeout=20.0)
    script.write_text(script.read_text().replace("votes = {}\n", "import os" + wait + "votes = {}\n"))
    planned, found = trainings(problem, 3, 1)[:1], []
    runs = [threading.Thread(target=lambda: found.extend(trainer.predict(problem, planned, tmp_path))) for _ in "ab"]
    for thread in runs:
        thread.start()
    for thread in runs:
        thread.join()
    assert len(found) == 2 and found[0].target.tolist() == found[1].target.tolist()
    assert found[0].chosen == found[1].chosen and not list((tmp_path / "attempts").iterdir())
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_predictions_that_rotted_are_refused_and_made_again(tmp_path: Path) -> None:
    problem, trainer = toy(), command(tmp_path)
    planned = trainings(problem, 3, 1)[:1]
    first = next(trainer.predict(problem, planned, tmp_path))
    (standing,) = tmp_path.rglob("predictions.parquet")
    standing.write_bytes(b"rot")
    with pytest.raises(UserError, match="expected Parquet"):
        list(trainer.predict(problem, planned, tmp_path))
    for _ in range(2):
        assert next(trainer.predict(problem, planned, tmp_path)).target.tolist() == first.target.tolist()
    assert len(calls(tmp_path)) == 2


def test_attempts_that_nobody_can_be_at_any_more_are_removed(tmp_path: Path) -> None:
    problem, attempts = toy(), tmp_path / "attempts"
    for name, age in (("killed", 8 * 86_400), ("running", 6 * 86_400)):
        (attempts / name).mkdir(parents=True)
        (attempts / name / "train.parquet").touch()
        os.utime(attempts / name, (time.time() - age,) * 2)
    list(command(tmp_path).predict(problem, trainings(problem, 3, 1)[:1], tmp_path))
    assert [path.name for path in attempts.iterdir()] == ["running"]


SLEEPER = """
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", f"import time; time.sleep(60) # {sys.argv[5]}"])
print(os.getpid(), flush=True)
time.sleep(float(sys.argv[6]))
"""


def sleeper(tmp_path: Path, seconds: float, timeout: float = 60.0) -> CommandTrainer:
    """A training that starts a process of its own in the background, and then sleeps."""
    script = tmp_path / "sleeper.py"
    script.write_text(SLEEPER)
    words = f"{sys.executable} {script} {{train}} {{eval}} {{seed}} {{predictions}} {tmp_path} {seconds}"
    return CommandTrainer(CommandOptions(words, timeout))


def alive(tmp_path: Path) -> list[str]:
    """The command lines of running processes that name the directory."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            found += [line for line in [" ".join(process.cmdline())] if str(tmp_path) in line]
    return found


@pytest.mark.parametrize(("seconds", "timeout", "said"), [(0.0, 60.0, "wrote nothing"), (60.0, 2.0, "within 2 s")])
def test_nothing_of_a_training_stays_when_it_has_ended(
    tmp_path: Path, seconds: float, timeout: float, said: str
) -> None:
    problem = toy()
    with pytest.raises(UserError, match=said):
        list(sleeper(tmp_path, seconds, timeout).predict(problem, trainings(problem, 3, 1), tmp_path))
    assert not alive(tmp_path)


ESCAPER = """
import os, subprocess, sys, time
mark = sys.argv[5]
wait = f"import time; time.sleep(60) # {mark}"
again = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {wait!r}], start_new_session=True)"
subprocess.Popen(["setsid", sys.executable, "-c", wait])
subprocess.Popen([sys.executable, "-c", again], start_new_session=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, "-c", wait])
    os._exit(0)
time.sleep(float(sys.argv[6]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the process group is what can be killed")
@pytest.mark.parametrize(("seconds", "timeout"), [(1.0, 60.0), (60.0, 3.0)])
def test_no_session_of_its_own_lets_a_process_outlive_its_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, timeout: float
) -> None:
    monkeypatch.setitem(globals(), "SLEEPER", ESCAPER)
    problem = toy()
    with pytest.raises(UserError):
        list(sleeper(tmp_path, seconds, timeout).predict(problem, trainings(problem, 3, 1), tmp_path))
    assert not alive(tmp_path)


def test_what_a_training_printed_is_kept_short_and_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEAM_API_KEY", "abc-of-the-team")
    talk = "x" * 70_000 + "\\nkey abc-of-the-team at https://me:hunter2@host/x epoch=3 tokens=512\\nloss: 0.5"
    options = CommandOptions(f"sh -c 'printf \"{talk}\"; exit 3' {{train}} {{eval}} {{seed}} {{predictions}}")
    problem = toy()
    with pytest.raises(UserError) as error:
        list(CommandTrainer(options).predict(problem, trainings(problem, 3, 1), tmp_path))
    (kept,) = tmp_path.rglob("output.txt")
    for text in (str(error.value).partition("What to do")[0], kept.read_text()):
        assert "hunter2" not in text and "of-the-team" not in text
        assert "loss: 0.5" in text and "tokens=512" in text and len(text) < 2500


@given(
    st.text(alphabet="abcXYZ019-_/+=", min_size=8, max_size=30), st.sampled_from(["{}", "at {}.", "x={} y", "\n{}\n"])
)
def test_no_value_of_a_secret_variable_is_shown(value: str, around: str) -> None:
    environment = {"DB_PASSWORD": value, "HOME": "/opt/x"}
    assert value not in masked(around.format(value) + " " + value, environment)
    assert masked("epoch 3, loss: 0.25, tokens: 512, /opt/x", environment) == "epoch 3, loss: 0.25, tokens: 512, /opt/x"


@pytest.mark.parametrize(
    "text",
    [
        "postgres://u:S3cretS3cret@db/x", "postgres://u:pw@S3cretS3cret@db/x",
        "https://S3cretS3cret@github.com/a", "Authorization: Bearer S3cretS3cret",
        "api_key=S3cretS3cret&x=1", '{"token": "S3cretS3cret"}', "password: S3cretS3cret", "--token S3cretS3cret",
        "https://h/?X-Amz-Signature=S3cretS3cret", "sk-S3cretS3cretS3cret", "hf_S3cretS3cretS3cretxx",
        "AWS_SECRET_ACCESS_KEY=S3cretS3cret",
        "-----BEGIN RSA PRIVATE KEY-----\nS3cretS3cret\n-----END RSA PRIVATE KEY-----",
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_is_masked(text: str) -> None:
    assert "S3cret" not in masked(f"before {text} after", {}) and "before" in masked(f"before {text} after", {})


@pytest.mark.slow
def test_a_training_ends_with_a_run_that_is_killed(tmp_path: Path) -> None:
    sleeper(tmp_path, 60.0)
    code = (
        f"import sys; sys.path[:0] = {[str(HERE), str(HERE.parent)]!r}; from pathlib import Path; import test_trainers as t;"
        f"problem, here = t.toy(), Path({str(tmp_path)!r});"
        "list(t.sleeper(here, 60.0).predict(problem, t.trainings(problem, 3, 1), here))"
    )
    run = subprocess.Popen([sys.executable, "-c", code], cwd=HERE)
    begun = time.monotonic()
    while len(alive(tmp_path)) < 4:  # the run, the guard, the training and what it started
        assert run.poll() is None and time.monotonic() < begun + 60
        time.sleep(0.05)
    run.kill()
    run.wait()
    killed = time.monotonic()
    while alive(tmp_path):
        assert time.monotonic() < killed + 3, alive(tmp_path)
        time.sleep(0.05)


@pytest.mark.parametrize(("ending", "code"), [("exit 3", 3), ("kill -9 $$", 137), ("kill -15 $$", 143)])
def test_the_exit_code_is_the_commands(tmp_path: Path, ending: str, code: int) -> None:
    problem = toy()
    options = CommandOptions(f"sh -c '{ending}' {{train}} {{eval}} {{seed}} {{predictions}}")
    with pytest.raises(UserError, match=f"expected exit code 0, found {code}"):
        list(CommandTrainer(options).predict(problem, trainings(problem, 3, 1), tmp_path))


@pytest.mark.parametrize(
    "wrong",
    ["train {train} {eval} {seed}", "train {train} {eval} {seed} {predictions} {gpu}", "train '{train}", "{", ""],
)
def test_a_command_without_its_placeholders_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"trainer\.command"):
        CommandOptions(wrong)
