"""Features from examples: which latents tell some embeddings from others, with no training.

A direction leads from what the negatives, and all data, have in common to what the positives have; the latents that
look most that way are the features. From ten examples of each kind a mean is known badly, so the negatives are drawn
towards the autoencoder's bias, which is the mean of the data it was trained on, and directions in which all data spread
anyway count less (linear discriminant analysis; Friedman 1989, "Regularized Discriminant Analysis"). Measured on 40
categories of arXiv with 10 + 10 examples: the median category's precision@10 of the latents' documents is 0.74 by 32
latents and 0.70 by 128, as by the embeddings' difference of means (``python -m benches.steering --sections examples``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparsight.encoders.sae.checks import check_rows
from sparsight.encoders.sae.model import SAE
from sparsight.errors import ShapeError

__all__ = ["direction_of", "latents_towards"]

F32 = NDArray[np.float32]
_BACKGROUND = 30.0  # negatives that the mean of the data counts as
_SHRINK = 20.0  # of the covariance, towards this many times its mean eigenvalue


def direction_of(sae: SAE, positives: F32, negatives: F32 | None = None) -> F32:
    """The way from ordinary embeddings to the positives, of length 1.

    Parameters
    ----------
    sae : SAE
        With densities and scales of its latents: its bias stands for the data's mean, and ``W_dec^T diag(density
        scale^2) W_dec`` for their covariance.
    positives : float32, shape (P, D)
        At least one.
    negatives : float32, shape (M, D), optional

    Returns
    -------
    float32, shape (D,)
        0 where the positives do not differ from the rest.

    Raises
    ------
    ShapeError, InvalidVectorError
        If there are no positives or rows do not fit the autoencoder.
    """
    check_rows("positives", positives, columns=sae.d_in)
    if not len(positives):
        raise ShapeError("expected at least one positive example, got none", field="positives")
    total, count = _BACKGROUND * sae.b_dec.astype(np.float64), _BACKGROUND
    if negatives is not None and len(negatives):
        check_rows("negatives", negatives, columns=sae.d_in)
        total, count = total + negatives.sum(0, dtype=np.float64), count + len(negatives)
    way = positives.mean(0, dtype=np.float64) - total / count
    weighted = sae.W_dec * np.sqrt(sae.density * sae.scale**2)[:, None]
    covariance = (weighted.T @ weighted).astype(np.float64)
    usual = np.trace(covariance) / sae.d_in
    if usual > 0:
        way = np.linalg.solve(covariance / usual + _SHRINK * np.eye(sae.d_in), way)
    return (way / max(float(np.linalg.norm(way)), 1e-12)).astype(np.float32)


def latents_towards(sae: SAE, direction: F32, count: int) -> tuple[NDArray[np.int64], F32]:
    """Latents that look most along a direction.

    Parameters
    ----------
    sae : SAE
    direction : float32, shape (D,)
    count : int
        At most so many.

    Returns
    -------
    latents : int64, shape (n,)
        By falling weight, equal ones by index. Those that fired in training and have a product above 0.
    weights : float32, shape (n,)
        Products of decoder row and direction, scaled so that ``sum_i weights_i w_i`` has length 1: what added to the
        latents' activations moves an embedding by 1.
    """
    if direction.shape != (sae.d_in,):
        raise ShapeError(f"expected a direction of {sae.d_in} components, got shape {direction.shape}",
                         field="direction")
    along = np.where(sae.scale > 0, sae.W_dec @ direction, 0.0)
    order = np.argsort(-along, kind="stable")[:count]
    latents = order[along[order] > 0].astype(np.int64)
    weights = along[latents]
    moved = float(np.linalg.norm(weights @ sae.W_dec[latents])) if len(latents) else 1.0
    return latents, (weights / max(moved, 1e-12)).astype(np.float32)
