"""The k largest pre-activations of a sparse autoencoder's encoder: the specification."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["topk_encode"]


def topk_encode(
    x: NDArray[np.float32], w_enc: NDArray[np.float32], b_enc: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """``relu(topk(x @ w_enc.T + b_enc))`` as indices and values; see :func:`sparsight.kernels.topk_encode`.

    Sums in float64, so that the compiled paths, which sum in float32, are compared with something better.

    References
    ----------
    Makhzani and Frey 2013, "k-Sparse Autoencoders"; Gao et al. 2024, "Scaling and evaluating sparse autoencoders".
    """
    return topk_positive(pre_activations(x, w_enc, b_enc), k)


def pre_activations(
    x: NDArray[np.float32], w_enc: NDArray[np.float32], b_enc: NDArray[np.float32]
) -> NDArray[np.float32]:
    """``x @ w_enc.T + b_enc``, float32 (B, N), summed in float64."""
    pre_acts: NDArray[np.float32] = (x.astype(np.float64) @ w_enc.astype(np.float64).T + b_enc).astype(np.float32)
    return pre_acts


def topk_positive(pre_acts: NDArray[np.float32], k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The k largest positive entries of each row, value descending then index ascending; padded with -1 and 0."""
    rows, n_latents = pre_acts.shape
    idx = np.full((rows, k), -1, np.int32)
    val = np.zeros((rows, k), np.float32)
    for row in range(rows):
        # NaN is not above 0, so it is never chosen.
        positive = np.flatnonzero(pre_acts[row] > 0)
        order = positive[np.lexsort((positive, -pre_acts[row, positive]))][: min(k, n_latents)]
        idx[row, : len(order)] = order
        val[row, : len(order)] = pre_acts[row, order]
    return idx, val
