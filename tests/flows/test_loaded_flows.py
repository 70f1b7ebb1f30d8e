"""Every flow as Prefect handles it before it runs: its parameters, by a schema, and its code, by name or by value."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from prefect.deployments.runner import RunnerDeployment
from prefect.flows import load_flow_from_entrypoint
from prefect.types.entrypoint import EntrypointType

from augmill.flows.augment import augment
from augmill.flows.compare import compare
from augmill.flows.deployed import probe
from augmill.flows.nights.flows import backfill, nightly

FLOWS = {
    flow.fn.__name__: flow for flow in (*(own.in_prefect() for own in (augment, backfill, nightly, compare)), probe)
}

# By value first where they are received, and last where they are sent: else one way would leave the other what it needs.
SEND = textwrap.dedent("""
    import importlib, sys
    import cloudpickle

    modules = {name: importlib.import_module(name) for name, _, _ in (flow.rpartition(".") for flow in sys.argv[1:])}
    found = [getattr(modules[module], name) for module, _, name in (flow.rpartition(".") for flow in sys.argv[1:])]
    found = [flow.in_prefect() if hasattr(flow, "in_prefect") else flow for flow in found]
    by_name = [cloudpickle.dumps(flow) for flow in found]
    for module in modules.values():
        cloudpickle.register_pickle_by_value(module)
    sys.stdout.buffer.write(cloudpickle.dumps([[cloudpickle.dumps(flow) for flow in found], by_name]))
""")
RECEIVE = textwrap.dedent("""
    import json, sys
    import cloudpickle

    for sent in cloudpickle.load(sys.stdin.buffer):
        flows = [cloudpickle.loads(flow) for flow in sent]
        print(json.dumps([[type(flow).__name__, flow.name, *flow.parameters.properties] for flow in flows]))
""")


def run_python(code: str, *arguments: str, given: bytes = b"") -> bytes:
    done = subprocess.run([sys.executable, "-c", code, *arguments], input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_every_flow_can_be_sent_to_another_process_by_name_and_by_value() -> None:
    """A served run, and some kinds of workers, get it so: by value where Prefect takes its module for the user's own."""
    sent = run_python(SEND, *(f"{flow.fn.__module__}.{name}" for name, flow in FLOWS.items()))
    got = [json.loads(line) for line in run_python(RECEIVE, given=sent).splitlines()]
    assert got == [[["Flow", flow.name, *flow.parameters.properties] for flow in FLOWS.values()]] * 2


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_that_anyone_deploys_is_found_by_the_entrypoint_that_prefect_gives_it(name: str) -> None:
    deployment = RunnerDeployment.from_flow(FLOWS[name], name="any", entrypoint_type=EntrypointType.MODULE_PATH)
    assert deployment.entrypoint == f"augmill.flows.deployed.{name}"
    assert load_flow_from_entrypoint(deployment.entrypoint) is FLOWS[name]


@pytest.mark.parametrize("name", ["augment", "backfill", "nightly", "compare"])
def test_parameters_have_a_whole_schema_and_what_does_not_fit_it_is_refused(name: str) -> None:
    flow: Any = FLOWS[name]
    schema = flow.parameters.model_dump()
    assert schema["required"] == ["recipe"] and {"recipe", "store"} <= set(schema["properties"])
    kinds = {
        key: shape.get("type") or shape.get("enum") or shape.get("anyOf") for key, shape in schema["properties"].items()
    }
    assert all(kinds.values()), kinds
    given = flow.validate_parameters({"recipe": "r.yaml", "store": None})
    assert (given["recipe"], given["store"]) == ("r.yaml", None)
    with pytest.raises(Exception, match="recipe"):
        flow.validate_parameters({"recipe": 7})


def test_choices_are_offered_and_checked() -> None:
    flow = backfill.in_prefect()
    shape = flow.parameters.model_dump()["properties"]
    assert shape["reprocess"]["enum"][0] == "missing" and shape["order"]["enum"] == ["oldest", "newest"]
    with pytest.raises(Exception, match="reprocess"):
        flow.validate_parameters({"recipe": "r.yaml", "reprocess": "everything"})
