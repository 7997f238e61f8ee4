"""How many bits it takes to tell a document's embedding through an autoencoder (minimum description length).

After Ayonrinde, Pearce, Sharkey 2024, "Interpretability as Compression: Reconsidering SAE Explanations of Neural
Activations with MDL-SAEs": of autoencoders that rebuild equally well, prefer the one whose codes are shortest. A wider
dictionary needs fewer active latents and more bits to say which. With p_i the share of documents that latent i is
active in, and q(z_i) its quantised value,

``bits = sum_i H(p_i) + sum_i p_i H(q(z_i) | i active) + dictionary bits / documents``.

Entropies are those of the counts themselves. For a latent that fires n times the second is at most log2(n), whatever
its values: too low where n is not many times the number of levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from sparsight.encoders.sae.blocks import encode, errors
from sparsight.encoders.sae.checks import check_codes, check_rows
from sparsight.encoders.sae.model import SAE
from sparsight.encoders.sae.reconstruction import fvu
from sparsight.errors import InvalidArgumentError

__all__ = ["DescriptionLength", "activity_bits", "description_length", "quantise", "upper_bound", "value_bits"]

F32 = NDArray[np.float32]
_FINEST = 16  # bits a value; float32 inputs do not carry much more


@dataclass(frozen=True)
class DescriptionLength:
    """Bits for one document.

    Attributes
    ----------
    total : float
        Sum of the next three.
    activity : float
        To say which latents are active, each on its own.
    values : float
        To say their quantised values.
    dictionary : float
        The document's part of the decoder.
    precision : int
        Bits b of the quantisation: 2^b equal steps up to the largest activation.
    step : float
        Its step, in units of activations.
    fvu, fvu_quantised : float
        FVU with activations as they are and quantised.
    upper_bound : float
        ``L0 (log2 N + b)``: naming each active latent and sending b bits for it, without the dictionary.
    """

    total: float
    activity: float
    values: float
    dictionary: float
    precision: int
    step: float
    fvu: float
    fvu_quantised: float
    upper_bound: float


def description_length(sae: SAE, x: F32, codes: csr_matrix | None = None, *, documents: int = 0,
                       tolerance: float = 0.01, weight_bits: int = 16, device: str = "cpu") -> DescriptionLength:
    """Description length at the coarsest quantisation that leaves the FVU nearly as it is.

    Parameters
    ----------
    sae : SAE
    x : float32, shape (B, D)
        Embeddings of documents; rows that differ.
    codes : csr_matrix, shape (B, N), optional
        The autoencoder's own by default.
    documents : int
        Documents that share one dictionary; 0 takes B.
    tolerance : float
        The quantised FVU may be ``1 + tolerance`` times the FVU.
    weight_bits : int
        Bits of each of the N D + D numbers of the decoder. The encoder is not sent.
    device : str

    Raises
    ------
    ShapeError, InvalidVectorError, InvalidArgumentError
        If ``x`` or ``codes`` do not fit, nothing is active, an option is out of range, or 16 bits a value are not
        enough, as for a reconstruction without any error.

    Notes
    -----
    One step for all latents: atoms have length 1, so that an error costs the same in each, and coding by entropy then
    spends bits where they save most.
    """
    if documents < 0 or tolerance < 0 or weight_bits < 1:
        raise InvalidArgumentError(f"expected documents and tolerance of at least 0 and weight_bits of at least 1, got "
                                   f"{documents}, {tolerance} and {weight_bits}", field="documents")
    check_rows("x", x, columns=sae.d_in)
    codes = encode(sae, x, device=device) if codes is None else codes
    exact = fvu(x, errors(sae, x, codes, device=device))
    for precision in range(_FINEST + 1):
        levels, step = quantise(codes, precision)
        coarse = csr_matrix((((levels + 0.5) * step).astype(np.float32), codes.indices, codes.indptr), codes.shape)
        rough = fvu(x, errors(sae, x, coarse, device=device))
        if rough <= (1 + tolerance) * exact:
            break
    else:
        raise InvalidArgumentError(f"expected a quantised FVU within {tolerance:g} of {exact:g}, got {rough:g} with "
                                   f"{_FINEST} bits a value", field="tolerance")
    activity, values = activity_bits(codes), value_bits(codes, levels)
    dictionary = weight_bits * (sae.W_dec.size + sae.d_in) / (documents or len(x))
    return DescriptionLength(
        total=activity + values + dictionary, activity=activity, values=values, dictionary=dictionary,
        precision=precision, step=step, fvu=exact, fvu_quantised=rough,
        upper_bound=upper_bound(codes.nnz / len(x), sae.n_latents, precision))


def activity_bits(codes: csr_matrix) -> float:
    """``sum_i H(p_i)``: bits a document to say which of N latents are active if each is coded by its own density.

    Examples
    --------
    A latent active in half of the documents costs 1 bit, one active in all or none of them nothing.
    """
    p = np.bincount(codes.indices, minlength=codes.shape[1]) / max(codes.shape[0], 1)
    p = p[(p > 0) & (p < 1)]
    return float(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)).sum())


def quantise(codes: csr_matrix, precision: int) -> tuple[NDArray[np.int64], float]:
    """Levels of activations, int64 in the order of ``codes.data``, and the step between them.

    A value z has level ``floor(z / step)`` and is rebuilt as ``(level + 1/2) step``; ``step = max z / 2^precision``,
    with the largest value in the last level.

    Raises
    ------
    ShapeError, InvalidVectorError, InvalidArgumentError
        If ``codes`` are none, nothing is active, or ``precision`` is not in [0, 16].
    """
    check_codes("codes", codes)
    if not 0 <= precision <= _FINEST or not codes.nnz:
        raise InvalidArgumentError(f"expected precision in [0, {_FINEST}] and active latents, got {precision} and "
                                   f"{codes.nnz}", field="precision")
    step = float(codes.data.max()) / (1 << precision)
    levels = np.minimum(np.floor(codes.data / step), (1 << precision) - 1)
    return levels.astype(np.int64), step


def value_bits(codes: csr_matrix, levels: NDArray[np.int64]) -> float:
    """``sum_i p_i H(q(z_i) | i active)``: bits a document for the levels of its active latents.

    Computed as ``(1 / B) sum over entries of -log2(share of that level among the latent's entries)``, the same sum.
    """
    per_latent = np.bincount(codes.indices, minlength=codes.shape[1])
    _, cell, times = np.unique(codes.indices.astype(np.int64) * (levels.max(initial=0) + 1) + levels,
                               return_inverse=True, return_counts=True)
    return float(np.log2(per_latent[codes.indices] / times[cell]).sum() / max(codes.shape[0], 1))


def upper_bound(k: float, n_latents: int, bits: float) -> float:
    """Bits to name k of N latents and send ``bits`` for each: ``k (log2 N + bits)``.

    Examples
    --------
    >>> upper_bound(32, 16_384, 5)
    608.0
    """
    return k * (math.log2(n_latents) + bits)
