"""What published systems show of features, on the same abstracts: lobes (17), shapes (18), sparse probes (21), codes as
sets (27). What their criteria ask is in :mod:`benches.steering.systems`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.stats import spearmanr

from benches.quality.results import Row
from benches.steering.papers import Papers
from sparsight.encoders.sae.layout import layout, layout_quality, pca_layout
from sparsight.encoders.sae.lobes import agreement, find_lobes, geometric_lobes
from sparsight.encoders.sae.model import SAE
from sparsight.encoders.sae.probes import probe_labels
from sparsight.encoders.sae.shapes import cluster_rows, find_shapes
from sparsight.retrieval.maps import STEPS
from sparsight.retrieval.models import SAEModel
from sparsight.types import Document, Query, Retriever

if TYPE_CHECKING:
    from sparsight.retrieval import Collection

__all__ = ["section"]

_TEXTS, _LOBES, _GROUPS = 20_000, 3, 60
_KS = (1, 2, 4, 8)
_ASKED, _NEAR, _INSERTED = 200, 1_000, 50


def section(papers: Papers, collection: Collection) -> list[Row]:
    """Rows "map", "lobes", "shapes", "probes" and "sets", one of each."""
    model = collection._generation().derived["sae"]
    assert isinstance(model, SAEModel)
    some = np.sort(np.random.default_rng(31).choice(papers.indexed, _TEXTS, replace=False))
    codes = model.sae.encode(papers.x[some])
    return [_map(model.sae), _lobes(model.sae, codes), _shapes(model.sae, codes), _probes(papers, model.sae, some),
            _sets(papers, model.sae, collection)]


def _map(sae: SAE) -> Row:
    started = time.monotonic()
    places = layout(sae.W_dec, steps=STEPS)
    seconds = time.monotonic() - started
    by_steps = {str(steps): round(layout_quality(sae.W_dec, layout(sae.W_dec, steps=steps)), 4)
                for steps in (STEPS // 2, 2 * STEPS, 4 * STEPS)}
    return {"kind": "map", "latents": sae.n_latents, "steps": STEPS, "seconds": round(seconds, 1),
            "quality": round(layout_quality(sae.W_dec, places), 4), "by_steps": by_steps,
            "principal": round(layout_quality(sae.W_dec, pca_layout(sae.W_dec)), 4)}


def _lobes(sae: SAE, codes: csr_matrix) -> Row:
    found = agreement(find_lobes(codes, _LOBES), geometric_lobes(sae.W_dec, _LOBES))
    return {"kind": "lobes", "lobes": _LOBES, "texts": codes.shape[0], "z": round(found.z, 2),
            "adjusted": round(found.adjusted, 4), "latents": found.latents}


def _shapes(sae: SAE, codes: csr_matrix) -> Row:
    best, *_ = shapes = find_shapes(codes, sae.W_dec, cluster_rows(sae.W_dec)[:_GROUPS])
    above = [shape for shape in shapes if shape.score > 2 * shape.null_score and shape.score > 0.02]
    return {"kind": "shapes", "groups": len(shapes), "above": len(above), "score": round(best.score, 4),
            "null": round(best.null_score, 4), "mixture": round(best.mixture, 4),
            "separability": round(best.separability, 4), "names": [sae.labels[f] for f in best.latents[:6]]}


def _probes(papers: Papers, sae: SAE, some: NDArray[np.int64]) -> Row:
    categories, x = papers.split(test=True), papers.x[some]
    found = probe_labels(x, sae.document_codes(x), papers.members(categories)[some], ks=_KS)
    f1 = {str(k): round(float(np.nanmean(found.f1[at])), 4) for at, k in enumerate(_KS)}
    return {"kind": "probes", "labels": len(categories), "texts": len(some), "f1": f1,
            "dense": round(float(np.nanmean(found.dense_f1)), 4),
            "dimension": round(float(np.nanmean(found.dimension_f1)), 4)}


def _sets(papers: Papers, sae: SAE, collection: Collection) -> Row:
    """Common latents against cosines, of the 1,000 abstracts nearest to each of some; new ones found at once."""
    asked = papers.aside[:: len(papers.aside) // _ASKED][:_ASKED]
    indexed = papers.x[papers.indexed]
    sets = sae.document_codes(papers.x[asked]) > 0
    correlations = []
    for at, row in enumerate(asked.tolist()):
        cosines = indexed @ papers.x[row]
        near = np.argpartition(-cosines, _NEAR)[:_NEAR]
        others = sae.document_codes(indexed[near]) > 0
        common = np.asarray((others.astype(np.int32) @ sets[at].astype(np.int32).T).todense()).ravel()
        correlations.append(float(spearmanr(common, cosines[near]).statistic))
    first = 0
    for row in asked[:_INSERTED].tolist():
        collection.upsert([Document("new", vectors={"dense": papers.x[row]})])
        first += collection.search(Query(retrievers=[Retriever("sae", dense=papers.x[row])], k=1)).ids == ["new"]
    collection.delete(["new"])
    return {"kind": "sets", "asked": len(asked), "near": _NEAR, "spearman": round(float(np.median(correlations)), 4),
            "inserted": _INSERTED, "first": first}
