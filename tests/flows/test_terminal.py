"""Nothing of the data, of the recipe or of the environment reaches a terminal as a command, whichever command shows it."""

from __future__ import annotations

import ast
import csv
import io
import json
import logging
import sys
import threading
import unicodedata
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from commands import Ended, augmill, write_recipe
from hypothesis import given
from hypothesis import strategies as st

from augmill.flows.progress import Progress
from augmill.flows.terminal import TerminalHandler, say, say_text, take_over
from augmill.tasks.recipe.sections import Columns
from augmill.tasks.rows.shown import PAGE, POLICY, visible
from augmill.tasks.stages.publish import _code, dataset_card

ROOT = Path(__file__).parents[2]
EVIL = "e\x1b]0;owned\x07\x1b[2J\x9b31m\r\u202eabc\u2066\u200b`<b>|{x}\x85\u2028[red]\ue000"
NAME = EVIL.replace("[", "(").replace("{", "(")  # of a source: no pattern
# Who may name a stream: the writer; the child that tells its port by one; the guard, which has no package around it.
STREAMS = {"flows/terminal.py", "flows/orchestration/server_child.py", "tasks/trainers/_guard.py"}
PRINTERS = {"print", "echo", "secho", "print_exc", "print_exception", "print_stack", "pprint", "rprint"}


def unseen(text: str, keep: str = "\n") -> set[str]:
    """The characters that a terminal or a page would obey, or not show."""
    kinds = ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")
    return {c for c in text if unicodedata.category(c) in kinds and c not in keep}


def test_only_the_writer_writes_to_a_stream() -> None:
    wrong = []
    for path in sorted(path for top in ("flows", "tasks") for path in (ROOT / top).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = node.func if isinstance(node, ast.Call) else None
            word = (
                called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
            )
            if (word in PRINTERS and name not in STREAMS) or (
                word == "Console" and name not in ("flows/terminal.py", "flows/progress.py")
            ):
                wrong.append(f"{name}:{node.lineno} calls {word}")  # type: ignore[attr-defined]
            stream = isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr", "__stdout__", "__stderr__")
            of_sys = stream and isinstance(node.value, ast.Name) and node.value.id == "sys"  # type: ignore[attr-defined]
            if of_sys and name not in STREAMS and not _ends_pipe(name, node):
                wrong.append(f"{name}:{node.lineno} names a stream")  # type: ignore[attr-defined]
            if isinstance(node, ast.Attribute) and node.attr == "StreamHandler":
                wrong.append(f"{name}:{node.lineno} has a handler of its own")
    assert not wrong, "\n".join(wrong)


def _ends_pipe(name: str, node: ast.AST) -> bool:
    """main() points stdout elsewhere once its reader is gone; it writes nothing."""
    line = (ROOT / name).read_text(encoding="utf-8").splitlines()[node.lineno - 1]  # type: ignore[attr-defined]
    return name == "flows/cli/__init__.py" and "os.dup2(" in line


def test_a_joiner_stays_within_an_emoji_and_nowhere_else() -> None:
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    assert visible(family) == family
    assert visible("a\u200db \u200d\U0001f468\u200d") == "a\\u200db \\u200d\U0001f468\\u200d"


@given(st.text())
def test_visible_text_is_printable_and_one_line_and_json_keeps_its_value(text: str) -> None:
    shown = visible(text)
    plain = shown.replace("\u200d", "")  # within an emoji it stays: see below
    assert plain.isprintable() and not unseen(plain, keep="")
    assert shown == text or not text.isprintable()
    line = json.dumps({"a": text}, ensure_ascii=False)
    assert json.loads(visible(line)) == {"a": text}


def test_whatever_python_itself_says_is_written_out_too() -> None:
    err, hooks = io.StringIO(), (warnings.showwarning, logging.lastResort, threading.excepthook, sys.unraisablehook)
    with redirect_stderr(err), redirect_stdout(io.StringIO()) as out:
        try:
            take_over()
            with warnings.catch_warnings(record=False):
                warnings.simplefilter("always")
                warnings.showwarning(UserWarning(EVIL), UserWarning, "x.py", 1)
            assert logging.lastResort is not None
            logging.lastResort.handle(logging.LogRecord("x", logging.ERROR, "x", 1, "%s", (EVIL,), None))

            def end() -> None:
                raise ValueError(EVIL)

            thread = threading.Thread(target=end)
            thread.start()
            thread.join()
            say_text(EVIL, err=True)
            say(f"a\n{EVIL}", "b")
        finally:
            warnings.showwarning, logging.lastResort, threading.excepthook, sys.unraisablehook = hooks
    assert not unseen(err.getvalue()) and err.getvalue().count("u202e") >= 4 and "ValueError" in err.getvalue()
    assert not unseen(out.getvalue()) and out.getvalue().count("\n") == 2  # a line end in the data makes no line
    assert isinstance(TerminalHandler(), logging.Handler)


def test_a_live_bar_takes_names_as_they_are() -> None:
    with redirect_stderr(io.StringIO()), Progress(live=True) as progress, progress.stage(EVIL, 2) as stage:
        stage.note = EVIL
        stage.advance()
        assert not unseen(stage.line(200))


# --- every command --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """(recipe, its run): hostile labels, texts, columns and names of files and folders, a release, a log with reasons."""
    folder = tmp_path_factory.mktemp("hostile") / NAME
    folder.mkdir()
    data = folder / f"{NAME}.csv"
    with data.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label", f"more{EVIL}"])
        for at in range(80):
            words = f"row {at} of many words {at * 7919 % 101} {EVIL if at % 9 == 0 else 'plain'}"
            writer.writerow([words, f"{EVIL}{at % 2}\n`x`\n---", EVIL])
    recipe = write_recipe(folder, name=f"{EVIL}.yaml", source={"path": data.name, "format": "csv"})
    return recipe, augmill("run", recipe)


def _commands(recipe: Path) -> dict[str, list[list[object]]]:
    """Each command with hostile words wherever it takes any."""
    store, folder = recipe.parent / "store", recipe.parent
    at: list[object] = ["--store", store]
    bad = folder / f"bad{EVIL}.yaml"
    bad.write_text(json.dumps({"dataset": EVIL, EVIL: {EVIL: EVIL}, "columns": {EVIL: EVIL}, "task": EVIL}))
    ids = folder / f"ids{EVIL}.txt"
    ids.write_text(f"{EVIL}\n", encoding="utf-8")
    data = folder / f"{NAME}.csv"
    return {
        "run": [[recipe], [bad], [folder / f"none{EVIL}"], [recipe, "--as-of", EVIL], [recipe, "--exit-code", EVIL]],
        "backfill": [[recipe, "--orchestrator", EVIL], [recipe, "--from", EVIL, "--to", EVIL], [bad]],
        "nightly": [[recipe], [bad], [recipe, "--orchestrator", EVIL]],
        "init": [[data, "--out", folder / f"new{EVIL}.yaml"], [data, "--out", recipe], [data, "--label", EVIL]],
        "check": [[recipe], [recipe, "--json"], [bad], [recipe, "--as-of", EVIL]],
        "judge": [
            ["--real", data, "--synthetic", data, "--label", "label", "--text", "text", "--trainer", EVIL],
            ["--real", data, "--synthetic", data, "--label", EVIL, "--text", EVIL],
            ["--real", data, "--synthetic", data, "--label", "label", "--text", "text", "--seeds", 2],
        ],
        "compare": [
            [recipe, "--generators", EVIL],
            [recipe, "--ratios", EVIL],
            [recipe, "--orchestrator", EVIL],
            [recipe, "--as-of", EVIL, "--orchestrator", "none", "--out", folder / f"c{EVIL}"],
            [recipe, "--seeds", 1, "--ratios", "1", "--orchestrator", "none", "--out", folder / f"d{EVIL}"],
        ],
        "path": [[recipe], [recipe, "--as-of", EVIL], [recipe, "--delta"]],
        "tag": [["a-tag", *at, "--reason", f"{EVIL}\nx"], [EVIL, *at, "--reason", EVIL], [EVIL, EVIL, *at]],
        "releases": [[*at], [EVIL, *at], [recipe], ["--store", folder / EVIL]],
        "show": [[*at], [*at, "--release", EVIL]],
        "gc": [[*at], [*at, "--grace", EVIL]],
        "verify": [[*at], [*at, "--all"], [*at, "--release", EVIL]],
        "explain": [[EVIL, *at], [EVIL, EVIL, *at]],
        "audit": [["a-tag", *at], ["a-tag", *at, "--json"], [EVIL, *at]],
        "diff": [["a-tag", "a-tag", *at], [EVIL, EVIL, *at]],
        "forget": [[recipe, "--rows", ids, "--reason", EVIL], [recipe, "--rows", EVIL, "--reason", EVIL]],
        "schema": [[], ["--markdown"], [EVIL]],
        "extensions": [[], ["--load"], [EVIL], [f"{EVIL}:x"], ["os:path"], ["rules"]],
        "new": [["generator", EVIL], [EVIL, EVIL], ["generator", "own", "--into", folder / f"e{EVIL}"]],
        "deploy": [[recipe, "--pool", EVIL], [bad, "--pool", EVIL]],
        "serve": [[bad], [EVIL]],
        "doctor": [[bad], [EVIL], ["--store", EVIL, "--quick", EVIL]],
        "status": [[recipe], [recipe, "--json"], [recipe, "--check"], [recipe, "--from", EVIL]],
        "rollback": [[*at, "--reason", " "], [*at, "--reason", f"{EVIL}\nb", "--to", EVIL], [*at, "--reason", EVIL]],
    }


def test_no_command_shows_what_a_terminal_would_obey(hostile: tuple[Path, Ended], monkeypatch: Any) -> None:
    import typer

    from augmill.flows.cli import app

    recipe, ended = hostile
    assert ended.code == 0 and not unseen(ended.out + ended.err)
    monkeypatch.setenv("USER", EVIL)
    monkeypatch.setenv("LOGNAME", EVIL)
    table = _commands(recipe)
    assert set(table) == set(typer.main.get_command(app).commands), "a command without a line here"  # type: ignore[attr-defined]
    wrong, shown = [], 0
    for name, lines in table.items():
        for words in lines:
            for debug in ([], ["--debug"]):
                ended = augmill(name, *words, *debug)
                if found := unseen(ended.out + ended.err):
                    wrong.append(f"{name} {words}: {found}")
                shown += "u202e" in ended.out + ended.err
    assert not wrong, "\n".join(wrong)
    assert shown > 20  # the names are there, written out


def test_every_page_of_a_hostile_set_is_harmless(hostile: tuple[Path, Ended]) -> None:
    store = hostile[0].parent / "store"
    pages = [path for kind in ("html", "md", "svg") for path in store.rglob(f"*.{kind}")]
    assert {path.suffix for path in pages} == {".html", ".md"}
    for path in pages:
        text = path.read_text(encoding="utf-8")
        assert not unseen(text, keep=PAGE), path
        if path.suffix == ".html":
            assert POLICY in text.partition("<title")[0] and "<b>|" not in text and "<script" not in text, path
    card = next(path for path in pages if path.name == "README.md").read_text(encoding="utf-8")
    assert card.count("\n---\n") == 1  # no label ends the front matter, or begins another


@given(st.text(min_size=1))
def test_a_label_stays_in_its_code_span(label: str) -> None:
    span = _code(label)
    fence = len(span) - len(span.lstrip("`"))
    inside = span[fence:-fence]
    assert "`" * fence not in inside and not inside.startswith("`") and not inside.endswith("`")
    assert "\n" not in span and visible(label) in inside


def test_a_card_of_plain_names_is_what_it_was() -> None:
    counts = {"train": {"rows": 3, "synthetic": 1}}
    card = dataset_card("tiny", "classification", counts, ["a", "b c"], Columns(text="t", label="l"), "aug_", "real")
    assert "Text: `t`; label: `l` with 2 values: `a`, `b c`." in card
