"""Sound to text: what is learnt is what is said in a sound.

Strata are bins of the lengths of train rows' transcripts, as of texts that answer texts (text_to_text.py): a generator's
rows have no column of the user's, but each has a transcript, and long utterances are the hard ones.

Transcripts are compared without case and punctuation, and width is folded (NFKC): "It's five." is *it s five*. Of Chinese
and Japanese each character is a word, so that WER is CER there; of other scripts without spaces (Thai, Lao, Khmer) a whole
text is one word, and ``gate: {metric: cer}`` judges.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pyarrow as pa

from augmill.tasks.contracts import Problem
from augmill.tasks.problems.text_to_text import (
    REMEDIES,
    AnswerReader,
    fit_lengths,
    lacks_texts,
    length_strata,
    tell_text,
)


class Transcription(Problem):
    """Strata as of text_to_text, by the same numbers."""

    VERSION: ClassVar[int] = 1
    name: ClassVar[str] = "transcription"
    types: ClassVar[tuple[str, ...]] = ("text",)
    kinds: ClassVar[tuple[str, ...]] = ("audio",)
    target: ClassVar[pa.DataType | None] = pa.large_string()
    fits_strata: ClassVar[bool] = True
    metric: ClassVar[str] = "wer"
    metrics: ClassVar[tuple[str, ...]] = ("wer", "cer")
    stratum_metric: ClassVar[str] = "wer"
    stratum_word: ClassVar[str] = "bin"
    hub: ClassVar[str] = "automatic-speech-recognition"
    remedies: ClassVar[Mapping[str, str]] = REMEDIES

    def reader(self, rules: Any) -> AnswerReader:
        return AnswerReader()

    def lacks(self, train: pa.Table) -> tuple[str, str] | None:
        return lacks_texts(train)

    def fit_strata(self, train: pa.Table) -> dict[str, Any]:
        return fit_lengths(train)

    def stratum(self, target: pa.Array, fitted: Mapping[str, Any]) -> pa.Array:
        return length_strata(target, fitted)

    def tell(self, value: Any) -> str:
        return tell_text(value)
