"""Words that fired a feature: what is left of the feature when they are deleted, beside random words."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from benches.quality.measure import say
from benches.quality.results import Row
from benches.steering.papers import Papers
from sparsight.encoders.dense import DenseEncoder
from sparsight.encoders.loading import load_encoder
from sparsight.encoders.sae.attribution import attribute, deletion_effect
from sparsight.retrieval.models import SAEModel

if TYPE_CHECKING:
    from sparsight.retrieval import Collection

__all__ = ["section"]

_TEXTS, _LATENTS = 20, 4
_COUNTS = (1, 3, 5, 0.2)


def section(papers: Papers, collection: Collection) -> list[Row]:
    """Rows "words", one for each way: share of a latent's product with the text that goes, mean over pairs."""
    model = collection._generation().derived["sae"]
    embedder = load_encoder(papers.encoder)
    assert isinstance(model, SAEModel) and isinstance(embedder, DenseEncoder)
    drawn = np.random.default_rng(41)
    some = np.sort(drawn.choice(papers.indexed, _TEXTS, replace=False))
    texts = [papers.papers[row].text for row in some.tolist()]
    codes = model.sae.document_codes(papers.x[some])
    latents = [codes[row].indices[np.argsort(-codes[row].data)[:_LATENTS]].tolist() for row in range(_TEXTS)]
    rows: list[Row] = []
    for way in ("pull", "split", "occlusion", "random"):
        say(f"words: {way}")
        by = "pull" if way == "random" else way
        found = attribute(texts, latents, embedder=embedder, sae=model.sae, by=by)  # type: ignore[arg-type]
        if way == "random":
            found = [replace(one, shares=drawn.random(one.shares.shape).astype(np.float32)) for one in found]
        gone = deletion_effect(found, embedder=embedder, sae=model.sae, counts=_COUNTS)
        rows.append({"kind": "words", "way": way, "texts": _TEXTS, "latents": _LATENTS,
                     **{f"gone_{count:g}": round(float(np.nanmean(gone[:, at])), 4)
                        for at, count in enumerate(_COUNTS)}})
    return rows
