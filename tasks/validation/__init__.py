"""Great Expectations: suites over rounds and releases, and over shards that are not sound, and their Data Docs."""

from augmill.tasks.validation.data_docs import build_data_docs
from augmill.tasks.validation.suites import (
    RELEASE_BOUNDS,
    ValidationOptions,
    validate_release,
    validate_round,
    validate_shard,
)
from augmill.tasks.validation.user_suite import failed_expectations, load_suite

__all__ = [
    "RELEASE_BOUNDS",
    "ValidationOptions",
    "build_data_docs",
    "failed_expectations",
    "load_suite",
    "validate_release",
    "validate_round",
    "validate_shard",
]
