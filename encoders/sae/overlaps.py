"""How many texts have at least so many of some features, told from a sample: what a filter by set overlap lets through.

Features of one subject fire together, so that independence is wrong by an order of magnitude, and in a sample few texts
may pass that are to be counted. Between both stands a distribution with the sample's mean and variance of the number of
features that fire: a beta-binomial one, as if all had one rate that differs from text to text (Skellam 1948, "A
probability distribution derived from the binomial distribution", J. Royal Statistical Society B 10). Of 647 filters
of 8 to 32 latents of sparsight-minilm-sae, near each other or drawn, told from 5,000 abstracts and measured on 67,380
others, 98 % let through between half and twice of what it says; of the sample's own share 93 %, of independence 61 %
(``python -m benches.steering --sections overlaps``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.stats import betabinom, binom

from sparsight.encoders.sae.checks import check_codes
from sparsight.errors import InvalidArgumentError

__all__ = ["OverlapRate", "overlap_rate"]


@dataclass(frozen=True)
class OverlapRate:
    """Shares of texts that have at least so many of some features.

    Attributes
    ----------
    predicted : float
        By the beta-binomial distribution with the sample's mean and variance.
    sampled : float
        Of the sample itself; 0 where no text of it passes.
    independent : float
        If each fired by itself, at its own rate in the sample.
    correlation : float
        Of two of the features, on average, that explains the variance: 0 and above.
    """

    predicted: float
    sampled: float
    independent: float
    correlation: float


def overlap_rate(codes: csr_matrix, features: Sequence[int], at_least: int) -> OverlapRate:
    """The share of texts that a filter by set overlap lets through.

    Parameters
    ----------
    codes : csr_matrix, shape (B, N)
        Of a sample of texts, at least 2; some thousands are enough.
    features : sequence of int
        Different latents, 1 or more.
    at_least : int
        From 1 to their number.

    Raises
    ------
    ShapeError, InvalidVectorError, InvalidArgumentError
        If the codes are no codes or too few, or features or ``at_least`` are out of range.
    """
    check_codes("codes", codes)
    count = len(features)
    if codes.shape[0] < 2:
        raise InvalidArgumentError(f"expected a sample of at least 2 texts, got {codes.shape[0]}", field="codes")
    if not count or len(set(features)) < count or not 0 <= min(features) <= max(features) < codes.shape[1]:
        raise InvalidArgumentError(f"expected different features below {codes.shape[1]}, got {list(features)[:20]}",
                                   field="features")
    if not 1 <= at_least <= count:
        raise InvalidArgumentError(f"expected at_least of 1 to {count}, got {at_least}", field="at_least")
    fired = codes[:, list(features)] > 0
    numbers, rates = np.asarray(fired.sum(1)).ravel(), np.asarray(fired.mean(0), np.float64).ravel()
    mean = float(rates.mean())
    alone = count * mean * (1 - mean)
    excess = (float(numbers.var(ddof=1)) / alone - 1) / (count - 1) if alone > 0 and count > 1 else 0.0
    correlation = min(max(excess, 0.0), 1.0 - 1e-9)
    return OverlapRate(_beta_binomial(count, at_least, mean, correlation), float((numbers >= at_least).mean()),
                       _poisson_binomial(rates, at_least), correlation)


def _beta_binomial(count: int, at_least: int, mean: float, correlation: float) -> float:
    """P(number >= at_least) of a beta-binomial distribution; of a binomial one without correlation."""
    if mean in (0.0, 1.0):
        return mean
    if correlation < 1e-9:
        return float(binom.sf(at_least - 1, count, mean))
    size = 1 / correlation - 1
    return float(betabinom.sf(at_least - 1, count, mean * size, (1 - mean) * size))


def _poisson_binomial(rates: NDArray[np.float64], at_least: int) -> float:
    """P(number >= at_least) of independent events with these rates."""
    chances = np.ones(1)
    for rate in rates:
        chances = np.convolve(chances, [1 - rate, rate])
    return float(chances[at_least:].sum())
