"""One score from several retrievers: convex combination and reciprocal rank fusion.

Pure functions over arrays of shape (C, R): C candidates by R retrievers. Each returns the total of every candidate
and the share of each retriever in it; a candidate's shares, added from left to right, are its total bit for bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsight.errors import InvalidQueryError, ShapeError

__all__ = ["convex", "minmax", "rrf"]

_F64 = NDArray[np.float64]


def minmax(scores: ArrayLike) -> _F64:
    """Scores of each retriever stretched to [0, 1] over the candidates.

    Parameters
    ----------
    scores : float, shape (C, R) or (C,)
        Score of each candidate by each retriever, in the retriever's own units. NaN: the candidate has no value
        in that retriever's field.

    Returns
    -------
    float64, same shape
        ``(s - min) / (max - min)``, minimum and maximum taken over the finite entries of the column. NaN becomes 0,
        which is where the worst candidate stands too. A constant column cannot be stretched: its entries become 1
        when the common score is positive (all who have it are equally good, and better than those without) and 0
        otherwise (nothing matched).

    Raises
    ------
    ShapeError
        If ``scores`` has neither one nor two dimensions.
    InvalidQueryError
        If a score is infinite.

    Examples
    --------
    >>> minmax([[2.0], [4.0], [3.0], [float("nan")]]).ravel().tolist()
    [0.0, 1.0, 0.5, 0.0]
    """
    given = np.asarray(scores, dtype=np.float64)
    if given.ndim not in (1, 2):
        raise ShapeError(f"expected scores of shape (C,) or (C, R), got {given.shape}", shape=given.shape)
    if np.isinf(given).any():
        raise InvalidQueryError("scores to fuse must be finite (or NaN for no value), got an infinite one")
    if given.size == 0:
        return np.zeros(given.shape)
    present = ~np.isnan(given)
    low = np.where(present, given, np.inf).min(axis=0)
    high = np.where(present, given, -np.inf).max(axis=0)
    some = present.any(axis=0)
    low, high = np.where(some, low, 0.0), np.where(some, high, 0.0)
    spread = high - low
    constant = spread == 0.0
    stretched = (given - low) / np.where(constant, 1.0, spread)
    stretched = np.where(constant, np.where(high > 0.0, 1.0, 0.0), stretched)
    return np.where(present, stretched, 0.0)


def convex(scores: ArrayLike, weights: ArrayLike) -> tuple[_F64, _F64]:
    """Convex combination of min-max normalised scores.

    Parameters
    ----------
    scores : float, shape (C, R)
        Score of each candidate by each retriever; every candidate is scored by every retriever, NaN where it has
        no value in that field (counts as 0 once normalised).
    weights : float, shape (R,)
        Non-negative, at least one positive; only their proportions matter.

    Returns
    -------
    total : float64, shape (C,)
        ``total[c] = sum_r w_r / sum(w) * minmax(scores)[c, r]``, in [0, 1].
    shares : float64, shape (C, R)
        The terms of that sum.

    Raises
    ------
    ShapeError
        If the shapes do not fit each other.
    InvalidQueryError
        If a weight is negative or not finite, all are zero, or a score is infinite.

    References
    ----------
    Bruch, Gai, Ingber 2022, "An Analysis of Fusion Functions for Hybrid Retrieval", arXiv:2210.11934: a convex
    combination beats reciprocal rank fusion in and out of domain, and hardly depends on how scores are normalised.

    Examples
    --------
    >>> total, shares = convex([[10.0, 0.2], [0.0, 0.6]], [1.0, 3.0])
    >>> total.tolist()
    [0.25, 0.75]
    """
    given = np.asarray(scores, dtype=np.float64)
    factors = _checked_weights(given.shape, weights)
    if given.shape[1] and factors.sum() == 0.0:
        raise InvalidQueryError("at least one retriever needs a weight above 0", field="retrievers")
    shares = minmax(given) * (factors / (factors.sum() or 1.0))
    return _total(shares), shares


def rrf(ranks: ArrayLike, weights: ArrayLike, rank_constant: int = 60) -> tuple[_F64, _F64]:
    """Reciprocal rank fusion.

    Parameters
    ----------
    ranks : int, shape (C, R)
        Rank of each candidate in each retriever's list, from 1; 0 where it is not in the list.
    weights : float, shape (R,)
        Non-negative.
    rank_constant : int
        At least 1; the larger, the less the first ranks stand out. 60 is the paper's value.

    Returns
    -------
    total : float64, shape (C,)
        ``total[c] = sum_r w_r / (rank_constant + ranks[c, r])`` over the retrievers that list c.
    shares : float64, shape (C, R)
        The terms of that sum.

    Raises
    ------
    ShapeError
        If the shapes do not fit each other.
    InvalidQueryError
        If a rank or a weight is negative, a weight is not finite, or ``rank_constant`` is below 1.

    References
    ----------
    Cormack, Clarke, Buettcher 2009, "Reciprocal Rank Fusion outperforms Condorcet and Individual Rank Learning
    Methods", SIGIR.

    Examples
    --------
    >>> total, shares = rrf([[1, 0], [2, 1]], [1.0, 1.0], rank_constant=1)
    >>> total.round(4).tolist()
    [0.5, 0.8333]
    """
    if rank_constant < 1:
        raise InvalidQueryError(
            f"rank_constant must be at least 1, got {rank_constant}",
            field="fusion.rank_constant",
            rank_constant=rank_constant,
        )
    given = np.asarray(ranks, dtype=np.int64)
    factors = _checked_weights(given.shape, weights)
    if (given < 0).any():
        raise InvalidQueryError(f"ranks are counted from 1 (0: absent), got {given.min()}", rank=given.min())
    shares = np.where(given > 0, factors / (rank_constant + given), 0.0)
    return _total(shares), shares


def _checked_weights(shape: tuple[int, ...], weights: ArrayLike) -> _F64:
    factors = np.asarray(weights, dtype=np.float64)
    if len(shape) != 2 or factors.shape != (shape[1],):
        raise ShapeError(
            f"expected candidates of shape (C, R) and weights (R,), got {shape} and {factors.shape}",
            candidates=shape,
            weights=factors.shape,
        )
    for position, weight in enumerate(factors.tolist()):
        if not (0.0 <= weight < np.inf):
            raise InvalidQueryError(
                f"a retriever's weight must be finite and not negative, got {weight}",
                field=f"retrievers[{position}].weight",
                weight=weight,
            )
    return factors


def _total(shares: _F64) -> _F64:
    # Column by column, not sum(axis=1): numpy's pairwise order would differ from adding the shares up in the last bit.
    total = np.zeros(shares.shape[0])
    for column in shares.T:
        total += column
    return total
