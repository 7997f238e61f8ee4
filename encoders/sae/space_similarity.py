"""How alike paired rows lie in two spaces, by measures that do not see rotations, against rows paired at random.

For the decoder rows of features of two embedders (Lan et al. 2024, "Quantifying Feature Space Universality Across Large
Language Models via Sparse Autoencoders"): they live in spaces of their own, in which no cosine can be taken across.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsight.encoders.sae.checks import check_rows, torch_device
from sparsight.errors import InvalidArgumentError

__all__ = ["SpaceSimilarity", "space_similarity"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


@dataclass(frozen=True)
class SpaceSimilarity:
    """How alike two sets of paired rows lie. "Sigmas" are standard deviations of random pairings above their mean.

    Attributes
    ----------
    svcca, svcca_by_chance, svcca_sigmas : float
        Mean canonical correlation, in [0, 1].
    rsa, rsa_by_chance, rsa_sigmas : float
        Rank correlation of pairwise cosines, in [-1, 1].
    pairs, pairings : int
        Pairs of rows, and random pairings that chance was measured with.
    """

    svcca: float
    svcca_by_chance: float
    svcca_sigmas: float
    rsa: float
    rsa_by_chance: float
    rsa_sigmas: float
    pairs: int
    pairings: int


def space_similarity(rows_a: F32, rows_b: F32, *, pairings: int = 100, most: int = 2048, variance: float = 0.99,
                     seed: int = 0, device: str = "cpu") -> SpaceSimilarity:
    """Compare paired rows of two spaces, such as ``a.W_dec[pairs.a]`` and ``b.W_dec[pairs.b]``.

    Parameters
    ----------
    rows_a, rows_b : float32, shape (M, D_a) and (M, D_b)
        Row i of one belongs to row i of the other.
    pairings : int
        Random pairings of the same rows, at least 2.
    most : int
        RSA compares M (M - 1) / 2 pairs of rows; of more rows than this it takes so many at random, at least 3.
    variance : float
        SVCCA keeps the directions that hold this share of a space's variance.
    seed : int
    device : str

    Raises
    ------
    ShapeError, InvalidVectorError, InvalidArgumentError
        If the arrays do not fit, an option is out of range, or M is not above the number of directions kept in both
        spaces together: CCA then finds perfect correlations in anything.

    References
    ----------
    SVCCA: Raghu et al. 2017: singular value decomposition, then canonical correlation analysis; the mean correlation.
    RSA: Kriegeskorte, Mur, Bandettini 2008: Spearman's correlation of the two tables of similarities between rows.
    """
    check_rows("rows_a", rows_a)
    check_rows("rows_b", rows_b, rows=len(rows_a))
    if pairings < 2 or most < 3 or not 0 < variance <= 1:
        raise InvalidArgumentError(f"expected pairings >= 2, most >= 3 and variance in (0, 1], got {pairings}, {most} "
                                   f"and {variance}", field="pairings")
    rng = np.random.default_rng(seed)
    some = np.sort(rng.permutation(len(rows_a))[:most])
    whole = _against_chance(_svcca(rows_a, rows_b, variance, device), len(rows_a), pairings, rng)
    ranked = _against_chance(_rsa(rows_a[some], rows_b[some], device), len(some), pairings, rng)
    return SpaceSimilarity(*whole, *ranked, pairs=len(rows_a), pairings=pairings)


def _svcca(a: F32, b: F32, variance: float, device: str) -> Callable[[I64 | None], float]:
    """Mean canonical correlation of a with b, its rows in a given order.

    Within the kept directions CCA only needs orthonormal bases of both: the singular values of their product are the
    canonical correlations. Reordering rows reorders those of the basis, so chance costs one small product.
    """
    import torch

    bases = []
    for rows in (a, b):
        given = torch.from_numpy(np.ascontiguousarray(rows, np.float64)).to(torch_device(device))
        u, s, _ = torch.linalg.svd(given - given.mean(0), full_matrices=False)
        held = torch.cumsum(s.square(), 0) / s.square().sum().clamp_min(1e-300)
        bases.append(u[:, :int((held < variance).sum()) + 1])
    own, theirs = bases
    if len(a) - 1 <= own.shape[1] + theirs.shape[1]:
        raise InvalidArgumentError(f"expected more than {own.shape[1] + theirs.shape[1] + 1} pairs, for "
                                   f"{own.shape[1]} and {theirs.shape[1]} directions, got {len(a)}", field="rows_a")

    def score(order: I64 | None) -> float:
        other = theirs if order is None else theirs[torch.from_numpy(order).to(theirs.device)]
        return float(torch.linalg.svdvals(own.T @ other).clamp(max=1.0).mean())

    return score


def _rsa(a: F32, b: F32, device: str) -> Callable[[I64 | None], float]:
    """Spearman's correlation of the cosines between rows of a with those between rows of b, in a given order.

    Reordering rows reorders the table of ranks, so they are found once.
    """
    import torch
    from scipy.stats import rankdata

    upper = np.triu_indices(len(a), 1)
    tables = []
    for rows in (a, b):
        unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        ranks = rankdata((unit @ unit.T)[upper])
        ranks = (ranks - ranks.mean()) / max(float(np.linalg.norm(ranks - ranks.mean())), 1e-300)
        table = np.zeros((len(a), len(a)))
        table[upper] = ranks
        tables.append(torch.from_numpy(table + table.T).to(torch_device(device)))
    own, theirs = tables

    def score(order: I64 | None) -> float:
        if order is None:
            return float((own * theirs).sum()) / 2
        chosen = torch.from_numpy(order).to(theirs.device)
        return float((own * theirs[chosen][:, chosen]).sum()) / 2

    return score


def _against_chance(score: Callable[[I64 | None], float], rows: int, pairings: int,
                    rng: np.random.Generator) -> tuple[float, float, float]:
    """The score of the true pairing, the mean of random ones, and how many deviations lie between."""
    random = np.array([score(rng.permutation(rows)) for _ in range(pairings)])
    true = score(None)
    return true, float(random.mean()), float((true - random.mean()) / max(random.std(ddof=1), 1e-12))
