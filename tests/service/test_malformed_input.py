"""Bad input of every kind: refused with a code that says so, the path of what is wrong and a reason; nothing breaks.

Requests are sent as bytes, past the client and its own checks, as a client in another language would send them.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.longrunning import operations_proto_pb2 as longrunning_pb2
from google.protobuf import duration_pb2, struct_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from sparsight.retrieval.engine import Database
from sparsight.service.client import Client
from sparsight.service.errors import DETAILS_KEY
from sparsight.service.limits import MAX_MESSAGE_BYTES
from sparsight.service.server import ServerThread
from sparsight.types import BM25Field, DenseField, Document, SparseField, SparseVector
from sparsight.v1 import (
    collections_pb2,
    documents_pb2,
    encoding_pb2,
    features_pb2,
    profiles_pb2,
    search_pb2,
    vectors_pb2,
)

P = "collections/papers"
INVALID, MISSING = StatusCode.INVALID_ARGUMENT, StatusCode.NOT_FOUND
NAN, INF = float("nan"), float("inf")


@dataclasses.dataclass(frozen=True)
class Row:
    """A bad call: method, request (message or bytes), and what must come of it."""

    what: str
    method: str
    request: Any
    code: StatusCode
    field: str
    says: str  # a part of "REASON message"


ROWS: list[Row] = []


def row(what: str, method: str, request: Any, field: str, says: str, code: StatusCode = INVALID) -> None:
    ROWS.append(Row(what, method, request, code, field, says))


def sparse(indices: Any, values: Any) -> vectors_pb2.Vector:
    return vectors_pb2.Vector(sparse=vectors_pb2.SparseVector(indices=indices, values=values))


def dense(*values: float) -> vectors_pb2.Vector:
    return vectors_pb2.Vector(dense=vectors_pb2.DenseVector(values=values))


def metadata(**values: Any) -> struct_pb2.Struct:
    made = struct_pb2.Struct()
    made.update(values)
    return made


def number_value(value: float) -> struct_pb2.Struct:
    return struct_pb2.Struct(fields={"m": struct_pb2.Value(number_value=value)})


def nested(levels: int) -> struct_pb2.Struct:
    value = struct_pb2.Struct()
    for _ in range(levels):
        value = struct_pb2.Struct(fields={"a": struct_pb2.Value(struct_value=value)})
    return value


GOOD_DOCUMENT = documents_pb2.Document(id="new", text="good", vectors={"terms": sparse([1], [1.0])})


# --- documents --------------------------------------------------------------------------------------------


def upsert(what: str, field: str, says: str, *documents: Any, parent: str = P, **others: Any) -> None:
    request = documents_pb2.UpsertDocumentsRequest(parent=parent, documents=documents, **others)
    row(what, "DocumentService/UpsertDocuments", request, field, says)


def one(what: str, field: str, says: str, **parts: Any) -> None:
    """A bad document behind a good one."""
    bad = documents_pb2.Document(**{"id": "bad", **parts})
    upsert(what, f"documents[1]{field}", says, GOOD_DOCUMENT, bad)


def vector(what: str, field: str, says: str, name: str, value: vectors_pb2.Vector) -> None:
    one(what, f'.vectors["{name}"]{field}', says, vectors={name: value})


upsert("no documents", "documents", "at least one")
upsert("same id twice", "documents[1].id", "DUPLICATE_ID", GOOD_DOCUMENT, GOOD_DOCUMENT)
upsert("request id with control character", "request_id", "printable", GOOD_DOCUMENT, request_id="a\nb")
upsert("request id too long", "request_id", "128", GOOD_DOCUMENT, request_id="x" * 129)
one("empty id", ".id", "1 to 512 bytes", id="")
one("id of 513 bytes", ".id", "at most 512", id="é" * 256 + "x")
one("id with control character", ".id", "control", id="a\tb")
one("id with NUL", ".id", "control", id="a\0")
one("text of 10 MB", ".text", "TEXT_TOO_LONG", text="x" * 10_000_000)
one("title of 10 MB", ".title", "TEXT_TOO_LONG", title="x" * 10_000_000)
vector("NaN", ".values[1]", "NON_FINITE_WEIGHT", "terms", sparse([1, 2], [1.0, NAN]))
vector("infinity", ".values[0]", "NON_FINITE_WEIGHT", "terms", sparse([1, 2], [INF, 1.0]))
vector("minus infinity", ".values[0]", "NON_FINITE_WEIGHT", "terms", sparse([1], [-INF]))
vector("negative weight", ".values[1]", "NEGATIVE_WEIGHT", "terms", sparse([1, 2], [1.0, -0.5]))
vector("repeated index", ".indices[2]", "DUPLICATE_DIMENSION", "terms", sparse([7, 3, 7], [1.0, 1.0, 1.0]))
vector("index beyond the dimension", ".indices[1]", "DIMENSION_OUT_OF_RANGE", "terms", sparse([5, 1000], [1.0, 1.0]))
vector("largest index", ".indices[0]", "DIMENSION_OUT_OF_RANGE", "terms", sparse([2**32 - 1], [1.0]))
vector("fewer values", "", "LENGTHS_DIFFER", "terms", sparse([1, 2], [1.0]))
vector("fewer indices", "", "LENGTHS_DIFFER", "terms", sparse([1], [1.0, 2.0]))
vector("too many weights", "", "TOO_MANY_WEIGHTS", "terms", sparse(range(20_000), [1.0] * 20_000))
vector("vector of no kind", "", "WRONG_KIND", "terms", vectors_pb2.Vector())
vector("dense for a sparse field", "", "WRONG_KIND", "terms", dense(1.0))
vector("sparse for a dense field", "", "WRONG_KIND", "vec", sparse([1], [1.0]))
vector("dense too short", "", "WRONG_DIMENSION", "vec", dense(1, 2, 3))
vector("dense too long", "", "WRONG_DIMENSION", "vec", dense(*range(9)))
vector("dense and empty", "", "WRONG_DIMENSION", "vec", dense())
vector("dense with NaN", "[3]", "NON_FINITE_WEIGHT", "vec", dense(1, 2, 3, NAN, 5, 6, 7, 8))
vector("dense with infinity", "[7]", "NON_FINITE_WEIGHT", "vec", dense(1, 2, 3, 4, 5, 6, 7, INF))
vector("dense and all zero", "", "ZERO_VECTOR", "vec", dense(*[0.0] * 8))
vector("vector of an unknown field", "", "UNKNOWN_FIELD", "nope", dense(1.0))
vector("vector of a field with an empty name", "", "UNKNOWN_FIELD", "", dense(1.0))
vector("vector of a BM25 field", "", "UNKNOWN_FIELD", "bm25", sparse([1], [1.0]))
vector("vector of an SAE field", "", "UNKNOWN_FIELD", "sae", sparse([1], [1.0]))
one("passages beside text", ".passages", "either passages or text", text="x",
    passages=[documents_pb2.Passage(text="y")])
one("too many passages", ".passages", "at most 1024", passages=[documents_pb2.Passage(text="y")] * 1025)
one("vector in one passage only", '.passages[1].vectors["vec"]', "every passage",
    passages=[documents_pb2.Passage(vectors={"vec": dense(*range(8))}), documents_pb2.Passage(text="y")])
one("bad vector in a passage", '.passages[1].vectors["terms"].values[0]', "NON_FINITE_WEIGHT",
    passages=[documents_pb2.Passage(vectors={"terms": sparse([1], [x])}) for x in (1.0, NAN)])
one("metadata with NaN", '.metadata["m"]', "finite", metadata=number_value(NAN))
one("metadata with infinity", '.metadata["m"]', "finite", metadata=number_value(-INF))
one("metadata without a value", '.metadata["m"]', "without a kind",
    metadata=struct_pb2.Struct(fields={"m": struct_pb2.Value()}))
one("metadata of 100 KB", ".metadata", "65536 bytes", metadata=metadata(m="x" * 100_000))
one("metadata with an empty key", ".metadata", "empty key", metadata=metadata(**{"": 1}))
one("metadata with a long key", ".metadata", "256 bytes", metadata=metadata(**{"k" * 300: 1}))
one("metadata with NUL in a key", ".metadata", "NUL", metadata=metadata(**{"a\0b": 1}))
one("metadata 10 levels deep", ".metadata" + '["a"]' * 8, "nested", metadata=nested(10))
one("metadata 25 levels deep", ".metadata" + '["a"]' * 21, "nested", metadata=nested(25))
row("metadata 200 levels deep", "DocumentService/UpsertDocuments",
    # Built from inside as bytes: the message classes refuse to go so deep themselves.
    (lambda: (value := b"", [value := (lambda v: b"\x0a" + _varint(len(v)) + v)(
        b"\x0a\x01a\x12" + _varint(len(inner := b"\x2a" + _varint(len(value)) + value)) + inner)
        for _ in range(200)], _wrap(P, value))[-1]), "", "MALFORMED_MESSAGE")


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes([*out, n])


def _wrap(parent: str, struct_bytes: bytes) -> bytes:
    document = b"\x0a\x01z" + b"\x22" + _varint(len(struct_bytes)) + struct_bytes
    return b"\x0a" + _varint(len(parent)) + parent.encode() + b"\x12" + _varint(len(document)) + document


row("get: empty id", "DocumentService/GetDocument", documents_pb2.GetDocumentRequest(parent=P), "id", "512")
row("get: unknown id", "DocumentService/GetDocument", documents_pb2.GetDocumentRequest(parent=P, id="nope"), "id",
    "UNKNOWN_DOCUMENT", MISSING)
row("get: path as id", "DocumentService/GetDocument", documents_pb2.GetDocumentRequest(parent=P, id="../../etc/passwd"),
    "id", "UNKNOWN_DOCUMENT", MISSING)
row("get: id of 10 MB", "DocumentService/GetDocument", documents_pb2.GetDocumentRequest(parent=P, id="x" * 10_000_000),
    "id", "512")
row("get: part of no name", "DocumentService/GetDocument", documents_pb2.GetDocumentRequest(
    parent=P, id="1", include=documents_pb2.DocumentMask(parts=[0])), "include", "got number 0")
row("get: unknown part", "DocumentService/GetDocument", documents_pb2.GetDocumentRequest(
    parent=P, id="1", include=documents_pb2.DocumentMask(parts=[1, 99])), "include", "got number 99")
row("get: a part that only hits have", "DocumentService/GetDocument", documents_pb2.GetDocumentRequest(
    parent=P, id="1", include=documents_pb2.DocumentMask(parts=[4])), "include", "passage")
row("batch get: bad id", "DocumentService/BatchGetDocuments",
    documents_pb2.BatchGetDocumentsRequest(parent=P, ids=["1", "\x01"]), "ids[1]", "control")
row("batch get: too many ids", "DocumentService/BatchGetDocuments",
    documents_pb2.BatchGetDocumentsRequest(parent=P, ids=["1"] * 10_001), "ids", "at most 10000")
row("list: negative page size", "DocumentService/ListDocuments",
    documents_pb2.ListDocumentsRequest(parent=P, page_size=-1), "page_size", "-1")
for _token in ("x", "!!!", "e30=", "W10=", "bnVsbA==", "WzEsMl0=", "é", "x" * 1_000_000):
    row(f"list: page token {_token[:9]}", "DocumentService/ListDocuments",
        documents_pb2.ListDocumentsRequest(parent=P, page_token=_token), "page_token", "page token")
row("list: bad filter", "DocumentService/ListDocuments",
    documents_pb2.ListDocumentsRequest(parent=P, filter="year >"), "filter", "INVALID_FILTER")
row("delete: ids and filter", "DocumentService/DeleteDocuments",
    documents_pb2.DeleteDocumentsRequest(parent=P, ids=["1"], filter="year = 1"), "ids", "either")
row("delete: neither", "DocumentService/DeleteDocuments", documents_pb2.DeleteDocumentsRequest(parent=P), "ids",
    "either")
row("delete: bad filter", "DocumentService/DeleteDocuments",
    documents_pb2.DeleteDocumentsRequest(parent=P, filter="year"), "filter", "INVALID_FILTER")
row("delete: filter of blanks", "DocumentService/DeleteDocuments",
    documents_pb2.DeleteDocumentsRequest(parent=P, filter="  "), "filter", "INVALID_FILTER")
row("delete: bad id", "DocumentService/DeleteDocuments",
    documents_pb2.DeleteDocumentsRequest(parent=P, ids=["ok", ""]), "ids[1]", "512")

FILTERS = {
    "unfinished": ("year >=", "the end"),
    "no operator": ("year 2015", "2015"),
    "two equals signs": ("year == 2015", "=="),
    "unbalanced": ("(year = 1", "the end"),
    "unterminated string": ('a = "x', "unterminated"),
    "list without end": ("a in [1, 2", "the end"),
    "injection": ("a = 1; DROP TABLE documents", ";"),
    "NUL": ("a = \0", "offset 4"),
    "too deep": ("(" * 40 + "a = 1" + ")" * 40, "32"),
    "too many clauses": (" or ".join(["a=1"] * 2000), "1024"),
    "10 MB": ("a = 1 or " * 1_200_000, "65,536"),
    "20 KB": ("a = " + '"' + "x" * 20_000 + '"', "16384"),
    "infinite number": ("a > 1e999", "1e999"),
    "boolean order": ("a > true", "true"),
    "not an expression": ("🦜", "offset 0"),
}
for _name, (_filter, _says) in FILTERS.items():
    row(f"filter: {_name}", "DocumentService/CountDocuments",
        documents_pb2.CountDocumentsRequest(parent=P, filter=_filter), "filter", _says)


# --- names of collections ---------------------------------------------------------------------------------

for _name in ("", "papers", "collections/", "collections/..", "collections/../secret", "collections/PAPERS",
              "collections/papers/documents/1", "collections/%2e%2e", "/collections/papers", "collections/pap\0ers",
              "collections/" + "a" * 64, "c" * 10_000_000):
    row(f"collection name {_name[:30]!r}", "CollectionService/GetCollection",
        collections_pb2.GetCollectionRequest(name=_name), "name", "INVALID_RESOURCE_NAME")
row("unknown collection", "CollectionService/GetCollection", collections_pb2.GetCollectionRequest(
    name="collections/nope"), "name", "UNKNOWN_COLLECTION", MISSING)
row("drop an unknown collection", "CollectionService/DeleteCollection", collections_pb2.DeleteCollectionRequest(
    name="collections/nope"), "name", "UNKNOWN_COLLECTION", MISSING)
row("drop by path", "CollectionService/DeleteCollection", collections_pb2.DeleteCollectionRequest(
    name="collections/../papers"), "name", "INVALID_RESOURCE_NAME")
row("flush an unknown collection", "CollectionService/FlushCollection", collections_pb2.FlushCollectionRequest(
    name="collections/nope"), "name", "UNKNOWN_COLLECTION", MISSING)
row("verify by path", "CollectionService/VerifyCollection", collections_pb2.VerifyCollectionRequest(
    name="collections/./papers"), "name", "INVALID_RESOURCE_NAME")
row("compact an unknown collection", "CollectionService/CompactCollection", collections_pb2.CompactCollectionRequest(
    name="collections/nope"), "name", "UNKNOWN_COLLECTION", MISSING)
row("write to an unknown collection", "DocumentService/UpsertDocuments", documents_pb2.UpsertDocumentsRequest(
    parent="collections/nope", documents=[GOOD_DOCUMENT]), "name", "UNKNOWN_COLLECTION", MISSING)
upsert("write by path", "parent", "INVALID_RESOURCE_NAME", GOOD_DOCUMENT, parent="collections/papers/..")
row("collections: negative page size", "CollectionService/ListCollections",
    collections_pb2.ListCollectionsRequest(page_size=-5), "page_size", "-5")
row("collections: bad page token", "CollectionService/ListCollections",
    collections_pb2.ListCollectionsRequest(page_token="AAAA"), "page_token", "INVALID_PAGE_TOKEN")


def create(what: str, field: str, says: str, *fields: Any, name: str = "fresh", **passages: Any) -> None:
    collection = collections_pb2.Collection(
        fields=fields, passages=collections_pb2.PassageSpec(**passages) if passages else None)
    row(what, "CollectionService/CreateCollection",
        collections_pb2.CreateCollectionRequest(collection_id=name, collection=collection), field, says)


def field(name: str, **kind: Any) -> collections_pb2.Field:
    return collections_pb2.Field(name=name, **kind)


BM25 = field("bm25", bm25=collections_pb2.Bm25Field())
for _name in ("", "../x", "Papers", "a" * 64, "a/b", ".hidden", "a b", "1a", "a\0"):
    create(f"create {_name[:10]!r}", "name", "a collection's name", BM25, name=_name)
create("field of no kind", "fields[1]", "got none", BM25, field("a"))
create("field without a name", "fields[0].name", "field's name", field("", bm25=collections_pb2.Bm25Field()))
create("field with a path as name", "fields[0].name", "field's name", field("../a", bm25=collections_pb2.Bm25Field()))
create("field twice", "fields[1].name", "twice", BM25, BM25)
create("33 fields", "fields", "1 to 32", *[field(f"f{i}", bm25=collections_pb2.Bm25Field()) for i in range(33)])
create("k1 of NaN", "fields[0].k1", "k1", field("a", bm25=collections_pb2.Bm25Field(k1=NAN)))
create("negative b", "fields[0].b", "b is 0 to 1", field("a", bm25=collections_pb2.Bm25Field(b=-0.1)))
create("language of no name", "fields[0].language", "number 77",
       field("a", bm25=collections_pb2.Bm25Field(language=77)))
create("negative dimension", "fields[0].dimension", "-3", field("a", sparse=collections_pb2.SparseField(dimension=-3)))
create("dimension too large", "fields[0].dimension", "4294967295",
       field("a", sparse=collections_pb2.SparseField(dimension=2**40)))
create("max_impact of infinity", "fields[0].max_impact", "inf",
       field("a", sparse=collections_pb2.SparseField(dimension=9, max_impact=INF)))
create("negative max_terms", "fields[0]", "not negative",
       field("a", sparse=collections_pb2.SparseField(dimension=9, max_terms=-1)))
create("dense without dimension", "fields[0].dimension", "dimension", field("a", dense=collections_pb2.DenseField()))
create("dense dimension too large", "fields[0].dimension", "65536",
       field("a", dense=collections_pb2.DenseField(dimension=10**9)))
create("index of no name", "fields[0].index", "number 9",
       field("a", dense=collections_pb2.DenseField(dimension=3, index=9)))
create("encoder by path", "fields[0].encoder", "MODEL_FOLDER_REFUSED",
       field("a", sparse=collections_pb2.SparseField(encoder="/etc")))
create("encoder by relative path", "fields[0].encoder", "MODEL_FOLDER_REFUSED",
       field("a", dense=collections_pb2.DenseField(encoder="x/../../etc")))
create("SAE model by path", "fields[0].model", "MODEL_FOLDER_REFUSED",
       field("a", sae=collections_pb2.SaeField(model="../models")))
create("passages of no tokens", "passages", "max_tokens", BM25, max_tokens=0)
create("passages with too much overlap", "passages", "overlap_tokens", BM25, max_tokens=64, overlap_tokens=64)


# --- search -----------------------------------------------------------------------------------------------


def query(what: str, path: str, says: str, code: StatusCode = INVALID, **parts: Any) -> None:
    request = search_pb2.SearchRequest(parent=P, query=search_pb2.Query(**{"text": "word1", **parts}))
    row(f"search: {what}", "SearchService/Search", request, path, says, code)


def retriever(what: str, path: str, says: str, code: StatusCode = INVALID, **parts: Any) -> None:
    query(what, f"retrievers[0]{path}", says, code, text="", retrievers=[search_pb2.Retriever(**parts)])


def edit(what: str, path: str, says: str, code: StatusCode = INVALID, **parts: Any) -> None:
    query(what, f"edits[0]{path}", says, code, edits=[search_pb2.Edit(**parts)])


row("search: no query", "SearchService/Search", search_pb2.SearchRequest(parent=P), "text", "EMPTY_QUERY")
query("empty text", "text", "EMPTY_QUERY", text="")
query("text of blanks", "text", "EMPTY_QUERY", text=" \n\t")
query("text of 10 MB", "text", "TEXT_TOO_LONG", text="x" * 10_000_000)
query("k of 0", "k", "got 0", k=0)
query("negative k", "k", "got -1", k=-1)
query("k too large", "k", "10,000", k=10_001)
query("k huge", "k", "10,000", k=2**62)
query("min_score of NaN", "min_score", "finite", min_score=NAN)
query("min_score of infinity", "min_score", "finite", min_score=INF)
query("bad filter", "filter", "INVALID_FILTER", filter="year >")
query("unknown part", "include", "number 42", include=documents_pb2.DocumentMask(parts=[42]))
query("17 retrievers", "retrievers", "1 to 16", retrievers=[search_pb2.Retriever(field="bm25")] * 17)
query("no weight at all", "retrievers", "above 0", retrievers=[
    search_pb2.Retriever(field="bm25", weight=0), search_pb2.Retriever(field="bm25", weight=0)])
query("fusion of no name", "fusion.method", "number 5", fusion=search_pb2.Fusion(method=5))
query("depth of 0", "fusion.depth", "got 0", fusion=search_pb2.Fusion(depth=0))
query("rank constant of 0", "fusion.rank_constant", "got 0", fusion=search_pb2.Fusion(rank_constant=0))
retriever("unknown field", ".field", "UNKNOWN_FIELD", MISSING, field="nope", text="x")
retriever("field without a name", ".field", "UNKNOWN_FIELD", MISSING, text="x")
retriever("two contents", "", "text and sparse", field="terms", text="x", sparse=vectors_pb2.SparseVector())
retriever("three contents", "", "text and sparse and dense", field="terms", text="x", sparse=vectors_pb2.SparseVector(),
          dense=vectors_pb2.DenseVector())
retriever("text for a field without encoder", ".text", "NO_ENCODER", field="terms")
retriever("sparse for BM25", ".sparse", "no sparse", field="bm25", sparse=vectors_pb2.SparseVector())
retriever("sparse for dense", ".sparse", "no sparse", field="vec", sparse=vectors_pb2.SparseVector())
retriever("dense for sparse", ".dense", "no dense", field="terms", dense=vectors_pb2.DenseVector(values=[1.0]))
retriever("dense too short", ".dense", "WRONG_DIMENSION", field="vec", dense=vectors_pb2.DenseVector(values=[1.0]))
retriever("dense with NaN", ".dense[1]", "NON_FINITE_WEIGHT", field="vec",
          dense=vectors_pb2.DenseVector(values=[1, NAN, 3, 4, 5, 6, 7, 8]))
retriever("dense and all zero", ".dense", "ZERO_VECTOR", field="vec", dense=vectors_pb2.DenseVector(values=[0.0] * 8))
retriever("sparse with NaN", ".sparse.values[0]", "NON_FINITE_WEIGHT", field="terms",
          sparse=vectors_pb2.SparseVector(indices=[1], values=[NAN]))
retriever("sparse with repeats", ".sparse.indices[1]", "DUPLICATE_DIMENSION", field="terms",
          sparse=vectors_pb2.SparseVector(indices=[1, 1], values=[1.0, 2.0]))
retriever("sparse out of range", ".sparse.indices[0]", "DIMENSION_OUT_OF_RANGE", field="terms",
          sparse=vectors_pb2.SparseVector(indices=[1000], values=[1.0]))
retriever("latent out of range", ".sparse.indices[0]", "DIMENSION_OUT_OF_RANGE", field="sae",
          sparse=vectors_pb2.SparseVector(indices=[16], values=[1.0]))
retriever("lengths that differ", ".sparse", "LENGTHS_DIFFER", field="terms",
          sparse=vectors_pb2.SparseVector(indices=[1], values=[]))
retriever("too many weights", ".sparse", "TOO_MANY_WEIGHTS", field="terms",
          sparse=vectors_pb2.SparseVector(indices=range(20_000), values=[1.0] * 20_000))
retriever("weight of NaN", ".weight", "nan", field="bm25", text="x", weight=NAN)
retriever("negative weight", ".weight", "-1", field="bm25", text="x", weight=-1)
VECTOR = vectors_pb2.DenseVector(values=[1.0] * 8)
retriever("scorer of no name", ".scorer", "number 9", field="sae", dense=VECTOR, scorer=9)
retriever("scorer for BM25", ".scorer", "bm25 field takes no scorer", field="bm25", text="x", scorer=1)
retriever("negative number of terms", ".max_query_terms", "got -1", field="sae", dense=VECTOR, max_query_terms=-1)
retriever("too many terms", ".max_query_terms", "16,384", field="sae", dense=VECTOR, max_query_terms=16_385)
retriever("terms of a dense field", ".max_query_terms", "dense field", field="vec", dense=VECTOR, max_query_terms=0)
retriever("negative re-ranking", ".rerank", "got -1", field="sae", dense=VECTOR, rerank=-1)
retriever("too much re-ranking", ".rerank", "10,000", field="sae", dense=VECTOR, rerank=2**40)
retriever("re-ranking a dense field", ".rerank", "dense field takes no rerank", field="vec", dense=VECTOR, rerank=5)
retriever("re-ranking without a dense vector", ".rerank", "ready sparse vector", field="sae", rerank=5,
          sparse=vectors_pb2.SparseVector(indices=[1], values=[1.0]))
edit("unknown feature", ".feature", "UNKNOWN_FEATURE", MISSING, feature=16)
edit("negative feature", ".feature", "UNKNOWN_FEATURE", MISSING, feature=-1)
edit("unknown SAE field", ".field", "UNKNOWN_FIELD", MISSING, feature=1, field="nope")
edit("field that is no SAE", ".field", "no features", feature=1, field="bm25")
edit("strength of NaN", ".strength", "nan", feature=1, strength=NAN)
edit("strength too large", ".strength", "100", feature=1, strength=1e6)
edit("negative requirement", ".strength", "0 or more", feature=1, op=search_pb2.EDIT_OP_REQUIRE, strength=-1)
edit("op of no name", ".op", "number 99", feature=1, op=99)
for number in (0.0, 0.5, 1.01, NAN, -1.0):
    query(f"recall of {number}", "effort.recall", "above 0.5", effort=search_pb2.Effort(recall=number))
for number in (-1.0, NAN, INF, 3601.0):
    query(f"budget of {number} s", "effort.seconds", "0 (no budget)", effort=search_pb2.Effort(seconds=number))
for number in (-1, 1_000_001):
    query(f"budget of {number} documents", "effort.documents", "0 (no budget)",
          effort=search_pb2.Effort(documents=number))


def overlap(what: str, path: str, says: str, code: StatusCode = INVALID, **parts: Any) -> None:
    query(f"overlap, {what}", f"overlaps[0]{path}", says, code, overlaps=[search_pb2.Overlap(**parts)])


overlap("no features", ".features", "got 0")
overlap("257 features", ".features", "1 to 256", features=range(257))
overlap("unknown feature", ".features[1]", "UNKNOWN_FEATURE", MISSING, features=[1, 16])
overlap("negative feature", ".features[0]", "UNKNOWN_FEATURE", MISSING, features=[-1])
overlap("feature twice", ".features[2]", "twice", features=[1, 2, 1])
overlap("at least 0", ".at_least", "1 to 2", features=[1, 2], at_least=0)
overlap("at least 3 of 2", ".at_least", "1 to 2", features=[1, 2], at_least=3)
overlap("strength of NaN", ".strength", "nan", features=[1], strength=NAN)
overlap("negative strength", ".strength", "0 or more", features=[1], strength=-0.5)
overlap("unknown field", ".field", "UNKNOWN_FIELD", MISSING, features=[1], field="nope")
overlap("field that is no SAE", ".field", "no features", features=[1], field="bm25")
query("17 overlaps", "overlaps", "at most 16", overlaps=[search_pb2.Overlap(features=[1])] * 17)
query("too many edits", "edits", "at most 256", edits=[search_pb2.Edit(feature=1)] * 257)
row("batch search: no queries", "SearchService/BatchSearch", search_pb2.BatchSearchRequest(parent=P), "queries",
    "1 to 1024")
row("batch search: too many", "SearchService/BatchSearch", search_pb2.BatchSearchRequest(
    parent=P, queries=[search_pb2.Query(text="x")] * 1025), "queries", "1 to 1024")
row("batch search: one of three", "SearchService/BatchSearch", search_pb2.BatchSearchRequest(parent=P, queries=[
    search_pb2.Query(text="x"), search_pb2.Query(text="x", k=0), search_pb2.Query(text="x")]), "queries[1].k", "got 0")
row("batch search: two contents", "SearchService/BatchSearch", search_pb2.BatchSearchRequest(parent=P, queries=[
    search_pb2.Query(text="x"), search_pb2.Query(retrievers=[search_pb2.Retriever(
        field="vec", text="x", dense=vectors_pb2.DenseVector(values=[1.0]))])]), "queries[1].retrievers[0]",
    "text and dense")


# --- features, encoding, operations -----------------------------------------------------------------------

row("features: by collection only", "FeatureService/ListFeatures",
    features_pb2.ListFeaturesRequest(parent=P), "parent", "INVALID_RESOURCE_NAME")
row("features: unknown field", "FeatureService/ListFeatures",
    features_pb2.ListFeaturesRequest(parent=f"{P}/fields/nope"), "field", "UNKNOWN_FIELD", MISSING)
row("features: field that is no SAE", "FeatureService/ListFeatures",
    features_pb2.ListFeaturesRequest(parent=f"{P}/fields/bm25"), "field", "no features")
row("features: negative page size", "FeatureService/ListFeatures",
    features_pb2.ListFeaturesRequest(parent=f"{P}/fields/-", page_size=-1), "page_size", "-1")
row("features: bad page token", "FeatureService/ListFeatures",
    features_pb2.ListFeaturesRequest(parent=f"{P}/fields/-", page_token="AAAA"), "page_token", "page token")
row("features: words of 10 MB", "FeatureService/ListFeatures",
    features_pb2.ListFeaturesRequest(parent=f"{P}/fields/-", words="x" * 10_000_000), "words", "TEXT_TOO_LONG")
for _index, _code, _says in (("16", MISSING, "UNKNOWN_FEATURE"), ("-1", MISSING, "UNKNOWN_FEATURE"),
                             ("x", INVALID, "INVALID_RESOURCE_NAME"), ("", INVALID, "INVALID_RESOURCE_NAME"),
                             ("9" * 30, INVALID, "INVALID_RESOURCE_NAME")):
    row(f"feature {_index!r}", "FeatureService/GetFeature",
        features_pb2.GetFeatureRequest(name=f"{P}/fields/sae/features/{_index}"),
        "index" if _code is MISSING else "name", _says, _code)
for _what, _parts, _path, _says, _code in (
    ("no examples", {}, "positives", "at least one positive", INVALID),
    ("unknown document", {"positives": ["nope"]}, "positives[0]", "nope", MISSING),
    ("empty id", {"positives": [""]}, "positives[0]", "id", INVALID),
    ("too many", {"positives": ["x"] * 1001}, "positives", "1,000", INVALID),
    ("texts where there is no encoder", {"positive_texts": ["x"]}, "vec", "NO_ENCODER",
     grpc.StatusCode.FAILED_PRECONDITION),
    ("count of 0", {"positives": ["d1"], "count": 0}, "count", "1 to 256", INVALID),
    ("field that is no SAE", {"parent": f"{P}/fields/bm25", "positives": ["d1"]}, "field", "no features", INVALID),
    ("parent of no form", {"parent": P, "positives": ["d1"]}, "parent", "INVALID_RESOURCE_NAME", INVALID),
):
    row(f"find features: {_what}", "FeatureService/FindFeatures",
        features_pb2.FindFeaturesRequest(**{"parent": f"{P}/fields/-", **_parts}), _path, _says, _code)
row("related: unknown", "FeatureService/FindRelatedFeatures",
    features_pb2.FindRelatedFeaturesRequest(name=f"{P}/fields/-/features/16"), "index", "UNKNOWN_FEATURE", MISSING)
row("related: count", "FeatureService/FindRelatedFeatures",
    features_pb2.FindRelatedFeaturesRequest(name=f"{P}/fields/-/features/1", count=257), "count", "1 to 256")
row("compare: unknown", "FeatureService/CompareDocuments",
    features_pb2.CompareDocumentsRequest(parent=f"{P}/fields/-", a="nope", b="d1"), "a", "nope", MISSING)
row("compare: neither", "FeatureService/CompareDocuments",
    features_pb2.CompareDocumentsRequest(parent=f"{P}/fields/-"), "a", "got neither")
row("compare: text where there is no encoder", "FeatureService/CompareDocuments",
    features_pb2.CompareDocumentsRequest(parent=f"{P}/fields/-", a_text="x"), "vec", "NO_ENCODER",
    grpc.StatusCode.FAILED_PRECONDITION)
row("compare: both", "FeatureService/CompareDocuments",
    features_pb2.CompareDocumentsRequest(parent=f"{P}/fields/-", a="d1", b="d1", b_text="more"), "b_text", "got both")
for _what, _parent, _path, _says, _code in (
    ("by collection only", P, "parent", "INVALID_RESOURCE_NAME", INVALID),
    ("no name", "", "parent", "INVALID_RESOURCE_NAME", INVALID),
    ("unknown collection", "collections/nope/fields/-", "name", "UNKNOWN_COLLECTION", MISSING),
    ("unknown field", f"{P}/fields/nope", "field", "UNKNOWN_FIELD", MISSING),
    ("field that is no SAE", f"{P}/fields/bm25", "field", "no features", INVALID),
):
    row(f"map: {_what}", "FeatureService/GetFeatureMap", features_pb2.GetFeatureMapRequest(parent=_parent), _path,
        _says, _code)
for _what, _profile, _path, _says, _code in (
    ("none", {}, "profile.name", "INVALID_RESOURCE_NAME", INVALID),
    ("name with capitals", {"name": f"{P}/profiles/Big"}, "profile.name", "INVALID_RESOURCE_NAME", INVALID),
    ("no edits", {"name": f"{P}/profiles/x"}, "edits", "at least one edit", INVALID),
    ("unknown feature", {"name": f"{P}/profiles/x", "edits": [search_pb2.Edit(feature=16)]}, "edits[0].feature",
     "UNKNOWN_FEATURE", MISSING),
    ("operation of no name", {"name": f"{P}/profiles/x", "edits": [search_pb2.Edit(op=99)]}, "edits[0].op",
     "number 99", INVALID),
):
    row(f"save profile: {_what}", "ProfileService/SaveProfile",
        profiles_pb2.SaveProfileRequest(profile=profiles_pb2.Profile(**_profile)), _path, _says, _code)
row("save profile: no profile", "ProfileService/SaveProfile", profiles_pb2.SaveProfileRequest(), "profile", "got none")
row("get profile: unknown", "ProfileService/GetProfile",
    profiles_pb2.GetProfileRequest(name=f"{P}/profiles/nope"), "name", "UNKNOWN_PROFILE", MISSING)
row("delete profile: unknown", "ProfileService/DeleteProfile",
    profiles_pb2.DeleteProfileRequest(name=f"{P}/profiles/nope"), "name", "UNKNOWN_PROFILE", MISSING)
row("list profiles: bad token", "ProfileService/ListProfiles",
    profiles_pb2.ListProfilesRequest(parent=P, page_token="AAAA"), "page_token", "page token")
row("search: unknown profile", "SearchService/Search", search_pb2.SearchRequest(
    parent=P, query=search_pb2.Query(text="x", profile="nope")), "profile", "UNKNOWN_PROFILE", MISSING)
for _what, _parts, _path, _says, _code in (
    ("unknown source", {"source": "nope"}, "source", "UNKNOWN_FIELD", MISSING),
    ("source that is not dense", {"source": "bm25"}, "source", "dense", INVALID),
    ("negative k", {"source": "vec", "k": -1}, "k", "-1", INVALID),
    ("k above n_latents", {"source": "vec", "k": 32, "n_latents": 8}, "k", "at most n_latents", INVALID),
    ("too many latents", {"source": "vec", "n_latents": 2**40}, "n_latents", "1,048,576", INVALID),
    ("scorer of no name", {"source": "vec", "scorer": 9}, "scorer", "number 9", INVALID),
    ("weighting of no name", {"source": "vec", "weighting": 9}, "weighting", "number 9", INVALID),
    ("negative number of terms", {"source": "vec", "max_query_terms": -1}, "max_query_terms", "-1", INVALID),
    ("k1 of NaN", {"source": "vec", "k1": NAN}, "k1", "nan", INVALID),
    ("k1 too large", {"source": "vec", "k1": 101}, "k1", "101", INVALID),
    ("negative epochs", {"source": "vec", "epochs": -1}, "epochs", "-1", INVALID),
    ("negative seed", {"source": "vec", "seed": -1}, "seed", "-1", INVALID),
    ("negative number of seeds", {"source": "vec", "seeds": -1}, "seeds", "-1", INVALID),
    ("too many seeds", {"source": "vec", "seeds": 17}, "seeds", "1 to 16", INVALID),
    ("target that is no SAE", {"name": f"{P}/fields/bm25", "source": "vec"}, "field", "bm25", INVALID),
    ("target by path", {"name": f"{P}/fields/../x", "source": "vec"}, "name", "INVALID_RESOURCE_NAME", INVALID),
):
    row(f"train: {_what}", "FeatureService/TrainSae",
        features_pb2.TrainSaeRequest(**{"name": f"{P}/fields/other", **_parts}), _path, _says, _code)
for _what, _name, _path, _says, _code in (
    ("no name", "", "name", "got ''", INVALID),
    ("unknown field", f"{P}/fields/nope", "field", "UNKNOWN_FIELD", MISSING),
    ("field without features", f"{P}/fields/bm25", "field", "bm25", INVALID),
    ("unknown collection", "collections/nope/fields/-", "name", "UNKNOWN_COLLECTION", MISSING),
):
    row(f"name features: {_what}", "FeatureService/NameFeatures", features_pb2.NameFeaturesRequest(name=_name), _path,
        _says, _code)
row("encode: no model", "EncodingService/Encode", encoding_pb2.EncodeRequest(texts=["x"]), "model", "got none")
for _model in ("/etc/passwd", "../models", "~/models", "a/../../b", "pypi:../../x==1#y", "C:\\models", "a\0b", "./x"):
    row(f"encode: model {_model!r}", "EncodingService/Encode",
        encoding_pb2.EncodeRequest(model=_model, texts=["x"]), "model", "MODEL_FOLDER_REFUSED")
row("encode: name of no form", "EncodingService/Encode",
    encoding_pb2.EncodeRequest(model="no such model!", texts=["x"]), "encoder", "expected an alias")
row("encode: mode of no name", "EncodingService/Encode",
    encoding_pb2.EncodeRequest(model="splade-tiny", texts=["x"], mode=9), "mode", "number 9")
row("terms: no model", "EncodingService/BatchGetTerms", encoding_pb2.BatchGetTermsRequest(indices=[1]), "model",
    "got none")
for _method, _type in (("GetOperation", longrunning_pb2.GetOperationRequest),
                       ("CancelOperation", longrunning_pb2.CancelOperationRequest),
                       ("DeleteOperation", longrunning_pb2.DeleteOperationRequest),
                       ("WaitOperation", longrunning_pb2.WaitOperationRequest)):
    row(f"{_method}: no name", _method, _type(), "name", "got none")
    row(f"{_method}: unknown", _method, _type(name="operations/../x"), "name", "UNKNOWN_OPERATION", MISSING)
row("WaitOperation: negative", "WaitOperation", longrunning_pb2.WaitOperationRequest(
    name="operations/x", timeout=duration_pb2.Duration(seconds=-1)), "timeout", "-1")
row("ListOperations: filter", "ListOperations", longrunning_pb2.ListOperationsRequest(filter="done = true"), "filter",
    "cannot be filtered")
row("ListOperations: other parent", "ListOperations", longrunning_pb2.ListOperationsRequest(name="elsewhere"), "name",
    "elsewhere")
row("ListOperations: negative page size", "ListOperations", longrunning_pb2.ListOperationsRequest(page_size=-1),
    "page_size", "-1")


# --- bytes that are no message ----------------------------------------------------------------------------

for _what, _raw in {
    "text that is no UTF-8": b"\x0a\x04\xff\xfe\xfd\xfc",
    "half a surrogate pair": b"\x0a\x03\xed\xa0\x80",
    "cut short": b"\x0a\x10abc",
    "wire type that does not exist": b"\x0f\x00",
    "noise": bytes(range(255, 0, -1)),
    "endless varint": b"\x0a" + b"\xff" * 20,
}.items():
    for _method in ("SearchService/Search", "DocumentService/UpsertDocuments", "GetOperation"):
        row(f"bytes: {_what} for {_method}", _method, _raw, "", "MALFORMED_MESSAGE")
row("bytes: vector of half a float", "SearchService/Search",
    b"\x0a\x12" + P.encode() + b"\x12\x0b\x12\x09" + b"\x0a\x03vec" + b"\x22\x02" + struct.pack("<H", 1), "",
    "MALFORMED_MESSAGE")


# --- the test ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def papers(database: Database, client: Client) -> Iterator[Client]:
    """A collection with a field of every kind."""
    rng = np.random.default_rng(0)
    fields = [SparseField("terms", dimension=1000), DenseField("vec", dimension=8), BM25Field("bm25")]
    collection = database.create_collection("papers", fields)
    collection.upsert([
        Document(str(i), f"word{i % 7} thing", metadata={"year": 2000 + i % 20}, vectors={
            "terms": SparseVector.from_dict({i % 50: 1.0}), "vec": rng.standard_normal(8).astype(np.float32)})
        for i in range(300)])
    collection.train_sae("sae", source="vec", n_latents=16, k=4, epochs=1)
    yield client


@pytest.fixture(scope="module")
def raw(server: ServerThread) -> Iterator[grpc.Channel]:
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(server.target, options) as channel:
        yield channel


def send(raw: grpc.Channel, method: str, request: Any) -> bytes:
    path = f"/sparsight.v1.{method}" if "/" in method else f"/google.longrunning.Operations/{method}"
    request = request() if callable(request) else request
    sent = request if isinstance(request, bytes) else request.SerializeToString()
    answer: bytes = raw.unary_unary(path)(sent, timeout=30)
    return answer


def explained(error: grpc.RpcError) -> tuple[str, str]:
    """Field and "REASON message" of a refusal's details."""
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())[DETAILS_KEY])
    field, infos = "", []
    for detail in status.details:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            infos.append(info)
            field = field or info.metadata.get("errorField", "")
        elif detail.Unpack(bad):
            [violation] = bad.field_violations
            field = violation.field
    [info] = infos
    return field, f"{info.reason} {status.message}"


def test_there_are_many_rows_with_names_of_their_own() -> None:
    assert len(ROWS) >= 80
    names = [row.what for row in ROWS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.what)
def test_refused(row: Row, raw: grpc.Channel, papers: Client) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        send(raw, row.method, row.request)
    assert caught.value.code() is row.code, caught.value.details()
    field, text = explained(caught.value)
    assert field == row.field
    assert row.says in text


def test_nothing_of_it_was_stored_and_the_server_answers(raw: grpc.Channel, papers: Client) -> None:
    for row in ROWS:
        with pytest.raises(grpc.RpcError) as caught:
            send(raw, row.method, row.request)
        assert caught.value.code() is row.code, row.what
        assert caught.value.code() not in (StatusCode.INTERNAL, StatusCode.UNKNOWN), row.what
    collection = papers.collection("papers")
    assert collection.count() == 300
    assert [info.name for info in papers.list_collections()] == ["papers"]
    assert len(collection.search("word1", k=3)) == 3
    assert collection.verify().ok
    papers.wait_ready(5)


def test_a_message_above_the_limit_never_reaches_the_handler(raw: grpc.Channel, papers: Client) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        send(raw, "SearchService/Search", b"\0" * (MAX_MESSAGE_BYTES + 1))
    assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED
    assert papers.collection("papers").count() == 300


def test_unknown_methods_and_services(raw: grpc.Channel, papers: Client) -> None:
    for method in ("SearchService/Explode", "NoService/Search"):
        with pytest.raises(grpc.RpcError) as caught:
            send(raw, method, b"")
        assert caught.value.code() is StatusCode.UNIMPLEMENTED
