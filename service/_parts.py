"""Calls that are too large for one message: how they are cut, and how their answers and errors are put together.

Also the shape of a client's call: a generator that yields requests, see :mod:`sparsight.service._calls`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

from google.protobuf.message import Message

from sparsight.errors import InvalidArgumentError, SparsightError
from sparsight.service.convert_documents import document_to_proto
from sparsight.service.limits import MAX_MESSAGE_BYTES, PART_BYTES
from sparsight.types import Document
from sparsight.v1 import documents_pb2

__all__ = [
    "PART_IDS",
    "PART_QUERIES",
    "SEARCH_SECONDS",
    "Rpc",
    "Steps",
    "call",
    "document_parts",
    "in_parts",
    "moved",
    "part_id",
]

SEARCH_SECONDS = 10.0
"""Default deadline of what a person waits for: searches, reads, descriptions."""

_PART_DOCUMENTS = 10_000
PART_IDS = 1_000
PART_QUERIES = 1_024
_ROOM_BYTES = 64 * 1024  # for what stands in a request beside its documents
_DOCUMENT_KEYS = {item.name for item in dataclasses.fields(Document)}

T = TypeVar("T")


class Rpc(NamedTuple):
    """One request on its way: the method's full name, the messages, and the default deadline in seconds."""

    method: str
    request: Message
    response: type[Message]
    seconds: float = SEARCH_SECONDS


Steps: TypeAlias = Generator[Rpc, Any, T]


def call(service: str, method: str, request: Message, response: type[Message], seconds: float = SEARCH_SECONDS) -> Rpc:
    """A request to one of our services."""
    return Rpc(f"sparsight.v1.{service}/{method}", request, response, seconds)


def document_parts(
    documents: Iterable[Document | Mapping[str, Any]],
) -> Iterator[tuple[int, list[documents_pb2.Document]]]:
    """Position of the first document and the messages of each part; one empty part when there are no documents."""
    if isinstance(documents, (str, bytes, Mapping, Document)):
        raise InvalidArgumentError(f"expected a list of documents, got {type(documents).__name__}", field="documents")
    part: list[documents_pb2.Document] = []
    start, size, position = 0, 0, -1
    seen: dict[str, int] = {}
    for position, item in enumerate(documents):
        place = f"documents[{position}]"
        message = document_to_proto(as_document(item, place), place)
        if (first := seen.setdefault(message.id, position)) != position:
            # Within a part the server would see it; across parts the second would silently replace the first.
            raise InvalidArgumentError(
                f"id {message.id!r:.80} is there twice (also documents[{first}])",
                field=f"{place}.id",
                reason="DUPLICATE_ID",
            )
        bytes_ = message.ByteSize()
        if bytes_ > MAX_MESSAGE_BYTES - _ROOM_BYTES:
            raise InvalidArgumentError(
                f"a document has at most {MAX_MESSAGE_BYTES - _ROOM_BYTES} bytes; got {bytes_}",
                field=place,
                reason="DOCUMENT_TOO_LARGE",
                received=bytes_,
            )
        if part and (size + bytes_ > PART_BYTES or len(part) == _PART_DOCUMENTS):
            yield start, part
            part, start, size = [], position, 0
        part.append(message)
        size += bytes_
    if part or position < 0:
        yield start, part


def as_document(item: Document | Mapping[str, Any], path: str) -> Document:
    """A document, or the document that a mapping of its parts describes."""
    if isinstance(item, Mapping):
        unknown = sorted(map(str, set(item) - _DOCUMENT_KEYS))
        if unknown or "id" not in item:
            keys = ", ".join(sorted(_DOCUMENT_KEYS - {"version"}))
            what = f"unknown key {unknown[0]!r:.80}" if unknown else "no id"
            raise InvalidArgumentError(f"a document has the keys {keys}; got {what}", field=path)
        return Document(**item)
    if not isinstance(item, Document):
        raise InvalidArgumentError(f"expected a document, got {type(item).__name__}", field=path)
    return item


def part_id(base: str, number: int) -> str:
    """Request id of a part: the caller's own for the first, so that a write that fits into one part has just that."""
    if not number:
        return base
    stem = base if len(base) <= 100 else hashlib.sha256(base.encode()).hexdigest()  # the server takes up to 128
    return f"{stem}/{number}"


def in_parts(
    name: str, items: Sequence[T], size_of: Callable[[T], int], most: int, rpc: Callable[[Sequence[T]], Rpc]
) -> Steps[list[Any]]:
    """Answers to ``rpc`` over parts of ``items`` that fit into messages; at least one request is made.

    A part whose answer turns out too large is halved. Positions ``name[i]`` in errors become those of the whole list.
    """
    waiting = list(_cut(items, size_of, most))[::-1] or [(0, items)]
    answers = []
    while waiting:
        start, part = waiting.pop()
        try:
            answers.append((yield rpc(part)))
        except SparsightError as error:
            if error.reason != "RESPONSE_TOO_LARGE" or len(part) < 2:
                raise moved(error, name, start, alone=len(part) == 1 < len(items)) from None
            middle = len(part) // 2
            waiting += [(start + middle, part[middle:]), (start, part[:middle])]
    return answers


def _cut(items: Sequence[T], size_of: Callable[[T], int], most: int) -> Iterator[tuple[int, Sequence[T]]]:
    start, size = 0, 0
    for position, item in enumerate(items):
        added = size_of(item)
        if position > start and (size + added > PART_BYTES or position - start == most):
            yield start, items[start:position]
            start, size = position, 0
        size += added
    if len(items) > start:
        yield start, items[start:]


def moved(error: SparsightError, name: str, start: int, *, alone: bool = False) -> SparsightError:
    """The error with the position in its path counted from the start of the caller's list.

    ``alone``: the part was one query of several, for which the engine leaves the position out.
    """
    found = re.match(rf"{name}\[(\d+)\]", error.field)
    if found:
        error.field = f"{name}[{int(found[1]) + start}]{error.field[found.end() :]}"
    elif alone and name == "queries" and error.field:
        error.field = f"{name}[{start}].{error.field}"
    return error
