"""The example of orders, source to release: what holds within every real row holds within every made one."""

from __future__ import annotations

from pathlib import Path

import pytest
from examples import ORDERS, write_orders
from running import SPLITS, check_ledger, run

from augmill.tasks.errors import UserError
from augmill.tasks.recipe.recipe import load_recipe

ORDERS_EXAMPLE = Path(__file__).parents[1] / "infra" / "examples" / "orders"


def test_every_row_of_a_release_keeps_the_rules(tmp_path: Path) -> None:
    changes = ("gate.seeds=3", "gate.rule=not_worse", "gate.margin=100")
    found = run(
        load_recipe(ORDERS_EXAMPLE / "recipe.yaml", store=str(tmp_path / "store"), changes=changes), orchestrator="none"
    )
    assert found.result["arrangement"] == "mix"
    check_ledger(found)
    rows = [row for split in SPLITS for row in found.rows(split)]
    assert sum(row["aug_origin"] == "real" for row in rows) == ORDERS and len(rows) > ORDERS + 150
    for row in rows:
        net, discount, tax, gross = (float(row[name]) for name in ("net", "discount", "tax", "gross"))
        assert row["shipped"] >= row["ordered"] and discount <= net and round(net - discount + tax, 2) == gross


def test_the_orders_are_what_the_program_draws(tmp_path: Path) -> None:
    write_orders(tmp_path / "orders.csv")
    assert (tmp_path / "orders.csv").read_bytes() == (ORDERS_EXAMPLE / "orders.csv").read_bytes()


def test_a_rule_about_no_column_is_said_before_anything_is_read(tmp_path: Path) -> None:
    recipe = load_recipe(
        ORDERS_EXAMPLE / "recipe.yaml", store=str(tmp_path), changes=("checks.constraints.rules=['nett > 0']",)
    )
    with pytest.raises(UserError, match=r"'nett > 0' names no column 'nett'"):
        recipe.preflight()
