"""Word pieces of texts, natively: BERT's normalisation, its split into words, and longest match first.

A character has a *spelling*: what stands for it in the normalised text, with a blank wherever words part. The words of
a text are the spellings of its characters, joined and cut at blanks. The kernel asks its ``alphabet`` for spellings,
256 characters at a time and once each, so it has no Unicode tables of its own that could differ from the tokenizer's.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import InvalidArgumentError, ShapeError
from sparsight.kernels.arrays import require_array
from sparsight.kernels.cpu import _native
from sparsight.kernels.search import check_threads

__all__ = ["PAGE_SIZE", "Alphabet", "Fallback", "WordPiece"]

Alphabet: TypeAlias = Callable[[int], Sequence[str | None]]
"""The spellings of the characters ``256 * page`` to ``256 * page + 255``, None where neighbours matter (marks that
normalisation reorders). See :func:`sparsight.kernels.reference.wordpiece.bert_spelling`."""

Fallback: TypeAlias = Callable[[list[str]], Sequence[Sequence[int]]]
"""The pieces of each of some texts."""

PAGE_SIZE = 256
_MAX_ID = 2**31 - 1


class WordPiece:
    """A word-piece tokenizer.

    Parameters
    ----------
    pieces : mapping of str to int
        Pieces and their numbers, 0 to 2**31 - 1.
    alphabet : Alphabet
        Asked for page 0 at once, and for another when a text first needs it: about a millisecond then, for the
        alphabets there are. Later texts, in all threads, find it there.
    unknown : str
        The piece for words that the others do not cover.
    continuation : str
        What pieces inside a word begin with.
    max_chars : int
        Normalised characters; longer words are unknown.
    literals : sequence of str
        Texts that contain one of these (special tokens written out) go to ``fallback`` as a whole.
    fallback : Fallback, optional
        Encodes these texts, and those with a character that has no spelling.

    Raises
    ------
    InvalidArgumentError
        If a number is out of range, ``unknown`` is not among the pieces, or a literal is empty.

    Notes
    -----
    Threads may share one. Memory: the pieces as a double array (12 bytes for each distinct prefix: about 1 MB for the
    30,522 of bert-base-uncased) and at most 4,352 pages of 1 to 2 kB. The first use of a non-ASCII text keeps its UTF-8
    in the string itself, as Python does for every library that asks.

    References
    ----------
    Wu et al. 2016, "Google's Neural Machine Translation System"; Devlin et al. 2019, "BERT"; Song et al. 2021, "Fast
    WordPiece Tokenization" (its failure links were not needed: words are short).

    Examples
    --------
    >>> spell = lambda page: [bert_spelling(chr(256 * page + i)) for i in range(256)]
    >>> words = WordPiece({"[UNK]": 0, "cat": 1, "##s": 2, ".": 3}, spell)
    >>> words.encode(["Cats.", "dog"])
    (array([1, 2, 3, 0], dtype=int32), array([0, 3, 4]))
    """

    def __init__(
        self,
        pieces: Mapping[str, int],
        alphabet: Alphabet,
        *,
        unknown: str = "[UNK]",
        continuation: str = "##",
        max_chars: int = 100,
        literals: Sequence[str] = (),
        fallback: Fallback | None = None,
    ) -> None:
        if unknown not in pieces:
            raise InvalidArgumentError(f"pieces: expected {unknown!r} among them", field="pieces", expected=unknown)
        for piece, number in pieces.items():
            if not 0 <= number <= _MAX_ID:
                raise InvalidArgumentError(
                    f"pieces[{piece!r}]: expected 0 to {_MAX_ID}, received {number}", field="pieces", received=number
                )
        if max_chars < 0:
            raise InvalidArgumentError(f"max_chars: expected at least 0, received {max_chars}", field="max_chars")
        if not all(literals):
            raise InvalidArgumentError("literals: expected no empty string", field="literals")
        self._alphabet = alphabet
        self._fallback = fallback
        self._native = _native.WordPiece(
            list(pieces.items()), continuation, pieces[unknown], max_chars, list(literals), self._page(0)
        )

    def encode(
        self,
        texts: Sequence[str],
        *,
        max_pieces: int | None = None,
        head: Sequence[int] = (),
        tail: Sequence[int] = (),
        threads: int = 0,
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The pieces of all texts, one text after the other.

        Parameters
        ----------
        texts : sequence of str, length B
        max_pieces : int, optional
            Texts lose their end beyond this, ``head`` and ``tail`` not counted; what is lost costs next to nothing.
        head, tail : sequence of int
            Put around every text: its special tokens.
        threads : int
            Threads to use, the caller's among them; 0 takes the processors this process may run on. Never more than
            one for each 32 texts.

        Returns
        -------
        ids : int32, shape (T,)
        starts : int64, shape (B + 1,)
            Text i is ``ids[starts[i]:starts[i + 1]]``.

        Raises
        ------
        InvalidArgumentError
            If a text is no string or holds a lone surrogate, a number is out of range, or a text needs the fallback and
            there is none.
        """
        if isinstance(texts, str):
            raise InvalidArgumentError("texts: expected a sequence of texts, received one string", field="texts")
        limit = _limit(max_pieces)
        return self._encode(tuple(texts), limit, list(head), list(tail), check_threads(threads))

    def lookup(
        self, text: str, table: NDArray[np.float32], *, max_pieces: int | None = None
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """A query without inference: the distinct pieces of a text, each with its weight in a table.

        Parameters
        ----------
        text : str
        table : float32, shape (V,)
            Weight of each piece. V is more than any number of a piece in the text.
        max_pieces : int, optional
            Pieces beyond this do not count.

        Returns
        -------
        terms : int32, shape (Q,)
            Ascending. Pieces whose weight is not above 0 are left out; no special tokens are added.
        weights : float32, shape (Q,)
            ``table[terms]``: a repeated word counts once.

        Raises
        ------
        ShapeError
            If the table is not such an array, or too short.
        InvalidArgumentError
            If the text is no string or holds a lone surrogate, or needs the fallback and there is none, or
            ``max_pieces`` is negative.

        References
        ----------
        Geng et al. 2024, "Towards Competitive Search Relevance For Inference-Free Learned Sparse Retrievers" (arXiv
        2411.04403); ``SparseStaticEmbedding`` of sentence-transformers has the same rule.
        """
        limit = _limit(max_pieces)
        try:
            found = self._native.lookup(text, table, limit)
            if found is None:
                ids, _ = self._encode((text,), limit, [], [], 1)
                found = _native.weigh_pieces(ids, table)
        except (TypeError, UnicodeEncodeError):
            _require_text(text, "text")
            require_array(table, "table", np.float32, (None,))
            raise
        except InvalidArgumentError as error:
            if str(error).startswith("table"):
                raise ShapeError(str(error), field="table") from None
            raise
        return found

    def _encode(
        self, texts: tuple[str, ...], limit: int, head: list[int], tail: list[int], threads: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        try:
            ids, starts, odd, pages = self._native.encode(texts, limit, threads, head, tail)
        except (TypeError, UnicodeEncodeError):
            for position, text in enumerate(texts):
                _require_text(text, f"texts[{position}]")
            raise
        if len(odd) == 0:
            return ids, starts
        some = tuple(texts[row] for row in odd.tolist())
        if pages:
            for page in pages:
                self._native.learn(page, self._page(page))
            own, own_starts = self._encode(some, limit, [], [], threads)  # those pages cannot be missing again
        else:
            own, own_starts = self._ask_fallback(some, limit)
        lengths = np.diff(own_starts)
        ids = np.insert(ids, np.repeat(starts[odd] + len(head), lengths), own)
        longer = np.zeros(len(texts), np.int64)
        longer[odd] = lengths
        starts[1:] += np.cumsum(longer)
        return ids, starts

    def _ask_fallback(self, texts: tuple[str, ...], limit: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        if self._fallback is None:
            raise InvalidArgumentError(
                f"texts: only a fallback can encode a literal or a character of {texts[0][:40]!r}", field="texts"
            )
        rows = [row if limit < 0 else row[:limit] for row in self._fallback(list(texts))]
        starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
        return np.fromiter(itertools.chain.from_iterable(rows), np.int32, int(starts[-1])), starts

    def _page(self, page: int) -> list[str | None]:
        spellings = list(self._alphabet(page))
        if len(spellings) != PAGE_SIZE:
            raise InvalidArgumentError(
                f"alphabet({page}): expected {PAGE_SIZE} spellings, received {len(spellings)}", field="alphabet"
            )
        return spellings


def _limit(max_pieces: int | None) -> int:
    """As the kernel takes it: -1 is none."""
    if max_pieces is None:
        return -1
    if max_pieces < 0:
        raise InvalidArgumentError(f"max_pieces: expected at least 0, received {max_pieces}", field="max_pieces")
    return max_pieces


def _require_text(text: Any, field: str) -> None:
    if not isinstance(text, str):
        raise InvalidArgumentError(
            f"{field}: expected a string, received {type(text).__name__}", field=field, received=type(text).__name__
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(
            f"{field}: holds a lone surrogate at character {error.start}", field=field, position=error.start
        ) from error
