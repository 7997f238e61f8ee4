"""This project's engine for the benchmark: build an index in a folder, open it, search it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from sparsight.index.schema import quantise
from sparsight.index.segment import POSTINGS_ARRAYS
from sparsight.index.vectors import quantise_query
from sparsight.kernels import Effort, Postings, topk_documents

__all__ = ["Searcher", "build", "open", "rounded", "settings"]

_RECALLS = (0.90, 0.95, 0.97, 0.99, 0.999)


def settings(k: int) -> dict[str, list[dict[str, Any]]]:
    """Keyword arguments of :meth:`Searcher.search` to try, by mode; all of an exact mode are measured."""
    return {"exact": [{"recall": 1.0}], "approximate": [{"recall": recall} for recall in _RECALLS]}


def build(indptr: NDArray[np.integer[Any]], indices: NDArray[np.int32], data: NDArray[np.float32], vocab: int,
          folder: Path, threads: int) -> float:  # fmt: skip
    """Write the index of CSR documents into a folder.

    Returns
    -------
    float
        Seconds.
    """
    start = time.perf_counter()
    postings, scales = make_postings(indptr, indices, data, vocab, threads)
    for name in (*POSTINGS_ARRAYS, "passage_offsets"):
        np.save(folder / f"{name}.npy", getattr(postings, name))
    np.save(folder / "scales.npy", scales)
    return time.perf_counter() - start


def make_postings(indptr: NDArray[np.integer[Any]], indices: NDArray[np.int32], data: NDArray[np.float32], vocab: int,
                  threads: int) -> tuple[Postings, NDArray[np.float32]]:  # fmt: skip
    """The postings of CSR documents of one passage each, and the scales of their weights."""
    scales = term_scales(indptr, indices, data, vocab)
    levels, _ = quantise(data, scales if scales.ndim == 0 else scales[indices])
    passage_offsets = np.arange(len(indptr), dtype=np.uint32)
    rows = indptr.astype(np.uint64), indices.astype(np.uint32), levels
    return Postings.from_rows(*rows, passage_offsets, threads), scales


def term_scales(indptr: NDArray[np.integer[Any]], indices: NDArray[np.int32], data: NDArray[np.float32], vocab: int,
                ) -> NDArray[np.float32]:  # fmt: skip
    """The weight of impact 255, as collections have it: one for a field of term weights, one a latent for SAE codes.

    Codes are known by their equal number of weights in (nearly) every document.
    """
    lengths = np.diff(indptr)
    if (lengths == lengths.max(initial=0)).mean() < 0.9:
        return np.float32(data.max(initial=0.0) or 1.0).reshape(())
    scales = np.zeros(vocab, np.float32)
    np.maximum.at(scales, indices, data)
    scales[scales == 0] = 1.0
    return scales


def open(folder: Path) -> Searcher:
    """The index of a folder, its files mapped."""
    return Searcher(folder)


class Searcher:
    """An open index.

    Attributes
    ----------
    bytes : int
        Size of the files that a search needs.
    """

    def __init__(self, folder: Path) -> None:
        names = (*POSTINGS_ARRAYS, "passage_offsets")
        # As plain arrays over the mapped files: numpy's memmap class makes every use of it slower.
        mapped = [np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in names]
        self._postings = Postings(*mapped)
        self._scales = np.load(folder / "scales.npy")
        self.bytes = sum((folder / f"{name}.npy").stat().st_size for name in (*names, "scales"))

    def search(self, terms: NDArray[np.uint32], weights: NDArray[np.float32], k: int,
               recall: float) -> NDArray[np.int32]:  # fmt: skip
        """The best k documents of float weights, best first; rounding the query is part of it."""
        scales = self._scales if self._scales.ndim == 0 else self._scales[terms]
        query = quantise_query(terms, weights.astype(np.float64) * scales)
        effort = Effort.for_recall(recall, k)
        return topk_documents(self._postings, query.terms, query.weights, k, effort=effort).documents


def rounded(documents: csr_matrix, queries: csr_matrix) -> tuple[csr_matrix, csr_matrix]:
    """The integers (int32) that the engine sums for these documents and queries."""
    scales = term_scales(documents.indptr, documents.indices, documents.data, documents.shape[1])
    impacts, _ = quantise(documents.data, scales if scales.ndim == 0 else scales[documents.indices])
    parts = impacts.astype(np.int32), documents.indices, documents.indptr
    rounded_documents = csr_matrix(parts, shape=documents.shape, copy=True)
    rounded_documents.eliminate_zeros()
    levels = np.zeros(queries.nnz, np.int32)
    for start, stop in zip(queries.indptr[:-1], queries.indptr[1:], strict=True):
        terms = queries.indices[start:stop].astype(np.uint32)
        worth = scales if scales.ndim == 0 else scales[terms]
        query = quantise_query(terms, queries.data[start:stop].astype(np.float64) * worth)
        levels[start + np.searchsorted(terms, query.terms)] = query.weights
    return rounded_documents, csr_matrix((levels, queries.indices, queries.indptr), shape=queries.shape)
