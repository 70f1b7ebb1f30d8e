"""The flow that a Prefect deployment runs, by module entrypoint ``augmill.flows.deployed.augment`` (infra/prefect.yaml)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Failed

from augmill.flows.start import run_recipe
from augmill.tasks.contracts import AugmillError
from augmill.tasks.recipe import load_recipe


def _run_name() -> str:
    return Path(str(flow_run.parameters["recipe"])).stem


@flow(name="augment", flow_run_name=_run_name, persist_result=False)
def augment(recipe: str, store: str | None = None, as_of: str | None = None) -> dict[str, Any] | State[Any]:
    """One snapshot, source to release. ``recipe``: a YAML file on the worker's machine; parameters hold no secrets.

    Returns what the last line of ``augmill run`` says. An AugmillError makes the flow run Failed, with its message: a
    returned state, unlike a raised error, is not pickled to the worker's disk.
    """
    command = f"deployment {Path(recipe).name}"
    try:
        result = run_recipe(load_recipe(Path(recipe), store=store), as_of=as_of, command=command)
        return Failed(message=result["reason"]) if result["action"] == "fail" else result
    except AugmillError as error:
        return Failed(message=str(error))
