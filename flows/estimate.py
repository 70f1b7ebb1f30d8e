"""What runs took and cost, by the attempts of before: the ground of every estimate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from augmill.tasks.recipe.nights import Price

BILLED = ("tokens_in", "tokens_out", "micro_cost")  # of an endpoint, by its generator's own prices


def price_of(price: Price, spent: Mapping[str, Any]) -> float | None:
    """Of what one attempt took, as its end has it; None where nothing has a price. Snapshots made at once count their

    hours each. Tokens of an endpoint with prices of its own (``micro_cost``) do not cost ``million_tokens`` as well.
    """
    used = {**spent, **spent.get("spent", {})}
    own = used.get("micro_cost", 0)
    if own:
        used["tokens"] -= used["tokens_in"] + used["tokens_out"]
    per = {"gpu_seconds": (price.gpu_hour, 3600), "seconds": (price.cpu_hour, 3600)}
    per["tokens"] = (price.million_tokens, 1_000_000)
    parts = [rate * float(used.get(name, 0)) / unit for name, (rate, unit) in per.items() if rate is not None]
    return sum(parts) + own / 1_000_000 if parts or own else None
