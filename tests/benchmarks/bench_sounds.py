"""Sounds: `transforms` beside audiomentations, and how many planted twins the kind finds. Prints two tables.

    python tests/benchmarks/bench_sounds.py [--rows 300] [--repeats 5] [--recordings RECORDINGS.tar]

Processor time of one thread, medians. Of `transforms` rows a second from file to file (a parent is decoded, transformed and
written), and of each transformation on samples alone. audiomentations: the like on samples, where it is installed (of its
versions 0.43.1 was compared). Twins: of each way of changing a recording (MP3, OGG, another rate, gain, cuts of 8 %, noise
at 30 dB) the share that is found again from a similarity of 0.8 up among all recordings, and how many others are. The
recordings: words that a program draws, or WAV files in a tar archive.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from augmill.tasks.generators.transforms import TransformsOptions
from augmill.tasks.generators.transforms.sound import NAMES, Sounds
from augmill.tasks.rows.kinds import RowIndex
from augmill.tasks.rows.kinds.audio import at_rate, samples

sys.path.insert(0, str(Path(__file__).parents[1] / "rows"))
from drawn_sounds import Wave, file_of, sounds, wav, word

# Of audiomentations: its name for the like, and what it is given.
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "pitch": ("PitchShift", {"min_semitones": -2, "max_semitones": 2}),
    "speed": ("TimeStretch", {"min_rate": 0.88, "max_rate": 1.12, "leave_length_unchanged": False}),
    "shift": ("Shift", {"min_shift": -0.06, "max_shift": 0.06, "rollover": False}),
    "time_mask": ("TimeMask", {"min_band_part": 0.01, "max_band_part": 0.08}),
    "noise": ("AddColorNoise", {"min_snr_db": 20, "max_snr_db": 40}),
    "gain": ("Gain", {"min_gain_db": -6, "max_gain_db": 6}),
}


def seconds(work: Callable[[], Any], repeats: int) -> float:
    work()
    took = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        took.append(time.process_time() - start)
    return max(statistics.median(took), 1e-9)


def peer(name: str, waves: list[tuple[Wave, int]]) -> Callable[[], Any] | None:
    if name not in PEERS or importlib.util.find_spec("audiomentations") is None:
        return None
    import audiomentations

    called, options = PEERS[name]
    made = getattr(audiomentations, called)(p=1.0, **options)
    return lambda: [made(samples=wave, sample_rate=rate) for wave, rate in waves]


def throughput(files: list[bytes], repeats: int) -> None:
    waves, rows, seeds = [samples(file) for file in files], [[file] for file in files], np.arange(len(files)) * 7919
    read = seconds(lambda: [samples(file) for file in files], repeats)
    print("| what | rows/s | audiomentations, samples alone | ratio of samples alone |\n|---|---|---|---|")
    for policy in ("light", "strong", "trivial", "rand"):
        medium = Sounds(TransformsOptions(policy=policy))  # type: ignore[arg-type]
        took = seconds(lambda medium=medium: medium.transform(rows, seeds, 0), repeats)  # type: ignore[misc]
        print(f"| policy {policy}, from file to file | {len(files) / took:,.0f} | - | - |")
    for name in NAMES:
        if name == "background":
            continue
        amounts = {**dict.fromkeys(NAMES, 0.0), name: 6.0 if name == "gain" else 0.1}
        medium = Sounds(TransformsOptions(policy="trivial", amounts=amounts))
        took = seconds(lambda medium=medium: medium.changed(waves, seeds), repeats)  # type: ignore[misc]
        other = peer(name, waves)
        theirs = seconds(other, repeats) if other else None
        shown = f"{len(files) / theirs:,.0f} | {theirs / took:.2f}" if theirs else "- | -"
        print(f"| {name}, samples alone | {len(files) / took:,.0f} | {shown} |")
    print(f"| reading a file | {len(files) / read:,.0f} | - | - |")


def twins(files: list[bytes], planted: int) -> None:
    index = RowIndex.build(sounds(files), ("audio:clip",), 0.8)
    query, position, _ = index.matches(sounds(files))
    print(f"\n{len(files)} recordings, {int((query < position).sum())} of their pairs near\n")
    picked = np.random.default_rng(0).permutation(len(files))[:planted].tolist()
    noise = np.random.default_rng(1)
    ways: dict[str, Callable[[Wave, int], bytes]] = {
        "MP3": lambda wave, rate: file_of(wave, rate, "MP3"),
        "MP3, low quality": lambda wave, rate: file_of(wave, rate, "MP3", compression_level=0.8),
        "OGG, low quality": lambda wave, rate: file_of(wave, rate, "OGG", compression_level=0.8),
        "twice the rate": lambda wave, rate: wav(at_rate(wave, rate, 2 * rate), 2 * rate),
        "three quarters of the rate": lambda wave, rate: wav(at_rate(wave, rate, rate * 3 // 4), rate * 3 // 4),
        "a fifth as loud": lambda wave, rate: wav(wave * np.float32(0.2), rate),
        "8 % less at the start": lambda wave, rate: wav(wave[int(0.08 * len(wave)) :], rate),
        "8 % less at the end": lambda wave, rate: wav(wave[: len(wave) - int(0.08 * len(wave))], rate),
        "noise at 30 dB": lambda wave, rate: wav(
            wave + np.float32(np.std(wave) / 31.6) * noise.standard_normal(len(wave)).astype(np.float32), rate
        ),
    }
    print("| twin | found | others found |\n|---|---|---|")
    for name, change in ways.items():
        query, position, _ = index.matches(sounds([change(*samples(files[at])) for at in picked]))
        own = position == np.array(picked)[query]
        print(f"| {name} | {own.sum() / len(picked):.3f} | {int((~own).sum())} |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--recordings", type=Path)
    given = parser.parse_args()
    if given.recordings:
        with tarfile.open(given.recordings) as archive:
            files = [archive.extractfile(each).read() for each in archive if each.name.endswith(".wav")]  # type: ignore[union-attr]
    else:
        files = [wav(word(seed)) for seed in range(given.rows)]
    throughput(files[: given.rows], given.repeats)
    twins(files, given.rows)


if __name__ == "__main__":
    main()
