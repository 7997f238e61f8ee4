"""HNSW graphs over a segment's dense vectors (FAISS): approximate search that is told to be so."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import CorruptIndexError
from sparsight.index.dense import (
    DenseHits,
    DenseIndex,
    F32Array,
    Plan,
    check_vectors,
    dots,
    faiss_threads,
    load_faiss,
    rank_passages,
)
from sparsight.index.ranges import ranges

__all__ = ["HNSWIndex", "build_hnsw"]

HNSW_M: Final = 32
HNSW_EF_CONSTRUCTION: Final = 200
HNSW_EF: Final = 128
# What the graph costs for each place in its queue, in rows of a flat scan: it compares about 30 vectors (measured
# 27 to 38 at 30,000 x 384), and each, being fetched from anywhere, costs about three times as much.
_GRAPH_COST: Final = 100


_reading = threading.Lock()


def build_hnsw(vectors: F32Array, *, m: int = HNSW_M, ef_construction: int = HNSW_EF_CONSTRUCTION) -> NDArray[np.uint8]:
    """HNSW graph over the rows of ``vectors`` (inner product), as bytes for ``HNSWIndex``.

    The bytes hold the graph only (about ``8 m + 20`` bytes a row), not the vectors. One thread inserts the rows in
    their order and FAISS's level generator has a fixed seed, so equal vectors give equal bytes.

    Notes
    -----
    30,000 x 384 take 20 to 28 s on one core. FAISS holds a copy of the vectors meanwhile.
    """
    faiss = load_faiss()
    check_vectors(vectors)
    index = faiss.IndexHNSWFlat(vectors.shape[1], m, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = ef_construction
    with faiss_threads(1):
        if len(vectors):
            index.add(vectors)
    graph: NDArray[np.uint8] = faiss.serialize_index(index, faiss.IO_FLAG_SKIP_STORAGE)
    return graph


class HNSWIndex(DenseIndex):
    """Approximate search by an HNSW graph over the vectors.

    Which documents are returned is approximate; each one's score and passage are exact, as all of its passages
    are scored. Where the graph would cost more than reading the allowed rows (rare masks, large k), or finds
    too few documents, the search is the flat one, so there are never fewer hits than documents allow. With the
    default ``ef`` and no mask the graph is used from 12,800 passages on.

    Parameters
    ----------
    vectors : float32, shape (P, D), C-contiguous
        The rows the graph was built from. Kept, not copied.
    graph : uint8
        What ``build_hnsw`` returned; checksummed by the caller. Kept; FAISS reads the links where they lie.

    Raises
    ------
    CorruptIndexError
        If the bytes are no such graph, or one of other sizes than ``vectors``.
    """

    exact = False

    def __init__(self, vectors: F32Array, graph: NDArray[np.uint8]) -> None:
        super().__init__(vectors)
        self._graph = np.ascontiguousarray(graph.view(np.ndarray), np.uint8)
        self._storage = _flat_view(self.vectors)
        self._index = _read_graph(self._graph, self.size, self.dimension)
        self._index.storage = self._storage
        self._index.own_fields = False  # the storage is ours to free

    def _search(
        self, queries: F32Array, k: int, offsets: NDArray[np.int64], plans: Sequence[Plan], ef: int
    ) -> list[DenseHits]:
        width = max(ef or HNSW_EF, k)
        hits: dict[int, DenseHits] = {}
        flat: list[int] = []
        groups: dict[int, list[int]] = {}
        for i, plan in enumerate(plans):
            if self._graph_pays(plan, width):
                groups.setdefault(id(plan), []).append(i)
            else:
                flat.append(i)
        for members in groups.values():
            for i, found in self._by_graph(queries, members, k, offsets, plans[members[0]], width).items():
                if found is None:
                    flat.append(i)
                else:
                    hits[i] = found
        if flat:
            exact = super()._search(queries[flat], k, offsets, [plans[i] for i in flat], ef)
            hits.update(zip(flat, exact, strict=True))
        return [hits[i] for i in range(len(plans))]

    def _graph_pays(self, plan: Plan, width: int) -> bool:
        """A selector discards what it does not let pass, so the width grows by the inverse of the passing share."""
        return _GRAPH_COST * width * (self.size / max(1, plan.total)) < plan.total

    def _by_graph(
        self, queries: F32Array, members: Sequence[int], k: int, offsets: NDArray[np.int64], plan: Plan, width: int
    ) -> dict[int, DenseHits | None]:
        """Hits of the queries that share a plan; None where the graph gave too few documents."""
        bits = None
        if plan.rows is not None:
            allowed = np.zeros(self.size, np.bool_)
            allowed[plan.rows] = True
            bits = np.packbits(allowed, bitorder="little")
        enough = min(k, len(plan.documents))
        hits: dict[int, DenseHits | None] = {}
        pending, wanted = list(members), 2 * k if plan.grouped else k
        while pending:
            wanted = min(wanted, plan.total)
            nearest = self._nearest(queries[pending], wanted, math.ceil(width * self.size / plan.total), bits)
            short = []
            for i, passages in zip(pending, nearest, strict=True):
                reached = passages[passages >= 0]
                documents = np.unique(np.searchsorted(offsets, reached, "right") - 1)
                if len(documents) >= enough:
                    rows, _ = ranges(offsets[documents], offsets[documents + 1] - offsets[documents])
                    hits[i] = rank_passages(offsets, rows, dots(self.vectors, rows, queries[i]), k)
                elif len(reached) < wanted or wanted == plan.total:
                    hits[i] = None
                else:
                    short.append(i)
            pending, wanted = short, 2 * wanted
        return hits

    def _nearest(self, queries: F32Array, count: int, width: int, bits: NDArray[np.uint8] | None) -> NDArray[np.int64]:
        """Passages (B, count) that the graph finds; -1 where it found no more."""
        faiss = load_faiss()
        selector = None if bits is None else faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))
        parameters = faiss.SearchParametersHNSW(efSearch=max(width, count), sel=selector)
        found: NDArray[np.int64] = self._index.search(queries, count, params=parameters)[1]
        return found


def _flat_view(vectors: F32Array) -> Any:
    """A FAISS flat index over the array itself: HNSW computes its distances from there."""
    faiss = load_faiss()
    storage = faiss.IndexFlatIP(vectors.shape[1])
    if vectors.size:
        nobody = storage.codes.owner  # the null owner: we keep the array alive ourselves
        pointer = faiss.swig_ptr(vectors.reshape(-1).view(np.uint8))
        storage.codes = faiss.MaybeOwnedVectorUInt8.create_view(pointer, vectors.nbytes, nobody)
        storage.ntotal = len(vectors)
    return storage


@contextmanager
def _at_most(size: int) -> Iterator[None]:
    """No vector that FAISS reads may be larger than its file; else a damaged length would allocate gigabytes."""
    faiss = load_faiss()
    with _reading:  # the limit is the process's
        before = faiss.get_deserialization_vector_byte_limit()
        faiss.set_deserialization_vector_byte_limit(size)
        try:
            yield
        finally:
            faiss.set_deserialization_vector_byte_limit(before)


def _read_graph(graph: NDArray[np.uint8], size: int, dimension: int) -> Any:
    """The graph, its links left in ``graph``. FAISS checks levels, offsets and neighbours against its own count."""
    faiss = load_faiss()
    try:
        with _at_most(graph.size):
            reader = faiss.ZeroCopyIOReader(faiss.swig_ptr(graph), graph.size)
            index = faiss.read_index(reader, faiss.IO_FLAG_SKIP_STORAGE)
    except (RuntimeError, MemoryError) as error:
        raise CorruptIndexError(f"the HNSW graph cannot be read: {str(error).splitlines()[0][:200]}") from error
    if not isinstance(index, faiss.IndexHNSWFlat) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise CorruptIndexError(f"expected an HNSW graph for inner products, got {type(index).__name__}")
    if (index.ntotal, index.d) != (size, dimension):
        raise CorruptIndexError(f"expected an HNSW graph of {size} x {dimension}, got {index.ntotal} x {index.d}",
                                expected=(size, dimension), received=(index.ntotal, index.d))  # fmt: skip
    levels = faiss.vector_to_array(index.hnsw.levels)
    top = int(levels.max()) - 1 if size else -1
    entry = index.hnsw.entry_point
    if index.hnsw.max_level != top or not (levels[entry] == top + 1 if 0 <= entry < size else size == 0):
        raise CorruptIndexError(f"the HNSW graph's entry point {entry} is not on its top level {top}", entry=entry)
    return index
