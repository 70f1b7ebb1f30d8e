"""A text file as decoded lines, decompressed on the way, in bounded memory."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, cast

import pyarrow as pa

from augmill.tasks.boundary.parquet import Unpacked
from augmill.tasks.errors import DataError

from .encoding import SAMPLE, guess_encoding
from .magic import HEAD, require_text
from .options import Compression, SourceFile, SourceOptions
from .repair import OVERLONG
from .storage import open_bytes, reaching

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

LINE_LIMIT = 16 << 20  # characters; a longer line is not kept: its row is refused as cell_too_long
BLANK_LIMIT = 1_000_000  # a megabyte of gzip holds a thousand of these
FILE_LIMIT = 1 << 30  # characters; a line longer than this ends the reading: no text file, or a gzip bomb
BLOCK_CODEC = "utf-8"
BLOCK = 1 << 20  # bytes of whole lines that are offered at once, where the blocks before were taken;
LEAST = 16  # else a sixteenth of it: so much goes to the slow reader for an odd line
_MAGIC: dict[str, bytes] = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}


class _Zstd(io.RawIOBase):
    """pyarrow's zstd stream as a raw stream; EOFError where the file is cut short or damaged."""

    def __init__(self, raw: BinaryIO) -> None:
        self.stream = pa.CompressedInputStream(raw, "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        try:
            data = self.stream.read(len(view))
        except OSError as error:
            if error.errno is None:  # zstd's own complaint, not the disk's
                raise EOFError(str(error)) from error
            raise
        view[: len(data)] = data
        return len(data)


class _Counted(io.RawIOBase):
    """Decompressed bytes, counted: DataError where they are too many for the file's size."""

    def __init__(self, inflated: io.RawIOBase, file: SourceFile) -> None:
        self.inflated, self.unpacked = inflated, Unpacked(file.uri, file.size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        count = cast(io.BufferedIOBase, self.inflated).readinto(buffer)
        self.unpacked.add(count)
        return count


def _compression(file: SourceFile, options: SourceOptions, head: bytes) -> Compression:
    """What the name and the first bytes say. Raises DataError where they disagree."""
    found = cast(Compression, next((name for name, magic in _MAGIC.items() if head.startswith(magic)), "none"))
    expected = file.compression if options.compression == "auto" else options.compression
    if found == expected or (options.compression == "auto" and expected == "none"):
        return found
    if found == "none":
        require_text(head, file.uri)
    raise DataError(
        f"expected compression {expected!r}, found {found!r} (first bytes {head[:4].hex(' ') or 'none'})",
        where=file.uri,
        fix="upload the file again, or set source.compression to what it is",
    )


@contextmanager
def open_plain(file: SourceFile, options: SourceOptions) -> Iterator[BinaryIO]:
    """The decompressed bytes. What damage raises inside the ``with`` becomes a DataError with the place."""
    with open_bytes(file.uri) as raw, reaching(file.uri):
        try:
            kind = _compression(file, options, cast(io.BufferedReader, raw).peek(HEAD)[:HEAD])
            if kind == "gzip":
                with gzip.GzipFile(fileobj=raw) as inflated:
                    yield io.BufferedReader(_Counted(cast(io.RawIOBase, inflated), file), 1 << 20)
            elif kind == "zstd":
                yield io.BufferedReader(_Counted(_Zstd(raw), file), 1 << 20)
            else:
                yield raw
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(
                f"the compressed file is cut short or damaged near byte {raw.tell():,} of {file.size:,}: {error}",
                where=file.uri,
                fix="write or upload it again",
            ) from error
        except UnicodeError as error:  # also of another kind: UTF-16 without its mark
            codec = getattr(error, "encoding", options.encoding)
            raise DataError(
                f"not {codec} near byte {raw.tell():,}: {getattr(error, 'reason', error)}",
                where=file.uri,
                fix="set source.encoding to the file's encoding",
            ) from error


def find_encoding(file: SourceFile, options: SourceOptions) -> tuple[str, str]:
    """(codec, why): as the options say, or guessed from the first 4 MiB of decompressed bytes."""
    if options.encoding != "auto":
        with open_plain(file, options) as plain:
            require_text(plain.read(HEAD), file.uri)
        return codecs.lookup(options.encoding).name, "set by the recipe"
    with open_plain(file, options) as plain:
        return guess_encoding(plain.read(SAMPLE), file.uri)


def read_lines(file: SourceFile, options: SourceOptions, codec: str, newline: str) -> Iterator[str]:
    """The file's lines with their ends. ``newline``: "" ends them as CSV does, at LF, CR or CRLF; "\\n" at LF alone.

    Bytes that are no text in ``codec`` come as U+DC80 to U+DCFF, a line over LINE_LIMIT as ``OVERLONG``: whoever
    parses them refuses their rows. A byte order mark at the start is dropped.
    """
    with open_plain(file, options) as plain:
        yield from _decoded(plain, file, codec, newline)


def _decoded(
    plain: BinaryIO, file: SourceFile, codec: str, newline: str, first: bool = True, blank: int = 0
) -> Iterator[str]:
    """The lines of the bytes; ``first``: they are the file's first; ``blank``: empty lines in a row before them."""
    text = io.TextIOWrapper(plain, encoding=codec, errors="surrogateescape", newline=newline)
    try:
        for line in iter(partial(text.readline, LINE_LIMIT), ""):
            blank = _count_blank(line, blank, file)
            if len(line) >= LINE_LIMIT:
                _skip_line(text, line, file)
                yield f"{OVERLONG}\n"
            elif first:
                yield line.removeprefix("\ufeff") or "\n"
            else:
                yield line
            first = False
    finally:
        text.detach()  # open_plain closes the bytes, once it has said where they are damaged


class _Again(io.RawIOBase):
    """Bytes that were read already, and then what follows them."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self.head, self.rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        data, self.head = self.head[: len(view)], self.head[len(view) :]
        data = data or self.rest.read(len(view))
        view[: len(data)] = data
        return len(data)


class LineBlocks:
    """A file's lines as ``read_lines`` gives them, or blocks of whole lines as bytes where its reader can take them so.

    Iterated, it gives lines. ``ahead`` shows the block that begins with the next of them, ``skip`` passes it over.
    A block is one line until ``widen`` is called, and less for a while behind one that its reader could not take. Only
    UTF-8 comes in blocks, since there a line feed is one wherever it stands; and no line longer than LINE_LIMIT: from
    there on all are read one by one.
    """

    def __init__(self, plain: BinaryIO, file: SourceFile, codec: str, newline: str) -> None:
        self.plain, self.file, self.codec, self.newline = plain, file, codec, newline
        self.in_blocks = codec == BLOCK_CODEC
        self.size = self.least = self.most = 1
        self.first, self.ended, self.blank = True, False, 0
        self.read = self.block = b""  # from the file, but in no block yet; the block whose lines come next
        self.left = 0  # characters of the block whose lines are being given
        self.given = self._lines()

    def widen(self, size: int = 0) -> None:
        """From now on a block is as many lines as ``size`` bytes hold, or BLOCK."""
        self.least, self.most = max(size, BLOCK // LEAST), max(size, BLOCK)
        self.size = self.most

    def narrow(self) -> bool:
        """Whether less than the block that was shown can be: ``ahead`` shows it next."""
        if self.size <= self.least or not self.block:
            return False
        self.read, self.block, self.size = self.block + self.read, b"", self.least
        return True

    def ahead(self) -> bytes:
        """The next block; none within one whose first lines were given, at the file's end, and where blocks end."""
        if self.left or not self.in_blocks:
            return b""
        self.block = self.block or self._load()
        if self.blank and _trailing_blank(self.block[: self.block.find(b"\n") + 1]):
            return b""  # empty lines are counted one by one
        return self.block

    def skip(self) -> None:
        self.blank, self.block = _trailing_blank(self.block), b""
        self.size = min(2 * self.size, self.most)

    def __iter__(self) -> Iterator[str]:
        return self.given

    def _lines(self) -> Generator[str, None, None]:
        while self.in_blocks and (block := self.block or self._load()):
            self.block, text = b"", block.decode(self.codec, "surrogateescape")
            self.left = len(text)
            for line in io.StringIO(text, newline=self.newline):
                self.left -= len(line)
                self.blank = _count_blank(line, self.blank, self.file)
                yield line
        if not self.in_blocks:
            rest = self.plain
            if self.read:
                rest = cast(BinaryIO, io.BufferedReader(_Again(self.read, self.plain), 1 << 20))
            yield from _decoded(rest, self.file, self.codec, self.newline, self.first, self.blank)

    def _load(self) -> bytes:
        """The next block from the file; none at its end, and where lines must be read one by one."""
        while True:
            if len(self.read) >= self.size or self.ended:
                end = self.read.rfind(b"\n", 0, self.size) + 1 or self.read.find(b"\n", self.size) + 1
                if end > LINE_LIMIT or (not end and len(self.read) >= LINE_LIMIT):
                    self.in_blocks = False
                    return b""
                if end or self.ended:
                    break
            more = self.plain.read(BLOCK)
            self.read, self.ended = self.read + more, not more
        block, self.read = (self.read[:end], self.read[end:]) if end else (self.read, b"")
        if self.first and block:
            block, self.first = block.removeprefix(codecs.BOM_UTF8) or b"\n", False
        return block


@contextmanager
def open_lines(file: SourceFile, options: SourceOptions, codec: str, newline: str) -> Iterator[LineBlocks]:
    with open_plain(file, options) as plain:
        lines = LineBlocks(plain, file, codec, newline)
        try:
            yield lines
        finally:
            lines.given.close()  # before the bytes are


def _trailing_blank(block: bytes) -> int:
    """How many empty lines the block ends with."""
    count, end = 0, len(block)
    while end:
        start = block.rfind(b"\n", 0, end - 1) + 1
        line = block[start:end].decode("utf-8", "surrogateescape")
        if len(line) > 2 or line.strip():
            break
        count, end = count + 1, start
    return count


def _count_blank(line: str, before: int, file: SourceFile) -> int:
    """Empty lines in a row, up to this one. Raises DataError where they are too many."""
    blank = 0 if len(line) > 2 or line.strip() else before + 1
    if blank > BLANK_LIMIT:
        problem = f"more than {BLANK_LIMIT:,} empty lines in a row"
        raise DataError(problem, where=file.uri, fix="check the file: it may be a decompression bomb")
    return blank


def _skip_line(text: io.TextIOWrapper, line: str, file: SourceFile) -> None:
    """Reads on to the line's end without keeping it."""
    skipped = len(line)
    while line and not line.endswith(("\n", "\r")):
        line = text.readline(LINE_LIMIT)
        skipped += len(line)
        if skipped > FILE_LIMIT:
            raise DataError(
                f"a line is longer than {FILE_LIMIT:,} characters",
                where=file.uri,
                fix="check the file: it is not lines of text, or it is a decompression bomb",
            )
