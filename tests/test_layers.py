"""Imports go one way (DESIGN, "The house"): flows, workers, stages, spine, ribs, tools, contracts. And they cost little."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]

# What each module of tasks/ is. A layer may import those below it; "own" says whether its modules may import each other.
LAYERS: dict[str, tuple[bool, set[str]]] = {
    # which stages a worker process knows, and the processes themselves
    "workers": (True, {"workers", "shards"}),
    # one file a stage, the pure function and its decorator together: never one another
    "stages": (
        False,
        {
            "ingest",
            "drift",
            "gather",
            "unlabelled",
            "split",
            "fit",
            "plan",
            "weigh",
            "sample",
            "generate",
            "settle",
            "mix",
            "evaluate",
            "folds",
            "publish",
        },
    ),
    # what stages stand on: the store, the recipe, the gate's arithmetic, the report
    "spine": (
        True,
        {
            *(
                "stage",
                "store",
                "delta",
                "delta_types",
                "store_rules",
                "retention",
                "erasure",
                "durable",
                "hashing",
                "log",
                "releases",
                "shapes",
                "rows",
                "ribs",
                "targets",
                "labels",
                "refusals",
                "partitions",
                "unit_rows",
                "schemas",
                "ready",
                "user_suite",
                "attempts",
                "bank",
            ),
            *(
                "recipe",
                "recipe_reader",
                "recipe_sections",
                "recipe_nights",
                "recipe_plan",
                "recipe_yaml",
                "validation",
                "data_docs",
                "card",
            ),
            *("gate", "arms", "evidence", "interval", "verdict", "report", "report_charts", "report_evidence"),
            *("comparison", "comparison_page"),
        },
    ),
    # one folder a kind: a rib imports of its own kind, never of another
    "ribs": (False, {"sources", "generators", "checks", "metrics", "trainers"}),
    # plain functions on texts and numbers that ribs and stages share
    "tools": (
        True,
        {
            "answers",
            "text",
            "randomness",
            "similarity",
            "minhash",
            "calendar",
            "classifier",
            "semi_supervised",
            "hosts",
            "masking",
            "retries",
            "owner",
            "parquet",
        },
    ),
    "contracts": (False, {"contracts"}),
}
ORDER = list(LAYERS)
# A bare GPU worker has none of these; ribs, tools and contracts do without, in their functions too.
NOT_IN_RIBS = {"prefect", "polars", "great_expectations", "pydantic", "ray", "rich", "typer"}
# Imported only inside the functions that need them: each costs 1 to 10 seconds.
HEAVY = {
    "torch",
    "transformers",
    "great_expectations",
    "prefect",
    "datasets",
    "sklearn",
    "scipy",
    "ray",
    "vllm",
    "peft",
}
HEAVY_AT_TOP = {("flows/deployed.py", "prefect")}  # its @flow is what a deployment's entrypoint names


def modules() -> list[Path]:
    return sorted(path for top in ("flows", "tasks") for path in (ROOT / top).rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def dotted(path: Path) -> str:
    return "augmill." + relative(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def layer(path: Path) -> str:
    return next(
        name
        for name, (_, own) in LAYERS.items()
        if path.relative_to(ROOT / "tasks").parts[0].removesuffix(".py") in own
    )


@cache
def imports(path: Path) -> tuple[tuple[str, bool], ...]:
    """(what is imported, whether at module level) of every import statement that is ever run, names of ours in full."""
    found = []
    package = dotted(path) if path.name == "__init__.py" else dotted(path).rpartition(".")[0]
    for node, top in statements(ast.parse(path.read_text(encoding="utf-8")), True):
        if isinstance(node, ast.Import):
            found += [(alias.name, top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            origin = ".".join(filter(None, (base, node.module)))
            ours = origin.startswith("augmill")
            found += [(f"{origin}.{alias.name}" if ours else origin, top) for alias in node.names]
    return tuple(found)


def statements(node: ast.AST, top: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Every node below, and whether it runs when the module is imported; what only a type checker sees is left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child, top
        yield from statements(child, top and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))


def place(name: str) -> str:
    """The layer of an imported ``augmill...`` name."""
    parts = name.split(".")
    if parts[1] == "flows":
        return "flows"
    return next(layer for layer, (_, own) in LAYERS.items() if parts[2] in own)


def test_every_module_has_one_layer() -> None:
    known = [name for _, own in LAYERS.values() for name in own]
    found = {
        path.name.removesuffix(".py")
        for path in (ROOT / "tasks").iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").exists())
    }
    assert len(known) == len(set(known)), "a module stands in two layers of LAYERS"
    assert set(known) == found - {"__init__"}, "LAYERS in this file names every module of tasks/, and only those"


def test_imports_go_one_way() -> None:
    wrong = []
    for path in modules():
        if path.is_relative_to(ROOT / "flows") or path == ROOT / "tasks/__init__.py":
            continue
        own = layer(path)
        for name, _ in imports(path):
            if not name.startswith("augmill"):
                continue
            other = place(name)
            same = name.split(".")[2] == path.relative_to(ROOT / "tasks").parts[0].removesuffix(".py")
            down = other != "flows" and ORDER.index(other) > ORDER.index(own)
            if not (down or same or (other == own and LAYERS[own][0])):
                wrong.append(f"{relative(path)} ({own}) imports {name} ({other})")
    assert not wrong, "\n".join(wrong)


def test_flows_do_not_import_the_command_line() -> None:
    wrong = [
        f"{relative(path)} imports {name}"
        for path in modules()
        if path.is_relative_to(ROOT / "flows") and not path.is_relative_to(ROOT / "flows/cli")
        for name, _ in imports(path)
        if name.startswith("augmill.flows.cli")
    ]
    assert not wrong, "\n".join(wrong)


def test_ribs_do_without_what_a_bare_worker_lacks() -> None:
    wrong = [
        f"{relative(path)} imports {name}"
        for path in modules()
        if path.is_relative_to(ROOT / "tasks")
        and path != ROOT / "tasks/__init__.py"
        and layer(path) in ("ribs", "tools", "contracts")
        for name, _ in imports(path)
        if name.split(".")[0] in NOT_IN_RIBS
    ]
    assert not wrong, "\n".join(wrong)


def test_heavy_libraries_are_imported_inside_functions() -> None:
    wrong = [
        f"{relative(path)} imports {name} at module level"
        for path in modules()
        for name, top in imports(path)
        if top and name.split(".")[0] in HEAVY and (relative(path), name.split(".")[0]) not in HEAVY_AT_TOP
    ]
    assert not wrong, "\n".join(wrong)


def test_what_is_imported_is_a_declared_dependency() -> None:
    """Of pyproject.toml, or comes with one that is: each of these names the library whose own types it is."""
    names = {"pyyaml": "yaml", "scikit_learn": "sklearn", "google_re2": "re2", "python_stdnum": "stdnum"}
    declared = {
        re.split(r"[^\w-]", requirement)[0].lower().replace("-", "_")
        for requirement in importlib.metadata.requires("augmill") or []
    }
    come_with = {
        "scikit-learn": {"scipy", "threadpoolctl"},
        "prefect": {"anyio", "uvicorn", "httpx"},
        "transformers": {"tokenizers", "huggingface_hub"},
        "great-expectations": {"pandas"},
        "jinja2": {"markupsafe"},
    }
    known = {names.get(name, name) for name in declared}.union(
        {"augmill"}, sys.stdlib_module_names, *come_with.values()
    )
    found = {name.split(".")[0]: relative(path) for path in modules() for name, _ in imports(path)}
    assert not {name: where for name, where in found.items() if name not in known}


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, timeout=120, cwd="/"
    )


BLOCKED = """
import importlib, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BARRED or name in BARRED:
            raise ImportError(f"{name} is not on this machine")
sys.meta_path.insert(0, Blocker())
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def test_a_bare_worker_imports_every_rib() -> None:
    barred = [
        *NOT_IN_RIBS,
        "augmill.flows",
        *(f"augmill.tasks.{n}" for part in ("stages", "spine", "workers") for n in LAYERS[part][1]),
    ]
    names = [dotted(path) for path in modules() if path.parent.name in LAYERS["ribs"][1]]
    assert len(names) > 30
    ended = python(BLOCKED.replace("BARRED", repr(set(barred))), *names)
    assert ended.returncode == 0, ended.stderr


SIDE_EFFECTS = """
import importlib, os, sys, threading
names = sys.argv[1:]
for name in names:
    importlib.import_module(name)  # the libraries: what they do at import is theirs
for name in [name for name in sys.modules if name.split(".")[0] == "augmill"]:
    del sys.modules[name]
seen, threads, environment = [], threading.active_count(), dict(os.environ)
def hook(event, arguments):
    reads_code = event == "open" and str(arguments[0]).endswith((".py", ".pyc"))
    if event.split(".")[0] in ("open", "socket", "subprocess", "shutil", "tempfile", "signal", "sqlite3") and not reads_code:
        seen.append((event, str(arguments[:2])))
    if event in ("os.mkdir", "os.remove", "os.rename", "os.system", "os.fork", "os.posix_spawn"):
        seen.append((event, str(arguments[:2])))
sys.addaudithook(hook)
sys.dont_write_bytecode = True
for name in names:
    importlib.import_module(name)
print(seen, file=sys.stderr)
assert not seen
assert threading.active_count() == threads
assert dict(os.environ) == environment
"""


def test_importing_a_module_opens_and_starts_nothing() -> None:
    """But flows/deployed.py, which is Prefect's entrypoint, and server_child.py, which is a process of its own."""
    left_out = {"augmill.flows.deployed", "augmill.flows.orchestration.server_child"}
    ended = python(SIDE_EFFECTS, *(dotted(path) for path in modules() if dotted(path) not in left_out))
    assert ended.returncode == 0, ended.stderr


HELP = """
import json, resource, sys
sys.argv = ["augmill", "--help"]
from augmill.flows.cli import main
try:
    main()
finally:
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"seconds": used.ru_utime + used.ru_stime, "modules": sorted({n.split(".")[0] for n in sys.modules})}))
"""


def test_help_answers_in_under_a_second() -> None:
    """In processor time, and the best of three: other processes on the machine are not our business."""
    answers = []
    for _ in range(3):
        ended = python(HELP)
        assert ended.returncode == 0 and "Usage: augmill" in ended.stdout, ended.stderr
        answers.append(json.loads(ended.stdout.rstrip("\n").rsplit("\n", 1)[-1]))
        if answers[-1]["seconds"] < 1:
            break
    assert min(answer["seconds"] for answer in answers) < 1
    assert not (HEAVY | {"polars", "pydantic"}) & set(answers[0]["modules"])
