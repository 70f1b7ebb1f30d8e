"""How a language model is trained: adapters, pre-training, accumulation, precision, checkpoints that outlive a kill, loggers."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from generating import ROWS, TINY_LM, UNLABELLED, Bench, ask, table
from safetensors.torch import load_file

from augmill.tasks.contracts import Context, FitInputs
from augmill.tasks.errors import DataError, DeadlineExceeded, UserError
from augmill.tasks.generators.causal.generator import CausalLM, CausalLMOptions
from augmill.tasks.generators.causal.options import Adapter
from augmill.tasks.generators.lm.train import train_tokenizer
from augmill.tasks.store.store import Store

QUICK: dict[str, Any] = TINY_LM | {"epochs": 4}


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of one layer, untrained, with a tokenizer of its own."""
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("gpt2")
    tokenizer = train_tokenizer([text for _, _, text, _ in ROWS], ["</s>"], 350)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="</s>", eos_token="</s>").save_pretrained(folder)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        size = tokenizer.get_vocab_size()
        config = GPT2Config(
            vocab_size=size, n_positions=64, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
        )
        GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def weights(bench: Bench) -> dict[str, torch.Tensor]:
    return load_file(bench.directory / "model.safetensors")


def furthest(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def test_accumulated_parts_give_the_step_of_the_whole_batch(tmp_path: Path) -> None:
    whole = Bench("causal_lm", tmp_path / "a", **(QUICK | {"epochs": 1, "batch_size": 12}))
    parts = Bench("causal_lm", tmp_path / "b", **(QUICK | {"epochs": 1, "batch_size": 3, "accumulate": 4}))
    other = Bench("causal_lm", tmp_path / "c", **(QUICK | {"epochs": 1, "batch_size": 3}))
    steps = [bench.fitted.read_json("lm.json")["training"]["steps"] for bench in (whole, parts, other)]
    assert steps == [3, 3, 12]
    # Dropout draws other masks for other shapes, so the losses agree in size and not in bits.
    losses = [bench.fitted.read_json("lm.json")["training"]["train_loss"][0] for bench in (whole, parts)]
    assert abs(losses[0] - losses[1]) < 0.1


def test_the_gradient_of_the_parts_is_that_of_the_whole(gpt2: Path) -> None:
    """Without dropout: one step of 12 rows, and one of four parts of three."""
    import numpy as np
    from transformers import AutoModelForCausalLM

    from augmill.tasks.generators.lm.losses import IGNORED, causal_loss
    from augmill.tasks.generators.lm.train import TrainingSchedule, train

    rows = [[0, *range(5, 5 + length)] for length in (4, 9, 6, 5, 7, 8, 4, 6, 9, 5, 8, 7)]
    examples = [(row, [IGNORED, *row[1:]]) for row in rows]
    found = []
    for size, accumulate in ((12, 1), (3, 4)):
        model = AutoModelForCausalLM.from_pretrained(gpt2, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)
        schedule = TrainingSchedule(1, size, 1e-2, 0.0, 0, accumulate)
        train(model, lambda rng: examples, causal_loss, schedule, np.random.Generator(np.random.Philox(key=1)))
        found.append({name: part.detach() for name, part in model.named_parameters()})
    assert furthest(*found) < 1e-4


@pytest.mark.parametrize("kind", ["lora", pytest.param("adalora", marks=pytest.mark.slow)])
def test_an_adapter_learns_labels_and_is_merged_into_a_model_that_needs_no_peft(
    kind: Any, gpt2: Path, tmp_path: Path
) -> None:
    adapter = Adapter(kind=kind, rank=4)
    options = {"model": str(gpt2), "adapter": adapter, "epochs": 60, "batch_size": 8, "learning_rate": 0.02}
    bench = Bench("causal_lm", tmp_path, **options)
    losses = bench.fitted.read_json("lm.json")["training"]["train_loss"]
    assert losses[-1] < losses[0] - 0.2
    assert not [name for name in weights(bench) if "lora" in name]
    code = "import sys; sys.modules['peft'] = None\n" + (
        "from transformers import AutoModelForCausalLM as A; A.from_pretrained(sys.argv[1])"
    )
    assert subprocess.run([sys.executable, "-c", code, str(bench.directory)], check=False).returncode == 0
    assert bench.sample(ask(["refund", "track"] * 8)).num_rows == 16
    base = load_file(gpt2 / "model.safetensors")
    trained = weights(bench)
    moved = [name for name, part in base.items() if not torch.equal(part, trained[name][: len(part)])]
    assert moved and "transformer.ln_f.weight" not in moved  # what has no adapter stays as it was


def test_scratch_has_nothing_to_adapt_and_a_target_that_is_not_there_is_named(gpt2: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="adapter: needs a pretrained `model`"):
        CausalLMOptions(adapter=Adapter())
    with pytest.raises(UserError, match="peft cannot adapt this model"):
        Bench("causal_lm", tmp_path, model=str(gpt2), adapter=Adapter(targets=("no_such_module",)))


def test_what_is_not_installed_is_named_before_any_training(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in ("peft", "tensorboard") else found(name, *rest)
    )
    with pytest.raises(UserError, match=r"peft is not installed"):
        CausalLM(CausalLMOptions(model=__file__, adapter=Adapter())).preflight(("text",))
    with pytest.raises(UserError, match=r"tensorboard is not installed"):
        CausalLM(CausalLMOptions(log_to="tensorboard")).preflight(("text",))


def test_pretraining_reads_the_unlabelled_rows_and_needs_some(tmp_path: Path) -> None:
    bench = Bench("causal_lm", tmp_path / "a", **(QUICK | {"pretrain_on": "unlabelled", "pretrain_epochs": 8}))
    plan = bench.fitted.read_json("lm.json")
    assert plan["pretraining"]["steps"] > 0 and plan["training"]["steps"] > 0
    without = Bench("causal_lm", tmp_path / "b", **QUICK).fitted.read_json("lm.json")
    assert plan["training"]["train_loss"][0] < without["training"]["train_loss"][0] - 0.3
    texts = bench.sample(ask(["refund", "track", "中文"] * 8))["text"].to_pylist()
    assert not any("unlabelled" in (text or "") for text in texts)
    generator, train = CausalLM(CausalLMOptions(**QUICK, pretrain_on="unlabelled")), table(ROWS, ("text",))
    assert generator.wants_unlabelled() and not CausalLM(CausalLMOptions()).wants_unlabelled()
    none = train.slice(0, 0)
    with pytest.raises(DataError, match="expected unlabelled rows"):
        generator.fit(FitInputs(train, none, none, none, none), Context(0, ("text",), tmp_path))
    assert len(UNLABELLED) > len(ROWS)


def test_bfloat16_trains_and_float16_without_a_gpu_is_refused(tmp_path: Path) -> None:
    half = Bench("causal_lm", tmp_path / "a", **(QUICK | {"precision": "bfloat16"}))
    full = Bench("causal_lm", tmp_path / "b", **QUICK)
    assert all(part.dtype == torch.float32 for part in weights(half).values())  # what is kept and sampled from
    assert 0 < furthest(weights(half), weights(full)) < 0.5
    with pytest.raises(UserError, match="float16 needs a GPU"):
        Bench("causal_lm", tmp_path / "c", **(QUICK | {"precision": "float16"}))


def fit(directory: Path, store: Store, options: dict[str, Any], deadline: float | None = None) -> dict[str, bytes]:
    """The files of a fit with a scratch space, as a worker runs it."""
    directory.mkdir(parents=True)
    train, free = table(ROWS, ("text",)), table(UNLABELLED, ("text",))
    scratch = store.scratch("causal_lm")
    context = Context(0, ("text",), directory, threads=1, scratch=scratch, deadline=deadline)
    none = train.slice(0, 0)
    files = CausalLM(CausalLMOptions(**options)).fit(FitInputs(train, none, none, none, free), context)
    return {name: path.read_bytes() for name, path in files.items()}


CHECKPOINTED = [
    pytest.param({}, id="plain"),
    pytest.param({"patience": 3, "epochs": 12}, id="early stopping"),
    pytest.param({"pretrain_on": "unlabelled", "pretrain_epochs": 1}, id="pretraining"),
    pytest.param({"adapter": "lora"}, id="lora"),
    pytest.param({"adapter": "adalora"}, id="adalora"),
]


@pytest.mark.parametrize("changes", CHECKPOINTED)
def test_a_fit_that_was_stopped_again_and_again_ends_with_the_bytes_of_an_undisturbed_one(
    changes: dict[str, Any], gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by its deadline after every third step; each attempt goes on where the one before was stopped."""
    options: dict[str, Any] = QUICK | {"epochs": 3} | changes
    if "adapter" in options:
        options = {
            "model": str(gpt2),
            "epochs": 3,
            "batch_size": 8,
            "adapter": Adapter(kind=options["adapter"], rank=2),
        }
    whole = fit(tmp_path / "whole", Store(str(tmp_path / "first")), options)
    asked = 0

    def out_of_time(self: Context) -> bool:
        nonlocal asked
        asked += 1
        return asked > 6  # it is asked twice before a step

    store, attempts = Store(str(tmp_path / "second")), 0
    monkeypatch.setattr(Context, "out_of_time", out_of_time)
    while True:
        attempts, asked = attempts + 1, 0
        assert attempts < 40
        try:
            resumed = fit(tmp_path / f"attempt-{attempts}", store, options)
            break
        except DeadlineExceeded:
            continue
    assert attempts > 2
    assert resumed == whole
    assert store.scratch("causal_lm").keys("training") == []  # and leaves nothing behind


CHILD = """
import sys
sys.path[:0] = {paths!r}
from pathlib import Path
from test_causal_lm_training import fit
from augmill.tasks.store.store import Store
print("ready", flush=True)
fit(Path(sys.argv[1]), Store(sys.argv[2]), {options!r})
"""


@pytest.fixture
def child(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in the middle of a long fit that writes a checkpoint every moment."""
    here = Path(__file__).parent
    code = CHILD.format(paths=[str(here), str(here.parent)], options=LONG)
    arguments = [sys.executable, "-c", code, str(tmp_path / "child"), str(tmp_path / "store")]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"})
    with process:
        yield process
        process.kill()


LONG = QUICK | {"epochs": 60, "checkpoint_minutes": 1e-6}


@pytest.mark.slow
def test_a_killed_fit_goes_on_from_its_checkpoint_to_the_same_bytes(
    child: subprocess.Popen[bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(str(tmp_path / "store"))
    assert child.stdout and child.stdout.readline() == b"ready\n"
    scratch, ends = store.scratch("causal_lm"), time.monotonic() + 60
    while len(scratch.keys("training")) < 2 and time.monotonic() < ends:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert scratch.keys("training")
    with caplog.at_level("INFO", logger="augmill"):
        resumed = fit(tmp_path / "resumed", store, LONG)
    assert "training continues from a checkpoint" in caplog.text
    assert resumed == fit(tmp_path / "whole", Store(str(tmp_path / "other")), LONG)


def test_a_damaged_checkpoint_is_left_out_and_another_training_has_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, scratch = Store(str(tmp_path / "store")), Store(str(tmp_path / "store")).scratch("causal_lm")
    asked = iter(range(1000))
    with monkeypatch.context() as patch, pytest.raises(DeadlineExceeded):
        patch.setattr(Context, "out_of_time", lambda self: next(asked) > 5)
        fit(tmp_path / "a", store, QUICK)
    (key,) = scratch.keys("training")
    raw = scratch.get(key)
    assert raw is not None
    scratch.remove(key)
    scratch.put_if_absent(key, raw[:-1] + bytes([raw[-1] ^ 1]))
    with caplog.at_level("INFO", logger="augmill"):
        fit(tmp_path / "other", store, QUICK | {"learning_rate": 0.001})  # another training: nothing of this one
        assert "checkpoint" not in caplog.text
        made = fit(tmp_path / "b", store, QUICK)
    assert "is damaged and ignored" in caplog.text
    assert made == fit(tmp_path / "c", Store(str(tmp_path / "fresh")), QUICK)


def test_tensorboard_gets_a_loss_an_epoch_and_no_text(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = QUICK | {"log_to": "tensorboard", "log_dir": str(tmp_path / "logs")}
    logged = Bench("causal_lm", tmp_path / "a", **options)
    plain = Bench("causal_lm", tmp_path / "b", **QUICK)
    for name, path in plain.files.items():  # who looks at the losses changes no byte
        assert logged.files[name].read_bytes() == path.read_bytes()
    (run,) = (tmp_path / "logs").iterdir()
    events = EventAccumulator(str(run))
    events.Reload()
    values = [event.value for event in events.Scalars("causal_lm/train_loss")]
    recorded = plain.fitted.read_json("lm.json")["training"]["train_loss"]
    assert values == pytest.approx(recorded, abs=1e-3)
    written = b"".join(path.read_bytes() for path in run.iterdir())
    assert not any(text.encode() in written for _, _, text, _ in ROWS)


def test_rows_of_chinese_are_whole_characters_that_train_knows(tmp_path: Path) -> None:
    """Without the rule a byte-level model of 12 rows writes broken UTF-8 in many of its rows."""
    bench = Bench("causal_lm", tmp_path, **(TINY_LM | {"epochs": 5}))
    made = bench.sample(ask(["中文"] * 60)).to_pylist()
    assert not [row for row in made if row["reason"] == "undecodable"]
    known = {letter for _, _, text, second in ROWS for letter in text + second if not letter.isascii()}
    letters = {letter for row in made for letter in row["text"] or "" if not letter.isascii()}
    assert letters and letters <= known


def test_options_of_a_training_are_bounded() -> None:
    for changes in ({"accumulate": 0}, {"checkpoint_minutes": -1.0}, {"pretrain_epochs": 0}, {"pretrain_steps": 0}):
        with pytest.raises(ValueError, match=next(iter(changes))):
            CausalLMOptions(**changes)  # type: ignore[arg-type]
    assert json.loads(json.dumps(dataclasses.asdict(Adapter())))["kind"] == "lora"
