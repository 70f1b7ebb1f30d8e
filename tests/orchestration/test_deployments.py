"""What a deployment takes along: its recipe, wherever that stands, and what its pool's jobs are given."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import obstore
import pytest
import yaml
from buckets import s3_server
from chain import WORDS
from commands import augmill, refused
from dated import dated_document
from obstore.store import from_url

from augmill.flows.cli.deploy import parse_job_variables, variable_names
from augmill.tasks.errors import UserError
from augmill.tasks.store.log import read_log
from augmill.tasks.store.store import Store

YESTERDAY = (datetime.now(UTC).date() - timedelta(days=1)).isoformat()
POOL = "travelling"


def write_rows(path: Path) -> Path:
    """Rows of yesterday, which is over."""
    rng = random.Random(5)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label", "day"])
        for index in range(60):
            label = ("refund", "track")[index % 2]
            writer.writerow([" ".join(rng.choices(WORDS[label], k=7)), label, YESTERDAY])
    return path


def recipe_text(path: str, store: str, **changes: Any) -> str:
    document = dated_document(Path(path), Path("-"), **changes)
    document |= {"source": {"path": path}, "run": document["run"] | {"store": store}}
    return str(yaml.safe_dump(document))


@pytest.fixture
def client(prefect_api: str) -> Iterator[Any]:
    """The server's client, with a process pool that no worker has ever served."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    with get_client(sync_client=True) as found:
        found.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
        yield found
        for deployment in found.read_deployments():
            found.delete_deployment(deployment.id)
        for automation in found.read_automations():
            found.delete_automation(automation.id)
        found.delete_work_pool(POOL)


def due(client: Any, name: str, **parameters: Any) -> Any:
    """A run of the deployment, as its schedule or Prefect's pages make one."""
    from prefect.states import Scheduled

    found = client.read_deployment_by_name(name)
    state = Scheduled(scheduled_time=datetime.now(UTC))
    return client.create_flow_run_from_deployment(found.id, state=state, parameters=parameters).id


def work_once(folder: Path) -> str:
    """What a worker of the pool says that takes the runs that are due, in an empty directory and without our settings."""
    folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    command = [Path(sys.executable).with_name("prefect"), "worker", "start", "--pool", POOL, "--type", "process"]
    ended = subprocess.run(
        [*command, "--run-once", "--install-policy", "never"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout + ended.stderr


def state_of(client: Any, run: Any) -> str:
    state = client.read_flow_run(run).state
    return f"{state.type.value}: {state.message}"


def test_a_recipe_in_a_bucket_runs_where_its_job_variables_say_how_to_reach_it(client: Any, tmp_path: Path) -> None:
    """The worker itself has neither the bucket's endpoint nor its keys: both come with the deployment."""
    address = "s3://deployed/team/recipe.yaml"
    with s3_server("deployed"):
        bucket = from_url("s3://deployed")
        obstore.put(bucket, "team/rows.csv", write_rows(tmp_path / "rows.csv"))
        obstore.put(bucket, "team/recipe.yaml", recipe_text("rows.csv", "s3://deployed/store").encode())
        given = [f"--job-variable=env.{name}={value}" for name, value in os.environ.items() if name.startswith("AWS_")]
        ended = augmill("deploy", address, "--pool", POOL, *given, "--job-variable", "stream_output=false")
        assert ended.code == 0, ended.err
        names = ended.last["job_variables"]
        assert {"env.AWS_ENDPOINT_URL", "env.AWS_SECRET_ACCESS_KEY", "stream_output"} <= set(names)
        assert os.environ["AWS_ENDPOINT_URL"] not in ended.out + ended.err
        for name in ("nightly/tiny", "backfill/tiny"):
            deployed = client.read_deployment_by_name(name)
            assert deployed.job_variables["env"]["AWS_ENDPOINT_URL"] == os.environ["AWS_ENDPOINT_URL"]
            assert deployed.job_variables["stream_output"] is False
            assert deployed.parameters == {"recipe": address, "store": "s3://deployed/store"}
        run = due(client, "nightly/tiny")
        said = work_once(tmp_path / "elsewhere")
        assert state_of(client, run).startswith("COMPLETED"), f"{state_of(client, run)}\n{said}"
        assert read_log(Store("s3://deployed/store"), "tiny").current().keys() == {YESTERDAY}
        assert augmill("deploy", address, "--pool", POOL).code == 0  # what is not given any more is taken away
        assert client.read_deployment_by_name("nightly/tiny").job_variables == {}


def test_an_inline_deployment_needs_no_file_and_can_be_run_again(client: Any, tmp_path: Path) -> None:
    path, store = tmp_path / "recipe.yaml", tmp_path / "store"
    path.write_text(recipe_text(str(write_rows(tmp_path / "rows.csv")), str(store)))
    text = path.read_text()
    ended = augmill("deploy", path, "--pool", POOL, "--inline")
    assert ended.code == 0 and "job_variables" in ended.last, ended.err
    path.unlink()
    first = due(client, "backfill/tiny")
    said = work_once(tmp_path / "elsewhere")
    assert state_of(client, first).startswith("COMPLETED"), f"{state_of(client, first)}\n{said}"
    ((snapshot, release),) = read_log(Store(str(store)), "tiny").current().items()
    assert snapshot == YESTERDAY
    ran = client.read_flow_run(first)
    assert ran.parameters == {"recipe": text, "store": str(store)} and ran.name == "backfill tiny"
    again = due(client, "backfill/tiny", **ran.parameters, reprocess="all")
    said = work_once(tmp_path / "yet-elsewhere")
    assert state_of(client, again).startswith("COMPLETED"), f"{state_of(client, again)}\n{said}"
    assert read_log(Store(str(store)), "tiny").current() == {YESTERDAY: release}


def test_an_inline_recipe_with_a_relative_path_is_not_deployed(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_text("rows.csv", str(tmp_path / "store")))
    refused(augmill("deploy", path, "--pool", POOL, "--inline"), 2, ["(source.path)", "'rows.csv'", "relative"])
    path.write_text(recipe_text(str(tmp_path / "rows.csv"), "store"))
    refused(augmill("deploy", path, "--pool", POOL, "--inline"), 2, ["(run.store)", "'store'", "--store"])


def test_a_variable_that_the_pools_jobs_do_not_take_is_refused(client: Any, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_text("rows.csv", "s3cret-store"))

    def deploy(*options: str) -> Any:
        return augmill("deploy", path, "--pool", POOL, *options)

    refused(deploy("--image", "s3cret:1"), 2, ["--image", "process", "no variable 'image'", "working_dir"])
    refused(deploy("--job-variable", "workingdir=/s3cret"), 2, ["'workingdir'", "did you mean 'working_dir'"])
    refused(deploy("--job-variable", "stream_output=s3cret"), 2, ["stream_output", "expected boolean"])
    refused(deploy("--job-variable", 'env={"A": ["s3cret"]}'), 2, ["env.A", "expected string or null"])
    refused(deploy("--job-variable", 'env="s3cret"'), 2, ["env", "expected object"])
    for options in (["--image", "s3cret"], ["--job-variable", "stream_output=s3cret"]):
        assert "s3cret" not in deploy(*options).out + deploy(*options).err
    assert not client.read_deployments()


def test_a_pool_of_containers_takes_an_image(client: Any, tmp_path: Path) -> None:
    """Of another type than those of this machine: what its template has is what counts."""
    from prefect.client.schemas.actions import WorkPoolCreate

    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_text("rows.csv", str(tmp_path / "store")))
    template = {
        "job_configuration": {"image": "{{ image }}", "env": "{{ env }}"},
        "variables": {"type": "object", "properties": {"image": {"type": "string"}, "env": {"type": "object"}}},
    }
    client.create_work_pool(WorkPoolCreate(name="containers", type="docker"))
    try:
        refused(augmill("deploy", path, "--pool", "containers", "--image", "a:1"), 2, ["worker", "containers"])
        client.delete_work_pool("containers")
        client.create_work_pool(WorkPoolCreate(name="containers", type="docker", base_job_template=template))
        ended = augmill("deploy", path, "--pool", "containers", "--image", "augmill:1", "--job-variable", "env.A=1")
        assert ended.code == 0, ended.err
        assert ended.last["job_variables"] == ["env.A", "image"]
        for name in ("nightly/tiny", "backfill/tiny"):
            found = client.read_deployment_by_name(name)
            assert found.job_variables == {"image": "augmill:1", "env": {"A": "1"}}
    finally:
        client.delete_work_pool("containers")


def test_a_store_whose_address_holds_credentials_is_not_deployed(client: Any, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_text("rows.csv", "s3://key:s3cret@bucket/store"))
    ended = augmill("deploy", path, "--pool", POOL)
    refused(ended, 2, ["credentials"])
    assert "s3cret" not in ended.out + ended.err and not client.read_deployments()


def test_a_deployments_version_is_the_recipes_and_git_is_not_asked(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, asked, programs = tmp_path / "recipe.yaml", tmp_path / "asked", tmp_path / "bin"
    path.write_text(recipe_text("rows.csv", str(tmp_path / "store")))
    programs.mkdir()
    (programs / "git").write_text(f'#!/bin/sh\necho "$@" >> {asked}\necho main\n')
    (programs / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    assert augmill("deploy", path, "--pool", POOL).code == 0
    assert not asked.exists()
    version = client.read_deployment_by_name("nightly/tiny").version
    assert isinstance(version, str) and len(version) == 16


@pytest.mark.parametrize(
    ("given", "image", "read"),
    [
        ([], None, {}),
        (["on=false", "n=2", "name=a=b", 'l={"a": 1}'], None, {"on": False, "n": 2, "name": "a=b", "l": {"a": 1}}),
        (["cpu=NaN", "name=", "big=1e3", "text=[1"], None, {"cpu": "NaN", "name": "", "big": 1000.0, "text": "[1"}),
        (["env.A=1", "env.B=true", "env.C="], None, {"env": {"A": "1", "B": "true", "C": ""}}),
        (['env={"A": "0", "Z": "1"}', "env.A=2"], "x:1", {"image": "x:1", "env": {"A": "2", "Z": "1"}}),
    ],
)  # fmt: skip
def test_job_variables_are_json_where_they_are_valid_json_and_environments_are_text(
    given: list[str], image: str | None, read: dict[str, Any]
) -> None:
    assert parse_job_variables(given, image) == read
    assert json.dumps(variable_names(read)).count("env.") == len(read.get("env", {}))


@pytest.mark.parametrize(
    "given",
    [["s3cret"], ["=s3cret"], ["env.=s3cret"], ["a=s3cret", "a=2"], ["env.A=s3cret", "env.A=2"], ["env=s3cret", "env.A=1"]],
)  # fmt: skip
def test_a_job_variable_that_cannot_be_read_is_refused_without_its_value(given: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        parse_job_variables(given)
    assert "s3cret" not in str(caught.value)
    with pytest.raises(UserError, match="given twice"):
        parse_job_variables(["image=b"], "a")
