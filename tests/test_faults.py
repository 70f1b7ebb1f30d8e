"""The fault matrix: for each scenario that the product must live through, the tests that put it through it.

The numbers are those of the list of faults (1 to 18) and bad inputs (19 to 29) that the design goes by. Those without a
better place are in this file; a reference to a test that is not there fails.
"""

from __future__ import annotations

import ast
import collections
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import FrameType

import psutil
import pytest
import socket_guard
from chain import public_bytes
from commands import Ended, augmill, write_recipe
from kill_runs import Command, manifests, processes_of

from augmill.flows.signals import Stop
from augmill.flows.step import map_bounded
from augmill.tasks.stages.plan import cut_shards

HERE = Path(__file__).parent
COMMAND = Path(sys.executable).with_name("augmill")

# scenario: what it is, and its tests ("here": in this file).
MATRIX: dict[int, tuple[str, list[str]]] = {
    1: ("a shard's process killed at each point", ["here::test_a_worker_killed_at_any_point_of_its_shard_costs_that_shard",
        "test_crash.py::test_a_kill_at_any_store_operation_is_made_good_by_the_next_run"]),
    2: ("the flow killed before the commit", ["test_crash.py::test_three_hundred_seeded_kills_are_made_good",
        "test_crash.py::test_a_kill_at_any_point_of_the_publish_protocol_leaves_the_old_release_or_the_new_one_whole",
        "test_kills.py::test_five_killed_runs_are_made_good"]),
    3: ("SIGTERM, and a second one", ["here::test_a_second_sigterm_changes_nothing_about_a_clean_end",
        "cli/test_cli_run.py::test_an_interrupt_leaves_nothing_behind_and_the_next_run_goes_on"]),
    4: ("one worker of several killed", ["test_workers.py::test_the_death_of_one_of_two_workers_is_not_felt_by_the_other",
        "test_workers.py::test_a_killed_worker_can_be_retried_and_the_pool_goes_on",
        "test_step.py::test_one_item_that_fails_for_good_can_be_answered_for",
        "test_kills.py::test_a_run_outlives_the_death_of_its_workers"]),
    5: ("CUDA out of memory, a lost context", []),
    6: ("one partition started twice at once", ["test_kills.py::test_two_runs_at_once_end_in_one_release",
        "test_races.py::test_of_two_publishers_of_one_snapshot_exactly_one_wins_and_the_other_is_told",
        "test_races.py::test_two_publishers_of_one_release_make_one_entry",
        "test_stage.py::test_the_loser_of_a_race_adopts_what_the_winner_made"]),
    7: ("a generator that hangs", ["test_workers.py::test_a_worker_that_hangs_is_killed_at_the_deadline_and_the_pool_goes_on"]),
    8: ("an object store that misbehaves", ["test_storms.py::test_what_can_pass_is_tried_again_until_it_does",
        "test_storms.py::test_a_put_that_stands_already_is_known_by_412_and_not_tried_again",
        "test_storms.py::test_what_waiting_cannot_cure_fails_at_once_and_names_the_object",
        "test_storms.py::test_a_storm_that_does_not_end_is_borne_for_a_bounded_time",
        "test_storms.py::test_a_slow_list_is_waited_for",
        "test_storms.py::test_a_run_through_a_storm_makes_the_release_of_a_calm_one_and_repeats_no_secret",
        "test_store.py::test_a_put_that_succeeded_but_was_not_answered_is_known_as_ones_own"]),
    9: ("a full or read-only disk", ["test_bad_input.py::test_a_disk_that_fills_up_publishes_nothing_by_half",
        "test_bad_input.py::test_a_disk_that_is_full_for_a_worker_ends_the_run_and_the_next_one_resumes",
        "test_store.py::test_a_write_that_finds_no_room_is_refused_and_leaves_nothing_that_could_be_read"]),
    10: ("Prefect's server killed", ["test_server.py::test_a_server_that_dies_costs_its_records_only",
        "test_step.py::test_without_its_api_a_run_still_completes_and_says_so_once",
        "test_automations.py::test_a_run_whose_process_died_is_marked_crashed_and_paged"]),
    11: ("Prefect loses records", ["test_server.py::test_where_prefect_cannot_keep_its_records_the_run_says_so_and_completes",
        "test_states.py::test_without_a_look_at_the_source_the_store_alone_tells"]),
    12: ("the lease of a host that died", [
        "test_states.py::test_one_that_beats_is_running_and_one_that_stopped_beating_interrupted",
        "test_races.py::test_a_publisher_that_comes_late_is_refused"]),
    13: ("a flipped bit, cut bytes", ["test_stage.py::test_a_corrupt_file_is_seen_when_read_and_its_stage_runs_again",
        "test_remote_store.py::test_objects_that_rot_are_made_again_in_the_same_run",
        "test_store.py::test_a_sealed_document_reads_back_and_any_flipped_bit_is_seen",
        "test_publish.py::test_any_flipped_bit_is_found_in_its_file",
        "test_log.py::test_a_changed_or_missing_entry_is_found"]),
    14: ("a backfill killed half-way", ["test_backfill.py::test_killed_and_started_again_it_does_the_rest_and_nothing_twice",
        "test_backfill.py::test_a_dry_run_tells_what_the_run_then_does_and_touches_nothing",
        "test_backfill.py::test_a_night_in_the_middle_of_a_backfill_is_neither_doubled_nor_starved"]),
    15: ("the worker down for three nights", ["test_backfill.py::test_after_an_outage_a_night_catches_up_as_declared"]),
    16: ("changing clocks, half-open ends", [
        "test_calendar.py::test_each_instant_is_in_exactly_one_partition_and_that_is_half_open",
        "test_calendar.py::test_no_instant_of_a_year_of_changing_clocks_falls_between_two_days"]),
    17: ("a source that changes", ["test_ingest.py::test_a_file_that_changes_after_it_was_hashed_is_not_taken_for_the_hashed_one",
        "sources/test_files.py::test_a_file_that_is_rewritten_while_it_is_read_is_told_from_a_damaged_one",
        "test_gather.py::test_a_night_ingests_the_new_partition_alone_and_the_one_that_changed",
        "test_states.py::test_late_alone_decides_what_a_new_revision_makes_stale"]),
    18: ("what changes rows and what does not", ["test_same_bytes.py::test_what_changes_no_row_reuses_and_what_does_recomputes",
        "test_recipe.py::test_a_field_changes_the_identity_unless_it_is_listed_with_a_reason"]),
    19: ("empty, tiny and degenerate sets", ["test_bad_input.py::test_bad_data_is_one_message_and_changes_nothing",
        "test_validation.py::test_an_empty_shard_has_an_outcome_of_its_own",
        "test_validation.py::test_an_all_null_column_fails_even_where_the_allowed_share_hides_it_from_lengths",
        "test_publish.py::test_an_empty_split_has_no_file",
        "test_ingest.py::test_an_undeclared_label_is_admitted_put_apart_or_stops_the_run"]),
    20: ("columns that are missing or of other types", ["test_bad_input.py::test_bad_data_is_one_message_and_changes_nothing",
        "sources/test_columnar.py::test_types_widen_over_files_and_a_retyped_column_is_named",
        "sources/test_jsonl.py::test_a_value_that_no_longer_fits_the_scanned_type_is_refused_not_rounded",
        "sources/test_delimited.py::test_ten_thousand_columns_are_read",
        "test_publish.py::test_the_users_columns_come_back_in_name_order_type_and_value"]),
    21: ("damaged files", ["test_bad_input.py::test_ten_megabytes_in_one_cell_are_one_refused_row",
        "test_bad_input.py::test_a_gzip_bomb_is_read_in_bounded_memory",
        "sources/test_columnar.py::test_a_cut_file_is_refused_by_name",
        "test_fuzz.py::test_a_thousand_malformed_inputs_each_end_well_or_with_what_to_do"]),
    22: ("names that could escape, YAML bombs", ["test_bad_input.py::test_labels_with_strange_names_are_harmless",
        "test_attempts.py::test_any_name_is_one_harmless_folder",
        "test_recipe_yaml.py::test_what_is_no_plain_document_is_refused_at_once",
        "test_recipe.py::test_every_number_of_a_recipe_has_bounds",
        "test_fuzz.py::test_a_thousand_malformed_inputs_each_end_well_or_with_what_to_do"]),
    23: ("addresses, links, pickles, remote code", ["sources/test_files.py::test_other_addresses_are_refused",
        "sources/test_files.py::test_links_may_not_lead_out_of_the_directory",
        "generators/test_causal_lm.py::test_pickled_weights_are_refused_unless_allowed",
        "generators/test_causal_lm.py::test_code_that_comes_with_a_model_is_not_run_unless_allowed"]),
    24: ("a generator that collapses, copies or mislabels", [
        "test_real_sets.py::test_rows_that_repeat_held_out_rows_are_refused_whoever_made_them",
        "test_settle.py::test_a_stream_stops_when_too_many_rows_in_a_row_gave_nothing_new_and_stays_stopped",
        "checks/test_label_consistency.py::test_shuffled_labels_are_refused_and_right_ones_pass",
        "checks/test_garbage.py::test_each_kind_of_garbage_is_refused",
        "checks/test_relations.py::test_a_copy_of_another_train_row_is_refused"]),
    25: ("approvals by a person", []),
    26: ("no network, no home", ["here::test_a_run_without_a_network_and_without_a_home_tries_no_connection",
        "test_socket_guard.py::test_rust_in_this_process_is_refused_and_noted",
        "test_server.py::test_no_setting_of_the_server_lets_it_call_out"]),
    27: ("credentials", ["test_storms.py::test_a_run_through_a_storm_makes_the_release_of_a_calm_one_and_repeats_no_secret",
        "cli/test_cli_run.py::test_credentials_in_the_stores_address_are_refused_and_not_repeated",
        "sources/test_files.py::test_credentials_in_an_address_are_refused_and_not_repeated"]),
    28: ("a fresh installation", ["test_doctor.py::test_an_installation_that_works_is_proven_by_a_scheduled_run"]),
    29: ("ten thousand shards", ["here::test_what_the_driver_does_for_a_shard_is_flat_in_memory_and_linear_in_shards"]),
}  # fmt: skip
# What cannot be tested here, and why.
NOT_HERE = {
    5: "a real CUDA fault needs a GPU that is made to fail; the recycling of a worker that dies is 4",
    25: "a gate's verdict is by rule; nobody can approve a release by hand, so no approval can be late or stale",
}


@cache
def known_tests(name: str) -> set[str]:
    """Of a test file, wherever below tests/ it stands."""
    (path,) = HERE.rglob(name)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_each_scenario_has_a_test_or_a_reason() -> None:
    assert list(MATRIX) == list(range(1, 30))
    assert {number for number, (_, tests) in MATRIX.items() if not tests} == set(NOT_HERE)
    asked = {(number, test) for number, (_, tests) in MATRIX.items() for test in tests}
    gone = []
    for number, test in sorted(asked):
        file, _, name = test.partition("::")
        path = Path(__file__).name if file == "here" else Path(file).name
        if not [*HERE.rglob(path)] or name not in known_tests(path):
            gone.append(f"{number}: {test}")
    assert gone == []


# --- 1: a worker's death at each point of its shard ---------------------------------------------------------------------

# Loaded by every Python process of the run (sitecustomize); only a worker, and only once, dies in its first shard.
DIES = """
import os, signal, sys
if "augmill.tasks.workers" in " ".join(sys.orig_argv):
    from augmill.tasks.stages import jobs as shards
    from augmill.tasks.store.store import Store
    POINT, ONCE = os.environ["AUGMILL_DIE_AT"], os.environ["AUGMILL_DIE_ONCE"]
    in_shard = False

    def die(point):
        if in_shard and point == POINT:
            try:
                os.close(os.open(ONCE, os.O_CREAT | os.O_EXCL))  # of two workers that come here at once, one
            except FileExistsError:
                return
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(write, record):
        def wrapped(self, key, value):
            if not record and key.startswith("private/objects"):
                die("before the write")
                if POINT == "mid-file":
                    staged = self.local / "private" / "staging" / "cut"
                    staged.parent.mkdir(parents=True, exist_ok=True)
                    staged.write_bytes(value.read_bytes()[:99])
                die("mid-file")
            if record and "/manifests/" in key:
                die("after the file")
            wrote = write(self, key, value)
            if record and "/manifests/" in key:
                die("after its record")
            return wrote
        return wrapped

    Store.put, Store.put_if_absent = watched(Store.put, False), watched(Store.put_if_absent, True)
    run_job = shards.run_job

    def run(job, *told):
        global in_shard
        in_shard = job["stage"] not in ("fit", "fit_check")
        return run_job(job, *told)

    shards.run_job = run
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Command, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("faults")
    command = Command.prepare(folder)
    command.run(folder / "undisturbed")
    return command, public_bytes(folder / "undisturbed")


@pytest.mark.slow
@pytest.mark.parametrize("point", ["before the write", "mid-file", "after the file", "after its record"])
def test_a_worker_killed_at_any_point_of_its_shard_costs_that_shard(
    undisturbed: tuple[Command, dict[str, bytes]], tmp_path: Path, point: str
) -> None:
    command, expected = undisturbed
    (tmp_path / "sitecustomize.py").write_text(DIES)
    own = {"PYTHONPATH": str(tmp_path), "AUGMILL_DIE_AT": point, "AUGMILL_DIE_ONCE": str(tmp_path / "died")}
    store, errors = tmp_path / "store", tmp_path / "errors"
    with errors.open("wb") as stream:
        process = Command(command.recipe, "none", command.environment | own).start(store, point, stream)
        assert process.wait(timeout=240) == 0, errors.read_text()
    said = errors.read_text()
    assert (tmp_path / "died").exists()
    assert said.count("a worker died during its shard (signal 9") == 1 and "Traceback" not in said, said
    assert public_bytes(store) == expected


# --- 3: SIGTERM ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_second_sigterm_changes_nothing_about_a_clean_end(
    undisturbed: tuple[Command, dict[str, bytes]], tmp_path: Path
) -> None:
    command, expected = undisturbed
    store, mark = tmp_path / "store", f"terminated-{os.getpid()}"
    with tempfile.TemporaryFile() as errors:
        process = command.start(store, mark, errors)
        while len(manifests(store)) < 9:  # ingest, split and fits: the shards begin
            assert process.poll() is None
            time.sleep(0.01)
        for _ in range(2):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
        assert process.wait(timeout=30) == 143  # within the grace that schedulers give
        errors.seek(0)
        said = errors.read().decode()
    assert "Traceback" not in said and "goes on from there" in said
    _, alive = psutil.wait_procs(processes_of(mark), timeout=120)
    assert not alive and not public_bytes(store)
    command.run(store)
    assert public_bytes(store) == expected


# --- 26: no network, no home --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def without_network() -> Iterator[list[str]]:
    """What to put before a command; skips the test where this user may not make a namespace."""
    before = ["unshare", "--user", "--map-root-user", "--net"]
    if subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs to make a network namespace")
    yield before


@pytest.mark.slow
def test_a_run_without_a_network_and_without_a_home_tries_no_connection(tmp_path: Path) -> None:
    recipe, log = write_recipe(tmp_path), tmp_path / "tried"
    calm = augmill("run", recipe, "--store", tmp_path / "calm")
    home = {"HOME": "/dev/null/home", "XDG_CACHE_HOME": "/dev/null/cache", "DO_NOT_TRACK": "1"}
    with without_network() as before:
        done = subprocess.run(
            [*before, str(COMMAND), "run", str(recipe), "--store", str(tmp_path / "alone")],
            env=os.environ | home | {socket_guard.LOG: str(log)},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    alone = Ended(done.returncode, done.stdout, done.stderr)
    assert alone.code == 0 and "Traceback" not in alone.err, alone.err
    assert alone.last["release"] == calm.last["release"]
    assert not log.exists(), log.read_text()


# --- 29: many shards ----------------------------------------------------------------------------------------------------


def drive(shards: int) -> tuple[int, int]:
    """(calls, peak bytes) of planning and mapping so many shards, without what workers do."""
    segments = [{"generator": "rules", "stratum": f"c{n}", "start": 0, "count": 100 * shards // 50} for n in range(50)]

    def plan_and_map() -> None:
        cut = cut_shards(segments, 100)
        assert len(cut) == shards
        done: list[int] = []
        found = map_bounded(
            lambda part: sum(piece["count"] for piece in part),
            cut,
            Stop(),
            limit=2,
            on_done=lambda _, value: done.append(value),
        )
        assert sum(found) == sum(done) == 100 * shards

    calls = count_calls(plan_and_map)
    tracemalloc.start()
    plan_and_map()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return calls, peak


def count_calls(work: Callable[[], None]) -> int:
    """How many functions `work` calls in all its threads: as seconds are, but the same on a loaded machine."""
    counts: collections.Counter[int] = collections.Counter()  # by thread: `+=` of one number would lose some

    def count(frame: FrameType, event: str, argument: object) -> None:
        counts[threading.get_ident()] += event in ("call", "c_call")

    threading.setprofile(count)
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return counts.total()


@pytest.mark.slow
def test_what_the_driver_does_for_a_shard_is_flat_in_memory_and_linear_in_shards() -> None:
    few, many = drive(2_500), drive(10_000)
    assert many[0] < 5 * few[0]  # four times the shards; a square would be sixteen
    assert many[1] < 64 * 2**20 and many[1] < 6 * few[1]
