"""What a recipe may say to `seq2seq`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from augmill.tasks.generators.lm.decode import Precision
from augmill.tasks.generators.lm.rewriting import check_decoding

SCRATCH = "scratch"

Change = Literal["one", "all", "text", "text_b", "text_c", "text_d"]


@dataclass(frozen=True)
class Seq2SeqOptions:
    """Which model, what it is asked, how long it is trained, how its answers are drawn."""

    mode: Literal["infill", "paraphrase"] = field(
        default="infill",
        metadata={
            "help": "`infill` fills spans of a real row, given its class, after fine-tuning on the train rows; "
            "`paraphrase` asks a pretrained model to rewrite a real row."
        },
    )
    model: str = field(
        default=SCRATCH,
        metadata={
            "file": True,
            "hub": True,
            "help": "`scratch` trains a small model on the train rows (`infill` only); or a local directory or a hub id "
            "(with `revision`) of a sequence-to-sequence model. `infill` takes T5 (sentinels) and BART (mask token).",
        },
    )
    revision: str = field(default="", metadata={"help": "40-digit commit of a hub model; needed for hub ids."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Runs code that comes with the model."})
    allow_pickle: bool = field(
        default=False, metadata={"help": "Reads weights from pickle files if there are no safetensors."}
    )
    prefix: str = field(
        default="", metadata={"help": "`paraphrase` only: text put before each row, such as `paraphrase: `."}
    )
    change: Change = field(
        default="one",
        metadata={"help": "Which text columns of a row are rewritten: one, drawn at random; all; or the named one."},
    )
    mask_share: float = field(
        default=0.3, metadata={"help": "`infill` only: share of a text's words that is refilled."}
    )
    span_words: int = field(default=3, metadata={"help": "`infill` only: maximum number of words in a span."})
    max_length: int = field(
        default=128,
        metadata={
            "help": "Longest source and target in tokens; longer rows are neither trained on nor used as parents."
        },
    )
    epochs: int | None = field(
        default=None,
        metadata={
            "help": "Passes over the train rows; when null, 60 for `infill` and 0 for `paraphrase`. Above 0, `paraphrase` "
            "learns to rewrite a row as another one of its class."
        },
    )
    max_steps: int = field(
        default=600, metadata={"help": "Maximum number of training steps, however many rows there are."}
    )
    batch_size: int = field(default=32, metadata={"help": "Rows per training step."})
    learning_rate: float | None = field(
        default=None, metadata={"help": "Peak rate of AdamW; when null, 3e-3 for `scratch` and 1e-4 otherwise."}
    )
    weight_decay: float = field(default=0.1, metadata={"help": "Decoupled weight decay of matrices."})
    vocabulary: int = field(
        default=1000, metadata={"help": "`scratch` only: size of the BPE, which rare characters may exceed."}
    )
    layers: int = field(
        default=2, metadata={"help": "`scratch` only: layers of the encoder, and as many of the decoder."}
    )
    hidden: int = field(default=128, metadata={"help": "`scratch` only: width; a multiple of `heads`."})
    heads: int = field(default=4, metadata={"help": "`scratch` only: attention heads."})
    beams: int = field(
        default=0,
        metadata={
            "help": "`paraphrase` only. 0: a row is sampled. Above 0: its source is searched with this many beams, and the "
            "seed picks one."
        },
    )
    temperature: float = field(default=0.9, metadata={"help": "Below 1: likelier rows that are more alike."})
    top_k: int = field(default=50, metadata={"help": "Number of tokens to draw from at each step."})
    top_p: float = field(default=0.95, metadata={"help": "Smallest set of the top k with this probability."})
    min_p: float = field(default=0.0, metadata={"help": "Drops tokens less likely than this share of the likeliest."})
    repetition_penalty: float = field(
        default=1.0, metadata={"help": "Above 1: penalises tokens that the target already has."}
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

    def __post_init__(self) -> None:
        check_decoding(self, {
            "mask_share": (0.01, 1), "span_words": (1, 1000), "max_steps": (1, 10_000_000), "batch_size": (1, 4096),
            "weight_decay": (0, 1), "vocabulary": (300, 1 << 20), "layers": (1, 96), "hidden": (8, 16384),
            "heads": (1, 256),
        })  # fmt: skip
        if self.epochs is not None and not (self.mode == "paraphrase") <= self.epochs + 1 <= 10_001:
            raise ValueError(f"epochs: expected a number from 0 to 10000; found {self.epochs}")
        if self.mode == "infill" and self.epochs == 0:
            raise ValueError("epochs: `infill` has to learn the labels; expected 1 or more; found 0")
        if self.learning_rate is not None and not 0 < self.learning_rate <= 1:
            raise ValueError(f"learning_rate: expected a number above 0 and at most 1; found {self.learning_rate}")
        if self.hidden % self.heads:
            raise ValueError(f"hidden: expected a multiple of heads ({self.heads}); found {self.hidden}")
        if self.mode == "paraphrase" and self.model == SCRATCH:
            raise ValueError(
                "model: `paraphrase` needs a pretrained model, a local directory or a hub id; found scratch"
            )
