"""What a collection's methods take and give besides values of :mod:`sparsight.types`: ids, pages, request ids, rows."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgpack
import numpy as np

from sparsight.errors import InvalidArgumentError
from sparsight.index import filters
from sparsight.index.jobs import WriteAnswer
from sparsight.index.rows import Row
from sparsight.index.schema import check_document_id
from sparsight.retrieval.planning import MAX_QUERY_TEXT
from sparsight.retrieval.preparation import check_text
from sparsight.types import Document, Passage, SparseVector, Vector, WriteResult

__all__ = [
    "MAX_IDS",
    "MAX_PAGE",
    "STORED",
    "canonical",
    "check_ids",
    "check_include",
    "check_request_id",
    "digest_of",
    "document_of",
    "make_token",
    "page_size_of",
    "parse_filter",
    "read_token",
    "write_result",
]

MAX_IDS = 10_000
MAX_PAGE = 1_000
STORED = ("title", "text", "metadata")


def digest_of(value: Any) -> str:
    """A digest of nested plain values."""
    return hashlib.sha256(msgpack.packb(value)).hexdigest()


def canonical(value: Any) -> Any:
    """A document as nested lists that do not depend on the order of keys (protobuf maps have none) nor on dtypes."""
    if isinstance(value, Document | Passage):
        return [[item.name, canonical(getattr(value, item.name))] for item in dataclasses.fields(value)]
    if isinstance(value, SparseVector):
        order = np.argsort(np.asarray(value.indices), kind="stable")
        return [np.asarray(value.indices)[order].tolist(), np.asarray(value.values, np.float32)[order].tolist()]
    if isinstance(value, np.ndarray):
        return np.asarray(value, np.float32).tolist()
    if isinstance(value, Mapping):
        return [[str(key), canonical(value[key])] for key in sorted(value, key=str)]
    if isinstance(value, (list, tuple)):
        return [canonical(item) for item in value]
    return value


def write_result(answer: WriteAnswer, dropped: int) -> WriteResult:
    """What a write did, as its caller is told."""
    return WriteResult(answer.upserted, answer.replaced, answer.deleted, answer.version, dropped, answer.saturated)


def check_request_id(request_id: str) -> str:
    """The id, if it may be one; InvalidArgumentError otherwise."""
    if (
        not isinstance(request_id, str)
        or len(request_id) > 128
        or not request_id.isascii()
        or not request_id.isprintable()
    ):
        raise InvalidArgumentError(
            f"a request id is at most 128 printable ASCII characters; got {request_id!r:.80}", field="request_id"
        )
    return request_id


def check_ids(ids: Iterable[str]) -> list[str]:
    """Ids as a list; InvalidArgumentError with the path of one that is wrong, or if they are too many."""
    if isinstance(ids, str):
        raise InvalidArgumentError("expected a list of ids, got a string", field="ids")
    wanted = list(ids)
    if len(wanted) > MAX_IDS:
        raise InvalidArgumentError(f"a call takes at most {MAX_IDS:,} ids; got {len(wanted):,}", field="ids")
    return [check_document_id(id, f"ids[{position}]") for position, id in enumerate(wanted)]


def check_include(include: Sequence[str]) -> frozenset[str]:
    """Parts of documents that are asked for; InvalidArgumentError if there is no such part."""
    for part in include:
        if part not in (*STORED, "vectors"):
            raise InvalidArgumentError(
                f"include takes title, text, metadata, vectors; got {part!r:.80}", field="include"
            )
    return frozenset(include)


def parse_filter(filter: str) -> filters.Node | None:
    """The filter, None for none; InvalidFilterError where it is wrong."""
    check_text(filter, "filter", MAX_QUERY_TEXT)
    return filters.parse(filter) if filter.strip() else None


def page_size_of(size: int, default: int) -> int:
    """The size of a page: the default for 0, at most 1,000; InvalidArgumentError if it is none."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise InvalidArgumentError(f"a page size is not negative; got {size!r:.80}", field="page_size")
    return min(size or default, MAX_PAGE)


def make_token(position: int, bound_to: str) -> str:
    """Token of the page that begins at a position, bound to the other arguments of its list."""
    return base64.urlsafe_b64encode(json.dumps([position, digest_of(bound_to)[:16]]).encode()).decode()


def read_token(token: str, bound_to: str) -> int:
    """The position that a token stands for, 0 for none; InvalidArgumentError if it is not one for these arguments."""
    if not token:
        return 0
    try:
        position, digest = json.loads(base64.urlsafe_b64decode(token.encode("ascii", "strict")))
        if isinstance(position, int) and position >= 0 and digest == digest_of(bound_to)[:16]:
            return position
    except (ValueError, TypeError):
        pass
    raise InvalidArgumentError("the page token is not one of ours, or belongs to other arguments", field="page_token")


def document_of(row: Row, parts: frozenset[str]) -> Document:
    """A document of a row, with the parts that are asked for."""
    vectors: dict[str, Vector] = {}
    if "vectors" in parts and row.passages == 1:
        vectors = {name: SparseVector(entries[0].term_ids, entries[0].values) for name, entries in row.sparse.items()}
        vectors |= {name: matrix[0] for name, matrix in row.dense.items()}
    document = Document(
        row.id,
        text=row.text if "text" in parts else "",
        title=row.title if "title" in parts else "",
        metadata=row.metadata if "metadata" in parts else {},
        vectors=vectors,
        version=row.seq,
    )
    if "vectors" in parts and row.passages > 1:
        passages = [
            Passage(
                row.passage_text(p),
                {name: SparseVector(entries[p].term_ids, entries[p].values) for name, entries in row.sparse.items()}
                | {name: matrix[p] for name, matrix in row.dense.items()},
            )
            for p in range(row.passages)
        ]
        return dataclasses.replace(document, passages=tuple(passages))
    return document
