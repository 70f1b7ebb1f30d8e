"""What a report is made of: the parts the pipeline holds already, by name. Types only."""

from __future__ import annotations

from typing import Any, Required, TypedDict


class Nearest(TypedDict, total=False):
    """The real row a sample stands nearest to. ``similarity``: Jaccard over character 5-grams, 0 to 1."""

    text: Required[str]
    label: str
    row_id: str
    similarity: float


class Sample(TypedDict, total=False):
    """A synthetic row as the report shows it; ``reason`` where it was refused."""

    text: Required[str]
    label: Required[str]
    generator: Required[str]
    row_id: str
    reason: str
    nearest: Nearest | None


class CheckFinding(TypedDict, total=False):
    """A check's own ``check.json`` (``abstains``, ``real_refused`` as a share of real rows, ``why``) under its name;

    ``thresholds``: name -> value, as they held in this run.
    """

    name: Required[str]
    abstains: Required[bool]
    real_refused: float | None
    why: str
    thresholds: dict[str, Any]


class Validation(TypedDict, total=False):
    """``shards``: outcome -> shards; ``release``: summary of ``validate_release``; ``docs``: relative link."""

    shards: dict[str, int]
    problems: list[str]
    release: dict[str, Any] | None
    docs: str


class ReportEvidence(TypedDict, total=False):
    """All that a report shows; every part but the first five may be missing, and its section is then left out.

    The parts are what the pipeline holds already: ``gate`` is the gate's evidence (tasks/gate/judge.py), ``ledger`` the
    settled ledger.json, ``source`` ingest's summary.json. Numbers in ``gate`` are points and percent.
    """

    dataset: Required[str]
    snapshot: Required[str]
    outcome: Required[str]  # published | harmful | inconclusive | not_produced | unsound_source
    reason: Required[str]
    next_action: Required[str]
    released: str | None  # mix | real | placebo | current (what stood before stays); None: nothing
    gate: dict[str, Any] | None
    ledger: dict[str, Any] | None
    split: list[dict[str, Any]]  # plan.policy: adaptive: round, generator, asked, passed, gain, error, weight
    spent: dict[str, dict[str, int]]  # of generators that ask an endpoint: requests, rows_sent, tokens_in, ...
    train: dict[str, int]  # class -> real train rows
    mixed: dict[str, int]  # class -> rows of the mix, real and synthetic; by default train + accepted
    lengths: dict[str, list[int]]  # "real", "synthetic": characters of each row
    checks: list[CheckFinding]
    validation: Validation
    samples: dict[str, list[Sample]]  # "accepted", "refused"
    source: dict[str, Any] | None
    drift: dict[str, Any]  # fitted, against (snapshots), and, where both could be read, labels, lengths, characters
    splits: dict[str, int]  # rows of train, validation, test, and of train held back for standing in the latter two
    release: str | None
    release_path: str  # path or URI, as a reader of the release would give it
    prefix: str
    recipe_sha256: str
    versions: dict[str, str]
