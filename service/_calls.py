"""Both clients' calls without their sending: requests made from arguments, results made from responses.

Every method is a generator that yields :class:`Rpc` s, is sent their responses (or thrown their errors) and returns the
method's result. The clients only drive them, one with blocking calls, one with ``await``; what a call means stands here
once.
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import (
    InvalidArgumentError,
    InvalidQueryError,
    SparsightError,
)
from sparsight.service._parts import (
    PART_IDS,
    PART_QUERIES,
    Rpc,
    Steps,
    call,
    document_parts,
    in_parts,
    moved,
    part_id,
)
from sparsight.service.convert import enum_to_proto, integer, sparse_from_proto, text
from sparsight.service.convert_collections import (
    collection_resource,
    field_to_proto,
    info_from_proto,
    passages_to_proto,
)
from sparsight.service.convert_documents import (
    document_from_proto,
    include_to_proto,
    page_from_proto,
    write_from_proto,
)
from sparsight.service.convert_queries import query_to_proto
from sparsight.service.convert_results import result_from_proto
from sparsight.types import (
    CollectionInfo,
    Document,
    Field,
    Page,
    PassageSpec,
    Query,
    SearchResult,
    SparseVector,
    VerifyReport,
    WriteResult,
)
from sparsight.v1 import collections_pb2, documents_pb2, encoding_pb2, search_pb2

BATCH_SECONDS = 120.0
"""Default deadline of writes, batches, encoding and maintenance."""

VERIFY_SECONDS = 3600.0
"""Default deadline of verifying, which reads all of a collection."""

_MODES = {"document": encoding_pb2.ENCODE_MODE_DOCUMENT, "query": encoding_pb2.ENCODE_MODE_QUERY}


# --- collections ------------------------------------------------------------------------------------------


def create_collection(name: str, fields: Sequence[Field] | None, passages: PassageSpec, exist_ok: bool) -> Steps[str]:
    """The name of the new collection."""
    if fields is not None and not fields:
        raise InvalidArgumentError("a collection has 1 to 32 fields; got 0", field="fields")
    collection = collections_pb2.Collection(
        fields=[field_to_proto(field, f"fields[{position}]") for position, field in enumerate(fields or ())],
        passages=passages_to_proto(passages),
    )
    request = collections_pb2.CreateCollectionRequest(
        collection_id=text(name, "name"), collection=collection, exist_ok=bool(exist_ok)
    )
    response = collections_pb2.CreateCollectionResponse
    # Longer than other descriptions: a field's encoder may have to be fetched and loaded first.
    made = yield call("CollectionService", "CreateCollection", request, response, BATCH_SECONDS)
    return info_from_proto(made.collection).name


def info(name: str) -> Steps[CollectionInfo]:
    request = collections_pb2.GetCollectionRequest(name=collection_resource(name))
    answer = yield call("CollectionService", "GetCollection", request, collections_pb2.GetCollectionResponse)
    return info_from_proto(answer.collection)


def list_collections() -> Steps[list[CollectionInfo]]:
    found: list[CollectionInfo] = []
    token = ""
    while True:
        request = collections_pb2.ListCollectionsRequest(page_size=1000, page_token=token)
        page = yield call("CollectionService", "ListCollections", request, collections_pb2.ListCollectionsResponse)
        found.extend(map(info_from_proto, page.collections))
        if not (token := page.next_page_token):
            return found


def drop_collection(name: str) -> Steps[None]:
    request = collections_pb2.DeleteCollectionRequest(name=collection_resource(name))
    yield call(
        "CollectionService", "DeleteCollection", request, collections_pb2.DeleteCollectionResponse, BATCH_SECONDS
    )


def flush(collection: str) -> Steps[None]:
    request = collections_pb2.FlushCollectionRequest(name=collection_resource(collection))
    yield call("CollectionService", "FlushCollection", request, collections_pb2.FlushCollectionResponse, BATCH_SECONDS)


def verify(collection: str) -> Steps[VerifyReport]:
    request = collections_pb2.VerifyCollectionRequest(name=collection_resource(collection))
    answer = yield call(
        "CollectionService", "VerifyCollection", request, collections_pb2.VerifyCollectionResponse, VERIFY_SECONDS
    )
    return VerifyReport(answer.document_count, answer.segment_count, answer.byte_count, tuple(answer.faults))


# --- documents --------------------------------------------------------------------------------------------


def upsert(collection: str, documents: Iterable[Document | Mapping[str, Any]], request_id: str) -> Steps[WriteResult]:
    """Write documents in parts of at most 8 MiB, each atomic by itself and each with a request id of its own."""
    parent, base = collection_resource(collection, "collection"), _request_id(request_id)
    total = WriteResult()
    for part, (start, messages) in enumerate(document_parts(documents)):
        request = documents_pb2.UpsertDocumentsRequest(
            parent=parent, documents=messages, request_id=part_id(base, part)
        )
        try:
            answer = yield call(
                "DocumentService", "UpsertDocuments", request, documents_pb2.UpsertDocumentsResponse, BATCH_SECONDS
            )
        except SparsightError as error:
            if total.upserted:
                error.details["documents_written"] = str(total.upserted)
            raise moved(error, "documents", start) from None
        total = _sum(total, write_from_proto(answer.summary))
    return total


def delete(collection: str, ids: Iterable[str], filter: str, request_id: str) -> Steps[WriteResult]:
    if isinstance(ids, str):
        raise InvalidArgumentError("expected ids, got one string", field="ids")
    request = documents_pb2.DeleteDocumentsRequest(
        parent=collection_resource(collection, "collection"),
        ids=[text(id, f"ids[{position}]") for position, id in enumerate(ids)],
        filter=text(filter, "filter"),
        request_id=_request_id(request_id),
    )
    answer = yield call(
        "DocumentService", "DeleteDocuments", request, documents_pb2.DeleteDocumentsResponse, BATCH_SECONDS
    )
    return write_from_proto(answer.summary)


def get(collection: str, id: str, include: Sequence[str]) -> Steps[Document]:
    request = documents_pb2.GetDocumentRequest(
        parent=collection_resource(collection, "collection"), id=text(id, "id"), include=include_to_proto(include)
    )
    answer = yield call("DocumentService", "GetDocument", request, documents_pb2.GetDocumentResponse)
    return document_from_proto(answer.document)


def get_many(collection: str, ids: Iterable[str], include: Sequence[str]) -> Steps[list[Document]]:
    if isinstance(ids, str):
        raise InvalidArgumentError("expected ids, got one string", field="ids")
    parent, mask = collection_resource(collection, "collection"), include_to_proto(include)
    wanted = [text(id, f"ids[{position}]") for position, id in enumerate(ids)]

    def rpc(part: Sequence[str]) -> Rpc:
        request = documents_pb2.BatchGetDocumentsRequest(parent=parent, ids=part, include=mask)
        return call("DocumentService", "BatchGetDocuments", request, documents_pb2.BatchGetDocumentsResponse)

    answers = yield from in_parts("ids", wanted, lambda id: 4 * len(id), PART_IDS, rpc)
    return [document_from_proto(item) for answer in answers for item in answer.documents]


def count(collection: str, filter: str) -> Steps[int]:
    request = documents_pb2.CountDocumentsRequest(
        parent=collection_resource(collection, "collection"), filter=text(filter, "filter")
    )
    answer = yield call("DocumentService", "CountDocuments", request, documents_pb2.CountDocumentsResponse)
    return int(answer.count)


def scroll(collection: str, filter: str, page_size: int, page_token: str, include: Sequence[str]) -> Steps[Page]:
    request = documents_pb2.ListDocumentsRequest(
        parent=collection_resource(collection, "collection"),
        filter=text(filter, "filter"),
        page_size=integer(page_size, "page_size", bits=32),
        page_token=text(page_token, "page_token"),
        include=include_to_proto(include),
    )
    return page_from_proto(
        (yield call("DocumentService", "ListDocuments", request, documents_pb2.ListDocumentsResponse))
    )


def _sum(a: WriteResult, b: WriteResult) -> WriteResult:
    return WriteResult(
        a.upserted + b.upserted,
        a.replaced + b.replaced,
        a.deleted + b.deleted,
        b.version,
        a.dropped_weights + b.dropped_weights,
        a.saturated_weights + b.saturated_weights,
    )


def _request_id(given: str) -> str:
    # One of our own where the caller gave none: a retry after a lost answer must not count as a second write.
    return text(given, "request_id") or uuid.uuid4().hex


# --- search -----------------------------------------------------------------------------------------------


def as_query(item: Query | str, overrides: Mapping[str, Any]) -> Query:
    """A query of a text or a query, with some of its fields replaced."""
    query = Query(text=item) if isinstance(item, str) else item
    if not isinstance(query, Query):
        raise InvalidQueryError(f"expected a query or a string, got {type(item).__name__}", field="query")
    try:
        return dataclasses.replace(query, **overrides) if overrides else query
    except TypeError as error:
        raise InvalidQueryError(f"unknown search argument: {error}", field="query") from error


def search(collection: str, query: Query | str, overrides: Mapping[str, Any]) -> Steps[SearchResult]:
    started = time.perf_counter()
    request = search_pb2.SearchRequest(
        parent=collection_resource(collection, "collection"), query=query_to_proto(as_query(query, overrides))
    )
    answer = yield call("SearchService", "Search", request, search_pb2.SearchResponse)
    return result_from_proto(answer.result, 1000 * (time.perf_counter() - started))


def batch_search(
    collection: str, queries: Sequence[Query | str], overrides: Mapping[str, Any]
) -> Steps[list[SearchResult]]:
    """Search in parts of at most 8 MiB and 1,024 queries; each part sees one state of the collection."""
    parent, started = collection_resource(collection, "collection"), time.perf_counter()
    if isinstance(queries, (str, Query)):
        raise InvalidArgumentError(f"expected a list of queries, got {type(queries).__name__}", field="queries")
    messages = [
        query_to_proto(as_query(item, overrides), f"queries[{position}].") for position, item in enumerate(queries)
    ]

    def rpc(part: Sequence[search_pb2.Query]) -> Rpc:
        request = search_pb2.BatchSearchRequest(parent=parent, queries=part)
        return call("SearchService", "BatchSearch", request, search_pb2.BatchSearchResponse, BATCH_SECONDS)

    answers = yield from in_parts("queries", messages, lambda message: message.ByteSize(), PART_QUERIES, rpc)
    total_ms = 1000 * (time.perf_counter() - started)
    return [result_from_proto(result, total_ms) for answer in answers for result in answer.results]


# --- models ----------------------------------------------------------------------------------


def encode(model: str, texts: Sequence[str], mode: str) -> Steps[list[SparseVector] | NDArray[np.float32]]:
    if isinstance(texts, str):
        raise InvalidArgumentError("expected texts, got one string", field="texts")
    wanted = [text(item, f"texts[{position}]") for position, item in enumerate(texts)]
    name, number = text(model, "model"), enum_to_proto(_MODES, mode, "mode")

    def rpc(part: Sequence[str]) -> Rpc:
        request = encoding_pb2.EncodeRequest(model=name, texts=part, mode=number)
        return call("EncodingService", "Encode", request, encoding_pb2.EncodeResponse, BATCH_SECONDS)

    answers = yield from in_parts("texts", wanted, lambda item: 4 * len(item), PART_IDS, rpc)
    if answers[0].WhichOneof("vectors") == "dense":
        parts = [answer.dense for answer in answers]
        return np.concatenate([np.array(part.values, np.float32).reshape(part.rows, part.columns) for part in parts])
    return [sparse_from_proto(item) for answer in answers for item in answer.sparse.vectors]


def terms(model: str, indices: Sequence[int]) -> Steps[list[str]]:
    request = encoding_pb2.BatchGetTermsRequest(
        model=text(model, "model"),
        indices=[integer(index, f"indices[{position}]") for position, index in enumerate(indices)],
    )
    answer = yield call("EncodingService", "BatchGetTerms", request, encoding_pb2.BatchGetTermsResponse, BATCH_SECONDS)
    return list(answer.terms)
