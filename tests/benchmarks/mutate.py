"""How many small defects the tests of stages/, gate/ and store/ find: mutants by cosmic-ray, each met by its module's tests.

    python tests/benchmarks/mutate.py --mutants 200 --seed 1 [--only store/] [--jobs 2]

It draws places first and one mutant of each then, so that `a + b`, which has twelve, counts as `not a`, which has one. A
mutant that its tests do not end with (ten times their usual time and two minutes) is found too. Everything happens in
copies. It prints the table and every survivor as a diff; the exit code is 1 where one survived.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from queue import Queue

ROOT = Path(__file__).parents[2]
# The quick tests of each module, in the order in which they are likely to find something.
COVERED = {
    "stages/drift": "stages/test_drift test_versions",
    "stages/evaluate": "stages/test_folds test_versions",
    "stages/extensions": "test_versions workers/test_workers flows/test_reuse",
    "stages/fit": "workers/test_workers flows/test_reuse",
    "stages/gather": "stages/test_gather stages/test_partitions",
    "stages/generate": "stages/test_verdicts stages/test_settle test_versions",
    "stages/ingest": "stages/test_ingest stages/test_labels stages/test_gather",
    "stages/jobs": "workers/test_workers flows/test_reuse",
    "stages/mix": "stages/test_mix stages/test_publish",
    "stages/partitions": "stages/test_partitions stages/test_gather",
    "stages/plan": "stages/test_plan stages/test_weigh",
    "stages/publish": "stages/test_publish stages/test_types store/test_log",
    "stages/refusals": "stages/test_ingest stages/test_labels stages/test_gather",
    "stages/settle": "stages/test_settle stages/test_publish",
    "stages/split": "stages/test_split stages/test_publish",
    "stages/stratify": "test_versions stages/test_split stages/test_folds",
    "stages/targets": "stages/test_plan",
    "stages/twins": "stages/test_settle rows/test_similarity",
    "stages/unit_rows": "stages/test_ingest stages/test_labels stages/test_gather",
    "stages/unlabelled": "stages/test_unlabelled",
    "stages/user_columns": "stages/test_types stages/test_ingest stages/test_publish",
    "stages/weigh": "stages/test_weigh test_versions",
    "gate/evidence": "gate/test_arms gate/test_gate gate/test_other_metrics report/test_comparison",
    "gate/gauge": "gate/test_other_metrics report/test_comparison",
    "gate/interval": "gate/test_gate gate/test_other_metrics",
    "gate/judge": "gate/test_gate gate/test_other_metrics",
    "gate/stopping": "gate/test_stopping gate/test_gate",
    "gate/verdict": "gate/test_gate gate/test_other_metrics stages/test_folds flows/test_verdict_words",
    "store/attempts": "store/test_attempts nights/test_states",
    "store/bank": "flows/test_reuse",
    "store/delta": "store/test_delta",
    "store/erasure": "releases/test_erasure stages/test_unlabelled",
    "store/log": "store/test_log store/test_stored nights/test_states",
    "store/releases": "store/test_stored stages/test_publish releases/test_retention",
    "store/rules": "store/test_store store/test_private cli/test_cli_check test_bad_input",
    "store/shapes": "store/test_stored",
    "store/stage": "store/test_stage stages/test_settle",
    "store/store": "store/test_store store/test_private store/test_storms store/test_stage",
}


@dataclass(frozen=True)
class Mutant:
    module: str  # as in COVERED
    operator: str
    occurrence: int
    line: int


@cache
def source(module: str) -> str:
    return (ROOT / "tasks" / f"{module}.py").read_text(encoding="utf-8")


def annotated(module: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Spans of annotations, which nothing evaluates."""
    for node in ast.walk(ast.parse(source(module))):
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if isinstance(part, ast.expr) and part.end_lineno and part.end_col_offset:
                yield (part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)


def places(module: str) -> dict[tuple[str, tuple[int, int]], list[Mutant]]:
    """(kind of mutation, where) -> the mutants there are."""
    import cosmic_ray.plugins  # of the extra `bench`
    from cosmic_ray.ast import ast_nodes, get_ast

    found: dict[tuple[str, tuple[int, int]], list[Mutant]] = {}
    tree, spans = get_ast(source(module)), list(annotated(module))
    for name in sorted(cosmic_ray.plugins.operator_names()):
        kind = cosmic_ray.plugins.get_operator(name)
        if kind.arguments():
            continue
        at = (start for node in ast_nodes(tree) for start, _ in kind().mutation_positions(node))
        for occurrence, start in enumerate(at):
            if not any(begin <= start < end for begin, end in spans):
                found.setdefault((name.split("_")[0], start), []).append(Mutant(module, name, occurrence, start[0]))
    return found


def draw(only: str, count: int, seed: int) -> list[Mutant]:
    rng = random.Random(seed)
    every = [mutants for module in COVERED if only in module for mutants in places(module).values()]
    return [rng.choice(mutants) for mutants in rng.sample(every, min(count, len(every)))]


class Copy:
    """A copy of the repository whose ``augmill`` is its own, in which one mutant at a time lives."""

    def __init__(self, folder: Path) -> None:
        self.root, self.packages = folder / "repository", folder / "packages"
        left = shutil.ignore_patterns("build", "*.egg-info", "__pycache__", ".*", "augmill-store")
        shutil.copytree(ROOT, self.root, ignore=left)
        project = tomllib.loads((self.root / "pyproject.toml").read_text(encoding="utf-8"))
        for package, own in sorted(project["tool"]["setuptools"]["package-dir"].items()):
            shutil.copytree(self.root / own, self.packages / package.replace(".", "/"), dirs_exist_ok=True)

    def passes(self, module: str, limit: float) -> bool:
        """Whether the module's tests pass. False too where they take longer than ``limit`` seconds."""
        tests = [f"tests/{name}.py" for name in COVERED[module].split()]
        words = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", *tests]
        own = {"PYTHONPATH": str(self.packages), "PYTHONDONTWRITEBYTECODE": "1", "AUGMILL_SHARED": str(SHARED)}
        process = subprocess.Popen(
            words,
            cwd=self.root,
            env=os.environ | own,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return process.wait(limit) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 9)
                process.wait()

    def survives(self, mutant: Mutant, limit: float) -> bool:
        path = self.packages / "augmill/tasks" / f"{mutant.module}.py"
        path.write_text(mutated(mutant), encoding="utf-8")
        try:
            return self.passes(mutant.module, limit)
        finally:
            path.write_text(source(mutant.module), encoding="utf-8")


SHARED = Path(os.environ.get("AUGMILL_SHARED", ROOT.parent / "shared"))


def mutated(mutant: Mutant) -> str:
    import cosmic_ray.plugins
    from cosmic_ray.mutating import mutate_code

    operator = cosmic_ray.plugins.get_operator(mutant.operator)()
    code = mutate_code(source(mutant.module), operator, mutant.occurrence)
    assert isinstance(code, str)
    return code


def survivors(mutants: list[Mutant], jobs: int) -> tuple[list[Mutant], list[Mutant]]:
    """(those that were tried, those of them that the tests of their modules pass with).

    Mutants of modules whose tests fail without any are not tried.
    """
    with tempfile.TemporaryDirectory(prefix="augmill-mutants-") as folder, ThreadPoolExecutor(jobs) as pool:
        copies: Queue[Copy] = Queue()
        for at in range(jobs):
            copies.put(Copy(Path(folder) / str(at)))

        def limit_of(module: str) -> float | None:
            began, copy = time.monotonic(), copies.get()
            sound = copy.passes(module, 3600)
            copies.put(copy)
            if not sound:
                print(f"left out: the tests of {module} fail without any mutant: {COVERED[module]}", flush=True)
            return 120 + 10 * (time.monotonic() - began) if sound else None

        modules = list(dict.fromkeys(mutant.module for mutant in mutants))
        found = zip(modules, pool.map(limit_of, modules), strict=True)
        limits = {module: limit for module, limit in found if limit is not None}
        tried = [mutant for mutant in mutants if mutant.module in limits]

        def survives(mutant: Mutant) -> bool:
            copy = copies.get()
            try:
                survived = copy.survives(mutant, limits[mutant.module])
            finally:
                copies.put(copy)
            said = "SURVIVED" if survived else "killed"
            print(f"{said} {mutant.module}.py:{mutant.line} {mutant.operator}", file=sys.stderr, flush=True)
            return survived

        return tried, [mutant for mutant, survived in zip(tried, pool.map(survives, tried), strict=True) if survived]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mutants", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="modules whose names hold this")
    parser.add_argument("--jobs", type=int, default=1)
    asked = parser.parse_args()
    mutants, left = survivors(draw(asked.only, asked.mutants, asked.seed), asked.jobs)
    drawn, alive = Counter(mutant.module for mutant in mutants), Counter(mutant.module for mutant in left)
    print("| module | mutants | killed | % |\n|---|---:|---:|---:|")
    for name in (*sorted(drawn), "all"):
        count, lived = (len(mutants), len(left)) if name == "all" else (drawn[name], alive[name])
        print(f"| {name} | {count} | {count - lived} | {100 * (count - lived) / max(count, 1):.0f} |")
    for mutant in left:
        lines = source(mutant.module).splitlines(), mutated(mutant).splitlines()
        print(f"\n{mutant.module}.py:{mutant.line} {mutant.operator}")
        print("\n".join(list(difflib.unified_diff(*lines, n=1, lineterm=""))[3:]))
    sys.exit(bool(left))


if __name__ == "__main__":
    main()
