"""An object store that refuses: the message names the bucket, the cause and what to do, and holds no secret."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import augmill, refused, write_recipe

from augmill.tasks.boundary.retries import PATIENCE
from augmill.tasks.errors import AugmillError, StoreRefused, StoreSilent
from augmill.tasks.sources import SourceOptions, list_files, open_bytes
from augmill.tasks.store.store import Store

SECRETS = ("AKIASECRETID", "c2VjcmV0", "very-private", "X-Amz")


class _Refusing(http.server.BaseHTTPRequestHandler):
    status, code = 403, "AccessDenied"

    def answer(self) -> None:
        words = "".join(
            f"<{name}>{value}</{name}>"
            for name, value in zip(("AWSAccessKeyId", "StringToSign"), SECRETS, strict=False)
        )
        body = f"<?xml version='1.0'?><Error><Code>{self.code}</Code><Message>{SECRETS[2]}</Message>{words}</Error>".encode()
        body = body if self.code else b""
        self.send_response(self.status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer

    def log_message(self, *words: Any) -> None:
        del words


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Refusing]]:
    """A store on this machine that refuses everything, as its ``status`` and ``code`` say."""
    handler = type("Handler", (_Refusing,), {})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    for name, value in (("ACCESS_KEY_ID", SECRETS[0]), ("SECRET_ACCESS_KEY", SECRETS[2]), ("REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    with contextlib.closing(server.socket):
        yield handler
        server.shutdown()
    thread.join(10)


def drain(uri: str) -> None:
    open_bytes(uri).read(1)


ACTS: dict[str, Callable[[], Any]] = {
    "list": lambda: list_files(SourceOptions(path="s3://mine/rows/")),
    "head": lambda: list_files(SourceOptions(path="s3://mine/rows/a.csv")),
    "read": lambda: drain("s3://mine/rows/a.csv"),
    "store list": lambda: Store("s3://mine").list_keys("public"),
    "store read": lambda: Store("s3://mine/below").get("public/a"),
    "store write": lambda: Store("s3://mine").put("public/a", b"x"),
}
PERMISSIONS = {
    "list": "s3:ListBucket",
    "head": "s3:ListBucket",
    "read": "s3:GetObject",
    "store list": "s3:ListBucket",
    "store read": "s3:GetObject",
    "store write": "s3:PutObject",
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("code", ["AccessDenied", ""])
def test_a_denial_names_bucket_and_permission(refusing: type[_Refusing], act: str, code: str) -> None:
    refusing.code = code
    with pytest.raises(StoreRefused) as caught:
        ACTS[act]()
    said = str(caught.value)
    assert "s3://mine" in caught.value.where and "bucket s3://mine does not let this account" in said and "403" in said
    assert PERMISSIONS[act] in caught.value.problem and f"grant {PERMISSIONS[act]}" in caught.value.fix
    assert not [secret for secret in SECRETS if secret in said]
    assert not caught.value.retryable


@pytest.mark.parametrize("act", ["list", "store list", "store read", "store write"])
@pytest.mark.parametrize(
    ("status", "code", "cause", "fix"),
    [
        (400, "ExpiredToken", "expired", "renew"),
        (403, "InvalidAccessKeyId", "access key", "AWS_..."),
        (403, "SignatureDoesNotMatch", "secret key", "AWS_SECRET_ACCESS_KEY"),
        (403, "RequestTimeTooSkewed", "clock", "set the clock"),
        (400, "AuthorizationHeaderMalformed", "another region", "AWS_REGION"),
        (301, "PermanentRedirect", "another region", "AWS_REGION"),
        (401, "Unauthorized", "does not know these credentials", "AWS_..."),
    ],
)
def test_a_refusal_names_its_cause(
    refusing: type[_Refusing], act: str, status: int, code: str, cause: str, fix: str
) -> None:
    refusing.status, refusing.code = status, code
    with pytest.raises(StoreRefused) as caught:
        ACTS[act]()
    said = str(caught.value)
    assert cause in caught.value.problem and fix in caught.value.fix and "s3://mine" in said
    assert not [secret for secret in SECRETS if secret in said]


@pytest.mark.parametrize("act", ["list", "store list", "store write"])
def test_a_bucket_that_is_not_there_is_said(refusing: type[_Refusing], act: str) -> None:
    refusing.status, refusing.code = 404, "NoSuchBucket"
    with pytest.raises(StoreRefused, match="bucket s3://mine: there is no such bucket") as caught:
        ACTS[act]()
    assert "AWS_REGION" in caught.value.fix


def test_an_answer_that_is_not_known_is_told_without_its_body(refusing: type[_Refusing]) -> None:
    refusing.status, refusing.code = 418, "Teapot"
    for act in ("list", "store list", "store write"):
        with pytest.raises(AugmillError) as caught:
            ACTS[act]()
        assert "418" in str(caught.value) and not [secret for secret in SECRETS if secret in str(caught.value)]


@pytest.mark.parametrize("act", ["list", "store list", "store read", "store write"])
def test_a_cause_that_passes_is_waited_for_though_only_the_answers_body_says_it(
    refusing: type[_Refusing], act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 answers 400 where a connection idled too long."""
    monkeypatch.setattr(PATIENCE, "seconds", 0.0)
    refusing.status, refusing.code = 400, "RequestTimeout"
    with pytest.raises(StoreSilent) as caught:
        ACTS[act]()
    assert not [secret for secret in SECRETS if secret in str(caught.value)]


def test_check_and_run_name_a_bucket_that_refuses(refusing: type[_Refusing], tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, run={"orchestrator": "none", "store": "s3://mine/augmill"})
    for code, words in (
        ("AccessDenied", "s3:ListBucket"),
        ("NoSuchBucket", "no such bucket"),
        ("ExpiredToken", "expired"),
    ):
        refusing.status, refusing.code = {"NoSuchBucket": 404, "ExpiredToken": 400}.get(code, 403), code
        ended = augmill("check", recipe)
        refused(ended, 4, ["bucket s3://mine", words])
        assert not [secret for secret in SECRETS if secret in ended.err + ended.out]
    refusing.status, refusing.code = 403, "AccessDenied"
    ended = augmill("run", recipe)
    refused(ended, 4, ["bucket s3://mine", "s3:"])
    assert "ingest" not in ended.err and not [secret for secret in SECRETS if secret in ended.err + ended.out]


def test_check_goes_on_without_a_store_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "REGION"):
        monkeypatch.setenv(f"AWS_{name}", "x")
    run = {"orchestrator": "none", "store": "s3://mine/augmill", "store_patience": 1}
    ended = augmill("check", write_recipe(tmp_path, run=run))
    assert ended.code == 0 and "an object store that did not answer" in " ".join(ended.out.split())
