"""Steering away from an unwanted attribute: how much of it is left in the first ten hits, and of relevance.

Queries are titles of indexed abstracts, and each is to find its own: nDCG@10 of that is what must be kept. The unwanted
attribute is a category that the query's abstract does not have and its first ten hits show; features come from 10 + 10
examples of it, and are taken from the query (Marks et al. 2024, "Sparse Feature Circuits", ablate what annotators call
unwanted; here nobody looks at the features).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from benches.quality.results import Row
from benches.steering.lists import precision
from benches.steering.papers import Papers
from benches.steering.towards import EXAMPLES, lists_of, ways_of
from sparsight.types import Edit

if TYPE_CHECKING:
    from sparsight.retrieval import Collection

__all__ = ["cut_at_kept", "section"]

_QUERIES, _PAIRS = 1_000, 15
_STEPS = (0.0, 0.1, 0.2, 0.3, 0.45, 0.6)
_KEPT = 0.95  # of nDCG@10
_LEAST = 0.2  # of the first ten hits have the attribute


def section(papers: Papers, collection: Collection) -> list[Row]:
    """Rows "away", one for each way and step: share of the first ten hits with the attribute, and nDCG@10."""
    categories = papers.split(test=True)
    members = papers.members(categories)
    rows = np.sort(np.random.default_rng(21).choice(papers.indexed, _QUERIES, replace=False))
    queries = papers.encode([papers.papers[row].title for row in rows.tolist()])
    base = lists_of(papers, collection, queries)
    drawn, pairs = np.random.default_rng(22), []
    for c in range(len(categories)):
        usable = np.flatnonzero((members[base[:, :10], c].mean(1) >= _LEAST) & ~members[rows, c])
        pairs += [(int(q), c) for q in drawn.permutation(usable)[:_PAIRS]]
    found: list[Row] = []
    ways = ways_of(papers, collection, categories, members)
    for step in _STEPS:
        for way in ("features", "mean difference"):
            asked = queries[[q for q, _ in pairs]]
            edits = None
            if way == "features":
                edits = [[Edit(f, "suppress", step * weight) for f, weight in ways[c].features[EXAMPLES]]
                         for _, c in pairs]
            else:
                asked = asked - step * np.stack([ways[c].difference for _, c in pairs])
            hits = lists_of(papers, collection, asked, edits)
            place = [np.flatnonzero(one[:10] == rows[q]) for one, (q, _) in zip(hits, pairs, strict=True)]
            ndcg = [1 / np.log2(2 + at[0]) if len(at) else 0.0 for at in place]
            left = [precision(one, members[:, c]) for one, (_, c) in zip(hits, pairs, strict=True)]
            found.append({"kind": "away", "way": way, "step": step, "pairs": len(pairs),
                          "left": round(float(np.mean(left)), 4), "ndcg": round(float(np.mean(ndcg)), 4)})
    return found


def cut_at_kept(rows: Sequence[Row], way: str) -> float:
    """The share of the attribute that is gone where 95 % of nDCG@10 is kept, by a straight line between steps."""
    curve = [row for row in rows if row["way"] == way]
    kept = [row["ndcg"] / curve[0]["ndcg"] for row in curve]
    cut = [1 - row["left"] / curve[0]["left"] for row in curve]
    return float(np.interp(-_KEPT, [-share for share in kept], cut)) if min(kept) <= _KEPT else max(cut)
