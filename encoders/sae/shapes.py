"""Groups of latents that together stand for one feature of several dimensions, as the circle of the weekdays.

Engels, Michaud, Liao, Gurnee, Tegmark 2024, "Not All Language Model Features Are Linear": latents whose decoder rows
are near each other are taken together, texts are rebuilt from them alone, and the clouds of points are looked at plane
by plane. A plane does *not* show one feature of two dimensions if its points are a pair of independent numbers, seen at
some angle (low separability), or a mixture of a few one-dimensional ones (many points on one line).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components

from sparsight.encoders.sae.checks import check_codes, check_rows
from sparsight.encoders.sae.cosine_graph import cosine_graph
from sparsight.errors import InvalidArgumentError

__all__ = ["Shape", "cloud_of", "cluster_rows", "find_shapes", "mixture_index", "separability_index"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
_EPSILON = 0.1  # half the width of a line, in root mean squares of the distance from it (Engels et al.)
_DIMENSIONS = 5  # principal components, of which neighbours make planes (Engels et al.)
_ANGLES = 60
_OFFSETS = 100  # lines of each angle
_MOST_POINTS = 5000  # evenly chosen
_MOST_BINS = 40


@dataclass(frozen=True)
class Shape:
    """The cloud of texts that a group of latents makes, in its best plane.

    Attributes
    ----------
    latents : tuple of int
        By falling number of texts, equal ones by lower latent.
    texts : int
        Those on which at least one of them fires.
    plane : int
        Principal components ``plane`` and ``plane + 1``, from 0, are the plane; -1 where there is none: the points lie
        on one line, or there are too few.
    variance : float
        Share of the cloud's variance in the plane.
    separability : float
        Of the plane, :func:`separability_index`, in nats.
    mixture : float
        Of the plane, :func:`mixture_index`.
    score : float
        ``(1 - mixture) * separability``: the plane with the largest one is the best.
    null_score : float
        Mean of the score when every latent's activations are shuffled over these texts by themselves.
    """

    latents: tuple[int, ...]
    texts: int
    plane: int
    variance: float
    separability: float
    mixture: float
    score: float
    null_score: float


def cluster_rows(rows: F32, *, partners: int = 2, least: float = 0.4, most: int = 100) -> list[tuple[int, ...]]:
    """Groups of latents whose decoder rows are near each other.

    Parameters
    ----------
    rows : float, shape (N, D)
    partners : int
        Nearest others that a latent may be linked to, at least 1; 2 to 4 in Engels et al.
    least : float
        Cosine that a link is above, at least 0.
    most : int
        Groups with more latents are left out: chains of links through half the dictionary.

    Returns
    -------
    list of tuples of int
        Connected groups of two latents or more; the largest first, equal ones by the lowest latent.

    Raises
    ------
    ShapeError, InvalidVectorError, InvalidArgumentError
        If ``rows`` are no finite matrix, or an option is out of its range.
    """
    number, labels = connected_components(cosine_graph(rows, partners, least), directed=False)
    sizes = np.bincount(labels, minlength=number)
    order = np.argsort(labels, kind="stable")
    groups = np.split(order, np.cumsum(sizes)[:-1])
    kept = [tuple(group.tolist()) for group in groups if 2 <= len(group) <= most]
    return sorted(kept, key=lambda group: (-len(group), group))


def find_shapes(codes: csr_matrix, rows: F32, groups: Sequence[Sequence[int]], *, min_texts: int = 100, draws: int = 3,
                seed: int = 0) -> list[Shape]:
    """Look at the cloud of each group of latents.

    Parameters
    ----------
    codes : csr_matrix, shape (B, N)
    rows : float, shape (N, D)
        Decoder rows.
    groups : sequence of sequences of int
        Different latents each, as of :func:`cluster_rows`.
    min_texts : int
        Groups that fire on fewer texts have no plane.
    draws : int
        Shuffles, at least 1.
    seed : int

    Returns
    -------
    list of Shape
        By falling score; those without a plane last, all figures 0.

    Raises
    ------
    ShapeError, InvalidVectorError, InvalidArgumentError
        If arrays do not fit, a group names a latent that is not there, or there are no draws.

    Notes
    -----
    At most 0.3 s for each plane of a group and of its shuffles, on no more than 5,000 of its texts; four planes where
    it has five latents or more.
    """
    check_codes("codes", codes)
    check_rows("rows", rows, rows=codes.shape[1])
    if draws < 1:
        raise InvalidArgumentError(f"expected at least 1 draw, got {draws}", field="draws")
    for number, group in enumerate(groups):
        if not len(group) or min(group) < 0 or max(group) >= codes.shape[1] or len(set(group)) < len(group):
            raise InvalidArgumentError(f"expected different latents below {codes.shape[1]}, got {list(group)}",
                                       field=f"groups[{number}]")
    columns, rng = codes.tocsc(), np.random.default_rng(seed)
    found: list[Shape] = []
    for group in groups:
        counts = np.diff(columns.indptr)[list(group)]
        latents = np.array(group, np.int64)[np.lexsort((group, -counts))]
        texts, part = _firing(columns, latents)
        directions = _directions(rows, latents)
        best = _best_plane(part @ directions) if len(texts) >= max(min_texts, 3) else None
        null = [_best_plane(rng.permuted(part, axis=0) @ directions) for _ in range(draws)] if best else []
        plane, variance, separability, mixture = best or (-1, 0.0, 0.0, 0.0)
        chance = [(1 - other[3]) * other[2] if other else 0.0 for other in null]
        found.append(Shape(tuple(latents.tolist()), len(texts), plane, variance, separability, mixture,
                           (1 - mixture) * separability, float(np.mean(chance)) if chance else 0.0))
    return sorted(found, key=lambda shape: (shape.plane < 0, -shape.score, shape.latents))


def cloud_of(codes: csr_matrix | csc_matrix, rows: F32, shape: Shape, most: int = 300) -> tuple[I64, F32, I64]:
    """The points of a shape's plane, to look at.

    Parameters
    ----------
    codes : csr_matrix or csc_matrix, shape (B, N)
        Of several shapes, better by columns.
    rows : float, shape (N, D)
    shape : Shape
        As :func:`find_shapes` made it of these.
    most : int
        Points at most, evenly chosen.

    Returns
    -------
    texts : int64, shape (n,)
        Rows of ``codes``; none if the shape has no plane.
    points : float32, shape (n, 2)
        Their places, from the mean of all.
    strongest : int64, shape (n,)
        The latent of the shape that is strongest on each.
    """
    latents = np.array(shape.latents, np.int64)
    if shape.plane < 0:
        return np.empty(0, np.int64), np.empty((0, 2), np.float32), np.empty(0, np.int64)
    texts, part = _firing(codes.tocsc(), latents)
    texts = texts[_evenly(len(texts), _MOST_POINTS)]
    left, lengths = _components(part @ _directions(rows, latents))
    plane = slice(shape.plane, shape.plane + 2)
    chosen = _evenly(len(texts), most)
    points = (left[chosen, plane] * lengths[plane]).astype(np.float32)
    return texts[chosen], points, latents[part[chosen].argmax(1)]


def _firing(columns: csc_matrix, latents: I64) -> tuple[I64, F64]:
    """Texts (T,) on which one of the latents fires, and the codes of some of them, at most 5,000, by latent."""
    part = csr_matrix(columns[:, latents])
    texts = np.flatnonzero(np.diff(part.indptr))
    return texts, part[texts[_evenly(len(texts), _MOST_POINTS)]].toarray().astype(np.float64)


def _evenly(count: int, most: int) -> slice:
    return slice(None, None, max(-(-count // most), 1))


def _directions(rows: F32, latents: I64) -> F64:
    """The latents' rows, in a basis of their span."""
    found: F64 = np.linalg.qr(rows[latents].astype(np.float64).T)[1].T
    return found


def _components(points: F64) -> tuple[F64, F64]:
    """Principal components' places of points, of length 1 each, and their lengths."""
    left, lengths, _ = np.linalg.svd(points - points.mean(0), full_matrices=False)
    return left, lengths


def separability_index(points: F64) -> float:
    """Least mutual information, in nats, of the two coordinates of points (n, 2) over all rotations.

    0 if the points are a pair of independent numbers at some angle. Counted in at most 40 x 40 cells, less what n
    points of independent numbers would have (Miller 1955, "Note on the bias of information estimates"), at 60 angles.
    """
    bins = int(np.clip(np.sqrt(len(points) / 5), 2, _MOST_BINS))
    least = np.inf
    for angle in np.arange(_ANGLES) * (np.pi / 2 / _ANGLES):
        turned = points @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        low, high = turned.min(0), turned.max(0)
        cells = np.minimum((turned - low) / np.maximum(high - low, 1e-300) * bins, bins - 1).astype(np.int64)
        joint = np.bincount(cells[:, 0] * bins + cells[:, 1], minlength=bins * bins).reshape(bins, bins)
        least = min(least, _information(joint))
    return max(float(least), 0.0)


def mixture_index(points: F64, epsilon: float = _EPSILON) -> float:
    """Largest share of points (n, 2) that lie on one line, nearly.

    ``max over unit v and c of P(|v . f + c| < epsilon sqrt(E[(v . f + c)^2]))``, over 120 directions and 100 lines of
    each, through quantiles of the points. 0.08 for a normal distribution, near 1/2 for two lines that cross.
    """
    best = 0.0
    for angle in np.arange(2 * _ANGLES) * (np.pi / 2 / _ANGLES):
        along = np.sort(points @ np.array([np.cos(angle), np.sin(angle)]))
        centres = along[np.linspace(0, len(along) - 1, min(_OFFSETS, len(along))).astype(np.int64)]
        width = epsilon * np.sqrt(along.var() + (along.mean() - centres) ** 2)
        inside = np.searchsorted(along, centres + width, "left") - np.searchsorted(along, centres - width, "right")
        best = max(best, float(inside.max()) / len(along))
    return min(best, 1.0)


def _best_plane(points: F64) -> tuple[int, float, float, float] | None:
    """First component, share of variance, separability and mixture of the plane with the best score."""
    left, lengths = _components(points)
    there = min(int((lengths > 1e-6 * lengths[0]).sum()), _DIMENSIONS) if len(lengths) and lengths[0] > 1e-9 else 0
    best: tuple[int, float, float, float] | None = None
    for plane in range(there - 1):
        cloud = left[:, plane:plane + 2] * lengths[plane:plane + 2]
        variance = float((lengths[plane:plane + 2] ** 2).sum() / (lengths ** 2).sum())
        figures = (plane, variance, separability_index(cloud), mixture_index(cloud))
        if best is None or (1 - figures[3]) * figures[2] > (1 - best[3]) * best[2]:
            best = figures
    return best


def _information(joint: I64) -> float:
    """Mutual information in nats of counts in cells, less its bias."""
    total = joint.sum()
    apart = joint.sum(1, keepdims=True) * joint.sum(0)
    there = joint > 0
    information = (joint[there] * np.log(joint[there] * float(total) / apart[there])).sum() / total
    free = there.sum() - there.any(1).sum() - there.any(0).sum() + 1
    return float(information - free / (2 * total))
