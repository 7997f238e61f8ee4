"""Which latents fire on the same texts: counts of pairs, without the N x N matrix.

Of B texts, latent i fires on ``n_i`` and the pair i, j on ``C_ij``. Two figures are made of them: the share of the
rarer one's texts on which the other fires too, which is near 1 for a child and its parent however rare the child is;
and the phi coefficient, the correlation of both as 0/1 variables, which is the same both ways.

``C = X^T X`` of the 0/1 codes is computed for some hundred latents at a time, and only what is wanted of it is kept:
``B k^2`` additions on one core for k active latents a text, and N^2 steps of a simple kind: 15 to 25 s for B = 360,000,
k = 35 and N = 16,384.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix

from sparsight.encoders.sae.checks import check_codes
from sparsight.errors import InvalidArgumentError

__all__ = ["CountTable", "Links", "count_tables", "firing_counts", "parent_links", "phi_coefficients"]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
_LATENTS_AT_ONCE = 256
_PAIRS_AT_ONCE = 1 << 23  # about 400 MB


@dataclass(frozen=True, eq=False)
class Links:
    """E pairs of latents of which the more frequent one, the parent, often fires where the child does.

    Attributes
    ----------
    parent, child : int64, shape (E,)
        Latents. A parent fires on more texts than the child, or as many and more strongly in sum. In the order of the
        child, then the parent.
    strength : float64, shape (E,)
        ``C / (n_child + 1)``: the share of the child's texts on which the parent fires, a little less for a rare child.
    similarity : float64, shape (E,)
        Cosine of the two latents' activations over all texts.
    """

    parent: I64
    child: I64
    strength: F64
    similarity: F64


def firing_counts(codes: csr_matrix) -> I64:
    """Texts on which each latent fires, int64 (N,)."""
    return np.bincount(codes.indices, minlength=codes.shape[1]).astype(np.int64)


def parent_links(codes: csr_matrix, *, least: float = 0.1, least_lift: float = 2.0, most_density: float = 0.2,
                 min_together: int = 5) -> Links:
    """Pairs of which one latent fires on at least a tenth of the other's texts.

    Parameters
    ----------
    codes : csr_matrix, shape (B, N)
        Activations (> 0) of N latents on B texts.
    least : float
        Least strength, in (0, 1]; 0.1 as in O'Neill et al.
    least_lift : float
        Least strength in multiples of the parent's density, at least 0: with a frequent latent, all others fire now and
        then by chance. O'Neill et al. ask for none.
    most_density : float
        Latents that fire on that share of the texts or more take no part: they are everyone's parent. 0.2 in O'Neill
        et al.
    min_together : int
        Least texts of a pair, at least 1. With one text a latent would be linked to all that fire there.

    Returns
    -------
    Links

    Raises
    ------
    ShapeError, InvalidVectorError, InvalidArgumentError
        If the codes are no codes, or an option is out of its range.

    Notes
    -----
    No pair is left out but by these rules. The strengths of a child with its parents sum to less than k - 1 if texts
    have k active latents, so it has fewer than ``(k - 1) / least`` of them: at most 310 N pairs, mostly far fewer.

    References
    ----------
    O'Neill, Ye, Iyer, Wu 2024, "Disentangling Dense Embeddings with Sparse Autoencoders". Their code divides by
    ``n_i + 1`` of whichever latent of a pair comes later; here it is the rarer one.
    """
    check_codes("codes", codes)
    for name, value, most in (("least", least, 1.0), ("most_density", most_density, np.inf)):
        if not 0 < value <= most:
            raise InvalidArgumentError(f"expected {name} above 0 and at most {most:g}, got {value}", field=name)
    if not least_lift >= 0:
        raise InvalidArgumentError(f"expected least_lift of at least 0, got {least_lift}", field="least_lift")
    if min_together < 1:
        raise InvalidArgumentError(f"expected min_together of at least 1, got {min_together}", field="min_together")
    counts = firing_counts(codes)
    taken = np.flatnonzero((counts >= min_together) & (counts < most_density * codes.shape[0]))
    part = csr_matrix(codes[:, taken]).astype(np.float64)
    sums = np.bincount(part.indices, part.data, len(taken))
    rank = np.empty(len(taken), np.int64)
    rank[np.lexsort((-taken, sums, counts[taken]))] = np.arange(len(taken))  # rarest first
    lengths = np.sqrt(np.bincount(part.indices, part.data * part.data, len(taken)))
    part.data /= lengths[part.indices]
    share, density = counts[taken] + 1.0, counts[taken] / max(codes.shape[0], 1)
    found: list[tuple[I64, I64, F64, F64]] = []
    for table in count_tables(part):
        own = slice(table.first, table.first + len(table.together))
        enough = np.maximum(np.maximum(least, least_lift * density) * share[own, None], min_together)
        kept = (rank > rank[own, None]) & (table.together >= enough)
        child, parent = np.nonzero(kept)
        cosine = table.products(kept)[child, parent]
        strength = table.together[child, parent] / share[own][child]
        found.append((taken[own][child], taken[parent], strength, cosine))
    if not found:
        return Links(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
    child, parent, strength, similarity = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((parent, child))
    return Links(parent=parent[order], child=child[order], strength=strength[order], similarity=similarity[order])


def phi_coefficients(codes: csr_matrix, *, partners: int = 64) -> csr_matrix:
    """Correlation of latents as 0/1 variables, where it is above 0, with the best partners of each.

    Parameters
    ----------
    codes : csr_matrix, shape (B, N)
    partners : int
        At least 1. A pair is kept if it is among that many best of either latent, equal ones by the lower other
        latent.

    Returns
    -------
    csr_matrix, float64, shape (N, N)
        ``(B C_ij - n_i n_j) / sqrt(n_i (B - n_i) n_j (B - n_j))``; symmetric, sorted, nothing on the diagonal. Rows of
        latents that fire on no text or on all are empty.

    Raises
    ------
    ShapeError, InvalidVectorError, InvalidArgumentError
        If the codes are no codes or there are to be no partners.

    References
    ----------
    Yule 1912, "On the methods of measuring association between two attributes". Li et al. 2024, "The Geometry of
    Concepts: Sparse Autoencoder Feature Structure", found it the best of five affinities for finding lobes.
    """
    check_codes("codes", codes)
    if partners < 1:
        raise InvalidArgumentError(f"expected at least 1 partner, got {partners}", field="partners")
    rows, latents = codes.shape
    counts = firing_counts(codes).astype(np.float64)
    spread = np.sqrt(counts * (rows - counts))
    found: list[tuple[I64, I64, F64]] = []
    for table in count_tables(codes):
        own = slice(table.first, table.first + len(table.together))
        phi = rows * table.together - counts[own, None] * counts
        phi /= np.maximum(spread[own, None] * spread, 1e-300)
        phi[np.arange(len(phi)), np.arange(own.start, own.stop)] = 0.0
        one, other = _largest(phi, partners)
        found.append((own.start + one, other, phi[one, other]))
    if not found:
        return csr_matrix((latents, latents))
    one, other, phi = (np.concatenate(column) for column in zip(*found, strict=True))
    half = csr_matrix(coo_matrix((phi, (one, other)), shape=(latents, latents)))
    both = csr_matrix(half.maximum(half.T))
    both.sort_indices()
    return both


@dataclass(frozen=True, eq=False)
class CountTable:
    """Pairs of L latents from ``first`` on with all N: float64 counts ``together`` (L, N)."""

    first: int
    together: F64
    keys: I64  # a pair's place in the table, once for each text
    own: F64  # activations of the first latent, each of which counts for as many keys as
    times: NDArray[np.int32]  # the text has latents
    other: F64  # activations of the second one, a key each

    def products(self, wanted: NDArray[np.bool_]) -> F64:
        """Sums over texts of the products of both latents' activations, (L, N), for the pairs that are wanted."""
        chosen = np.flatnonzero(wanted.ravel()[self.keys])
        products = np.repeat(self.own, self.times)[chosen] * self.other[chosen]
        sums = np.bincount(self.keys[chosen], products, self.together.size).astype(np.float64)  # they are: for mypy
        return sums.reshape(self.together.shape)


def count_tables(codes: csr_matrix) -> Iterator[CountTable]:
    """Counts of all pairs, for at most 256 latents at a time, fewer where they are frequent; about 0.5 GB at once."""
    columns = codes.tocsc()
    columns.sort_indices()
    lengths, latents = np.diff(codes.indptr), codes.shape[1]
    pairs = np.concatenate([[0], np.cumsum(lengths[columns.indices], dtype=np.int64)])[columns.indptr]  # (N + 1,)
    first = 0
    while first < latents:
        last = int(np.searchsorted(pairs, pairs[first] + _PAIRS_AT_ONCE, "right")) - 1
        last = min(max(last, first + 1), first + _LATENTS_AT_ONCE, latents)
        part = slice(columns.indptr[first], columns.indptr[last])
        texts = codes[columns.indices[part]]  # a text once for each of the latents that fire on it
        owner = np.repeat(np.arange(last - first), np.diff(columns.indptr[first:last + 1]))
        times = np.diff(texts.indptr)
        keys = np.repeat(owner * latents, times) + texts.indices
        together = np.bincount(keys, minlength=(last - first) * latents).reshape(last - first, latents)
        yield CountTable(first, together.astype(np.float64), keys, columns.data[part], times, texts.data)
        first = last


def _largest(values: F64, count: int) -> tuple[I64, I64]:
    """Rows and columns of the ``count`` largest values of each row that are above 0, equal ones by lower column."""
    count = min(count, values.shape[1])
    least = np.partition(values, -count, axis=1)[:, -count:].min(1, keepdims=True)
    above, equal = values > np.maximum(least, 0), (values == least) & (values > 0)
    above |= equal & (np.cumsum(equal, axis=1) <= count - above.sum(1, keepdims=True))
    rows, columns = np.nonzero(above)
    return rows, columns
