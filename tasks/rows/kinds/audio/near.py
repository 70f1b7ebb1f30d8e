"""Sounds to be found again: sketches propose, the cosine of spectra aligned in time decides.

Of every pair the cosine of sketches is taken, as one product of matrices: at 100,000 sounds that are seconds for a
thousand queries, and exact, where bands of hashes would lose some. All numbers are whole and small enough for exact
products in floating point, so that a similarity never hangs on what else is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.contracts import Floats, Ints, NearIndex
from augmill.tasks.rows.kinds.audio.heard import BANDS, HOP, RATE, SKETCH, Codes, Print, prints

PROPOSED = 0.85  # least cosine of sketches: planted twins have 0.95 and more, 1 in 10,000 pairs of FSDD has
STEEP = 6.5  # similarity = 1 - STEEP * (1 - cosine): 0.8 is a cosine of 0.969, which no two takes of FSDD pass
NOT_EQUAL = 0.9999  # the most that sounds are similar which are not the same
SHIFT = 0.05  # of the longer sound's length, by which middles may lie apart: what is cut at one end moves it by half
BITS, BANDED = 10, 24  # a key's bits, keys a row: two sketches of cosine 0.93 share one with a chance of 0.9996
_BLOCK = 1 << 10
_FRAME = (
    2 * HOP / RATE
)  # seconds: of one sound every second frame is compared, with the even and the odd ones of the other
_MARGIN = 0.07  # seconds that compression may put before or behind a sound


def similarity(known: Print, asked: Print) -> float:
    """0 to 1: how alike two sounds are, wherever one of them was cut by up to a tenth of its length, and however loud."""
    if known.equal == asked.equal:
        return 1.0
    if not len(known.spectrum) or not len(asked.spectrum):
        return 0.0
    longer = max(known.seconds, asked.seconds)
    if min(known.seconds, asked.seconds) < (1 - 2 * SHIFT) * longer - _MARGIN:
        return 0.0
    one, other = sorted((known, asked), key=lambda each: each.equal)  # the same both ways
    most = int(SHIFT * longer / _FRAME) + int(_MARGIN / _FRAME)
    best = max(_aligned(one.spectrum[::2], other.spectrum[phase::2], most) for phase in (0, 1))
    return min(NOT_EQUAL, max(0.0, 1 - STEEP * (1 - best)))


def _aligned(one: Codes, other: Codes, most: int) -> float:
    """The greatest cosine, each about its mean, over shifts of the middles by up to ``most`` frames."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    best, apart = 0.0, (len(b) - len(a)) // 2
    for shift in range(apart - most, apart + most + 1):
        x, y = a[max(0, -shift) :], b[max(0, shift) :]
        shared = min(len(x), len(y))
        if 2 * shared <= max(len(a), len(b)):
            continue
        x, y = x[:shared].ravel(), y[:shared].ravel()
        count, sum_x, sum_y = len(x), x.sum(), y.sum()
        spread = (count * (x @ x) - sum_x**2) * (count * (y @ y) - sum_y**2)
        if spread > 0:
            best = max(best, float((count * (x @ y) - sum_x * sum_y) / np.sqrt(spread)))
    return best


class NearSounds(NearIndex):
    """Rows by all their sounds: as similar as their least similar ones. Of equal rows the first is known."""

    def __init__(self, rows: Sequence[tuple[Print, ...]], positions: Ints, threshold: float) -> None:
        self.rows, self.positions, self.threshold = list(rows), positions, threshold
        self._equal = {_equal(row): place for place, row in enumerate(self.rows)}
        self._sketches = _sketches([row[0] for row in self.rows])

    @classmethod
    def build(cls, columns: pa.Table, threshold: float) -> NearSounds:
        first: dict[bytes, int] = {}
        rows = list(zip(*prints(columns), strict=True))
        for position, row in enumerate(rows):
            first.setdefault(_equal(row), position)
        positions = np.fromiter(first.values(), np.int64, len(first))
        return cls([rows[position] for position in positions.tolist()], positions, threshold)

    def matches(self, columns: pa.Table) -> tuple[Ints, Ints, Floats]:
        found = sorted((query, int(self.positions[place]), near) for query, place, near in self._matches(columns))
        query = np.array([each[0] for each in found], np.int64)
        position = np.array([each[1] for each in found], np.int64)
        return query, position, np.array([each[2] for each in found], np.float64)

    def nearest(self, columns: pa.Table) -> tuple[Ints, Floats]:
        best, value = np.full(columns.num_rows, -1, np.int64), np.zeros(columns.num_rows)
        query, position, near = self.matches(columns)
        order = np.lexsort((position, -near, query))
        hit, at = np.unique(query[order], return_index=True)
        best[hit], value[hit] = position[order][at], near[order][at]
        return best, value

    def _matches(self, columns: pa.Table) -> Iterator[tuple[int, int, float]]:
        """(query, place in ``rows``, similarity)."""
        asked = list(zip(*prints(columns), strict=True))
        for start in range(0, len(asked), _BLOCK):
            block = asked[start : start + _BLOCK]
            for at, row in enumerate(block):
                if (place := self._equal.get(_equal(row))) is not None:
                    yield start + at, place, 1.0
            for at, place in np.argwhere(_alike(_sketches([row[0] for row in block]), self._sketches)).tolist():
                one, other = self.rows[place], block[at]
                if _equal(one) != _equal(other):
                    near = min(NOT_EQUAL, *(similarity(*pair) for pair in zip(one, other, strict=True)))
                    if near >= self.threshold:
                        yield start + at, place, near

    def save(self, directory: Path, name: str) -> dict[str, Path]:
        columns: dict[str, pa.Array] = {"position": pa.array(self.positions)}
        for at in range(len(self.rows[0]) if self.rows else 0):
            own = [row[at] for row in self.rows]
            columns |= {
                f"equal {at}": pa.array([each.equal for each in own], pa.binary()),
                f"seconds {at}": pa.array([each.seconds for each in own], pa.float64()),
                f"spectrum {at}": pa.array([each.spectrum.tobytes() for each in own], pa.large_binary()),
                f"sketch {at}": pa.array([each.sketch.tobytes() for each in own], pa.binary()),
            }
        table = pa.table(columns).replace_schema_metadata({"threshold": repr(self.threshold)})
        path = directory / f"{name}.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        return {path.name: path}

    @classmethod
    def load(cls, directory: Path, name: str) -> NearSounds:
        with pa.OSFile(str(directory / f"{name}.arrow"), "rb") as source:
            table = pa.ipc.open_file(source).read_all()
        parts = [
            [
                Print(
                    equal,
                    seconds,
                    np.frombuffer(spectrum, np.uint8).reshape(-1, BANDS),
                    np.frombuffer(sketch, np.int8),
                )
                for equal, seconds, spectrum, sketch in zip(
                    *(table[f"{of} {at}"].to_pylist() for of in ("equal", "seconds", "spectrum", "sketch")), strict=True
                )
            ]
            for at in range((table.num_columns - 1) // 4)
        ]
        threshold = float(table.schema.metadata[b"threshold"])
        return cls(list(zip(*parts, strict=True)), table["position"].to_numpy(), threshold)


def near_keys(columns: pa.Table) -> npt.NDArray[np.uint32]:
    """(rows, ``BANDED``): bands of the signs of a sketch's projections (Charikar, STOC 2002), of the first field's."""
    fields = prints(columns)
    signs = _sketches(fields[0]).astype(np.float64) @ _projections() >= 0  # whole numbers: exact
    bands = signs.reshape(-1, BANDED, BITS).astype(np.uint32)
    return np.asarray((bands << np.arange(BITS, dtype=np.uint32)).sum(axis=2, dtype=np.uint32))


@cache
def _projections() -> npt.NDArray[np.float64]:
    """Of ones and minus ones, from a fixed seed."""
    signs = np.random.Generator(np.random.Philox(7)).integers(0, 2, (SKETCH, BANDED * BITS))
    return (2 * signs - 1).astype(np.float64)


def _sketches(sounds: Sequence[Print]) -> npt.NDArray[np.float32]:
    return np.array([each.sketch for each in sounds], np.float32).reshape(-1, SKETCH)


def _alike(asked: npt.NDArray[np.float32], known: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """(asked, known): products of whole numbers below 2**24 are exact, in whatever order they are added."""
    norms = [np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64)) for rows in (asked, known)]
    least = np.maximum(PROPOSED * np.outer(*norms), 1.0)  # of no sound's sketch the product is 0
    found: npt.NDArray[np.bool_] = (asked @ known.T) >= least
    return found


def _equal(row: Sequence[Print]) -> bytes:
    return b"".join(each.equal for each in row)
