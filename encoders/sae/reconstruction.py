"""How well an autoencoder rebuilds embeddings, how sparsely, and how its atoms lie.

The measures that Gao et al. 2024 ("Scaling and evaluating sparse autoencoders") and the benchmarks after it report
first. All of them are of the rows given: take rows that were not trained on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from sparsight.encoders.sae.blocks import encode, errors
from sparsight.encoders.sae.checks import check_rows
from sparsight.encoders.sae.matching import nearest
from sparsight.encoders.sae.model import SAE
from sparsight.errors import InvalidArgumentError, InvalidVectorError

__all__ = ["DensityHistogram", "Reconstruction", "density_histogram", "fvu", "reconstruction", "spread"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """Measures of an autoencoder on B embeddings ``x`` with reconstructions ``xhat`` and mean row ``m``.

    Attributes
    ----------
    fvu : float
        Fraction of variance unexplained, ``sum |x - xhat|^2 / sum |x - m|^2``.
    cosine : float
        Mean cosine of ``x`` and ``xhat``.
    worst_decile_fvu : float
        The FVU, with the same ``m``, of the ceil(B / 10) rows whose own ``|x - xhat|^2 / |x - m|^2`` is largest. Never
        below ``fvu``. A ratio of sums, so that a row near the mean cannot carry it alone.
    l0, l0_p99 : float
        Mean number of active latents a row, and its 99 % quantile (interpolated).
    dead : float
        Share of latents that are active in no row.
    density : float64, shape (N,)
        Share of the rows that a latent is active in.
    nearest_atom : float32, shape (N,)
        Largest cosine of an atom with another one: 1 for atoms that say the same.
    alignment : float32, shape (N,)
        Cosine of a latent's rows of ``W_enc`` and ``W_dec``: low where it listens elsewhere than it speaks.
    """

    fvu: float
    cosine: float
    worst_decile_fvu: float
    l0: float
    l0_p99: float
    dead: float
    density: F64
    nearest_atom: F32
    alignment: F32


@dataclass(frozen=True, eq=False)
class DensityHistogram:
    """How many latents fire how often.

    Attributes
    ----------
    edges : float64, shape (bins + 1,)
        log10 of the densities between bins, rising to 0.
    counts : int64, shape (bins,)
        Latents in a bin, its lower edge included; the last takes density 1 too, the first all that are lower.
    silent : int
        Latents of density 0, in no bin.
    """

    edges: F64
    counts: NDArray[np.int64]
    silent: int


def reconstruction(sae: SAE, x: F32, codes: csr_matrix | None = None, *, device: str = "cpu") -> Reconstruction:
    """Measure an autoencoder on embeddings.

    Parameters
    ----------
    sae : SAE
        Of at least two latents.
    x : float32, shape (B, D)
        Rows that differ.
    codes : csr_matrix, shape (B, N), optional
        Codes to judge in place of the autoencoder's own: another k, a threshold, quantised values.
    device : str
        Where torch computes.

    Raises
    ------
    ShapeError, InvalidVectorError, InvalidArgumentError
        If ``x`` or ``codes`` do not fit, are not finite or do not vary, there is one latent, or the device cannot be
        used.
    """
    check_rows("x", x, columns=sae.d_in)
    centred = spread(x)
    codes = encode(sae, x, device=device) if codes is None else codes
    wrong = errors(sae, x, codes, device=device)
    missed = _squares(wrong)
    worst = np.argsort(-missed / np.maximum(centred, 1e-30), kind="stable")[:math.ceil(len(x) / 10)]
    active = np.diff(codes.indptr)
    density = np.bincount(codes.indices, minlength=sae.n_latents) / len(x)
    return Reconstruction(
        fvu=float(missed.sum() / centred.sum()),
        cosine=float(_cosines(x, x - wrong).mean()),
        worst_decile_fvu=float(missed[worst].sum() / max(centred[worst].sum(), 1e-30)),
        l0=float(active.mean()),
        l0_p99=float(np.quantile(active, 0.99)),
        dead=float((density == 0).mean()),
        density=density,
        nearest_atom=nearest(sae.W_dec, sae.W_dec, others=True, device=device)[1],
        alignment=_cosines(sae.W_enc, sae.W_dec).astype(np.float32),
    )


def spread(x: F32) -> F64:
    """Squared distances of rows from their mean, float64 (B,): the denominator of every FVU.

    Raises
    ------
    InvalidVectorError
        If all rows are equal: there is no variance to explain.
    """
    if len(x) < 2 or not np.ptp(x, axis=0).any():
        raise InvalidVectorError(f"expected rows that differ, got {len(x)} equal ones", field="x")
    return _squares(x - x.mean(0, dtype=np.float64).astype(x.dtype))


def fvu(x: F32, wrong: NDArray[Any]) -> float:
    """Fraction of variance unexplained by reconstructions with errors ``wrong = x - xhat``, both (B, D)."""
    return float(_squares(wrong).sum() / spread(x).sum())


def density_histogram(density: F64, *, bins: int = 24, lowest: float = 1e-6) -> DensityHistogram:
    """Histogram of log10 of firing densities, with the silent latents counted apart.

    Parameters
    ----------
    density : float, shape (N,)
        In [0, 1].
    bins : int
        At least 1.
    lowest : float
        Density at the lowest edge, in (0, 1).

    Raises
    ------
    InvalidArgumentError
        If an argument is out of range.
    """
    if bins < 1 or not 0 < lowest < 1 or not ((density >= 0) & (density <= 1)).all():
        raise InvalidArgumentError(f"expected bins >= 1, lowest in (0, 1) and densities in [0, 1], got {bins} bins and "
                                   f"lowest {lowest}", field="density")
    edges = np.linspace(math.log10(lowest), 0.0, bins + 1)
    fires = np.log10(density[density > 0])
    counts, _ = np.histogram(np.clip(fires, edges[0], 0.0), edges)
    return DensityHistogram(edges=edges, counts=counts.astype(np.int64), silent=int((density == 0).sum()))


def _squares(x: NDArray[Any]) -> F64:
    return np.einsum("ij,ij->i", x, x, dtype=np.float64)


def _cosines(a: F32, b: F32) -> F64:
    """Cosines of rows with rows; 0 where one is zero."""
    products = np.einsum("ij,ij->i", a, b, dtype=np.float64)
    return products / np.maximum(np.sqrt(_squares(a) * _squares(b)), 1e-30)
