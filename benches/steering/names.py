"""Names for features without a language model: what they tell of texts that nobody has seen."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from benches.quality.measure import say
from benches.quality.results import Row
from benches.steering.papers import JUDGE, MODEL, Papers
from sparsight.encoders.dense import DenseEncoder
from sparsight.encoders.loading import load_encoder
from sparsight.encoders.sae.naming import name_latents
from sparsight.encoders.sparse import SparseEncoder
from sparsight.retrieval.models import SAEModel

if TYPE_CHECKING:
    from sparsight.retrieval import Collection

__all__ = ["section"]

_TEXTS = 30_000
_FIGURES = ("detection", "strong_detection", "correlation", "intruder")


def section(papers: Papers, collection: Collection) -> list[Row]:
    """Rows "names", one for each labeller and one for the names that won: medians over features on held-out texts."""
    model = collection._generation().derived["sae"]
    assert isinstance(model, SAEModel)
    some = np.sort(np.random.default_rng(4).choice(len(papers.papers), _TEXTS, replace=False))
    codes, vectors = model.sae.document_codes(papers.x[some]), papers.vectors[some]
    embedder, judge = load_encoder(MODEL), load_encoder(JUDGE)
    assert isinstance(embedder, DenseEncoder) and isinstance(judge, SparseEncoder)
    started = time.monotonic()
    names = name_latents(model.sae, papers.x[some], [papers.text(row) for row in some.tolist()], embedder=embedder,
                         judge=judge, codes=codes, vectors=vectors, progress=lambda share, what: say(f"names: {what}"))
    seconds = round(time.monotonic() - started, 1)
    fired = np.diff(codes.tocsc().indptr) > 0
    named = float(np.mean([bool(label) for label, live in zip(names.labels, fired, strict=True) if live]))
    return [{"kind": "names", "labeller": labeller, "texts": _TEXTS, "features": int(fired.sum()), "named": named,
             "won": sum(name == labeller for name in names.labellers) if labeller != "chosen" else len(names.labels),
             "seconds": seconds,
             **{figure: round(float(np.nanmedian(getattr(scores, figure))), 4) for figure in _FIGURES}}
            for labeller, scores in {**names.by_labeller, "chosen": names.scores}.items()]
