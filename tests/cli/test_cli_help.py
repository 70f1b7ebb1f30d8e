"""What a newcomer meets first: ``--help``, completion, colours, and an error that is said once."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from commands import augmill, write_recipe
from rich.cells import cell_len

from augmill.flows.cli import app
from augmill.flows.cli.help import GROUPS
from augmill.flows.cli.terminal import aligned, table
from augmill.flows.terminal import json_asked

MAIN = "import sys; sys.argv[0] = 'augmill'; from augmill.flows.cli import main; main()"
PAINT = re.compile(r"\x1b\[\d+m")
HEAVY = "torch", "transformers", "prefect", "polars", "sklearn", "great_expectations"


def names() -> list[str]:
    return [command.name or "" for command in app.registered_commands]


def in_terminal(*arguments: object, cwd: Path | None = None, **environment: str) -> tuple[int, str]:
    """(exit code, what a terminal of 80 columns is sent) of ``augmill ARGUMENTS``."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(cwd or ".")
        os.environ.pop("NO_COLOR", None)
        os.environ.update({"TERM": "xterm", "COLUMNS": "80"} | environment)
        os.execv(sys.executable, [sys.executable, "-c", MAIN, *map(str, arguments)])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    seen = b""
    try:
        while part := os.read(terminal, 65536):
            seen += part
    except OSError:  # how a terminal ends on Linux
        pass
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen.decode().replace("\r\n", "\n")


def test_help_names_every_command_in_a_group_on_one_line() -> None:
    out = augmill("--help").out
    for name in names():
        (line,) = [line for line in out.splitlines() if line.startswith(f"  {name} ")]
        assert line.endswith("."), f"{name}: the first paragraph of its help takes more than a line: {line}"
    assert [line[:-1] for line in out.splitlines() if line[:-1] in GROUPS] == [*GROUPS]
    assert sorted(name for group in GROUPS.values() for name in group) == sorted(names()), "a command has no group"


@pytest.mark.parametrize("columns", ["40", "80", "300"])
def test_no_help_is_cut_or_wider_than_the_page(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    for name in ("", *names()):
        out = augmill(*name.split(), "--help").out
        assert "..." not in out.replace("[ARGS]...", "") and "\N{HORIZONTAL ELLIPSIS}" not in out, out
        long = [line for line in out.splitlines() if len(line) > min(int(columns), 80)]
        assert not [line for line in long if " " in line.strip()], long  # one long word is whole
        assert "<str>" not in out and "Show this message" in re.sub(r"\s+", " ", out)


def test_completion_names_commands_and_options_and_loads_nothing_heavy() -> None:
    shows = (
        f"import atexit, sys; atexit.register(lambda: print(*sorted(m for m in {HEAVY} if m in sys.modules)))\n{MAIN}"
    )

    def completed(instruction: str, **more: str) -> list[str]:
        environment = os.environ | {"_AUGMILL_COMPLETE": instruction} | more
        ended = subprocess.run(
            [sys.executable, "-c", shows], env=environment, capture_output=True, text=True, check=True
        )
        assert not ended.stderr
        return ended.stdout.split("\n")

    assert completed("complete_bash", COMP_WORDS="augmill sta", COMP_CWORD="1") == ["status", "", ""]
    assert completed("complete_bash", COMP_WORDS="augmill run x.yaml --as", COMP_CWORD="3") == ["--as-of", "", ""]
    zsh = "\n".join(completed("complete_zsh", _TYPER_COMPLETE_ARGS="augmill path"))
    assert "Prints the path of the newest release, and nothing else." in zsh
    assert "_AUGMILL_COMPLETE=complete_bash" in "\n".join(completed("source_bash"))


def test_completion_is_installed_for_the_shell_that_asks(tmp_path: Path) -> None:
    environment = os.environ | {"HOME": str(tmp_path), "SHELL": "/bin/bash"}
    for option in ("--show-completion", "--install-completion"):
        # bash stays the parent, which is how the shell is told
        command = f'"{sys.executable}" -c "$0" {option}; true'
        ended = subprocess.run(
            ["bash", "-c", command, MAIN], env=environment, capture_output=True, text=True, check=True
        )
        assert "_augmill_completion" in ended.stdout or "installed in" in ended.stdout, ended.stdout + ended.stderr
    assert "augmill" in (tmp_path / ".bashrc").read_text()


def test_a_person_at_a_terminal_sees_an_error_once_and_a_program_gets_its_json() -> None:
    code, seen = in_terminal("run", "missing.yaml", NO_COLOR="1")
    assert code == 2 and seen.count("missing.yaml") == 1 and '"outcome"' not in seen and "\x1b" not in seen
    ended = augmill("run", "missing.yaml")
    assert "missing.yaml" in ended.err and ended.last["where"] == "missing.yaml"
    for arguments in (["--json", "run", "missing.yaml"], ["run", "missing.yaml", "--json"]):
        code, seen = in_terminal(*arguments)
        assert code == 2 and json.loads(seen.strip().rsplit("\n", 1)[-1])["outcome"] == "error"


def test_colours_are_for_terminals_whose_user_wants_them() -> None:
    assert PAINT.search(in_terminal("show", "--store", "missing")[1])
    for environment in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert "\x1b" not in in_terminal("show", "--store", "missing", **environment)[1]
    ended = augmill("show", "--store", "missing")
    assert "\x1b" not in ended.out + ended.err + augmill("--help").out
    assert PAINT.sub("", in_terminal("--help")[1]) == augmill("--help").out


def test_json_is_left_out_at_a_terminal_unless_it_is_asked_for(first_run: tuple[Path, object]) -> None:
    folder, _ = first_run
    code, seen = in_terminal("status", folder / "recipe.yaml")
    assert code == 0 and "Current: release" in seen and "{" not in seen
    code, seen = in_terminal("gc", folder / "recipe.yaml", "--json")
    assert code == 0 and "Nothing" in seen and json.loads(seen.strip().rsplit("\n", 1)[-1])["outcome"] == "listed"
    code, seen = in_terminal("--json", "status", folder / "recipe.yaml")
    assert code == 0 and json.loads(seen)["outcome"] == "status", "a command's own --json leaves its text out"


def test_json_asked_for_once_is_not_asked_for_by_the_next_command(tmp_path: Path) -> None:
    assert augmill("check", write_recipe(tmp_path), "--json").last["dataset"]
    assert json_asked.get()
    augmill("--version")
    assert not json_asked.get()


NAMES = [
    "a" * 60,
    "\N{CJK UNIFIED IDEOGRAPH-6F22}" * 30,
    "\N{PARTY POPPER}" * 30,
    "e\N{COMBINING ACUTE ACCENT}" * 60,
    "x",
]


def test_no_name_in_a_table_runs_into_a_number() -> None:
    rows = [(name, "7", "last") for name in NAMES]
    for lines in (
        aligned(rows, right={1}),
        table(("class", "n", "more"), [(name, "7", "5") for name in NAMES], 40)[1:],
    ):
        assert len({cell_len(line) for line in lines}) == 1, "one width"
        assert all(re.search(r"\S  +7  +(last|5)$", line) for line in lines), lines


def test_long_class_names_keep_their_distance_in_check(tmp_path: Path) -> None:
    lines = [
        f"{word} {at} {'parcel train late night '[at % 7 :]},{NAMES[at % 4]}" for at, word in enumerate(["go"] * 200)
    ]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    out = augmill("check", write_recipe(tmp_path, splits={"near": 1.0})).out
    table_of = out[out.index("Classes (4)") : out.index("Plan")].splitlines()[2:7]
    assert all(re.search(r"\S  +\d+  +\d+  +\d+  +\d+( +\*)?$", line) for line in table_of), table_of
    assert all(cell_len(line) <= 80 for line in table_of)
