"""Codes and errors of many embeddings, block by block, on the CPU or any device of torch.

What :class:`SAE` computes one call at a time on the CPU, for analyses over a whole corpus: 100,000 embeddings against
65,536 latents are 5 TFLOP, minutes on a few cores and less than a second on a GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from sparsight.encoders.sae.checks import check_codes, check_rows, torch_device

if TYPE_CHECKING:
    import torch

    from sparsight.encoders.sae.model import SAE

__all__ = ["document_codes", "encode", "errors"]

F32 = NDArray[np.float32]
_ENTRIES = 1 << 27  # pre-activations at once: 512 MiB
_ROWS = 8192  # decoded at once


def encode(sae: SAE, x: F32, *, device: str = "cpu") -> csr_matrix:
    """Codes as :meth:`SAE.encode` gives them, computed on a device.

    Parameters
    ----------
    sae : SAE
    x : float32, shape (B, D)
    device : str
        On "cpu" this is :meth:`SAE.encode` itself. Elsewhere sums are in another order: a pre-activation may differ in
        its last bits, and where two nearly tie at the k-th place, or one with its threshold, the choice too.

    Returns
    -------
    csr_matrix, float32, shape (B, N)

    Raises
    ------
    ShapeError, InvalidVectorError, InvalidArgumentError
        If ``x`` has another width or dtype or is not finite, or the device cannot be used.
    """
    check_rows("x", x, columns=sae.d_in)
    where = torch_device(device)
    return sae.encode(x) if where.type == "cpu" else _encode(sae, x, where)


def document_codes(sae: SAE, x: F32, *, device: str = "cpu") -> csr_matrix:
    """Codes as :meth:`SAE.document_codes` gives them, computed on a device.

    Parameters
    ----------
    sae, x, device
        As :func:`encode`. By pursuit a device chooses other latents than the CPU in some rows, about as good ones:
        :func:`sparsight.encoders.sae.refinement.pursue`.

    Returns
    -------
    csr_matrix, float32, shape (B, N)

    Raises
    ------
    ShapeError, InvalidVectorError, InvalidArgumentError
        As :func:`encode`.
    """
    if sae.document_mode == "encoder":
        return encode(sae, x, device=device)
    from sparsight.encoders.sae.refinement import pursue

    return pursue(sae, x, pool=sae.pool, device=device)


def errors(sae: SAE, x: F32, codes: csr_matrix, *, device: str = "cpu") -> F32:
    """Error vectors ``x - xhat``, float32 (B, D), with ``xhat = codes W_dec + b_dec``.

    Raises
    ------
    ShapeError, InvalidVectorError, InvalidArgumentError
        If ``x`` or ``codes`` do not fit the autoencoder or each other, or the device cannot be used.
    """
    import torch
    from torch.nn.functional import embedding_bag

    check_rows("x", x, columns=sae.d_in)
    check_codes("codes", codes, rows=len(x), latents=sae.n_latents)
    where = torch_device(device)
    weight = torch.from_numpy(sae.W_dec).to(where)
    out = np.empty(x.shape, np.float32)
    for start in range(0, len(x), _ROWS):
        part = codes[start:start + _ROWS]
        latents = torch.from_numpy(part.indices.astype(np.int64)).to(where)
        values = torch.from_numpy(part.data.astype(np.float32)).to(where)
        starts = torch.from_numpy(part.indptr.astype(np.int64)).to(where)
        decoded = embedding_bag(latents, weight, starts, per_sample_weights=values, mode="sum",
                                include_last_offset=True)
        out[start:start + _ROWS] = x[start:start + _ROWS] - (decoded.cpu().numpy() + sae.b_dec)
    return out


def _encode(sae: SAE, x: F32, where: torch.device) -> csr_matrix:
    import torch

    weight, bias = (torch.from_numpy(array).to(where) for array in (sae.W_enc, sae.b_enc))
    least = torch.from_numpy(np.maximum(sae.threshold, 0)).to(where)
    counts, latents, values = [np.zeros(1, np.int64)], [np.zeros(0, np.int32)], [np.zeros(0, np.float32)]
    step = max(_ENTRIES // sae.n_latents, 1)
    for start in range(0, len(x), step):
        rows = torch.from_numpy(np.ascontiguousarray(x[start:start + step], np.float32)).to(where)
        pre_acts = torch.addmm(bias, rows, weight.T)  # (step, N)
        if sae.mode == "threshold":
            active = pre_acts > least
        else:
            active = torch.zeros_like(pre_acts, dtype=torch.bool)
            active = active.scatter_(1, pre_acts.topk(sae.k, dim=1).indices, True) & (pre_acts > 0)
        counts.append(active.sum(1).cpu().numpy())
        latents.append(active.nonzero()[:, 1].int().cpu().numpy())  # by row, then latent
        values.append(pre_acts[active].cpu().numpy())
    indptr = np.cumsum(np.concatenate(counts))
    return csr_matrix((np.concatenate(values), np.concatenate(latents), indptr), shape=(len(x), sae.n_latents))
