"""Runs: the best documents of every query, of one system or of two together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benches.quality.sets import JudgedSet
from benches.quality.systems import Scorer
from sparsight.retrieval.fusion import convex

__all__ = ["Run", "best", "fuse", "hybrid_run", "single_run"]

Run = dict[str, list[tuple[str, float]]]
DEPTH = 100  # documents of a run: what R@100 looks at
CANDIDATES = 1000  # of each of the two systems of a hybrid


def best(scores: NDArray[np.floating], k: int, *, positive: bool) -> NDArray[np.intp]:
    """Positions of the ``k`` highest scores, best first, equal ones in order; only those above 0 if ``positive``.

    Examples
    --------
    >>> best(np.array([0.0, 2.0, 1.0, 2.0]), 3, positive=True)
    array([1, 3, 2])
    """
    found = np.flatnonzero(scores > 0) if positive else np.arange(len(scores))
    if k < len(found):
        kth = np.partition(scores[found], len(found) - k)[len(found) - k]
        found = found[scores[found] >= kth]
    return found[np.argsort(-scores[found], kind="stable")][:k]


def single_run(judged: JudgedSet, scorer: Scorer) -> Run:
    """The best documents of each query."""
    run: Run = {}
    for start, stop in scorer.blocks():
        for query, row in zip(judged.queries[start:stop], scorer.scores(start, stop), strict=True):
            found = best(row, DEPTH + judged.repeated, positive=scorer.sparse)
            run[query] = _named(judged, found, row[found])
    return run


def hybrid_run(judged: JudgedSet, sparse: Scorer, dense: Scorer) -> Run:
    """The best documents of each query by both scorers with equal weights; see `fuse`."""
    run: Run = {}
    for start, stop in sparse.blocks():
        rows = zip(judged.queries[start:stop], sparse.scores(start, stop), dense.scores(start, stop), strict=True)
        for query, one, other in rows:
            found, totals = fuse(one, other, DEPTH + judged.repeated)
            run[query] = _named(judged, found, totals)
    return run


def fuse(sparse: NDArray[np.floating], dense: NDArray[np.floating], depth: int = DEPTH,
         candidates: int = CANDIDATES) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Positions and totals of the best documents of one query.

    The candidates are the best of either scorer. Both score all of them (as the engine does), each one's scores are
    stretched to [0, 1] over the candidates, and the total is the mean of the two.
    """
    union = np.union1d(best(sparse, candidates, positive=True), best(dense, candidates, positive=False))
    totals, _ = convex(np.stack([sparse[union], dense[union]], axis=1), [1.0, 1.0])
    order = best(totals, depth, positive=False)
    return union[order], totals[order]


def _named(judged: JudgedSet, found: NDArray[np.intp], scores: NDArray[np.floating]) -> list[tuple[str, float]]:
    named: dict[str, float] = {}
    for at, score in zip(found.tolist(), scores.tolist(), strict=True):
        named.setdefault(judged.documents[at], score)  # of documents that share an id, the best one counts
    return list(named.items())[:DEPTH]
