"""The passages of a collection that lie furthest along a direction: examples that nobody had to name.

What is made of them: :func:`sparsight.encoders.sae.examples.direction_with`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparsight.index.generation import Generation
from sparsight.retrieval.planning import MAX_K, plan_queries
from sparsight.retrieval.ranking import rank_plans
from sparsight.types import Query, Retriever

__all__ = ["passages_along"]

F32 = NDArray[np.float32]
_MOST = 50  # chosen with `direction_with`, among 67,000 passages
_PART = 200  # passages for each that counts: of 1,000 or 2,000 the five or ten nearest are better than more
_FEWEST = 5
_SAME = 0.9999  # cosine of vectors that are one and the same, but for rounding
_LEAST = -1e9  # score: all may be found


def passages_along(generation: Generation, source: str, way: F32, known: F32, threads: int = 1) -> F32:
    """Vectors (K, D) of the passages with the largest products with ``way`` (D,), each of another document.

    At most 50, and at most every 200th passage of the collection: concepts are rare, and what lies behind them is
    something else. None where there are fewer than five, or ``way`` is 0.

    Parameters
    ----------
    source : str
        A dense field. It is searched by its own index.
    way : float32, shape (D,)
    known : float32, shape (B, D)
        Vectors that are left out: the examples themselves.
    threads : int
        Of the search.
    """
    count = min(_MOST, generation.passages // _PART)
    if count < _FEWEST or not way.any():
        return np.zeros((0, len(way)), np.float32)
    wanted = min(count + len(known), MAX_K)
    query = Query(retrievers=[Retriever(source, dense=way)], k=wanted, min_score=_LEAST, include=())
    (found,) = rank_plans(generation, plan_queries(generation, generation.derived, [query], {}), None, threads)
    rows = [generation.dense_row(source, reference, found.best_passage(at))
            for at, reference in enumerate(found.references[:wanted])]
    x = np.array([row for row in rows if row is not None], np.float32).reshape(-1, len(way))
    near = x[~_among(x, known)][:count]
    return near if len(near) >= _FEWEST else near[:0]


def _among(x: F32, known: F32) -> NDArray[np.bool_]:
    """Which rows are among some others."""
    if not len(known) or not len(x):
        return np.zeros(len(x), bool)
    unit, others = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12) for rows in (x, known))
    found: NDArray[np.bool_] = (unit @ others.T).max(1) > _SAME
    return found
