"""The adaptive plan: rows go to generators that help where they did not learn, targets stay exact, chance moves little."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chain import WORDS, produce_snapshot, recipe_document, write_rows
from hypothesis import given
from hypothesis import strategies as st

from augmill.tasks.recipe.recipe import build_recipe
from augmill.tasks.recipe.sections import Plan, Refill, Target
from augmill.tasks.stages.plan import AdaptiveConfig, PlanConfig, due, plan_adaptive_round
from augmill.tasks.stages.weigh import parts_of, weigh_all
from augmill.tasks.store.stage import Work, read_json
from augmill.tasks.store.store import Store

Row = dict[str, Any]


def write_made(path: Path, rows: int, *, wrong: bool, seed: int = 3) -> Path:
    """Rows for `replay`, of the words of their class, or of another one."""
    rng, names = np.random.default_rng(seed), sorted(WORDS)
    lines = ["text,label"]
    for at in range(rows):
        words = WORDS[names[(at + wrong) % 3]]
        lines.append(f"{' '.join(rng.choice(words, 7))},{names[at % 3]}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class Run:
    """One snapshot of two generators, `rules` and `replay`, produced under the adaptive plan."""

    def __init__(self, directory: Path, *, wrong: bool, store: str = "store", **changes: Any) -> None:
        made = write_made(directory / "made.csv", 400, wrong=wrong)
        document = recipe_document(write_rows(directory / "rows.csv", 150)) | {
            "generators": [{"use": "rules", "operations": {"swap": 1.0}}, {"use": "replay", "path": str(made)}],
            "plan": {"policy": "adaptive"},
            "checks": {"label_consistency": False},
            "target": {"per_class": 40},
        }
        recipe = build_recipe(document | changes, base=directory)
        produced = produce_snapshot(recipe, Store(str(directory / store)))
        site, self.settled = produced.run.site, produced.settled
        self.ledger = read_json(site.store, self.settled, "ledger.json")
        self.weights = [read_json(site.store, part, "weights.json") for part in produced.made.weighed]
        self.accepted = Work(site, directory).read(self.settled, "accepted.parquet")

    def share(self, generator: str) -> float:
        names = self.accepted["generator"].to_pylist()
        return names.count(generator) / len(names)


@pytest.mark.slow
def test_rows_go_where_they_help_and_every_target_is_met_exactly(tmp_path: Path) -> None:
    shares = {}
    for name, wrong in (("good", False), ("bad", True)):
        (tmp_path / name).mkdir()
        run = Run(tmp_path / name, wrong=wrong)
        shares[name] = run.share("replay")
        assert set(run.ledger["accepted"].values()) == {40} and not any(run.ledger["shortfall"].values())
        assert len(run.weights) == 2 and all(abs(sum(w["weights"].values()) - 1) < 1e-3 for w in run.weights)
    assert shares["bad"] < 0.35 and shares["good"] > 0.5


def test_the_same_recipe_gives_the_same_rows_and_weights_in_two_stores(tmp_path: Path) -> None:
    first, second = (Run(tmp_path, wrong=True, store=name) for name in ("a", "b"))
    assert first.settled.content == second.settled.content and first.weights == second.weights


def test_shares_leave_no_trace_of_the_adaptive_plan(tmp_path: Path) -> None:
    run = Run(tmp_path, wrong=True, plan={"policy": "shares"})
    assert run.weights == [] and abs(run.share("replay") - 0.5) < 0.05


@given(st.integers(0, 10_000))
def test_generators_that_differ_by_chance_alone_stay_near_their_shares(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gains = {name: rng.normal(0, 20, (3, 60)) for name in ("a", "b", "c")}
    found = weigh_all(dict.fromkeys(gains, 1.0), dict.fromkeys(gains, (100, 80)), gains, 0.1)
    assert all(0.05 < weight < 0.75 for weight in found["weights"].values())


def test_what_chance_does_to_weights_is_little_on_average() -> None:
    rng = np.random.default_rng(1)
    largest = []
    for _ in range(200):
        gains = {name: rng.normal(0, 20, (3, 60)) for name in ("a", "b")}
        found = weigh_all({"a": 1.0, "b": 1.0}, {"a": (100, 80), "b": (100, 80)}, gains, 0.1)
        largest.append(max(found["weights"].values()))
    assert float(np.median(largest)) < 0.55


def test_a_clear_gain_moves_the_weights_and_the_floor_holds() -> None:
    rng = np.random.default_rng(2)
    gains = {"good": rng.normal(8, 10, (3, 200)), "bad": rng.normal(-8, 10, (3, 200))}
    found = weigh_all({"good": 1.0, "bad": 1.0}, {"good": (100, 90), "bad": (100, 90)}, gains, 0.1)
    assert found["weights"]["good"] > 0.85 and found["weights"]["bad"] >= 0.05


def test_of_two_alike_the_one_whose_rows_pass_has_more_and_unmeasured_ones_keep_their_shares() -> None:
    found = weigh_all({"a": 1.0, "b": 1.0}, {"a": (100, 100), "b": (100, 25)}, {}, 0.1)["weights"]
    assert found["a"] > 1.5 * found["b"]
    assert weigh_all({"a": 3.0, "b": 1.0}, {}, {}, 0.1)["weights"] == {"a": 0.75, "b": 0.25}


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(1, 500), min_size=1),
    st.floats(0.05, 0.95),
    st.integers(2, 6),
    st.integers(1, 9),
    st.data(),
)
def test_no_round_asks_beyond_its_bounds_and_the_last_one_is_due_in_full(
    targets: dict[str, int], explore: float, rounds: int, number: int, data: st.DataObject
) -> None:
    plan = Plan(policy="adaptive", explore=explore, rounds=rounds)
    first, last = (due(plan, at, 100) for at in (1, rounds))
    assert first == int(np.ceil(100 * explore)) and last == 100 and first <= due(plan, min(number, rounds), 100) <= last
    base = PlanConfig(Target(per_class=1), Refill(max_asked=2.0), {"x": 1.0, "y": 1.0})
    weight = data.draw(st.floats(0.05, 0.95))
    streams: dict[str, dict[str, Row]] = {"x": {}, "y": {}}
    for name in targets:
        for stream in streams.values():
            asked = data.draw(st.integers(0, 300))
            eligible = data.draw(st.integers(0, asked))
            stream[name] = {"asked": asked, "eligible": eligible, "stopped": data.draw(st.booleans())}
    config = AdaptiveConfig(plan, base, number)
    segments = plan_adaptive_round(config, {"x": weight, "y": 1 - weight}, targets, {}, streams)
    for name, target in targets.items():
        before = sum(streams[generator][name]["asked"] for generator in streams)
        new = [part for part in segments if part["stratum"] == name]
        assert not new or before + sum(part["count"] for part in new) <= int(np.ceil(base.refill.max_asked * target))
        for part in new:
            seen = streams[part["generator"]][name]
            assert part["start"] == seen["asked"] and not seen["stopped"] and part["count"] > 0


def test_equal_texts_and_rows_of_a_group_judge_together() -> None:
    import pyarrow as pa

    table = pa.table({"text": ["Money back!", "money  back", "other", "third"], "group": [None, None, "g", "g"]})
    parts = parts_of(table, ("text",)).tolist()
    assert parts[0] == parts[1] and parts[2] == parts[3]
    assert json.dumps(parts_of(table, ("text",)).tolist()) == json.dumps(parts)
