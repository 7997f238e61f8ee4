"""Search results across the wire, from server to client; the rules are those of :mod:`sparsight.service.convert`."""

from __future__ import annotations

from typing import Any

from sparsight.service.convert import (
    enum_to_proto,
    metadata_from_proto,
    metadata_to_proto,
    vectors_from_proto,
    vectors_to_proto,
)
from sparsight.types import (
    Contribution,
    Explanation,
    Hit,
    Movement,
    RetrieverScore,
    RetrieverWork,
    SearchResult,
    Timings,
)
from sparsight.v1 import search_pb2

__all__ = ["contributions_from_proto", "result_from_proto", "result_to_proto"]

_MODES = {
    "exact": search_pb2.SEARCH_MODE_EXACT,
    "approximate": search_pb2.SEARCH_MODE_APPROXIMATE,
    "cut": search_pb2.SEARCH_MODE_CUT,
}
_MODE_NAMES: dict[int, Any] = {number: name for name, number in _MODES.items()}


def result_to_proto(result: SearchResult) -> search_pb2.SearchResult:
    """Message of a search's result."""
    timings = result.timings
    return search_pb2.SearchResult(
        hits=[_hit_to_proto(hit) for hit in result.hits],
        generation=result.generation,
        exact=result.exact,
        timings=search_pb2.Timings(
            encode_ms=timings.encode_ms,
            search_ms=timings.search_ms,
            fetch_ms=timings.fetch_ms,
            server_ms=timings.server_ms,
        ),
        warnings=result.warnings,
        work=[
            search_pb2.RetrieverWork(
                field=work.field,
                mode=enum_to_proto(_MODES, work.mode, "work.mode"),
                terms=work.terms,
                postings=work.postings,
                passages=work.passages,
                rescored=work.rescored,
                reranked=work.reranked,
            )
            for work in result.work
        ],
    )


def result_from_proto(message: search_pb2.SearchResult, total_ms: float = 0.0) -> SearchResult:
    """Result of a message; ``total_ms`` is what the caller waited."""
    timings = message.timings
    return SearchResult(
        hits=tuple(_hit_from_proto(hit) for hit in message.hits),
        generation=message.generation,
        exact=message.exact,
        timings=Timings(timings.encode_ms, timings.search_ms, timings.fetch_ms, timings.server_ms, total_ms),
        warnings=tuple(message.warnings),
        work=tuple(
            RetrieverWork(
                work.field,
                _MODE_NAMES.get(work.mode, "approximate"),  # a newer server may know more modes; we know no promise
                work.terms,
                work.postings,
                work.passages,
                work.rescored,
                work.reranked,
            )
            for work in message.work
        ),
    )


def _hit_to_proto(hit: Hit) -> search_pb2.Hit:
    return search_pb2.Hit(
        id=hit.id,
        score=hit.score,
        rank=hit.rank,
        passage=hit.passage,
        title=hit.title,
        text=hit.text,
        passage_text=hit.passage_text,
        metadata=metadata_to_proto(hit.metadata) if hit.metadata else None,
        vectors=vectors_to_proto(hit.vectors, "vectors"),
        explanation=None if hit.explanation is None else _explanation_to_proto(hit.explanation),
        version=hit.version,
    )


def _hit_from_proto(message: search_pb2.Hit) -> Hit:
    return Hit(
        id=message.id,
        score=message.score,
        rank=message.rank,
        passage=message.passage,
        title=message.title,
        text=message.text,
        passage_text=message.passage_text,
        metadata=metadata_from_proto(message.metadata),
        vectors=vectors_from_proto(message.vectors, "vectors"),
        explanation=_explanation_from_proto(message.explanation) if message.HasField("explanation") else None,
        version=message.version,
    )


def _explanation_to_proto(explanation: Explanation) -> search_pb2.Explanation:
    moved = explanation.movement
    return search_pb2.Explanation(
        retrievers=[
            search_pb2.RetrieverScore(
                field=part.field,
                score=part.score,
                rank=part.rank,
                share=part.share,
                passage=part.passage,
                contributions=[_contribution(item) for item in part.contributions],
                rest=part.rest,
                dense=part.dense,
            )
            for part in explanation.retrievers
        ],
        movement=None
        if moved is None
        else search_pb2.Movement(
            rank_before=moved.rank_before,
            rank_after=moved.rank_after,
            score_before=moved.score_before,
            score_after=moved.score_after,
            by_feature=[_contribution(item) for item in moved.by_feature],
            other_passage=moved.other_passage,
        ),
    )


def _explanation_from_proto(message: search_pb2.Explanation) -> Explanation:
    moved = message.movement
    return Explanation(
        retrievers=tuple(
            RetrieverScore(
                part.field,
                part.score,
                part.rank,
                part.share,
                part.passage,
                contributions_from_proto(part.contributions),
                part.rest,
                part.dense,
            )
            for part in message.retrievers
        ),
        movement=Movement(
            moved.rank_before,
            moved.rank_after,
            moved.score_before,
            moved.score_after,
            contributions_from_proto(moved.by_feature),
            moved.other_passage,
        )
        if message.HasField("movement")
        else None,
    )


def _contribution(item: Contribution) -> search_pb2.Contribution:
    return search_pb2.Contribution(
        index=item.index,
        label=item.label,
        query_weight=item.query_weight,
        document_weight=item.document_weight,
        score=item.score,
    )


def contributions_from_proto(messages: Any) -> tuple[Contribution, ...]:
    """Contributions of repeated messages."""
    return tuple(
        Contribution(item.index, item.label, item.query_weight, item.document_weight, item.score) for item in messages
    )
