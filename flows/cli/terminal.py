"""Text for people: 80 columns, whatever the language, and nothing of the data that a terminal would obey."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from itertools import accumulate

from augmill.tasks.rows.shown import visible

WIDTH = 80


def shown(text: str, width: int | None = None) -> str:
    """The text with what cannot be printed written out, cut to ``width`` columns of the terminal."""
    from rich.cells import cell_len

    from augmill.tasks.rows.shown import clusters

    parts = [visible(part) for part in clusters(text)]
    plain = "".join(parts)
    if width is None or cell_len(plain) <= width:
        return plain
    ends = accumulate(map(cell_len, parts))  # by characters, which rich's own cut tears apart: half a flag is none
    return "".join(part for part, end in zip(parts, ends, strict=True) if end < width) + "…"


def padded(text: str, width: int) -> str:
    """Cut or filled up to exactly ``width`` columns."""
    from rich.cells import cell_len

    cut = shown(text, width)
    return cut + " " * (width - cell_len(cut))


def wrapped(text: str, indent: str = "  ", first: str | None = None) -> list[str]:
    """Lines of at most WIDTH columns, broken between words; ``first`` in place of the first indent."""
    from rich.cells import cell_len

    lines = [indent if first is None else first]
    for word in shown(text).split(" "):
        glue = "" if lines[-1] in (indent, first) else " "
        if glue and cell_len(lines[-1] + glue + word) > WIDTH:
            lines.append(indent + word)
        else:
            lines[-1] += glue + word
    return lines


def named(names: Sequence[str], limit: int) -> str:
    """``a, b, c and 4 more``."""
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest:,} more" if rest > 0 else "")


def counted(counts: dict[str, int]) -> str:
    """``no_text 3, no_label 1``: the most frequent first."""
    return ", ".join(f"{name} {n:,}" for name, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def aligned(rows: Sequence[Sequence[str]], *, right: Container[int] = (), most: int = 40) -> list[str]:
    """Rows of cells two blanks apart, each cell but the last of a row cut to ``most`` columns; ``right``: columns of numbers."""
    from rich.cells import cell_len

    cells = [[shown(cell, most if at < len(row) - 1 else None) for at, cell in enumerate(row)] for row in rows]
    width = [max(cell_len(row[at]) for row in cells if at < len(row)) for at in range(max(map(len, cells), default=0))]
    lines = []
    for row in cells:
        gaps = [" " * (width[at] - cell_len(cell)) for at, cell in enumerate(row)]
        parts = (
            f"{gap}{cell}" if at in right else f"{cell}{gap}"
            for at, (cell, gap) in enumerate(zip(row, gaps, strict=True))
        )
        lines.append("  ".join(parts).rstrip())
    return lines


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], first: int) -> list[str]:
    """A table whose first column is text of ``first`` columns and whose others are numbers, right-aligned."""
    rows = [list(row) for row in rows]
    widths = [max(len(row[at]) for row in [list(heads), *rows]) + 2 for at in range(1, len(heads))]
    return [
        ("  " + padded(row[0], first) + "".join(cell.rjust(width) for cell, width in zip(row[1:], widths, strict=True)))
        for row in [list(heads), *rows]
    ]
