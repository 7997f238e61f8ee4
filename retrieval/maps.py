"""The map of a collection's features: near ones point alike, and those of one colour fire together.

Places come from the decoder's rows alone; what fires together is what the lobes show.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from sparsight.index.generation import Generation
from sparsight.index.schema import FieldSchema
from sparsight.retrieval.renaming import labels_of
from sparsight.retrieval.steering import sae_of
from sparsight.retrieval.stored_codes import KeptByField, stored_codes
from sparsight.types import FeatureMap, MapLobe, MapPoint

if TYPE_CHECKING:
    from sparsight.encoders import SAE

__all__ = ["MOST_FEATURES", "STEPS", "MapCache"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

MOST_FEATURES = 8_192
"""Features of a map, the most frequent: more than an eye can tell apart, in some ten seconds."""
STEPS = 150
"""Of the layout: more do not make it truer (row "map" of ``python -m benches.steering --sections others``)."""
_LOBES = 3
_WORDS = 3  # of a lobe's label


@dataclass(frozen=True, eq=False)
class _Drawn:
    features: I64  # (M,) in order
    places: F32  # (M, 2)
    lobes: I64  # (M,), -1 for those in none


class MapCache:
    """The map of each SAE field. Lobes are found again as the collection changes, places for another dictionary."""

    def __init__(self) -> None:
        self._kept: KeptByField[_Drawn] = KeptByField()
        self._placed: dict[str, tuple[str, I64, F32]] = {}  # fingerprint of the dictionary, features, places

    def feature_map(self, generation: Generation, field: str) -> FeatureMap:
        """The features that ever fired, at most the 8,192 most frequent ones, with what they are called now.

        Raises
        ------
        UnknownFieldError, InvalidQueryError
        """
        schema, model = sae_of(generation, field)
        drawn = self._kept.get(generation, schema, lambda: self._draw(generation, schema, model.sae))
        labels = labels_of(generation, schema.name, model)
        labels += [""] * (model.dimension - len(labels))
        named = [labels[index] for index in drawn.features]
        points = zip(drawn.features.tolist(), drawn.places.tolist(), drawn.lobes.tolist(), named, strict=True)
        return FeatureMap(
            tuple(MapPoint(index, x, y, lobe, label, float(model.sae.density[index]))
                  for index, (x, y), lobe, label in points),
            tuple(MapLobe(label, size) for label, size in _lobes(drawn.lobes, named)),
            schema.name,
        )

    def _draw(self, generation: Generation, schema: FieldSchema, sae: SAE) -> _Drawn:
        """Called by one thread at a time."""
        from sparsight.encoders.sae.layout import layout
        from sparsight.encoders.sae.lobes import find_lobes

        if schema.name not in self._placed or self._placed[schema.name][0] != schema.fingerprint:
            order = np.lexsort((np.arange(sae.n_latents), -sae.density))[:MOST_FEATURES]
            features = np.sort(order[sae.density[order] > 0])
            self._placed[schema.name] = schema.fingerprint, features, layout(sae.W_dec[features], steps=STEPS)
        _, features, places = self._placed[schema.name]
        codes = csr_matrix(stored_codes(generation, schema.name)[:, features])
        return _Drawn(features, places, find_lobes(codes, _LOBES))


def _lobes(lobes: I64, labels: Sequence[str]) -> list[tuple[str, int]]:
    """Label and size of each lobe, which are numbered from the largest one.

    A label is the words that most of its features have in their labels beyond what its share of all features would
    have: the most frequent words alone would be the same in every lobe.
    """
    sizes = np.bincount(lobes[lobes >= 0])
    words = [Counter[str]() for _ in sizes]
    for lobe, label in zip(lobes.tolist(), labels, strict=True):
        if lobe >= 0:
            words[lobe].update(set(re.findall(r"\w\w+", label.lower())))
    everywhere = sum(words, Counter[str]())
    return [(", ".join(_telling(own, everywhere, size / sizes.sum())), size)
            for own, size in zip(words, sizes.tolist(), strict=True)]


def _telling(own: Counter[str], everywhere: Counter[str], share: float) -> list[str]:
    beyond = {word: count - share * everywhere[word] for word, count in own.items()}
    telling = [word for word, count in beyond.items() if count > 1e-9]
    return sorted(telling, key=lambda word: (-beyond[word], word))[:_WORDS]
