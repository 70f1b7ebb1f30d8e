"""The vocabulary of a pretrained causal model cut to what its rows need: most of its head, and of a step, goes with it.

A large vocabulary is for every language; the 262,144 tokens of a 270 M model took more than half of a training step.
Kept are the tokens of the given texts, the commonest others, and each byte, so that every text can still be written.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from augmill.tasks.errors import UserError
from augmill.tasks.generators.lm.load import Pretrained, resize
from augmill.tasks.generators.lm.utf8 import BYTE, byte_of_character

COMMONEST = 8192  # tokens by the order of the tokenizer's merges: 5 % of a step of the 270 M model


def trim(base: Pretrained, texts: Sequence[str]) -> Pretrained:
    """The model and its tokenizer with fewer tokens; the model is changed in place.

    The given texts have the same tokens under other numbers, and the logits of those that are kept are the same. Only
    where more than half would go, and of a BPE. Raises UserError where the model's logits do hang on its other tokens.
    """
    import torch
    from tokenizers import Tokenizer

    layout = json.loads(base.tokenizer.to_str())
    old = [encoding.ids for encoding in base.tokenizer.encode_batch(list(texts), add_special_tokens=False)]
    vocabulary = base.model.get_input_embeddings().num_embeddings
    kept = _kept(base, layout, {token for row in old for token in row})
    if kept is None or 2 * len(kept) > vocabulary:
        return base
    number = {token: at for at, token in enumerate(kept)}
    tokenizer = Tokenizer.from_str(json.dumps(_cut(layout, number), ensure_ascii=False))
    tokenizer.encode_special_tokens = base.tokenizer.encode_special_tokens
    new = [encoding.ids for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)]
    if new != [[number[token] for token in row] for row in old]:
        return base  # a BPE with rules that `_kept` does not know
    probe = max(old, key=len, default=[])[:16] or kept[:1]
    before = _logits(base.model, probe)[:, kept]
    _shrink(base.model, kept, number)
    after = _logits(base.model, [number[token] for token in probe])
    if not torch.allclose(before, after, rtol=1e-3, atol=1e-2):
        raise UserError(
            "this model cannot do with a part of its vocabulary: it uses the numbers of tokens elsewhere too",
            where="causal_lm: keep_tokens",
            fix="set `keep_tokens: all`",
        )
    ends = [None if token is None else number[token] for token in (base.start, base.end)]
    return replace(base, tokenizer=tokenizer, start=ends[0], end=ends[1])


def _kept(base: Pretrained, layout: dict[str, Any], seen: set[int]) -> list[int] | None:
    """The old ids, in their order; None where the tokenizer is no plain BPE."""
    model = layout["model"]
    affixes = (model.get("continuing_subword_prefix"), model.get("end_of_word_suffix"))
    if model["type"] != "BPE" or any(affixes):
        return None
    ids: dict[str, int] = model["vocab"]
    merges = _merges(model)
    names = {at: name for name, at in ids.items()}
    kept = {names[token] for token in seen if token in names}
    # All that a kept token may be merged from. So the merges that a seen text goes through are all there, and as the
    # rest keep their order, each is still the first that applies: the text has the tokens that it had.
    before = -1
    while before != len(kept):
        before = len(kept)
        for first, second in reversed(merges):
            if first + second in kept:
                kept |= {first, second}
    alphabet = {*byte_of_character(), "▁"}  # a space, which by its bytes would be read as this mark
    kept |= {name for name in ids if (len(name) == 1 and (name.isascii() or name in alphabet)) or BYTE.fullmatch(name)}
    common = list(dict.fromkeys(first + second for first, second in merges[: 4 * COMMONEST]))[:COMMONEST]
    own = {model.get("unk_token")}
    found = {ids[name] for name in {*kept, *common, *own} if name in ids}
    return sorted(found | seen | {token for token in (base.start, base.end) if token is not None})


def _cut(layout: dict[str, Any], number: dict[int, int]) -> dict[str, Any]:
    """The tokenizer's layout with these tokens alone."""
    model = layout["model"]
    vocabulary = {name: number[at] for name, at in model["vocab"].items() if at in number}
    merges = [[a, b] for a, b in _merges(model) if a in vocabulary and b in vocabulary and a + b in vocabulary]
    added = [token | {"id": number[token["id"]]} for token in layout["added_tokens"] if token["id"] in number]
    # What it puts around a text is of no use here: rows are framed by their own plan.
    frame = {"added_tokens": added, "post_processor": None, "padding": None, "truncation": None}
    return layout | frame | {"model": model | {"vocab": vocabulary, "merges": merges}}


def _merges(model: dict[str, Any]) -> list[tuple[str, str]]:
    """As pairs; older files have `a b`."""
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
    return [(first, second) for first, second in pairs]


def _shrink(model: Any, kept: list[int], number: dict[int, int]) -> None:
    import torch

    head = model.get_output_embeddings()
    parts = [model.get_input_embeddings().weight, head.weight, *([] if head.bias is None else [head.bias])]
    rows = [part.detach()[kept].clone() for part in parts]
    resize(model, len(kept))
    head = model.get_output_embeddings()
    parts = [model.get_input_embeddings().weight, head.weight, *([] if head.bias is None else [head.bias])]
    with torch.no_grad():
        for part, row in zip(parts, rows, strict=True):
            part.copy_(row)
    configs = (model.config, model.config.get_text_config(), model.generation_config)
    for config in {id(one): one for one in configs}.values():
        for name, value in list(vars(config).items()):
            if name.endswith("_token_id") and isinstance(value, int):
                setattr(config, name, number.get(value))
            elif name.endswith("_token_id") and isinstance(value, list):
                setattr(config, name, [number[token] for token in value if token in number])


def _logits(model: Any, row: list[int]) -> Any:
    import torch

    with torch.inference_mode():
        return model.eval()(input_ids=torch.tensor([row])).logits[0]
