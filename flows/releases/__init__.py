"""What becomes of releases: kept, taken away, forgotten, verified, explained, compared."""

from augmill.flows.releases.differences import audit, diff
from augmill.flows.releases.forgetting import forget, require_known
from augmill.flows.releases.gc import find_garbage, sweep_store
from augmill.flows.releases.holding import find_rows
from augmill.flows.releases.lineage import explain, taken_away
from augmill.flows.releases.retention import Limits
from augmill.flows.releases.verify import verify_store

__all__ = [
    "Limits",
    "audit",
    "diff",
    "explain",
    "find_garbage",
    "find_rows",
    "forget",
    "require_known",
    "sweep_store",
    "taken_away",
    "verify_store",
]
