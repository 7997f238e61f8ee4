"""Collections and operations across the wire; the rules are those of :mod:`sparsight.service.convert`."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from google.longrunning import operations_proto_pb2 as longrunning_pb2
from google.rpc import code_pb2

from sparsight.errors import InvalidArgumentError
from sparsight.service.convert import (
    enum_from_proto,
    enum_to_proto,
    integer,
    metadata_from_proto,
    metadata_to_proto,
    number,
    text,
)
from sparsight.types import (
    BM25Field,
    CollectionInfo,
    DenseField,
    Field,
    Operation,
    PassageSpec,
    SAEField,
    SparseField,
)
from sparsight.v1 import collections_pb2, features_pb2, operations_pb2

__all__ = [
    "ANY_FIELD",
    "SCORERS",
    "WEIGHTINGS",
    "collection_name",
    "collection_resource",
    "feature_name",
    "field_from_proto",
    "field_name",
    "field_resource",
    "field_to_proto",
    "info_from_proto",
    "info_to_proto",
    "operation_from_proto",
    "operation_to_proto",
    "passages_from_proto",
    "passages_to_proto",
    "profile_name",
    "sae_options_from_proto",
]

_LANGUAGES = {"english": collections_pb2.BM25_LANGUAGE_ENGLISH, "none": collections_pb2.BM25_LANGUAGE_NONE}
_INDEXES = {"flat": collections_pb2.DENSE_INDEX_KIND_FLAT, "hnsw": collections_pb2.DENSE_INDEX_KIND_HNSW}
SCORERS = {"decode": collections_pb2.SAE_SCORER_DECODE, "symmetric": collections_pb2.SAE_SCORER_SYMMETRIC}
WEIGHTINGS = {
    "none": collections_pb2.SAE_WEIGHTING_NONE,
    "idf": collections_pb2.SAE_WEIGHTING_IDF,
    "bm25": collections_pb2.SAE_WEIGHTING_BM25,
}


# --- resource names ---------------------------------------------------------------------------------------

ANY_FIELD = "-"
"""In the place of a field's name: the collection's only SAE field (the wildcard of AIP-159)."""

_COLLECTION = re.compile(r"collections/([a-z][a-z0-9_-]{0,62})")
_FIELD = re.compile(r"collections/([a-z][a-z0-9_-]{0,62})/fields/(-|[a-z][a-z0-9_]{0,62})")
_FEATURE = re.compile(r"collections/([a-z][a-z0-9_-]{0,62})/fields/(-|[a-z][a-z0-9_]{0,62})/features/(-?[0-9]{1,18})")


_PROFILE = re.compile(r"collections/([a-z][a-z0-9_-]{0,62})/profiles/([a-z][a-z0-9_-]{0,62})")


class FeatureName(NamedTuple):
    """Parts of a feature's resource name; ``field`` is "" for the only SAE field, ``latent`` the index."""

    collection: str
    field: str
    latent: int


def collection_resource(collection: str, path: str = "name") -> str:
    """Resource name of a collection. A name that cannot be one is refused by whoever reads it, and only there."""
    return f"collections/{text(collection, path)}"


def field_resource(collection: str, field: str) -> str:
    """Resource name of a field, the collection's only SAE field for ""."""
    return f"{collection_resource(collection, 'collection')}/fields/{text(field, 'field') or ANY_FIELD}"


def collection_name(resource: str, path: str = "parent") -> str:
    """Name of the collection of a resource name ``collections/{collection}``."""
    match = _match(_COLLECTION, resource, "collections/{collection}", path)
    return match[1]


def field_name(resource: str, path: str = "parent") -> tuple[str, str]:
    """Collection and field of ``collections/{collection}/fields/{field}``; field "" for ``-``."""
    match = _match(_FIELD, resource, "collections/{collection}/fields/{field}", path)
    return match[1], "" if match[2] == ANY_FIELD else match[2]


def feature_name(resource: str, path: str = "name") -> FeatureName:
    """Parts of ``collections/{collection}/fields/{field}/features/{index}``."""
    match = _match(_FEATURE, resource, "collections/{collection}/fields/{field}/features/{index}", path)
    return FeatureName(match[1], "" if match[2] == ANY_FIELD else match[2], int(match[3]))


def profile_name(resource: str, path: str = "name") -> tuple[str, str]:
    """Collection and profile of ``collections/{collection}/profiles/{profile}``."""
    match = _match(_PROFILE, resource, "collections/{collection}/profiles/{profile}", path)
    return match[1], match[2]


def _match(pattern: re.Pattern[str], resource: str, shape: str, path: str) -> re.Match[str]:
    match = pattern.fullmatch(resource)
    if match is None:
        raise InvalidArgumentError(
            f"expected a resource name {shape}, got {resource!r:.80}", field=path, reason="INVALID_RESOURCE_NAME"
        )
    return match


# --- fields and collections -------------------------------------------------------------------------------


def field_to_proto(field: Field, path: str = "field") -> collections_pb2.Field:
    """Message of a field."""
    message = collections_pb2.Field(name=text(getattr(field, "name", None), f"{path}.name"))
    match field:
        case SparseField():
            message.sparse.encoder = text(field.encoder, f"{path}.encoder")
            message.sparse.dimension = integer(field.dimension, f"{path}.dimension")
            message.sparse.max_impact = number(field.max_impact, f"{path}.max_impact")
            message.sparse.max_terms = integer(field.max_terms, f"{path}.max_terms")
            message.sparse.max_query_terms = integer(field.max_query_terms, f"{path}.max_query_terms")
            message.sparse.SetInParent()
        case BM25Field():
            message.bm25.k1 = number(field.k1, f"{path}.k1")
            message.bm25.b = number(field.b, f"{path}.b")
            message.bm25.language = enum_to_proto(_LANGUAGES, field.language, f"{path}.language")
        case DenseField():
            message.dense.encoder = text(field.encoder, f"{path}.encoder")
            message.dense.dimension = integer(field.dimension, f"{path}.dimension")
            message.dense.index = enum_to_proto(_INDEXES, field.index, f"{path}.index")
        case SAEField():
            message.sae.source = text(field.source, f"{path}.source")
            message.sae.model = text(field.model, f"{path}.model")
            message.sae.scorer = enum_to_proto(SCORERS, field.scorer, f"{path}.scorer")
            message.sae.max_query_terms = integer(field.max_query_terms, f"{path}.max_query_terms")
            message.sae.weighting = enum_to_proto(WEIGHTINGS, field.weighting, f"{path}.weighting")
            message.sae.k1 = number(field.k1, f"{path}.k1")
            message.sae.rescore = integer(field.rescore, f"{path}.rescore")
        case _:
            raise InvalidArgumentError(f"expected a field, got {type(field).__name__}", field=path)
    return message


def field_from_proto(message: collections_pb2.Field, path: str = "field") -> Field:
    """Field of a message."""
    match message.WhichOneof("kind"):
        case "sparse":
            sparse = message.sparse
            return SparseField(
                message.name,
                sparse.encoder,
                sparse.dimension,
                sparse.max_impact,
                sparse.max_terms,
                sparse.max_query_terms,
            )
        case "bm25":
            bm25, default = message.bm25, BM25Field()
            return BM25Field(
                message.name,
                bm25.k1 if bm25.HasField("k1") else default.k1,
                bm25.b if bm25.HasField("b") else default.b,
                enum_from_proto(_LANGUAGES, bm25.language, default.language, f"{path}.language"),
            )
        case "dense":
            dense = message.dense
            return DenseField(
                message.name,
                dense.encoder,
                dense.dimension,
                enum_from_proto(_INDEXES, dense.index, "flat", f"{path}.index"),
            )
        case "sae":
            return SAEField(
                message.name,
                message.sae.source or SAEField().source,
                message.sae.model,
                **sae_options_from_proto(message.sae, f"{path}."),
            )
        case _:
            raise InvalidArgumentError("expected a kind of field (sparse, bm25, dense or sae), got none", field=path)


def sae_options_from_proto(
    message: collections_pb2.SaeField | features_pb2.TrainSaeRequest, prefix: str = ""
) -> dict[str, Any]:
    """How an SAE field weights, as arguments of :class:`SAEField`; ``prefix`` stands before their names in errors."""
    default = SAEField()
    return {
        "scorer": enum_from_proto(SCORERS, message.scorer, default.scorer, f"{prefix}scorer"),
        "max_query_terms": message.max_query_terms if message.HasField("max_query_terms") else default.max_query_terms,
        "weighting": enum_from_proto(WEIGHTINGS, message.weighting, default.weighting, f"{prefix}weighting"),
        "k1": message.k1 if message.HasField("k1") else default.k1,
        "rescore": message.rescore if message.HasField("rescore") else default.rescore,
    }


def passages_to_proto(spec: PassageSpec, path: str = "passages") -> collections_pb2.PassageSpec:
    """Message of how texts are split."""
    if not isinstance(spec, PassageSpec):
        raise InvalidArgumentError(f"expected a PassageSpec, got {type(spec).__name__}", field=path)
    return collections_pb2.PassageSpec(
        max_tokens=integer(spec.max_tokens, f"{path}.max_tokens"),
        overlap_tokens=integer(spec.overlap_tokens, f"{path}.overlap_tokens"),
        max_passages=integer(spec.max_passages, f"{path}.max_passages"),
    )


def passages_from_proto(message: collections_pb2.PassageSpec) -> PassageSpec:
    """How texts are split; absent parts are the defaults."""
    default = PassageSpec()
    return PassageSpec(
        max_tokens=message.max_tokens if message.HasField("max_tokens") else default.max_tokens,
        overlap_tokens=message.overlap_tokens if message.HasField("overlap_tokens") else default.overlap_tokens,
        max_passages=message.max_passages,
    )


def info_to_proto(info: CollectionInfo) -> collections_pb2.Collection:
    """Message of a collection's description."""
    return collections_pb2.Collection(
        name=collection_resource(info.name),
        fields=[field_to_proto(field, f"fields[{position}]") for position, field in enumerate(info.fields)],
        passages=passages_to_proto(info.passages),
        document_count=info.documents,
        passage_count=info.passage_count,
        segment_count=info.segments,
        tail_document_count=info.tail_documents,
        generation=info.generation,
        bytes_on_disk=info.bytes_on_disk,
        fingerprints=info.fingerprints,
        saturated_weights=info.saturated,
        created=info.created,
    )


def info_from_proto(message: collections_pb2.Collection) -> CollectionInfo:
    """A collection's description."""
    return CollectionInfo(
        name=message.name.removeprefix("collections/"),
        fields=tuple(field_from_proto(item, f"fields[{position}]") for position, item in enumerate(message.fields)),
        passages=passages_from_proto(message.passages),
        documents=message.document_count,
        passage_count=message.passage_count,
        segments=message.segment_count,
        tail_documents=message.tail_document_count,
        generation=message.generation,
        bytes_on_disk=message.bytes_on_disk,
        fingerprints=dict(message.fingerprints),
        saturated=dict(message.saturated_weights),
        created=message.created,
    )


# --- operations -------------------------------------------------------------------------------------------


def operation_to_proto(operation: Operation) -> longrunning_pb2.Operation:
    """Google's Operation of one of ours: metadata, then an error or the result once it is done."""
    message = longrunning_pb2.Operation(name=operation.name, done=operation.done)
    message.metadata.Pack(
        operations_pb2.OperationMetadata(kind=operation.kind, progress=operation.progress, message=operation.message)
    )
    if operation.done and operation.error:
        # Our operations keep an error's words only; UNKNOWN says so. The work was asked for validly.
        message.error.code = code_pb2.UNKNOWN
        message.error.message = operation.error
    elif operation.done:
        message.response.Pack(operations_pb2.OperationResult(values=metadata_to_proto(operation.result, "result")))
    return message


def operation_from_proto(message: longrunning_pb2.Operation) -> Operation:
    """Our Operation of Google's."""
    metadata, result = operations_pb2.OperationMetadata(), operations_pb2.OperationResult()
    message.metadata.Unpack(metadata)
    values: dict[str, Any] = {}
    if message.HasField("response") and message.response.Unpack(result):
        values = metadata_from_proto(result.values, "result")
    return Operation(
        name=message.name,
        kind=metadata.kind,
        done=message.done,
        progress=metadata.progress,
        message=metadata.message,
        error=message.error.message,
        result=values,
    )
