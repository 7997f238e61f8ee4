"""Documents, pages and writes across the wire; the rules are those of :mod:`sparsight.service.convert`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sparsight.errors import InvalidArgumentError
from sparsight.service.convert import (
    metadata_from_proto,
    metadata_to_proto,
    text,
    vectors_from_proto,
    vectors_to_proto,
)
from sparsight.types import Document, Page, Passage, WriteResult
from sparsight.v1 import documents_pb2

__all__ = [
    "DEFAULT_INCLUDE",
    "document_from_proto",
    "document_to_proto",
    "include_from_proto",
    "include_to_proto",
    "page_from_proto",
    "write_from_proto",
    "write_to_proto",
]

DEFAULT_INCLUDE = ("title", "text", "metadata")

_PARTS = {
    "title": documents_pb2.DOCUMENT_PART_TITLE,
    "text": documents_pb2.DOCUMENT_PART_TEXT,
    "metadata": documents_pb2.DOCUMENT_PART_METADATA,
    "passage": documents_pb2.DOCUMENT_PART_PASSAGE,
    "vectors": documents_pb2.DOCUMENT_PART_VECTORS,
}
_PART_NAMES = {number: name for name, number in _PARTS.items()}


def document_to_proto(document: Document, path: str = "document") -> documents_pb2.Document:
    """Message of a document."""
    return documents_pb2.Document(
        id=text(document.id, f"{path}.id"),
        title=text(document.title, f"{path}.title"),
        text=text(document.text, f"{path}.text"),
        metadata=metadata_to_proto(document.metadata, f"{path}.metadata") if document.metadata else None,
        vectors=vectors_to_proto(document.vectors, f"{path}.vectors"),
        passages=[
            documents_pb2.Passage(
                text=text(passage.text, f"{path}.passages[{position}].text"),
                vectors=vectors_to_proto(passage.vectors, f"{path}.passages[{position}].vectors"),
            )
            for position, passage in enumerate(document.passages)
        ],
        version=document.version,
    )


def document_from_proto(message: documents_pb2.Document, path: str = "document") -> Document:
    """Document of a message."""
    return Document(
        id=message.id,
        title=message.title,
        text=message.text,
        metadata=metadata_from_proto(message.metadata, f"{path}.metadata"),
        vectors=vectors_from_proto(message.vectors, f"{path}.vectors"),
        passages=tuple(
            Passage(passage.text, vectors_from_proto(passage.vectors, f"{path}.passages[{position}].vectors"))
            for position, passage in enumerate(message.passages)
        ),
        version=message.version,
    )


def page_from_proto(message: documents_pb2.ListDocumentsResponse) -> Page:
    """Page of a ListDocuments response."""
    documents = tuple(document_from_proto(item, f"documents[{i}]") for i, item in enumerate(message.documents))
    return Page(documents, message.next_page_token)


def include_to_proto(
    include: Iterable[str], path: str = "include", error: type[InvalidArgumentError] = InvalidArgumentError
) -> documents_pb2.DocumentMask:
    """Message of the parts to return."""
    mask = documents_pb2.DocumentMask()
    for part in include:
        if part not in _PARTS:
            raise error(f"include takes {', '.join(_PARTS)}; got {part!r:.80}", field=path)
        mask.parts.append(_PARTS[part])
    return mask


def include_from_proto(
    message: Any,
    default: Sequence[str] = DEFAULT_INCLUDE,
    path: str = "include",
    error: type[InvalidArgumentError] = InvalidArgumentError,
) -> tuple[str, ...]:
    """Parts to return, of the mask ``message.include``; ``default`` where it is absent."""
    if not message.HasField("include"):
        return tuple(default)
    for part in message.include.parts:
        if part not in _PART_NAMES:
            raise error(f"include takes {', '.join(_PARTS)}; got number {part}", field=path)
    return tuple(_PART_NAMES[part] for part in message.include.parts)


def write_to_proto(result: WriteResult) -> documents_pb2.WriteSummary:
    """Message of what a write did."""
    return documents_pb2.WriteSummary(
        upserted=result.upserted,
        replaced=result.replaced,
        deleted=result.deleted,
        version=result.version,
        dropped_weights=result.dropped_weights,
        saturated_weights=result.saturated_weights,
    )


def write_from_proto(message: documents_pb2.WriteSummary) -> WriteResult:
    """What a write did."""
    return WriteResult(
        message.upserted,
        message.replaced,
        message.deleted,
        message.version,
        message.dropped_weights,
        message.saturated_weights,
    )
