"""One feature's slider: does more of it bring more of it, what else does it bring, and what does it take?"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from benches.quality.results import Row
from benches.steering.papers import Papers
from sparsight.retrieval.models import SAEModel
from sparsight.types import Edit, Query, Retriever

if TYPE_CHECKING:
    from sparsight.retrieval import Collection

__all__ = ["cost", "section"]

_STRENGTHS = (0.0, 1.0, 2.0, 3.0, 4.5, 6.0)
_PAIRS, _UNRELATED, _FAR = 300, 50, 0.2
_COST_QUERIES, _ROUNDS = 60, 5


def section(papers: Papers, collection: Collection) -> list[Row]:
    """Rows "strengths": a pair of query and feature each. Everything is a mean over the first ten hits.

    ``spearman`` is of strength and evidence, the product of embedding and direction, which is there for every document,
    and ``falls`` counts the steps that lowered it: none can, and equal ones are what keeps Spearman's figure from 1;
    ``gain`` of the activation, which most documents lack, in the feature's own unit; ``others`` the mean gain of 50
    features whose direction is not near.
    """
    model = collection._generation().derived["sae"]
    assert isinstance(model, SAEModel)
    sae, drawn = model.sae, np.random.default_rng(11)
    place = {row: at for at, row in enumerate(papers.indexed.tolist())}
    codes = sae.document_codes(papers.x[papers.indexed])
    _, queries = papers.queries
    live = np.flatnonzero(sae.density > 1e-3)
    rows: list[Row] = []
    for q, f in zip(drawn.choice(len(queries), _PAIRS).tolist(), drawn.choice(live, _PAIRS).tolist(), strict=True):
        far = live[np.abs(sae.W_dec[live] @ sae.W_dec[f]) < _FAR]
        others = drawn.choice(far, _UNRELATED, replace=False)
        asked = [_query(queries[q], [Edit(f, "boost", strength)]) for strength in _STRENGTHS]
        lists = [[place[papers.place[hit.id]] for hit in result] for result in collection.batch_search(asked)]
        own = np.array([codes[hits, f].mean() / sae.scale[f] for hits in lists])
        away = np.array([(np.asarray(codes[hits][:, others].mean(0)).ravel() / sae.scale[others]).mean()
                         for hits in lists])
        evidence = np.array([(papers.x[papers.indexed[hits]] @ sae.W_dec[f]).mean() for hits in lists])
        changes = np.ptp(evidence) > 0
        rank = float(spearmanr(_STRENGTHS, evidence).statistic) if changes else float("nan")
        rows.append({"kind": "strengths", "query": q, "feature": f, "spearman": round(rank, 4),
                     "falls": int((np.diff(evidence) < -1e-6).sum()),
                     "gain": round(float(own[-1] - own[0]), 4), "others": round(float(away[-1] - away[0]), 5)})
    return rows


def cost(papers: Papers, collection: Collection) -> list[Row]:
    """Rows "cost": milliseconds of a search without edits and with them, of the same queries one after the other."""
    _, queries = papers.queries
    edits = [Edit(f, "boost", 1.0) for f in range(100, 108)]
    ways: dict[str, dict[str, Any]] = {"none": {}, "1 edit": {"edits": edits[:1]}, "8 edits": {"edits": edits},
                                       "explained": {"explain": True},
                                       "1 edit, explained": {"edits": edits[:1], "explain": True}}
    rows = []
    for field in ("dense", "sae"):
        times: dict[str, list[float]] = {way: [] for way in ways}
        drawn = np.random.default_rng(41)
        for _ in range(_ROUNDS):
            for x in queries[:_COST_QUERIES]:
                for way in drawn.permutation(list(ways)).tolist():  # none is always the one behind the longest
                    started = time.perf_counter()
                    collection.search(_query(x, field=field, **ways[way]))
                    times[way].append(1000 * (time.perf_counter() - started))
        base = np.median(times["none"])
        rows += [{"kind": "cost", "field": field, "way": way, "ms": round(float(np.median(of)), 3),
                  "p99_ms": round(float(np.percentile(of, 99)), 3), "times": round(float(np.median(of) / base), 4)}
                 for way, of in times.items()]
    return rows


def _query(x: NDArray[np.float32], edits: Any = (), field: str = "dense", **more: Any) -> Query:
    return Query(retrievers=[Retriever(field, dense=x)], edits=edits, k=10, **more)
