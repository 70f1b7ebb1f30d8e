"""What a recipe may say to `chat`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

REDACTIONS = ("email", "phone", "card", "cn_id", "ip", "iban", "url")
_WHERE = "what counts is which model answers, not where it is served"
Redaction = Literal["email", "phone", "card", "cn_id", "ip", "iban", "url"]


@dataclass(frozen=True)
class Egress:
    """What may leave this machine, and to whom."""

    hosts: tuple[str, ...] = field(
        metadata={"help": "Hosts that may be asked, written as in `base_url`.", "identity": False, "why": _WHERE}
    )
    columns: tuple[str, ...] = field(
        metadata={
            "help": "Which of the text columns (`text`, `text_b`, ...) of real rows may be sent, and `target` where that is a "
            "text; an empty list sends no real row, and prompts have no examples."
        }
    )
    redact: tuple[Redaction, ...] = field(
        metadata={"help": "What is replaced by placeholders such as `[EMAIL_1]` in everything that is sent."}
    )
    plain_http: bool = field(
        default=False,
        metadata={
            "help": "Lets rows and the key travel unencrypted (`http://`), for use within a cluster.",
            "identity": False,
            "why": _WHERE,
        },
    )


@dataclass(frozen=True)
class Secret:
    """Where a secret stands; it is read when it is used, and written nowhere."""

    env: str | None = field(default=None, metadata={"help": "Name of an environment variable."})
    file: str | None = field(default=None, metadata={"help": "Path of a file that holds nothing else."})

    def __post_init__(self) -> None:
        if (self.env is None) == (self.file is None):
            raise ValueError("api_key: expected `{env: NAME}` or `{file: PATH}`, not both")
        if self.env is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.env):
            raise ValueError("api_key: expected the name of an environment variable, such as CHAT_KEY; found none")


@dataclass(frozen=True)
class ChatOptions:
    """Who is asked, what stands in a prompt, what is accepted, and what it may cost."""

    model: str = field(
        metadata={
            "file": True,
            "hub": True,
            "help": "An instruct model: a local directory or a hub id (with `revision`) for `local` and `vllm`; the "
            "server's name for the model for `endpoint`.",
        }
    )
    backend: Literal["local", "vllm", "endpoint"] = field(
        default="local",
        metadata={
            "help": "`local`: transformers, with the model's own chat template; `vllm`: vLLM in this process (extra "
            "`vllm`); `endpoint`: any server that speaks OpenAI's chat completions."
        },
    )
    revision: str = field(default="", metadata={"help": "40-digit commit of a hub model; needed for hub ids."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Runs code that comes with the model."})
    allow_pickle: bool = field(
        default=False, metadata={"help": "Reads weights from pickle files if there are no safetensors."}
    )
    dtype: Literal["float32", "bfloat16", "float16"] = field(
        default="float32", metadata={"help": "Precision of the weights while they are used; no effect at an endpoint."}
    )
    task: str = field(
        default="",
        metadata={
            "help": "What the rows are, in a sentence or two, in any language: `Questions that customers ask a bank.`"
        },
    )
    definitions: dict[str, str] = field(
        default_factory=dict, metadata={"help": "What each label means; a label not named here stands for itself."}
    )
    examples: int = field(
        default=5, metadata={"help": "Real rows of the class in a prompt; they become the parents of its rows."}
    )
    choice: Literal["random", "nearest", "diverse", "hardest"] = field(
        default="random",
        metadata={
            "help": "Which rows: random ones; a drawn row and those nearest to it by TF-IDF; a drawn row and those "
            "farthest from it and from each other (k-centre); or rows from the quarter that a cross-fitted "
            "classifier knows least well."
        },
    )
    rows_per_call: int = field(default=5, metadata={"help": "Rows that one call asks for."})
    attributes: dict[str, tuple[str, ...]] = field(
        default_factory=dict,
        metadata={
            "help": "Axes and their values; each call gets one value of each (AttrPrompt): `{length: [a few words, two "
            "sentences], style: [formal, angry], topic: [travel, fees]}`."
        },
    )
    write: Literal["rows", "questions"] = field(
        default="rows",
        metadata={
            "help": "Of texts to be answered: `rows`: new questions with their answers; `questions`: a real question in other "
            "words, whose answer is kept (of a dialogue what its user says, all else stays).",
            "later": True,
        },
    )
    documents: str | None = field(
        default=None,
        metadata={
            "file": True,
            "help": "Of texts to be answered, with `write: rows`: a text file or a directory of such (`.txt`, `.md`). Each call "
            "shows a passage, and each answer has to name the words of it that it stands in. An endpoint is sent "
            "these passages.",
            "later": True,
        },
    )
    temperature: float = field(default=1.0, metadata={"help": "Below 1: likelier rows that are more alike."})
    top_p: float = field(default=0.95, metadata={"help": "Tokens are drawn from the smallest set of this probability."})
    top_k: int = field(default=50, metadata={"help": "`local` and `vllm`: tokens to draw from at each step."})
    max_new_tokens: int = field(default=1024, metadata={"help": "Maximum length of one answer, with all its rows."})
    max_chars: int = field(
        default=2000, metadata={"help": "A longer text is not accepted, and a real row with one is never shown."}
    )
    decode_batch: int = field(
        default=32,
        metadata={"help": "Number of calls decoded at a time.", "identity": False, "why": "a call has its own noise"},
    )
    base_url: str = field(
        default="",
        metadata={
            "help": "`endpoint`: the address before `/chat/completions`, such as `http://127.0.0.1:8000/v1`.",
            "identity": False,
            "why": _WHERE,
        },
    )
    api_key: Secret | None = field(
        default=None,
        metadata={
            "help": "`endpoint`: `{env: NAME}` or `{file: PATH}`; never the key itself.",
            "identity": False,
            "why": "who pays changes no row",
        },
    )
    egress: Egress | None = field(
        default=None,
        metadata={
            "help": "`endpoint`: `{hosts: [...], columns: [...], redact: [...]}`: what may be sent, and to which hosts. "
            "Required for every host other than this machine."
        },
    )
    parameters: dict[str, str] = field(
        default_factory=dict,
        metadata={
            "help": "`endpoint`: the server's names for `max_tokens`, `temperature`, `top_p` and `seed`; an empty name "
            "leaves the parameter out: `{max_tokens: max_completion_tokens, seed: ''}`."
        },
    )
    keep_placeholders: bool = field(
        default=False, metadata={"help": "`endpoint`: accepts rows that contain a placeholder such as `[EMAIL_1]`."}
    )
    max_requests: int | None = field(
        default=None, metadata={"help": "`endpoint`: maximum number of requests, over all shards and attempts."}
    )
    max_tokens: int | None = field(
        default=None, metadata={"help": "`endpoint`: maximum number of tokens, in and out together."}
    )
    max_cost: float | None = field(
        default=None, metadata={"help": "`endpoint`: maximum cost, by `price_in` and `price_out`."}
    )
    price_in: float = field(
        default=0.0,
        metadata={"help": "Price of a million tokens sent.", "identity": False, "why": "a price changes no row"},
    )
    price_out: float = field(
        default=0.0,
        metadata={"help": "Price of a million tokens received.", "identity": False, "why": "a price changes no row"},
    )
    timeout: float = field(
        default=120.0,
        metadata={"help": "Seconds a request may take.", "identity": False, "why": "a request is tried again"},
    )
    tries: int = field(
        default=6,
        metadata={
            "help": "Maximum number of tries for one request.",
            "identity": False,
            "why": "a failed request is asked again",
        },
    )
    max_parallel: int = field(
        default=16,
        metadata={
            "help": "Maximum number of requests under way at once; the actual number adapts to what the server takes.",
            "identity": False,
            "why": "a request has its own seed",
        },
    )

    def __post_init__(self) -> None:
        bounds: dict[str, tuple[float, float]] = {
            "examples": (0, 100), "rows_per_call": (1, 100), "temperature": (0.01, 10), "top_p": (0.01, 1),
            "top_k": (1, 1 << 20), "max_new_tokens": (8, 1 << 20), "max_chars": (1, 1 << 20),
            "decode_batch": (1, 65536), "price_in": (0, 1e9), "price_out": (0, 1e9), "timeout": (0.01, 86400),
            "tries": (1, 1000), "max_parallel": (1, 1024), "max_requests": (0, 1 << 60), "max_tokens": (0, 1 << 60),
            "max_cost": (0, 1e12),
        }  # fmt: skip
        for name, (low, high) in bounds.items():
            value: Any = getattr(self, name)
            if value is not None and not low <= value <= high:  # also refuses NaN
                raise ValueError(f"{name}: expected a number from {low} to {high}; found {value}")
        if self.documents is not None and self.write != "rows":
            raise ValueError("documents: only for `write: rows`; an answer that is kept was not made of them")
        if not self.model.strip():
            raise ValueError("model: expected a name or a directory; found nothing")
        if (self.backend == "endpoint") != bool(self.base_url):
            raise ValueError(f"base_url: only for `endpoint`, which needs it; found {self.base_url!r}")
        if unknown := sorted(set(self.parameters) - {"max_tokens", "temperature", "top_p", "seed"}):
            raise ValueError(f"parameters: expected max_tokens, temperature, top_p or seed; found {', '.join(unknown)}")
        if self.max_cost is not None and not self.price_in + self.price_out:
            raise ValueError("max_cost: needs `price_in` and `price_out`; both are 0")
        if empty := [axis for axis, values in self.attributes.items() if not values]:
            raise ValueError(f"attributes: expected values for each axis; found none for {empty}")
