"""An order of the documents with similar ones side by side, for the engines whose blocks need one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags

__all__ = ["cluster_order"]

_DIMENSIONS = 64
_ROWS = 50_000


def cluster_order(documents: csr_matrix, seed: int = 1) -> NDArray[np.int64]:
    """Documents by cluster: spherical k-means of their random projections, clusters along the axis of most variance.

    Parameters
    ----------
    documents : csr_matrix, shape (N, vocab)

    Returns
    -------
    int64, shape (N,)
        ``order[i]`` is the document at place i; within a cluster documents keep their order.
    """
    import faiss  # not in the peers' environment, whose worker imports this package

    n, vocab = documents.shape
    df = np.bincount(documents.indices, minlength=vocab)
    idf = np.log(n / (1.0 + df)).clip(0)
    rng = np.random.default_rng(seed)
    projection = diags(idf).astype(np.float32) @ rng.standard_normal((vocab, _DIMENSIONS), dtype=np.float32)
    points = np.vstack([documents[first : first + _ROWS] @ projection for first in range(0, n, _ROWS)])
    points /= np.linalg.norm(points, axis=1, keepdims=True) + 1e-9
    clusters = int(np.clip(n // 400, 1, 2048))
    kmeans = faiss.Kmeans(_DIMENSIONS, clusters, niter=6, seed=seed, spherical=True, max_points_per_centroid=60)
    kmeans.train(points)
    centred = kmeans.centroids - kmeans.centroids.mean(axis=0)
    along = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
    rank = np.argsort(np.argsort(along))
    return np.lexsort((np.arange(n), rank[kmeans.index.search(points, 1)[1][:, 0]]))
