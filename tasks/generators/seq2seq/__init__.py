"""Rows whose spans a sequence-to-sequence model filled, or that it paraphrased or translated back."""

from augmill.tasks.generators.seq2seq.back_translation import BackTranslation
from augmill.tasks.generators.seq2seq.generator import Seq2Seq
from augmill.tasks.generators.seq2seq.infill import LABEL_WORDS

__all__ = ["LABEL_WORDS", "BackTranslation", "Seq2Seq"]
