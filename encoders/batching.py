"""Texts to batches of word pieces whose make-up hardly shows in the result.

Every text is padded to the next multiple of eight of its own length, whatever it is encoded with, and only texts of
one padded length share a batch. So a text sees the same padding and the same attention mask alone and among others;
what is left is the matrix library's choice of kernel by the number of rows (1e-6 of a vector's norm; equal bits where
that choice is the same).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sparsight.encoders.word_pieces import native_word_pieces
from sparsight.errors import InvalidArgumentError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["BATCH_TOKENS", "Batch", "Progress", "TextTokens", "check_texts", "make_batches"]

Progress: TypeAlias = Callable[[int, int], None]
"""Called with (texts done, texts in all), from the thread that encodes."""

PAD_MULTIPLE = 8
BATCH_TOKENS = 2048  # word pieces in a batch, padding included: larger ones were slower on CPUs (4096: -5 to -12 %)
_TOKENISE_AT_ONCE = 2048


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts of one padded length T.

    Attributes
    ----------
    rows : int64, shape (B,)
        Which texts these are.
    ids : int64, shape (B, T)
        Word pieces, padded on the right.
    lengths : int64, shape (B,)
        Word pieces before the padding, special tokens included.
    """

    rows: NDArray[np.int64]
    ids: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """bool (B, T), true where there is a word piece."""
        return np.arange(self.ids.shape[1])[None, :] < self.lengths[:, None]


class TextTokens:
    """A tokenizer reduced to what encoders need: word-piece numbers of a text, cut to a length.

    It never changes the tokenizer (truncation and padding are state there), so threads may share it. Nor may others:
    the native kernel that does BERT's scheme in its place was made from it.

    Attributes
    ----------
    tokenizer : tokenizers.Tokenizer
        Without truncation and padding.
    word_pieces : WordPiece or None
        The kernel with this tokenizer's results; None where the tokenizer has another scheme and works itself.
    special : int
        Special tokens that surround a text.
    pad_id : int
    """

    def __init__(self, tokenizer: Tokenizer, pad_id: int) -> None:
        self.tokenizer = tokenizer
        self.pad_id = pad_id
        probe = tokenizer.encode("a", add_special_tokens=False)
        bare = len(probe.ids)
        mask = tokenizer.post_process(probe, None, True).special_tokens_mask
        whole = tokenizer.encode("a").ids
        first = next((i for i, special in enumerate(mask) if not special), 0)
        self._prefix = np.asarray(whole[:first], np.int32)
        self._suffix = np.asarray(whole[first + bare:], np.int32)
        self.special = len(self._prefix) + len(self._suffix)
        self.word_pieces = native_word_pieces(tokenizer)

    def ids(self, texts: Sequence[str], max_tokens: int) -> list[NDArray[np.int32]]:
        """Word pieces of each text with special tokens, at most ``max_tokens`` in all: long texts lose their end."""
        ids, starts = self.packed(texts, max_tokens)
        return [ids[start:stop] for start, stop in pairwise(starts.tolist())]

    def packed(
        self, texts: Sequence[str], max_tokens: int, *, threads: int = 0
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """What :meth:`ids` gives, one text after the other in one array.

        Parameters
        ----------
        texts : sequence of str, length B
        max_tokens : int
            Most word pieces of a text, special tokens included: long texts lose their end.
        threads : int
            0 takes the processors this process may run on. Only the kernel heeds it.

        Returns
        -------
        ids : int32, shape (T,)
        starts : int64, shape (B + 1,)
            Text i is ``ids[starts[i]:starts[i + 1]]``.

        Raises
        ------
        InvalidArgumentError
            As :func:`check_texts` does, if ``word_pieces`` is there; without it bad texts must not come here.
        """
        keep = max(max_tokens - self.special, 0)
        if self.word_pieces is not None:
            return self.word_pieces.encode(
                texts, max_pieces=keep, head=self._prefix.tolist(), tail=self._suffix.tolist(), threads=threads
            )
        rows = list(self._by_tokenizer(texts, keep))
        starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
        return np.concatenate([np.empty(0, np.int32), *rows]), starts

    def _by_tokenizer(self, texts: Sequence[str], keep: int) -> Iterator[NDArray[np.int32]]:
        for start in range(0, len(texts), _TOKENISE_AT_ONCE):
            part = list(texts[start:start + _TOKENISE_AT_ONCE])
            for encoding in self.tokenizer.encode_batch_fast(part, add_special_tokens=False):
                yield np.concatenate([self._prefix, np.asarray(encoding.ids[:keep], np.int32), self._suffix])


def check_texts(texts: Sequence[str]) -> None:
    """Raise InvalidArgumentError unless ``texts`` is a sequence of strings that UTF-8 can hold."""
    if isinstance(texts, str):
        raise InvalidArgumentError("expected a sequence of texts, got one string", field="texts")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidArgumentError(f"expected a string at texts[{i}], got {type(text).__name__}",
                                       field=f"texts[{i}]")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidArgumentError(f"texts[{i}] holds a lone surrogate at character {error.start}",
                                       field=f"texts[{i}]") from error


def make_batches(ids: Sequence[NDArray[np.int32]], pad_id: int, longest: int,
                 batch_tokens: int = BATCH_TOKENS) -> Iterator[Batch]:
    """Batches that cover all texts, longest first (so that memory peaks at once, and not late).

    Parameters
    ----------
    ids : sequence of int32 arrays
        Word pieces of each text.
    pad_id : int
        What fills up.
    longest : int
        Padded length is at most this (a model may have no more positions).
    batch_tokens : int
        Most word pieces in a batch, padding included; a batch holds at least one text.
    """
    lengths = np.fromiter((len(row) for row in ids), np.int64, len(ids))
    padded = np.minimum(-(-np.maximum(lengths, 1) // PAD_MULTIPLE) * PAD_MULTIPLE, np.maximum(longest, lengths))
    order = np.argsort(-padded, kind="stable")
    start = 0
    while start < len(order):
        width = int(padded[order[start]])
        stop = start + int(np.searchsorted(-padded[order[start:]], -width, side="right"))
        step = max(batch_tokens // width, 1)
        for first in range(start, stop, step):
            rows = order[first:min(first + step, stop)]
            block = np.full((len(rows), width), pad_id, np.int64)
            for line, row in zip(block, rows, strict=True):
                line[:lengths[row]] = ids[row]
            yield Batch(rows, block, lengths[rows])
        start = stop
