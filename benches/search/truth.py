"""What the best documents are: every document scored, term at a time, and the share of them that an engine returned."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

__all__ = ["KS", "Judge", "Truth", "best_scores", "cached_truth"]

KS = (10, 100, 1000)
TOLERANCE = 1e-4  # relative; float32 sums in another order differ by less

Truth = tuple[NDArray[np.float64], NDArray[np.int64]]


def best_scores(documents: csr_matrix, queries: csr_matrix, ks: tuple[int, ...] = KS) -> Truth:
    """Score of the k-th best document of each query, or of the last with more than 0 where fewer have that.

    Parameters
    ----------
    documents, queries : csr_matrix, shape (N, vocab) and (Q, vocab)
        Both float32, scored in float32; or both int32, scored exactly in int64.
    ks : tuple of int

    Returns
    -------
    scores : float64, shape (Q, len(ks))
        0 where no document has more.
    counts : int64, shape (Q, len(ks))
        Documents to be found: k, or fewer where fewer score more than 0.
    """
    whole = documents.dtype.kind == "i"
    columns = documents.tocsc()
    accumulator = np.zeros(documents.shape[0], np.int64 if whole else np.float32)
    scores = np.zeros((queries.shape[0], len(ks)))
    counts = np.zeros((queries.shape[0], len(ks)), np.int64)
    for row in range(queries.shape[0]):
        accumulator[:] = 0
        for at in range(queries.indptr[row], queries.indptr[row + 1]):
            start, stop = columns.indptr[queries.indices[at]], columns.indptr[queries.indices[at] + 1]
            weight = accumulator.dtype.type(queries.data[at])
            accumulator[columns.indices[start:stop]] += weight * columns.data[start:stop]  # no document twice in a term
        keep = min(max(ks), len(accumulator))
        best = np.sort(np.partition(accumulator, len(accumulator) - keep)[-keep:])[::-1]
        found = int(np.count_nonzero(best > 0))
        for column, k in enumerate(ks):
            counts[row, column] = min(k, found)
            scores[row, column] = best[counts[row, column] - 1] if found else 0.0
    return scores, counts


def cached_truth(path: Path, documents: csr_matrix, queries: csr_matrix) -> Truth:
    """:func:`best_scores`, kept in a file that is made anew when the documents or the queries are others."""
    digest = hashlib.sha256(np.array([documents.nnz, queries.nnz, *documents.shape, *queries.shape]).tobytes())
    for matrix in (documents, queries):
        digest.update(np.ascontiguousarray(matrix.indices[:: max(1, matrix.nnz // 100_000)]).tobytes())
        digest.update(np.ascontiguousarray(matrix.data[:: max(1, matrix.nnz // 100_000)]).tobytes())
    key = digest.hexdigest()
    if path.exists():
        with np.load(path) as stored:
            if str(stored["key"]) == key:
                return stored["scores"], stored["counts"]
    scores, counts = best_scores(documents, queries)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    np.savez(part, scores=scores, counts=counts, key=key)
    part.rename(path)
    return scores, counts


class Judge:
    """Recall of what was returned, by the returned documents' own scores: ties at the k-th place count.

    Parameters
    ----------
    documents, queries : csr_matrix
        As for :func:`best_scores`.
    truth : (scores, counts)
        Its answer for these queries and :data:`KS`.
    """

    def __init__(self, documents: csr_matrix, queries: csr_matrix, truth: Truth) -> None:
        self._documents, self._queries = documents, queries
        self._scores, self._counts = truth
        self._slack = 0.0 if documents.dtype.kind == "i" else TOLERANCE

    def recall(self, found: NDArray[np.int64], k: int) -> NDArray[np.float64]:
        """Share of each query's best k documents that was found.

        Parameters
        ----------
        found : int64, shape (Q, at least k)
            Documents returned; a document counts once, a number that none has counts for nothing.

        Returns
        -------
        float64, shape (Q,)
            1 where there was nothing to find.
        """
        column = KS.index(k)
        shares = np.ones(len(found))
        dense = np.zeros(self._queries.shape[1], np.int64 if self._slack == 0.0 else np.float32)
        for row, ids in enumerate(found):
            wanted = int(self._counts[row, column])
            if wanted == 0:
                continue
            part = slice(self._queries.indptr[row], self._queries.indptr[row + 1])
            dense[self._queries.indices[part]] = self._queries.data[part]
            ids = np.unique(ids[:k])
            scores = self._documents[ids[(ids >= 0) & (ids < self._documents.shape[0])]] @ dense
            dense[self._queries.indices[part]] = 0
            enough = self._scores[row, column] * (1 - self._slack)
            shares[row] = min(wanted, int(np.count_nonzero((scores >= enough) & (scores > 0)))) / wanted
        return shares
