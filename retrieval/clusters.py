"""Clusters of a collection's features that may together be one feature of several dimensions, with passages to see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparsight.index.generation import Generation
from sparsight.index.schema import FieldSchema
from sparsight.retrieval.features import check_count, feature_of
from sparsight.retrieval.steering import sae_of
from sparsight.retrieval.stored_codes import MOST_PASSAGES, KeptByField, chosen_passages, stored_rows
from sparsight.types import ClusterPoint, FeatureCluster

if TYPE_CHECKING:
    from sparsight.encoders import SAE
    from sparsight.encoders.sae.shapes import Shape

__all__ = ["MOST_CLUSTERS", "ClusterCache"]

MOST_CLUSTERS = 60
"""Groups of features that are looked at, those with the most features: 7 s for 34,000 passages."""

_Seen = tuple["Shape", tuple[ClusterPoint, ...]]


class ClusterCache:
    """The clusters of each SAE field."""

    def __init__(self) -> None:
        self._kept: KeptByField[Sequence[_Seen]] = KeptByField()

    def clusters(self, generation: Generation, field: str, count: int) -> tuple[FeatureCluster, ...]:
        """Clusters by falling score, by :mod:`sparsight.encoders.sae.shapes`, of the codes that the index holds.

        Raises
        ------
        UnknownFieldError, InvalidQueryError, InvalidArgumentError
        """
        check_count(count)
        schema, model = sae_of(generation, field)
        found = self._kept.get(generation, schema, lambda: _find(generation, schema, model.sae))
        return tuple(
            FeatureCluster(tuple(feature_of(generation, model, schema.name, latent) for latent in shape.latents),
                           shape.texts, shape.variance, shape.separability, shape.mixture, shape.score,
                           shape.null_score, points)
            for shape, points in found[:count]
        )


def _find(generation: Generation, schema: FieldSchema, sae: SAE) -> list[_Seen]:
    from sparsight.encoders.sae.shapes import cloud_of, cluster_rows, find_shapes

    places = chosen_passages(generation, MOST_PASSAGES)
    codes = stored_rows(generation, schema.name, places)
    columns = codes.tocsc()  # once for all clouds
    found = []
    for shape in find_shapes(codes, sae.W_dec, cluster_rows(sae.W_dec)[:MOST_CLUSTERS]):
        if shape.plane < 0:  # it and those behind it fire too seldom
            break
        texts, points, strongest = cloud_of(columns, sae.W_dec, shape)
        ids = [generation.document(places[text][0]).id for text in texts.tolist()]
        found.append((shape, tuple(ClusterPoint(id, x, y, latent) for id, (x, y), latent in
                                   zip(ids, points.tolist(), strongest.tolist(), strict=True))))
    return found
