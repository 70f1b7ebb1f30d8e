"""Real rows translated into another language and back: Sennrich et al., "Improving Neural Machine Translation Models with

Monolingual Data", ACL 2016; as augmentation Yu et al. (QANet), ICLR 2018, and Xie et al. (UDA), NeurIPS 2020. Nothing is
trained. The parent is a train row of the asked class; the row's seed draws it and the pivot language.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa

from augmill.tasks.contracts import STRATUM, Context, FitInputs, Fitted, Generator, Request
from augmill.tasks.generators._parents import (
    Parents,
    answer,
    changed_fields,
    keep_targets,
    sort_parents,
    with_targets,
    write_parents,
)
from augmill.tasks.generators.lm.decode import Precision, Sampling
from augmill.tasks.generators.lm.models import quiet
from augmill.tasks.generators.lm.rewriting import (
    Decoding,
    Made,
    Rewriter,
    Source,
    Task,
    check_decoding,
    load_saved,
    rewrite_parents,
    save_pretrained,
)
from augmill.tasks.rows.kinds.text import is_unspaced, jaccard
from augmill.tasks.rows.randomness import uniforms

WHO = "back_translation"


@dataclass(frozen=True)
class Pivot:
    """A way there and back: two models, or one that knows both languages."""

    there: str = field(
        metadata={
            "file": True,
            "hub": True,
            "help": "Model from the rows' language into the pivot: a local directory, or a hub id (with its revision).",
        }
    )
    back: str | None = field(
        default=None,
        metadata={"file": True, "hub": True, "help": "Model from the pivot back; when null, the same as `there`."},
    )
    there_revision: str = field(default="", metadata={"help": "40-digit commit of `there`; needed for hub ids."})
    back_revision: str = field(default="", metadata={"help": "40-digit commit of `back`; needed for hub ids."})
    language: str = field(
        default="",
        metadata={
            "help": "The pivot's code as the model spells it, if a model knows several languages: `fr` (M2M100), `fra_Latn` "
            "(NLLB), `fr_XX` (mBART), `fra` (Marian models that read `>>fra<<`)."
        },
    )

    def __post_init__(self) -> None:
        if not self.there or self.back == "":
            name = "back" if self.there else "there"
            raise ValueError(f"{name}: expected a local directory or a hub id; found an empty text")


@dataclass(frozen=True)
class BackTranslationOptions:
    """Over which languages, by which models, and how like its parent a row may be."""

    pivots: tuple[Pivot, ...] = field(
        metadata={"help": "The models there and back, such as `{there: MODEL, back: MODEL}`; each row draws one pair."}
    )
    language: str = field(
        default="",
        metadata={"help": "The rows' language code, as the model spells it, if a model knows several languages."},
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Runs code that comes with a model."})
    allow_pickle: bool = field(
        default=False, metadata={"help": "Reads weights from pickle files if there are no safetensors."}
    )
    change: Literal["one", "all", "text", "text_b", "text_c", "text_d"] = field(
        default="one",
        metadata={"help": "Which text columns of a row are translated: one, drawn at random; all; or the named one."},
    )
    least_similar: float = field(
        default=0.1,
        metadata={
            "help": "Share of character n-grams (3; 2 in Chinese and Japanese) that a text must have in common with its "
            "parent; a lower share is `too_far`, a translation that lost the meaning."
        },
    )
    most_similar: float = field(
        default=0.95,
        metadata={
            "help": "The largest share allowed; a higher one is `too_near`, nothing new. 1 allows everything "
            "but copies."
        },
    )
    max_length: int = field(default=256, metadata={"help": "Longest text in tokens, in either language."})
    beams: int = field(
        default=0,
        metadata={
            "help": "0: translations are sampled. Above 0: they are searched with this many beams, and the seed picks "
            "one."
        },
    )
    temperature: float = field(default=0.9, metadata={"help": "Below 1: likelier rows that are more alike."})
    top_k: int = field(default=50, metadata={"help": "Number of tokens to draw from at each step."})
    top_p: float = field(default=0.95, metadata={"help": "Smallest set of the top k with this probability."})
    min_p: float = field(default=0.05, metadata={"help": "Drops tokens less likely than this share of the likeliest."})
    repetition_penalty: float = field(
        default=1.0, metadata={"help": "Above 1: penalises tokens that the text already has."}
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
        if not self.pivots:
            raise ValueError("pivots: expected at least one; found none")
        check_decoding(self, {"least_similar": (0, 1), "most_similar": (0, 1)})
        if self.least_similar > self.most_similar:
            found = f"{self.least_similar} and {self.most_similar}"
            raise ValueError(f"least_similar: expected no more than most_similar; found {found}")


class BackTranslation(Generator):
    """Every row takes one way there and back.

    Repeatable on a CPU, with the same libraries and the same kind of CPU, at any thread count and batch,
    sampled or by beams. Not promised on a GPU.
    """

    VERSION = 3
    Options = BackTranslationOptions
    repeatable: ClassVar[bool] = True
    finite: ClassVar[bool] = False
    labels: ClassVar[Literal["asked", "own"]] = "asked"
    problems: ClassVar[tuple[str, ...]] = ("classification", "text_to_text")
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "tokenizers")

    def preflight(self, fields: tuple[str, ...]) -> None:
        """Looks for the text column, and the models' files where their names are local directories; a hub is not asked."""
        changed_fields(self.options.change, fields, WHO)
        for source in dict.fromkeys(source for pivot in self.options.pivots for source in self._sources(pivot)):
            source.preflight()

    def _sources(self, pivot: Pivot) -> tuple[Source, Source]:
        """Where the models there and back come from."""
        options: BackTranslationOptions = self.options
        back, revision = (pivot.back, pivot.back_revision) if pivot.back else (pivot.there, pivot.there_revision)
        trust = (options.trust_remote_code, options.allow_pickle)
        return Source(pivot.there, pivot.there_revision, *trust), Source(back, revision, *trust)

    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        """Writes each model with its tokenizer once (``model-N``), parents.arrow and pivots.json (which is whose).

        Raises UserError for a model that cannot be used, WorldError where the hub cannot be reached.
        """
        options: BackTranslationOptions = self.options
        changed_fields(options.change, ctx.fields, WHO)
        folders: dict[Source, str] = {}
        plan: dict[str, Any] = {"pivots": []}
        with quiet():
            for pivot in options.pivots:
                ways = self._sources(pivot)
                for source, rewriter in zip(ways, self._languages(pivot), strict=True):
                    model, tokenizer = source.load()
                    Rewriter(model, tokenizer, **rewriter, where=f"model {source.model}")  # knows the languages
                    if source not in folders:
                        folders[source] = f"model-{len(folders)}"
                        save_pretrained(model, tokenizer, ctx.workdir / folders[source])
                plan["pivots"].append([folders[source] for source in ways])
        parents = sort_parents(inputs.train, ctx.fields)
        write_parents(parents, ctx)
        keep_targets(inputs.train, ctx)
        plan["classes"] = sorted(set(parents[STRATUM].to_pylist()))
        text = json.dumps(plan, sort_keys=True, ensure_ascii=False)
        (ctx.workdir / "pivots.json").write_text(text, encoding="utf-8")
        files = sorted(path for path in ctx.workdir.rglob("*") if path.is_file())
        return {path.relative_to(ctx.workdir).as_posix(): path for path in files}

    def _languages(self, pivot: Pivot) -> Iterator[dict[str, str]]:
        """From which language into which, there and back."""
        own = self.options.language
        yield {"source": own, "target": pivot.language}
        yield {"source": pivot.language, "target": own}

    def sample(self, fitted: Fitted, request: Request, ctx: Context) -> pa.Table:
        """Rows that cannot be made: ``no_parent`` (no train row of the class), ``too_long`` (of either translation),

        ``empty``, ``undecodable``, ``too_far`` and ``too_near`` (by likeness to the parent), ``unchanged`` (the parent
        again). Raises DeadlineExceeded.
        """
        options: BackTranslationOptions = self.options
        sampling = Sampling(
            options.temperature, options.top_k, options.top_p, options.min_p, options.repetition_penalty
        )
        task = Task(Decoding(sampling, options.beams, options.decode_batch, options.max_length), ctx, WHO)
        parents = fitted.get("parents", lambda: Parents(fitted))
        pivots = (uniforms(request.seeds, 1, stream=1)[:, 0] * len(options.pivots)).astype(int).tolist()

        def rewrite(texts: list[str], ats: list[int], name: int) -> list[Made]:
            made: list[Made] = [(None, None)] * len(texts)
            groups: defaultdict[int, list[int]] = defaultdict(list)
            for place, at in enumerate(ats):
                groups[pivots[at]].append(place)
            begun = 0
            for pivot, places in groups.items():
                seeds = request.seeds[[ats[place] for place in places]]
                there, back = self._ways(fitted, pivot, ctx)
                own = replace(task, ctx=ctx.part(begun, begun + len(places), len(ats), "rows"))
                begun += len(places)
                found = round_trip(there, back, [texts[place] for place in places], seeds, 2 + 2 * name, own)
                for place, row in zip(places, found, strict=True):
                    made[place] = self._compare(texts[place], row)
            return made

        made = rewrite_parents(parents, request, options.change, rewrite, ctx.fields)
        texts, reasons = [row for row, _ in made], [why for _, why in made]
        return with_targets(
            answer(request, ctx.fields, texts, parents.ids_of(parents.draw(request)), reasons), fitted, ctx
        )

    def _ways(self, fitted: Fitted, at: int, ctx: Context) -> tuple[Rewriter, Rewriter]:
        trust, precision = self.options.trust_remote_code, self.options.decode_precision

        def open_saved(folder: str, languages: dict[str, str]) -> Rewriter:
            model, tokenizer = load_saved(fitted, folder, ctx.device, trust_remote_code=trust, precision=precision)
            return Rewriter(model, tokenizer, **languages, where=WHO)

        folders, languages = fitted.read_json("pivots.json")["pivots"][at], self._languages(self.options.pivots[at])
        there, back = map(open_saved, folders, languages)
        return there, back

    def _compare(self, parent: str, made: Made) -> Made:
        text, _ = made
        if text is None or text == parent:  # one text of several may come back as it was
            return made
        likeness = jaccard(parent, text, 2 if is_unspaced([parent]) else 3)
        if likeness < self.options.least_similar:
            return None, "too_far"
        return (None, "too_near") if likeness > self.options.most_similar else made


def round_trip(there: Rewriter, back: Rewriter, texts: list[str], seeds: Any, stream: int, task: Task) -> list[Made]:
    """Each text in the pivot's language and back; a reason of the way there stands for the row."""
    ways = [replace(task, ctx=task.ctx.part(at, at + len(texts), 2 * len(texts), "rows")) for at in (0, len(texts))]
    made = there.rewrite(texts, seeds, stream, ways[0])
    arrived = [at for at, (text, _) in enumerate(made) if text is not None]
    returned = back.rewrite([made[at][0] or "" for at in arrived], seeds[arrived], stream + 1, ways[1])
    for at, row in zip(arrived, returned, strict=True):
        made[at] = row
    return made
