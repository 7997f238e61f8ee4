"""What all sparse encoders share: options, queries with and without the model, rows to a matrix.

A document's vector always comes from the model. A query's comes from one of three places (``Settings.query``):

* "encoder": the model, as a document's ("siamese");
* "table": a table of weights (:mod:`sparsight.encoders.query_table`);
* "bow": 1 for each word piece.

The last two need no model and take microseconds. An index does not care which of them a query comes from.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from sparsight.encoders.base import Mode, TransformerEncoder
from sparsight.encoders.batching import Batch, Progress, check_texts
from sparsight.encoders.precision import Precision
from sparsight.encoders.query_table import read_query_weights, special_pieces
from sparsight.encoders.settings import Settings
from sparsight.errors import CheckpointError, InvalidArgumentError

if TYPE_CHECKING:
    import torch

__all__ = ["Row", "SparseEncoder", "keep_largest"]

Row: TypeAlias = tuple[NDArray[np.int32], NDArray[np.float32]]
"""Terms, ascending, and their weights, all > 0."""


class SparseEncoder(TransformerEncoder):
    """Base of the sparse encoders; a subclass says how a batch's token vectors become rows, and its ``dimension``.

    Attributes
    ----------
    heads : tuple of str
        The ``Settings.head`` that a class reads.
    """

    kind: ClassVar[Literal["sparse", "dense"]] = "sparse"
    heads: ClassVar[tuple[str, ...]] = ()

    def __init__(self, settings: Settings, *, name: str = "", device: str = "cpu", fingerprint: str = "",
                 precision: Precision = "float32") -> None:
        if settings.kind == "sparse" and settings.head not in self.heads:
            raise CheckpointError(f"{settings.folder} has a {settings.head} head, expected {' or '.join(self.heads)}",
                                  folder=settings.folder)
        super().__init__(settings, name=name, device=device, fingerprint=fingerprint, precision=precision)
        self.dimension = self._load_head()
        self._place_model()
        self._special = special_pieces(self.tokenizer, max(self.dimension, self.tokenizer.get_vocab_size()))
        self._read_queries()

    @abstractmethod
    def _load_head(self) -> int:
        """Make what comes after the transformer, on ``self._device``; returns the dimension."""

    @abstractmethod
    def _rows(self, batch: Batch, hidden: torch.Tensor, mode: Mode, max_terms: int, threshold: float) -> list[Row]:
        """A row for each text of a batch from the model's output, pruned as :meth:`encode` says."""

    def with_settings(self, settings: Settings, name: str) -> Self:
        """The encoder with other settings for queries; documents' settings have to be the same. The model is shared."""
        other = copy.copy(self)
        other.settings, other.name = settings, name
        other._read_queries()
        return other

    def term(self, index: int) -> str:
        """The word piece of a dimension; "" for one beyond the tokenizer's vocabulary.

        Raises
        ------
        InvalidArgumentError
            If ``index`` is not in ``[0, dimension)``.
        """
        self._check_index(index)
        return self.tokenizer.id_to_token(int(index)) or ""

    def encode(self, texts: Sequence[str], *, mode: Mode = "document", max_tokens: int = 0, max_terms: int = 0,
               threshold: float = 0.0, progress: Progress | None = None) -> csr_matrix:
        """Term weights of texts.

        Parameters
        ----------
        texts : sequence of str
            A text without word pieces (empty, blanks) gets an empty row.
        mode : "document" or "query"
            Chooses the prompt that the model's settings put before the text, if any, and for "query" what makes the
            vector: the model, a table, or 1 for each word piece.
        max_tokens : int
            Word pieces that count, special tokens included; 0 or more than the model's own limit is that limit.
        max_terms : int
            Largest weights kept in a row, equal ones by lower term; 0 keeps all.
        threshold : float
            Weights must be larger than this; at least 0.
        progress : callable, optional
            Called with (done, total) after each batch (on a GPU: after some thousand texts).

        Returns
        -------
        csr_matrix, float32, shape (B, dimension)
            int32 indices sorted in each row; all values > 0.

        Raises
        ------
        InvalidArgumentError
            If ``texts`` are no strings, or another argument is out of range.
        """
        if max_terms < 0:
            raise InvalidArgumentError(f"expected max_terms of at least 0, got {max_terms}", field="max_terms")
        if not 0.0 <= threshold < np.inf:
            raise InvalidArgumentError(f"expected a threshold of at least 0, got {threshold}", field="threshold")
        if mode == "query" and self._query_weights is not None:
            return self._look_up(texts, max_tokens, max_terms, threshold, progress)
        return self._encode(texts, mode, max_tokens, max_terms, threshold, progress)

    def _encode(self, texts: Sequence[str], mode: Mode, max_tokens: int, max_terms: int, threshold: float,
                progress: Progress | None) -> csr_matrix:
        """:meth:`encode` with the model."""
        rows: list[Row] = [(np.zeros(0, np.int32), np.zeros(0, np.float32))] * len(texts)

        def finish(batch: Batch, hidden: torch.Tensor) -> list[Row]:
            return self._rows(batch, hidden, mode, max_terms, threshold)

        for batch, made in self._run(texts, mode, max_tokens, progress, finish):
            for at, row in zip(batch.rows.tolist(), made, strict=True):
                rows[at] = row
        return _to_csr(rows, self.dimension)

    def encode_query(self, text: str) -> Row:
        """Terms (int32, ascending) and weights (float32, all > 0) of one query: ``encode([text], mode="query")``.

        Without the model, where the settings say "table" or "bow".

        Raises
        ------
        InvalidArgumentError
            If ``text`` is no string.
        """
        if self._query_weights is None:
            row = self.encode([text], mode="query")
            return row.indices, row.data
        check_texts([text])
        return self._weigh_pieces(self._pieces([text], self.max_tokens)[0])

    def _look_up(self, texts: Sequence[str], max_tokens: int, max_terms: int, threshold: float,
                 progress: Progress | None) -> csr_matrix:
        limit = self._check(texts, "query", max_tokens)
        rows = [prune(*self._weigh_pieces(pieces), max_terms, threshold) for pieces in self._pieces(texts, limit)]
        if progress is not None and texts:
            progress(len(texts), len(texts))
        return _to_csr(rows, self.dimension)

    def _pieces(self, texts: Sequence[str], limit: int) -> list[NDArray[np.int32]]:
        """The word pieces of each text, ascending, each once; special tokens may be among them."""
        return [np.unique(ids) for ids in self._tokens.ids(self._shown(texts, "query"), limit)]

    def _weigh_pieces(self, pieces: NDArray[np.int32]) -> Row:
        assert self._query_weights is not None
        weights = self._query_weights[pieces]
        kept = weights > 0
        return pieces[kept], weights[kept]

    def _read_queries(self) -> None:
        """Take over what the settings say about queries; called again where only that differs."""
        # float32 (V,) for queries without the model, with zeros for special tokens; None if the model makes them.
        self._query_weights = self._load_query_weights()

    def _load_query_weights(self) -> NDArray[np.float32] | None:
        if self.settings.query == "encoder":
            return None
        if self.settings.query == "bow":
            weights = np.ones(self.dimension, np.float32)
        else:
            assert self.settings.query_table is not None
            weights = read_query_weights(self.settings.query_table, self.dimension, self.tokenizer)
        return np.where(self._special[:self.dimension], np.float32(0), np.maximum(weights, 0))

    def _own_pieces(self, batch: Batch, row: int) -> NDArray[np.int64]:
        """The word pieces of a batch's text, ascending, each once, without special tokens."""
        pieces = np.unique(batch.ids[row, :batch.lengths[row]])
        return pieces[~self._special[pieces]]

    def _check_index(self, index: int) -> None:
        if not 0 <= index < self.dimension:
            raise InvalidArgumentError(f"expected a term in [0, {self.dimension}), got {index}", field="indices")


def prune(terms: NDArray[np.int32], weights: NDArray[np.float32], max_terms: int, threshold: float) -> Row:
    """A row's entries above ``threshold``, the ``max_terms`` largest if that is not 0: equal ones by lower term."""
    if threshold > 0:
        kept = weights > threshold
        terms, weights = terms[kept], weights[kept]
    if 0 < max_terms < len(terms):
        largest = np.sort(np.argsort(-weights, kind="stable")[:max_terms])
        terms, weights = terms[largest], weights[largest]
    return terms, weights


def keep_largest(weights: NDArray[np.float32], max_terms: int, threshold: float) -> Row:
    """Terms (ascending) and weights of the entries above ``threshold``, the ``max_terms`` largest if that is not 0.

    Equal weights: the lower term stays.

    Examples
    --------
    >>> keep_largest(np.array([0, 2, 1, 2, 3], np.float32), 2, 0.0)
    (array([1, 4], dtype=int32), array([2., 3.], dtype=float32))
    """
    terms = np.flatnonzero(weights > threshold)
    return prune(terms.astype(np.int32), weights[terms].astype(np.float32), max_terms, 0.0)


def _to_csr(rows: Sequence[Row], dimension: int) -> csr_matrix:
    indptr = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(terms) for terms, _ in rows], out=indptr[1:])
    if not rows:
        return csr_matrix((0, dimension), dtype=np.float32)
    if indptr[-1] < 2**31:
        indptr = indptr.astype(np.int32)  # scipy keeps both index arrays in one dtype: indices must stay int32
    return csr_matrix((np.concatenate([weights for _, weights in rows]), np.concatenate([terms for terms, _ in rows]),
                       indptr), shape=(len(rows), dimension))
