"""The pre-activations of a sparse autoencoder's encoder that are above a threshold: the specification."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparsight.kernels.reference.topk_encode import pre_activations

__all__ = ["threshold_encode"]


def threshold_encode(
    x: NDArray[np.float32], w_enc: NDArray[np.float32], b_enc: NDArray[np.float32], threshold: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """Pre-activations above both their latent's threshold and 0; see :func:`sparsight.kernels.threshold_encode`.

    References
    ----------
    Bussmann et al. 2024, "BatchTopK Sparse Autoencoders"; Rajamanoharan et al. 2024, "Jumping Ahead: Improving
    Reconstruction Fidelity with JumpReLU Sparse Autoencoders".
    """
    pre_acts = pre_activations(x, w_enc, b_enc)  # (B, N)
    above = (pre_acts > threshold) & (pre_acts > 0)  # false where either is NaN
    indptr = np.zeros(len(x) + 1, np.int64)
    np.cumsum(above.sum(1), out=indptr[1:])
    return indptr, np.nonzero(above)[1].astype(np.int32), pre_acts[above]
