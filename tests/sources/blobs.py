"""A kind of files that decodes nothing: whatever has a byte is a value, and equal bytes are equal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from augmill.tasks.contracts import (
    ROW_ID,
    STRATUM,
    Context,
    Featurizer,
    FitInputs,
    Fitted,
    Generator,
    Kind,
    NearIndex,
    ReadLimits,
    Request,
)
from augmill.tasks.rows.kinds import candidate_schema
from augmill.tasks.rows.kinds.media import MEDIA, digests, files_of, from_source, is_media, media, to_release
from augmill.tasks.rows.schema import titles

BLOB = "blobs:Blob"  # as a recipe names it


class Blob(Kind):
    contract: ClassVar[int] = 1
    VERSION: ClassVar[int] = 1
    name: ClassVar[str] = "blob"
    types: ClassVar[tuple[str, ...]] = ("blob",)
    verbatim: ClassVar[bool] = True
    files: ClassVar[bool] = True
    remedies: ClassVar[Mapping[str, str]] = {"no_blob": "give a file"}

    def arrow(self, type: str) -> pa.DataType:
        return MEDIA

    def sniff(self, column: pa.ChunkedArray, name: str) -> tuple[str, float]:
        return BLOB, float(is_media(column.type) and column.null_count < len(column))

    def takes(self, kind: pa.DataType, type: str) -> bool:
        return is_media(kind) or bool(pa.types.is_null(kind))

    def read(self, column: pa.ChunkedArray, type: str, limits: ReadLimits) -> tuple[pa.Array, list[str | None]]:
        values = from_source(column).combine_chunks()
        sizes = [len(file or b"") for file in files_of(values)]
        return values, ["no_blob" if not s else "file_too_large" if s > limits.max_bytes else None for s in sizes]

    def release(self, values: pa.Array, kind: pa.DataType) -> pa.Array:
        return to_release(values, kind)

    def id(self, columns: pa.Table) -> list[bytes]:
        return digests(columns)

    def equal(self, columns: pa.Table) -> list[bytes]:
        return digests(columns)

    def near(self, columns: pa.Table, threshold: float) -> NearIndex | None:
        return None

    def load_near(self, directory: Path, name: str) -> NearIndex:
        raise NotImplementedError

    def groups(self, columns: pa.Table, threshold: float) -> npt.NDArray[np.bool_]:
        keys = self.equal(columns)
        return np.array([key not in keys[:at] for at, key in enumerate(keys)], np.bool_)

    def profile(self, columns: pa.Table) -> dict[str, Any]:
        return {"blobs": columns.num_rows}

    def drift(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, float]:
        return {"blobs": 0.0}

    def expectations(self, field: str, max_null_share: float) -> list[dict[str, Any]]:
        kwargs = {"column": field, "mostly": 1 - max_null_share}
        return [{"type": "expect_column_values_to_not_be_null", "kwargs": kwargs}]

    def features(self, train: pa.Table) -> Featurizer:
        return Sizes()

    def show(self, columns: pa.Table) -> list[str]:
        shown = [titles(column) for column in columns.columns]
        return [" | ".join(name or "" for name in row) for row in zip(*shown, strict=True)]


class Sizes(Featurizer):
    def transform(self, columns: pa.Table) -> Any:
        sizes = [[len(file or b"") for file in files_of(column)] for column in columns.columns]
        return np.array(sizes, np.float32).T


@dataclass(frozen=True)
class NoOptions:
    pass


class Appended(Generator):
    """A row is a parent's file with a few bytes behind it."""

    contract: ClassVar[int] = 1
    VERSION: ClassVar[int] = 1
    Options: ClassVar[type[Any]] = NoOptions
    kinds: ClassVar[tuple[str, ...]] = ("blob",)

    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        path = ctx.workdir / "rows.parquet"
        pq.write_table(inputs.train.select([ROW_ID, STRATUM, *ctx.fields]), path)
        return {path.name: path}

    def sample(self, fitted: Fitted, request: Request, ctx: Context) -> pa.Table:
        rows = fitted.get("rows", lambda: pq.read_table(fitted.path / "rows.parquet").to_pylist())
        chosen = []
        for stratum, seed in zip(request.strata, request.seeds.tolist(), strict=True):
            own = [row for row in rows if row[STRATUM] == stratum]
            chosen.append(own[seed % len(own)])
        fields = {
            name: media([row[name]["bytes"] + seed.tobytes() for row, seed in zip(chosen, request.seeds, strict=True)])
            for name in ctx.fields
        }
        columns = {
            "ordinal": request.ordinals, "asked": request.strata, STRATUM: request.strata, **fields,
            "parent_ids": [[row[ROW_ID]] for row in chosen], "seed": request.seeds, "reason": [None] * len(chosen),
        }  # fmt: skip
        schema = candidate_schema(ctx.fields)
        return pa.table([columns[name] for name in schema.names], schema=schema)
