"""What a training asks of a model: the losses by the head at the asked places alone, against the plain definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from augmill.tasks.generators.causal.adapter import Adapted
from augmill.tasks.generators.causal.options import Adapter
from augmill.tasks.generators.lm.losses import IGNORED, Example, causal_loss, mask_loss, pair_loss
from augmill.tasks.generators.lm.train import TrainingSchedule, _batches, scratch_model, scratch_pair_model, train

SIZE = 40
TOKENS = st.lists(st.integers(1, SIZE - 1), min_size=2, max_size=7)


def made(kind: str) -> Any:
    """A tiny model of its class, with weights far enough from zero that its logits differ."""
    import transformers as t

    small = {"vocab_size": SIZE, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        if kind == "t5":
            model = scratch_pair_model(SIZE, 0, 1, layers=1, hidden=16, heads=2)
        elif kind == "bert":
            model = t.BertForMaskedLM(t.BertConfig(**small, intermediate_size=16))
        elif kind == "gpt2":
            model = scratch_model(SIZE, 16, 0, layers=1, hidden=16, heads=2)
        else:  # caps its logits, scales its embeddings
            config = t.Gemma2Config(
                **small, intermediate_size=16, num_key_value_heads=1, head_dim=8, final_logit_softcapping=2.0,
                tie_word_embeddings=kind == "tied",
            )  # fmt: skip
            model = t.Gemma2ForCausalLM(config)
        for part in model.parameters():
            if part.dim() == 2:
                torch.nn.init.normal_(part, std=0.5)
    return model.eval()


def number(loss: torch.Tensor) -> float:
    return float(loss.detach())


def mean(losses: list[torch.Tensor]) -> float:
    return number(torch.stack(losses).mean())


def plainly(logits: torch.Tensor, wanted: list[int]) -> list[torch.Tensor]:
    """The loss of each place where something is to be said."""
    chances = torch.log_softmax(logits.double(), dim=-1)
    return [-chances[at, token] for at, token in enumerate(wanted) if token != IGNORED]


@pytest.mark.parametrize("kind", ["gpt2", "tied", "untied"])
@given(rows=st.lists(TOKENS, min_size=1, max_size=4))
@settings(max_examples=20, deadline=None)
def test_a_causal_loss_is_the_mean_over_each_row_by_itself(kind: str, rows: list[list[int]]) -> None:
    model, losses = made(kind), []
    for row in rows:
        wanted = [*row[1:], IGNORED]
        losses += plainly(model(input_ids=torch.tensor([row])).logits[0], wanted)
    examples = [(row, [IGNORED, *row[1:]]) for row in rows]
    assert number(causal_loss(model, examples)) == pytest.approx(mean(losses), abs=1e-4)


@given(
    rows=st.lists(
        st.lists(st.tuples(st.integers(1, SIZE - 1), st.booleans()), min_size=1, max_size=7), min_size=1, max_size=4
    )
)
@settings(max_examples=20, deadline=None)
def test_a_mask_loss_is_the_mean_over_the_masked_places(rows: list[list[tuple[int, bool]]]) -> None:
    model, losses, examples = made("bert"), [], []
    rows[0][0] = (rows[0][0][0], True)  # something is asked
    for row in rows:
        ids, wanted = [token for token, _ in row], [token if asked else IGNORED for token, asked in row]
        losses += plainly(model(input_ids=torch.tensor([ids])).logits[0], wanted)
        examples.append((ids, wanted))
    assert number(mask_loss(model, examples, 0)) == pytest.approx(mean(losses), abs=1e-4)


@given(pairs=st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=4), start=st.sampled_from([(0,), (0, 3)]))
@settings(max_examples=20, deadline=None)
def test_a_pair_loss_is_the_mean_over_the_targets(pairs: list[Example], start: tuple[int, ...]) -> None:
    model, losses = made("t5"), []
    for source, target in pairs:
        given = torch.tensor([[*start, *target[:-1]]])
        logits = model(input_ids=torch.tensor([source]), decoder_input_ids=given).logits[0]
        losses += plainly(logits, [IGNORED] * (len(start) - 1) + target)
    assert number(pair_loss(model, pairs, start, 0)) == pytest.approx(mean(losses), abs=1e-4)


@given(examples=st.lists(st.tuples(TOKENS, TOKENS), max_size=50), size=st.integers(1, 5), seed=st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_an_epoch_has_every_example_once(examples: list[Example], size: int, seed: int) -> None:
    import numpy as np

    batches = list(_batches(examples, size, np.random.default_rng(seed)))
    assert sorted(example for batch in batches for example in batch) == sorted(examples)
    assert all(len(batch) == size for batch in batches) or sum(len(batch) < size for batch in batches) == 1


ROWS = [[2, 30, 7, 8, 9, 1], [2, 31, 9, 1], [2, 30, 5, 5, 1]]
LEARNT = [(row, [IGNORED, IGNORED, *row[2:]]) for row in ROWS]


@pytest.mark.parametrize("kind", ["gpt2", "tied", "untied"])
@pytest.mark.parametrize("said", [[], [1]])
def test_a_token_has_the_gradient_that_its_row_of_the_whole_matrix_has(kind: str, said: list[int]) -> None:
    model = made(kind)
    weight, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    tied = head is weight
    causal_loss(model, LEARNT).backward()  # type: ignore[no-untyped-call]
    read, spoken = weight.grad.clone(), head.grad.clone()
    before = number(causal_loss(model, LEARNT))
    adapted = Adapted(model, Adapter(rank=2), [30, 31, *said], said, 10, "float32")
    assert number(causal_loss(adapted.model, LEARNT)) == pytest.approx(before, abs=1e-6)
    causal_loss(adapted.model, LEARNT).backward()  # type: ignore[no-untyped-call]
    own = adapted.vectors[0].rows.grad
    if tied:  # the whole matrix's rows of the labels also have the gradient of labels that nobody says
        assert not said or torch.allclose(own[2], read[1], atol=1e-5)
    else:
        assert torch.allclose(own, read[[30, 31, *said]], atol=1e-5)
        assert not said or torch.allclose(adapted.vectors[1].rows.grad, spoken[said], atol=1e-5)
    assert float(own.abs().sum()) > 0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_only_the_named_rows_and_the_adapted_layers_move(precision: str) -> None:
    import numpy as np

    model = made("untied")
    was = {name: part.detach().clone() for name, part in model.named_parameters()}
    adapted = Adapted(model, Adapter(rank=2, targets=("q_proj",)), [30, 31, 1], [1], 4, precision)
    schedule = TrainingSchedule(4, 3, 0.05, 0.0, precision=precision)
    train(adapted.model, lambda rng: LEARNT, causal_loss, schedule, np.random.default_rng(0))
    now = {name: part.detach() for name, part in adapted.merge().named_parameters()}
    assert now.keys() == was.keys() and all(part.dtype == torch.float32 for part in now.values())
    moved = {
        name: (now[name] != was[name]).reshape(len(was[name]), -1).any(dim=1).nonzero().flatten().tolist()
        for name in was
    }
    assert moved.pop("model.embed_tokens.weight") == [30, 31]  # nobody reads on behind the end
    assert moved.pop("lm_head.weight") == [1]
    assert [name for name, rows in moved.items() if rows] == ["model.layers.0.self_attn.q_proj.weight"]
