"""From a caller's documents to rows: check, split, encode. Nothing is changed here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsight.errors import InvalidArgumentError
from sparsight.index.lexicon import searchable_text
from sparsight.index.metadata import validate_metadata
from sparsight.index.rows import Row, SparseRow
from sparsight.index.schema import CollectionSchema, FieldSchema, check_document_id
from sparsight.index.vectors import check_dense_rows, check_sparse_rows, csr_rows
from sparsight.retrieval.models import dense_encoder, sparse_encoder
from sparsight.types import DenseField, Document, Passage, SparseField

if TYPE_CHECKING:
    from sparsight.encoders import DenseEncoder, SparseEncoder

__all__ = ["MAX_DOCUMENTS", "MAX_TEXT", "check_documents", "check_text", "prepare_rows"]

MAX_DOCUMENTS = 100_000
"""Documents in one write."""

MAX_TEXT = 1 << 20
"""Characters of a document's title and text together."""

MAX_PASSAGES = 1_024
_DOCUMENT_KEYS = {item.name for item in dataclasses.fields(Document)}


def check_text(text: Any, place: str, limit: int = MAX_TEXT) -> str:
    """``text`` itself, if it is a string of valid Unicode that is not too long."""
    if not isinstance(text, str):
        raise InvalidArgumentError(f"expected a string, got {type(text).__name__}", field=place)
    if len(text) > limit:
        raise InvalidArgumentError(
            f"a text is at most {limit:,} characters; got {len(text):,}", field=place, reason="TEXT_TOO_LONG"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(
            f"expected valid Unicode; got a lone surrogate at {error.start}", field=place
        ) from error
    return text


def check_documents(documents: Iterable[Document | Mapping[str, Any]]) -> list[Document]:
    """Documents with their ids, texts and metadata checked; ids are unique within the write."""
    if isinstance(documents, (str, bytes, Mapping, Document)):
        raise InvalidArgumentError(f"expected a list of documents, got {type(documents).__name__}", field="documents")
    checked: list[Document] = []
    seen: dict[str, int] = {}
    for position, item in enumerate(documents):
        place = f"documents[{position}]"
        if position >= MAX_DOCUMENTS:
            raise InvalidArgumentError(f"one write takes at most {MAX_DOCUMENTS:,} documents", field="documents")
        document = _from_mapping(item, place) if isinstance(item, Mapping) else item
        if not isinstance(document, Document):
            raise InvalidArgumentError(f"expected a document, got {type(document).__name__}", field=place)
        check_document_id(document.id, f"{place}.id")
        if document.id in seen:
            raise InvalidArgumentError(
                f"id {document.id!r:.80} is there twice (also documents[{seen[document.id]}])",
                field=f"{place}.id",
                reason="DUPLICATE_ID",
            )
        seen[document.id] = position
        check_text(document.title, f"{place}.title")
        check_text(document.text, f"{place}.text")
        validate_metadata(document.metadata, field=f"{place}.metadata")
        checked.append(document)
    if not checked:
        raise InvalidArgumentError("expected at least one document, got none", field="documents")
    return checked


def _from_mapping(item: Mapping[str, Any], place: str) -> Document:
    unknown = set(item) - _DOCUMENT_KEYS
    if unknown or "id" not in item:
        keys = ", ".join(sorted(_DOCUMENT_KEYS - {"version"}))
        what = f"unknown key {sorted(map(str, unknown))[0]!r:.80}" if unknown else "no id"
        raise InvalidArgumentError(f"a document has the keys {keys}; got {what}", field=place)
    return Document(**item)


def prepare_rows(schema: CollectionSchema, documents: Sequence[Document]) -> tuple[list[Row], int]:
    """Rows ready to be written, and how many zero weights were dropped.

    Fields with an encoder are encoded from text where a document brings no vector; all texts of the write go
    through an encoder together.

    Raises
    ------
    InvalidArgumentError, InvalidVectorError
        With the path of what is wrong.
    """
    rows, brought = [], []
    for position, document in enumerate(documents):
        row, passages = _row(schema, document, position)
        rows.append(row)
        brought.append(passages)
    dropped = _take_vectors(schema, rows, brought)
    for field in schema.fields:
        if isinstance(field.spec, SparseField) and field.spec.encoder:
            _encode_sparse(field, rows, schema.passages.max_tokens)
        elif isinstance(field.spec, DenseField) and field.spec.encoder:
            _encode_dense(field, rows, schema.passages.max_tokens)
    return rows, dropped


def _row(schema: CollectionSchema, document: Document, position: int) -> tuple[Row, Sequence[Passage]]:
    """A document's row without vectors, and the passages whose vectors it brings."""
    passages: Sequence[Passage] = document.passages
    row = Row(document.id, title=document.title, text=document.text, metadata=dict(document.metadata))
    if passages:
        passages, place = list(passages), f"documents[{position}].passages"
        if document.vectors or document.text:
            raise InvalidArgumentError("a document has either passages or text and vectors of its own", field=place)
        if len(passages) > MAX_PASSAGES:
            raise InvalidArgumentError(
                f"a document has at most {MAX_PASSAGES} passages; got {len(passages)}", field=place
            )
        _take_passages(row, passages, place)
    elif document.vectors:
        passages = (Passage(document.text, document.vectors),)
        row.spans = [(0, len(row.text))]
    else:
        row.spans = split_text(schema, row.title, row.text)
    return row, passages


def _take_passages(row: Row, passages: Sequence[Passage], place: str) -> None:
    """Join the passages' texts into one and remember where each lies."""
    parts: list[str] = []
    spans: list[tuple[int, int]] = []
    end = 0
    for number, passage in enumerate(passages):
        if not isinstance(passage, Passage):
            raise InvalidArgumentError(f"expected a passage, got {type(passage).__name__}", field=f"{place}[{number}]")
        text = check_text(passage.text, f"{place}[{number}].text")
        start = end + 2 if parts else 0
        spans.append((start, start + len(text)))
        parts.append(text)
        end = start + len(text)
    row.text, row.spans = "\n\n".join(parts), spans
    check_text(row.text, place)


def _take_vectors(schema: CollectionSchema, rows: Sequence[Row], brought: Sequence[Sequence[Passage]]) -> int:
    """Ready vectors into the rows, a field at a time; returns how many zero weights were dropped.

    A field has a vector in every passage of a document or in none.
    """
    positions: dict[str, list[int]] = {}  # documents with vectors of a field
    for position, passages in enumerate(brought):
        for name in passages[0].vectors if len(passages) == 1 else {name for p in passages for name in p.vectors}:
            positions.setdefault(name, []).append(position)
    dropped = 0
    for name, chosen in positions.items():
        field = schema.field(name)
        if field is None or not isinstance(field.spec, SparseField | DenseField):
            kinds = ", ".join(item.name for item in schema.fields if item.kind in ("sparse", "dense")) or "none"
            raise InvalidArgumentError(
                f"no field {name!r:.80} takes vectors; those that do: {kinds}",
                field=f'documents[{chosen[0]}].vectors["{name:.80}"]',
                reason="UNKNOWN_FIELD",
            )
        dropped += _take_field(field, [rows[at] for at in chosen], [brought[at] for at in chosen], chosen)
    return dropped


def _take_field(
    field: FieldSchema, rows: Sequence[Row], brought: Sequence[Sequence[Passage]], positions: Sequence[int]
) -> int:
    """The vectors of one field into the rows that have them."""
    name = field.name
    ends = np.cumsum([len(passages) for passages in brought])

    def place(number: int) -> str:
        at = int(np.searchsorted(ends, number, side="right"))
        passage = f".passages[{number - int(ends[at]) + len(brought[at])}]" if len(brought[at]) > 1 else ""
        return f'documents[{positions[at]}]{passage}.vectors["{name}"]'

    each = [passage for passages in brought for passage in passages]
    for number, passage in enumerate(each):
        if name not in passage.vectors:
            raise InvalidArgumentError(
                "a field has a vector in every passage of a document or in none", field=place(number)
            )
    vectors = [passage.vectors[name] for passage in each]
    bounds = list(zip([0, *ends.tolist()], ends.tolist(), strict=False))
    if isinstance(field.spec, SparseField):
        entries, dropped = check_sparse_rows(vectors, field, place)
        if limit := field.spec.max_terms:
            entries = [_keep_largest(entry, limit) for entry in entries]
        for row, (start, stop) in zip(rows, bounds, strict=True):
            row.sparse[name] = entries[start:stop]
        return dropped
    matrix = check_dense_rows(vectors, field, place)
    for row, (start, stop) in zip(rows, bounds, strict=True):
        row.dense[name] = matrix[start:stop]
    return 0


def _keep_largest(entry: SparseRow, count: int) -> SparseRow:
    if not count or len(entry.term_ids) <= count:
        return entry
    kept = np.sort(np.lexsort((entry.term_ids, -entry.values))[:count])
    return SparseRow(entry.term_ids[kept], entry.values[kept])


def split_text(schema: CollectionSchema, title: str, text: str) -> list[tuple[int, int]]:
    """Passages of a text, measured by the first encoder of the collection; one passage when it has none.

    A passage is never longer than the shortest input that one of the encoders takes.
    """
    encoders = [
        sparse_encoder(field) if field.kind == "sparse" else dense_encoder(field)
        for field in schema.fields
        if isinstance(field.spec, SparseField | DenseField) and field.spec.encoder
    ]
    if not encoders:
        return [(0, len(text))]
    from sparsight.encoders import split_passages

    longest = min([schema.passages.max_tokens, *(encoder.max_tokens for encoder in encoders)])
    return split_passages(text, title, dataclasses.replace(schema.passages, max_tokens=longest), encoders[0].tokenizer)


def passage_texts(rows: Sequence[Row], encoder: SparseEncoder | DenseEncoder, max_tokens: int) -> list[str]:
    """What is encoded for each passage: the title, clipped if it is very long, before the text."""
    from sparsight.encoders import clip_title

    limit = min(max_tokens, encoder.max_tokens)
    titles = {title: clip_title(title, limit, encoder.tokenizer) for title in {row.title for row in rows}}
    return [searchable_text(titles[row.title], row.passage_text(p)) for row in rows for p in range(row.passages)]


def _encode_sparse(field: FieldSchema, rows: Sequence[Row], max_tokens: int) -> None:
    wanting = [row for row in rows if field.name not in row.sparse]
    if not wanting:
        return
    assert isinstance(field.spec, SparseField)
    encoder = sparse_encoder(field)
    texts = passage_texts(wanting, encoder, max_tokens)
    encoded = csr_rows(encoder.encode(texts, mode="document", max_terms=field.spec.max_terms, max_tokens=max_tokens))
    start = 0
    for row in wanting:
        row.sparse[field.name] = encoded[start : start + row.passages]
        start += row.passages


def _encode_dense(field: FieldSchema, rows: Sequence[Row], max_tokens: int) -> None:
    """Texts to vectors. Documents without any text get no vector: an empty text has no meaning to compare."""
    wanting = [row for row in rows if field.name not in row.dense and (row.text.strip() or row.title.strip())]
    if not wanting:
        return
    encoder = dense_encoder(field)
    encoded = encoder.encode(passage_texts(wanting, encoder, max_tokens), mode="document", max_tokens=max_tokens)
    start = 0
    for row in wanting:
        row.dense[field.name] = encoded[start : start + row.passages]
        start += row.passages
