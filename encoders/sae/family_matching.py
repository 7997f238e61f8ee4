"""Families of one dictionary, looked for in another one, of another size or trained otherwise.

Features of a larger dictionary are often parts of those of a smaller one, so members are not paired one to one: each
points to its nearest in the other dictionary, as in O'Neill, Ye, Iyer, Wu 2024, "Disentangling Dense Embeddings with
Sparse Autoencoders". Two families match as far as the members of each point to members of the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from sparsight.encoders.sae.families import Family
from sparsight.encoders.sae.matching import nearest
from sparsight.encoders.sae.universality import pair_by_activation
from sparsight.errors import InvalidArgumentError, ShapeError

__all__ = ["FOUND_AGAIN", "FamilyMatches", "match_families"]

FOUND_AGAIN = 0.5
"""Least score of a family that is found again: as much as if half of each family pointed to the other."""

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FamilyMatches:
    """F families of dictionary a, looked for among those of dictionary b.

    Attributes
    ----------
    partner : int64, shape (F,)
        Place of the family of b with the highest score, of equal ones the first; -1 if all are 0.
    score : float64, shape (F,)
        ``2 p q / (p + q)``, with p the share of the family's members that point to members of the partner, q the share
        of the partner's members that point to members of the family.
    found : bool, shape (F,)
        Whether the score is high enough.
    share : float
        Share of the families that are found.
    mean_score : float
    share_by_chance, mean_by_chance : float
        The same when the members of a's families are shuffled among them, mean over draws.
    """

    partner: I64
    score: F64
    found: NDArray[np.bool_]
    share: float
    mean_score: float
    share_by_chance: float
    mean_by_chance: float


def match_families(a: Sequence[Family], b: Sequence[Family], of_a: F32 | csr_matrix, of_b: F32 | csr_matrix, *,
                   least: float = 0.0, found: float = FOUND_AGAIN, draws: int = 20, seed: int = 0) -> FamilyMatches:
    """Look for each family of one dictionary among those of another.

    Parameters
    ----------
    a, b : sequences of Family
        At least one each.
    of_a, of_b : float, shape (N_a, D) and (N_b, D), or csr_matrix, shape (B, N_a) and (B, N_b)
        Decoder rows over the same embeddings; or codes of the same texts, also from different embedders.
    least : float
        Least cosine, or correlation of activations, that a latent points to another with; >= 0.
    found : float
        Least score of a family that is found again, in (0, 1].
    draws : int
        Shuffles that chance is measured with, at least 1.
    seed : int

    Returns
    -------
    FamilyMatches

    Raises
    ------
    ShapeError, InvalidVectorError, InvalidArgumentError
        If arrays do not fit each other or the families, or an option is out of its range.

    Notes
    -----
    Nearest rows cost 4 N_a N_b D FLOP (:func:`sparsight.encoders.sae.matching.nearest`, which loads torch),
    correlations twice what :func:`sparsight.encoders.sae.universality.pair_by_activation` says.
    """
    if not a or not b or draws < 1:
        raise InvalidArgumentError(f"expected families on both sides and draws, got {len(a)}, {len(b)} and {draws}",
                                   field="b" if a and not b else "draws" if a else "a")
    if not least >= 0 or not 0 < found <= 1:
        raise InvalidArgumentError(f"expected least >= 0 and found in (0, 1], got {least} and {found}",
                                   field="found" if least >= 0 else "least")
    forth, back = _pointers(of_a, of_b, least)
    for name, families, latents in (("a", a, len(forth)), ("b", b, len(back))):
        highest = max(max(family.members) for family in families)
        if highest >= latents:
            raise ShapeError(f"expected more than {highest} latents of {name}, got {latents}", field=f"of_{name}")
    own, theirs = _membership(a, len(forth)), _membership(b, len(back))
    partner, score = _best(own, theirs, forth, back)
    rng = np.random.default_rng(seed)
    members = np.unique(own.indices)
    by_chance = []
    for _ in range(draws):
        place = np.arange(len(forth))
        place[members] = rng.permutation(members)
        shuffled = csr_matrix((own.data, place[own.indices], own.indptr), shape=own.shape)
        by_chance.append(_best(shuffled, theirs, forth, back)[1])
    chance = np.stack(by_chance)
    return FamilyMatches(partner=partner, score=score, found=score >= found, share=float((score >= found).mean()),
                         mean_score=float(score.mean()), share_by_chance=float((chance >= found).mean()),
                         mean_by_chance=float(chance.mean()))


def _pointers(of_a: Any, of_b: Any, least: float) -> tuple[I64, I64]:
    """The latent of b that each of a points to, and the other way round; -1 for none."""
    if isinstance(of_a, np.ndarray) != isinstance(of_b, np.ndarray):
        raise ShapeError(f"expected two dense matrices or two of codes, got {type(of_a).__name__} and "
                         f"{type(of_b).__name__}", field="of_b")
    if isinstance(of_a, np.ndarray):
        ways = [nearest(of_a, of_b), nearest(of_b, of_a)]
        forth, back = (np.where((cosine > 0) & (cosine >= least), partner, -1) for partner, cosine in ways)
        return forth, back
    forth, back = np.full(of_a.shape[1], -1, np.int64), np.full(of_b.shape[1], -1, np.int64)
    there = pair_by_activation(of_a, of_b, least=least, one_to_one=False)
    here = pair_by_activation(of_b, of_a, least=least, one_to_one=False)
    forth[there.a], back[here.a] = there.b, here.b
    return forth, back


def _membership(families: Sequence[Family], latents: int) -> csr_matrix:
    """1 where a family, a row, has a latent."""
    indices = np.array([latent for family in families for latent in family.members], np.int64)
    indptr = np.concatenate([[0], np.cumsum([len(family.members) for family in families])])
    return csr_matrix((np.ones(len(indices)), indices, indptr), shape=(len(families), latents))


def _best(own: csr_matrix, theirs: csr_matrix, forth: I64, back: I64) -> tuple[I64, F64]:
    """Partner and score of each row of ``own``."""
    p = _shares(own, forth, theirs)
    q = _shares(theirs, back, own).T.tocsr()
    sums = p + q
    scores = csr_matrix(p.multiply(q))  # pairs that point both ways
    scores.sort_indices()
    partner, score = np.full(own.shape[0], -1, np.int64), np.zeros(own.shape[0])
    for row in range(own.shape[0]):
        part = slice(scores.indptr[row], scores.indptr[row + 1])
        if part.stop > part.start:
            columns = scores.indices[part]
            values = 2 * scores.data[part] / np.asarray(sums[row, columns].todense()).ravel()
            partner[row], score[row] = columns[values.argmax()], values.max()
    return partner, score


def _shares(families: csr_matrix, pointers: I64, others: csr_matrix) -> csr_matrix:
    """Share of each family's members that point to members of each of the others."""
    pointing = np.flatnonzero(pointers >= 0)
    arrows = csr_matrix((np.ones(len(pointing)), (pointing, pointers[pointing])), (len(pointers), others.shape[1]))
    counts = csr_matrix(families @ arrows @ others.T)
    counts.data /= np.repeat(np.diff(families.indptr), np.diff(counts.indptr))
    return counts
