"""The encoder of a sparse autoencoder: of each row's pre-activations the k largest, or those above a threshold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import ShapeError
from sparsight.kernels import reference
from sparsight.kernels.arrays import require_array
from sparsight.kernels.cpu import _native
from sparsight.kernels.paths import resolve_path
from sparsight.kernels.search import check_k, check_threads

__all__ = ["threshold_encode", "topk_encode"]

_MAX_LATENTS = 2**31 - 1


def topk_encode(
    x: NDArray[np.float32],
    w_enc: NDArray[np.float32],
    b_enc: NDArray[np.float32],
    k: int,
    *,
    threads: int = 0,
    path: str = "auto",
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """``relu(topk(x @ w_enc.T + b_enc))``, without the (B, N) matrix of pre-activations.

    Parameters
    ----------
    x : float32, shape (B, D)
    w_enc : float32, shape (N, D)
        One latent a row.
    b_enc : float32, shape (N,)
    k : int
        Latents kept in a row, at least 1.
    threads : int
        Threads to use; 0 takes the processors this process may run on, or one for little work.
    path : str
        See ``available_paths()``. Float32 sums: paths differ by rounding.

    Returns
    -------
    idx : int32, shape (B, k)
        Value descending, equal values by ascending index. -1 where fewer than k pre-activations are above 0.
    val : float32, shape (B, k)
        0 there. NaN pre-activations are never chosen.

    Raises
    ------
    ShapeError
        If an array has the wrong dtype, layout or shape.
    InvalidArgumentError
        If ``k``, ``threads`` or ``path`` is out of range.

    Notes
    -----
    On one path a row's result depends on that row only: not on the batch around it, nor on the threads.

    References
    ----------
    Makhzani and Frey 2013, "k-Sparse Autoencoders"; Gao et al. 2024, "Scaling and evaluating sparse autoencoders".
    """
    chosen = _check(x, w_enc, b_enc, path)
    k, threads = check_k(k), check_threads(threads)
    if chosen == "reference":
        return reference.topk_encode(x, w_enc, b_enc, k)
    return _native.topk_encode(x, w_enc, b_enc, k, threads, chosen)


def threshold_encode(
    x: NDArray[np.float32],
    w_enc: NDArray[np.float32],
    b_enc: NDArray[np.float32],
    threshold: NDArray[np.float32],
    *,
    threads: int = 0,
    path: str = "auto",
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """The pre-activations ``x @ w_enc.T + b_enc`` that are above a threshold, without their (B, N) matrix.

    Parameters
    ----------
    x : float32, shape (B, D)
    w_enc : float32, shape (N, D)
        One latent a row.
    b_enc : float32, shape (N,)
    threshold : float32, shape (N,)
        What a latent's pre-activation must exceed; it must exceed 0 as well. With inf or NaN the latent is never kept.
    threads, path
        As in :func:`topk_encode`.

    Returns
    -------
    indptr : int64, shape (B + 1,)
        Row b is ``[indptr[b], indptr[b + 1])`` of the other two: the arrays of a csr_matrix.
    idx : int32, shape (nnz,)
        Ascending in each row.
    val : float32, shape (nnz,)
        The pre-activations themselves; NaN is never kept.

    Raises
    ------
    ShapeError, InvalidArgumentError
        As :func:`topk_encode`.

    Notes
    -----
    On one path a row's result depends on that row only, and a value that ``topk_encode`` finds too has the same bits.
    Takes about 20 bytes for each value kept: with thresholds of 0 half of all B N may be kept.

    References
    ----------
    Bussmann et al. 2024, "BatchTopK Sparse Autoencoders" (one threshold for all latents at inference); Rajamanoharan et
    al. 2024, "Jumping Ahead: Improving Reconstruction Fidelity with JumpReLU Sparse Autoencoders" (one a latent).
    """
    chosen = _check(x, w_enc, b_enc, path)
    require_array(threshold, "threshold", np.float32, (len(w_enc),))
    threads = check_threads(threads)
    if chosen == "reference":
        return reference.threshold_encode(x, w_enc, b_enc, threshold)
    return _native.threshold_encode(x, w_enc, b_enc, threshold, threads, chosen)


def _check(x: NDArray[np.float32], w_enc: NDArray[np.float32], b_enc: NDArray[np.float32], path: str) -> str:
    """The path to take, once the arrays fit each other."""
    chosen = resolve_path(path)
    require_array(x, "x", np.float32, (None, None))
    require_array(w_enc, "w_enc", np.float32, (None, x.shape[1]))
    require_array(b_enc, "b_enc", np.float32, (len(w_enc),))
    if len(w_enc) > _MAX_LATENTS:
        raise ShapeError(f"w_enc: expected at most {_MAX_LATENTS} latents, received {len(w_enc)}", field="w_enc")
    return chosen
