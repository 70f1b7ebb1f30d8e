"""How many accepted rows each class is to get, and each generator's part of them."""

from __future__ import annotations

import math

from augmill.tasks.recipe.sections import Target


def targets_for(target: Target, counts: dict[str, int], max_ratio: float | None = None) -> dict[str, int]:
    """Accepted rows each class is to get, from the train rows it has; all together at most ``max_ratio`` per train row:

    beyond that every class's target is cut by the same share.
    """
    wanted = _wanted(target, counts)
    most, total = math.inf if max_ratio is None else max_ratio * sum(counts.values()), sum(wanted.values())
    return wanted if total <= most else {name: math.floor(rows * most / total) for name, rows in wanted.items()}


def _wanted(target: Target, counts: dict[str, int]) -> dict[str, int]:
    if target.per_class is not None:
        return dict.fromkeys(counts, target.per_class)
    if target.multiply is not None:
        return {name: round((target.multiply - 1) * count) for name, count in counts.items()}
    top = max(counts.values()) if target.balance == "max" else int(target.balance or 0)
    return {name: max(0, top - count) for name, count in counts.items()}


def nothing_to_make(target: Target, counts: dict[str, int], max_ratio: float | None = None) -> str | None:
    """Why no row is to be made for any class; None where some are."""
    if any(targets_for(target, counts, max_ratio).values()):
        return None
    wanted = sum(_wanted(target, counts).values())
    if wanted:
        why = f"mix.max_ratio {max_ratio:g} leaves no class a whole one of the {wanted:,} rows"
    elif target.multiply is not None:
        why = f"target.multiply {target.multiply:g} adds less than one row to {sum(counts.values()):,} train rows"
    else:
        name, least = min(counts.items(), key=lambda item: (item[1], item[0]))
        asked = "as many as the largest" if target.balance == "max" else f"target.balance asks for {target.balance:,}"
        why = f"every class already has its target (the smallest, {name!r}, has {least:,} train rows; {asked})"
    return f"nothing to make: {why}; nothing was asked for"


def split_target(total: int, shares: dict[str, float]) -> dict[str, int]:
    """Whole rows per generator by largest remainder; they sum to ``total``."""
    weight = sum(shares.values())
    exact = {name: total * share / weight for name, share in shares.items()}
    whole = {name: math.floor(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (whole[name] - exact[name], name))
    for name in by_remainder[: total - sum(whole.values())]:
        whole[name] += 1
    return whole
