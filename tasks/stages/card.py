"""The dataset card: README.md with the front matter that ``datasets.load_dataset`` and the Hub read."""

from __future__ import annotations

import re
from typing import Any

import yaml

from augmill.tasks.recipe.sections import Columns
from augmill.tasks.rows.kinds.text import visible

_ARRANGEMENTS = {
    "mix": "The training split holds real rows and synthetic rows, which were judged on held-out real rows.",
    "real": "The training split holds real rows alone.",
    "placebo": "The training split holds real rows alone, each once, with weights that balance the classes.",
}


def dataset_card(
    dataset: str,
    task: str,
    counts: dict[str, Any],
    labels: list[str],
    columns: Columns,
    prefix: str,
    arrangement: str,
    proven: str = "",
) -> str:
    """Markdown with YAML front matter; nothing in it changes unless the release does. ``proven``: the gate's headline."""
    splits = {name: part for name, part in counts.items() if part["rows"]}
    front = {
        "pretty_name": dataset,
        "task_categories": ["text-classification"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": name, "path": f"{name}/*.parquet"} for name in splits],
            }
        ],
    }
    table = "\n".join(f"| {name} | {part['rows']:,} | {part['synthetic']:,} |" for name, part in splits.items())
    shown = ", ".join(map(_code, labels[:50])) + (" ..." if len(labels) > 50 else "")
    return f"""---
{yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip()}
---
# {visible(dataset)}

{" ".join(filter(None, (_ARRANGEMENTS[arrangement], proven)))} Task: {task.replace("_", " ")}.

| split | rows | of them added |
|---|---:|---:|
{table}

Text: {", ".join(map(_code, columns.texts))}; label: {_code(columns.label)} with {len(labels)} values: {shown}.

Added columns: `{prefix}row_id`, `{prefix}split`, `{prefix}origin` (`real`, `synthetic`, or `pseudo_labelled`: a real
text that got its label from a model), `{prefix}generator`, `{prefix}parent_ids`, `{prefix}seed`, `{prefix}weight`,
`{prefix}scores`. `order.parquet` holds a reading order,
`manifest.json` the checksums and the ledger of every candidate row.
"""


def _code(name: str) -> str:
    """A code span that the name cannot leave: on one line, its fence longer than any row of backticks inside."""
    shown = visible(name)
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    pad = " " if shown.startswith("`") or shown.endswith("`") or not shown.strip() else ""
    return f"{fence}{pad}{shown}{pad}{fence}"
