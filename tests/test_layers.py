"""Imports go one way (docs/house.md), packages are entered by their front, and importing costs little."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import json
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the top to the bottom: a package may import those of later lines, and those of its own line where "own" says so.
LAYERS: list[tuple[str, bool, set[str]]] = [
    ("api", True, {"flows.api"}),
    ("cli", True, {"flows.cli"}),
    ("flows", True, {"flows", "flows.nights", "flows.releases", "flows.orchestration"}),
    ("stages and report", True, {"tasks.stages", "tasks.report"}),
    ("spine", True, {"tasks.gate", "tasks.validation", "tasks.recipe", "tasks.store", "tasks.workers"}),
    (
        "extensions",
        False,
        {"tasks.sources", "tasks.generators", "tasks.checks", "tasks.metrics", "tasks.trainers", "tasks.exports"},
    ),
    ("problems", False, {"tasks.problems"}),
    ("boundary", False, {"tasks.boundary"}),
    ("kinds", False, {"tasks.rows.kinds"}),
    ("registry", False, {"tasks.registry"}),
    ("rows", False, {"tasks.rows"}),
    ("contracts", False, {"tasks.contracts"}),
    ("errors", False, {"tasks.errors"}),
]
# Imports that go up, each inside a function, with the reason.
UPWARD = {("tasks/workers/pool.py", "tasks.stages"): "a worker process runs stages"}
# Packages whose modules are subjects of their own, entered by name. Every other package is entered by its __init__.
SHELVES = {
    "flows": "the main path, a file each part of it",
    "flows.cli": "one file a group of commands",
    "flows.nights": "backfill and nightly, plan, run, record, states, paging: each command wants another",
    "flows.orchestration": "its front would start Prefect's flows for whoever wants the logs",
    "tasks.boundary": "one file each: hosts, answers, waiting, foreign Parquet, secrets, processes",
    "tasks.gate": "what judges, the intervals, the verdict and its words: each caller wants another",
    "tasks.recipe": "sections and nights are the recipe's own dataclasses, 20 of them",
    "tasks.rows.kinds": "one file a kind of field, and near-duplicates",
    "tasks.sources": "its front reads rows; options, patterns and addresses are also asked for by name",
    "tasks.rows": "seven subjects: tables, hashes, random numbers, folds, names, the calendar, how texts from outside are shown",
    "tasks.problems": "one file each thing that is learnt, and what their extensions share",
    "tasks.stages": "one file a stage",
    "tasks.store": "the store and what stands in it: artifacts, log, attempts, bank, erasures, Delta",
}
FRONT = 15  # names that a package's front may offer
# The functions that read rows, what they take and give, and the registry; what is asked of whole rows.
# The functions that read rows, what they take and give, and the registry; what is asked of whole rows.
WIDE = {"tasks/sources": 21, "tasks/rows/kinds": 22}
# A bare GPU worker has none of these; extensions and what lies below them do without, in their functions too.
NOT_IN_EXTENSIONS = {"prefect", "polars", "great_expectations", "pydantic", "ray", "rich", "typer"}
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
# deployed.py is what Prefect itself loads, and client.py is Prefect's own client.
HEAVY_AT_TOP = {(f"flows/{name}.py", "prefect") for name in ("deployed", "orchestration/client")}


def modules() -> list[Path]:
    return sorted(path for top in ("flows", "tasks") for path in (ROOT / top).rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def dotted(path: Path) -> str:
    """``augmill.tasks.store.log``; of a package its own name. What lies in flows/api is ``augmill`` itself."""
    name = relative(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return f"augmill.{name}" if not f"{name}.".startswith("flows.api.") else name.replace("flows.api", "augmill", 1)


def place(name: str) -> str:
    """Where one of our modules stands: ``tasks.store.log``; of ``augmill`` itself ``flows.api``."""
    return relative(names()[name]).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@cache
def packages() -> frozenset[str]:
    return frozenset(dotted(path) for path in modules() if path.name == "__init__.py")


@cache
def names() -> dict[str, Path]:
    return {dotted(path): path for path in modules()}


def package_of(name: str) -> str:
    """The package in which a module, or a package itself, is at home."""
    return name if name in packages() else name.rpartition(".")[0]


@cache
def imports(path: Path) -> tuple[tuple[str, bool, bool], ...]:
    """(module, whether at module level, whether a type checker alone sees it) of every import statement.

    Of ours by the module that is meant: ``from augmill.tasks.store import log`` names ``augmill.tasks.store.log``.
    """
    found = []
    for node, top, checking in statements(ast.parse(path.read_text(encoding="utf-8")), True, False):
        if isinstance(node, ast.Import):
            found += [(alias.name, top, checking) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package_of(dotted(path)).rsplit(".", node.level - 1)[0] if node.level else ""
            origin = ".".join(filter(None, (base, node.module)))
            front = offered(origin)
            whole = [origin if alias.name in front else f"{origin}.{alias.name}" for alias in node.names]
            found += [(name if name in names() else origin, top, checking) for name in whole]
    return tuple(dict.fromkeys(found))


@cache
def offered(package: str) -> frozenset[str]:
    """What a package's front offers of itself: a name that one of its modules has too is the name there."""
    if package not in packages():
        return frozenset()
    tree = ast.parse(names()[package].read_text(encoding="utf-8"))
    lists = [
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    return frozenset(item for each in lists for item in ast.literal_eval(each))


def statements(node: ast.AST, top: bool, checking: bool) -> Iterator[tuple[ast.AST, bool, bool]]:
    """Every node below; whether it runs when the module is imported; whether only a type checker sees it."""
    for child in ast.iter_child_nodes(node):
        only = checking or (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING")
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield child, top, only
        yield from statements(child, top and not inside, only)


def ours(path: Path) -> list[tuple[str, bool]]:
    return [(name, top) for name, top, _ in imports(path) if name in names()]


def layer(name: str) -> int:
    """The line of LAYERS of one of our modules: that of the innermost package, or module, that is named there."""
    part = place(name)
    while part:
        for number, (_, _, own) in enumerate(LAYERS):
            if part in own:
                return number
        part = part.rpartition(".")[0]
    raise AssertionError(f"{name} is in no line of LAYERS")


def test_every_module_has_one_layer() -> None:
    listed = [name for _, _, own in LAYERS for name in own]
    assert len(listed) == len(set(listed)), "a package stands in two lines of LAYERS"
    known = {place(name) for name in names()}
    assert not set(listed) - known, "LAYERS names what is not there"
    for name in names():
        if name != "augmill.tasks":
            layer(name)


def test_imports_go_one_way() -> None:
    wrong = []
    for path in modules():
        here = layer(dotted(path)) if relative(path) != "tasks/__init__.py" else len(LAYERS)
        for name, top in ours(path):
            there = layer(name)
            same = package_of(name) == package_of(dotted(path)) or unit(name) == unit(dotted(path))
            up = not top and any(relative(path) == file and name.startswith(f"augmill.{to}") for file, to in UPWARD)
            if not (there > here or same or up or (there == here and LAYERS[here][1])):
                wrong.append(f"{relative(path)} ({LAYERS[here][0]}) imports {name} ({LAYERS[there][0]})")
    assert not wrong, "\n".join(wrong)


def unit(name: str) -> str:
    """Of an extension its kind: generators know each other, never a check."""
    return ".".join(name.split(".")[:3])


def test_no_stage_imports_another() -> None:
    stages = {name for name, path in names().items() if "\n@stage(" in path.read_text(encoding="utf-8")}
    assert len(stages) > 10
    wrong = [
        f"{name} imports {other}" for name in stages for other, _ in ours(names()[name]) if other in stages - {name}
    ]
    assert not wrong, "\n".join(wrong)


def test_packages_are_entered_by_their_front() -> None:
    """From outside, ``from augmill.tasks.workers import WorkerPool``, never its modules; inside, files may know each other."""
    wrong = []
    for path in modules():
        here = dotted(path)
        for name, _ in ours(path):
            home = package_of(name)
            inside = f"{package_of(here)}.".startswith(f"{home}.")
            shelf = home.removeprefix("augmill.") in SHELVES or home == "augmill.tasks"
            kin = unit(name) == unit(here)
            if not (name == home or inside or shelf or kin):
                wrong.append(f"{relative(path)} imports {name}: name it in {home}'s __init__")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "package", sorted(path.parent.relative_to(ROOT).as_posix() for path in modules() if path.name == "__init__.py")
)
def test_a_front_is_small_and_says_what_the_package_is(package: str) -> None:
    tree = ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8"))
    assert package in ("flows", "tasks") or ast.get_docstring(tree), "say in a line what the package is"
    offered = [node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"]
    for node in offered:
        assert isinstance(node.value, ast.List) and len(node.value.elts) <= WIDE.get(package, FRONT)


def test_programs_in_the_tests_import_what_is_there() -> None:
    """Child processes are given their code as a string, which no other tool reads; most of them are in slow tests."""
    missing = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for module, names in re.findall(r"from (augmill[\w.]*) import ([\w, ]+)", node.value):
                    wanted = [name.split(" as ")[0].strip() for name in names.split(",")]
                    missing += [f"{path.name}: {module}.{name}" for name in wanted if not _there(module, name)]
    assert missing == []


def _there(module: str, name: str) -> bool:
    try:
        return hasattr(importlib.import_module(module), name) or bool(importlib.import_module(f"{module}.{name}"))
    except ImportError:
        return False


def test_no_module_imports_itself_in_a_circle() -> None:
    """Nor through what only a type checker sees: what needs each other's types stands in one file, or a third holds them."""
    graph = {name: {other for other, top in ours(path) if top and other != name} for name, path in names().items()}
    done: set[str] = set()

    def walk(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for other in sorted(graph[name]):
                walk(other, (*way, name))
            done.add(name)

    for name in graph:
        walk(name, ())


def test_extensions_do_without_what_a_bare_worker_lacks() -> None:
    below = next(number for number, (name, _, _) in enumerate(LAYERS) if name == "extensions")
    wrong = [
        f"{relative(path)} imports {name}"
        for path in modules()
        if path != ROOT / "tasks/__init__.py" and layer(dotted(path)) >= below
        for name, _, _ in imports(path)
        if name.split(".")[0] in NOT_IN_EXTENSIONS
    ]
    assert not wrong, "\n".join(wrong)


def test_no_private_name_of_prefect_is_imported() -> None:
    """They move from one patch to the next. Law 1 of the main path: what its public calls cannot do is not done."""
    wrong = [
        f"{relative(path)} imports {name}"
        for path in modules()
        for name, _, _ in imports(path)
        if name.split(".")[0] == "prefect" and any(part.startswith("_") for part in name.split("."))
    ]
    assert not wrong, "\n".join(wrong)


def test_heavy_libraries_are_imported_inside_functions() -> None:
    wrong = [
        f"{relative(path)} imports {name} at module level"
        for path in modules()
        for name, top, checking in imports(path)
        if top
        and not checking
        and name.split(".")[0] in HEAVY
        and (relative(path), name.split(".")[0]) not in HEAVY_AT_TOP
    ]
    assert not wrong, "\n".join(wrong)


def test_what_is_imported_is_a_declared_dependency() -> None:
    """Of pyproject.toml, or comes with one that is: each of these names the library whose own types it is."""
    names = {
        "pyyaml": "yaml",
        "scikit_learn": "sklearn",
        "google_re2": "re2",
        "python_stdnum": "stdnum",
        "pillow": "PIL",
    }
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
    found = {name.split(".")[0]: relative(path) for path in modules() for name, _, typed in imports(path) if not typed}
    assert not {name: where for name, where in found.items() if name not in known}


# --- Law 17: stages, gate, store and workers do not know what a row is made of ------------------------------------------

SPINE = ("tasks/stages", "tasks/gate", "tasks/store", "tasks/workers")
# What the spine may take of those who do know: what is asked of whole rows, the registries, the nouns of their contracts.
ASKED = {
    "augmill.tasks.rows.kinds": {"*"},  # its front
    "augmill.tasks.problems": {"PROBLEMS"},
    "augmill.tasks.problems.strata": {"*"},  # of whichever problem
    "augmill.tasks.generators": {"GENERATORS"},
    "augmill.tasks.checks": {"CHECKS"},
    "augmill.tasks.metrics": {"METRICS"},
    "augmill.tasks.exports": {"EXPORTS", "Exported"},
    "augmill.tasks.trainers": {"TRAINERS", "QUICK", "Prediction", "Trainer", "TrainerInputs", "Training"},
}
BY_NAME = {
    "augmill.tasks.problems.classification.Labels": "the recipe's section `labels`, which configs hold and problems read",
}
# Whatever holds `text` but `context`, and the words of those who work on texts.
SAYS_TEXT = re.compile(r"text|^(casefold|jaccard|ngrams?|shingles?|tfidf|tokeni[sz]er?|unicodedata)$")
SPOKEN = {tokenize.NAME, tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
MEANS_NO_ROW = {
    "text_columns": "an identity's name for the fields' sources, pinned",
    "excluded_texts": "a key of summary.json, which stores hold",
    "null_texts": "a key of evidence.json, which stores hold, and of recipes' `validation.release`",
}


def spine() -> list[Path]:
    found = [path for path in modules() if relative(path).startswith(SPINE)]
    assert len(found) > 35
    return found


def taken(path: Path) -> Iterator[str]:
    """Every name that a file takes of our packages, where it is defined or offered; whole modules too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bound = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package_of(dotted(path)).rsplit(".", node.level - 1)[0] if node.level else ""
            origin = ".".join(filter(None, (base, node.module)))
            for alias in node.names:
                whole = f"{origin}.{alias.name}"
                if whole in names() and alias.name not in offered(origin):
                    bound[alias.asname or alias.name] = whole
                else:
                    yield whole
    used = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    yield from (f"{bound[node.value.id]}.{node.attr}" for node in used if node.value.id in bound)
    bare = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - {node.value.id for node in used}
    yield from (whole for name, whole in bound.items() if name in bare)  # handed on as a whole


def may_ask(name: str) -> bool:
    knowing = [home for home in ASKED if f"{name}.".startswith(f"{home}.")]
    if not knowing or name in BY_NAME:
        return True
    home, _, own = name.rpartition(".")
    return own in ASKED.get(home, ()) or ("*" in ASKED.get(home, ()) and own in (offered(home) or {own}))


def test_the_spine_asks_kinds_problems_and_extensions_and_names_none() -> None:
    every = [(relative(path), name) for path in spine() for name in taken(path)]
    assert not {name for _, name in every if name in BY_NAME} ^ set(BY_NAME), "BY_NAME lists what nobody takes"
    wrong = [f"{where} takes {name}" for where, name in every if not may_ask(name)]
    assert not wrong, "\n".join(wrong)


def test_the_spine_does_not_tell_kinds_or_problems_apart() -> None:
    """No comparison with the name of one, no look-up of one in its registry, and no default that is one."""
    from augmill.tasks.problems import PROBLEMS
    from augmill.tasks.rows.kinds import KINDS

    problems = {*PROBLEMS, *(problem.name for problem in PROBLEMS.values())}
    kinds = {*KINDS, *(kind.name for kind in KINDS.values())}
    wrong = []
    for path in spine():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            told = {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)}
            apart = isinstance(node, ast.Compare | ast.MatchValue) or _looks_up(node, {"KINDS", "PROBLEMS"})
            named = isinstance(node, ast.Constant) and node.value in problems
            if named or (apart and told & kinds):
                wrong.append(f"{relative(path)}:{getattr(node, 'lineno', 0)} {ast.unparse(node)[:80]}")
    assert not wrong, "\n".join(wrong)


def _looks_up(node: ast.AST, registries: set[str]) -> bool:
    """``KINDS["number"]``, ``KINDS.get("number")``."""
    of = node.value if isinstance(node, ast.Subscript) else node.func if isinstance(node, ast.Call) else None
    of = of.value if isinstance(of, ast.Attribute) else of
    return isinstance(of, ast.Name) and of.id in registries


def test_the_spine_says_nothing_of_texts() -> None:
    """In no name, no message, no comment: what a row is made of is for its kinds to say."""
    wrong, met = [], set()
    for path in spine():
        with path.open("rb") as stream:
            tokens = list(tokenize.tokenize(stream.readline))
        for token in tokens:
            if token.type not in SPOKEN or token.string in ("read_text", "write_text"):  # pathlib's
                continue
            for name in re.findall(r"[A-Za-z_]+", token.string):
                parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
                says = [part for part in map(str.lower, parts) if SAYS_TEXT.search(part.replace("context", ""))]
                if says and name in MEANS_NO_ROW:
                    met.add(name)
                elif says:
                    wrong.append(f"{relative(path)}:{token.start[0]} {name}: {token.line.strip()[:100]}")
    assert not wrong, "\n".join(dict.fromkeys(wrong))
    assert met == set(MEANS_NO_ROW), "MEANS_NO_ROW lists what nobody says"


# --- What importing costs ---------------------------------------------------------------------------------------------


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


def test_a_bare_worker_imports_every_extension() -> None:
    above = [own for name, _, own in LAYERS[: [name for name, _, _ in LAYERS].index("extensions")]]
    barred = {*NOT_IN_EXTENSIONS, *(f"augmill.{name}" for own in above for name in own)}
    kinds = LAYERS[len(above)][2]
    wanted = [name for name in names() if unit(name).removeprefix("augmill.") in kinds]
    assert len(wanted) > 30
    ended = python(BLOCKED.replace("BARRED", repr(barred)), *wanted)
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
    """Flows too, though Prefect makes them then; but for the modules that are processes of their own."""
    left_out = {"augmill.flows.orchestration.server_child", "augmill.tasks.workers.__main__"}
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


def test_help_answers_in_half_a_second() -> None:
    """In processor time (0.2 s on a quiet machine), the best of three: other processes are not our business."""
    answers = []
    for _ in range(3):
        ended = python(HELP)
        assert ended.returncode == 0 and "Usage: augmill" in ended.stdout, ended.stderr
        answers.append(json.loads(ended.stdout.rstrip("\n").rsplit("\n", 1)[-1]))
        if answers[-1]["seconds"] < 0.5:
            break
    assert min(answer["seconds"] for answer in answers) < 0.5
    assert not (HEAVY | {"polars", "pydantic", "pyarrow", "numpy"}) & set(answers[0]["modules"])


LIBRARY = """
import json, resource, sys
before = resource.getrusage(resource.RUSAGE_SELF)
import augmill
after = resource.getrusage(resource.RUSAGE_SELF)
used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
print(json.dumps({"seconds": used, "modules": sorted({n.split(".")[0] for n in sys.modules})}))
"""


def test_importing_the_library_costs_little() -> None:
    """As above; 0.05 s on a quiet machine, of which typing and dataclasses are most."""
    answers = [json.loads(python(LIBRARY).stdout) for _ in range(3)]
    assert min(answer["seconds"] for answer in answers) < 0.2
    assert not (HEAVY | {"polars", "pydantic", "pyarrow", "numpy", "typer", "rich"}) & set(answers[0]["modules"])
