"""Families of a collection's features: a general one, and those that fire mostly where it does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix

from sparsight.index.generation import Generation
from sparsight.retrieval.features import check_count, feature_of
from sparsight.retrieval.steering import check_feature, sae_of
from sparsight.types import Feature, FeatureFamily

if TYPE_CHECKING:
    from sparsight.encoders.sae.families import Family

__all__ = ["MOST_PASSAGES", "FamilyCache", "stored_codes"]

MOST_PASSAGES = 40_000
"""Passages that families are found with, evenly chosen: some seconds; more change little."""


class FamilyCache:
    """Families by field, found when they are first asked for, and again once the collection has changed by a tenth."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, int, Sequence[Family]]] = {}

    def families(self, generation: Generation, feature: int | None, field: str, count: int
                 ) -> tuple[FeatureFamily, ...]:  # fmt: skip
        """The largest families, or those that a feature is in, the largest first.

        By :func:`sparsight.encoders.sae.families.find_families`, of the codes that the index holds.

        Raises
        ------
        UnknownFeatureError, UnknownFieldError, InvalidQueryError, InvalidArgumentError
        """
        from sparsight.encoders.sae.families import find_families

        check_count(count)
        schema, model = sae_of(generation, field)
        if feature is not None:
            check_feature(schema, model, feature, "feature")
        fingerprint, passages, found = self._known.get(schema.name, ("", 0, ()))
        if fingerprint != schema.fingerprint or abs(generation.passages - passages) > passages // 10:
            found = find_families(stored_codes(generation, schema.name))
            self._known[schema.name] = schema.fingerprint, generation.passages, found
        wanted = [family for family in found if feature is None or feature in family.members][:count]

        def named(index: int) -> Feature:
            return feature_of(generation, model, schema.name, index)

        return tuple(FeatureFamily(named(family.parent), tuple(map(named, family.children)), family.above,
                                   family.strength) for family in wanted)


def stored_codes(generation: Generation, field: str, most: int = MOST_PASSAGES) -> csr_matrix:
    """Weights (P, F) of living passages in an SAE field, evenly chosen where they are more than ``most``."""
    places = [(reference, passage) for _, reference in generation.scan(generation.mask(None))
              for passage in range(generation.passages_of(reference))]
    rows = [generation.sparse_row(field, *place) for place in places[:: -(-len(places) // most) if places else 1]]
    indptr = np.concatenate([[0], np.cumsum([len(ids) for ids, _, _ in rows])]).astype(np.int64)
    indices = np.concatenate([ids for ids, _, _ in rows] or [np.zeros(0, np.uint32)]).astype(np.int32)
    values = np.concatenate([values for _, _, values in rows] or [np.zeros(0, np.float32)])
    schema = generation.field(field)
    return csr_matrix((values, indices, indptr), shape=(len(rows), schema.dimension))
