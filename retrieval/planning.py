"""From queries to plans: every argument checked, every retriever made a leg. A plan has all that a search needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

from sparsight.errors import InvalidArgumentError, InvalidQueryError
from sparsight.index.filters import Node, parse
from sparsight.index.generation import Condition, Generation
from sparsight.index.parts import ImpactQuery
from sparsight.index.schema import DerivedModel
from sparsight.index.vectors import MAX_QUERY_WEIGHTS, check_dense, check_sparse
from sparsight.retrieval.legs import Leg, fill_legs, quantised_for, source_of
from sparsight.retrieval.preparation import check_text
from sparsight.retrieval.profiles import edits_of
from sparsight.retrieval.steering import conditions_of, overlaps_of, steering_of
from sparsight.types import BM25Field, DenseField, Effort, Fusion, Query, Retriever, SAEField, SparseField

__all__ = ["MAX_K", "MAX_QUERIES", "MAX_QUERY_TEXT", "Plan", "plan_queries"]

MAX_K = 10_000
MAX_QUERIES = 1_024
MAX_QUERY_TEXT = 1 << 16
MAX_RETRIEVERS = 16
MAX_BUDGET_SECONDS = 3_600
MAX_BUDGET_DOCUMENTS = 1_000_000
INCLUDABLE = ("title", "text", "metadata", "passage", "vectors")


@dataclass(slots=True)
class Plan:
    """One query, ready to run. ``conditions`` come of its edits, ``overlaps`` are filters of its own."""

    query: Query
    legs: list[Leg]
    node: Node | None
    conditions: tuple[Condition, ...]
    overlaps: tuple[Condition, ...]
    warnings: list[str]

    @property
    def steered(self) -> bool:
        """Whether any edit can change what is found."""
        return bool(self.conditions) or any(leg.changes for leg in self.legs)

    @property
    def depth(self) -> int:
        """Candidates to take from each leg."""
        return self.query.k if len(self.legs) == 1 else max(self.query.k, self.query.fusion.depth)

    def depth_of(self, leg: Leg) -> int:
        """Documents that a leg's search finds: its candidates, or more to choose them from by other scores."""
        return max(self.depth, leg.scored_again)

    def unsteered(self) -> Plan:
        """The same query without its edits."""
        return Plan(self.query, [leg.without_edits() for leg in self.legs], self.node, (), self.overlaps, [])


def plan_queries(
    generation: Generation,
    models: Mapping[str, DerivedModel],
    queries: Sequence[Query | str],
    overrides: Mapping[str, Any],
) -> list[Plan]:
    """Plans of a call's queries.

    Raises
    ------
    InvalidArgumentError, InvalidQueryError, InvalidFilterError, UnknownFieldError, UnknownFeatureError
        With the path of what is wrong (``queries[3].`` before it in a batch).
    """
    if not 1 <= len(queries) <= MAX_QUERIES:
        raise InvalidArgumentError(f"a call takes 1 to {MAX_QUERIES} queries; got {len(queries)}", field="queries")
    plans = []
    for position, item in enumerate(queries):
        try:
            plans.append(_checked_plan(generation, _as_query(item, overrides)))
        except (InvalidArgumentError, LookupError) as error:
            if len(queries) > 1 and isinstance(getattr(error, "field", None), str):
                error.field = f"queries[{position}].{error.field}".rstrip(".")  # type: ignore[union-attr]
            raise
    fill_legs(generation, models, [leg for plan in plans for leg in plan.legs])
    for plan in plans:
        _warn(plan)
    return plans


def _as_query(item: Query | str, overrides: Mapping[str, Any]) -> Query:
    query = Query(text=item) if isinstance(item, str) else item
    if not isinstance(query, Query):
        raise InvalidQueryError(f"expected a query or a string, got {type(item).__name__}", field="query")
    try:
        return replace(query, **overrides) if overrides else query
    except TypeError as error:
        raise InvalidQueryError(f"unknown search argument: {error}", field="query") from error


def _checked_plan(generation: Generation, query: Query) -> Plan:
    if isinstance(query.k, bool) or not isinstance(query.k, int) or not 1 <= query.k <= MAX_K:
        raise InvalidQueryError(f"k is 1 to {MAX_K:,}; got {query.k!r:.80}", field="k")
    if query.min_score is not None and not math.isfinite(query.min_score):
        raise InvalidQueryError(f"min_score is a finite number; got {query.min_score}", field="min_score")
    _check_fusion(query.fusion)
    _check_effort(query.effort)
    for part in query.include:
        if part not in INCLUDABLE:
            raise InvalidQueryError(f"include takes {', '.join(INCLUDABLE)}; got {part!r:.80}", field="include")
    check_text(query.text, "text", MAX_QUERY_TEXT)
    check_text(query.filter, "filter", MAX_QUERY_TEXT)
    retrievers = [
        Retriever(item) if isinstance(item, str) else item for item in query.retrievers
    ] or _default_retrievers(generation)
    if not 1 <= len(retrievers) <= MAX_RETRIEVERS:
        raise InvalidQueryError(
            f"a query has 1 to {MAX_RETRIEVERS} retrievers; got {len(retrievers)}", field="retrievers"
        )
    legs = [_leg(generation, query, item, f"retrievers[{position}]") for position, item in enumerate(retrievers)]
    if len(legs) > 1 and not any(leg.weight > 0 for leg in legs):
        raise InvalidQueryError("at least one retriever has a weight above 0", field="retrievers")
    if kept := edits_of(generation, query.profile):
        steering_of(generation, query.edits)  # so that an error has the place in the query's own edits
        query = replace(query, edits=(*kept, *query.edits))
    steering = steering_of(generation, query.edits)
    for leg in legs:
        leg.steering = next((s for s in steering if leg.field.name in (s.field.name, s.source)), None)
    node = parse(query.filter) if query.filter.strip() else None
    conditions = conditions_of(generation, query.edits)
    plan = Plan(query, legs, node, conditions, overlaps_of(generation, query.overlaps), [])
    for item in steering:
        if not any(leg.steering is item for leg in legs):
            plan.warnings.append(f"edits of {item.field.name!r} move nothing: no retriever uses it or {item.source!r}")
    return plan


def _check_fusion(fusion: Fusion) -> None:
    if not isinstance(fusion, Fusion) or fusion.method not in ("convex", "rrf"):
        raise InvalidQueryError(
            f'fusion method is "convex" or "rrf"; got {getattr(fusion, "method", fusion)!r:.80}', field="fusion.method"
        )
    if not 1 <= fusion.rank_constant <= 1_000_000:
        raise InvalidQueryError(
            f"rank_constant is 1 to 1,000,000; got {fusion.rank_constant}", field="fusion.rank_constant"
        )
    if not 1 <= fusion.depth <= MAX_K:
        raise InvalidQueryError(f"depth is 1 to {MAX_K:,}; got {fusion.depth}", field="fusion.depth")


def _check_effort(effort: Effort) -> None:
    if not isinstance(effort, Effort):
        raise InvalidQueryError(f"expected an Effort, got {type(effort).__name__}", field="effort")
    if not (_is_number(effort.recall) and 0.5 < effort.recall <= 1.0):
        raise InvalidQueryError(
            f"recall is above 0.5 and at most 1, which is exact; got {effort.recall!r:.80}", field="effort.recall"
        )
    if not (_is_number(effort.seconds) and 0 <= effort.seconds <= MAX_BUDGET_SECONDS):
        raise InvalidQueryError(
            f"seconds is 0 (no budget) to {MAX_BUDGET_SECONDS:,}; got {effort.seconds!r:.80}", field="effort.seconds"
        )
    documents = effort.documents
    if isinstance(documents, bool) or not isinstance(documents, int) or not 0 <= documents <= MAX_BUDGET_DOCUMENTS:
        raise InvalidQueryError(
            f"documents is 0 (no budget) to {MAX_BUDGET_DOCUMENTS:,}; got {documents!r:.80}", field="effort.documents"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _default_retrievers(generation: Generation) -> list[Retriever]:
    """Every field that a text can be searched in. SAE fields, another view of their dense field, must be named."""
    specs = [item.spec for item in generation.schema.fields]
    usable = [
        s.name for s in specs if isinstance(s, BM25Field) or (isinstance(s, SparseField | DenseField) and s.encoder)
    ]
    if not usable:
        raise InvalidQueryError("no field can be searched by text; name a retriever with a vector", field="retrievers")
    return [Retriever(name) for name in usable]


def _leg(generation: Generation, query: Query, item: Retriever, place: str) -> Leg:
    if not isinstance(item, Retriever):
        raise InvalidQueryError(f"expected a retriever or a field's name, got {type(item).__name__}", field=place)
    try:
        schema = generation.field(item.field)
    except LookupError as error:
        error.field = f"{place}.field"  # type: ignore[attr-defined]
        raise
    if not (math.isfinite(item.weight) and item.weight >= 0):
        raise InvalidQueryError(f"a weight is finite and not negative; got {item.weight}", field=f"{place}.weight")
    contents = {"text": item.text or None, "sparse": item.sparse, "dense": item.dense}
    given = [name for name, content in contents.items() if content is not None]
    if len(given) > 1:
        raise InvalidQueryError(
            f"a retriever has one of text, sparse and dense; got {' and '.join(given)}", field=place
        )
    leg = Leg(schema, float(item.weight), place)
    _set_options(leg, item)
    if "sparse" in given:
        if isinstance(schema.spec, DenseField | BM25Field):
            raise InvalidQueryError(f"field {schema.name!r} takes no sparse vector", field=f"{place}.sparse")
        row, _ = check_sparse(item.sparse, schema, f"{place}.sparse", signed=True)
        leg.base = leg.query = quantised_for(leg, row)
    elif "dense" in given:
        source = source_of(generation, schema)
        if source is None:
            raise InvalidQueryError(f"field {schema.name!r} takes no dense vector", field=f"{place}.dense")
        leg.vector = check_dense(item.dense, source, f"{place}.dense")
    else:
        behind = schema if schema.kind in ("sparse", "bm25") else source_of(generation, schema)
        assert behind is not None
        if isinstance(behind.spec, SparseField | DenseField) and not behind.spec.encoder:
            raise InvalidQueryError(
                f"field {behind.name!r} has no encoder: it takes ready vectors, not text",
                field=f"{place}.text",
                reason="NO_ENCODER",
            )
        leg.text = check_text(item.text or query.text, f"{place}.text", MAX_QUERY_TEXT)
        if not leg.text.strip():
            raise InvalidQueryError(
                "nothing to search for: the text is empty",
                field=f"{place}.text" if item.text else "text",
                reason="EMPTY_QUERY",
            )
    return leg


def _set_options(leg: Leg, item: Retriever) -> None:
    """How an SAE field is searched: as the retriever says, or else as the field does. Other fields have no choice."""
    spec = leg.field.spec
    given = {"scorer": item.scorer or None, "max_query_terms": item.max_query_terms, "rerank": item.rerank or None,
             "rescore": item.rescore}  # fmt: skip
    for name, value in given.items():
        if value is not None:
            if not isinstance(spec, SAEField) or item.sparse is not None:
                what = f"a {leg.field.kind} field" if item.sparse is None else "a ready sparse vector"
                raise InvalidQueryError(
                    f"{what} takes no {name}; texts and dense vectors in SAE fields do", field=f"{leg.place}.{name}"
                )
            _check_option(name, value, f"{leg.place}.{name}")
    if isinstance(spec, SAEField):
        leg.scorer = item.scorer or spec.scorer
        leg.max_terms = spec.max_query_terms if item.max_query_terms is None else item.max_query_terms
        leg.rerank = item.rerank or 0
        leg.rescore = spec.rescore if item.rescore is None else item.rescore


def _check_option(name: str, value: object, place: str) -> None:
    if name == "scorer":
        if value not in ("decode", "symmetric"):
            raise InvalidQueryError(f'scorer is "decode" or "symmetric"; got {value!r:.80}', field=place)
        return
    most = MAX_QUERY_WEIGHTS if name == "max_query_terms" else MAX_K
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise InvalidQueryError(f"{name} is 0 to {most:,}; got {value!r:.80}", field=place)


def _warn(plan: Plan) -> None:
    if plan.query.explain:
        plan.warnings += dict.fromkeys(
            f"{move.op} of feature {move.latent} was not done: the query has too little of {move.when}"
            for leg in plan.legs for move in leg.unmet)
    for leg in plan.legs:
        if isinstance(leg.query, ImpactQuery) and len(leg.query.terms) == 0:
            plan.warnings.append(f"the query has no weights in field {leg.field.name!r}")
