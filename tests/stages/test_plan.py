"""Targets and rounds: exact numbers by class and generator, bounded asking, and ordinals that no cut can change."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from chain import produce_snapshot, tiny_recipe, write_rows
from hypothesis import assume, given
from hypothesis import strategies as st

from augmill.tasks.recipe.sections import Refill, Target
from augmill.tasks.stages.plan import PlanConfig, ask, cut_shards, join_segments, plan_round
from augmill.tasks.stages.targets import split_target, targets_for
from augmill.tasks.store.stage import Work
from augmill.tasks.store.store import Store

SHARES = st.dictionaries(st.sampled_from("abcd"), st.floats(0.01, 100), min_size=1)


def test_targets_count_accepted_rows_by_each_of_the_three_ways() -> None:
    counts = {"big": 100, "small": 7, "one": 1}
    assert targets_for(Target(per_class=50), counts) == {"big": 50, "small": 50, "one": 50}
    assert targets_for(Target(multiply=2.0), counts) == {"big": 100, "small": 7, "one": 1}
    assert targets_for(Target(multiply=1.5), counts) == {"big": 50, "small": 4, "one": 0}
    assert targets_for(Target(balance="max"), counts) == {"big": 0, "small": 93, "one": 99}
    assert targets_for(Target(balance=20), counts) == {"big": 0, "small": 13, "one": 19}


@given(st.dictionaries(st.sampled_from("abcde"), st.integers(1, 500), min_size=1), st.floats(0.01, 5))
def test_the_ratio_cuts_every_target_by_the_same_share_before_anything_is_asked(
    counts: dict[str, int], ratio: float
) -> None:
    whole = targets_for(Target(per_class=100), counts)
    cut = targets_for(Target(per_class=100), counts, ratio)
    most = ratio * sum(counts.values())
    assert sum(cut.values()) <= max(most, 0)
    share = min(1.0, most / sum(whole.values()))
    assert all(whole[name] * share - 1 - 1e-6 < cut[name] <= whole[name] * share + 1e-6 for name in counts)


@given(total=st.integers(0, 10_000), shares=SHARES)
def test_a_target_is_split_into_whole_rows_by_share_without_loss(total: int, shares: dict[str, float]) -> None:
    parts = split_target(total, shares)
    assert sum(parts.values()) == total
    for name, part in parts.items():
        assert abs(part - total * shares[name] / sum(shares.values())) < 1
    assert parts == split_target(total, dict(reversed(shares.items())))


@given(missing=st.integers(1, 10**6), asked=st.integers(0, 10**6), data=st.data())
def test_a_round_asks_at_least_what_is_missing_and_at_most_four_times_that(
    missing: int, asked: int, data: st.DataObject
) -> None:
    eligible = data.draw(st.integers(0, asked))
    assert missing <= ask(missing, asked, eligible) <= 4 * missing


def test_the_yield_so_far_decides_how_much_is_asked() -> None:
    assert ask(100, 0, 0) == 130
    assert ask(100, 1000, 1000) == 100
    assert ask(100, 1000, 500) == 200
    assert ask(100, 1000, 10) == ask(100, 1000, 0) == 400


STREAM = st.builds(
    lambda asked, share, stopped: {"asked": asked, "eligible": int(asked * share), "stopped": stopped},
    st.integers(0, 3000),
    st.floats(0, 1),
    st.booleans(),
)


@given(
    targets=st.dictionaries(st.sampled_from(["x", "y", "z"]), st.integers(0, 500)),
    shares=SHARES,
    max_asked=st.floats(1, 25),
    data=st.data(),
)
def test_no_round_leaves_its_bounds(
    targets: dict[str, int], shares: dict[str, float], max_asked: float, data: st.DataObject
) -> None:
    accepted = {name: data.draw(st.integers(0, target)) for name, target in targets.items()}
    streams = {g: {name: data.draw(STREAM) for name in targets if data.draw(st.booleans())} for g in shares}
    config = PlanConfig(Target(per_class=1), Refill(max_asked=max_asked), shares)
    segments = plan_round(config, targets, accepted, streams)
    asked: Counter[str] = Counter()
    for segment in segments:
        stream = streams[segment["generator"]].get(segment["stratum"], {"asked": 0, "stopped": False})
        assert segment["start"] == stream["asked"]  # a refill goes on where the last round ended
        assert segment["count"] > 0 and not stream["stopped"]
        asked[segment["stratum"]] += segment["count"]
    assert len({(s["generator"], s["stratum"]) for s in segments}) == len(segments)
    for name, target in targets.items():
        before = sum(streams[g].get(name, {"asked": 0})["asked"] for g in shares)
        missing = target - accepted[name]
        assert asked[name] <= 4 * missing
        assert asked[name] == 0 or before + asked[name] <= max_asked * target + 1
        active = [g for g in shares if not streams[g].get(name, {"stopped": False})["stopped"]]
        if missing and active and before + 4 * missing < max_asked * target:
            assert asked[name] >= missing
    assert segments == plan_round(config, targets, accepted, streams)


def rounds(target: int, yields: dict[str, float], **refill: Any) -> tuple[list[int], dict[str, dict[str, Any]], int]:
    """Rounds over one class whose generators deliver a fixed share of good rows: (asked by round, streams, accepted)."""
    config = PlanConfig(Target(per_class=target), Refill(**refill), dict.fromkeys(yields, 1.0))
    streams: dict[str, dict[str, Any]] = {g: {"asked": 0, "eligible": 0, "stopped": False} for g in yields}
    asked: list[int] = []
    accepted = 0
    for _ in range(config.refill.max_rounds):
        segments = plan_round(config, {"x": target}, {"x": accepted}, {g: {"x": s} for g, s in streams.items()})
        if not segments:
            break
        asked.append(sum(segment["count"] for segment in segments))
        for segment in segments:
            stream = streams[segment["generator"]]
            stream["asked"] += segment["count"]
            eligible = int(stream["asked"] * yields[segment["generator"]])
            stream["stopped"], stream["eligible"] = eligible <= stream["eligible"], eligible
        accepted = min(target, sum(stream["eligible"] for stream in streams.values()))
    return asked, streams, accepted


def test_a_good_generator_fills_its_class_in_two_rounds() -> None:
    asked, _, accepted = rounds(1000, {"good": 0.7})
    assert (len(asked), accepted) == (2, 1000)
    assert sum(asked) < 1.1 * 1000 / 0.7


def test_a_barren_generator_stops_after_one_round_and_its_share_goes_to_the_others() -> None:
    asked, streams, accepted = rounds(1000, {"good": 0.9, "barren": 0.0})
    assert accepted == 1000
    assert streams["barren"]["stopped"]
    assert streams["barren"]["asked"] == pytest.approx(650, abs=1)  # 1.3 times its half, in the first round alone
    assert sum(asked) == streams["barren"]["asked"] + streams["good"]["asked"]
    assert len(rounds(1000, {"barren": 0.0})[0]) == 1


def test_a_poor_generator_ends_at_the_bound_of_what_may_be_asked() -> None:
    asked, _, accepted = rounds(100, {"poor": 0.01}, max_rounds=100, max_asked=20.0)
    assert (sum(asked), accepted) == (2000, 20)
    asked, _, _ = rounds(100, {"poor": 0.01}, max_rounds=3, max_asked=20.0)
    assert len(asked) == 3


def test_a_full_class_asks_for_nothing() -> None:
    config = PlanConfig(Target(per_class=5), Refill(), {"g": 1.0})
    assert plan_round(config, {"x": 5, "y": 0}, {"x": 5}, {}) == []


SEGMENTS = st.lists(
    st.builds(
        lambda g, s, start, count: {"generator": g, "stratum": s, "start": start, "count": count},
        st.sampled_from("ab"),
        st.sampled_from("xyz"),
        st.integers(0, 50),
        st.integers(1, 60),
    ),
    max_size=6,
    unique_by=lambda segment: (segment["generator"], segment["stratum"]),
)


def ordinals(segments: list[dict[str, Any]]) -> list[tuple[str, str, int]]:
    return [
        (part["generator"], part["stratum"], ordinal)
        for part in segments
        for ordinal in range(part["start"], part["start"] + part["count"])
    ]


@given(SEGMENTS, st.integers(1, 70))
def test_shards_hold_each_asked_ordinal_once_whatever_their_size(segments: list[dict[str, Any]], size: int) -> None:
    shards = cut_shards(segments, size)
    assert [item for shard in shards for item in ordinals(shard)] == ordinals(segments)
    for shard in shards:
        assert 0 < sum(part["count"] for part in shard) <= size
        assert len({part["generator"] for part in shard}) == 1


@given(SEGMENTS, st.integers(1, 70), st.integers(1, 5))
def test_joined_segments_hold_the_same_ordinals_in_the_same_order(
    segments: list[dict[str, Any]], size: int, together: int
) -> None:
    pieces = [part for shard in cut_shards(segments, size) for part in shard]
    for at in range(0, len(pieces), together):
        joined = join_segments(pieces[at : at + together])
        assert ordinals(joined) == ordinals(pieces[at : at + together])
    assert join_segments(pieces) == segments


@given(SEGMENTS)
def test_shards_are_as_few_as_their_generators_allow_where_all_fits(segments: list[dict[str, Any]]) -> None:
    assume(segments)
    ordered = sorted(segments, key=lambda segment: segment["generator"])
    assert len(cut_shards(ordered, 10_000)) == len({segment["generator"] for segment in segments})


@pytest.mark.parametrize("multiply", [1.1, 2.0, 3.7])
def test_multiply_gives_real_and_accepted_rows_together_that_many_times_the_real_ones(multiply: float) -> None:
    for count in range(1, 200):
        target = targets_for(Target(multiply=multiply), {"x": count})["x"]
        assert abs(count + target - multiply * count) <= 0.5 + 1e-9


@pytest.mark.slow
def test_rounds_of_a_real_generator_go_on_where_the_last_ended_and_stay_within_their_bounds(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows.csv", rows=15)
    # Swaps alone of a dozen sentences: too few different rows for the target.
    generator = {"use": "rules", "operations": {"swap": 1.0}, "strength": 0.1}
    changes = {"target": {"per_class": 60}, "generators": [generator], "labels": {"min_rows": 1}}
    produced = produce_snapshot(tiny_recipe(source, **changes), Store(str(tmp_path / "store")))
    work, events = Work(produced.run.site, tmp_path), produced.run.events
    ledger = work.read_json(produced.settled, "ledger.json")
    rows = [row for shard in produced.made.shards for row in work.read(shard, "candidates.parquet").to_pylist()]
    for entry in ledger["rows"]:
        found = sorted(row["ordinal"] for row in rows if row["asked"] == entry["class"])
        assert found == list(range(entry["asked"]))
        assert 0 < entry["asked"] <= 20 * 60
    plans = [event for event in events if event.stage == "plan"]
    settles = [event for event in events if event.stage == "settle"]
    missing = [3 * 60] + [3 * 60 - event.rows for event in settles]
    assert 3 <= len(plans) <= 7
    for event, short in zip(plans, missing, strict=False):
        assert event.rows <= 4 * short
    assert sum(ledger["shortfall"].values()) == missing[-1] > 0
