"""How results are shown: a few plain lines in a terminal, a verdict and a table in a notebook.

Labels, reasons and places come from outside: what no reader could see is written out, and HTML is escaped.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

LISTED = 20  # rows of a table; of more, so many and how many are left out


class Place(str):
    """A path or an address: a link in a notebook, where it is absolute and no more than that."""

    __slots__ = ()

    @property
    def address(self) -> str | None:
        return (
            self if self.startswith(("https://", "http://")) else f"file://{quote(self)}" if self[:1] == "/" else None
        )


@dataclass(frozen=True)
class Grid:
    """A table: its heads, and rows of cells; cells after the first that are numbers stand to the right."""

    heads: Sequence[str]
    rows: Sequence[Sequence[Any]]


def lines(kind: str, head: str, facts: Iterable[tuple[str, Any]]) -> str:
    """``<RunResult: head`` and a line for each fact that there is, for ``__repr__``."""
    told = [f"  {name:<10} {_plain(value)}" for name, value in facts if value not in (None, "", ())]
    return "\n".join([f"<{kind}: {_plain(head)}", *told]) + ">"


def page(head: str, said: str, facts: Iterable[tuple[str, Any]], *grids: Grid) -> str:
    """The same for ``_repr_html_``: a head, a sentence, facts, tables. Fetches nothing and runs nothing."""
    parts = [f"<p><b>{_safe(head)}</b></p>"]
    if said:
        parts.append(f"<p>{_safe(said)}</p>")
    parts += [_table(grid) for grid in grids if grid.rows]
    told = [(name, value) for name, value in facts if value not in (None, "", ())]
    if told:
        parts.append(_table(Grid((), told)))
    return f"<div class='augmill'>{''.join(parts)}</div>"


def number(value: Any) -> str:
    """A count with its thousands set apart, another number in a few digits, everything else as text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def _table(grid: Grid) -> str:
    left = len(grid.rows) - LISTED
    rows = [
        "".join(_cell("td", cell, right=at > 0 and isinstance(cell, int | float)) for at, cell in enumerate(row))
        for row in grid.rows[:LISTED]
    ]
    if left > 0:
        rows.append(_cell("td", f"and {left:,} more"))
    head = f"<thead><tr>{''.join(_cell('th', name) for name in grid.heads)}</tr></thead>" if grid.heads else ""
    return f"<table>{head}<tbody>{''.join(f'<tr>{row}</tr>' for row in rows)}</tbody></table>"


def _cell(tag: str, value: Any, *, right: bool = False) -> str:
    told = _safe(number(value))
    if isinstance(value, Place) and value.address is not None:
        told = f"<a href='{_safe(value.address)}'>{told}</a>"
    return f"<{tag} style='text-align:{'right' if right else 'left'}'>{told}</{tag}>"


def _plain(value: Any) -> str:
    from augmill.tasks.rows.shown import visible

    return visible(number(value))


def _safe(text: str) -> str:
    from augmill.tasks.rows.shown import PAGE, visible

    return html.escape(visible(text, keep=PAGE))
