"""Size and style that no linter here counts: files and functions of a good size, one meaning a class name, no doubled key,
no silent catch, no pickle. How much a function may branch is ruff's (pyproject.toml)."""

from __future__ import annotations

import ast
import importlib
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from test_layers import dotted, imports, modules, names

ROOT = Path(__file__).parents[1]
EXTENSIONS = ("generators", "checks", "metrics", "sources", "trainers", "exports")
MODULES = sorted(path for top in ("flows", "tasks") for path in (ROOT / top).rglob("*.py"))
NAMES = [path.relative_to(ROOT).as_posix() for path in MODULES]
FILE_LINES, FUNCTION_LINES = 600, 60
# A file below this that at most one other imports is usually a part of that one. Those that are not, with the reason.
SMALL = 100
FILES_OF_THEIR_OWN = {
    **dict.fromkeys(
        (f"flows/api/testing/{name}.py" for name in ("problems", "sources", "trainers")),
        "one file a kind of extension, as tasks/ has a folder for each",
    ),
    "flows/orchestration/server_child.py": "a process of its own, started by its name",
    **dict.fromkeys(
        ("tasks/generators/speech/espeak.py", "tasks/generators/speech/model.py"),
        "one file an engine: the one knows the system's program, the other torch",
    ),
    "tasks/problems/regression.py": "one file a problem",
    "tasks/problems/transcription.py": "one file a problem",
    "tasks/rows/kinds/audio/drawing.py": "a subject of its own: sounds as a report shows and plays them",
    "tasks/rows/kinds/audio/features.py": "a subject of its own: sounds as numbers for learners",
    "tasks/rows/kinds/image/features.py": "a subject of its own: pictures as numbers for learners",
    "tasks/rows/kinds/text/diversity.py": "a subject of its own: how varied texts are",
    "flows/releases/verify.py": "what one looks for beside its siblings gc, forgetting and lineage",
    "tasks/trainers/_guard.py": "a process of its own, run by its path with the standard library alone",
    "tasks/validation/user_suite.py": "the user's own suite; it stands apart from those that Augmill writes",
}
# A command, or an extension, is a file however small: what imports it is the list of its kind.
LISTS = {f"augmill.{name}" for name in ("flows.cli", *(f"tasks.{kind}" for kind in EXTENSIONS))}
# What writes or reads pickles, or formats that hold them.
PICKLERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


@cache
def tree(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(encoding="utf-8"))


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of code, from ``def`` on; what the docstring says of shapes, units and errors is not held against it."""
    first = function.body[0]
    documented = ast.get_docstring(function, clean=False) is not None
    assert function.end_lineno and first.end_lineno
    return function.end_lineno - function.lineno + 1 - (first.end_lineno - first.lineno + 1 if documented else 0)


def test_files_are_short() -> None:
    others = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "tasks/report/templates").iterdir())]
    lines = {name: len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in [*NAMES, *others]}
    assert not {name: count for name, count in lines.items() if count > FILE_LINES}


def test_functions_are_short() -> None:
    found = {
        f"{name}:{node.lineno} {node.name}": length(node)
        for name in NAMES
        for node in ast.walk(tree(name))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert not {name: count for name, count in found.items() if count > FUNCTION_LINES}


@cache
def importers() -> dict[str, set[str]]:
    """Of each of our modules those that import it, by import statements anywhere in them."""
    found: dict[str, set[str]] = {name: set() for name in names()}
    for path in modules():
        for name, _, _ in imports(path):
            if name in found and name != dotted(path):
                found[name].add(dotted(path))
    return found


def test_a_small_file_for_one_other_says_why_it_is_a_file() -> None:
    small = set()
    for name, path in names().items():
        by, lines = importers()[name], len(path.read_text(encoding="utf-8").splitlines())
        listed = by and by <= LISTS
        if path.name not in ("__init__.py", "__main__.py") and lines < SMALL and len(by) <= 1 and not listed:
            small.add(path.relative_to(ROOT).as_posix())
    assert not small - set(FILES_OF_THEIR_OWN), "join it to the one that imports it, or say in the table why not"
    assert not set(FILES_OF_THEIR_OWN) - small, "the table names what needs no reason any more"


def test_a_class_name_means_one_thing() -> None:
    where: dict[str, list[str]] = {}
    for name in NAMES:
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.ClassDef):
                where.setdefault(node.name, []).append(name)
    assert not {name: files for name, files in where.items() if len(files) > 1}


def test_no_dict_names_a_key_twice() -> None:
    """Python keeps the last of two equal keys and says nothing: an extension would vanish from its registry."""
    doubled = []
    for name in NAMES:
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.Dict):
                keys = Counter(
                    ast.dump(key) for key in node.keys if isinstance(key, ast.Constant | ast.Name | ast.Attribute)
                )
                doubled += [f"{name}:{node.lineno} {key}" for key, count in keys.items() if count > 1]
    assert not doubled


def broad(handler: ast.ExceptHandler) -> bool:
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(part is None or ast.unparse(part) in ("Exception", "BaseException") for part in caught)


def test_a_broad_catch_raises_again_or_says_why_not() -> None:
    silent = []
    for name in NAMES:
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.ExceptHandler) and broad(node):
                again = any(isinstance(part, ast.Raise) for part in ast.walk(node))
                if not again and not re.search(r"# noqa: BLE001 - \w+ \w+", lines[node.lineno - 1]):
                    silent.append(f"{name}:{node.lineno}")
            dropped = isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress")
            if dropped and {"Exception", "BaseException"} & set(map(ast.unparse, node.args)):
                silent.append(f"{name}:{node.lineno}")
    assert not silent


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_pickled(name: str) -> None:
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            assert not PICKLERS & {alias.name.split(".")[0] for alias in node.names}, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in PICKLERS, node.lineno
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert not called.endswith((".to_pickle", ".read_pickle", "torch.save", "torch.load")), node.lineno
            assert not [
                word for word in node.keywords if word.arg == "allow_pickle" and ast.unparse(word.value) == "True"
            ]


def test_what_the_programs_inside_tests_import_is_there() -> None:
    """They are texts that other processes run: no type checker follows a name that moved."""
    wanted = re.compile(r"^\W*(?:.*;\s*)?from (augmill[\w.]*) import (\w+)", re.MULTILINE)
    gone = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if path.name in ("test_layers.py", "test_house.py"):  # they speak of imports
            continue
        for module, name in dict.fromkeys(wanted.findall(path.read_text(encoding="utf-8"))):
            try:
                found = hasattr(importlib.import_module(module), name) or importlib.import_module(f"{module}.{name}")
            except ImportError:
                found = False
            gone += [] if found else [f"{path.relative_to(ROOT)}: from {module} import {name}"]
    assert not gone
