"""What SAE codes are measured against: other short forms of the same dense vectors, and dictionaries nobody trained.

Short forms are compared at equal active dimensions or at equal bytes a document; parts that all documents share
(rotations, codebooks, dictionaries) are not counted, on either side. Queries stay float32, and documents are divided by
the length of what is left of them, which keeps more of nDCG@10 (all-MiniLM-L6-v2, SciFact's test queries): 0.71 against
0.61 for PCA to 32 dimensions, 0.59 against 0.53 for product quantisation to 8 bytes, and 0.71 against 0.65 after a
rotation that was learned for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import InvalidArgumentError
from sparsight.retrieval.judged_vectors import JudgedVectors, Quality, measure, rank_dense

if TYPE_CHECKING:
    from sparsight.encoders.sae.model import SAE

__all__ = ["LEAST_ROWS", "ProductQuantiser", "ShortVectors", "binary", "centroid_atoms", "int8", "most_parts", "pca",
           "posting_bytes", "principal_axes", "product_quantised", "random_atoms", "truncated"]

F32 = NDArray[np.float32]
LEAST_ROWS = 256
"""That a product quantiser is trained on: the centroids of a part, which a byte tells apart."""
_IMPACT_BITS = 8
_OPQ_ROUNDS = 10  # faiss's own 50 take five times as long
_DESCRIBED = 20_000  # rows that scales of untrained dictionaries are taken from


@dataclass(frozen=True, eq=False)
class ShortVectors:
    """A short form of a set's vectors, compared by inner products.

    Attributes
    ----------
    name : str
    dimensions : int
        Numbers that are stored of a document.
    bytes : float
        That they take.
    documents, queries : float32, shapes (N, W) and (Q, W)
        What the stored numbers stand for.
    """

    name: str
    dimensions: int
    bytes: float
    documents: F32
    queries: F32

    def quality(self, judged: JudgedVectors, *, device: str = "cpu") -> Quality:
        """Quality of ranking all documents."""
        return measure(judged, rank_dense(self.documents, self.queries, device=device))


def posting_bytes(n_latents: int, k: int) -> float:
    """Bytes of k postings: ``ceil(log2 n_latents)`` bits for the latent and 8 for its weight, each.

    Examples
    --------
    >>> posting_bytes(1024, 32)
    72.0
    """
    return k * (math.ceil(math.log2(max(n_latents, 2))) + _IMPACT_BITS) / 8


def truncated(judged: JudgedVectors, dimensions: int) -> ShortVectors:
    """The first dimensions of a vector, as float32: what embedders trained for it (Matryoshka) offer."""
    kept = min(dimensions, judged.documents.shape[1])
    return ShortVectors("truncation", kept, 4.0 * kept, _unit(judged.documents[:, :kept]), judged.queries[:, :kept])


def principal_axes(train: F32) -> F32:
    """Orthonormal directions of largest variance of rows (B, D), float32 (D, D): columns, the largest first."""
    centred = train - train.mean(0)
    _, directions = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    return np.ascontiguousarray(directions[:, ::-1], np.float32)


def pca(judged: JudgedVectors, axes: F32, dimensions: int, *, train: F32 | None = None) -> ShortVectors:
    """Coordinates along the first principal axes.

    Parameters
    ----------
    judged : JudgedVectors
    axes : float32, shape (D, D)
        See `principal_axes`.
    dimensions : int
        At most D.
    train : float32, shape (B, D), optional
        Coordinates are float32 without, and with it 8-bit steps of ``max|train| / 127`` of their dimension.

    Notes
    -----
    The axes are those of centred vectors, but what is projected is not centred: cosines need the mean.
    """
    kept = axes[:, :dimensions]
    documents = judged.documents @ kept
    if train is not None:
        documents = _rounded(documents, train @ kept)
    name, number = ("PCA", 4.0) if train is None else ("PCA, 8 bits", 1.0)
    return ShortVectors(name, kept.shape[1], number * kept.shape[1], _unit(documents), judged.queries @ kept)


def most_parts(d: int, max_bytes: float) -> int:
    """The largest divisor of ``d`` up to ``max_bytes``, at least 1: parts of a product quantiser.

    Examples
    --------
    >>> most_parts(384, 72.0)
    64
    """
    return max(part for part in range(1, d + 1) if d % part == 0 and part <= max(max_bytes, 1))


@dataclass(frozen=True, eq=False)
class ProductQuantiser:
    """A byte for each of equal parts of a vector: the nearest of 256 centroids.

    Attributes
    ----------
    parts : int
    rotation : float32, shape (D, D), or None
        What rows are multiplied by first.
    coder : faiss.ProductQuantizer

    References
    ----------
    Jegou, Douze, Schmid 2011, "Product Quantization for Nearest Neighbor Search", TPAMI. Ge, He, Ke, Sun 2013,
    "Optimized Product Quantization", CVPR.
    """

    parts: int
    rotation: F32 | None
    coder: Any

    @classmethod
    def fit(cls, train: F32, parts: int, *, rotated: bool = False, seed: int = 0) -> ProductQuantiser:
        """Train one.

        Parameters
        ----------
        train : float32, shape (B, D)
            At least 256 rows.
        parts : int
            Divides D; see `most_parts`.
        rotated : bool
            Learn a rotation with the centroids (OPQ), which takes four to ten times as long.
        seed : int

        Raises
        ------
        InvalidArgumentError
            If there are too few rows, or D has no such parts.
        """
        import faiss

        d = train.shape[1]
        if len(train) < LEAST_ROWS or parts < 1 or d % parts:
            raise InvalidArgumentError(f"expected at least {LEAST_ROWS} vectors to train on and a divisor of {d}, got "
                                       f"{len(train)} and {parts}", field="train")
        coder: Any = faiss.ProductQuantizer(d, parts, 8)
        coder.cp.seed = seed + 1
        coder.cp.min_points_per_centroid = 1  # it would print a warning for each part
        rotation = None
        if rotated:
            opq = faiss.OPQMatrix(d, parts)
            opq.niter, opq.pq = _OPQ_ROUNDS, coder
            opq.train(np.ascontiguousarray(train))
            rotation = faiss.vector_to_array(opq.A).reshape(d, d).T
        coder.train(_turned(train, rotation))
        return cls(parts, rotation, coder)

    def shorten(self, judged: JudgedVectors) -> ShortVectors:
        """What the codes of a set's documents stand for, and its queries as they are, but turned likewise."""
        documents = self.coder.decode(self.coder.compute_codes(_turned(judged.documents, self.rotation)))
        return ShortVectors("PQ" if self.rotation is None else "OPQ", self.parts, float(self.parts), _unit(documents),
                            _turned(judged.queries, self.rotation))


def product_quantised(judged: JudgedVectors, train: F32, parts: int, *, rotated: bool = False,
                      seed: int = 0) -> ShortVectors:
    """`ProductQuantiser.fit` and `ProductQuantiser.shorten` in one, where one set is asked for."""
    return ProductQuantiser.fit(train, parts, rotated=rotated, seed=seed).shorten(judged)


def int8(judged: JudgedVectors, train: F32) -> ShortVectors:
    """Every dimension in steps of ``max|train| / 127``."""
    d = train.shape[1]
    return ShortVectors("int8", d, float(d), _rounded(judged.documents, train), judged.queries)


def binary(judged: JudgedVectors, *, both: bool) -> ShortVectors:
    """Signs of documents' dimensions, a bit each; with ``both`` the query's too, which ranks by Hamming distance."""
    d = judged.documents.shape[1]
    signs, asked = (np.where(x > 0, 1, -1).astype(np.float32) for x in (judged.documents, judged.queries))
    return ShortVectors("binary" if both else "binary, float query", d, d / 8, signs, asked if both else judged.queries)


def random_atoms(n_latents: int, k: int, train: F32, *, seed: int = 0) -> SAE:
    """A dictionary of random directions: codes are the k largest inner products with centred vectors.

    Whatever an autoencoder keeps beyond this, it keeps because it was trained.
    """
    atoms = np.random.default_rng(seed).standard_normal((n_latents, train.shape[1])).astype(np.float32)
    return _untrained(_unit(atoms), k, train)


def centroid_atoms(n_latents: int, k: int, train: F32, *, seed: int = 0, device: str = "cpu") -> SAE:
    """A dictionary of centres of spherical k-means over centred vectors; as many as there are rows at most."""
    import torch

    from sparsight.encoders.sae.centroids import centroids

    rows = torch.from_numpy(np.ascontiguousarray(train - train.mean(0))).to(device)
    atoms = centroids(rows, min(n_latents, len(train)), seed=seed).cpu().numpy()
    return _untrained(_unit(atoms), min(k, len(atoms)), train)


def _untrained(atoms: F32, k: int, train: F32) -> SAE:
    from sparsight.encoders.sae.model import SAE, describe_latents

    mean = train.mean(0)
    sae = SAE(k=k, W_enc=atoms, b_enc=-atoms @ mean, W_dec=atoms, b_dec=mean)
    return describe_latents(sae, np.ascontiguousarray(train[:_DESCRIBED]))


def _turned(x: F32, rotation: F32 | None) -> F32:
    return np.ascontiguousarray(x if rotation is None else x @ rotation)


def _rounded(x: F32, train: F32) -> F32:
    """Columns in signed steps of an 8-bit code that spans ``train``'s."""
    step = np.maximum(np.abs(train).max(0), 1e-12) / 127
    return (np.clip(np.rint(x / step), -127, 127) * step).astype(np.float32)


def _unit(x: F32) -> F32:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12), np.float32)
