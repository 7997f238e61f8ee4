"""Dense vectors of examples that a user names: documents of the collection, or texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import InvalidArgumentError, UnknownDocumentError
from sparsight.index.generation import Generation
from sparsight.index.schema import FieldSchema, check_document_id
from sparsight.index.store import CollectionStore
from sparsight.retrieval.features import MAX_EXAMPLES
from sparsight.retrieval.models import dense_encoder
from sparsight.retrieval.planning import MAX_QUERY_TEXT
from sparsight.retrieval.preparation import check_text
from sparsight.retrieval.steering import sae_field
from sparsight.types import SAEField

__all__ = ["described", "side", "vectors_of"]


def vectors_of(store: CollectionStore, generation: Generation, field: str, ids: Sequence[str], texts: Sequence[str],
               name: str) -> NDArray[np.float32]:
    """Vectors (B, D) behind an SAE field: of the documents' passages, then of texts.

    ``name`` is what the ids are called in errors.

    Raises
    ------
    UnknownDocumentError
        A document is not there.
    InvalidArgumentError, UnknownFieldError, FailedPreconditionError
        Too many examples, no SAE field, a document without vectors, or texts where the field takes none.
    """
    spec = sae_field(generation, field, "field").spec
    assert isinstance(spec, SAEField)
    source = generation.field(spec.source)
    for what, given in ((name, ids), (f"{name.removesuffix('s')}_texts", texts)):
        if isinstance(given, str) or len(given) > MAX_EXAMPLES:
            found = "a string" if isinstance(given, str) else f"{len(given):,}"
            raise InvalidArgumentError(f"expected a list of at most {MAX_EXAMPLES:,} examples, got {found}", field=what)
    places = [f"{name}[{position}]" for position in range(len(ids))]
    parts = [*_stored(store, source, ids, places), *_encoded(source, texts, f"{name.removesuffix('s')}_texts")]
    return np.concatenate(parts) if parts else np.zeros((0, source.dimension), np.float32)


def side(store: CollectionStore, generation: Generation, field: str, id: str, text: str, name: str
         ) -> NDArray[np.float32]:  # fmt: skip
    """Vectors (P, D) of a document's passages or of a text, none (0, D) if neither is given.

    Errors as :func:`vectors_of`, with ``name`` or ``{name}_text`` as their field.
    """
    spec = sae_field(generation, field, "field").spec
    assert isinstance(spec, SAEField)
    source = generation.field(spec.source)
    parts = _stored(store, source, [id], [name]) if id else _encoded(source, [text] if text else [], f"{name}_text")
    return parts[0] if parts else np.zeros((0, source.dimension), np.float32)


def described(generation: Generation, field: str, words: str) -> NDArray[np.float32] | None:
    """Embedding (D,) of a description, as of a query; None if there are no words.

    Errors as :func:`vectors_of`, with ``words`` as their field.
    """
    if not check_text(words, "words", MAX_QUERY_TEXT).strip():
        return None
    spec = sae_field(generation, field, "field").spec
    assert isinstance(spec, SAEField)
    row: NDArray[np.float32] = dense_encoder(generation.field(spec.source)).encode([words], mode="query")[0]
    return row


def _stored(store: CollectionStore, source: FieldSchema, ids: Sequence[str], places: Sequence[str]
            ) -> list[NDArray[np.float32]]:  # fmt: skip
    wanted = [check_document_id(id, place) for id, place in zip(ids, places, strict=True)]
    rows = {row.id: row for row in store.rows(wanted)}
    for id, place in zip(wanted, places, strict=True):
        if id not in rows:
            raise UnknownDocumentError(f"the collection has no document {id!r:.80}", field=place, id=id[:80])
        if source.name not in rows[id].dense:
            raise InvalidArgumentError(f"document {id!r:.80} has no vectors in field {source.name!r}", field=place)
    return [rows[id].dense[source.name] for id in wanted]


def _encoded(source: FieldSchema, texts: Sequence[str], name: str) -> list[NDArray[np.float32]]:
    wanted = [check_text(text, f"{name}[{position}]", MAX_QUERY_TEXT) for position, text in enumerate(texts)]
    return [dense_encoder(source).encode(wanted, mode="document")] if wanted else []
