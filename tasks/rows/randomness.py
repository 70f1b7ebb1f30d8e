"""Counter-based randomness: a number is a function of (key, counter), so no order of work can change it.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), vectorised over rows:
numpy's own Philox is keyed per generator object, and one object per row costs 20 us a row.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)

Words = npt.NDArray[np.uint64]


def philox(counter: tuple[Words, Words, Words, Words], key: tuple[Words, Words]) -> tuple[Words, Words, Words, Words]:
    """Ten rounds of Philox4x32 over arrays of 32-bit words held in uint64 (shapes broadcast)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (p1 >> _SHIFT) ^ c1 ^ k0, p1 & _LOW, (p0 >> _SHIFT) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + np.uint64(_WEYL[0])) & _LOW, (k1 + np.uint64(_WEYL[1])) & _LOW
    return c0, c1, c2, c3


def stream_key(*parts: object) -> int:
    """A 64-bit key from the parts' text; parts are length-prefixed, so ("ab", "c") is not ("a", "bc")."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = str(part).encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return int.from_bytes(digest.digest()[:8], "little")


def row_seeds(key: int, ordinals: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """One non-negative 63-bit seed per ordinal of the stream ``key``; shape of ``ordinals``."""
    counter = ordinals.astype(np.uint64)
    zero = np.zeros_like(counter)
    k0, k1 = np.uint64(key & 0xFFFFFFFF), np.uint64(key >> 32)
    a, b, _, _ = philox((counter & _LOW, counter >> _SHIFT, zero, zero), (k0 + zero, k1 + zero))
    return ((a | (b << _SHIFT)) >> np.uint64(1)).astype(np.int64)


def uniforms(seeds: npt.NDArray[np.int64], draws: int, *, stream: int = 0) -> npt.NDArray[np.float64]:
    """``draws`` numbers in [0, 1) per row, shape (len(seeds), draws); a prefix does not depend on ``draws``.

    ``stream`` separates independent uses of one seed within a generator.
    """
    blocks = (draws + 1) // 2  # a block gives two doubles of 53 bits
    keys = seeds.astype(np.uint64)[:, None]
    counter = np.arange(blocks, dtype=np.uint64)[None, :]
    shape = (len(seeds), blocks)
    full = np.zeros(shape, dtype=np.uint64)
    words = philox(
        (full + counter, full, full + np.uint64(stream), full), (full + (keys & _LOW), full + (keys >> _SHIFT))
    )
    pairs = np.stack([(words[0] << _SHIFT) | words[1], (words[2] << _SHIFT) | words[3]], axis=2)
    whole = pairs.reshape(len(seeds), 2 * blocks)[:, :draws] >> np.uint64(11)
    return whole.astype(np.float64) * 2.0**-53
