"""MinHash three ways on TREC: our numpy signatures, rensa's, datasketch's. Prints a table.

    python tests/benchmarks/bench_minhash.py [--shared ../shared] [--rows 2500]

rows/s: from text to signatures in numpy (shingling included; in brackets without reading the signatures out). Recall
and precision: pairs of rows at Jaccard >= 0.8 (character 5-grams), by all-pairs truth; "proposed" is LSH alone,
"verified" what TextIndex returns. TREC has 13 such pairs, so every row also stands there without its last word. A
package that is not installed is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from augmill.tasks.rows.kinds.text import equal, shingles
from augmill.tasks.rows.kinds.text.near import TextIndex
from augmill.tasks.rows.kinds.text.sketches import PERMUTATIONS, Sketches

THRESHOLD = 0.8
Pairs = set[tuple[int, int]]


def read_texts(shared: Path, rows: int) -> list[str]:
    """TREC's train and test texts, each also without its last word; distinct when folded."""
    folder = shared / "data" / "trec_kumar"
    lines = [line for name in ("train", "test") for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]
    whole = list({equal(json.loads(line)["text"]): None for line in lines})[:rows]
    return list(dict.fromkeys([*whole, *(text.rpartition(" ")[0] or text for text in whole)]))


def true_pairs(sets: list[set[str]]) -> Pairs:
    """All pairs at the threshold, counted through an inverted index."""
    postings: dict[str, list[int]] = {}
    found: Pairs = set()
    for row, grams in enumerate(sets):
        seen = np.concatenate([np.empty(0, np.int64), *(np.array(postings.get(g, []), np.int64) for g in grams)])
        others, shared = np.unique(seen, return_counts=True)
        found |= {
            (int(other), row)
            for other, count in zip(others, shared, strict=True)
            if count >= THRESHOLD * (len(grams) + len(sets[other]) - count)
        }
        for gram in grams:
            postings.setdefault(gram, []).append(row)
    return found


def upper(pairs: Pairs) -> Pairs:
    return {(a, b) for a, b in pairs if a < b}


def ours(texts: list[str]) -> tuple[float, float, Pairs]:
    start = time.perf_counter()
    sketches = Sketches.of([equal(text) for text in texts], THRESHOLD)
    seconds = time.perf_counter() - start
    proposed: Pairs = set()
    for column in sketches.keys.T:
        buckets: dict[int, list[int]] = {}
        for row, key in enumerate(column.tolist()):
            proposed |= {(other, row) for other in buckets.get(key, [])}
            buckets.setdefault(key, []).append(row)
    return seconds, seconds, proposed


def rensa(texts: list[str]) -> tuple[float, float, Pairs]:
    from rensa import RMinHash, RMinHashLSH

    start = time.perf_counter()
    sets = [sorted(shingles(text)) for text in texts]
    matrix = RMinHash.digest_matrix_from_token_sets(sets, PERMUTATIONS, 5)
    held = time.perf_counter() - start
    np.array(matrix.to_rows(), dtype=np.uint32)
    seconds = time.perf_counter() - start
    index = RMinHashLSH(THRESHOLD, PERMUTATIONS, 16)
    index.insert_matrix(matrix)
    minhashes = RMinHash.from_token_sets(sets, PERMUTATIONS, 5)
    return seconds, held, upper({(row, other) for row, m in enumerate(minhashes) for other in index.query(m)})


def datasketch(texts: list[str]) -> tuple[float, float, Pairs]:
    from datasketch import MinHash, MinHashLSH

    start = time.perf_counter()
    sets = [[gram.encode() for gram in sorted(shingles(text))] for text in texts]
    minhashes = MinHash.bulk(sets, num_perm=PERMUTATIONS, seed=5)
    np.stack([m.hashvalues for m in minhashes])
    seconds = time.perf_counter() - start
    index = MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS)
    for row, minhash in enumerate(minhashes):
        index.insert(row, minhash)
    return seconds, seconds, upper({(row, other) for row, m in enumerate(minhashes) for other in index.query(m)})


def show(name: str, speed: str, found: Pairs, truth: Pairs) -> None:
    right = len(found & truth)
    recall, precision = right / len(truth), right / max(1, len(found))
    print(f"{name:<22}{speed:>22}{len(found):>9}{recall:>9.3f}{precision:>11.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="MinHash signatures and recall on TREC, three ways.")
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("AUGMILL_SHARED", "../shared")))
    parser.add_argument("--rows", type=int, default=2500, help="TREC rows, taken twice")
    given = parser.parse_args()
    texts = read_texts(given.shared, given.rows)
    truth = true_pairs([shingles(text) for text in texts])
    print(f"{len(texts)} rows, {len(truth)} pairs at Jaccard >= {THRESHOLD}, {PERMUTATIONS} permutations")
    print(f"{'':<22}{'rows/s (not read out)':>22}{'pairs':>9}{'recall':>9}{'precision':>11}")
    ways: dict[str, Callable[[list[str]], tuple[float, float, Pairs]]] = {"rensa": rensa, "datasketch": datasketch}
    ways = {"numpy (ours)": ours} | {name: way for name, way in ways.items() if importlib.util.find_spec(name)}
    for name, way in ways.items():
        seconds, held, found = way(texts)
        show(f"{name}, proposed", f"{len(texts) / seconds:,.0f} ({len(texts) / held:,.0f})", found, truth)
    query, position, _ = TextIndex.build(texts, THRESHOLD).matches(texts)
    show("TextIndex, verified", "", upper(set(zip(query.tolist(), position.tolist(), strict=True))), truth)


if __name__ == "__main__":
    main()
