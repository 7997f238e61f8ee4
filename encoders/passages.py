"""Split texts into passages that an encoder can take whole, at sentence ends where there are any.

Lengths are word pieces of the encoder's own tokenizer. A passage is encoded as ``clip_title(title) + " " + passage``
with the special tokens around it, so the budget of the text itself is ``max_tokens`` less the special tokens and the
title.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import InvalidArgumentError
from sparsight.types import PassageSpec

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["clip_title", "split"]

# A sentence ends after . ! ? or … with closing quotes or brackets and white space, after their CJK forms with or
# without it, and at an empty line.
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*\s+|[。！？]+[”’」』）]*\s*|\n\s*\n\s*")
_MIN_BUDGET = 4  # word pieces of text per passage; with fewer, passages are no passages


def split(text: str, title: str, spec: PassageSpec, tokenizer: Tokenizer) -> list[tuple[int, int]]:
    """Character spans of a text's passages.

    Parameters
    ----------
    text : str
        What is split.
    title : str
        Goes before each passage (after :func:`clip_title`), so it takes its part of ``spec.max_tokens``.
    spec : PassageSpec
        ``max_tokens`` includes special tokens and title; neighbours share about ``overlap_tokens`` word pieces (at most
        half of a passage); ``max_passages`` drops what comes after that many, 1 truncates.
    tokenizer : tokenizers.Tokenizer
        The encoder's, with offsets and without truncation.

    Returns
    -------
    list of (start, stop)
        ``text[start:stop]``; at least one. Starts and stops grow; together they cover the whole text unless
        ``max_passages`` cuts it. An empty text gives ``[(0, 0)]``.

    Raises
    ------
    InvalidArgumentError
        If ``max_tokens`` leaves fewer than 4 word pieces, or another number is negative.

    Notes
    -----
    A passage ends at the last sentence end in the second half of what it may hold, else between words, else (one word
    longer than a passage) between word pieces. Passages fit when they are tokenised by themselves; this is checked, as
    a cut may change how its surroundings are tokenised. Only what cannot be cut (a character, or a word piece that is
    many when it stands alone) may be longer than the budget. The last passage that ``max_passages`` allows is filled
    without regard to sentences.
    """
    budget = _budget(title, spec, tokenizer)
    encoding = tokenizer.encode(text, add_special_tokens=False)
    if len(encoding.ids) <= budget:
        return [(0, len(text))]
    cuts = _Cuts(text, encoding.offsets, encoding.word_ids)
    overlap = min(spec.overlap_tokens, budget // 2)
    spans: list[tuple[int, int]] = []
    first = reached = 0
    while True:
        last = spec.max_passages > 0 and len(spans) + 1 == spec.max_passages
        end = cuts.end(first, reached, budget, 0 if last else budget // 2)
        end = _shorten(text, cuts, first, reached, end, budget, tokenizer)
        if end == 0:  # nothing new fits behind the overlap
            first = reached
            continue
        spans.append((cuts.position(first), cuts.position(end)))
        if last or end >= cuts.count:
            return spans
        first, reached = max(cuts.begin(end - overlap, end), first + 1), end


def _shorten(text: str, cuts: _Cuts, first: int, reached: int, end: int, budget: int, tokenizer: Tokenizer) -> int:
    """``end``, or an earlier cut after ``reached`` such that the span alone has at most ``budget`` word pieces.

    0 if there is none and the passage could start later (at ``reached``) instead.
    """
    while True:
        span = text[cuts.position(first):cuts.position(end)]
        excess = len(tokenizer.encode(span, add_special_tokens=False).ids) - budget
        if excess <= 0:
            return end
        shorter = cuts.end(first, reached, max(end - first - excess, 0), 0)
        if shorter >= end:
            return end if first >= reached else 0
        end = shorter


def clip_title(title: str, max_tokens: int, tokenizer: Tokenizer) -> str:
    """A title's beginning that takes at most half of a passage's word pieces (special tokens left out), cut at a word.

    :func:`split` counts on the title being cut like this, so that a long title does not displace the text.
    """
    limit = (max_tokens - tokenizer.num_special_tokens_to_add(False)) // 2
    encoding = tokenizer.encode(title, add_special_tokens=False)
    if len(encoding.ids) <= limit:
        return title
    cuts = _Cuts(title, encoding.offsets, encoding.word_ids)
    end = cuts.end(0, 0, max(limit, 1), 0)
    return title[:cuts.position(end)].rstrip()


def _budget(title: str, spec: PassageSpec, tokenizer: Tokenizer) -> int:
    """Word pieces of the text itself that a passage may hold."""
    if spec.overlap_tokens < 0 or spec.max_passages < 0:
        raise InvalidArgumentError("expected overlap_tokens and max_passages of at least 0, got "
                                   f"{spec.overlap_tokens} and {spec.max_passages}", field="passages")
    special = tokenizer.num_special_tokens_to_add(False)
    if spec.max_tokens < special + 2 * _MIN_BUDGET:
        raise InvalidArgumentError(f"expected max_tokens of at least {special + 2 * _MIN_BUDGET}, got "
                                   f"{spec.max_tokens}", field="passages.max_tokens")
    shown = clip_title(title, spec.max_tokens, tokenizer)
    return spec.max_tokens - special - len(tokenizer.encode(shown, add_special_tokens=False).ids)


class _Cuts:
    """Where a tokenised text may be cut. A cut at i lies before word piece i; ``count`` is after the last one."""

    def __init__(self, text: str, offsets: list[tuple[int, int]], words: list[int | None]) -> None:
        spans = np.asarray(offsets, np.int64).reshape(-1, 2)
        self.count = len(spans)
        self._length = len(text)
        self._starts = spans[:, 0]
        # Word pieces of one character (bytes of an emoji) share their offsets; there is no cut between them.
        free = np.flatnonzero(spans[1:, 0] > spans[:-1, 0]) + 1
        named = np.asarray([-1 if word is None else word for word in words], np.int64)
        self._pieces = np.append(free, self.count)
        self._words = np.append(free[named[free] != named[free - 1]], self.count)
        ends = np.fromiter((match.end() for match in _SENTENCE_END.finditer(text)), np.int64)
        sentences = np.searchsorted(self._starts, ends)  # first word piece at or after each sentence's end
        self._sentences = np.intersect1d(self._words, sentences)

    def position(self, cut: int) -> int:
        """Character where the cut is: blanks before it belong to what precedes, blanks at the text's start to cut 0."""
        if cut == 0:
            return 0
        return self._length if cut >= self.count else int(self._starts[cut])

    def end(self, first: int, reached: int, budget: int, half: int) -> int:
        """Where a passage that starts at ``first`` ends: after ``reached``, and if possible within ``budget`` pieces.

        The last sentence end beyond ``half`` pieces (0: sentences do not matter), else the last word, else the last
        piece; the next possible cut if all lie further away.
        """
        most = first + budget
        if most >= self.count:
            return self.count
        sentence = _last_in(self._sentences, max(first + half, reached), most) if half else 0
        found = sentence or _last_in(self._words, reached, most) or _last_in(self._pieces, reached, most)
        return found or int(self._pieces[np.searchsorted(self._pieces, reached, side="right")])

    def begin(self, least: int, most: int) -> int:
        """Best cut in [least, most] for the next passage to start at: the earliest sentence's, else word's."""
        for cuts in (self._sentences, self._words):
            at = int(np.searchsorted(cuts, least))
            if at < len(cuts) and cuts[at] <= most:
                return int(cuts[at])
        return most


def _last_in(cuts: NDArray[np.int64], after: int, until: int) -> int:
    """Largest cut in (after, until], or 0."""
    at = int(np.searchsorted(cuts, until, side="right")) - 1
    return int(cuts[at]) if at >= 0 and cuts[at] > after else 0
