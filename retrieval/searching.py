"""A search call from queries to results: plan, rank, fetch, explain, and say how long each took."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast

import numpy as np

from sparsight.index.generation import Generation, Reference
from sparsight.index.rows import Row
from sparsight.index.schema import DerivedModel
from sparsight.kernels import CancelFlag
from sparsight.retrieval.explanation import explain_hits
from sparsight.retrieval.planning import Plan, plan_queries
from sparsight.retrieval.ranking import Ranking, rank_plans
from sparsight.types import (
    DenseField,
    Explanation,
    Hit,
    Query,
    RetrieverWork,
    SearchResult,
    SparseVector,
    Timings,
    Vector,
)

__all__ = ["search_all"]

Mode: TypeAlias = Literal["exact", "approximate", "cut"]


def search_all(
    generation: Generation,
    queries: Sequence[Query | str],
    overrides: Mapping[str, Any],
    cancel: CancelFlag | None,
    threads: int,
) -> list[SearchResult]:
    """Answers of all queries, on one generation. Times are of the whole call, shared out evenly."""
    started = time.perf_counter()
    if cancel is not None:
        cancel.check()
    models = generation.derived
    plans = plan_queries(generation, models, queries, overrides)
    planned = time.perf_counter()
    rankings = rank_plans(generation, plans, cancel, threads)
    ranked = time.perf_counter()
    results = []
    for plan, ranking in zip(plans, rankings, strict=True):
        hits = _hits(generation, models, plan, ranking, cancel)
        results.append((hits, tuple(plan.warnings), _work(plan, ranking)))
    ended = time.perf_counter()
    each = 1000.0 / len(plans)
    total = (ended - started) * each
    timings = Timings((planned - started) * each, (ranked - planned) * each, (ended - ranked) * each, total, total)
    return [
        SearchResult(hits, generation.version, all(one.mode == "exact" for one in work), timings, warnings, work)
        for hits, warnings, work in results
    ]


def _work(plan: Plan, ranking: Ranking) -> tuple[RetrieverWork, ...]:
    return tuple(
        RetrieverWork(
            leg.field.name, cast(Mode, done.mode), done.terms, done.postings, done.passages, done.rescored, reranked
        )
        for leg, done, reranked in zip(plan.legs, ranking.work, ranking.reranked, strict=True)
    )


def _hits(
    generation: Generation, models: Mapping[str, DerivedModel], plan: Plan, ranking: Ranking, cancel: CancelFlag | None
) -> tuple[Hit, ...]:
    count = min(plan.query.k, len(ranking.references))
    explanations: Sequence[Explanation | None] = [None] * count
    if plan.query.explain:
        explanations = explain_hits(generation, models, plan, ranking, count, cancel)
    return tuple(_hit(generation, plan, ranking, position, explanations[position]) for position in range(count))


def _hit(generation: Generation, plan: Plan, ranking: Ranking, position: int, explanation: Explanation | None) -> Hit:
    reference, include = ranking.references[position], plan.query.include
    row = generation.document(reference)
    passage = ranking.best_passage(position)
    return Hit(
        id=row.id,
        score=float(ranking.totals[position]),
        rank=position + 1,
        passage=passage,
        title=row.title if "title" in include else "",
        text=row.text if "text" in include else "",
        passage_text=row.passage_text(passage) if "passage" in include else "",
        metadata=row.metadata if "metadata" in include else {},
        vectors=_vectors(generation, reference, row, passage) if "vectors" in include else {},
        explanation=explanation,
        version=row.seq,
    )


def _vectors(generation: Generation, reference: Reference, row: Row, passage: int) -> dict[str, Vector]:
    """The winning passage's vectors as the index holds them: sparse weights in float16, dense in float32."""
    vectors: dict[str, Vector] = {}
    for field in generation.schema.fields:
        if isinstance(field.spec, DenseField):
            dense = generation.dense_row(field.name, reference, passage)
            if dense is not None:
                vectors[field.name] = np.array(dense)
        else:
            ids, _, values = generation.sparse_row(field.name, reference, passage)
            vectors[field.name] = SparseVector(np.array(ids), np.array(values, np.float32))
    return vectors
