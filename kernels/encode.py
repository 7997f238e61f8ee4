"""The encoder of a k-sparse autoencoder: the k largest pre-activations of each row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import ShapeError
from sparsight.kernels import reference
from sparsight.kernels.cpu import _native
from sparsight.kernels.paths import resolve_path
from sparsight.kernels.search import check_k, check_threads
from sparsight.kernels.types import require_array

__all__ = ["topk_encode"]

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
    chosen = resolve_path(path)
    require_array(x, "x", np.float32, (None, None))
    require_array(w_enc, "w_enc", np.float32, (None, x.shape[1]))
    require_array(b_enc, "b_enc", np.float32, (len(w_enc),))
    if len(w_enc) > _MAX_LATENTS:
        raise ShapeError(f"w_enc: expected at most {_MAX_LATENTS} latents, received {len(w_enc)}", field="w_enc")
    k, threads = check_k(k), check_threads(threads)
    if chosen == "reference":
        return reference.topk_encode(x, w_enc, b_enc, k)
    return _native.topk_encode(x, w_enc, b_enc, k, threads, chosen)
