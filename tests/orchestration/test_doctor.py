"""`augmill doctor` finds what is broken by doing it: every red line says what to do, and nothing is left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import augmill, fingerprint, refused, write_recipe

from augmill.flows.orchestration import doctor
from augmill.tasks.store.store import Store


def test_an_installation_that_works_is_proven_by_a_scheduled_run(
    prefect_api: str, clean_environment: dict[str, str], tmp_path: Path
) -> None:
    """A fresh process with a server of its own, as after an install; the session's has made the database already."""
    recipe = write_recipe(tmp_path)
    before = fingerprint(tmp_path)
    done = subprocess.run(
        [Path(sys.executable).with_name("augmill"), "doctor", recipe],
        env=clean_environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    *lines, last = done.stdout.splitlines()
    assert json.loads(last) == {
        "outcome": "ok",
        "failed": [],
        "checked": ["versions", "devices", "disk", "store", "server", "schedule"],
        "next": "augmill deploy, or augmill serve",
    }
    found = [line for line in lines if line.startswith("ok ")]
    assert len(found) == 6 and "created, executed and seen" in found[-1]
    assert [line.split()[0] for line in lines if line not in found and line] == ["Next"]
    assert fingerprint(tmp_path) == before


def test_a_server_that_never_schedules_is_found(prefect_api: str) -> None:
    """The session's server has no scheduler: it answers, takes the deployment, and nothing ever comes of it, as
    Prefect 3.8 on SQLAlchemy 2.1 does."""
    from prefect.client.orchestration import get_client

    line = doctor.prove_schedule(timeout=4)
    assert not line.ok and "created no run" in line.said and "sqlalchemy<2.1" in line.fix
    with get_client(sync_client=True) as client:
        assert not [found for found in client.read_deployments() if found.name.startswith("doctor-")]


def test_a_broken_part_is_one_red_line_and_exit_code_4(prefect_api: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = augmill("doctor", "--quick", "--store", tmp_path / "file" / "store")
    assert ended.code == 4 and ended.last["failed"] == ["store"] and ended.last["next"]
    red = [line for line in ended.out.splitlines() if line.startswith("FAILED")]
    assert len(red) == 1 and "store" in red[0] and "What to do: " in ended.out
    assert not (tmp_path / "file" / "store").exists()


def test_an_api_that_does_not_answer_is_said(prefect_api: str) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: "http://name:pass@127.0.0.1:9/api"}):
        (line,) = doctor.check_prefect(quick=True)
    assert not line.ok and "127.0.0.1:9/api cannot be used" in line.said and line.fix
    assert "pass" not in line.said


def test_a_package_outside_its_bounds_is_named_with_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_versions().ok
    info = tmp_path / "sqlalchemy-2.1.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sqlalchemy\nVersion: 2.1.9\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    line = doctor.check_versions()
    assert not line.ok and "sqlalchemy 2.1.9 (needs <2.1)" in line.said and line.fix == "pip install 'sqlalchemy<2.1'"


@pytest.mark.parametrize("there", [False, True])
def test_the_store_is_left_as_it_was(tmp_path: Path, there: bool) -> None:
    store = tmp_path / "store"
    if there:
        Store(str(store)).put("public/tiny/_log/00000000.json", b"{}")
    before = fingerprint(tmp_path)
    assert doctor.check_store(str(store)).ok
    assert set(fingerprint(tmp_path)) == set(before)
    assert store.exists() == there


def test_a_store_that_writes_over_what_stands_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an object store behind a gateway that drops the condition does."""

    def careless(store: Store, key: str, value: Any, *, overwrite: bool) -> None:
        plain(store, key, value, overwrite=True)

    plain = Store._write
    monkeypatch.setattr(Store, "_write", careless)
    line = doctor.check_store(str(tmp_path / "store"))
    assert not line.ok and "put-if-absent" in line.said and line.fix


def test_a_full_disk_and_a_webhook_without_its_address_are_red(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_disk(str(tmp_path)).ok
    monkeypatch.setattr(doctor, "MIN_FREE", 1 << 60)
    line = doctor.check_disk(str(tmp_path / "not" / "there"))
    assert not line.ok and "store" in line.fix
    monkeypatch.delenv("NIGHT_HOOK", raising=False)
    assert "NIGHT_HOOK" in doctor.check_webhook("NIGHT_HOOK").fix
    monkeypatch.setenv("NIGHT_HOOK", "https://example.org/s3cret")
    assert doctor.check_webhook("NIGHT_HOOK").ok and "s3cret" not in doctor.check_webhook("NIGHT_HOOK").said


def test_a_device_that_is_not_there_is_red() -> None:
    assert doctor.check_devices(()).ok
    line = doctor.check_devices(("cuda:63",))
    assert not line.ok and "cuda:63" in line.said


def test_a_recipe_that_is_none_is_refused_before_anything_is_checked(tmp_path: Path) -> None:
    refused(augmill("doctor", tmp_path / "none.yaml"), 2, ["none.yaml"])
    assert not fingerprint(tmp_path)
