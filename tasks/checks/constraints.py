"""Refuses rows that break a rule of the user's about the columns of one row, such as ``discount <= price``.

Rules are written as conditions of Python and asked of whole columns by Arrow, never of other rows. As with a CHECK of SQL
a row breaks a rule where it is false, not where it is unknown because a cell is empty.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from augmill.tasks.checks.base import CHECK_FILE, require, verdicts, write_check
from augmill.tasks.contracts import ANY, STRATUM, TARGET, Check, Context, FitInputs, Fitted
from augmill.tasks.errors import UserError
from augmill.tasks.rows.names import nearest

LABEL = "label"  # what rules call a row's class; a number that is learnt they call ``target``
WHERE = "checks.constraints.rules"
DAY = 86_400_000_000  # microseconds


@dataclass(frozen=True)
class ConstraintsOptions:
    """What every row of the data keeps to."""

    rules: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "conditions on columns of one row, such as `ordered <= shipped`, `round(net + tax, 2) == gross` or "
            "`kind != 'gift' or price == 0`; `label` is its class, `target` the number that is learnt, `col('net price')` a "
            "column whose name is no word"
        },
    )
    max_real_refused: float = field(
        default=0.1, metadata={"help": "leave out a rule that more than this share of real rows breaks"}
    )

    def __post_init__(self) -> None:
        require("max_real_refused", self.max_real_refused, 0, 1)


class Constraints(Check):
    """Reason: ``breaks_rule_N``, the first of the rules, from 1, that is false. Score: the share of rules that are not."""

    VERSION: ClassVar[int] = 1
    Options: ClassVar[type[ConstraintsOptions]] = ConstraintsOptions
    kinds: ClassVar[tuple[str, ...]] = ("table",)
    problems: ClassVar[tuple[str, ...]] = (ANY,)
    always: ClassVar[bool] = False

    def preflight(self, fields: tuple[str, ...]) -> None:
        """Raises UserError where a rule cannot be read, or names a column that rows do not have."""
        for rule in self.options.rules:
            _read(rule, [*_names(fields), TARGET])

    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        """check.json's ``rules``: each, what share of train rows breaks it, and whether it ``abstains`` for that.

        Raises UserError where a rule cannot be asked of the columns' types.
        """
        found, broken = [], []
        for rule in self.options.rules:
            rows = _broken(rule, inputs.train, ctx)
            share = float(rows.mean()) if len(rows) else 0.0
            silent = share > self.options.max_real_refused
            found.append({"rule": rule, "abstains": silent, "real_refused": round(share, 6)})
            broken += [] if silent else [rows]
        share = float(np.any(broken, axis=0).mean()) if broken and inputs.train.num_rows else 0.0
        why = f"judges by {len(broken)} of {len(found)} rules, which {share:.1%} of the real rows break"
        left = [f"{rule['rule']!r} ({rule['real_refused']:.1%})" for rule in found if rule["abstains"]]
        why += f"; leaves out {', '.join(left)}, which more real rows break" if left else ""
        return write_check(ctx, abstains=not broken, real_refused=share, why=why, rules=found)

    def judge(self, fitted: Fitted, candidates: pa.Table, ctx: Context) -> pa.Table:
        rules = fitted.read_json(CHECK_FILE)["rules"]
        judged = {at: rule["rule"] for at, rule in enumerate(rules, 1) if not rule["abstains"]}
        broken = np.zeros((candidates.num_rows, len(judged)), np.bool_)
        for place, rule in enumerate(judged.values()):
            broken[:, place] = _broken(rule, candidates, ctx)
        names = [f"breaks_rule_{at}" for at in judged]
        reasons = [names[row.argmax()] if row.any() else None for row in broken]
        return verdicts(reasons, 1 - broken.mean(axis=1) if judged else np.ones(candidates.num_rows))


def _names(fields: Sequence[str]) -> list[str]:
    """What rules call the columns: as the user does, but texts, which are ``text``, ``text_b``, ..."""
    return [LABEL, *(name.partition(":")[2] or name for name in fields)]


def _broken(rule: str, rows: pa.Table, ctx: Context) -> npt.NDArray[np.bool_]:
    """(rows,). A column of the user's goes before the class or the number that is called as it is."""
    columns = {LABEL: rows[STRATUM], **({TARGET: rows[TARGET]} if ctx.target is not None else {})}
    columns |= dict(zip(_names(ctx.fields)[1:], (rows[name] for name in ctx.fields), strict=True))
    asked = _read(rule, list(columns))
    try:
        kept = _value(asked, {name: _plain(column) for name, column in columns.items()})
    except (pa.ArrowException, TypeError, OverflowError, RecursionError) as error:
        problem = f"{rule!r} cannot be asked of these columns ({str(error).partition('; ')[0]})"
        raise UserError(problem, where=WHERE, fix="compare numbers with numbers, texts with texts") from error
    if not isinstance(kept, pa.ChunkedArray) or not pa.types.is_boolean(kept.type):
        problem = f"expected a condition on columns; {rule!r} is none"
        raise UserError(problem, where=WHERE, fix="compare a column with something, such as `low <= high`")
    broken: npt.NDArray[np.bool_] = ~pc.fill_null(kept, True).to_numpy()
    return broken


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """NaN is unknown; moments stand in UTC, as texts in rules are read."""
    if pa.types.is_floating(column.type):
        return pc.if_else(pc.is_nan(column), None, column)
    return column.cast(pa.timestamp("us")) if pa.types.is_timestamp(column.type) else column


# --- The language of rules --------------------------------------------------------------------------------------------


def _divided(one: Any, other: Any) -> Any:
    """As Python divides: Arrow leaves the fraction of whole numbers out. What is divided by zero is unknown."""
    found = pc.divide(*_real(one, other))
    return pc.if_else(pc.is_finite(found), found, None) if pa.types.is_floating(found.type) else found


def _real(one: Any, other: Any) -> tuple[Any, Any]:
    """Two whole numbers as real ones, all else as it is."""
    kinds = [
        value.type if isinstance(value, pa.Scalar | pa.ChunkedArray) else pa.scalar(value).type
        for value in (one, other)
    ]
    return (pc.cast(one, pa.float64()), other) if all(map(pa.types.is_integer, kinds)) else (one, other)


def _days(value: Any) -> Any:
    if not isinstance(value, pa.ChunkedArray) or not pa.types.is_temporal(value.type):
        raise TypeError("days wants moments, or what lies between two")
    return _divided(pc.cast(value, pa.int64()), DAY)


_COMPARED: Mapping[type[ast.cmpop], Callable[..., Any]] = {
    ast.Lt: pc.less, ast.LtE: pc.less_equal, ast.Gt: pc.greater, ast.GtE: pc.greater_equal,
    ast.Eq: pc.equal, ast.NotEq: pc.not_equal,
}  # fmt: skip
_RECKONED: Mapping[type[ast.operator], Callable[..., Any]] = {
    ast.Add: pc.add, ast.Sub: pc.subtract, ast.Mult: pc.multiply,
    ast.Div: _divided, ast.Pow: lambda one, other: pc.power(*_real(one, other)),
}  # fmt: skip
_SIGNS: Mapping[type[ast.unaryop], Callable[..., Any]] = {ast.Not: pc.invert, ast.USub: pc.negate}
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "abs": pc.abs,
    "round": lambda value, digits=0: _rounded(value, digits),
    "min": pc.min_element_wise,
    "max": pc.max_element_wise,
    "sum": lambda first, *others: _added(first, others),
    "days": _days,
    "len": pc.utf8_length,
}


def _rounded(value: Any, digits: int) -> Any:
    """To the number that the decimal is read as; Arrow's own gives 6.7700000000000005 for 6.77."""
    if not isinstance(digits, int):
        raise TypeError("round wants a whole number of digits")
    return pc.divide(pc.round(pc.multiply(value, 10.0**digits)), 10.0**digits)


def _added(first: Any, others: Sequence[Any]) -> Any:
    for other in others:
        first = pc.add(first, other)
    return first


def _read(rule: str, names: Sequence[str]) -> ast.expr:
    """The condition, in which everything is known. Raises UserError."""
    try:
        asked = ast.parse(rule.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{rule!r} cannot be read ({error})", where=WHERE, fix="such as `low <= high`") from error
    nodes = list(ast.walk(asked))
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    listed = {id(right) for node in nodes if isinstance(node, ast.Compare) for right in _lists(node)}
    for node in nodes:
        if not _is_known(node) or (isinstance(node, ast.List | ast.Tuple) and id(node) not in listed):
            problem = f"expected columns, numbers, texts, comparisons, sums and `and`, `or`, `not`; {rule!r} has more"
            fix = f"functions are {', '.join(sorted(_FUNCTIONS))}; `in` wants a list of values, `is None` asks for an empty cell"
            raise UserError(problem, where=WHERE, fix=fix)
        name = _named(node)
        if name is not None and name not in names and id(node) not in called:
            raise UserError(f"{rule!r} names no column {name!r}", where=WHERE, fix=nearest(name, sorted(names)))
    return asked


def _named(node: ast.AST) -> str | None:
    """The column that a part of a rule names."""
    if isinstance(node, ast.Name):
        return node.id
    if _is_column(node):
        return str(node.args[0].value)  # type: ignore[attr-defined]
    return None


def _is_column(node: ast.AST) -> bool:
    """``col("net price")``"""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "col"
        and [type(each) for each in node.args] == [ast.Constant]
    )


def _is_known(node: ast.AST) -> bool:
    if isinstance(node, ast.Compare):
        sides = zip(node.ops, [node.left, *node.comparators], node.comparators, strict=False)
        return all(
            _is_special(how, right) or (type(how) in _COMPARED and not _is_none(left) and not _is_none(right))
            for how, left, right in sides
        )
    if isinstance(node, ast.Call):
        return _is_column(node) or (
            isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS and not node.keywords
        )
    if isinstance(node, ast.Constant):
        return node.value is None or isinstance(node.value, bool | int | float | str)
    if isinstance(node, ast.BinOp | ast.UnaryOp):
        return type(node.op) in _RECKONED or type(node.op) in _SIGNS
    plain = ast.Name, ast.BoolOp, ast.List, ast.Tuple, ast.boolop, ast.unaryop, ast.operator, ast.cmpop
    return isinstance(node, (*plain, ast.expr_context))


def _is_special(how: ast.cmpop, right: ast.expr) -> bool:
    """``in [1, 2]``, ``is None``, and their opposites."""
    if isinstance(how, ast.In | ast.NotIn):
        return isinstance(right, ast.List | ast.Tuple) and all(map(_is_value, right.elts))
    return isinstance(how, ast.Is | ast.IsNot) and _is_none(right)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_value(node: ast.expr) -> bool:
    """A number, perhaps below zero, or a text."""
    signed = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant)
    return isinstance(node, ast.Constant) or (signed and isinstance(node.operand.value, int | float))  # type: ignore[attr-defined]


def _lists(node: ast.Compare) -> list[ast.expr]:
    """What stands behind each ``in``."""
    asked = zip(node.ops, node.comparators, strict=True)
    return [right for how, right in asked if isinstance(how, ast.In | ast.NotIn)]


def _value(node: ast.expr, columns: Mapping[str, Any]) -> Any:
    """What a part of a rule is over all rows: a column, or one value."""
    name = _named(node)
    if name is not None:
        return columns[name]
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        found = [_compared(how, sides[at], sides[at + 1], columns) for at, how in enumerate(node.ops)]
        return _joined(pc.and_kleene, found)
    parts = node.args if isinstance(node, ast.Call) else list(ast.iter_child_nodes(node))
    values = [_value(each, columns) for each in parts if isinstance(each, ast.expr)]
    if isinstance(node, ast.BoolOp):
        return _joined(pc.and_kleene if isinstance(node.op, ast.And) else pc.or_kleene, values)
    return _function(node)(*values)


def _function(node: ast.expr) -> Callable[..., Any]:
    if isinstance(node, ast.UnaryOp):
        return _SIGNS[type(node.op)]
    if isinstance(node, ast.BinOp):
        return _RECKONED[type(node.op)]
    assert isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    return _FUNCTIONS[node.func.id]


def _joined(how: Callable[..., Any], values: Sequence[Any]) -> Any:
    made = values[0]
    for value in values[1:]:
        made = how(made, value)
    return made


def _compared(how: ast.cmpop, left: ast.expr, right: ast.expr, columns: Mapping[str, Any]) -> Any:
    one = _value(left, columns)
    if isinstance(how, ast.Is | ast.IsNot):
        return pc.is_null(one) if isinstance(how, ast.Is) else pc.is_valid(one)
    if isinstance(how, ast.In | ast.NotIn):
        values = pa.array(ast.literal_eval(right))
        inside = pc.if_else(pc.is_null(one), None, pc.is_in(one, _like(values, one)))
        return inside if isinstance(how, ast.In) else pc.invert(inside)
    other = _value(right, columns)
    return _COMPARED[type(how)](_like(one, other), _like(other, one))


def _like(value: Any, other: Any) -> Any:
    """A text beside a moment is one too."""
    kind = getattr(other, "type", None)
    if kind is None or not pa.types.is_timestamp(kind):
        return value
    value = value if isinstance(value, pa.Array | pa.ChunkedArray) else pa.scalar(value)
    return value.cast(kind) if pa.types.is_string(value.type) else value
