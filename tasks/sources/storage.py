"""Bytes of local files and of objects in s3, gs and az, as seekable streams."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import unquote

from augmill.tasks.boundary.answers import refusal
from augmill.tasks.boundary.retries import PATIENCE, can_pass
from augmill.tasks.errors import StoreError, StoreRefused, UserError, WorldError

from .options import SourceFile, SourceOptions

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

T = TypeVar("T")
SCHEMES = ("s3", "gs", "az")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SECRET = re.compile(r"\?.*(sig|signature|token|key|credential|secret|password)[\w-]*=", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BLOCK = 1 << 20
SILENCE_SECONDS = 30.0  # without a byte from an object store a connection counts as broken


def is_remote(path: str) -> bool:
    """Whether ``path`` is an address in an object store. Raises UserError for any other kind of address."""
    match = _SCHEME.match(path)
    if match is None:
        return False
    scheme = match.group(1).lower()
    if scheme not in SCHEMES:
        raise UserError(
            f"{scheme}:// addresses cannot be read",
            where="source.path",
            fix="give a local path without a scheme, or an s3://, gs:// or az:// address; download other files first",
        )
    bucket = path[match.end() :].split("/", 1)[0]
    if "@" in bucket or ":" in bucket or _SECRET.search(path):
        # The address is not repeated: it holds what must never stand in a log.
        raise UserError(
            f"the {scheme}:// address holds credentials or a host",
            where="source.path",
            fix="give both by environment variables (AWS_..., GOOGLE_..., AZURE_...) or an instance role",
        )
    if not bucket:
        raise UserError(f"the address {path!r} names no bucket", where="source.path", fix="write scheme://bucket/key")
    if not is_key(path[match.end() :]):
        raise UserError(
            f"the address {path[:200]!r} is not a place in a bucket: `.`, `..`, an empty part or a control character",
            where="source.path",
            fix="write scheme://bucket/key, the key as the store lists it",
        )
    return True


def is_key(key: str) -> bool:
    """Whether an object store takes ``bucket/key``: no part is empty (but the last), ``.`` or ``..``, however written."""
    parts = unquote(key).removesuffix("/").split("/")
    return not _CONTROL.search(key) and not {"", ".", ".."} & set(parts)


def split_uri(uri: str) -> tuple[str, str]:
    """("s3://bucket", "key/of/object")."""
    scheme, rest = uri.split("://", 1)
    bucket, _, key = rest.partition("/")
    return f"{scheme.lower()}://{bucket}", key


def connect(address: str) -> Any:
    """The object store behind ``s3://bucket``, or a place in it; endpoint and credentials come from the environment."""
    from obstore.store import from_url

    retry: Any = {"max_retries": 0}  # obstore's last 2.7 s, whatever it is told; PATIENCE waits as long as is right
    options: Any = {
        # Such as MinIO in one's own network.
        "allow_http": os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"),
        # obstore's own 30 s are for a whole request: a file of gigabytes would never come. Silence is what counts.
        "timeout": timedelta(days=1),
        "read_timeout": timedelta(seconds=SILENCE_SECONDS),
    }
    return from_url(address, retry_config=retry, client_options=options)


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Turns what a file system or object store raises into the exception tree, without bodies of its answers,

    which can hold key ids.
    """
    from obstore import exceptions as failures

    try:
        yield
    except FileNotFoundError as error:
        if is_remote(uri) and (refused := refusal(error, uri)) is not None:
            raise refused from None
        raise UserError("there is no such file", where=uri, fix="correct source.path") from None
    except IsADirectoryError:
        raise UserError("expected a file, found a directory", where=uri, fix="name a file in it") from None
    except PermissionError:
        raise StoreRefused(
            "permission denied", where=uri, fix="grant read access to the account that runs this"
        ) from None
    except failures.BaseError as error:
        if (refused := refusal(error, uri)) is not None:
            raise refused from None
        status = re.search(r"status code: (\d{3} [\w ]+)", str(error))
        detail = f"status code: {status.group(1).strip()}" if status else type(error).__name__
        problem = f"the object store did not answer as expected: {detail}"
        if not can_pass(str(error)):
            raise StoreRefused(
                problem, where=uri, fix="check the address, its region and the account's settings"
            ) from None
        raise StoreError(problem, where=uri, fix="try again") from None
    except OSError as error:
        raise WorldError(f"reading failed: {error.strerror or type(error).__name__}", where=uri) from error


def ask(uri: str, request: Callable[[], T]) -> T:
    """What a request to an object store gives, made again while the store does not answer (run.store_patience).

    Raises UserError where nothing is there, StoreRefused or StoreSilent.
    """

    def once() -> T:
        with reaching(uri):
            return request()

    return PATIENCE.outwait(once)


class _Object(io.RawIOBase):
    """An object as a seekable raw stream; obstore fetches 8 MiB ranges, so that latency is paid once each."""

    def __init__(self, uri: str) -> None:
        self.uri, self.at = uri, 0
        self.reader: Any = None
        ask(uri, self._open)

    def _open(self) -> None:
        import obstore

        bucket, key = split_uri(self.uri)
        self.reader = obstore.open_reader(connect(bucket), key, buffer_size=8 * _BLOCK)
        self.reader.seek(self.at, io.SEEK_SET)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with reaching(self.uri):  # asks nothing of the store
            self.at = int(self.reader.seek(offset, whence))
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        data = ask(self.uri, lambda: self._read(len(view)))
        view[: len(data)] = data
        self.at += len(data)
        return len(data)

    def _read(self, size: int) -> bytes:
        """From where the stream stands. A reader that failed is opened anew: nobody knows where it stopped."""
        if self.reader is None:
            self._open()
        try:
            return bytes(self.reader.read(size))
        except BaseException:
            self.reader = None
            raise


def open_bytes(uri: str) -> BinaryIO:
    """The file's bytes as stored, seekable and buffered. Raises UserError, StoreRefused or WorldError."""
    if is_remote(uri):
        return io.BufferedReader(_Object(uri), _BLOCK)
    with reaching(uri):
        return Path(uri).open("rb", buffering=_BLOCK)


def exists(uri: str) -> bool:
    """Whether a file stands there, empty or not."""
    if not is_remote(uri):
        with reaching(uri):
            return Path(uri).is_file()
    import obstore

    bucket, key = split_uri(uri)

    def stands() -> bool:
        try:
            obstore.head(connect(bucket), key)
        except FileNotFoundError:
            return False
        return True

    return ask(uri, stands)


def hash_file(file: SourceFile, options: SourceOptions) -> str:
    """sha256 (hex) of the file's bytes as stored, and of which rows count; memory does not grow with the file."""
    del options  # the bytes as stored do not depend on how they are read
    digest = hashlib.sha256()
    with open_bytes(file.uri) as stream, reaching(file.uri):
        while block := stream.read(_BLOCK):
            digest.update(block)
    digest.update(file.kept)  # rows that were deleted since change no byte of the file
    return digest.hexdigest()
