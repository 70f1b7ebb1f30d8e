"""The evidence of one published night, for the tests; ``python tests/report_sample.py OUT.html`` writes its report."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from augmill.tasks.report.report import ReportEvidence, render_report

CLASSES = {"refund_status": 52, "card_declined": 41, "change_address": 33, "cancel_order": 24, "invoice_copy": 18,
           "late_delivery": 14, "wrong_item": 9, "gift_voucher": 6, "gdpr_request": 4}  # fmt: skip


def gate(verdict: str = "published", gains: tuple[float, ...] = (4.2, 2.1, 2.1)) -> dict[str, Any]:
    """The gate's evidence in the shape of tasks/gate/judge.py."""

    def split(rows: int, shift: float) -> dict[str, Any]:
        arms = {"real": 78.4, "placebo": 78.4 + gains[2], "mix": 78.4 + gains[0]}
        per_class = {
            arm: [
                {"label": name, "n": 6 + count, "recall": score - 30 / count, "f1": score - 40 / count}
                for name, count in CLASSES.items()
            ]
            for arm, score in arms.items()
        }
        comparisons = {}
        for pair, gain in zip(("mix-real", "mix-placebo", "placebo-real"), gains, strict=True):
            bounds = {"gain": gain + shift, "low": gain + shift - 1.3, "high": gain + shift + 1.4}
            comparisons[pair] = {
                "arm": pair.split("-")[0],
                "reference": pair.split("-")[1],
                "gains": {"accuracy": bounds, "macro_f1": {name: 1.5 * value for name, value in bounds.items()}},
                "per_class": [
                    {
                        "label": name,
                        "n": 6 + count,
                        "judged": count >= 14,
                        "gain": gain,
                        "low": gain - 9,
                        "high": gain + 8,
                    }
                    for name, count in CLASSES.items()
                ],
            }
        scores = {
            arm: {
                "accuracy": score + shift,
                "macro_f1": score - 3.1,
                "focus_f1": None,
                "per_class": per_class[arm],
                "chosen": [],
            }
            for arm, score in arms.items()
        }
        return {"rows": rows, "arms": scores, "comparisons": comparisons}

    return {
        "verdict": verdict,
        "reason": "The mix is proven to gain more than 0.5 points: against the placebo (real rows repeated) the "
        "gain is +2.1 points (+0.8 to +3.5) on 812 held-out rows.",
        "best_real": "placebo",
        "judged_by": "accuracy",
        "options": {"rule": "superior", "margin": 0.5, "min_gain": 0.5, "metric": "accuracy", "confidence": 0.95,
                    "min_heldout_per_class": 20},
        "seeds": 10,
        "draws": 10,
        "rows": {"real": 201, "synthetic": 267, "validation": 812, "test": 409},
        "smallest_visible_gain": 1.9,
        "rows_needed": None if verdict == "published" else 3140,
        "validation": split(812, 0.0),
        "test": split(409, -0.4),
    }  # fmt: skip


def ledger() -> dict[str, Any]:
    """settle's ledger.json for targets that balance the classes; it adds up."""
    rows, accepted = [], {}
    targets = {name: 52 - count for name, count in CLASSES.items() if count < 52}
    for place, (name, target) in enumerate(targets.items()):
        short = 7 if name == "gdpr_request" else 0
        accepted[name] = target - short
        rejected = {"label_consistency": 9 + 3 * place, "near_train": 4 + place, "equals_parent": 5, "too_short": place}
        rejected |= {"in_heldout": 1} if place == 2 else {}
        undelivered = {"unchanged": 6} if place % 2 else {}
        surplus = 0 if short else 3 * place
        delivered = sum(rejected.values()) + surplus + accepted[name]
        row = {
            "generator": "rules" if place % 3 else "causal_lm",
            "class": name,
            "asked": delivered + sum(undelivered.values()),
        }
        row |= {"delivered": delivered, "undelivered": undelivered, "rejected": rejected}
        rows.append({**row, "surplus": surplus, "accepted": accepted[name]})
    shortfall = {name: target - accepted[name] for name, target in targets.items()}
    return {
        "rows": rows,
        "targets": targets,
        "accepted": accepted,
        "shortfall": shortfall,
        "relabelled": [],
        "streams": {},
    }


def sample(label: str, text: str, nearest: str, similarity: float) -> dict[str, Any]:
    return {"label": label, "text": text, "nearest": {"text": nearest, "label": label, "similarity": similarity}}


def evidence() -> ReportEvidence:
    """A night on which rows of two generators helped, in the shapes that the pipeline hands over."""
    draws = np.random.default_rng(7)
    accepted = [
        (
            "refund_status",
            "when will my reimbursement reach my bank account",
            "when will my refund reach my bank account",
            0.71,
        ),
        (
            "gdpr_request",
            "please erase all personal data you hold about me",
            "please delete all data you have about me",
            0.44,
        ),
        ("gift_voucher", "the gift card code is not accepted at checkout", "my voucher code is not accepted", 0.38),
    ]
    refused = [
        ("late_delivery", "parcel parcel where where is", "where is my parcel", 0.52, "repetition"),
        ("card_declined", "My card was declined!", "my card was declined", 1.0, "equals_parent"),
        ("wrong_item", "i want my money back for the late order", "i want my money back", 0.58, "label_consistency"),
    ]
    return {
        "dataset": "support_intents",
        "snapshot": "2026-11-24",
        "outcome": "published",
        "next_action": "Train on this release.",
        "reason": gate()["reason"],
        "released": "mix",
        "gate": gate(),
        "ledger": ledger(),
        "train": dict(CLASSES),
        "lengths": {
            "real": (8 + draws.gamma(4, 11, 900)).astype(int).tolist(),
            "synthetic": (8 + draws.gamma(5, 9, 267)).astype(int).tolist(),
        },
        "checks": [
            {"name": "length", "abstains": False, "real_refused": 0.012, "why": "bounds learnt from 201 rows",
             "thresholds": {"shortest": 9, "longest": 164}},
            {"name": "relations", "abstains": False, "real_refused": 0.0, "thresholds": {"heldout_near": 0.8}},
            {"name": "label_consistency", "abstains": True, "real_refused": 0.184, "why": "refuses 18.4% of real rows"},
        ],
        "validation": {
            "shards": {"passed": 11, "nothing_to_validate": 1},
            "release": {"outcome": "passed", "planned": 14, "evaluated": 14, "problems": []},
            "docs": "data_docs/index.html",
        },
        "samples": {
            "accepted": [{**sample(*row), "generator": "rules"} for row in accepted],
            "refused": [{**sample(*row), "generator": "causal_lm", "reason": reason} for *row, reason in refused],
        },
        "source": {"files": ["a.csv", "b.csv"], "read": 1448, "taken": 1422,
                   "refused": {"no_text": 19, "unknown_label": 7}},
        "splits": {"train": 201, "validation": 812, "test": 409, "held_back": 6},
        "release": "5f0c2f6c9b1e44d7",
        "release_path": "public/support_intents/releases/5f0c2f6c9b1e44d7",
        "recipe_sha256": "9d1f3c7be0a2",
        "versions": {"augmill": "0.1.0", "pyarrow": "22.0.0", "scikit-learn": "1.7.2"},
    }  # fmt: skip


# Mappings whose keys stem from data.
NAMED = (
    "targets",
    "accepted",
    "shortfall",
    "rejected",
    "undelivered",
    "train",
    "refused",
    "versions",
    "thresholds",
    "spent",
)
FIXED = {"outcome", "released", "judged_by", "rule", "verdict", "prefix"}


def with_texts(found: ReportEvidence, told: Callable[[str], str]) -> ReportEvidence:
    """The evidence with ``told`` of every text in it that stems from data."""

    def change(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {(told(name) if key in NAMED else name): change(each, name) for name, each in value.items()}
        if isinstance(value, list):
            return [change(each) for each in value]
        return told(value) if isinstance(value, str) and key not in FIXED else value

    return cast("ReportEvidence", change(found))


def whole_evidence() -> ReportEvidence:
    """The same night with the parts that few nights have: endpoints, an adaptive split, drift, warnings, folds."""
    found: Any = evidence()
    tokens = {"tokens_in": 240_000, "tokens_out": 61_000, "micro_cost": 421_300}
    found["spent"] = {"chat": {"requests": 1204, "retries": 3, "rows_sent": 6020, "cached": 40} | tokens}
    found["split"] = [
        {"round": 1, "generator": "rules", "asked": 90, "passed": 50, "gain": None, "error": None, "weight": 0.4},
        {"round": 1, "generator": "causal_lm", "asked": 80, "passed": 60, "gain": 1.2, "error": 0.3, "weight": 0.6},
    ]
    found["drift"] = {"fitted": "2026-11-01", "against": "2026-11-01"}
    found["drift"] |= {"largest": 0.12, "labels": 0.1, "lengths": 0.12, "characters": 0.01}
    found["source"]["warnings"] = [
        "labels.retired: no row is labelled 'old'",
        "3 equal texts stand under several labels",
    ]
    found["gate"]["folds"] = 5
    found["validation"]["release"]["problems"] = ["ttr: expect_column_max_to_be_between failed, found 0.2"]
    return cast("ReportEvidence", found)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render_report(evidence()), encoding="utf-8")
