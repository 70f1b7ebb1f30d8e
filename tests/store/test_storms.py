"""An object store that misbehaves: what can pass is tried again within bounds, what cannot fails at once by name."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from buckets import s3_server
from chain import public_bytes
from commands import augmill, write_recipe
from storms import Storm, storm

from augmill.tasks.boundary.retries import PATIENCE
from augmill.tasks.errors import StoreRefused, StoreSilent
from augmill.tasks.store.store import Store

SECRET, KEY = "do-not-repeat-this-secret", "AKIADONOTREPEATTHIS"


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A prefix of this test's own: the server in this process remembers what others put."""
    return f"s3://mill/{tmp_path.name}"


@pytest.fixture
def stormy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Storm]:
    with s3_server("mill") as endpoint, storm(endpoint) as made:
        monkeypatch.setenv("AWS_ENDPOINT_URL", made.address)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        yield made


@pytest.mark.parametrize("status", [500, 503, 429, 409])
def test_what_can_pass_is_tried_again_until_it_does(stormy: Storm, root: str, status: int) -> None:
    store = Store(root)
    stormy.rule = lambda method, path, count: status if count < 2 and (status != 409 or method == "PUT") else None
    assert store.put_if_absent("private/a", b"1")
    assert store.get("private/a") == b"1"
    assert [request[2] for request in stormy.of("private/a") if request[0] == "PUT"] == [status, status, 0]


def test_a_put_that_stands_already_is_known_by_412_and_not_tried_again(stormy: Storm, root: str) -> None:
    store = Store(root)
    assert store.put_if_absent("private/a", b"1") and not store.put_if_absent("private/a", b"2")
    assert len([request for request in stormy.of("private/a") if request[0] == "PUT"]) == 2
    assert store.get("private/a") == b"1"


@pytest.mark.parametrize("status", [401, 403])
def test_what_waiting_cannot_cure_fails_at_once_and_names_the_object(stormy: Storm, root: str, status: int) -> None:
    store = Store(root)
    stormy.rule = lambda method, path, count: status
    for call in (
        lambda: store.put("private/a", b"1"),
        lambda: store.get("private/a"),
        lambda: store.put_if_absent("private/a", b"1"),
        lambda: store.size("private/a"),
    ):
        before = len(stormy.requests)
        with pytest.raises(StoreRefused, match=rf"^{root}: private/a: ") as told:
            call()
        assert len(stormy.requests) - before <= 2  # put_if_absent looks what stands there
        assert ("AWS_..." if status == 401 else "grant s3:") in told.value.fix and SECRET not in str(told.value)


def test_a_storm_that_does_not_end_is_borne_for_a_bounded_time(stormy: Storm, root: str) -> None:
    store = Store(root)
    PATIENCE.renew(3.0)
    stormy.rule = lambda method, path, count: 503
    started = time.monotonic()
    with pytest.raises(StoreSilent, match=rf"^{root}: private/a: ") as told:
        store.get("private/a")
    assert not told.value.retryable and 3 <= len(stormy.requests) <= 12  # it was waited for already
    assert 2.9 < time.monotonic() - started < 60
    PATIENCE.renew(120.0)


def test_a_slow_list_is_waited_for(stormy: Storm, root: str) -> None:
    store = Store(root)
    store.put("private/a", b"1")
    stormy.slow_lists = 2.0
    assert store.list_keys("private") == ["private/a"]


@pytest.mark.slow
def test_a_run_through_a_storm_makes_the_release_of_a_calm_one_and_repeats_no_secret(
    stormy: Storm, root: str, tmp_path: Path
) -> None:
    draw = random.Random(5)
    recipe = write_recipe(tmp_path)
    calm = augmill("run", recipe, "--store", tmp_path / "calm")
    stormy.rule = lambda method, path, count: draw.choice((500, 503)) if count < 3 and draw.random() < 0.15 else None
    rough = augmill("run", recipe, "--store", root)
    assert (calm.code, rough.code) == (0, 0), rough.err
    assert sum(status > 0 for *_, status in stormy.requests) > 20
    stormy.rule = lambda method, path, count: None
    store = Store(root)
    objects = {key: store.get(key) or b"" for key in store.list_keys("")}
    public = {k.removeprefix("public/"): v for k, v in objects.items() if k.startswith("public/")}
    public = {key: value for key, value in public.items() if "_log/" not in key and "provenance" not in key}
    assert public == public_bytes(tmp_path / "calm")
    stormy.rule = lambda method, path, count: 403 if "manifests/settle" in path else None  # in the middle of a run
    refused = augmill("run", write_recipe(tmp_path, name="other.yaml", seed=4), "--store", root)
    assert refused.code == 4 and "private/manifests/settle/" in refused.err and "credentials" in refused.err
    stormy.rule = lambda method, path, count: None
    objects |= {f"after: {key}": store.get(key) or b"" for key in store.list_keys("")}
    said = {"output": "".join((rough.out, rough.err, refused.out, refused.err)).encode()}
    assert [key for key, value in (objects | said).items() if SECRET.encode() in value or KEY.encode() in value] == []
