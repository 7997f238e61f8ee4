"""Supervised dictionaries and what latents tell of labels: the arithmetic of :mod:`benches.steering.control`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["discriminant", "greedy_union", "single_f1", "sums_of_values", "supervised", "supervised_edit",
           "towards_length"]

F32, F64, I64, Mask = NDArray[np.float32], NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]
_GAIN = 0.02  # of F1, for a further latent to count
_MOST = 16
_RIDGE = 1.0  # texts that each value's direction is drawn to 0 by


def supervised(x: F32, values: I64) -> tuple[F32, list[F32]]:
    """The dictionary: the mean, and for each attribute the directions (V, D) of its values.

    ``x ~ mean + sum of directions[a][values[:, a]]`` by least squares, so that what two attributes share is counted
    once (Makelov et al. 2024 call it the MSE dictionary).

    Parameters
    ----------
    x : float32, shape (B, D)
    values : int64, shape (B, A)
        From 0; every value below an attribute's largest is there.
    """
    mean = x.mean(0)
    counts = (values.max(0) + 1).tolist()
    starts = np.cumsum([0, *counts])
    design = np.zeros((len(x), starts[-1]))
    for a, start in enumerate(starts[:-1].tolist()):
        design[np.arange(len(x)), start + values[:, a]] = 1.0
    found = np.linalg.solve(design.T @ design + _RIDGE * np.eye(starts[-1]), design.T @ (x - mean))
    return mean, [part.astype(np.float32) for part in np.split(found, starts[1:-1])]


def sums_of_values(directions: Sequence[F32], values: I64) -> F32:
    """Sums (B, D) of the directions of each text's values (B, A)."""
    return np.sum([of[values[:, a]] for a, of in enumerate(directions)], axis=0)


def supervised_edit(directions: F32, old: I64, new: I64) -> F32:
    """What changes an attribute from values ``old`` to ``new``, both (B,): (B, D)."""
    return directions[new] - directions[old]


def towards_length(edits: F32, lengths: F32) -> F32:
    """Edits (B, D) with these lengths (B,); one that is 0 stays so."""
    return edits * (lengths / np.maximum(np.linalg.norm(edits, axis=1), 1e-12))[:, None].astype(np.float32)


def discriminant(x: F32, value: I64) -> tuple[F32, F32]:
    """Weights (D, V) and constants (V,) of a linear discriminant analysis with equal priors (Fisher 1936).

    The value is ``argmax(x @ weights + constants)``.
    """
    means = np.stack([x[value == v].mean(0, dtype=np.float64) for v in range(value.max() + 1)])
    inside = x - means[value]
    covariance = inside.T @ inside / len(x)
    covariance += 0.01 * np.trace(covariance) / x.shape[1] * np.eye(x.shape[1])
    weights = np.linalg.solve(covariance, means.T)
    return weights.astype(np.float32), (-0.5 * (means * weights.T).sum(1)).astype(np.float32)


def single_f1(fires: Any, has: Mask) -> F64:
    """F1 (N,) of every latent of ``fires``, sparse or not, (B, N): it says that a text has the value if it fires."""
    both = np.asarray(fires.T.astype(np.float64) @ has.astype(np.float64)).ravel()
    return 2 * both / np.maximum(np.asarray(fires.sum(0), np.float64).ravel() + has.sum(), 1)


def greedy_union(fires: Any, has: Mask) -> list[int]:
    """Latents whose union tells a value best, the best one first, each the one that adds most to F1.

    Stops where F1 grows by less than 0.02, or at 16. Several latents are what Makelov et al. call over-splitting: one
    value of one attribute in pieces.
    """
    fires = fires.tocsc()
    inside = fires.T.astype(np.float64).tocsr()
    said, taken, reached = np.zeros(len(has), bool), [], 0.0
    while len(taken) < _MOST:
        fresh = (~said).astype(np.float64)
        both = (said & has).sum() + np.asarray(inside @ (fresh * has)).ravel()
        union = said.sum() + np.asarray(inside @ fresh).ravel()
        f1 = 2 * both / np.maximum(union + has.sum(), 1)
        best = int(f1.argmax())
        if f1[best] < reached + _GAIN:
            break
        taken.append(best)
        reached = float(f1[best])
        said |= fires[:, [best]].toarray().ravel()
    return taken
