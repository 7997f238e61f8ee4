"""What neutral steering costs: nDCG@10 on judged sets, steered with features that have nothing to do with the query.

Somebody who steers towards a subject keeps the steering while asking of others. So each query is moved, by the lengths
that :mod:`benches.steering.towards` uses, along features that its own code does not have: one at random, or those that
10 + 10 examples of a random category of arXiv lead to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benches.quality.measure import say
from benches.quality.results import Row
from benches.steering.papers import Papers
from benches.steering.towards import BOTH, ways_of
from sparsight.retrieval.judged_vectors import JudgedVectors, measure, rank_dense
from sparsight.retrieval.models import SAEModel

if TYPE_CHECKING:
    from sparsight.retrieval import Collection

__all__ = ["CATEGORY", "drawn_unrelated", "lost_at", "moved_along", "ndcg_after", "section"]

F32, I64 = NDArray[np.float32], NDArray[np.int64]
SETS = ("cranfield", "cacm", "scifact")
CATEGORY = "a category's features"
_STEPS, _DRAWS = (0.15, 0.3, 0.45, 0.6), 10


def section(papers: Papers, collection: Collection) -> list[Row]:
    """Rows "neutral", one for each set, way and step: nDCG@10 before and after, mean of 10 draws a query.

    ``shared`` is the mean number of a category's features that a query has itself, of categories drawn without a look
    at it; edits that ask for the feature (``when``) are measured with these, and do nothing for all others.
    """
    model = collection._generation().derived["sae"]
    assert isinstance(model, SAEModel)
    sae, names = model.sae, papers.split(test=True)
    ways = ways_of(papers, collection, names, papers.members(names))
    weights = np.zeros((len(names), sae.n_latents), np.float32)  # a step of length 1 along each category's features
    for c, way in enumerate(ways):
        for f, strength in way.features[BOTH]:
            weights[c, f] = strength * sae.scale[f]
    differences = np.stack([way.difference for way in ways])
    live, rows = np.flatnonzero(sae.density > 1e-3), []
    for name in SETS:
        judged = papers.judged(name)
        has = (sae.document_codes(judged.queries).toarray() > 0).astype(np.float32)  # (Q, N), 1 or 0
        before = float(measure(judged, rank_dense(judged.documents, judged.queries)).ndcg.mean())
        after: dict[tuple[str, float], list[float]] = {}
        shared = []
        for draw in range(_DRAWS):
            drawn = np.random.default_rng([51, draw])
            unrelated = drawn_unrelated(has @ (weights.T > 0), drawn)
            any_one = drawn.integers(len(names), size=len(has))
            shared.append(float((has * (weights[any_one] > 0)).sum(1).mean()))
            noise = drawn.standard_normal(judged.queries.shape).astype(np.float32)
            single = live[drawn_unrelated(has[:, live], drawn)]
            directions = {CATEGORY: moved_along(weights[unrelated], sae.W_dec), "one feature": sae.W_dec[single],
                          "a category's mean difference": differences[unrelated],
                          "noise": noise / np.linalg.norm(noise, axis=1, keepdims=True),
                          "any category's features, where the query has them":
                              moved_along(weights[any_one] * has, sae.W_dec)}
            for way, direction in directions.items():
                for step in _STEPS:
                    after.setdefault((way, step), []).append(ndcg_after(judged, step * direction))
        rows += [{"kind": "neutral", "set": name, "queries": len(has), "way": way, "step": step, "draws": _DRAWS,
                  "before": round(before, 4), "after": round(float(np.mean(of)), 4),
                  "shared": round(float(np.mean(shared)), 2)} for (way, step), of in after.items()]
        say(f"{name}: nDCG@10 {before:.4f}, {lost_at(rows, name, CATEGORY, 0.45):+.1%} lost at 0.45")
    return rows


def drawn_unrelated(common: NDArray[Any], drawn: np.random.Generator) -> I64:
    """For each query one of C sets of features, at random among those of which it has fewest.

    ``common`` (Q, C) counts the features of each set that the query has: for nearly all queries, the fewest is none.
    """
    found: I64 = (common.astype(np.float64) + drawn.random(common.shape)).argmin(1)
    return found


def moved_along(weights: F32, W_dec: F32) -> F32:
    """What adding so much to activations (Q, N) adds to queries, (Q, D)."""
    return weights @ W_dec


def ndcg_after(judged: JudgedVectors, moves: F32) -> float:
    """Mean nDCG@10 of queries that are moved by (Q, D)."""
    return float(measure(judged, rank_dense(judged.documents, judged.queries + moves)).ndcg.mean())


def lost_at(rows: Sequence[Row], name: str, way: str, step: float) -> float:
    """Share of a set's nDCG@10 that is lost at a step, by a straight line between those measured; 0 is none."""
    curve = sorted((row["step"], 1 - row["after"] / row["before"]) for row in rows
                   if row["set"] == name and row["way"] == way)
    return float(np.interp(step, [0.0, *(at for at, _ in curve)], [0.0, *(lost for _, lost in curve)]))
