"""Linear classifiers and what is taken from them: the arithmetic of :mod:`benches.steering.shift`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sparsight.encoders.sae.probes import logistic_regression

__all__ = ["against_spread", "corrected_difference", "erasure", "fit", "groups_right", "to_ablate"]

F32, F64, I64, Mask = NDArray[np.float32], NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]
_SHRINK = 8.0  # of the covariance, towards this many times its mean eigenvalue
_OVER = 0.5  # a feature goes that tells the attribute this much as well as the label


def to_ablate(W_dec: F32, effect: F64, examples: F32, label: Mask, attribute: Mask) -> I64:
    """Features that push a classifier from the attribute to the label.

    Parameters
    ----------
    W_dec : float32, shape (N, D)
    effect : float64, shape (N,)
        The classifier's weight times the feature's mean activation.
    examples : float32, shape (E, D)
    label, attribute : bool, shape (E,)
        Of the examples, both kinds of both.

    Returns
    -------
    int64
        Those whose direction, beside the difference of the examples' means by attribute, has the effect's sign and at
        least half the product that it has with the difference by label.
    """
    of_attribute, of_label = (W_dec @ (examples[has].mean(0) - examples[~has].mean(0)) for has in (attribute, label))
    return np.flatnonzero((effect * of_attribute > 0) & (np.abs(of_attribute) > _OVER * np.abs(of_label)))


def corrected_difference(x: F32, label: Mask, examples: F32, of_label: Mask, of_attribute: Mask) -> F64:
    """What a label alone changes, from a set in which it is confounded and a few examples in which it is not.

    Parameters
    ----------
    x : float32, shape (B, D)
        In which label and attribute are the same: the difference of their means is the label's and the attribute's.
    label : bool, shape (B,)
    examples : float32, shape (E, D)
    of_label, of_attribute : bool, shape (E,)
        As many of each of the four groups.

    Returns
    -------
    float64, shape (D,)
        Half of the set's difference, and of the examples' difference by label less that by attribute. The label's part
        alone is what is expected of it, and its variance is half of that of the examples' own difference.
    """
    whole, own, other = (of[has].mean(0, dtype=np.float64) - of[~has].mean(0, dtype=np.float64)
                         for of, has in ((x, label), (examples, of_label), (examples, of_attribute)))
    found: F64 = (whole + own - other) / 2
    return found


def against_spread(way: F64, background: F32) -> F64:
    """A direction (D,) in which ways that all embeddings (B, D) spread along count less.

    A linear discriminant with a covariance that is drawn to 8 times its mean eigenvalue (Friedman 1989, "Regularized
    Discriminant Analysis"); 8 was chosen with the rest of :mod:`benches.steering.shift`.
    """
    covariance = np.cov(background.T.astype(np.float64))
    usual = np.trace(covariance) / len(way)
    found: F64 = np.linalg.solve(covariance / usual + _SHRINK * np.eye(len(way)), way)
    return found


def fit(x: F64 | F32, label: Mask) -> tuple[F64, float]:
    """Weights (K,) and constant of a logistic regression with the usual penalty.

    The weights are a sum of the rows, so with fewer rows than columns it is fitted to the rows' products.
    """
    import torch

    x = np.asarray(x, np.float64)
    y = torch.from_numpy(label.astype(np.float64))
    if len(x) >= x.shape[1]:
        found = logistic_regression(torch.from_numpy(x), y).numpy()
        return found[:-1], float(found[-1])
    values, vectors = np.linalg.eigh(x @ x.T)
    kept = values > 1e-9 * max(values[-1], 1e-300)
    sizes, vectors = np.sqrt(values[kept]), vectors[:, kept]
    found = logistic_regression(torch.from_numpy(vectors * sizes), y).numpy()
    return x.T @ (vectors @ (found[:-1] / sizes)), float(found[-1])


def groups_right(said: Mask, label: Mask, attribute: Mask) -> tuple[float, float, float]:
    """Accuracy of the worst of the four groups, their mean, and the share of answers that are the attribute.

    The last is 1/2 for a classifier that makes nothing of the attribute, where groups are of a size.
    """
    right = [float((said[of] == y).mean()) for y in (False, True) for has in (False, True)
             for of in [(label == y) & (attribute == has)]]
    return min(right), float(np.mean(right)), float((said == attribute).mean())


def erasure(direction: F32, background: F32 | None = None) -> Callable[[F32], F32]:
    """A map of embeddings that leaves nothing along a direction; with a background, the one that changes least.

    Parameters
    ----------
    direction : float32, shape (D,)
        Difference of the means with and without the attribute.
    background : float32, shape (B, D), optional
        Embeddings whose covariance says what changes much: LEACE (Belrose et al. 2023, "LEACE: Perfect linear concept
        erasure in closed form"), for one attribute of two values.
    """
    if background is None:
        unit = direction / np.linalg.norm(direction)
        return lambda x: x - np.outer(x @ unit, unit)
    values, vectors = np.linalg.eigh(np.cov(background.T.astype(np.float64)) + 1e-5 * np.eye(len(direction)))
    mean, whitened = background.mean(0), vectors @ ((vectors.T @ direction) / np.sqrt(values))
    whitened /= np.linalg.norm(whitened)
    asks, takes = (vectors @ (values**power * (vectors.T @ whitened)) for power in (-0.5, 0.5))
    return lambda x: (x - np.outer((x - mean) @ asks, takes)).astype(np.float32)
