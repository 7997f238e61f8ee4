"""Families of features: do their members fire together more than chance has it, on texts they were not found with?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benches.quality.results import Row
from benches.steering.papers import Papers
from sparsight.encoders.sae.families import find_families
from sparsight.encoders.sae.family_quality import family_quality
from sparsight.retrieval.models import SAEModel

if TYPE_CHECKING:
    from sparsight.retrieval import Collection

__all__ = ["section"]

_DRAWS = 20
_TOLD = 12  # families with their names, the largest


def section(papers: Papers, collection: Collection) -> list[Row]:
    """Rows "families", one for each way of coding; "family", the largest of the encoder's with their names.

    Found on one half of the indexed abstracts, judged on the other.
    """
    model = collection._generation().derived["sae"]
    assert isinstance(model, SAEModel)
    order = np.random.default_rng(2).permutation(papers.indexed)
    one, other = (papers.x[np.sort(part)] for part in np.array_split(order, 2))
    rows: list[Row] = []
    for coding, code in (("encoder", model.sae.encode), ("pursuit", model.sae.document_codes)):
        families = find_families(code(one))
        found = family_quality(code(other), families, draws=_DRAWS)
        rows.append({"kind": "families", "coding": coding, "families": len(families), "texts": len(other),
                     "ratio": round(found.mean_ratio, 3), "null": round(found.mean_null, 3),
                     "null_spread": round(found.null_spread, 4), "gain": round(found.gain, 3),
                     "share_5": round(float((found.ratio >= 5 * found.null_ratio).mean()), 4)})
        if coding == "encoder":
            names = model.sae.labels
            rows += [{"kind": "family", "parent": names[family.parent], "children": len(family.children),
                      "first": "; ".join(names[child] for child in family.children[:4]),
                      "ratio": round(float(found.ratio[at]), 2)} for at, family in enumerate(families[:_TOLD])]
    return rows
