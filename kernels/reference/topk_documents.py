"""Exact top-k documents over postings: the specification."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import CorruptIndexError
from sparsight.kernels.effort import CancelFlag, TopK, Work
from sparsight.kernels.postings import Postings
from sparsight.kernels.reference.postings import decode_term

__all__ = ["topk_documents"]


def topk_documents(
    postings: Postings,
    terms: NDArray[np.uint32],
    weights: NDArray[np.int16],
    k: int,
    mask: NDArray[np.uint64] | None,
    min_score: int,
    cancel: CancelFlag | None,
) -> TopK:
    """Score every passage, take each document's best one, keep the k best documents.

    Arguments are those of :func:`sparsight.kernels.topk_documents`, already checked. O(P + D log D) time.

    Raises
    ------
    CorruptIndexError
        If the postings of a term of the query, or the documents' passages, are inconsistent.
    """
    scores = passage_scores(postings, terms, weights, cancel)
    best, winner = best_passages(scores, postings.passage_offsets)
    allowed = np.ones(postings.n_documents, bool) if mask is None else unpack_mask(mask, postings.n_documents)
    hits = np.flatnonzero(allowed & (best > max(0, min_score)))
    # lexsort's last key is the first criterion; documents ascend, and it is stable.
    order = np.lexsort((hits, -best[hits]))[:k]
    documents = hits[order]
    return TopK(
        documents.astype(np.int32),
        best[documents].astype(np.int32),
        winner[documents].astype(np.uint32),
        "reference",
        Work("exact", len(terms), 0, postings.n_passages, 0),
    )


def passage_scores(
    postings: Postings, terms: NDArray[np.uint32], weights: NDArray[np.int16], cancel: CancelFlag | None = None
) -> NDArray[np.int64]:
    """``scores[p] = sum over terms of weight * impact``, int64, one for every passage of the segment."""
    scores = np.zeros(postings.n_passages, np.int64)
    if cancel is not None:
        cancel.check()
    for term, weight in zip(terms.tolist(), weights.tolist(), strict=True):
        if cancel is not None:
            cancel.check()
        at = int(np.searchsorted(postings.term_ids, term))
        if at == len(postings.term_ids) or postings.term_ids[at] != term:
            continue
        passages, impacts = decode_term(postings, at)
        if len(passages) and (passages[-1] >= postings.n_passages or (passages[1:] <= passages[:-1]).any()):
            raise CorruptIndexError(f"postings: passages of term {term} do not ascend or are out of range")
        scores[passages] += weight * impacts
    return scores


def best_passages(
    scores: NDArray[np.int64], passage_offsets: NDArray[np.uint32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each document's best score and the first passage that has it; 0 and 0 for documents without passages."""
    offsets = passage_offsets.astype(np.int64)
    if (np.diff(offsets) < 0).any():
        raise CorruptIndexError("postings.passage_offsets: expected ascending offsets")
    best = np.zeros(len(offsets) - 1, np.int64)
    winner = np.zeros(len(offsets) - 1, np.int64)
    filled = np.flatnonzero(np.diff(offsets))
    if len(filled):
        best[filled] = np.maximum.reduceat(scores, offsets[filled])
        is_best = scores == np.repeat(best, np.diff(offsets))
        place = np.where(is_best, np.arange(len(scores)), len(scores))
        winner[filled] = np.minimum.reduceat(place, offsets[filled])
    return best, winner


def unpack_mask(mask: NDArray[np.uint64], n_documents: int) -> NDArray[np.bool_]:
    """Bit ``d % 64`` of word ``d // 64`` as a bool per document."""
    words = mask.astype("<u8", copy=False).view(np.uint8)
    return np.unpackbits(words, bitorder="little", count=n_documents).astype(bool)
