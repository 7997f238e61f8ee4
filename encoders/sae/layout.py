"""A map of features: places in the plane where near ones are those whose decoder rows point alike.

t-SNE (van der Maaten, Hinton 2008): a latent is pulled to its nearest neighbours by cosine, and pushed from all others
as ``1 / (1 + distance^2)``. The pushes are a convolution, so they are computed on a grid by the fast Fourier transform
(Linderman et al. 2019, "Fast interpolation-based t-SNE"), which takes O(N) for a step and no drawing of examples:
everything is decided by the rows. It starts from the two principal components, so what is on which side of the map is
not chance (Kobak, Berens 2019, "The art of using t-SNE for single-cell transcriptomics").
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.sparse import csr_matrix, diags
from scipy.spatial import cKDTree

from sparsight.encoders.sae.checks import check_rows
from sparsight.encoders.sae.cosine_graph import cosine_neighbours
from sparsight.errors import InvalidArgumentError, ShapeError

__all__ = ["layout", "layout_quality", "pca_layout"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
_NEIGHBOURS = 30
_PERPLEXITY = 20.0  # neighbours that count, so to speak: what is near is what the map shall show
_EXAGGERATION = 12.0  # of the pulls while clusters find together (Linderman, Steinerberger 2019)
_EARLY = 0.25  # of the steps
_START = 1e-4  # standard deviation, of the first axis (Kobak, Berens 2019)
_CELL = 0.5  # of the grid; the kernel changes over a distance of 1
_FEWEST_CELLS, _MOST_CELLS = 32, 384  # a side
_FEW = 256  # latents up to which all pairs are as quick
_LONGEST_STEP = 5.0


def layout(rows: F32, affinity: csr_matrix | None = None, *, share: float = 0.5, steps: int = 300,
           seed: int = 0) -> F32:
    """Places for N latents.

    Parameters
    ----------
    rows : float, shape (N, D)
        Decoder rows.
    affinity : csr_matrix, shape (N, N), optional
        Symmetric, values >= 0, nothing on the diagonal, as
        :func:`sparsight.encoders.sae.coactivation.phi_coefficients`: latents that shall be near, too.
    share : float
        Of the pull that comes from the affinity where there is one, in [0, 1]; the rest comes from cosines.
    steps : int
        At least 1.
    seed : int
        Of the thousandth of the start that parts equal rows; nothing else is drawn.

    Returns
    -------
    float32, shape (N, 2)
        Mean 0, the largest coordinate of each map 1 or -1; zeros for one latent. Equal arguments give equal bits on one
        machine with one number of threads.

    Raises
    ------
    ShapeError, InvalidVectorError, InvalidArgumentError
        If arrays do not fit, or an option is out of its range.

    Notes
    -----
    O(N) for a step beside the nearest neighbours, which are O(N^2 D) once. Its quality beside that of the plane of the
    principal components: ``python -m benches.steering --sections others``.
    """
    check_rows("rows", rows)
    if steps < 1 or not 0 <= share <= 1:
        raise InvalidArgumentError(f"expected steps >= 1 and share in [0, 1], got {steps} and {share}",
                                   field="share" if steps >= 1 else "steps")
    if affinity is not None:
        _check_affinity(affinity, len(rows))
    if len(rows) < 2:
        return np.zeros((len(rows), 2), np.float32)
    pulls = _pulls(rows, affinity, share)
    places = pca_layout(rows).astype(np.float64)
    places += 1e-3 * np.random.default_rng(seed).normal(size=places.shape)
    places *= _START / max(float(places[:, 0].std()), 1e-12)
    return _scaled(_optimised(places, pulls, steps))


def pca_layout(rows: F32) -> F32:
    """The first two principal components of rows of length 1, float32 (N, 2), scaled as :func:`layout`.

    Signs are such that the entry of a component's axis that is largest in size is positive. Raises as :func:`layout`.
    """
    check_rows("rows", rows)
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    centred = np.asarray(unit, np.float64)
    centred -= centred.mean(0) if len(rows) else 0.0
    places = np.zeros((len(rows), 2))
    axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :2]
    axes = axes * np.sign(np.take_along_axis(axes, np.abs(axes).argmax(0)[None], 0)) if axes.size else axes
    places[:, :axes.shape[1]] = centred @ axes
    return _scaled(places)


def layout_quality(rows: F32, places: F32, *, near: int = 10, within: int = 30) -> float:
    """Share of the ``near`` nearest latents by cosine that are among the ``within`` nearest on the map.

    Parameters
    ----------
    rows : float, shape (N, D)
    places : float, shape (N, 2)
        At least two latents.
    near, within : int
        At least 1.

    Returns
    -------
    float
        Mean over latents, in [0, 1]. ``within / (N - 1)`` for places by chance.

    Raises
    ------
    ShapeError, InvalidVectorError, InvalidArgumentError
        If arrays do not fit, or a number is too small.
    """
    check_rows("rows", rows)
    check_rows("places", places, rows=len(rows), columns=2)
    if len(rows) < 2 or near < 1 or within < 1:
        raise InvalidArgumentError(f"expected two latents, near >= 1 and within >= 1, got {len(rows)}, {near} and "
                                   f"{within}", field="rows" if len(rows) < 2 else "near" if near < 1 else "within")
    wanted, _ = cosine_neighbours(rows, near)
    within = min(within, len(rows) - 1)
    shown = cKDTree(places).query(places, within + 1)[1]  # itself, too, mostly first
    itself = shown == np.arange(len(rows))[:, None]
    itself[~itself.any(1), -1] = True  # places shared by many: the last one goes instead
    shown = shown[~itself].reshape(len(rows), within)
    return float((wanted[:, :, None] == shown[:, None, :]).any(2).mean())


def _check_affinity(affinity: csr_matrix, latents: int) -> None:
    if affinity.format != "csr" or affinity.shape != (latents, latents):
        raise ShapeError(f"expected affinity csr ({latents}, {latents}), got {affinity.format} {affinity.shape}",
                         field="affinity")
    fits = np.isfinite(affinity.data).all() and (affinity.data >= 0).all() and not affinity.diagonal().any()
    if not fits or (affinity.nnz and abs(affinity - affinity.T).max() > 1e-9):
        raise InvalidArgumentError("expected a symmetric affinity, at least 0 and without a diagonal", field="affinity")


def _pulls(rows: F32, affinity: csr_matrix | None, share: float) -> csr_matrix:
    """Symmetric weights of the pulls, with sum 1."""
    neighbours, cosines = cosine_neighbours(rows, _NEIGHBOURS)
    weights = _perplexity_weights(np.maximum(2 - 2 * cosines.astype(np.float64), 0))
    indptr = np.arange(len(rows) + 1) * neighbours.shape[1]
    pulls = csr_matrix((weights.ravel(), neighbours.ravel(), indptr), shape=(len(rows), len(rows)))
    pulls = csr_matrix(pulls + pulls.T) / (2 * len(rows))
    if affinity is not None and affinity.sum() > 0:
        sums = np.asarray(affinity.sum(1)).ravel()
        scaled = diags(1 / np.maximum(sums, 1e-300)) @ affinity  # every latent is pulled as much
        scaled = csr_matrix(scaled + scaled.T)
        pulls = csr_matrix((1 - share) * pulls + (share / scaled.sum()) * scaled)
    pulls = csr_matrix(pulls)
    pulls.eliminate_zeros()
    pulls.sort_indices()
    return pulls


def _perplexity_weights(squares: F64) -> F64:
    """Weights ``exp(-b_i d^2)`` with sum 1 in each row, b_i such that their entropy is that of twenty equal ones."""
    target = np.log(min(_PERPLEXITY, max(squares.shape[1] * 2 / 3, 1.0)))  # below what equal distances have
    squares = squares - squares.min(1, keepdims=True)
    low, high = np.full(len(squares), 1e-6), np.full(len(squares), 1e6)
    weights = np.ones_like(squares)
    for _ in range(50):  # halvings of the range of log b
        middle = np.sqrt(low * high)
        weights = np.exp(-squares * middle[:, None])
        total = weights.sum(1)
        entropy = np.log(total) + middle * (weights * squares).sum(1) / total
        low, high = np.where(entropy > target, middle, low), np.where(entropy > target, high, middle)
    shares: F64 = weights / weights.sum(1, keepdims=True)
    return shares


def _optimised(places: F64, pulls: csr_matrix, steps: int) -> F64:
    """Gradient descent with momentum and gains, as van der Maaten and Hinton; rate after Belkina et al. 2019."""
    one = np.repeat(np.arange(len(places)), np.diff(pulls.indptr))
    rate = max(len(places) / _EXAGGERATION, 50.0)
    speed, gains = np.zeros_like(places), np.ones_like(places)
    early = int(_EARLY * steps)
    for step in range(steps):
        exaggeration, momentum = (_EXAGGERATION, 0.5) if step < early else (1.0, 0.8)
        slope = 4 * (exaggeration * _pull(places, pulls, one) - _push(places))
        same = (slope > 0) == (speed > 0)
        gains = np.maximum(np.where(same, gains * 0.8, gains + 0.2), 0.01)
        speed = momentum * speed - rate * gains * slope
        speed *= np.minimum(1.0, _LONGEST_STEP / np.maximum(np.abs(speed), 1e-300))
        places = places + speed
        places -= places.mean(0)
    return places


def _pull(places: F64, pulls: csr_matrix, one: I64) -> F64:
    """``sum_j p_ij q_ij (y_i - y_j)`` with ``q_ij = 1 / (1 + |y_i - y_j|^2)``."""
    apart = places[one] - places[pulls.indices]
    weights = pulls.data / (1 + apart[:, 0] ** 2 + apart[:, 1] ** 2)
    return np.stack([np.bincount(one, weights * apart[:, axis], len(places)) for axis in (0, 1)], axis=1)


def _push(places: F64) -> F64:
    """``sum_j q_ij^2 (y_i - y_j) / Z`` with Z the sum of q over all ordered pairs."""
    forces, total = (_push_by_pairs if len(places) <= _FEW else _push_on_grid)(places)
    return forces / max(total, 1e-12)


def _push_by_pairs(places: F64) -> tuple[F64, float]:
    apart = places[:, None] - places
    q = 1 / (1 + apart[:, :, 0] ** 2 + apart[:, :, 1] ** 2)
    return np.einsum("ij,ijd->id", q * q, apart), float(q.sum()) - len(places)


def _push_on_grid(places: F64) -> tuple[F64, float]:
    """Every place is shared among the four grid points around it, and reads the fields there."""
    low = places.min(0)
    extent = float((places.max(0) - low).max())
    # Cells have one width for most of the time, so that the kernels' spectra can be kept.
    width = max(extent / (_MOST_CELLS - 2), min(_CELL, extent / (_FEWEST_CELLS - 2)), 1e-12)
    cells = fft.next_fast_len(int(extent / width + 1e-6) + 2, real=True)
    corner, weights = _corners((places - low) / width, cells)
    grid = np.bincount(corner.ravel(), weights.ravel(), cells * cells).reshape(cells, cells)
    size = 2 * cells
    spectrum = fft.rfft2(grid, (size, size), workers=2)
    fields = [fft.irfft2(spectrum * kernel, (size, size), workers=2)[:cells, :cells].ravel()
              for kernel in (_kernels(size) if width == _CELL else _spectra(size, width))]
    total, x, y = (np.einsum("nc,nc->n", field[corner], weights) for field in fields)
    square = width * np.array([[0, 0], [0, 1], [1, 0], [1, 1]])  # the grid points, as in _corners
    q = 1 / (1 + ((square[:, None] - square) ** 2).sum(2))
    itself = np.einsum("nc,cd,nd->", weights, q, weights)
    return np.stack([x, y], axis=1), float(total.sum() - itself)


@lru_cache(maxsize=4)
def _kernels(size: int) -> list[NDArray[np.complex128]]:
    return _spectra(size, _CELL)


def _spectra(size: int, width: float) -> list[NDArray[np.complex128]]:
    """Spectra of ``q``, ``q^2 dx`` and ``q^2 dy`` on a grid that wraps around."""
    steps = fft.fftfreq(size, 1 / size) * width
    q = 1 / (1 + steps[:, None] ** 2 + steps ** 2)
    return [fft.rfft2(kernel, workers=2) for kernel in (q, q * q * steps[:, None], q * q * steps)]


def _corners(at: F64, cells: int) -> tuple[I64, F64]:
    """The four grid points around each place and the share of it that each gets (N, 4)."""
    whole = np.minimum(at.astype(np.int64), cells - 2)
    x, y = (at - whole).T
    corner = (whole[:, 0] * cells + whole[:, 1])[:, None] + np.array([0, 1, cells, cells + 1])
    return corner, np.stack([(1 - x) * (1 - y), (1 - x) * y, x * (1 - y), x * y], axis=1)


def _scaled(places: F64) -> F32:
    places = places - places.mean(0) if len(places) else places
    largest = float(np.abs(places).max(initial=0.0))
    return (places / largest if largest > 1e-12 else np.zeros_like(places)).astype(np.float32)
