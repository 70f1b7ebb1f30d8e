"""Comparing generators: gains of known predictions, cells that are a run's own verdict, and none that is made twice."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from chain import WORDS, make_session, produce_snapshot, tiny_recipe
from hypothesis import given
from hypothesis import strategies as st

from augmill.flows.compare import Compared, compare_all, entrants, run_cell
from augmill.flows.outcome import NotProduced, judge_evidence
from augmill.flows.progress import Progress, ShownStage
from augmill.flows.run import Session
from augmill.tasks.errors import DataError, StoreError, StoreRefused, UserError
from augmill.tasks.gate.evidence import ARMS, Predictions
from augmill.tasks.gate.gauge import Gauge
from augmill.tasks.generators.rules import Rules
from augmill.tasks.metrics import METRICS
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.recipe.sections import Target
from augmill.tasks.report.comparison import (
    ACCURACY,
    cut,
    cuts,
    enlarge,
    gain,
    lines,
    measured,
    pack,
    page,
    plot,
    ratio_of,
    table,
    unpack,
)
from augmill.tasks.stages import jobs as shards
from augmill.tasks.store.store import Store

ROWS = 200  # test rows of a cell made by hand
FILLER = [f"word{at}" for at in range(200)]
COUNTS = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 50), min_size=1)


def right(share: float, shift: int = 0) -> str:
    """Of the test rows the first so many, from ``shift`` on, as right."""
    bits = np.arange(ROWS) < round(share * ROWS)
    return pack(np.roll(bits, shift))


def cell(seed: int = 0, *, generator: str = "rules", released: str = "mix", **arms: float) -> dict[str, Any]:
    """A cell whose arms are right on these shares of the test rows."""
    shares = {"real": 0.5, "placebo": 0.6, "mix": 0.7} | arms
    points = [
        {"ratio": ratio, "synthetic": 40, "right": {arm: [right(share)] for arm, share in shares.items()}}
        for ratio in (None, 2.0)
    ]
    return {
        "dataset": "tiny",
        "generator": generator,
        "seed": seed,
        "outcome": "published" if released == "mix" else "harmful",
        "released": released,
        "rows": {"train": 20, "validation": 50, "test": ROWS},
        "heldout": "same",
        "validation": {"mix-real": {"gain": 1.0 + seed}},
        "ledger": {"asked": 100, "accepted": 40, "sound": 80},
        "diversity": {"distinct_2": 0.5, "new_2": 0.2},
        "points": points,
        "spent": {
            "fit_seconds": 2.0, "sampled": 100, "sample_seconds": 4.0, "checked": 100, "check_seconds": 2.0, "cost": 0.4,
        },
    }  # fmt: skip


def number_cell(seed: int, errors: dict[str, float]) -> dict[str, Any]:
    """A cell of numbers, each arm off by as much on average."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=ROWS)
    arms = {arm: truth + np.array([rng.exponential(errors[arm], ROWS) for _ in range(2)]) for arm in ARMS}
    test = Predictions(("a",), np.zeros(ROWS, dtype=np.int64), arms, {arm: [{}] * 2 for arm in ARMS}, truth)
    made = cell(seed) | {"gauge": Gauge.of(METRICS["mae"], "price").to_json(), "diversity": {}}
    return made | {"points": [measured(test, ratio, 40) for ratio in (None, 2.0)]}


def test_cells_of_numbers_compare_by_how_much_rows_are_missed() -> None:
    (line,) = lines([number_cell(seed, {"real": 2.0, "placebo": 3.0, "mix": 1.0}) for seed in range(5)])
    assert line.better == "real" and line.scores["real"] == pytest.approx(2.0, abs=0.3)
    over = line.gains["mix-real"]
    assert over.gain == pytest.approx(line.scores["real"] - line.scores["mix"], abs=1e-3) and 0 < over.low < over.gain
    assert line.gains["placebo-real"].high < 0
    shown = table([line])
    assert f"+{over.gain:.2f} [" in shown and "] price |" in shown and "distinct-2" not in shown
    assert "gain in price (MAE) over real rows alone" in plot([line]) and "<p>Gains on test rows" in page(
        [line], {"title": "", "command": "", "left": []}
    )


def test_cells_of_numbers_and_of_labels_make_no_line_together() -> None:
    with pytest.raises(DataError, match="different test rows"):
        lines([cell(0), number_cell(1, {"real": 2.0, "placebo": 3.0, "mix": 1.0})])


def test_a_table_of_known_predictions_has_the_known_gains() -> None:
    (line,) = lines([cell(0), cell(1, released="real"), cell(2)])
    gains = {pair: round(found.gain, 4) for pair, found in line.gains.items()}
    # Two of three seeds release a mix that is 10 points over the placebo, one the real rows, 10 points below it.
    assert gains == {"mix-real": 20.0, "mix-placebo": 10.0, "placebo-real": 10.0, "published-better": 3.3333}
    assert line.validation == 2.0
    assert line.better == "placebo" and line.scores["real"] == 50.0
    assert line.verdicts == {"harmful": 1, "published": 2}
    assert (line.acceptance, line.rows_a_second) == (0.8, 25.0)
    # Per seed 2 s of fit and 100 rows at 0.04 + 0.02 s, over 40 accepted rows.
    assert line.seconds_a_row == pytest.approx((2 + 100 * 0.06) / 40)
    assert line.cost_a_row == pytest.approx(0.01)
    assert all(found.low < found.gain < found.high for found in line.gains.values())


def test_the_order_in_which_cells_come_changes_nothing() -> None:
    cells = [cell(seed, mix=0.6 + seed / 20) for seed in range(4)]
    assert lines(cells) == lines(cells[::-1])


def test_what_one_seed_gains_is_not_proven_and_what_all_gain_is() -> None:
    under = np.zeros((10, ROWS))
    alone, together = under.copy(), under.copy()
    alone[3, :100] = 1.0  # 50 points in one seed: 5 on average
    together[:, :10] = 1.0  # 5 points in each
    one, all_ = gain(alone, under, "a", ACCURACY), gain(together, under, "a", ACCURACY)
    assert one.gain == all_.gain == 5.0
    assert one.low < 0 < all_.low


def test_trainings_of_one_seed_are_no_seeds_of_their_own() -> None:
    """Ten trainings that share train rows and generator tell as much about other draws of these as one does."""
    few = [cell(seed, mix=share) for seed, share in enumerate((0.4, 0.9))]
    many = [dict(each) for each in few]
    for each in many:
        each["points"] = [p | {"right": {arm: 10 * of for arm, of in p["right"].items()}} for p in each["points"]]
    assert lines(few)[0].gains == lines(many)[0].gains


def test_cells_measured_on_other_rows_are_not_pooled() -> None:
    with pytest.raises(DataError, match="different test rows"):
        lines([cell(0), cell(1) | {"heldout": "other"}])


@given(st.lists(st.booleans(), min_size=1, max_size=300))
def test_bits_come_back(bits: list[bool]) -> None:
    assert unpack(pack(np.array(bits)), len(bits)).tolist() == bits


@given(st.lists(st.sampled_from("abc"), max_size=60), st.dictionaries(st.sampled_from("abc"), st.integers(0, 30)))
def test_a_cut_is_the_first_rows_of_each_class_and_a_larger_one_holds_it(
    strata: list[str], wanted: dict[str, int]
) -> None:
    rows = pa.table({"stratum": pa.array(strata, pa.string()), "at": list(range(len(strata)))})
    small, large = cut(rows, wanted), cut(rows, {name: count + 3 for name, count in wanted.items()})
    for name in "abc":
        own = [at for at, stratum in enumerate(strata) if stratum == name]
        kept = [
            at
            for at, stratum in zip(small["at"].to_pylist(), small["stratum"].to_pylist(), strict=True)
            if stratum == name
        ]
        assert kept == own[: wanted.get(name, 0)]
    assert set(small["at"].to_pylist()) <= set(large["at"].to_pylist())


@given(COUNTS, st.sampled_from([0.5, 1.0, 2.0, 4.0]))
def test_a_larger_target_reaches_the_ratio_and_balancing_stays(counts: dict[str, int], ratio: float) -> None:
    for target in (Target(multiply=2.0), Target(per_class=20)):
        found = enlarge(target, counts, ratio)
        assert ratio_of(found, counts) >= min(ratio, ratio_of(target, counts)) - 1e-9
        assert abs(ratio_of(found, counts) - max(ratio, ratio_of(target, counts))) <= len(counts) / sum(counts.values())
    assert enlarge(Target(balance="max"), counts, ratio) == Target(balance="max")
    own, *others = cuts(Target(multiply=2.0), None, counts, (ratio,))
    assert own == (None, counts) and others == [(ratio, {name: round(ratio * rows) for name, rows in counts.items()})]


def test_page_and_table_show_every_line_and_no_markup_of_others() -> None:
    found = lines([cell(generator="<b>|x"), cell(generator="interpolate", released="real", mix=0.4)])
    shown = page(found, {"title": "a <i>", "command": "augmill <u>", "left": [["c", 1, "<s>"]]})
    assert not any(mark in shown for mark in ("<b>|x", "<i>", "<u>", "<s>"))
    assert "&lt;b&gt;|x" in shown and "interpolate" in shown and "In 1 of 2 lines" in shown
    assert table(found).count("\n") == 4 and "&lt;b&gt;\\|x" in table(found)
    assert str(plot(found)).count("<polyline") == 3  # two generators and the placebo


# --- cells, made by the ordinary path -----------------------------------------------------------------------------


def draw(count: int, seed: int, *, turned: int = 0) -> list[tuple[str, str]]:
    """Rows with two telling words among filler: few of them teach little, many teach much. ``turned``: by a wrong label."""
    rng, rows, labels = random.Random(seed), [], list(WORDS)
    for at in range(count):
        words = rng.choices(WORDS[labels[at % 3]], k=2) + rng.choices(FILLER, k=5)
        rng.shuffle(words)
        rows.append((" ".join(words), labels[(at + turned) % 3]))
    return rows


def write(path: Path, rows: list[tuple[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("text", "label"), *rows])
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rows").mkdir()
    for name, count in (("train", 24), ("validation", 200), ("test", 200)):
        write(tmp_path / "rows" / f"{name}.csv", draw(count, len(name)))
    write(tmp_path / "good.csv", draw(150, 20))
    write(tmp_path / "wrong.csv", draw(150, 21, turned=1))
    return tmp_path


def recipe_of(folder: Path, **changes: Any) -> Recipe:
    files = {name: f"{name}.csv" for name in ("train", "validation", "test")}
    checks = {"label_consistency": False}  # which would refuse the wrong rows: here the gate is to see them
    options = {"splits": {"files": files}, "target": {"multiply": 2.0}, "checks": checks} | changes
    return tiny_recipe(folder / "rows", **options)


def session_of(recipe: Recipe, folder: Path) -> Session:
    return make_session(recipe, Store(str(folder / "store")))


def run(folder: Path, recipe: Recipe, names: str = "rules,interpolate", seeds: int = 2, **more: Any) -> Compared:
    wanted = {"seeds": range(seeds), "ratios": (0.5, 2.0)} | more
    return compare_all(session_of(recipe, folder), entrants(recipe, names), **wanted)


def numbers(found: Compared) -> list[dict[str, Any]]:
    """All of the cells but what they took."""
    return [{key: part for key, part in each.items() if key != "spent"} for each in found.cells]


class Killed(Progress):
    """An interrupt at the beginning of a cell, counted from 0."""

    def __init__(self, at: int) -> None:
        super().__init__(live=False, quiet=True)
        self.left = at

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "") -> Iterator[ShownStage]:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        with super().stage(name, total, unit) as shown:
            yield shown


def test_a_killed_comparison_makes_only_the_other_cells_and_ends_the_same(folder: Path) -> None:
    recipe = recipe_of(folder)
    with pytest.raises(KeyboardInterrupt):
        run(folder, recipe, progress=Killed(1))
    went_on = run(folder, recipe)
    assert went_on.made == 3 and len(went_on.cells) == 4 and not went_on.left
    again = run(folder, recipe)
    assert again.made == 0 and again.cells == went_on.cells
    grown = run(folder, recipe, names="interpolate,rules", seeds=3)
    assert grown.made == 2
    # Elsewhere and undisturbed, the same numbers.
    (elsewhere := folder / "elsewhere").mkdir()
    assert numbers(run(elsewhere, recipe)) == numbers(went_on)


def test_another_recipe_or_other_rows_are_other_cells(folder: Path) -> None:
    recipe = recipe_of(folder)
    assert run(folder, recipe, names="rules", seeds=1).made == 1
    assert (
        run(folder, dataclasses.replace(recipe, gate=dataclasses.replace(recipe.gate, seeds=4)), "rules", 1).made == 1
    )
    assert run(folder, recipe, names="rules", seeds=1, ratios=(0.5, 1.5, 2.0)).made == 1
    assert run(folder, dataclasses.replace(recipe, target=Target(multiply=1.5)), names="rules", seeds=1).made == 1
    write(folder / "rows" / "train.csv", draw(24, 99))
    assert run(folder, recipe, names="rules", seeds=1).made == 1


def test_a_cell_is_the_verdict_of_a_run(folder: Path) -> None:
    """Where no ratio asks for more than the target does, what a run would find on its validation rows, to the digit."""
    recipe = recipe_of(folder)
    (found,) = run(folder, recipe, names="rules", seeds=1, ratios=(0.5,)).cells
    (other := folder / "other").mkdir()
    outcome = judge_evidence(produce_snapshot(recipe, Store(str(other))).evidence(), recipe)
    assert found["validation"] == outcome.numbers
    assert (found["outcome"], found["released"]) == (outcome.name, outcome.arrangement)


def test_rows_that_teach_gain_and_rows_that_mislead_lose(folder: Path) -> None:
    found = {}
    for name in ("good", "wrong"):
        recipe = recipe_of(folder, generators=[{"use": "replay", "path": str(folder / f"{name}.csv")}])
        (found[name],) = lines(run(folder, recipe, names="replay", seeds=3).cells)
    assert found["good"].gains["mix-real"].low > 0 and found["good"].gains["mix-placebo"].low > 0
    assert found["good"].verdicts == {"published": 3} and found["good"].gains["published-better"].low > 0
    assert found["wrong"].gains["mix-real"].high < 0 and found["wrong"].verdicts == {"harmful": 3}
    # More of them help more, and mislead more; the target, as large as train, lies between the two ratios.
    assert [round(point[0], 1) for point in found["good"].curve] == [0.5, 1.0, 2.0]
    for name, sign in (("good", 1), ("wrong", -1)):
        assert sign * (found[name].curve[-1][1].gain - found[name].curve[0][1].gain) > 0
    # What was published where the rows mislead is real rows: not worse than the better baseline, beyond noise.
    assert found["wrong"].gains["published-better"].high > -1


def test_a_cell_that_uses_the_fit_of_another_has_its_price_as_well(folder: Path) -> None:
    recipe = recipe_of(folder, checks={}, price={"cpu_hour": 3600.0})
    own, taught = (each["spent"] for each in run(folder, recipe, names="rules,rules/teacher", seeds=1).cells)
    assert own["fit_seconds"] == taught["fit_seconds"] > 0
    for spent in (own, taught):
        seconds = spent["fit_seconds"] + spent["sample_seconds"] + spent["check_seconds"]
        assert spent["cost"] == pytest.approx(seconds, abs=2e-3) and spent["sampled"] > 0
    # Another process cannot know what the fit took: its price is left open, not called nothing.
    (later,) = run(folder, dataclasses.replace(recipe, target=Target(multiply=1.5)), names="rules", seeds=1).cells
    assert later["spent"]["fit_seconds"] is None and later["spent"]["cost"] is None


def test_a_generator_that_fails_on_the_data_leaves_the_others_their_cells(folder: Path) -> None:
    strangers = write(folder / "strangers.csv", [("who knows this", "nobody")])
    recipe = recipe_of(folder, generators=[{"use": "rules"}, {"use": "replay", "path": str(strangers)}])
    found = run(folder, recipe, names="replay,rules", seeds=1)
    assert [each["generator"] for each in found.cells] == ["rules"]
    assert [(each.generator, each.seed) for each in found.left] == [("replay", 0)] and "nobody" in found.left[0].reason


def test_what_one_generator_cannot_use_leaves_the_others_their_cells(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object) -> None:
        raise UserError("this is no model", where="rules", fix="name another")

    monkeypatch.setattr(Rules, "fit", refuse)
    recipe = recipe_of(folder)
    found = run(folder, recipe, names="rules,interpolate")
    assert [each["generator"] for each in found.cells] == ["interpolate"] * 2
    assert [(each.generator, each.seed) for each in found.left] == [("rules", 0), ("rules", 1)]
    with pytest.raises(UserError, match="this is no model"):
        run(folder, recipe, names="rules")


def test_a_kept_cell_is_told_at_todays_prices(folder: Path) -> None:
    cheap, dear = (recipe_of(folder, price={"cpu_hour": price}) for price in (1.0, 1000.0))
    (before,), (after,) = (run(folder, recipe, names="rules", seeds=1).cells for recipe in (cheap, dear))
    assert after["spent"]["cost"] == pytest.approx(1000 * before["spent"]["cost"]) and before["spent"]["cost"] > 0
    assert before["spent"] | {"cost": 0} == after["spent"] | {"cost": 0}


def test_a_comparison_that_is_stopped_leaves_what_it_found(folder: Path) -> None:
    found = Compared()
    with pytest.raises(KeyboardInterrupt):
        run(folder, recipe_of(folder), progress=Killed(1), found=found)
    assert [each["generator"] for each in found.cells] == ["rules"]


def test_a_seed_without_an_accepted_row_is_counted(folder: Path) -> None:
    """Of copies of train rows none is accepted."""
    copies = write(folder / "copies.csv", draw(24, len("train")))
    recipe = recipe_of(folder, generators=[{"use": "replay", "path": str(copies)}])
    found = run(folder, recipe, names="replay", seeds=1)
    assert [each["outcome"] for each in found.cells] == ["not_produced"]
    (cell,) = found.cells
    cause, most = max(cell["ledger"]["lost"].items(), key=lambda item: item[1])
    assert f"Of {cell['ledger']['asked']:,} asked for: {most:,} {cause}" in cell["reason"]
    (line,) = lines(found.cells)
    assert (line.acceptance, line.gains, line.verdicts) == (0.0, {}, {"not_produced": 1})
    assert "no row: 1" in table([line]) and "<svg" not in page([line], {"title": "", "command": "", "left": []})


def test_a_world_that_fails_is_not_the_generators_cell(folder: Path) -> None:
    recipe = recipe_of(folder)
    session = session_of(recipe, folder)

    class Full(Store):
        def put(self, key: str, value: bytes | Path) -> None:
            raise StoreRefused("no space left on device", where=key, fix="free some space")

    broken = Full(str(folder / "store"))
    shards.STORES[broken.root] = broken
    with pytest.raises(StoreRefused):
        compare_all(dataclasses.replace(session, store=broken), entrants(recipe, "rules"), seeds=[0], ratios=())
    assert run(folder, recipe, names="rules", seeds=1).made == 1


def test_a_cell_that_came_to_nothing_raises_that_and_no_error_that_is_its_own_cause(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object) -> None:
        raise StoreError("no answer", where="rules", fix="run it again")

    monkeypatch.setattr(Rules, "sample", fail)
    recipe = recipe_of(folder, run={"orchestrator": "none", "shard_retries": 0, "store": "unused"})
    with pytest.raises(NotProduced, match="shards failed") as raised:
        run_cell(session_of(recipe, folder), recipe, "rules", ())
    assert raised.value.__cause__ is None


def test_names_become_recipes_of_those_generators_alone(folder: Path) -> None:
    recipe = recipe_of(folder, generators=[{"use": "rules", "operations": {"delete": 1.0}}, {"use": "interpolate"}])
    found = entrants(recipe, "rules,adaptive,adaptive:interpolate+rules,rules+interpolate")
    uses = {name: [choice.use for choice in each.generators] for name, each in found.items()}
    assert uses == {
        "rules": ["rules"],
        "adaptive": ["rules", "interpolate"],
        "adaptive:interpolate+rules": ["interpolate", "rules"],
        "rules+interpolate": ["rules", "interpolate"],
    }
    assert [each.plan.policy for each in found.values()] == ["shares", "adaptive", "adaptive", "shares"]
    assert found["rules"].generators[0].options == recipe.generators[0].options
    by = entrants(recipe, "rules/teacher,interpolate/agree,rules")
    assert [each.generators[0].label_by for each in by.values()] == ["teacher", "agree", "generator"]
    assert list(entrants(recipe, "")) == ["rules", "interpolate"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("rulez", "did you mean 'rules'"),
        ("rules,rules", "is listed twice"),
        ("rules+rules", "is listed twice"),
        ("replay", "path"),
        ("self_training", "unlabelled"),
        ("rules/oracle", "rules/teacher"),
        ("rules/agree", "`teacher`, which is off"),
        ("adaptive:rules", "rules+interpolate"),
        ("adaptive", "found 1"),
    ],
)
def test_a_name_that_cannot_be_compared_gets_a_sentence(folder: Path, names: str, words: str) -> None:
    with pytest.raises(UserError) as refused:
        entrants(recipe_of(folder, checks={"teacher": False}), names)
    assert words in str(refused.value) and refused.value.fix
