"""README and docs say what the code does (law 15): all of it is named there, every command and snippet there works.

docs/recipe.md and docs/commands.md are written by `python tests/test_docs.py --write`; docs/house.md is written by hand.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from chain import produce_and_publish, tiny_recipe, write_rows
from commands import Ended, augmill
from dated import dated_document, day, write_days
from test_layers import LAYERS, SHELVES, packages, place

from augmill.flows.cli import app
from augmill.flows.cli.backfill import EXIT_CODES
from augmill.flows.outcome import NEXT
from augmill.tasks import contracts, errors
from augmill.tasks.checks import CHECKS
from augmill.tasks.contracts import Context, Fitted, Request
from augmill.tasks.errors import AugmillError
from augmill.tasks.generators import GENERATORS
from augmill.tasks.metrics import METRICS
from augmill.tasks.recipe.recipe import build_recipe
from augmill.tasks.rows.kinds import candidate_schema
from augmill.tasks.rows.randomness import row_seeds
from augmill.tasks.sources import SOURCES
from augmill.tasks.stages.publish import ADDED
from augmill.tasks.store.rules import REMOTE_SCHEMES
from augmill.tasks.store.store import Store, release_key
from augmill.tasks.trainers import TRAINERS
from augmill.testing import CHECK_LAWS, CheckBench

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
HOUSE, EXTENDING, RELEASES = (ROOT / "docs" / name for name in ("house.md", "extending.md", "releases.md"))
PAGES = [README, *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "infra/examples").rglob("*.md"))]
BY_HAND = [page for page in PAGES if page.name not in ("recipe.md", "commands.md")]

# Every shell command of the pages. Those run by a test here or elsewhere, with where; those that are not, with why.
RUN = {
    "augmill init tickets.csv": "test_the_commands_for_ones_own_data_work_in_their_order",
    "augmill check tickets.yaml": "the same",
    "augmill run tickets.yaml": "the same, without Prefect; with it: tests/test_support_example.py",
    "augmill releases": "the same",
    "augmill show": "the same",
    "augmill verify": "the same",
    'augmill rollback --reason "..."': "the same",
    "augmill rollback --backfill ID": "tests/nights/test_undo_backfill.py",
    'augmill rollback --backfill ID --reason "..."': "the same",
    "augmill judge --real real.csv --synthetic made.csv": "the same",
    "augmill schema": "the same",
    "release=$(augmill path tickets.yaml)": "tests/test_consumers.py",
    "release=$(augmill path tickets.yaml --as-of 2026-10-31)": "the same",
    "augmill path --delta": "the same",
    "augmill nightly tickets.yaml": "test_the_commands_between_nights_work_in_their_order",
    **dict.fromkeys(
        (
            "augmill status --check",
            "augmill doctor recipe.yaml",
            "augmill gc recipe.yaml",
            'augmill forget recipe.yaml --rows ids.txt --reason "..." --dry-run',
            "augmill backfill recipe.yaml --from 2026-10-01 --to 2026-11-01 --dry-run",
            "augmill backfill recipe.yaml --from 2026-10-01 --to 2026-11-01",
            "augmill status tickets.yaml",
            "augmill backfill tickets.yaml --from 2026-10-01 --to 2026-10-31",
            "augmill doctor",
            "augmill diff OLD NEW",
            "augmill audit RELEASE",
            "augmill explain ROW_ID",
            "augmill tag gold --release RELEASE",
            "augmill gc tickets.yaml",
            'augmill forget tickets.yaml --rows ids.txt --reason "..." --dry-run',
        ),
        "the same",
    ),
    "augmill deploy tickets.yaml --pool augmill": "tests/orchestration/test_deployed.py, as augmill deploy",
    "augmill deploy recipe.yaml --pool augmill": "the same",
    "augmill deploy s3://bucket/recipe.yaml --pool augmill --job-variable env.AWS_REGION=eu-central-1": (
        "tests/orchestration/test_deployments.py"
    ),
    "augmill deploy recipe.yaml --pool augmill --inline --image augmill:1 --job-variable cpu_request=2": "the same, each option",
    "augmill deploy s3://bucket/recipe.yaml ...": "the same",
    "augmill serve tickets.yaml": "tests/orchestration/test_deployed.py, as augmill serve",
    "augmill serve recipe.yaml": "the same",
    "augmill compare tickets.yaml --generators rules,interpolate,causal_lm/teacher": "tests/cli/test_cli_compare.py",
    "augmill verify --all": "tests/cli/test_cli_housekeeping.py",
    "augmill backfill recipe.yaml --reprocess changed-recipe --publish together --max-active 4": "tests/nights/test_backfill.py",
    "augmill backfill recipe.yaml --reprocess all --order newest --max-hours 6": "the same",
    "augmill schema --markdown > docs/recipe.md": "test_generated_pages_are_up_to_date",
    "augmill run infra/examples/support/recipe_word_deletion.yaml": "test_the_examples_print_what_readme_quotes",
    "make docs": "tests/test_site.py",
    **dict.fromkeys(
        (
            "augmill new generator shout",
            "pip install --editable 'augmill-shout[test]'",
            "pytest augmill-shout",
            "augmill extensions",
            "augmill extensions shout",
            "augmill extensions --load",
            "augmill run augmill-shout/recipe.yaml",
        ),
        "tests/test_packaging.py, tests/outside/test_plugins.py",
    ),
    "make run": "test_the_examples_print_what_readme_quotes, but for the install",
}
NOT_RUN = {
    "make test": "it is what runs this",
    "make test-all": "the same",
    **dict.fromkeys(
        ("pip install 'augmill[delta]'", "pip install 'augmill[delta,images,sound]'", "pip install datasets duckdb"),
        "an installation",
    ),
    "prefect server start": "a server that stays; what it would show: tests/orchestration/test_deployed.py",
    "prefect work-pool create augmill --type process": "a server that stays; its flow: tests/orchestration/test_deployed.py",
    "prefect worker start --pool augmill": "a worker that stays",
    "python train.py --train {train} --eval {eval} --seed {seed} --out {predictions}": "the user's own program",
    "python tests/benchmarks/bench_stages.py": "minutes; tests/test_benchmarks.py runs it at its tiniest size",
    "python tests/benchmarks/bench_decode.py": "the same",
    "python tests/benchmarks/bench_decode.py --device cuda:0": "needs a GPU",
    "python tests/benchmarks/bench_commits.py --measure all": "minutes; test_benchmarks.py measures `--help`",
    "python tests/benchmarks/bench_commits.py --measure help check rerun example": "the same",
    "python tests/benchmarks/bench_commits.py": "the same",
    **dict.fromkeys(
        (
            "python tests/benchmarks/bench_readers.py --megabytes 40 --repeats 5 --only csv jsonl parquet",
            "python tests/benchmarks/data_plane.py --rows 1000000",
            "python tests/benchmarks/bench_decode.py --models 5m,gpt2,bart --threads 1",
            "python tests/benchmarks/bench_checks.py",
            "python tests/benchmarks/bench_gate.py --cost --sets banking77 --kinds deletion --heldout 1540 --test 1540 "
            "--per-class 10",
        ),
        "minutes; tests/test_benchmarks.py runs it at its tiniest size",
    ),
    "python tests/benchmarks/bench_million.py": "minutes; tests/test_benchmarks.py runs it at its tiniest size",
    "python tests/benchmarks/bench_gate.py": "the same",
    "python tests/benchmarks/bench_stages.py --per-class --rows 100000 --seeds 3 --kinds table": "the same",
    "python tests/benchmarks/table_runs.py": "the same",
    "python tests/benchmarks/bench_sounds.py --rows 300 --recordings ../shared/data/fsdd/recordings.tar": "the same",
    "python tests/benchmarks/bench_transforms.py --rows 512 --repeats 3": "the same",
    "python tests/benchmarks/media_runs.py --sets digits-10 fsdd-5 cifar-10 omniglot-5 --draws 1": "the same",
    "python tests/benchmarks/bench_tables.py": "the same",
    "python tests/benchmarks/bench_transforms.py": "the same",
    "python tests/benchmarks/detection_runs.py": "the same",
    "python tests/benchmarks/detection_runs.py --sets digits --trainer '{width: 8, steps: 300}'": "the same",
    "python tests/benchmarks/ranking_runs.py --draws 10": "the same",
    "python tests/benchmarks/speech_runs.py --counts 5 --draws 0 --ways speech transforms --seeds 3": "the same",
    "python tests/benchmarks/speech_runs.py --task transcription --counts 100 --ways speech --seeds 3": "the same",
    "python tests/benchmarks/data_plane.py --rows 1000000 --source m1000.csv": "the same, of a source of 1 GB",
    "python tests/benchmarks/bench_decode.py --models bart,ending --rows 128 --threads 1 --steps 40 --repeats 5": "the same",
    "python tests/benchmarks/bench_row_order.py --groups 32768 122880 1048576": "the same",
    "python tests/benchmarks/bench_nights.py": "the same",
    "python tests/benchmarks/bench_prefect.py": "half an hour; tests/test_benchmarks.py runs it at its tiniest size",
    "python tests/benchmarks/compare_sets.py --out docs/comparison/cells.jsonl": "hours; test_benchmarks.py makes a cell",
    "python tests/benchmarks/fuzz.py --count 50000 --seed 1": "half an hour; tests/test_fuzz.py does 1,000 by the same code",
    "python tests/benchmarks/bench_overhead.py": "the same",
    "python tests/benchmarks/backfill_runs.py": "minutes, on BANKING77; tests/nights/test_backfill.py does it at 8 days",
    "python tests/benchmarks/kill_runs.py --kills 30 --seed 1": "minutes; tests/flows/test_kills.py does 5 by the same code",
    "python tests/benchmarks/mutate.py --mutants 200 --seed 1": "half an hour; test_benchmarks.py holds its table of tests",
    "PYTHONPATH=tests/benchmarks python -m pytest -p processor_seconds --processor-seconds seconds.tsv": "it is what runs this",
    "python tests/benchmarks/processor_seconds.py seconds.tsv": "it reads what a round of the tests wrote",
    "python tests/test_versions.py --record": "it writes; tests/test_versions.py holds what it wrote",
    "python tests/benchmarks/flip_files.py --files 92 --seed 1": "minutes; test_benchmarks.py does 3 files",
    "python tests/api/test_public_names.py --record": "it writes; the test there holds what it wrote",
    "python tests/test_docs.py --write": "it writes; test_generated_pages_are_up_to_date holds what it wrote",
}
README_LINES = 250


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@cache
def project_files() -> list[str]:
    """What is in the repository, or would be with the next commit."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return sorted({name for name in listed.stdout.splitlines() if (ROOT / name).is_file()})


FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return [body for name, body in FENCE.findall(read(page)) if name == language]


def shell_commands(page: Path) -> list[str]:
    """Lines of sh blocks without their comments, and commands in backticks."""
    lines = [line.split("  #")[0].strip() for block in blocks(page, "sh") for line in block.splitlines()]
    prose = FENCE.sub("", read(page))
    programs = r"(?:augmill [a-z]|make [a-z]|python [a-z]|pip |prefect [a-z])"
    return [line for line in lines if line] + [m for m in re.findall(r"`([^`]+)`", prose) if re.match(programs, m)]


def commands() -> list[str]:
    names = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    assert len(names) > 5
    return names


def recipe_page() -> str:
    return augmill("schema", "--markdown").out


def commands_page() -> str:
    """docs/commands.md: each command's own help."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        helps = {name: augmill(*name.split(), "--help").out for name in ("", *commands())}
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    head = '# Commands\n\nThe `--help` of each command. README, "How it ends", has the exit codes.\n'
    parts = [f"\n## augmill {name}".rstrip() + f"\n\n```text\n{text.strip()}\n```\n" for name, text in helps.items()]
    return f"{head}{''.join(parts)}\nThis page is generated: `python tests/test_docs.py --write`.\n"


def test_generated_pages_are_up_to_date() -> None:
    fix = "run `python tests/test_docs.py --write`"
    assert read(ROOT / "docs/recipe.md") == recipe_page(), fix
    assert read(ROOT / "docs/commands.md") == commands_page(), fix


def test_readme_is_short_enough_to_be_read() -> None:
    assert len(read(README).splitlines()) <= README_LINES


def house_table() -> dict[str, tuple[str, str]]:
    """Of docs/house.md: each folder, what stands there, and how it is entered."""
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \| (\w*) ?\|$", read(HOUSE).split("## Which way")[0], re.MULTILINE)
    assert len(rows) == len({name for name, _, _ in rows}), "a folder has two lines"
    return {name: (said, entered) for name, said, entered in rows}


def test_the_house_page_has_a_line_for_every_folder_and_no_other() -> None:
    pictures = "infra/examples/shapes/pictures/"  # a directory for each class
    there = {Path(name).parent.as_posix() for name in project_files() if not name.startswith(pictures)} - {".", ".ci"}
    assert set(house_table()) == there
    assert not [name for name, (said, _) in house_table().items() if not 10 < len(said) < 140]
    for package in packages():
        assert f'"{package}"' in read(ROOT / "pyproject.toml"), f"{package} would not be installed"


def test_the_house_page_says_how_each_package_is_entered() -> None:
    """As tests/test_layers.py holds it: a shelf there; kin, whose __init__ offers nothing; else its front."""
    found = {}
    for package in packages():
        name = place(package)
        front = ast.parse(read(ROOT / name.replace(".", "/") / "__init__.py")).body[1:]
        shelf = name in SHELVES or name == "tasks"
        found[name.replace(".", "/")] = "shelf" if shelf else "front" if front else "kin"
    assert {name: entered for name, (_, entered) in house_table().items() if entered} == found


def test_the_house_page_has_the_layers_of_the_law() -> None:
    lines = re.findall(r"^(\d+)\. ([a-z ]+?)( \(know each other\))?: (.+)$", read(HOUSE), re.MULTILINE)
    assert [int(number) for number, *_ in lines] == list(range(1, len(LAYERS) + 1))
    said = [(name, bool(own), set(re.findall(r"`([^`]+)`", those))) for _, name, own, those in lines]
    alone = {name for name, own, parts in LAYERS if len(parts) == 1}
    assert said == [(name, own and name not in alone, parts) for name, own, parts in LAYERS]


def test_readme_names_every_extension_source_and_outcome() -> None:
    text = read(README)
    for name in (*GENERATORS, *CHECKS):
        assert re.search(rf"^\|.*`{name}`", text, re.MULTILINE), f"{name} is in no table of README"
    for name in (*SOURCES, *TRAINERS, *METRICS, *REMOTE_SCHEMES, *(f"aug_{name}" for name in ADDED)):
        assert f"`{name}`" in text, name
    for outcome in NEXT:
        assert re.search(rf"^\| `{outcome}` \|", text, re.MULTILINE), outcome
        assert re.search(rf"^\| {outcome} \|", read(ROOT / "docs/operations.md"), re.MULTILINE), outcome
    for name in commands():
        assert re.search(rf"\baugmill {name}\b", "\n".join(blocks(README, "sh")), re.MULTILINE), f"augmill {name}"


def test_readme_has_every_exit_code_and_no_other() -> None:
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, AugmillError)]
    in_code = {0, *EXIT_CODES.values()} | {kind.exit_code for kind in kinds}
    for path in sorted((ROOT / "flows").rglob("*.py")):
        for call in ast.walk(ast.parse(read(path))):
            if isinstance(call, ast.Call) and ast.unparse(call.func) in ("sys.exit", "typer.Exit", "leave", "_fail"):
                in_code |= {c.value for c in ast.walk(call) if isinstance(c, ast.Constant) and type(c.value) is int}
    table = read(README).split("| exit code |")[1].split("\n\n")[0]
    assert {
        int(code) for row in re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE) for code in row.split(",")
    } == in_code


def test_every_shell_command_is_run_by_a_test_or_says_why_not() -> None:
    known = {**RUN, **NOT_RUN}
    found = {command for page in BY_HAND for command in shell_commands(page)}
    named = {
        command for command in found if re.fullmatch(r"augmill [a-z]+", command) and command.split()[1] in commands()
    }
    assert not found - named - set(known), "run it in a test, or say in NOT_RUN why not"
    everywhere = {command for page in PAGES for command in shell_commands(page)}
    assert not set(known) - everywhere, "a command of the tables that no page has"
    for text in known.values():
        for path in re.findall(r"tests/[\w/]+\.py", text):
            assert (ROOT / path).exists(), path


def test_links_and_paths_exist() -> None:
    missing = []
    for page in PAGES:
        text = read(page)
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if "://" not in target and not (page.parent / target).exists():
                missing.append(f"{page.name}: {target}")
        for path in re.findall(r"`((?:flows|tasks|tests|infra|docs)/[\w./-]+)`", text):
            if not (ROOT / path).exists():
                missing.append(f"{page.name}: {path}")
        for anchor in re.findall(r"\]\(#([^)]+)\)", text):
            headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}, (
                f"{page.name}: #{anchor}"
            )
    assert not missing


def test_files_speak_of_the_project_alone() -> None:
    """No address of a registry, no path of somebody's machine, no pictograms."""
    barred = {
        "a registry's address": re.compile(
            "|".join(
                ["py" + "pi.org", "python" + "hosted", "--index" + "-url", "extra-" + "index", "huggingface" + r"\.co/"]
            )
        ),
        "a machine's path": re.compile(
            r"(?<![\w.])/(?:" + "|".join(["wo" + "rk", "ro" + "ot", "ho" + "me", "Us" + "ers", "mnt"]) + r")/\w"
        ),
        "a pictogram": re.compile("[\U0001f000-\U0001faff\u2600-\u27bf\u2b50\u2b55\ufe0f]"),
    }
    found = []
    for name in project_files():
        if name.endswith((".png", ".csv", ".xz", ".parquet")):
            continue
        for number, line in enumerate(read(ROOT / name).splitlines(), 1):
            found += [f"{name}:{number}: {what}" for what, pattern in barred.items() if pattern.search(line)]
    found = [
        line for line in found if not (line.startswith("tests/") and line.endswith("pictogram"))
    ]  # they are data there
    assert not found
    assert (ROOT / "docs/pictures/report.png").stat().st_size < 300_000


def test_readmes_recipe_is_one(tmp_path: Path) -> None:
    whole, nights, job = (yaml.safe_load(block) for block in blocks(README, "yaml"))
    assert build_recipe(whole, base=tmp_path).generators[1].share == 0.5
    assert build_recipe(whole, base=tmp_path).trainer.use == "command"
    assert build_recipe(whole | nights, base=tmp_path).refit.every == "7d"
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert "--orchestrator" in container["command"]


def test_the_pages_check_keeps_the_laws(tmp_path: Path) -> None:
    scope: dict[str, Any] = {"__name__": "augmill.short"}  # as one of ours: in no file
    sys.modules["augmill.short"] = type(sys)("augmill.short")
    exec(compile(snippet(EXTENDING, "class Short"), "extending.md", "exec"), scope)
    bench = CheckBench(scope["Short"](scope["ShortOptions"]()), tmp_path / "fitted")
    for law in CHECK_LAWS:
        law(bench)
    reasons = bench.reasons(bench.candidates())
    assert "short" in reasons and reasons[: bench.train.num_rows] == [None] * bench.train.num_rows


def snippet(page: Path, word: str) -> str:
    (found,) = [block for block in blocks(page, "python") if word in block]
    return found


def test_the_pages_generator_keeps_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fitted, asked row by row and all at once; then from the source to a release, by its line in the dict."""
    scope: dict[str, Any] = {"__name__": "shout"}
    sys.modules["shout"] = type(sys)("shout")
    exec(compile(snippet(EXTENDING, "class Shout"), "extending.md", "exec"), scope)
    monkeypatch.setitem(GENERATORS, "shout", scope["Shout"])
    recipe = tiny_recipe(
        write_rows(tmp_path / "rows.csv"),
        generators=[{"use": "shout", "mark": "!?"}],
        target={"per_class": 4},
        checks={"label_consistency": False},
    )
    release, _ = produce_and_publish(recipe, Store(str(tmp_path / "store")))
    train = pq.read_table(tmp_path / "store" / release_key("tiny", release) / "train").to_pylist()
    made = [row for row in train if row["aug_origin"] == "synthetic"]
    assert len(made) == 12 and all(row["aug_generator"] == "shout" for row in made)
    real = {row["aug_row_id"]: row["text"] for row in train}
    assert all(row["text"] == real[row["aug_parent_ids"][0]].upper() + "!?" for row in made)

    (work := tmp_path / "work").mkdir()
    context = Context(seed=0, fields=("text",), workdir=work)
    generator = scope["Shout"](scope["ShoutOptions"]())
    table = pq.read_table(
        tmp_path / "store" / release_key("tiny", release) / "train", columns=["aug_row_id", "label", "text"]
    )
    inputs = contracts.FitInputs(table.rename_columns(["row_id", "stratum", "text"]), *[table.slice(0, 0)] * 4)
    assert all(path.is_relative_to(work) for path in generator.fit(inputs, context).values())
    fitted, ordinals = Fitted(work, "content"), contracts.np.arange(8)
    seeds = row_seeds(1, ordinals)
    strata = ["refund", "track"] * 4
    together = generator.sample(fitted, Request(strata, ordinals, seeds), context)
    assert together.schema == candidate_schema(("text",))
    alone = [
        generator.sample(fitted, Request([strata[at]], ordinals[at : at + 1], seeds[at : at + 1]), context).to_pylist()[
            0
        ]
        for at in range(8)
    ]
    assert together.to_pylist() == alone


@pytest.mark.slow
def test_the_pages_way_to_read_a_release_works(tmp_path: Path) -> None:
    """In a process of its own, in a directory of its own, and without a network."""
    recipe = tiny_recipe(write_rows(tmp_path / "rows.csv"))
    release, _ = produce_and_publish(recipe, Store(str(tmp_path / "store")))
    folder = tmp_path / "store" / release_key("tiny", release)
    code = snippet(RELEASES, "duckdb.sql").replace("datasets.load_dataset(", "splits = datasets.load_dataset(")
    code = f"release = {str(folder)!r}\n{code}\nprint({{name: len(part) for name, part in sorted(splits.items())}})\n"
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment, cwd=tmp_path
    )
    assert ended.returncode == 0, ended.stderr
    manifest = json.loads(read(folder / "manifest.json"))
    assert str({name: part["rows"] for name, part in sorted(manifest["counts"].items())}) in ended.stdout
    for page in (README, RELEASES):
        named = read(page).split("# Reading a release")[1].split("```")[0]
        for path in folder.iterdir():
            assert path.name == "README.md" or path.name in named, f"{page.name} does not say what {path.name} is"


def test_readme_reads_a_release_as_its_page_does() -> None:
    """The page's lines are run, here and in tests/test_consumers.py."""
    page = {line for block in blocks(RELEASES, "python") for line in block.splitlines()}
    lines = [line for block in blocks(README, "python") if "{release}" in block for line in block.splitlines()]
    assert lines and set(lines) <= page


def run_lines(*wanted: str) -> list[str]:
    return [
        line.split("  #")[0].strip()
        for block in blocks(README, "sh")
        for line in block.splitlines()
        if line.startswith(wanted)
    ]


@pytest.mark.slow
def test_the_commands_for_ones_own_data_work_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "tickets.csv", 120)
    write_rows(tmp_path / "real.csv", 120)
    write_rows(tmp_path / "made.csv", 60, seed=7)
    (section,) = [block for block in blocks(README, "sh") if "augmill init" in block]
    lines = [line for line in run_lines("augmill ") if line in section and "compare" not in line]  # tests/cli has it
    assert [line.split()[1] for line in lines] == [
        "init",
        "check",
        "run",
        "releases",
        "show",
        "verify",
        "rollback",
        "judge",
        "schema",
    ]
    said: dict[str, Ended] = {}
    for line in lines:
        _, name, *rest = shlex.split(line)
        if name == "run":
            rest += ["--orchestrator", "none"]
        if name == "rollback":  # a release to come back from
            write_rows(tmp_path / "tickets.csv", 110)
            with (tmp_path / "tickets.yaml").open("a", encoding="utf-8") as stream:
                stream.write("\nvalidation: {enabled: false}\ngate: {seeds: 3}\n")  # quicker
            assert augmill("run", "tickets.yaml", "--orchestrator", "none").code == 0
        said[name] = augmill(name, *rest)
        assert said[name].code == 0, f"{line}\n{said[name].err}"
    first = said["run"].last["release"]
    assert first in said["releases"].out and first in said["show"].out and first in said["rollback"].out
    assert f"location     {tmp_path / 'augmill-store' / release_key('tickets', first)}" in said["show"].out
    json.loads(said["schema"].out)


@pytest.mark.slow
def test_the_commands_between_nights_work_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    document = dated_document(write_days(tmp_path / "rows.csv", 3), tmp_path / "augmill-store")
    (tmp_path / "tickets.yaml").write_text(yaml.safe_dump(document))
    (section,) = [block for block in blocks(README, "sh") if "augmill nightly" in block]
    lines = [line.split("  #")[0].strip() for line in section.splitlines()]
    lines = [line for line in lines if line.split()[1] not in ("deploy", "serve")]
    stands = {
        "--from 2026-10-01": f"--from {day(0)}",
        "--to 2026-10-31": f"--to {day(1)}",
        "augmill doctor": "augmill doctor --quick",
    }
    log: list[str] = []
    for line in sorted(lines, key=lambda line: line.split()[1] not in ("backfill", "nightly")):
        for name, value in stands.items():
            line = line.replace(name, value)  # noqa: PLW2901
        if len(log) > 1:
            for name, value in {"OLD": log[0], "NEW": log[1], "RELEASE": log[1]}.items():
                line = re.sub(rf"\b{name}\b", value, line)  # noqa: PLW2901
            rows = pq.read_table(next((tmp_path / "augmill-store").glob(f"public/*/releases/{log[1]}/train")))
            row_id = rows["aug_row_id"][0].as_py()
            (tmp_path / "ids.txt").write_text(f"{row_id}\n")
            line = line.replace("ROW_ID", row_id)  # noqa: PLW2901
        name, *rest = shlex.split(line)[1:]
        ended = augmill(name, *rest)
        assert ended.code == 0, f"{line}\n{ended.err}"
        if name == "backfill" and "--dry-run" not in rest:
            log = list(ended.last["released"].values())
    assert len(log) == 2


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["recipe.yaml", "recipe_word_deletion.yaml"])
def test_the_examples_print_what_readme_quotes(recipe: str, tmp_path: Path) -> None:
    """Word for word, but for line breaks. Where a CPU of another kind gives other numbers, README's are to be read again."""
    title = {"recipe.yaml": "Published", "recipe_word_deletion.yaml": "Not published"}[recipe]
    (quoted,) = [block for block in blocks(README, "") if block.startswith(title)]
    ended = augmill(
        "run", ROOT / "infra/examples/support" / recipe, "--store", tmp_path / "store", "--orchestrator", "none"
    )
    assert ended.code == 0
    assert " ".join(quoted.split()) in " ".join(ended.out.split())


def write() -> None:
    (ROOT / "docs/recipe.md").write_text(recipe_page(), encoding="utf-8")
    (ROOT / "docs/commands.md").write_text(commands_page(), encoding="utf-8")


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    write()
