"""Families of a collection's features: a general one, and those that fire mostly where it does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparsight.index.generation import Generation
from sparsight.retrieval.features import check_count, feature_of
from sparsight.retrieval.steering import check_feature, sae_of
from sparsight.retrieval.stored_codes import KeptByField, stored_codes
from sparsight.types import Feature, FeatureFamily

if TYPE_CHECKING:
    from sparsight.encoders.sae.families import Family

__all__ = ["FamilyCache"]


class FamilyCache:
    """The families of each SAE field."""

    def __init__(self) -> None:
        self._kept: KeptByField[Sequence[Family]] = KeptByField()

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
        found = self._kept.get(generation, schema, lambda: find_families(stored_codes(generation, schema.name)))
        wanted = [family for family in found if feature is None or feature in family.members][:count]

        def named(index: int) -> Feature:
            return feature_of(generation, model, schema.name, index)

        return tuple(FeatureFamily(named(family.parent), tuple(map(named, family.children)), family.above,
                                   family.strength) for family in wanted)
