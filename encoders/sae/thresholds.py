"""Thresholds for an autoencoder, from rows: codes of k latents on average, and of each text's own number.

BatchTopK trains with the ``k B`` largest pre-activations of a batch and encodes with one threshold, a running mean of
each batch's smallest chosen one (Bussmann et al. 2024, "BatchTopK Sparse Autoencoders"). A mean of small batches'
minima lies too low; here the threshold is the value at rank ``k B`` of many rows itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sparsight.encoders.sae.checks import check_rows
from sparsight.encoders.sae.model import SAE
from sparsight.errors import InvalidArgumentError, ShapeError
from sparsight.kernels import threshold_encode

__all__ = ["calibrated"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
_PRE_ACTS = 1 << 22  # of a block of rows: with thresholds of 0 about half are kept, 20 bytes each


def calibrated(sae: SAE, x: F32, k: int = 0, *, scope: Literal["global", "latent"] = "global") -> SAE:
    """The autoencoder with thresholds that keep k latents a row on average over these rows.

    Parameters
    ----------
    sae : SAE
        If it has thresholds they are replaced.
    x : float32, shape (B, D)
        Rows that were not trained on, at least 100,000 where there are as many: the smallest of the values kept is
        what is estimated.
    k : int
        Mean number of active latents wanted; 0 takes the model's. The result has it as its ``k``.
    scope : "global" or "latent"
        One threshold for all latents, at rank ``k B`` of all pre-activations; or one a latent, with which it fires on
        as many of the rows as with TopK, so that no latent gains at another's cost.

    Returns
    -------
    SAE
        The rows hold exactly ``k B`` values above the thresholds, more only where pre-activations tie at a threshold.
        Fewer where there are fewer: "global" counts positive pre-activations, and has a threshold of 0 if they do not
        suffice; "latent" those that TopK would keep, and silences a latent (threshold inf) that TopK never chooses.
        Statistics stay as they were: see ``describe_latents``.

    Raises
    ------
    ShapeError, InvalidArgumentError
        If ``x`` has no rows, or another width or dtype, ``k`` is not in [0, N], or the scope is unknown.

    Notes
    -----
    One pass of encoding, two for "latent", and memory for ``2 k B`` values: no B x N matrix.
    """
    check_rows("x", x, columns=sae.d_in)
    k = k or sae.k
    if not 1 <= k <= sae.n_latents:
        raise InvalidArgumentError(f"expected k in [0, {sae.n_latents}], got {k}", field="k")
    if len(x) == 0:
        raise ShapeError(f"expected rows to calibrate on, got {x.shape}", field="x")
    if scope == "global":
        group, wanted = np.zeros(sae.n_latents, np.int64), np.array([k * len(x)])
    elif scope == "latent":
        fired = sae.encode(x, k, mode="topk").indices
        group, wanted = np.arange(sae.n_latents), np.bincount(fired, minlength=sae.n_latents)
    else:
        raise InvalidArgumentError(f"expected scope 'global' or 'latent', got {scope!r}", field="scope")
    return replace(sae, k=k, threshold=_just_below_ranks(sae, x, group, wanted)[group])


def _just_below_ranks(sae: SAE, x: F32, group: I64, wanted: I64) -> F32:
    """For each group of latents the float below the ``wanted``-th largest of its positive pre-activations, (G,).

    0 if it has fewer, inf if none is wanted. Keeps the largest ones seen so far, whose smallest is a bound that the
    later rows must exceed: what is kept never grows beyond twice what is wanted, once that many were seen.
    """
    least = np.where(wanted > 0, 0, np.inf).astype(np.float32)
    groups: list[I64] = []
    values: list[F32] = []
    step = max(_PRE_ACTS // sae.n_latents, 1)
    for start in range(0, len(x), step):
        rows = np.ascontiguousarray(x[start:start + step])
        _, latents, found = threshold_encode(rows, sae.W_enc, sae.b_enc, least[group])
        groups.append(group[latents])
        values.append(found)
        if sum(map(len, values)) >= 2 * wanted.sum() or start + step >= len(x):
            kept = _largest(np.concatenate(groups), np.concatenate(values), wanted)
            groups, values = [kept[0]], [kept[1]]
            least = np.maximum(least, _just_below(*kept, wanted))
    return least


def _just_below(groups: I64, values: F32, wanted: I64) -> F32:
    """The float below the smallest value of each group that has as many as wanted; 0 for the others."""
    smallest = np.full(len(wanted), np.inf, np.float32)
    np.minimum.at(smallest, groups, values)
    full = (np.bincount(groups, minlength=len(wanted)) == wanted) & (wanted > 0)
    return np.where(full, np.nextafter(smallest, np.float32(0)), np.float32(0))


def _largest(groups: I64, values: F32, wanted: I64) -> tuple[I64, F32]:
    """Of each group g the ``wanted[g]`` largest values, or all if it has no more."""
    order = np.lexsort((-values, groups))
    groups, values = groups[order], values[order]
    rank = np.arange(len(groups)) - np.searchsorted(groups, np.arange(len(wanted)))[groups]
    kept = rank < wanted[groups]
    return groups[kept], values[kept]
