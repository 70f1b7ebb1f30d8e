"""Where it runs: what Linux alone has is asked for only where its lack is answered; Windows is refused in one sentence."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from commands import write_recipe

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/compatibility.md"
# Names that Python on macOS has not, or not in each version since 3.11, or that mean something else there.
OTHERWISE = re.compile(
    r"\b(prctl|sched_[gs]etaffinity|process_cpu_count|O_TMPFILE|O_PATH|O_DIRECT|posix_fallocate|posix_fadvise|fdatasync|"
    r"waitid|pidfd_\w+|memfd_create|eventfd|epoll|inotify|timerfd_\w+|copy_file_range|sendfile|splice|pipe2|"
    r"getrandom|ru_maxrss|SIGRTMIN|SIGPWR|SIGSTKFLT|SO_PEERCRED|[gs]etxattr|setns|unshare|malloc_trim|"
    r"get_start_method|set_start_method|forkserver)\b|os\.(fork)\b|(/proc|/sys|/dev/\w+)\b"
)
HARMLESS = {"/dev/null"}


def table() -> dict[str, set[str]]:
    """file -> what it asks for, by the page."""
    found: dict[str, set[str]] = defaultdict(set)
    for names, files in re.findall(r"^\| (`[^|]*`) \| ([^|]*\.py`[^|]*) \|", PAGE.read_text(encoding="utf-8"), re.M):
        for file in re.findall(r"`([^`]*)`", files):
            found[file] |= set(re.findall(r"`([^`]*)`", names))
    return dict(found)


def test_every_call_that_macos_does_not_have_stands_on_the_page_with_its_reason() -> None:
    asked: dict[str, set[str]] = defaultdict(set)
    for path in sorted([*(ROOT / "flows").rglob("*.py"), *(ROOT / "tasks").rglob("*.py")]):
        for found in OTHERWISE.finditer(path.read_text(encoding="utf-8")):
            name = next(filter(None, found.groups()))
            if name not in HARMLESS:
                asked[path.relative_to(ROOT).as_posix()].add(name)
    assert dict(asked) == table()


# A sitecustomize of a Python that has none of it. Workers, guards and whatever else is started inherit it.
WITHOUT = """
import builtins, io, os, select, signal
GONE = {names!r}
for module in (os, select, signal):
    for name in GONE:
        if hasattr(module, name):
            delattr(module, name)
def without(call):
    def ask(path, *rest, **more):
        if isinstance(path, (str, bytes, os.PathLike)) and os.fsdecode(path).startswith(("/proc", "/sys/")):
            raise FileNotFoundError(2, "No such file or directory", path)
        return call(path, *rest, **more)
    return ask
for name in ("open", "listdir", "readlink", "stat", "scandir"):
    setattr(os, name, without(getattr(os, name)))
io.open = builtins.open = without(io.open)
"""
GONE = [
    *("O_TMPFILE", "O_PATH", "posix_fallocate", "posix_fadvise", "fdatasync", "waitid", "P_ALL", "WNOWAIT"),
    *("sched_getaffinity", "sched_setaffinity", "pidfd_open", "memfd_create", "eventfd", "copy_file_range", "splice"),
    *("pipe2", "getrandom", "epoll", "SIGRTMIN", "SIGRTMAX", "SIGPWR", "SIGSTKFLT"),
]


@pytest.mark.slow
def test_a_run_needs_nothing_that_linux_alone_has(tmp_path: Path) -> None:
    """Command, worker processes and store, where Python lacks what it lacks on macOS."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT.format(names=GONE))
    recipe = write_recipe(tmp_path)
    probe = "import os; print(hasattr(os, 'waitid'), os.path.exists('/proc/self'))"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    for command, words in (
        ([sys.executable, "-c", probe], "False False"),
        ([str(Path(sys.executable).with_name("augmill")), "run", str(recipe)], '"outcome"'),
    ):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0 and words in done.stdout, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("command", "code"), [("pass", 0), ("import sys; sys.exit(7)", 7), ("import os; os.abort()", 134)]
)
def test_what_guards_a_training_needs_nothing_that_linux_alone_has(tmp_path: Path, command: str, code: int) -> None:
    """It takes no site of its own, so it is given the lack by hand; the command lasts past its first look at it."""
    words = [sys.executable, "-c", f"import time; time.sleep(1); {command}"]
    program = f"""{WITHOUT.format(names=GONE)}
import runpy, sys
sys.platform = "darwin"
sys.argv = ["_guard.py", str(os.getppid()), *{words!r}]
runpy.run_path({str(ROOT / "tasks/trainers/_guard.py")!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (code, "")


# What Windows lacks goes after third parties are imported, which would look for Windows' own; then ours come anew.
ON_WINDOWS = """
import os, signal, sys
import {first}
for name in [name for name in sys.modules if name.split(".")[0] == "augmill"]:
    del sys.modules[name]
sys.platform = "win32"
sys.modules["fcntl"] = sys.modules["resource"] = None
for name in ("getuid", "killpg", "getpgid", "setsid", "fork", "statvfs", "waitid"):
    delattr(os, name)
for name in ("SIGKILL", "SIGALRM", "SIGHUP", "setitimer"):
    delattr(signal, name)
"""


def test_on_windows_a_command_ends_with_one_sentence_before_anything_else(tmp_path: Path) -> None:
    program = """
sys.argv = ["augmill", "run", "recipe.yaml"]
from augmill.flows.cli import main
main()
"""
    code = ON_WINDOWS.format(first="augmill.flows.cli") + program
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[0] == "Error: Augmill does not run on Windows"
    assert "WSL" in done.stderr and "container" in done.stderr and "Traceback" not in done.stderr
    assert json.loads(done.stdout)["kind"] == "UserError" and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_on_windows_a_run_from_python_is_refused_by_the_same_sentence(tmp_path: Path) -> None:
    program = """
from augmill.flows.augment import run_recipe
from augmill.tasks.errors import UserError
from augmill.tasks.recipe.recipe import load_recipe
try:
    run_recipe(load_recipe("recipe.yaml"))
except UserError as error:
    print(error)
"""
    write_recipe(tmp_path)
    code = ON_WINDOWS.format(first="augmill.flows.augment") + program
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("Augmill does not run on Windows\n"), done.stderr
    assert not (tmp_path / "store").exists()
