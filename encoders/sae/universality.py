"""Do autoencoders over different embedders learn the same features?

After Lan et al. 2024, "Quantifying Feature Space Universality Across Large Language Models via Sparse Autoencoders":
features are paired by the correlation of their activations on the same texts, which needs no common space. What pairs
say alike is compared here by their labels; how alike they lie, by :mod:`sparsight.encoders.sae.space_similarity`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from sparsight.encoders.sae.checks import check_codes
from sparsight.errors import InvalidArgumentError, ShapeError

__all__ = ["LabelTransfer", "Pairs", "label_transfer", "pair_by_activation"]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
_LATENTS_AT_ONCE = 512


@dataclass(frozen=True, eq=False)
class Pairs:
    """M paired latents of two autoencoders, by falling correlation.

    Attributes
    ----------
    a, b : int64, shape (M,)
        Latents. No latent of a comes twice; none of b either if pairs are one to one.
    correlation : float64, shape (M,)
        Pearson correlation of their activations, zeros included.
    """

    a: I64
    b: I64
    correlation: F64


@dataclass(frozen=True)
class LabelTransfer:
    """Share of pairs whose labels agree.

    Attributes
    ----------
    first, first_by_chance : float
        With the same first word, which is the best one; and the mean share when partners are shuffled.
    any, any_by_chance : float
        With at least one word in common.
    pairs : int
        Pairs of which both have a label; only these count.
    """

    first: float
    first_by_chance: float
    any: float
    any_by_chance: float
    pairs: int


def pair_by_activation(codes_a: csr_matrix, codes_b: csr_matrix, *, least: float = 0.1,
                       one_to_one: bool = True) -> Pairs:
    """Pair each latent of a with the latent of b whose activations correlate most.

    Parameters
    ----------
    codes_a, codes_b : csr_matrix, shape (B, N_a) and (B, N_b)
        Codes of the same texts in the same order.
    least : float
        Least correlation of a pair, at least 0; 0.1 as in Lan et al.
    one_to_one : bool
        Of the latents of a that share a partner keep the one with the highest correlation.

    Raises
    ------
    ShapeError, InvalidVectorError, InvalidArgumentError
        If codes do not fit or ``least`` is below 0.

    Notes
    -----
    Latents that are never active together correlate negatively, so only the others are looked at: about
    ``B L0_a L0_b`` products on one core, 8 seconds for 100,000 texts, 32 active latents and N = 65,536. Of equal
    partners the lowest wins.
    """
    check_codes("codes_a", codes_a)
    check_codes("codes_b", codes_b, rows=codes_a.shape[0])
    if not least >= 0:
        raise InvalidArgumentError(f"expected least of at least 0, got {least}", field="least")
    columns, others = codes_a.tocsc().astype(np.float64), codes_b.astype(np.float64)
    (mean_a, std_a), (mean_b, std_b) = _moments(codes_a), _moments(codes_b)
    partner, correlation = np.full(codes_a.shape[1], -1, np.int64), np.zeros(codes_a.shape[1])
    for start in range(0, codes_a.shape[1], _LATENTS_AT_ONCE):
        together = csr_matrix(columns[:, start:start + _LATENTS_AT_ONCE].T @ others)
        together.sort_indices()
        for row in range(together.shape[0]):
            part = slice(together.indptr[row], together.indptr[row + 1])
            latent, found = start + row, together.indices[part]
            deviations = std_a[latent] * std_b[found]
            covariances = together.data[part] / codes_a.shape[0] - mean_a[latent] * mean_b[found]
            values = np.divide(covariances, deviations, out=np.zeros_like(deviations), where=deviations > 0)
            if len(values):
                partner[latent], correlation[latent] = found[values.argmax()], values.max()
    kept = np.flatnonzero((correlation > 0) & (correlation >= least))
    kept = kept[np.argsort(-correlation[kept], kind="stable")]
    if one_to_one:
        kept = kept[np.sort(np.unique(partner[kept], return_index=True)[1])]
    return Pairs(a=kept, b=partner[kept], correlation=correlation[kept])


def label_transfer(labels_a: Sequence[str], labels_b: Sequence[str], pairs: Pairs, *, pairings: int = 100,
                   seed: int = 0) -> LabelTransfer:
    """Share of paired latents with equal label words.

    Parameters
    ----------
    labels_a, labels_b : sequences of str, length N_a and N_b
        Words joined by ", ", the best first, as :func:`sparsight.encoders.sae.labels.label_features` gives them.
    pairs : Pairs
        At least one of which both latents have a label.
    pairings : int
        Shuffles that chance is measured with, at least 1.
    seed : int

    Raises
    ------
    ShapeError, InvalidArgumentError
        If a pair names a latent beyond the labels, or no pair has two.
    """
    if len(pairs.a) and (pairs.a.max() >= len(labels_a) or pairs.b.max() >= len(labels_b)):
        raise ShapeError(f"expected labels of all latents in pairs, got {len(labels_a)} and {len(labels_b)}",
                         field="labels_a")
    named = [(labels_a[i].split(", "), labels_b[j].split(", ")) for i, j in zip(pairs.a, pairs.b, strict=True)
             if labels_a[i] and labels_b[j]]
    if not named or pairings < 1:
        raise InvalidArgumentError(f"expected a pair with two labels and pairings >= 1, got {len(named)} and "
                                   f"{pairings}", field="pairs")
    own, theirs = [words for words, _ in named], [words for _, words in named]
    rng = np.random.default_rng(seed)
    shuffled = [_agreement(own, [theirs[i] for i in rng.permutation(len(theirs))]) for _ in range(pairings)]
    first, overlap = _agreement(own, theirs)
    first_by_chance, any_by_chance = np.mean(shuffled, axis=0)
    return LabelTransfer(first=first, first_by_chance=float(first_by_chance), any=overlap,
                         any_by_chance=float(any_by_chance), pairs=len(named))


def _agreement(own: list[list[str]], theirs: list[list[str]]) -> tuple[float, float]:
    """Shares with the same first word, and with any word in common."""
    pairs = list(zip(own, theirs, strict=True))
    return (sum(a[0] == b[0] for a, b in pairs) / len(pairs),
            sum(not set(a).isdisjoint(b) for a, b in pairs) / len(pairs))


def _moments(codes: csr_matrix) -> tuple[F64, F64]:
    """Mean and standard deviation of each latent over all rows."""
    rows = max(codes.shape[0], 1)
    values = codes.data.astype(np.float64)
    mean = np.bincount(codes.indices, values, codes.shape[1]) / rows
    square = np.bincount(codes.indices, values * values, codes.shape[1]) / rows
    variance = square - mean * mean
    return mean, np.sqrt(np.where(variance > 1e-12 * square, variance, 0.0))  # a constant's is rounding alone
