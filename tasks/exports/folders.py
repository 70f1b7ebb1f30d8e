"""A directory for each split and in it one for each label, as ``datasets``' imagefolder and audiofolder read them.

Labels stand in ``metadata.jsonl`` too, in their own type: a directory's name is one that every file system takes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import ClassVar

from .contract import Export, Exported, ending_of, to_json

_SAFE = frozenset(" -,'()")  # that a directory's name may hold beside letters and digits; `_` within it
_LONGEST = 120  # bytes of it


class ImageFolderExport(Export):
    VERSION: ClassVar[int] = 1
    kinds: ClassVar[tuple[str, ...]] = ("image",)
    problems: ClassVar[tuple[str, ...]] = ("classification",)
    needs: ClassVar[str] = "one picture a row, with a label"

    def write(self, folder: Path, release: Exported) -> None:
        _write_folders(folder, release)


class AudioFolderExport(Export):
    VERSION: ClassVar[int] = 1
    kinds: ClassVar[tuple[str, ...]] = ("audio",)
    problems: ClassVar[tuple[str, ...]] = ("classification",)
    needs: ClassVar[str] = "one sound a row, with a label"

    def write(self, folder: Path, release: Exported) -> None:
        _write_folders(folder, release)


def _write_folders(folder: Path, release: Exported) -> None:
    # ``datasets`` finds splits by the names of directories too, and a label may be called `test`: the card says them.
    files = "".join(f"  - split: {split}\n    path: {split}/**\n" for split in release.splits)
    card = f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n"
    (folder / "README.md").write_text(card, encoding="utf-8", newline="\n")
    for split in release.splits:
        (folder / split).mkdir()
        with (folder / split / "metadata.jsonl").open("wb") as lines:
            for file, row in release.rows(split):
                label = row[release.answer]
                directory = directory_of(release.classes.get(label, str(label)))
                name = f"{directory}/{release.stem(row)}.{ending_of(file)}"
                (folder / split / directory).mkdir(exist_ok=True)
                (folder / split / name).write_bytes(file)
                lines.write(to_json({"file_name": name, "label": label, **release.added(row)}) + b"\n")


def directory_of(label: str) -> str:
    """A label as a directory's name: the label itself, but for what would not be safe, as ``+`` and its UTF-8 in hex.

    No two labels have one name. What is too long ends in a part of its sha256.
    """
    last = len(label) - 1
    parts = [
        char
        if char.isalnum() or (char in _SAFE | {"_", "."} and 0 < at < last)
        else "".join(f"+{byte:02X}" for byte in char.encode())
        for at, char in enumerate(label)
    ]
    name = "".join(parts) or "+"
    if len(name.encode()) <= _LONGEST:
        return name
    while len("".join(parts).encode()) > _LONGEST - 17:
        parts.pop()
    return f"{''.join(parts)}+{hashlib.sha256(label.encode()).hexdigest()[:16]}"
