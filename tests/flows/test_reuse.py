"""No row is sampled twice: not for other shards, another night's checks or a larger target; and the bank changes no byte."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from chain import make_run, produce_and_publish, public_bytes, tiny_recipe, write_rows
from hypothesis import given
from hypothesis import strategies as st

from augmill.flows import rounds
from augmill.flows.provenance import spent_on
from augmill.flows.source import read_source
from augmill.tasks.contracts import Artifact, Context, FitInputs, Fitted, Generator, Request
from augmill.tasks.errors import LedgerError
from augmill.tasks.generators import GENERATORS
from augmill.tasks.generators.rules import Rules, RulesOptions
from augmill.tasks.stages.extensions import FitConfig
from augmill.tasks.stages.fit import fit
from augmill.tasks.stages.generate import ShardConfig, generate
from augmill.tasks.stages.jobs import run_shard
from augmill.tasks.store.bank import Coverage, cover, cut_segments
from augmill.tasks.store.stage import Event, Site, fetch, read_manifest
from augmill.tasks.store.store import Store, manifest_key, object_key
from augmill.tasks.validation.suites import ValidationOptions

# --- which ranges stand where ------------------------------------------------------------------------------------------

RANGES = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 15), st.sampled_from("abcd")), max_size=12)


@given(ranges=RANGES, start=st.integers(0, 50), count=st.integers(1, 30))
def test_each_ordinal_stands_where_it_was_first_noted(
    ranges: list[tuple[int, int, str]], start: int, count: int
) -> None:
    held, first = Coverage(), dict[int, str]()
    for begin, length, key in ranges:
        held.add(begin, begin + length, key)
        first = {**dict.fromkeys(range(begin, begin + length), key), **first}
    pieces = list(held.cut(start, start + count))
    found = [(at, key) for begin, end, key in pieces for at in range(begin, end)]
    assert found == [(at, first.get(at)) for at in range(start, start + count)]
    assert all(begin < end for begin, end, _ in pieces)


@given(ranges=RANGES)
def test_what_stands_and_what_is_missing_make_up_the_segments(ranges: list[tuple[int, int, str]]) -> None:
    held = cover({"stratum": "x", "start": s, "count": n, "artifact": key} for s, n, key in ranges)
    segments = [{"stratum": "x", "start": 3, "count": 40}, {"stratum": "y", "start": 0, "count": 2}]
    standing, missing = cut_segments(held, segments)
    parts = [
        (part["stratum"], at)
        for part in standing + missing
        for at in range(part["start"], part["start"] + part["count"])
    ]
    assert sorted(parts) == [("x", at) for at in range(3, 43)] + [("y", 0), ("y", 1)]


# --- over whole runs ---------------------------------------------------------------------------------------------------


def sampled(events: list[Event]) -> int:
    return sum(event.rows for event in events if event.stage == "sample" and not event.reused)


def asked(events: list[Event]) -> int:
    return sum(event.rows for event in events if event.stage == "generate" and not event.reused)


class Place:
    """A source, and stores over it. ``run``: source to release; its events, and the public bytes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.source = write_rows(directory / "rows.csv", 60)

    def run(self, store: str, *, shard_rows: int = 25, **changes: Any) -> tuple[list[Event], dict[str, bytes]]:
        run = {"orchestrator": "none", "shard_rows": shard_rows, "store": "unused"}
        root = self.directory / store
        _, ran = produce_and_publish(tiny_recipe(self.source, run=run, **changes), Store(str(root)))
        return ran.events, public_bytes(root)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_other_shards_sample_no_row_again(place: Place) -> None:
    first, expected = place.run("store")
    assert sampled(first) == asked(first) > 60
    for shard_rows in (7, 1000):
        again, found = place.run("store", shard_rows=shard_rows)
        assert sampled(again) == 0 < asked(again)
        assert found == expected


def test_other_checks_judge_the_rows_that_were_sampled(place: Place) -> None:
    first, _ = place.run("store")
    changes: dict[str, Any] = {"checks": {"label_consistency": False}, "dataset": "other"}
    again, warm = place.run("store", **changes)
    cold_events, cold = place.run("cold", **changes)
    assert asked(again) == asked(cold_events) > 60
    assert sampled(again) == sampled(cold_events) - sampled(first)
    assert {name: value for name, value in warm.items() if name.startswith("other/")} == cold


def test_a_larger_target_samples_the_shortfall_alone_and_gives_the_bytes_of_a_cold_store(place: Place) -> None:
    first, _ = place.run("store", target={"per_class": 20})
    more, warm = place.run("store", target={"per_class": 22}, dataset="more")
    cold_events, cold = place.run("cold", target={"per_class": 22}, dataset="more")
    assert 0 < sampled(more) < sampled(first) / 3
    assert sampled(more) + sampled(first) >= sampled(cold_events)
    assert {name: value for name, value in warm.items() if name.startswith("more/")} == cold


# Of a fast generator the first shards show how many of that size are to be joined; that number is kept.


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards small enough for a tiny source to have many: two of four rows first, and then the joined ones."""
    monkeypatch.setattr("augmill.tasks.recipe.sections.FIRST_ROWS", 4)
    monkeypatch.setattr(rounds, "HEAD", 2)
    monkeypatch.setattr(rounds, "MOST_JOINED", 3)


def shards_of(events: list[Event]) -> list[int]:
    """Rows of each shard that was made, smallest first."""
    return sorted(event.rows for event in events if event.stage == "generate" and not event.reused)


def noted(events: list[Event]) -> list[tuple[bool, str]]:
    return [(event.reused, event.key) for event in events if event.stage == "pace"]


@pytest.mark.usefixtures("small_shards")
def test_a_rerun_cuts_the_shards_that_the_first_run_cut_and_finds_them_all(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "SECONDS", 1e6)  # fast enough for as many together as there may be
    first, expected = place.run("store", shard_rows=0)
    made = shards_of(first)
    assert made.count(12) > 2 and max(made) == 12, "three joined"
    assert noted(first)[0][0] is False
    monkeypatch.setattr(rounds, "SECONDS", 1e-9)  # the machine is slow now: measured again, none would be joined
    again, found = place.run("store", shard_rows=0)
    assert shards_of(again) == [] and all(reused for reused, _ in noted(again))
    assert {event.key for event in again if event.stage == "generate"} == {
        event.key for event in first if event.stage == "generate"
    }
    assert found == expected


@pytest.mark.usefixtures("small_shards")
def test_how_many_shards_are_joined_changes_no_row(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "SECONDS", 1e6)
    joined, expected = place.run("joined", shard_rows=0)
    monkeypatch.setattr(rounds, "SECONDS", 1e-9)
    apart, found = place.run("apart", shard_rows=0)
    assert max(shards_of(joined)) == 12 and max(shards_of(apart)) == 4
    assert sum(shards_of(joined)) == sum(shards_of(apart)) and found == expected
    assert place.run("fixed", shard_rows=25)[1] == expected


@pytest.mark.usefixtures("small_shards")
def test_shards_of_the_size_that_the_recipe_gives_are_never_joined(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "SECONDS", 1e6)
    for how in ({"shard_rows": 4}, {"shard_rows": 0, "validation": {"min_passed": 0.01}}):
        events, _ = place.run(f"store {how['shard_rows']}", **how)
        assert max(shards_of(events)) == 4 and noted(events) == []


def rot(store: Store, key: str) -> None:
    assert store.local is not None
    path = store.local / key
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def rot_rows(store: Store, sample: Artifact) -> None:
    rot(store, object_key(read_manifest(store, sample)["files"]["rows.parquet"]["sha256"]))


def lose_manifest(store: Store, sample: Artifact) -> None:
    assert store.local is not None
    (store.local / manifest_key(*sample.key.split("/"))).unlink()  # type: ignore[arg-type]


def rot_notes(store: Store, sample: Artifact) -> None:
    for key in store.list_keys("private/bank"):
        if sample.key.split("/")[1] in key:
            rot(store, key)


@pytest.mark.parametrize("harm", [rot_rows, lose_manifest, rot_notes])
def test_what_is_harmed_in_the_bank_is_sampled_again_and_no_more(
    place: Place, harm: Callable[[Store, Artifact], None]
) -> None:
    first, expected = place.run("store")
    harmed = max((event for event in first if event.stage == "sample"), key=lambda event: event.rows)
    harm(Store(str(place.directory / "store")), Artifact(harmed.key, 0, "", ""))
    again, found = place.run("store", shard_rows=11)  # other cuts: nothing of the stage `generate` stands
    assert found == expected
    assert sampled(again) == harmed.rows


# --- what cannot be repeated, and what is counted ----------------------------------------------------------------------

CALLS = Counter[str]()


class Moody(Generator):
    """Answers otherwise each time it is asked, and counts a token a row."""

    VERSION = 1
    Options = RulesOptions
    repeatable = False

    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        return Rules(self.options).fit(inputs, ctx)

    def sample(self, fitted: Fitted, request: Request, ctx: Context) -> pa.Table:
        CALLS["sample"] += 1
        ctx.usage["tokens"] = len(request)
        rows = Rules(self.options).sample(fitted, request, ctx)
        texts = [f"answer {CALLS['sample']} to {ordinal}" for ordinal in request.ordinals]
        return rows.set_column(rows.column_names.index("text"), "text", pa.array(texts, pa.string()))


class Bench:
    """A fitted ``moody``, and shards of its rows of one class."""

    def __init__(self, directory: Path) -> None:
        recipe = tiny_recipe(write_rows(directory / "rows.csv"))
        self.events: list[Event] = []
        self.store = Store(str(directory / "store"))
        _, split = read_source(make_run(recipe, self.store))
        self.site = Site(self.store, observe=self.events.append)
        self.config = FitConfig("moody", 1, RulesOptions(operations={"swap": 1.0}), 0, ("text",), 0)
        self.fitted = fit(self.site, self.config, split)

    def shard(self, start: int, count: int, raw: tuple[dict[str, Any], ...] = ()) -> ShardConfig:
        segments = ({"stratum": "refund", "start": start, "count": count},)
        return ShardConfig(self.config, (), segments, ("refund",), ValidationOptions(enabled=False), raw)

    def run(self, start: int, count: int) -> list[str]:
        """The texts of the shard's rows, with what the bank holds when it begins."""
        from augmill.tasks.stages.generate import bank_of
        from augmill.tasks.store.bank import Bank

        config = self.shard(start, count)
        bank = Bank(self.store, bank_of(self.config, self.fitted.content))
        made = run_shard(self.site, dataclasses.replace(config, raw=bank.pieces(config.segments)), self.fitted, [])
        return table(self.store, made)["text"].to_pylist()


def table(store: Store, artifact: Artifact, name: str = "candidates.parquet") -> pa.Table:
    import pyarrow.parquet as pq

    return pq.read_table(fetch(store, artifact, name))


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    CALLS.clear()
    monkeypatch.setitem(GENERATORS, "moody", Moody)
    return Bench(tmp_path)


def test_the_first_answer_of_what_cannot_be_repeated_is_the_truth_whatever_is_asked_later(bench: Bench) -> None:
    assert bench.run(0, 6) == [f"answer 1 to {at}" for at in range(6)]
    assert bench.run(4, 6) == [f"answer {1 if at < 6 else 2} to {at}" for at in range(4, 10)]
    assert bench.run(0, 10) == [f"answer {1 if at < 6 else 2} to {at}" for at in range(10)]
    assert CALLS["sample"] == 2


def test_of_two_answers_that_were_given_at_once_the_first_key_counts(bench: Bench) -> None:
    for start, count in ((0, 6), (2, 6)):  # neither knew of the other
        run_shard(bench.site, bench.shard(start, count), bench.fitted, [])
    keys = bench.store.list_keys("private/bank")
    assert len(keys) == 2
    body = bench.store.read_sealed(keys[0])
    assert body is not None
    rows = table(bench.store, Artifact(body["artifact"], 0, "", ""), "rows.parquet")
    texts = dict(zip(rows["ordinal"].to_pylist(), rows["text"].to_pylist(), strict=True))
    found = bench.run(0, 8)
    assert [found[at] for at in texts] == list(texts.values())


def test_what_sampling_spent_is_told_once(bench: Bench) -> None:
    bench.run(0, 6)
    bench.run(4, 6)
    spent = [(event.stage, event.reused, event.rows, event.usage) for event in bench.events if event.stage == "sample"]
    assert spent == [
        ("sample", False, 6, {"tokens": 6}),
        ("sample", True, 2, {}),
        ("sample", False, 4, {"tokens": 4}),
    ]
    made = next(event for event in bench.events if event.stage == "sample")
    assert read_manifest(bench.store, Artifact(made.key, 0, "", ""))["meta"] == {"usage": {"tokens": 6}}


def test_shards_cost_what_the_samplings_of_their_rows_did_each_once(bench: Bench) -> None:
    """Whichever run sampled them: a release that reuses all of its rows tells what they cost all the same."""
    bench.run(0, 6)
    bench.run(4, 6)
    first, second = [Artifact(event.key, 0, "", "") for event in bench.events if event.stage == "generate"]
    assert spent_on(bench.store, [first]) == {"moody": {"tokens": 6}}
    assert spent_on(bench.store, [second]) == spent_on(bench.store, [first, second]) == {"moody": {"tokens": 10}}


def test_rows_that_were_not_asked_are_never_judged(bench: Bench) -> None:
    made = run_shard(bench.site, bench.shard(0, 6), bench.fitted, [])
    assert made.rows == 6
    (held,) = (event.key for event in bench.events if event.stage == "sample")
    piece = {"stratum": "refund", "start": 0, "count": 5, "artifact": held}
    with pytest.raises(LedgerError, match="5 rows are not the 6 asked ones"):
        generate(bench.site, dataclasses.replace(bench.shard(0, 6, (piece,)), strata=("other",)), bench.fitted, [])
    fitted = bench.fitted
    stranger = Artifact(fitted.key, fitted.rows, fitted.sha256, "another fit")
    with pytest.raises(LedgerError, match="not the 6 asked ones"):
        generate(bench.site, bench.shard(0, 6, ({**piece, "count": 6},)), stranger, [])


def test_where_rows_stand_is_no_identity(bench: Bench) -> None:
    piece = {"stratum": "refund", "start": 0, "count": 6, "artifact": "sample/x"}
    inputs = (bench.fitted, [])
    assert generate.identity(bench.shard(0, 6), inputs) == generate.identity(bench.shard(0, 6, (piece,)), inputs)
