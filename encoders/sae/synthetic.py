"""Embeddings made from a known dictionary, and how much of it an autoencoder recovers.

On real embeddings nobody knows the true features. Here they are known: sparse non-negative codes, with what makes real
ones hard (features of very different frequency, features that come together, features that come only with a more
general one, noise), times random unit atoms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from sparsight.encoders.sae.checks import check_codes
from sparsight.encoders.sae.matching import assignment, nearest
from sparsight.errors import InvalidArgumentError

__all__ = ["Recovery", "Synthetic", "activation_f1", "make_synthetic", "recovery"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Synthetic:
    """Embeddings and what they were made of: ``x = codes dictionary + noise``.

    Attributes
    ----------
    x : float32, shape (B, D)
    codes : csr_matrix, float32, shape (B, F)
        Values in [0.5, 1.5].
    dictionary : float32, shape (F, D)
        Rows of length 1.
    parent : int64, shape (F,)
        Feature without which this one is never active; -1 for none.
    """

    x: F32
    codes: csr_matrix
    dictionary: F32
    parent: I64


@dataclass(frozen=True, eq=False)
class Recovery:
    """How much of F true atoms a dictionary of N holds.

    Attributes
    ----------
    mmcs : float
        Mean over true atoms of the largest cosine with a learned one (mean max cosine similarity; Sharkey, Braun,
        Millidge 2022). Several true atoms may share a learned one.
    mcc : float
        Mean over true atoms of the cosine with their partner in the best one-to-one assignment (mean correlation
        coefficient); 0 for those left over when N < F.
    f1 : float
        Mean over true features that are ever active of the F1 of their partner's activity; NaN without codes.
    partner : int64, shape (F,)
        Learned atom of each true one, -1 for none.
    cosine : float32, shape (F,)
        With that partner.
    """

    mmcs: float
    mcc: float
    f1: float
    partner: I64
    cosine: F32


def make_synthetic(rows: int, d_in: int, n_features: int, *, active: float = 8.0, decay: float = 0.0,
                   children: int = 0, child_rate: float = 0.3, group: int = 1, correlation: float = 0.0,
                   noise: float = 0.0, seed: int = 0) -> Synthetic:
    """Make embeddings from a random dictionary.

    Parameters
    ----------
    rows, d_in, n_features : int
        B, D and F.
    active : float
        Mean number of active features a row, but for frequencies that are capped at 1/2.
    decay : float
        Frequencies of features without a parent fall as ``rank^-decay``; 0 makes them equal, 1 is Zipf's law.
    children : int
        Features come in families of a parent and so many children, side by side (a last family may be smaller).
    child_rate : float
        Chance of a child to be active where its parent is, in (0, 1]. It is never active elsewhere.
    group : int
        Families next to each other that share a cause, if ``correlation`` is above 0.
    correlation : float
        In [0, 1): correlation of the normal variables behind the activity of parents of a group (a Gaussian copula);
        frequencies stay as they are.
    noise : float
        Standard deviation of Gaussian noise in each component, relative to the root mean square of the signal's.
    seed : int
        Equal arguments give equal data.

    Raises
    ------
    InvalidArgumentError
        If an argument is out of range.
    """
    for name, value, least in (("rows", rows, 1), ("d_in", d_in, 1), ("n_features", n_features, 1), ("group", group, 1),
                               ("children", children, 0), ("decay", decay, 0), ("noise", noise, 0)):
        if not value >= least:
            raise InvalidArgumentError(f"expected {name} of at least {least}, got {value}", field=name)
    if not 0 < active <= n_features or not 0 < child_rate <= 1 or not 0 <= correlation < 1:
        raise InvalidArgumentError(f"expected active in (0, {n_features}], child_rate in (0, 1] and correlation in "
                                   f"[0, 1), got {active}, {child_rate} and {correlation}", field="active")
    rng = np.random.default_rng(seed)
    dictionary = rng.normal(size=(n_features, d_in))
    dictionary = (dictionary / np.linalg.norm(dictionary, axis=1, keepdims=True)).astype(np.float32)
    family = np.arange(n_features) // (1 + children)
    first = np.arange(n_features) % (1 + children) == 0
    expected = np.bincount(family, np.where(first, 1.0, child_rate))  # active features of a family whose parent is
    frequency = np.arange(1.0, len(expected) + 1) ** -decay
    frequency = np.minimum(frequency * active / (frequency @ expected), 0.5)
    fires = _roots(rng, rows, frequency, group, correlation)[:, family]
    fires &= first | (rng.random((rows, n_features)) < child_rate)
    codes = csr_matrix(fires.astype(np.float32))
    codes.data = rng.uniform(0.5, 1.5, codes.nnz).astype(np.float32)
    signal = codes @ dictionary
    x = signal + noise * np.sqrt(np.square(signal).mean()) * rng.normal(size=signal.shape)
    parent = np.where(first, -1, np.arange(n_features) // (1 + children) * (1 + children))
    return Synthetic(x=x.astype(np.float32), codes=codes, dictionary=dictionary, parent=parent)


def recovery(truth: Synthetic, dictionary: F32, codes: csr_matrix | None = None, *, device: str = "cpu") -> Recovery:
    """Compare a learned dictionary with the true one.

    Parameters
    ----------
    truth : Synthetic
    dictionary : float32, shape (N, D)
        Such as ``sae.W_dec``.
    codes : csr_matrix, shape (B, N), optional
        The autoencoder's codes of ``truth.x``.
    device : str

    Raises
    ------
    ShapeError, InvalidVectorError, InvalidArgumentError
        If shapes do not fit or the device cannot be used.

    Notes
    -----
    The assignment takes seconds for some thousand atoms and grows with their third power.
    """
    _, best = nearest(truth.dictionary, dictionary, device=device)
    partner, cosine = assignment(truth.dictionary, dictionary, device=device)
    f1 = float("nan")
    if codes is not None:
        check_codes("codes", codes, rows=len(truth.x), latents=len(dictionary))
        scores = activation_f1(truth.codes, codes, partner)
        f1 = float(scores[np.diff(truth.codes.tocsc().indptr) > 0].mean())
    return Recovery(mmcs=float(best.mean(dtype=np.float64)), mcc=float(cosine.mean(dtype=np.float64)), f1=f1,
                    partner=partner, cosine=cosine)


def activation_f1(truth: csr_matrix, codes: csr_matrix, partner: I64) -> F64:
    """F1 with which activity of a partner tells activity of a true feature, float64 (F,).

    ``2 TP / (active true + active partner)``, counted in rows; 0 for a feature without partner, or of which neither is
    ever active.
    """
    has = np.flatnonzero(partner >= 0)
    own, theirs = (truth.tocsc()[:, has] > 0), (codes.tocsc()[:, partner[has]] > 0)
    both = np.asarray(own.multiply(theirs).sum(0)).ravel()
    active = np.diff(own.indptr) + np.diff(theirs.indptr)
    scores = np.zeros(len(partner))
    scores[has] = 2 * both / np.maximum(active, 1)
    return scores


def _roots(rng: np.random.Generator, rows: int, frequency: F64, group: int, correlation: float) -> NDArray[np.bool_]:
    """Which parents are active in which rows: normal variables above the quantile that gives each its frequency."""
    from scipy.special import ndtri

    cause = rng.normal(size=(rows, -(-len(frequency) // group)))[:, np.arange(len(frequency)) // group]
    own = rng.normal(size=(rows, len(frequency)))
    return np.sqrt(correlation) * cause + np.sqrt(1 - correlation) * own > ndtri(1 - frequency)
