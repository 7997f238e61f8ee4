"""Dense fields of a segment: exact search over stored vectors, or an HNSW graph over them (FAISS).

Both kinds hold the same memory-mapped float32 array of passages, which is never copied, and answer the same
question: the k documents whose best passage has the largest inner product with the query.

Scores. The score of a passage is what ``faiss.fvec_inner_products_by_idx`` gives for it: one fixed order of
additions over its own row. Every score returned here comes from that routine, so on one machine a passage's
score is bit-equal whether a plain, masked or batched search, the graph or ``scores`` found it (another
instruction set may differ in the last bits). In a batch BLAS chooses the candidates, with a margin that
covers the rounding of both, so that flat results are bit-equal on all paths too, ties included.

References
----------
Malkov and Yashunin 2020, "Efficient and Robust Approximate Nearest Neighbor Search Using Hierarchical Navigable
Small World Graphs", TPAMI 42(4). Higham 2002, "Accuracy and Stability of Numerical Algorithms", section 3.1:
any order of summation errs by at most ``gamma_D |x| |q|`` with ``gamma_D = D u / (1 - D u)``, ``u = 2**-24``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsight.errors import InvalidArgumentError, InvalidVectorError, ShapeError
from sparsight.index.ranges import ranges

__all__ = ["DenseHits", "DenseIndex", "FlatIndex", "scores"]

F32Array: TypeAlias = NDArray[np.float32]
Masks: TypeAlias = NDArray[np.uint64] | Sequence[NDArray[np.uint64] | None] | None


# A matrix product scores a row for a seventh of what reading it alone costs (100,000 x 384, 32 queries), but it scores
# every row; so it is for a few queries or more, each of which lets at least an eighth of the passages pass.
_BATCH_QUERIES: Final = 4
_BATCH_SHARE: Final = 0.125
_BATCH_FLOATS: Final = 1 << 24  # scores held at once in a batch: 64 MiB
_THREAD_FLOATS: Final = 1 << 22  # a scan shorter than this (about 1 ms) is not worth a thread of its own


class DenseHits(NamedTuple):
    """Best documents of a segment. Higher scores first; ties: lower document.

    ``documents`` int32 (n,), ``scores`` float32 (n,), ``passages`` uint32 (n,): the winning passage, numbered
    in the segment; ties: the lowest. ``n = min(k, documents that have passages and pass the mask)``.
    """

    documents: NDArray[np.int32]
    scores: F32Array
    passages: NDArray[np.uint32]


def load_faiss() -> Any:
    """FAISS, imported when first needed: it takes a while, and its type stubs lag behind it."""
    import faiss

    return faiss


@contextmanager
def faiss_threads(count: int) -> Iterator[None]:
    """FAISS's regions on this thread run with ``count`` threads. OpenMP keeps the number per calling thread."""
    faiss = load_faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


# --- scores -----------------------------------------------------------------------------------------------


def scores(vectors: F32Array, rows: ArrayLike | None, query: ArrayLike) -> F32Array:
    """Inner products of a query with chosen rows: the same bits as every search in this module.

    Parameters
    ----------
    vectors : float32, shape (P, D), C-contiguous
    rows : integers in [0, P), shape (R,), or None
        None is all rows. Repeats are fine.
    query : float32, shape (D,)

    Returns
    -------
    float32, shape (R,)

    Raises
    ------
    ShapeError
        If shapes, dtype or layout are not as above, or a row is out of range.
    InvalidVectorError
        If the query is not finite.
    """
    check_vectors(vectors)
    wanted = np.arange(len(vectors)) if rows is None else np.asarray(rows)
    if wanted.ndim != 1 or (wanted.size and (wanted.min() < 0 or wanted.max() >= len(vectors))):
        raise ShapeError(f"expected a list of rows in [0, {len(vectors)})", field="rows", rows=len(vectors))
    return dots(vectors, wanted, _check_queries(query, vectors.shape[1], 1))


def dots(vectors: F32Array, rows: NDArray[Any], query: F32Array) -> F32Array:
    """Inner products by row number without copying a row; the one routine that makes scores."""
    faiss = load_faiss()
    count, dimension = len(rows), len(query)
    if not count:
        return np.empty(0, np.float32)
    # The routine is parallel over queries only: long lists are shared out as copies of the query, each with its part.
    parts = max(1, min(faiss.omp_get_max_threads(), count * dimension // _THREAD_FLOATS))
    length = -(-count // parts)
    ids = np.full(parts * length, -1, np.int64)  # -1 is skipped
    ids[:count] = rows
    found = np.empty(parts * length, np.float32)
    copies = np.tile(query, parts)
    with faiss_threads(parts):  # no team for short lists: OpenMP's idle threads would spin against those of BLAS
        faiss.fvec_inner_products_by_idx(
            faiss.swig_ptr(found), faiss.swig_ptr(copies), faiss.swig_ptr(vectors), faiss.swig_ptr(ids),
            dimension, parts, length,
        )  # fmt: skip
    return found[:count]


def check_vectors(vectors: F32Array) -> None:
    if vectors.ndim != 2 or vectors.dtype != np.float32 or not vectors.flags.c_contiguous or vectors.shape[1] < 1:
        raise ShapeError(f"expected C-contiguous float32 vectors (P, D), got {vectors.dtype} {vectors.shape}",
                         field="vectors", dtype=vectors.dtype, shape=vectors.shape)  # fmt: skip


def _check_queries(queries: ArrayLike, dimension: int, ndim: int) -> F32Array:
    checked = np.ascontiguousarray(queries, np.float32)
    if checked.ndim != ndim or checked.shape[-1] != dimension:
        raise ShapeError(f"expected a dense query of dimension {dimension}, got shape {checked.shape}",
                         field="dense", expected=dimension, received=checked.shape)  # fmt: skip
    if not np.isfinite(checked).all():
        raise InvalidVectorError("a dense query holds NaN or infinity", field="dense")
    return checked


# --- passages of documents --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """Passages that one search may look at, grouped by document.

    ``starts[i]`` is where the i-th allowed document's passages begin among the ``total`` allowed ones;
    ``rows`` are these passages' numbers, or None when all passages are allowed.
    """

    documents: NDArray[np.int64]
    starts: NDArray[np.int64]
    rows: NDArray[np.int64] | None
    total: int

    @property
    def grouped(self) -> bool:
        return self.total > len(self.documents)

    def numbers(self) -> NDArray[np.int64]:
        return np.arange(self.total) if self.rows is None else self.rows


def _plan(offsets: NDArray[np.int64], mask: NDArray[np.uint64] | None) -> Plan:
    lengths = np.diff(offsets)
    allowed = lengths > 0
    if mask is not None:
        allowed &= np.unpackbits(mask.view(np.uint8), count=len(lengths), bitorder="little").view(np.bool_)
    documents = np.flatnonzero(allowed)
    kept = lengths[documents]
    total = int(kept.sum())
    if total == offsets[-1]:
        return Plan(documents, offsets[documents], None, total)
    rows, starts = ranges(offsets[documents], kept)
    return Plan(documents, starts[:-1], rows, total)


def _select(found: F32Array, plan: Plan, k: int, margin: float) -> NDArray[np.int64]:
    """Positions among the plan's passages that can belong to the k best documents.

    ``found`` may be off by ``margin`` either way. With A_k the k-th best document by it, k documents truly reach
    A_k - margin, so whatever belongs to the answer has ``found >= A_k - 2 margin``.
    """
    best = np.maximum.reduceat(found, plan.starts) if plan.grouped else found
    place = max(0, len(best) - k)
    lowest = np.float32(float(np.partition(best, place)[place]) - 2 * margin)
    return np.flatnonzero(found >= (np.nextafter(lowest, np.float32(-np.inf)) if margin else lowest))


def rank_passages(offsets: NDArray[np.int64], passages: NDArray[np.int64], found: F32Array, k: int) -> DenseHits:
    """The k best documents among passages with their scores."""
    documents = np.searchsorted(offsets, passages, "right") - 1  # the last of equal offsets: documents may be empty
    order = np.lexsort((passages, documents, -found))
    first = np.sort(np.unique(documents[order], return_index=True)[1])[:k]
    order = order[first]
    return DenseHits(documents[order].astype(np.int32), found[order], passages[order].astype(np.uint32))


# --- flat -------------------------------------------------------------------------------------------------


class DenseIndex:
    """Search over a segment's dense field; use ``FlatIndex`` or ``HNSWIndex``. Safe to share by threads.

    Parameters
    ----------
    vectors : float32, shape (P, D), C-contiguous
        One row a passage, finite, often a read-only memory map. Kept, not copied.

    Attributes
    ----------
    exact : bool
        Whether the answer is the true top k.
    """

    exact = True

    def __init__(self, vectors: F32Array) -> None:
        check_vectors(vectors)
        self.vectors = vectors.view(np.ndarray)
        self.size, self.dimension = vectors.shape
        self._norm = -1.0

    def search(
        self,
        vector: ArrayLike,
        k: int,
        *,
        passage_offsets: NDArray[np.uint32],
        mask: NDArray[np.uint64] | None = None,
        ef: int = 0,
    ) -> DenseHits:
        """Top k documents by their best passage.

        Parameters
        ----------
        vector : float32, shape (D,)
            The query.
        k : int
            Documents wanted, >= 1.
        passage_offsets : uint32, shape (N+1,)
            Passages of document d are ``[passage_offsets[d], passage_offsets[d+1])``; may be none.
        mask : uint64, shape (ceil(N/64),), or None
            Bit ``d % 64`` of word ``d // 64`` lets document d be returned; None lets all.
        ef : int
            Search width of an HNSW graph; 0 takes 128. No effect on a flat index.

        Raises
        ------
        ShapeError
            If an array has the wrong shape or dtype.
        InvalidVectorError
            If the query is not finite.
        InvalidArgumentError
            If ``k < 1`` or ``ef < 0``.

        Notes
        -----
        Flat search takes O(allowed passages x D) and reads only their rows. 100,000 x 384 on one core: 14 ms
        without a mask, 7.5 ms with half of the documents, 1.3 ms with a tenth, 0.2 ms with a thousandth; in a
        batch of 32 without a mask 1.7 ms a query. (``faiss.knn`` on the same: 11 ms, and 10 ms a query.)
        """
        query = _check_queries(vector, self.dimension, 1)
        return self.search_batch(query[None], k, passage_offsets=passage_offsets, masks=mask, ef=ef)[0]

    def search_batch(
        self,
        queries: ArrayLike,
        k: int,
        *,
        passage_offsets: NDArray[np.uint32],
        masks: Masks = None,
        ef: int = 0,
    ) -> list[DenseHits]:
        """``search`` for every row of ``queries`` (B, D), with equal results, for less than B times the cost.

        ``masks`` is None, one mask for all, or a sequence of B masks (None in it: all documents).
        """
        checked = _check_queries(queries, self.dimension, 2)
        if k < 1 or ef < 0:
            raise InvalidArgumentError(f"expected k >= 1 and ef >= 0, got {k} and {ef}", field="k", k=k, ef=ef)
        offsets = self._check_offsets(passage_offsets)
        plans = _plans(offsets, masks, len(checked))
        return self._search(checked, k, offsets, plans, ef)

    def _search(
        self, queries: F32Array, k: int, offsets: NDArray[np.int64], plans: Sequence[Plan], ef: int
    ) -> list[DenseHits]:
        whole = [i for i, plan in enumerate(plans) if plan.total > _BATCH_SHARE * self.size]
        if len(whole) < _BATCH_QUERIES:
            whole = []
        hits: dict[int, DenseHits] = {}
        step = max(1, _BATCH_FLOATS // max(1, self.size))
        for begin in range(0, len(whole), step):
            part = whole[begin : begin + step]
            for i, products in zip(part, queries[part] @ self.vectors.T, strict=True):
                hits[i] = self._by_products(queries[i], k, offsets, plans[i], products)
        for i in set(range(len(plans))).difference(whole):
            hits[i] = self._by_rows(queries[i], k, offsets, plans[i])
        return [hits[i] for i in range(len(plans))]

    def _by_rows(self, query: F32Array, k: int, offsets: NDArray[np.int64], plan: Plan) -> DenseHits:
        """Exact search that reads the allowed rows only."""
        rows = plan.numbers()
        found = dots(self.vectors, rows, query)
        chosen = _select(found, plan, k, 0.0) if plan.total else rows
        return rank_passages(offsets, rows[chosen], found[chosen], k)

    def _by_products(
        self, query: F32Array, k: int, offsets: NDArray[np.int64], plan: Plan, products: F32Array
    ) -> DenseHits:
        """Exact search given BLAS's products with all rows: candidates within the margin, scored again."""
        found = products if plan.rows is None else products[plan.rows]
        error = self.dimension * 2.0**-24 / (1 - self.dimension * 2.0**-24)
        margin = 2 * error * self._largest_norm() * math.sqrt(float(np.vdot(query, query)))
        chosen = _select(found, plan, k, margin * 1.001 + 1e-37)
        rows = chosen if plan.rows is None else plan.rows[chosen]
        return rank_passages(offsets, rows, dots(self.vectors, rows, query), k)

    def _largest_norm(self) -> float:
        if self._norm < 0:  # one pass over the vectors; two threads at once would only do it twice
            self._norm = math.sqrt(float(np.vecdot(self.vectors, self.vectors).max(initial=0.0)))
        return self._norm

    def _check_offsets(self, offsets: NDArray[np.uint32]) -> NDArray[np.int64]:
        if offsets.ndim != 1 or len(offsets) < 1 or offsets[0] != 0 or offsets[-1] != self.size:
            raise ShapeError(f"expected passage_offsets from 0 to {self.size}, got shape {offsets.shape}",
                             field="passage_offsets", passages=self.size)  # fmt: skip
        return offsets.astype(np.int64)


def _plans(offsets: NDArray[np.int64], masks: Masks, count: int) -> list[Plan]:
    """One plan a query; queries with the same mask object share theirs."""
    words = (len(offsets) - 1 + 63) // 64
    listed = [masks] * count if masks is None or isinstance(masks, np.ndarray) else list(masks)
    if len(listed) != count:
        raise ShapeError(f"expected {count} masks, got {len(listed)}", field="masks", expected=count)
    made: dict[int, Plan] = {}
    for mask in listed:
        if mask is not None and (mask.shape != (words,) or mask.dtype != np.uint64):
            raise ShapeError(f"expected a uint64 mask of {words} words, got {mask.dtype} {mask.shape}",
                             field="mask", expected=words)  # fmt: skip
        if id(mask) not in made:
            made[id(mask)] = _plan(offsets, None if mask is None else np.ascontiguousarray(mask))
    return [made[id(mask)] for mask in listed]


class FlatIndex(DenseIndex):
    """Exact search: every allowed passage is scored."""
