"""The flows as Prefect takes them: parameters of the types that stand in their signatures, and whole when they are pickled."""

from __future__ import annotations

import subprocess
import sys

import cloudpickle
import pytest

from augmill.flows.augment import augment
from augmill.flows.compare import compare
from augmill.flows.deployed import probe
from augmill.flows.nights.flows import backfill, nightly

FLOWS = [augment, backfill, compare, nightly, probe]


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_parameters_are_validated_by_the_types_of_the_signature(flow: object) -> None:
    needed = {"recipe": "recipe.yaml"} if flow is not probe else {}
    assert flow.validate_parameters(needed).items() >= needed.items()  # type: ignore[attr-defined]


def test_a_mode_that_there_is_not_is_refused_by_prefect_and_the_others_are_in_the_schema() -> None:
    from prefect.exceptions import ParameterTypeError

    with pytest.raises(ParameterTypeError, match="reprocess"):
        backfill.validate_parameters({"recipe": "recipe.yaml", "reprocess": "everything"})
    shown = backfill.parameters.model_dump()["properties"]
    assert "changed-recipe" in shown["reprocess"]["enum"] and shown["order"]["enum"] == ["oldest", "newest"]


UNPICKLE = "import pickle, sys; flow = pickle.load(sys.stdin.buffer); print(flow.name, flow.fn.__name__)"


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_a_flow_survives_being_pickled_by_value(flow: object) -> None:
    """As ``flow.serve`` does for the process of each run: one global ContextVar by name would kill them all."""
    done = subprocess.run(
        [sys.executable, "-c", UNPICKLE], input=cloudpickle.dumps(flow), capture_output=True, check=True
    )
    assert done.stdout.decode().split()[0] == flow.name  # type: ignore[attr-defined]
