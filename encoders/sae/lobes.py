"""A few large groups of features that fire together, and whether they lie together too.

Li et al. 2024, "The Geometry of Concepts: Sparse Autoencoder Feature Structure", cluster features by the phi
coefficient of their firing and find "lobes", as of code or of short texts, whose decoder rows lie in one region: how a
feature's row points tells its lobe far better than chance.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from scipy.sparse import csr_matrix, diags
from scipy.sparse.linalg import eigsh

from sparsight.encoders.sae.coactivation import phi_coefficients
from sparsight.encoders.sae.cosine_graph import cosine_graph
from sparsight.errors import InvalidArgumentError, ShapeError

__all__ = ["Agreement", "agreement", "find_lobes", "geometric_lobes", "spectral_clusters"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
_STARTS = 10  # of k-means; the one with the smallest sum of squares counts
_STEPS = 50
_DENSE = 256  # rows up to which all eigenvectors are quicker than some


@dataclass(frozen=True)
class Agreement:
    """How much two clusterings of M latents say about each other.

    Attributes
    ----------
    information : float
        Mutual information in nats.
    adjusted : float
        ``(I - E) / (H - E)`` with E the mean information when one clustering is shuffled and H the mean of both
        entropies: 1 for equal ones, 0 for chance (Vinh, Epps, Bailey 2010, there with E as a formula). NaN if both have
        one cluster, or one each.
    z : float
        ``(I - E)`` in standard deviations of the shuffled ones'; NaN if those do not vary.
    latents : int
        M: those that both put somewhere.
    """

    information: float
    adjusted: float
    z: float
    latents: int


def find_lobes(codes: csr_matrix, count: int = 3, *, partners: int = 64, seed: int = 0) -> I64:
    """Lobes by firing: :func:`spectral_clusters` of the phi coefficients.

    Parameters
    ----------
    codes : csr_matrix, shape (B, N)
        Activations (> 0) of N latents on B texts.
    count : int
        Number of lobes.
    partners : int
        Phi coefficients kept of each latent: :func:`sparsight.encoders.sae.coactivation.phi_coefficients`.
    seed : int

    Returns
    -------
    int64, shape (N,)
        0 for the largest lobe, and so on; -1 for latents that fire with no other one more often than by chance.

    Raises
    ------
    ShapeError, InvalidVectorError, InvalidArgumentError
        If the codes are no codes, or ``count`` or ``partners`` are below 1.
    """
    return spectral_clusters(phi_coefficients(codes, partners=partners), count, seed=seed)


def geometric_lobes(rows: F32, count: int = 3, *, partners: int = 64, seed: int = 0) -> I64:
    """Lobes by decoder rows, float (N, D): :func:`spectral_clusters` of their cosines, where above 0.

    Returns as :func:`find_lobes`, and raises as :func:`sparsight.encoders.sae.cosine_graph.cosine_graph`.
    """
    return spectral_clusters(cosine_graph(rows, partners), count, seed=seed)


def spectral_clusters(affinity: csr_matrix, count: int, *, seed: int = 0) -> I64:
    """Clusters of a graph with few edges between them.

    Parameters
    ----------
    affinity : csr_matrix, shape (N, N)
        Symmetric, values >= 0, nothing on the diagonal.
    count : int
        Most clusters, at least 1; fewer where fewer nodes have edges.
    seed : int

    Returns
    -------
    int64, shape (N,)
        0 for the largest, of equal ones that with the lowest node; -1 for nodes without edges.

    Raises
    ------
    ShapeError, InvalidArgumentError
        If the affinity is not square csr, not symmetric or negative, or ``count`` is below 1.

    Notes
    -----
    Ng, Jordan, Weiss 2002, "On spectral clustering": the ``count`` largest eigenvectors of ``D^-1/2 A D^-1/2``, rows
    scaled to length 1, k-means. Eigenvectors by Lanczos from a fixed start; k-means from ten starts of the k-means++
    kind (Arthur, Vassilvitskii 2007). 7 s for N = 16,384 with 64 partners and 3 clusters; hundreds of clusters take
    minutes.
    """
    if affinity.format != "csr" or affinity.shape[0] != affinity.shape[1]:
        raise ShapeError(f"expected affinity csr (N, N), got {affinity.format} {affinity.shape}", field="affinity")
    uneven = affinity.nnz and abs(affinity - affinity.T).max() > 1e-9
    if (affinity.data < 0).any() or uneven or affinity.diagonal().any():
        raise InvalidArgumentError("expected a symmetric affinity, at least 0 and without a diagonal", field="affinity")
    if count < 1:
        raise InvalidArgumentError(f"expected at least 1 cluster, got {count}", field="count")
    degree = np.asarray(affinity.sum(1)).ravel()
    nodes = np.flatnonzero(degree > 0)
    labels = np.full(len(degree), -1, np.int64)
    count = min(count, len(nodes))
    if not count:
        return labels
    scale = diags(1 / np.sqrt(degree[nodes]))
    vectors = _largest_vectors(csr_matrix(scale @ affinity[nodes][:, nodes] @ scale), count)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    labels[nodes] = _by_size(_k_means(vectors, count, np.random.default_rng(seed)))
    return labels


def agreement(a: I64, b: I64, *, draws: int = 200, seed: int = 0) -> Agreement:
    """Compare two clusterings of the same latents.

    Parameters
    ----------
    a, b : int64, shape (N,)
        Clusters from 0; latents with -1 in either do not count.
    draws : int
        Shuffles, at least 2.
    seed : int

    Raises
    ------
    ShapeError, InvalidArgumentError
        If the shapes differ, there are too few draws, or no latent has a cluster in both.
    """
    if a.ndim != 1 or a.shape != b.shape:
        raise ShapeError(f"expected clusters of the same latents, got {a.shape} and {b.shape}", field="b")
    both = np.flatnonzero((a >= 0) & (b >= 0))
    if draws < 2 or not len(both):
        raise InvalidArgumentError(f"expected at least 2 draws, and latents with two clusters, got {draws} and "
                                   f"{len(both)}", field="draws" if draws < 2 else "a")
    own, theirs = a[both], b[both]
    found = _information(own, theirs)
    rng = np.random.default_rng(seed)
    shuffled = np.array([_information(own, rng.permutation(theirs)) for _ in range(draws)])
    entropy = (_information(own, own) + _information(theirs, theirs)) / 2
    chance, spread = float(shuffled.mean()), float(shuffled.std())
    return Agreement(information=found, latents=len(both),
                     adjusted=(found - chance) / (entropy - chance) if entropy - chance > 1e-9 else float("nan"),
                     z=(found - chance) / spread if spread > 1e-12 else float("nan"))


def _largest_vectors(matrix: csr_matrix, count: int) -> F64:
    """Eigenvectors of the largest eigenvalues, as columns."""
    size = matrix.shape[0]
    if size <= max(_DENSE, 2 * count + 1):
        vectors: F64 = np.linalg.eigh(matrix.toarray())[1][:, -count:]
        return vectors
    # A start of all ones would miss vectors that are orthogonal to it, as where nodes are alike.
    start = np.random.default_rng(0).random(size) + 0.5
    vectors = eigsh(matrix, count, which="LA", v0=start)[1]
    return vectors


def _k_means(points: F64, count: int, rng: np.random.Generator) -> I64:
    best, least = np.zeros(len(points), np.int64), np.inf
    for _ in range(_STARTS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # an empty cluster is no fault
            centres, labels = kmeans2(points, _spread_out(points, count, rng), iter=_STEPS, minit="matrix")
        error = float(((points - centres[labels]) ** 2).sum())
        if error < least - 1e-9:
            best, least = labels.astype(np.int64), error
    return best


def _spread_out(points: F64, count: int, rng: np.random.Generator) -> F64:
    """Points to start from, each drawn by its squared distance from those before (k-means++)."""
    chosen = [int(rng.integers(len(points)))]
    distance = ((points - points[chosen[0]]) ** 2).sum(1)
    while len(chosen) < count and distance.sum() > 1e-9:
        chosen.append(int(rng.choice(len(points), p=distance / distance.sum())))
        distance = np.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(1))
    return points[chosen]


def _by_size(labels: I64) -> I64:
    """The same clusters, numbered from the largest one."""
    names, first, inverse, sizes = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(names), np.int64)
    rank[np.lexsort((first, -sizes))] = np.arange(len(names))
    return rank[inverse]


def _information(a: I64, b: I64) -> float:
    """Mutual information in nats."""
    joint = np.bincount(a * (b.max() + 1) + b, minlength=(a.max() + 1) * (b.max() + 1)) / len(a)
    joint = joint.reshape(a.max() + 1, b.max() + 1)
    apart = joint.sum(1, keepdims=True) * joint.sum(0)
    there = joint > 0
    return float((joint[there] * np.log(joint[there] / apart[there])).sum())
