"""Extensions of other packages: found by name or path, loaded where a recipe names one, told by their code."""

from __future__ import annotations

import dataclasses
import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import augmill
from painting import PACKAGE, importable, install, paint_document, write_paints

from augmill.flows.cli.extensions import write_package
from augmill.tasks.contracts import Artifact, Generator
from augmill.tasks.errors import UserError
from augmill.tasks.generators import GENERATORS
from augmill.tasks.recipe.recipe import Recipe, build_recipe
from augmill.tasks.registry import Registry
from augmill.tasks.rows.kinds import real_schema
from augmill.tasks.stages.extensions import generator_config, outside_code
from augmill.tasks.stages.fit import fit
from augmill.tasks.stages.jobs import pack, unpack
from augmill.testing import (
    CHECK_LAWS,
    GENERATOR_LAWS,
    METRIC_LAWS,
    PROBLEM_LAWS,
    SOURCE_LAWS,
    CheckBench,
    GeneratorBench,
    SourceBench,
    drawn_predictions,
    kind_laws,
)

SHIFT = """
import json
from dataclasses import dataclass
import pyarrow as pa
from augmill.tasks.contracts import Generator
from augmill.tasks.rows.kinds import candidate_schema

@dataclass(frozen=True)
class Options:
    pass

class Shift(Generator):
    contract = 1
    VERSION = 1
    Options = Options

    def fit(self, inputs, ctx):
        return {}

    def sample(self, fitted, request, ctx):
        return candidate_schema(ctx.fields).empty_table()
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the package of paints is installed."""
    folder = install(PACKAGE, tmp_path_factory.mktemp("paints"))
    with importable(folder):
        yield folder


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], str]]:
    """Writes a module that can be imported under a name of its own, and forgets it."""
    names = []
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, text: str) -> str:
        path = tmp_path / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        importlib.invalidate_caches()
        names.append(name)
        return name

    yield write
    for name in names:
        sys.modules.pop(name, None)


def fresh() -> Registry[type[Generator]]:
    """A registry that has loaded nothing."""
    return Registry("generator", Generator, dict(GENERATORS))


def texts(folder: Path, **changes: Any) -> Path:
    """A recipe over support messages."""
    rows = [
        f"please send order {at} {word} back,{label}"
        for at in range(30)
        for word, label in (("money", "a"), ("box", "b"))
    ]
    (folder / "rows.csv").write_text("text,label\n" + "\n".join(rows), encoding="utf-8")
    document = {"dataset": "texts", "source": {"path": "rows.csv"}, "columns": {"text": "text", "label": "label"}}
    document |= {"target": {"multiply": 1.5}, "generators": [{"use": "rules"}], "gate": {"seeds": 3, "resamples": 200}}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(document | {"run": {"orchestrator": "none"}} | changes), encoding="utf-8")
    return path


# --- How they are found -------------------------------------------------------------------------------------------------


def test_all_are_listed_and_none_is_imported(site: Path) -> None:
    there = "import sys; from augmill.flows.cli import main; sys.argv = ['augmill', 'extensions', '--json']\n"
    there += "try: main()\nexcept SystemExit: print('augmill_paints' in sys.modules, file=sys.stderr)"
    ended = subprocess.run([sys.executable, "-c", there], capture_output=True, text=True, check=True)
    assert ended.stderr.split() == ["False"]
    listed = json.loads(ended.stdout.splitlines()[-1])["extensions"]
    outside = {(each["what"], each["name"], each["from"]) for each in listed if each["from"] != "Augmill"}
    of = {"kind": "colour", "problem": "grading", "metric": "median_error", "check": "vivid", "trainer": "neighbours"}
    of |= {"source": "swatches", "generator": "tint"}
    assert outside == {(what, name, "augmill-paints 1.0.2") for what, name in [*of.items(), ("generator", "fade")]}
    assert ("generator", "rules") in {(each["what"], each["name"]) for each in listed}


def test_one_is_shown_with_its_options_and_where_it_comes_from(site: Path) -> None:
    ended = augmill("extensions", "tint")
    assert ended.code == 0, ended.err
    for words in (
        "tint, a generator of augmill-paints 1.0.2",
        "augmill_paints:Tint",
        "step: how far each channel",
        "colour",
    ):
        assert words in ended.out, words
    assert "swatches" in augmill("extensions", "augmill_paints:Swatches").out.lower()
    missed = augmill("extensions", "tinted")
    assert missed.code == 2 and "did you mean 'tint'?" in missed.err


def test_a_broken_one_breaks_its_own_recipe_alone(site: Path, tmp_path: Path) -> None:
    sound = texts(tmp_path)
    assert augmill("check", sound).code == 0
    broken = augmill("check", texts(tmp_path, generators=[{"use": "fade"}]))
    assert broken.code == 2
    for words in ("recipe.yaml line", "generators.0.use", "augmill_paints_gone:Fade", "No module named", "PYTHONPATH"):
        assert words in broken.err, (words, broken.err)
    looked = augmill("extensions", "--load")
    assert looked.code == 2 and "No module named" in looked.out


def test_what_fails_while_it_is_imported_is_told_as_the_users(module: Callable[[str, str], str]) -> None:
    for name, text, said in (
        ("fails_by_error", "raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("fails_by_exit", "import sys; sys.exit(3)", "SystemExit: 3"),
        ("fails_by_need", "import nobody_has_this", "No module named 'nobody_has_this'"),
        ("fails_by_name", "X = 1", "has no attribute 'Shift'"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            fresh()[f"{module(name, text)}:Shift"]
        assert f"{name}:Shift" in caught.value.where and caught.value.fix
    assert "PYTHONPATH" not in caught.value.fix


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("contract = 1", "pass"), "does not name the contract"),
        (("contract = 1", "contract = 2"), "is for contract 2; this Augmill has contract 1"),
        (("VERSION = 1", "pass"), "it does not define VERSION"),
        (("def sample", "def simple"), "it lacks sample"),
        (("(Generator)", "(object)"), "expected a subclass of augmill.tasks.contracts.Generator"),
        (("frozen=True", "frozen=False"), "Options class is not a frozen dataclass"),
    ],
)
def test_a_class_that_is_no_extension_is_told_what_it_lacks(
    change: tuple[str, str], said: str, module: Callable[[str, str], str], request: pytest.FixtureRequest
) -> None:
    name = module(f"unfit_{abs(hash(change))}", SHIFT.replace(*change))
    with pytest.raises(UserError, match=said):
        fresh()[f"{name}:Shift"]


def test_a_sound_one_is_found_by_its_path(module: Callable[[str, str], str]) -> None:
    registry = fresh()
    path = f"{module('sound_shift', SHIFT)}:Shift"
    assert registry[path].__name__ == "Shift" and registry[path] is registry[path]
    assert path not in registry and list(registry) == list(GENERATORS)


def offering(folder: Path, distribution: str, *points: str) -> None:
    """An installed distribution without code."""
    about = folder / f"{distribution}-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1\n", encoding="utf-8")
    (about / "entry_points.txt").write_text("\n".join(["[augmill.generators]", *points]), encoding="utf-8")


def test_a_name_that_two_packages_offer_is_refused_and_one_of_augmills_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offering(tmp_path, "one", "shift = one:Shift", "rules = one:Rules")
    offering(tmp_path, "other", "shift = other:Shift")
    monkeypatch.syspath_prepend(tmp_path)
    registry = fresh()
    with pytest.raises(UserError, match=r"several packages offer a generator 'shift': one 1 .*, other 1") as caught:
        registry["shift"]
    assert "one:Shift" in caught.value.fix
    assert registry["rules"] is GENERATORS["rules"]
    assert [offer.distribution for offer in registry.offers() if offer.name in registry] == ["one"]
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    listed = augmill("extensions")  # nothing is broken by it
    assert listed.code == 0 and "Hidden: Augmill's own of that name is used instead" in listed.out


# --- What they are told by ------------------------------------------------------------------------------------------------


def test_the_code_of_an_installed_one_is_its_version_and_of_others_the_hash_of_their_files(
    site: Path, module: Callable[[str, str], str], tmp_path: Path
) -> None:
    assert GENERATORS.code("tint") == "augmill-paints 1.0.2" == GENERATORS.code("augmill_paints:Tint")
    assert GENERATORS.code("rules") == "" and GENERATORS.codes("rules") is None
    codes = set()
    for at, (name, text) in enumerate(
        (("loose_shift", SHIFT), ("packed.shift", SHIFT), ("packed_b.shift", SHIFT), ("packed_c.shift", SHIFT))
    ):
        if "." in name:
            module(f"{name.partition('.')[0]}.__init__", "")
            module(f"{name.partition('.')[0]}.words", f"WORDS = {max(at, 2)}")
        codes.add(fresh().code(f"{module(name, text)}:Shift"))
    assert len(codes) == 3 and all(len(code) == 64 for code in codes)  # b says what packed says; c has another word
    edited = fresh().code(f"{module('loose_edited', SHIFT + '# edited')}:Shift")
    assert edited not in codes


def paints(folder: Path, **changes: Any) -> Recipe:
    document = paint_document(write_paints(folder / "paints.csv"), folder / "store", **changes)
    return build_recipe(document, base=folder)


def test_their_code_is_part_of_what_they_make(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = paints(tmp_path, checks={"vivid": {}})
    told = outside_code(recipe)
    assert set(told) == {"generators", "checks", "judges", "rows"}
    assert {code for codes in told.values() for code in codes.values()} == {"augmill-paints 1.0.2"}
    before = fit.identity(generator_config(recipe.generators[0], recipe), (Artifact("k", 1, "s", "c"),))
    monkeypatch.setattr("augmill.tasks.registry.code_of", lambda kind: "augmill-paints 1.0.3")
    assert fit.identity(generator_config(recipe.generators[0], recipe), (Artifact("k", 1, "s", "c"),)) != before


def test_a_worker_with_other_code_refuses_the_job(site: Path, tmp_path: Path) -> None:
    recipe = paints(tmp_path)
    config, split = generator_config(recipe.generators[0], recipe), Artifact("split/x", 1, "s", "c")
    assert unpack(json.loads(json.dumps(pack(fit, config, [split]))))[1] == config
    older = dataclasses.replace(config, code="augmill-paints 1.0.1")
    with pytest.raises(
        UserError, match=r"a different version of it \(augmill-paints 1.0.2\) than the run \(.* 1.0.1\)"
    ):
        unpack(json.loads(json.dumps(pack(fit, older, [split]))))


# --- What recipes do with them ---------------------------------------------------------------------------------------------


def test_all_of_them_can_be_named_by_path(site: Path, tmp_path: Path) -> None:
    """And run in workers; what they make is what they make under their names, but for the names."""
    source = write_paints(tmp_path / "paints.csv")
    (tmp_path / "paints.swatches").write_text(source.read_text(encoding="utf-8").replace(",", " | "), encoding="utf-8")
    at = "augmill_paints"
    document = paint_document(Path("paints.swatches"), tmp_path / "store", task=f"{at}:Grading")
    document["source"]["format"] = f"{at}:Swatches"
    document["columns"] = {"inputs": {"paint": f"{at}:Colour"}, "target": {"brightness": "grade"}}
    document["generators"] = [{"use": f"{at}:Tint", "step": 20}]
    document["checks"] = {f"{at}:Vivid": {"slack": 0.1}}
    document["trainer"] = {"use": f"{at}:Neighbours", "count": 3}
    document["gate"] |= {"metric": f"{at}:MedianError"}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(document), encoding="utf-8")
    checked = augmill("check", recipe)
    assert checked.code == 0, checked.err
    ended = augmill("run", recipe)
    assert ended.code == 0 and ended.last["arrangement"] == "mix", (ended.out, ended.err)
    provenance = json.loads((Path(ended.last["location"]) / "provenance.json").read_text(encoding="utf-8"))
    assert provenance["outside"]["sources"] == {f"{at}:Swatches": "augmill-paints 1.0.2"}
    assert set(provenance["outside"]) == {"generators", "checks", "judges", "rows", "sources"}
    assert augmill("verify", "--store", tmp_path / "store").code == 0


def test_a_check_of_another_package_judges_where_a_recipe_names_it(site: Path, tmp_path: Path) -> None:
    plain, named = paints(tmp_path), paints(tmp_path, checks={"vivid": {"slack": 0.0}})
    assert "vivid" not in plain.checks and list(named.checks)[-1] == "vivid"
    with pytest.raises(UserError, match="slak"):
        paints(tmp_path, checks={"vivid": {"slak": 0.0}})


# --- The suites ---------------------------------------------------------------------------------------------------------------


def test_the_package_keeps_every_law(site: Path, tmp_path: Path) -> None:
    import augmill_paints as they
    import pyarrow as pa

    colours = [f"#{at * 7919 % 0xFFFFFF:06x}" for at in range(1, 31)]
    fields = {"colour:paint": [*colours, colours[0].upper(), "#abc"]}
    grades = [at % 3 + 2 for at in range(len(fields["colour:paint"]))]
    schema = real_schema(("colour:paint",), pa.int8())
    rows = pa.table(
        {
            "row_id": [f"r{at:02d}" for at in range(len(grades))],
            "stratum": [f"grade {g}" for g in grades],
            "target": grades,
        }
        | fields,
        schema,
    )
    kind_laws(they.Colour(), [rows.select(["colour:paint"])])
    for law in PROBLEM_LAWS:
        law(they.Grading(), [1, "3", 9, None, "x", 5])
    for metric_law in METRIC_LAWS:
        for predictions in drawn_predictions(they.MedianError()):
            metric_law(they.MedianError(), predictions)
    generator = GeneratorBench(they.Tint(they.TintOptions()), tmp_path / "tint", rows=rows)
    for generator_law in GENERATOR_LAWS:
        generator_law(generator)
    check = CheckBench(they.Vivid(they.VividOptions()), tmp_path / "vivid" / "fitted", rows=rows)
    for check_law in CHECK_LAWS:
        check_law(check)
    (tmp_path / "some.swatches").write_text("name | hue\nred | 1\nblue | 2\ngreen | 3\n", encoding="utf-8")
    cells = [{"name": name, "hue": hue} for name, hue in (("red", "1"), ("blue", "2"), ("green", "3"))]
    for source_law in SOURCE_LAWS:
        source_law(SourceBench("swatches", tmp_path / "some.swatches", cells))


# --- A package of one's own ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_new_package_passes_its_own_tests_and_runs(tmp_path: Path) -> None:
    package = write_package("swap_words", tmp_path)
    with importable(install(package, tmp_path / "installed")):
        how = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(package / "tests")]
        tested = subprocess.run(how, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert tested.returncode == 0, tested.stdout
        ended = augmill("run", package / "recipe.yaml", "--store", tmp_path / "store", "--orchestrator", "none")
        assert ended.code == 0 and ended.last["outcome"] in ("published", "inconclusive", "harmful"), ended.err
        assert "swap_words" in augmill("extensions").out


@pytest.mark.parametrize(
    ("name", "said"), [("rules", "Augmill has"), ("Swap", "expected 2 to 40"), ("a/b", "expected 2 to 40")]
)
def test_a_new_package_has_a_name_of_its_own(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        write_package(name, tmp_path)
    assert not list(tmp_path.iterdir())
    write_package("mine", tmp_path)
    with pytest.raises(UserError, match="it exists already"):
        write_package("mine", tmp_path)


def test_rows_of_their_kind_are_judged_without_a_recipe(site: Path, tmp_path: Path) -> None:
    real, made = write_paints(tmp_path / "real.csv"), tmp_path / "made.csv"
    greys = [(f"#{at:02x}{at:02x}{at:02x}", 1 + round(4 * at / 255)) for at in range(0, 256, 9)]
    made.write_text(
        "\n".join(["paint,brightness", *(f"{colour},{grade}" for colour, grade in greys)]), encoding="utf-8"
    )
    columns = ("--input", "paint:colour", "--target", "brightness:grade")
    how = ("--trainer", "neighbours", "--rule", "not_worse", "--margin", "3", "--seeds", "3", "--json")
    ended = augmill("judge", "--real", real, "--synthetic", made, *columns, *how)
    assert ended.code == 0 and ended.last["judged_by"] == "median_error", ended.err
    wrong = augmill("judge", "--real", real, "--synthetic", made, *columns, "--trainer", "neighbour")
    assert wrong.code == 2 and "did you mean 'neighbours'?" in wrong.err


# --- What is said of their faults -----------------------------------------------------------------------------------------

FAULTY = """
import json
from dataclasses import dataclass, field
import pyarrow as pa
from augmill.tasks.contracts import VERDICT_SCHEMA, Check, Generator
from augmill.tasks.rows.kinds import candidate_schema

@dataclass(frozen=True)
class Options:
    how: str = field(default="", metadata={"help": "the fault"})

class Echo(Generator):
    contract = 1
    VERSION = 1
    Options = Options

    def fit(self, inputs, ctx):
        (ctx.workdir / "rows.json").write_text("[]")
        return {"rows.json": ctx.workdir / "rows.json"}

    def sample(self, fitted, request, ctx):
        rows = fitted.read_json("rows.json")
        if self.options.how == "index":
            return rows[7]
        table = candidate_schema(ctx.fields).empty_table()
        return {"few": table, "list": rows, "columns": table.drop_columns(["seed"])}[self.options.how]

class Silent(Check):
    contract = 1
    VERSION = 1
    Options = Options

    def fit(self, inputs, ctx):
        if self.options.how == "judge":
            (ctx.workdir / "check.json").write_text('{"abstains": false, "real_refused": 0, "why": "measured"}')
        return {}

    def judge(self, fitted, candidates, ctx):
        return pa.table({"reason": [None] * candidates.num_rows, "score": ["x"] * candidates.num_rows})
"""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"generators": [{"use": "faulty:Echo", "how": "index"}]},
            "IndexError: list index out of range, in faulty.py line 2",
        ),
        (
            {"generators": [{"use": "faulty:Echo", "how": "index"}], "checks": {"faulty:Silent": {"how": "judge"}}},
            "the generator faulty:Echo: IndexError",  # and not the class of that module which was loaded last
        ),
        ({"generators": [{"use": "faulty:Echo", "how": "few"}]}, "it answered 0 of"),
        ({"generators": [{"use": "faulty:Echo", "how": "list"}]}, "expected a pyarrow table, found list"),
        ({"generators": [{"use": "faulty:Echo", "how": "columns"}]}, "its table lacks the columns seed"),
        ({"checks": {"faulty:Silent": {}}}, "its fit wrote no check.json with abstains, real_refused, why"),
        ({"checks": {"faulty:Silent": {"how": "judge"}}}, "its table has columns of other types"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_fault_of_an_extension_is_its_own_and_no_defect_of_ours(
    changes: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "faulty.py").write_text(FAULTY, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    with importable(tmp_path):
        ended = augmill("run", texts(tmp_path, **changes))
    assert ended.code == 2, ended.err
    assert (
        said in ended.err
        and f"the {'generator faulty:Echo' if 'generators' in changes else 'check faulty:Silent'}" in ended.err
    )
    assert "defect" not in ended.err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("import json\n", "import json\nimport polars\n"), "import polars inside the functions that need it"),
        (("return {}\n", "import time\n        (ctx.workdir / 'a.json').write_text(str(time.time_ns()))\n"
          "        return {'a.json': ctx.workdir / 'a.json'}\n"), "fitted twice on the same rows, a.json differs"),
        (("return {}\n", "(ctx.workdir / 'a.pkl').touch()\n        return {'a.pkl': ctx.workdir / 'a.pkl'}\n"), "never a pickle"),
        (("return {}\n", "(ctx.workdir / 'b.json').touch()\n        return {}\n"), "fit returned"),
        (("return candidate_schema", "return candidate_schema"), "rows were asked for, 0 came"),
    ],
)  # fmt: skip
def test_a_suite_says_which_law_is_broken_and_by_what(
    change: tuple[str, str], said: str, module: Callable[[str, str], str], tmp_path: Path
) -> None:
    name = module(f"broken_{abs(hash(change))}", SHIFT.replace(*change, 1))
    kind = fresh()[f"{name}:Shift"]
    bench = GeneratorBench(kind(kind.Options()), tmp_path / "bench")
    broken = []
    for law in GENERATOR_LAWS:
        try:
            law(bench)
        except AssertionError as error:
            broken.append(str(error))
    assert any(said in each for each in broken), broken
