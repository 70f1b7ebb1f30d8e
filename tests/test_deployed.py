"""A Prefect deployment runs the same path, by the module entrypoint that infra/prefect.yaml names."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import yaml
from chain import recipe_document, write_rows

ROOT = Path(__file__).parents[1]


def test_the_deployed_flow_publishes_and_its_tasks_are_seen(prefect_api: str, tmp_path: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName

    entrypoint = yaml.safe_load((ROOT / "infra" / "prefect.yaml").read_text())["deployments"][0]["entrypoint"]
    module, name = entrypoint.rsplit(".", 1)
    document = recipe_document(write_rows(tmp_path / "rows.csv"), target={"per_class": 3})
    path = tmp_path / "deployed-tiny.yaml"
    path.write_text(json.dumps(document | {"run": {"shard_rows": 50}}))
    result = getattr(importlib.import_module(module), name)(recipe=str(path), store=str(tmp_path / "store"))
    assert result["release"] and Path(result["location"]).is_dir()
    with get_client(sync_client=True) as client:
        (run,) = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=["deployed-tiny"])))
        assert run.state is not None and run.state.is_completed()


def test_a_failing_deployed_flow_is_seen_as_failed(prefect_api: str, tmp_path: Path) -> None:
    from augmill.flows.deployed import augment

    document = recipe_document(tmp_path / "not-there.csv")
    path = tmp_path / "broken.yaml"
    path.write_text(json.dumps(document))
    state = augment(recipe=str(path), store=str(tmp_path / "store"), return_state=True)
    assert state.is_failed() and "not-there.csv" in str(state.message)
