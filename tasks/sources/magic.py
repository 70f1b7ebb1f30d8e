"""What a file is by its first bytes where it is no table: a page, a pointer, a spreadsheet under another name."""

from __future__ import annotations

import codecs
import re

from augmill.tasks.errors import DataError

HEAD = 4096  # bytes that tell
_EXPORT = "export its rows as CSV, JSON Lines or Parquet"
_PICTURES = "name the directory of the pictures, or a file of rows (.csv, .jsonl, .parquet)"
_UNPACK = "unpack it, and name the file in it"
# (where, bytes, what it is, what to do)
_MAGIC = (
    (0, b"PAR1", "a Parquet file", "set source.format: parquet, or name it .parquet"),
    (0, b"\x1f\x8b", "gzip", "set source.compression: gzip, or auto"),
    (0, b"\x28\xb5\x2f\xfd", "zstd", "set source.compression: zstd, or auto"),
    (0, b"%PDF", "a PDF", _EXPORT),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office file (perhaps .xls)", "save its sheet as CSV UTF-8"),
    (0, b"ARROW1", "an Arrow file", "write it as Parquet"),
    (0, b"SQLite format 3", "a SQLite database", _EXPORT),
    (0, b"\x89HDF\r\n", "an HDF5 file", _EXPORT),
    (0, b"{\\rtf", "a rich text document", _EXPORT),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (0, b"\xfd7zXZ\x00", "an xz file", "compress it with gzip or zstd, or not at all"),
    (4, b"1AY&SY", "a bzip2 file", "compress it with gzip or zstd, or not at all"),
    (257, b"ustar", "a tar archive", "name it .tar if it holds samples of pictures or sounds, or else unpack it"),
    (0, b"\x89PNG\r\n", "an image", _PICTURES),
    (0, b"\xff\xd8\xff", "an image", _PICTURES),
)


def foreign(head: bytes) -> tuple[str, str] | None:
    """(what the file is, what to do about it); None where nothing says that it is no table."""
    for at, mark, what, fix in _MAGIC:
        if head[at : at + len(mark)] == mark:
            return what, fix
    if head.startswith(b"PK\x03\x04") and (b"[Content_Types].xml" in head or b"xl/" in head):
        return "an Excel workbook (.xlsx)", "save its sheet as CSV UTF-8"
    if head.startswith(b"PK\x03\x04"):
        return "a zip archive (perhaps a spreadsheet)", f"save a spreadsheet's sheet as CSV UTF-8; else {_UNPACK}"
    return _foreign_text(head[:HEAD].removeprefix(codecs.BOM_UTF8).lstrip())


def _foreign_text(start: bytes) -> tuple[str, str] | None:
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        return "a Git LFS pointer, not the file itself", "fetch the file: git lfs pull"
    if re.match(rb"<!doctype html|<html[\s>]", start, re.IGNORECASE):
        return (
            f"an HTML page{_title(start)}",
            "download it again: this is a page for a browser, perhaps a login or an error",
        )
    if start.startswith(b"<?xml") or re.match(rb"<Error>\s*<Code>", start):
        code = re.search(rb"<Error>\s*<Code>(\w{1,64})</Code>", start)
        if code is None:
            return "an XML document", _EXPORT
        return (
            f"an object store's error answer ({code[1].decode()})",
            "download it again, with an account that may read it",
        )
    return None


def _title(page: bytes) -> str:
    """In quotes; letters, digits and spaces alone, since anybody may have written it."""
    found = re.search(rb"<title[^>]{0,100}>([^<]{1,200})", page, re.IGNORECASE)
    words = re.sub(r"[^\w ]+", " ", found[1].decode("utf-8", "ignore")).split() if found else []
    return f" titled '{' '.join(words)[:60]}'" if words else ""


def require_text(head: bytes, where: str) -> None:
    """Raises DataError for what is no text, or a text that is no table."""
    if (found := foreign(head)) is not None:
        raise DataError(f"expected text in rows, found {found[0]}", where=where, fix=found[1])
