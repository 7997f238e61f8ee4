"""Dot products of chosen rows with one query: rescoring, re-ranking, explaining."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import InvalidArgumentError, InvalidQueryError, ShapeError
from sparsight.kernels import reference
from sparsight.kernels.arrays import require_array
from sparsight.kernels.cpu import _native
from sparsight.kernels.paths import resolve_path
from sparsight.kernels.postings import Forward
from sparsight.kernels.search import check_query

__all__ = ["score_passages", "sparse_dot_dense", "sparse_dot_sparse"]


def score_passages(
    forward: Forward,
    terms: NDArray[np.uint32],
    weights: NDArray[np.int16],
    rows: NDArray[np.uint32] | None = None,
    *,
    path: str = "auto",
) -> NDArray[np.int32]:
    """Exact integer score of each row: the numbers that ``topk_documents`` gives these passages.

    Parameters
    ----------
    forward : Forward
    terms : uint32, shape (Q,)
        Ascending, without repeats.
    weights : int16, shape (Q,)
    rows : uint32, shape (n,), optional
        Rows to score, in any order, repeats allowed; None takes all.
    path : str
        See ``available_paths()``; the compiled ones run the same code here.

    Returns
    -------
    int32, shape (n,)
        0 for a row without a term of the query.

    Raises
    ------
    ShapeError, InvalidQueryError
        As ``topk_documents``.
    InvalidArgumentError
        If a row is not below ``forward.n_rows``.
    CorruptIndexError
        If a row's range in ``forward.indptr`` is inconsistent.
    """
    chosen = resolve_path(path)
    check_query(terms, weights)
    if rows is not None:
        _check_rows(rows, forward.n_rows)
    if chosen == "reference":
        return reference.score_passages(forward, terms, weights, rows)
    return _native.score_passages(forward.indptr, forward.term_ids, forward.impacts, terms, weights, rows)


def sparse_dot_sparse(
    indptr: NDArray[np.uint64],
    ids: NDArray[np.uint32],
    values: NDArray[np.float16] | NDArray[np.float32],
    rows: NDArray[np.uint32] | None,
    q_ids: NDArray[np.uint32],
    q_values: NDArray[np.float32],
    *,
    path: str = "auto",
) -> NDArray[np.float32]:
    """Dot product of sparse rows with a sparse query.

    Parameters
    ----------
    indptr : uint64, shape (R + 1,)
        Row r holds the entries ``[indptr[r], indptr[r + 1])``.
    ids : uint32, shape (nnz,)
        Strictly ascending within a row.
    values : float16 or float32, shape (nnz,)
    rows : uint32, shape (n,), or None
        Rows to take, in any order; None takes all.
    q_ids : uint32, shape (Q,)
        Ascending, without repeats.
    q_values : float32, shape (Q,)
    path : str
        See ``available_paths()``.

    Returns
    -------
    float32, shape (n,)
        Summed in float64 from left to right, then rounded once: the same bits on every path.

    Raises
    ------
    ShapeError, InvalidQueryError, InvalidArgumentError, CorruptIndexError
        As :func:`score_passages`.
    """
    chosen = resolve_path(path)
    _check_csr(indptr, ids, values)
    require_array(q_ids, "q_ids", np.uint32, (None,))
    require_array(q_values, "q_values", np.float32, (len(q_ids),))
    if (q_ids[1:] <= q_ids[:-1]).any():
        raise InvalidQueryError("q_ids: expected strictly ascending ids", field="q_ids")
    rows = _all_or_checked(rows, len(indptr) - 1)
    if chosen == "reference":
        return reference.sparse_dot_sparse(indptr, ids, values, rows, q_ids, q_values)
    return _native.sparse_dot_sparse(indptr, ids, _bits(values), rows, q_ids, q_values, chosen)


def sparse_dot_dense(
    indptr: NDArray[np.uint64],
    ids: NDArray[np.uint32],
    values: NDArray[np.float16] | NDArray[np.float32],
    rows: NDArray[np.uint32] | None,
    q: NDArray[np.float32],
    *,
    path: str = "auto",
) -> NDArray[np.float32]:
    """Dot product of sparse rows with a dense query.

    Parameters
    ----------
    indptr, ids, values, rows, path
        As :func:`sparse_dot_sparse`; ids need no order here.
    q : float32, shape (V,)

    Returns
    -------
    float32, shape (n,)
        Summed in float64 from left to right, then rounded once: the same bits on every path.

    Raises
    ------
    ShapeError, InvalidArgumentError
        As :func:`score_passages`.
    CorruptIndexError
        If a row's range is inconsistent, or one of its ids is not below V.
    """
    chosen = resolve_path(path)
    _check_csr(indptr, ids, values)
    require_array(q, "q", np.float32, (None,))
    rows = _all_or_checked(rows, len(indptr) - 1)
    if chosen == "reference":
        return reference.sparse_dot_dense(indptr, ids, values, rows, q)
    return _native.sparse_dot_dense(indptr, ids, _bits(values), rows, q, chosen)


def _check_csr(indptr: Any, ids: Any, values: Any) -> None:
    require_array(indptr, "indptr", np.uint64, (None,))
    require_array(ids, "ids", np.uint32, (None,))
    half = isinstance(values, np.ndarray) and values.dtype == np.float16
    require_array(values, "values", np.float16 if half else np.float32, (len(ids),))
    if len(indptr) == 0 or indptr[0] != 0 or indptr[-1] != len(ids):
        ends = (int(indptr[0]), int(indptr[-1])) if len(indptr) else ()
        raise ShapeError(
            f"indptr: expected offsets from 0 to {len(ids)}, received ends {ends}",
            field="indptr",
            expected=(0, len(ids)),
            received=ends,
        )


def _check_rows(rows: Any, n_rows: int) -> None:
    require_array(rows, "rows", np.uint32, (None,))
    if len(rows) and int(rows.max()) >= n_rows:
        raise InvalidArgumentError(
            f"rows: expected rows below {n_rows}, received {int(rows.max())}",
            field="rows",
            expected=n_rows,
            received=int(rows.max()),
        )


def _all_or_checked(rows: NDArray[np.uint32] | None, n_rows: int) -> NDArray[np.uint32]:
    if rows is None:
        return np.arange(n_rows, dtype=np.uint32)
    _check_rows(rows, n_rows)
    return rows


def _bits(values: NDArray[Any]) -> NDArray[Any]:
    """float16 travels to C++ as its bits, for which both sides have a type."""
    return values.view(np.uint16) if values.dtype == np.float16 else values
