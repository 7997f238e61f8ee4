"""Lists of hits: how alike two are, and how many of the first are of a category."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["precision", "rbo"]

I64 = NDArray[np.int64]


def rbo(a: I64, b: I64, p: float = 0.9) -> float:
    """Rank-biased overlap of two lists of the same length, extrapolated (Webber, Moffat, Zobel 2010, eq. 32).

    Parameters
    ----------
    a, b : int64, shape (k,)
        Without repeats.
    p : float
        Weight of the next rank over that of the one before: at 0.9 the first ten ranks have 86 % of the weight.

    Examples
    --------
    >>> rbo(np.arange(5), np.arange(5)), rbo(np.arange(5), np.arange(5) + 9)
    (1.0, 0.0)
    """
    depth = len(a)
    place = {item: rank for rank, item in enumerate(b.tolist())}
    later = [max(rank, place[item]) for rank, item in enumerate(a.tolist()) if item in place]
    agreement = np.cumsum(np.bincount(np.array(later, np.int64), minlength=depth)) / np.arange(1, depth + 1)
    weights = (1 - p) * p ** np.arange(depth)
    return float(weights @ agreement + agreement[-1] * p**depth)


def precision(hits: I64, members: NDArray[np.bool_], at: int = 10) -> float:
    """Share of the first hits that are members; ``members`` says of each document whether it is one."""
    return float(members[hits[:at]].mean())
