"""Finding features from examples: are the documents that they find of the examples' category?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benches.quality.results import Row
from benches.steering.lists import precision
from benches.steering.papers import Papers
from benches.steering.towards import FEATURES, NAMES, found_features
from sparsight.retrieval.models import SAEModel

if TYPE_CHECKING:
    from sparsight.retrieval import Collection

__all__ = ["section"]

_EXAMPLES, _DRAWS = 10, 5
_FEATURES = (1, 6, FEATURES, 32, 128)


def section(papers: Papers, collection: Collection) -> list[Row]:
    """Rows "examples": precision@10 among the indexed documents, by category and number of features.

    Examples stand aside, so all that is found is held out. Documents are ranked by what the features as edits add to
    their scores: the product with a step along them. "mean difference" ranks by the product with it; "with label" has
    the category's name beside the examples.
    """
    categories = papers.split(test=True)
    members = papers.members(categories)
    model = collection._generation().derived["sae"]
    assert isinstance(model, SAEModel)
    x, named = papers.x[papers.indexed], papers.encode([NAMES[name] for name in categories])
    rows: list[Row] = []
    for c, name in enumerate(categories):
        found: dict[str, list[float]] = {}
        for draw in range(_DRAWS):
            drawn = np.random.default_rng([7, c, draw])
            positives, negatives = (papers.x[drawn.choice(papers.aside[members[papers.aside, c] == wanted], _EXAMPLES,
                                                          replace=False)] for wanted in (True, False))
            ways = {str(count): (None, count) for count in _FEATURES} | {"with label": (named[c], FEATURES)}
            for way, (words, count) in ways.items():
                step = np.zeros(model.sae.d_in, np.float32)
                for f, weight in found_features(collection, positives, negatives, words, count):
                    step += weight * model.sae.scale[f] * model.sae.W_dec[f]
                found.setdefault(way, []).append(_precision(papers, x @ step, members[:, c]))
            found.setdefault("mean difference", []).append(
                _precision(papers, x @ (positives.mean(0) - negatives.mean(0)), members[:, c]))
        rows += [{"kind": "examples", "category": name, "features": way, "draws": _DRAWS,
                  "precision": round(float(np.mean(values)), 4)} for way, values in found.items()]
    return rows


def _precision(papers: Papers, scores: np.ndarray, member: np.ndarray) -> float:
    best = np.argpartition(-scores, 10)[:10]
    return precision(papers.indexed[best], member)
