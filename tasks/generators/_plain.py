"""Swaps and deletions of words in plain texts, thousands at once: the rows that ``_edits.edit`` makes, 20 times as fast.

Plain: ASCII, and nothing in it that moves whole. What is edited are ranges of bytes; a row is put together of some.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.rows.segments import ranges

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Of a text that counts as plain: deletions take time by the square of the edits; 17 bytes are held for each byte edited.
MOST_EDITS, MOST_BYTES = 8, 1000
_END, _SPACE = 0x1E, ord(" ")  # between texts, and between words; no canonical text holds the first
_ALNUM = np.array([chr(code).isalnum() for code in range(128)])
_HINTS = np.array([chr(code) in "[{<%@#$" for code in range(128)])  # of ``_edits._HINTS``; a bracket alone is one here


class PlainTexts:
    """Canonical texts taken apart; those of ``plain`` can be edited here.

    ``wanted``: if not, none counts as plain; ``weights``: of swaps and deletions, no other edit being wanted.
    ``edits``: how many words of each text are edited, as ``Sentence`` has it; ``can``: whether any edit applies to it.
    """

    def __init__(self, texts: Sequence[str], weights: Mapping[Any, float], strength: float, wanted: bool) -> None:
        is_plain = np.array([wanted and len(text) <= MOST_BYTES and text.isascii() for text in texts], np.bool_)
        whole = "\x1e".join(
            ["", *(text if plain else "" for text, plain in zip(texts, is_plain.tolist(), strict=True)), ""]
        )
        self._bytes = np.frombuffer(whole.encode("ascii"), np.uint8)
        self._texts = np.flatnonzero(self._bytes == _END)[: len(texts)]  # the byte before each
        self._find_words(len(texts))
        self.edits = np.clip((strength * self._counts).astype(np.int64), 1, None)
        self.plain = is_plain & ~self._hold_hints(len(texts)) & (self.edits <= MOST_EDITS)
        several = self._counts > 1
        self._swap, self._delete = (weights.get(name, 0) for name in ("swap", "delete"))
        self._can_swap = several & self._differ() & (self._swap > 0)
        self._can_delete = several & (self._delete > 0)
        self.can = self.plain & (self._can_swap | self._can_delete)

    def _find_words(self, count: int) -> None:
        """Tokens, from ``_starts`` to ``_ends``; of those that hold a word where it begins and ends."""
        space = (self._bytes == _SPACE) | (self._bytes == _END)
        self._starts = np.flatnonzero(space[:-1] & ~space[1:]) + 1
        self._ends = np.flatnonzero(~space[:-1] & space[1:]) + 1
        letters = np.flatnonzero(_ALNUM[self._bytes])
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(_ALNUM[self._bytes])])
        first, last = before[self._starts], before[self._ends]
        self._word_tokens = np.flatnonzero(last > first)
        self._lows, self._highs = letters[first[self._word_tokens]], letters[last[self._word_tokens] - 1] + 1
        token_text = np.searchsorted(self._texts, self._starts) - 1
        self._token_counts = np.bincount(token_text, minlength=count)
        self._first_token = np.cumsum(self._token_counts) - self._token_counts
        self._word_text = token_text[self._word_tokens]
        self._counts = np.bincount(self._word_text, minlength=count)
        self._first_word = np.cumsum(self._counts) - self._counts

    def _hold_hints(self, count: int) -> Bools:
        """Which texts might hold something that moves whole: a few more than do."""
        codes = np.append(self._bytes, [0, 0, 0])
        here, one, two, three = (codes[at : len(codes) - 3 + at] for at in range(4))
        low = codes | 0x20
        link = (here == ord(":")) & (one == ord("/")) & (two == ord("/"))
        web = (low[:-3] == ord("w")) & (low[1:-2] == ord("w")) & (low[2:-1] == ord("w")) & (three == ord("."))
        found = np.flatnonzero(_HINTS[here] | link | web)
        return np.bincount(np.searchsorted(self._texts, found) - 1, minlength=count) > 0

    def _differ(self) -> Bools:
        """Which texts hold two words that differ: a word then differs from the text's first."""
        first = self._first_word[self._word_text]
        sizes = self._highs - self._lows
        other = sizes != sizes[first]
        same = np.flatnonzero(~other)
        one, two = (self._bytes[ranges(self._lows[at], sizes[same])] for at in (same, first[same]))
        other[np.repeat(same, sizes[same])[one != two]] = True
        return np.bincount(self._word_text[other], minlength=len(self._counts)) > 0

    def edit(self, texts: Ints, draws: Floats) -> pa.StringArray:
        """An edited copy of each of these texts. ``draws``: (rows, 1 + 2 * the most edits at least), in [0, 1), as

        ``_edits.edit`` takes them.
        """
        total = np.where(self._can_swap, self._swap, 0.0) + np.where(self._can_delete, self._delete, 0.0)
        swaps = self._can_swap[texts] & (~self._can_delete[texts] | (draws[:, 0] * total[texts] < self._swap))
        made = [
            self._swapped(texts[swaps], draws[swaps, 1:]),
            self._deleted(texts[~swaps], draws[~swaps, 1:]),
        ]
        order = np.empty(len(texts), np.int64)
        order[np.concatenate([np.flatnonzero(swaps), np.flatnonzero(~swaps)])] = np.arange(len(texts))
        return pa.concat_arrays(made).take(pa.array(order))

    def _swapped(self, texts: Ints, draws: Floats) -> pa.StringArray:
        counts = self._counts[texts]
        words = ranges(self._first_word[texts], counts)
        rows = np.cumsum(counts) - counts
        stands = words.copy()  # which word stands at each place
        for at in range(int(self.edits[texts].max(initial=0))):
            more = self.edits[texts] > at
            of, first, second = counts[more], draws[more, 2 * at], draws[more, 2 * at + 1]
            one = (first * of).astype(np.int64)
            other = rows[more] + (one + 1 + (second * (of - 1)).astype(np.int64)) % of
            one += rows[more]
            stands[one], stands[other] = stands[other], stands[one]
        # What stands before a word, the word; and what stands after the last.
        size = 2 * counts + 1
        starts, ends = (np.empty(int(size.sum()), np.int64) for _ in range(2))
        first = np.cumsum(size) - size
        places = ranges(first, 2 * counts)
        before, own = places[::2], places[1::2]
        starts[own], ends[own] = self._lows[stands], self._highs[stands]
        ends[before] = self._lows[words]
        starts[before] = np.append(0, self._highs)[words]
        starts[first], starts[first + size - 1] = self._texts[texts] + 1, self._highs[self._last_word(texts)]
        ends[first + size - 1] = self._text_ends(texts)
        return self._put_together(starts, ends, size)

    def _deleted(self, texts: Ints, draws: Floats) -> pa.StringArray:
        counts = self._counts[texts]
        edits = np.minimum(self.edits[texts], counts - 1)
        gone = np.full((len(texts), int(edits.max(initial=0))), np.iinfo(np.int64).max)
        for at in range(gone.shape[1]):
            more = edits > at
            place = (draws[:, at] * (counts - at)).astype(np.int64)
            for before in range(at):  # ascending: the words left are counted without those that went
                place += place >= gone[:, before]
            gone[more, at] = place[more]
            gone.sort(axis=1)
        kept = np.ones(int(self._token_counts[texts].sum()), np.bool_)
        size = self._token_counts[texts]
        first = np.cumsum(size) - size
        left = gone < np.iinfo(np.int64).max
        row = np.nonzero(left)[0]
        tokens = self._word_tokens[self._first_word[texts][row] + gone[left]]
        kept[first[row] + tokens - self._first_token[texts][row]] = False
        every = ranges(self._first_token[texts], size)[kept]
        size = size - np.bincount(row, minlength=len(texts))
        starts = self._starts[every] - 1  # with the space before it, but for a row's first
        starts[np.cumsum(size) - size] += 1
        return self._put_together(starts, self._ends[every], size)

    def _last_word(self, texts: Ints) -> Ints:
        last: Ints = self._first_word[texts] + self._counts[texts] - 1
        return last

    def _text_ends(self, texts: Ints) -> Ints:
        ends: Ints = self._ends[self._first_token[texts] + self._token_counts[texts] - 1]
        return ends

    def _put_together(self, starts: Ints, ends: Ints, size: Ints) -> pa.StringArray:
        """Of each row the next ``size`` ranges of bytes."""
        lengths = ends - starts
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        of_rows = offsets[np.concatenate([np.zeros(1, np.int64), np.cumsum(size)])].astype(np.int32)
        data = self._bytes[ranges(starts, lengths)]
        return pa.StringArray.from_buffers(len(size), pa.py_buffer(of_rows), pa.py_buffer(data))
