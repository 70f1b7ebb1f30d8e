"""The laws of checks."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from augmill.tasks.contracts import TARGET, VERDICT_SCHEMA, Check, Context, FitInputs, Fitted
from augmill.testing.rows import fields_in, require_declared, require_files, require_light_import, rows_for, target_in

# What generators have delivered: nothing, marks alone, a class that is none, characters that nobody sees.
STRANGE = (None, "", "!!!", "\ufeff\u200b", "x" * 5000, "为何农民工每天日夜加班", "hello\x00\x1f who pays")


class CheckBench:
    """One fitted check: its files in ``directory``, what its check.json says, and its verdicts.

    ``rows``: real rows (``row_id``, ``stratum``, the target if there is one, the fields); without them samples of texts or
    of a table, whichever the check serves. ``held_out``: the test rows, another part of the like.
    """

    def __init__(
        self,
        check: Check,
        directory: Path,
        *,
        rows: pa.Table | None = None,
        held_out: pa.Table | None = None,
        unlabelled: pa.Table | None = None,
        fields: tuple[str, ...] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.check, self.directory = check, directory
        self.train = rows_for(check) if rows is None else rows
        none = self.train.slice(0, 0)
        self.held_out = none if held_out is None else held_out
        self.context = Context(
            seed=0, fields=fields or fields_in(self.train), workdir=directory, target=target_in(self.train)
        )
        inputs = FitInputs(self.train, none, self.held_out, none, none if unlabelled is None else unlabelled)
        self.files = check.fit(inputs, self.context)
        self.fitted = Fitted(directory, "content")
        self.learnt: dict[str, Any] = json.loads((directory / "check.json").read_text(encoding="utf-8"))

    def again(self, name: str, rows: pa.Table) -> CheckBench:
        """The same check fitted anew, on these rows."""
        fields = self.context.fields
        return CheckBench(type(self.check)(self.check.options), self.directory.parent / name, rows=rows, fields=fields)

    def judge(self, candidates: pa.Table) -> pa.Table:
        return self.check.judge(self.fitted, candidates, self.context)

    def reasons(self, candidates: pa.Table) -> list[str | None]:
        found: list[str | None] = self.judge(candidates)["reason"].to_pylist()
        return found

    def candidates(self) -> pa.Table:
        """Train rows, rows of their cells shuffled column by column, one of a stratum that is none; texts that are odd."""
        fields, rows = self.context.fields, pa.concat_tables([self.train, self.held_out])
        names = ["stratum", *([TARGET] if TARGET in rows.column_names else []), *fields]
        rows = rows.select(names).combine_chunks()
        draw = np.random.default_rng(0)
        mixed = pa.table({name: rows[name].take(pa.array(draw.permutation(rows.num_rows))) for name in names})
        parts = [rows, mixed, rows.slice(0, 1).set_column(0, "stratum", pa.array(["unheard of"]))]
        if "text" in fields:
            odd = rows.take(pa.array([0] * len(STRANGE)))
            parts.append(odd.set_column(odd.schema.get_field_index("text"), "text", pa.array(STRANGE, pa.string())))
        whole = pa.concat_tables(part.cast(rows.schema) for part in parts).combine_chunks()
        return whole.append_column("parent_ids", pa.array([[]] * whole.num_rows, pa.list_(pa.string())))


def any_row_gets_one_verdict_of_the_schema(bench: CheckBench) -> None:
    rows = bench.candidates()
    for asked in (rows, rows.slice(0, 0)):
        answer = bench.judge(asked)
        named = answer.schema.names[: len(VERDICT_SCHEMA)]
        assert answer.select(named).schema == VERDICT_SCHEMA, f"expected {VERDICT_SCHEMA}, found {answer.schema}"
        assert answer.num_rows == asked.num_rows, "a verdict a row"


def a_verdict_depends_on_its_own_row_alone(bench: CheckBench) -> None:
    rows = bench.candidates()
    together = bench.judge(rows).to_pylist()
    alone = [bench.judge(rows.slice(at, 1)).to_pylist()[0] for at in range(rows.num_rows)]
    assert together == alone, "a row judged alone gets another verdict"
    order = pa.array(range(rows.num_rows - 1, -1, -1), pa.int64())
    assert bench.judge(rows.take(order)).to_pylist() == together[::-1], (
        "a row judged in another order gets another verdict"
    )


def the_same_rows_give_the_same_files_and_all_are_named(bench: CheckBench) -> None:
    require_files(bench.files, bench.directory)
    one, other = (bench.again(name, bench.train) for name in ("one", "other"))
    for name, path in one.files.items():
        assert path.read_bytes() == other.files[name].read_bytes(), f"{name} differs from fit to fit"


def it_tells_what_it_measured_on_real_rows(bench: CheckBench) -> None:
    assert isinstance(bench.learnt["abstains"], bool), "check.json: whether it abstains"
    assert 0 <= bench.learnt["real_refused"] <= 1, "check.json: the share of real rows that it would refuse"
    assert bench.learnt["why"], "check.json: why it abstains, or that it does not"


def a_tiny_train_set_is_no_error(bench: CheckBench) -> None:
    rows = bench.candidates()
    for name, at in (("of one", [0]), ("of two", [0, -1]), ("of equal rows", [0] * 9)):
        places: Sequence[int] = [place % bench.train.num_rows for place in at]
        few = bench.train.take(pa.array(places, pa.int64()))
        few = few.set_column(0, "row_id", pa.array([f"row {number}" for number in range(few.num_rows)]))
        assert bench.again(name, few).judge(rows).num_rows == rows.num_rows, f"fitted on a train set {name}"


def its_options_are_explained(bench: CheckBench) -> None:
    require_declared(bench.check)
    require_light_import(bench.check)


CHECK_LAWS: tuple[Callable[[CheckBench], None], ...] = (
    any_row_gets_one_verdict_of_the_schema,
    a_verdict_depends_on_its_own_row_alone,
    the_same_rows_give_the_same_files_and_all_are_named,
    it_tells_what_it_measured_on_real_rows,
    a_tiny_train_set_is_no_error,
    its_options_are_explained,
)
