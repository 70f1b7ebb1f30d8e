"""A sound in a report: its outline over time as SVG, and a player with its first seconds in it.

What plays is what we decoded and wrote anew, never the user's own bytes: a browser's decoders are no place for those.
"""

from __future__ import annotations

import base64
from itertools import pairwise

import numpy as np

from augmill.tasks.errors import RefusedFile
from augmill.tasks.rows.kinds.audio.decode import Samples, at_rate, decode, encode

SECONDS = 10.0  # that play
RATE = 16_000  # Hz, of a player's sound at most
WIDTH, HEIGHT = 160, 40  # of the outline


def drawn(data: bytes | None) -> str:
    """HTML; empty where the file is no sound. As FLAC, which browsers play and which is the same bytes each time."""
    try:
        sound = decode(data)
    except RefusedFile:
        return ""
    mono = sound.mono[: int(SECONDS * sound.rate)]
    rate = min(RATE, sound.rate)
    played = base64.b64encode(encode(at_rate(mono, sound.rate, rate), rate, "FLAC")).decode()
    player = f'<audio controls preload="none" src="data:audio/flac;base64,{played}"></audio>'
    return f'<span class="sound">{_outline(sound.mono)}{player}</span>'


def _outline(mono: Samples) -> str:
    """Least and greatest sample of each of ``WIDTH`` parts, against the loudest."""
    edges = np.linspace(0, len(mono), WIDTH + 1).astype(int)
    most = max(float(np.abs(mono).max()), 1e-6)
    parts = [mono[start : max(stop, start + 1)] for start, stop in pairwise(edges)]
    ends = [(float(part.max()), float(part.min())) if len(part) else (0.0, 0.0) for part in parts]
    middle = HEIGHT / 2
    path = "".join(
        f"M{at} {middle - high / most * middle:.1f}V{middle - low / most * middle:.1f}"
        for at, (high, low) in enumerate(ends)
    )
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    return f'<svg {size} role="img" aria-label="outline of the sound"><path d="{path}" stroke="currentColor"/></svg>'
