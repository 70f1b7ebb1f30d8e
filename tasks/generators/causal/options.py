"""Options of the language model generator: which model, how it is trained, how a row is drawn from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from augmill.tasks.generators.lm.decode import Precision, Sampling
from augmill.tasks.generators.lm.train import TrainingSchedule

SCRATCH = "scratch"


def require(options: Any, bounds: dict[str, tuple[float, float]]) -> None:
    """Raises ValueError for the first number out of its bounds."""
    for name, (low, high) in bounds.items():
        value = getattr(options, name)
        if not low <= value <= high:  # also refuses NaN
            raise ValueError(f"{name}: expected a number from {low} to {high}; found {value}")


@dataclass(frozen=True)
class Adapter:
    """Low-rank matrices that are trained in place of the model's own weights, and merged into these at the end."""

    kind: Literal["lora", "adalora"] = field(
        default="lora",
        metadata={
            "help": "`lora` (Hu 2021): one rank for all matrices; `adalora` (Zhang 2023): starts at half as much again "
            "and moves the ranks to where they matter, down to `rank` on average."
        },
    )
    rank: int = field(default=8, metadata={"help": "Rank of each pair of matrices."})
    alpha: float = field(default=16.0, metadata={"help": "The adapter is scaled by `alpha / rank`."})
    dropout: float = field(default=0.0, metadata={"help": "Share of an adapter's inputs dropped in a training step."})
    targets: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "Names of the modules that get one, such as `q_proj`; if none, every linear layer but the last."
        },
    )

    def __post_init__(self) -> None:
        require(self, {"rank": (1, 1024), "alpha": (0.01, 4096), "dropout": (0, 0.9)})


@dataclass(frozen=True)
class CausalLMOptions:
    """Which model, how long it is trained, how a row is drawn from it."""

    model: str = field(
        default=SCRATCH,
        metadata={
            "file": True,
            "hub": True,
            "help": "`scratch` trains a small model on the train rows; or a local directory or a hub id (with "
            "`revision`) of a causal language model, which is fine-tuned.",
        },
    )
    revision: str = field(default="", metadata={"help": "40-digit commit of a hub model; needed for hub ids."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Runs code that comes with the model."})
    allow_pickle: bool = field(
        default=False, metadata={"help": "Reads weights from pickle files if there are no safetensors."}
    )
    max_length: int = field(
        default=128,
        metadata={"help": "Train rows longer than this (in tokens, with label and ends) are left out of the training."},
    )
    epochs: int = field(default=25, metadata={"help": "Passes over the train rows."})
    max_steps: int = field(
        default=1200, metadata={"help": "Maximum number of training steps, however many rows there are."}
    )
    batch_size: int = field(default=32, metadata={"help": "Rows per training step, or per part of one (`accumulate`)."})
    accumulate: int = field(
        default=1,
        metadata={
            "help": "Parts of `batch_size` rows per training step: the gradient of that many rows in the memory of one "
            "part."
        },
    )
    learning_rate: float | None = field(
        default=None,
        metadata={"help": "Peak rate of AdamW; when null, 3e-3 for `scratch`, 1e-3 with an `adapter`, 1e-4 otherwise."},
    )
    patience: int = field(
        default=0,
        metadata={
            "help": "End the training after this many epochs without a better loss on `select` (a tenth of train, by "
            "hash, which is then not learnt from); 0: all steps, on all rows. No effect if `select` has fewer "
            "than 20 rows."
        },
    )
    weight_decay: float = field(default=0.1, metadata={"help": "Decoupled weight decay of matrices."})
    precision: Literal["float32", "bfloat16", "float16"] = field(
        default="float32",
        metadata={
            "help": "The precision of multiplications in a training step; the weights and the sampling stay float32. "
            "`float16` needs a GPU; `bfloat16` pays on a CPU or GPU that supports it."
        },
    )
    keep_tokens: Literal["seen", "all"] = field(
        default="seen",
        metadata={
            "help": "Pretrained models only. `seen`: the vocabulary is cut to the tokens of the train (and unlabelled) "
            "rows, the 8,192 commonest and single bytes, where that is less than half of it: training and decoding cost "
            "less, and rows are written with these; `all`: as the model has it."
        },
    )
    adapter: Adapter | None = field(
        default=None,
        metadata={"help": "Trains an adapter and the labels' vectors instead of the whole model (extra `[adapters]`)."},
    )
    pretrain_on: Literal["none", "unlabelled"] = field(
        default="none",
        metadata={
            "help": "`unlabelled`: trains first on the recipe's unlabelled rows, without labels (Gururangan 2020), then "
            "on the train rows. The tokenizer of `scratch` learns from both."
        },
    )
    pretrain_epochs: int = field(default=10, metadata={"help": "Passes over the unlabelled rows."})
    pretrain_steps: int = field(default=1200, metadata={"help": "Maximum number of training steps on unlabelled rows."})
    vocabulary: int = field(default=1000, metadata={"help": "`scratch` only: maximum size of the byte-level BPE."})
    layers: int = field(default=2, metadata={"help": "`scratch` only."})
    hidden: int = field(default=128, metadata={"help": "`scratch` only: width; a multiple of `heads`."})
    heads: int = field(default=4, metadata={"help": "`scratch` only: attention heads."})
    temperature: float = field(default=0.9, metadata={"help": "Below 1: likelier rows that are more alike."})
    top_k: int = field(default=50, metadata={"help": "Number of tokens to draw from at each step."})
    top_p: float = field(default=0.95, metadata={"help": "Smallest set of the top k with this probability."})
    min_p: float = field(default=0.0, metadata={"help": "Drops tokens less likely than this share of the likeliest."})
    repetition_penalty: float = field(
        default=1.0, metadata={"help": "Above 1: penalises tokens that the row already has."}
    )
    decode_batch: int = field(
        default=256,
        metadata={"help": "Number of rows decoded at a time.", "identity": False, "why": "a row has its own noise"},
    )
    decode_precision: Precision = field(
        default="auto",
        metadata={
            "help": "The precision of the model while rows are drawn: `float32`, `bfloat16`, or `auto`, which is bfloat16 "
            "for models 256 wide or wider, on any machine. Choose `float32` on a CPU without AVX512-BF16 or AMX."
        },
    )
    checkpoint_minutes: float = field(
        default=10.0,
        metadata={
            "help": "How often a training saves its state in the store, to continue from there after a kill; 0: never. "
            "The last two states are kept, each up to three times as large as what is trained.",
            "identity": False,
            "why": "a training that continued from a checkpoint ends with the same weights",
        },
    )
    log_to: Literal["none", "tensorboard", "wandb"] = field(
        default="none",
        metadata={
            "help": "Where the losses of each epoch go (extra `[loggers]`). `wandb` sends them away unless "
            "WANDB_MODE=offline is set, and finds its key itself. They contain no text of a row.",
            "identity": False,
            "why": "losses are only looked at",
        },
    )
    log_dir: str = field(
        default="logs",
        metadata={
            "file": True,
            "help": "Directory of `log_to`; each training has its own subdirectory.",
            "identity": False,
            "why": "losses are only looked at",
        },
    )

    def __post_init__(self) -> None:
        require(
            self,
            {
                "max_length": (4, 1 << 20), "epochs": (1, 10_000), "max_steps": (1, 10_000_000),
                "batch_size": (1, 4096), "accumulate": (1, 4096), "patience": (0, 10_000), "weight_decay": (0, 1),
                "pretrain_epochs": (1, 10_000), "pretrain_steps": (1, 10_000_000), "vocabulary": (260, 1 << 20),
                "layers": (1, 96), "hidden": (8, 16384), "heads": (1, 256), "temperature": (0.01, 10),
                "top_k": (1, 1 << 20), "top_p": (0.01, 1), "min_p": (0, 1), "repetition_penalty": (1, 10),
                "decode_batch": (1, 65536), "checkpoint_minutes": (0, 100_000),
            },
        )  # fmt: skip
        if self.learning_rate is not None and not 0 < self.learning_rate <= 1:
            raise ValueError(f"learning_rate: expected a number above 0 and at most 1; found {self.learning_rate}")
        if self.hidden % self.heads:
            raise ValueError(f"hidden: expected a multiple of heads ({self.heads}); found {self.hidden}")
        if self.adapter is not None and self.model == SCRATCH:
            raise ValueError("adapter: needs a pretrained `model`; found scratch")

    def schedule(self, rows: int, *, pretraining: bool = False) -> TrainingSchedule:
        """How long to train on so many rows, and how fast."""
        epochs, most = (self.pretrain_epochs, self.pretrain_steps) if pretraining else (self.epochs, self.max_steps)
        steps = min(most, epochs * -(-rows // (self.batch_size * self.accumulate)))
        rate = self.learning_rate or (3e-3 if self.model == SCRATCH else 1e-4 if self.adapter is None else 1e-3)
        patience = 0 if pretraining else self.patience
        return TrainingSchedule(
            steps, self.batch_size, rate, self.weight_decay, patience, self.accumulate, self.precision
        )

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty)
