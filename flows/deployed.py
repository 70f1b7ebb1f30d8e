"""The flows by the names under which servers know them: deployments keep their entrypoints (`augmill.flows.deployed.nightly`)."""

from __future__ import annotations

from prefect import flow

from augmill.flows.augment import augment
from augmill.flows.nights.flows import backfill, nightly

__all__ = ["augment", "backfill", "nightly", "probe"]


@flow(name="augmill-doctor", persist_result=False)
def probe() -> None:
    """What ``augmill doctor`` schedules: that it runs is all it proves."""
