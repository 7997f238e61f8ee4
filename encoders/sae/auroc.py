"""How well single latents tell labels: the area under the ROC curve of every latent for every label at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from sparsight.encoders.sae.checks import check_codes, check_rows
from sparsight.errors import ShapeError

__all__ = ["auroc"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
_COLUMNS = 64  # of a dense matrix ranked at once


def auroc(scores: csr_matrix | F32, labels: NDArray[np.bool_]) -> F64:
    """Area under the receiver operating characteristic of every column for every label.

    Parameters
    ----------
    scores : csr_matrix of codes, or float array, shape (B, N)
    labels : bool, shape (B, L)

    Returns
    -------
    float64, shape (N, L)
        Chance that a row with the label has a higher score than one without, ties counting half: 1/2 for a latent that
        never fires. NaN for labels that all rows have, or none. ``(auroc(...) >= 0.95).any(1).sum()`` counts the
        latents that nearly tell some label; with few rows of a label, some of many latents do so by chance.

    Raises
    ------
    ShapeError, InvalidVectorError
        If arrays do not fit or hold what they should not.

    Notes
    -----
    The statistic of Mann and Whitney 1947: with R the sum of the ranks of P rows that have the label, of B,
    ``(R - P (P + 1) / 2) / (P (B - P))``. Rows on which a latent is silent tie below all others, so only the active
    ones are sorted: O(nnz log nnz), and nnz L for the sums.
    """
    if labels.ndim != 2 or labels.dtype != bool or labels.shape[0] != scores.shape[0]:
        raise ShapeError(f"expected labels bool ({scores.shape[0]}, L), got {labels.dtype} {labels.shape}",
                         field="labels")
    has = labels.astype(np.float64)
    if isinstance(scores, np.ndarray):
        check_rows("scores", scores)
        sums = _dense_rank_sums(scores, has)
    else:
        check_codes("scores", scores)
        sums = _sparse_rank_sums(scores, has)
    positive = has.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (sums - positive * (positive + 1) / 2) / (positive * (len(has) - positive))


def _sparse_rank_sums(codes: csr_matrix, has: F64) -> F64:
    """Sums (N, L) over rows that have a label of their ranks in each column, ties sharing the mean rank."""
    rows, columns = codes.shape
    order = np.lexsort((codes.data, codes.indices))  # by latent, then value
    latent, value = codes.indices[order], codes.data[order]
    counts = np.bincount(latent, minlength=columns)
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)  # from 0, in its column
    fresh = np.ones(len(order), bool)
    fresh[1:] = (latent[1:] != latent[:-1]) | (value[1:] != value[:-1])
    first = np.flatnonzero(fresh)
    size = np.diff(np.append(first, len(order)))
    # Ranks count from 1 and come after those of the silent rows, which share the mean of 1 to rows - counts.
    ranks = np.repeat(place[first] + (size + 1) / 2, size) + (rows - counts)[latent]
    silent = (rows - counts + 1) / 2
    above = np.empty(len(order))
    above[order] = ranks - silent[latent]
    excess = csr_matrix((above, codes.indices, codes.indptr), shape=codes.shape)
    return np.asarray(excess.T @ has) + silent[:, None] * has.sum(0)


def _dense_rank_sums(scores: F32, has: F64) -> F64:
    from scipy.stats import rankdata

    parts = [rankdata(scores[:, start:start + _COLUMNS], axis=0).T @ has
             for start in range(0, scores.shape[1], _COLUMNS)]
    return np.concatenate(parts) if parts else np.zeros((0, has.shape[1]))
