"""From weights as a training has them to an autoencoder for embeddings as they come."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from sparsight.encoders.sae.model import SAE
from sparsight.encoders.sae.preprocessing import Preprocessing

__all__ = ["folded"]


def folded(preprocessing: Preprocessing, k: int, w_enc: torch.Tensor, b_enc: torch.Tensor, w_dec: torch.Tensor,
           b_dec: torch.Tensor, threshold: torch.Tensor | None = None) -> SAE:
    """The autoencoder whose codes and reconstructions are those of weights for preprocessed inputs.

    Parameters
    ----------
    preprocessing : Preprocessing
    k : int
    w_enc, w_dec : float32, shape (N, D)
        Rows of ``w_dec`` of length 1.
    b_enc : float32, shape (N,)
    b_dec : float32, shape (D,)
    threshold : float32, shape (N,), optional

    Returns
    -------
    SAE
        Decoder rows have length 1 again: what they gain or lose on the way back goes into the encoder's rows, its
        biases and the thresholds.
    """
    rows = preprocessing.rows(w_dec)
    sizes = rows.norm(dim=1, keepdim=True)
    bias = b_enc - w_enc @ b_dec
    w_enc = w_enc @ preprocessing.forward.T
    bias = (bias - w_enc @ preprocessing.mean) * sizes[:, 0]
    return SAE(k=k, W_enc=_array(w_enc * sizes), b_enc=_array(bias), W_dec=_array(rows / sizes),
               b_dec=_array(preprocessing.restored(b_dec)),
               threshold=np.zeros(0, np.float32) if threshold is None else _array(threshold * sizes[:, 0]))


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().float().cpu().numpy().copy()
    return array
