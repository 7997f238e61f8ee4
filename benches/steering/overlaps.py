"""Filters by set overlap: is the share that they let through the one that a sample tells?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from benches.quality.results import Row
from benches.steering.papers import Papers
from sparsight.encoders.sae.overlaps import overlap_rate
from sparsight.retrieval.models import SAEModel

if TYPE_CHECKING:
    from sparsight.retrieval import Collection

__all__ = ["section", "within_twice"]

_SIZES, _LEAST, _SETS = (8, 16, 32), (2, 3, 4, 6), 60
_SAMPLE = 5_000
_FEWEST = 20  # texts that pass, for the measured rate to mean something


def section(papers: Papers, collection: Collection) -> list[Row]:
    """Rows "overlaps": sets of features that are near each other, or drawn, their rate on indexed abstracts, and what
    5,000 of those that stand aside tell of it."""
    model = collection._generation().derived["sae"]
    assert isinstance(model, SAEModel)
    sample = model.sae.document_codes(papers.x[papers.aside[:: len(papers.aside) // _SAMPLE][:_SAMPLE]])
    others = (model.sae.document_codes(papers.x[papers.indexed]) > 0).tocsc()
    rows: list[Row] = []
    for kind in ("near", "drawn"):
        for size in _SIZES:
            for number in range(_SETS):
                drawn = np.random.default_rng([17, size, number])
                one = int(drawn.integers(model.dimension))
                near = np.argsort(-(model.sae.W_dec @ model.sae.W_dec[one]), kind="stable")[:size]
                features = near if kind == "near" else drawn.choice(model.dimension, size, replace=False)
                counts = np.asarray(others[:, features].sum(1)).ravel()
                for least in _LEAST:
                    if (passing := int((counts >= least).sum())) < _FEWEST:
                        continue
                    told, measured = overlap_rate(sample, features.tolist(), least), passing / len(counts)
                    rows.append({"kind": "overlaps", "sets": kind, "features": size, "at_least": least,
                                 "measured": round(measured, 6), "predicted": round(told.predicted, 6),
                                 "sampled": round(told.sampled, 6), "independent": round(told.independent, 6)})
    return rows


def within_twice(rows: Sequence[Row], way: str = "predicted") -> float:
    """Share of the filters that let through between half and twice of what is told."""
    return float(np.mean([0.5 <= row[way] / row["measured"] <= 2 for row in rows]))
