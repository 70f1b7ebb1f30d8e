"""Adapters through peft (the extra `adapters`): low-rank matrices beside a frozen model, merged into it at the end.

What is kept of a fit is a whole model, as without an adapter: it loads without peft and without its base's directory.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from augmill.tasks.errors import UserError
from augmill.tasks.generators.causal.options import Adapter
from augmill.tasks.generators.lm.train import ModelTraining

if TYPE_CHECKING:
    import torch

_NAME = "default"  # peft's own name of the only adapter
_ROWS = "trained_rows"
ORTHOGONAL = (
    0.5  # weight of AdaLoRA's loss that keeps its factors orthogonal: peft's default, the paper's gamma is 0.1-0.5
)


def require_peft() -> None:
    if importlib.util.find_spec("peft") is None:
        raise UserError(
            "peft is not installed",
            where="causal_lm: adapter",
            fix="pip install 'augmill[adapters]', or drop `adapter`",
        )


class Adapted:
    """A model with an adapter. ``tokens``: ids whose vectors are trained too (labels, an added end); ``said``: those of

    them that a row may say. ``precision``: what the frozen matrices are held in meanwhile.
    """

    def __init__(
        self, model: Any, options: Adapter, tokens: list[int], said: list[int], steps: int, precision: str
    ) -> None:
        from peft import AdaLoraConfig, LoraConfig, get_peft_model

        common: dict[str, Any] = {
            "task_type": "CAUSAL_LM",
            "lora_alpha": options.alpha,
            "lora_dropout": options.dropout,
            "target_modules": list(options.targets) or "all-linear",
        }
        self.kind, self.merged = options.kind, model
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as of fan_in_fan_out, which it sets itself
            try:
                if options.kind == "lora":
                    config: Any = LoraConfig(r=options.rank, **common)
                else:
                    # Ranks are moved in the middle of the training: a tenth before, a quarter after with all settled.
                    config = AdaLoraConfig(
                        init_r=-(-options.rank * 3 // 2), target_r=options.rank, tinit=steps // 10, tfinal=steps // 4,
                        deltaT=max(1, steps // 100), total_step=steps, orth_reg_weight=ORTHOGONAL, **common,
                    )  # fmt: skip
                self.model = get_peft_model(model, config)
            except ValueError as error:
                raise UserError(
                    f"peft cannot adapt this model: {str(error).splitlines()[0]}",
                    where=f"causal_lm: adapter.targets {list(options.targets)}",
                    fix="use the names of the model's own layers, or leave `targets` out",
                ) from error
        self.vectors = _train_vectors(model, tokens, said)
        self.full = _hold_frozen(model, precision)

    def after_step(self, training: ModelTraining) -> None:
        """AdaLoRA weighs each rank by its gradients and gives up the least."""
        if self.kind == "adalora":
            self.model.base_model.update_and_allocate(training.record["steps"])

    def extra_loss(self) -> torch.Tensor | float:
        """How far AdaLoRA's factors are from orthogonal (Zhang 2023, eq. 4), the mean over its matrices."""
        import torch

        if self.kind != "adalora":
            return 0.0
        parts = []
        for name, factor in self.model.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                square = factor @ factor.T if "lora_A" in name else factor.T @ factor
                parts.append(torch.linalg.matrix_norm(square - torch.eye(len(square), device=square.device)))
        return ORTHOGONAL * torch.stack(parts).mean()

    def merge(self) -> Any:
        """The model with the adapter added to its weights, in its own classes."""
        for weight, full in self.full:
            weight.data = full
        merged = self.model.merge_and_unload()
        for vectors in self.vectors:
            vectors.merge()
        return merged

    def state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """What decides the next steps beside the weights: AdaLoRA's importance scores and ranks."""
        if self.kind == "lora":
            return {}, {}
        allocator = self.model.base_model.rankallocator
        scores = {
            f"{kind}.{name}": part
            for kind in ("ipt", "exp_avg_ipt", "exp_avg_unc")
            for name, part in getattr(allocator, kind).items()
        }
        return {"ranks": self.model.peft_config[_NAME].rank_pattern}, scores

    def put_back(self, said: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        if self.kind == "lora":
            return
        self.model.peft_config[_NAME].rank_pattern = said["ranks"]
        allocator = self.model.base_model.rankallocator
        for name, part in tensors.items():
            kind, weight = name.split(".", 1)
            getattr(allocator, kind)[weight] = part.to(self.model.device)


class _Vectors:
    """The rows of some tokens, trained beside a frozen matrix (peft's own copies the matrix in every step)."""

    def __init__(self, module: Any, tokens: list[int], rows: Any, put: Callable[[Any, Any, Any, Any], Any]) -> None:
        import torch

        self.module, self.tokens, self.rows = module, torch.tensor(tokens, device=module.weight.device), rows
        module.register_parameter(_ROWS, rows)
        self.hook = module.register_forward_hook(lambda own, inputs, output: put(self, own, inputs[0], output))

    def merge(self) -> None:
        import torch

        self.hook.remove()
        delattr(self.module, _ROWS)
        with torch.no_grad():
            self.module.weight[self.tokens] = self.rows.detach()


def _train_vectors(model: Any, tokens: list[int], said: list[int]) -> list[_Vectors]:
    """What is read of ``tokens``, and what is said of ``said``; one vector for both where the model ties them."""
    import torch

    given, head = model.get_input_embeddings(), model.get_output_embeddings()
    rows = torch.nn.Parameter(given.weight.detach()[tokens].clone())
    place = torch.full((given.num_embeddings,), -1, device=rows.device)
    place[tokens] = torch.arange(len(tokens), device=rows.device)

    def read(own: _Vectors, module: Any, ids: Any, output: Any) -> Any:
        at = place[ids]
        # Some embeddings scale what they give (Gemma, BART), and say by how much.
        vectors = torch.nn.functional.embedding(at.clamp(min=0), rows) * getattr(module, "embed_scale", 1.0)
        return torch.where((at >= 0)[..., None], vectors.to(output.dtype), output)

    def say(own: _Vectors, module: Any, inputs: Any, output: Any) -> Any:
        logits = torch.nn.functional.linear(
            inputs, own.rows[-len(said) :], None if module.bias is None else module.bias[said]
        )
        return output.index_copy(-1, own.tokens[-len(said) :], logits.to(output.dtype))

    found = [_Vectors(given, tokens, rows, read)]
    if said:
        tied = head.weight is given.weight
        own = rows if tied else torch.nn.Parameter(head.weight.detach()[said].clone())
        found.append(_Vectors(head, tokens if tied else said, own, say))
    return found


def _hold_frozen(model: Any, precision: str) -> list[tuple[Any, Any]]:
    """(weight, what it was) of each frozen matrix but the embeddings and the head, now in ``precision``.

    Where half the digits are asked for: autocast would round them anew in every step.
    """
    import torch

    dtype = getattr(torch, precision)
    kept = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    matrices = [part for part in model.parameters() if part.dim() == 2 and not part.requires_grad]
    full = [(part, part.data) for part in matrices if dtype != torch.float32 and id(part) not in kept]
    for weight, was in full:
        weight.data = was.to(dtype)
    return full
