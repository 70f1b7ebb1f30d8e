"""Flips one bit in each of many files of a store, one at a time, and sees what finds it. Prints a table.

    python tests/benchmarks/flip_files.py [--files 90] [--seed 1]

The store is a small one of today's code: two runs, the second with a Delta table. By kind of file, files: how many were
flipped. verify: times `augmill verify --all` named it. made again: times the same run afterwards left a whole store and the
undisturbed release current; not read: the same, and the run had no need of the file, which verify still names; refused: it
ended with a message of its own (exit codes 2 to 4). Anything else is a fault.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from commands import Ended, augmill, write_recipe

KINDS = ("verify", "made again", "not read", "refused", "fault")


def kind_of(name: str) -> str:
    """A file's kind: what stands under public/<dataset>/ or private/, and of releases the files' own names."""
    parts = name.split("/")
    if parts[0] == "public":
        return f"public/{parts[2]}" + (
            f"/{parts[-1]}" if parts[2] == "releases" and parts[-1].endswith(".json") else ""
        )
    return "/".join(parts[:2]) + (f"/{parts[2]}" if parts[1] == "manifests" else "")


def flip(path: Path, draw: random.Random) -> None:
    raw = bytearray(path.read_bytes())
    at = draw.randrange(len(raw))
    raw[at] ^= 1 << draw.randrange(8)
    mode = path.stat().st_mode
    path.chmod(0o600)
    path.write_bytes(raw)
    path.chmod(mode)


def outcome(run: Ended, whole: Ended, released: Ended, release: str) -> str:
    if run.code == 0 and run.last["release"] == release and released.code == 0:
        return "made again" if whole.code == 0 else "not read"
    return "refused" if run.code in (2, 3, 4) and "Traceback" not in run.err else "fault"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=90)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    draw, table = random.Random(asked.seed), dict[str, Counter[str]]()
    with tempfile.TemporaryDirectory(prefix="augmill-flips-") as directory:
        here = Path(directory)
        recipe = write_recipe(
            here, gate={"seeds": 3, "resamples": 200, "rule": "not_worse", "margin": 100.0}, publish={"format": "delta"}
        )
        release = augmill("run", recipe).last["release"]
        shutil.copytree(here / "store", here / "kept")
        files = sorted(
            p.relative_to(here / "store").as_posix()
            for p in (here / "store").rglob("*")
            if p.is_file() and p.stat().st_size
        )
        by_kind: dict[str, list[str]] = {}
        for name in files:
            by_kind.setdefault(kind_of(name), []).append(name)
        every = [name for names in by_kind.values() for name in draw.sample(names, len(names))]
        picked = sorted(every, key=lambda name: (by_kind[kind_of(name)].index(name), name))[
            : asked.files
        ]  # each kind first
        for name in picked:
            shutil.rmtree(here / "store")
            shutil.copytree(here / "kept", here / "store")
            flip(here / "store" / name, draw)
            seen = augmill("verify", "--all", "--store", here / "store")
            run = augmill("run", recipe)
            whole = augmill("verify", "--all", "--store", here / "store")
            counts = table.setdefault(kind_of(name), Counter())
            counts["files"] += 1
            counts["verify"] += seen.code != 0
            found = outcome(run, whole, augmill("verify", recipe), release)
            counts[found] += 1
            if found == "fault":
                print(f"{name}: run {run.code}, verify {whole.code}\n{run.err}\n{whole.err}", file=sys.stderr)
    print(f"{len(picked)} files of {len(files)}, seed {asked.seed}\n")
    print("| kind | files | " + " | ".join(KINDS) + " |")
    print("|---|" + "---:|" * (len(KINDS) + 1))
    for kind, counts in sorted(table.items()):
        print(f"| {kind} | {counts['files']} | " + " | ".join(str(counts[name]) for name in KINDS) + " |")


if __name__ == "__main__":
    main()
