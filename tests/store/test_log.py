"""The log is one chain whoever writes at once; what is current follows from it alone; it is added to and never mended."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fake_releases import id_of, put_fake
from hypothesis import given
from hypothesis import strategies as st

from augmill.tasks.errors import ConflictError, StoreError, StoreRefused, UserError
from augmill.tasks.stages.publish import commit_releases
from augmill.tasks.store.log import Log, append, read_log, rollback, tag, undone_of
from augmill.tasks.store.store import Store, log_key, release_key


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def commit(
    store: Store, release: str, *, snapshot: str = "all", expected: str | None = None, force: bool = False
) -> bool:
    """Publishes as the flow does: a release whose manifest stands, then its log entry."""
    moves = {snapshot: (None if expected is None else id_of(expected), put_fake(store, release))}
    return commit_releases(store, "tiny", moves, entry={"reason": "test"}, command="test", force=force)


def together(store: Store, moves: dict[str, str]) -> bool:
    """Publishes several snapshots in one entry, each over what is current."""
    current = read_log(store, "tiny").current()
    every = {snapshot: (current.get(snapshot), put_fake(store, release)) for snapshot, release in moves.items()}
    return commit_releases(store, "tiny", every, entry={"reason": "test"}, command="test")


def moved(store: Store, release: str, snapshot: str = "all") -> Callable[[Log], dict[str, Any]]:
    """What an entry says that makes the release current, whatever was."""
    entry = {"kind": "release", "current": {snapshot: put_fake(store, release)}, "reason": "test"}
    return lambda log: entry


def back(store: Store) -> dict[str, Any]:
    return rollback(store, "tiny", to=None, reason="bad", command="rollback")


def log_of(*entries: dict[str, Any]) -> Log:
    return Log("tiny", [{"current": {}} | entry for entry in entries])


def test_each_entry_holds_the_hash_of_the_bytes_before_it_and_who_did_what(store: Store) -> None:
    for number in range(3):
        append(store, "tiny", moved(store, f"r{number}"), command=f"do {number}")
    entries = read_log(store, "tiny").entries
    before = hashlib.sha256(b"").hexdigest()
    for number, entry in enumerate(entries):
        assert (entry["number"], entry["previous"], entry["command"]) == (number, before, f"do {number}")
        assert entry["actor"] and datetime.fromisoformat(entry["time"]).tzinfo == UTC
        before = hashlib.sha256(store.get(log_key("tiny", number)) or b"").hexdigest()
    assert read_log(store, "tiny").head == before
    assert len({entry["commit"] for entry in entries}) == 3


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("how", ["flipped", "resealed", "gone"])
def test_a_changed_or_missing_entry_is_found(store: Store, number: int, how: str) -> None:
    for release in ("r0", "r1", "r2", "r3"):
        append(store, "tiny", moved(store, release), command="x")
    key = log_key("tiny", number)
    body = store.read_sealed(key)
    assert body is not None
    (Path(store.root) / key).unlink()
    if how == "flipped":
        store.write_sealed(key, body)
        raw = store.get(key) or b""
        store.put(key, raw.replace(b'"command":"x"', b'"command":"y"'))
    elif how == "resealed":
        store.write_sealed(key, body | {"command": "y"})
    with pytest.raises(StoreRefused, match=r"_log/0000000\d\.json: .*\n  What to do: restore"):
        read_log(store, "tiny")
    with pytest.raises(StoreRefused):
        append(store, "tiny", moved(store, "r4"), command="x")
    assert store.size(log_key("tiny", 4)) is None


def test_an_entry_under_another_number_is_found(store: Store) -> None:
    for release in ("r0", "r1"):
        append(store, "tiny", moved(store, release), command="x")
    (Path(store.root) / log_key("tiny", 1)).rename(Path(store.root) / log_key("tiny", 2))
    with pytest.raises(StoreRefused, match=r"_log/00000002\.json: the log's chain is broken at entry 1"):
        read_log(store, "tiny")


def test_twenty_threads_append_twenty_entries_to_one_chain(store: Store) -> None:
    def publish(number: int) -> bool:
        return append(store, "tiny", moved(store, "r", str(number)), command=str(number))[1]

    with ThreadPoolExecutor(20) as pool:
        assert all(pool.map(publish, range(20)))
    log = read_log(store, "tiny")
    assert sorted(int(entry["command"]) for entry in log.entries) == list(range(20))
    assert len(log.current()) == 20


@pytest.mark.slow
def test_four_processes_append_twenty_entries_to_one_chain(store: Store) -> None:
    code = (
        "import sys; from augmill.tasks.store.store import Store; from augmill.tasks.store.log import append;"
        "sys.stdin.read(1);"
        "s = Store(sys.argv[1]); names = [sys.argv[2] + str(i) for i in range(5)];"
        "e = lambda name: {'kind': 'release', 'current': {name: sys.argv[3]}, 'reason': ''};"
        "print(all(append(s, 'tiny', lambda log: e(name), command=name)[1] for name in names))"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, store.root, name, put_fake(store, "r")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "abcd"
    ]
    assert [process.communicate("x")[0].strip() for process in started] == ["True"] * 4
    assert sorted(read_log(store, "tiny").current()) == [f"{name}{index}" for name in "abcd" for index in range(5)]


class Deaf(Store):
    """A disk whose next write of the log succeeds and is then answered by an error, as a time-out after a PUT is."""

    def put_if_absent(self, key: str, value: bytes) -> bool:
        super().put_if_absent(key, value)
        raise StoreError("timed out", where=key)


def test_a_put_whose_answer_was_lost_is_not_done_twice_by_the_next_try(store: Store) -> None:
    with pytest.raises(StoreError, match="timed out"):
        commit(Deaf(store.root), "r1")
    assert not commit(store, "r1")
    assert [entry["current"] for entry in read_log(store, "tiny").entries] == [{"all": id_of("r1")}]


def test_nothing_to_change_appends_nothing(store: Store) -> None:
    assert append(store, "tiny", lambda log: None, command="x") == (None, False)
    assert read_log(store, "tiny").entries == []


@given(
    st.lists(
        st.dictionaries(st.sampled_from(["2026-01-01", "2026-01-02", "2026-02-01"]), st.sampled_from(["a", "b", None])),
        max_size=6,
    )
)
def test_current_is_the_last_word_on_each_snapshot(moves: list[dict[str, str | None]]) -> None:
    log = log_of(*({"current": move} for move in moves))
    last: dict[str, str | None] = {}
    for move in moves:
        last |= move
    assert log.current() == {snapshot: release for snapshot, release in last.items() if release is not None}
    for day in ("2025-12-31", "2026-01-01", "2026-01-15", "2026-03-01"):
        upto = [snapshot for snapshot in log.current() if snapshot <= day]
        assert log.newest(day) == (log.current()[max(upto)] if upto else None)
    assert log.newest() == log.newest("2026-03-01")


def test_a_release_of_all_rows_is_never_given_as_of_a_date() -> None:
    log = log_of({"current": {"2026-01-01": "d"}}, {"current": {"all": "a"}})
    assert (log.newest("2026-01-01"), log.newest("2025-01-01"), log.newest()) == ("d", None, "a")
    assert log.newest("week-9") == "d"  # a key that sorts behind the word


def test_beside_dated_snapshots_all_rows_are_the_newest_only_where_they_changed_last() -> None:
    moves: list[dict[str, Any]] = [{"current": {"all": "a"}}, {"current": {"2026-01-01": "d"}}]
    assert log_of(*moves).newest() == "d"
    assert log_of(*moves[:1]).newest() == "a"
    assert log_of(*moves, {"current": {"all": "b"}}).newest() == "b"


def test_a_release_stays_withdrawn_until_an_entry_says_that_it_was_forced() -> None:
    moves: list[dict[str, Any]] = [{"current": {"all": "a"}}, {"current": {"all": "b"}, "withdraws": ["a"]}]
    assert log_of(*moves, {"current": {"all": "a"}}).withdrawn() == {"a"}
    assert log_of(*moves, {"current": {"all": "a"}, "forced": True}).withdrawn() == set()


def test_several_snapshots_switch_in_one_entry() -> None:
    assert log_of({"current": {"1": "a", "2": "b"}}, {"current": {"1": "c", "2": None}}).current() == {"1": "c"}


def test_publishing_what_is_current_already_appends_nothing(store: Store) -> None:
    assert commit(store, "r1")
    assert not commit(store, "r1", expected="r1")
    assert not commit(store, "r1", expected="anything")
    assert len(read_log(store, "tiny").entries) == 1


def test_a_snapshot_that_changed_since_the_run_began_is_a_conflict_and_appends_nothing(store: Store) -> None:
    commit(store, "r1")
    commit(store, "r2", expected="r1")
    for expected in (None, "r1"):
        with pytest.raises(ConflictError, match=rf"another run published {id_of('r2')} for snapshot 'all'"):
            commit(store, "r3", expected=expected)
    assert read_log(store, "tiny").current() == {"all": id_of("r2")}
    assert not ConflictError.retryable


def test_another_snapshots_entry_in_between_is_no_conflict(store: Store) -> None:
    raced: list[bool] = []

    def change(log: Log) -> dict[str, Any]:
        if not raced:  # between the reading of the log and the writing of the entry
            raced.append(commit(store, "b1", snapshot="2026-01-02"))
        assert log.current().get("2026-01-01") is None
        return moved(store, "a1", "2026-01-01")(log)

    entry, appended = append(store, "tiny", change, command="test")
    assert appended and entry is not None and entry["number"] == 1
    log = read_log(store, "tiny")
    assert log.current() == {"2026-01-01": id_of("a1"), "2026-01-02": id_of("b1")}


def test_a_rollback_appends_withdraws_and_goes_back_one_release_at_a_time(store: Store) -> None:
    for before, release in zip([None, "r1", "r2"], ["r1", "r2", "r3"], strict=True):
        commit(store, release, expected=before)
    entry = rollback(store, "tiny", to=None, reason="bad", command="rollback")
    assert (entry["current"], entry["withdraws"], entry["reason"]) == ({"all": id_of("r2")}, [id_of("r3")], "bad")
    assert rollback(store, "tiny", to=None, reason="worse", command="rollback")["current"] == {"all": id_of("r1")}
    with pytest.raises(UserError, match="no earlier release"):
        rollback(store, "tiny", to=None, reason="again", command="rollback")
    log = read_log(store, "tiny")
    assert (len(log.entries), log.current(), log.withdrawn()) == (5, {"all": id_of("r1")}, {id_of("r2"), id_of("r3")})


def test_a_rollback_to_a_named_release_takes_its_snapshot_and_its_prefix_is_enough(store: Store) -> None:
    for before, release in zip([None, "aa11", "bb22"], ["aa11", "bb22", "cc33"], strict=True):
        commit(store, release, snapshot="2026-01-01", expected=before)
    commit(store, "dd44", snapshot="2026-01-02")
    entry = rollback(store, "tiny", to="aa", reason="bad", command="rollback")
    assert (entry["current"], entry["withdraws"]) == ({"2026-01-01": id_of("aa11")}, [id_of("cc33")])
    assert read_log(store, "tiny").current() == {"2026-01-01": id_of("aa11"), "2026-01-02": id_of("dd44")}


def test_a_second_rollback_never_goes_forward(store: Store) -> None:
    for before, release in zip([None, "r1", "r2"], ["r1", "r2", "r3"], strict=True):
        commit(store, release, expected=before)
    rollback(store, "tiny", to=id_of("r1"), reason="bad", command="rollback")
    with pytest.raises(UserError, match="no earlier release"):  # r2 came after r1
        rollback(store, "tiny", to=None, reason="bad", command="rollback")
    assert rollback(store, "tiny", to=id_of("r2"), reason="on purpose", command="rollback")["current"] == {
        "all": id_of("r2")
    }


def test_a_beginning_that_names_two_releases_is_refused(store: Store) -> None:
    for before, release in zip([None, "ab1", "ab2"], ["ab1", "ab2", "cc"], strict=True):
        commit(store, release, expected=before)
    with pytest.raises(UserError, match=rf"'ab' names 2 releases \({id_of('ab2')}, {id_of('ab1')}\)"):
        rollback(store, "tiny", to="ab", reason="bad", command="rollback")


@pytest.mark.parametrize("to", ["zz", id_of("r2")])
def test_a_rollback_to_what_is_unknown_or_current_is_refused(store: Store, to: str) -> None:
    commit(store, "r1")
    commit(store, "r2", expected="r1")
    with pytest.raises(UserError):
        rollback(store, "tiny", to=to, reason="bad", command="rollback")
    assert len(read_log(store, "tiny").entries) == 2


def test_a_rollback_is_refused_where_there_is_no_release_or_its_files_are_gone(store: Store) -> None:
    with pytest.raises(UserError, match="'tiny' has no release"):
        rollback(store, "tiny", to=None, reason="bad", command="rollback")
    commit(store, "r1")
    commit(store, "r2", expected="r1")
    (Path(store.root) / release_key("tiny", id_of("r1"), "manifest.json")).unlink()
    with pytest.raises(UserError, match=f"{id_of('r1')} is gone from the store"):
        rollback(store, "tiny", to=None, reason="bad", command="rollback")


def test_a_withdrawn_release_is_published_again_only_on_purpose(store: Store) -> None:
    commit(store, "r1")
    commit(store, "r2", expected="r1")
    rollback(store, "tiny", to=None, reason="bad", command="rollback")
    with pytest.raises(UserError, match=rf"{id_of('r2')} was withdrawn by a rollback\n  What to do: .*--republish"):
        commit(store, "r2", expected="r1")
    assert commit(store, "r2", expected="r1", force=True)
    log = read_log(store, "tiny")
    assert (log.current(), log.withdrawn()) == ({"all": id_of("r2")}, set())
    assert rollback(store, "tiny", to=None, reason="bad again", command="rollback")["withdraws"] == [id_of("r2")]
    with pytest.raises(UserError):
        commit(store, "r2", expected="r1")


def test_all_rows_are_the_newest_again_once_a_dated_release_behind_them_is_undone(store: Store) -> None:
    for snapshot, release in (("2026-01-01", "d1"), ("all", "a"), ("2026-01-02", "d2")):
        commit(store, release, snapshot=snapshot)
    assert read_log(store, "tiny").newest() == id_of("d2")
    assert back(store)["current"] == {"2026-01-02": None}
    assert read_log(store, "tiny").newest() == id_of("a")
    assert back(store)["current"] == {"all": None}
    assert read_log(store, "tiny").newest() == id_of("d1")


def test_a_backfill_of_sixty_snapshots_is_undone_by_one_rollback(store: Store) -> None:
    days = [f"2026-{1 + day // 28:02}-{1 + day % 28:02}" for day in range(60)]
    for day in days[:20]:
        commit(store, f"old-{day}", snapshot=day)
    before = read_log(store, "tiny").current()
    assert together(store, {day: f"new-{day}" for day in days})
    entry = back(store)
    assert entry["current"] == {day: before.get(day) for day in days}
    assert sorted(entry["withdraws"]) == sorted(id_of(f"new-{day}") for day in days)
    log = read_log(store, "tiny")
    assert (log.current(), len(log.entries)) == (before, 22)
    assert back(store)["current"] == {days[19]: None}  # then the publication before it


def test_a_rollback_leaves_alone_what_moved_on_and_undoes_that_first(store: Store) -> None:
    together(store, {"1": "a1", "2": "b1"})
    together(store, {"1": "a2", "2": "b2"})
    commit(store, "a3", snapshot="1", expected="a2")
    assert back(store)["current"] == {"1": id_of("a2")}
    assert back(store)["current"] == {"1": id_of("a1"), "2": id_of("b1")}
    with pytest.raises(UserError, match="no earlier release"):
        back(store)


def test_what_was_withdrawn_is_passed_over_on_the_way_back(store: Store) -> None:
    commit(store, "r1")
    commit(store, "r2", expected="r1")
    commit(store, "r1", expected="r2")  # the recipe went back to what it was
    commit(store, "r3", expected="r1")
    assert back(store)["current"] == {"all": id_of("r1")}
    assert back(store)["current"] == {"all": id_of("r2")}
    with pytest.raises(UserError, match="no earlier release"):  # r1 was the only one before, and is withdrawn
        back(store)


def test_it_goes_back_to_what_was_current_not_to_what_was_made_last(store: Store) -> None:
    for before, release in zip([None, "r1", "r2"], ["r1", "r2", "r3"], strict=True):
        commit(store, release, expected=before)
    rollback(store, "tiny", to=id_of("r1"), reason="r2 is no good either", command="rollback")
    commit(store, "r4", expected="r1")
    assert back(store)["current"] == {"all": id_of("r1")}


MOVES = st.dictionaries(st.sampled_from("abc"), st.just("new"), max_size=3)


@given(st.lists(MOVES, max_size=8))
def test_publications_are_undone_one_by_one_as_from_a_stack(
    tmp_path_factory: pytest.TempPathFactory, steps: list[dict[str, str]]
) -> None:
    """An empty step is a rollback; a tag between any two changes nothing."""
    store = Store(str(tmp_path_factory.mktemp("s")))
    states: list[dict[str, str]] = [{}]
    for number, step in enumerate(steps):
        if step:
            together(store, {snapshot: f"{snapshot}{number}" for snapshot in step})
            states.append(states[-1] | {snapshot: id_of(f"{snapshot}{number}") for snapshot in step})
        elif len(states) == 1 or not states[-2]:
            with pytest.raises(UserError):
                back(store)
        else:
            back(store)
            states.pop()
        if states[-1]:
            tag(store, "tiny", f"t{number}", min(states[-1].values()), reason="", command="tag")
        log = read_log(store, "tiny")
        assert log.current() == states[-1]
        assert log.standing().keys() == states[-1].keys()
        assert not log.withdrawn() & set(states[-1].values())


def test_tags_name_a_release_until_they_are_taken_away_and_move_nothing(store: Store) -> None:
    commit(store, "r1")
    commit(store, "r2", expected="r1")
    entry = tag(store, "tiny", "model-7", id_of("r1"), reason="trained on it", command="tag")
    assert entry is not None
    assert {
        "kind": "tag",
        "current": {},
        "tag": "model-7",
        "release": id_of("r1"),
        "reason": "trained on it",
    }.items() <= (entry.items())
    assert tag(store, "tiny", "model-7", id_of("r1"), reason="again", command="tag") is None
    tag(store, "tiny", "prod", id_of("r2"), reason="", command="tag")
    log = read_log(store, "tiny")
    assert (log.tags(), log.current(), log.newest()) == (
        {"model-7": id_of("r1"), "prod": id_of("r2")},
        {"all": id_of("r2")},
        id_of("r2"),
    )
    assert back(store)["current"] == {"all": id_of("r1")}
    tag(store, "tiny", "model-7", None, reason="retired", command="tag")
    assert read_log(store, "tiny").tags() == {"prod": id_of("r2")}


@pytest.mark.parametrize(
    ("name", "release", "words"),
    [
        ("../x", id_of("r1"), "expected 1 to 64 letters"),
        ("x" * 65, id_of("r1"), "expected 1 to 64 letters"),
        ("taken", id_of("r2"), f"names {id_of('r1')} already"),
        ("new", id_of("r9"), f"{id_of('r9')} is gone from the store"),
        ("unknown", None, "there is no tag 'unknown'"),
    ],
)
def test_a_tag_that_cannot_be_is_refused_and_appends_nothing(
    store: Store, name: str, release: str | None, words: str
) -> None:
    commit(store, "r1")
    commit(store, "r2", expected="r1")
    tag(store, "tiny", "taken", id_of("r1"), reason="", command="tag")
    with pytest.raises(UserError, match=words):
        tag(store, "tiny", name, release, reason="", command="tag")
    assert len(read_log(store, "tiny").entries) == 3


def test_a_backfill_is_undone_in_one_entry_but_for_what_something_else_changed_since(store: Store) -> None:
    for day in ("1", "2", "3"):
        commit(store, f"old-{day}", snapshot=day)
    commit(store, "other", snapshot="9")
    before = read_log(store, "tiny").current()
    for day in ("1", "2", "3", "4"):
        commit(store, f"new-{day}", snapshot=day, expected=before.get(day))
    commit(store, "late-2", snapshot="2", expected="new-2")
    numbers = [4, 5, 6, 7]
    moves, left = undone_of(store, read_log(store, "tiny"), numbers)
    assert moves == {"1": "old-1", "3": "old-3", "4": None}
    assert left == {"2": "late-2 was made current since (entry 8, release)"}
    entry = rollback(store, "tiny", to=None, reason="bad", command="rollback", entries=numbers)
    assert entry["current"] == moves and entry["withdraws"] == ["new-1", "new-3", "new-4"]
    assert read_log(store, "tiny").current() == {**before, "2": "late-2"}
    with pytest.raises(UserError, match=r"nothing of it can be undone: 1: old-1 was made current since \(entry 9, rol"):
        undone_of(store, read_log(store, "tiny"), numbers)


def test_what_is_gone_from_the_store_is_not_gone_back_to(store: Store) -> None:
    for day in ("1", "2"):
        commit(store, f"old-{day}", snapshot=day)
    together(store, {"1": "new-1", "2": "new-2"})
    store.delete(release_key("tiny", "old-1", "manifest.json"))
    moves, left = undone_of(store, read_log(store, "tiny"), [2])
    assert moves == {"2": "old-2"} and "old-1" in left["1"] and "gone from the store" in left["1"]


def test_no_backfill_is_undone_that_made_every_release_there_is(store: Store) -> None:
    commit(store, "a", snapshot="1")
    commit(store, "b", snapshot="2")
    with pytest.raises(UserError, match="no earlier release"):
        undone_of(store, read_log(store, "tiny"), [0, 1])
