"""What each method does: a request in, the engine's call, a response out. No gRPC, no threads, no event loop here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from google.longrunning import operations_proto_pb2 as longrunning_pb2
from google.protobuf.message import Message

from sparsight.errors import InvalidArgumentError
from sparsight.service.convert import enum_from_proto, sparse_to_proto
from sparsight.service.convert_collections import (
    collection_name,
    field_from_proto,
    info_to_proto,
    operation_to_proto,
    passages_from_proto,
)
from sparsight.service.convert_documents import (
    document_from_proto,
    document_to_proto,
    include_from_proto,
    write_to_proto,
)
from sparsight.service.convert_queries import query_from_proto
from sparsight.service.convert_results import result_to_proto
from sparsight.service.dispatch import Call
from sparsight.service.handlers_features import FeatureHandlers
from sparsight.service.limits import MAX_MESSAGE_BYTES
from sparsight.service.paging import page_of, page_size_of
from sparsight.types import Field, SAEField, SparseVector
from sparsight.v1 import collections_pb2, documents_pb2, encoding_pb2, search_pb2, vectors_pb2

if TYPE_CHECKING:
    from sparsight.retrieval.engine import Collection, Database

__all__ = ["Handlers"]

MAX_IDS = 10_000

_MODES = {"document": encoding_pb2.ENCODE_MODE_DOCUMENT, "query": encoding_pb2.ENCODE_MODE_QUERY}
_FOLDER = re.compile(r"^[/\\~.]|^[A-Za-z]:|(^|[/\\])\.\.([/\\]|$)|\\|\0")


class Handlers:
    """The methods of all services over one database.

    Parameters
    ----------
    database : Database
    allow_model_folders : bool
        Whether callers may name models by folders of the server's machine. Off, since it lets them find out which
        folders there are and read what looks like a model.
    """

    def __init__(self, database: Database, *, allow_model_folders: bool = False) -> None:
        self._database = database
        self._allow_model_folders = allow_model_folders

    def table(self) -> Mapping[str, tuple[str, Callable[[Any, Call], Message]]]:
        """Class of limits and handler by ``Service/Method``."""
        return {
            "CollectionService/CreateCollection": ("admin", self.create_collection),
            "CollectionService/GetCollection": ("read", self.get_collection),
            "CollectionService/ListCollections": ("read", self.list_collections),
            "CollectionService/DeleteCollection": ("admin", self.delete_collection),
            "CollectionService/FlushCollection": ("admin", self.flush_collection),
            "CollectionService/VerifyCollection": ("admin", self.verify_collection),
            "CollectionService/CompactCollection": ("admin", self.compact_collection),
            "DocumentService/UpsertDocuments": ("write", self.upsert_documents),
            "DocumentService/GetDocument": ("read", self.get_document),
            "DocumentService/BatchGetDocuments": ("read", self.batch_get_documents),
            "DocumentService/CountDocuments": ("read", self.count_documents),
            "DocumentService/ListDocuments": ("read", self.list_documents),
            "DocumentService/DeleteDocuments": ("write", self.delete_documents),
            "SearchService/Search": ("search", self.search),
            "SearchService/BatchSearch": ("search", self.batch_search),
            "EncodingService/Encode": ("encode", self.encode),
            "EncodingService/BatchGetTerms": ("read", self.batch_get_terms),
            **FeatureHandlers(self._database).table(),
        }

    # --- collections --------------------------------------------------------------------------------------

    def create_collection(self, request: collections_pb2.CreateCollectionRequest, call: Call) -> Message:
        asked = request.collection
        fields = [field_from_proto(item, f"fields[{position}]") for position, item in enumerate(asked.fields)]
        for position, field in enumerate(fields):
            self._check_models(field, f"fields[{position}]")
        made = self._database.create_collection(
            request.collection_id,
            fields or None,
            passages=passages_from_proto(asked.passages),
            exist_ok=request.exist_ok,
        )
        return collections_pb2.CreateCollectionResponse(collection=info_to_proto(made.info()))

    def get_collection(self, request: collections_pb2.GetCollectionRequest, call: Call) -> Message:
        info = self._collection(request.name, "name").info()
        return collections_pb2.GetCollectionResponse(collection=info_to_proto(info))

    def list_collections(self, request: collections_pb2.ListCollectionsRequest, call: Call) -> Message:
        size = page_size_of(request.page_size, 100)
        infos, token = page_of(
            self._database.list_collections(), lambda info: info.name, size, request.page_token, "collections"
        )
        return collections_pb2.ListCollectionsResponse(
            collections=[info_to_proto(info) for info in infos], next_page_token=token
        )

    def delete_collection(self, request: collections_pb2.DeleteCollectionRequest, call: Call) -> Message:
        self._database.drop_collection(collection_name(request.name, "name"))
        return collections_pb2.DeleteCollectionResponse()

    def flush_collection(self, request: collections_pb2.FlushCollectionRequest, call: Call) -> Message:
        self._collection(request.name, "name").flush()
        return collections_pb2.FlushCollectionResponse()

    def verify_collection(self, request: collections_pb2.VerifyCollectionRequest, call: Call) -> Message:
        report = self._collection(request.name, "name").verify()
        return collections_pb2.VerifyCollectionResponse(
            document_count=report.documents,
            segment_count=report.segments,
            byte_count=report.bytes_checked,
            faults=report.faults,
        )

    def compact_collection(self, request: collections_pb2.CompactCollectionRequest, call: Call) -> Message:
        return operation_to_proto(self._collection(request.name, "name").compact(wait=False))

    # --- documents ----------------------------------------------------------------------------------------

    def upsert_documents(self, request: documents_pb2.UpsertDocumentsRequest, call: Call) -> Message:
        collection = self._collection(request.parent)
        documents = [
            document_from_proto(item, f"documents[{position}]") for position, item in enumerate(request.documents)
        ]
        summary = collection.upsert(documents, request_id=request.request_id)
        return documents_pb2.UpsertDocumentsResponse(summary=write_to_proto(summary))

    def get_document(self, request: documents_pb2.GetDocumentRequest, call: Call) -> Message:
        document = self._collection(request.parent).get(request.id, include=include_from_proto(request))
        return documents_pb2.GetDocumentResponse(document=document_to_proto(document))

    def batch_get_documents(self, request: documents_pb2.BatchGetDocumentsRequest, call: Call) -> Message:
        _at_most(request.ids, MAX_IDS, "ids")
        found = self._collection(request.parent).get_many(list(request.ids), include=include_from_proto(request))
        return documents_pb2.BatchGetDocumentsResponse(documents=_documents(found))

    def count_documents(self, request: documents_pb2.CountDocumentsRequest, call: Call) -> Message:
        return documents_pb2.CountDocumentsResponse(count=self._collection(request.parent).count(request.filter))

    def list_documents(self, request: documents_pb2.ListDocumentsRequest, call: Call) -> Message:
        collection = self._collection(request.parent)
        size, include = page_size_of(request.page_size, 100), include_from_proto(request)
        while True:
            page = collection.scroll(request.filter, page_size=size, page_token=request.page_token, include=include)
            answer = documents_pb2.ListDocumentsResponse(
                documents=_documents(page.documents), next_page_token=page.next_page_token
            )
            # A page may be shorter than asked for: halve it until it fits into a message.
            if size == 1 or answer.ByteSize() <= MAX_MESSAGE_BYTES:
                return answer
            size //= 2
            call.time_left()

    def delete_documents(self, request: documents_pb2.DeleteDocumentsRequest, call: Call) -> Message:
        summary = self._collection(request.parent).delete(
            list(request.ids), filter=request.filter, request_id=request.request_id
        )
        return documents_pb2.DeleteDocumentsResponse(summary=write_to_proto(summary))

    # --- search -------------------------------------------------------------------------------------------

    def search(self, request: search_pb2.SearchRequest, call: Call) -> Message:
        collection = self._collection(request.parent)
        query = query_from_proto(request.query)
        result = collection.search(query, timeout=call.time_left(), cancel=call.cancel)
        return search_pb2.SearchResponse(result=result_to_proto(result))

    def batch_search(self, request: search_pb2.BatchSearchRequest, call: Call) -> Message:
        collection = self._collection(request.parent)
        queries = [query_from_proto(item, f"queries[{position}].") for position, item in enumerate(request.queries)]
        results = collection.batch_search(queries, timeout=call.time_left(), cancel=call.cancel)
        return search_pb2.BatchSearchResponse(results=[result_to_proto(result) for result in results])

    # --- encoding -----------------------------------------------------------------------------------------

    def encode(self, request: encoding_pb2.EncodeRequest, call: Call) -> Message:
        self._check_model(request.model, "model", needed=True)
        mode = enum_from_proto(_MODES, request.mode, "document", "mode")
        encoded = self._database.encode(request.model, list(request.texts), mode=mode)
        answer = encoding_pb2.EncodeResponse()
        if isinstance(encoded, np.ndarray):
            answer.dense.rows, answer.dense.columns = encoded.shape
            answer.dense.values.extend(encoded.ravel().tolist())
        else:
            answer.sparse.vectors.extend(_sparse(encoded))
            answer.sparse.SetInParent()
        return answer

    def batch_get_terms(self, request: encoding_pb2.BatchGetTermsRequest, call: Call) -> Message:
        self._check_model(request.model, "model", needed=True)
        return encoding_pb2.BatchGetTermsResponse(terms=self._database.terms(request.model, list(request.indices)))

    # --- operations ---------------------------------------------------------------------------------------

    def operation(self, name: str) -> longrunning_pb2.Operation:
        """State of an operation."""
        return operation_to_proto(self._database.operation(name))

    # --- helpers ------------------------------------------------------------------------------------------

    def _collection(self, resource: str, path: str = "parent") -> Collection:
        return self._database.collection(collection_name(resource, path))

    def _check_models(self, field: Field, path: str) -> None:
        if isinstance(field, SAEField):
            self._check_model(field.model, f"{path}.model")
        elif encoder := getattr(field, "encoder", ""):
            self._check_model(encoder, f"{path}.encoder")

    def _check_model(self, name: str, path: str, *, needed: bool = False) -> None:
        if needed and not name:
            raise InvalidArgumentError("expected the name of a model, got none", field=path)
        if not self._allow_model_folders and _FOLDER.search(name.removeprefix("pypi:")):
            raise InvalidArgumentError(
                "models are named, not given as folders of the server", field=path, reason="MODEL_FOLDER_REFUSED"
            )


def _documents(found: Iterable[Any]) -> list[documents_pb2.Document]:
    return [document_to_proto(document) for document in found]


def _sparse(vectors: Iterable[SparseVector]) -> list[vectors_pb2.SparseVector]:
    return [sparse_to_proto(vector, f"vectors[{position}]") for position, vector in enumerate(vectors)]


def _at_most(items: Any, most: int, path: str) -> None:
    if len(items) > most:
        raise InvalidArgumentError(f"expected at most {most} {path}, got {len(items)}", field=path, received=len(items))
