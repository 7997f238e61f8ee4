"""Finding features of a collection's SAE: by words, from examples, beside one of them; documents compared by them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import InvalidArgumentError
from sparsight.index.generation import Generation
from sparsight.index.schema import FieldSchema
from sparsight.retrieval.models import SAEModel, dense_encoder
from sparsight.retrieval.neighbours import passages_along
from sparsight.retrieval.renaming import history_of, label_of, labels_of
from sparsight.retrieval.steering import check_feature, sae_of
from sparsight.types import (
    DenseField,
    Feature,
    FeatureDifference,
    FeatureWeight,
    LabelQuality,
    RelatedFeatures,
    SAEField,
)

if TYPE_CHECKING:
    from sparsight.encoders.sae.latent_notes import LatentNotes

__all__ = ["MAX_EXAMPLES", "check_count", "compare", "describe", "find", "from_examples", "related"]

F32 = NDArray[np.float32]
MAX_EXAMPLES = 1_000
"""Positives, and negatives, of one call."""
_ENDING = 3  # letters behind a label's word that still make it the same word
MAX_FOUND = 256
"""Features of one answer: as many as a query takes edits."""


def find(generation: Generation, words: str, field: str, part: slice) -> tuple[list[Feature], list[float], int]:
    """Part of an SAE field's features that fire at all, in order, how much the direction of each is that of the words,
    and how many features there are in all parts.

    Without words: by density, then index, and no cosines. With words: those whose label shares a word with them or
    which the words' own embedding activates, by ``share of the words in the label + cosine``; no cosines if the field
    takes no text.

    Raises
    ------
    UnknownFieldError, InvalidQueryError
        No such field, or it has no features.
    """
    schema, model = sae_of(generation, field)
    density, cosines = model.sae.density, None
    if words.strip():
        relevance = _label_share(labels_of(generation, schema.name, model), words, model.dimension)
        row = _embedding(generation, schema, words)
        if row is not None:
            way = row - model.sae.b_dec
            cosines = model.sae.W_dec @ way / max(float(np.linalg.norm(way)), 1e-12)
            active = np.zeros(model.dimension, np.bool_)
            active[model.sae.document_codes(row[None]).indices] = True
            relevance += np.where(active | (relevance > 0), np.maximum(cosines, 1e-9), 0.0)
        order = [int(f) for f in np.lexsort((np.arange(model.dimension), -density, -relevance)) if relevance[f] > 0]
    else:
        order = [int(f) for f in np.lexsort((np.arange(model.dimension), -density)) if density[f] > 0]
    return ([feature_of(generation, model, schema.name, f) for f in order[part]],
            [] if cosines is None else cosines[order[part]].tolist(), len(order))


def describe(generation: Generation, index: int, field: str) -> Feature:
    """One feature, whether it ever fired or not.

    Raises
    ------
    UnknownFeatureError, UnknownFieldError, InvalidQueryError
    """
    schema, model = sae_of(generation, field)
    check_feature(schema, model, index, "index")
    return feature_of(generation, model, schema.name, index)


def from_examples(generation: Generation, positives: F32, negatives: F32, field: str, count: int,
                  words: F32 | None = None, threads: int = 1) -> tuple[FeatureWeight, ...]:
    """Features that tell embeddings (P, D) from others (M, D), the most telling first.

    By :mod:`sparsight.encoders.sae.examples`, where ``words`` (D,) describes the positives. Negatives may be none, and
    positives where there are words. The passages that lie furthest that way count as more positives.
    """
    from sparsight.encoders.sae.examples import direction_of, direction_with, latents_towards

    schema, model = sae_of(generation, field)
    assert isinstance(schema.spec, SAEField)
    sae = model.sae
    way = direction_of(sae, positives, negatives, words)
    near = passages_along(generation, schema.spec.source, way, np.concatenate([positives, negatives]), threads)
    if len(near):
        way = direction_with(sae, near, positives, negatives)
    latents, weights = latents_towards(sae, way, check_count(count))
    share = np.bincount(sae.document_codes(positives).indices, minlength=sae.n_latents) / max(len(positives), 1)
    strengths = weights / sae.scale[latents]
    return tuple(FeatureWeight(feature_of(generation, model, schema.name, f), float(strength), float(share[f]))
                 for f, strength in zip(latents.tolist(), strengths, strict=True))


def related(generation: Generation, index: int, field: str, count: int) -> RelatedFeatures:
    """Features that fired in training whose decoder rows have the largest, and the smallest, cosine with one's."""
    schema, model = sae_of(generation, field)
    check_feature(schema, model, index, "index")
    cosines = model.sae.W_dec @ model.sae.W_dec[index]
    others = np.flatnonzero(model.sae.density > 0)
    others = others[others != index]
    order = others[np.argsort(-cosines[others], kind="stable")]

    def weighed(found: NDArray[np.int64]) -> tuple[FeatureWeight, ...]:
        return tuple(FeatureWeight(feature_of(generation, model, schema.name, f), float(cosines[f]))
                     for f in found.tolist())

    count = check_count(count)
    near, far = order[cosines[order] > 0], order[cosines[order] < 0]
    return RelatedFeatures(weighed(near[:count]), weighed(far[::-1][:count]))


def compare(generation: Generation, a: F32, b: F32, field: str, count: int) -> tuple[FeatureDifference, ...]:
    """Features of two documents' passages, (P, D) and (R, D), each by its strongest; the largest differences first."""
    schema, model = sae_of(generation, field)
    sae = model.sae
    strong = np.stack([sae.document_codes(x).max(0).toarray()[0] if len(x) else np.zeros(sae.n_latents, np.float32)
                       for x in (a, b)])
    strong = np.where(sae.scale > 0, strong / np.where(sae.scale > 0, sae.scale, 1.0), 0.0)
    active = np.flatnonzero(strong.any(0))
    order = active[np.lexsort((active, -np.abs(strong[0, active] - strong[1, active])))][:check_count(count)]
    return tuple(FeatureDifference(feature_of(generation, model, schema.name, f), *strong[:, f].tolist())
                 for f in order.tolist())


def check_count(count: int) -> int:
    """The number of features wanted, if it may be; InvalidArgumentError otherwise."""
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_FOUND:
        raise InvalidArgumentError(f"count is 1 to {MAX_FOUND}; got {count!r:.80}", field="count")
    return count


def feature_of(generation: Generation, model: SAEModel, field: str, index: int) -> Feature:
    """What is known of one feature."""
    sae = model.sae
    label, history = label_of(generation, field, model)(index), history_of(generation, field, model, index)
    examples = tuple(sae.examples[index]) if index < len(sae.examples) else ()
    own = label == (sae.labels[index] if index < len(sae.labels) else "")
    return Feature(index, label, float(sae.density[index]), float(sae.scale[index]), examples, field, history,
                   *_noted(sae.notes, index, own))


def _noted(notes: LatentNotes, index: int, own: bool
           ) -> tuple[str, LabelQuality | None, tuple[int, ...], float | None]:  # fmt: skip
    """A feature's source and quality of the label, histogram and stability; ``own``: the label is not a user's."""
    source, quality = (notes.sources[index] if notes.sources else "") if own else "user", None
    if own and len(notes.scores):
        known = (None if np.isnan(score) else float(score) for score in notes.scores[index])
        quality = LabelQuality(*known)
    histogram = tuple(notes.histogram[index].tolist()) if len(notes.histogram) else ()
    return source, quality, histogram, float(notes.stability[index]) if len(notes.stability) else None


def _label_share(labels: Sequence[str], words: str, count: int) -> NDArray[np.float64]:
    """Share of the wanted words that begin a word of each label, or go on for up to three letters behind one.

    So a beginning is enough, and plurals are found, but "sarcasm" is not by "sar".
    """
    wanted = re.findall(r"\w\w+", words.lower())
    share = np.zeros(count)
    for index, label in enumerate(labels[:count]):
        have = re.findall(r"\w\w+", label.lower())
        hits = sum(any(h.startswith(w) or (w.startswith(h) and len(w) - len(h) <= _ENDING) for h in have)
                   for w in wanted)
        share[index] = hits / max(1, len(wanted))
    return share


def _embedding(generation: Generation, schema: FieldSchema, words: str) -> F32 | None:
    """The words' embedding (D,), as of a query; None when the field takes no text."""
    assert isinstance(schema.spec, SAEField)
    source = generation.field(schema.spec.source)
    if not isinstance(source.spec, DenseField) or not source.spec.encoder:
        return None
    row: F32 = dense_encoder(source).encode([words], mode="query")[0]
    return row
