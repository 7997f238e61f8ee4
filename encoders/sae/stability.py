"""Which features another training finds again.

Trainings that differ in their seed alone learn dictionaries of which only a part agrees (Paulo and Belrose 2025,
"Sparse Autoencoders Trained on the Same Data Learn Different Features"). As there, a feature is *found again* in
another dictionary if it has the same partner by decoder rows and by encoder rows, and both cosines are at least 0.7.

Partners come from the best assignment of all features (the Hungarian method) or, where that would take too long, are
each other's nearest. Neither holds the other's pairs: an assignment may part two that are each other's nearest to gain
more elsewhere, and may pair two that each have a better one. Both are rare at cosines of 0.7 and more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sparsight.encoders.sae.checks import check_live
from sparsight.encoders.sae.matching import assignment, mutual_nearest, nearest
from sparsight.encoders.sae.model import SAE
from sparsight.errors import InvalidArgumentError, ShapeError

__all__ = ["FOUND_AGAIN", "Match", "Stability", "match", "stability"]

FOUND_AGAIN = 0.7
"""Least cosine of both rows with the partner's (Paulo and Belrose 2025)."""

Mask = NDArray[np.bool_]
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Match:
    """Features of dictionary a, looked for in dictionary b. Arrays have a row per latent of a, dead ones included.

    Attributes
    ----------
    decoder_partner, encoder_partner : int64, shape (N_a,)
        Latent of b; -1 for none, as for latents that are not live.
    decoder_cosine, encoder_cosine : float32, shape (N_a,)
        With that partner; 0 for none.
    max_cosine : float32, shape (N_a,)
        Largest cosine of decoder rows with any live atom of b, partner or not; 0 for latents that are not live.
    found : bool, shape (N_a,)
        Same partner twice and both cosines high enough.
    shared : float
        Share of a's live latents that were found.
    mean_max_cosine : float
        Mean of ``max_cosine`` over a's live latents.
    method : "hungarian" or "mutual"
        How partners were chosen.
    """

    decoder_partner: I64
    encoder_partner: I64
    decoder_cosine: F32
    encoder_cosine: F32
    max_cosine: F32
    found: Mask
    shared: float
    mean_max_cosine: float
    method: str


@dataclass(frozen=True, eq=False)
class Stability:
    """What S trainings agree on.

    Attributes
    ----------
    found_in : tuple of S int64 arrays, shape (N_s,)
        In how many of the others a feature was found, 0 to S - 1.
    stable : tuple of S bool arrays, shape (N_s,)
        Found in all others. A latent that is not live is never stable.
    shared : float64, shape (S, S)
        ``shared[i, j]`` is the share of i's live latents that were found in j; NaN for i = j.
    mean_shared, spread_shared : float
        Mean and standard deviation (population) of ``shared`` over ordered pairs.
    mean_max_cosine : float
        Mean over ordered pairs of :attr:`Match.mean_max_cosine`.
    """

    found_in: tuple[I64, ...]
    stable: tuple[Mask, ...]
    shared: NDArray[np.float64]
    mean_shared: float
    spread_shared: float
    mean_max_cosine: float


def match(a: SAE, b: SAE, *, live_a: Mask | None = None, live_b: Mask | None = None, threshold: float = FOUND_AGAIN,
          method: Literal["auto", "hungarian", "mutual"] = "auto", exact_limit: int = 4096,
          device: str = "cpu") -> Match:
    """Look for the features of one autoencoder in another over the same embeddings.

    Parameters
    ----------
    a, b : SAE
        Of one input dimension; numbers of latents may differ.
    live_a, live_b : bool, shape (N_a,) and (N_b,), optional
        Latents that take part; all by default. Dead latents stay where they started: in trainings from one start they
        count as found, in others as missed, though nothing was learned either way.
    threshold : float
        Least cosine of both rows.
    method : "auto", "hungarian" or "mutual"
        "auto" assigns exactly while both have at most ``exact_limit`` live latents.
    exact_limit : int
    device : str
        Where torch computes the cosines.

    Raises
    ------
    ShapeError, InvalidArgumentError
        If dimensions differ, a mask does not fit or is empty, or an option is unknown.
    """
    if a.d_in != b.d_in:
        raise ShapeError(f"expected autoencoders of one input dimension, got {a.d_in} and {b.d_in}", field="b")
    if method not in ("auto", "hungarian", "mutual"):
        raise InvalidArgumentError(f"expected method 'auto', 'hungarian' or 'mutual', got {method!r}", field="method")
    own = np.flatnonzero(check_live("live_a", live_a, a.n_latents))
    theirs = np.flatnonzero(check_live("live_b", live_b, b.n_latents))
    exact = method == "hungarian" or (method == "auto" and max(len(own), len(theirs)) <= exact_limit)
    pair = assignment if exact else mutual_nearest
    decoder_partner, decoder_cosine = pair(a.W_dec[own], b.W_dec[theirs], device=device)
    encoder_partner, encoder_cosine = pair(a.W_enc[own], b.W_enc[theirs], device=device)
    found = (decoder_partner >= 0) & (decoder_partner == encoder_partner)
    found &= np.minimum(decoder_cosine, encoder_cosine) >= threshold
    _, best = nearest(a.W_dec[own], b.W_dec[theirs], device=device)
    return Match(
        decoder_partner=_every(np.where(decoder_partner >= 0, theirs[decoder_partner], -1), own, a, -1),
        encoder_partner=_every(np.where(encoder_partner >= 0, theirs[encoder_partner], -1), own, a, -1),
        decoder_cosine=_every(decoder_cosine, own, a), encoder_cosine=_every(encoder_cosine, own, a),
        max_cosine=_every(best, own, a), found=_every(found, own, a), shared=float(found.mean()),
        mean_max_cosine=float(best.mean(dtype=np.float64)), method="hungarian" if exact else "mutual")


def stability(saes: Sequence[SAE], *, live: Sequence[Mask] | None = None, threshold: float = FOUND_AGAIN,
              method: Literal["auto", "hungarian", "mutual"] = "auto", exact_limit: int = 4096,
              device: str = "cpu") -> Stability:
    """Look for the features of each of several trainings in all others.

    Parameters
    ----------
    saes : sequence of SAE
        At least two.
    live : sequence of bool arrays, optional
        A mask for each: latents that fire, say ``reconstruction(...).density > 0``. Without it all latents count.
    threshold, method, exact_limit, device
        As in :func:`match`.

    Raises
    ------
    ShapeError, InvalidArgumentError
        As :func:`match`; if there are fewer than two, or not a mask for each.
    """
    given = [None] * len(saes) if live is None else live
    if len(saes) < 2 or len(given) != len(saes):
        raise InvalidArgumentError(f"expected at least two autoencoders, and a mask for each if any, got {len(saes)} "
                                   f"and {len(given)}", field="saes")
    count = len(saes)
    masks = [check_live(f"live[{i}]", given[i], saes[i].n_latents) for i in range(count)]
    found_in = [np.zeros(sae.n_latents, np.int64) for sae in saes]
    shared, cosines = np.full((count, count), np.nan), np.full((count, count), np.nan)
    for i in range(count):
        for j in range(count):
            if i != j:
                pair = match(saes[i], saes[j], live_a=masks[i], live_b=masks[j], threshold=threshold, method=method,
                             exact_limit=exact_limit, device=device)
                found_in[i] += pair.found
                shared[i, j], cosines[i, j] = pair.shared, pair.mean_max_cosine
    return Stability(found_in=tuple(found_in), stable=tuple(found == count - 1 for found in found_in), shared=shared,
                     mean_shared=float(np.nanmean(shared)), spread_shared=float(np.nanstd(shared)),
                     mean_max_cosine=float(np.nanmean(cosines)))


def _every(values: NDArray[Any], own: I64, sae: SAE, otherwise: int = 0) -> NDArray[Any]:
    """Values of some latents in an array for all."""
    out = np.full(sae.n_latents, otherwise, values.dtype)
    out[own] = values
    return out
