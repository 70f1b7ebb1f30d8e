"""Sounds out of texts: of a class its label as it is said; for transcription what a train row says, or a new text.

Voice, pace and pitch of a row are drawn by its own seed. A row whose text was a train row's has that row as its parent; what
is said of a label, or of a new text, comes from no row.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from augmill.tasks.contracts import ROW_ID, STRATUM, TARGET, Context, FitInputs, Fitted, Generator, Ints, Request
from augmill.tasks.errors import DeadlineExceeded, RefusedFile, UserError
from augmill.tasks.generators._parents import PARENTS, Parents, stream_parents
from augmill.tasks.generators.speech import espeak
from augmill.tasks.generators.speech.model import ModelVoice
from augmill.tasks.generators.speech.options import SpeechOptions
from augmill.tasks.rows.kinds import candidate_schema
from augmill.tasks.rows.kinds.audio import Samples, at_rate, decode, encode
from augmill.tasks.rows.kinds.media import files_of, media
from augmill.tasks.rows.kinds.text import canonical
from augmill.tasks.rows.randomness import uniforms

SPOKEN, MODEL = "spoken.json", "model"
LISTENED = 200  # train rows, the first by id, by which rate and loudness are set
MOST = 2000  # characters of a new text: more is no utterance
QUIET, MARGIN = 0.01, 0.03  # of the loudest sample; seconds that are left before and behind what is louder


class Saying(NamedTuple):
    """``parent``: the position of the train row that the text is of; -1: of none."""

    text: str
    parent: int


class Speech(Generator):
    """One sound a row. Repeatable with the same version of espeak-ng; with a model on a CPU, by the same libraries."""

    VERSION: ClassVar[int] = 1
    Options: ClassVar[type[SpeechOptions]] = SpeechOptions
    repeatable: ClassVar[bool] = True
    finite: ClassVar[bool] = False
    labels: ClassVar[Literal["asked", "own"]] = "asked"
    normalisation: ClassVar[str] = "fold"
    libraries: ClassVar[tuple[str, ...]] = ("scipy",)
    kinds: ClassVar[tuple[str, ...]] = ("audio",)
    problems: ClassVar[tuple[str, ...]] = ("classification", "transcription")

    def preflight(self, fields: tuple[str, ...]) -> None:
        """Raises UserError where nothing here can speak, where ``texts`` has no text, and for rows of several sounds."""
        if len(fields) > 1:
            problem = f"speech makes rows of one sound; this dataset's have {len(fields)} fields"
            raise UserError(problem, where="speech", fix="leave the other inputs out")
        if self.options.texts is not None:
            read_texts(self.options.texts)
        if self.options.engine == "espeak":
            espeak.version()
        else:
            self._source().preflight()

    def _source(self) -> Any:
        from augmill.tasks.generators.lm.rewriting import Source

        options = self.options
        return Source(options.model, options.revision, options.trust_remote_code, options.allow_pickle, kind="speech")

    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        """Writes ``parents.arrow`` (ids, transcripts), ``spoken.json`` (who speaks, at which rate) and the model, if any.

        Raises UserError as ``preflight``, and for a voice or a model that is not there.
        """
        names = (TARGET,) if ctx.target is not None else ()
        files = {PARENTS: stream_parents(inputs.train, names, ctx)}
        plan: dict[str, Any] = listened(inputs.train, ctx.fields[0])
        plan["texts"] = sorted_texts(inputs.train, self.options.texts) if ctx.target is not None else {}
        if self.options.engine == "espeak":
            plan |= {"espeak": espeak.version(), "voices": espeak.voices(self.options)}
        else:
            files |= self._keep_model(ctx)
        path = ctx.workdir / SPOKEN
        path.write_text(json.dumps(plan, sort_keys=True, ensure_ascii=False), encoding="utf-8")
        return files | {SPOKEN: path}

    def _keep_model(self, ctx: Context) -> dict[str, Path]:
        from augmill.tasks.generators.lm.models import quiet
        from augmill.tasks.generators.lm.rewriting import save_pretrained

        with quiet():
            model, tokenizer = self._source().load()
            if not ModelVoice(model, tokenizer).rate:
                raise UserError("its config has no sampling_rate", where=f"model {self.options.model}", fix="add it")
            written = save_pretrained(model, tokenizer, ctx.workdir / MODEL)
        return {path.relative_to(ctx.workdir).as_posix(): path for path in written}

    def sample(self, fitted: Fitted, request: Request, ctx: Context) -> pa.Table:
        """Not delivered: ``no_text`` (a class that train does not have), ``nothing_spoken``, ``too_long`` (of the sound).

        Raises UserError where the espeak-ng here is another than at the fit, DeadlineExceeded past the deadline.
        """
        parents, plan = fitted.get("parents", lambda: Parents(fitted)), fitted.read_json(SPOKEN)
        if self.options.engine == "espeak" and (here := fitted.get("espeak", espeak.version)) != plan["espeak"]:
            problem = f"the voices were chosen with espeak-ng {plan['espeak']}; here is {here}"
            raise UserError(problem, where="speech", fix="install the same version on every machine that makes rows")
        files: list[bytes | None] = []
        sayings, reasons = self._sayings(parents, plan, request, ctx), list[str | None]()
        numbers = uniforms(request.seeds, 4, stream=1)
        for at, (saying, seed) in enumerate(zip(sayings, request.seeds.tolist(), strict=True)):
            if ctx.out_of_time():
                raise DeadlineExceeded("speech ran out of time", where="speech", fix="raise run.shard_minutes")
            ctx.tell(at, len(request), "rows")
            file, reason = (None, "no_text") if saying is None else self._made(saying.text, seed, numbers[at], fitted)
            files.append(file)
            reasons.append(reason)
        return _table(parents, request, sayings, files, reasons, ctx)

    def _sayings(self, parents: Parents, plan: dict[str, Any], request: Request, ctx: Context) -> list[Saying | None]:
        if ctx.target is None:
            say = self.options.say
            return [
                Saying(say.get(name, name.replace("_", " ")), -1) if name in parents.ranges else None
                for name in request.strata
            ]
        rows, drawn = parents.draw(request).tolist(), uniforms(request.seeds, 2, stream=2)
        transcripts = parents.table[TARGET]
        found: list[Saying | None] = []
        for stratum, row, (gate, place) in zip(request.strata, rows, drawn.tolist(), strict=True):
            new = plan["texts"].get(stratum, [])
            if new and gate < self.options.new:
                found.append(Saying(new[int(place * len(new))], -1))
            else:
                found.append(Saying(transcripts[row].as_py(), row) if row >= 0 else None)
        return found

    def _made(self, text: str, seed: int, drawn: Any, fitted: Fitted) -> tuple[bytes | None, str | None]:
        """``drawn``: the row's numbers for voice, pace, pitch and loudness."""
        plan, options = fitted.read_json(SPOKEN), self.options
        voice, pace, pitch, loudness = drawn.tolist()
        if options.engine == "espeak":
            (slow, fast), (low, high), names = options.rate, options.pitch, plan["voices"]
            name = names[int(voice * len(names))]
            sound = espeak.speak(text, name, slow + int(pace * (fast - slow + 1)), low + int(pitch * (high - low + 1)))
        else:
            sound = fitted.get("voice", lambda: self._load(fitted)).speak(text, seed, pace, voice)
        if sound is None:
            return None, "nothing_spoken"
        mono = trimmed(at_rate(*sound, plan["rate"]), plan["rate"])
        level = np.quantile(plan["peaks"], loudness) / max(float(np.abs(mono).max()), 1e-9)
        try:
            decode(file := encode(mono * np.float32(level), plan["rate"]))
        except RefusedFile as refused:
            return None, "too_long" if refused.reason == "too_long" else "nothing_spoken"
        return file, None

    def _load(self, fitted: Fitted) -> ModelVoice:
        from augmill.tasks.generators.lm.models import load_model, quiet

        with quiet():
            return ModelVoice(
                *load_model(
                    fitted.path / MODEL, "speech", trust_remote_code=self.options.trust_remote_code, allow_pickle=False
                )
            )


def listened(train: pa.Table, field: str) -> dict[str, Any]:
    """``rate``: the commonest of train rows, Hz; ``peaks``: their loudest samples, in eleven steps from the least."""
    rows = train.select([ROW_ID, field]).sort_by(ROW_ID).slice(0, LISTENED)
    sounds = [decode(data) for data in files_of(rows[field])]
    rate = min(Counter(sound.rate for sound in sounds).items(), key=lambda item: (-item[1], item[0]))[0]
    peaks = np.quantile([min(sound.peak, 1.0) for sound in sounds], np.linspace(0, 1, 11))
    return {"rate": rate, "peaks": [round(float(peak), 6) for peak in peaks]}


def read_texts(path: str) -> list[str]:
    """The lines of the file that are no blank. Raises UserError."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problem = f"texts: {path} cannot be read: {error}"
        raise UserError(problem, where="speech", fix="name a UTF-8 file of texts, one a line") from None
    found = [text for text in map(canonical, lines) if text]
    if not found or (longest := max(map(len, found))) > MOST:
        problem = f"texts: {path} has a line of {longest:,} characters" if found else f"texts: {path} has no text"
        raise UserError(
            problem, where="speech", fix=f"name a file of texts, one a line, of at most {MOST:,} characters"
        )
    return found


def sorted_texts(train: pa.Table, path: str | None) -> dict[str, list[str]]:
    """The new texts by stratum: each is of the longest stratum whose shortest train transcript is no longer than it."""
    if path is None:
        return {}
    shortest: dict[str, int] = {}
    for stratum, text in zip(train[STRATUM].to_pylist(), train[TARGET].to_pylist(), strict=True):
        shortest[stratum] = min(shortest.get(stratum, len(text)), len(text))
    order = sorted(shortest, key=lambda stratum: (shortest[stratum], stratum))
    starts = [shortest[stratum] for stratum in order]
    found: dict[str, list[str]] = {}
    for text in dict.fromkeys(read_texts(path)):
        found.setdefault(order[max(0, bisect_right(starts, len(text)) - 1)], []).append(text)
    return found


def trimmed(mono: Samples, rate: int) -> Samples:
    """Without the silence before and behind, but for a little."""
    loud = np.flatnonzero(np.abs(mono) > QUIET * np.abs(mono).max(initial=0.0))
    margin = int(MARGIN * rate)
    return mono[max(0, loud[0] - margin) : loud[-1] + 1 + margin] if len(loud) else mono


def _table(
    parents: Parents,
    request: Request,
    sayings: list[Saying | None],
    files: list[bytes | None],
    reasons: list[str | None],
    ctx: Context,
) -> pa.Table:
    made = [reason is None for reason in reasons]
    rows: Ints = np.array([s.parent if s and ok else -1 for s, ok in zip(sayings, made, strict=True)], np.int64)
    columns: dict[str, Any] = {"ordinal": request.ordinals, "asked": request.strata, STRATUM: request.strata}
    if ctx.target is not None:
        texts = [s.text if s and ok else None for s, ok in zip(sayings, made, strict=True)]
        columns[TARGET] = pa.array(texts, ctx.target)
    columns |= {
        ctx.fields[0]: media(files),
        "parent_ids": parents.only_parents(rows),
        "seed": request.seeds,
        "reason": pa.array(reasons, pa.string()),
    }
    schema = candidate_schema(ctx.fields, ctx.target)
    return pa.table({name: columns[name] for name in schema.names}, schema)
