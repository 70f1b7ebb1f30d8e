"""What a killed run leaves: no two minutes of waiting, no made rows in temporary directories; and what is private is closed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from commands import augmill, write_recipe
from keeping import GATE

from augmill.tasks.boundary.processes import _OWN, left_temporary, own_temporary, sweep_temporary, this_process
from augmill.tasks.store.attempts import Attempt, begin, read_attempts, utc_now
from augmill.tasks.store.store import Store

COMMAND = Path(sys.executable).with_name("augmill")
CHILD = """
import sys, tempfile, time
from augmill.tasks.boundary.processes import own_temporary
with own_temporary():
    print(tempfile.mkdtemp(), flush=True)
    time.sleep(float(sys.argv[1]))
"""


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for temporary files of this test's own, for this process and those it starts."""
    (folder := tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    monkeypatch.setattr(tempfile, "tempdir", None)


def start(*arguments: str) -> tuple[subprocess.Popen[str], Path]:
    """A process with a temporary directory of its own, and that directory."""
    process = subprocess.Popen([sys.executable, "-c", CHILD, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip()).parent


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_process_removes_its_temporary_directory_when_it_ends(top: Path) -> None:
    process, folder = start("0")
    process.communicate()
    assert folder.parent == top and _OWN.fullmatch(folder.name) and list(top.iterdir()) == []
    with own_temporary():
        inside = Path(tempfile.mkdtemp())
        assert inside.parent.parent == top and inside.parent.stat().st_mode & 0o777 == 0o700
        with own_temporary():  # the same
            assert Path(tempfile.mkdtemp()).parent == inside.parent
    assert list(top.iterdir()) == [] and Path(tempfile.gettempdir()) == top


def test_what_a_killed_process_left_is_swept_and_never_a_living_ones(top: Path) -> None:
    dead, left = start("60")
    alive, kept = start("60")
    kill(dead)
    (top / "augmill-mine").mkdir()
    other = top / left.name.replace(left.name.split("-")[1], "0" * 12)  # of another boot, or machine
    other.mkdir()
    link = top / f"{left.name}1"
    link.symlink_to(kept)
    assert left_temporary() == [str(left)]
    with own_temporary():
        assert sweep_temporary() == [str(left)]
        assert kept.is_dir() and (top / "augmill-mine").is_dir() and other.is_dir() and link.is_symlink()
    long_ago = time.time() - 8 * 86_400
    os.utime(other, (long_ago, long_ago))
    assert sweep_temporary() == [str(other)]
    kill(alive)


@pytest.mark.slow
def test_a_run_killed_in_its_shards_leaves_no_rows_to_the_next_and_does_not_hold_up_forget(
    top: Path, tmp_path: Path
) -> None:
    """Its workers' directories too; and ``forget`` on this machine waits for no lease."""
    assert augmill("run", write_recipe(tmp_path, gate=GATE)).code == 0
    released = next((tmp_path / "store" / "public" / "tiny" / "releases").glob("*/train/*.parquet"))
    row = next(r for r in pq.read_table(released).to_pylist() if r["aug_origin"] == "real")
    (tmp_path / "ids.txt").write_text(f"{row['aug_row_id']}\n")
    recipe = write_recipe(tmp_path, gate=GATE, name="other.yaml", seed=9)
    run = subprocess.Popen([COMMAND, "run", recipe], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ends = time.monotonic() + 60
    while len([path for path in top.glob("augmill-*") if _OWN.fullmatch(path.name)]) < 2:  # its worker's as well
        assert run.poll() is None and time.monotonic() < ends
        time.sleep(0.02)
    workers = psutil.Process(run.pid).children(recursive=True)
    for process in (run.pid, *(worker.pid for worker in workers)):
        os.kill(process, signal.SIGKILL)
    run.wait()
    psutil.wait_procs(workers, timeout=120)
    (left := [path for path in top.iterdir() if _OWN.fullmatch(path.name)]).sort()
    assert left
    (attempt,) = [a for a in read_attempts(Store(str(tmp_path / "store")), "tiny")["all"] if a.end is None]
    assert attempt.state(utc_now()) == "interrupted"
    started = time.monotonic()
    listed = augmill("forget", recipe, "--rows", tmp_path / "ids.txt", "--reason", "r", "--dry-run")
    assert listed.code == 0 and listed.last["temporary"] == list(map(str, left)) and str(left[0]) in listed.out
    ended = augmill("forget", recipe, "--rows", tmp_path / "ids.txt", "--reason", "r", "--no-rebuild")
    assert ended.code == 0, ended.err
    assert time.monotonic() - started < 60 and ended.last["temporary"] == list(map(str, left))
    assert [path for path in top.iterdir() if _OWN.fullmatch(path.name)] == []


def test_check_sweeps_what_a_killed_one_left(top: Path, tmp_path: Path) -> None:
    process, left = start("60")
    kill(process)
    assert augmill("check", write_recipe(tmp_path)).code == 0
    assert not left.exists() and list(top.glob("augmill-*")) == []


def test_a_dead_owner_of_this_machine_is_not_running_and_another_machines_is(tmp_path: Path) -> None:
    store, here = Store(str(tmp_path)), this_process()
    owners = [here, here | {"began": 1}, here | {"machine": "another", "began": 1}, {}]
    tries: list[Attempt] = [begin(store, "tiny", f"s{n}", {"owner": owner}) for n, owner in enumerate(owners)]
    states = [attempt.state(utc_now()) for attempt in tries]
    assert states == ["running", "interrupted", "running", "running"]


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_what_is_private_is_its_owners_alone_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    recipe = write_recipe(tmp_path, validation={"enabled": True, "data_docs": True})
    before = os.umask(umask)
    try:
        ended = augmill("run", recipe)
        store = Store(str(tmp_path / "store"))
        store.put("private/deep/er/file", b"1")
        store.move_aside("private/deep/er/file")
    finally:
        os.umask(before)
    assert ended.code == 0, ended.err
    private = [tmp_path / "store/private", *(tmp_path / "store/private").rglob("*")]
    assert {path.stat().st_mode & 0o777 for path in private if path.is_dir()} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in private if path.is_file()} == {0o600}
    assert {"attempts", "objects", "manifests", "reports"} <= {path.name for path in private}
    public = list((tmp_path / "store/public").rglob("*"))
    assert {path.stat().st_mode & 0o777 for path in public if path.is_dir()} == {0o777 & ~umask}
    assert {path.stat().st_mode & 0o777 for path in public if path.is_file()} == {0o666 & ~umask}


def test_a_store_of_an_earlier_version_is_closed_when_it_is_opened(tmp_path: Path) -> None:
    (tmp_path / "private/objects").mkdir(parents=True)
    (tmp_path / "private").chmod(0o755)
    Store(str(tmp_path))
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o700
    shutil.rmtree(tmp_path / "private")
    Store(str(tmp_path))
    assert not (tmp_path / "private").exists()  # a look makes nothing
