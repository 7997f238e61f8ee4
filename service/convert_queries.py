"""Queries across the wire, from client to server; the rules are those of :mod:`sparsight.service.convert`."""

from __future__ import annotations

from sparsight.errors import InvalidQueryError
from sparsight.service.convert import (
    dense_from_proto,
    dense_to_proto,
    enum_from_proto,
    enum_to_proto,
    integer,
    number,
    sparse_from_proto,
    sparse_to_proto,
    text,
)
from sparsight.service.convert_collections import SCORERS
from sparsight.service.convert_documents import include_from_proto, include_to_proto
from sparsight.types import Edit, Effort, Fusion, Overlap, Query, Retriever
from sparsight.v1 import search_pb2

__all__ = ["edit_from_proto", "edit_to_proto", "query_from_proto", "query_to_proto"]

_OPS = {
    "boost": search_pb2.EDIT_OP_BOOST,
    "suppress": search_pb2.EDIT_OP_SUPPRESS,
    "set": search_pb2.EDIT_OP_SET,
    "require": search_pb2.EDIT_OP_REQUIRE,
    "exclude": search_pb2.EDIT_OP_EXCLUDE,
    "clamp": search_pb2.EDIT_OP_CLAMP,
}
_METHODS = {"convex": search_pb2.FUSION_METHOD_CONVEX, "rrf": search_pb2.FUSION_METHOD_RRF}


def query_to_proto(query: Query, path: str = "") -> search_pb2.Query:
    """Message of a query. ``path`` stands before the names of fields in errors: "" or ``queries[3].``."""
    fusion = query.fusion
    message = search_pb2.Query(
        text=text(query.text, f"{path}text"),
        retrievers=[
            _retriever_to_proto(retriever, f"{path}retrievers[{position}]")
            for position, retriever in enumerate(query.retrievers)
        ],
        filter=text(query.filter, f"{path}filter"),
        edits=[edit_to_proto(edit, f"{path}edits[{position}]") for position, edit in enumerate(query.edits)],
        fusion=search_pb2.Fusion(
            method=enum_to_proto(_METHODS, fusion.method, f"{path}fusion.method", InvalidQueryError),
            rank_constant=integer(fusion.rank_constant, f"{path}fusion.rank_constant"),
            depth=integer(fusion.depth, f"{path}fusion.depth"),
        ),
        k=integer(query.k, f"{path}k"),
        explain=bool(query.explain),
        profile=text(query.profile, f"{path}profile"),
        include=include_to_proto(query.include, f"{path}include", InvalidQueryError),
        effort=_effort_to_proto(query.effort, f"{path}effort"),
        overlaps=[
            _overlap_to_proto(overlap, f"{path}overlaps[{position}]") for position, overlap in enumerate(query.overlaps)
        ],
    )
    if query.min_score is not None:
        message.min_score = number(query.min_score, f"{path}min_score")
    return message


def _retriever_to_proto(retriever: Retriever | str, path: str) -> search_pb2.Retriever:
    if isinstance(retriever, str):
        return search_pb2.Retriever(field=text(retriever, path))
    if not isinstance(retriever, Retriever):
        raise InvalidQueryError(
            f"expected a Retriever or the name of a field, got {type(retriever).__name__}", field=path
        )
    message = search_pb2.Retriever(
        field=text(retriever.field, f"{path}.field"),
        text=text(retriever.text, f"{path}.text"),
        sparse=None if retriever.sparse is None else sparse_to_proto(retriever.sparse, f"{path}.sparse"),
        dense=None if retriever.dense is None else dense_to_proto(retriever.dense, f"{path}.dense"),
        weight=number(retriever.weight, f"{path}.weight"),
        rerank=integer(retriever.rerank, f"{path}.rerank"),
    )
    if retriever.scorer != "":
        message.scorer = enum_to_proto(SCORERS, retriever.scorer, f"{path}.scorer", InvalidQueryError)
    if retriever.max_query_terms is not None:
        message.max_query_terms = integer(retriever.max_query_terms, f"{path}.max_query_terms")
    if retriever.rescore is not None:
        message.rescore = integer(retriever.rescore, f"{path}.rescore")
    return message


def edit_to_proto(edit: Edit, path: str) -> search_pb2.Edit:
    """Message of an edit."""
    if not isinstance(edit, Edit):
        raise InvalidQueryError(f"expected an Edit, got {type(edit).__name__}", field=path)
    message = search_pb2.Edit(
        feature=integer(edit.feature, f"{path}.feature"),
        op=enum_to_proto(_OPS, edit.op, f"{path}.op", InvalidQueryError),
        strength=number(edit.strength, f"{path}.strength"),
        field=text(edit.field, f"{path}.field"),
        when_strength=number(edit.when_strength, f"{path}.when_strength"),
    )
    if edit.when is not None:
        message.when = integer(edit.when, f"{path}.when")
    return message


def edit_from_proto(message: search_pb2.Edit, path: str) -> Edit:
    """Edit of a message."""
    return Edit(
        feature=message.feature,
        op=enum_from_proto(_OPS, message.op, "boost", f"{path}.op", InvalidQueryError),
        strength=message.strength if message.HasField("strength") else 1.0,
        field=message.field,
        when=message.when if message.HasField("when") else None,
        when_strength=message.when_strength,
    )


def _effort_to_proto(effort: Effort, path: str) -> search_pb2.Effort:
    if not isinstance(effort, Effort):
        raise InvalidQueryError(f"expected an Effort, got {type(effort).__name__}", field=path)
    return search_pb2.Effort(
        recall=number(effort.recall, f"{path}.recall"),
        seconds=number(effort.seconds, f"{path}.seconds"),
        documents=integer(effort.documents, f"{path}.documents"),
    )


def _overlap_to_proto(overlap: Overlap, path: str) -> search_pb2.Overlap:
    if not isinstance(overlap, Overlap):
        raise InvalidQueryError(f"expected an Overlap, got {type(overlap).__name__}", field=path)
    return search_pb2.Overlap(
        features=[
            integer(feature, f"{path}.features[{position}]") for position, feature in enumerate(overlap.features)
        ],
        at_least=integer(overlap.at_least, f"{path}.at_least"),
        strength=number(overlap.strength, f"{path}.strength"),
        field=text(overlap.field, f"{path}.field"),
    )


def query_from_proto(message: search_pb2.Query, path: str = "") -> Query:
    """Query of a message.

    Raises
    ------
    InvalidArgumentError
        What the message alone shows to be wrong. Names of fields and features, dimensions and the filter are the
        engine's to check.
    """
    defaults = Fusion()
    fusion, effort = message.fusion, message.effort
    return Query(
        text=message.text,
        retrievers=tuple(
            _retriever_from_proto(item, f"{path}retrievers[{position}]")
            for position, item in enumerate(message.retrievers)
        ),
        filter=message.filter,
        edits=tuple(
            edit_from_proto(item, f"{path}edits[{position}]") for position, item in enumerate(message.edits)
        ),
        profile=message.profile,
        fusion=Fusion(
            method=enum_from_proto(_METHODS, fusion.method, "convex", f"{path}fusion.method", InvalidQueryError),
            rank_constant=fusion.rank_constant if fusion.HasField("rank_constant") else defaults.rank_constant,
            depth=fusion.depth if fusion.HasField("depth") else defaults.depth,
        ),
        k=message.k if message.HasField("k") else 10,
        min_score=message.min_score if message.HasField("min_score") else None,
        explain=message.explain,
        include=include_from_proto(message, Query().include, f"{path}include", InvalidQueryError),
        effort=Effort(effort.recall if effort.HasField("recall") else 1.0, effort.seconds, effort.documents),
        overlaps=tuple(
            Overlap(tuple(item.features), item.at_least if item.HasField("at_least") else 1, item.strength, item.field)
            for item in message.overlaps
        ),
    )


def _retriever_from_proto(message: search_pb2.Retriever, path: str) -> Retriever:
    given = [
        name
        for name, there in (
            ("text", bool(message.text)),
            ("sparse", message.HasField("sparse")),
            ("dense", message.HasField("dense")),
        )
        if there
    ]
    if len(given) > 1:
        raise InvalidQueryError(
            f"expected at most one of text, sparse and dense, got {' and '.join(given)}",
            field=path,
            given=", ".join(given),
        )
    return Retriever(
        field=message.field,
        text=message.text,
        sparse=sparse_from_proto(message.sparse) if message.HasField("sparse") else None,
        dense=dense_from_proto(message.dense) if message.HasField("dense") else None,
        weight=message.weight if message.HasField("weight") else 1.0,
        scorer=enum_from_proto(SCORERS, message.scorer, "", f"{path}.scorer", InvalidQueryError),
        max_query_terms=message.max_query_terms if message.HasField("max_query_terms") else None,
        rerank=message.rerank,
        rescore=message.rescore if message.HasField("rescore") else None,
    )
