"""Finding features of a collection's SAE by words."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sparsight.index.generation import Generation
from sparsight.index.schema import FieldSchema
from sparsight.retrieval.models import SAEModel, dense_encoder
from sparsight.retrieval.steering import sae_field
from sparsight.types import DenseField, Feature, SAEField

__all__ = ["find"]


def find(generation: Generation, words: str, field: str) -> list[Feature]:
    """Features of an SAE field that fire at all, in order.

    Without words: by density, then index. With words: those whose label shares a word with them or which the
    words' own embedding activates, by ``share of the words in the label + activation / largest activation``.

    Raises
    ------
    UnknownFieldError, InvalidQueryError
        No such field, or it has no features.
    """
    schema = sae_field(generation, field, "field")
    model = generation.derived[schema.name]
    assert isinstance(model, SAEModel)
    density = model.sae.density
    if words.strip():
        relevance = _label_share(model.sae.labels, words, model.dimension) + _activation(
            generation, schema, model, words
        )
        order = [int(f) for f in np.lexsort((np.arange(model.dimension), -density, -relevance)) if relevance[f] > 0]
    else:
        order = [int(f) for f in np.lexsort((np.arange(model.dimension), -density)) if density[f] > 0]
    return [feature_of(model, schema.name, f) for f in order]


def feature_of(model: SAEModel, field: str, index: int) -> Feature:
    """What is known of one feature."""
    sae = model.sae
    label = sae.labels[index] if index < len(sae.labels) else ""
    examples = tuple(sae.examples[index]) if index < len(sae.examples) else ()
    return Feature(index, label, float(sae.density[index]), float(sae.scale[index]), examples, field)


def _label_share(labels: Sequence[str], words: str, count: int) -> NDArray[np.float64]:
    """Share of the wanted words that begin a word of each label, or the other way round (plurals, stems)."""
    wanted = re.findall(r"\w\w+", words.lower())
    share = np.zeros(count)
    for index, label in enumerate(labels[:count]):
        have = re.findall(r"\w\w+", label.lower())
        hits = sum(any(h.startswith(w) or w.startswith(h) for h in have) for w in wanted)
        share[index] = hits / max(1, len(wanted))
    return share


def _activation(generation: Generation, schema: FieldSchema, model: SAEModel, words: str) -> NDArray[np.float64]:
    """What the words activate when they are encoded like a query; nothing when the field takes no text."""
    strength = np.zeros(model.dimension)
    assert isinstance(schema.spec, SAEField)
    source = generation.field(schema.spec.source)
    if isinstance(source.spec, DenseField) and source.spec.encoder:
        code = model.sae.document_codes(dense_encoder(source).encode([words], mode="query"))
        if code.nnz:
            strength[code.indices] = code.data / code.data.max()
    return strength
