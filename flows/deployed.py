"""The flows by the names under which servers know them: deployments keep their entrypoints (`augmill.flows.deployed.nightly`)."""

from __future__ import annotations

from prefect import flow

from augmill.flows import augment as main_path
from augmill.flows import compare as comparison
from augmill.flows.nights import flows as nights

__all__ = ["augment", "backfill", "compare", "nightly", "probe"]

augment, backfill, compare, nightly = (
    of.in_prefect() for of in (main_path.augment, nights.backfill, comparison.compare, nights.nightly)
)


@flow(name="augmill-doctor", persist_result=False)
def probe() -> None:
    """What ``augmill doctor`` schedules: that it runs is all it proves."""
