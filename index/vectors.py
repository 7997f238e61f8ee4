"""The door for vectors: everything a caller brings is checked here once, before any state changes.

===============================  =====================================  ==============================
input                            document                               query
===============================  =====================================  ==============================
NaN, infinite, float32 overflow  refused (NON_FINITE_WEIGHT)            same
negative weight                  refused (NEGATIVE_WEIGHT)              allowed: it counts against
zero, denormal                   dropped and counted                    dropped
repeated index                   refused (DUPLICATE_DIMENSION)          same
index out of range               refused (DIMENSION_OUT_OF_RANGE)       same
unsorted                         sorted                                 same
lengths differ                   refused (LENGTHS_DIFFER)               same
too many weights                 refused (TOO_MANY_WEIGHTS)             same
===============================  =====================================  ==============================

The vectors of a write are joined and checked as whole arrays; only when that finds a fault are they looked at one by
one, to say which it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsight.errors import InvalidQueryError, InvalidVectorError
from sparsight.index.parts import ImpactQuery
from sparsight.index.rows import SparseRow
from sparsight.index.schema import MAX_TERM, FieldSchema
from sparsight.kernels import quantise_weights
from sparsight.types import SparseVector

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = [
    "MAX_DOCUMENT_WEIGHTS",
    "MAX_QUERY_WEIGHTS",
    "check_dense",
    "check_dense_rows",
    "check_sparse",
    "check_sparse_rows",
    "csr_rows",
    "quantise_query",
]

MAX_DOCUMENT_WEIGHTS = 16_384
MAX_QUERY_WEIGHTS = 16_384
_FEW = 4  # below this many vectors, one by one is as fast
_SMALLEST = float(np.finfo(np.float32).tiny)  # smaller ones are denormal: no model means them, and they are slow


def check_sparse(vector: Any, field: FieldSchema, place: str, *, signed: bool = False) -> tuple[SparseRow, int]:
    """A sparse vector as sorted unique term ids and weights, and how many weights were dropped as zero.

    Parameters
    ----------
    vector : SparseVector or mapping of int to float
    field : FieldSchema
        Whose dimension bounds the indices.
    place : str
        Path of the vector in the request, for errors.
    signed : bool
        Allow negative weights (queries).

    Raises
    ------
    InvalidVectorError
        As the table above says, with ``reason``, path and position.
    """
    if isinstance(vector, dict):
        vector = SparseVector.from_dict(_int_keys(vector, place))
    if not isinstance(vector, SparseVector):
        raise InvalidVectorError(
            f"field {field.name!r} takes a sparse vector; got {type(vector).__name__}", field=place, reason="WRONG_KIND"
        )
    indices, values = _array(vector.indices, f"{place}.indices"), _array(vector.values, f"{place}.values")
    if indices.ndim != 1 or values.ndim != 1 or len(indices) != len(values):
        raise InvalidVectorError(
            f"indices and values have equal lengths; got {indices.size} and {values.size}",
            field=place,
            reason="LENGTHS_DIFFER",
        )
    limit = MAX_QUERY_WEIGHTS if signed else MAX_DOCUMENT_WEIGHTS
    if len(indices) > limit:
        raise InvalidVectorError(
            f"a vector has at most {limit} weights; got {len(indices)}", field=place, reason="TOO_MANY_WEIGHTS"
        )
    if indices.dtype.kind not in "iu":
        if (len(indices) and indices.dtype.kind != "f") or not np.array_equal(indices, np.floor(indices)):
            raise InvalidVectorError(
                "indices are whole numbers", field=f"{place}.indices", reason="DIMENSION_OUT_OF_RANGE"
            )
        indices = indices.astype(np.int64)
    top = min(field.dimension - 1, MAX_TERM) if field.dimension else MAX_TERM
    bad = np.flatnonzero((indices < 0) | (indices > top))
    if len(bad):
        raise InvalidVectorError(
            f"index {indices[bad[0]]} is outside 0..{top} of field {field.name!r}",
            field=f"{place}.indices[{bad[0]}]",
            reason="DIMENSION_OUT_OF_RANGE",
        )
    weights = _finite(values, f"{place}.values")
    if not signed and len(bad := np.flatnonzero(weights < 0)):
        raise InvalidVectorError(
            f"a document's weights are not negative; got {weights[bad[0]]}",
            field=f"{place}.values[{bad[0]}]",
            reason="NEGATIVE_WEIGHT",
        )
    order = np.argsort(indices, kind="stable")
    ids = indices[order].astype(np.uint32)
    if len(bad := np.flatnonzero(ids[1:] == ids[:-1])):
        raise InvalidVectorError(
            f"index {ids[bad[0]]} is there twice",
            field=f"{place}.indices[{order[bad[0] + 1]}]",
            reason="DUPLICATE_DIMENSION",
        )
    kept = np.abs(weights[order]) >= _SMALLEST
    return SparseRow(ids[kept], weights[order][kept]), int(len(ids) - kept.sum())


def check_sparse_rows(
    vectors: Sequence[Any], field: FieldSchema, place: Callable[[int], str]
) -> tuple[list[SparseRow], int]:
    """:func:`check_sparse` of many documents' vectors at once; ``place(n)`` is the path of the n-th.

    About ten times as fast as one by one. The rows are views of a few large arrays.
    """
    joined = _join_sparse(vectors, field) if len(vectors) >= _FEW else None
    if joined is None:
        each = [check_sparse(vector, field, place(n)) for n, vector in enumerate(vectors)]
        return [row for row, _ in each], sum(dropped for _, dropped in each)
    ends, ids, weights = joined
    kept = weights >= _SMALLEST
    dropped = len(ids) - int(np.count_nonzero(kept))
    if dropped:
        ends = np.append(0, np.cumsum(kept))[ends]
        ids, weights = ids[kept], weights[kept]
    bounds = ends.tolist()
    return [SparseRow(ids[a:b], weights[a:b]) for a, b in zip([0, *bounds], bounds, strict=False)], dropped


def _join_sparse(
    vectors: Sequence[Any], field: FieldSchema
) -> tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.float32]] | None:
    """Where each vector ends, ids ascending in each, weights; None where something is wrong or out of the ordinary."""
    indices, values = [], []
    for vector in vectors:
        if not isinstance(vector, SparseVector):
            return None
        ids, weights = np.asarray(vector.indices), np.asarray(vector.values)
        if not (ids.ndim == weights.ndim == 1 and len(ids) == len(weights) <= MAX_DOCUMENT_WEIGHTS):
            return None
        if ids.dtype.kind not in "iu" or ids.dtype == np.uint64 or weights.dtype.kind != "f":
            return None
        indices.append(ids)
        values.append(weights)
    all_ids = np.concatenate(indices)
    with np.errstate(over="ignore"):
        all_weights = np.concatenate(values).astype(np.float32, copy=False)
    top = min(field.dimension - 1, MAX_TERM) if field.dimension else MAX_TERM
    if len(all_ids) and not (
        all_ids.min() >= 0 and all_ids.max() <= top and all_weights.min() >= 0 and np.isfinite(all_weights).all()
    ):
        return None  # a NaN fails the comparison with 0, too
    ends = np.cumsum([len(ids) for ids in indices])
    ids = all_ids.astype(np.uint32)
    falling = np.flatnonzero(ids[1:] <= ids[:-1]) + 1
    if not np.isin(falling, ends, assume_unique=True).all():
        keys = np.repeat(np.arange(len(ends), dtype=np.uint64) << np.uint64(32), np.diff(ends, prepend=0)) | ids
        order = np.argsort(keys)
        keys, all_weights = keys[order], all_weights[order]
        if (keys[1:] == keys[:-1]).any():
            return None
        ids = keys.astype(np.uint32)
    return ends, ids, all_weights


def check_dense_rows(vectors: Sequence[Any], field: FieldSchema, place: Callable[[int], str]) -> NDArray[np.float32]:
    """:func:`check_dense` of many documents' vectors at once, as float32 (len(vectors), dimension)."""
    if all(isinstance(v, np.ndarray) and v.dtype.kind == "f" and v.shape == (field.dimension,) for v in vectors):
        with np.errstate(over="ignore"):
            matrix = np.stack(vectors).astype(np.float32, copy=False)
        if np.isfinite(matrix).all() and matrix.any(axis=1).all():
            return matrix
    return np.stack([check_dense(vector, field, place(n)) for n, vector in enumerate(vectors)])


def check_dense(vector: Any, field: FieldSchema, place: str) -> NDArray[np.float32]:
    """A dense vector as float32 (dimension,).

    Raises
    ------
    InvalidVectorError
        Wrong kind, wrong dimension, not finite, or all zero (it has no direction).
    """
    if isinstance(vector, SparseVector | dict):
        raise InvalidVectorError(
            f"field {field.name!r} takes a dense vector; got a sparse one", field=place, reason="WRONG_KIND"
        )
    values = _array(vector, place)
    if values.ndim != 1 or len(values) != field.dimension:
        raise InvalidVectorError(
            f"field {field.name!r} takes {field.dimension} numbers; got shape {values.shape}",
            field=place,
            reason="WRONG_DIMENSION",
        )
    dense = _finite(values, place)
    if not dense.any():
        raise InvalidVectorError(f"a vector of field {field.name!r} is not all zero", field=place, reason="ZERO_VECTOR")
    return dense


def _int_keys(weights: dict[Any, Any], place: str) -> dict[int, float]:
    try:
        pairs = {int(key): float(value) for key, value in weights.items()}
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidVectorError(
            f"a sparse vector maps whole numbers to numbers: {error}", field=place, reason="WRONG_KIND"
        ) from error
    for key in pairs:
        if not 0 <= key <= MAX_TERM:
            raise InvalidVectorError(
                f"index {key} is outside 0..{MAX_TERM}", field=place, reason="DIMENSION_OUT_OF_RANGE"
            )
    return pairs


def _array(values: ArrayLike, place: str) -> NDArray[Any]:
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "fiub":
            array = array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidVectorError(f"expected numbers: {error}", field=place, reason="WRONG_KIND") from error
    return array


def _finite(values: NDArray[Any], place: str) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        weights = values.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(weights))
    if len(bad):
        raise InvalidVectorError(
            f"weights are finite float32 numbers; got {values[bad[0]]}",
            field=f"{place}[{bad[0]}]",
            reason="NON_FINITE_WEIGHT",
        )
    return weights


def csr_rows(matrix: csr_matrix) -> list[SparseRow]:
    """The rows of an encoder's matrix: the one form in which encoders and index meet."""
    ids, values = matrix.indices.astype(np.uint32), matrix.data.astype(np.float32)
    return [SparseRow(ids[a:b], values[a:b]) for a, b in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)]


def quantise_query(terms: NDArray[np.uint32], weights: NDArray[np.float64], place: str = "query") -> ImpactQuery:
    """Signed 16-bit query weights and the unit that turns integer scores back.

    ``weights`` already hold what one impact level of their term is worth. The largest becomes 32,767, less
    when a score could otherwise leave int32 (``sum |w| * 255 < 2**31``).

    Raises
    ------
    InvalidQueryError
        More than 16,384 weights.
    """
    if len(terms) > MAX_QUERY_WEIGHTS:
        raise InvalidQueryError(f"a query has at most {MAX_QUERY_WEIGHTS} weights; got {len(terms)}", field=place)
    levels = np.ascontiguousarray(weights, np.float64)
    return ImpactQuery(*quantise_weights(np.ascontiguousarray(terms, np.uint32), levels))
