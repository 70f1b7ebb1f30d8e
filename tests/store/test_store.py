"""The store, on a disk and on S3: writes that are whole, durable and won once; damage that is found, named and put aside."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from buckets import s3_server
from fake_releases import put_fake
from hypothesis import given
from hypothesis import strategies as st

from augmill.tasks.errors import CorruptObject, StoreError, StoreRefused, UserError
from augmill.tasks.rows.hashing import seal, unseal
from augmill.tasks.store.log import append, read_log
from augmill.tasks.store.rules import require_root
from augmill.tasks.store.store import Store, object_key


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """The address of an S3 server of this process, with a bucket ``rows``."""
    with s3_server("rows") as url:
        yield url


@pytest.fixture(params=["disk", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "disk":
        return Store(str(tmp_path / "store"))
    request.getfixturevalue("endpoint")
    return Store(f"s3://rows/{tmp_path.name}")


def overwrite(store: Store, key: str, change: Callable[[bytes], bytes]) -> None:
    raw = store.get(key)
    assert raw is not None
    store.put(key, change(raw))


def test_of_many_writers_of_one_key_exactly_one_wins_and_all_read_its_value(store: Store) -> None:
    barrier = threading.Barrier(16)

    def write(number: int) -> bool:
        barrier.wait()
        return store.put_if_absent("private/k", b"%d" % number)

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(write, range(16)))
    assert sum(won) == 1
    assert store.get("private/k") == b"%d" % won.index(True)


def test_of_two_processes_that_write_the_same_keys_each_key_has_one_winner(tmp_path: Path) -> None:
    code = (
        "import sys; from augmill.tasks.store.store import Store; s = Store(sys.argv[1]); sys.stdin.read(1);"
        "print(''.join(str(int(s.put_if_absent(f'private/{k}', sys.argv[2].encode()))) for k in range(100)))"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in "ab"
    ]
    won = [process.communicate("x")[0].strip() for process in started]
    store = Store(str(tmp_path))
    assert [(a, b) for a, b in zip(*won, strict=True) if (a, b) not in {("1", "0"), ("0", "1")}] == []
    for key in range(100):
        assert store.get(f"private/{key}") == (b"a" if won[0][key] == "1" else b"b")


def test_writes_replace_whole_and_absence_is_none(store: Store) -> None:
    assert (store.get("private/a"), store.size("private/a"), store.list_keys("private")) == (None, None, [])
    store.put("private/b/x", b"long value")
    store.put("private/b/x", b"new")
    store.put("private/a", b"")
    assert (store.get("private/b/x"), store.size("private/b/x"), store.size("private/a")) == (b"new", 3, 0)
    assert store.list_keys("private") == ["private/a", "private/b/x"]


@given(
    body=st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.none(), max_size=3),
    data=st.data(),
)
def test_a_sealed_document_reads_back_and_any_flipped_bit_is_seen(body: dict[str, object], data: st.DataObject) -> None:
    raw = bytearray(seal(body))
    assert unseal(bytes(raw)) == body
    at, bit = data.draw(st.integers(0, len(raw) - 1)), data.draw(st.integers(0, 7))
    raw[at] ^= 1 << bit
    assert unseal(bytes(raw)) is None


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b"{}", b'{"body":{},"sha256":1}'])
def test_what_was_never_sealed_is_no_document(raw: bytes) -> None:
    assert unseal(raw) is None


def test_the_second_writer_of_a_document_gets_the_first_ones(store: Store) -> None:
    assert store.write_sealed("private/d.json", {"by": 1}) == {"by": 1}
    assert store.write_sealed("private/d.json", {"by": 2}) == {"by": 1}


def test_a_corrupt_document_is_put_aside_and_makes_room(store: Store) -> None:
    store.write_sealed("private/d.json", {"by": 1})
    overwrite(store, "private/d.json", lambda raw: raw[:-3])
    assert store.read_sealed("private/d.json") is None
    assert store.get("private/d.json") is None
    assert [key.startswith("private/aside/private/d.json.") for key in store.list_keys("private/aside")] == [True]
    assert store.write_sealed("private/d.json", {"by": 2}) == {"by": 2}


def test_files_are_named_by_their_content_and_written_once(store: Store, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"rows")
    sha256, size = store.put_object(tmp_path / "a")
    assert (sha256, size) == (hashlib.sha256(b"rows").hexdigest(), 4)
    inode = store.local and (store.local / object_key(sha256)).stat().st_ino
    assert store.put_object(tmp_path / "b") == (sha256, size)
    assert inode == (store.local and (store.local / object_key(sha256)).stat().st_ino)
    assert store.list_keys("private/objects") == [object_key(sha256)]
    assert store.fetch_object(sha256, size).read_bytes() == b"rows"


@pytest.mark.parametrize("change", [lambda raw: raw[:-1], lambda raw: b"X" + raw[1:]], ids=["cut", "flipped"])
def test_a_corrupt_file_is_named_put_aside_and_made_anew(
    store: Store, tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "a").write_bytes(b"rows")
    sha256, size = store.put_object(tmp_path / "a")
    overwrite(store, object_key(sha256), change)
    with pytest.raises(CorruptObject, match=f"{object_key(sha256)}: the checksum is wrong"):
        store.fetch_object(sha256, size)
    assert len(store.list_keys("private/aside/private/objects")) == 1
    with pytest.raises(CorruptObject, match="the object is gone"):
        store.fetch_object(sha256, size)
    store.put_object(tmp_path / "a")
    assert store.fetch_object(sha256, size).read_bytes() == b"rows"


def test_putting_aside_what_another_process_put_aside_is_no_error(store: Store) -> None:
    store.move_aside("private/never")
    assert store.list_keys("private") == []


BAD_GATEWAY = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def deaf_proxy(endpoint: str, answers: list[bytes]) -> str:
    """An HTTP proxy before ``endpoint``: passes every request on, but answers the next PUTs as given (b"": not at all)."""
    host, port = endpoint.removeprefix("http://").split(":")
    listener = socket.create_server(("127.0.0.1", 0))

    def pass_on(client: socket.socket) -> None:
        with client, client.makefile("rb") as stream:
            head = [line for line in iter(stream.readline, b"\r\n") if line]
            lengths = [int(line.split(b":")[1]) for line in head if line.lower().startswith(b"content-length:")]
            body = stream.read(sum(lengths))
            kept = [line for line in head if not line.lower().startswith(b"connection:")]
            with socket.create_connection((host, int(port))) as server:
                server.sendall(b"".join(kept) + b"Connection: close\r\n\r\n" + body)
                answer = b"".join(iter(lambda: server.recv(1 << 16), b""))
            client.sendall(answers.pop() if head[0].startswith(b"PUT") and answers else answer)

    def serve() -> None:
        while True:
            threading.Thread(target=pass_on, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return "http://{}:{}".format(*listener.getsockname())


def test_a_put_that_succeeded_but_was_not_answered_is_known_as_ones_own(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[bytes] = []
    monkeypatch.setenv("AWS_ENDPOINT_URL", deaf_proxy(endpoint, answers))
    store = Store(f"s3://rows/{tmp_path.name}")
    said = {"kind": "release", "current": {"all": put_fake(store, "r1")}, "reason": "test"}
    for lost in (b"", BAD_GATEWAY):  # after the first the client tries again by itself, after the second it gives up
        answers.append(lost)
        assert store.write_sealed(f"private/{len(lost)}.json", {"by": 1}) == {"by": 1}
        answers.append(lost)
        entry, appended = append(store, "tiny", lambda log: said, command="test")
        assert (answers, appended) == ([], True)
        assert read_log(store, "tiny").entries[-1] == entry
    assert len(read_log(store, "tiny").entries) == 2


def test_a_put_that_failed_where_anothers_value_stands_is_an_error(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[bytes] = []
    monkeypatch.setenv("AWS_ENDPOINT_URL", deaf_proxy(endpoint, answers))
    store = Store(f"s3://rows/{tmp_path.name}")
    store.put("private/k", b"theirs")
    answers.append(BAD_GATEWAY)
    with pytest.raises(StoreError, match=r"private/k: .*400 Bad Request"):
        store.put_if_absent("private/k", b"ours")


def test_errors_name_the_object_and_waiting_does_not_cure_a_missing_bucket(endpoint: str) -> None:
    store = Store("s3://nowhere")
    for call in (lambda: store.put("private/a", b"1"), lambda: store.list_keys("private/a")):
        with pytest.raises(
            StoreRefused, match=r"(?s)^s3://nowhere: private/a: .*What to do: create the bucket"
        ) as told:
            call()
        assert "<" not in str(told.value)


@pytest.mark.parametrize("root", ["ftp://host/x", "file:///tmp/x", "https://bucket/x", "s3://", "az://container"])
def test_a_root_that_is_no_store_is_the_users_mistake(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=r"^run\.store: ") as told:
        Store(root)
    assert told.value.fix
    assert "Debug source" not in str(told.value)


def test_a_root_that_cannot_be_made_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreRefused, match=r"Not a directory") as told:
        Store(str(tmp_path / "file" / "store"))
    assert (told.value.retryable, bool(told.value.fix)) == (False, True)


def test_what_waiting_cannot_cure_is_refused_and_names_the_object(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    (tmp_path / "private").write_text("a file where a directory must be")
    calls: list[Callable[[], object]] = [
        lambda: store.put("private/a/b", b"1"),
        lambda: store.put_if_absent("private/a/b", b"1"),
        lambda: store.get("private/a/b"),
        lambda: store.size("private/a/b"),
    ]
    for call in calls:
        with pytest.raises(StoreRefused, match="private/a/b: not a directory") as told:
            call()
        assert "run.store" in told.value.fix


def test_a_directory_one_may_not_write_is_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    (tmp_path / "store").chmod(0o555)
    user = os.geteuid()
    if user == 0:  # who may write everything: become nobody for a moment
        os.seteuid(65534)
    try:
        with pytest.raises(StoreRefused, match=r"private/a: permission denied\n  What to do: let this user write"):
            store.put("private/a", b"1")
    finally:
        os.seteuid(user)


def test_a_write_that_finds_no_room_is_refused_and_leaves_nothing_that_could_be_read(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        for write in (store.put, store.put_if_absent):
            with pytest.raises(StoreRefused, match=r"(?s)private/big: file too large.*free some space"):
                write("private/big", bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (store.get("private/big"), store.list_keys("private")) == (None, [])
    assert store.put_if_absent("private/big", b"1")


def test_a_write_on_a_disk_is_synced_with_every_directory_made_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    synced: list[str] = []
    really = os.fsync

    def fsync(handle: int) -> None:
        synced.append(os.path.relpath(Path(f"/proc/self/fd/{handle}").readlink(), tmp_path))
        really(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    store.write_sealed("public/d/_log/first.json", {})
    assert synced[0].startswith("private/staging/")
    assert synced[1:] == ["public/d/_log", "public/d", "public", "."]
    synced.clear()
    store.put("public/d/_log/x", b"")
    assert synced[1:] == ["public/d/_log"]
    assert not list((tmp_path / "private" / "staging").iterdir())


def test_a_log_entry_that_is_corrupt_is_refused_and_never_put_aside(store: Store) -> None:
    store.put("public/d/_log/00000000.json", seal({"number": 0}))
    overwrite(store, "public/d/_log/00000000.json", lambda raw: raw.replace(b"0", b"1", 1))
    with pytest.raises(StoreRefused, match=r"public/d/_log/00000000\.json: .*checksum"):
        read_log(store, "d")
    assert len(store.list_keys("public")) == 1


def test_datasets_are_those_with_something_public(store: Store) -> None:
    store.put("public/b/_log/00000000.json", b"{}")
    store.put("public/a/releases/1/manifest.json", b"{}")
    store.put("private/c/x", b"")
    assert store.datasets() == ["a", "b"]


def test_a_extensions_scratch_is_its_own(store: Store) -> None:
    ours, theirs = store.scratch("a"), store.scratch("b")
    assert ours.put_if_absent("k", json.dumps(1).encode())
    assert not ours.put_if_absent("k", json.dumps(1).encode())  # the same is there, and this call did not write it
    assert not ours.put_if_absent("k", b"2")
    assert (ours.get("k"), theirs.get("k")) == (b"1", None)
    for key in ("log/10", "log/09", "log/a/1", "logbook/1"):
        assert ours.put_if_absent(key, b"")
    assert (ours.keys("log"), theirs.keys("log")) == (["log/09", "log/10", "log/a/1"], [])


def test_a_store_error_can_be_retried_unless_it_is_refused() -> None:
    assert (StoreError.retryable, StoreRefused.retryable) == (True, False)


@pytest.mark.parametrize("root", ["s3://bucket/../other", "s3://bucket//x", "gs://bucket/a\nb"])
def test_what_is_no_place_in_a_bucket_is_no_root(root: str) -> None:
    with pytest.raises(UserError, match="is not a place in a bucket"):
        require_root(root)
    require_root("s3://bucket/prefix")


def test_local_scratch_beside_a_bucket_is_its_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = Store("s3://rows/x").local_scratch("trainer")
    assert path.is_relative_to(tmp_path) and path.parent.stat().st_mode & 0o777 == 0o700
