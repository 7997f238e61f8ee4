"""Dot products of chosen rows with one query: the specification."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import CorruptIndexError
from sparsight.kernels.postings import Forward

__all__ = ["score_passages", "sparse_dot_dense", "sparse_dot_sparse"]


def score_passages(
    forward: Forward, terms: NDArray[np.uint32], weights: NDArray[np.int16], rows: NDArray[np.uint32] | None
) -> NDArray[np.int32]:
    """Exact integer scores of the rows; arguments as in :func:`sparsight.kernels.score_passages`."""
    chosen = range(forward.n_rows) if rows is None else rows.tolist()
    scores = np.zeros(len(chosen), np.int32)
    query = dict(zip(terms.tolist(), weights.tolist(), strict=True))
    for i, row in enumerate(chosen):
        entries = _row(forward.indptr, len(forward.term_ids), row)
        ids, impacts = forward.term_ids[entries].tolist(), forward.impacts[entries].tolist()
        scores[i] = sum(query.get(term, 0) * impact for term, impact in zip(ids, impacts, strict=True))
    return scores


def sparse_dot_sparse(
    indptr: NDArray[np.uint64],
    ids: NDArray[np.uint32],
    values: NDArray[np.float16] | NDArray[np.float32],
    rows: NDArray[np.uint32],
    q_ids: NDArray[np.uint32],
    q_values: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Rows times a sparse query; arguments as in :func:`sparsight.kernels.sparse_dot_sparse`."""
    out = np.zeros(len(rows), np.float32)
    for i, row in enumerate(rows.tolist()):
        entries = _row(indptr, len(ids), row)
        _, here, there = np.intersect1d(ids[entries], q_ids, assume_unique=True, return_indices=True)
        out[i] = _sequential_sum(values[entries][here], q_values[there])
    return out


def sparse_dot_dense(
    indptr: NDArray[np.uint64],
    ids: NDArray[np.uint32],
    values: NDArray[np.float16] | NDArray[np.float32],
    rows: NDArray[np.uint32],
    q: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Rows times a dense query; arguments as in :func:`sparsight.kernels.sparse_dot_dense`."""
    out = np.zeros(len(rows), np.float32)
    for i, row in enumerate(rows.tolist()):
        entries = _row(indptr, len(ids), row)
        if (ids[entries] >= len(q)).any():
            raise CorruptIndexError(f"ids: row {row} holds an id of {len(q)} or more, the query's length")
        out[i] = _sequential_sum(values[entries], q[ids[entries]])
    return out


def _row(indptr: NDArray[np.uint64], nnz: int, row: int) -> slice:
    start, stop = int(indptr[row]), int(indptr[row + 1])
    if not start <= stop <= nnz:
        raise CorruptIndexError(f"indptr: row {row} has range [{start}, {stop}) of {nnz} entries")
    return slice(start, stop)


def _sequential_sum(a: NDArray[np.float16] | NDArray[np.float32], b: NDArray[np.float32]) -> np.float32:
    # A product of two float32 is exact in float64, and cumsum adds from left to right, here from +0: every
    # implementation that does the same gets the same bits. np.dot and np.sum would choose their own order.
    terms = np.zeros(len(a) + 1)
    with np.errstate(invalid="ignore"):
        np.multiply(a, b, out=terms[1:], dtype=np.float64)
        return np.float32(np.cumsum(terms)[-1])
