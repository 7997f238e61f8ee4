"""The words of a text, and shares that they have in something.

An encoder reads word pieces; people read words. What is known of pieces is summed up, or its largest taken, by word:
:mod:`sparsight.encoders.sae.attribution` for latents, :mod:`sparsight.encoders.term_attribution` for SPLADE's terms.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsight.encoders.base import Mode, TransformerEncoder
from sparsight.errors import InvalidArgumentError, ShapeError
from sparsight.types import WordShare

__all__ = ["WordShares", "check_units", "word_of_pieces", "word_shares", "word_spans"]

F64 = NDArray[np.float64]

# A text is spelled in classes of characters (w: letter or number, m: mark, i: ideograph, d: decimal digit, j: what may
# join parts of a word, p: point or comma, space: all else), on which this finds words.
_WORD = re.compile(r"im*|[wd][wdm]*(?:(?:j|(?<=d)p(?=d))[wd][wdm]*)*")
_JOINERS = frozenset("-'’_\u00ad\u200c\u200d\u2010\u2011")



@dataclass(frozen=True, eq=False)
class WordShares:
    """What the W words of a text did to L latents, or terms.

    Attributes
    ----------
    text : str
    spans : int64, shape (W, 2)
        Words by first character and the one after the last, as :func:`word_spans`.
    seen : bool, shape (W,)
        Whether any of a word's pieces is among those that the encoder takes; others have shares of 0.
    units : int64, shape (L,)
        Latents, or terms.
    shares : float32, shape (W, L)
        Signed.
    rest : float32, shape (L,)
        What is no word's: special tokens, punctuation, a prompt, and biases.
    total : float32, shape (L,)
        What is explained.
    """

    text: str
    spans: NDArray[np.int64]
    seen: NDArray[np.bool_]
    units: NDArray[np.int64]
    shares: NDArray[np.float32]
    rest: NDArray[np.float32]
    total: NDArray[np.float32]

    @property
    def words(self) -> list[str]:
        """The W words as the text has them."""
        return [self.text[start:end] for start, end in self.spans.tolist()]

    def top(self, column: int, count: int = 5) -> list[WordShare]:
        """The words with the largest shares above 0 in a column, best first, equal ones in the text's order."""
        column_shares = self.shares[:, column]
        order = np.argsort(-column_shares, kind="stable")[:count]
        return [WordShare(self.text[start:end], start, end, share)
                for (start, end), share in zip(self.spans[order].tolist(), column_shares[order].tolist(), strict=True)
                if share > 0]


def word_spans(text: str) -> NDArray[np.int64]:
    """Words of a text, int64 (W, 2): first character and the one after the last.

    Letters, marks and numbers in a row, also across single hyphens, apostrophes, underscores and invisible joiners, and
    points and commas between digits. An ideograph is a word by itself, as BERT has it; other scripts without blanks are
    not taken apart.

    Examples
    --------
    >>> [("state-of-the-art (0.95)"[a:b]) for a, b in word_spans("state-of-the-art (0.95)")]
    ['state-of-the-art', '0.95']
    """
    spans = [found.span() for found in _WORD.finditer("".join(map(_class_of, text)))]
    return np.asarray(spans, np.int64).reshape(-1, 2)


@lru_cache(maxsize=4096)
def _class_of(character: str) -> str:
    if character in _JOINERS:
        return "j"
    if character in ".,":
        return "p"
    if character.isdecimal():
        return "d"
    if unicodedata.name(character, "").startswith("CJK ") and character.isalpha():
        return "i"
    return {"L": "w", "N": "w", "M": "m"}.get(unicodedata.category(character)[0], " ")


def word_of_pieces(encoder: TransformerEncoder, text: str, spans: NDArray[np.int64], mode: Mode, max_tokens: int,
                   ) -> NDArray[np.int64]:
    """The word that each of a text's T word pieces belongs to (special tokens included), or -1: int64 (T,)."""
    shown = encoder._shown([text], mode)[0]
    pieces: Any = encoder.tokenizer.encode(shown, add_special_tokens=False)
    limit = min(max_tokens or encoder.max_tokens, encoder.max_tokens)
    pieces.truncate(max(limit - encoder._tokens.special, 0))
    whole = encoder.tokenizer.post_process(pieces)
    offsets = np.asarray(whole.offsets, np.int64).reshape(-1, 2)
    # Where the text's characters are in what the tokenizer saw: behind a prompt, and a small letter may be two.
    lengths = [len(c.lower()) for c in text] if encoder.settings.lower_case else np.ones(len(text), np.int64)
    places = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    placed = (places + len(shown) - places[-1])[spans]
    if not len(spans):
        return np.full(len(offsets), -1)
    word = np.searchsorted(placed[:, 1], offsets[:, 0], side="right")  # the first that ends behind the piece's start
    inside = (word < len(spans)) & (placed[np.minimum(word, len(spans) - 1), 0] < offsets[:, 1])
    return np.where(inside & (np.asarray(whole.special_tokens_mask) == 0), word, -1)


def word_shares(text: str, spans: NDArray[np.int64], seen: NDArray[np.bool_], units: NDArray[np.int64], shares: F64,
                rest: F64, total: F64) -> WordShares:
    """Those, in float32."""
    return WordShares(text, spans, seen, units, shares.astype(np.float32), rest.astype(np.float32),
                      total.astype(np.float32))


def check_units(name: str, texts: Sequence[str], given: Sequence[Sequence[int]], below: int,
                ) -> list[NDArray[np.int64]]:
    """Numbers of latents or terms for each text as arrays; a ShapeError or InvalidArgumentError if they are not."""
    if isinstance(texts, str):
        raise InvalidArgumentError("expected a sequence of texts, got one string", field="texts")
    if len(given) != len(texts):
        raise ShapeError(f"expected {name} of {len(texts)} texts, got {len(given)}", field=name)
    out = []
    for at, numbers in enumerate(given):
        array = np.asarray(numbers)
        whole = array.ndim == 1 and (array.dtype.kind in "iu" or not array.size)
        if not whole or ((array < 0) | (array >= below)).any():
            raise InvalidArgumentError(f"expected {name}[{at}] in [0, {below}), got {numbers!r}", field=f"{name}[{at}]")
        out.append(array.astype(np.int64))
    return out
