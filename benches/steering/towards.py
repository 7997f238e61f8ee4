"""Steering towards a category: what is gained in the first ten hits, and what is left of the list.

Ways: features found from 10 + 10 examples and the category's name, or from the examples alone, as edits through the
product; the difference of the examples' means, alone and with the name's embedding; the title with the name behind it;
noise of the same length. And an oracle, which knows every document's category and adds a constant to those in it: no
method that only adds a preference can do better at equal overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benches.quality.measure import say
from benches.quality.results import Row
from benches.steering.lists import precision, rbo
from benches.steering.papers import Papers
from sparsight.types import Edit, Query, Retriever

if TYPE_CHECKING:
    from sparsight.retrieval import Collection

__all__ = ["BOTH", "EXAMPLES", "FEATURES", "NAMES", "at_overlap", "found_features", "lists_of", "section",
           "ways_of"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
STEPS = (0.15, 0.3, 0.45, 0.6, 0.8, 1.1)
BONUSES = (0.03, 0.06, 0.1, 0.15, 0.2)
_EXAMPLES, FEATURES = 10, 12
BOTH, EXAMPLES = "features", "features from examples alone"
_BASE = (0.05, 0.4)  # precision@10 without steering
_PAIRS = 20  # queries of a category
_DEPTH = 100
_BATCH = 256
NAMES = {
    "cs.LG": "machine learning", "cs.CL": "computation and language", "cs.DS": "data structures and algorithms",
    "stat.ME": "statistics methodology", "cs.DC": "distributed, parallel and cluster computing",
    "math.NA": "numerical analysis", "math.CO": "combinatorics", "cs.LO": "logic in computer science",
    "math.RT": "representation theory", "cs.RO": "robotics", "math.ST": "statistics theory",
    "math.CA": "classical analysis and ODEs", "hep-th": "high energy physics theory", "math.GR": "group theory",
    "physics.flu-dyn": "fluid dynamics", "cs.CY": "computers and society",
    "physics.comp-ph": "computational physics", "cs.IR": "information retrieval",
    "cond-mat.quant-gas": "quantum gases", "cs.SE": "software engineering", "physics.chem-ph": "chemical physics",
    "cond-mat.other": "condensed matter", "cs.CC": "computational complexity",
    "math.OC": "optimization and control", "cs.GT": "computer science and game theory",
    "math.AT": "algebraic topology", "cs.HC": "human-computer interaction", "math.DS": "dynamical systems",
    "math.OA": "operator algebras", "physics.bio-ph": "biological physics",
    "cond-mat.mtrl-sci": "materials science", "math.LO": "logic", "physics.optics": "optics",
    "physics.data-an": "data analysis, statistics and probability", "cond-mat.soft": "soft condensed matter",
    "math.AP": "analysis of PDEs", "math.MG": "metric geometry", "math.SP": "spectral theory",
    "nlin.PS": "pattern formation and solitons", "cond-mat.mes-hall": "mesoscale and nanoscale physics",
}
"""Of arXiv's taxonomy."""


def section(papers: Papers, collection: Collection) -> list[Row]:
    """Rows "towards": precision@10 before and after, and overlap with the list before, by way and step."""
    categories = papers.split(test=True)
    members, (rows, queries) = papers.members(categories), papers.queries
    base = lists_of(papers, collection, queries)
    pairs = _pairs(base, members, rows)
    say(f"{len(pairs):,} pairs of {len(set(pairs[:, 0].tolist())):,} queries and {len(categories)} categories")
    asked = queries[pairs[:, 0]]
    before = base[pairs[:, 0]]
    ways = ways_of(papers, collection, categories, members)
    noise = np.random.default_rng(3).standard_normal(asked.shape).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    found: list[Row] = []

    def add(way: str, step: float, lists: I64) -> None:
        p = np.array([[precision(one, members[:, c]) for one in (old, new)]
                      for old, new, c in zip(before, lists, pairs[:, 1].tolist(), strict=True)])
        kept = np.array([rbo(old, new) for old, new in zip(before, lists, strict=True)])
        found.append({"kind": "towards", "way": way, "step": step, "pairs": len(pairs),
                      "before": round(float(p[:, 0].mean()), 4), "after": round(float(p[:, 1].mean()), 4),
                      "gain": round(float((p[:, 1] - p[:, 0]).mean()), 4), "rbo": round(float(kept.mean()), 4)})
        say(f"{way} {step}: {found[-1]['before']} to {found[-1]['after']}, overlap {found[-1]['rbo']}")

    for step in STEPS:
        for name in (BOTH, EXAMPLES):
            edits = [[Edit(f, "boost", step * weight) for f, weight in ways[c].features[name]]
                     for c in pairs[:, 1].tolist()]
            add(name, step, lists_of(papers, collection, asked, edits))
        add("mean difference", step, lists_of(papers, collection, asked + step * np.stack(
            [ways[c].difference for c in pairs[:, 1].tolist()])))
        add("mean difference and label", step, lists_of(papers, collection, asked + step * np.stack(
            [_unit(ways[c].difference + ways[c].label) for c in pairs[:, 1].tolist()])))
        add("noise", step, lists_of(papers, collection, asked + step * noise))
    texts = [f"{papers.papers[rows[q]].title}, {NAMES[categories[c]]}" for q, c in pairs.tolist()]
    add("label behind the query", 0.0, lists_of(papers, collection, papers.encode(texts)))
    for bonus in BONUSES:
        add("oracle", bonus, _oracle(papers, asked, members[:, pairs[:, 1]].T, bonus))
    return found


class _Way:
    """Where the examples of a category, and its name, lead."""

    def __init__(self, features: dict[str, list[tuple[int, float]]], difference: F32, label: F32) -> None:
        self.features, self.difference, self.label = features, difference, label


def ways_of(papers: Papers, collection: Collection, categories: Sequence[str],
            members: NDArray[np.bool_]) -> list[_Way]:
    """Where 10 + 10 examples of each category, and its name, lead."""
    made, named = [], papers.encode([NAMES[name] for name in categories])
    usual = papers.x[papers.indexed].mean(0)
    for c, _ in enumerate(categories):
        drawn = np.random.default_rng(1000 * c)
        of, others = (papers.aside[members[papers.aside, c] == wanted] for wanted in (True, False))
        positives, negatives = (papers.x[drawn.choice(side, _EXAMPLES, replace=False)] for side in (of, others))
        difference = positives.mean(0) - negatives.mean(0)
        features = {BOTH: found_features(collection, positives, negatives, named[c]),
                    EXAMPLES: found_features(collection, positives, negatives)}
        made.append(_Way(features, _unit(difference), _unit(named[c] - usual)))
    return made


def found_features(collection: Collection, positives: F32, negatives: F32, words: F32 | None = None,
                   count: int = FEATURES) -> list[tuple[int, float]]:
    """Features and strengths by what `find_features` calls, for vectors that are in no document."""
    from sparsight.retrieval.features import from_examples

    found = from_examples(collection._generation(), positives, negatives, "sae", count, words)
    return [(item.feature.index, item.weight) for item in found]


def _unit(x: F32) -> F32:
    return x / max(float(np.linalg.norm(x)), 1e-12)


def _pairs(base: I64, members: NDArray[np.bool_], rows: I64) -> I64:
    """(query, category) of queries that are not in the category and have some but not many hits in it."""
    drawn, pairs = np.random.default_rng(1), []
    for c in range(members.shape[1]):
        share = members[base[:, :10], c].mean(1)
        usable = np.flatnonzero((share >= _BASE[0]) & (share <= _BASE[1]) & ~members[rows, c])
        pairs += [(int(q), c) for q in drawn.permutation(usable)[:_PAIRS]]
    return np.array(pairs)


def lists_of(papers: Papers, collection: Collection, queries: F32,
             edits: Sequence[Sequence[Edit]] | None = None) -> I64:
    """Numbers of the first 100 documents of each query, (Q, 100)."""
    asked = [Query(retrievers=[Retriever("dense", dense=x)], edits=edits[at] if edits else (), k=_DEPTH,
                   min_score=-10.0, include=()) for at, x in enumerate(queries)]
    found = [result for start in range(0, len(asked), _BATCH)
             for result in collection.batch_search(asked[start:start + _BATCH])]
    return np.array([[papers.place[hit.id] for hit in result] for result in found])


def _oracle(papers: Papers, queries: F32, wanted: NDArray[np.bool_], bonus: float) -> I64:
    x, lists = papers.x[papers.indexed], []
    for start in range(0, len(queries), _BATCH):
        scores = queries[start:start + _BATCH] @ x.T + bonus * wanted[start:start + _BATCH, papers.indexed]
        best = np.argpartition(-scores, _DEPTH, axis=1)[:, :_DEPTH]
        order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1, kind="stable")
        lists.append(papers.indexed[np.take_along_axis(best, order, 1)])
    return np.concatenate(lists)


def at_overlap(rows: Sequence[Row], way: str, key: str = "gain", overlap: float = 0.5) -> float:
    """What a way has where its curve crosses an overlap, by a straight line between its steps; NaN if it does not."""
    curve = sorted((row["rbo"], row[key]) for row in rows if row["way"] == way)
    xs, ys = zip(*curve, strict=True)
    return float(np.interp(overlap, xs, ys)) if xs[0] <= overlap <= xs[-1] else float("nan")


