"""A model's directory is somebody else's: what its files say is held against the weights before memory is taken."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_masked_lm import untrained

from augmill.tasks.errors import UserError
from augmill.tasks.generators.lm.models import check_files, load_model

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(untrained("bert"), tmp_path / "model"))


def sharded(path: Path, *names: str) -> None:
    """The weights under other names, as the index has them."""
    for name in names:
        if Path(name).name == name and name.endswith(".safetensors"):
            shutil.copy(path / WHOLE, path / name)
    (path / WHOLE).unlink()
    (path / INDEX).write_text(json.dumps({"weight_map": {f"t{at}": name for at, name in enumerate(names)}}))


def header(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    raw = (path / WHOLE).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    text = json.dumps(change(json.loads(raw[8 : 8 + length]))).encode()
    (path / WHOLE).write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])


def moved(tensors: dict[str, Any], name: str, offsets: list[int]) -> dict[str, Any]:
    first = next(key for key in tensors if key != "__metadata__")
    return tensors | {first: tensors[first] | {name: offsets}}


WEIGHTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a way out": (lambda path: sharded(path, "../../etc/passwd"), "weight_map names '../../etc/passwd'"),
    "an absolute name": (lambda path: sharded(path, "/etc/passwd"), "weight_map names '/etc/passwd'"),
    "a folder's name": (lambda path: sharded(path, ".."), "weight_map names '..'"),
    "a pickle": (lambda path: sharded(path, "weights.bin"), "weight_map names 'weights.bin'"),
    "a shard that is not there": (
        lambda path: [sharded(path, "a.safetensors", "b.safetensors"), (path / "b.safetensors").unlink()],
        "weight_map names 'b.safetensors', which is missing",
    ),
    "the index itself": (lambda path: sharded(path, INDEX), f"weight_map names '{INDEX}'"),
    "an index of lists": (
        lambda path: [
            sharded(path),
            (path / INDEX).write_text('{"weight_map": [1]}'),
            (path / "x.safetensors").touch(),
        ],
        "a file name for each tensor",
    ),
    "an index too deep": (
        lambda path: [sharded(path, "a.safetensors"), (path / INDEX).write_text("[" * 200_000)],
        "expected a JSON object",
    ),
    "a header too long": (
        lambda path: (path / WHOLE).write_bytes(b"\xff" * 7 + b"\x7f" + b"{}"),
        "expected weights in safetensors",
    ),
    "a header of nothing": (lambda path: (path / WHOLE).write_bytes(b""), "expected weights in safetensors"),
    "offsets outside": (
        lambda path: header(path, lambda found: moved(found, "data_offsets", [0, 2**50])),
        "expected weights in safetensors",
    ),
    "offsets that overlap": (
        lambda path: header(path, lambda found: moved(found, "data_offsets", [8, 16])),
        "expected weights in safetensors",
    ),
    "a shape that overflows": (
        lambda path: header(path, lambda found: moved(found, "shape", [2**40, 2**40])),
        "expected weights in safetensors",
    ),
    "a link to itself": (
        lambda path: [(path / WHOLE).unlink(), (path / WHOLE).symlink_to(path / WHOLE)],
        "expected weights in safetensors",
    ),
    "a pointer of git lfs": (
        lambda path: (path / WHOLE).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "git lfs pull",
    ),
}
CONFIGS: dict[str, tuple[dict[str, Any] | str, str]] = {
    "100,000 layers": ({"num_hidden_layers": 100_000}, "num_hidden_layers is 100,000, but the weights hold"),
    "layers without end": ({"num_hidden_layers": 1e308}, "num_hidden_layers is"),
    "layers too wide": ({"hidden_size": 10**9}, "parameters, but the weights hold"),
    "a vast vocabulary": ({"vocab_size": 10**12}, "parameters, but the weights hold"),
    "a number beyond all": ({"vocab_size": 10**30}, "no masked language model"),
    "a text for a number": ({"num_hidden_layers": "two"}, "no masked language model"),
    "a list for a number": ({"hidden_size": [1]}, "no masked language model"),
    "no heads": ({"num_attention_heads": 0}, "no masked language model"),
    "code of its own": (
        {"model_type": "own", "auto_map": {"AutoConfig": "code.Own", "AutoModelForMaskedLM": "code.Own"}},
        "trust_remote_code",
    ),
    "a kind that is none": ({"model_type": {"a": 1}}, "no masked language model"),
    "a list": ("[]", "expected a JSON object, found list"),
    "no JSON": ("{", "expected a JSON object"),
    "too deep": ('{"a":' * 100_000, "expected a JSON object"),
    "digits without end": ('{"vocab_size": ' + "9" * 10_000 + "}", "expected a JSON object"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_leave_the_directory_or_lie_about_themselves_are_refused(tmp_path: Path, name: str) -> None:
    change, words = WEIGHTS[name]
    path = copied(tmp_path)
    change(path)
    with pytest.raises(UserError) as caught:
        check_files(path, allow_pickle=False)
    assert words in str(caught.value) and caught.value.fix and str(path) in caught.value.where


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_is_refused_before_memory_is_taken_for_it(tmp_path: Path, name: str) -> None:
    change, words = CONFIGS[name]
    path = copied(tmp_path)
    config = path / "config.json"
    config.write_text(change if isinstance(change, str) else json.dumps(json.loads(config.read_text()) | change))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError) as caught:
        load_model(path, "masked", trust_remote_code=False, allow_pickle=False)
    assert words in str(caught.value) and str(path) in caught.value.where
    assert (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000
    )  # kB: torch and transformers, at the first


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "text", ["[]", "{", "[" * 100_000, '{"version": 1}', '{"model_max_length": "x", "tokenizer_class": 3}']
)
def test_a_broken_tokenizer_is_refused_in_one_message(tmp_path: Path, name: str, text: str) -> None:
    path = copied(tmp_path)
    (path / name).write_text(text)
    try:
        load_model(path, "masked", trust_remote_code=False, allow_pickle=False)
    except UserError as error:
        assert str(path) in error.where and error.fix
