"""What would be published: wheel and source distribution hold what they should, PyPI would take them, the wheel runs alone."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEFT = ("build", "*.egg-info", "__pycache__", ".*", "augmill-store", "site", "dist")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = PROJECT["tool"]["setuptools"]["package-dir"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(wheel, source distribution), built from a copy: what an earlier build left here is not for them."""
    folder = tmp_path_factory.mktemp("packaging")
    shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(*LEFT))
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", folder / "source")
    (wheel,), (sdist,) = (folder / "dist").glob("*.whl"), (folder / "dist").glob("*.tar.gz")
    return wheel, sdist


def run(*words: object, cwd: Path | None = None) -> str:
    done = subprocess.run([*map(str, words)], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def sources() -> set[str]:
    """Every file of the packages that is Python or a template, by its name in the wheel."""
    files: set[str] = set()
    for package, folder in FOLDERS.items():
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".typed") or (path.is_file() and "templates" in path.parts):
                inner = path.relative_to(ROOT / folder).as_posix()
                if not any(path.is_relative_to(ROOT / other) for other in FOLDERS.values() if other > folder):
                    files.add(f"{package.replace('.', '/')}/{inner}")
    return files


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


def test_the_wheel_holds_every_module_and_template_and_nothing_else(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[0]) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == sources()


def test_the_source_distribution_holds_docs_examples_tests_and_what_builds_them(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    wanted = {"CHANGELOG.md", "LICENSE", "MANIFEST.in", "Makefile", "README.md", "constraints.txt", "pyproject.toml"}
    source = built[1].parents[1] / "source"
    for top in ("docs", "infra", "tests", *FOLDERS.values()):
        wanted |= {path.relative_to(source).as_posix() for path in (source / top).rglob("*") if path.is_file()}
    assert wanted <= names, sorted(wanted - names)
    extra = {name for name in names - wanted if not name.startswith("augmill.egg-info/")}
    assert extra == {"PKG-INFO", "setup.cfg", "setup.py"}, sorted(extra)


def test_pypi_would_take_both_and_no_link_of_the_page_leads_nowhere(built: tuple[Path, Path]) -> None:
    from readme_renderer.markdown import render

    said = run(sys.executable, "-m", "twine", "check", "--strict", *built)
    assert len(re.findall("PASSED", said)) == 2
    text = metadata(built[0]).get_payload()
    assert isinstance(text, str) and text.startswith("# Augmill")
    page = render(text)
    assert page is not None and "<table>" in page and "<pre" in page
    targets = re.findall(r'(?:href|src)="([^"]*)"', page)
    assert not [target for target in targets if not target.startswith(("https://", "http://", "#"))]
    assert "`docs/recipe.md`" in text and "](" not in re.sub(r"\]\(https?:", "", text)


def test_the_metadata_name_what_is_supported_and_nobody(built: tuple[Path, Path]) -> None:
    said = metadata(built[0])
    assert (said["Author"], said["Author-email"], said["License-Expression"]) == (
        "The Augmill developers",
        None,
        "Apache-2.0",
    )
    classifiers = said.get_all("Classifier") or []
    versions = [name.rpartition(" ")[2] for name in classifiers if re.search(r":: 3\.\d+$", name)]
    assert said["Requires-Python"] == ">=3.11" and versions == ["3.11", "3.12", "3.13"]
    assert any("Linux" in name for name in classifiers) and any("MacOS" in name for name in classifiers)
    assert said.get_all("Project-URL") is None  # there is no address yet, and none is made up


# --- installed by itself ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(a virtual environment with the wheel, the unpacked source distribution).

    The dependencies are those of this environment, by their directories: a torch of its own would be 2 GB. The hooks of
    editable installs are not followed from there, so that what is imported as ``augmill`` is the wheel alone.
    """
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "env")
    python = folder / "env" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    run(*pip, "install", "--no-deps", "--no-index", built[0])
    own = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    shared = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (own / "dependencies.pth").write_text("\n".join(shared) + "\n", encoding="utf-8")
    with tarfile.open(built[1]) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.glob("augmill-*")
    return folder / "env", unpacked


@pytest.mark.slow
def test_every_module_of_the_wheel_imports_where_nothing_else_of_ours_is(installed: tuple[Path, Path]) -> None:
    """Worker processes, the server's child and deployments are entered by these names."""
    code = """
        import importlib, json, pkgutil, sys
        names = [found.name for found in pkgutil.walk_packages(importlib.import_module("augmill").__path__, "augmill.")]
        names = [name for name in names if not name.endswith("__main__")]
        files = [importlib.import_module(name).__file__ for name in names]
        print(json.dumps([len(names), [file for file in files if not file.startswith(sys.prefix)]]))
    """
    said = run(installed[0] / "bin/python", "-c", "\n".join(map(str.strip, code.splitlines())), cwd=installed[0])
    count, elsewhere = json.loads(said.splitlines()[-1])
    assert elsewhere == []
    assert count > 0.9 * len(sources())  # all but the packages' own __init__ and __main__


@pytest.mark.slow
def test_the_installed_commands_run_the_example_of_the_source_distribution(
    installed: tuple[Path, Path], tmp_path: Path
) -> None:
    env, unpacked = installed
    assert set(PROJECT["project"]["scripts"]) == {"augmill"}
    augmill, recipe, store = env / "bin/augmill", unpacked / "infra/examples/support/recipe.yaml", tmp_path / "store"
    assert run(augmill, "--version", cwd=tmp_path) == f"augmill {PROJECT['project']['version']}\n"
    assert "backfill" in run(augmill, "--help", cwd=tmp_path)
    assert run(augmill, "check", recipe, "--store", store, cwd=tmp_path)
    ran = run(augmill, "run", recipe, "--store", store, "--orchestrator", "none", cwd=tmp_path)
    ended = json.loads(ran.splitlines()[-1])
    assert (ended["outcome"], ended["arrangement"]) == ("published", "mix")
    assert Path(run(augmill, "path", recipe, "--store", store, cwd=tmp_path).strip()).name == ended["release"]
    assert list((store / "private").rglob("*.html"))  # the report's templates came along


@pytest.mark.slow
def test_readmes_generator_is_written_installed_tested_and_run(installed: tuple[Path, Path], tmp_path: Path) -> None:
    """Line by line as README has it, in the environment that has the wheel alone."""
    python = installed[0] / "bin/python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index"]
    (block,) = re.findall(r"```sh\n(augmill new.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    said = {}
    for line in block.splitlines():
        words = shlex.split(line, comments=True)
        if words[0] == "pip":
            run(*pip, "--no-build-isolation", *words[2:], cwd=tmp_path)
            continue
        program = (
            [python, "-m", "pytest", "-p", "no:cacheprovider"] if words[0] == "pytest" else [python.parent / words[0]]
        )
        more = ["--orchestrator", "none"] if words[:2] == ["augmill", "run"] else []
        said[" ".join(words[:2])] = run(*program, *words[1:], *more, cwd=tmp_path)
    assert list(said) == ["augmill new", "pytest augmill-shout", "augmill extensions", "augmill run"]
    assert "shout" in said["augmill extensions"] and "9 passed" in said["pytest augmill-shout"]
    ended = json.loads(said["augmill run"].splitlines()[-1])
    provenance = json.loads((Path(ended["location"]) / "provenance.json").read_text(encoding="utf-8"))
    assert re.fullmatch(
        "[0-9a-f]{64}", provenance["outside"]["generators"]["shout"]
    )  # edited in place: its files' hash
    assert (tmp_path / "augmill-shout/augmill-store").is_dir()  # beside its recipe
