"""resample and smote: rows stay where train rows stand, and each is what its parents and its seed make of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from generating import ask

from augmill.tasks.contracts import TARGET, Context, FitInputs, Fitted, Request
from augmill.tasks.generators import GENERATORS
from augmill.tasks.generators._tables import TableRows, grain
from augmill.tasks.generators.resample import _masses
from augmill.tasks.generators.smote import _points
from augmill.tasks.problems import PROBLEMS
from augmill.tasks.rows.kinds import candidate_schema, equal_keys, real_schema

FIELDS = ("number:age", "number:gain", "number:rate", "category:job", "category:town", "timestamp:hired")
NUMBERS, MOMENT = FIELDS[:3], FIELDS[5]
NAMES = ["resample", "smote"]


def people(count: int, seed: int = 0, regression: bool = False) -> pa.Table:
    """Ages are whole, gains mostly 0 and else skewed, rates continuous and sometimes missing, moments whole hours."""
    rng = np.random.default_rng(seed)
    rich = rng.random(count) < 0.3
    age = np.rint(np.clip(rng.normal(40 + 6 * rich, 10, count), 17, 90))
    gain = np.where(rng.random(count) < 0.8 - 0.3 * rich, 0.0, np.rint(np.exp(rng.normal(7, 1.5, count))))
    rate = rng.normal(2 + age / 20, 1, count)
    hours = rng.integers(0, 24 * 3000, count).tolist()
    columns = {
        "row_id": [f"r{at:05d}" for at in range(count)],
        "stratum": np.where(rich, "rich", "poor").tolist(),
        FIELDS[0]: age,
        FIELDS[1]: gain,
        FIELDS[2]: pa.array(rate, mask=rng.random(count) < 0.1),
        FIELDS[3]: np.where(rich, *rng.choice(["nurse", "clerk", "judge"], (2, count), p=[0.5, 0.4, 0.1])).tolist(),
        FIELDS[4]: pa.array(rng.choice(["Ulm", "Köln", "Bonn"], count).tolist(), mask=rng.random(count) < 0.2),
        FIELDS[5]: [datetime(2015, 1, 1, tzinfo=UTC) + timedelta(hours=hour) for hour in hours],
    }
    if not regression:
        return pa.table(columns, real_schema(FIELDS))
    target = pa.array(np.round(50 * age + gain / 10 + rng.normal(0, 100, count), 2))
    problem = PROBLEMS["regression"]
    columns |= {TARGET: target, "stratum": problem.stratum(target, problem.fit_strata(pa.table({TARGET: target})))}
    return pa.table(
        {name: columns[name] for name in ("row_id", "stratum", TARGET, *FIELDS)}, real_schema(FIELDS, pa.float64())
    )


class Bench:
    """One generator fitted to a table."""

    def __init__(
        self, name: str, folder: Path, train: pa.Table, fields: tuple[str, ...] = FIELDS, **options: Any
    ) -> None:
        kind = GENERATORS[name]
        self.train, self.generator = train, kind(kind.Options(**options))
        target = pa.float64() if TARGET in train.column_names else None
        folder.mkdir(parents=True, exist_ok=True)
        self.context = Context(seed=0, fields=fields, workdir=folder, target=target)
        empty = train.slice(0, 0)
        self.files = self.generator.fit(FitInputs(train, empty, empty, empty, empty), self.context)
        self.real = {row["row_id"]: row for row in train.to_pylist()}

    def sample(self, request: Request) -> pa.Table:
        return self.generator.sample(Fitted(self.context.workdir, "content"), request, self.context)

    def rows(self, count: int, strata: list[str] | None = None) -> list[dict[str, Any]]:
        """As many rows of each stratum, those that were delivered."""
        names = strata or sorted(set(self.train["stratum"].to_pylist()))
        made = self.sample(ask([name for name in names for _ in range(count)]))
        assert made.schema == candidate_schema(self.context.fields, self.context.target)
        return [row for row in made.to_pylist() if row["reason"] is None]


def values(rows: list[dict[str, Any]], name: str) -> npt.NDArray[Any]:
    return np.array([row[name] for row in rows if row[name] is not None])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("regression", [False, True])
def test_cells_lie_within_what_train_rows_of_the_stratum_span(name: str, regression: bool, tmp_path: Path) -> None:
    bench = Bench(name, tmp_path, people(300, regression=regression))
    rows = bench.rows(200)
    assert len(rows) > 300
    order = sorted(set(bench.train["stratum"].to_pylist()))
    for at, stratum in enumerate(order):
        # smote's other parent may be of the bin beside
        beside = order[max(0, at - 1) : at + 2] if regression and name == "smote" else [stratum]
        own = [row for row in rows if row["stratum"] == stratum]
        real = [row for row in bench.real.values() if row["stratum"] in beside]
        for column in (*NUMBERS, MOMENT, *([TARGET] if regression else [])):
            assert values(real, column).min() <= values(own, column).min()
            assert values(own, column).max() <= values(real, column).max()
        for column in ("category:job", "category:town"):
            assert {row[column] for row in own} <= {row[column] for row in real}


@pytest.mark.parametrize("name", NAMES)
def test_values_are_rounded_as_the_columns_own(name: str, tmp_path: Path) -> None:
    rows = Bench(name, tmp_path, people(300, regression=True)).rows(60)
    for column in ("number:age", "number:gain"):
        assert all(value == int(value) for value in values(rows, column))
    assert all(moment.minute == moment.second == moment.microsecond == 0 for moment in values(rows, MOMENT))
    assert all(round(value, 2) == value for value in values(rows, TARGET))
    assert any(round(value, 6) != value for value in values(rows, "number:rate"))


def test_the_grain_of_a_column_is_the_finest_step_that_its_values_need() -> None:
    hour = 3_600_000_000
    assert grain(np.array([1.0, 5e9]), "number") == (1, 1)
    assert grain(np.array([0.1, 2.35]), "number") == (100, 1)
    assert grain(np.array([1 / 3]), "number") == (0, 1)
    assert grain(np.array([24.0 * hour, 48 * hour]), "timestamp") == (1, 24 * hour)
    assert grain(np.array([24.0 * hour, 5 * hour]), "timestamp") == (1, hour)
    assert grain(np.array([1.0, 7.0]), "timestamp") == (1, 1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("regression", [False, True])
def test_a_row_does_not_hang_on_what_it_was_asked_with(name: str, regression: bool, tmp_path: Path) -> None:
    train = people(120, regression=regression)
    bench = Bench(name, tmp_path / "a", train)
    turned = Bench(name, tmp_path / "b", train.take(pa.array(np.random.default_rng(1).permutation(train.num_rows))))
    strata = sorted(set(train["stratum"].to_pylist()))
    asked = ask([strata[at % len(strata)] for at in range(60)])
    whole = bench.sample(asked)
    assert turned.sample(asked).equals(whole)
    for at in (0, 17, 59):
        alone = Request([asked.strata[at]], asked.ordinals[at : at + 1] * 0, asked.seeds[at : at + 1])
        assert bench.sample(alone).drop_columns(["ordinal"]).equals(whole.slice(at, 1).drop_columns(["ordinal"]))


@pytest.mark.parametrize("name", NAMES)
def test_no_row_equals_a_parent(name: str, tmp_path: Path) -> None:
    """Of rows that hold little: most that are drawn first do."""
    fields = ("number:age", "category:job")
    rng = np.random.default_rng(0)
    columns = {
        "row_id": [f"r{at}" for at in range(60)],
        "stratum": ["a"] * 60,
        "number:age": rng.integers(0, 3, 60).astype(float),
        "category:job": rng.choice(["nurse", "clerk", "Clerk "], 60).tolist(),
    }
    bench = Bench(name, tmp_path, pa.table(columns, real_schema(fields)), fields)
    made = bench.sample(ask(["a"] * 300)).to_pylist()
    assert {row["reason"] for row in made} == {None, "unchanged"}

    def key(row: dict[str, Any]) -> bytes:
        return equal_keys(pa.Table.from_pylist([row]).select(fields), fields)[0]

    for row in made:
        assert row["reason"] is None or (row["number:age"] is None and not row["parent_ids"])
        assert key(row) not in [key(bench.real[parent]) for parent in row["parent_ids"]]


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_made_says_why(name: str, tmp_path: Path) -> None:
    train = people(40)
    one = train.slice(0, 1).set_column(1, "stratum", pa.array(["alone"]))
    bench = Bench(name, tmp_path, pa.concat_tables([train.slice(1), one]))
    reasons = bench.sample(ask(["alone", "nobody", "rich"]))["reason"].to_pylist()
    assert reasons == ["no_partner" if name == "smote" else "unchanged", "no_parent", None]


# --- resample ---------------------------------------------------------------------------------------------------------


def test_resampled_marginals_are_the_stratums(tmp_path: Path) -> None:
    bench = Bench("resample", tmp_path, people(1000))
    rows = bench.rows(4000)
    for stratum in ("rich", "poor"):
        own = [row for row in rows if row["stratum"] == stratum]
        real = [row for row in bench.real.values() if row["stratum"] == stratum]
        for column in NUMBERS:
            shares = np.linspace(0.05, 0.95, 19)
            found, wanted = (np.quantile(values(part, column), shares) for part in (own, real))
            assert np.abs(found - wanted).max() < 0.25 * values(real, column).std()
            assert values(own, column).std() == pytest.approx(values(real, column).std(), rel=0.15)
        for column in ("category:job", "category:town"):
            for name in {row[column] for row in real}:
                share, before = (np.mean([row[column] == name for row in part]) for part in (own, real))
                assert share == pytest.approx(before, abs=0.04)
        assert np.mean(values(own, "number:gain") == 0) == pytest.approx(
            np.mean(values(real, "number:gain") == 0), abs=0.04
        )


def test_a_resampled_row_keeps_masses_and_gaps_of_its_parent_and_most_categories(tmp_path: Path) -> None:
    bench = Bench("resample", tmp_path, people(400), flip=0.2)
    rows = bench.rows(500)
    moved = kept = 0
    for row in rows:
        (parent,) = row["parent_ids"]
        real = bench.real[parent]
        assert real["stratum"] == row["stratum"]
        assert (real["number:gain"] == 0) == (row["number:gain"] == 0)
        for column in FIELDS:
            assert (real[column] is None) == (row[column] is None)
        moved += row["number:rate"] != real["number:rate"]
        kept += row["category:job"] == real["category:job"]
    assert moved > 0.8 * len(rows)
    assert 0.8 < kept / len(rows) < 0.97  # some flips draw the same again


def test_no_number_moves_onto_a_mass_nor_off_it(tmp_path: Path) -> None:
    """Half of the hours are 40, the others lie around it."""
    fields = ("number:hours", "category:shift")
    rng = np.random.default_rng(0)
    hours = np.where(rng.random(300) < 0.5, 40.0, rng.choice([*range(33, 40), *range(41, 48)], 300))
    columns = {"row_id": [f"r{at}" for at in range(300)], "stratum": ["s"] * 300, "number:hours": hours}
    table = pa.table(columns | {"category:shift": rng.choice(["day", "night"], 300).tolist()}, real_schema(fields))
    bench = Bench("resample", tmp_path, table, fields, smoothing=2.0)
    pairs = [(row["number:hours"], bench.real[row["parent_ids"][0]]["number:hours"]) for row in bench.rows(600)]
    assert all((made == 40) == (real == 40) for made, real in pairs)
    assert sum(made != real for made, real in pairs) > 200


def test_a_value_is_a_mass_where_it_stands_out_among_the_others() -> None:
    assert _masses(np.array([900, 5, 8, 3])).tolist() == [True, False, False, False]
    assert not _masses(np.full(10, 30)).any()  # marks from 1 to 10
    assert not _masses(np.array([70, 60])).any()
    assert not _masses(np.ones(3, np.int64)).any()
    assert _masses(np.array([800, 2, 30, 1, 2])).tolist() == [
        True,
        False,
        True,
        False,
        False,
    ]  # the second, of the rest


def test_categories_are_drawn_from_the_rows_of_the_class_alone(tmp_path: Path) -> None:
    fields = ("number:x", "category:c")
    columns = {
        "row_id": [f"r{at}" for at in range(40)],
        "stratum": ["a", "b"] * 20,
        "number:x": [float(at) for at in range(40)],
    }
    own = [f"{'ab'[at % 2]}{at % 3}" for at in range(40)]
    bench = Bench("resample", tmp_path, pa.table(columns | {"category:c": own}, real_schema(fields)), fields, flip=1.0)
    rows = bench.rows(100)
    assert all(row["category:c"].startswith(row["stratum"]) for row in rows)
    assert len({row["category:c"] for row in rows}) == 6


def test_smoothing_and_flip_say_how_far_a_row_moves(tmp_path: Path) -> None:
    train = people(400)

    def distance(**options: float) -> tuple[float, float]:
        bench = Bench("resample", tmp_path / str(options), train, **options)
        pairs = [(row, bench.real[row["parent_ids"][0]]) for row in bench.rows(400)]
        moved = [abs(row["number:rate"] - real["number:rate"]) for row, real in pairs if row["number:rate"] is not None]
        return float(np.mean(moved)), float(
            np.mean([row["category:job"] != real["category:job"] for row, real in pairs])
        )

    (little, never), (much, often) = distance(smoothing=0.3, flip=0.0), distance(smoothing=2.0, flip=1.0)
    assert never == 0 and 0.3 < often < 0.7
    assert 0 < little < much / 3
    still = Bench("resample", tmp_path / "still", train, smoothing=0.0, flip=1.0)
    assert all(row["number:rate"] == still.real[row["parent_ids"][0]]["number:rate"] for row in still.rows(50))


def test_a_resampled_target_stays_in_its_bin_and_near_its_parents(tmp_path: Path) -> None:
    train = people(400, regression=True)
    problem = PROBLEMS["regression"]
    bench = Bench("resample", tmp_path, train)
    rows = bench.rows(100)
    found = problem.stratum(pa.array(values(rows, TARGET)), problem.fit_strata(train)).to_pylist()
    assert found == [row["stratum"] for row in rows]
    moved = [abs(row[TARGET] - bench.real[row["parent_ids"][0]][TARGET]) for row in rows]
    assert 0 < np.mean(moved) < train[TARGET].to_numpy().std() / 10


@pytest.mark.parametrize(
    "options", [{"smoothing": -1}, {"flip": 1.5}, {"smoothing": 0, "flip": 0}, {"smoothing": float("nan")}]
)
def test_options_of_resample_out_of_bounds_name_themselves(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        GENERATORS["resample"].Options(**options)


# --- smote ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("regression", [False, True])
def test_a_made_row_lies_on_the_segment_between_its_parents(regression: bool, tmp_path: Path) -> None:
    bench = Bench("smote", tmp_path, people(300, regression=regression))
    columns = ["number:rate", *([TARGET] if regression else [])]
    for row in bench.rows(100):
        one, other = (bench.real[parent] for parent in row["parent_ids"])
        assert one["row_id"] != other["row_id"] and one["stratum"] == row["stratum"]
        gaps = []
        for column in (*NUMBERS, MOMENT, *([TARGET] if regression else [])):
            low, high = one[column], other[column]
            if low is None or high is None:
                assert row[column] in (low, high)
                continue
            assert min(low, high) <= row[column] <= max(low, high)
            if column in columns and abs(high - low) > 0.1:
                gaps.append((row[column] - low) / (high - low))
        assert np.ptp(gaps or [0.0]) < 0.1  # one gap a row; the target stands in hundredths


def test_the_other_parent_is_one_of_the_nearest_rows(tmp_path: Path) -> None:
    fields = ("number:x", "category:c")
    rng = np.random.default_rng(2)
    x, c = rng.integers(0, 100, 80).astype(float), rng.choice(["a", "b"], 80)
    columns = {"row_id": [f"r{at:02d}" for at in range(80)], "stratum": ["s"] * 80, fields[0]: x, fields[1]: c.tolist()}
    bench = Bench("smote", tmp_path, pa.table(columns, real_schema(fields)), fields, neighbours=3)
    scaled = np.rint((x - x.mean()) / x.std() * 32)
    apart = (scaled[:, None] - scaled) ** 2 + 32**2 * (c[:, None] != c)  # a category counts as a standard deviation
    np.fill_diagonal(apart, np.inf)
    nearest = np.argsort(apart, axis=1, kind="stable")[:, :3]
    seen = set()
    for row in bench.rows(400):
        one, other = (int(parent[1:]) for parent in row["parent_ids"])
        assert other in nearest[one]
        seen.add((one, other))
    assert len(seen) > 120


def test_a_search_in_blocks_and_by_groups_finds_what_a_search_at_once_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = people(900)
    whole = Bench("smote", tmp_path / "a", train).files["neighbours.safetensors"].read_bytes()
    monkeypatch.setattr("augmill.tasks.generators.smote.BLOCK", 2000)
    monkeypatch.setattr("augmill.tasks.generators.smote.GROUP", 1)
    assert Bench("smote", tmp_path / "b", train).files["neighbours.safetensors"].read_bytes() == whole


def test_categories_are_drawn_from_the_neighbours_or_their_commonest(tmp_path: Path) -> None:
    fields = ("number:x", "category:c")
    columns = {
        "row_id": [f"r{at:02d}" for at in range(12)],
        "stratum": ["s"] * 12,
        fields[0]: [
            float(10 * (at // 4) + at % 4 / 10) for at in range(12)
        ],  # three groups, further apart than categories
        fields[1]: ["common", "common", "common", "rare"] * 3,
    }
    train = pa.table(columns, real_schema(fields))
    drawn, common = (
        [
            row["category:c"]
            for row in Bench("smote", tmp_path / way, train, fields, neighbours=3, categories=way).rows(300)
        ]
        for way in ("draw", "mode")
    )
    assert set(common) == {"common"}
    assert 0.1 < np.mean([name == "rare" for name in drawn]) < 0.5  # copies of common parents are not delivered


def test_where_one_parent_lacks_a_number_a_coin_decides(tmp_path: Path) -> None:
    bench = Bench("smote", tmp_path, people(300))
    coins = []
    for row in bench.rows(600):
        known = [bench.real[parent]["number:rate"] for parent in row["parent_ids"]]
        if known.count(None) == 1:
            assert row["number:rate"] in known
            coins.append(row["number:rate"] is None)
    assert len(coins) > 40 and 0.3 < np.mean(coins) < 0.7


def test_a_class_has_as_many_parents_as_max_rows_says(tmp_path: Path) -> None:
    bench = Bench("smote", tmp_path, people(300), max_rows=20)
    used = {parent for row in bench.rows(400) for parent in row["parent_ids"]}
    assert 30 < len(used) <= 40
    fewer = Bench("smote", tmp_path / "fewer", people(290), max_rows=20)
    still = {parent for row in fewer.rows(400) for parent in row["parent_ids"]}
    assert len(used & still) > 30  # mostly the same ones


def test_parents_of_a_regressions_row_are_of_its_bin_or_the_one_beside(tmp_path: Path) -> None:
    bench = Bench("smote", tmp_path, people(300, regression=True))
    order = sorted(set(bench.train["stratum"].to_pylist()))
    steps = {
        abs(order.index(bench.real[row["parent_ids"][1]]["stratum"]) - order.index(row["stratum"]))
        for row in bench.rows(100)
    }
    assert steps == {0, 1}


@pytest.mark.parametrize("options", [{"neighbours": 0}, {"neighbours": 101}, {"max_rows": 1}])
def test_options_of_smote_out_of_bounds_name_themselves(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        GENERATORS["smote"].Options(**options)


def test_distances_are_sums_of_whole_numbers_however_many_columns_there_are(tmp_path: Path) -> None:
    """Beyond 60 columns they may pass 2^24, to which float32 is exact."""
    rng = np.random.default_rng(0)
    fields = tuple(f"number:x{at}" for at in range(400))
    far = np.concatenate([np.zeros(198), [1, 1]])  # two rows far from all others, in every column
    columns = {"row_id": [f"r{at:03d}" for at in range(200)], "stratum": ["s"] * 200}
    table = pa.table(columns | {name: rng.normal(size=200) + 9 * far for name in fields}, real_schema(fields))
    bench = Bench("smote", tmp_path, table, fields)
    every = np.arange(200)
    left, right = _points(TableRows(Fitted(bench.context.workdir, "")), every, every)
    found, exact = left @ right.T, left.astype(np.int64) @ right.T.astype(np.int64)
    assert np.abs(exact).max() > 2**24
    assert np.array_equal(found, exact)
    assert len(bench.rows(20)) == 20
