"""Sound: the files of a row, taken together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.contracts import Featurizer, Floats, Kind, NearIndex, ReadLimits
from augmill.tasks.errors import RefusedFile
from augmill.tasks.rows.kinds.audio import features
from augmill.tasks.rows.kinds.audio.decode import REMEDIES, decode, opened
from augmill.tasks.rows.kinds.audio.drawing import drawn
from augmill.tasks.rows.kinds.audio.heard import Heard, heard, prints
from augmill.tasks.rows.kinds.audio.melspectrogram import DEPTH
from augmill.tasks.rows.kinds.audio.near import NearSounds, near_keys, similarity
from augmill.tasks.rows.kinds.media import MEDIA, digests, files_of, from_source, is_media, names_of, to_release
from augmill.tasks.rows.schema import distance

WAYS = ("seconds", "rates", "loudness", "silence", "clipping")
_SNIFFED = 5  # files of a column that are opened


class Audio(Kind):
    """``id``: sha256 of the files. ``equal``: their samples, rates and channels, so that a WAV equals its FLAC.

    Near: the cosine of narrow-band spectra aligned in time (``near.similarity``), 0.8 of which is a cosine of 0.969.
    """

    VERSION: ClassVar[int] = 1
    name: ClassVar[str] = "audio"
    types: ClassVar[tuple[str, ...]] = ("audio",)
    libraries: ClassVar[tuple[str, ...]] = ("soundfile",)
    remedies: ClassVar[Mapping[str, str]] = REMEDIES
    verbatim: ClassVar[bool] = True
    files: ClassVar[bool] = True
    feature: ClassVar[str] = "Audio"
    hub: ClassVar[str] = "audio"

    def arrow(self, type: str) -> pa.DataType:
        return MEDIA

    def takes(self, kind: pa.DataType, type: str) -> bool:
        return is_media(kind) or bool(pa.types.is_null(kind))

    def sniff(self, column: pa.ChunkedArray, name: str) -> tuple[str, float]:
        """By whether its first files open as sounds."""
        if not is_media(column.type):
            return "audio", 0.0
        files = [data for data in files_of(from_source(column.slice(0, 1000))) if data][:_SNIFFED]
        return "audio", round(0.95 * sum(map(_opens, files)) / max(1, len(files)), 4)

    def read(self, column: pa.ChunkedArray, type: str, limits: ReadLimits) -> tuple[pa.Array, list[str | None]]:
        """Refused, each with its remedy: see ``decode.REMEDIES``. Values stay the files that they are."""
        if pa.types.is_null(column.type):
            return pa.nulls(len(column), MEDIA), ["no_audio"] * len(column)
        values = from_source(column)
        reasons = [_reason(data) for data in files_of(values)]
        return values.combine_chunks(), reasons

    def release(self, values: pa.Array, kind: pa.DataType) -> pa.Array:
        return to_release(values, kind)

    def id(self, columns: pa.Table) -> list[bytes]:
        return digests(columns)

    def equal(self, columns: pa.Table) -> list[bytes]:
        return [b"".join(each.equal for each in row) for row in zip(*prints(columns), strict=True)]

    def near(self, columns: pa.Table, threshold: float) -> NearIndex:
        return NearSounds.build(columns, threshold)

    def load_near(self, directory: Path, name: str) -> NearIndex:
        return NearSounds.load(directory, name)

    def groups(self, columns: pa.Table, threshold: float) -> npt.NDArray[np.bool_]:
        keep = np.ones(columns.num_rows, np.bool_)
        seen = set[bytes]()
        for row, key in enumerate(self.equal(columns)):
            keep[row] = key not in seen
            seen.add(key)
        query, position, _ = self.near(columns, threshold).matches(columns)
        for one, other in zip(query.tolist(), position.tolist(), strict=True):  # by query: those before are decided
            if other < one and keep[other]:
                keep[one] = False
        return keep

    def near_keys(self, columns: pa.Table, threshold: float) -> npt.NDArray[np.uint32]:
        return near_keys(columns)

    def profile(self, columns: pa.Table) -> dict[str, Any]:
        """Sounds of all fields by ``seconds`` (binary orders of magnitude of milliseconds), ``rates`` (Hz), ``loudness``

        (steps of 6 dB), ``silence`` (tenths of its time) and ``clipping`` (no sample, up to 1 in 1000, 1 in 100, more).
        """
        found = {way: Counter[str]() for way in WAYS}
        for each in (each for field in heard(columns) for each in field):
            clipped = sum(each.clipped > bound for bound in (0.0, 0.001, 0.01))
            keys = (
                str(int(each.print.seconds * 1000).bit_length()),
                str(each.rate),
                str(round(each.level / 6) * 6),
                str(round(each.silence, 1)),
                ("none", "up to 0.1 %", "up to 1 %", "more")[clipped],
            )
            for way, key in zip(WAYS, keys, strict=True):
                found[way][key] += 1
        return {way: dict(sorted(counts.items())) for way, counts in found.items()}

    def drift(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, float]:
        return {way: distance(one[way], other[way]) for way in WAYS}

    def expectations(self, field: str, max_null_share: float) -> list[dict[str, Any]]:
        of = {"column": field, "mostly": 1.0 - max_null_share}
        return [{"type": "expect_column_values_to_not_be_null", "kwargs": of}]

    def features(self, train: pa.Table) -> Featurizer:
        return features.SoundFeatures(train)

    def planes(self, columns: pa.Table, side: int) -> npt.NDArray[np.float32]:
        """Log-mel spectra as pictures: (rows, fields, side, side), 0 to 1."""
        return features.planes(columns, side)

    def spectra(self, column: pa.ChunkedArray) -> Iterator[npt.NDArray[np.float32]]:
        """Log-mel spectrum of what is heard of each sound, (frames of 10 ms, 64 bands), 0 to 1, at its loudest cell."""
        for spectrum, _ in features.spectra(column):
            yield spectrum / np.float32(DEPTH) + 1

    def show(self, columns: pa.Table) -> list[str]:
        fields = [
            [_shown(path, each) for path, each in zip(names_of(column), own, strict=True)]
            for column, own in zip(columns.columns, heard(columns), strict=True)
        ]
        return [" | ".join(row) for row in zip(*fields, strict=True)]

    def draw(self, columns: pa.Table) -> list[str]:
        """The outline of each sound over time and a player, with its first seconds in it, written anew by us."""
        fields = [[drawn(data) for data in files_of(column)] for column in columns.columns]
        return ["".join(row) for row in zip(*fields, strict=True)]

    def similarities(self, made: pa.Table, real: pa.Table) -> Floats:
        rows, others = (list(zip(*prints(table), strict=True)) for table in (made, real))
        found = [[min(similarity(*pair) for pair in zip(one, other, strict=True)) for other in others] for one in rows]
        return np.array(found, np.float64).reshape(len(rows), len(others))

    def diversity(self, made: pa.Table, real: pa.Table) -> dict[str, float]:
        """``distinct_rows``: share of made rows that no other one equals; ``distance``: mean distance of made rows to the

        nearest real one in standardised features, over the root of their number.
        """
        if not made.num_rows or not real.num_rows:
            return {}
        space = self.features(real)
        ours, theirs = (np.asarray(space.transform(rows), np.float64) for rows in (made, real))
        apart = [np.sqrt(np.mean((theirs - row) ** 2, axis=1).min()) for row in ours]
        return {
            "distinct_rows": round(len(set(self.equal(made))) / made.num_rows, 4),
            "distance": round(float(np.mean(apart)), 4),
        }

    def sizes(self, columns: pa.Table) -> tuple[str, list[int]]:
        rows = zip(*prints(columns), strict=True)
        return "milliseconds", [round(1000 * sum(each.seconds for each in row)) for row in rows]


def _shown(path: str | None, sound: Heard) -> str:
    about = f"{sound.print.seconds:.2f} s, {sound.rate / 1000:g} kHz" if sound.rate else "no sound"
    return f"{path or 'sound'}, {about}"


def _opens(data: bytes) -> bool:
    try:
        opened(data).close()
    except RefusedFile:
        return False
    return True


def _reason(data: bytes | None) -> str | None:
    try:
        decode(data)
    except RefusedFile as refused:
        return refused.reason
    return None
