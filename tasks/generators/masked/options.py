"""What a recipe may say to `masked_lm`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from augmill.tasks.generators.lm.decode import Precision

SCRATCH = "scratch"


@dataclass(frozen=True)
class MaskedLMOptions:
    """Which model, how long it is trained, what is masked, how words are drawn."""

    model: str = field(
        default=SCRATCH,
        metadata={
            "file": True,
            "hub": True,
            "help": "`scratch` trains a small BERT on the train rows; or a local directory or a hub id (with `revision`) "
            "of a masked language model (BERT, RoBERTa, DeBERTa, ...).",
        },
    )
    revision: str = field(default="", metadata={"help": "40-digit commit of a hub model; needed for hub ids."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Runs code that comes with the model."})
    allow_pickle: bool = field(
        default=False, metadata={"help": "Reads weights from pickle files if there are no safetensors."}
    )
    change: Literal["one", "all", "text", "text_b", "text_c", "text_d"] = field(
        default="one",
        metadata={"help": "Which text columns of a row are changed: one, drawn at random; all; or the named one."},
    )
    mask_share: float = field(
        default=0.2,
        metadata={"help": "Share of a text's words that are replaced (of its characters in Chinese), at least one."},
    )
    protect_names: bool = field(
        default=True,
        metadata={
            "help": "Keeps capitalised words that begin no sentence, unless most words of the text are capitalised, and "
            "words such as iPhone."
        },
    )
    protect_numbers: bool = field(default=True, metadata={"help": "Keeps words that contain a digit."})
    protect_words: tuple[str, ...] = field(
        default=(), metadata={"help": "Words and phrases that are kept, in any case: `[not, New York]`."}
    )
    protect_file: str | None = field(
        default=None,
        metadata={"file": True, "help": "Text file with more such words, one per line; `#` starts a comment line."},
    )
    may_stay: bool = field(
        default=False,
        metadata={
            "help": "Whether a masked word may be drawn again: texts are likelier, but more of them are `unchanged`."
        },
    )
    max_length: int = field(
        default=128,
        metadata={"help": "Longest row in tokens; longer rows are neither trained on nor used as parents."},
    )
    epochs: int | None = field(
        default=None, metadata={"help": "Passes over the train rows; when null, 60 for `scratch` and 10 otherwise."}
    )
    max_steps: int = field(
        default=600, metadata={"help": "Maximum number of training steps, however many rows there are."}
    )
    batch_size: int = field(default=32, metadata={"help": "Rows per training step."})
    learning_rate: float | None = field(
        default=None, metadata={"help": "Peak rate of AdamW; when null, 2e-3 for `scratch` and 5e-5 otherwise."}
    )
    weight_decay: float = field(default=0.1, metadata={"help": "Decoupled weight decay of matrices."})
    vocabulary: int = field(
        default=5000,
        metadata={"help": "`scratch` only: characters and the most frequent words; rare characters may exceed it."},
    )
    layers: int = field(default=2, metadata={"help": "`scratch` only: transformer layers."})
    hidden: int = field(default=128, metadata={"help": "`scratch` only: width; a multiple of `heads`."})
    heads: int = field(default=4, metadata={"help": "`scratch` only: attention heads."})
    temperature: float = field(default=1.0, metadata={"help": "Below 1: likelier rows that are more alike."})
    top_k: int = field(default=50, metadata={"help": "Number of tokens to draw from at each place."})
    top_p: float = field(default=0.95, metadata={"help": "Smallest set of the top k with this probability."})
    decode_batch: int = field(
        default=256,
        metadata={"help": "Number of rows filled at a time.", "identity": False, "why": "a row has its own noise"},
    )
    decode_precision: Precision = field(
        default="auto",
        metadata={
            "help": "The precision of the model while rows are drawn: `float32`, `bfloat16`, or `auto`, which is bfloat16 "
            "for models 256 wide or wider, on any machine. Choose `float32` on a CPU without AVX512-BF16 or AMX."
        },
    )

    def __post_init__(self) -> None:
        bounds = {
            "mask_share": (0.01, 1), "max_length": (4, 1 << 20), "max_steps": (1, 10_000_000), "batch_size": (1, 4096),
            "weight_decay": (0, 1), "vocabulary": (100, 1 << 20), "layers": (1, 96), "hidden": (8, 16384),
            "heads": (1, 256), "temperature": (0.01, 10), "top_k": (1, 1 << 20), "top_p": (0.01, 1),
            "decode_batch": (1, 65536),
        }  # fmt: skip
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if not low <= value <= high:  # also refuses NaN
                raise ValueError(f"{name}: expected a number from {low} to {high}; found {value}")
        if self.epochs is not None and not 1 <= self.epochs <= 10_000:
            raise ValueError(f"epochs: expected a number from 1 to 10000 (labels are learnt); found {self.epochs}")
        if self.learning_rate is not None and not 0 < self.learning_rate <= 1:
            raise ValueError(f"learning_rate: expected a number above 0 and at most 1; found {self.learning_rate}")
        if self.hidden % self.heads:
            raise ValueError(f"hidden: expected a multiple of heads ({self.heads}); found {self.hidden}")
