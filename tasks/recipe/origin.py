"""Where a recipe stands: in a file, in an object of a bucket, or nowhere, where its text itself was given."""

from __future__ import annotations

import os
import posixpath
import re
import shlex
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import TypeGuard

from augmill.tasks.errors import UserError
from augmill.tasks.rows.names import nearest
from augmill.tasks.sources.storage import is_remote, open_bytes, split_uri

MAX_BYTES = 250_000  # brackets alone take PyYAML 3 s then; a recipe has a few thousand, with 8,000 aliases 190,000
TEXT = "the recipe's text"  # what errors call a recipe that stands nowhere
_DATASET = re.compile(r"""^dataset:[ \t]*["']?([a-z0-9][a-z0-9_-]*)""", re.MULTILINE)

Folder = Path | str | None  # where relative paths begin: a directory, beside the object at an address, or nowhere


def is_text(where: str | Path) -> TypeGuard[str]:
    """Whether this is a recipe itself, and not where one stands: no file or object has a line break in its name here."""
    return isinstance(where, str) and "\n" in where


def is_address(where: str | Path) -> bool:
    """Whether a recipe stands in a bucket. Raises UserError for other kinds of address, and for one with credentials."""
    try:
        return isinstance(where, str) and not is_text(where) and is_remote(where)
    except UserError as error:
        raise UserError(error.problem, where="the recipe's address", fix=error.fix) from None


def place_of(where: str | Path) -> str:
    """What names the recipe from any directory: its absolute path, its address, or its text."""
    return str(where) if is_text(where) or is_address(where) else str(Path(where).absolute())


def folder_of(where: str | Path) -> Folder:
    """Where the recipe's relative paths begin; of an address the address itself."""
    if is_text(where):
        return None
    return str(where) if is_address(where) else Path(where).absolute().parent


def shown(where: str | Path) -> str:
    """What errors call it: a recipe's text is not repeated."""
    return TEXT if is_text(where) else str(where)


def name_of(where: str | Path, changes: Sequence[str] | None = ()) -> str:
    """What a noted command calls it: the file by its name, an object by its address, a text by its dataset.

    With its ``changes``, so that the command can be given again.
    """
    said = "".join(f" --set {shlex.quote(change)}" for change in changes or ())
    return _name_of(where) + said


def _name_of(where: str | Path) -> str:
    if is_text(where):
        found = _DATASET.search(where)
        return found.group(1) if found else "recipe"
    try:
        return str(where) if is_address(where) else Path(where).name
    except UserError:  # whoever reads it says so; a name is asked for before
        return "recipe"


def dataset_of(where: str | Path) -> str:
    """The dataset that the recipe names, for a name before it is read; of one in a bucket, or without, what it is called."""
    try:
        text = str(where) if is_text(where) else "" if is_address(where) else decode(_read_file(Path(where)), "")
    except UserError:  # whoever reads it says so
        text = ""
    found = _DATASET.search(text)
    return found.group(1) if found else PurePath(name_of(where)).stem


def read_origin(where: str | Path) -> bytes:
    """The document as it stands now. Raises UserError where it cannot be read or is too large to be a recipe;

    of a bucket that does not answer StoreRefused or StoreSilent.
    """
    if is_text(where):
        raw = where.encode("utf-8", "surrogateescape")
    else:
        raw = _read_object(str(where)) if is_address(where) else _read_file(Path(where))
    require_size(len(raw), shown(where))
    return raw


def require_size(size: int, where: str) -> None:
    """Raises UserError for more bytes than a recipe has, what it extends and what its variables hold included."""
    if size > MAX_BYTES:
        problem = f"a recipe is at most {MAX_BYTES:,} bytes; this is larger"
        raise UserError(problem, where=where, fix="name a recipe; this looks like data")


def _read_object(address: str) -> bytes:
    try:
        with open_bytes(address) as stream:
            return stream.read(MAX_BYTES + 1)
    except UserError as error:
        fix = "correct the address; `augmill init DATA` writes a first recipe to put there"
        raise UserError(f"the recipe cannot be read: {error.problem}", where=address, fix=fix) from error


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # a NUL in its name
        beside = sorted(p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        others = f"recipes in that directory: {', '.join(beside[:5])}"
        fix = nearest(path.name, beside, others) if beside else "augmill init DATA writes a first one"
        problem = f"the recipe cannot be read: {error.strerror if isinstance(error, OSError) else error}"
        raise UserError(problem, where=str(path), fix=fix) from error


def decode(raw: bytes, where: str) -> str:
    """The document's text. Raises UserError."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 at byte {error.start}", where=where, fix="save the recipe as UTF-8") from error


def is_relative(path: str) -> bool:
    """Whether a path means something else in another directory. ``os.path``: Path raises at an unknown user."""
    return "://" not in path and not os.path.isabs(os.path.expanduser(path))  # noqa: PTH111, PTH117


def beside(address: str, path: str) -> str | None:
    """The address of a relative path beside the object at ``address``; None where it leads out of the bucket."""
    bucket, key = split_uri(address)
    joined = posixpath.normpath(posixpath.join(posixpath.dirname(key), path))
    return None if joined.split("/")[0] == ".." else f"{bucket}/{'' if joined == '.' else joined}"
