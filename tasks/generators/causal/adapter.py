"""Adapters through peft (the extra `adapters`): low-rank matrices beside a frozen model, merged into it at the end.

What is kept of a fit is a whole model, as without an adapter: it loads without peft and without its base's directory.
"""

from __future__ import annotations

import importlib.util
import warnings
from typing import TYPE_CHECKING, Any

from augmill.tasks.errors import UserError
from augmill.tasks.generators.causal.options import Adapter
from augmill.tasks.generators.lm.train import ModelTraining

if TYPE_CHECKING:
    import torch

_NAME = "default"  # peft's own name of the only adapter
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
    """A model with an adapter. ``tokens``: ids whose vectors are trained too (labels, an added end)."""

    def __init__(self, model: Any, options: Adapter, tokens: list[int], steps: int) -> None:
        from peft import AdaLoraConfig, LoraConfig, get_peft_model

        names = {module: name for name, module in model.named_modules()}
        output, tied = model.get_output_embeddings(), _is_tied(model)
        places = [model.get_input_embeddings(), *([] if tied or output is None else [output])]
        common: dict[str, Any] = {
            "task_type": "CAUSAL_LM",
            "lora_alpha": options.alpha,
            "lora_dropout": options.dropout,
            "target_modules": list(options.targets) or "all-linear",
            "trainable_token_indices": {names[place].rsplit(".", 1)[-1]: tokens for place in places},
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
        return self.model.merge_and_unload()

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


def _is_tied(model: Any) -> bool:
    output = model.get_output_embeddings()
    return output is not None and output.weight is model.get_input_embeddings().weight
