"""Features from examples: which latents tell some embeddings from others, with no training.

A direction leads from what the negatives, and all data, have in common to what the positives have. From ten examples
of each kind a mean is known badly, so the negatives are drawn towards the autoencoder's bias, which is the mean of the
data it was trained on, and directions in which all data spread anyway count less (linear discriminant analysis;
Friedman 1989, "Regularized Discriminant Analysis"). A description in words leads somewhere too, and counts as much as
all examples. Where there is a collection, what lies furthest that way counts as more examples, nearly as much as those
that were given: :func:`direction_with` (feedback without a judge; Rocchio 1971, "Relevance Feedback in Information
Retrieval"). The features are the latents that look most that way, with the strengths that together come nearest to it
(non-negative least squares, by :func:`sparsight.kernels.pursue`): what several of them share counts once.

Chosen on 40 categories of arXiv and measured on 40 others, 10 + 10 examples each (``python -m benches.steering
--sections examples,towards``), with all-MiniLM-L6-v2: documents along 12 latents have a precision@10 of 0.81, median
category (6: 0.77, 32: 0.78; the difference of the examples' means: 0.70). A step that leaves an overlap of 0.5 of a
list gains 0.176 of precision@10, and with the category's name beside the examples 0.182; without neighbours 0.171 and
0.177, the difference of means 0.154.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparsight.encoders.sae.checks import check_rows
from sparsight.encoders.sae.model import SAE
from sparsight.errors import ShapeError
from sparsight.kernels import pursue

__all__ = ["direction_of", "direction_with", "latents_towards"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
_BACKGROUND = 30.0  # negatives that the mean of the data counts as
_SHRINK = 6.0  # of the covariance, towards this many times its mean eigenvalue
_SHARE = 0.8  # of what neighbours count, beside examples


def direction_of(sae: SAE, positives: F32, negatives: F32 | None = None, words: F32 | None = None) -> F32:
    """The way from ordinary embeddings to the positives and the words, of length 1.

    Parameters
    ----------
    sae : SAE
        With densities and scales of its latents: its bias stands for the data's mean, and ``W_dec^T diag(density
        scale^2) W_dec`` for their covariance.
    positives : float32, shape (P, D)
        At least one, where there are no words.
    negatives : float32, shape (M, D), optional
        What the positives are set against, or the words where there are no positives.
    words : float32, shape (D,), optional
        Embedding of a description of the positives. It counts as much as all examples together.

    Returns
    -------
    float32, shape (D,)
        0 where the positives and the words do not differ from the rest.

    Raises
    ------
    ShapeError, InvalidVectorError
        If there are neither positives nor words, or rows do not fit the autoencoder.
    """
    if not len(positives) and words is None:
        raise ShapeError("expected at least one positive example, or words, got none", field="positives")
    rest = _rest(sae, negatives)
    way = _way(sae, "positives", positives, rest)
    if words is not None:
        check_rows("words", words[None], columns=sae.d_in)
        way += _unit(words.astype(np.float64) - (sae.b_dec if len(positives) else rest))
    return _unit(way).astype(np.float32)


def direction_with(sae: SAE, neighbours: F32, positives: F32, negatives: F32 | None = None) -> F32:
    """The way to the positives once it is known what lies there: unit direction (D,), 0 if nothing differs.

    Parameters
    ----------
    sae : SAE
    neighbours : float32, shape (K, D)
        Embeddings of a collection with the largest products with :func:`direction_of`, of which the words are a part;
        none that is an example.
    positives, negatives
        As there; there may be no positives. The words are left out: what they led to says more.

    Returns
    -------
    float32, shape (D,)

    Raises
    ------
    ShapeError, InvalidVectorError
        If rows do not fit the autoencoder.
    """
    rest = _rest(sae, negatives)
    way = _way(sae, "positives", positives, rest) + _SHARE * _way(sae, "neighbours", neighbours, rest)
    return _unit(way).astype(np.float32)


def latents_towards(sae: SAE, direction: F32, count: int) -> tuple[NDArray[np.int64], F32]:
    """The latents that look most along a direction, and how much of each comes nearest to it.

    Parameters
    ----------
    sae : SAE
    direction : float32, shape (D,)
    count : int
        At most so many.

    Returns
    -------
    latents : int64, shape (n,)
        Those with the largest products of decoder row and direction, of those that fired in training; by falling
        weight, equal ones by index. Fewer than ``count`` where the others already say it.
    weights : float32, shape (n,)
        Above 0, scaled so that ``sum_i weights_i w_i`` has length 1: what added to the latents' activations moves an
        embedding by 1.
    """
    if direction.shape != (sae.d_in,):
        raise ShapeError(f"expected a direction of {sae.d_in} components, got shape {direction.shape}",
                         field="direction")
    along = np.where(sae.scale > 0, sae.W_dec @ direction, 0.0)
    nearest = np.argsort(-along, kind="stable")[:count]
    found, values = pursue(direction[None], sae.W_dec[nearest[along[nearest] > 0]], count, candidates=0)
    chosen = found[0] >= 0
    latents, weights = nearest[found[0, chosen]], values[0, chosen]
    moved = float(np.linalg.norm(weights @ sae.W_dec[latents])) if len(latents) else 1.0
    return latents, (weights / max(moved, 1e-12)).astype(np.float32)


def _rest(sae: SAE, negatives: F32 | None) -> F64:
    """What the positives are set against, (D,)."""
    total, count = _BACKGROUND * sae.b_dec.astype(np.float64), _BACKGROUND
    if negatives is not None and len(negatives):
        check_rows("negatives", negatives, columns=sae.d_in)
        total, count = total + negatives.sum(0, dtype=np.float64), count + len(negatives)
    found: F64 = total / count
    return found


def _way(sae: SAE, name: str, rows: F32, rest: F64) -> F64:
    """From the rest to the mean of some rows, of length 1; 0 if there are none."""
    check_rows(name, rows, columns=sae.d_in)
    return _unit(_discriminant(sae, rows.mean(0, dtype=np.float64) - rest)) if len(rows) else np.zeros(sae.d_in)


def _discriminant(sae: SAE, way: F64) -> F64:
    """A way in which directions of much spread count less."""
    weighted = sae.W_dec * np.sqrt(sae.density * sae.scale**2)[:, None]
    covariance = (weighted.T @ weighted).astype(np.float64)
    usual = np.trace(covariance) / sae.d_in
    return np.linalg.solve(covariance / usual + _SHRINK * np.eye(sae.d_in), way) if usual > 0 else way


def _unit(way: F64) -> F64:
    return way / max(float(np.linalg.norm(way)), 1e-12)
