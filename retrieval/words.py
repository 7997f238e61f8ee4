"""Which words of a document's passage fired a feature."""

from __future__ import annotations

from collections.abc import Sequence

from sparsight.errors import InvalidArgumentError, UnknownDocumentError
from sparsight.index.generation import Generation
from sparsight.index.schema import check_document_id
from sparsight.index.store import CollectionStore
from sparsight.retrieval.features import check_count, feature_of
from sparsight.retrieval.models import dense_encoder
from sparsight.retrieval.preparation import passage_texts
from sparsight.retrieval.steering import check_feature, sae_of
from sparsight.types import FeatureWords, SAEField

__all__ = ["MAX_FEATURES", "words_of"]

MAX_FEATURES = 64


def words_of(store: CollectionStore, generation: Generation, id: str, features: Sequence[int], passage: int, field: str,
             count: int) -> tuple[FeatureWords, ...]:
    """The most telling words of a passage for each of some features; one pass of the encoder.

    By :func:`sparsight.encoders.sae.attribution.attribute`.

    Raises
    ------
    UnknownDocumentError, UnknownFeatureError, UnknownFieldError
    InvalidArgumentError, InvalidQueryError
        Too many features, no such passage, or no SAE field.
    FailedPreconditionError
        The field takes ready vectors: what made them is not known.
    """
    from sparsight.encoders.sae.attribution import attribute

    check_count(count)
    schema, model = sae_of(generation, field)
    assert isinstance(schema.spec, SAEField)
    if isinstance(features, str) or not 1 <= len(features) <= MAX_FEATURES:
        raise InvalidArgumentError(f"expected 1 to {MAX_FEATURES} features, got {len(features)}", field="features")
    for position, feature in enumerate(features):
        check_feature(schema, model, feature, f"features[{position}]")
    rows = store.rows([check_document_id(id)])
    if not rows:
        raise UnknownDocumentError(f"the collection has no document {id!r:.80}", field="id", id=id[:80])
    if isinstance(passage, bool) or not isinstance(passage, int) or not 0 <= passage < rows[0].passages:
        raise InvalidArgumentError(f"document {id!r:.80} has passages 0 to {rows[0].passages - 1}; got {passage!r:.80}",
                                   field="passage")
    embedder, limit = dense_encoder(generation.field(schema.spec.source)), generation.schema.passages.max_tokens
    text = passage_texts(rows, embedder, limit)[passage]
    begins = len(text) - len(rows[0].passage_text(passage))
    (found,) = attribute([text], [list(features)], embedder=embedder, sae=model.sae, max_tokens=limit)
    return tuple(FeatureWords(feature_of(generation, model, schema.name, feature), text,
                              tuple(found.top(at, count)), float(found.total[at]), begins)
                 for at, feature in enumerate(features))
