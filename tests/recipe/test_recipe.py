"""The recipe: strict, with every mistake named where it stands; its identity is exactly what can change a row."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from chain import write_rows

from augmill.tasks.checks import CHECKS
from augmill.tasks.contracts import ANY
from augmill.tasks.errors import UserError
from augmill.tasks.generators import GENERATORS
from augmill.tasks.generators.causal.options import Adapter
from augmill.tasks.generators.chat.options import Egress, Secret
from augmill.tasks.generators.seq2seq.back_translation import Pivot
from augmill.tasks.recipe.nights import Partitions, Price, Reopen, Retain, Schedule
from augmill.tasks.recipe.reader import GeneratorChoice, Rows, TrainerChoice
from augmill.tasks.recipe.recipe import Recipe, build_recipe, json_schema, load_recipe, not_identity
from augmill.tasks.recipe.sections import Report, report_link
from augmill.tasks.rows.hashing import hash_json
from augmill.tasks.sources import SourceOptions
from augmill.tasks.sources.options import EventColumns, Ready
from augmill.tasks.stages.evaluate import EvaluateConfig, JudgeConfig
from augmill.tasks.stages.extensions import check_config, generator_config
from augmill.tasks.stages.ingest import prepare_ingest
from augmill.tasks.stages.mix import MixConfig
from augmill.tasks.stages.plan import PlanConfig
from augmill.tasks.stages.settle import SettleConfig
from augmill.tasks.stages.split import prepare_split
from augmill.tasks.stages.targets import targets_for
from augmill.tasks.store.stage import identity_of
from augmill.tasks.trainers import TRAINERS, Trainer

EXAMPLES = sorted((Path(__file__).parents[2] / "infra" / "examples").rglob("*.yaml"))
RECIPE = """\
dataset: tiny
source:
  path: rows.csv
columns:
  text: text
  label: label
target:
  per_class: 20
generators:
  - use: rules
"""


def load(directory: Path, text: str) -> Recipe:
    if not (directory / "rows.csv").exists():
        write_rows(directory / "rows.csv")
    (directory / "recipe.yaml").write_text(text, encoding="utf-8")
    return load_recipe(directory / "recipe.yaml")


def refusal(directory: Path, text: str) -> UserError:
    with pytest.raises(UserError) as caught:
        load(directory, text)
    assert caught.value.exit_code == 2 and caught.value.fix
    return caught.value


# --- what is refused, and where it is said to stand ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "key", "words"),
    [
        (RECIPE + "sed: 1\n", 11, "sed", "did you mean 'seed'?"),
        (RECIPE.replace("  label: label", "  label: label\n  gruop: a"), 7, "columns.gruop", "did you mean 'group'?"),
        (RECIPE + "    thesarus: a.csv\n", 11, "generators.0.thesarus", "did you mean 'thesaurus'?"),
        (RECIPE.replace("use: rules", "use: rule"), 10, "generators.0.use", "did you mean 'rules'?"),
        (RECIPE + "checks:\n  lenght: off\n", 12, "checks.lenght", "did you mean 'length'?"),
        (RECIPE + "checks:\n  length:\n    quantil: 1\n", 13, "checks.length.quantil", "did you mean 'quantile'?"),
        (RECIPE + "trainer:\n  use: tfid\n", 12, "trainer.use", "did you mean 'tfidf'?"),
        (RECIPE + "trainer:\n  use: tfidf\n  fold: 2\n", 13, "trainer.fold", "did you mean 'folds'?"),
        (RECIPE + "gate:\n  min_gains: 2\n", 12, "gate.min_gains", "did you mean 'min_gain'?"),
        (RECIPE + "run:\n  zzz: 2\n", 12, "run.zzz", "there are: deadline, deadline_minutes, devices"),
        (RECIPE + "    operations: {insrt: 1.0}\n", 11, "generators.0.operations.insrt", "'insert'"),
        (RECIPE.replace("  label: label\n", ""), 4, "columns", "'label' is missing"),
        (RECIPE.replace("dataset: tiny\n", ""), 1, "dataset", "'dataset' is missing"),
        (RECIPE.replace("generators:\n  - use: rules\n", ""), 1, "", "'generators' is missing"),
        (RECIPE.replace("generators:\n  - use: rules\n", "generators: rules\n"), 9, "generators", "expected a list"),
        (RECIPE + "  - use: rules\n", 9, "generators", "is listed twice"),
    ],
)
def test_an_unknown_or_missing_key_is_named_with_its_line_and_the_nearest_known(
    tmp_path: Path, text: str, line: int, key: str, words: str
) -> None:
    error = refusal(tmp_path, text)
    assert error.where == f"{tmp_path / 'recipe.yaml'} line {line}" + (f" ({key})" if key else "")
    assert words in error.problem


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        (RECIPE + 'seed: "3"\n', "line 11 (seed)", 'expected an integer; found "3"'),
        (RECIPE + "seed: 3.5\n", "line 11 (seed)", "expected an integer; found 3.5"),
        (RECIPE + "seed: true\n", "line 11 (seed)", "expected an integer; found true"),
        (RECIPE + "refill:\n  max_asked: many\n", "line 12 (refill.max_asked)", 'expected a number; found "many"'),
        (RECIPE + "validation:\n  enabled: 1\n", "line 12 (validation.enabled)", "expected a boolean; found 1"),
        (RECIPE + "gate:\n  rule: best\n", "line 12 (gate.rule)", "expected 'superior' or 'not_worse'"),
        (RECIPE.replace("per_class: 20", "balance: most"), "line 8 (target.balance)", "expected 'max' or an integer"),
        (RECIPE.replace("text: text", "text: {a: b}"), "line 5 (columns.text)", "expected text or a list"),
        (RECIPE.replace("source:\n  path: rows.csv", "source: rows.csv"), "line 2 (source)", "a section with keys"),
        (RECIPE + "splits:\n", "line 11 (splits)", "expected a section with keys; found null"),
        (RECIPE + "checks:\n  length: on\n", "line 12 (checks.length)", "expected a section with keys; found true"),
        (RECIPE + "labels:\n  retired: spam\n", "line 12 (labels.retired)", "expected a list"),
    ],
)
def test_a_value_of_the_wrong_type_is_never_coerced(tmp_path: Path, text: str, where: str, words: str) -> None:
    error = refusal(tmp_path, text)
    assert error.where.endswith(where) and words in error.problem


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        (RECIPE.replace("per_class: 20", "per_class: 20\n  multiply: 2.0"), "(target)", "exactly one of"),
        (RECIPE.replace("  per_class: 20", "  per_class: null"), "(target)", "exactly one of"),
        (RECIPE + "splits: {column: lang, files: {train: a}}\n", "(splits)", "column and files contradict each other"),
        (RECIPE + "splits: {validation: 0.6, test: 0.4}\n", "(splits)", "less than a tenth for train"),
        (RECIPE + "splits: {files: {validation: a}}\n", "(splits.files)", "a pattern for train is needed"),
        (RECIPE + "splits: {column: lang, names: {a: trian}}\n", "(splits)", "'trian' is not a split"),
        (RECIPE + "labels: {unknown: stop}\n", "(labels.unknown)", "need `declared` labels"),
        (RECIPE + "task: pair_classification\n", "(task)", "needs two text columns"),
        (RECIPE.replace("label: label", "label: text"), "(columns)", "used twice: text, text"),
        (RECIPE + "publish: {copy: [label]}\n", "publish.copy", "label is made by the generator"),
        (RECIPE + "publish: {prefix: _}\n", "(publish.prefix)", "letters, digits and underscores"),
        (RECIPE + "trainer: {command: python train.py}\n", "(trainer.command)", "expected {train} in the command"),
    ],
)
def test_sections_that_contradict_each_other_are_refused(tmp_path: Path, text: str, where: str, words: str) -> None:
    error = refusal(tmp_path, text)
    assert where in f"{error.where} {error.problem}" and words in error.problem


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("reports.example.org", "an address that begins with http:// or https://"),
        ("ftp://reports.example.org", "an address that begins with http:// or https://"),
        ("javascript:alert(1)", "an address that begins with http:// or https://"),
        ("https://", "an address that begins with http:// or https://"),
        ("https://reports.example.org/a b", "an address that begins with http:// or https://"),
        ("https://reports.example.org:port", "an address that begins with http:// or https://"),
        ("https://anna:hunter2@reports.example.org", "must hold no user or password"),
        ("https://hunter2@reports.example.org", "must hold no user or password"),
        ("https://reports.example.org/?token=hunter2", "must hold no query or fragment"),
        ("https://reports.example.org/?", "must hold no query or fragment"),
        ("https://reports.example.org/#hunter2", "must hold no query or fragment"),
    ],
)
def test_an_address_of_reports_is_plain_and_holds_no_secret(tmp_path: Path, url: str, words: str) -> None:
    error = refusal(tmp_path, RECIPE + f'report: {{url: "{url}"}}\n')
    assert "(report.url)" in error.where and words in error.problem
    assert "hunter2" not in str(error)


def test_a_report_s_address_is_its_place_below_the_recipe_s() -> None:
    place = "private/reports/tickets/2026-11-24-1f0c"
    wanted = "https://reports.example.org/augmill/tickets/2026-11-24-1f0c/index.html"
    for url in ("https://reports.example.org/augmill", "https://reports.example.org/augmill/"):
        assert report_link(url, place) == wanted
    odd = report_link("http://[::1]:8080/a(b)", "private/reports/t/a b?#%)")
    assert odd == "http://[::1]:8080/a%28b%29/t/a%20b%3F%23%25%29/index.html"


def test_where_reports_are_read_is_no_part_of_any_hash(tmp_path: Path) -> None:
    """Not even the section's name is: recipes have had hashes without it."""
    recipe = load(tmp_path, RECIPE)
    served = load(tmp_path, RECIPE + "report: {url: https://reports.example.org/augmill}\n")
    names = {item.name for item in dataclasses.fields(recipe)} - {"run", "report"}
    counted = identity_of({name: getattr(recipe, name) for name in names} | {"run": None})
    assert served.report != recipe.report
    assert served.hash() == recipe.hash() == hash_json(counted)


def sections() -> Iterator[tuple[str, Any]]:
    """(dotted place, dataclass) of everything a recipe can hold."""
    yield "", Recipe
    for name, kind in typing.get_type_hints(Recipe).items():
        if dataclasses.is_dataclass(kind):
            yield name, kind
    yield from ((f"generators.{name}", kind.Options) for name, kind in GENERATORS.items())
    yield from ((f"checks.{name}", kind.Options) for name, kind in CHECKS.items())
    yield from ((f"trainer.{name}", kind.Options) for name, kind in TRAINERS.items())


def numbers(kind: Any) -> Iterator[tuple[str, bool]]:
    """(field, whether it may be fractional) of each number."""
    for name, hint in typing.get_type_hints(kind).items():
        kinds = {hint, *typing.get_args(hint)} & {int, float}
        if kinds:
            yield name, float in kinds


# By what is learnt of which rows: their kind, the problem, the target's type, a generator and a trainer that serve them.
LEARNT = {
    "text": ("text", "classification", "label", "rules", "tfidf"),
    "table": ("table", "classification", "label", "resample", "boosting"),
    "image": ("image", "classification", "label", "transforms", "cnn"),
    "audio": ("audio", "classification", "label", "transforms", "cnn"),
    "boxes": ("image", "detection", "boxes", "transforms", "detector"),
    "answers": ("text", "text_to_text", "text", "rules", "retrieval"),
    "transcripts": ("audio", "transcription", "text", "transforms", "ctc"),
    "items": ("items", "ranking", "item", "sequences", "transitions"),
}


def otherwise(rows: str) -> dict[str, Any]:
    """What else a recipe of such rows has than one of texts with labels."""
    kind, _, target, generator, _ = LEARNT[rows]
    type = "category" if kind == "table" else kind
    columns = {"inputs": {"text": type, "lang": type}, "target": {"label": target}}
    return {} if rows == "text" else {"columns": columns, "generators": [{"use": generator}]}


def fits(extension: Any, rows: str) -> bool:
    """Whether it serves such rows."""
    kind, problem, *_ = LEARNT[rows]
    return bool({kind, ANY} & set(extension.kinds) and {problem, ANY} & set(extension.problems))


def served(place: str) -> str:
    """The kind of row that what stands there serves: texts, as all but some extensions do, or else tables, or pictures."""
    where, *name = place.split(".")
    registry: Any = {"generators": GENERATORS, "checks": CHECKS, "trainer": TRAINERS}.get(where)
    return next(rows for rows in LEARNT if not (registry and name) or fits(registry[name[0]], rows))


def with_value(place: str, name: str, value: str) -> str:
    """The recipe with one value set, ``value`` as YAML."""
    document = yaml.safe_load(RECIPE) | otherwise(served(place))
    where, *extension = place.split(".")
    needed = {
        "trainer.command": {"command": "x {train} {eval} {seed} {predictions}"},
        "generators.replay": {"path": "a"},
        "generators.back_translation": {"pivots": [{"there": "a", "back": "b"}]},
        "generators.chat": {"model": "a"},
    }
    if where == "generators":
        section: dict[str, Any] = {"use": extension[0], **needed.get(place, {})}
        document["generators"] = [section]
    elif where == "trainer":
        section = document["trainer"] = {"use": extension[0], **needed.get(place, {})}
    elif where == "checks":
        section = document.setdefault("checks", {}).setdefault(extension[0], {})
    else:
        section = document.setdefault(where, {}) if where else document
    if where == "target":
        section.clear()
    section[name] = "@value"
    return yaml.safe_dump(document).replace("'@value'", value)


@pytest.mark.parametrize(("place", "kind"), [part for part in sections() if any(numbers(part[1]))])
def test_every_number_of_a_recipe_has_bounds(tmp_path: Path, place: str, kind: Any) -> None:
    for name, real in numbers(kind):
        for value in (".nan", ".inf", "-.inf", "-1.0e+9") if real else ("-1000000000", "1" + "0" * 30):
            error = refusal(tmp_path, with_value(place, name, value))
            assert name in f"{error.where} {error.problem}", error


def test_a_ratio_of_a_thousand_million_is_refused(tmp_path: Path) -> None:
    for text in ("target: {multiply: 1.0e+9}", "mix: {max_ratio: 1.0e+9}", "refill: {max_asked: 1.0e+9}"):
        kept = RECIPE.replace("target:\n  per_class: 20\n", "") if text.startswith("target") else RECIPE
        assert "1000000000.0" in refusal(tmp_path, f"{kept}{text}\n").problem


@pytest.mark.parametrize(
    "name", ["../../x", "a/b", "CON", "con", "nul", "com1", "", ".hidden", "-x", "x" * 300, "\U0001f600", "a b", "a\n"]
)
def test_a_dataset_name_that_could_leave_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    error = refusal(tmp_path, RECIPE.replace("dataset: tiny", f"dataset: {json.dumps(name)}"))
    assert error.where.endswith("line 1 (dataset)") and len(str(error)) < 400


# --- what is accepted ---------------------------------------------------------------------------------------------------


def test_paths_are_relative_to_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "words.csv").write_text("parcel,package\n")
    monkeypatch.chdir("/")
    text = RECIPE + "    thesaurus: words.csv\nsplits:\n  heldout_exclude: [../other.csv]\n"
    recipe = load(tmp_path, text)
    assert recipe.source.path == str(tmp_path / "rows.csv")
    assert recipe.generators[0].options.thesaurus == str(tmp_path / "words.csv")
    assert Path(recipe.splits.heldout_exclude[0]).resolve() == tmp_path.parent / "other.csv"
    assert load(tmp_path, text.replace("rows.csv", "s3://bucket/x")).source.path == "s3://bucket/x"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_are_valid_by_the_schema_and_by_the_reader(path: Path) -> None:
    assert load_recipe(path).dataset
    jsonschema.Draft202012Validator(json_schema()).validate(yaml.safe_load(path.read_text()))


def test_the_schema_is_one_of_draft_2020_12_and_refuses_what_the_reader_refuses(tmp_path: Path) -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid(yaml.safe_load(RECIPE))
    broken = (
        "sed: 1",
        "seed: three",
        "gate: {rule: best}",
        "run: {zzz: 1}",
        "checks: {lenght: off}",
        "checks: [length]",
    )
    for line in broken:
        refusal(tmp_path, f"{RECIPE}{line}\n")
        assert not validator.is_valid(yaml.safe_load(f"{RECIPE}{line}\n")), line


def test_every_default_is_valid_by_the_schema(tmp_path: Path) -> None:
    load(tmp_path, RECIPE)
    document = yaml.safe_load(RECIPE)
    validator = jsonschema.Draft202012Validator(json_schema())
    for place, kind in sections():
        if place in ("", "source", "columns", "target") or place.startswith(("generators", "trainer")):
            continue
        defaults = json.loads(json.dumps(dataclasses.asdict(kind()), default=list))
        where, *extension = place.split(".")
        validator.validate(document | {where: {extension[0]: defaults} if extension else defaults})


@pytest.mark.parametrize(
    ("word", "meant"), [("no", False), ("Off", False), ("yes", True), ("ON", True), ("False", False)]
)
def test_words_of_older_yaml_stay_true_and_false_where_nothing_else_is_meant(
    tmp_path: Path, word: str, meant: bool
) -> None:
    text = f"{RECIPE}validation: {{enabled: {word}}}\n"
    recipe = load(tmp_path, text)
    assert recipe.validation.enabled is meant
    assert recipe.hash() == load(tmp_path, f"{RECIPE}validation: {{enabled: {str(meant).lower()}}}\n").hash()
    if not meant:
        assert "garbage" not in load(tmp_path, f"{RECIPE}checks: {{garbage: {word}}}\n").checks
    else:
        refusal(tmp_path, f"{RECIPE}checks: {{garbage: {word}}}\n")


def test_a_number_with_underscores_is_refused_and_what_to_write_is_said(tmp_path: Path) -> None:
    error = refusal(tmp_path, RECIPE.replace("per_class: 20", "per_class: 1_000"))
    assert "'1_000'" in str(error).replace('"', "'") and "without `_`" in error.fix


# --- identity -----------------------------------------------------------------------------------------------------------

# Another valid value, where one cannot be told from the type; a section that needs more than one change has them all.
ANOTHER: dict[str, Any] = {
    "task": "pair_classification",
    "source.delimiter": ";",
    "source.hive": False,
    "source.encoding": "utf-8",
    "columns.text": ("text", "other"),
    "target.multiply": {"per_class": None, "multiply": 2.0},
    "target.balance": {"per_class": None, "balance": "max"},
    "labels.aliases": {"aliases": {"a": "b"}},
    "labels.unknown": {"declared": ("a",), "unknown": "stop"},
    "splits.files": {"column": None, "files": {"train": "a"}},
    "splits.names": {"names": {"a": "train"}},
    "validation.release": {"release": {"ttr": (0.0, 1.0)}},
    "run.devices": ("cpu",),
    "report.url": "https://reports.example.org/augmill",
    "generators.rules.operations": {"operations": {"swap": 1.0}},
    "generators.rules.thesaurus": "words.csv",
    "unlabelled": SourceOptions("other.csv", delimiter=";"),
    "generators.causal_lm.adapter": {"model": "a model", "adapter": Adapter()},
    "generators.causal_lm.hidden": 64,
    "generators.causal_lm.heads": 2,
    "generators.causal_lm.repetition_penalty": 1.1,
    "generators.interpolate.parts": {"parts": {"halves": 1.0}},
    "generators.interpolate.relation": {"relation": "each", "symmetric": False},
    "generators.replay.columns": {"columns": {"text": "b"}},
    "generators.replay.labels": {"labels": {"a": "b"}},
    "generators.replay.delimiter": ";",
    "generators.self_training.members": {"members": {"bayes": 1.0}},
    "checks.teacher.members": {"members": {"bayes": 1.0}},
    "generators.seq2seq.mode": {"mode": "paraphrase", "model": "a model"},
    "generators.masked_lm.hidden": 64,
    "generators.masked_lm.heads": 2,
    "generators.seq2seq.hidden": 64,
    "generators.seq2seq.heads": 2,
    "generators.back_translation.pivots": (Pivot("a"),),
    "generators.chat.backend": {"backend": "local", "base_url": ""},
    "generators.chat.attributes": {"attributes": {"style": ("angry",)}},
    "generators.chat.definitions": {"definitions": {"a": "b"}},
    "generators.chat.parameters": {"parameters": {"seed": ""}},
    "generators.chat.api_key": Secret(env="KEY"),
    "generators.chat.egress": Egress(("a",), (), ()),
    "generators.chat.max_cost": {"max_cost": 1.0, "price_in": 1.0},
    **dict.fromkeys((f"generators.{name}.repetition_penalty" for name in ("seq2seq", "back_translation")), 1.1),
    "run.deadline": "05:30",
    "columns.inputs": {"text": None, "inputs": {"text": "text", "lang": "text", "day": "text"}},
    "source.ready": Ready(min_rows=5),
    "source.events": EventColumns(min_events=2),
    "partitions.every": {"every": "week"},
    "partitions.timezone": "Europe/Berlin",
    "partitions.pattern": "(x)",
    "partitions.window": "30d",
    "partitions.late": Reopen("3d"),
    "refit.every": {"every": "7d"},
    "refit.when_drifted": {"when_drifted": 0.5, "max_age": "30d"},
    "refit.max_age": {"when_drifted": 0.5, "max_age": "30d"},
    "schedule.cron": "0 5 * * *",
    "schedule.timezone": "Europe/Berlin",
    "schedule.freshness": "36h",
    "schedule.webhook": "PAGER",
    **dict.fromkeys(("schedule.look_back", "retain.releases", "retain.rejected", "retain.requests"), "3d"),
    **dict.fromkeys(("trainer.tfidf.cs", "trainer.linear.cs"), (3.0,)),
    "trainer.cnn.width": 32,
    "trainer.detector.width": 32,
    "trainer.detector.side": 96,
    "trainer.ctc.width": 32,
    "generators.speech.say": {"say": {"a": "b"}},
    "generators.speech.rate": (130, 200),
    "generators.speech.pitch": (30, 70),
    "generators.speech.engine": {"engine": "model", "model": "a model"},
    "generators.speech.model": {"engine": "model", "model": "a model"},
    "generators.transforms.amounts": {"amounts": {"hue": 0.1}},
    "trainer.command.command": "y {train} {eval} {seed} {predictions}",
}


def another(key: str, hint: Any, value: Any) -> Any:
    """Another value of a field, by its type."""
    if key in ANOTHER:
        return ANOTHER[key]
    kinds = [hint, *typing.get_args(hint)]
    choices = [v for kind in kinds if typing.get_origin(kind) is typing.Literal for v in typing.get_args(kind)]
    if typing.get_origin(hint) is tuple:
        return ("x",)
    if choices:
        return next(choice for choice in choices if choice != value)
    if isinstance(value, bool):
        return not value
    if str in kinds:
        return f"{value or ''}x"
    return (value or 4) + 1 if int in kinds else (value if value is not None else 0.5) * 0.95 + 0.02


def section_of(recipe: Recipe, place: str) -> Any:
    where, *extension = place.split(".")
    if where == "generators":
        return next(choice.options for choice in recipe.generators if choice.use == extension[0])
    if where == "trainer":
        return recipe.trainer.options
    if extension:
        return recipe.checks.get(extension[0], CHECKS[extension[0]].Options())
    return getattr(recipe, where) if where else recipe


def changed(recipe: Recipe, place: str, name: str) -> Recipe:
    """The recipe with another value of one field."""
    if (place, name) == ("columns", "partition"):  # a column, or a pattern
        recipe = dataclasses.replace(recipe, partitions=Partitions())
    section = section_of(recipe, place)
    value = another(f"{place}.{name}".lstrip("."), typing.get_type_hints(type(section))[name], getattr(section, name))
    changes = value if isinstance(value, dict) else {name: value}
    return put(recipe, place, dataclasses.replace(section, **changes))


def put(recipe: Recipe, place: str, section: Any) -> Recipe:
    where, *extension = place.split(".")
    if where == "generators":
        chosen = [dataclasses.replace(c, options=section) if c.use == extension[0] else c for c in recipe.generators]
        return dataclasses.replace(recipe, generators=tuple(chosen))
    if where == "trainer":
        return dataclasses.replace(recipe, trainer=TrainerChoice(extension[0], section))
    if where == "checks":
        return dataclasses.replace(recipe, checks=recipe.checks | {extension[0]: section})
    return dataclasses.replace(recipe, **{where: section}) if where else section


def whole_recipe(directory: Path, trainer: str, kind: str = "text") -> Recipe:
    """A recipe with every generator and check that serves rows of this kind; its trainer is the one named."""
    write_rows(directory / "rows.csv")
    options = {
        "replay": {"path": str(directory / "rows.csv")},
        "back_translation": {"pivots": [{"there": "a", "back": "b"}]},
        "chat": {"model": "a model", "backend": "endpoint", "base_url": "http://127.0.0.1:1/v1"},
    }
    document = yaml.safe_load(RECIPE) | {
        "generators": [
            {"use": name, **options.get(name, {})} for name, generator in GENERATORS.items() if fits(generator, kind)
        ],
        "trainer": {"use": trainer}
        | ({"command": "x {train} {eval} {seed} {predictions}"} if trainer == "command" else {}),
        "columns": otherwise(kind).get("columns", {"text": ["text", "lang"], "label": "label"}),
        "splits": {"column": "lang"},
        "partitions": {"pattern": "(.*)", "every": "day"},
        "unlabelled": {"path": str(directory / "rows.csv")},
    }
    return build_recipe(document, base=directory)


def stages(recipe: Recipe) -> dict[str, Any]:
    """The identity of every stage's configuration that a flow makes of a recipe."""
    columns, shares = recipe.columns.fields, {choice.use: choice.share for choice in recipe.generators}
    targets = targets_for(recipe.target, {"a": 5, "b": 9})
    configs = [
        prepare_ingest(recipe),
        prepare_split(recipe),
        *(generator_config(choice, recipe) for choice in recipe.generators),
        *(check_config(name, options, recipe) for name, options in recipe.checks.items()),
        PlanConfig(recipe.target, recipe.refill, shares),
        SettleConfig(recipe.settle, targets, shares, columns),
        MixConfig(recipe.mix, recipe.publish.copy, columns, recipe.seed),
        EvaluateConfig(
            JudgeConfig(
                recipe.gate, recipe.trainer.use, 1, recipe.trainer.options, {}, recipe.seed, columns, recipe.task
            ),
            recipe.validation,
        ),
    ]
    return {f"{at} {type(config).__name__}": identity_of(config) for at, config in enumerate(configs)}


@pytest.mark.parametrize(("place", "kind"), list(sections()))
def test_a_field_changes_the_identity_unless_it_is_listed_with_a_reason(tmp_path: Path, place: str, kind: Any) -> None:
    of = served(place)
    recipe = whole_recipe(tmp_path, place.partition(".")[2] if place.startswith("trainer.") else LEARNT[of][-1], of)
    hints, known = typing.get_type_hints(kind), stages(recipe)
    plain = [name for name in hints if place or not dataclasses.is_dataclass(hints[name])]
    for name in set(plain) - ({"generators", "checks", "trainer"} if not place else set()):
        key = f"{place}.{name}".lstrip(".")
        if key in ("source.version", "columns.target"):  # of a Delta table alone; of a problem without labels
            continue
        if key == "source.path":
            (tmp_path / "moved").mkdir()
            moved = str(write_rows(tmp_path / "moved" / "rows.csv"))
            other = dataclasses.replace(recipe, source=dataclasses.replace(recipe.source, path=moved))
        else:
            other = changed(recipe, place, name)
        assert other != recipe
        if key in not_identity():
            assert recipe.hash() == other.hash(), key
            assert known == stages(other), key
        elif key == "run.threads":  # counts where a model is trained, and there alone
            assert recipe.hash() == other.hash()
            for choice in recipe.generators:
                same = identity_of(generator_config(choice, recipe)) == identity_of(generator_config(choice, other))
                assert same == (not GENERATORS[choice.use].libraries)
        else:
            assert recipe.hash() != other.hash(), key


def test_what_is_left_out_of_the_identity_is_a_known_list() -> None:
    """A new entry changes what a rerun reuses: it is meant, or it is a defect."""
    run = (
        "store",
        "orchestrator",
        "shard_rows",
        "store_patience",
        "devices",
        "workers",
        "shard_minutes",
        "shard_retries",
        "stage_minutes",
        "deadline_minutes",
        "deadline",
    )
    expected = {
        *(f"run.{name}" for name in (*run, "max_failed_shards")),
        "source.path",
        "source.version",
        "validation.data_docs",
    }
    expected |= {f"outcomes.{name}" for name in ("harmful", "inconclusive", "not_produced", "unsound_source")}
    expected |= {
        *(
            f"trainer.{name}.threads"
            for name in ("tfidf", "boosting", "linear", "cnn", "detector", "ctc", "transitions", "ease")
        ),
        "trainer.command.timeout",
    }
    models = {"causal_lm", "masked_lm", "seq2seq", "back_translation"} & set(GENERATORS)
    expected |= {f"generators.{name}.decode_batch" for name in models}
    asking = ("decode_batch", "base_url", "api_key", "price_in", "price_out", "timeout", "tries", "max_parallel")
    expected |= {f"generators.chat.{name}" for name in asking}
    expected |= {f"generators.causal_lm.{name}" for name in ("log_to", "log_dir", "checkpoint_minutes")}
    expected |= {f"generators.causal_lm.{name}" for name in ("checkpoint_minutes", "log_to", "log_dir")}
    expected |= {"source.ready", "partitions.late", "publish.format", "validation.source"}
    for section in (Schedule, Retain, Price, Report):  # of these, all
        expected |= {f"{section.__name__.lower()}.{item.name}" for item in dataclasses.fields(section)}
    table = not_identity()
    assert set(table) == expected and all(len(why) > 10 for why in table.values())


@pytest.mark.parametrize(
    ("inputs", "target", "generator", "trainer"),
    [
        ({"text": "text"}, "label", "rules", "tfidf"),
        ({"text": "text", "lang": "text"}, "label", "rules", "tfidf"),
        ({"text": "category", "lang": "category"}, "label", "resample", "boosting"),
        ({"text": "category"}, "number", "resample", "boosting"),
        ({"text": "image"}, "label", "transforms", "cnn"),
        ({"text": "text"}, "text", "rules", "retrieval"),
    ],
)
def test_the_first_trainer_that_serves_the_rows_is_the_default(
    tmp_path: Path, inputs: dict[str, str], target: str, generator: str, trainer: str
) -> None:
    columns = {"inputs": inputs, "target": {"label": target}}
    document = yaml.safe_load(RECIPE) | {"columns": columns, "generators": [{"use": generator}]}
    recipe = build_recipe(document, base=tmp_path)
    assert recipe.trainer == TrainerChoice(trainer, TRAINERS[trainer].Options())
    # An option of the default trainer needs no name of it.
    if target == "text":
        return
    assert build_recipe(document | {"trainer": {"threads": 4}}, base=tmp_path).trainer.options.threads == 4


def test_rows_of_several_kinds_and_numbers_of_texts_are_for_linear() -> None:
    for kinds, problem in ((("table", "text"), "classification"), (("text",), "regression")):
        rows = Rows(frozenset(kinds), problem)
        assert [name for name, trainer in TRAINERS.items() if rows.served_whole(trainer)] == ["linear", "command"]


def test_a_trainer_that_does_not_serve_the_rows_is_refused_with_those_that_do(tmp_path: Path) -> None:
    document = yaml.safe_load(RECIPE) | otherwise("table") | {"trainer": "tfidf"}
    for given, others in ((document, "boosting, linear, command"), (yaml.safe_load(RECIPE), "tfidf, linear, command")):
        name = given.get("trainer", "boosting")
        with pytest.raises(UserError) as caught:
            build_recipe(given | {"trainer": name}, base=tmp_path)
        assert name in caught.value.problem and f"serve it: {others}; `augmill extensions`" in caught.value.fix


class Scoreless(Trainer):
    """A trainer that cannot say how sure it is."""

    VERSION = 1
    Options = CHECKS["label_set"].Options

    def predict(self, inputs: Any, trainings: Any, workdir: Path) -> Any:
        yield from ()


def test_a_metric_that_ranks_needs_a_trainer_that_gives_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRAINERS, "scoreless", Scoreless)
    assert load(tmp_path, RECIPE + "gate: {metric: auc}\n").trainer.use == "tfidf"
    error = refusal(tmp_path, RECIPE + "gate: {metric: auc}\ntrainer: scoreless\n")
    assert "(gate.metric)" in error.where and "auc" in error.problem and "scoreless" in error.problem
    assert "tfidf, linear, command" in error.fix


def test_a_share_or_another_generator_changes_the_identity(tmp_path: Path) -> None:
    recipe = whole_recipe(tmp_path, "tfidf")
    first, *rest = recipe.generators
    assert isinstance(first, GeneratorChoice)
    others = [(dataclasses.replace(first, share=2.0), *rest), tuple(rest)]
    hashes = {dataclasses.replace(recipe, generators=chosen).hash() for chosen in others} | {recipe.hash()}
    assert len(hashes) == 3


@pytest.mark.parametrize("key", ["thesaurus", "heldout_exclude", "a glob in heldout_exclude"])
def test_a_file_counts_by_its_content_not_by_where_it_lies(tmp_path: Path, key: str) -> None:
    """Law 2: a moved file reuses everything, a changed one does not; also where a list or a glob names it."""

    def recipe(name: str, content: str) -> Recipe:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "file.csv").write_text(content)
        if key == "thesaurus":
            return load(folder, RECIPE + "    thesaurus: file.csv\n")
        return load(
            folder, RECIPE + f"splits: {{heldout_exclude: [{'file.csv' if 'glob' not in key else 'f*.csv'}]}}\n"
        )

    first, moved, other = (
        recipe(name, text) for name, text in zip("abc", ("text\nx\n", "text\nx\n", "text\ny\n"), strict=True)
    )
    if "glob" not in key:
        assert first.hash() == moved.hash() != other.hash()
        assert stages(first) == stages(moved)
    assert stages(first) != stages(other)


@pytest.mark.parametrize("key", ["dataset", "source", "columns", "target"])
def test_a_misspelt_key_is_named_and_not_the_one_that_it_leaves_missing(key: str, tmp_path: Path) -> None:
    document = yaml.safe_load(RECIPE)
    document[key + "s"] = document.pop(key)
    with pytest.raises(UserError, match=f"unknown key '{key}s'; did you mean '{key}'"):
        build_recipe(document, base=tmp_path)
