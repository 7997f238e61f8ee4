"""Which words of a text raised a term of its SPLADE vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparsight.encoders.base import Mode
from sparsight.encoders.splade import SpladeEncoder
from sparsight.encoders.word_shares import WordShares, check_units, word_of_pieces, word_shares, word_spans
from sparsight.errors import InvalidArgumentError
from sparsight.kernels.reference.max_logits import activate

if TYPE_CHECKING:
    import torch

    from sparsight.encoders.batching import Batch

__all__ = ["attribute_term"]

F64 = NDArray[np.float64]


def attribute_term(texts: Sequence[str], terms: Sequence[Sequence[int]], *, encoder: SpladeEncoder,
                   mode: Mode = "document", max_tokens: int = 0) -> list[WordShares]:
    """What words raise terms of a text's SPLADE vector to.

    Parameters
    ----------
    texts : sequence of str, length B
    terms : sequence of B sequences of int
    encoder : SpladeEncoder
        With max pooling and expansion.
    mode, max_tokens
        As for :meth:`SparseEncoder.encode`, for queries too by the model.

    Returns
    -------
    list of WordShares, length B
        A share is the largest weight at one of the word's pieces, at least 0, and ``rest`` that at other pieces. The
        maximum over pieces makes this exact: ``total``, the term's weight, is the largest of the shares and the rest,
        and the word that has it raised the term, alone.

    Raises
    ------
    InvalidArgumentError
        If there is no term of a number, or the encoder adds weights up or does not expand, or as
        :meth:`SparseEncoder.encode`.
    ShapeError
        If there are not as many lists of terms as texts.
    """
    wanted = check_units("terms", texts, terms, encoder.dimension)
    if encoder.settings.pooling != "max" or not encoder._expands(mode):
        raise InvalidArgumentError("expected an encoder with max pooling and expansion", field="encoder")

    def finish(batch: Batch, hidden: torch.Tensor) -> list[F64]:
        return [_term_weights(encoder, hidden[row, :length], wanted[at])
                for row, (at, length) in enumerate(zip(batch.rows.tolist(), batch.lengths.tolist(), strict=True))]

    found: dict[int, WordShares] = {}
    for batch, made in encoder._run(texts, mode, max_tokens, None, finish):
        for at, weights in zip(batch.rows.tolist(), made, strict=True):
            spans = word_spans(texts[at])
            owners = word_of_pieces(encoder, texts[at], spans, mode, max_tokens)
            if len(weights) <= encoder._tokens.special:
                weights[:] = 0.0  # as the encoder: special tokens alone say nothing about a text
            shares = np.zeros((len(spans), weights.shape[1]))
            np.maximum.at(shares, owners[owners >= 0], weights[owners >= 0])
            found[at] = word_shares(texts[at], spans, np.isin(np.arange(len(spans)), owners), wanted[at], shares,
                                     weights[owners < 0].max(0, initial=0.0), weights.max(0, initial=0.0))
    return [found[at] for at in range(len(texts))]


def _term_weights(encoder: SpladeEncoder, hidden: torch.Tensor, terms: NDArray[np.int64]) -> F64:
    """Weights (T, K) of K terms at each of a text's word pieces (T, H)."""
    import torch

    with torch.inference_mode():
        at = torch.from_numpy(terms).to(hidden.device)
        logits = (hidden @ encoder._decoder.weight[at].T).float()
        if encoder._decoder.bias is not None:
            logits = logits + encoder._decoder.bias[at]
        weights: F64 = activate(logits, encoder.settings.activation).cpu().numpy().astype(np.float64)
        return weights
