"""A stage runs once for one identity: what changes its rows changes the identity, and nothing else does; damage runs it again."""

from __future__ import annotations

import dataclasses
import itertools
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augmill.tasks.contracts import Artifact
from augmill.tasks.errors import CorruptObject, UserError
from augmill.tasks.rows.kinds.media import media
from augmill.tasks.store.stage import Event, Site, Stage, Work, fetch, fetch_directory, identity_of, look_up, stage
from augmill.tasks.store.store import Store, manifest_key, object_key


@dataclass(frozen=True)
class Options:
    rows: int = 3
    batch: int = field(default=8, metadata={"identity": False, "why": "how it is cut, not what"})
    file: str | None = field(default=None, metadata={"file": True})
    files: tuple[str, ...] = field(default=(), metadata={"file": True})


def counting(
    version: int = 1, write: Callable[[Work, Options], None] | None = None
) -> tuple[Stage[Options], list[Options]]:
    """A stage that writes ``rows`` numbers, and the list of the times it really ran."""
    ran: list[Options] = []

    @stage("count", version=version)
    def count(work: Work, config: Options, *inputs: Artifact) -> None:
        ran.append(config)
        work.rows = config.rows
        work.write(pa.table({"n": list(range(config.rows))}))
        if write is not None:
            write(work, config)

    return count, ran


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(Store(str(tmp_path / "store")))


def test_the_second_call_runs_nothing_and_gives_the_same(tmp_path: Path) -> None:
    seen: list[Event] = []
    count, ran = counting()
    first = count(Site(Store(str(tmp_path)), observe=seen.append), Options())
    again = count(Site(Store(str(tmp_path)), observe=seen.append), Options())
    assert first == again
    assert (len(ran), first.rows, [event.reused for event in seen]) == (1, 3, [False, True])


def test_a_field_that_is_no_identity_changes_nothing(site: Site) -> None:
    count, ran = counting()
    assert count(site, Options(batch=1)) == count(site, Options(batch=99))
    assert len(ran) == 1


def test_rows_version_stage_and_inputs_are_identity(site: Site) -> None:
    count, _ = counting()
    one, two = count(site, Options(rows=1)), count(site, Options(rows=2))
    keys = {
        count.identity(Options(), ()),
        count.identity(Options(rows=4), ()),
        counting(version=2)[0].identity(Options(), ()),
        Stage(count.run, "other", 1).identity(Options(), ()),
        count.identity(Options(), (one,)),
        count.identity(Options(), (two,)),
        count.identity(Options(), ([one, two],)),
        count.identity(Options(), ([two, one],)),
        count.identity(Options(), (one, two)),
    }
    assert len(keys) == 9


def test_an_input_counts_by_its_content_alone(site: Site) -> None:
    count, ran = counting()
    given_rows = count(site, Options())
    elsewhere = Artifact("other/1", given_rows.rows, "0" * 64, given_rows.content)
    assert count(site, Options(rows=5), given_rows) == count(site, Options(rows=5), elsewhere)
    assert len(ran) == 2


@pytest.mark.parametrize("name", ["file", "files"])
def test_a_file_option_counts_by_content_and_not_by_path(tmp_path: Path, name: str) -> None:
    def identity(*paths: str) -> Any:
        return identity_of(Options(**{name: paths if name == "files" else paths[0]}))

    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    Path(here).write_text("a")
    Path(there).write_text("a")
    before = identity(here)
    assert identity(there) == before
    Path(here).write_text("other")
    assert identity(here) != before
    assert identity("a-hub/id") != identity("another-hub/id")


def test_a_directory_counts_by_the_names_and_contents_of_its_files(tmp_path: Path) -> None:
    def made(name: str, files: dict[str, str]) -> Any:
        for path, content in files.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_text(content)
        return identity_of(Options(file=str(tmp_path / name)))

    first = made("a", {"x": "1", "sub/y": "2"})
    assert made("b", {"sub/y": "2", "x": "1"}) == first
    assert made("c", {"x": "2", "sub/y": "1"}) != first
    assert made("d", {"x": "1", "suby": "2"}) != first


def test_a_renamed_field_keeps_the_name_that_counts() -> None:
    @dataclasses.dataclass(frozen=True)
    class Old:
        rib: str = "rules"

    @dataclasses.dataclass(frozen=True)
    class New:
        extension: str = dataclasses.field(default="rules", metadata={"identity_name": "rib"})

    assert identity_of(New()) == identity_of(Old()) == {"rib": "rules"}


def test_a_path_is_no_identity() -> None:
    with pytest.raises(TypeError, match="a path is no identity"):
        identity_of({"where": Path("here")})


@given(st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4), max_size=5))
def test_the_order_of_keys_is_no_identity(mapping: dict[str, Any]) -> None:
    turned = dict(reversed(mapping.items()))
    count, _ = counting()
    assert count.identity(mapping, ()) == count.identity(turned, ())  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [lambda raw: raw[:-1], lambda raw: raw[:50] + b"?" + raw[51:]], ids=["cut", "flip"])
def test_a_corrupt_file_is_seen_when_read_and_its_stage_runs_again(
    site: Site, change: Callable[[bytes], bytes]
) -> None:
    count, ran = counting()
    artifact = count(site, Options())
    path = fetch(site.store, artifact, "rows.parquet")
    good = path.read_bytes()
    path.write_bytes(change(good))
    fresh = Site(Store(site.store.root))  # another process: this one has checked the file already
    if len(change(good)) == len(good):
        with pytest.raises(CorruptObject, match="the checksum is wrong"):
            fetch(fresh.store, artifact, "rows.parquet")
        assert fresh.store.size(manifest_key(*artifact.key.split("/"))) is None
    assert count(fresh, Options()) == artifact
    assert len(ran) == 2
    assert fetch(fresh.store, artifact, "rows.parquet").read_bytes() == good
    assert fresh.store.list_keys(f"private/aside/{manifest_key('count', '')[:-6]}")


@pytest.mark.parametrize("damage", ["manifest", "no manifest", "no file"])
def test_an_artifact_that_is_not_whole_is_made_again(site: Site, damage: str) -> None:
    count, ran = counting()
    artifact = count(site, Options())
    manifest = Path(site.store.root) / manifest_key(*artifact.key.split("/"))
    sha256 = json.loads(manifest.read_bytes())["body"]["files"]["rows.parquet"]["sha256"]
    if damage == "manifest":
        manifest.write_bytes(manifest.read_bytes().replace(b'"rows":3', b'"rows":4'))
    elif damage == "no manifest":
        manifest.unlink()
    else:
        (Path(site.store.root) / object_key(sha256)).unlink()
    assert look_up(site.store, *artifact.key.split("/")) is None
    assert count(site, Options()) == artifact
    assert len(ran) == 2


def test_the_loser_of_a_race_adopts_what_the_winner_made(tmp_path: Path) -> None:
    barrier = threading.Barrier(4)
    lock, numbers = threading.Lock(), iter(range(4))

    def differ(work: Work, config: Options) -> None:
        with lock:
            number = next(numbers)
        barrier.wait()
        work.write_json(number, "attempt.json")  # as a stage that is not repeatable: each attempt differs

    count, ran = counting(write=differ)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: count(Site(Store(str(tmp_path))), Options()), range(4)))
    assert len(ran) == 4
    assert len(set(made)) == 1
    assert fetch(Store(str(tmp_path)), made[0], "attempt.json").read_bytes() in {b"0", b"1", b"2", b"3"}


def test_notes_are_kept_but_are_no_part_of_the_content(tmp_path: Path) -> None:
    noted = [
        counting(write=lambda work, config, n=n: work.note(n, "note.json"))[0](  # type: ignore[misc]
            Site(Store(str(tmp_path / str(n)))), Options()
        )
        for n in range(2)
    ]
    written = counting(write=lambda work, config: work.write_json(1, "note.json"))[0](
        Site(Store(str(tmp_path / "w"))), Options()
    )
    assert noted[0].content == noted[1].content != written.content
    assert noted[0].sha256 != noted[1].sha256
    assert fetch(Store(str(tmp_path / "1")), noted[1], "note.json").read_bytes() == b"1"


def test_the_content_is_of_canonical_rows_and_not_of_parquet_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for size in (100, 7):
        monkeypatch.setattr("augmill.tasks.store.stage.ROW_GROUP", size)
        write, _ = counting(write=lambda work, config: work.write(pa.table({"n": list(range(100))})))
        made.append(write(Site(Store(str(tmp_path / str(size)))), Options()))
    assert made[0].content == made[1].content
    assert made[0].sha256 != made[1].sha256


def test_a_stage_that_fails_leaves_no_manifest_and_one_that_writes_nothing_fails(site: Site) -> None:
    def fail(work: Work, config: Options) -> None:
        raise ValueError("broke off")

    count, ran = counting(write=fail)
    for _ in range(2):
        with pytest.raises(ValueError, match="broke off"):
            count(site, Options())
    assert (len(ran), site.store.list_keys("private")) == (2, [])
    with pytest.raises(UserError, match="wrote no file"):
        Stage(lambda work, config: None, "idle", 1)(site, Options())


def test_an_artifact_is_laid_out_as_the_directory_it_was(site: Site, tmp_path: Path) -> None:
    def model(work: Work, config: Options) -> None:
        (work.empty_directory("files") / "model.json").write_text("{}")

    artifact = counting(write=model)[0](site, Options())
    for _ in range(2):
        laid = fetch_directory(site.store, artifact, tmp_path / "laid")
    found = sorted(path.relative_to(laid).as_posix() for path in laid.rglob("*") if path.is_file())
    assert found == ["files/model.json", "rows.parquet"]


MANY = pa.table(
    {
        "n": pa.array([None if at % 11 == 3 else at for at in range(300)], pa.int64()),
        "text": pa.array([None if at % 7 == 2 else f"text {at % 40}" for at in range(300)], pa.string()),
        "list": pa.array([None if at % 5 == 1 else [f"r{at}"] * (at % 3) for at in range(300)], pa.list_(pa.string())),
    }
)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 300), st.lists(st.integers(0, 300), max_size=12), st.integers(1, 100))
def test_a_table_that_comes_in_parts_is_the_file_that_it_is_as_a_whole(
    tmp_path_factory: pytest.TempPathFactory, rows: int, cuts: list[int], group: int
) -> None:
    """Whatever the parts: empty ones, those of several row groups, none at all; in the same groups, byte for byte."""
    work = Work(Site(Store("unused")), tmp_path_factory.mktemp("work"))
    table, ends = MANY.slice(0, rows), [0, *sorted(min(cut, rows) for cut in cuts), rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("augmill.tasks.store.stage.ROW_GROUP", group)
        work.write(table, "whole")
        with work.writing(table.schema, "parts") as take:
            for start, end in itertools.pairwise(ends if rows else [0]):
                take(table.slice(start, end - start))
    assert work.contents["parts"] == work.contents["whole"]
    whole, parts = (pq.ParquetFile(work.directory / name) for name in ("whole", "parts"))
    assert parts.read().equals(table)
    groups = [[file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)] for file in (whole, parts)]
    assert groups[0] == groups[1]
    assert (work.directory / "parts").read_bytes() == (work.directory / "whole").read_bytes()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.integers(0, 40)), max_size=40),
    st.lists(st.integers(0, 40), max_size=6),
    st.integers(1, 60),
)
def test_row_groups_of_files_end_where_their_bytes_do_however_the_rows_come(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int | None], cuts: list[int], most: int
) -> None:
    files = media([None if size is None else bytes(size) for size in sizes])
    table = pa.table({"row": pa.array(range(len(sizes)), pa.int64()), "image:photo": files})
    work = Work(Site(Store("unused")), tmp_path_factory.mktemp("work"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("augmill.tasks.store.stage.GROUP_BYTES", most)
        with work.writing(table.schema, "parts") as take:
            for start, end in itertools.pairwise([0, *sorted(min(cut, len(sizes)) for cut in cuts), len(sizes)]):
                take(table.slice(start, end - start))
        work.write(table, "whole")
    written = pq.ParquetFile(work.directory / "parts")
    assert written.read().equals(table)
    assert (work.directory / "parts").read_bytes() == (work.directory / "whole").read_bytes()
    groups = [written.read_row_group(at)["row"].to_pylist() for at in range(written.num_row_groups)]
    for group in groups:
        held = [sizes[row] or 0 for row in group]
        assert sum(held[:-1]) < most
    assert all(sum(sizes[row] or 0 for row in group) >= most for group in groups[:-1])


def test_a_manifest_is_asked_for_once_and_again_where_it_was_moved_aside(site: Site) -> None:
    asked: list[str] = []

    class Counted(Store):
        def get(self, key: str) -> bytes | None:
            asked.append(key)
            return super().get(key)

    count, ran = counting()
    made = count(site, Options())
    key, store = manifest_key(*made.key.split("/")), Counted(site.store.root)
    for _ in range(3):
        fetch(store, made, "rows.parquet")
    assert asked == [key]
    store.move_aside(key)
    with pytest.raises(CorruptObject, match="gone"):
        fetch(store, made, "rows.parquet")
    assert count(Site(store), Options()) == made and len(ran) == 2
    asked.clear()
    fetch(store, made, "rows.parquet")
    assert asked == []  # what was written is known
