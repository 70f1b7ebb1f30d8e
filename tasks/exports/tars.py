"""WebDataset: tars of samples, each the row's file and a JSON of its other columns."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any, ClassVar

from .contract import Export, Exported, ending_of, to_json

TAR_BYTES = 1 << 29  # about which a tar is closed: a reader takes whole ones
_BLOCK = 512
# What readers call the sample itself, and its files: a column of such a name gets a `_` behind it.
_TAKEN = {"__key__", "__url__", "bin", "flac", "jpg", "json", "mp3", "ogg", "png", "wav", "webp"}


class WebDatasetExport(Export):
    VERSION: ClassVar[int] = 1
    needs: ClassVar[str] = "one picture or sound a row"

    def write(self, folder: Path, release: Exported) -> None:
        for split in release.splits:
            number, tar = 0, _open(folder, split, 0)
            for file, row in release.rows(split):
                key = release.stem(row)
                columns = {f"{name}_" if name in _TAKEN else name: value for name, value in row.items()}
                sample = [(f"{key}.{ending_of(file)}", file), (f"{key}.json", to_json(columns))]
                size = sum(2 * _BLOCK + len(data) for _, data in sample)
                if tar.offset and tar.offset + size > TAR_BYTES:
                    tar.close()
                    number += 1
                    tar = _open(folder, split, number)
                for name, data in sample:
                    _add(tar, name, data)
            tar.close()


def _open(folder: Path, split: str, number: int) -> Any:
    return tarfile.open(folder / f"{split}-{number:06d}.tar", "w", format=tarfile.USTAR_FORMAT)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """With no time and no owner, so that the same rows are the same bytes."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
