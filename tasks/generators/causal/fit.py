"""The fit of the language model generator: its tokens, then one or two trainings that survive a kill."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from augmill.tasks.contracts import ROW_ID, STRATUM, Context, FitInputs
from augmill.tasks.errors import DataError, DeadlineExceeded, UserError
from augmill.tasks.generators.causal.adapter import Adapted
from augmill.tasks.generators.causal.checkpoint import Checkpoints, training_key
from augmill.tasks.generators.causal.options import SCRATCH, CausalLMOptions
from augmill.tasks.generators.lm.load import END, Pretrained, add_tokens, banned_tokens, load_pretrained
from augmill.tasks.generators.lm.losses import IGNORED, Example, causal_loss
from augmill.tasks.generators.lm.models import find_model
from augmill.tasks.generators.lm.train import (
    SELECT_MIN_ROWS,
    Hooks,
    ModelTraining,
    is_select,
    scratch_model,
    train,
    train_tokenizer,
)
from augmill.tasks.generators.lm.vocabulary import trim

if TYPE_CHECKING:
    from augmill.tasks.generators.causal.options import CausalLMOptions


# --- Losses of a training, an epoch at a time, to TensorBoard or Weights & Biases (the extra `loggers`) ---------------


_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}


def require_logger(log_to: str) -> None:
    if log_to != "none" and importlib.util.find_spec(_PACKAGES[log_to]) is None:
        raise UserError(
            f"{_PACKAGES[log_to]} is not installed",
            where=f"causal_lm: log_to {log_to}",
            fix="pip install 'augmill[loggers]', or set `log_to: none`",
        )


class Losses:
    """Writes under ``directory``/``name``; nothing for ``none``. ``close`` ends it."""

    def __init__(self, log_to: str, directory: Path, name: str) -> None:
        self._write, self.close = _open(log_to, directory, name)

    def after_epoch(self, training: ModelTraining) -> None:
        record = training.record
        last = {kind: record[kind][-1] for kind in ("train_loss", "select_loss") if record[kind]}
        self._write(last, record["steps"])


def _open(log_to: str, directory: Path, name: str) -> tuple[Callable[[dict[str, float], int], None], Callable[[], Any]]:
    require_logger(log_to)
    if log_to == "none":
        return lambda values, step: None, lambda: None
    directory.mkdir(parents=True, exist_ok=True)
    if log_to == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        writer: Any = SummaryWriter(str(directory / name))

        def write(values: dict[str, float], step: int) -> None:
            for kind, value in values.items():
                writer.add_scalar(f"causal_lm/{kind}", value, step)

        return write, writer.close
    run = importlib.import_module("wandb").init(
        project="augmill", name=name, dir=str(directory)
    )  # WANDB_MODE, WANDB_API_KEY: its own
    return lambda values, step: run.log(values, step=step), run.finish


# --- Rows as a language model's tokens, `[start] <label> text <end>` with a second `text <end>` for a pair, and -------


Tokens = list[list[int]]


class TokenRows:
    """Train rows in the order of their ids, so that the order of the table changes nothing."""

    def __init__(self, train: pa.Table, fields: tuple[str, ...]) -> None:
        table = train.select([ROW_ID, STRATUM, *fields]).sort_by(ROW_ID)
        self.strata: list[str] = table[STRATUM].to_pylist()
        columns = [table[name].to_pylist() for name in fields]
        self.texts = [tuple((text or "").strip() for text in row) for row in zip(*columns, strict=True)]


def encode(
    base: Pretrained, plan: dict[str, Any], rows: TokenRows, options: CausalLMOptions, ctx: Context
) -> tuple[Tokens, Tokens]:
    """(rows to learn from, select rows) as token ids, those within the length bound.

    Notes in ``plan`` how long a sampled row may be. Raises DataError where no row is within the bound.
    """
    bound = _bound(base, options)
    labels = [plan["labels"][stratum] for stratum in rows.strata]
    tokens = _tokens(base, plan, labels, rows)
    kept = [at for at, row in enumerate(tokens) if len(row) <= bound]
    plan["too_long"] = len(tokens) - len(kept)
    if not kept:
        raise DataError(
            f"expected train rows of at most {bound} tokens, found {len(tokens)} rows, all longer",
            where="causal_lm",
            fix="raise `max_length`, or use a model that takes longer texts",
        )
    if plan["too_long"]:
        ctx.log.warning("causal_lm: %d of %d train rows exceed %d tokens", plan["too_long"], len(tokens), bound)
    plan["max_new_tokens"] = max(len(tokens[at]) for at in kept) - len(plan["start"]) - 1
    select = {at for at in kept if options.patience and _is_select(rows.texts[at])}
    if len(select) < SELECT_MIN_ROWS:
        select = set()
    return [tokens[at] for at in kept if at not in select], [tokens[at] for at in kept if at in select]


def encode_unlabelled(
    base: Pretrained, plan: dict[str, Any], unlabelled: TokenRows, rows: TokenRows, options: CausalLMOptions
) -> Tokens:
    """Unlabelled rows within the length bound, behind the token for no label; none that a select row repeats.

    Raises DataError where no row is left.
    """
    select = {texts for texts in rows.texts if options.patience and _is_select(texts)}
    tokens = _tokens(base, plan, [plan["unlabelled"]] * len(unlabelled.texts), unlabelled)
    bound = _bound(base, options)
    kept = [
        row for row, texts in zip(tokens, unlabelled.texts, strict=True) if len(row) <= bound and texts not in select
    ]
    if not kept:
        raise DataError(
            f"expected unlabelled rows of at most {bound} tokens, found {len(tokens)} rows, all longer",
            where="causal_lm: pretrain_on",
            fix="raise `max_length`, or set `pretrain_on: none`",
        )
    return kept


def _tokens(base: Pretrained, plan: dict[str, Any], labels: list[int], rows: TokenRows) -> Tokens:
    tokens = []
    for label, texts in zip(labels, rows.texts, strict=True):
        row = [*plan["start"], label]
        for text in texts:
            row += [*base.tokenizer.encode(text, add_special_tokens=False).ids, plan["end"]]
        tokens.append(row)
    return tokens


def _bound(base: Pretrained, options: CausalLMOptions) -> int:
    positions: int | None = getattr(base.model.config.get_text_config(), "max_position_embeddings", None)
    return min(options.max_length, positions or options.max_length)


def _is_select(texts: tuple[str, ...]) -> bool:
    return is_select("\x1f".join(texts))


def read_row(
    tokens: list[int], whole: bool, tokenizer: Any, end: int, fields: int
) -> tuple[list[str] | None, str | None]:
    """(the row's texts, None), or (None, why it cannot be delivered)."""
    if not whole:
        return None, "too_long"
    texts = []
    for _ in range(fields):
        stop = tokens.index(end)
        texts.append(tokenizer.decode(tokens[:stop], skip_special_tokens=False).strip())
        tokens = tokens[stop + 1 :]
    if not all(texts):
        return None, "empty"
    if any("\ufffd" in text for text in texts):  # what a decoder puts where bytes are no UTF-8
        return None, "undecodable"
    return texts, None


# --- The fit ----------------------------------------------------------------------------------------------------------


UNLABELLED = "<|unlabelled|>"
_WORDS = re.compile(r"[\W_]+|(?<=[a-z])(?=[A-Z])")  # where a label such as `AddToPlaylist` or `card_lost` splits


def require_time(ctx: Context) -> None:
    if ctx.out_of_time():
        raise DeadlineExceeded("the language model ran out of time", where="causal_lm", fix="raise run.shard_minutes")


def model_path(options: CausalLMOptions) -> Path:
    """The model's directory. Raises as ``find_model`` does."""
    trust, pickle = options.trust_remote_code, options.allow_pickle
    return find_model(
        options.model, options.revision, trust_remote_code=trust, allow_pickle=pickle, others="`scratch`, "
    )


def fit_model(options: CausalLMOptions, inputs: FitInputs, ctx: Context) -> tuple[Pretrained, dict[str, Any]]:
    """The trained model and the plan that sampling goes by. Torch's generator is seeded by the caller, and changed."""
    import torch

    if options.precision == "float16" and not ctx.device.startswith("cuda"):
        raise UserError(
            f"float16 needs a GPU, but this fit runs on {ctx.device}",
            where="causal_lm: precision",
            fix="set `precision: bfloat16` or `float32`, or give a GPU in run.devices",
        )
    seed = fit_seed(ctx.seed)
    torch.manual_seed(seed)  # weights and dropout
    rows = TokenRows(inputs.train, ctx.fields)
    pretraining = options.pretrain_on == "unlabelled"
    unlabelled = TokenRows(inputs.unlabelled if pretraining else inputs.unlabelled.slice(0, 0), ctx.fields)
    if pretraining and not unlabelled.texts:
        raise DataError(
            "expected unlabelled rows to train on first, found none",
            where="causal_lm: pretrain_on",
            fix="check `unlabelled`, or set `pretrain_on: none`",
        )
    base, plan = _prepare(rows, unlabelled, options)
    learnt, select = encode(base, plan, rows, options, ctx)
    base.model.to(ctx.device)
    run = _Run(options, ctx, base, plan)
    if pretraining:
        before = _vectors(base.model, [plan["unlabelled"]])
        texts = encode_unlabelled(base, plan, unlabelled, rows, options)
        plan["pretraining"] = run.train(texts, [], seed + (1 << 64), last=False)
        _move_labels(run.base.model, plan, before)
    plan["training"] = run.train(learnt, select, seed, last=True)
    for checkpoints in run.written:
        checkpoints.clear()
    return run.base, plan


def fit_seed(seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"causal_lm {seed}".encode()).digest()[:8], "little") >> 1


def _prepare(rows: TokenRows, unlabelled: TokenRows, options: CausalLMOptions) -> tuple[Pretrained, dict[str, Any]]:
    """The model to train with its tokens for labels and the end, and the plan that ``sample`` goes by."""
    labels = sorted(set(rows.strata))
    names = {label: f"<|label:{index}|>" for index, label in enumerate(labels)}
    extra = [UNLABELLED] if options.pretrain_on == "unlabelled" else []
    texts = [text for row in (*rows.texts, *unlabelled.texts) for text in row]
    if options.model == SCRATCH:
        specials = [END, *names.values(), *extra]
        tokenizer = train_tokenizer(texts, specials, options.vocabulary)
        model = scratch_model(
            tokenizer.get_vocab_size(), options.max_length, 0,
            layers=options.layers, hidden=options.hidden, heads=options.heads,
        )  # fmt: skip
        base, ids = Pretrained(model, tokenizer, None, 0), {name: tokenizer.token_to_id(name) for name in specials}
    else:
        base = load_pretrained(
            model_path(options), trust_remote_code=options.trust_remote_code, allow_pickle=options.allow_pickle
        )
        new = {name: _WORDS.sub(" ", label).strip() for label, name in names.items()} | dict.fromkeys(extra, "")
        base.tokenizer.encode_special_tokens = True  # a user's text that holds `<|end|>` is text
        if options.keep_tokens == "seen":
            base = trim(base, [*texts, *new.values()])
        ids = add_tokens(base.model, base.tokenizer, new | ({END: ""} if base.end is None else {}))
    end = ids[END] if base.end is None else base.end
    plan = {
        "labels": {label: ids[name] for label, name in names.items()},
        "start": [] if base.start is None else [base.start],
        "end": end,
        "banned": banned_tokens(base.model, base.tokenizer, end),
    }
    plan |= {"unlabelled": ids[UNLABELLED]} if extra else {}
    if others := sorted({letter for row in rows.texts for text in row for letter in text if not letter.isascii()}):
        # A model from scratch knows no others: it would guess their bytes (in 261 of 300 rows of TNEWS it did).
        plan["characters"] = "".join(others) if options.model == SCRATCH else ""
    base.tokenizer.encode_special_tokens = True  # a user's text that holds `<|end|>` is text
    return base, plan


class _Run:
    """The trainings of one fit, one after the other, on the same model."""

    def __init__(self, options: CausalLMOptions, ctx: Context, base: Pretrained, plan: dict[str, Any]) -> None:
        self.options, self.ctx, self.base = options, ctx, base
        self.prompt = len(plan["start"]) + 1
        # The end's vector too, where the model had none: it is as new as the labels'.
        self.ends = [plan["end"]] if base.end is None else []
        labels = {*plan["labels"].values(), plan.get("unlabelled", plan["end"])} - {plan["end"]}
        self.tokens = [*sorted(labels), *self.ends]
        self.written: list[Checkpoints] = []

    def train(self, rows: Tokens, select: Tokens, seed: int, *, last: bool) -> dict[str, Any]:
        """Trains and merges. The end of a training that is not the last is noted too: the next one stands on it."""
        options, ctx, model = self.options, self.ctx, self.base.model
        schedule = options.schedule(len(rows), pretraining=not last)
        adapted = None
        if options.adapter:
            adapted = Adapted(model, options.adapter, self.tokens, self.ends, schedule.steps, schedule.precision)
        model = adapted.model if adapted else model
        key = ""
        if ctx.scratch is not None or options.log_to != "none":
            key = training_key(model, [rows, select], schedule, self._decided(seed))
        checkpoints = None
        if ctx.scratch is not None and options.checkpoint_minutes:
            checkpoints = Checkpoints(ctx.scratch, key, options.checkpoint_minutes * 60, adapted)
            self.written.append(checkpoints)
        losses = Losses(options.log_to, Path(options.log_dir), f"causal_lm-{key[:12]}")
        hooks = _hooks(ctx, schedule.steps, checkpoints, adapted, losses)
        rng, learnt = np.random.Generator(np.random.Philox(key=seed)), self._examples(rows)
        try:
            training = train(model, lambda rng: learnt, causal_loss, schedule, rng, hooks, self._examples(select))
        finally:
            losses.close()
        if checkpoints and not last:
            checkpoints.save(training)
        self.base = dataclasses.replace(self.base, model=adapted.merge() if adapted else model)
        return training.record

    def _examples(self, rows: Tokens) -> list[Example]:
        """What stands before a text is given, not learnt."""
        return [(row, [IGNORED] * self.prompt + row[self.prompt :]) for row in rows]

    def _decided(self, seed: int) -> dict[str, Any]:
        """What else decides a training: the options beside the model's place, this machine's libraries in full."""
        kept = [item for item in dataclasses.fields(self.options) if item.metadata.get("identity") is not False]
        options = {item.name: getattr(self.options, item.name) for item in kept if item.name != "model"}
        options["adapter"] = dataclasses.asdict(self.options.adapter) if self.options.adapter else None
        libraries = ["torch", "transformers", *(["peft"] if self.options.adapter else [])]
        versions = {name: importlib.metadata.version(name) for name in libraries}
        where = {"device": self.ctx.device, "threads": self.ctx.threads, "seed": seed}
        return {"options": options, "libraries": versions} | where


def _hooks(ctx: Context, steps: int, checkpoints: Checkpoints | None, adapted: Adapted | None, losses: Losses) -> Hooks:
    def before_step(training: ModelTraining) -> None:
        ctx.tell(training.record["steps"], steps, "steps")
        if checkpoints:
            (checkpoints.save if ctx.out_of_time() else checkpoints.save_if_due)(training)
        require_time(ctx)

    given: dict[str, Any] = {"before_step": before_step, "after_epoch": losses.after_epoch}
    if checkpoints:
        given["begin"] = checkpoints.restore
    if adapted:
        given |= {"after_step": adapted.after_step, "extra_loss": adapted.extra_loss}
    return Hooks(**given)


def _vectors(model: Any, ids: list[int]) -> Any:
    return model.get_input_embeddings().weight.detach()[ids].clone()


def _move_labels(model: Any, plan: dict[str, Any], before: Any) -> None:
    """Every label's vector goes where that of `no label` went: the second training begins with a model of the texts."""
    import torch

    labels = list(plan["labels"].values())
    with torch.no_grad():
        weight = model.get_input_embeddings().weight
        weight[labels] += weight[[plan["unlabelled"]]] - before
