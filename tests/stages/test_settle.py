"""Settle accounts for every candidate, accepts the preferred ones up to the target, and does not depend on the shards."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augmill.tasks.contracts import Artifact
from augmill.tasks.errors import LedgerError
from augmill.tasks.recipe.sections import Settle
from augmill.tasks.rows.hashing import hash_table
from augmill.tasks.rows.kinds import equal_keys
from augmill.tasks.rows.kinds.text.near import jaccard
from augmill.tasks.stages import twins
from augmill.tasks.stages.generate import shard_schema
from augmill.tasks.stages.settle import (
    DUPLICATE,
    LABEL_SCORE,
    NEAR,
    SettleConfig,
    decide,
    ledger_of,
    mark_duplicates,
    settle,
    verify_ledger,
)
from augmill.tasks.stages.targets import split_target
from augmill.tasks.stages.twins import TWINS, made_for, twins_of
from augmill.tasks.store.stage import Site, Work, stage
from augmill.tasks.store.store import Store

PINNED: dict[float, str] = {
    0.8: "d342505fdaf2af92",
    0.95: "e5ea2adb5ac0a13d",
    1.0: "2f71786155434143",
}  # near: the hash of what tells twins among three rows
LONG = "please tell me where the parcel of my last order is and when it will arrive at my door today"


def candidate(ordinal: int, text: str | None, asked: str = "a", **more: Any) -> dict[str, Any]:
    """One row of a shard; ``score``: that of the label check; ``stratum``: the class it claims."""
    score = more.pop("score", None)
    row: dict[str, Any] = dict.fromkeys(shard_schema(("text",)).names)
    row |= {"generator": "g", "ordinal": ordinal, "asked": asked, "stratum": asked, "text": text, "seed": ordinal}
    row |= {"parent_ids": [], "also": []}
    row["scores"] = (
        [] if score is None else [{"name": "other", "value": 1.0}, {"name": "label_consistency", "value": score}]
    )
    return row | more


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, shard_schema(("text",)))


def frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    made = pl.from_arrow(table(rows))
    assert isinstance(made, pl.DataFrame)
    return made


def settle_rows(candidates: pl.DataFrame, config: SettleConfig) -> pl.DataFrame:
    """As the stage decides, with all texts at hand."""
    scored = candidates.with_columns(score=LABEL_SCORE)
    return decide(scored, config, lambda passed: mark_duplicates(passed, config)).drop("at", "score")


def by_definition(
    rows: list[dict[str, Any]], config: SettleConfig
) -> dict[tuple[str, str, int], tuple[str, str | None]]:
    """(status, why) of each candidate, one candidate after the other."""
    order = list(config.shares)
    found, kept = dict[tuple[str, str, int], tuple[str, str | None]](), list[dict[str, Any]]()
    seen: set[bytes] = set()
    total = lambda row: (order.index(row["generator"]), row["asked"], row["ordinal"])  # noqa: E731
    score = lambda row: next((each["value"] for each in row["scores"] if each["name"] == "label_consistency"), 0.0)  # noqa: E731
    for row in rows:
        if row["reason"] or row["rejected"]:
            status = "undelivered" if row["reason"] else "rejected"
            found[row["generator"], row["asked"], row["ordinal"]] = status, row["reason"] or row["rejected"]
    passed = [row for row in rows if not row["reason"] and not row["rejected"]]
    first = config.settle.prefer == "first"
    for row in sorted(passed, key=lambda row: (0 if first else -score(row), *total(row))):
        (key,) = equal_keys(table([row]), ("text",))
        twin = DUPLICATE if key in seen else None
        near = config.settle.near
        if twin is None and near < 1 and any(jaccard(row["text"], other["text"]) >= near for other in kept):
            twin = NEAR
        seen.add(key)
        found[row["generator"], row["asked"], row["ordinal"]] = ("rejected", twin) if twin else ("surplus", None)
        kept += [] if twin else [row]
    for name, target in config.targets.items():
        quotas, free = split_target(target, config.shares), target
        for within in (True, False):  # each generator's part, then the best of the rest
            for row in kept:
                place = row["generator"], row["asked"], row["ordinal"]
                if row["stratum"] == name and found[place][0] == "surplus" and free:
                    if within and not quotas[row["generator"]]:
                        continue
                    quotas[row["generator"]] -= within
                    free -= 1
                    found[place] = "accepted", None
    return found


def config_of(targets: dict[str, int], shares: dict[str, float] | None = None, **options: Any) -> SettleConfig:
    return SettleConfig(Settle(**options), targets, shares or {"g": 1.0}, ("text",))


def status(rows: list[dict[str, Any]], config: SettleConfig) -> dict[int, tuple[str, str | None]]:
    """(status, why) by ordinal."""
    settled = settle_rows(frame(rows), config)
    return {row["ordinal"]: (row["status"], row["why"]) for row in settled.to_dicts()}


def accepted(rows: list[dict[str, Any]], config: SettleConfig) -> list[int]:
    return [ordinal for ordinal, (what, _) in status(rows, config).items() if what == "accepted"]


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[dict[str, Any]], SettleConfig]:
    rows = []
    for generator in "gh":
        for asked in "ab":
            for ordinal in range(draw(st.integers(0, 6))):
                fate = draw(st.sampled_from(["good", "good", "good", "undelivered", "rejected"]))
                more: dict[str, Any] = {"generator": generator}
                if fate == "undelivered":
                    more |= {"reason": draw(st.sampled_from(["too_long", "deadline"])), "text": None}
                elif fate == "rejected":
                    more["rejected"] = draw(st.sampled_from(["garbage: odd", "length: short"]))
                else:
                    more["stratum"] = draw(st.sampled_from(["a", "b", "c"]))
                text = draw(st.sampled_from(["one", "One!", "two", "three", "four", LONG, f"{LONG} please", "?"]))
                score = draw(st.sampled_from([None, 0.25, 0.5]))
                rows.append(candidate(ordinal, text, asked, score=score) | more)
    targets = draw(st.dictionaries(st.sampled_from("ab"), st.integers(0, 5), min_size=1))
    options = {"near": draw(st.sampled_from([0.8, 1.0])), "prefer": draw(st.sampled_from(["score", "first"]))}
    return rows, config_of(targets, {"g": draw(st.sampled_from([1.0, 3.0])), "h": 1.0}, **options)


@settings(max_examples=40)
@given(batches(), st.randoms(use_true_random=False))
def test_the_ledger_adds_up_whatever_the_candidates_and_their_order(
    batch: tuple[list[dict[str, Any]], SettleConfig], random: Any
) -> None:
    rows, config = batch
    settled = settle_rows(frame(rows), config)
    ledger = ledger_of(settled, config, {})
    verify_ledger(ledger)
    asked = Counter((row["generator"], row["asked"]) for row in rows)
    assert {(entry["generator"], entry["class"]): entry["asked"] for entry in ledger["rows"]} == asked
    final = Counter(row["stratum"] for row in settled.to_dicts() if row["status"] == "accepted")
    assert ledger["accepted"] == final
    for name in "abc":  # filled as far as the good rows go, and no further
        got = Counter(row["status"] for row in settled.to_dicts() if row["stratum"] == name)
        assert got["accepted"] == min(config.targets.get(name, 0), got["accepted"] + got["surplus"])
    assert Counter(
        {(item["generator"], item["asked"], item["final"]): item["len"] for item in ledger["relabelled"]}
    ) == Counter(
        (row["generator"], row["asked"], row["stratum"]) for row in settled.to_dicts() if row["status"] == "accepted"
    )
    for row in settled.to_dicts():  # what was decided before stands, with its reason
        before = next(r for r in rows if all(r[k] == row[k] for k in ("generator", "asked", "ordinal")))
        if before["reason"]:
            assert (row["status"], row["why"]) == ("undelivered", before["reason"])
        elif before["rejected"]:
            assert (row["status"], row["why"]) == ("rejected", before["rejected"])
        else:
            assert row["status"] in ("accepted", "surplus") or row["why"] in (DUPLICATE, NEAR)
    shuffled = random.sample(rows, len(rows))
    assert settle_rows(frame(shuffled), config).equals(settled)


def test_a_duplicate_keeps_the_row_the_label_check_is_surest_of() -> None:
    rows = [candidate(0, "Same text!", score=0.5), candidate(1, "same text", score=0.9), candidate(2, "SAME  text")]
    expected = {0: ("rejected", DUPLICATE), 1: ("accepted", None), 2: ("rejected", DUPLICATE)}
    assert status(rows, config_of({"a": 3})) == expected
    assert accepted(rows, config_of({"a": 3}, prefer="first")) == [0]


def test_near_duplicates_of_a_kept_row_are_refused_and_those_of_a_refused_one_are_not() -> None:
    first, second, third = LONG, f"{LONG} ok", f"{LONG} ok then"
    rows = [candidate(0, first, score=0.9), candidate(1, second, score=0.8), candidate(2, third, score=0.7)]
    assert status(rows, config_of({"a": 9}, near=0.94)) == {
        0: ("accepted", None),
        1: ("rejected", NEAR),  # 0.97 like the first
        2: ("accepted", None),  # 0.92 like the first; 0.948 like the second, which is not kept
    }
    assert accepted(rows, config_of({"a": 9}, near=1.0)) == [0, 1, 2]


def test_duplicates_are_refused_across_classes_and_generators() -> None:
    rows = [candidate(0, "text", "a"), candidate(0, "Text.", "b", generator="h")]
    settled = settle_rows(frame(rows), config_of({"a": 1, "b": 1}, {"g": 1.0, "h": 1.0})).to_dicts()
    assert [(row["generator"], row["status"]) for row in settled] == [("g", "accepted"), ("h", "rejected")]


def test_the_best_rows_are_accepted_and_the_rest_is_surplus() -> None:
    rows = [candidate(i, f"text number {i}", score=score) for i, score in enumerate([0.1, 0.9, 0.5, 0.9])]
    assert accepted(rows, config_of({"a": 2})) == [1, 3]
    assert accepted(rows, config_of({"a": 2}, prefer="first")) == [0, 1]
    assert status(rows, config_of({"a": 2}))[2] == ("surplus", None)
    assert accepted(rows, config_of({"a": 9})) == [0, 1, 2, 3]


def test_each_generator_fills_its_share_and_what_one_lacks_the_others_fill() -> None:
    many = [candidate(i, f"from g {i}", score=0.9) for i in range(10)]
    few = [candidate(i, f"made by h {i}", generator="h", score=0.1) for i in range(3)]
    shares = {"g": 1.0, "h": 1.0}

    def by_generator(rows: list[dict[str, Any]], target: int) -> Counter[str]:
        settled = settle_rows(frame(rows), config_of({"a": target}, shares)).to_dicts()
        return Counter(row["generator"] for row in settled if row["status"] == "accepted")

    assert by_generator(many + few, 4) == {"g": 2, "h": 2}
    assert by_generator(many + few, 10) == {"g": 7, "h": 3}


def test_a_row_counts_for_the_class_it_claims() -> None:
    rows = [candidate(0, "one", "a", stratum="b"), candidate(1, "two", "a"), candidate(2, "three", "a", stratum="zzz")]
    config = config_of({"a": 1, "b": 2})
    ledger = ledger_of(settle_rows(frame(rows), config), config, {})
    assert ledger["relabelled"] == [
        {"generator": "g", "asked": "a", "final": "a", "len": 1},
        {"generator": "g", "asked": "a", "final": "b", "len": 1},
    ]
    assert (ledger["accepted"], ledger["shortfall"]) == ({"a": 1, "b": 1}, {"a": 0, "b": 1})
    assert ledger["rows"][0]["surplus"] == 1  # no class of that name has a target


def test_nothing_good_is_a_ledger_too() -> None:
    rows = [candidate(0, None, reason="deadline"), candidate(1, "x", rejected="length: short")]
    config = config_of({"a": 2})
    ledger = ledger_of(settle_rows(frame(rows), config), config, {})
    assert ledger["rows"] == [
        {
            "generator": "g",
            "class": "a",
            "asked": 2,
            "delivered": 1,
            "undelivered": {"deadline": 1},
            "rejected": {"length: short": 1},
            "surplus": 0,
            "accepted": 0,
        }
    ]
    assert (ledger["accepted"], ledger["shortfall"]) == ({}, {"a": 2})


def settled_streams(rows: list[dict[str, Any]], before: dict[str, Any]) -> Any:
    config = config_of({"a": 90})
    return ledger_of(settle_rows(frame(rows), config), config, before)["streams"]


def test_a_stream_stops_when_too_many_rows_in_a_row_gave_nothing_new_and_stays_stopped() -> None:
    good = [candidate(i, f"text {i}") for i in range(3)]
    first = settled_streams(good, {})
    assert first == {"g": {"a": {"asked": 3, "eligible": 3, "barren": 0, "stopped": False}}}
    # All were good so far, and then none of two, where two were to be expected.
    barren = [*good, *(candidate(i, "text 0") for i in range(3, 5))]
    unlucky = settled_streams(barren, first)
    assert unlucky == {"g": {"a": {"asked": 5, "eligible": 3, "barren": 2, "stopped": False}}}
    dry = settled_streams([*barren, *(candidate(i, "text 1") for i in range(5, 200))], unlucky)
    assert dry == {"g": {"a": {"asked": 200, "eligible": 3, "barren": 197, "stopped": True}}}
    late = settled_streams([*barren, *(candidate(i, f"text {i}") for i in range(5, 200))], dry)
    assert late["g"]["a"]["stopped"] and late["g"]["a"]["barren"] == 0
    # A round that asked nothing of a class says nothing about it.
    assert not settled_streams(good, first)["g"]["a"]["stopped"]


@pytest.mark.parametrize(
    ("rate", "barren", "stops"), [(1, 3, True), (2, 5, False), (2, 6, True), (100, 29, False), (100, 30, True)]
)
def test_a_rare_success_is_waited_for_and_a_frequent_one_is_missed_soon(rate: int, barren: int, stops: bool) -> None:
    """One row in ``rate`` was good so far."""
    far = {"g": {"a": {"asked": 1000 * rate, "eligible": 1000, "barren": 0, "stopped": False}}}
    rows = [candidate(i, f"text {i}") for i in range(1000)]
    rows += [candidate(i, "x", rejected="length: short") for i in range(1000, 1000 * rate + barren)]
    assert settled_streams(rows, far)["g"]["a"]["stopped"] == stops


def test_nothing_at_all_is_given_up_after_thirty_rows() -> None:
    bad = [candidate(i, "x", rejected="length: short") for i in range(30)]
    assert not settled_streams(bad[:29], {})["g"]["a"]["stopped"] and settled_streams(bad, {})["g"]["a"]["stopped"]


def _entry(ledger: dict[str, Any]) -> Any:
    return ledger["rows"][0]


@pytest.mark.parametrize(
    "unbalance",
    [
        lambda ledger: _entry(ledger).update(asked=7),
        lambda ledger: _entry(ledger).update(delivered=_entry(ledger)["delivered"] - 1),
        lambda ledger: _entry(ledger)["undelivered"].update(lost=1),
        lambda ledger: _entry(ledger)["rejected"].clear(),
        lambda ledger: _entry(ledger).update(surplus=_entry(ledger)["surplus"] + 1),
        lambda ledger: _entry(ledger).update(accepted=_entry(ledger)["accepted"] - 1, surplus=2),
        lambda ledger: ledger["accepted"].update(a=2),
        lambda ledger: ledger["shortfall"].update(a=1),
        lambda ledger: (ledger["targets"].update(a=0), ledger["shortfall"].update(a=-1)),
        lambda ledger: ledger["relabelled"].clear(),
    ],
)
def test_every_imbalance_fails_the_run(unbalance: Callable[[dict[str, Any]], object]) -> None:
    rows = [candidate(0, "one"), candidate(1, "two"), candidate(2, None, reason="late")]
    rows.append(candidate(3, "x", rejected="length: short"))
    config = config_of({"a": 1})
    ledger = copy.deepcopy(ledger_of(settle_rows(frame(rows), config), config, {}))
    verify_ledger(ledger)
    unbalance(ledger)
    with pytest.raises(LedgerError):
        verify_ledger(ledger)
    assert LedgerError.exit_code == 5 and not LedgerError.retryable


@pytest.mark.parametrize(
    "ordinals", [[0, 1], [0, 1, 1, 2], [0, 1, 3], [0, 1, 2, 3]], ids=["missing", "doubled", "another", "one more"]
)
def test_rows_that_are_not_those_of_the_plan_fail_the_run(tmp_path: Path, ordinals: list[int]) -> None:
    site = Site(Store(str(tmp_path)))
    config = replace(config_of({"a": 3}), asked={"g": {"a": 3}})
    settle(site, config, [shard_of(site, [candidate(at, f"text {at}") for at in range(3)])], [])
    with pytest.raises(LedgerError, match="class 'a' 3 rows were asked of g"):
        settle(site, config, [shard_of(site, [candidate(at, f"text {at}") for at in ordinals])], [])
    with pytest.raises(LedgerError, match="differ from the plan"):
        settle(site, replace(config, asked={}), [shard_of(site, [candidate(0, "text")])], [])


def shard_of(site: Site, rows: list[dict[str, Any]], near: float | None = None) -> Artifact:
    """``near``: with what tells twins from that similarity up; None: as older versions wrote a shard."""

    @stage("shard", version=1)
    def shard(work: Work, config: list[Any]) -> None:
        work.rows = len(rows)
        work.write(table(rows), "candidates.parquet")
        if near is not None:
            passed = table([row for row in rows if not row["reason"] and not row["rejected"]])
            work.write(twins_of(passed, ("text",), near), TWINS)
            work.notes.add(TWINS)

    return shard(site, [rows, near])


def test_what_tells_twins_is_made_anew_where_it_changes_with_its_version() -> None:
    rows = table([candidate(0, LONG), candidate(1, "Same text!"), candidate(2, "\u9000\u6b3e")])
    made = {near: hash_table(twins_of(rows, ("text",), near))[:16] for near in (0.8, 0.95, 1.0)}
    assert (twins.VERSION, made) == (1, PINNED), "count twins.VERSION up: shards that stand hold what was told before"
    assert made_for(twins_of(rows, ("text",), 0.8).schema, 0.8)
    assert not made_for(twins_of(rows, ("text",), 0.8).schema, 0.95)


@settings(max_examples=30, deadline=None)
@given(batches().filter(lambda batch: len(batch[0]) > 2), st.data())
def test_every_candidate_has_the_status_that_the_definition_gives_it(
    tmp_path_factory: pytest.TempPathFactory, batch: tuple[list[dict[str, Any]], SettleConfig], data: st.DataObject
) -> None:
    """Whether shards hold what tells twins, for this threshold, for another, or not at all."""
    rows, config = batch
    directory = tmp_path_factory.mktemp("plain")
    site = Site(Store(str(directory)))
    ends = [0, *sorted(data.draw(st.sets(st.integers(1, len(rows) - 1)))), len(rows)]
    held = st.sampled_from([None, config.settle.near, 0.9])
    shards = [shard_of(site, rows[a:b], data.draw(held)) for a, b in itertools.pairwise(ends)]
    artifact, work = settle(site, config, data.draw(st.permutations(shards)), []), Work(site, directory)
    kept, rest = work.read(artifact, "accepted.parquet").to_pylist(), work.read(artifact, "rest.parquet").to_pylist()
    found = {
        (row["generator"], row["asked"], row["ordinal"]): (row.get("status", "accepted"), row.get("why"))
        for row in kept + rest
    }
    assert found == by_definition(rows, config)
    asked = {(row["generator"], row["asked"], row["ordinal"]): row for row in table(rows).to_pylist()}
    for part in (kept, rest):
        order = [(list(config.shares).index(row["generator"]), row["asked"], row["ordinal"]) for row in part]
        assert order == sorted(order)
        for row in part:
            whole = asked[row["generator"], row["asked"], row["ordinal"]]
            assert all(row[name] == whole[name] for name in row if name in whole)


@settings(max_examples=5)
@given(batches().filter(lambda batch: len(batch[0]) > 2), st.data())
def test_how_shards_are_cut_and_ordered_changes_no_content(
    tmp_path_factory: pytest.TempPathFactory, batch: tuple[list[dict[str, Any]], SettleConfig], data: st.DataObject
) -> None:
    rows, config = batch
    contents = set()
    for cuts in ([], sorted(data.draw(st.sets(st.integers(1, len(rows) - 1), min_size=1)))):
        directory = tmp_path_factory.mktemp("cut")
        site = Site(Store(str(directory)))
        ends = [0, *cuts, len(rows)]
        shards = [shard_of(site, rows[a:b]) for a, b in itertools.pairwise(ends)]
        artifact = settle(site, config, data.draw(st.permutations(shards)), [])
        contents.add(artifact.content)
        work = Work(site, directory)
        kept, rest = work.read(artifact, "accepted.parquet"), work.read(artifact, "rest.parquet")
        assert kept.num_rows + rest.num_rows == len(rows)
        assert artifact.rows == kept.num_rows
        assert kept.schema.field("scores").type == table([]).schema.field("scores").type
        notes = work.read_json(artifact, "shards.json")["shards"]
        assert sum(part["rows"] for shard in notes for part in shard["classes"]) == len(rows)
    assert len(contents) == 1
